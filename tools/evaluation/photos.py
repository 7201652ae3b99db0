"""A searched photo or a query, as the engine takes it."""

from pathlib import Path

import numpy as np

from runtime.errors import ImageError
from runtime.io.image import MIN_SIDE, Image, decode, shrink_to_rgb
from tools.evaluation.datasets import Box


def read_photo(path: Path, image_size: int, *, upright: bool = True, box: Box | None = None) -> Image:
    """RGB, with the longest side of the whole photo at most ``image_size`` pixels; of a box, what that leaves of it.

    A box is cut out before the photo is shrunk, and then has the size that it would have after: its longest side is
    image_size · max(box) / max(photo), rounded down, as the published code has it. Nothing is enlarged.

    Raises:
        ImageError: the photo cannot be read, or too little of it lies in the box.
    """
    bgr = decode(path, upright=upright)
    if box is None:
        return shrink_to_rgb(bgr, image_size)
    part = cut_out(bgr, box)
    height, width = part.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{path}: {width}×{height} pixels in its box are too few: a side needs {MIN_SIDE}")
    return shrink_to_rgb(part, int(image_size * max(height, width) / max(bgr.shape[:2])))


def cut_out(image: Image, box: Box) -> Image:
    """The part of an image in a box, whose sides go to the nearest pixels' edges; what lies outside is not there."""
    left, top, right, bottom = np.maximum(np.rint(box), 0).astype(int)
    return image[top:bottom, left:right]
