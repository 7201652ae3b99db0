"""Matching against the inverted file's scores, and against a count of words one descriptor at a time."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkQuery
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkKernel, AsmkParameters, Matching, aggregate, selectivity
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.retriever import Retriever

D, WORDS = 40, 12


def codebook() -> Codebook:
    return Codebook(np.random.default_rng(0).normal(size=(WORDS, D)).astype(np.float32))


def views(n: int = 30, other: int = 25, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The descriptors of two images: noisy views of things near the words."""
    random = np.random.default_rng(seed)
    things = codebook().centroids[random.integers(0, WORDS, 40)] + 0.5 * random.normal(size=(40, D))
    seen = (things[random.permutation(40)[:count]] for count in (n, other))
    return tuple((view + 0.3 * random.normal(size=view.shape)).astype(np.float32) for view in seen)  # type: ignore[return-value]


every_search = pytest.mark.parametrize(
    "parameters",
    [
        AsmkParameters(),
        AsmkParameters(multiple_assignment=1),
        AsmkParameters(alpha=2, threshold=0.25, multiple_assignment=3),
        AsmkParameters(threshold=-1),
    ],
)


@every_search
@pytest.mark.parametrize("seed", range(3))
def test_the_weights_sum_up_to_the_score_of_the_search(parameters: AsmkParameters, seed: int) -> None:
    query, image = views(seed=seed)
    sides = [
        aggregate(x, codebook().assign(x, m), codebook().centroids)
        for x, m in ((query, parameters.multiple_assignment), (image, 1))
    ]
    database = InvertedFile.build([sides[1]], Layout(ASMK, D))
    expected = database.scores(AsmkQuery(*sides[0], selectivity(D, parameters)))[0]
    shared = AsmkKernel(codebook(), parameters).match(query, image).shared
    assert expected != 0
    assert shared.score == pytest.approx(expected, abs=1e-9)
    assert shared.score == pytest.approx(shared.weights.sum() / np.sqrt(len(sides[0].words) * len(sides[1].words)))
    assert shared.words.tolist() == sorted(set(sides[0].words.tolist()) & set(sides[1].words.tolist()))


@every_search
def test_pairs_are_the_descriptors_of_one_word(parameters: AsmkParameters) -> None:
    query, image = views()
    matching = AsmkKernel(codebook(), parameters).match(query, image)
    assigned = codebook().assign(query, parameters.multiple_assignment), codebook().assign(image, 1)
    expected = [
        (q, i, dict(zip(matching.shared.words.tolist(), matching.shared.weights.tolist(), strict=True))[word])
        for (q, words), (i, (own,)) in product(enumerate(assigned[0].tolist()), enumerate(assigned[1].tolist()))
        for word in words
        if word == own
    ]
    found = [(*pair, weight) for pair, weight in zip(matching.pairs.tolist(), matching.weights.tolist(), strict=True)]
    assert sorted(found) == sorted(expected)


def test_the_word_of_the_largest_weight_comes_first_and_in_it_the_nearest_descriptors() -> None:
    query, image = views()
    matching = AsmkKernel(codebook(), AsmkParameters()).match(query, image)
    assert (np.diff(matching.weights) <= 0).all()
    distances = np.linalg.norm(query[matching.pairs[:, 0]] - image[matching.pairs[:, 1]], axis=1)
    first = np.flatnonzero(matching.ranks == 0)
    assert len(first) == len(matching.shared.words)
    for start, end in pairwise([*first, len(matching.ranks)]):
        assert matching.ranks[start:end].tolist() == list(range(end - start))
        assert (np.diff(distances[start:end]) >= 0).all()


def is_empty(matching: Matching) -> bool:
    return matching.pairs.shape == (0, 2) and matching.weights.shape == (0,) and matching.shared.score == 0


def test_images_that_share_nothing_have_no_pair() -> None:
    centroids = np.stack([np.full(D, 9), np.full(D, -9)]).astype(np.float32)
    ones = np.ones((3, D), np.float32)
    single = replace(AsmkParameters(), multiple_assignment=1)
    assert is_empty(AsmkKernel(Codebook(centroids), single).match(ones, -ones))
    assert is_empty(AsmkKernel(Codebook(centroids), single).match(ones[:0], ones))
    assert is_empty(AsmkKernel(Codebook(centroids), single).match(ones[:0], ones[:0]))


def test_descriptors_of_another_dimension_are_refused() -> None:
    query, image = views()
    with pytest.raises(HowlError, match="do not fit a codebook"):
        AsmkKernel(codebook(), AsmkParameters()).match(query[:, 1:], image)


def test_the_score_is_the_retrievers(engine: Path, photos: list[str], tmp_path: Path) -> None:
    with Retriever(engine, tmp_path / "idx", threshold=0.1) as retriever:
        retriever.add(photos)
        hits = {hit.id: hit.score for hit in retriever.search(photos[0], len(photos))}
        encoder = retriever.encoder
        kernel = encoder.first_stage
        assert isinstance(kernel, AsmkKernel)
        query, *others = (encoder.extract(photo).need_local().descriptors for photo in [photos[0], *photos])
        for photo, image in zip(photos, others, strict=True):
            score = kernel.match(query, image).shared.score
            assert score == pytest.approx(hits.get(photo, 0), abs=1e-9)
    assert len(hits) > 2
