"""Spatial verification on ASMK's own codes: no second set of features, no second program.

A word that query and image share is a correspondence, of weight s^α. Its two scales and positions say how the query
lies in the image, if neither is turned (single-correspondence hypotheses: Philbin et al., CVPR 2007; Avrithis and
Tolias, IJCV 2014). The heaviest few are tried, the one with which most weight agrees is fitted to all that agrees with
it, and what agrees then are the inliers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime import native
from runtime.arguments import number_at_least_0, whole_number_above_0
from runtime.asmk.codes import AsmkQuery
from runtime.errors import IncompatibleError
from runtime.first_stage import ASMK, Layout
from runtime.rerank.interface import Candidates, Located, Query, Reranking


@dataclass(frozen=True)
class Verified:
    """What geometry says of some images, c of them.

    Attributes:
        weights: float64 [c], Σ s^α of the inliers.
        shared: float64 [c], Σ s^α of all correspondences.
        inliers: int32 [c], how many; a descriptor of the query is one at most.
        maps: float64 [c, 2, 3], from the query's pixels to the image's, of the engine's input images.
        counts: int32 [c], of all correspondences.
        correspondences: native.CORRESPONDENCE [c, at least counts]: row of the query's word, geometry of the image's
            entry, and weight.
        marks: bool [c, the same], which are inliers.
    """

    weights: NDArray[np.float64]
    shared: NDArray[np.float64]
    inliers: NDArray[np.int32]
    maps: NDArray[np.float64]
    counts: NDArray[np.int32]
    correspondences: NDArray[np.void]
    marks: NDArray[np.bool_]


@dataclass(frozen=True)
class Spatial:
    """Re-ranks by what agrees with one view of the place. The values were chosen on training scenes: docs/rerank.md.

    Attributes:
        tolerance: of a position, in pixels of the level of the pyramid that it was found on.
        octaves: by which the zoom of an inlier may differ from that of the map.
        hypotheses: of an image, at most.
        refinements: by least squares, at most.
        pull: of a refinement towards the map before, in squared pixels: few inliers give no absurd map.
        most_zoom: octaves, of the image over the query or the other way round.
        gain: how often what agrees of a score is added to it.
        least: the part of the first stage's score that agrees, from which on an image is verified. At most one in a
            thousand pairs of photos of different places reaches it (docs/rerank.md).
        alpha: α of the search for which ``least`` holds; with another, no image is said to be verified or not.
    """

    candidates: ClassVar[int] = 100

    tolerance: float = 48.0
    octaves: float = 0.9
    hypotheses: int = 64
    refinements: int = 4
    pull: float = 200.0
    most_zoom: float = 2.0
    gain: float = 3.0
    least: float = 0.008
    alpha: float = 3.0

    def __post_init__(self) -> None:
        """Raises UsageError if a value is none that geometry can work with."""
        for name in ("tolerance", "octaves", "pull", "most_zoom", "gain", "least", "alpha"):
            number_at_least_0(name, getattr(self, name))
        whole_number_above_0("hypotheses", self.hypotheses)
        if self.refinements != 0:
            whole_number_above_0("refinements", self.refinements)

    @staticmethod
    def check(path: Path, layout: Layout) -> None:
        """Raises IncompatibleError unless an index or an engine of this layout has what verification needs."""
        if layout.method != ASMK:
            raise IncompatibleError(
                f"{path}: of global descriptors, and spatial verification needs ASMK's local ones; re-rank by "
                "similarity, or by ransac where the engine gives local features too (delg)"
            )
        if not layout.geometry:
            raise IncompatibleError(
                f"{path}: does not keep where its features lie, which spatial verification needs; make another "
                "index of the photos (howl index)"
            )

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The first stage's scores and the inliers together (``scores``).

        Raises:
            IncompatibleError: positions of the query or of an image are not known.
        """
        before = candidates.scores
        found = self.verify(query.encoded, candidates.located, len(candidates))
        can_tell = query.settings.get("alpha") == self.alpha
        verified = self.agreeing(before, found) >= self.least if can_tell else None
        return Reranking(self.scores(before, found), found.inliers, verified)

    def scores(self, before: NDArray[np.float64], found: Verified) -> NDArray[np.float64]:
        """The first stage's scores, and ``gain`` times what of them agrees with one view.

        An image without geometric support keeps its score: many a true answer shows the place from another side.

        Args:
            before: float64 [c], the first stage's.
            found: of the same images.
        """
        return before + self.gain * self.agreeing(before, found)

    def agreeing(self, before: NDArray[np.float64], found: Verified) -> NDArray[np.float64]:
        """The part of the first stage's scores that agrees with one view: Σ s^α of inliers, over √n_query · √n_image.

        Of all that verification finds, this tells the same place from others best (docs/experiments.md).
        """
        return before * np.divide(found.weights, found.shared, out=np.zeros(len(before)), where=found.shared > 0)

    def verify(self, query: AsmkQuery, located: Sequence[Located], images: int) -> Verified:
        """What geometry says of images, by their places.

        Raises:
            IncompatibleError: positions of the query or of an image are not known.
        """
        if query.geometry is None:
            raise IncompatibleError("the query does not say where its features lie, which spatial verification needs")
        counts, correspondences = corresponding(query, located, images)
        weights, inliers, maps, marks = native.verify(
            query.geometry,
            correspondences,
            counts,
            tolerance=self.tolerance,
            octaves=self.octaves,
            hypotheses=self.hypotheses,
            refinements=self.refinements,
            pull=self.pull,
            most_zoom=self.most_zoom,
        )
        there = np.arange(correspondences.shape[1]) < counts[:, None]
        shared = native.UNIT * np.where(there, correspondences["weight"], 0).sum(axis=1)
        return Verified(weights, shared, inliers, maps.reshape(-1, 2, 3), counts, correspondences, marks.view(np.bool_))


def corresponding(
    query: AsmkQuery, located: Sequence[Located], images: int
) -> tuple[NDArray[np.int32], NDArray[np.void]]:
    """The words that a query shares with images, by their places.

    Returns:
        how many there are of each, int32 [c], and native.CORRESPONDENCE [c, the largest of these].

    Raises:
        IncompatibleError: positions of an image are not known.
    """
    counts = np.zeros(images, np.int32)
    correspondences = np.empty((images, len(query.words)), native.CORRESPONDENCE)
    for store, rows, places in located:
        numbers = np.full(native.IMAGES, -1, np.int32)
        numbers[rows] = places
        store.correspond(query, numbers, counts, correspondences)
    return counts, np.ascontiguousarray(correspondences[:, : int(counts.max(initial=0))])
