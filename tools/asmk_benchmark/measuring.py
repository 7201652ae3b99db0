"""Measures of a process and its machine: time, memory, what the page cache holds, and how fast memory is read."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

Result = TypeVar("Result")

STATUS = Path("/proc/self/status")
BANDWIDTH_BYTES = 1 << 30  # far more than any cache holds
PROBED = 1000  # places of every file
CAN_DROP = hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT")  # pages from the page cache: Linux


class Seconds(NamedTuple):
    """How long something took: of the processor (all threads together), and on the clock."""

    cpu: float
    wall: float


def timed(function: Callable[..., Result], *arguments: object) -> tuple[Result, Seconds]:
    """What a function returns, and how long it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(*arguments)
    return result, Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def resident_bytes() -> dict[str, int]:
    """Memory of this process that is in RAM: ``anonymous``, its own, and ``file``, of files that it has mapped.

    Empty where the operating system does not say (other than Linux).
    """
    if not STATUS.exists():
        return {}
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {"anonymous": 1024 * int(lines["RssAnon"].split()[0]), "file": 1024 * int(lines["RssFile"].split()[0])}


def read_bandwidth() -> float:
    """Bytes a second that one thread reads in order, far beyond the caches: the sum of a gigabyte of integers.

    The best of three readings, because whatever disturbs one only makes it slower.
    """
    numbers = np.ones(BANDWIDTH_BYTES // 8, np.uint64)
    return BANDWIDTH_BYTES / min(timed(numbers.sum)[1].wall for _ in range(3))


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Writes files to the disk, and asks the operating system to forget their pages; those that are mapped stay."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(files: Iterable[Path]) -> float:
    """The share of places, evenly spread over files, that the page cache holds."""
    return float(np.mean([held for file in files for held in _held(file)]))


def _held(file: Path) -> list[bool]:
    places = np.linspace(0, file.stat().st_size, PROBED, endpoint=False).astype(np.int64)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return [_reads_at_once(descriptor, place) for place in places.tolist()]
    finally:
        os.close(descriptor)


def _reads_at_once(descriptor: int, place: int) -> bool:
    try:
        os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True
