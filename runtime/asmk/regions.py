"""Regional aggregation: R-ASMK (Teichmann, Araujo, Zhu, Sim, CVPR 2019, "Detect-to-Retrieve"), on a uniform grid.

For each region r of an image, the residuals of each visual word are summed, V_r[w] = Σ (x − c_w) over the descriptors
in it, and all its words together are normalised. The image is the sum over its regions, of which signs are kept:

    V[w] = Σ_r V_r[w] / ‖V_r‖ = Σ_x g(x)·(x − c_w)    with    g(x) = Σ_{r ∋ x} 1 / ‖V_r‖

An image so has the words and the entries that it has without regions, and a descriptor counts more the less there is
beside it in its regions. Detect-to-Retrieve finds the regions by a detector that was trained on boxes of landmarks, and
describes each of them anew; here they are the squares of R-MAC's grid, over one description of the photo.
"""

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codes import AsmkCodes, pack_signs

MAX_LEVELS = 8  # 300 regions: beyond what could be of use
MAX_EXTRA = 6  # regions along the long side of an image beyond those along the short one


def region_boxes(width: int, height: int, levels: int) -> NDArray[np.int64]:
    """The grid of R-MAC (Tolias, Sicre, Jégou, ICLR 2016) over an image, the whole image first.

    Level l = 1, 2, … has squares with sides of ⌊2w / (l + 1)⌋ pixels, w being the short side: l along the short side
    and l + m along the long one, evenly spaced. m is that of the paper, where squares overlap by nearly 40 %, in whole
    numbers. The grid that networks are exported with is the same.

    Returns:
        int64 [R, 4]: left, top, right and bottom of each, the last two exclusive.
    """
    short, longer = min(width, height), abs(width - height)
    steps = np.arange(2, MAX_EXTRA + 1)
    extra = int((5 * (2 * steps - 1) * longer > 6 * steps * (steps - 1) * short).sum()) + (longer > 0)
    boxes = [(0, 0, width, height)]
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        starts_short = _starts(short, side, level)
        starts_long = _starts(short + longer, side, level + extra)
        for along_short in starts_short if side else ():
            for along_long in starts_long:
                left, top = (along_long, along_short) if width >= height else (along_short, along_long)
                boxes.append((left, top, left + side, top + side))
    return np.array(boxes, np.int64)


def _starts(length: int, side: int, count: int) -> list[int]:
    """Where evenly spaced windows begin along a side of an image."""
    return [number * (length - side) // max(1, count - 1) for number in range(count)]


def aggregate_regions(
    descriptors: NDArray[np.float32],
    words: NDArray[np.integer],
    centroids: NDArray[np.float32],
    positions: NDArray[np.float32],
    boxes: NDArray[np.int64],
) -> AsmkCodes:
    """Sums each word's residuals region by region, and keeps the signs of what all regions sum up to.

    Args:
        descriptors: float32 [n, D].
        words: integer [n], the word of each.
        centroids: float32 [C, D], the codebook.
        positions: float32 [n, 2 or more], x and y in pixels of the image.
        boxes: int64 [R, 4], of the regions; each descriptor lies in one at least.
    """
    if not len(descriptors):
        return AsmkCodes(np.empty(0, np.uint32), pack_signs(descriptors))
    order = np.argsort(words, kind="stable")
    distinct, starts = np.unique(words[order], return_index=True)
    residuals = (descriptors - centroids[words])[order]
    x, y = positions[order, 0, None], positions[order, 1, None]
    left, top, right, bottom = boxes.T - 0.5  # the centre of a pixel is a whole number
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)  # [n, R]
    gains = np.zeros(len(residuals))
    for of_region in inside.T:
        norm = np.linalg.norm(np.add.reduceat(residuals * of_region[:, None], starts, axis=0))
        gains += of_region / norm if norm > 0 else 0
    summed = np.add.reduceat(residuals * gains[:, None], starts, axis=0)
    return AsmkCodes(distinct.astype(np.uint32), pack_signs(summed))
