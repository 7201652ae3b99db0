"""The table of the systems, in Markdown, and the plot of time against accuracy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.environment import load_pyplot
from tools.experiments.comparison.systems import LOCAL, RERANKED, SYSTEMS, evaluation_file
from tools.experiments.stages import Run
from tools.experiments.timing import spread
from train.checkpoint import Checkpoint
from train.run import best_epoch

MILLION = 1_000_000


def read_results(runs: Sequence[Run], costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table: each system that has been timed, without and with its re-rankings."""
    lines = []
    for run in runs:
        if run.name not in costs:
            continue
        system, cost = SYSTEMS[run.row], costs[run.name]
        epoch = best_epoch(Checkpoint.load(run.checkpoint)).epoch
        for rerank in (None, *system.rerank):
            evaluation = json.loads(evaluation_file(rerank, run).read_text())
            framework = RERANKED if rerank is not None and system.framework != LOCAL else system.framework
            lines.append(
                {
                    "system": system.label,
                    "rerank": rerank,
                    "framework": framework,
                    "epoch": epoch,
                    "mAP": {Path(each["data"]).name: each["mAP"] for each in evaluation["sets"]},
                    "bytes": cost["bytes"],
                    "kept": 0 if rerank is None else cost["kept"].get(rerank, 0),
                    "extraction": cost["extraction"],
                    "search": cost["search"],
                    "reranking": [] if rerank is None else cost[rerank],
                }
            )
    return lines


def table(result: Mapping[str, Any]) -> str:
    """Markdown: mAP, bytes of an image, gigabytes of a million, and the median milliseconds of a query.

    Validation keeps the weights that a network started with where no epoch was better; the table says which were kept.
    """
    import pandas  # late: `--help` does without

    rows = [
        {
            "system": line["system"],
            "re-ranked by": line["rerank"] or "",
            "weights": f"of epoch {line['epoch']}" if line["epoch"] > 0 else "as they started",
            **{f"mAP {of}": f"{100 * value:.2f}" for of, value in line["mAP"].items()},
            "bytes an image": _bytes(line),
            "GB a million": f"{(line['bytes'] + line['kept']) * MILLION / 1e9:.1f}",
            "extraction ms": spread(line["extraction"]),
            "search ms": spread(line["search"]),
            "re-ranking ms": spread(line["reranking"]) if line["reranking"] else "",
        }
        for line in result["systems"]
    ]
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return f"{about}\n\n{pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """mAP against the milliseconds of a whole query, for every test set: each framework of the paper in a colour.

    A hollow point is a system whose weights are as they started; a line leads to its re-ranked answers.
    """
    pyplot = load_pyplot()
    lines = result["systems"]
    sets = list(lines[0]["mAP"])
    figure, panels = pyplot.subplots(1, len(sets), figsize=(7 * len(sets), 5.5), layout="constrained", squeeze=False)
    for of, axes in zip(sets, panels[0], strict=True):
        for number, framework in enumerate(dict.fromkeys(line["framework"] for line in lines)):
            colour = f"C{number}"
            mine = [line for line in lines if line["framework"] == framework]
            filled = [colour if line["epoch"] > 0 else "none" for line in mine]
            axes.scatter(*zip(*(_point(line, of) for line in mine), strict=True), c=filled, edgecolors=colour)
            axes.scatter([], [], c=colour, label=framework)
        first = {line["system"]: _point(line, of) for line in lines if line["rerank"] is None}
        for line in lines:
            at = _point(line, of)
            axes.plot(*zip(first[line["system"]], at, strict=True), color="grey", linewidth=0.6, zorder=0)
            axes.annotate(line["rerank"] or line["system"], at, textcoords="offset points", xytext=(5, 3), fontsize=7)
        axes.set_xscale("log")
        axes.set(xlabel="ms a query, one thread, 50,000 images", ylabel="mAP", title=of)
        axes.grid(which="both", alpha=0.3)
        axes.scatter([], [], c="none", edgecolors="black", label="weights as they started")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _point(line: Mapping[str, Any], of: str) -> tuple[float, float]:
    """Where a line of the table lies in the plot of a test set."""
    return _total(line), 100 * line["mAP"][of]


def _total(line: Mapping[str, Any]) -> float:
    """Milliseconds of a query, by the medians of its parts."""
    return sum(float(np.median(line[part])) for part in ("extraction", "search", "reranking") if line[part])


def _bytes(line: Mapping[str, Any]) -> str:
    kept = f" + {line['kept']:,.0f}" if line["kept"] else ""
    return f"{line['bytes']:,.0f}{kept}"
