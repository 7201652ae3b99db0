"""A third party's network and how it takes photos: the options of ``export_foreign`` and of its command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from runtime.bundle import EngineFiles
from runtime.cores import MAX_THREADS
from runtime.errors import UsageError
from runtime.io.image import MAX_SIDE, MIN_SIDE

LOCAL, GLOBAL = "--local", "--global"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_PHOTO = 1024  # longest side, in pixels, that hloc gives such networks
FEATURES, MAX_FEATURES = 1000, 100_000  # of a photo
JUST_ABOVE = 0.01  # of a byte, added before rounding: halves are common, and floats would round them either way


def _shown_as(metavar: str, default: str) -> Any:
    """As ``train.config.shown_as``, which needs PyTorch."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Preprocessing:
    """From a photo to the tensor that a network takes.

    Attributes:
        input: height and width, in pixels, to which every photo is stretched; None to leave photos their size.
        multiple: of which the sides are multiples, if ``input`` is None: each side is rounded to the nearest.
        smallest: pixels that a side has at least, if ``input`` is None.
        antialias: whether shrinking averages over all pixels (PIL, torchvision), or only between the nearest four
            (``cv2.INTER_LINEAR``).
        mean, std: of R, G and B, for pixels in 0…1.
        unit: what a pixel in 0…1 is multiplied by after that: 1, or 255 for a network that takes bytes.
    """

    input: tuple[int, int] | None
    multiple: int
    smallest: int
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unit: float = 1.0

    @property
    def least(self) -> int:
        """Pixels of a side, at least, if ``input`` is None: the first multiple that is no smaller than ``smallest``."""
        return -(-self.smallest // self.multiple) * self.multiple

    def __str__(self) -> str:
        numbers = [" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        if self.input is not None:
            size = f"stretched to {self.input[1]}×{self.input[0]}, {'anti' if self.antialias else 'not anti'}aliased"
        elif self.multiple > 1:
            size = f"with sides rounded to multiples of {self.multiple}"
        else:
            size = "at their own size"
        pixels = "pixels in 0…255" if self.unit == 255 else f"mean {numbers[0]}, std {numbers[1]}"
        return f"photos {size}; {pixels}"


@dataclass(frozen=True)
class ForeignOptions:
    """A third party's network as an engine. What stands here is the help of ``howl export NETWORK.onnx --global``.

    Attributes:
        network: one ONNX file, that takes one RGB image.
        global_: it gives a global descriptor.
        local: it gives local descriptors and their positions.
        out: engine.onnx; the files beside it share its name.
        input: height and width that every photo is stretched to, or one number for a square.
        multiple: of which the sides of an image must be multiples; for a network that takes any size.
        smallest: pixels that a side has at least; smaller photos are enlarged.
        image_size: longest side, to which larger photos are shrunk first.
        antialias: shrink as PIL and torchvision do; else as OpenCV's INTER_LINEAR.
        mean: of R, G and B, for pixels in 0…1; 0 and a std of 1 if the network takes pixels in 0…1 as they are.
        std: of R, G and B.
        descriptors: name of the output, where shapes do not tell it.
        positions: name of the output of x and y in pixels, where shapes do not tell it.
        scores: name of the output that orders local descriptors, where shapes do not tell it.
        features: local descriptors of a photo, at most: those of the best scores.
        learn: a folder of photos, flat or nested, to learn visual words from; for a local network.
        whiten: learn PCA whitening, too.
        codebook: the .codebook.npy of an earlier export of the same network, with its engine beside it: its words and
            whitening are taken.
        photos: a folder to prove the engine on.
        threads: of the CPU.

    Raises:
        UsageError: the options do not go together.
    """

    network: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NETWORK.onnx")]
    global_: Annotated[bool, tyro.conf.arg(name="global"), tyro.conf.FlagCreatePairsOff] = False
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    out: Path = Path("engine.onnx")
    input: Annotated[str | None, _shown_as("SIZE|HxW", "the graph's own, or the photo's")] = None
    multiple: int = 1
    smallest: int = MIN_SIDE
    image_size: Annotated[int | None, _shown_as("PIXELS", f"{LARGEST_PHOTO}, or the input's if that is larger")] = None
    antialias: bool = True
    mean: Annotated[tuple[float, float, float] | None, _shown_as("R G B", "ImageNet's; with --local 0 0 0")] = None
    std: Annotated[tuple[float, float, float] | None, _shown_as("R G B", "ImageNet's; with --local 1 1 1")] = None
    descriptors: Annotated[str | None, _shown_as("NAME", "told by shape")] = None
    positions: Annotated[str | None, _shown_as("NAME", "told by shape")] = None
    scores: Annotated[str | None, _shown_as("NAME", "told by shape")] = None
    features: Annotated[int | None, _shown_as("K", str(FEATURES))] = None
    learn: Annotated[Path | None, _shown_as("DIR", "none")] = None
    whiten: bool = True
    codebook: Annotated[Path | None, _shown_as("FILE", "learned")] = None
    photos: Annotated[Path | None, _shown_as("DIR", "--learn's, or textures")] = None
    threads: Annotated[int | None, _shown_as("T", "all cores")] = None

    def __post_init__(self) -> None:
        if self.global_ == self.local:
            raise UsageError(f"{self.network}: a third party's network: say what it gives, {GLOBAL} or {LOCAL}")
        if self.out.suffix != ".onnx":
            raise UsageError(f"--out {self.out}: name an engine.onnx; its other files share the name")
        if self.network.absolute() in (self.files.onnx.absolute(), self.files.manifest.absolute()):
            raise UsageError(f"--out {self.out}: would replace the network; name another file")
        for name, most in (("multiple", MAX_SIDE), ("smallest", MAX_SIDE), ("threads", MAX_THREADS)):
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise UsageError(f"--{name} {value}: needs to be between 1 and {most}")
        if self.image_size is not None and not MIN_SIDE <= self.image_size <= MAX_SIDE:
            raise UsageError(f"--image-size {self.image_size}: needs to be between {MIN_SIDE} and {MAX_SIDE}")
        if self.mean is not None and not all(-1 <= value <= 1 for value in self.mean):
            raise UsageError(f"--mean {_words(self.mean)}: is for pixels in 0…1; divide by 255")
        if self.std is not None and not all(0 < value <= 1 for value in self.std):
            raise UsageError(f"--std {_words(self.std)}: is for pixels in 0…1, and above 0; divide by 255")
        self.input_size()
        if self.input is not None and self.multiple != 1:
            raise UsageError(f"--multiple {self.multiple}: all photos have the size of --input; leave one of them out")
        if self.global_:
            self._check_global()
        else:
            self._check_local()

    def _check_global(self) -> None:
        for name in ("positions", "scores", "features", "learn", "codebook"):
            if getattr(self, name) is not None:
                raise UsageError(f"--{name} is for {LOCAL}: a global network has no local descriptors and no words")

    def _check_local(self) -> None:
        if self.learn is None and self.codebook is None:
            raise UsageError(
                f"{self.network}: local descriptors are searched by visual words: name photos to learn them from, "
                "--learn DIR, or those of an earlier export, --codebook FILE"
            )
        if self.learn is not None and self.codebook is not None:
            raise UsageError(f"--learn {self.learn}: learns visual words; leave --codebook {self.codebook} out")
        if self.features is not None and not 1 <= self.features <= MAX_FEATURES:
            raise UsageError(f"--features {self.features}: needs to be between 1 and {MAX_FEATURES}")

    @property
    def files(self) -> EngineFiles:
        """Where the engine goes."""
        return EngineFiles.of(self.out)

    @property
    def photo_folder(self) -> Path | None:
        """The folder whose photos prove the engine, if one is named."""
        return self.photos or self.learn

    def input_size(self) -> tuple[int, int] | None:
        """Height and width of ``input``. Raises UsageError if it is no size."""
        if self.input is None:
            return None
        sides = self.input.lower().replace("×", "x").split("x")
        sizes = [int(side) if side.isdecimal() and len(side) < 6 else 0 for side in sides]
        if len(sizes) > 2 or not all(1 <= size <= MAX_SIDE for size in sizes):
            raise UsageError(f"--input {self.input}: needs a size in pixels, such as 322 or 480x640, height first")
        return sizes[0], sizes[-1]


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
