"""DELF (Noh, Araujo, Sim, Weyand, Han, ICCV 2017): local descriptors that a learned attention chooses, for ASMK.

backbone → L2 → PCA → L2 are the descriptors; attention, of the same features, says how strong each is. The K strongest
of an image pyramid are kept.

The authors train by classification, in two stages: the whole network without attention, then attention alone, through
the sum of the features that it weights. Here both are learned at once, from the tuples that train the other systems:
the sum of the descriptors, weighted by attention, is the global descriptor of the contrastive loss, and attention is
the strength by which the match loss selects. As in the second stage, the backbone has no gradient from attention: it
learns what descriptors need.
"""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from train.models.attention import AttentionHead
from train.models.base import FeatureMap
from train.models.graph import MAX_NODES
from train.models.local_model import LocalConfig, MapModel
from train.models.whitening import Whitening


class DelfNetwork(MapModel):
    """One image at one scale → its map of local descriptors.

    Descriptors have 128 dimensions unless the user says otherwise. The paper takes 40, as floating-point numbers that a
    nearest-neighbour search compares. ASMK keeps one bit of each, and its similarity has as many steps as there are
    bits; the authors' results with ASMK are of 128, too.
    """

    system = "delf"
    summary = "local descriptors for ASMK, chosen by a learned attention"
    Config = LocalConfig
    parts: ClassVar = {"backbone": ("backbone",), "attention": ("backbone",), "whitening": ("dimensions",)}
    config: LocalConfig

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self.attention = AttentionHead(self.backbone.channels)
        self.whitening = Whitening(self.backbone.channels, config.dimensions)

    def forward(self, images: Tensor, positions_at_most: int = MAX_NODES) -> FeatureMap:
        features, strengths = self.unwhitened(images)
        return FeatureMap(F.normalize(self.whitening(features), dim=1, eps=1e-6), strengths)

    def unwhitened(self, images: Tensor) -> FeatureMap:
        """L2-normalised features, and the attention of the features as they were."""
        features = self.backbone(images)
        return FeatureMap(F.normalize(features, dim=1, eps=1e-6), self.attention(features.detach()))

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.backbone.parameters()), "factor": 1.0},
            {"params": list(self.attention.parameters()), "factor": new_module_factor},
        ]
