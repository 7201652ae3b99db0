"""An engine and the files beside it: the manifest, the codebook, and the checks that they belong together.

engine.onnx             the graph
engine.plan             the same graph, built by TensorRT for one kind of GPU
engine.pt2              the same graph, as a program of PyTorch's
engine.timing           what TensorRT measured while it built the plan, so that the next build is faster
engine.json             the manifest: method, image size, parameters, checksums
engine.codebook.npy     the visual words of a local engine
engine.learned.pt       the checkpoint of what export learned, if it learned something (--learn)
engine.index            the index that is used if no other is named
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.errors import DamagedError, IncompatibleError, MissingError, StorageError, UsageError
from runtime.first_stage import ASMK, MAX_DIMENSIONS, VECTORS, FirstStage
from runtime.io.files import atomic_write, open_file, read_file
from runtime.io.image import MAX_SIDE, MIN_SIDE
from runtime.vectors import InnerProduct

FORMAT = "howl engine"
VERSION = 2
ENGINE_SUFFIXES = (".onnx", ".plan", ".pt2")
CODEBOOK_SUFFIX = ".codebook.npy"
EXPORT_AGAIN = "export the checkpoint again"
MAX_FEATURES, MAX_TEXT = 1_000_000, 200  # beyond what any engine has


@dataclass(frozen=True)
class EngineFiles:
    """The files of an engine. They share a folder and a name.

    Attributes:
        base: their path without a suffix.
    """

    base: Path

    @classmethod
    def of(cls, path: Path) -> "EngineFiles":
        """The files of an engine, from the path of any one of them, such as ``engine.plan``."""
        return cls(path.with_suffix(""))

    @classmethod
    def of_codebook(cls, path: Path) -> "EngineFiles | None":
        """The files of the engine whose codebook has this path, which may not exist; None for another name."""
        files = cls(path.with_name(path.name.removesuffix(CODEBOOK_SUFFIX)))
        return files if files.codebook == path else None

    @property
    def onnx(self) -> Path:
        return self._file(".onnx")

    @property
    def plan(self) -> Path:
        return self._file(".plan")

    @property
    def program(self) -> Path:
        return self._file(".pt2")

    @property
    def timing(self) -> Path:
        return self._file(".timing")

    @property
    def manifest(self) -> Path:
        return self._file(".json")

    @property
    def codebook(self) -> Path:
        return self._file(CODEBOOK_SUFFIX)

    @property
    def learned(self) -> Path:
        return self._file(".learned.pt")

    @property
    def index(self) -> Path:
        return self._file(".index")

    def index_of(self, photos: str) -> Path:
        """The index of some photos that the engine is measured with, such as ``engine.r1m.index``."""
        return self._file(f".{photos}.index")

    def _file(self, suffix: str) -> Path:
        return self.base.with_name(self.base.name + suffix)


class PlanRecord(TypedDict):
    """Which TensorRT built a plan, and for which GPU and image sizes."""

    flavour: str  # "tensorrt" or "tensorrt_rtx"
    version: str  # of that TensorRT; no other version runs the plan
    compute_capability: Sequence[int] | None  # major, minor of the GPU; None if the plan runs on several kinds
    smallest: int  # side of an image that the plan takes, in pixels
    largest: int


@dataclass(frozen=True)
class Manifest:
    """What howl knows about an engine.

    Attributes:
        fingerprint: of the network, the extraction and the codebook. Engines with the same fingerprint give comparable
            features, whatever runs them. An index belongs to one fingerprint.
        system: what the network is, such as ``how`` or ``gem``; for people.
        method: the first stage that searches with its features: ``asmk`` or ``vectors``.
        image_size: longest side, in pixels, to which photos are shrunk before they enter the graph.
        scales: factors of the pyramid inside the graph.
        dimensions: of a local descriptor, D, or of the global descriptor, G, whichever the first stage takes.
        features: K, the maximum number of local descriptors of a photo; None if the engine gives none.
        asmk: parameters of the search; None for other methods.
        network: what the network is made of, for people.
        precision: of the graph's backbone: ``fp32``, ``fp16`` or ``int8``.
        activations: whether the engine gives the map that its global descriptor is pooled of.
        kinds: of local features, whose descriptors lie apart on the diagonal (``export/joining.py``).
        checksums: SHA-256 of the files of this engine, by name.
        plan: how the plan was built, if there is one.
    """

    fingerprint: str
    system: str
    method: str
    image_size: int
    scales: tuple[float, ...]
    dimensions: int
    features: int | None
    asmk: AsmkParameters | None
    network: dict[str, object]
    precision: str
    activations: bool = False
    kinds: int = 1
    checksums: dict[str, str] = field(default_factory=dict)
    plan: PlanRecord | None = None

    def save(self, path: Path) -> None:
        """Writes the manifest as JSON."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with atomic_write(path) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Reads what ``save`` wrote. Raises HowlError if it is missing, damaged or of another version."""
        try:
            content = json.loads(read_file(path).decode())
        except FileNotFoundError:
            raise MissingError(f"{path}: the engine's manifest is missing; {EXPORT_AGAIN}") from None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            raise DamagedError(f"{path}: not readable as JSON; {EXPORT_AGAIN}") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise IncompatibleError(f"{path}: not the manifest of a howl engine; {EXPORT_AGAIN}")
        try:
            version = content.pop("version")
            if version > VERSION:
                raise IncompatibleError(f"{path}: written by a newer howl; update howl")
            if version < VERSION:
                raise IncompatibleError(f"{path}: written by an earlier howl; {EXPORT_AGAIN}")
            asmk = content["asmk"]
            content["asmk"] = None if asmk is None else AsmkParameters(**asmk)
            content["scales"] = tuple(content["scales"])
            manifest = cls(**content)
            manifest.check_values()
            return manifest
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise DamagedError(f"{path}: damaged ({str(error)[:200]}); {EXPORT_AGAIN}") from None

    def check_values(self) -> None:
        """Raises ValueError, naming the entry, if a value is of another type than it should be, or out of range."""
        texts = (self.fingerprint, self.system, self.method, self.precision)
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
            raise ValueError("fingerprint, system, method and precision must be short texts")
        if not _is_whole(self.image_size, MIN_SIDE, MAX_SIDE):
            raise ValueError(f"image_size is {self.image_size!r}")
        if not self.scales or not all(isinstance(scale, int | float) and 0 < scale <= 16 for scale in self.scales):
            raise ValueError(f"scales are {self.scales!r}")
        if not _is_whole(self.dimensions, 1, MAX_DIMENSIONS):
            raise ValueError(f"dimensions is {self.dimensions!r}")
        if self.features is not None and not _is_whole(self.features, 1, MAX_FEATURES):
            raise ValueError(f"features is {self.features!r}")
        if not isinstance(self.activations, bool):
            raise ValueError(f"activations is {self.activations!r}")
        if not _is_whole(self.kinds, 1, MAX_FEATURES):
            raise ValueError(f"kinds is {self.kinds!r}")
        if not isinstance(self.network, dict) or not isinstance(self.plan, dict | None):
            raise ValueError("network and plan must be objects")
        if not isinstance(self.checksums, dict) or not all(isinstance(each, str) for each in self.checksums.values()):
            raise ValueError("checksums must be texts by name")

    def check(self, file: Path, manifest: Path) -> None:
        """Raises HowlError, naming both files, if ``file`` is not the one that the manifest was written for."""
        expected = self.checksums.get(file.name)
        if expected is None:
            known = ", ".join(self.checksums)
            raise IncompatibleError(f"{manifest} does not know {file}: it was written for {known}")
        try:
            found = file_checksum(file)
        except OSError as error:
            raise MissingError(f"{file}: {error.strerror or error}; {EXPORT_AGAIN}") from None
        if found != expected:
            raise IncompatibleError(f"{file} is not the file that {manifest} was written for; {EXPORT_AGAIN}")


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def is_engine(path: Path) -> bool:
    """Whether a path has the suffix of an engine."""
    return path.suffix in ENGINE_SUFFIXES


def load_manifest(engine: Path) -> Manifest:
    """The manifest of an engine file. A checksum proves that the two belong together.

    Raises:
        HowlError: a file is missing, or the two do not belong together; the line names both.
    """
    if not is_engine(engine):
        raise UsageError(f"{engine}: an engine is an .onnx, a .plan or a .pt2 file; howl export ckpt.pt writes one")
    if not engine.exists():
        raise MissingError(f"{engine}: no such engine; howl export ckpt.pt writes one")
    path = EngineFiles.of(engine).manifest
    manifest = Manifest.load(path)
    manifest.check(engine, path)
    return manifest


def load_first_stage(
    engine: Path,
    manifest: Manifest,
    *,
    threshold: float | None = None,
    alpha: float | None = None,
    device: str | None = None,
) -> FirstStage:
    """The first stage that searches with an engine's features.

    Args:
        engine: the engine file; its codebook is loaded if the method has one.
        manifest: of the engine.
        threshold: τ of ASMK; None for the manifest's.
        alpha: α of ASMK; None for the manifest's.
        device: ``cuda`` to quantise and to search on a GPU, which ASMK can.

    Raises:
        HowlError: the codebook is missing or belongs to another engine, the method has no such parameter, or the GPU
            cannot be used.
    """
    files = EngineFiles.of(engine)
    given: dict[str, Any] = {"threshold": threshold, "alpha": alpha}
    given = {name: value for name, value in given.items() if value is not None}
    if manifest.method == ASMK and manifest.asmk is not None:
        manifest.check(files.codebook, files.manifest)
        codebook, parameters = Codebook.load(files.codebook, manifest.kinds), replace(manifest.asmk, **given)
        if device != "cuda":
            return AsmkKernel(codebook, parameters)
        from runtime.asmk.gpu import GpuAsmkKernel  # late: it imports the index
        from runtime.gpu.device import Device

        return GpuAsmkKernel(codebook, parameters, Device(engine))
    if given:
        raise UsageError(f"{engine}: searches by {manifest.method}, which has no {next(iter(given))}; leave it out")
    if manifest.method == VECTORS:
        return InnerProduct(manifest.dimensions)
    raise IncompatibleError(f"{files.manifest}: searches by {manifest.method}, which this howl does not know")


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
