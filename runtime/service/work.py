"""The work of a server: a few threads, a bounded queue before them, and no work for callers who are gone."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from runtime.service.refusals import CLOSED, RefusedError

Result = TypeVar("Result")

SMOOTHING = 0.9  # of the mean time of a job, from one to the next
MAX_RETRY = 60  # seconds


class AbandonedError(Exception):
    """Nobody waits for a job any more."""


class Job:
    """One piece of work, in a worker's thread.

    Attributes:
        stages: milliseconds of each stage; ``wait`` is the time before it began.
    """

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._since = time.perf_counter()
        self._is_abandoned = False

    def lap(self, stage: str) -> None:
        """Ends a stage. Raises AbandonedError if nobody waits any more."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0) + 1e3 * (now - self._since)
        self._since = now
        if self._is_abandoned:
            raise AbandonedError

    def abandon(self) -> None:
        """Ends the job at its next lap."""
        self._is_abandoned = True


class Workers:
    """A few threads and the requests that wait for them. All methods belong to the event loop."""

    def __init__(self, name: str, threads: int, queue: int, timeout: float) -> None:
        """Starts nothing yet.

        Args:
            name: of the threads.
            threads: jobs at a time.
            queue: requests that wait besides.
            timeout: seconds from the end of a request to its answer.
        """
        self.threads, self.queue, self.timeout = threads, queue, timeout
        self._pool = ThreadPoolExecutor(threads, name)
        self._places = 0  # requests, from their first byte to their answer
        self._running = 0
        self._mean = 0.0  # seconds of a job

    @property
    def waiting(self) -> int:
        """Requests that are being received, or wait."""
        return max(0, self._places - self._running)

    @property
    def running(self) -> int:
        """Jobs that a thread works on."""
        return self._running

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, taken before its body is read: what waits is bounded, and so is its memory.

        Raises:
            RefusedError: there is none; 503, with a guess when there will be one.
        """
        if self._places >= self.threads + self.queue:
            seconds = min(MAX_RETRY, max(1, math.ceil(self._places * self._mean / self.threads)))
            raise RefusedError(
                503, f"{self._places} requests wait already; try again in {seconds} s", {"Retry-After": str(seconds)}
            )
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    async def run(self, request: Request, work: Callable[[Job], Result], *, is_written: bool = False) -> Result:
        """The result of ``work``, done by one of the threads.

        If the caller hangs up or the time is over, work that waits is never begun, and work that runs ends at its next
        lap.

        Args:
            request: whose body has been read.
            work: is given its ``Job``.
            is_written: whether work that runs changes the index, and may have done so when the time is over.

        Raises:
            RefusedError: the caller is gone, or the time is over.
        """
        loop, job = asyncio.get_running_loop(), Job()

        def begin() -> Result:
            loop.call_soon_threadsafe(self._count, 1)
            try:
                job.lap("wait")
                begun = time.perf_counter()
                result = work(job)
                self._mean += (1 - SMOOTHING) * (time.perf_counter() - begun - self._mean)
                return result
            finally:
                loop.call_soon_threadsafe(self._count, -1)

        answer = asyncio.wrap_future(self._pool.submit(begin))
        gone = asyncio.create_task(until_gone(request))
        try:
            waiting: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(waiting, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
        finally:
            gone.cancel()
            if not answer.done():
                job.abandon()
                answer.cancel()
        if gone.done() and not gone.cancelled():
            raise RefusedError(CLOSED, "the caller is gone")
        if "wait" not in job.stages:
            raise RefusedError(503, f"waited {self.timeout:g} s, and others were still before it; try again")
        unsure = "; the index may have changed all the same" if is_written else ""
        raise RefusedError(504, f"not done within {self.timeout:g} s{unsure}")

    def close(self) -> None:
        """Waits for the jobs that run; none of the others is begun."""
        self._pool.shutdown(cancel_futures=True)

    def _count(self, change: int) -> None:
        self._running += change


async def until_gone(request: Request) -> None:
    """Returns when the caller hangs up. The request's body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
