"""Doing slow reads ahead of whoever needs them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 2  # more take cores from whoever waits for the results


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Pairs of item and ``function(item)``, in order, worked out ahead by threads.

    At most four results wait in memory, however many items there are.
    """
    items = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:

        def submit(count: int) -> list[tuple[Item, Future[Result]]]:
            return [(item, pool.submit(function, item)) for item in islice(items, count)]

        waiting = submit(2 * THREADS)
        while waiting:
            item, future = waiting.pop(0)
            waiting += submit(1)
            yield item, future.result()
