"""Measures of a process and its machine: time, memory, what the page cache holds, and how fast memory is read."""

import ctypes
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")

MAPPINGS = Path("/proc/self/smaps")
MAPPING = re.compile("[0-9a-f]+-[0-9a-f]+ ")  # the line that starts one
BANDWIDTH_BYTES = 1 << 30  # far more than any cache holds
CAN_DROP = sys.platform == "linux"  # pages from the page cache


class Seconds(NamedTuple):
    """How long something took: of the processor (all threads together), and on the clock."""

    cpu: float
    wall: float


def timed(function: Callable[..., Result], *arguments: object) -> tuple[Result, Seconds]:
    """What a function returns, and how long it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(*arguments)
    return result, Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def own_bytes() -> int | None:
    """Memory in RAM that is this process's own, not a file's; None if the operating system does not tell."""
    return _kilobytes(MAPPINGS.read_text().splitlines(), "Anonymous") if MAPPINGS.exists() else None


def mapped_bytes(folder: Path) -> int | None:
    """Bytes in RAM of a folder's files that this process has mapped; None if the operating system does not tell."""
    if not MAPPINGS.exists():
        return None
    within, lines = False, []
    for line in MAPPINGS.read_text().splitlines():
        if MAPPING.match(line):
            within = f"{folder.resolve()}{os.sep}" in line
        elif within:
            lines.append(line)
    return _kilobytes(lines, "Rss")


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
    """The share of files' pages that the page cache holds."""
    return float(np.mean(np.concatenate([_cached_pages(file) for file in files])))


def _cached_pages(file: Path) -> NDArray[np.bool_]:
    libc = ctypes.CDLL(None, use_errno=True)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(mapped, np.uint8)  # asking the kernel, unlike reading, brings nothing in
        refused = libc.mincore(*map(ctypes.c_void_p, (view.ctypes.data, len(view), pages.ctypes.data)))
        del view
    if refused:
        raise OSError(ctypes.get_errno(), f"mincore refused {file}")
    return (pages & 1).astype(bool)


def _kilobytes(lines: Iterable[str], what: str) -> int:
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))
