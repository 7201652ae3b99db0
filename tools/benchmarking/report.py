"""What ``tools/benchmark.py`` reports: every sample, and the figures that are made of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Manifest
from tools.benchmarking.measuring import Load, Ratio
from tools.benchmarking.system_under_test import STAGES

PERCENTILES = (50, 95, 99)
NETWORK = "network"
WHOLE = "whole query"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        percentiles: milliseconds, by PERCENTILES.
        share: of the mean of the whole query, in [0, 1].
    """

    percentiles: list[float]
    share: float


@dataclass(frozen=True)
class Measured:
    """One engine with one index.

    Attributes:
        engine: its path.
        index: its folder; None for an index of the photos themselves.
        images: in the index.
        provider: what really ran the engine.
        manifest: of the engine.
        milliseconds: of every query, by stage; the queries are round after round of all photos.
        levels: milliseconds of the network by level and, last, of the rest, for every photo that was profiled; None
            where the profiler cannot tell.
        cold_starts: milliseconds.
        loads: one for every number of callers.
    """

    engine: str
    index: str | None
    images: int
    provider: str
    manifest: Manifest
    milliseconds: dict[str, list[float]]
    levels: list[list[float]] | None
    cold_starts: list[float]
    loads: list[Load]

    @property
    def name(self) -> str:
        """Short, for people."""
        return self.engine if self.index is None else f"{self.engine}, {self.index}"

    @property
    def images_a_second(self) -> float:
        """Whole queries, one by one."""
        return float(1e3 / self.samples()[WHOLE].mean())

    def samples(self) -> dict[str, np.ndarray]:
        """Milliseconds by stage, and of the whole query; float64 [n] each."""
        stages = {stage: np.array(self.milliseconds[stage]) for stage in STAGES}
        return {**stages, WHOLE: np.sum(list(stages.values()), axis=0)}

    def rows(self) -> dict[str, Row]:
        """The table: stages, and within the network what the profiler tells of its levels."""
        samples = self.samples()
        rows = {}
        for name, taken in samples.items():
            share = float(taken.mean() / samples[WHOLE].mean())
            rows[name] = Row(percentiles(taken), share)
            if name == NETWORK and self.levels:
                rows |= self._level_rows(share)
        return rows

    def _level_rows(self, network: float) -> dict[str, Row]:
        """Of the profiler's pass; shares divide the network's."""
        levels = np.array(self.levels)
        shares = network * levels.sum(axis=0) / levels.sum()
        names = [*(f"{NETWORK}, scale {scale:g}" for scale in self.manifest.scales), f"{NETWORK}, the rest"]
        return {
            name: Row(percentiles(taken), float(share))
            for name, taken, share in zip(names, levels.T, shares, strict=True)
        }


@dataclass(frozen=True)
class Report:
    """All that was measured.

    Attributes:
        environment: machine and versions, by name.
        photos: the paths of those that were asked.
        skipped: why the others were not, by path.
        warm_up: queries of every system that went before and are not counted.
        rounds: of all photos.
        top: answers asked for, at most.
        threads: that shared a query on the CPU.
        systems: one, or two that are compared.
        ratio: of the second's whole query to the first's, where there are two.
        peak_memory: bytes that this process, with all systems in it, had in RAM at most.
    """

    environment: dict[str, Any]
    photos: list[str]
    skipped: dict[str, str]
    warm_up: int
    rounds: int
    top: int
    threads: int
    systems: list[Measured]
    ratio: Ratio | None
    peak_memory: int


def percentiles(milliseconds: Sequence[float] | NDArray) -> list[float]:
    """Those of PERCENTILES."""
    return np.percentile(milliseconds, PERCENTILES).tolist()


def for_machines(report: Report) -> dict[str, Any]:
    """Everything, as JSON takes it: figures and samples."""
    return {**asdict(report), "percentiles": PERCENTILES, "systems": list(map(_with_figures, report.systems))}


def _with_figures(measured: Measured) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "table": {name: asdict(row) for name, row in measured.rows().items()},
        "images_a_second": measured.images_a_second,
        "loads": [_load_with_figures(load) for load in measured.loads],
    }
    return {**asdict(measured), **figures}


def _load_with_figures(load: Load) -> dict[str, Any]:
    return {**asdict(load), "queries_a_second": load.throughput, "percentiles": percentiles(load.milliseconds)}
