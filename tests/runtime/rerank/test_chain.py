"""Two re-rankers, one after the other."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import IncompatibleError, Retriever
from runtime.rerank import Candidates, Chain, Query, Ransac, Rerankers, Reranking, Similarity, Spatial


class Said:
    """A re-ranker that adds to the scores, and counts the inliers that it was told."""

    def __init__(self, candidates: int, more: list[float], inliers: NDArray[np.int64] | None = None) -> None:
        self.candidates, self._more, self._inliers = candidates, more, inliers

    def check(self, path: Path, layout: object) -> None:
        pass

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        verified = None if self._inliers is None else self._inliers > 1
        return Reranking(candidates.scores + self._more, self._inliers, verified)


FEW, MANY = np.array([0, 1, 2]), np.array([4, 5, 6])


@pytest.mark.parametrize(
    ("first", "second", "kept"), [(FEW, None, FEW), (None, MANY, MANY), (FEW, MANY, MANY), (None, None, None)]
)
def test_the_second_starts_from_the_scores_of_the_first(
    first: NDArray | None, second: NDArray | None, kept: NDArray | None
) -> None:
    chain = Chain(Said(5, [0, 1, 2], first), Said(3, [10, 0, 0], second))
    found = chain.rerank(Query("x", None, {}), Candidates(np.array([0.3, 0.2, 0.1]), [], [*"abc"], []))
    np.testing.assert_allclose(found.scores, [10.3, 1.2, 2.1])
    assert found.inliers is kept
    assert (found.verified is None) == (kept is None)
    assert chain.candidates == 5


def test_what_geometry_verified_stays_when_similarity_follows(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        spatial = {hit.id: hit for hit in retriever.search(photos[0], rerank="spatial")}
        for hit in retriever.search(photos[0], rerank="spatial+similarity"):
            assert (hit.inliers, hit.verified) == (spatial[hit.id].inliers, spatial[hit.id].verified)
            assert hit.score >= spatial[hit.id].score


def test_what_ransac_finds_comes_before_what_is_only_similar(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        by_matching = {hit.id: hit for hit in retriever.search(photos[0], rerank="ransac")}
        hits = retriever.search(photos[0], rerank="similarity+ransac")
        assert hits[0].id == photos[0]
        assert {hit.id: hit.inliers for hit in hits} == {id_: hit.inliers for id_, hit in by_matching.items()}


def test_both_must_suit_the_index(global_engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine) as retriever:
        retriever.add(photos)
        for chain in (Chain(Spatial(), Similarity()), Chain(Similarity(), Spatial())):
            with pytest.raises(IncompatibleError, match="of global descriptors, and spatial verification needs ASMK"):
                retriever.search(photos[0], rerank=chain)


def test_links_of_a_chain_are_made_once(engine: Path) -> None:
    rerankers = Rerankers.beside(engine)
    chain = rerankers.of("similarity+ransac")
    assert isinstance(chain, Chain)
    assert isinstance(chain.second, Ransac)
    assert chain.second is rerankers.of("ransac")
