"""HOW (Tolias, Jenicek, Chum, ECCV 2020) with the two refinements of Seo & Han 2024: local descriptors for ASMK.

backbone → attention → graph → smoothing → whitening. The graph comes before smoothing. It compares positions as the
backbone describes them, and the filter smooths what the graph left (docs/experiments.md compares both orders).
Self-attention can take the graph's place.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from runtime.errors import UsageError
from train.backbones import build_backbone
from train.models.base import ExtractionConfig, FeatureMap, at_least, at_most
from train.models.extractor import exact, scaled_side
from train.models.graph import MAX_NODES, GraphRefinement, nodes_covering
from train.models.local_model import LocalConfig, MapModel, attention
from train.models.self_attention import HEADS, SelfAttentionRefinement
from train.models.smoothing import SharedSmoothing, build_smoothing
from train.models.whitening import Whitening

MAX_BLOCKS, MAX_WIDTH = 16, 1024  # of the graph, far beyond what it gains from


@dataclass(frozen=True)
class HowConfig(LocalConfig):
    """HOW's network and its refinements.

    Attributes:
        smoothing: average (HOW), learned (the filter of Seo & Han 2024) or none.
        kernel: side of the smoothing window.
        bandwidth: of learned smoothing: one per position, or one shared by the whole map.
        refine: the strongest positions: by none, by the graph of Seo & Han 2024, or by self-attention in its place.
        graph_nodes: N, the positions that the graph or self-attention refines; by default the whole map at training
            size.
        graph_neighbours: k, the edges of a node of the graph.
        graph_blocks: stacked graph convolutions, or blocks of self-attention.
        graph_width: channels of their hidden states.

    Raises:
        UsageError: a value is out of range, or two do not go together.
    """

    smoothing: Literal["average", "learned", "none"] = "average"
    kernel: Literal[3, 5, 7] = 3
    bandwidth: Literal["per-position", "shared"] = "per-position"
    refine: Literal["none", "graph", "self-attention"] = "none"
    graph_nodes: int = 1024
    graph_neighbours: int = 8
    graph_blocks: int = 2
    graph_width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            graph_nodes=self.graph_nodes,
            graph_neighbours=self.graph_neighbours,
            graph_blocks=self.graph_blocks,
            graph_width=self.graph_width,
        )
        at_most(MAX_BLOCKS, graph_blocks=self.graph_blocks)
        at_most(MAX_WIDTH, graph_width=self.graph_width)
        if self.graph_nodes > MAX_NODES:
            raise UsageError(f"--graph-nodes {self.graph_nodes}: at most {MAX_NODES}, the limit of TensorRT's TopK")
        if self.refine == "self-attention" and self.graph_width % HEADS:
            raise UsageError(f"--graph-width {self.graph_width}: self-attention needs a multiple of its {HEADS} heads")
        if self.refine == "graph" and self.graph_neighbours >= self.graph_nodes:
            raise UsageError(
                f"--graph-neighbours {self.graph_neighbours} needs more than {self.graph_nodes} nodes: lower it, or "
                f"raise --graph-nodes or --image-size"
            )

    @classmethod
    def of_file(cls, settings: dict[str, Any]) -> Self:
        """Also of a file in which the graph was a setting of its own, true or false."""
        if "graph" in settings:
            others = {name: value for name, value in settings.items() if name != "graph"}
            settings = {**others, "refine": {True: "graph", False: "none"}[settings["graph"]]}
        return super().of_file(settings)

    @classmethod
    def for_training(cls, backbone: str | None, image_size: int) -> Self:
        config = super().for_training(backbone, image_size)
        return replace(config, graph_nodes=nodes_covering(image_size, build_backbone(config.backbone).stride))

    def without_effect(self) -> dict[str, str]:
        settings: dict[str, str] = {}
        if self.refine == "none":
            shared = ("graph_nodes", "graph_blocks", "graph_width")
            settings |= dict.fromkeys(shared, "--refine graph or self-attention")
        if self.refine != "graph":
            settings["graph_neighbours"] = "--refine graph"
        if self.smoothing != "learned":
            settings["bandwidth"] = "--smoothing learned"
        if self.smoothing == "none":
            settings["kernel"] = "--smoothing average or learned"
        return settings

    def fitted_to(self, extraction: ExtractionConfig, graph_nodes: int | None = None) -> Self:
        """As many nodes as are asked for, or as the largest level has positions.

        Nodes have no weights of their own. A graph that knew whole maps in training would else refine a part of them.
        A network without nodes stays as it is, and so does the fingerprint of its engines.
        """
        if self.refine == "none":
            return super().fitted_to(extraction, graph_nodes)
        if graph_nodes is None:
            largest = scaled_side(extraction.image_size, exact(max(extraction.scales)))
            covering = nodes_covering(largest, build_backbone(self.backbone).stride)
            return replace(self, graph_nodes=max(self.graph_nodes, covering))
        return replace(self, graph_nodes=graph_nodes)


class HowNetwork(MapModel):
    """One image at one scale → its map of local descriptors."""

    system = "how"
    summary = "local descriptors for ASMK"
    Config = HowConfig
    parts: ClassVar = {
        "backbone": ("backbone",),
        "graph": ("refine", "graph_blocks", "graph_width"),
        "self_attention": ("refine", "graph_blocks", "graph_width"),
        "smoothing": ("smoothing", "kernel", "bandwidth"),
        "whitening": ("dimensions",),
    }
    config: HowConfig

    def __init__(self, config: HowConfig) -> None:
        super().__init__(config)
        channels = self.backbone.channels
        self.smoothing = build_smoothing(config.smoothing, channels, config.kernel, config.bandwidth)
        self.graph = (
            GraphRefinement(
                channels, config.graph_nodes, config.graph_neighbours, config.graph_blocks, config.graph_width
            )
            if config.refine == "graph"
            else None
        )
        self.self_attention = (
            SelfAttentionRefinement(channels, config.graph_nodes, config.graph_blocks, config.graph_width)
            if config.refine == "self-attention"
            else None
        )
        self.whitening = Whitening(channels, config.dimensions)

    def forward(self, images: Tensor, positions_at_most: int = MAX_NODES) -> FeatureMap:
        features, strengths = self.refined_features(images, positions_at_most)
        return FeatureMap(self.whitening(features), strengths)

    def refined_features(self, images: Tensor, positions_at_most: int = MAX_NODES) -> tuple[Tensor, Tensor]:
        """What whitening is given: features [B, C, h, w] and their attention [B, h, w].

        The attention is that of the raw backbone features, as in HOW, and re-weighted if positions are refined.
        """
        features = self.backbone(images)
        strengths = attention(features)
        for refinement in (self.graph, self.self_attention):
            if refinement is not None:
                features, strengths = refinement(features, strengths, positions_at_most)
        return self.smoothing(features), strengths

    def unwhitened(self, images: Tensor) -> FeatureMap:
        return FeatureMap(*self.refined_features(images, self._positions_of(images)))

    def feature_maps(self, images: Tensor) -> FeatureMap:
        return self(images, self._positions_of(images))

    def _positions_of(self, images: Tensor) -> int:
        """How many the map has: photos that are trained on may be far smaller than the graph is for."""
        height, width = (-(-side // self.backbone.stride) for side in images.shape[-2:])
        return height * width

    def new_modules(self) -> list[nn.Module]:
        """The modules that start untrained and so learn faster than the backbone."""
        return [module for module in (self.smoothing, self.graph, self.self_attention) if module is not None]

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        new = [parameter for module in self.new_modules() for parameter in module.parameters()]
        return [
            {"params": list(self.backbone.parameters()), "factor": 1.0},
            {"params": new, "factor": new_module_factor},
        ]

    def folded(self, precision: str) -> Self:
        folded = super().folded(precision)
        if isinstance(folded.smoothing, SharedSmoothing):
            folded.smoothing = folded.smoothing.folded()
        return folded
