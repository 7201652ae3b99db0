"""DELG (Cao, Araujo, Sim, ECCV 2020): one network that gives a global descriptor and local ones.

    backbone ─▶ GeM ─▶ L2 ─▶ whitening ─▶ L2                            the global descriptor, searched first
       └─ map of stride 16, gradient stopped ─▶ autoencoder ─▶ L2       local descriptors, for re-ranking
                                                     └─▶ attention      of the reconstruction: how strong each is

The paper classifies both by landmark. Here both are compared with the other photos of a tuple, as the other systems
are: the global descriptors, and the sums of the local map that attention weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.engine.schema import GLOBAL_OUTPUTS, LOCAL_OUTPUTS
from runtime.errors import UsageError
from train.backbones import Backbone, build_backbone
from train.backbones.base import Section, split_signs
from train.losses import contrastive_loss
from train.models.attention import AttentionHead
from train.models.base import ExtractionConfig, FeatureMap, at_least
from train.models.extractor import LocalExtractor, planes, resize
from train.models.gem import GemConfig, GemNetwork
from train.models.global_model import normalised
from train.models.whitening import Moments, pca_whitening

LOCAL_STRIDE = 16  # of the local map: the paper's is that of ResNet's third stage
GLOBAL_SCALES = 3  # as many of the pyramid's scales, those nearest to 1, as the authors take for the global descriptor
RECONSTRUCTION_WEIGHT = 10.0  # λ of the paper; that of attention is 1
ATTENTION_MARGIN = 0.85  # of unwhitened vectors, which lie closer together than whitened ones (cirtorch)


@dataclass(frozen=True)
class DelgConfig(GemConfig):
    """A backbone with GeM pooling and whitening, and local descriptors of its map of stride 16.

    Attributes:
        exponent: p of the pooling, which stays: 3 in the paper; EfficientNet-Lite does better with 1.
        local_dimensions: of a local descriptor.

    Raises:
        UsageError: a value is out of range.
    """

    local_dimensions: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, local_dimensions=self.local_dimensions)

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        config = super().for_training(backbone, image_size)
        channels = local_channels(local_section(build_backbone(config.backbone)))
        return replace(config, local_dimensions=min(config.local_dimensions, channels))


class Autoencoder(nn.Module):
    """A 1×1 convolution C → D, linear, whose output is the descriptor, and one D → C with ReLU (DELG, §3.2).

    Training starts from the PCA of photos' features, the best linear autoencoder (``start_from``): from random weights
    descriptors could not be matched, and attention would see little of the features.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(channels, dimensions, 1)
        self.decoder = nn.Conv2d(dimensions, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] → descriptors [B, D, h, w], and the features as they can be told from them, [B, C, h, w]."""
        descriptors = self.encoder(features)
        return descriptors, F.relu(self.decoder(descriptors))

    @torch.no_grad()
    def start_from(self, moments: Moments) -> None:
        """The D leading directions of features of these moments, around their mean, and the way back."""
        mean, directions = (
            torch.from_numpy(part).to(self.encoder.weight)
            for part in pca_whitening(moments, self.encoder.out_channels, shrinkage=0)
        )
        self.encoder.weight.copy_(directions[:, :, None, None])
        self.encoder.bias.copy_(-directions @ mean)  # type: ignore[union-attr]
        self.decoder.weight.copy_(directions.T[:, :, None, None])
        self.decoder.bias.copy_(mean)  # type: ignore[union-attr]


def delg_loss(photos: Sequence[tuple[Tensor, ...]], margin: float) -> Tensor:
    """The contrastive loss of both descriptors + 10 · the mean squared error of the reconstruction (DELG, §3.3).

    The paper has a classification loss in place of each contrastive one (ArcFace, and cross-entropy for attention).

    Args:
        photos: of a query, a positive and negatives the global descriptor [D], the sum of the local map, weighted by
            attention, [C], and the mean square error of the reconstruction.
        margin: of the global descriptors.

    Returns:
        a scalar: the sum over the tuple.
    """
    whole, attended, errors = (torch.stack(part) for part in zip(*photos, strict=True))
    of_global, of_attention = (
        contrastive_loss(vectors[0], vectors[1], vectors[2:], apart)
        for vectors, apart in ((whole, margin), (attended, ATTENTION_MARGIN))
    )
    return of_global + RECONSTRUCTION_WEIGHT * errors.mean() + of_attention


class DelgNetwork(GemNetwork):
    """One image at one scale → its global descriptor, and its map of local descriptors."""

    system = "delg"
    summary = "one global descriptor, and local ones for re-ranking"
    Config = DelgConfig
    has_local_features = True
    has_activations = False
    losses = ("delg",)
    own_losses: ClassVar = {"delg": delg_loss}
    parts: ClassVar = {
        **GemNetwork.parts,
        "autoencoder": ("backbone", "local_dimensions"),
        "attention": ("backbone", "local_dimensions"),
    }
    calibrated = "autoencoder"
    config: DelgConfig

    def __init__(self, config: DelgConfig) -> None:
        """Builds the network. Raises UsageError if the local map has fewer channels than its descriptors dimensions."""
        super().__init__(config)
        section = local_section(self.backbone)
        channels = local_channels(section)
        if config.local_dimensions > channels:
            raise UsageError(
                f"--local-dimensions {config.local_dimensions}: the local map of {config.backbone} has {channels} "
                f"channels, no more"
            )
        self.section, self._stride, self._is_signed = section.name, section.stride, section.is_signed
        self.autoencoder = Autoencoder(channels, config.local_dimensions)
        self.attention = AttentionHead(channels)
        self.pooling.requires_grad_(False)  # p is fixed, as in the paper

    @property
    def local_stride(self) -> int:
        return self._stride

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB images [B, 3, H, W], float in 0…255 → the map that is pooled, [B, C, h, w], and the local one.

        The local map [B, C', h', w'] is ≥ 0 and has no gradient: neither attention nor the reconstruction changes the
        backbone, which learns from the global descriptor alone.
        """
        features, local = self.backbone(images, beside=self.section)
        return features, (split_signs(local) if self._is_signed else local).detach()

    def local_features(self, local: Tensor) -> FeatureMap:
        """The local map → descriptors, L2-normalised, and the attention that chooses among them."""
        descriptors, reconstruction = self.autoencoder(local)
        return FeatureMap(normalised(descriptors), self.attention(reconstruction))

    def compared(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``delg_loss`` compares: global descriptors, sums weighted by attention, errors of the reconstruction."""
        features, local = self.maps(images)
        _, reconstruction = self.autoencoder(local)
        attended = (self.attention(reconstruction).unsqueeze(1) * normalised(local)).sum(dim=(2, 3))
        errors = (local - reconstruction).square().mean(dim=(1, 2, 3))
        return self.whitened(self.pooled_map(features)), normalised(attended), errors

    def calibration_samples(self, image: Tensor) -> Tensor:
        """The local map, position by position."""
        return self.maps(image)[1][0].flatten(1).T

    def start_from(self, moments: Moments) -> None:
        self.autoencoder.start_from(moments)

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        new = [*self.autoencoder.parameters(), *self.attention.parameters()]
        backbone, *_ = super().parameter_groups(new_module_factor)  # p does not learn
        return [backbone, {"params": new, "factor": new_module_factor}]

    @classmethod
    def extraction_defaults(cls, extraction: ExtractionConfig) -> ExtractionConfig:
        return extraction

    def extractor(self, extraction: ExtractionConfig) -> "DelgExtractor":
        return DelgExtractor(self, extraction)


class DelgExtractor(LocalExtractor):
    """RGB image → the K strongest of its local features, and its global descriptor, float32 [G]; of one pass.

    Attributes:
        global_scales: of the pyramid, those whose global descriptors are averaged.
    """

    outputs = (*LOCAL_OUTPUTS, *GLOBAL_OUTPUTS)
    network: DelgNetwork

    def __init__(self, network: DelgNetwork, extraction: ExtractionConfig) -> None:
        super().__init__(network, extraction.scales, network.number_of_features(extraction))
        self.global_scales = nearest_to_one(self.scales)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Image, uint8 [H, W, 3] → the outputs of ``LocalExtractor``, and the global descriptor."""
        pixels, levels, vectors = planes(image), [], []
        for scale in self.scales:
            resized = resize(pixels, scale, self.network.backbone.alignment)
            features, local = self.network.maps(resized)
            levels.append(self.of_level(self.network.local_features(local), resized, pixels, scale))
            if scale in self.global_scales:
                vectors.append(self.network.pooled_map(features))
        return (*self.strongest(levels), self.network.of_pooled(vectors))


def local_section(backbone: Backbone) -> Section:
    """The layers whose map local features are taken of: the last of stride 16, or all, of a backbone without such."""
    sections = backbone.sections()
    return ([section for section in sections if section.stride <= LOCAL_STRIDE] or [*sections])[-1]


def local_channels(section: Section) -> int:
    """The channels of its map once it is ≥ 0."""
    return section.channels * (2 if section.is_signed else 1)


def nearest_to_one(scales: Sequence[Fraction]) -> list[Fraction]:
    """At most three scales, those nearest to 1 by their ratio: of the paper's seven, √½, 1 and √2."""
    return sorted(scales, key=lambda scale: max(scale, 1 / scale))[:GLOBAL_SCALES]
