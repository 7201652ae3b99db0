"""What the systems with local descriptors for ASMK share: how they are trained, whitened, extracted and searched.

Of a photo's pyramid, the K strongest descriptors are kept. In most systems they are those of positions of a map
(``MapModel``).
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.errors import UsageError
from runtime.first_stage import ASMK
from train.models.base import ExtractionConfig, FeatureMap, ModelConfig, RetrievalModel, WhiteningSamples
from train.models.extractor import LocalExtractor, cell_pixels
from train.models.graph import MAX_NODES


@dataclass(frozen=True)
class LocalConfig(ModelConfig):
    """A backbone with whitened local descriptors.

    Attributes:
        backbone: resnet18, resnet18_stride16, resnet50, resnet50_unit, efficientnet_lite0,
            efficientnet_lite0_stride32, efficientnet_lite1 or efficientnet_lite2.
        dimensions: D, of a descriptor.
        border: take positions less than a stride from the border, too, as the authors do; a good part of what they see
            is padding.

    Raises:
        UsageError: a value is out of range.
    """

    backbone: str = "efficientnet_lite0"
    dimensions: int = 128
    border: bool = False


class LocalModel(RetrievalModel):
    """One image at one scale → its local descriptors. A subclass says where they come from."""

    method = ASMK
    has_local_features = True
    config: LocalConfig

    def eligible(self, strengths: Tensor, images: Tensor) -> Tensor:
        if self.config.border:
            return torch.ones_like(strengths[0], dtype=torch.bool)
        return super().eligible(strengths, images)

    def first_stage(self, codebook: Codebook | None, asmk: AsmkParameters | None) -> AsmkKernel:
        if codebook is None or asmk is None:
            raise UsageError(f"{self.system} searches by ASMK, which needs a codebook and parameters")
        return AsmkKernel(codebook, asmk)


class MapModel(LocalModel):
    """One image at one scale → its map of local descriptors and their strengths: backbone → … → whitening."""

    losses = ("contrastive", "match")
    whitenings = ("views", "pca")
    margin = 0.8

    @abstractmethod
    def forward(self, images: Tensor, positions_at_most: int = MAX_NODES) -> FeatureMap:
        """RGB images [B, 3, H, W], float in 0…255 → local features.

        ``positions_at_most`` bounds the positions of the map, if that is known; a graph then has no more nodes.
        """

    @abstractmethod
    def unwhitened(self, images: Tensor) -> FeatureMap:
        """What whitening is given, [B, C, h, w], and the strengths: ``forward`` without the last step."""

    def feature_maps(self, images: Tensor) -> FeatureMap:
        return self(images)

    def describe(self, images: Tensor) -> Tensor:
        return global_descriptor(self.feature_maps(images))

    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """What whitening is given at the strongest positions (HOW, §4.1)."""
        features, strengths = self.unwhitened(image)
        eligible = self.eligible(strengths, image)
        chosen = (strengths[0] * eligible).flatten().topk(min(most, int(eligible.sum()))).indices
        y, x = cell_pixels(strengths, image, image, self.backbone)
        positions = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=2).flatten(0, 1)
        return WhiteningSamples(features[0].flatten(1)[:, chosen].T, positions[chosen])

    def extractor(self, extraction: ExtractionConfig) -> LocalExtractor:
        return LocalExtractor(self, extraction.scales, self.number_of_features(extraction), extraction.image_size)


def attention(features: Tensor) -> Tensor:
    """How strong a feature is (HOW, eq. 6): the L2 norm of its vector, [B, C, h, w] → [B, h, w]."""
    return (features.square().sum(dim=1) + 1e-10).sqrt()


def global_descriptor(local: FeatureMap) -> Tensor:
    """The training descriptor (HOW, eq. 7): Σ attention × descriptor over the map, L2-normalised: [B, D]."""
    total = (local.strengths.unsqueeze(1) * local.descriptors).sum(dim=(2, 3))
    return F.normalize(total, dim=1, eps=1e-6)
