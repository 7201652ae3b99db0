"""The network: HOW (Tolias, Jenicek, Chum, ECCV 2020) with the deck's two refinements.

backbone → attention → graph → smoothing → whitening. The graph comes before smoothing, so that it compares positions as
they are, and the filter smooths what the graph left (docs/experiments.md has both orders).
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from train.backbones import build_backbone
from train.models.attention import attention
from train.models.graph import MAX_NODES, GraphRefinement
from train.models.smoothing import build_smoothing
from train.models.whitening import Whitening


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is made of: with its weights, all that is needed to build it again.

    Attributes:
        backbone: a name in ``train.backbones.BUILDERS``.
        smoothing: ``average`` (HOW), ``learned`` (the deck's filter) or ``none``.
        kernel: side of the smoothing window: 3, 5 or 7.
        bandwidth: of learned smoothing: ``per-position``, or ``shared`` by the whole map.
        graph: whether the graph refines the strongest positions.
        graph_nodes: N, the positions that it refines; it covers the whole map at training size.
        graph_neighbours: k, the edges of a node.
        graph_blocks: stacked graph convolutions.
        graph_width: channels of their hidden states.
        dimensions: D of a descriptor.
    """

    backbone: str = "efficientnet_lite0"
    smoothing: str = "average"
    kernel: int = 3
    bandwidth: str = "per-position"
    graph: bool = False
    graph_nodes: int = 1024
    graph_neighbours: int = 8
    graph_blocks: int = 2
    graph_width: int = 128
    dimensions: int = 128

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class LocalFeatures(NamedTuple):
    """A map of local descriptors [B, D, h, w] and of their attention [B, h, w]."""

    descriptors: Tensor
    strengths: Tensor


class Network(nn.Module):
    """One image at one scale → its map of local descriptors."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        channels = self.backbone.channels
        self.smoothing = build_smoothing(config.smoothing, channels, config.kernel, config.bandwidth)
        self.graph = (
            GraphRefinement(
                channels, config.graph_nodes, config.graph_neighbours, config.graph_blocks, config.graph_width
            )
            if config.graph
            else None
        )
        self.whitening = Whitening(channels, config.dimensions)

    def forward(self, image: Tensor, positions_at_most: int = MAX_NODES) -> LocalFeatures:
        """RGB image [B, 3, H, W], float in 0…255 → local features.

        ``positions_at_most``, where known, bounds those of the map: the graph then has no more nodes.
        """
        features, strengths = self.refined_features(image, positions_at_most)
        return LocalFeatures(self.whitening(features), strengths)

    def refined_features(self, image: Tensor, positions_at_most: int = MAX_NODES) -> tuple[Tensor, Tensor]:
        """What whitening is given: features [B, C, h, w], and attention [B, h, w]: that of the raw backbone features,
        as HOW takes it, re-weighted where there is a graph."""
        features = self.backbone(image)
        strengths = attention(features)
        if self.graph is not None:
            features, strengths = self.graph(features, strengths, positions_at_most)
        return self.smoothing(features), strengths

    def new_modules(self) -> list[nn.Module]:
        """The modules that start untrained and so learn faster than the backbone."""
        return [module for module in (self.smoothing, self.graph) if module is not None]


def global_descriptor(local: LocalFeatures) -> Tensor:
    """HOW's training descriptor (eq. 7): Σ attention × descriptor over the map, L2-normalised: [B, D]."""
    total = (local.strengths.unsqueeze(1) * local.descriptors).sum(dim=(2, 3))
    return F.normalize(total, dim=1, eps=1e-6)
