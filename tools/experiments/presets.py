"""Time against accuracy of every export preset: ``python tools/experiments/presets.py ckpt.pt DATA... --out DIR``.

Exports the checkpoint with each preset, evaluates the engines, and times them and eager PyTorch, which is what HOW's
code runs, on the same photos in turn: from an image in memory to its features, one thread, the processor's time.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.presets")  # before the imports: howl.py says why

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from export.exporter import configured, export_checkpoint
from export.options import PRESETS, ExportOptions
from runtime.bundle import EngineFiles, Manifest
from runtime.engine import open_engine
from runtime.io.cli import positive_int
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.finding import find_photos
from runtime.io.image import Image, load_rgb, shrink
from tools.environment import describe_machine, load_pyplot, require_packages
from tools.evaluation import evaluate_engine
from train.checkpoint import Checkpoint
from train.models.extractor import extract

PACKAGES = ("numpy", "torch", "onnxruntime")
EAGER = "eager PyTorch"
REFERENCE = "how"  # the preset that eager PyTorch runs, and that accuracy is compared with
TURNS = 2  # that every photo is timed


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pandas", "tabulate", "matplotlib")
    out = options.out
    ensure_writable(out / "presets.json")
    result = compare_presets(
        options.checkpoint,
        options.data,
        out,
        distractors=options.distractors,
        codebook=options.codebook,
        calibrate=options.calibrate,
        photos=options.photos,
    )
    with atomic_write(out / "presets.json") as file:
        file.write(json.dumps(result, indent=1).encode())
    draw(result, out / "presets.png")
    print(table(result))
    print(f"\n{out / 'presets.json'}, {out / 'presets.png'}")


def compare_presets(
    checkpoint: Path,
    data: Sequence[str],
    out: Path,
    *,
    distractors: str | None = None,
    codebook: Path | None = None,
    calibrate: Path | None = None,
    photos: int = 8,
) -> dict[str, Any]:
    """Accuracy and time of every preset, and of eager PyTorch.

    Args:
        checkpoint: as ``export_checkpoint`` takes it.
        data: folders with one folder a scene, to evaluate on.
        out: folder of the engines.
        distractors: a folder of photos of none of the scenes, to search among.
        codebook: visual words, as ``ExportOptions`` takes them.
        calibrate: a folder of photos for int8.
        photos: that are timed.

    Raises:
        HowlError: the checkpoint or the data cannot be read, or an engine is not proven.
    """
    timed = timed_photos(data, photos)
    engines: dict[str, Path] = {}
    accuracies: dict[str, dict[str, float]] = {}
    features: dict[str, int | None] = {}
    for name, preset in PRESETS.items():
        options = ExportOptions(
            checkpoint,
            out / f"{name}.onnx",
            preset=name,
            codebook=codebook,
            calibrate=calibrate if preset.precision == "int8" else None,
        )
        exported = export_checkpoint(options, say=lambda line: print(line, file=sys.stderr))
        engines[name], features[name] = exported.engine, exported.manifest.features
        evaluation = evaluate_engine(engines[name], data, distractors=distractors, device="cpu").as_dict()
        accuracies[name] = {Path(each["data"]).name: each["mAP"] for each in evaluation["sets"]}
    seconds = measure(checkpoint, engines, timed)
    return {
        "machine": describe_machine(PACKAGES),
        "photos": len(timed),
        "presets": {
            name: {
                "mAP": accuracies.get(name, accuracies[REFERENCE]),
                "features": features.get(name, features[REFERENCE]),
                "seconds": spent,
            }
            for name, spent in seconds.items()
        },
    }


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


def measure(source: Path, engines: Mapping[str, Path], photos: Sequence[Image]) -> dict[str, list[float]]:
    """Seconds of the processor for every photo and turn, by extractor; one photo goes before, to warm up."""
    torch.set_num_threads(1)
    checkpoint = configured(Checkpoint.load(source), ExportOptions(source, preset=REFERENCE))
    pytorch = checkpoint.build_model().extractor(checkpoint.extraction).eval()
    extractors: dict[str, Callable[[Image], Any]] = {EAGER: lambda photo: extract(pytorch, photo)}
    extractors.update({name: open_extractor(engine) for name, engine in engines.items()})
    seconds: dict[str, list[float]] = {name: [] for name in extractors}
    for run in extractors.values():
        run(photos[0])
    for photo in tqdm([*photos] * TURNS, desc="timing", unit="photo", disable=None):
        for name, run in extractors.items():
            begin = time.process_time()
            run(photo)
            seconds[name].append(time.process_time() - begin)
    return seconds


def open_extractor(path: Path) -> Callable[[Image], Any]:
    """An engine with one thread, which is given photos shrunk to its image size."""
    engine, size = open_engine(path, "cpu", threads=1), Manifest.load(EngineFiles.of(path).manifest).image_size
    return lambda photo: engine.extract(shrink(photo, size))


def table(result: Mapping[str, Any]) -> str:
    """Markdown: medians and quartiles of a photo, how much faster than eager PyTorch, and mAP."""
    import pandas  # late: `--help` does without

    presets = result["presets"]
    eager = np.array(presets[EAGER]["seconds"])
    rows = []
    for name, measured in presets.items():
        preset = PRESETS.get(name, PRESETS[REFERENCE])
        low, middle, high = quartiles(measured)
        accuracies = {f"mAP {of}": "" if name == EAGER else f"{value:.4f}" for of, value in measured["mAP"].items()}
        rows.append(
            {
                "preset": name,
                "image": preset.image_size,
                "scales": len(preset.scales),
                "K": measured["features"] or "",
                "precision": preset.precision,
                "ms": f"{middle:.0f} ({low:.0f}–{high:.0f})",
                "faster": f"{np.median(eager / measured['seconds']):.1f}×",
                **accuracies,
            }
        )
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return f"{about}\n\n{pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}"


def quartiles(measured: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of the milliseconds of a photo: the lower one, the median and the upper one."""
    low, middle, high = 1e3 * np.quantile(measured["seconds"], [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """mAP against time, a line for every data set."""
    pyplot = load_pyplot()
    presets = result["presets"]
    sets = list(presets[REFERENCE]["mAP"])
    figure, every_axes = pyplot.subplots(
        1, len(sets), figsize=(5.5 * len(sets), 4), layout="constrained", squeeze=False
    )
    for of, axes in zip(sets, every_axes[0], strict=True):
        for name, measured in presets.items():
            low, middle, high = quartiles(measured)
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
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="as howl export takes it")
    parser.add_argument("data", metavar="DATA", nargs="+", help="a folder with one folder a scene, to evaluate on")
    parser.add_argument("--distractors", metavar="DIR", help="photos of none of the scenes, to search among")
    parser.add_argument("--codebook", type=Path, metavar="DIR|FILE", help="as howl export takes it")
    parser.add_argument("--calibrate", type=Path, metavar="DIR", help="photos for int8")
    parser.add_argument("--photos", type=positive_int, default=8, metavar="N", help="that are timed (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", default="presets", help="of engines and plot (%(default)s)")
    return parser.parse_args(arguments)
