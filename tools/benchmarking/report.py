"""The report of ``tools/benchmark.py``: every sample, figures made of them, and both as Markdown, JSON and a plot."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Manifest
from runtime.io.files import atomic_write
from runtime.io.image import describe_unreadable
from tools.benchmarking.measuring import CONFIDENCE, RESAMPLES, Load, Ratio
from tools.benchmarking.system_under_test import STAGES
from tools.environment import load_pyplot

PERCENTILES = (50, 95, 99)
NETWORK = "network"
WHOLE = "whole query"
COLUMNS = " | ".join(f"p{percentile}, ms" for percentile in PERCENTILES)  # of a table
FEW = 100  # queries, of which p99 is little more than the slowest
COLOURS = ("tab:blue", "tab:orange")
LINES = ("-", "--", ":")  # of PERCENTILES
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "fontsize": 7}  # a legend that hides nothing


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
            if the profiler cannot tell.
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
        ratio: of the second's whole query to the first's, if there are two.
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


def as_dict(report: Report) -> dict[str, Any]:
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


def as_text(report: Report) -> str:
    """Everything but the samples, in Markdown."""
    lines = [*_circumstances(report)]
    for measured in report.systems:
        lines += ["", _about(measured), "", *_table(measured), "", *_notes(measured)]
    if report.ratio:
        lines += ["", _ratio(report.ratio, len(report.photos))]
    lines += ["", f"Peak memory of this process, all of the above in it: {report.peak_memory / 1e6:.0f} MB."]
    if any(measured.loads for measured in report.systems):
        lines += ["", *_loads(report.systems)]
    return "\n".join(lines)


def _circumstances(report: Report) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in report.environment.items())
    photos, queries = len(report.photos), len(report.photos) * report.rounds
    yield (
        f"n = {queries} queries, one by one: {photos} photos × {report.rounds} rounds, top {report.top}, "
        f"threads {report.threads}, after {report.warm_up} queries to warm up, which are not counted; photos and index "
        f"are in the page cache."
    )
    if queries < FEW:
        yield f"With fewer than {FEW} queries, p99 is nearly the slowest of them."
    if report.skipped:
        yield describe_unreadable(report.skipped)


def _about(measured: Measured) -> str:
    manifest = measured.manifest
    scales = ", ".join(f"{scale:g}" for scale in manifest.scales)
    features = "" if manifest.features is None else f", K = {manifest.features}"
    searched = measured.index or "an index of the photos themselves, made for this"
    return (
        f"{measured.engine}: {measured.provider}, {manifest.precision}, image size {manifest.image_size}, "
        f"scales {scales}{features}; searched: {searched} ({measured.images:,} images)"
    )


def _table(measured: Measured) -> Iterator[str]:
    yield f"| stage | {COLUMNS} | share |"
    yield "|---" * (2 + len(PERCENTILES)) + "|"
    for name, row in measured.rows().items():
        yield f"| {name} | {_cells(row.percentiles)} | {row.share:.1%} |"


def _notes(measured: Measured) -> Iterator[str]:
    cold = measured.cold_starts
    yield f"- {measured.images_a_second:.1f} images a second, one by one"
    yield (
        f"- cold start, from starting Python to the first answer of howl search, files in the page cache: "
        f"{np.median(cold):.0f} ms ({min(cold):.0f}–{max(cold):.0f}, n = {len(cold)})"
    )
    if measured.levels:
        yield (
            f"- scales: from another pass, with ONNX Runtime's profiler (n = {len(measured.levels)}), which slows it; "
            f"their shares divide the network's; the rest is what no scale has to itself, and the time between nodes"
        )


def _ratio(ratio: Ratio, photos: int) -> str:
    return (
        f"Whole query, median of the second over median of the first, taking turns photo by photo: {ratio.ratio:.3f}, "
        f"{CONFIDENCE:.0%} interval {ratio.low:.3f}–{ratio.high:.3f} (bootstrap of {photos} photos, {RESAMPLES} draws)."
    )


def _loads(systems: Sequence[Measured]) -> Iterator[str]:
    yield f"| under load | callers | n | queries a second | {COLUMNS} |"
    yield "|---" * (4 + len(PERCENTILES)) + "|"
    for measured in systems:
        for load in measured.loads:
            cells = _cells(percentiles(load.milliseconds))
            yield f"| {measured.name} | {load.callers} | {len(load.milliseconds)} | {load.throughput:.1f} | {cells} |"


def _cells(milliseconds: Sequence[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in milliseconds)


def draw(report: Report, path: Path) -> None:
    """Writes a PNG: time by stage and, if it was measured, latency against load.

    Raises:
        HowlError: matplotlib is missing, or the file cannot be written.
    """
    pyplot = load_pyplot()
    loaded = any(measured.loads for measured in report.systems)
    panels = 2 if loaded else 1
    figure, axes = pyplot.subplots(1, panels, figsize=(6.5 * panels, 4.2), layout="constrained", squeeze=False)
    draw_stages(report, axes[0, 0])
    if loaded:
        draw_loads(report, axes[0, 1])
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def draw_stages(report: Report, axes: Any) -> None:
    """A box for every stage and system: quartiles, and whiskers from p5 to p95."""
    names = list(report.systems[0].samples())
    width = 0.8 / len(report.systems)
    for number, measured in enumerate(report.systems):
        axes.boxplot(
            list(measured.samples().values()),
            positions=np.arange(len(names)) + (number + 0.5) * width - 0.4,
            widths=0.8 * width,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": COLOURS[number], "alpha": 0.6},
            medianprops={"color": "black"},
            manage_ticks=False,
        )
        axes.plot([], [], color=COLOURS[number], linewidth=6, alpha=0.6, label=measured.name)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yscale("log")
    axes.set(ylabel="ms")
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.legend(title=f"one by one, {len(report.photos) * report.rounds} queries", **ABOVE)


def draw_loads(report: Report, axes: Any) -> None:
    """Percentiles of latency against callers."""
    for measured, colour in zip(report.systems, COLOURS, strict=False):
        callers = [load.callers for load in measured.loads]
        latencies = [percentiles(load.milliseconds) for load in measured.loads]
        for column, (percentile, line) in enumerate(zip(PERCENTILES, LINES, strict=True)):
            values = [latency[column] for latency in latencies]
            axes.plot(callers, values, line, marker="o", color=colour, label=f"{measured.name}: p{percentile}")
        axes.set_xticks(callers)
    axes.set(xlabel="callers at a time", ylabel="ms a query", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(title="under load", ncols=len(report.systems), **ABOVE)
