"""asmk's objects one by one, as online SLAM systems use them, with ids that are times."""

import tracemalloc
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.codes import AsmkCodes
from runtime.asmk_method import ASMKMethod, IvfBuilder, io_helpers
from runtime.asmk_method.importing import NUMBERS
from runtime.asmk_method.ivf import MAX_GAPS
from runtime.errors import HowlError
from runtime.index import Index

from .asmk_params import asmk_params

D, WORDS, ROWS = 64, 100, 30
SECOND = 1_700_000_000  # of Unix time
SIMILARITY = {"alpha": 3.0, "similarity_threshold": 0.0}
PARAMS = asmk_params(WORDS, assignments=2)


@pytest.fixture
def trained() -> ASMKMethod:
    training = np.random.default_rng(0).normal(size=(4 * WORDS, D)).astype(np.float32)
    return ASMKMethod.initialize_untrained(PARAMS).train_codebook(training)


def descriptors(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(ROWS, D)).astype(np.float32)


def columns(*images: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The descriptors of images, and the image of each."""
    return np.concatenate([descriptors(image) for image in images]), np.repeat(np.array(images, np.int64), ROWS)


def assign(vecs: NDArray[np.float32], centroids: NDArray[np.float32], words: int) -> NDArray[np.int64]:
    """Nearest words by a system's own code, which may run on a GPU."""
    return np.argsort(np.square(vecs[:, None] - centroids).sum(axis=2), axis=1)[:, :words]


def ask(method: ASMKMethod, builder: IvfBuilder, vecs: NDArray, ids: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Ranks, scores and words, by asmk's steps before ``add_ivf_builder``."""
    params = method.params["query_ivf"]
    similarity = partial(builder.kernel.similarity, **params["similarity"])
    answers = []
    for _, rows in io_helpers.slice_unique(ids):
        words = assign(vecs[rows], method.codebook.centroids, params["quantize"]["multiple_assignment"])
        codes = builder.kernel.aggregate_image(vecs[rows], words, **params["aggregate"])
        answers.append((*builder.ivf.search(*codes, **params["search"], similarity_func=similarity), words))
    ranks, scores, words = zip(*answers, strict=True)
    return np.vstack(ranks), np.vstack(scores), np.vstack(words)


def one_line(call: Callable[[], Any]) -> str:
    with pytest.raises(HowlError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("times", [range(8), range(SECOND, SECOND + 80, 10)], ids=["counted", "Unix seconds"])
def test_a_keyframe_finds_the_earlier_one_of_its_place_and_is_added(trained: ASMKMethod, times: range) -> None:
    """Ask before adding, reuse the words of the query, and close the loop."""
    builder = trained.create_ivf_builder()
    found = []
    for time, place in zip(times, [0, 1, 2, 3, 1, 0, 4, 2], strict=True):
        vecs, ids = descriptors(place) + 0.1 * descriptors(time), time * np.ones(ROWS, np.int64)
        if builder.ivf.n_images:
            ranks, scores, words = ask(trained, builder, vecs, ids)
            assert ranks.shape == scores.shape == (1, builder.ivf.n_images)
            found.append(ranks[0][scores[0] > 0.1].tolist())
        else:
            words = assign(vecs, trained.codebook.centroids, 1)
        entries = builder.kernel.aggregate(vecs, words[:, :1], ids, **builder.step_params["aggregate"])
        builder.ivf.add(*entries)
    assert found == [[], [], [], [times[1]], [times[0]], [], [times[2]]]
    assert builder.ivf.n_images == len(times)


@pytest.mark.parametrize("topk", [None, 1, 3, 100])
@pytest.mark.parametrize("images", [(0, 3, 1), (SECOND, 3, 2 * SECOND)], ids=["small", "large"])
def test_search_gives_the_bits_of_query_ivf(trained: ASMKMethod, images: tuple[int, ...], topk: int | None) -> None:
    builder = trained.create_ivf_builder()
    for image in images:
        builder.add(*columns(image))
    step = PARAMS["query_ivf"] | {"search": {"topk": topk}}
    trained.params = PARAMS | {"query_ivf": step}
    query = columns(*images)[0] + np.float32(0.3), np.zeros(3 * ROWS, np.int64)
    ranks, scores, _ = ask(trained, builder, *query)
    _, _, expected_ranks, expected_scores = trained.add_ivf_builder(builder).query_ivf(*query)
    np.testing.assert_array_equal(ranks, expected_ranks)
    np.testing.assert_array_equal(scores, expected_scores)


def test_search_takes_any_similarity_and_gives_it_the_ids(trained: ASMKMethod) -> None:
    """As a system does that leaves out its latest keyframes."""
    builder = trained.create_ivf_builder()
    builder.add(*columns(SECOND, SECOND + 1, SECOND + 2))
    kernel = builder.kernel

    def earlier(code: NDArray, codes: NDArray, ids: NDArray) -> tuple[NDArray, NDArray]:
        old = ids < SECOND + 2
        return kernel.similarity(code, codes[old], ids[old], **SIMILARITY)

    vecs = descriptors(SECOND + 2)
    query = kernel.aggregate_image(vecs, trained.codebook.assign(vecs, 1))
    every = builder.ivf.search(*query, similarity_func=partial(kernel.similarity, **SIMILARITY))
    old = builder.ivf.search(*query, similarity_func=earlier)
    assert every[0][0] == SECOND + 2
    assert every[1][0] == pytest.approx(1)
    assert old[0][-1] == SECOND + 2
    assert old[1][-1] == 0
    assert dict(zip(*old, strict=True)) == dict(zip(*every, strict=True)) | {SECOND + 2: 0}


def test_one_image_is_aggregated_as_among_others(trained: ASMKMethod) -> None:
    kernel = trained.create_ivf_builder().kernel
    vecs, ids = columns(4, 9)
    words = trained.codebook.assign(vecs, 5)
    des, word_ids, image_ids = kernel.aggregate(vecs, words, ids)
    one_des, one_word_ids = kernel.aggregate_image(vecs[ids == 9], words[ids == 9])
    np.testing.assert_array_equal(one_des, des[image_ids == 9])
    np.testing.assert_array_equal(one_word_ids, word_ids[image_ids == 9])


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.25])
def test_similarity_is_that_of_the_signs(trained: ASMKMethod, threshold: float) -> None:
    kernel, random = trained.create_ivf_builder().kernel, np.random.default_rng(3)
    vecs = random.normal(size=(50, D)).astype(np.float32)
    codes = np.concatenate([kernel.aggregate_image(vec[None], [[0]])[0] for vec in vecs])
    signs = np.sign(vecs - trained.codebook.centroids[0]).astype(np.float64)
    plain = (signs @ signs[0]) / D
    ids, weights = kernel.similarity(codes[0], codes, np.arange(50), alpha=3.0, similarity_threshold=threshold)
    assert ids.tolist() == np.flatnonzero(plain >= threshold).tolist()
    np.testing.assert_allclose(weights, plain[ids] ** 3, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (np.zeros(ROWS, np.int64), "word ids are whole numbers [30, m] for 30 descriptors, not int64 (30,)"),
        (np.zeros((ROWS - 1, 1), np.int64), "not int64 (29, 1)"),
        (np.zeros((ROWS, 1)), "not float64"),
        (np.full((ROWS, 1), WORDS), "word id 100: the codebook has 100 words"),
        (np.full((ROWS, 1), -1), "word id -1"),
    ],
)
def test_words_that_are_none_of_the_codebooks_are_refused(trained: ASMKMethod, words: NDArray, part: str) -> None:
    kernel, (vecs, ids) = trained.create_ivf_builder().kernel, columns(0)
    assert part in one_line(lambda: kernel.aggregate_image(vecs, words))
    assert part in one_line(lambda: kernel.aggregate(vecs, words, ids))


def test_a_query_that_is_not_the_kernels_is_refused(trained: ASMKMethod) -> None:
    builder = trained.create_ivf_builder()
    builder.add(*columns(0))
    similarity = partial(builder.kernel.similarity, **SIMILARITY)
    vecs = descriptors(0)
    des, words = builder.kernel.aggregate_image(vecs, trained.codebook.assign(vecs, 1))
    for wrong in (
        (des.astype(np.uint32), words),
        (des[1:], words),
        (des, words + WORDS),
        (des, words.astype(int) - WORDS),
    ):
        line = one_line(lambda wrong=wrong: builder.ivf.search(*wrong, similarity_func=similarity))
        assert line.endswith("aggregate the descriptors again")
    assert "topk is 0" in one_line(lambda: builder.ivf.search(des, words, similarity_func=similarity, topk=0))


def test_nothing_is_found_in_nothing_and_by_nothing(trained: ASMKMethod) -> None:
    builder = trained.create_ivf_builder()
    similarity = partial(builder.kernel.similarity, **SIMILARITY)
    vecs, ids = columns(SECOND)
    query = builder.kernel.aggregate_image(vecs, trained.codebook.assign(vecs, 1))
    assert builder.ivf.n_images == 0
    assert builder.ivf.search(*query, similarity_func=similarity)[0].shape == (0,)
    builder.add(vecs, ids)
    nothing = builder.kernel.aggregate_image(vecs[:0], np.empty((0, 1), int))
    ranks, scores = builder.ivf.search(*nothing, similarity_func=similarity)
    assert (ranks.tolist(), scores.tolist()) == ([SECOND], [0])


def test_the_same_loop_gives_the_same_through_the_real_package(tmp_path: Path) -> None:
    theirs = pytest.importorskip("asmk", reason="the package asmk is not installed").ASMKMethod
    answers = []
    for package in (theirs, ASMKMethod):  # ours goes on from the codebook that theirs has learned and saved
        method = package.initialize_untrained(PARAMS).train_codebook(
            columns(*range(20))[0], cache_path=tmp_path / "pkl"
        )
        builder = method.create_ivf_builder()
        for image in range(12):
            builder.add(*columns(image))
        assert builder.ivf.n_images == 12
        ranks, scores, _ = ask(method, builder, *columns(3, 15, 16))
        answers.append(np.take_along_axis(scores, np.argsort(ranks, axis=1), axis=1))
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=1e-6)


# --------------------------------------------------------------------------- ids that are large


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_may_be_any_number_below_2_to_the_63(trained: ASMKMethod, dtype: type) -> None:
    images = (NUMBERS - 1, 0, SECOND, 2**31)
    vecs, ids = columns(*images)
    method = trained.build_ivf(vecs, ids.astype(dtype))
    _, queries, ranks, scores = method.query_ivf(vecs, ids)
    assert queries.tolist() == sorted(images)
    assert ranks[:, 0].tolist() == sorted(images)
    assert (np.diff(scores) <= 0).all()
    assert sorted(ranks[0].tolist()) == sorted(images)
    assert method.inverted_file.stats["images"] == method.inverted_file.n_images == 4


def test_scores_do_not_depend_on_the_ids(trained: ASMKMethod) -> None:
    (vecs, small), query = columns(0, 1, 2, 3), columns(5)
    answers = [trained.build_ivf(vecs, ids).query_ivf(*query) for ids in (small, small * 10**9 + SECOND)]
    np.testing.assert_array_equal(answers[1][2], answers[0][2] * 10**9 + SECOND)
    np.testing.assert_array_equal(answers[1][3], answers[0][3])


def test_large_ids_take_no_memory(trained: ASMKMethod) -> None:
    tracemalloc.start()
    try:
        method = trained.build_ivf(*columns(SECOND, 2**31 - 1, NUMBERS - 1))
        method.query_ivf(*columns(SECOND, 2**31 - 1))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_numbers_without_an_image_are_ranked_while_they_are_few(trained: ASMKMethod) -> None:
    query, full = columns(0), []
    for largest in (MAX_GAPS + 1, MAX_GAPS + 2):
        _, _, ranks, scores = trained.build_ivf(*columns(0, largest)).query_ivf(*query)
        full.append(ranks.shape[1])
        assert sorted(ranks[0, :2].tolist()) == [0, largest]
        assert not scores[0, 2:].any()
    assert full == [MAX_GAPS + 2, 2]


def test_an_image_is_added_once_whatever_its_id(trained: ASMKMethod) -> None:
    builder = trained.create_ivf_builder()
    builder.add(*columns(SECOND))
    assert one_line(lambda: builder.add(*columns(SECOND + 1, SECOND))).startswith(f"image {SECOND} is in the inverted")
    assert builder.ivf.n_images == 1


def test_large_ids_are_saved_and_loaded(tmp_path: Path, trained: ASMKMethod) -> None:
    images, path = (SECOND, NUMBERS - 1, 2), tmp_path / "ivf"
    built = trained.build_ivf(*columns(*images), cache_path=path)
    loaded = trained.build_ivf(None, None, cache_path=path)
    for ours, theirs in zip(built.query_ivf(*columns(2, 7))[1:], loaded.query_ivf(*columns(2, 7))[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    builder = trained.create_ivf_builder(cache_path=path)
    builder.add(*columns(SECOND + 1))
    builder.save()
    with closing(Index(path)) as index:
        assert sorted(index.ids()) == sorted(map(str, (*images, SECOND + 1)))


@pytest.mark.parametrize("id_", [str(NUMBERS), "-3", "007", "distractor 01", "distractor -1"])
def test_a_saved_id_that_is_no_images_number_is_refused(tmp_path: Path, trained: ASMKMethod, id_: str) -> None:
    path = tmp_path / "ivf"
    trained.build_ivf(*columns(1), cache_path=path)
    vecs = descriptors(1)
    des, words = trained.create_ivf_builder().kernel.aggregate_image(vecs, trained.codebook.assign(vecs, 1))
    with closing(Index(path)) as index:
        index.add([id_], [AsmkCodes(words, des)])
    assert "have names instead of numbers" in one_line(lambda: trained.build_ivf(None, None, cache_path=path))


def test_distractors_of_large_ids_follow_the_largest_image(tmp_path: Path, trained: ASMKMethod) -> None:
    path = tmp_path / "distractors"
    trained.build_ivf(*columns(SECOND, 5, 3 * SECOND), cache_path=path)
    builder = trained.create_ivf_builder()
    builder.initialize_with_distractors(path)
    assert one_line(lambda: builder.add(*columns(NUMBERS - 3))).endswith(f"stay below {NUMBERS - 3}; renumber them")
    builder.add(*columns(NUMBERS - 4, 8))
    assert builder.ivf.n_images == 5
    ranks = trained.add_ivf_builder(builder).query_ivf(*columns(NUMBERS - 4, 5, SECOND, 3 * SECOND))[2]
    assert ranks.dtype == np.int64
    assert ranks[:, 0].tolist() == [NUMBERS - 3, NUMBERS - 2, NUMBERS - 1, NUMBERS - 4]
