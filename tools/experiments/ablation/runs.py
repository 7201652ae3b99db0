"""What is compared: the rows of the ablation, and its runs with their options, files and stages."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from export.exporter import export_checkpoint
from export.options import ExportOptions
from runtime.bundle import EngineFiles
from runtime.errors import UsageError
from runtime.io.cli import command_line
from runtime.io.files import atomic_write
from tools.evaluation import evaluate_engine
from train.config import ResumeOptions, TrainOptions
from train.run import command_for, train

SETTINGS = "settings.json"


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        label: for people.
        network: what is set in the network's configuration; nothing else differs between rows.
    """

    label: str
    network: Mapping[str, Any]


BASELINE, BOTH = "how", "both"
ROWS = {
    BASELINE: Row("HOW", {"smoothing": "average", "refine": "none"}),
    "filter": Row("+ learnable filter", {"smoothing": "learned", "refine": "none"}),
    "graph": Row("+ graph", {"smoothing": "average", "refine": "graph"}),
    BOTH: Row("+ both", {"smoothing": "learned", "refine": "graph"}),
}


@dataclass(frozen=True)
class Run:
    """A network to train, export and evaluate, and its files, which share a name in one folder."""

    backbone: str
    row: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.backbone}-{self.row}-seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        return self._file(".pt")

    @property
    def trained(self) -> Path:
        """An empty file: the checkpoint's training has come to its end."""
        return self._file(".trained")

    @property
    def engine(self) -> Path:
        return self._file(".onnx")

    @property
    def evaluation(self) -> Path:
        return self._file(".eval.json")

    @property
    def log(self) -> Path:
        return self._file(".log")

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


def all_runs(backbones: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Run]:
    """All rows of the first seed, then all of the next: whenever it stops, the finished seeds are a fair comparison."""
    unique = dict.fromkeys((seed, backbone) for seed in seeds for backbone in backbones)
    return [Run(backbone, row, seed, folder) for seed, backbone in unique for row in ROWS]


@dataclass(frozen=True)
class Job:
    """A run with everything that its stages need.

    Attributes:
        run: what it is called, and its files.
        training: options of the training, with the run's row and seed.
        export: options of the export.
        test: data that ``evaluate_engine`` takes.
        distractors: likewise.
    """

    run: Run
    training: TrainOptions
    export: ExportOptions
    test: tuple[str, ...]
    distractors: str | None

    @classmethod
    def of(
        cls, run: Run, training: TrainOptions, export: ExportOptions, test: Sequence[str], distractors: str | None
    ) -> "Job":
        """The job of a run, from the options that all runs of its backbone share."""
        own = replace(
            training,
            network=replace(training.network, **ROWS[run.row].network),
            training=replace(training.training, seed=run.seed),
            out=run.checkpoint,
        )
        nodes = export.graph_nodes if ROWS[run.row].network["refine"] == "graph" else None
        engine = replace(export, checkpoint=run.checkpoint, out=run.engine, graph_nodes=nodes)
        return cls(run, own, engine, tuple(test), distractors)


class Stage(NamedTuple):
    """A step of a run.

    Attributes:
        name: for people.
        done: a file that is there, whole, once the stage has come to its end.
        do: the work; it is called in a process of its own.
        command: what a user would type for it.
    """

    name: str
    done: Callable[[Run], Path]
    do: Callable[[Job], None]
    command: Callable[[Job], str]


class Caller(Protocol):
    """Calls a function; what it prints goes to the log (``JobPool.call``)."""

    def __call__(self, function: Callable[[Job], None], job: Job, /, *, log: Path, command: str) -> None: ...


def finish(job: Job, call: Caller, stepped: Callable[[], object]) -> None:
    """Does the stages that are left; ``stepped`` is called after each, and for those that were done before."""
    for number, stage in enumerate(STAGES):
        if not is_done(job.run, stage):
            for later in STAGES[number:]:  # their results are of an earlier network
                later.done(job.run).unlink(missing_ok=True)
            call(stage.do, job, log=job.run.log, command=stage.command(job))
        stepped()


def is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage has come to its end; that of a training needs the checkpoint too."""
    return stage.done(run).exists() and (stage.name != "train" or run.checkpoint.exists())


def train_network(job: Job) -> None:
    """Starts the training, or resumes an interrupted one: the checkpoint is written after each epoch."""
    train(training_of(job))
    job.run.trained.touch()


def training_of(job: Job) -> TrainOptions | ResumeOptions:
    """What is trained: the network from its first epoch, or, if there is a checkpoint, from where that one stopped."""
    if job.run.checkpoint.exists():
        return ResumeOptions(job.run.checkpoint, data_root=job.training.data_root)
    return job.training


def export_engine(job: Job) -> None:
    """Exports the checkpoint."""
    export_checkpoint(job.export)


def evaluate(job: Job) -> None:
    """Keeps what the evaluation gives."""
    evaluation = evaluate_engine(
        job.run.engine, job.test, distractors=job.distractors, data_root=job.training.data_root
    )
    with atomic_write(job.run.evaluation) as file:
        file.write(json.dumps(evaluation.as_dict(), indent=1).encode())


def evaluation_command(job: Job) -> str:
    """The command of ``evaluate``."""
    distractors = ["--distractors", job.distractors] if job.distractors else []
    flags = [*distractors, "--data-root", job.training.data_root, "--json"]
    return command_line("tools/evaluate.py", job.run.engine, *job.test, *flags)


STAGES = (
    Stage("train", lambda run: run.trained, train_network, lambda job: command_for(training_of(job))),
    Stage("export", lambda run: EngineFiles.of(run.engine).manifest, export_engine, lambda job: job.export.command()),
    Stage("evaluate", lambda run: run.evaluation, evaluate, evaluation_command),
)


def keep_settings(jobs: Sequence[Job], folder: Path) -> None:
    """Writes what decides the figures into the folder, or compares it with that of an earlier start.

    Backbones may be added, and so may seeds.

    Raises:
        UsageError: something differs; the line says what.
    """
    path, settings = folder / SETTINGS, settings_of(jobs)
    if path.exists():
        try:
            before = json.loads(path.read_text())
            known = {**before, "training": {**settings["training"], **before["training"]}}
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}: no settings of an ablation; name another folder with --out") from None
        for name, was, now in differences(before, settings):
            raise UsageError(
                f"{folder}: started with {name} {was}, now {now}; give the same, or name another folder with --out"
            )
        settings = known
    with atomic_write(path) as file:
        file.write((json.dumps(settings, indent=1) + "\n").encode())


def settings_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """What decides the figures, as JSON has it: the data, the export, and the training by backbone and row."""
    first = jobs[0]
    content = {
        "test": first.test,
        "distractors": first.distractors,
        "export": asdict(replace(first.export, checkpoint=Path("CKPT"), out=Path("engine.onnx"))),
        "training": {
            f"{job.run.backbone} {job.run.row}": asdict(
                replace(job.training, out=Path("CKPT"), training=replace(job.training.training, seed=0))
            )
            for job in jobs
        },
    }
    return json.loads(json.dumps(content, default=str))


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value that is in both and differs: its name, what it was, and what it is now."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [key for key in before if key in now]:
            yield from differences(before[key], now[key], f"{name} {key}".strip())
    elif before != now:
        yield name, before, now
