"""From a third party's ONNX file to a proven engine: ``export_foreign``, which ``export/to_trt.py`` calls."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from export.files import check_unicode_name, draft_of, orphaned_index, publish
from export.foreign.graph import Whitening, write_engine
from export.foreign.learning import learn_from_folder, readable
from export.foreign.network import Network, decided_size, open_network, run_or_say
from export.foreign.options import (
    FEATURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LARGEST_PHOTO,
    ForeignOptions,
    Preprocessing,
)
from export.foreign.outputs import Outputs, tell_outputs
from export.foreign.reference import prepare, reference, textures
from export.parity import TOLERANCES, check_parity, raise_if_unequal, sizes_to_check
from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.asmk_method.pickles import load_any_codebook
from runtime.bundle import EngineFiles, Manifest
from runtime.engine import open_engine
from runtime.errors import ImageError, IncompatibleError, MissingError, UsageError
from runtime.first_stage import ASMK, VECTORS
from runtime.io.files import ensure_writable
from runtime.io.finding import find_photos
from runtime.io.image import MIN_SIDE, Image

SYSTEM = "foreign"
PHOTOS_TO_CHECK = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Described:
    """All that decides what an engine of a third party's network gives.

    Attributes:
        network: the network.
        preprocessing: of its photos.
        outputs: that become features.
        image_size: longest side, in pixels, to which larger photos are shrunk first.
        features: K, local features of a photo; None of a global network.
        whitening: of local descriptors.
        codebook: the visual words; None of a global network.
    """

    network: Network
    preprocessing: Preprocessing
    outputs: Outputs
    image_size: int
    features: int | None
    whitening: Whitening | None = None
    codebook: Codebook | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest says of the network."""
        return {
            "files": dict(self.network.checksums),
            "preprocessing": asdict(self.preprocessing),
            "outputs": asdict(self.outputs),
            "whitened": self.whitening is not None,
        }

    @property
    def fingerprint(self) -> str:
        """A checksum of all of it: engines that share it can share an index."""
        record = {**self.record, "files": sorted(self.network.checksums.values())}
        settings = {**record, "image_size": self.image_size, "features": self.features}
        sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        if self.whitening is not None:
            sha.update(self.whitening.mean.tobytes())
            sha.update(self.whitening.matrix.tobytes())
        if self.codebook is not None:
            sha.update(self.codebook.centroids.tobytes())
        return sha.hexdigest()

    @property
    def precision(self) -> str:
        """``fp16`` if the network computes in it, at least in part."""
        return "fp16" if self.network.is_half else "fp32"


def export_foreign(options: ForeignOptions, say: Say = print) -> Manifest:
    """Makes an engine of a third party's ONNX file, and proves it equal to the file by itself.

    Args:
        options: say how the network takes photos, and what it gives.
        say: is told, line by line, what happens.

    Returns:
        the manifest of the engine that was written, whole; after an error, nothing was.

    Raises:
        HowlError: the file cannot be used, photos cannot be read, the engine differs from the network beyond the
            tolerance, or it cannot be written. Whatever was there before is still there.
    """
    files = options.files
    check_unicode_name(files.onnx)
    ensure_writable(files.onnx, files.manifest, files.codebook)
    network = open_network(options.network, options.threads)
    preprocessing = decide_preprocessing(network, options)
    image_size = options.image_size or max((LARGEST_PHOTO, *(preprocessing.input or ())))
    photos = photos_to_check(options.photo_folder, image_size)
    given = run_or_say(network, prepare(photos[0], network, preprocessing))
    outputs = tell_outputs(network.path, given, options)
    features = None if options.global_ else options.features or FEATURES
    described = Described(network, preprocessing, outputs, image_size, features)
    say(f"{network.path}: {preprocessing}; photos larger than {image_size} pixels are shrunk first")
    say(describe_outputs(outputs))
    with draft_of(files) as draft:
        if options.local:
            described = add_words(described, options, draft, say)
        if (line := orphaned_index(files, described.fingerprint)) is not None:
            say(line)
        write(described, draft.onnx)
        prove(described, draft.onnx, photos, options.threads, say)
        manifest = publish(draft, files, manifest_of(described), described.codebook)
    beside = f"{files.manifest} and {files.codebook}" if described.codebook else f"{files.manifest}"
    say(f"{files.onnx}: {files.onnx.stat().st_size / 1e6:.1f} MB, with {beside}")
    return manifest


def decide_preprocessing(network: Network, options: ForeignOptions) -> Preprocessing:
    """How the network's photos are prepared, from the options and from what its graph says of its input.

    Raises:
        UsageError: they do not fit each other.
    """
    takes_bytes = network.image.dtype == np.uint8
    if takes_bytes and (options.mean is not None or options.std is not None):
        raise UsageError(f"--mean and --std: {network.path} takes bytes as they are; leave them out")
    size = decided_size(network, options.input_size())
    if size is not None and options.multiple != 1:
        raise UsageError(f"--multiple {options.multiple}: {network.path} takes {size[0]}×{size[1]} only; leave it out")
    plain = takes_bytes or options.local
    return Preprocessing(
        input=size,
        multiple=options.multiple,
        smallest=options.smallest if size is None else MIN_SIDE,  # a fixed size leaves it without effect
        antialias=options.antialias and size is not None,
        mean=options.mean or ((0.0, 0.0, 0.0) if plain else IMAGENET_MEAN),
        std=options.std or ((1.0, 1.0, 1.0) if plain else IMAGENET_STD),
        unit=255.0 if takes_bytes else 1.0,
    )


def photos_to_check(folder: Path | None, image_size: int) -> list[Image]:
    """A few photos of a folder, or textures. Raises ImageError if none of the folder's can be read."""
    if folder is None:
        return textures()
    found = find_photos([folder])
    unreadable: dict[str, str] = {}
    step = max(1, len(found) // PHOTOS_TO_CHECK)
    order = [found[number] for start in range(step) for number in range(start, len(found), step)]
    photos = list(islice(readable(order, image_size, unreadable), PHOTOS_TO_CHECK))
    if not photos:
        raise ImageError(list(unreadable.values())[-1])
    return photos


def describe_outputs(outputs: Outputs) -> str:
    """A line on which output is taken for what."""
    if outputs.positions is None:
        return f"global descriptor: {outputs.descriptors}, {outputs.dimensions} dimensions"
    scores = f"scores: {outputs.scores}" if outputs.scores else "no scores, kept in the network's order"
    found = f"descriptors: {outputs.descriptors}, {outputs.dimensions} dimensions; positions: {outputs.positions}"
    return f"{found}; {scores}"


def add_words(described: Described, options: ForeignOptions, draft: EngineFiles, say: Say) -> Described:
    """The network with visual words, and whitening if it is learned.

    Raises:
        HowlError: photos or codebook do not suffice.
    """
    if options.codebook is not None:
        codebook = load_any_codebook(options.codebook)
        if codebook.dimensions != described.outputs.dimensions:
            raise IncompatibleError(
                f"{options.codebook}: visual words of {codebook.dimensions} dimensions, the network's descriptors have "
                f"{described.outputs.dimensions}: name the codebook of this network, or photos, --learn DIR"
            )
        return replace(described, codebook=codebook, whitening=earlier_whitening(options.codebook))
    write(described, draft.onnx)
    engine = open_engine(draft.onnx, "cpu", options.threads)
    folder = options.learn or Path()
    whitening, codebook = learn_from_folder(engine, folder, described.image_size, whiten=options.whiten, say=say)
    return replace(described, whitening=whitening, codebook=codebook)


def earlier_whitening(codebook: Path) -> Whitening | None:
    """The whitening of the engine that a codebook lies beside; words of the asmk package have none.

    Raises MissingError if ``engine.codebook.npy`` lies alone: what its words were learned from is in the engine.
    """
    beside = EngineFiles.of_codebook(codebook)
    if beside is None:
        return None
    if not beside.onnx.is_file():
        raise MissingError(f"{beside.onnx}: no such file: the engine that {codebook} belongs to must lie beside it")
    return Whitening.of_engine(beside.onnx)


def write(described: Described, path: Path) -> None:
    """Writes the engine's graph."""
    write_engine(
        path,
        described.network,
        described.preprocessing,
        described.outputs,
        described.features,
        described.whitening,
        {"howl.fingerprint": described.fingerprint},
    )


def prove(described: Described, engine: Path, photos: Sequence[Image], threads: int | None, say: Say) -> None:
    """Says how far the engine is from the network's own file on every image; raises HowlError beyond the tolerance."""
    tolerance = TOLERANCES[described.precision]
    run = reference(
        described.network, described.preprocessing, described.outputs, described.features, described.whitening
    )
    runner = open_engine(engine, "cpu", threads)
    say(f"{engine.name} against {described.network.path.name} by itself, {runner.provider}, {described.precision}:")
    images = [*sizes_to_check(photos[0], MIN_SIDE**2), *photos[1:]]
    differences = check_parity(runner, run, images, tolerance)
    for difference in differences:
        say(f"  {difference}")
    raise_if_unequal(differences, tolerance, engine.name, f"{described.network.path} by itself")


def manifest_of(described: Described) -> Manifest:
    """What howl knows about the engine, but for the checksums of its files."""
    return Manifest(
        fingerprint=described.fingerprint,
        system=SYSTEM,
        method=VECTORS if described.codebook is None else ASMK,
        image_size=described.image_size,
        scales=(1.0,),
        features=described.features,
        dimensions=described.outputs.dimensions,
        asmk=None if described.codebook is None else AsmkParameters(),
        network=described.record,
        precision=described.precision,
    )
