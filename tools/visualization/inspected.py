"""A checkpoint's network, looked into on one photo: what the pictures of attention, smoothing and graph begin with."""

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle import is_engine
from runtime.errors import HowlError
from runtime.io.image import shrink, to_original_pixels
from tools.visualization.canvas import Photo, View
from train.checkpoint import Checkpoint
from train.hooks import Inspection, inspect
from train.models.how import HowConfig, HowNetwork


@dataclass(frozen=True)
class Inspected:
    """A network and what it makes of a photo; positions are in pixels of the photo as it is on the disk."""

    network: HowNetwork
    seen: Inspection


def inspect_photo(path: Path, photo: Photo, view: View) -> Inspected:
    """Runs a checkpoint's network on a photo. Raises HowlError where the checkpoint is none, or cannot be read."""
    if is_engine(path):
        raise HowlError(f"{path}: an engine cannot be looked into; name the checkpoint that it was exported from")
    checkpoint = Checkpoint.load(path)
    network = checkpoint.build_model()
    if not isinstance(network, HowNetwork):
        raise HowlError(f"{path}: of the system {checkpoint.system}; only how's networks have these pictures")
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
    return " and ".join(filter(None, ["graph" if config.graph else "", smoothing]))
