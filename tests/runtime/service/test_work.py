"""Many callers at a few threads: what waits is bounded, and nobody is worked for who is gone."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from fastapi.testclient import TestClient
from starlette.requests import Request

from runtime import Retriever
from runtime.service.refusals import CLOSED, RefusedError
from runtime.service.work import Job, Workers

MOMENT, PATIENCE = 0.2, 10.0  # seconds: for what is not to happen, and for what is bound to


def request(gone: asyncio.Event | None = None) -> Request:
    """A request whose body has been read, of a caller who waits until ``gone``."""

    async def receive() -> dict[str, str]:
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def run(work: Callable[[Workers], Awaitable[None]], *, threads: int = 1, timeout: float = PATIENCE) -> None:
    workers = Workers("test", threads, 2, timeout)

    async def bounded() -> None:
        await asyncio.wait_for(work(workers), PATIENCE)

    try:
        asyncio.run(bounded())
    finally:
        workers.close()


def test_places_are_bounded_and_given_back() -> None:
    workers = Workers("test", 1, 2, 1.0)
    with workers.place(), workers.place(), workers.place():
        with pytest.raises(RefusedError) as refused, workers.place():
            pass
        assert refused.value.status == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
        assert workers.waiting == 3
    with pytest.raises(ZeroDivisionError), workers.place():
        raise ZeroDivisionError
    assert workers.waiting == 0


def test_work_of_a_caller_who_hangs_up_while_it_waits_is_never_begun() -> None:
    begun: list[str] = []
    release = threading.Event()

    async def work(workers: Workers) -> None:
        first = asyncio.create_task(workers.run(request(), lambda job: release.wait(PATIENCE)))
        gone = asyncio.Event()
        second = asyncio.create_task(workers.run(request(gone), lambda job: begun.append("second")))
        third = asyncio.create_task(workers.run(request(), lambda job: begun.append("third")))
        await asyncio.sleep(MOMENT)
        gone.set()
        with pytest.raises(RefusedError) as refused:
            await second
        assert refused.value.status == CLOSED
        release.set()
        await asyncio.gather(first, third)

    run(work)
    assert begun == ["third"]


def test_work_of_a_caller_who_hangs_up_while_it_runs_ends_at_the_next_stage() -> None:
    stages: list[str] = []
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def search(job: Job) -> None:
        try:
            for stage in ("decode", "extract", "search"):
                stages.append(stage)
                started.set()
                assert stage == "decode" or release.is_set()
                release.wait(PATIENCE)
                job.lap(stage)
        finally:
            ended.set()

    async def work(workers: Workers) -> None:
        gone = asyncio.Event()
        task = asyncio.create_task(workers.run(request(gone), search))
        await asyncio.to_thread(started.wait, PATIENCE)
        gone.set()
        with pytest.raises(RefusedError):
            await task
        release.set()
        assert await asyncio.to_thread(ended.wait, PATIENCE)

    run(work)
    assert stages == ["decode"]


@pytest.mark.parametrize(("is_written", "words"), [(False, "not done within"), (True, "may have changed all the same")])
def test_what_takes_too_long_is_504_and_what_waits_too_long_503(is_written: bool, words: str) -> None:
    release = threading.Event()

    async def work(workers: Workers) -> None:
        tasks = [
            asyncio.create_task(workers.run(request(), lambda job: release.wait(PATIENCE), is_written=is_written))
            for _ in range(2)
        ]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        release.set()
        assert [each.status for each in found if isinstance(each, RefusedError)] == [504, 503]
        assert words in str(found[0])

    run(work, timeout=5 * MOMENT)


def test_what_work_raises_is_raised() -> None:
    async def work(workers: Workers) -> None:
        with pytest.raises(ZeroDivisionError):
            await workers.run(request(), lambda job: 1 // 0)
        assert await workers.run(request(), lambda job: 3) == 3

    run(work)


def test_a_rush_is_answered_or_told_to_come_back(
    serve: Callable[..., TestClient], retriever: Retriever, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are worked on and three wait until the other seven are refused."""
    at_work, most, lock, release = 0, 0, threading.Lock(), threading.Event()
    search = retriever.search

    def slow(*arguments: object, **how: object) -> object:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        release.wait(PATIENCE)
        with lock:
            at_work -= 1
        return search(*arguments, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(retriever, "search", slow)
    client, photo = serve(workers=2, queue=3), (root / "photo0.png").read_bytes()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.post, "/search", content=photo) for _ in range(12)]
        deadline = time.monotonic() + PATIENCE
        while sum(each.done() for each in asked) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        release.set()
    found = [each.result() for each in asked]
    assert sorted(response.status_code for response in found) == [200] * 5 + [503] * 7
    assert most == 2
    assert all(int(each.headers["retry-after"]) >= 1 for each in found if each.status_code == 503)
    assert client.post("/search", content=photo).status_code == 200
