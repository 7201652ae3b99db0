"""Re-ranking the hits of an index."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime.arguments import whole_number_above_0
from runtime.errors import UsageError
from runtime.first_stage import Layout
from runtime.index import AnyIndex, Hit, Hits
from runtime.rerank.interface import Candidates, Located, Query, Reranker, Reranking


@dataclass(frozen=True)
class HitOrder:
    """The order in which hits are given: the first stage's, or that of a re-ranker for the first of them.

    Attributes:
        reranker: None for the first stage's order.
        candidates: how many hits it looks at; None for its own number.
    """

    reranker: Reranker | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError if the number is none."""
        if self.candidates is not None:
            whole_number_above_0("candidates", self.candidates)

    @property
    def count(self) -> int:
        """How many hits the re-ranker looks at."""
        if self.reranker is None:
            return 0
        return self.reranker.candidates if self.candidates is None else self.candidates

    def check(self, path: Path, layout: Layout) -> None:
        """Raises IncompatibleError if an index or an engine of this layout lacks what the re-ranker needs."""
        if self.reranker is not None:
            self.reranker.check(path, layout)

    def apply(self, query: Query, hits: Hits, index: AnyIndex, root: Path | None) -> Hits:
        """The hits in this order; those that the re-ranker does not look at follow as they are.

        Args:
            query: what was searched for.
            hits: of the first stage, best first; ``count`` of them at least, if there are as many.
            index: the index that they are in.
            root: the folder from which their ids are seen; None if they are the paths of their photos.

        Raises:
            IncompatibleError: the index lacks what the re-ranker needs.
            HowlError: what the re-ranker says.
        """
        if self.reranker is None:
            return hits
        self.check(index.path, index.layout)
        first, rest = hits[: self.count], hits[self.count :]
        ids = [hit.id for hit in first]
        located = [Located(*each) for each in index.located(ids)]
        scores = np.array([hit.score for hit in first])
        photos = [Path(root or "", id_) for id_ in ids]
        found = self.reranker.rerank(query, Candidates(scores, located, ids, photos))
        if not isinstance(found, Reranking):
            raise UsageError(f"a re-ranker gave a {type(found).__name__}: a Reranking is needed")
        found.check(len(first))
        reordered = [self._reranked(first[place], found, place) for place in found.order().tolist()]
        return Hits([*reordered, *(replace(hit, first_score=hit.score) for hit in rest)], hits.missing)

    @staticmethod
    def _reranked(hit: Hit, found: Reranking, place: int) -> Hit:
        is_seen = found.inliers is not None and found.inliers[place] >= 0
        return replace(
            hit,
            score=float(found.scores[place]),
            inliers=int(found.inliers[place]) if found.inliers is not None and is_seen else None,
            verified=bool(found.verified[place]) if found.verified is not None and is_seen else None,
            first_score=hit.score,
        )


FIRST_STAGE = HitOrder()  # nothing is re-ranked
