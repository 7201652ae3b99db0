"""The inverted file: its arrays, and its scores at the edges."""

import numpy as np
import pytest

from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.first_stage import ASMK, MAX_IMAGES, Layout

D = 40
TABLE = selectivity(D, AsmkParameters())


def image(*words: int, seed: int = 0) -> AsmkCodes:
    """An image of ascending words, its codes drawn by the seed."""
    codes = pack_signs(np.random.default_rng(seed).normal(size=(len(words), D)))
    return AsmkCodes(np.array(words, np.uint32), codes)


def test_entries_are_sorted_by_word_and_by_image_within_a_word() -> None:
    images = [image(3, 9, seed=1), image(seed=2), image(1, 3, 200, seed=3)]
    built = InvertedFile.build(images, Layout(ASMK, D))
    assert len(built) == 3
    assert built.words.tolist() == [1, 3, 9, 200]
    assert built.offsets.tolist() == [0, 1, 3, 4, 5]
    assert built.images.tolist() == [2, 0, 2, 0, 2]
    assert built.word_counts.tolist() == [2, 0, 3]
    (a3, a9), (b1, b3, b200) = images[0].codes, images[2].codes
    np.testing.assert_array_equal(built.codes, [b1, a3, b3, a9, b200])
    dtypes = [array.dtype for array in (built.words, built.offsets, built.images, built.codes, built.word_counts)]
    assert dtypes == [np.uint32, np.int64, np.uint16, np.uint64, np.uint32]


def test_an_image_matches_itself_fully_whatever_stands_around_it() -> None:
    images = [image(*range(i, i + 5), seed=i) for i in range(20)]
    built = InvertedFile.build(images, Layout(ASMK, D))
    for number, query in enumerate(images):
        scores = built.scores(AsmkQuery(*query, TABLE))
        assert scores[number] == pytest.approx(1)
        assert scores.argmax() == number


@pytest.mark.parametrize("words", [(), (0,), (5, 6), (5_000_000,)], ids=["none", "below", "between", "beyond"])
def test_a_query_sharing_no_word_scores_zero(words: tuple[int, ...]) -> None:
    built = InvertedFile.build([image(3, 9), image(), image(10)], Layout(ASMK, D))
    scores = built.scores(AsmkQuery(*image(*words), TABLE))
    assert scores.dtype == np.float64
    assert scores.tolist() == [0, 0, 0]


@pytest.mark.parametrize("images", [[], [image()], [image(), image()]], ids=["no image", "one empty", "two empty"])
def test_a_file_without_entries_scores_zero(images: list[AsmkCodes]) -> None:
    built = InvertedFile.build(images, Layout(ASMK, D))
    assert built.codes.shape == (0, 1)
    assert built.scores(AsmkQuery(*image(1, 2), TABLE)).tolist() == [0] * len(images)


def test_the_last_image_of_a_full_file_keeps_its_number() -> None:
    first, last = image(1, seed=1), image(2, seed=2)
    built = InvertedFile.build([first] * (MAX_IMAGES - 1) + [last], Layout(ASMK, D))
    assert np.flatnonzero(built.scores(AsmkQuery(*last, TABLE))).tolist() == [MAX_IMAGES - 1]


def test_more_images_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="65537 images: an inverted file holds 65536 at most"):
        InvertedFile.build([image()] * (MAX_IMAGES + 1), Layout(ASMK, D))


def test_merged_files_are_the_file_of_the_images_that_are_kept() -> None:
    images = [image(*range(i % 3, 20, 1 + i % 4), seed=i) for i in range(9)] + [image()]
    parts = [
        InvertedFile.build(images[:4], Layout(ASMK, D)),
        InvertedFile.build([], Layout(ASMK, D)),
        InvertedFile.build(images[4:], Layout(ASMK, D)),
    ]
    kept = [np.array([True, False, True, True]), np.empty(0, bool), np.array([False, True, True, True, False, True])]
    expected = InvertedFile.build([images[i] for i in (0, 2, 3, 5, 6, 7, 9)], Layout(ASMK, D))
    merged = InvertedFile.merge(parts, kept)
    for name in ("words", "offsets", "images", "codes", "word_counts"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(expected, name))
        assert getattr(merged, name).dtype == getattr(expected, name).dtype
