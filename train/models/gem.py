"""GeM (Radenović, Tolias, Chum, TPAMI 2018): one global descriptor of a photo, searched by inner products.

backbone → generalised-mean pooling → L2 → whitening → L2. A photo's descriptor is the mean over the scales of an image
pyramid, normalised again.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.engine.schema import GLOBAL_OUTPUTS
from runtime.first_stage import VECTORS
from runtime.vectors import InnerProduct
from train.backbones import build_backbone
from train.backbones.efficientnet_lite import EfficientNetLite
from train.models.base import (
    ExtractionConfig,
    Extractor,
    ModelConfig,
    RetrievalModel,
    WhiteningSamples,
    above_zero,
    at_most,
)
from train.models.extractor import exact, resize
from train.models.whitening import Whitening

SCALES = (1.0, 0.707, 0.5)
MAX_EXPONENT = 100  # which is the maximum, as good as
MIN_ACTIVATION = 1e-6  # the gradient of p needs a logarithm, and 0 has none


@dataclass(frozen=True)
class GemConfig(ModelConfig):
    """A backbone with GeM pooling and whitening.

    Attributes:
        backbone: resnet18, resnet18_stride16, resnet50, efficientnet_lite0, efficientnet_lite0_stride32,
            efficientnet_lite1 or efficientnet_lite2.
        dimensions: D, of the global descriptor.
        exponent: p of the pooling before the first step: 3 in the paper; EfficientNet-Lite does better from 1.

    Raises:
        UsageError: a value is out of range.
    """

    backbone: str = "efficientnet_lite0_stride32"
    dimensions: int = 512
    exponent: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(exponent=self.exponent)
        at_most(MAX_EXPONENT, exponent=self.exponent)

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        config = super().for_training(backbone, image_size)
        built = build_backbone(config.backbone)
        exponent = 1.0 if isinstance(built, EfficientNetLite) else config.exponent
        return replace(config, dimensions=min(config.dimensions, built.channels), exponent=exponent)


class GemPooling(nn.Module):
    """f_c = (mean over positions of max(x, 1e-6)^p)^(1/p): p = 1 is the average, p → ∞ the maximum. p is learned."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(exponent))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → [B, C, 1, 1]."""
        return features.clamp(min=MIN_ACTIVATION).pow(self.p).mean(dim=(2, 3), keepdim=True).pow(1 / self.p)


class GemNetwork(RetrievalModel):
    """One image at one scale → its global descriptor."""

    system = "gem"
    Config = GemConfig
    method = VECTORS
    losses = ("contrastive",)
    whitenings = ("pca",)
    margin = 1.25  # 0.85 without whitening, which moves photos apart; it then pushes hardly any negative
    shrinkage = 0.5  # whitening in full overfits the about 1,000 photos that a folder may have
    parts: ClassVar = {"backbone": ("backbone",), "pooling": (), "whitening": ("dimensions",)}
    config: GemConfig

    def __init__(self, config: GemConfig) -> None:
        super().__init__(config)
        self.pooling = GemPooling(config.exponent)
        self.whitening = Whitening(self.backbone.channels, config.dimensions)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W], float in 0…255 → L2-normalised descriptors [B, D]."""
        return normalised(self.whitening(self.pooled(images))).flatten(1)

    def pooled(self, images: Tensor) -> Tensor:
        """What whitening is given: L2-normalised vectors, [B, C, 1, 1]."""
        return normalised(self.pooling(self.backbone(images)))

    def describe(self, images: Tensor) -> Tensor:
        return self(images)

    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """The pooled vector."""
        return WhiteningSamples(self.pooled(image).flatten(1), None)

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        """The exponent p learns faster and without weight decay, which would pull it to 0."""
        return [
            {"params": list(self.backbone.parameters()), "factor": 1.0},
            {"params": list(self.pooling.parameters()), "factor": new_module_factor, "weight_decay": 0.0},
        ]

    @classmethod
    def extraction_defaults(cls, extraction: ExtractionConfig) -> ExtractionConfig:
        return replace(extraction, scales=SCALES, features=None)

    def extractor(self, extraction: ExtractionConfig) -> "GemExtractor":
        return GemExtractor(self, extraction)

    def first_stage(self, codebook: Codebook | None, asmk: AsmkParameters | None) -> InnerProduct:
        return InnerProduct(self.config.dimensions)


class GemExtractor(Extractor):
    """RGB image → its global descriptor, float32 [D]: the mean over the pyramid, L2-normalised."""

    outputs = GLOBAL_OUTPUTS

    def __init__(self, network: GemNetwork, extraction: ExtractionConfig) -> None:
        super().__init__()
        self.network = network
        self.scales = [exact(scale) for scale in extraction.scales]

    def forward(self, image: Tensor) -> tuple[Tensor]:
        pixels = image.float().permute(2, 0, 1).unsqueeze(0)
        alignment = self.network.backbone.alignment
        levels = torch.cat([self.network(resize(pixels, scale, alignment)) for scale in self.scales])
        return (normalised(levels.mean(dim=0, keepdim=True))[0],)


def normalised(vectors: Tensor) -> Tensor:
    """L2-normalised along axis 1."""
    return F.normalize(vectors, dim=1, eps=1e-6)
