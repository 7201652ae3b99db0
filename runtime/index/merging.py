"""Which segments to rewrite as one: every segment costs time in each query, every image in each rewrite."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.first_stage import MAX_IMAGES
from runtime.index.catalogue import SegmentRow

MERGE_FACTOR = 8  # segments of one tier become one


def segments_to_merge(live: Sequence[int]) -> range:
    """The segments at the end of an index that an addition should merge; empty if there are none.

    Tiers are powers of eight. Eight neighbours of one tier become one segment of the next, and a segment absorbs the
    smaller ones before it, so that tiers never ascend. A tier therefore has few segments, and every merge lifts nearly
    all of its images by a tier: an image is rewritten O(log n) times, at most a dozen. Only neighbours are merged,
    which keeps the order of addition. A segment that is half full stays: two of them do not fit into one.

    Args:
        live: how many images of every segment were not removed, in the order of addition.
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
    enough = last + 1 - first >= MERGE_FACTOR and not is_half_full(live[last])
    return fitting(live, range(first, last + 1)) if enough else range(0)


def compaction_cut(rows: Sequence[SegmentRow], live: Sequence[NDArray[np.int64]]) -> int:
    """Where a compaction should cut: the ordinal after as many images as fit into one segment.

    Args:
        rows: the segments still to be compacted, at least one, in the order of addition.
        live: for each of them, the ordinals of its images that were not removed.
    """
    images = 0
    for row, ordinals in zip(rows, live, strict=True):
        if images + len(ordinals) > MAX_IMAGES:
            return int(ordinals[MAX_IMAGES - images]) if images < MAX_IMAGES else row.start
        images += len(ordinals)
    return rows[-1].stop


def fitting(live: Sequence[int], run: range) -> range:
    """The first segments of a run whose images fit into one; empty if that is a single segment."""
    images, stop = 0, run.start
    while stop < run.stop and images + live[stop] <= MAX_IMAGES:
        images += live[stop]
        stop += 1
    return range(run.start, stop) if stop - run.start > 1 else range(0)


def tier(images: int) -> int:
    """⌊log₈ images⌋, and −1 for 0 images."""
    return (images.bit_length() - 1) // 3


def is_half_full(images: int) -> bool:
    return 2 * images >= MAX_IMAGES
