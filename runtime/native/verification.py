"""Spatial verification of correspondences."""

from ctypes import c_double, c_int64

import numpy as np
from numpy.typing import NDArray

from runtime.native.inverted_file import CORRESPONDENCE, UNIT
from runtime.native.library import check_shapes, declare, read, written

TERMS = 6  # of an affine map

_verify = declare(
    "howl_verify",
    None,
    *(read(np.uint32), read(CORRESPONDENCE, 2), read(np.int32), c_int64, c_int64),  # query, found, counts, candidates
    *(c_double, c_double, c_int64, c_int64, c_double, c_double, c_double),  # tolerance … unit
    *(written(np.uint8), written(np.int32), written(np.uint8)),  # pairs, chosen, marked: working memory
    *(
        written(np.float64),
        written(np.int32),
        written(np.float64, 2),
        written(np.uint8, 2),
    ),  # weights, inliers, maps, marks
)


_pair_bytes = declare("howl_pair_bytes", c_int64)


def verify(
    query: NDArray[np.uint32],
    found: NDArray[np.void],
    counts: NDArray[np.int32],
    *,
    tolerance: float,
    octaves: float,
    hypotheses: int,
    refinements: int,
    pull: float,
    most_zoom: float,
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8]]:
    """How a query lies in each candidate, and which correspondences agree with that.

    Args:
        query: uint32 [q], the geometry of the query's words.
        found: CORRESPONDENCE [c, capacity].
        counts: int32 [c], of each candidate's correspondences.
        tolerance: of a position, in pixels of the image's level of the pyramid.
        octaves: by which zooms may differ.
        hypotheses: of a candidate, at most: those of the heaviest correspondences.
        refinements: by least squares, at most.
        pull: of a refinement towards the map before, in squared pixels.
        most_zoom: octaves, of the image over the query or the other way round.

    Returns:
        of each candidate the weight of its inliers, float64 [c]; how many, int32 [c]; the affine map from the query's
        pixels to the image's, float64 [c, 6]; and which correspondences are inliers, uint8 [c, capacity].
    """
    candidates, capacity = found.shape
    check_shapes(counts=(counts, (candidates,)))
    if candidates and (int(counts.max()) > capacity or int(counts.min()) < 0):
        raise ValueError("more correspondences than there is room for")
    if hypotheses < 1 or refinements < 0:
        raise ValueError(f"{hypotheses} hypotheses and {refinements} refinements")
    if any(int(found["row"][i, :n].max(initial=0)) >= len(query) for i, n in enumerate(counts.tolist()) if n):
        raise ValueError("a correspondence of no word of the query")
    weights, inliers = np.zeros(candidates), np.zeros(candidates, np.int32)
    maps, marks = np.zeros((candidates, TERMS)), np.zeros((candidates, capacity), np.uint8)
    pairs = np.empty(int(_pair_bytes()) * max(1, capacity), np.uint8)
    chosen, marked = np.empty(max(1, hypotheses), np.int32), np.empty(2 * max(1, capacity), np.uint8)
    _verify(
        *(query, found, counts, candidates, capacity),
        *(tolerance, octaves, hypotheses, refinements, pull, most_zoom, UNIT),
        *(pairs, chosen, marked, weights, inliers, maps, marks),
    )
    return weights, inliers, maps, marks
