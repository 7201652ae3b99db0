"""Re-ranking by similarity: its matrix against pairs compared word by word, and answers that others lead to."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Retriever, UsageError
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.features import Features
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from runtime.rerank import Candidates, Chain, Located, Query, Rerankers, Similarity, Spatial
from runtime.rerank.similarity import links, similarities_of
from runtime.vectors import InnerProduct, VectorFile

D, WORDS = 64, 60
KERNEL = AsmkKernel(Codebook(np.zeros((WORDS, D), np.float32)), AsmkParameters())
LAYOUT = Layout(ASMK, D)


def draw_images(n: int, seed: int = 0) -> list[AsmkCodes]:
    """Images of some words each; codes of a word are alike."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(WORDS, D))
    chosen = [np.sort(random.choice(WORDS, random.integers(1, WORDS), replace=False)) for _ in range(n)]
    return [
        AsmkCodes(words.astype(np.uint32), pack_signs(centres[words] + random.normal(size=(len(words), D))))
        for words in chosen
    ]


def as_query(image: AsmkCodes) -> AsmkQuery:
    return KERNEL.query(image)


def plain(images: list[AsmkCodes]) -> NDArray[np.float64]:
    """The similarities, pair by pair and word by word."""
    return np.array([[KERNEL.shared_words(one, other).score for other in images] for one in images])


def candidates_of(located: list[Located], scores: list[float]) -> Candidates:
    ids = [f"{i}" for i in range(len(scores))]
    return Candidates(np.array(scores), located, ids, list(map(Path, ids)))


def in_one_store(images: list[AsmkCodes], scores: list[float]) -> Candidates:
    numbers = np.arange(len(images))
    return candidates_of([Located(InvertedFile.build(images, LAYOUT), numbers, numbers)], scores)


def test_similarities_are_those_of_pairs_compared_word_by_word() -> None:
    nothing = AsmkCodes(np.empty(0, np.uint32), np.empty((0, 1), np.uint64))
    images = [*draw_images(20), nothing]
    found = InvertedFile.similarities(images, as_query(images[0]))
    np.testing.assert_allclose(found, plain(images), rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(np.diag(found)[:-1], 1)
    assert not found[-1].any()


def test_what_a_file_gives_of_its_images_is_what_it_was_made_of() -> None:
    images = draw_images(300)
    file = InvertedFile.build(images, LAYOUT)
    for rows in (np.array([7, 250, 3]), np.arange(300)[::-1].copy(), np.arange(0)):
        taken = file.images_at(rows)
        assert len(taken) == len(rows)
        for row, image in zip(rows.tolist(), taken, strict=True):
            np.testing.assert_array_equal(image.words, images[row].words)
            np.testing.assert_array_equal(image.codes, images[row].codes)


def test_it_does_not_depend_on_how_images_are_divided_into_segments(tmp_path: Path) -> None:
    images = draw_images(8)
    query = Query("query.jpg", as_query(images[0]), {})
    order = [4, 0, 5, 2, 7]
    scores = [0.5, 0.4, 0.3, 0.2, 0.1]
    expected = Similarity().rerank(query, in_one_store([images[i] for i in order], scores)).scores
    index = Index.create(tmp_path / "index", fingerprint="x", layout=LAYOUT)
    ids = [f"image{i}" for i in range(8)]
    for part in (slice(0, 3), slice(3, 5), slice(5, 8)):
        index.add(ids[part], images[part])
    index.add(["gone"], images[:1])
    index.remove(["gone"])
    for _ in range(2):
        located = [Located(*each) for each in index.located([ids[i] for i in order])]
        found = Similarity().rerank(query, candidates_of(located, scores)).scores
        np.testing.assert_array_equal(found, expected)
        index.compact()


@pytest.mark.parametrize("candidates", [0, 1, 2])
def test_few_candidates_keep_their_order(candidates: int) -> None:
    images = draw_images(3)
    query = Query("query.jpg", as_query(images[2]), {})
    found = Similarity().rerank(query, in_one_store(images[:candidates], [0.5, 0.25][:candidates]))
    assert found.order().tolist() == list(range(candidates))
    assert found.inliers is None
    assert found.verified is None


def test_an_answer_that_looks_like_the_best_one_rises_and_strangers_keep_their_scores() -> None:
    """Three photos of a place, of which the query has one side; two of other places look a little like it."""
    similarities = np.eye(5)
    similarities[0, 1] = similarities[1, 0] = 0.2
    similarities[1, 4] = similarities[4, 1] = 0.2
    before = np.array([0.3, 0.05, 0.04, 0.03, 0.02])
    after = Similarity(seeds=1, gain=1.0).scores(before, similarities)
    assert np.argsort(-after).tolist() == [0, 1, 4, 2, 3]
    np.testing.assert_array_equal(after[2:4], before[2:4])
    assert after.max() <= 2 * before.max() + 1e-12


def test_confidence_is_where_spreading_ends() -> None:
    """The solution is what repeating f ← α S f + y leads to (Zhou et al., 2003)."""
    random = np.random.default_rng(0)
    similarities = random.random((12, 12))
    similarities += similarities.T
    before = np.sort(random.random(12))[::-1]
    settings = Similarity(neighbours=4, exponent=1.5, damping=0.8, seeds=2, sharpness=1.0, gain=0.5)
    weights = links(similarities, 4, 1.5)
    spread = weights / np.sqrt(np.outer(weights.sum(axis=1), weights.sum(axis=1)))
    start = np.where(np.arange(12) < 2, before / before[0], 0.0)
    confidence = start
    for _ in range(400):
        confidence = 0.8 * spread @ confidence + start
    expected = before + 0.5 * before[1] * confidence / confidence.max()
    np.testing.assert_allclose(settings.scores(before, similarities), expected)


def test_links_are_between_mutual_neighbours() -> None:
    similarities = np.array([[1, 0.9, 0.5, 0], [0.9, 1, 0.4, 0], [0.5, 0.4, 1, 0.3], [0, 0, 0.3, 1]])
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 0.81  # 2 would be linked to 0, and 3 to 2, whose nearest are others
    np.testing.assert_allclose(links(similarities, 1, 2.0), expected)


def test_scores_that_say_nothing_stay() -> None:
    for before in (np.zeros(3), np.array([-0.1, -0.2, -0.3])):
        np.testing.assert_array_equal(Similarity().scores(before, np.eye(3)), before)


def test_global_descriptors_are_compared_by_their_products() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(6, 16)).astype(np.float16)
    stage = InnerProduct(16)
    query = stage.encode_query(Features(global_descriptor=vectors[0].astype(np.float32)))
    halves = [VectorFile(vectors[:4]), VectorFile(vectors[4:])]
    located = [Located(halves[1], np.array([1]), np.array([0])), Located(halves[0], np.array([2, 0]), np.array([1, 2]))]
    chosen = vectors[[5, 2, 0]].astype(np.float64)
    found = similarities_of(query, candidates_of(located, [0.5, 0.4, 0.3]))
    np.testing.assert_allclose(found, chosen @ chosen.T, rtol=1e-6)
    np.testing.assert_array_equal(found, found.T)
    assert Similarity().rerank(Query("x", query, {}), candidates_of(located, [0.5, 0.4, 0.3]))


def test_a_candidate_that_lies_nowhere_keeps_its_score() -> None:
    images = draw_images(3)
    numbers = np.arange(2)
    located = [Located(InvertedFile.build(images, LAYOUT), numbers, numbers)]
    query = Query("x", as_query(images[0]), {})
    assert Similarity(seeds=1).rerank(query, candidates_of(located, [0.5, 0.4, 0.3])).scores[2] == 0.3
    assert similarities_of(query.encoded, candidates_of([], [0.5])).tolist() == [[0]]


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"seeds": 1.5}, {"damping": 1.0}, {"exponent": -1.0}, {"gain": float("nan")}]
)
def test_values_that_it_cannot_work_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}"):
        Similarity(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- photos


def test_hits_are_put_in_order_by_similarity(engine: Path, photos: list[str]) -> None:
    with Retriever(engine) as retriever:
        retriever.add(photos)
        first = {hit.id: hit.score for hit in retriever.search(photos[0], top=10)}
        hits = retriever.search(photos[0], top=10, rerank="similarity")
        assert hits[0].id == photos[0]
        assert {hit.id: hit.first_score for hit in hits} == first
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert {(hit.inliers, hit.verified) for hit in hits} == {(None, None)}
        assert retriever.search_many(photos[:2], 3, rerank="similarity")[0] == hits[:3]


def test_an_index_of_global_descriptors(global_engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine) as retriever:
        retriever.add(photos)
        assert retriever.search(photos[0], rerank="similarity")[0].id == photos[0]


def test_names_lead_to_rerankers_that_are_made_once(tmp_path: Path) -> None:
    rerankers = Rerankers.beside(tmp_path / "engine.onnx")
    assert rerankers.of("similarity") == Similarity()
    assert rerankers.of("spatial+similarity") == Chain(Spatial(), Similarity())
    assert rerankers.of("spatial") is rerankers.of("spatial")
    assert rerankers.of(None) is None
    own = Similarity(seeds=1)
    assert rerankers.of(own) is own
    with pytest.raises(UsageError, match=r"rerank='magic': there is spatial, similarity, .*, or give a Reranker"):
        rerankers.of("magic")
