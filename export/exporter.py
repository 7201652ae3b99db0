"""From a checkpoint to a proven engine: ``export_checkpoint``, which ``export/to_trt.py`` calls."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from export.codebook import codebook_for
from export.files import check_unicode_name, draft_of, orphaned_index, publish
from export.learning import learn, open_checkpoint
from export.options import ExportOptions
from export.parity import TOLERANCES, check_parity, raise_if_unequal, sizes_to_check
from export.plan import build_plan
from export.quantise import quantise_backbone
from export.tracing import export_onnx, export_program, fold
from runtime.bundle import EngineFiles, Manifest, file_checksum
from runtime.engine import open_engine
from runtime.engine.tensorrt.api import has_tensorrt
from runtime.errors import HowlError, ImageError, UsageError
from runtime.gpu import find_gpus
from runtime.io.files import ensure_writable
from runtime.io.finding import find_photos
from runtime.io.image import MIN_SIDE, Image
from train.checkpoint import Checkpoint
from train.config import check_activations
from train.data import LabelledPhotos
from train.data.folder import folder_photos
from train.data.synthetic import synthetic_scenes
from train.distributed import use_threads
from train.models.extractor import extract

Say = Callable[[str], None]  # is told, line by line, what happens

PHOTOS_TO_CHECK = 3
CALIBRATION_PHOTOS = 32


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        engine: engine.onnx; its manifest lies beside it, and its codebook if it has one.
        plan: engine.plan, if one was built.
        program: engine.pt2, if one was written.
        manifest: of the engine.
    """

    engine: Path
    plan: Path | None
    program: Path | None
    manifest: Manifest


def export_checkpoint(options: ExportOptions, say: Say = print) -> Exported:
    """Exports a checkpoint as one whole graph, proves it equal to PyTorch, and builds a plan if there is a GPU.

    Raises:
        HowlError: the checkpoint or photos cannot be read, the engine differs from PyTorch beyond the tolerance, or it
            cannot be written. Whatever was there before is still there.
    """
    files = options.files
    check_unicode_name(files.onnx)
    ensure_writable(files.onnx, files.manifest, files.codebook, files.plan, files.program, files.timing, files.learned)
    use_threads(options.threads)
    checkpoint = configured(open_checkpoint(options.checkpoint, options.learn), options)
    if checkpoint.licence:
        say(f"{options.checkpoint}: {checkpoint.licence}")
    precision = options.decided_precision
    photos = take(open_photos(options.photos or options.photo_folder, checkpoint), PHOTOS_TO_CHECK)
    calibration: list[Image] = []
    if precision == "int8":
        calibration = take(open_photos(options.calibrate or options.photo_folder, checkpoint), CALIBRATION_PHOTOS)
    own_codebook = checkpoint.codebook
    if options.learn is not None:
        checkpoint = learn(checkpoint, options.learn, say)
        checkpoint.save(files.learned)
    elif checkpoint.asmk is not None:
        codebook = codebook_for(checkpoint, options.codebook, options.codebook_photos, say)
        checkpoint = replace(checkpoint, codebook=codebook)

    manifest = export_checked(checkpoint, precision, files, photos, calibration, say)
    beside = f"{files.manifest} and {files.codebook}" if checkpoint.codebook else f"{files.manifest}"
    say(f"{files.onnx}: {files.onnx.stat().st_size / 1e6:.1f} MB, with {beside}")
    if precision == "int8":
        say(f"{files.plan}: not built, int8 is for CPUs; for a GPU take --precision fp16")
    elif find_gpus() and has_tensorrt():
        manifest = add_plan(checkpoint, precision, files, photos, say)
    elif find_gpus():
        say(f"{files.plan}: not built, TensorRT is not installed; {files.program.name} takes its place")
    elif options.out != files.program:
        learned = checkpoint.codebook is not own_codebook
        command = options.elsewhere(files.codebook if learned else None).command()
        say(f"{files.plan}: not built, there is no NVIDIA GPU here; on a machine with one: {command}")
    if options.out == files.program or (find_gpus() and precision != "int8" and manifest.plan is None):
        manifest = add_program(checkpoint, precision, files, photos, say)
    return Exported(
        engine=files.onnx,
        plan=files.plan if manifest.plan else None,
        program=files.program if files.program.name in manifest.checksums else None,
        manifest=manifest,
    )


def configured(checkpoint: Checkpoint, options: ExportOptions) -> Checkpoint:
    """The checkpoint with its settings as the options say, and its network fitted to them.

    Raises:
        UsageError: the checkpoint's system or network does not take one of the options.
    """
    if options.codebook is not None and checkpoint.asmk is None:
        raise UsageError(f"--codebook {options.codebook}: {checkpoint.system} has no visual words; leave it out")
    if options.activations:
        check_activations(checkpoint.system)
    extraction = options.extraction(checkpoint.extraction)
    network = checkpoint.network.fitted_to(extraction, options.graph_nodes)
    return replace(checkpoint, extraction=extraction, network=network, asmk=options.search(checkpoint.asmk))


def export_checked(
    checkpoint: Checkpoint,
    precision: str,
    files: EngineFiles,
    photos: Sequence[Image],
    calibration: Sequence[Image],
    say: Say,
) -> Manifest:
    """Writes engine.onnx, its codebook if it has one, and its manifest, after proving the graph equal to PyTorch.

    The files are made and proven in a draft folder: a failure leaves what was there before.

    Args:
        checkpoint: with the settings that the engine is to have.
        precision: of the backbone.
        files: where the engine goes.
        photos: to prove it on, RGB uint8 [H, W, 3].
        calibration: photos that int8 takes its ranges from.
        say: is told what happens.
    """
    with draft_of(files) as draft:
        fingerprint, model = fingerprint_of(checkpoint), checkpoint.build_model()
        if (line := orphaned_index(files, fingerprint)) is not None:
            say(line)
        levels = len(checkpoint.extraction.scales)
        say(f"tracing the network at {levels} scale{'' if levels == 1 else 's'}, a few seconds each ...")
        extractor = fold(model, precision).extractor(checkpoint.extraction).eval()
        export_onnx(extractor, draft.onnx, {"howl.fingerprint": fingerprint})
        if precision == "int8":
            say(f"measuring the ranges of int8 on {len(calibration)} photos ...")
            quantise_backbone(draft.onnx, draft.onnx, model.backbone.float_layers, calibration)
        prove(checkpoint, precision, draft.onnx, photos, say)
        manifest = Manifest(
            fingerprint=fingerprint,
            system=checkpoint.system,
            method=model.method,
            image_size=checkpoint.extraction.image_size,
            scales=checkpoint.extraction.scales,
            features=checkpoint.extraction.features,
            dimensions=checkpoint.network.dimensions,
            asmk=checkpoint.asmk,
            network=asdict(checkpoint.network),
            precision=precision,
            activations=checkpoint.extraction.activations,
        )
        return publish(draft, files, manifest, checkpoint.codebook)


def add_plan(checkpoint: Checkpoint, precision: str, files: EngineFiles, photos: Sequence[Image], say: Say) -> Manifest:
    """Builds engine.plan, proves it on this machine's GPU, and writes it into the manifest, which is returned.

    Raises:
        HowlError: TensorRT cannot build it, or it differs from PyTorch; then there is no plan.
    """
    largest = checkpoint.extraction.image_size
    info = build_plan(files.onnx, files.plan, smallest=MIN_SIDE, typical=(largest * 3 // 4, largest), largest=largest)
    try:
        prove(checkpoint, precision, files.plan, photos, say)
    except HowlError:
        files.plan.unlink()
        raise
    manifest = Manifest.load(files.manifest)
    manifest = replace(
        manifest,
        checksums={**manifest.checksums, files.plan.name: file_checksum(files.plan)},
        plan={
            "flavour": info.flavour,
            "version": info.version,
            "compute_capability": info.compute_capability,
            "smallest": MIN_SIDE,
            "largest": largest,
        },
    )
    manifest.save(files.manifest)
    say(f"{files.plan}: {info.size / 1e6:.1f} MB, {info.flavour} {info.version}, built in {info.seconds:.0f} s")
    return manifest


def add_program(
    checkpoint: Checkpoint, precision: str, files: EngineFiles, photos: Sequence[Image], say: Say
) -> Manifest:
    """Writes engine.pt2, proves it on this machine's GPU or CPU, and writes it into the manifest, which is returned.

    Raises:
        HowlError: it differs from PyTorch's network; then there is none.
    """
    extractor = fold(checkpoint.build_model(), precision).extractor(checkpoint.extraction).eval()
    with draft_of(files) as draft:
        least = export_program(extractor, draft.program)
        prove(checkpoint, precision, draft.program, photos, say, least)
        draft.program.replace(files.program)
    manifest = Manifest.load(files.manifest)
    checksums = {**manifest.checksums, files.program.name: file_checksum(files.program)}
    manifest = replace(manifest, checksums=checksums)
    manifest.save(files.manifest)
    say(f"{files.program}: {files.program.stat().st_size / 1e6:.1f} MB, for PyTorch on a GPU or a CPU")
    return manifest


def prove(
    checkpoint: Checkpoint, precision: str, engine: Path, photos: Sequence[Image], say: Say, least: int = 0
) -> None:
    """Says how far the engine is from the PyTorch network on every image; raises HowlError beyond the tolerance.

    ``least`` is the least side of an image that the engine takes.
    """
    extraction = checkpoint.extraction
    pytorch = checkpoint.build_model().extractor(extraction).eval()
    runner = open_engine(engine, "cpu" if engine.suffix == ".onnx" else None)
    say(f"{engine.name} against PyTorch, {runner.provider}, {precision}:")
    images = [*sizes_to_check(photos[0], extraction.features), *photos[1:]]
    images = [image for image in images if min(image.shape[:2]) >= least]
    differences = check_parity(runner, partial(extract, pytorch), images, TOLERANCES[precision])
    for difference in differences:
        say(f"  {difference}")
    raise_if_unequal(differences, TOLERANCES[precision], engine.name, "the PyTorch network")


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """A checksum of all that decides a descriptor and its visual word: engines that share it can share an index."""
    sha = hashlib.sha256()
    extraction = asdict(checkpoint.extraction)
    del extraction["activations"]  # which no index holds
    settings = {
        "system": checkpoint.system,
        "network": asdict(checkpoint.network),
        "extraction": extraction,
    }
    sha.update(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(checkpoint.weights.items()):
        sha.update(name.encode())
        sha.update(weight.contiguous().numpy().tobytes())
    if checkpoint.codebook is not None:
        sha.update(checkpoint.codebook.centroids.tobytes())
    return sha.hexdigest()


def open_photos(folder: Path | None, checkpoint: Checkpoint) -> LabelledPhotos:
    """Photos as the engine takes them: those of a folder, else of the folder of the training, else synthetic ones.

    Raises:
        HowlError: there is no such folder, or no photo in it.
    """
    trained_on = checkpoint.training.get("config", {}).get("data")
    if folder is None and trained_on and Path(trained_on).is_dir():
        folder = Path(trained_on)
    size = checkpoint.extraction.image_size
    if folder is not None:
        return folder_photos(folder, {"": find_photos([folder])}, size)
    return synthetic_scenes(scenes=CALIBRATION_PHOTOS, views=1, image_size=size, seed=0)


def take(photos: LabelledPhotos, number: int) -> list[Image]:
    """At most so many photos, evenly spaced; one that cannot be read is passed over for the next.

    Raises:
        ImageError: none can be read; the line says why the last cannot.
    """
    step = max(1, len(photos) // number)
    order = (index for start in range(step) for index in range(start, len(photos), step))
    readable = (image for index in order if (image := photos.read(index)) is not None)
    taken = list(islice(readable, number))
    if not taken:
        raise ImageError(list(photos.unreadable.values())[-1])
    return taken
