"""Re-ranking by learned matching, for the last few: LightGlue (Lindenberger et al., ICCV 2023), epipolar geometry."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import finite_number, number_at_least_0, whole_number_above_0
from runtime.errors import ImageError, MissingError, UsageError
from runtime.first_stage import Layout
from runtime.index.origin import Origin
from runtime.lazy import lazy_property
from runtime.matching import Keypoints, KeypointStore, Matcher, agreement
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
        unreadable: list[str] = []
        for place, (id_, photo) in enumerate(zip(candidates.ids, candidates.photos, strict=True)):
            try:
                found = self._keypoints_of(id_, photo, Origin.of(photo))
            except ImageError as error:
                unreadable.append(str(error))
                continue
            agreed = agreement(asked, found, self.matcher.match(asked, found), self.tolerance)
            inliers[place] = agreed.count
            verified[place] = agreed.count >= self.least and agreed.share >= self.share
        if unreadable and len(unreadable) == len(candidates):
            raise MissingError(
                f"{unreadable[0]}; nor can any other answer be read, and their keypoints are not kept: name the folder "
                "from which the ids are seen (--root), or keep the keypoints (howl index --matcher)"
            )
        if unreadable:
            warnings.warn(
                f"{unreadable[0]}; {len(unreadable)} of {len(candidates)} answers could not be matched",
                RuntimeWarning,
                stacklevel=2,
            )
        return Reranking(self.scores(candidates.scores, inliers), inliers, verified)

    def scores(self, before: NDArray[np.float64], inliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The first stage's scores, and ``gain`` times the share of keypoints that agree beyond chance.

        Args:
            before: float64 [c], the first stage's.
            inliers: int64 [c].
        """
        return before + self.gain * np.maximum(inliers - self.chance, 0) / self.keypoints

    @lazy_property
    def _keypoints_of(self) -> Callable[[str, Path, Origin | None], Keypoints]:
        """Of a photo: kept, or found again. The last ones are remembered: queries have many answers in common."""
        return lru_cache(RECENT)(self._read)

    def _read(self, id_: str, photo: Path, origin: Origin | None) -> Keypoints:
        kept = None if self.kept is None else self.kept.find(id_, origin)
        return (self.matcher.detect(photo) if kept is None else kept).strongest(self.keypoints)
