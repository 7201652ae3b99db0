"""What is measured of systems: their stages in turn, the ratio of two, load and cold start."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import HowlError
from tools.benchmarking.system_under_test import STAGES, SystemUnderTest

WARM_UP = 3  # queries of every system that are not counted
QUERIES_A_CALLER = 8  # under load, at least
COLD_STARTS = 3
RESAMPLES = 2000  # of the bootstrap
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """The second system's median of the whole query over the first's: below 1 the second is faster.

    Attributes:
        ratio: of the medians.
        low, high: ends of the 95 % interval, bootstrapped over photos.
    """

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Load:
    """Some callers at a time, each sending its next query as soon as the last is answered.

    Attributes:
        callers: how many.
        seconds: on the clock, for all queries together.
        milliseconds: of every whole query.
    """

    callers: int
    seconds: float
    milliseconds: list[float]

    @property
    def throughput(self) -> float:
        """Queries a second."""
        return len(self.milliseconds) / self.seconds


def measure_stages(systems: Sequence[SystemUnderTest], photos: Sequence[Path], rounds: int, top: int) -> list[NDArray]:
    """Milliseconds of every stage, float64 [rounds, photos, stages] for each system.

    The systems take turns photo by photo, each going first every other time, so that whatever slows the machine slows
    both. ``WARM_UP`` queries of each go before.
    """
    for system in systems:
        for photo in islice(cycle(photos), WARM_UP):
            system.ask(photo, top)
    taken = np.empty((len(systems), rounds, len(photos), len(STAGES)))
    places = [(turn, number) for turn in range(rounds) for number in range(len(photos))]
    for turn, number in tqdm(places, desc="asking", unit="photo", disable=None):
        order = range(len(systems))
        for which in order if (turn + number) % 2 == 0 else reversed(order):
            _, laps = systems[which].ask(photos[number], top)
            taken[which, turn, number] = [laps[stage] for stage in STAGES]
    return list(taken)


def compare(first: NDArray, second: NDArray) -> Ratio:
    """The ratio of medians of two systems.

    Args:
        first: float64 [rounds, photos], milliseconds of whole queries.
        second: the same of the same photos.
    """

    def ratio(photos: NDArray | slice) -> float:
        return float(np.median(second[:, photos]) / np.median(first[:, photos]))

    number = first.shape[1]
    drawn = np.random.default_rng(0).integers(number, size=(RESAMPLES, number))
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    low, high = np.quantile([ratio(photos) for photos in drawn], tails)
    return Ratio(ratio(slice(None)), float(low), float(high))


def measure_load(system: SystemUnderTest, photos: Sequence[Path], callers: int, queries: int, top: int) -> Load:
    """So many queries in all, or ``QUERIES_A_CALLER`` for each caller if that is more, over the photos in turn."""

    def ask(photo: Path) -> float:
        begin = time.perf_counter()
        system.ask(photo, top)
        return 1e3 * (time.perf_counter() - begin)

    asked = islice(cycle(photos), max(queries, QUERIES_A_CALLER * callers))
    with ThreadPoolExecutor(callers) as pool:
        begin = time.perf_counter()
        milliseconds = list(pool.map(ask, asked))
        return Load(callers, time.perf_counter() - begin, milliseconds)


def measure_cold_starts(
    system: SystemUnderTest, photo: Path, top: int, device: str | None, *, times: int = COLD_STARTS
) -> list[float]:
    """Milliseconds from starting Python to the first line that ``tools/search.py`` prints, each in a new process."""
    command = [sys.executable, "-u", "-m", "tools.search", str(system.encoder.path), str(photo)]
    command += ["--index", str(system.index.path), "--top", str(top)]
    command += ["--device", device] if device else []
    return [_until_first_line(command) for _ in range(times)]


def _until_first_line(command: Sequence[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    begin = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        milliseconds = 1e3 * (time.perf_counter() - begin)
        process.stdout.read()
    if process.returncode:
        raise HowlError(f"{command[3]} ended with status {process.returncode}; its line is above")
    return milliseconds
