"""The figures of an ablation: what was evaluated, and its means, stds and paired differences, in points."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.experiments.ablation.runs import BASELINE, ROWS, Run

MEAN = "mean"  # of the test sets


class Spread(NamedTuple):
    """Mean and sample standard std over seeds; the std of a single seed is NaN."""

    mean: float
    std: float


def evaluated(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The evaluations of all (backbone, seed) of which every row is finished."""
    finished: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        if run.evaluation.exists():
            finished[run.backbone, run.seed].append(run)
    return [read(run) for rows in finished.values() if len(rows) == len(ROWS) for run in rows]


def read(run: Run) -> dict[str, Any]:
    """A run's mAP and every query's average precision, by test set."""
    sets = json.loads(run.evaluation.read_text())["sets"]
    labels = set_labels([each["data"] for each in sets])
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


def set_labels(data: Sequence[str]) -> list[str]:
    """The folders' names, or their paths where two have the same name."""
    names = [Path(each).name or each for each in data]
    return [name if names.count(name) == 1 else each for name, each in zip(names, data, strict=True)]


def columns(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The test sets, and their mean where there are several."""
    sets = list(results[0]["mAP"])
    return [*sets, MEAN] if len(sets) > 1 else sets


def points(results: Sequence[Mapping[str, Any]], backbone: str, row: str, column: str) -> dict[int, float]:
    """mAP in points by seed."""
    return {
        each["seed"]: 100 * (float(np.mean(list(each["mAP"].values()))) if column == MEAN else each["mAP"][column])
        for each in results
        if each["backbone"] == backbone and each["row"] == row
    }


def differences(results: Sequence[Mapping[str, Any]], backbone: str, row: str, column: str) -> dict[int, float]:
    """Points above HOW's, seed by seed."""
    ours, how = points(results, backbone, row, column), points(results, backbone, BASELINE, column)
    return {seed: value - how[seed] for seed, value in ours.items()}


def spread(by_seed: Mapping[int, float]) -> Spread:
    values = list(by_seed.values())
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))


def scene_differences(results: Sequence[Mapping[str, Any]], backbone: str, row: str, test_set: str) -> dict[str, float]:
    """Points above HOW's by scene, the query's folder: the mean over its queries and the seeds."""
    ours, how = (_by_seed(results, backbone, each, test_set) for each in (row, BASELINE))
    scenes: dict[str, list[float]] = defaultdict(list)
    for seed, queries in ours.items():
        for query, precision in queries.items():
            scenes[str(Path(query).parent)].append(100 * (precision - how[seed][query]))
    shortest = short_names(list(scenes))
    return {shortest[scene]: float(np.mean(values)) for scene, values in scenes.items()}


def short_names(folders: Sequence[str]) -> dict[str, str]:
    """Every folder's own name, or its path where two have the same."""
    return dict(zip(folders, set_labels(folders), strict=True))


def _by_seed(
    results: Sequence[Mapping[str, Any]], backbone: str, row: str, test_set: str
) -> dict[int, dict[str, float]]:
    return {
        each["seed"]: each["average_precisions"][test_set]
        for each in results
        if each["backbone"] == backbone and each["row"] == row
    }
