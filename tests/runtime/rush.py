"""Many threads at once at a place that lets in a few."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 8
PATIENCE = 10.0  # seconds, for what is bound to happen
MOMENT = 0.05  # seconds, for what is not to happen


class Room:
    """Keeps everyone who enters until ``size`` are in, and notes if one more comes in meanwhile."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._inside = 0
        self._lock = threading.Lock()
        self._is_full, self._is_overfull, self._is_open = threading.Event(), threading.Event(), threading.Event()

    def enter(self, *_: Any) -> None:
        with self._lock:
            self._inside += 1
            if self._inside >= self._size:
                self._is_full.set()
            if self._inside > self._size:
                self._is_overfull.set()
        self._is_open.wait(PATIENCE)
        with self._lock:
            self._inside -= 1

    def assert_bounds(self, visit: Callable[[], object]) -> None:
        """Asserts that of many threads that ``visit`` it, as many as it is large are inside at once, and no more."""
        with ThreadPoolExecutor(THREADS) as pool:
            visits = [pool.submit(visit) for _ in range(THREADS)]
            was_full, was_overfull = self._is_full.wait(PATIENCE), self._is_overfull.wait(MOMENT)
            self._is_open.set()
        assert was_full
        assert not was_overfull
        assert not self._is_overfull.is_set()
        for each in visits:
            each.result()
