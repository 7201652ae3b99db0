"""The answers of a search."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Attributes:
        id: of the image, as it was added.
        score: similarity, larger is better: ASMK's is above 0, that of global descriptors is their inner product.
        inliers: features of the query that lie in the image as one view of it would have them; None if no re-ranking
            has looked.
        verified: whether geometry says that it is the same place; None likewise, and where it cannot tell.
        first_score: the first stage's score, of hits that were re-ranked; ``stranger_score`` is a scale for it.
    """

    id: str
    score: float
    inliers: int | None = None
    verified: bool | None = None
    first_score: float | None = None


class Hits(list[Hit]):
    """The answers to a query, best first.

    Attributes:
        missing: the shards of the index that did not answer; an ordinary index has none.
    """

    def __init__(self, hits: Iterable[Hit] = (), missing: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.missing = tuple(missing)

    def above(self, least: float) -> "Hits":
        """Those that score at least so much."""
        return Hits((hit for hit in self if hit.score >= least), self.missing)

    def best(self, top: int) -> "Hits":
        """The first of them."""
        return Hits(self[:top], self.missing)

    @property
    def is_partial(self) -> bool:
        """Whether photos of shards that did not answer may be better ones."""
        return bool(self.missing)
