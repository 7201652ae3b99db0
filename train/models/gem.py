"""GeM (Radenović, Tolias, Chum, TPAMI 2018): one global descriptor of a photo, searched by inner products.

backbone → generalised-mean pooling → L2 → whitening → L2. A photo's descriptor is the mean over the scales of an image
pyramid, normalised again. AP-GeM (Revaud, Almazán, Rezende, de Souza, ICCV 2019) has a linear layer before whitening,
and is trained by ``--loss ap``.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from runtime.engine.schema import ACTIVATION_OUTPUTS, GLOBAL_OUTPUTS
from train.backbones import build_backbone
from train.backbones.efficientnet_lite import EfficientNetLite
from train.models.base import ExtractionConfig, Extractor, above_zero, at_most
from train.models.extractor import planes, resize
from train.models.global_model import GlobalConfig, GlobalExtractor, GlobalModel, normalised

MAX_EXPONENT = 100  # which is the maximum, as good as
MIN_ACTIVATION = 1e-6  # the gradient of p needs a logarithm, and 0 has none


@dataclass(frozen=True)
class GemConfig(GlobalConfig):
    """A backbone with GeM pooling and whitening.

    Attributes:
        exponent: p of the pooling before the first step: 3 in the paper; EfficientNet-Lite does better from 1.
        layer: a linear layer and L2 before whitening, as AP-GeM has them: of what was pooled, or of that normalised.

    Raises:
        UsageError: a value is out of range.
    """

    exponent: float = 3.0
    layer: Literal["none", "pooled", "normalised"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(exponent=self.exponent)
        at_most(MAX_EXPONENT, exponent=self.exponent)

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        config = super().for_training(backbone, image_size)
        is_lite = isinstance(build_backbone(config.backbone), EfficientNetLite)
        return replace(config, exponent=1.0) if is_lite else config


class GemPooling(nn.Module):
    """f_c = (mean over positions of max(x, 1e-6)^p)^(1/p): p = 1 is the average, p → ∞ the maximum. p is learned."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(exponent))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] → [B, C, 1, 1]."""
        return generalised_mean(features, self.p, (2, 3))


class GemNetwork(GlobalModel):
    """One image at one scale → its global descriptor."""

    system = "gem"
    summary = "one global descriptor"
    Config = GemConfig
    has_activations = True
    parts: ClassVar = {
        "backbone": ("backbone",),
        "pooling": (),
        "layer": ("layer", "backbone"),
        "whitening": ("dimensions",),
    }
    config: GemConfig

    def __init__(self, config: GemConfig) -> None:
        super().__init__(config)
        self.pooling = GemPooling(config.exponent)
        self.layer = None if config.layer == "none" else identity_layer(self.backbone.channels)

    def features(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, H, W], float in 0…255 → the map that is pooled, [B, C, h, w]."""
        return self.backbone(images)

    def pooled(self, images: Tensor) -> Tensor:
        return self.pooled_map(self.features(images))

    def pooled_map(self, features: Tensor) -> Tensor:
        """The map of images, [B, C, h, w] → L2-normalised vectors [B, C, 1, 1]."""
        pooled = self.pooling(features)
        if self.layer is None:
            return normalised(pooled)
        return normalised(self.layer(pooled if self.config.layer == "pooled" else normalised(pooled)))

    def averaged(self, pooled: Tensor) -> Tensor:
        """The generalised mean over the levels, by the p of the pooling (TPAMI 2018, multi-scale)."""
        return normalised(generalised_mean(pooled, self.pooling.p, (0,)))

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        """The exponent p learns faster, and without weight decay, which would pull it to 0."""
        layer = [] if self.layer is None else list(self.layer.parameters())
        return [
            {"params": [*self.backbone.parameters(), *layer], "factor": 1.0},
            {"params": list(self.pooling.parameters()), "factor": new_module_factor, "weight_decay": 0.0},
        ]

    def extractor(self, extraction: ExtractionConfig) -> Extractor:
        return ActivationExtractor(self, extraction) if extraction.activations else super().extractor(extraction)


class ActivationExtractor(GlobalExtractor):
    """RGB image → its global descriptor, float32 [D], and the map that one level of it is pooled of, [C, h, w]."""

    outputs = (*GLOBAL_OUTPUTS, *ACTIVATION_OUTPUTS)
    network: GemNetwork

    def __init__(self, network: GemNetwork, extraction: ExtractionConfig) -> None:
        super().__init__(network, extraction)
        self.level = min(range(len(self.scales)), key=lambda i: max(self.scales[i], 1 / self.scales[i]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        pixels, alignment = planes(image), self.network.backbone.alignment
        maps = [self.network.features(resize(pixels, scale, alignment)) for scale in self.scales]
        return self.network.of_pooled([self.network.pooled_map(each) for each in maps]), maps[self.level][0]


def identity_layer(channels: int) -> nn.Conv2d:
    """A linear layer, as a 1×1 convolution, that changes nothing before it has learned."""
    layer = nn.Conv2d(channels, channels, 1)
    nn.init.dirac_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def generalised_mean(values: Tensor, p: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(mean over the axes of max(x, 1e-6)^p)^(1/p); the axes stay, with length 1."""
    return values.clamp(min=MIN_ACTIVATION).pow(p).mean(dim=axes, keepdim=True).pow(1 / p)
