"""Which segments should be rewritten as one: every query pays for each segment, every rewriting for each image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.index.catalogue import SegmentRow
from runtime.inverted_file import LARGEST

FAN = 8  # segments of one tier become one


def due(live: Sequence[int]) -> range:
    """The segments at the end of an index that an addition should merge; empty where there are none.

    Tiers are powers of eight. Eight neighbours of one tier become one of the next, and a segment takes up the smaller
    ones before it, so that tiers never ascend: there are few segments a tier, and every merge lifts nearly all of its
    images by a tier. An image is therefore rewritten O(log n) times, at most a dozen. Only neighbours are merged, which
    keeps the order of addition. A segment that is half full stays: two such do not fit into one.

    Args:
        live: images of every segment that were not removed, in the order of addition.
    """
    if not live:
        return range(0)
    tiers = [tier(images) for images in live]
    last = first = len(live) - 1
    while first > 0 and tiers[first - 1] < tiers[last]:
        first -= 1
    if first < last:
        smaller = range(first, last if is_half_full(live[last]) else last + 1)
        return fitting(live, smaller)
    while first > 0 and tiers[first - 1] == tiers[last]:
        first -= 1
    enough = last + 1 - first >= FAN and not is_half_full(live[last])
    return fitting(live, range(first, last + 1)) if enough else range(0)


def share(rows: Sequence[SegmentRow], live: Sequence[NDArray[np.int64]]) -> int:
    """Where a compaction should cut: the number behind as many images as make one full segment.

    Args:
        rows: what is still to be compacted, at least one, in the order of addition.
        live: the numbers of each one's images that were not removed.
    """
    images = 0
    for row, numbers in zip(rows, live, strict=True):
        if images + len(numbers) > LARGEST:
            return int(numbers[LARGEST - images]) if images < LARGEST else row.start
        images += len(numbers)
    return rows[-1].stop


def fitting(live: Sequence[int], run: range) -> range:
    """The first segments of a run whose images fit into one; empty where that is a single one."""
    images, stop = 0, run.start
    while stop < run.stop and images + live[stop] <= LARGEST:
        images += live[stop]
        stop += 1
    return range(run.start, stop) if stop - run.start > 1 else range(0)


def tier(images: int) -> int:
    """⌊log₈ images⌋, and −1 for none."""
    return (images.bit_length() - 1) // 3


def is_half_full(images: int) -> bool:
    return 2 * images >= LARGEST
