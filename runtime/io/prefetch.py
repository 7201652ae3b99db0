"""Slow work, done before its results are needed."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

READERS = 2  # threads that read ahead: more would take cores from the code that uses the results


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = READERS
) -> Iterator[tuple[Item, Result]]:
    """Pairs of item and ``function(item)``, in order, computed ahead by ``threads`` threads.

    At most twice as many results wait in memory, however many items there are.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:

        def submit(count: int) -> list[tuple[Item, Future[Result]]]:
            return [(item, pool.submit(function, item)) for item in islice(items, count)]

        waiting = submit(2 * threads)
        while waiting:
            item, future = waiting.pop(0)
            waiting += submit(1)
            yield item, future.result()
