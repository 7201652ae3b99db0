"""Hooks: what HOW's network computes of one image at one scale, step by step, for pictures and for checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from runtime.io.image import Image
from train.models.extractor import cell_pixels, exact, resize
from train.models.graph import GraphRefinement, choose_nodes
from train.models.how import HowNetwork
from train.models.local_model import attention
from train.models.smoothing import LearnedSmoothing

NoMaps: TypeAlias = tuple[None, None]


@dataclass(frozen=True)
class GraphEdges:
    """The graph over one map, of n ≤ N nodes with k' = min(k, n − 1) edges each.

    Attributes:
        nodes: float32 [n, 2], x and y in pixels of the image, the strongest first.
        edges: int64 [n, k'], the numbers of each node's neighbours, the most similar first.
        weights: float32 [n, k'], what a neighbour's message counts; a node's sum to 1 (0 where no cosine is above 0).
        cosines: float32 [n, k'], the similarity of the two nodes' features.
    """

    nodes: NDArray[np.float32]
    edges: NDArray[np.int64]
    weights: NDArray[np.float32]
    cosines: NDArray[np.float32]


@dataclass(frozen=True)
class Inspection:
    """Maps of one image, [h, w] each; cell (row, column) lies on pixel ``x[column], y[row]`` of the image.

    Attributes:
        x: float32 [w], in pixels of the image; the centre of its top-left pixel is 0, 0.
        y: float32 [h].
        backbone_attention: float32 [h, w], HOW's attention: the L2 norm of the backbone's features.
        refined_attention: float32 [h, w], the L2 norm of the features that whitening gets, after smoothing and graph.
        strengths: float32 [h, w], the attention that the network chooses its strongest positions by.
        bandwidth: float32 [h, w], b(p) ≥ 0 of the learned smoothing, in 1/cells²: the weight of a neighbour at distance
            d cells is exp(−b·d²). None where the network predicts none.
        confidence: float32 [h, w], c(p) in [0, 1] of the learned smoothing, the weight of the position itself; or None.
        graph: the graph's nodes and edges, or None.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    backbone_attention: NDArray[np.float32]
    refined_attention: NDArray[np.float32]
    strengths: NDArray[np.float32]
    bandwidth: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None
    graph: GraphEdges | None


class Call(NamedTuple):
    """What a module of the network was given, and what it gave."""

    inputs: tuple[Tensor, ...]
    output: Tensor


@torch.inference_mode()
def inspect(network: HowNetwork, image: Image, scale: float = 1.0) -> Inspection:
    """Runs a network on one level of an image's pyramid, and records what passes between its modules.

    Args:
        network: in eval mode, on the CPU.
        image: RGB uint8 [H, W, 3].
        scale: of the level, resized as in extraction.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1).unsqueeze(0)
    resized = resize(pixels, exact(scale), network.backbone.alignment)
    with recorded_calls(network) as calls:
        strengths = network(resized).strengths
    y, x = cell_pixels(strengths, resized, pixels, network.backbone)
    bandwidth, confidence = smoothing_maps(network.smoothing, calls["smoothing"].inputs[0])
    graph = None
    if network.graph is not None:
        features, attention_map, _ = calls["graph"].inputs
        graph = graph_edges(network.graph, features, attention_map, x, y)
    return Inspection(
        x=x.numpy(),
        y=y.numpy(),
        backbone_attention=attention(calls["backbone"].output)[0].numpy(),
        refined_attention=attention(calls["whitening"].inputs[0])[0].numpy(),
        strengths=strengths[0].numpy(),
        bandwidth=bandwidth,
        confidence=confidence,
        graph=graph,
    )


@contextmanager
def recorded_calls(network: HowNetwork) -> Iterator[dict[str, Call]]:
    """The last call of each of the network's modules while the block runs it, by the module's name."""
    calls: dict[str, Call] = {}

    def record(name: str, module: nn.Module) -> RemovableHandle:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = Call(inputs, output)

        return module.register_forward_hook(keep)

    handles = [record(name, module) for name, module in network.named_children()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def smoothing_maps(smoothing: nn.Module, features: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]] | NoMaps:
    """Bandwidth and self-confidence, [h, w] each, that a smoothing predicts for features [1, C, h, w]; or two None."""
    if not isinstance(smoothing, LearnedSmoothing):
        return None, None
    return smoothing.bandwidth(features)[0, 0].numpy(), smoothing.confidence(features)[0, 0].numpy()


def graph_edges(graph: GraphRefinement, features: Tensor, strengths: Tensor, x: Tensor, y: Tensor) -> GraphEdges:
    """The graph that refines features [1, C, h, w] with their attention [1, h, w], without its padding."""
    positions, rows, is_node = choose_nodes(features, strengths, graph.nodes)
    directions, edges, weights, _ = graph.connect(positions.gather(1, rows), is_node)
    n = int(is_node.sum())
    k = min(graph.neighbours, n - 1)  # the rest are edges to padding
    edges, weights, cells = edges[0, :n, :k], weights[0, :n, :k], rows[0, :n, 0]
    cosines = (directions[0, :n, None] * directions[0, edges]).sum(dim=2)
    nodes = torch.stack((x[cells % len(x)], y[cells // len(x)]), dim=1)
    return GraphEdges(nodes.numpy(), edges.numpy(), weights.numpy(), cosines.numpy())
