"""Reading ahead: in order, in parallel, and never far ahead."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from runtime.io.prefetch import prefetch_map

AHEAD = 4


def test_results_come_in_order_however_long_each_takes() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number**2

    assert list(prefetch_map(slow_at_first, range(30))) == [(n, n**2) for n in range(30)]


@pytest.mark.parametrize("items", [[], [1], [1, 2]])
def test_few_items_are_enough(items: list[int]) -> None:
    assert list(prefetch_map(str, items)) == [(n, str(n)) for n in items]


def test_items_are_worked_on_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)  # passes only when two threads stand before it
    assert len(list(prefetch_map(lambda _: meeting.wait(), range(2)))) == 2


def test_at_most_four_results_wait() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    results = prefetch_map(lambda number: number, endless())
    for number in range(20):
        assert next(results) == (number, number)
        assert len(taken) == number + 1 + AHEAD
    results.close()
    assert len(taken) == 20 + AHEAD


def test_a_failure_comes_out_at_its_item_and_not_before() -> None:
    def fails_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    results = prefetch_map(fails_at_three, range(10))
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_the_threads_end_with_the_results() -> None:
    before = threading.active_count()
    results = prefetch_map(str, range(100))
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
