"""Re-ranking by deep spatial matching (Siméoni, Avrithis, Chum, CVPR 2019): for engines of one global descriptor.

The map that the descriptor was pooled of has local features in it: ellipses where a channel responds. Those of a query
and an image that lie as one affine map would have them count. The paper describes photos at three scales and takes the
best pair of these; here there is one, the pyramid's nearest to 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import finite_number, number_at_least_0
from runtime.errors import UsageError
from runtime.first_stage import Layout
from runtime.lazy import lazy_property
from runtime.matching import EllipseDetector, KeypointStore, PhotoKeypoints, agreeing_ellipses
from runtime.matching.ellipses import MAX_ELLIPSES
from runtime.matching.store import OF_ACTIVATIONS
from runtime.rerank.interface import Candidates, Query, Reranking

RECENT = 1024  # photos whose ellipses are remembered, 10 kB each


@dataclass(frozen=True)
class Dsm:
    """Re-ranks by how many ellipses agree with one affine map.

    Attributes:
        detector: gives the ellipses.
        kept: those of the index's photos; what is not in it is found again in the photos.
        tolerance: of an ellipse's centre, in pixels of the image that the engine takes: a cell of stride 16.
        chance: ellipses that agree in photos of different places, too, and that tell nothing (docs/rerank.md).
    """

    detector: EllipseDetector
    kept: KeypointStore | None = None
    tolerance: float = 16.0
    chance: int = 12

    candidates: ClassVar[int] = 100

    def __post_init__(self) -> None:
        """Raises UsageError if a value is none that matching can work with."""
        number_at_least_0("chance", self.chance)
        if finite_number("tolerance", self.tolerance) <= 0:
            raise UsageError(f"tolerance={self.tolerance}: must be above 0")

    def check(self, path: Path, layout: Layout) -> None:
        """Nothing is needed of an index: the detector is an engine's that has activation maps."""

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The first stage's scores, which are 1 at most, and the ellipses that agree beyond chance.

        The order is the paper's, by what agrees and then by the first stage, but for what chance alone gives. A
        candidate whose photo cannot be read, and whose ellipses are not kept, keeps its score, with a warning.

        Raises:
            ImageError: the query cannot be read.
            MissingError: that goes for all candidates.
        """
        asked = self.detector.of_query(query.photo, query.features)
        inliers = np.full(len(candidates), -1, np.int64)
        for place, found in self._photos.of_answers(candidates.ids, candidates.photos, query.advance):
            inliers[place] = agreeing_ellipses(asked, self.detector.of_image(found), self.tolerance)
        return Reranking(self.scores(candidates.scores, inliers), inliers)

    def scores(self, before: NDArray[np.float64], inliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The first stage's scores and the inliers beyond chance, float64 [c] and int64 [c] → float64 [c]."""
        return before + np.maximum(inliers - self.chance, 0)

    @lazy_property
    def _photos(self) -> PhotoKeypoints:
        return PhotoKeypoints(self.detector, self.kept, OF_ACTIVATIONS, strongest=MAX_ELLIPSES, remembered=RECENT)
