"""The rows of the ablation, and its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from export.options import ExportOptions
from tools.experiments.stages import EVALUATION, EXPORT, TRAINING, Job, Run
from train.config import TrainOptions


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        label: for people.
        network: what is set in the network's configuration; nothing else differs between rows.
    """

    label: str
    network: Mapping[str, Any]


STAGES = (TRAINING, EXPORT, EVALUATION)
BASELINE, BOTH = "how", "both"
ROWS = {
    BASELINE: Row("HOW", {"smoothing": "average", "refine": "none"}),
    "filter": Row("+ learnable filter", {"smoothing": "learned", "refine": "none"}),
    "graph": Row("+ graph", {"smoothing": "average", "refine": "graph"}),
    BOTH: Row("+ both", {"smoothing": "learned", "refine": "graph"}),
}


def all_runs(backbones: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Run]:
    """All rows of the first seed, then all of the next: whenever it stops, the finished seeds are a fair comparison."""
    unique = dict.fromkeys((seed, backbone) for seed in seeds for backbone in backbones)
    return [Run(backbone, row, seed, folder) for seed, backbone in unique for row in ROWS]


def job_of(
    run: Run, training: TrainOptions, export: ExportOptions, test: Sequence[str], distractors: str | None
) -> Job:
    """The job of a run, from the options that all runs of its backbone share."""
    own = replace(
        training,
        network=replace(training.network, **ROWS[run.row].network),
        training=replace(training.training, seed=run.seed),
        out=run.checkpoint,
    )
    nodes = export.graph_nodes if ROWS[run.row].network["refine"] == "graph" else None
    engine = replace(export, checkpoint=run.checkpoint, out=run.engine, graph_nodes=nodes)
    return Job(run, own, engine, tuple(test), distractors)
