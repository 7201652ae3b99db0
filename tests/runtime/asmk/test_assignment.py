"""The nearest words, by both ways, against all distances in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native
from runtime.asmk import assignment
from runtime.asmk.assignment import GROUPS, ROW_BATCH, ExactSearch, RoundedSearch, smallest_in_rows
from runtime.asmk.codebook import Codebook

needs_avx512 = pytest.mark.skipif(not native.CAN_ASSIGN, reason="this processor has no AVX-512 VNNI")
BOTH = [ExactSearch, pytest.param(RoundedSearch, marks=needs_avx512)]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def coarse(array: NDArray[np.float32], step: float = 1 / 64) -> NDArray[np.float32]:
    """Rounded to so few bits that float32 works out every distance without error: what is nearest is beyond doubt."""
    return np.round(array / step).astype(np.float32) * np.float32(step)


def assert_nearest(found: NDArray, descriptors: NDArray, centroids: NDArray) -> None:
    """Against all distances in float64, sorted; words at equal distance may stand in any order."""
    for words, x in zip(found, descriptors.astype(np.float64), strict=True):
        distances = np.square(centroids.astype(np.float64) - x).sum(axis=1)
        assert len(set(words.tolist())) == len(words)
        np.testing.assert_array_equal(distances[words], np.sort(distances)[: len(words)])


@pytest.mark.parametrize("search", BOTH)
@pytest.mark.parametrize(
    ("words", "m", "dimensions"),
    [
        (1, 1, 3),
        (7, 7, 24),
        (64, 5, 24),  # a whole panel, and one more
        (65, 20, 3),
        (2 * GROUPS, 5, 24),
        (3 * GROUPS + 5, 20, 24),
        (4 * GROUPS, 1, 3),
        (4 * GROUPS, 20, 24),
    ],
)
def test_assignment_is_exact_and_nearest_first(search: type, words: int, m: int, dimensions: int) -> None:
    centroids, descriptors = coarse(normal(words, dimensions)), coarse(normal(61, dimensions, seed=1))
    found = search(centroids).nearest(descriptors, m)
    assert found.dtype == np.int64
    assert found.shape == (61, m)
    assert_nearest(found, descriptors, centroids)


def test_words_that_crowd_into_one_group_are_all_found() -> None:
    """The nearest words of every descriptor lie in the same group of columns, the hard case for a search by groups."""
    centroids = 100 + coarse(normal(4 * GROUPS, 8))
    centroids[3::GROUPS] -= 100
    descriptors = coarse(normal(40, 8, seed=1))
    found = ExactSearch(centroids).nearest(descriptors, 4)
    assert {word % GROUPS for word in found.ravel().tolist()} == {3}
    assert_nearest(found, descriptors, centroids)


def test_the_smallest_of_a_row_that_is_all_ties_are_distinct_columns() -> None:
    found = smallest_in_rows(np.zeros((2, 4 * GROUPS), np.float32), 5)
    assert [len(set(row)) for row in found.tolist()] == [5, 5]


def test_the_bound_of_memory_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(values: NDArray, m: int) -> NDArray:
        sizes.append(values.shape)
        return smallest_in_rows(values, m)

    monkeypatch.setattr(assignment, "smallest_in_rows", spy)
    monkeypatch.setattr(native, "CAN_ASSIGN", False)
    Codebook(normal(8, 4)).assign(normal(ROW_BATCH + 1, 4), 1)
    assert sizes == [(ROW_BATCH, 8), (1, 8)]


# --------------------------------------------------------------------------------------- where rounding is hard


@needs_avx512
def test_words_closer_than_the_rounding_are_told_apart() -> None:
    """One word far away makes the 8-bit steps so coarse that all others round to one or two points."""
    centroids = coarse(normal(500, 16), step=2**-10)
    centroids[0] = 40
    descriptors = coarse(normal(30, 16, seed=1), step=2**-10)
    found = Codebook(centroids).assign(descriptors, 5)
    assert_nearest(found, descriptors, centroids)


@needs_avx512
def test_rows_with_too_many_candidates_are_given_up_and_done_exactly() -> None:
    """Thousands of words within a rounding step: more than the 8-bit search keeps."""
    centroids = coarse(0.01 * normal(5000, 8), step=2**-16)
    centroids[0] = 100
    descriptors = coarse(0.01 * normal(10, 8, seed=1), step=2**-16)
    assert (RoundedSearch(centroids).nearest(descriptors, 5)[:, 0] == -1).all()
    assert_nearest(Codebook(centroids).assign(descriptors, 5), descriptors, centroids)


@needs_avx512
def test_descriptors_far_outside_the_words_are_exact_too() -> None:
    """They are clipped when rounded, and the error of it is known."""
    centroids = coarse(normal(300, 8))
    descriptors = coarse(50 * normal(20, 8, seed=1))
    assert_nearest(Codebook(centroids).assign(descriptors, 5), descriptors, centroids)


@needs_avx512
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_descriptor_that_is_no_number_spoils_no_other(bad: float) -> None:
    centroids, descriptors = coarse(normal(300, 8)), coarse(normal(20, 8, seed=1))
    expected = Codebook(centroids).assign(descriptors, 3)
    descriptors[4] = bad
    found = Codebook(centroids).assign(descriptors, 3)
    others = np.arange(20) != 4
    np.testing.assert_array_equal(found[others], expected[others])
    assert ((found >= 0) & (found < 300)).all()


@needs_avx512
def test_words_that_are_all_equal_are_given_in_order() -> None:
    found = Codebook(np.ones((100, 8), np.float32)).assign(np.zeros((2, 8), np.float32), 4)
    assert found.tolist() == [[0, 1, 2, 3]] * 2
