"""What is exported and how: the options of ``export_checkpoint`` and of its command, and the presets."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from export.files import SCRIPT
from runtime.asmk.codebook import LEARNED_PHOTOS
from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import EngineFiles, is_engine
from runtime.errors import UsageError
from runtime.io.cli import command_line
from train.config import Threads, check_threads, shown_as
from train.models.base import HOW_SCALES, PYRAMID, ExtractionConfig

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Preset:
    """Settings of an export that go together.

    Attributes:
        image_size: longest side, in pixels, to which larger photos are shrunk.
        scales: of the pyramid.
        features: K, local features of a photo; of no account to a system that has none.
        precision: of the backbone.
        multiple_assignment: visual words that each descriptor of a query is assigned to; HOW has 5.
    """

    image_size: int
    scales: tuple[float, ...]
    features: int
    precision: str
    multiple_assignment: int = 5


# From HOW's own setting, and the most accurate one, down to a small part of their time (docs/presets.md). ``balanced``
# is also what --learn and training on a folder take.
PRESETS = {
    "how": Preset(1024, HOW_SCALES, 1000, "fp32"),
    "best": Preset(720, PYRAMID, 2000, "fp32", multiple_assignment=10),
    "balanced": Preset(720, PYRAMID, 1000, "fp32"),
    "fast": Preset(480, PYRAMID[:3], 1000, "int8"),
    "fastest": Preset(320, PYRAMID[:3], 500, "int8"),
}


PRESET_OR_CHECKPOINT = "the preset's, or the checkpoint's"
OWN_PHOTOS = "--codebook's folder, the training photos, or synthetic ones"


@dataclass(frozen=True)
class ExportOptions:
    """An export. What stands here is the help of ``howl export``.

    Attributes:
        checkpoint: as howl train writes it, or as the authors of its system publish theirs; with --learn also the name
            of a backbone, such as efficientnet_lite0, with ImageNet weights.
        out: engine.plan or engine.onnx, or engine.pt2 to have a program of PyTorch's too; all files of the engine share
            its name.
        preset: image size, scales, features, precision and a query's words for each descriptor that go together; what
            is given as well is taken instead.
        precision: of the backbone; int8 is for CPUs.
        image_size: longest side, to which larger photos are shrunk.
        scales: of the pyramid.
        features: local features of a photo, for a system that has some.
        activations: the engine also gives the map that its global descriptor is pooled of, for --rerank dsm.
        graph_nodes: positions of a level that the graph or self-attention refines, in a network with one.
        codebook: visual words instead of the checkpoint's, for a system that searches by ASMK: learned from a folder
            of photos, or an engine's .codebook.npy, or the asmk package's codebook.pkl.
        learn: a folder of photos, flat or nested, to learn whitening and visual words from, at the engine's own size;
            no labels, no training, minutes.
        codebook_photos: of the folder, to learn from; more take longer and give more words.
        photos: a folder to prove the engine on.
        calibrate: a folder that int8 takes its ranges from.
        threads: of the CPU.

    Raises:
        UsageError: the options do not go together.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CKPT|BACKBONE")]
    out: Path = Path("engine.plan")
    preset: Annotated[str | None, shown_as("|".join(PRESETS), "none")] = None
    precision: Annotated[str | None, shown_as("|".join(PRECISIONS), "the preset's, or fp32")] = None
    image_size: Annotated[int | None, shown_as("PIXELS", PRESET_OR_CHECKPOINT)] = None
    scales: Annotated[tuple[float, ...] | None, shown_as("S S ...", PRESET_OR_CHECKPOINT)] = None
    features: Annotated[int | None, shown_as("K", PRESET_OR_CHECKPOINT)] = None
    activations: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    graph_nodes: Annotated[int | None, shown_as("N", "those of the largest level")] = None
    codebook: Annotated[Path | None, shown_as("DIR|FILE", "the checkpoint's, or learned from synthetic scenes")] = None
    learn: Annotated[Path | None, shown_as("DIR", "the checkpoint's")] = None
    codebook_photos: Annotated[int | None, shown_as("N", str(LEARNED_PHOTOS))] = None
    photos: Annotated[Path | None, shown_as("DIR", OWN_PHOTOS)] = None
    calibrate: Annotated[Path | None, shown_as("DIR", OWN_PHOTOS)] = None
    threads: Threads = None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if not is_engine(self.out):
            raise UsageError(
                f"--out {self.out}: name an engine.plan, engine.onnx or engine.pt2; its other files share the name"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"--preset {self.preset}: there is {', '.join(PRESETS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision}: there is {', '.join(PRECISIONS)}")
        if self.calibrate is not None and self.decided_precision != "int8":
            raise UsageError("--calibrate is for --precision int8")
        if self.out == self.files.program and self.decided_precision == "int8":
            raise UsageError(f"--out {self.out}: int8 is for engine.onnx on a CPU; name that, or take --precision fp16")
        if self.learn is not None and self.codebook is not None:
            raise UsageError(f"--learn {self.learn}: learns visual words, too; leave --codebook {self.codebook} out")
        if self.codebook_photos is not None and (self.learn is not None or self.photo_folder is None):
            raise UsageError("--codebook-photos is for --codebook DIR")
        if self.codebook_photos is not None and self.codebook_photos < 1:
            raise UsageError(f"--codebook-photos {self.codebook_photos}: must be at least 1")

    @property
    def files(self) -> EngineFiles:
        """Where the engine goes."""
        return EngineFiles.of(self.out)

    @property
    def photo_folder(self) -> Path | None:
        """The folder of photos that ``learn`` or ``codebook`` names, if one does."""
        if self.learn is not None:
            return self.learn
        return self.codebook if self.codebook is not None and self.codebook.is_dir() else None

    @property
    def decided_precision(self) -> str:
        """The precision that is named, else the preset's, else fp32."""
        return self.precision or (PRESETS[self.preset].precision if self.preset else "fp32")

    def extraction(self, own: ExtractionConfig) -> ExtractionConfig:
        """How photos are described: as is named, else as the preset says, else as the checkpoint has it.

        Raises:
            UsageError: a value is out of range, or the checkpoint's system has no local features to number.
        """
        if own.features is None and self.features is not None:
            raise UsageError(f"--features {self.features}: the checkpoint's system has no local features; leave it out")
        preset = asdict(PRESETS[self.preset]) if self.preset else {}
        chosen: dict[str, Any] = {}
        for name in ("image_size", "scales", "features"):
            value = preset.get(name) if getattr(self, name) is None else getattr(self, name)
            if value is not None and getattr(own, name) is not None:
                chosen[name] = value
        return replace(own, **chosen, activations=own.activations or self.activations)

    def search(self, own: AsmkParameters | None) -> AsmkParameters | None:
        """How photos are compared: as the checkpoint has it, with the preset's multiple assignment."""
        if own is None or self.preset is None:
            return own
        return replace(own, multiple_assignment=PRESETS[self.preset].multiple_assignment)

    def elsewhere(self, codebook: Path | None) -> "ExportOptions":
        """The same export on another machine, which needs the checkpoint and the codebook but no photos.

        Args:
            codebook: of the engine, if it is not the checkpoint's: words that are learned elsewhere would be others.
        """
        if self.learn is not None:
            return replace(self, checkpoint=self.files.learned, learn=None, photos=None, threads=None)
        return replace(self, codebook=codebook, codebook_photos=None, photos=None, threads=None)

    def command(self) -> str:
        """The command that a user would type for this."""
        return command_line(SCRIPT, self.checkpoint, options=self, defaults=ExportOptions(self.checkpoint))
