"""Re-ranking: what a re-ranker is given, and what becomes of its answer."""

from collections.abc import Sequence
from pathlib import Path

from runtime import Hit, Index, Retriever
from runtime.rerank import Query


class Reversed:
    """Turns the order around, and keeps what it was given."""

    def rerank(self, query: Query, candidates: Sequence[Hit], index: Index) -> list[Hit]:
        self.query, self.candidates, self.index = query, list(candidates), index
        return list(reversed(candidates))


def test_a_reranker_orders_the_candidates_of_the_first_stage(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        first = retriever.search(photos[0], top=100)
        reranker = Reversed()
        assert retriever.search(photos[0], top=2, rerank=reranker, candidates=3) == first[:3][::-1][:2]
        assert reranker.candidates == first[:3]
        assert reranker.index is retriever.index
        assert reranker.query.photo == photos[0]
        assert len(reranker.query.features.need_local()) > 0
        assert retriever.search(photos[0], top=5, rerank=reranker, candidates=1) == first[:5][::-1]
