"""Re-ranking: what a re-ranker is given, and what becomes of its answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Retriever, UsageError
from runtime.first_stage import Layout
from runtime.rerank import Candidates, Query, Reranking


class Reversed:
    """Turns the order around, and keeps what it was given."""

    candidates = 3

    def check(self, path: Path, layout: Layout) -> None:
        self.layout = layout

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        self.query, self.given = query, candidates
        return Reranking(np.arange(len(candidates), dtype=float))


def test_a_reranker_orders_the_candidates_of_the_first_stage(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        first = retriever.search(photos[0], top=100)
        ids = [hit.id for hit in first]
        reranker = Reversed()
        hits = retriever.search(photos[0], top=2, rerank=reranker)
        assert [hit.id for hit in hits] == ids[:3][::-1][:2]
        assert [(hit.score, hit.first_score) for hit in hits] == [(2, first[2].score), (1, first[1].score)]
        assert reranker.given.scores.tolist() == [hit.score for hit in first[:3]]
        assert [str(photo) for photo in reranker.given.photos] == ids[:3]
        assert sorted(np.concatenate([places for *_, places in reranker.given.located])) == [0, 1, 2]
        assert retriever.index is not None
        assert reranker.layout == retriever.index.layout
        assert reranker.query.photo == photos[0]
        assert reranker.query.features is not None
        assert len(reranker.query.features.need_local()) > 0


def test_hits_that_it_does_not_look_at_follow_as_they_are(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        first = retriever.search(photos[0], top=100)
        for given in (1, 2):
            hits = retriever.search(photos[0], top=5, rerank=Reversed(), candidates=given)
            assert [hit.id for hit in hits] == [hit.id for hit in [*first[:given][::-1], *first[given:5]]]
            assert hits[given:] == [replace(hit, first_score=hit.score) for hit in first[given:5]]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (np.ones(3), "a re-ranker gave a ndarray: a Reranking is needed"),
        (Reranking(np.ones(2)), "a re-ranker's scores: an array of 3 values is needed, one for each candidate"),
        (Reranking([1, 2, 3]), "a re-ranker's scores: an array of 3 values is needed"),  # type: ignore[arg-type]
        (Reranking(np.array([1, np.nan, 2])), "a re-ranker's scores: must be finite numbers"),
        (Reranking(np.ones(3), np.ones(1, int)), "a re-ranker's inliers: an array of 3 values is needed"),
    ],
)
def test_an_answer_that_does_not_fit_the_candidates_is_a_line(
    engine: Path, photos: list[str], answer: Any, line: str
) -> None:
    class Wrong(Reversed):
        def rerank(self, query: Query, candidates: Candidates) -> Reranking:
            return answer

    with Retriever(engine) as retriever:
        retriever.add(photos)
        with pytest.raises(UsageError, match=f"^{line}"):
            retriever.search(photos[0], rerank=Wrong())


def test_what_it_could_not_look_at_has_no_inliers(engine: Path, photos: list[str]) -> None:
    class Half(Reversed):
        def rerank(self, query: Query, candidates: Candidates) -> Reranking:
            return Reranking(candidates.scores, np.array([5, -1, 0]), np.array([True, True, False]))

    with Retriever(engine) as retriever:
        retriever.add(photos)
        hits = retriever.search(photos[0], top=3, rerank=Half())
        assert [(hit.inliers, hit.verified) for hit in hits] == [(5, True), (None, None), (0, False)]


def test_candidates_are_seen_from_the_root(engine: Path, photos: list[str]) -> None:
    root = Path(photos[0]).parent
    with Retriever(engine, root=root) as retriever:
        retriever.add(photos)
        reranker = Reversed()
        retriever.search(photos[0], rerank=reranker)
        assert all(photo.is_file() and photo.parent == root for photo in reranker.given.photos)
