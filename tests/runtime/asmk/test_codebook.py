"""The codebook: exact assignment, k-means, and its file."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.assignment import ROW_BATCH
from runtime.asmk.codebook import KMEANS_SAMPLE, Codebook, few_of_each, kmeans, learn_codebook
from runtime.errors import HowlError


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_more_assignments_than_words_give_all_words() -> None:
    found = Codebook(normal(6, 4)).assign(normal(3, 4, seed=1), 16)
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 2, 3, 4, 5]] * 3


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_come_out_in_order_across_blocks(threads: int) -> None:
    centroids = normal(16, 4)
    found = Codebook(centroids).assign(np.tile(centroids, (ROW_BATCH // 5, 1)), 1, threads=threads)
    assert found[:, 0].tolist() == list(range(16)) * (ROW_BATCH // 5)


def test_no_descriptors_have_no_words() -> None:
    assert Codebook(normal(16, 4)).assign(np.empty((0, 4), np.float32), 5).shape == (0, 5)


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_descriptors_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(HowlError, match="do not fit a codebook of 4 dimensions"):
        Codebook(normal(16, 4)).assign(normal(*shape), 1)


# ------------------------------------------------------------------------------------------------- learning


def test_learning_is_repeatable_and_its_seed_counts() -> None:
    descriptors = normal(512, 8)
    first, again, other = (learn_codebook(descriptors, 16, seed=seed).centroids for seed in (1, 1, 2))
    assert first.shape == (16, 8)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_learned_words_lie_where_the_descriptors_do() -> None:
    centres = 10 * np.eye(4, 8, dtype=np.float32)
    descriptors = np.repeat(centres, 50, axis=0) + 0.1 * normal(200, 8)
    learned = learn_codebook(descriptors, 4, seed=0)
    distances = np.linalg.norm(centres[:, None] - learned.centroids, axis=2)
    assert sorted(distances.argmin(axis=1).tolist()) == [0, 1, 2, 3]
    assert (distances.min(axis=1) < 0.2).all()


def slow_kmeans_step(centroids: NDArray, descriptors: NDArray) -> NDArray:
    nearest = [int(np.square(centroids - x).sum(axis=1).argmin()) for x in descriptors]
    return np.stack([descriptors[np.array(nearest) == word].mean(axis=0) for word in range(len(centroids))])


def test_learned_words_are_the_means_of_their_descriptors() -> None:
    """What ten rounds of Lloyd's algorithm arrive at hardly changes any more."""
    centres = 10 * normal(8, 6, seed=1)
    descriptors = np.repeat(centres, 64, axis=0) + normal(8 * 64, 6)
    learned = learn_codebook(descriptors, 8, seed=3).centroids
    np.testing.assert_allclose(slow_kmeans_step(learned, descriptors), learned, atol=0.2)


def test_equal_descriptors_still_give_every_word_a_place() -> None:
    """All but one word are empty in the first round: they take their share of the full one."""
    learned = kmeans(np.ones((256, 4), np.float32), 8, seed=0)
    assert learned.centroids.shape == (8, 4)
    assert np.isfinite(learned.centroids).all()
    np.testing.assert_allclose(learned.centroids, 1, rtol=0.1)


def test_no_more_descriptors_are_looked_at_than_a_codebook_needs() -> None:
    """The sample is drawn from all of them, not from the first ones."""
    descriptors = np.concatenate([np.zeros((500, 2)), np.ones((500, 2))]).astype(np.float32)
    learned = kmeans(descriptors, 2, seed=0)
    assert sorted(learned.centroids[:, 0].round(2).tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("descriptors", "wanted", "words"), [(1, 1024, 1), (63, 1024, 1), (64, 1024, 2), (300, 1024, 8), (640, 5, 5)]
)
def test_few_descriptors_shrink_the_codebook_to_a_power_of_two(descriptors: int, wanted: int, words: int) -> None:
    assert len(learn_codebook(normal(descriptors, 8), wanted, seed=0)) == words


def test_no_descriptors_teach_nothing() -> None:
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


@pytest.mark.parametrize(
    "centroids",
    [
        np.full((4, 8), np.nan, np.float32),
        np.array([[0, np.inf]], np.float32),
        np.empty((0, 8), np.float32),
        np.empty((4, 0), np.float32),
        np.zeros((4, 8)),
        np.zeros(8, np.float32),
        np.zeros((4, 8), object),
    ],
    ids=["NaN", "infinite", "no words", "no dimensions", "float64", "one axis", "objects"],
)
def test_a_codebook_that_is_no_table_of_numbers_is_refused(tmp_path: Path, centroids: np.ndarray) -> None:
    np.save(tmp_path / "words.npy", centroids, allow_pickle=True)
    with pytest.raises(HowlError, match=r"words\.npy: (a|not a) codebook"):
        Codebook.load(tmp_path / "words.npy")


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.zeros((10, 128), np.float32))
    content = (tmp_path / "words.npy").read_bytes()
    claims = content.replace(b"(10, 128)", b"(1000000000, 128)").replace(b" " * 8 + b"\n", b"\n")
    (tmp_path / "words.npy").write_bytes(claims)
    with pytest.raises(HowlError, match="not a codebook"):
        Codebook.load(tmp_path / "words.npy")


def test_few_of_each_are_as_many_as_the_words_need_and_from_every_photo() -> None:
    photos = [np.full((size, 4), number, np.float32) for number, size in enumerate((3, 500, 2000))]
    kept = few_of_each(iter(photos), 3, words=6, seed=0)
    assert [len(each) for each in kept] == [3, 2 * KMEANS_SAMPLE, 2 * KMEANS_SAMPLE]
    assert [float(each.mean()) for each in kept] == [0, 1, 2]
    assert not few_of_each([], 0, words=6, seed=0)
