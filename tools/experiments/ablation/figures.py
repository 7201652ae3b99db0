"""The figures of an ablation: data frames of the evaluations, the tables in Markdown, and the plot.

A result is what ``read_results`` gives for a run: its backbone, row and seed, ``mAP`` by test set, and
``average_precisions`` by test set and query. All frames are in points: hundredths of mAP.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tools.environment import load_pyplot
from tools.experiments.ablation.rows import BASELINE, BOTH, ROWS
from tools.experiments.stages import Run

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Results: TypeAlias = Sequence[Mapping[str, Any]]

MEAN = "mean"  # of the test sets
SCENES_SHOWN = 5  # that gain most, and that lose most
EQUAL = 0.1  # points; what differs by less counts as equal
WIDTH = 0.8  # of the plot that the backbones of a row share


def read_results(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The evaluations of all (backbone, seed) of which every row is finished."""
    finished: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.evaluation.exists():
            finished.setdefault((run.backbone, run.seed), []).append(run)
    return [read_result(run) for rows in finished.values() if len(rows) == len(ROWS) for run in rows]


def read_result(run: Run) -> dict[str, Any]:
    """A run's mAP and every query's average precision, by test set."""
    sets = json.loads(run.evaluation.read_text())["sets"]
    labels = short_names([each["data"] for each in sets])
    by_setting = {
        f"{label} {setting}".strip(): figures
        for label, each in zip(labels, sets, strict=True)
        for setting, figures in each.get("settings", {"": each}).items()
    }
    return {
        "backbone": run.backbone,
        "row": run.row,
        "seed": run.seed,
        "mAP": {name: figures["mAP"] for name, figures in by_setting.items()},
        "average_precisions": {name: figures["average_precisions"] for name, figures in by_setting.items()},
    }


def short_names(folders: Sequence[str]) -> list[str]:
    """The folders' names, or their paths if two have the same name."""
    names = [Path(folder).name or folder for folder in folders]
    return [name if names.count(name) == 1 else folder for name, folder in zip(names, folders, strict=True)]


def points(results: Results) -> "DataFrame":
    """mAP: a line for each backbone, row and seed, a column for each test set, and their mean if there are several."""
    import pandas

    index = pandas.MultiIndex.from_tuples(
        [(each["backbone"], each["row"], each["seed"]) for each in results], names=["backbone", "row", "seed"]
    )
    frame = 100 * pandas.DataFrame([each["mAP"] for each in results], index=index)
    return frame.assign(**{MEAN: frame.mean(axis=1)}) if len(frame.columns) > 1 else frame


def gains(frame: "DataFrame") -> "DataFrame":
    """What ``points`` gives, less HOW's of the same backbone and seed: spread over seeds, HOW's own is left out."""
    how = frame.xs(BASELINE, level="row")
    return frame - how.reindex(frame.index.droplevel("row")).set_axis(frame.index)


def spread(frame: "DataFrame") -> "DataFrame":
    """Over seeds, for each backbone and row: ``mean`` and sample ``std`` of each column; of one seed the std is NaN."""
    return frame.groupby(level=["backbone", "row"], sort=False).agg(["mean", "std"])


def scene_gains(results: Results, row: str) -> "Series":
    """Points above HOW's by backbone, test set and scene, which is the query's folder: mean over queries and seeds."""
    import pandas

    frame = pandas.DataFrame(
        [
            (each["backbone"], each["row"], each["seed"], name, str(Path(query).parent), query, 100 * precision)
            for each in results
            for name, queries in each["average_precisions"].items()
            for query, precision in queries.items()
        ],
        columns=["backbone", "row", "seed", "set", "scene", "query", "points"],
    )
    by_row = frame.pivot(index=["backbone", "set", "scene", "seed", "query"], columns="row", values="points")
    return (by_row[row] - by_row[BASELINE]).groupby(level=["backbone", "set", "scene"], sort=False).mean()


def report(result: Mapping[str, Any]) -> str:
    """The machine, mAP of every row, and which scenes gain and lose by both refinements."""
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return "\n\n".join([about, main_table(result["runs"]), scene_table(result["runs"])])


def main_table(results: Results) -> str:
    """A line for each backbone and row: mAP in points, mean ± std over seeds, and the paired difference to HOW."""
    import pandas

    frame = points(results)
    mean, gained = spread(frame), spread(gains(frame))
    seeds = frame.groupby(level=["backbone", "row"], sort=False).size()
    lines = [
        {
            "backbone": backbone,
            "": ROWS[row].label,
            "seeds": seeds[backbone, row],
            **{f"mAP {name}": _spread(mean.loc[(backbone, row), name]) for name in frame.columns},
            **{
                f"Δ {name}": "" if row == BASELINE else _spread(gained.loc[(backbone, row), name], "+")
                for name in frame.columns
            },
        }
        for backbone, row in seeds.index
    ]
    return f"{_markdown(pandas.DataFrame(lines))}\n\nIn points: mean ± std over seeds; Δ: to HOW with the same seed."


def scene_table(results: Results) -> str:
    """How many scenes gain and lose by both refinements, and which do most."""
    import pandas

    lines = []
    for (backbone, name), change in scene_gains(results, BOTH).groupby(level=["backbone", "set"], sort=False):
        scenes = change.droplevel(["backbone", "set"])
        scenes.index = short_names(list(scenes.index))
        ordered = scenes.sort_index().sort_values(ascending=False, kind="stable")
        better, worse = ordered[ordered > EQUAL], ordered[ordered < -EQUAL][::-1]
        lines.append(
            {
                f"{ROWS[BOTH].label} against {ROWS[BASELINE].label}": backbone,
                "test set": name,
                "better": len(better),
                "worse": len(worse),
                "equal": len(scenes) - len(better) - len(worse),
                "gain most": _most(better),
                "lose most": _most(worse),
            }
        )
    note = f"Scenes, by the mean over seeds and queries of the difference in points; equal: within {EQUAL:g}."
    return f"{_markdown(pandas.DataFrame(lines))}\n\n{note}"


def draw(results: Results, path: Path) -> None:
    """Every seed a point, their mean a line, a panel for each test set."""
    pyplot, frame = load_pyplot(), points(results)
    backbones = frame.index.unique("backbone")
    figure, panels = pyplot.subplots(
        1, len(frame.columns), figsize=(4.2 * len(frame.columns), 4), layout="constrained", squeeze=False
    )
    half = 0.3 * WIDTH / len(backbones)
    for name, axes in zip(frame.columns, panels[0], strict=True):
        for (backbone, row), values in frame[name].groupby(level=["backbone", "row"], sort=False):
            number, place = backbones.get_loc(backbone), list(ROWS).index(row)
            middle = place + WIDTH * ((number + 0.5) / len(backbones) - 0.5)
            step = half / max(1, len(values) - 1)
            across = [middle + step * (seed - (len(values) - 1) / 2) for seed in range(len(values))]
            label = backbone if place == 0 else None
            axes.plot(across, values, "o", color=f"C{number}", alpha=0.6, label=label)
            axes.hlines(values.mean(), middle - half, middle + half, color=f"C{number}", linewidth=2)
        axes.set_xticks(range(len(ROWS)), [row.label for row in ROWS.values()], rotation=15)
        axes.set(title=name, ylabel="mAP, points")
        axes.grid(axis="y", alpha=0.3)
    if len(backbones) > 1:
        panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _markdown(frame: "DataFrame") -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def _spread(figures: "Series", sign: str = "") -> str:
    """``mean`` and ``std`` as text; a std that is not a number is left out."""
    std = "" if figures["std"] != figures["std"] else f" ± {figures['std']:.2f}"
    return f"{figures['mean']:{sign}.2f}{std}"


def _most(scenes: "Series") -> str:
    return ", ".join(f"{scene} {change:+.1f}" for scene, change in scenes[:SCENES_SHOWN].items())
