"""The manifest beside an engine: all that a search needs to know besides the graph, and what ties them together.

engine.onnx             the graph
engine.plan             the same graph, built by TensorRT for one kind of GPU
engine.timing           what TensorRT measured for that, so that it builds faster the next time
engine.json             this manifest: image size, ASMK parameters, checksums
engine.codebook.npy     the visual words
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import HowlError
from runtime.io.atomic import atomic_write

FORMAT = "howl engine"
VERSION = 1
ENGINE_SUFFIXES = (".onnx", ".plan")


class PlanRecord(TypedDict):
    """What a plan was built by and for."""

    flavour: str  # "tensorrt" or "tensorrt_rtx"
    version: str  # of that TensorRT; no other runs the plan
    compute_capability: Sequence[int] | None  # major, minor, of the GPU; None where the plan serves several kinds
    smallest: int  # side of an image that it takes, in pixels
    largest: int


@dataclass(frozen=True)
class Manifest:
    """What is known of an engine.

    Attributes:
        fingerprint: checksum of the network, the extraction and the codebook. Engines that share it give descriptors
            that can be compared, whatever runs them; an index belongs to one fingerprint.
        image_size: longest side, in pixels, to which photos are shrunk before they enter the graph.
        scales: factors of the pyramid inside the graph.
        features: K.
        dimensions: D.
        asmk: parameters of the search.
        network: what the network is made of, for people.
        precision: of the graph's backbone: ``fp32``, ``fp16`` or ``int8``.
        checksums: SHA-256 of the files of this engine, by name.
        plan: what the plan was built by and for, if there is one.
    """

    fingerprint: str
    image_size: int
    scales: tuple[float, ...]
    features: int
    dimensions: int
    asmk: AsmkParameters
    network: dict[str, object]
    precision: str
    checksums: dict[str, str] = field(default_factory=dict)
    plan: PlanRecord | None = None

    def save(self, path: Path) -> None:
        """Writes the manifest as JSON."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with atomic_write(path) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Reads what ``save`` wrote. Raises HowlError where it is missing, damaged or newer than this program."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise HowlError(f"{path}: the engine's manifest is missing; export the checkpoint again") from None
        except (OSError, ValueError):
            raise HowlError(f"{path}: not readable as JSON; export the checkpoint again") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise HowlError(f"{path}: not the manifest of a howl engine; export the checkpoint again")
        try:
            if content.pop("version") > VERSION:
                raise HowlError(f"{path}: written by a newer howl; update howl")
            content["asmk"] = AsmkParameters(**content["asmk"])
            content["scales"] = tuple(content["scales"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise HowlError(f"{path}: damaged ({error}); export the checkpoint again") from None

    def check(self, file: Path, manifest: Path) -> None:
        """Raises HowlError, naming both files, where ``file`` is not the one that the manifest was written for."""
        expected = self.checksums.get(file.name)
        if expected is None:
            raise HowlError(f"{manifest} does not know {file}: it was written for {', '.join(self.checksums)}")
        try:
            found = checksum(file)
        except OSError as error:
            raise HowlError(f"{file}: {error.strerror or error}") from None
        if found != expected:
            raise HowlError(f"{file} is not the file that {manifest} was written for; export the checkpoint again")


def is_engine(path: Path) -> bool:
    """Whether it has the name of an engine."""
    return path.suffix in ENGINE_SUFFIXES


def manifest_path(engine: Path) -> Path:
    """``engine.json`` for ``engine.onnx`` and ``engine.plan``."""
    return engine.with_suffix(".json")


def codebook_path(engine: Path) -> Path:
    """``engine.codebook.npy`` for ``engine.onnx`` and ``engine.plan``."""
    return engine.with_suffix(".codebook.npy")


def index_path(engine: Path) -> Path:
    """``engine.index``, the index used where none is named."""
    return engine.with_suffix(".index")


def load_checked(engine: Path) -> tuple[Manifest, Codebook]:
    """The manifest and codebook of an engine file, each proven to belong to it by checksum.

    Raises:
        HowlError: a file is missing, or two do not belong together; the line names both.
    """
    if not is_engine(engine):
        raise HowlError(f"{engine}: an engine is an .onnx or a .plan file; python export/to_trt.py ckpt.pt writes one")
    if not engine.exists():
        raise HowlError(f"{engine}: no such engine; python export/to_trt.py ckpt.pt writes one")
    path = manifest_path(engine)
    manifest = Manifest.load(path)
    for file in (engine, codebook_path(engine)):
        manifest.check(file, path)
    return manifest, Codebook.load(codebook_path(engine))


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
