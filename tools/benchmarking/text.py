"""The report as Markdown."""

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.io.image import describe_unreadable
from tools.benchmarking.measuring import CONFIDENCE, RESAMPLES, Ratio
from tools.benchmarking.report import PERCENTILES, Measured, Report, percentiles

FEW = 100  # queries that p99 takes to be more than the slowest
COLUMNS = " | ".join(f"p{percentile}, ms" for percentile in PERCENTILES)


def as_text(report: Report) -> str:
    """Everything but the samples."""
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
    searched = measured.index or "an index of the photos themselves, made for this"
    return (
        f"{measured.engine}: {measured.provider}, {manifest.precision}, image size {manifest.image_size}, "
        f"scales {scales}, K = {manifest.features}; searched: {searched} ({measured.images:,} images)"
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
        f"- cold start, from starting Python to the first answer of tools/search.py, files in the page cache: "
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
