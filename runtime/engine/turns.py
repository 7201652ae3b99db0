"""Callers of an engine at the same time: a few work, the others wait, and the last of many clears up."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

CLEAR_SECONDS = 5.0  # at least, from one clearing up to the next: the work after it is slower


class Turns:
    """Bounds how many threads work at a time, and with it their memory."""

    def __init__(
        self, places: int, clear_up: Callable[[], None] | None = None, *, clear_seconds: float = CLEAR_SECONDS
    ) -> None:
        """Lets ``places`` threads work at a time.

        Args:
            places: threads that work at a time.
            clear_up: called by the last of several threads, when none works or waits any more; never for a single one,
                which leaves no more behind than it needs again.
            clear_seconds: at least, from one call of ``clear_up`` to the next.
        """
        self._places = BoundedSemaphore(places)
        self._clear_up = clear_up
        self._clear_seconds = clear_seconds
        self._lock = Lock()
        self._callers = 0  # that work or wait
        self._is_crowded = False  # whether there were several at once since the last clearing up
        self._cleared = -math.inf

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block that waits until it may run. One thread takes one turn at a time."""
        with self._lock:
            self._callers += 1
            self._is_crowded = self._is_crowded or self._callers > 1
        try:
            with self._places:
                yield
        finally:
            if self._leave() and self._clear_up is not None:
                self._clear_up()

    def _leave(self) -> bool:
        """Whether the thread that leaves is to clear up."""
        with self._lock:
            self._callers -= 1
            now = time.monotonic()
            if self._callers or not self._is_crowded or now - self._cleared < self._clear_seconds:
                return False
            self._is_crowded, self._cleared = False, now
            return True
