"""Time against accuracy of every export preset: ``python tools/experiments/presets.py ckpt.pt DATA... --out DIR``.

Exports the checkpoint with each preset, evaluates the engines, and times them and eager PyTorch, which is what HOW's
code runs, on the same photos in turn: from an image in memory to its descriptors, one thread, the processor's time.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from export.parity import run_pytorch
from export.presets import PRESETS
from runtime.bundle import EngineFiles, Manifest
from runtime.engine import open_engine
from runtime.io.cli import positive_int, run_command
from runtime.io.image import Image, find_photos, load_rgb, shrink
from tools.environment import describe_machine
from tools.plotting import load_pyplot
from tools.running import run_script
from train.checkpoint import Checkpoint
from train.models.extractor import LocalExtractor

PACKAGES = ("numpy", "torch", "onnxruntime")
EAGER = "eager PyTorch"
REFERENCE = "how"  # the preset that eager PyTorch runs, and that accuracy is compared with
TURNS = 2  # that every photo is timed


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    load_pyplot()  # sooner a missing package than a lost measurement
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    photos = timed_photos(options.data, options.photos)
    engines = {name: export(options, name, out) for name in PRESETS}
    sets = {name: evaluate(options, engine) for name, engine in engines.items()}
    seconds = measure(Path(options.checkpoint), engines, photos)
    result = {
        "machine": describe_machine(PACKAGES),
        "photos": len(photos),
        "presets": {
            name: {"mAP": sets.get(name, sets[REFERENCE]), "seconds": spent} for name, spent in seconds.items()
        },
    }
    (out / "presets.json").write_text(json.dumps(result, indent=1))
    draw(result, out / "presets.png")
    print(table(result))
    print(f"\n{out / 'presets.json'}, {out / 'presets.png'}")


def timed_photos(data: Sequence[str], number: int) -> list[Image]:
    """Photos evenly taken from all data, RGB, enlarged to the reference's image size where they are smaller."""
    paths = find_photos(data)
    photos = [load_rgb(path) for path in paths[:: max(1, len(paths) // number)][:number]]
    return [enlarged(photo, PRESETS[REFERENCE].image_size) for photo in photos]


def enlarged(photo: Image, side: int) -> Image:
    """The photo with its longest side at that many pixels."""
    factor = side / max(photo.shape[:2])
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    interpolation = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.ascontiguousarray(cv2.resize(photo, size, interpolation=interpolation).astype(np.uint8, copy=False))


def export(options: argparse.Namespace, preset: str, out: Path) -> Path:
    """The engine of a preset."""
    engine = out / f"{preset}.onnx"
    command = ["export/to_trt.py", options.checkpoint, "--preset", preset, "--out", str(engine)]
    if options.codebook:
        command += ["--codebook", options.codebook]
    if options.calibrate and PRESETS[preset].precision == "int8":
        command += ["--calibrate", options.calibrate]
    run(command)
    return engine


def evaluate(options: argparse.Namespace, engine: Path) -> dict[str, float]:
    """mAP by data set."""
    command = ["tools/evaluate.py", str(engine), *options.data, "--json", "--device", "cpu"]
    command += ["--distractors", options.distractors] if options.distractors else []
    return {Path(each["data"]).name: each["mAP"] for each in json.loads(run(command))["sets"]}


def run(command: Sequence[str]) -> str:
    """What one of howl's commands prints; the command goes to stderr."""
    print(f"python {' '.join(command)}", file=sys.stderr)
    return run_script(*command, stdout=subprocess.PIPE)


def measure(source: Path, engines: dict[str, Path], photos: Sequence[Image]) -> dict[str, list[float]]:
    """Seconds of the processor for every photo and turn, by what extracts; one photo goes before, to warm up."""
    torch.set_num_threads(1)
    checkpoint, reference = Checkpoint.load(source), PRESETS[REFERENCE]
    pytorch = LocalExtractor(
        checkpoint.build_model(), reference.scales, reference.features, reference.image_size
    ).eval()
    extractors: dict[str, Callable[[Image], Any]] = {EAGER: lambda photo: run_pytorch(pytorch, photo)}
    extractors.update({name: extractor(engine) for name, engine in engines.items()})
    seconds: dict[str, list[float]] = {name: [] for name in extractors}
    for extract in extractors.values():
        extract(photos[0])
    for photo in tqdm([*photos] * TURNS, desc="timing", unit="photo", disable=None):
        for name, extract in extractors.items():
            begin = time.process_time()
            extract(photo)
            seconds[name].append(time.process_time() - begin)
    return seconds


def extractor(path: Path) -> Callable[[Image], Any]:
    """An engine with one thread, after shrinking as it wants it."""
    engine, size = open_engine(path, "cpu", threads=1), Manifest.load(EngineFiles.of(path).manifest).image_size
    return lambda photo: engine.extract(shrink(photo, size))


def table(result: dict[str, Any]) -> str:
    """Markdown: medians and quartiles of a photo, how much faster than eager PyTorch, and mAP."""
    presets = result["presets"]
    sets = list(presets[REFERENCE]["mAP"])
    eager = np.array(presets[EAGER]["seconds"])
    lines = [
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        "",
        f"| preset | image | scales | K | precision | ms | faster | {' | '.join(f'mAP {name}' for name in sets)} |",
        "|---" * (7 + len(sets)) + "|",
    ]
    for name, measured in presets.items():
        settings = PRESETS.get(name, PRESETS[REFERENCE])
        low, middle, high = 1e3 * np.quantile(measured["seconds"], [0.25, 0.5, 0.75])
        accuracy = " | ".join("" if name == EAGER else f"{measured['mAP'][of]:.4f}" for of in sets)
        lines.append(
            f"| {name} | {settings.image_size} | {len(settings.scales)} | {settings.features} | {settings.precision} | "
            f"{middle:.0f} ({low:.0f}–{high:.0f}) | {np.median(eager / measured['seconds']):.1f}× | {accuracy} |"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """mAP against time, a line for every data set."""
    pyplot = load_pyplot()
    presets = {name: measured for name, measured in result["presets"].items()}
    sets = list(presets[REFERENCE]["mAP"])
    figure, every_axes = pyplot.subplots(
        1, len(sets), figsize=(5.5 * len(sets), 4), layout="constrained", squeeze=False
    )
    for of, axes in zip(sets, every_axes[0], strict=True):
        for name, measured in presets.items():
            low, middle, high = 1e3 * np.quantile(measured["seconds"], [0.25, 0.5, 0.75])
            axes.errorbar(middle, measured["mAP"][of], xerr=[[middle - low], [high - middle]], fmt="o", capsize=3)
            axes.annotate(name, (middle, measured["mAP"][of]), textcoords="offset points", xytext=(6, 5), fontsize=8)
        axes.set_xscale("log")
        axes.set(xlabel="ms a photo, one thread", ylabel="mAP", title=of)
        axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/presets.py",
        description="Time against accuracy of every export preset, and of eager PyTorch.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="as export/to_trt.py takes it")
    parser.add_argument("data", metavar="DATA", nargs="+", help="a folder with one folder a scene, to evaluate on")
    parser.add_argument("--distractors", metavar="DIR", help="photos of none of the scenes, to search among")
    parser.add_argument("--codebook", metavar="DIR|FILE", help="visual words, as export/to_trt.py takes them")
    parser.add_argument("--calibrate", metavar="DIR", help="photos for int8; default: training photos, or made ones")
    parser.add_argument("--photos", type=positive_int, default=8, metavar="N", help="that are timed; default: 8")
    parser.add_argument("--out", metavar="DIR", default="presets", help="engines, table and plot; default: presets/")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
