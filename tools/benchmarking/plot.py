"""The plot of ``tools/benchmark.py``: time by stage and, where it was measured, latency against load."""

from pathlib import Path
from typing import Any

import numpy as np

from runtime.io.atomic import atomic_write
from tools.benchmarking.report import PERCENTILES, Report, percentiles
from tools.plotting import load_pyplot

COLOURS = ("tab:blue", "tab:orange")
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "fontsize": 7}  # where a legend hides nothing
LINES = ("-", "--", ":")  # of PERCENTILES


def draw(report: Report, path: Path) -> None:
    """Writes a PNG. Raises HowlError where matplotlib is missing or the file cannot be written."""
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
