"""What the rest of howl knows of a system: its network, how it is trained and whitened, and what searches with it.

A system is a subclass of ``RetrievalModel`` in a file of its own, and a line in ``registry``. The trainer, the
validation and the export use nothing but what is here.
"""

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import UsageError
from runtime.first_stage import FirstStage
from train.backbones import BUILDERS, Backbone, build_backbone
from train.models.whitening import Moments, Whitening

HOW_SCALES = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)
PYRAMID = (1.0, 0.707, 0.5, 0.353, 0.25)  # two levels an octave; larger ones cost time and gained nothing at 720 pixels
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 64, 8192  # pixels: what the pyramids can work on
MIN_SCALE, MAX_SCALE, MAX_SCALES = 0.1, 4.0, 20
MAX_FEATURES = 100_000  # of a photo
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "nothing"}


class FeatureMap(NamedTuple):
    """A map of local descriptors [B, D, h, w] and of their strengths [B, h, w]; a single photo's without B."""

    descriptors: Tensor
    strengths: Tensor


class WhiteningSamples(NamedTuple):
    """Features of a photo, [n, C], and where they lie in it: pixels [n, 2], x and y; None if each is of all of it."""

    features: Tensor
    positions: Tensor | None


@dataclass(frozen=True)
class ExtractionConfig:
    """How a photo is described.

    Attributes:
        image_size: longest side, in pixels, to which larger photos are shrunk.
        scales: factors of the image pyramid.
        features: K, local features of a photo; None for a global descriptor.
        activations: the engine also gives the map that its global descriptor is pooled of, for --rerank dsm.

    Raises:
        UsageError: a value is out of range, or of another type: a file may hold any.
    """

    image_size: int = 1024
    scales: tuple[float, ...] = HOW_SCALES
    features: int | None = 1000
    activations: bool = False

    def __post_init__(self) -> None:
        of_declared_types(self)
        in_pixels(image_size=self.image_size)
        if not 1 <= len(self.scales) <= MAX_SCALES or not all(MIN_SCALE <= scale <= MAX_SCALE for scale in self.scales):
            scales = " ".join(map(str, self.scales[:MAX_SCALES]))
            raise UsageError(f"--scales {scales}: needs 1 to {MAX_SCALES}, each between {MIN_SCALE} and {MAX_SCALE}")
        if self.features is not None:
            at_least(1, features=self.features)
            at_most(MAX_FEATURES, features=self.features)


@dataclass(frozen=True)
class ModelConfig:
    """What a network is made of: with its weights, all that is needed to build it again.

    Attributes:
        backbone: the convolutional network below.
        dimensions: D, of a descriptor.

    Raises:
        UsageError: a value is out of range, or of another type: a file may hold any.
    """

    backbone: str
    dimensions: int

    def __post_init__(self) -> None:
        of_declared_types(self)
        if self.backbone not in BUILDERS:
            raise UsageError(f"--backbone {self.backbone}: there is {', '.join(BUILDERS)}")
        at_least(1, dimensions=self.dimensions)

    @classmethod
    def of_file(cls, settings: dict[str, Any]) -> Self:
        """The configuration that a file holds. Raises an error of ``ODDITIES`` if it is none."""
        return cls(**settings)

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        """The defaults for a backbone, or for the system's own, and for photos of so many pixels at most."""
        return cls() if backbone is None else cls(backbone=backbone)  # type: ignore[call-arg]

    def without_effect(self) -> dict[str, str]:
        """The settings that change nothing in this network, each with the options that would give it an effect."""
        return {}

    def fitted_to(self, extraction: ExtractionConfig, graph_nodes: int | None = None) -> Self:
        """The configuration of the same network for larger images than it was trained on; the weights stay.

        Args:
            extraction: with which it is exported.
            graph_nodes: of the graph or self-attention; None for as many as the images need.

        Raises:
            UsageError: the network refines no positions, or there cannot be so many nodes.
        """
        if graph_nodes is not None:
            raise UsageError(
                f"--graph-nodes {graph_nodes}: the checkpoint's network refines no positions; leave it out"
            )
        return self


class Extractor(nn.Module):
    """What export traces: a photo → the outputs of an engine.

    Attributes:
        outputs: the name of each tensor that ``forward`` returns, in order, from ``runtime.engine.schema``.
    """

    outputs: tuple[str, ...]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """RGB uint8 [H, W, 3] → a tensor for each of ``outputs``."""
        raise NotImplementedError


class RetrievalModel(nn.Module, ABC):
    """A network that describes photos, and all that differs between the systems.

    Attributes:
        system: its name in the registry.
        summary: what it gives of a photo, in a few words; for the command line's help.
        Config: of the network; a subclass of ``ModelConfig``.
        method: of the first stage that searches with its features: ``ASMK`` or ``VECTORS`` of ``runtime.first_stage``.
        has_local_features: whether its engines give local features; a method other than ASMK leaves them to
            re-ranking.
        has_activations: whether its engines can give the map that the global descriptor is pooled of.
        losses: the losses that it can be trained with, the default first: ``contrastive``, ``match`` or its own.
        own_losses: those of no other system, by name: of what ``compared`` gives of each photo of a tuple, the query's
            first, then the positive's, and of the margin.
        whitenings: how its whitening can be learned (``train.calibration``), the default first.
        keeps_whitening: whether one by PCA is learned once, or anew after each epoch that changes the backbone.
        margin: of the loss on global descriptors, unless the user says otherwise.
        shrinkage: of the PCA whitening, in [0, 1].
        parts: the network's modules by name, with the settings that must be equal before a network can start from
            another one's weights of this module.
        calibrated: the part of them, if there is one, that starts from the backbone's own features, as
            ``calibration_samples`` and ``start_from`` say.
        config: of this network.
        backbone: its convolutional part.
        whitening: learned before the first step, without gradients (``train.calibration``).
    """

    system: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[ModelConfig]]
    method: ClassVar[str]
    has_local_features: ClassVar[bool]
    has_activations: ClassVar[bool] = False
    losses: ClassVar[tuple[str, ...]]
    own_losses: ClassVar[Mapping[str, Callable[[Sequence[tuple[Tensor, ...]], float], Tensor]]] = {}
    whitenings: ClassVar[tuple[Literal["views", "pairs", "pca"], ...]]
    keeps_whitening: ClassVar[bool] = True
    margin: ClassVar[float]
    shrinkage: ClassVar[float] = 1.0
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    calibrated: ClassVar[str | None] = None
    config: ModelConfig
    backbone: Backbone
    whitening: Whitening

    def __init__(self, config: ModelConfig) -> None:
        """Builds the backbone, with random weights. Raises UsageError if it has fewer channels than dimensions."""
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        if config.dimensions > self.backbone.channels:
            raise UsageError(
                f"--dimensions {config.dimensions}: {config.backbone} has {self.backbone.channels} channels, no more"
            )

    @classmethod
    def extraction_defaults(cls, extraction: ExtractionConfig) -> ExtractionConfig:
        """How photos are described by default, from what fits their number and size (``train.config``)."""
        return extraction

    @abstractmethod
    def describe(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W], float in 0…255 → global descriptors [B, D], L2-normalised.

        Mining ranks photos by them, and losses on global descriptors compare them.
        """

    def compared(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the system's own losses compare of RGB images [B, 3, H, W], float in 0…255: tensors [B, …].

        The global descriptors, unless a system says more. A loss is given those of a tuple, the query's, the positive's
        and the negatives', in this order along the first axis.
        """
        return (self.describe(images),)

    def feature_maps(self, images: Tensor) -> FeatureMap:
        """RGB images [B, 3, H, W], float in 0…255 → their local features. Only a system with a match loss has them."""
        raise NotImplementedError(f"{self.system} has no local features")

    def eligible(self, strengths: Tensor, images: Tensor) -> Tensor:
        """Which positions of a map [B, h, w] may be local features of images [B, 3, H, W]: bool [h, w]."""
        return self.backbone.inside(strengths, images, self.local_stride)

    @abstractmethod
    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """What whitening is learned from.

        Args:
            image: RGB [1, 3, H, W], float in 0…255.
            most: samples, at most.
        """

    def calibration_samples(self, image: Tensor) -> Tensor:
        """What the ``calibrated`` part is given of an RGB image [1, 3, H, W], float in 0…255: features [n, C']."""
        raise NotImplementedError(f"{self.system} calibrates nothing")

    def start_from(self, moments: Moments) -> None:
        """Sets the ``calibrated`` part to what suits features of these moments, before the first step."""
        raise NotImplementedError(f"{self.system} calibrates nothing")

    @abstractmethod
    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        """The groups of Adam, the backbone's first.

        Args:
            new_module_factor: how many times faster than the backbone new modules learn.

        Returns:
            for each group its ``params``, the ``factor`` of its learning rate, and other options of Adam.
        """

    @abstractmethod
    def extractor(self, extraction: ExtractionConfig) -> Extractor:
        """What describes whole photos with this network; it shares the weights."""

    @property
    def local_stride(self) -> int:
        """Pixels between neighbouring positions of the map of local features."""
        return self.backbone.stride

    def number_of_features(self, extraction: ExtractionConfig) -> int:
        """K, of a system with local features. Raises UsageError if there is none."""
        if extraction.features is None:
            raise UsageError(f"--features: {self.system} needs a number of local features")
        return extraction.features

    @abstractmethod
    def first_stage(self, codebook: Codebook | None, asmk: AsmkParameters | None) -> FirstStage:
        """What searches with the extractor's features.

        Args:
            codebook: of ASMK; None for another method.
            asmk: parameters of ASMK; None for another method.
        """

    def folded(self, precision: str) -> Self:
        """A copy for inference that computes the same, with constants in place of what is constant by then.

        Args:
            precision: of the backbone: ``fp32``, ``fp16``, or ``int8`` for one that is quantised later. The head stays
                in float32, because whitening amplifies rounding errors.
        """
        folded = copy.deepcopy(self).eval()
        if precision == "fp16":
            folded.backbone.half()
        return folded


def at_least(minimum: int, **values: float) -> None:
    """Raises UsageError, in the words of the command line, if a value is below the minimum, or no number."""
    for name, value in values.items():
        if not value >= minimum:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {minimum}")


def at_most(maximum: int, **values: float) -> None:
    """Raises UsageError, in the words of the command line, if a value is above the maximum, or no number."""
    for name, value in values.items():
        if not value <= maximum:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at most {maximum}")


def a_seed(**values: int) -> None:
    """Raises UsageError, in the words of the command line, if a value is no seed of PyTorch's."""
    at_least(0, **values)
    for name, value in values.items():
        if value >= 2**63:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be below 2^63")


def in_pixels(**values: int) -> None:
    """Raises UsageError, in the words of the command line, if a side is one that image pyramids cannot work on."""
    for name, value in values.items():
        if not MIN_IMAGE_SIZE <= value <= MAX_IMAGE_SIZE:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} {value}: must lie between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE} pixels")


def above_zero(**values: float) -> None:
    """Raises UsageError, in the words of the command line, if a value is not a finite number above 0."""
    for name, value in values.items():
        if not 0 < value <= sys.float_info.max:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be above 0")


def of_declared_types(config: Any) -> None:
    """Raises UsageError, in the words of the command line, if a dataclass holds a value of another type than declared.

    The command line converts what a user types. The values of a file have passed no such check.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if not _is_of(value, hint):
            flag = f"--{field.name.replace('_', '-')}"
            raise UsageError(f"{flag} {value!a}: must be {_in_words(hint)}")


def _is_of(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is UnionType:
        return any(_is_of(value, choice) for choice in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(part, arguments[0]) for part in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is UnionType:
        return " or ".join(map(_in_words, arguments))
    return "numbers" if origin is tuple else KINDS[hint]
