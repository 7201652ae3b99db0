"""Kills writers of an index, at random moments or at every step, and looks at what they leave behind.

Run by `test_index_kills.py` as a program of its own: it forks its writers, which a process with threads must not. Each
writer thus starts within milliseconds, with everything imported. Prints what it counted, as JSON.

    python index_kills.py random PATH SEED KILLS
    python index_kills.py steps PATH
    python index_kills.py creation PATH
    python index_kills.py full PATH
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from index_images import assert_holds, make_images, new_index

import runtime.index
import runtime.index.merging
from runtime.errors import HowlError
from runtime.index import Index

Operation = tuple[str, list[int]]  # add, replace, remove, compact or swap, and the images


def perform(index: Index, operation: Operation) -> None:
    kind, seeds = operation
    ids, images = make_images(*seeds)
    if kind in ("add", "replace"):
        index.add(ids, images, existing="replace")
    elif kind == "remove":
        index.remove(ids)
    elif kind == "compact":
        index.compact()
    else:
        Index.replace(index.path, beside(index.path))
        index.refresh()


def outcome(held: list[int], operation: Operation) -> list[int]:
    """What an index holds after an operation."""
    kind, seeds = operation
    kept = [seed for seed in held if kind not in ("remove", "replace") or seed not in seeds]
    return kept + seeds if kind in ("add", "replace") else kept


Both = tuple[list[int], list[int]]  # what an index holds, and what the one beside it, which it is swapped with


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.beside")


def outcome_of_both(held: Both, operation: Operation) -> Both:
    live, other = held
    return (other, live) if operation[0] == "swap" else (outcome(live, operation), other)


# ------------------------------------------------------------------------------------------- random moments


# How often a writer adds, removes and compacts, so that it soon comes to the moment at which it is to be killed.
KINDS = ("add", "remove", "compact", "replace", "swap")
MOMENTS = {
    "add": (0.6, 0.2, 0.1, 0.05, 0.05),
    "merge": (0.8, 0.2, 0, 0, 0),
    "remove": (0.4, 0.5, 0.05, 0, 0.05),
    "compact": (0.4, 0.3, 0.3, 0, 0),
    "replace": (0.4, 0.1, 0.1, 0.4, 0),
    "swap": (0.4, 0.1, 0.1, 0, 0.4),
}


def operations(held: Both, random: np.random.Generator, moment: str) -> Iterator[Operation]:
    """Endless operations on an index that stays small, and on the one beside it."""
    following = max((seed for each in held for seed in each), default=0) + 1
    while True:
        kind, live = str(random.choice(KINDS, p=MOMENTS[moment])), held[0]
        seeds: list[int] = []
        if kind == "add":
            seeds = list(range(following, following + int(random.integers(1, 3))))
            following = seeds[-1] + 1
        elif kind in ("remove", "replace") and live:
            some = min(len(live), random.integers(1, len(live) // 2 + 2))
            seeds = [int(seed) for seed in random.choice(live, some, replace=False)]
        operation = (kind, seeds)
        held = outcome_of_both(held, operation)
        yield operation


def write_for_ever(
    path: Path, held: Both, random: np.random.Generator, moment: str, report: Callable[[Any], None]
) -> None:
    """A writer that reports every operation before it begins and after it returns, and when it merges segments."""
    rewrite = Index._rewrite
    Index._rewrite = lambda *arguments: (report("merge"), rewrite(*arguments))  # type: ignore[method-assign]
    index = Index(path)
    for operation in operations(held, random, moment):
        report(operation)
        perform(index, operation)
        report("done")


def fork(work: Callable[[Callable[[Any], None]], None]) -> tuple[int, int]:
    """Starts a process, and gives its number and the end of a pipe where its reports, a line each, can be read."""
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        os.close(reading)
        try:
            work(lambda message: os.write(writing, json.dumps(message).encode() + b"\n"))
        except BaseException as error:
            os.write(writing, json.dumps(f"failed: {error!r}").encode() + b"\n")
        os._exit(0)
    os.close(writing)
    return process, reading


class Log:
    """What a writer's reports say: what the index holds, and what the writer is at."""

    def __init__(self, held: Both) -> None:
        self.held = held
        self.operation: Operation | None = None
        self.moment = "between"

    def read(self, line: bytes) -> None:
        message = json.loads(line)
        if message == "merge":
            self.moment = "compact" if self.moment == "compact" else "merge"
        elif message == "done":
            assert self.operation
            self.held, self.operation, self.moment = outcome_of_both(self.held, self.operation), None, "between"
        else:
            assert isinstance(message, list), message
            self.operation = (message[0], message[1])
            self.moment = message[0]


def kill_at_random(
    path: Path, held: Both, random: np.random.Generator, moment: str, seconds: float
) -> tuple[Both, str]:
    """Kills a writer within ``seconds`` of a moment. Gives what the indexes hold then, and where the writer was."""
    process, pipe = fork(lambda report: write_for_ever(path, held, random, moment, report))
    log = Log(held)
    with open(pipe, "rb") as reports:
        while log.moment != moment:
            log.read(reports.readline())
        time.sleep(random.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        for line in reports.readlines():
            log.read(line)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    with closing(Index(path)) as index, closing(Index(beside(path))) as other:
        held = log.held
        if log.operation and (index.ids(), other.ids()) != tuple(make_images(*each)[0] for each in held):
            held = outcome_of_both(held, log.operation)  # committed, and killed before it returned
        assert_holds(index, held[0])
        assert_holds(other, held[1])
    return held, log.moment


def random_kills(path: Path, seed: int, kills: int) -> dict[str, Any]:
    """Kills writers of one index, one after the other; each goes on where the one before was killed."""
    random = np.random.default_rng(seed)
    index = new_index(path)
    new_index(beside(path)).close()
    held: Both = ([], [])
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _, operation in zip(range(100), operations(held, random, "add"), strict=False):
        begin = time.perf_counter()
        perform(index, operation)
        seconds[operation[0]].append(time.perf_counter() - begin)
        held = outcome_of_both(held, operation)
    index.close()
    seconds["merge"] = seconds["compact"]
    moments: Counter[str] = Counter()
    for number in range(kills):
        moment = list(MOMENTS)[number % len(MOMENTS)]
        held, hit = kill_at_random(path, held, random, moment, 1.2 * float(np.mean(seconds[moment])))
        moments[hit] += 1
    return {"kills": kills, "moments": moments}


# ----------------------------------------------------------------------------------------------- every step

CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link"}  # of a folder; audit events


def watch_steps(step: Callable[[str], None]) -> None:
    """Calls ``step`` before everything but SQL that changes the disk, for the rest of this process."""

    def audit(event: str, arguments: tuple) -> None:
        if event in CHANGES or (event == "open" and "w" in str(arguments[1])):
            step(event)

    fsync = os.fsync
    os.fsync = lambda descriptor: (step("os.fsync"), fsync(descriptor))[1]
    sys.addaudithook(audit)


def prepare(path: Path) -> dict[str, tuple[Path, list[int], Operation]]:
    """Indexes to work on, what they hold, and what to do with them."""
    merging = new_index(path / "merging")  # one more addition, and eight segments become one
    for seed in range(8):
        merging.add(*make_images(seed))
        if seed == 0:
            merging.remove(["image0"])
            merging.compact()
    merging.close()
    compacting = new_index(path / "compacting")
    for seeds in ([0, 1, 2], [3], [4, 5, 6, 7, 8]):
        compacting.add(*make_images(*seeds))
    compacting.remove(["image1", "image6"])
    compacting.close()
    return {
        "add": (path / "compacting", [0, 2, 3, 4, 5, 7, 8], ("add", [9, 10])),
        "merge": (path / "merging", list(range(1, 8)), ("add", [8])),
        "remove": (path / "compacting", [0, 2, 3, 4, 5, 7, 8], ("remove", [0, 4, 8])),
        "compact": (path / "compacting", [0, 2, 3, 4, 5, 7, 8], ("compact", [])),
    }


def run_stepwise(path: Path, operation: Operation, step: Callable[[str], None]) -> list[Any]:
    """Performs an operation in a process of its own, calling ``step`` there; gives what it reported."""

    def work(report: Callable[[Any], None]) -> None:
        index = Index(path)
        watch_steps(step)
        # A statement that only reads leaves the disk as the one before it left it.
        index._catalogue._connection.set_trace_callback(
            lambda statement: None if statement.startswith(("SELECT", "PRAGMA")) else step("sql")
        )
        perform(index, operation)
        report("done")

    process, pipe = fork(work)
    with open(pipe, "rb") as reports:
        received = [json.loads(line) for line in reports.readlines()]
    os.waitpid(process, 0)
    return received


class Countdown:
    """A step that does something at its n-th call, n from 0, and at later ones if it still lives."""

    def __init__(self, calls: int, action: Callable[[], None]) -> None:
        self.left = calls
        self.action = action

    def __call__(self, event: str) -> None:
        if self.left <= 0:
            self.action()
        self.left -= 1


def kill_at_every_step(path: Path) -> dict[str, Any]:
    """Kills each operation before its first step, before its second, and so on until it is through."""
    runtime.index.MAX_IMAGES = runtime.index.merging.MAX_IMAGES = (
        4  # compaction needs two commits, and splits a segment
    )
    kills: Counter[str] = Counter()
    for name, (made, held, operation) in prepare(path).items():
        for calls in range(10_000):
            copy = Path(shutil.copytree(made, path / "copy"))
            countdown = Countdown(calls, lambda: os.kill(os.getpid(), signal.SIGKILL))
            received = run_stepwise(copy, operation, countdown)
            after = outcome(held, operation)
            with_index = Index(copy)
            ended = with_index.ids() == make_images(*after)[0]
            assert ended or received != ["done"]
            assert_holds(with_index, after if ended else held)
            with_index.add(*make_images(100))  # it goes on, and sweeps up
            assert_holds(with_index, [*(after if ended else held), 100])
            assert {entry.name for entry in copy.iterdir()} == {
                "catalogue.sqlite", *with_index._catalogue.segment_names()
            }  # fmt: skip
            with_index.close()
            shutil.rmtree(copy)
            if received:
                assert received == ["done"], received
                break
            kills[name] += 1
    return {"kills": kills}


def kill_creation_at_every_step(path: Path) -> dict[str, Any]:
    """Kills a process that makes an index, likewise: afterwards there is an empty index, or one can be made."""
    for calls in range(10_000):
        made = path / str(calls) / "below" / "landmarks.index"

        def work(report: Callable[[Any], None], made: Path = made, calls: int = calls) -> None:
            watch_steps(Countdown(calls, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            new_index(made)
            report("done")

        process, pipe = fork(work)
        with open(pipe, "rb") as reports:
            received = [json.loads(line) for line in reports.readlines()]
        os.waitpid(process, 0)
        index = Index(made) if Index.exists(made) else new_index(made)
        assert index.ids() == []
        index.add(*make_images(0))
        assert_holds(index, [0])
        index.close()
        if received:
            assert received == ["done"], received
            return {"kills": calls}
    raise AssertionError("no end of steps")


# -------------------------------------------------------------------------------------------- a full disk


def fill_at_every_step(path: Path) -> dict[str, Any]:
    """Fills the disk before each step of each operation: it is refused with a line, and the index is as it was."""
    runtime.index.MAX_IMAGES = runtime.index.merging.MAX_IMAGES = 4
    refusals: Counter[str] = Counter()
    for name, (made, held, operation) in prepare(path).items():
        for calls in range(10_000):
            copy = Path(shutil.copytree(made, path / "copy"))
            received = fill_at(copy, held, operation, calls)
            shutil.rmtree(copy)
            if received == ["done"]:
                break
            (line,) = received
            assert "No space left on device" in line, line
            refusals[name] += 1
    return {"refusals": refusals}


def fill_at(path: Path, held: list[int], operation: Operation, calls: int) -> list[str]:
    """What a writer says whose disk becomes full at its n-th step, and gets room again afterwards."""
    full = True

    def refuse() -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    countdown = Countdown(calls, refuse)

    def step(event: str) -> None:
        if event in {"os.mkdir", "open", "os.fsync"}:  # what a full disk refuses
            countdown(event)

    def work(report: Callable[[Any], None]) -> None:
        nonlocal full
        index = Index(path)
        watch_steps(step)
        said = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                perform(index, operation)
            except HowlError as error:
                said.append(str(error))
        full = False
        after = held if said and operation[0] != "compact" else outcome(held, operation)
        for opened in (index, Index(path)):
            assert_holds(opened, after)
        perform(index, operation if after == held else ("compact", []))
        assert_holds(index, outcome(held, operation))
        report((said + [str(warning.message) for warning in warned] + ["done"])[0])

    process, pipe = fork(work)
    with open(pipe, "rb") as reports:
        received = [json.loads(line) for line in reports.readlines()]
    os.waitpid(process, 0)
    return received


if __name__ == "__main__":
    what, where, *ordinals = sys.argv[1:]
    modes: dict[str, Callable[..., dict[str, Any]]] = {
        "random": random_kills,
        "steps": kill_at_every_step,
        "creation": kill_creation_at_every_step,
        "full": fill_at_every_step,
    }
    print(json.dumps(modes[what](Path(where), *map(int, ordinals))))
