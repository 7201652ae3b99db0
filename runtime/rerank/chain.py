"""Two re-rankers, one after the other."""

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.first_stage import Layout
from runtime.rerank.interface import Candidates, Query, Reranker, Reranking


@dataclass(frozen=True)
class Chain:
    """Re-ranks by ``first``, and then by ``second``, to which the scores of ``first`` are the first stage's.

    Both look at the same candidates, as many as the one that looks at more. Inliers, and what is verified, are those of
    the one that counts them; of ``second``, if both do.
    """

    first: Reranker
    second: Reranker

    @property
    def candidates(self) -> int:
        """How many they look at, if nothing else is said."""
        return max(self.first.candidates, self.second.candidates)

    def check(self, path: Path, layout: Layout) -> None:
        """Raises IncompatibleError if an index or an engine of this layout lacks what one of them needs."""
        self.first.check(path, layout)
        self.second.check(path, layout)

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        """The scores of ``second``. Raises HowlError where one of them cannot."""
        before = self.first.rerank(query, candidates)
        found = self.second.rerank(query, replace(candidates, scores=before.scores))
        counted = before if found.inliers is None else found
        return Reranking(found.scores, counted.inliers, counted.verified)
