"""What the systems with one global descriptor a photo share: whitening, the image pyramid, and search by vectors.

backbone → pooling → L2 → whitening → L2. A photo's descriptor is the mean over the scales of an image pyramid,
normalised again.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.engine.schema import GLOBAL_OUTPUTS
from runtime.first_stage import VECTORS
from runtime.vectors import InnerProduct
from train.backbones import build_backbone
from train.models.base import ExtractionConfig, Extractor, ModelConfig, RetrievalModel, WhiteningSamples
from train.models.extractor import exact, planes, resize
from train.models.whitening import Whitening

SCALES = (1.0, 0.707, 0.5)
EPSILON = 1e-6  # of a norm


@dataclass(frozen=True)
class GlobalConfig(ModelConfig):
    """A backbone with pooling and whitening.

    Attributes:
        backbone: resnet18, resnet18_stride16, resnet50, resnet50_unit, resnet50_stride32, resnet101_stride32,
            resnet152_stride32, efficientnet_lite0, efficientnet_lite0_stride32, efficientnet_lite1 or
            efficientnet_lite2.
        dimensions: D, of the global descriptor.
        pyramid: what is averaged over the scales: whitened vectors, or pooled ones, whose average is whitened, as suits
            whitening that was learned from such averages after training.

    Raises:
        UsageError: a value is out of range.
    """

    backbone: str = "efficientnet_lite0_stride32"
    dimensions: int = 512
    pyramid: Literal["whitened", "pooled"] = "whitened"

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        config = super().for_training(backbone, image_size)
        return replace(config, dimensions=min(config.dimensions, build_backbone(config.backbone).channels))


class GlobalModel(RetrievalModel):
    """One image at one scale → its global descriptor. A subclass says how a map is pooled."""

    method = VECTORS
    has_local_features = False
    losses: ClassVar[tuple[str, ...]] = ("contrastive", "ap")
    whitenings: ClassVar[tuple[Literal["views", "pairs", "pca"], ...]] = ("pca", "pairs")
    keeps_whitening = False  # of whole photos: 12 steps of the backbone beneath it cost 20 points of mAP
    margin = 1.25  # 0.85 without whitening, which moves photos apart; it then pushes hardly any negative
    shrinkage = 0.5  # whitening in full overfits the about 1,000 photos that a folder may have
    config: GlobalConfig

    def __init__(self, config: GlobalConfig) -> None:
        super().__init__(config)
        self.whitening = Whitening(self.backbone.channels, config.dimensions)

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W], float in 0…255 → what whitening is given: L2-normalised, [B, C, 1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W], float in 0…255 → L2-normalised descriptors [B, D]."""
        return self.whitened(self.pooled(images))

    def whitened(self, pooled: Tensor) -> Tensor:
        """[B, C, 1, 1] → L2-normalised descriptors [B, D]."""
        return normalised(self.whitening(pooled)).flatten(1)

    def averaged(self, pooled: Tensor) -> Tensor:
        """What ``pooled`` gives of the levels of a photo's pyramid, [levels, C, 1, 1] → of the photo, [1, C, 1, 1]."""
        return normalised(pooled.mean(dim=0, keepdim=True))

    def of_pyramid(self, levels: Sequence[Tensor]) -> Tensor:
        """The levels of a photo's pyramid, each [1, 3, ?, ?] → its descriptor [D], L2-normalised."""
        if self.config.pyramid == "pooled":
            return self.of_pooled([self.pooled(level) for level in levels])
        return mean_descriptor([self(level) for level in levels])

    def of_pooled(self, levels: Sequence[Tensor]) -> Tensor:
        """What whitening is given of the levels of a photo's pyramid, each [1, C, 1, 1] → its descriptor [D]."""
        if self.config.pyramid == "pooled":
            return self.whitened(self.averaged(torch.cat(list(levels))))[0]
        return mean_descriptor([self.whitened(level) for level in levels])

    def describe(self, images: Tensor) -> Tensor:
        return self(images)

    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """The pooled vector."""
        return WhiteningSamples(self.pooled(image).flatten(1), None)

    @classmethod
    def extraction_defaults(cls, extraction: ExtractionConfig) -> ExtractionConfig:
        return replace(extraction, scales=SCALES, features=None)

    def extractor(self, extraction: ExtractionConfig) -> Extractor:
        return GlobalExtractor(self, extraction)

    def first_stage(self, codebook: Codebook | None, asmk: AsmkParameters | None) -> InnerProduct:
        return InnerProduct(self.config.dimensions)


class GlobalExtractor(Extractor):
    """RGB image → its global descriptor, float32 [D]."""

    outputs: tuple[str, ...] = GLOBAL_OUTPUTS

    def __init__(self, network: GlobalModel, extraction: ExtractionConfig) -> None:
        super().__init__()
        self.network = network
        self.scales = [exact(scale) for scale in extraction.scales]

    def forward(self, image: Tensor) -> tuple[Tensor]:
        pixels, alignment = planes(image), self.network.backbone.alignment
        return (self.network.of_pyramid([resize(pixels, scale, alignment) for scale in self.scales]),)


def mean_descriptor(levels: Sequence[Tensor]) -> Tensor:
    """The descriptors of the levels of a photo's pyramid, each [1, D] → its descriptor [D], L2-normalised."""
    return normalised(torch.cat(list(levels)).mean(dim=0, keepdim=True))[0]


def normalised(vectors: Tensor) -> Tensor:
    """L2-normalised along axis 1."""
    return F.normalize(vectors, dim=1, eps=EPSILON)
