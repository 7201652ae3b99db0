"""The compiled loops against the same in NumPy, and their refusal of arrays that do not fit."""

import ctypes
import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native

RANDOM = np.random.default_rng
RunPython = Callable[..., subprocess.CompletedProcess[str]]


def random_codes(n: int, length: int, seed: int) -> NDArray[np.uint64]:
    return RANDOM(seed).integers(0, 2**64, (n, length), dtype=np.uint64)


def scored(lists: list[int], length: int, weights: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Totals of an inverted file with lists of these lengths, compiled and slow; every other word is asked for."""
    random = RANDOM(1)
    offsets = np.cumsum([0, *lists])
    words = np.sort(random.choice(3 * len(lists), len(lists), replace=False)).astype(np.uint32)
    images = np.concatenate([np.sort(random.choice(65_536, n, replace=False)) for n in lists] or [np.empty(0)])
    images = images.astype(np.uint16)
    codes = random_codes(len(images), length, 2)
    asked = np.union1d(words[::2], random.integers(0, 3 * len(lists) + 9, 5)).astype(np.uint32)
    query = random_codes(len(asked), length, 3)
    expected = np.zeros(65_536, np.int64)
    for word, begin, end in zip(words, offsets, offsets[1:], strict=False):
        for i in np.flatnonzero(asked == word):
            for entry in range(begin, end):
                expected[images[entry]] += weights[int(np.bitwise_count(codes[entry] ^ query[i]).sum())]
    return native.score(words, offsets, images, codes, asked, query, weights, 65_536), expected


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("last", [0.4, 0.5, 1.0])
def test_scores_equal_a_slow_sum(length: int, last: float) -> None:
    """Lists of every length around the sixteen entries of a step; codes beyond a distance have no weight."""
    weights = RANDOM(4).integers(-(2**40), 2**40, 64 * length + 1)
    weights[int(last * 64 * length) + 1 :] = 0
    found, expected = scored([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 5, 48], length, weights)
    np.testing.assert_array_equal(found, expected)
    assert found.any()


def test_a_list_longer_than_the_buffer_is_scored_whole() -> None:
    weights = np.arange(129)[::-1].copy()
    found, expected = scored([5000, 1, 4100], 2, weights)
    np.testing.assert_array_equal(found, expected)


def test_more_lists_than_are_looked_up_at_a_time_are_scored_all() -> None:
    found, expected = scored([3, 0, 20] * 500, 2, np.arange(129)[::-1].copy())
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize(
    "weight",
    [(2**32 - 1) // 3, (2**32 - 1) // 3 + 1, 2**40, 2**60 // 3, -(2**33) - 1],
    ids=["fits 32 bits", "just does not", "fits in larger units", "far too large", "negative"],
)
def test_sums_do_not_overflow(length: int, weight: int) -> None:
    """One image in three lists, its codes the query's: three times the weight of distance 0."""
    words, offsets = np.arange(3, dtype=np.uint32), np.arange(4)
    codes, images = random_codes(3, length, 5), np.full(3, 7, np.uint16)
    table = np.zeros(64 * length + 1, np.int64)
    table[0] = weight
    totals = native.score(words, offsets, images, codes, words, codes, table, 9)
    assert totals.tolist() == [0] * 7 + [3 * weight, 0]


def test_more_images_than_can_be_numbered_are_refused() -> None:
    none = np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty(0, np.uint16), np.empty((0, 2), np.uint64)
    with pytest.raises(ValueError, match="65537 images: at most 65536"):
        native.score(*none, none[0], none[3], np.zeros(129, np.int64), 65_537)


def test_without_lists_there_are_no_totals() -> None:
    found, expected = scored([], 2, np.ones(129, np.int64))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 500])
@pytest.mark.parametrize("top", [0, 1, 3, 10, 1000])
def test_the_best_equal_a_full_sort(n: int, top: int) -> None:
    """Few different totals, so that there are ties; some images are removed, some have no words."""
    random = RANDOM(n)
    totals = random.integers(-3, 9, n) << 38
    word_counts = random.integers(0, 4, n).astype(np.uint32)
    live = random.random(n) < 0.8
    inverse = np.divide(1, np.sqrt(word_counts), out=np.zeros(n), where=word_counts > 0)
    hits = native.best(totals, live, word_counts, inverse, 7, top)
    scores = [totals[i] * native.UNIT / np.sqrt(7.0 * word_counts[i]) if word_counts[i] else 0 for i in range(n)]
    expected = sorted((-scores[i], i) for i in range(n) if live[i] and scores[i] > 0)[:top]
    assert [(-float(hit["score"]), int(hit["image"])) for hit in hits] == expected


def test_a_word_outside_the_codebook_is_refused() -> None:
    descriptors, centroids = np.zeros((2, 8), np.float32), np.zeros((4, 8), np.float32)
    for word in (-1, 4):
        with pytest.raises(ValueError, match="not among the 4"):
            native.aggregate(descriptors, np.array([[0], [word]]), centroids)


def test_words_of_any_size_are_sorted() -> None:
    """Four digits of the sort, not only the two that a usual codebook needs."""
    size = 70_000
    words = RANDOM(0).integers(0, size, (50, 3))
    distinct, codes = native.aggregate(np.ones((50, 1), np.float32), words, np.zeros((size, 1), np.float32))
    np.testing.assert_array_equal(distinct, np.unique(words))
    assert (codes == 1).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"words": np.zeros(3, np.uint32)}, "offsets: expected the shape"),
        ({"words": np.arange(2)}, "argument 1: .*data type uint32"),
        ({"offsets": np.zeros(3, np.int32)}, "argument 2: .*data type int64"),
        ({"images": np.zeros(4, np.uint16)}, "codes: expected the shape"),
        ({"images": np.zeros((5, 1), np.uint16)}, "argument 4: .*1 dimension"),
        ({"codes": np.zeros((5, 4), np.uint64)[:, ::2]}, "argument 5: .*flags"),
        ({"query_codes": np.zeros((1, 3), np.uint64)}, "query_codes: expected the shape"),
        ({"weights": np.zeros(10, np.int64)}, "weights: expected the shape"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, NDArray], reason: str) -> None:
    """C would read beyond their ends."""
    fitting = {
        "words": np.arange(2, dtype=np.uint32),
        "offsets": np.array([0, 2, 5]),
        "images": np.zeros(5, np.uint16),
        "codes": np.zeros((5, 2), np.uint64),
        "query_words": np.zeros(1, np.uint32),
        "query_codes": np.zeros((1, 2), np.uint64),
        "weights": np.zeros(129, np.int64),
        "n": 1,
    }
    native.score(**fitting)
    with pytest.raises((ValueError, ctypes.ArgumentError), match=reason):
        native.score(**{**fitting, **change})


def test_a_read_only_array_is_not_written() -> None:
    words, codes, counts = np.zeros(1, np.uint32), np.zeros((1, 2), np.uint64), np.ones(1, np.uint32)
    images = np.zeros(1, np.uint16)
    images.setflags(write=False)
    with pytest.raises(ctypes.ArgumentError, match="WRITEABLE"):
        native.place(words, codes, None, counts, np.zeros(1, np.int64), images, codes.copy(), None)


def test_every_number_of_entries_is_placed_where_its_word_is() -> None:
    """Three images, words in any order; with where they lie, and without."""
    words = np.array([5, 1, 1, 5, 0], np.uint32)
    codes = np.arange(10, dtype=np.uint64).reshape(5, 2)
    images, placed, geometry = np.empty(5, np.uint16), np.empty((5, 2), np.uint64), np.empty(5, np.uint32)
    counts, own = np.array([2, 0, 3], np.uint32), np.arange(10, 15, dtype=np.uint32)
    for before, after in [(None, None), (own, geometry)]:
        cursors = np.array([0, 1, 3, 3, 3, 3])
        native.place(words, codes, before, counts, cursors, images, placed, after)
        assert images.tolist() == [2, 0, 2, 0, 2]
        assert placed[:, 0].tolist() == [8, 2, 4, 0, 6]
        assert cursors.tolist() == [1, 3, 3, 3, 3, 5]
    assert geometry.tolist() == [14, 11, 12, 10, 13]
    for wrong in itertools.permutations([1, 2, 3], 3):
        with pytest.raises(ValueError, match="the entries are not those"):
            native.place(words, codes, None, np.array(wrong, np.uint32), cursors, images, placed, None)
    for before, after in [(own, None), (None, geometry), (own[1:], geometry), (own, geometry[1:])]:
        with pytest.raises(ValueError, match="geometry: "):
            native.place(words, codes, before, counts, cursors, images, placed, after)


# ------------------------------------------------------------------------------------------------- lost pages

lost_pages = pytest.mark.skipif(os.name != "posix", reason="the system does not let a mapped file be truncated")

# The beginning of a program for a new process: `search()` reads a map of the file that is its argument.
MAPPED = """
import faulthandler, os, signal, sys
import numpy as np
from runtime import native
file = sys.argv[1]
np.ones(1 << 18, np.float16).tofile(file)
vectors = np.memmap(file, np.float16, "r").reshape(-1, 64)
def search():
    try:
        return native.products(vectors, np.ones(64, np.float32))[-1]
    except OSError as error:
        return str(error)
"""
LOST = "a file was truncated, or cannot be read any more"


@lost_pages
@pytest.mark.parametrize(
    ("before", "between"),
    [("", ""), ("faulthandler.enable()", ""), ("", "faulthandler.enable()")],
    ids=["alone", "after faulthandler", "before faulthandler"],
)
def test_a_search_survives_the_loss_of_a_page(tmp_path: Path, run_python: RunPython, before: str, between: str) -> None:
    code = f"{MAPPED}\n{before}\nprint(search())\n{between}\nos.truncate(file, 0); print(search()); print(search())"
    done = run_python(code, tmp_path / "vectors")
    assert (done.returncode, done.stdout.splitlines()) == (0, ["64.0", LOST, LOST])
    assert done.stderr == "" or between


@lost_pages
@pytest.mark.parametrize("handler", ["", "faulthandler.enable()"], ids=["none", "faulthandler"])
def test_any_other_loss_of_a_page_ends_the_process_as_ever(tmp_path: Path, run_python: RunPython, handler: str) -> None:
    code = f"{MAPPED}\n{handler}\nsearch(); os.truncate(file, 0); print(search(), flush=True); vectors.sum()"
    done = run_python(code, tmp_path / "vectors")
    assert (done.returncode, done.stdout.splitlines()) == (-signal.SIGBUS, [LOST])
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(handler)


@lost_pages
def test_a_signal_from_outside_comes_to_the_handler_of_before(tmp_path: Path, run_python: RunPython) -> None:
    code = "signal.signal(signal.SIGBUS, lambda *_: print('mine')); search(); os.kill(os.getpid(), signal.SIGBUS)"
    done = run_python(f"{MAPPED}\n{code}", tmp_path / "vectors")
    assert (done.returncode, done.stdout.splitlines()) == (0, ["mine"])


def test_images_are_not_taken_to_or_from_where_there_is_no_place() -> None:
    words, offsets, images = np.array([3], np.uint32), np.array([0, 2]), np.array([0, 1], np.uint16)
    codes, numbers = random_codes(2, 1, 0), np.full(65_536, -1, np.int32)
    numbers[:2] = [1, 0]
    taken = native.take(words, offsets, images, codes, numbers, np.array([1, 1]))
    assert [array.tolist() for array in taken] == [[3, 3], codes[::-1].tolist(), [1, 1]]
    fewer = native.take(words, offsets, images, codes, numbers, np.array([0, 1]))  # as in a damaged file
    assert [array.tolist() for array in fewer] == [[3], codes[:1].tolist(), [0, 1]]
    with pytest.raises(ValueError, match="no place"):
        native.take(words, offsets, images, codes, numbers, np.array([1]))
    with pytest.raises(ValueError, match="not among the 1"):
        native.compare(offsets, images, codes, np.zeros(65, np.int64), 1)
    for row in (-1, 2):
        with pytest.raises(ValueError, match="not among the 2"):
            native.take_rows(np.zeros((2, 3), np.float16), np.array([row]))
