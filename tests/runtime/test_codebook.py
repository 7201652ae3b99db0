"""The codebook: exact assignment, k-means, and its file."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import codebook as codebook_module
from runtime.codebook import GROUPS, ROWS_AT_ONCE, Codebook, learn_codebook, smallest_in_rows
from runtime.errors import HowlError


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


@pytest.mark.parametrize(
    "words",
    [1, 2, 7, 64, 2 * GROUPS, 3 * GROUPS + 5, 4 * GROUPS],
    ids=lambda words: f"{words} words",
)
@pytest.mark.parametrize("m", [1, 5, 20])
def test_assignment_is_exact_and_nearest_first(words: int, m: int) -> None:
    centroids, descriptors = coarse(normal(words, 24)), coarse(normal(60, 24, seed=1))
    found = Codebook(centroids).assign(descriptors, m)
    assert found.dtype == np.int64
    assert found.shape == (60, min(m, words))
    assert_nearest(found, descriptors, centroids)


def test_words_that_crowd_into_one_group_are_all_found() -> None:
    """The nearest words of every descriptor lie in the same group of columns, the hard case for a search by groups."""
    centroids = 100 + coarse(normal(4 * GROUPS, 8))
    centroids[3::GROUPS] -= 100
    descriptors = coarse(normal(40, 8, seed=1))
    found = Codebook(centroids).assign(descriptors, 4)
    assert {word % GROUPS for word in found.ravel().tolist()} == {3}
    assert_nearest(found, descriptors, centroids)


@pytest.mark.parametrize("words", [6, 4 * GROUPS])
def test_more_assignments_than_words_give_all_words(words: int) -> None:
    centroids, descriptors = coarse(normal(words, 4)), coarse(normal(3, 4, seed=1))
    found = Codebook(centroids).assign(descriptors, words + 10)
    assert found.shape == (3, words)
    assert_nearest(found, descriptors, centroids)


def test_rows_come_out_in_order_across_blocks() -> None:
    centroids, descriptors = coarse(normal(16, 4)), coarse(normal(2 * ROWS_AT_ONCE + 3, 4, seed=1))
    assert_nearest(Codebook(centroids).assign(descriptors, 2), descriptors, centroids)


def test_no_descriptors_have_no_words() -> None:
    assert Codebook(normal(16, 4)).assign(np.empty((0, 4), np.float32), 5).shape == (0, 5)


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_descriptors_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(HowlError, match="do not fit a codebook of 4 dimensions"):
        Codebook(normal(16, 4)).assign(normal(*shape), 1)


def test_the_smallest_of_a_row_that_is_all_ties_are_distinct_columns() -> None:
    found = smallest_in_rows(np.zeros((2, 4 * GROUPS), np.float32), 5)
    assert [len(set(row)) for row in found.tolist()] == [5, 5]


# ------------------------------------------------------------------------------------------------- learning


def test_learning_is_repeatable_and_its_seed_counts() -> None:
    pytest.importorskip("faiss", reason="learning a codebook needs faiss")
    descriptors = normal(512, 8)
    first, again, other = (learn_codebook(descriptors, 16, seed=seed).centroids for seed in (1, 1, 2))
    assert first.shape == (16, 8)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_learned_words_lie_where_the_descriptors_do() -> None:
    pytest.importorskip("faiss", reason="learning a codebook needs faiss")
    centres = 10 * np.eye(4, 8, dtype=np.float32)
    descriptors = np.repeat(centres, 50, axis=0) + 0.1 * normal(200, 8)
    learned = learn_codebook(descriptors, 4, seed=0)
    distances = np.linalg.norm(centres[:, None] - learned.centroids, axis=2)
    assert sorted(distances.argmin(axis=1).tolist()) == [0, 1, 2, 3]
    assert (distances.min(axis=1) < 0.2).all()


@pytest.mark.parametrize(
    ("descriptors", "wanted", "words"), [(1, 1024, 1), (63, 1024, 1), (64, 1024, 2), (300, 1024, 8), (640, 5, 5)]
)
def test_few_descriptors_shrink_the_codebook_to_a_power_of_two(descriptors: int, wanted: int, words: int) -> None:
    pytest.importorskip("faiss", reason="learning a codebook needs faiss")
    assert len(learn_codebook(normal(descriptors, 8), wanted, seed=0)) == words


def test_no_descriptors_teach_nothing() -> None:
    pytest.importorskip("faiss", reason="learning a codebook needs faiss")
    with pytest.raises(HowlError, match="no descriptors to learn a codebook from"):
        learn_codebook(np.empty((0, 8), np.float32), 16, seed=0)


# ------------------------------------------------------------------------------------------------- the file


def test_a_saved_codebook_is_the_same_when_loaded(tmp_path: Path) -> None:
    path = tmp_path / "engine.codebook.npy"
    saved = Codebook(normal(16, 4))
    saved.save(path)
    loaded = Codebook.load(path)
    np.testing.assert_array_equal(loaded.centroids, saved.centroids)
    assert (len(loaded), loaded.dimensions) == (16, 4)


def save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=normal(4, 4))


def save_array(array: NDArray) -> object:
    return lambda path: np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"hello, this is no array"),
        lambda path: path.write_bytes(b"PK\x03\x04 something like a zip"),
        lambda path: path.mkdir(),
        save_npz,
        save_array(np.array([{}], object)),
        save_array(normal(16)),
        save_array(normal(4, 4).astype(np.float64)),
    ],
    ids=["missing", "empty", "text", "like a zip", "folder", "npz", "objects", "one-dimensional", "float64"],
)
def test_a_file_that_is_no_codebook_is_named(tmp_path: Path, write: object) -> None:
    path = tmp_path / "engine.codebook.npy"
    write(path)
    with pytest.raises(HowlError) as caught:
        Codebook.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_codebook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.codebook.npy"
    Codebook(normal(16, 4)).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(HowlError, match="not a codebook"):
        Codebook.load(path)


def test_the_bound_of_memory_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(values: NDArray, m: int) -> NDArray:
        sizes.append(values.shape)
        return smallest_in_rows(values, m)

    monkeypatch.setattr(codebook_module, "smallest_in_rows", spy)
    Codebook(normal(8, 4)).assign(normal(ROWS_AT_ONCE + 1, 4), 1)
    assert sizes == [(ROWS_AT_ONCE, 8), (1, 8)]
