"""How many matches agree with one view of a rigid scene: by epipolar geometry, or by an affine map."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.matching.keypoints import Keypoints

LEAST = 8  # matches that say anything: a fundamental matrix has seven degrees of freedom
CONFIDENCE, TRIALS = 0.9999, 2_000
LEAST_AFFINE = 4  # likewise: three matches agree with an affine map always
AFFINE_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Agreement:
    """What geometry says of matches.

    Attributes:
        matches: int64 [m, 2], rows of the keypoints of two photos.
        inliers: bool [m], which agree with the best fundamental matrix, or the best map.
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


def affine_agreement(
    here: NDArray[np.float32],
    there: NDArray[np.float32],
    matches: NDArray[np.int64],
    *,
    tolerance: float,
    trials: int,
) -> Agreement:
    """The matches that agree with one affine map, found by RANSAC and fitted to them, as DELF and DELG verify.

    The map has six degrees of freedom: near planes and distant views. OpenCV draws the same samples in every call.

    Args:
        here, there: float32 [n, 2] and [n', 2], positions in two images.
        matches: int64 [m, 2], rows of both.
        tolerance: of a position there, in its pixels.
        trials: samples of three matches, at most; fewer if so many agree that a better map is unlikely.
    """
    nothing = Agreement(matches, np.zeros(len(matches), bool))
    if len(matches) < LEAST_AFFINE:
        return nothing
    found, mask = cv2.estimateAffine2D(
        here[matches[:, 0]],
        there[matches[:, 1]],
        method=cv2.RANSAC,
        ransacReprojThreshold=tolerance,
        maxIters=trials,
        confidence=AFFINE_CONFIDENCE,
    )
    return nothing if found is None else Agreement(matches, mask.ravel().astype(bool))
