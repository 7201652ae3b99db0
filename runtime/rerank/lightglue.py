"""Re-ranking by learned matching, for the last few: LightGlue (Lindenberger et al., ICCV 2023), epipolar geometry."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import finite_number, number_at_least_0, whole_number_above_0
from runtime.errors import UsageError
from runtime.first_stage import Layout
from runtime.lazy import lazy_property
from runtime.matching import KeypointStore, Matcher, PhotoKeypoints, agreement
from runtime.matching.store import OF_MATCHER
from runtime.rerank.interface import Candidates, Query, Reranking

RECENT = 256  # photos whose keypoints are remembered, some 140 kB each


@dataclass(frozen=True)
class LightGlue:
    """Re-ranks by how many matched keypoints agree with one view. The values were chosen on training scenes.

    Attributes:
        matcher: finds and matches keypoints.
        kept: the keypoints of the index's photos; those that are not in it are found again in the photos.
        keypoints: of a photo that are matched, the strongest.
        tolerance: of an inlier's distance to its epipolar line, as a part of a photo's longest side.
        chance: inliers that photos of different places have, too, and that tell nothing.
        gain: by which the other inliers' share of the keypoints adds to a score.
        least: inliers of an image that is verified.
        share: of its matches that must be inliers, too.
    """

    matcher: Matcher
    kept: KeypointStore | None = None
    keypoints: int = 512
    tolerance: float = 0.0015
    chance: int = 15
    gain: float = 1 / 3
    least: int = 30
    share: float = 0.5

    candidates: ClassVar[int] = 20

    def __post_init__(self) -> None:
        """Raises UsageError if a value is none that matching can work with."""
        whole_number_above_0("keypoints", self.keypoints)
        whole_number_above_0("least", self.least)
        for name in ("tolerance", "share"):
            if not 0 < finite_number(name, getattr(self, name)) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: must lie above 0, and be 1 at most")
        for name in ("chance", "gain"):
            number_at_least_0(name, getattr(self, name))

    def check(self, path: Path, layout: Layout) -> None:
        """Nothing is needed of an index or an engine: photos are matched by themselves."""

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The first stage's scores and the inliers together (``scores``).

        A candidate whose photo cannot be read, and whose keypoints are not kept, keeps its score, with a warning.

        Raises:
            ImageError: the query cannot be read.
            MissingError: that goes for all candidates.
        """
        asked = self.matcher.detect(query.photo).strongest(self.keypoints)
        inliers, verified = np.full(len(candidates), -1, np.int64), np.zeros(len(candidates), bool)
        for place, found in self._photos.of_answers(candidates.ids, candidates.photos, query.advance):
            agreed = agreement(asked, found, self.matcher.match(asked, found), self.tolerance)
            inliers[place] = agreed.count
            verified[place] = agreed.count >= self.least and agreed.share >= self.share
        return Reranking(self.scores(candidates.scores, inliers), inliers, verified)

    def scores(self, before: NDArray[np.float64], inliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The first stage's scores, and ``gain`` times the share of keypoints that agree beyond chance.

        Args:
            before: float64 [c], the first stage's.
            inliers: int64 [c].
        """
        return before + self.gain * np.maximum(inliers - self.chance, 0) / self.keypoints

    @lazy_property
    def _photos(self) -> PhotoKeypoints:
        return PhotoKeypoints(self.matcher, self.kept, OF_MATCHER, strongest=self.keypoints, remembered=RECENT)
