"""A checkpoint → a proven engine.onnx, and engine.plan where a GPU is: ``python export/to_trt.py ckpt.pt``."""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from export.codebook import PHOTOS, words_for
from export.fold import fold
from export.parity import TOLERANCES, check_parity, raise_if_unequal, sizes_to_check
from export.plan import build_plan
from export.presets import PRESETS
from export.quantise import quantise_backbone
from export.tracing import export_onnx
from runtime.asmk.codebook import Codebook
from runtime.bundle import EngineFiles, Manifest, file_checksum, is_engine
from runtime.engine import open_engine
from runtime.errors import HowlError, ImageError
from runtime.first_stage import ASMK
from runtime.gpu import find_gpus
from runtime.io.cli import image_side, positive_int, run_command, scale_list, with_options
from runtime.io.image import MIN_SIDE, Image, find_photos, load_rgb
from train.backbones import build_backbone
from train.checkpoint import Checkpoint
from train.data.synthetic import render_view
from train.models.base import Extractor

PHOTOS_TO_CHECK = 3
CALIBRATION_PHOTOS = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    source, plan = Path(options.checkpoint), Path(options.out).with_suffix(".plan")
    if not is_engine(Path(options.out)):
        raise HowlError(
            f"--out {options.out}: name an engine.plan, or an engine.onnx; its other files get the same name"
        )
    checkpoint = Checkpoint.load(source)
    checkpoint.extraction = with_options(checkpoint.extraction, options)
    checkpoint.network = checkpoint.network.fitted_to(checkpoint.extraction, options.graph_nodes)
    engine = plan.with_suffix(".onnx")
    own = options.codebook if is_folder(options.codebook) else None
    photos = some_photos(checkpoint, options.photos or own, PHOTOS_TO_CHECK)
    int8 = options.precision == "int8"
    calibration = some_photos(checkpoint, options.calibrate or own, CALIBRATION_PHOTOS) if int8 else []
    words = words_for(checkpoint, options.codebook, options.codebook_photos)
    if words is not checkpoint.codebook:
        checkpoint.codebook = words
        options.codebook = str(
            EngineFiles.of(engine).codebook
        )  # for ``command_for``: words learned elsewhere would be others

    export_checked(checkpoint, options.precision, engine, photos, calibration)
    files = EngineFiles.of(engine)
    print(f"{engine}: {engine.stat().st_size / 1e6:.1f} MB, with {files.manifest} and {files.codebook}")
    if int8:
        print(f"{plan}: not built, int8 is for CPUs; for a GPU take --precision fp16")
    elif find_gpus():
        add_plan(checkpoint, options.precision, engine, plan, photos)
    else:
        print(f"{plan}: not built, there is no NVIDIA GPU here; on a machine with one: {command_for(options)}")


def export_checked(
    checkpoint: Checkpoint, precision: str, engine: Path, photos: list[Image], calibration: list[Image]
) -> None:
    """Writes engine.onnx, its codebook and its manifest, after proving the graph equal to PyTorch.

    Int8 takes its ranges from the calibration photos. The files are made and proven in a folder of their own: a failure
    leaves what was there before.
    """
    engine.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=engine.parent, prefix=".export-") as workshop:
        draft = Path(workshop) / engine.name
        fingerprint = fingerprint_of(checkpoint)
        export_onnx(folded_extractor(checkpoint, precision), draft, {"howl.fingerprint": fingerprint})
        if precision == "int8":
            quantise_backbone(draft, draft, build_backbone(checkpoint.network.backbone).float_layers, calibration)
        prove(checkpoint, precision, draft, photos)
        words_of(checkpoint).save(EngineFiles.of(draft).codebook)
        manifest = Manifest(
            fingerprint=fingerprint,
            system="how",
            method=ASMK,
            image_size=checkpoint.extraction.image_size,
            scales=checkpoint.extraction.scales,
            features=checkpoint.extraction.features,
            dimensions=checkpoint.network.dimensions,
            asmk=checkpoint.asmk,
            network=asdict(checkpoint.network),
            precision=precision,
            checksums={file.name: file_checksum(file) for file in (draft, EngineFiles.of(draft).codebook)},
        )
        manifest.save(EngineFiles.of(draft).manifest)
        for file in (draft, EngineFiles.of(draft).codebook, EngineFiles.of(draft).manifest):
            file.replace(engine.parent / file.name)


def add_plan(checkpoint: Checkpoint, precision: str, engine: Path, plan: Path, photos: list[Image]) -> None:
    """Builds engine.plan, proves it on this machine's GPU, and writes it into the manifest."""
    largest = checkpoint.extraction.image_size
    info = build_plan(engine, plan, smallest=MIN_SIDE, typical=(largest * 3 // 4, largest), largest=largest)
    try:
        prove(checkpoint, precision, plan, photos)
    except HowlError:
        plan.unlink()
        raise
    manifest = Manifest.load(EngineFiles.of(engine).manifest)
    manifest = replace(
        manifest,
        checksums={**manifest.checksums, plan.name: file_checksum(plan)},
        plan={
            "flavour": info.flavour,
            "version": info.version,
            "compute_capability": info.compute_capability,
            "smallest": MIN_SIDE,
            "largest": largest,
        },
    )
    manifest.save(EngineFiles.of(engine).manifest)
    print(f"{plan}: {info.size / 1e6:.1f} MB, {info.flavour} {info.version}, built in {info.seconds:.0f} s")


def prove(checkpoint: Checkpoint, precision: str, engine: Path, photos: list[Image]) -> None:
    """Prints how far the engine is from the PyTorch network on every image; raises beyond the tolerance."""
    extraction = checkpoint.extraction
    pytorch = checkpoint.build_model().extractor(extraction).eval()
    device = "cpu" if engine.suffix == ".onnx" else None
    runner = open_engine(engine, device)
    print(f"{engine.name} against PyTorch, {runner.provider}, {precision}:")
    images = sizes_to_check(photos[0], extraction.features or 0) + photos[1:]
    differences = check_parity(runner, pytorch, images, TOLERANCES[precision])
    for difference in differences:
        print(f"  {difference}")
    raise_if_unequal(differences, TOLERANCES[precision], engine.name)


def folded_extractor(checkpoint: Checkpoint, precision: str) -> Extractor:
    """What is traced: the network with its constants folded, and the selection of its strongest descriptors."""
    return fold(checkpoint.build_model(), precision).extractor(checkpoint.extraction).eval()


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """A checksum of all that decides a descriptor and its visual word: whatever shares it can share an index."""
    sha = hashlib.sha256()
    settings = {"network": asdict(checkpoint.network), "extraction": asdict(checkpoint.extraction)}
    sha.update(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(checkpoint.weights.items()):
        sha.update(name.encode())
        sha.update(weight.contiguous().numpy().tobytes())
    sha.update(words_of(checkpoint).centroids.tobytes())
    return sha.hexdigest()


def words_of(checkpoint: Checkpoint) -> Codebook:
    """The visual words of a checkpoint that has some."""
    if checkpoint.codebook is None:
        raise HowlError(f"networks of the system {checkpoint.system} cannot be exported yet")
    return checkpoint.codebook


def some_photos(checkpoint: Checkpoint, folder: str | None, number: int) -> list[Image]:
    """A few photos, as the engine takes them: of a folder, of the training folder, or made."""
    size = checkpoint.extraction.image_size
    source = Path(folder or checkpoint.training.get("config", {}).get("data", ""))
    if folder or (source.is_dir() and source != Path()):
        return readable(find_photos([source]), size, number)
    return [render_view(0, scene, 0, width=size, height=size * 3 // 4) for scene in range(number)]


def is_folder(path: str | None) -> bool:
    return path is not None and Path(path).is_dir()


def readable(paths: list[Path], size: int, number: int) -> list[Image]:
    """At most so many photos, evenly taken from all; one that cannot be read is passed over for the next."""
    photos: list[Image] = []
    step = max(1, len(paths) // number)
    for path in (path for start in range(step) for path in paths[start::step]):
        try:
            photos.append(load_rgb(path, size))
        except ImageError as error:
            unreadable = error
        if len(photos) == number:
            break
    if not photos:
        raise unreadable
    return photos


def command_for(options: argparse.Namespace) -> str:
    """The command that finishes the job on a machine with a GPU."""
    parts = ["python export/to_trt.py", options.checkpoint, "--out", options.out]
    if options.precision != "fp32":
        parts += ["--precision", options.precision]
    for flag, value in (
        ("--image-size", options.image_size),
        ("--features", options.features),
        ("--graph-nodes", options.graph_nodes),
        ("--codebook", options.codebook),
    ):
        parts += [flag, str(value)] if value is not None else []
    if options.scales is not None:
        parts += ["--scales", ",".join(map(str, options.scales))]
    return " ".join(parts)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="export/to_trt.py",
        description="Exports a checkpoint as one whole graph, engine.onnx, proves it equal to the PyTorch network, and "
        "builds engine.plan where TensorRT and a GPU are present.",
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="as train/run.py writes it, or as HOW's authors publish theirs"
    )
    parser.add_argument("--out", metavar="PLAN", default="engine.plan", help="engine.onnx lies beside it (%(default)s)")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="image size, scales, features and precision that go together; others go before",
    )
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="of the backbone; default: fp32")
    parser.add_argument("--image-size", type=image_side, metavar="PIXELS", help="default: the checkpoint's")
    parser.add_argument("--features", type=positive_int, metavar="K", help="default: the checkpoint's")
    parser.add_argument("--scales", type=scale_list, metavar="S,S,...", help="default: the checkpoint's")
    parser.add_argument(
        "--graph-nodes",
        type=positive_int,
        metavar="N",
        help="positions of a level that the graph refines; default: those of the largest",
    )
    parser.add_argument(
        "--codebook",
        metavar="DIR|FILE",
        help="visual words instead of the checkpoint's: learned from a folder of photos, or an engine's .codebook.npy, "
        "or the asmk package's codebook.pkl",
    )
    parser.add_argument(
        "--codebook-photos",
        type=positive_int,
        metavar="N",
        help=f"of the folder, to learn from: more take longer and give more words; default: {PHOTOS}",
    )
    parser.add_argument(
        "--photos", metavar="DIR", help="photos to prove it on; default: --codebook's, training photos, or made ones"
    )
    parser.add_argument(
        "--calibrate",
        metavar="DIR",
        help="photos that int8 takes its ranges from; default: --codebook's, training photos, or made ones",
    )
    options = parser.parse_args(arguments)
    preset = asdict(PRESETS[options.preset]) if options.preset else {"precision": "fp32"}
    for name, value in preset.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.calibrate and options.precision != "int8":
        parser.error("--calibrate is for --precision int8")
    if options.codebook_photos and not is_folder(options.codebook):
        parser.error("--codebook-photos is for --codebook DIR")
    return options


if __name__ == "__main__":
    sys.exit(run_command(main))
