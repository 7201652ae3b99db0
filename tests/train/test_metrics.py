"""Average precision and precision at k, against values worked out by hand."""

import pytest

from train.metrics import average_precision, positive_ranks, precision_at


@pytest.mark.parametrize(
    ("ranks", "positives", "by_hand"),
    [
        # Each positive adds the mean of the precisions before and at it.
        ([0, 2], 2, ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2),  # 0.7917; the usual average precision is 0.8333
        ([2, 0], 2, ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2),
        ([0], 1, 1.0),
        ([0, 1, 2], 3, 1.0),
        ([1], 1, (0 / 1 + 1 / 2) / 2),
        ([3, 4], 2, ((0 / 3 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2),
        ([0], 4, 1 / 4),  # positives that were not retrieved count
        ([], 3, 0.0),
    ],
)
def test_average_precision_is_trapezoidal(ranks: list[int], positives: int, by_hand: float) -> None:
    assert average_precision(ranks, positives) == pytest.approx(by_hand, abs=1e-12)


def test_the_published_example() -> None:
    assert average_precision([0, 2], 2) == pytest.approx(0.7917, abs=5e-5)


@pytest.mark.parametrize(
    ("ranking", "positives", "junk", "ranks"),
    [
        ([7, 3, 9, 1], [3, 1], [], [1, 3]),
        ([7, 3, 9, 1], [3, 1], [7], [0, 2]),  # junk leaves the ranking, and those behind move up
        ([7, 3, 9, 1], [3, 1], [9, 7, 100], [0, 1]),
        ([7, 3], [3, 8], [], [1]),
        ([7, 3], [8], [7], []),
        ([], [8], [7], []),
    ],
)
def test_ranks_are_counted_without_junk(ranking: list, positives: list, junk: list, ranks: list) -> None:
    assert positive_ranks(ranking, positives, junk).tolist() == ranks


def test_junk_neither_helps_nor_harms() -> None:
    with_junk = positive_ranks([50, 4, 51, 8, 52, 9], positives=[4, 9], junk=[50, 51, 52])
    assert average_precision(with_junk, 2) == average_precision([0, 2], 2)


@pytest.mark.parametrize(
    ("ranks", "k", "by_hand"),
    [
        ([0, 2], 1, 1.0),
        ([0, 2], 5, 2 / 3),  # nothing is expected behind the last positive: divided by 3, not by 5
        ([0, 1, 2], 10, 1.0),
        ([4], 5, 1 / 5),
        ([4], 3, 0.0),
        ([0, 20], 10, 1 / 10),
        ([], 5, 0.0),
    ],
)
def test_precision_at_k_divides_by_the_last_positive_if_that_comes_first(
    ranks: list[int], k: int, by_hand: float
) -> None:
    assert precision_at(ranks, k) == pytest.approx(by_hand, abs=1e-12)
