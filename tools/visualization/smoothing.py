"""Learned smoothing over a photo: how much each position counts itself, and how narrow its kernel is."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from runtime.errors import HowlError
from tools.visualization.canvas import Photo, View, colour_bar, draw_map, limits_of, photo_panels
from tools.visualization.inspected import inspect_photo
from train.models.how import HowNetwork
from train.models.smoothing import SharedSmoothing

TAIL = 1.0  # per cent of the values on either side that share the last colours: one odd position must not take them all


def draw_smoothing(checkpoint: Path, photo: Photo, view: View) -> Figure:
    """The self-confidence c(p) and the bandwidth b(p), each on a colour scale of its own.

    Raises:
        HowlError: the checkpoint cannot be read, or its smoothing has no maps.
    """
    inspected = inspect_photo(checkpoint, photo, view)
    seen = inspected.seen
    if seen.confidence is None or seen.bandwidth is None:
        raise HowlError(f"{checkpoint}: {why_no_maps(inspected.network)}")
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
