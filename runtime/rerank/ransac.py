"""Re-ranking by the engine's own local descriptors and RANSAC, as DELF and DELG do.

Descriptors are matched by their distance, not by visual words, and the matches that agree with one affine map count
(Noh et al., ICCV 2017; Cao, Araujo, Sim, ECCV 2020: 100 candidates, 1,000 trials, 20 pixels). It needs no codebook: it
works for whatever engine gives local features, beside a global descriptor, too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import finite_number, number_at_least_0, whole_number_above_0
from runtime.errors import UsageError
from runtime.first_stage import Layout
from runtime.lazy import lazy_property
from runtime.matching import EngineDetector, KeypointStore, PhotoKeypoints, affine_agreement, mutual_nearest
from runtime.matching.store import OF_ENGINE
from runtime.rerank.interface import Candidates, Query, Reranking

CALIBRATED = "how"  # the system whose features ``least`` holds for
RECENT, RECENT_KEPT = 1024, 128  # photos whose features are remembered, 0.5 MB each; fewer where they are kept


@dataclass(frozen=True)
class Ransac:
    """Re-ranks by how many local features agree with one affine map. The values were chosen on training scenes.

    Attributes:
        detector: gives the engine's local features.
        kept: those of the index's photos; what is not in it is found again in the photos.
        keypoints: of a photo that are matched, the strongest.
        distance: of two descriptors of length 1 that match, at most.
        tolerance: of an inlier's position, in pixels of the image that the engine takes.
        trials: of RANSAC.
        chance: inliers that photos of different places have, too, and that tell nothing.
        least: inliers of an image that is verified, twice what at most one in a thousand wrong answers to training
            photos has, of HOW's features (docs/rerank.md). None if that is not known, and hits say neither.
    """

    detector: EngineDetector
    kept: KeypointStore | None = None
    keypoints: int = 1000
    distance: float = 0.9
    tolerance: float = 20.0
    trials: int = 1000
    chance: int = 12
    least: int | None = 40

    candidates: ClassVar[int] = 100

    def __post_init__(self) -> None:
        """Raises UsageError if a value is none that matching can work with."""
        for name in ("keypoints", "trials") if self.least is None else ("keypoints", "trials", "least"):
            whole_number_above_0(name, getattr(self, name))
        number_at_least_0("chance", self.chance)
        for name in ("distance", "tolerance"):
            if finite_number(name, getattr(self, name)) <= 0:
                raise UsageError(f"{name}={getattr(self, name)}: must be above 0")

    def check(self, path: Path, layout: Layout) -> None:
        """Nothing is needed of an index: the detector is an engine's that has local features."""

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The first stage's scores and the inliers together (``scores``).

        A candidate whose photo cannot be read, and whose features are not kept, keeps its score, with a warning.

        Raises:
            ImageError: the query cannot be read.
            MissingError: that goes for all candidates.
        """
        here, descriptors = self._features_of(query)
        inliers = np.full(len(candidates), -1, np.int64)
        for place, found in self._photos.of_answers(candidates.ids, candidates.photos, query.advance):
            agreed = affine_agreement(
                here,
                self.detector.engine_pixels(found),
                mutual_nearest(descriptors, found.descriptors, self.distance),
                tolerance=self.tolerance,
                trials=self.trials,
            )
            inliers[place] = agreed.count
        verified = None if self.least is None else inliers >= self.least
        return Reranking(self.scores(candidates.scores, inliers), inliers, verified)

    def scores(self, before: NDArray[np.float64], inliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The first stage's scores, which are 1 at most, and the number of inliers beyond chance.

        The order is that of DELF and DELG: inliers first, then the first stage's score, whatever it is a score of. But
        inliers that mere chance gives put nothing into another order.

        Args:
            before: float64 [c], the first stage's.
            inliers: int64 [c].
        """
        return before + np.maximum(inliers - self.chance, 0)

    def _features_of(self, query: Query) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The query's positions in the engine's pixels, [n, 2], and its descriptors, [n, D]; found again if need be."""
        if query.features is not None:
            here, descriptors = self.detector.strongest_first(query.features.need_local())
        else:
            found = self.detector.detect(query.photo)
            here, descriptors = self.detector.engine_pixels(found), found.descriptors
        return here[: self.keypoints], descriptors[: self.keypoints]

    @lazy_property
    def _photos(self) -> PhotoKeypoints:
        remembered = RECENT if self.kept is None else RECENT_KEPT
        return PhotoKeypoints(self.detector, self.kept, OF_ENGINE, strongest=self.keypoints, remembered=remembered)
