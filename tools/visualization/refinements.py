"""What HOW's refinements do to a photo: the maps of learned smoothing, and the edges of the graph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from runtime.bundle import is_engine
from runtime.errors import IncompatibleError, UsageError
from runtime.io.image import shrink, to_original_pixels
from tools.visualization.canvas import (
    Photo,
    View,
    colour_bar,
    draw_dots,
    draw_lines,
    draw_map,
    limits_of,
    photo_panels,
)
from train.checkpoint import Checkpoint
from train.hooks import GraphEdges, Inspection, inspect
from train.models.how import HowConfig, HowNetwork
from train.models.smoothing import SharedSmoothing

TAIL = 1.0  # per cent of the values on either side that share the last colours: one odd position must not take them all
APART = 0.25  # of the photo's shorter side: the least between nodes that the picture chooses
WIDEST = 3.5  # points, of the line of a node's heaviest edge
LEAST_WEIGHT = 1e-6  # prevents 0/0 if no node has a similar neighbour


@dataclass(frozen=True)
class Inspected:
    """A network and what it makes of a photo; positions are in pixels of the photo as it is on the disk."""

    network: HowNetwork
    seen: Inspection


def inspect_photo(path: Path, photo: Photo, view: View) -> Inspected:
    """Runs a checkpoint's network on a photo. Raises HowlError if the checkpoint is none, or cannot be read."""
    if is_engine(path):
        raise UsageError(f"{path}: an engine cannot be looked into; name the checkpoint that it was exported from")
    checkpoint = Checkpoint.load(path)
    network = checkpoint.build_model()
    if not isinstance(network, HowNetwork):
        raise IncompatibleError(f"{path}: of the system {checkpoint.system}; this picture is of how's networks only")
    image = shrink(photo.full, view.image_size or checkpoint.extraction.image_size)
    seen = inspect(network, image, view.scale)
    height, width = image.shape[:2]
    graph = seen.graph
    if graph is not None:
        nodes = graph.nodes.copy()
        nodes[:, 0] = to_original_pixels(nodes[:, 0], photo.width, width)
        nodes[:, 1] = to_original_pixels(nodes[:, 1], photo.height, height)
        graph = replace(graph, nodes=nodes)
    x, y = to_original_pixels(seen.x, photo.width, width), to_original_pixels(seen.y, photo.height, height)
    return Inspected(network, replace(seen, x=x, y=y, graph=graph))


def refinements(config: HowConfig) -> str:
    """What a network does to its backbone's features, in words; empty for nothing."""
    smoothing = {"average": "average smoothing", "learned": "learned smoothing", "none": ""}[config.smoothing]
    return " and ".join(filter(None, ["" if config.refine == "none" else config.refine, smoothing]))


def draw_smoothing(checkpoint: Path, photo: Photo, view: View) -> Figure:
    """The self-confidence c(p) and the bandwidth b(p), each on a colour scale of its own.

    Raises:
        HowlError: the checkpoint cannot be read, or its smoothing has no maps.
    """
    inspected = inspect_photo(checkpoint, photo, view)
    seen = inspected.seen
    if seen.confidence is None or seen.bandwidth is None:
        raise IncompatibleError(f"{checkpoint}: {why_no_maps(inspected.network)}")
    figure, cells = photo_panels(photo, ["self-confidence", "bandwidth"], f"Learned smoothing: {checkpoint.name}")
    for cell, values, label in (
        (cells[0], seen.confidence, "c(p): weight of the position itself"),
        (cells[1], seen.bandwidth, "b(p): the larger, the narrower the kernel"),
    ):
        low, high = np.percentile(values, [TAIL, 100 - TAIL])
        drawn = draw_map(cell, seen.x, seen.y, values, limits_of(np.array([low, high])))
        colour_bar(figure, drawn, [cell], label, extend="both")
    return figure


def why_no_maps(network: HowNetwork) -> str:
    """What a smoothing without maps is, in one line."""
    smoothing = network.smoothing
    if isinstance(smoothing, SharedSmoothing):
        bandwidth, confidence = (float(number.detach()) for number in (smoothing.bandwidth(), smoothing.confidence()))
        return (
            f"its smoothing is two numbers for all positions, bandwidth {bandwidth:.4f} and self-confidence "
            f"{confidence:.4f}: there is no map to draw"
        )
    return f"no learned smoothing in it ({network.config.smoothing}); train with --smoothing learned"


def draw_graph(checkpoint: Path, photo: Photo, view: View, points: Sequence[tuple[float, float]], count: int) -> Figure:
    """Edges from a few nodes to their neighbours.

    Args:
        checkpoint: of a network with a graph.
        photo: to look at.
        view: how.
        points: x, y in pixels of the photo, marked by a cross; the edges of the node nearest to each are drawn.
        count: without points, how many of the strongest nodes are taken, which lie apart.

    Raises:
        HowlError: the checkpoint cannot be read or has no graph, or a point lies outside the photo.
    """
    for x, y in points:
        if not (-0.5 <= x <= photo.width - 0.5 and -0.5 <= y <= photo.height - 0.5):
            raise UsageError(f"--point {x:g},{y:g}: outside the photo, which is {photo.width}×{photo.height} pixels")
    graph = inspect_photo(checkpoint, photo, view).seen.graph
    if graph is None:
        raise IncompatibleError(f"{checkpoint}: no graph in it; train with --refine graph")
    if points:
        chosen = [nearest_node(graph.nodes, point) for point in points]
    else:
        chosen = strongest_apart(graph.nodes, APART * min(photo.width, photo.height), count)
    n, k = graph.edges.shape
    heading = "Edges of a node" if len(chosen) == 1 else f"Edges of {len(chosen)} nodes"
    figure, (cell,) = photo_panels(photo, [f"{checkpoint.name}: {n} nodes, {k} edges each"], heading)
    draw_dots(cell, graph.nodes, s=6, color="white", alpha=0.55, linewidths=0)
    lines = draw_edges(cell, graph, chosen)
    colour_bar(figure, lines, [cell], "cosine of the two nodes' features")
    ends, cosines = graph.edges[chosen].ravel(), graph.cosines[chosen].ravel()
    draw_dots(cell, graph.nodes[ends], s=55, c=lines.to_rgba(cosines), zorder=4)
    draw_dots(cell, graph.nodes[chosen], s=260, marker="*", color="white", edgecolors="black", linewidths=1.2, zorder=5)
    if points:
        draw_dots(cell, np.array(points), s=70, marker="x", color="white", linewidths=2, zorder=6)
    return figure


def nearest_node(nodes: NDArray[np.float32], point: tuple[float, float]) -> int:
    """The number of the node nearest to x, y."""
    return int(((nodes - np.array(point)) ** 2).sum(axis=1).argmin())


def strongest_apart(nodes: NDArray[np.float32], apart: float, count: int) -> list[int]:
    """The numbers of at most ``count`` nodes, the strongest first, no two nearer than ``apart`` pixels."""
    chosen: list[int] = []
    for number, node in enumerate(nodes):
        if len(chosen) == count:
            break
        if all(np.hypot(*(node - nodes[other])) >= apart for other in chosen):
            chosen.append(number)
    return chosen


def draw_edges(cell: Axes, graph: GraphEdges, chosen: Sequence[int]) -> LineCollection:
    """A line for every edge of the chosen nodes, coloured by its cosine, as wide as its weight."""
    starts = np.repeat(graph.nodes[chosen], graph.edges.shape[1], axis=0)
    ends = graph.nodes[graph.edges[chosen].ravel()]
    weights = graph.weights[chosen].ravel()
    widths = WIDEST * weights / max(float(weights.max(initial=0)), LEAST_WEIGHT)
    cosines = graph.cosines[chosen].ravel()
    return draw_lines(cell, starts, ends, cosines, widths, limits_of(cosines))
