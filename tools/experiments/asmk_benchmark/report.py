"""The report of ``tools/experiments/benchmark_asmk.py``: a table in Markdown, and a plot."""

from pathlib import Path
from typing import Any

import numpy as np

from tools.environment import load_pyplot
from tools.experiments.asmk_benchmark.comparison import AS_IT_COMES, STAGES, TUNED
from tools.experiments.timing import spread

ALONE = "alone"  # the mode without a reference
WHOLE = "whole query"
MATCHING = "aggregate + search"


def table(result: dict[str, Any]) -> str:
    """All figures as Markdown: medians, quartiles in brackets, of all rounds but the first; ratios are of medians."""
    import pandas  # late: `--help` does without

    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    rows = [
        _row(run["images"], stage, run[mode], mode)
        for run in result["runs"]
        for mode in modes(run)
        for stage in (*STAGES, MATCHING, WHOLE)
    ]
    notes = [line for run in result["runs"] for line in _notes(run, result["read_bandwidth"])]
    return "\n".join(
        [
            about,
            "",
            pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
            "",
            "Processor time of one thread; a round of all queries warmed up each side.",
            "",
            *notes,
        ]
    )


def modes(run: dict[str, Any]) -> list[str]:
    """How the reference was measured, or ``ALONE``."""
    return [mode for mode in (ALONE, AS_IT_COMES, TUNED) if mode in run]


def seconds(measured: dict[str, Any], side: str, what: str) -> np.ndarray:
    """Of the processor, a query: of a stage, of aggregating and searching together, or of all; rounds but the first."""
    return np.concatenate([_of_round(each, side, what) for each in measured["rounds"][1:]])


def _of_round(measured: dict[str, Any], side: str, what: str) -> np.ndarray:
    stages = {WHOLE: STAGES, MATCHING: STAGES[1:]}.get(what, (what,))
    return np.sum([[cpu for cpu, _ in measured[side][stage]] for stage in stages], axis=0)


def draw(result: dict[str, Any], path: Path) -> None:
    """Time a query and memory against the number of images."""
    pyplot = load_pyplot()
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    runs = result["runs"]
    images = [run["images"] for run in runs]
    for side in ("howl", "asmk"):
        for mode, line in zip(modes(runs[0]), ("-", "--"), strict=False):
            if side not in runs[0][mode]["rounds"][0] or (side == "howl" and line == "--"):
                continue
            label = side if side == "howl" else f"asmk, faiss {mode}"
            for what, marker in ((WHOLE, "o"), (MATCHING, "s")):
                medians = [1e3 * np.median(seconds(run[mode], side, what)) for run in runs]
                colour = "tab:blue" if side == "howl" else "tab:red"
                times.loglog(images, medians, line, marker=marker, color=colour, label=f"{label}: {what}")
    memory.loglog(images, [run["bytes"] / 1e6 for run in runs], "-o", color="tab:blue", label="howl: index")
    if "asmk" in runs[0][modes(runs[0])[0]]["memory"]:
        theirs = [run[modes(run)[0]]["memory"]["asmk"] / 1e6 for run in runs]
        memory.loglog(images, theirs, "-s", color="tab:red", label="asmk: inverted file and codebook in memory")
    times.set(xlabel="images", ylabel="ms a query, one thread", title="time")
    memory.set(xlabel="images", ylabel="MB", title="memory")
    for axes in (times, memory):
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _row(images: int, stage: str, measured: dict[str, Any], mode: str) -> dict[str, str]:
    ours = seconds(measured, "howl", stage)
    row = {"images": f"{images:,}", "": stage, "howl, ms": spread(1e3 * ours, 2)}
    if "asmk" not in measured["rounds"][0]:
        return row
    theirs = seconds(measured, "asmk", stage)
    ratio = np.median(theirs) / np.median(ours)
    return {**row, "asmk, ms": spread(1e3 * theirs, 2), "ratio": f"{ratio:.1f}×", "faiss": mode}


def _notes(run: dict[str, Any], bandwidth: float) -> list[str]:
    measured = run[modes(run)[0]]
    scanned = float(np.median(measured["scanned_entries"]))
    per_entry = run["payload_bytes"] / run["entries"]
    search = float(np.median(seconds(measured, "howl", "search")))
    first = float(np.median(_of_round(measured["rounds"][0], "howl", "search")))
    floor = scanned * per_entry / bandwidth
    lists, opening, threads = run["lists"], run["opening"], measured["two_threads"]
    lines = [
        f"{run['images']:,} images:",
        f"- {lists['words_an_image']:.0f} words an image, imbalance {lists['imbalance']:.2f}; a query scans "
        f"{scanned / 1e6:.2f} M entries, {scanned * per_entry / 1e6:.0f} MB: {1e3 * floor:.2f} ms at the "
        f"{bandwidth / 1e9:.1f} GB/s that one thread reads; the search takes {search / floor:.1f} times that",
        f"- in the first round, which touches the index for the first time, the search takes {1e3 * first:.2f} ms",
        f"- {run['bytes'] / run['entries']:.2f} bytes an entry on the disk, {per_entry:.2f} of them entries; "
        f"added in {1e6 * run['add_wall']:.0f} µs an image, on the disk",
        f"- in memory: {_memory(run)}",
        f"- {_opening(opening)}",
        "- two threads: "
        + ", ".join(f"{s} {1e3 * t['one']:.1f} → {1e3 * t['two']:.1f} ms" for s, t in threads.items()),
        "- mAP of the planted images: " + ", ".join(f"{side} {value:.4f}" for side, value in measured["mAP"].items()),
    ]
    for mode in modes(run):
        if "equality" in run[mode]:
            same = run[mode]["equality"]
            lines.append(
                f"- faiss {mode}: scores differ by {same['largest_difference']:.1e} at most; {same['same_ranking']} of "
                f"{same['queries']} rankings are the same, {same['more_than_ties']} differ by more than ties"
            )
        if "build" in run[mode]:
            built = run[mode]["build"]
            lines.append(
                f"- building {built['images']:.0f} images from assigned descriptors, ms an image: howl "
                f"{1e3 * built['howl_wall']:.2f} on the disk, asmk {1e3 * built['asmk_wall']:.2f} in memory and "
                f"{1e3 * built['asmk_save_wall']:.2f} to save: {built['asmk_wall'] / built['howl_wall']:.0f}×"
            )
    return lines


def _memory(run: dict[str, Any]) -> str:
    memory = run[modes(run)[0]]["memory"]
    if memory["howl"] is None:
        return "this operating system does not tell"
    each = {name: size / run["entries"] for name, size in memory.items()}
    ours = f"howl {each['howl']:.2f} bytes an entry of its own and {each['howl_mapped']:.2f} of mapped files"
    return f"{ours}, asmk {each['asmk']:.2f}" if "asmk" in each else ours


def _opening(opening: dict[str, list[float]]) -> str:
    warm = f"opened to the first answer in {1e3 * np.median(opening['warm']):.0f} ms, the page cache warm"
    if not opening["cold"]:
        return warm
    return f"{warm}, and {1e3 * np.median(opening['cold']):.0f} ms cold ({np.max(opening['cached']):.1%} of it cached)"
