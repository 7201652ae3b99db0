"""How many matches agree with one view of a rigid scene."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.matching.keypoints import Keypoints

LEAST = 8  # matches that say anything: a fundamental matrix has seven degrees of freedom
CONFIDENCE, TRIALS = 0.9999, 2_000


@dataclass(frozen=True)
class Agreement:
    """What epipolar geometry says of matches.

    Attributes:
        matches: int64 [m, 2], rows of the keypoints of two photos.
        inliers: bool [m], which agree with the best fundamental matrix.
    """

    matches: NDArray[np.int64]
    inliers: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many agree."""
        return int(self.inliers.sum())

    @property
    def share(self) -> float:
        """The part of the matches that agrees; 0 where there are none."""
        return self.count / max(1, len(self.matches))


def agreement(first: Keypoints, second: Keypoints, matches: NDArray[np.int64], tolerance: float) -> Agreement:
    """The matches that agree with one fundamental matrix, found by MAGSAC++ (Barath et al., CVPR 2020; OpenCV's USAC).

    Args:
        first, second: keypoints of two photos.
        matches: int64 [m, 2], rows of both.
        tolerance: of the distance to an epipolar line, as a part of a photo's longest side.
    """
    nothing = Agreement(matches, np.zeros(len(matches), bool))
    if len(matches) < LEAST:
        return nothing
    # Positions in units of the longest side, times 1000: one tolerance for two photos of any sizes.
    here = first.positions[matches[:, 0]].astype(np.float64) * (1000 / max(first.size))
    there = second.positions[matches[:, 1]].astype(np.float64) * (1000 / max(second.size))
    try:
        _, mask = cv2.findFundamentalMat(here, there, cv2.USAC_MAGSAC, 1000 * tolerance, CONFIDENCE, TRIALS)
    except cv2.error:  # all of them lie in one place, or on one line
        return nothing
    return nothing if mask is None else Agreement(matches, mask.ravel().astype(bool))
