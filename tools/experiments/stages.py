"""Networks that are compared: their options, their files, and the stages to their figures, each of which is done once.

An experiment that is interrupted goes on: a stage leaves a file at its end, and one whose file is there is not done
again.
"""

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
from runtime.io.finding import find_photos
from tools.evaluation import evaluate_engine
from tools.evaluation.distractors import R1M
from train.config import ResumeOptions, TrainOptions
from train.data import open_set
from train.run import command_for, train

SETTINGS = "settings.json"


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


@dataclass(frozen=True)
class Job:
    """A run with everything that its stages need.

    Attributes:
        run: what it is called, and its files.
        training: options of the training.
        export: options of the export.
        test: data that ``evaluate_engine`` takes.
        distractors: likewise.
    """

    run: Run
    training: TrainOptions
    export: ExportOptions
    test: tuple[str, ...]
    distractors: str | None


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


def finish(job: Job, stages: Sequence[Stage], call: Caller, stepped: Callable[[], object]) -> None:
    """Does the stages that are left; ``stepped`` is called after each, and for those that were done before."""
    for number, stage in enumerate(stages):
        if not is_done(job.run, stage):
            for later in stages[number:]:  # their results are of an earlier network
                later.done(job.run).unlink(missing_ok=True)
            call(stage.do, job, log=job.run.log, command=stage.command(job))
        stepped()


def is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage has come to its end; that of a training needs the checkpoint too."""
    return stage.done(run).exists() and (stage is not TRAINING or run.checkpoint.exists())


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
    write_json(job.run.evaluation, evaluation.as_dict())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def evaluation_command(job: Job) -> str:
    """The command of ``evaluate``."""
    distractors = ["--distractors", job.distractors] if job.distractors else []
    flags = [*distractors, "--data-root", job.training.data_root, "--json"]
    return command_line("tools/evaluate.py", job.run.engine, *job.test, *flags)


TRAINING = Stage("train", lambda run: run.trained, train_network, lambda job: command_for(training_of(job)))
EXPORT = Stage(
    "export", lambda run: EngineFiles.of(run.engine).manifest, export_engine, lambda job: job.export.command()
)
EVALUATION = Stage("evaluate", lambda run: run.evaluation, evaluate, evaluation_command)


def check_data(job: Job) -> None:
    """Raises HowlError if photos to measure on are missing: training comes first, and takes long."""
    for data in job.test:
        open_set(data, image_size=None, root=job.training.data_root)
    if job.distractors and job.distractors != R1M:
        find_photos([job.distractors])


def keep_settings(jobs: Sequence[Job], folder: Path) -> None:
    """Writes what decides the figures into the folder, or compares it with that of an earlier start.

    Backbones and rows may be added, and so may seeds.

    Raises:
        UsageError: something differs; the line says what.
    """
    path, settings = folder / SETTINGS, settings_of(jobs)
    if path.exists():
        try:
            before = json.loads(path.read_text())
            known = before | {part: settings[part] | before[part] for part in ("training", "export")}
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}: no settings of such an experiment; name another folder with --out") from None
        for name, was, now in differences(before, settings):
            raise UsageError(
                f"{folder}: started with {name} {was}, now {now}; give the same, or name another folder with --out"
            )
        settings = known
    with atomic_write(path) as file:
        file.write((json.dumps(settings, indent=1) + "\n").encode())


def settings_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """What decides the figures, as JSON has it: the data, and export and training by backbone and row."""
    first = jobs[0]
    content = {
        "test": first.test,
        "distractors": first.distractors,
        "export": {
            name_of(job.run): asdict(replace(job.export, checkpoint=Path("CKPT"), out=Path("engine.onnx")))
            for job in jobs
        },
        "training": {
            name_of(job.run): asdict(
                replace(job.training, out=Path("CKPT"), training=replace(job.training.training, seed=0))
            )
            for job in jobs
        },
    }
    return json.loads(json.dumps(content, default=str))


def name_of(run: Run) -> str:
    """Of what the runs of all seeds share."""
    return f"{run.backbone} {run.row}"


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value that is in both and differs: its name, what it was, and what it is now."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [key for key in before if key in now]:
            yield from differences(before[key], now[key], f"{name} {key}".strip())
    elif before != now:
        yield name, before, now
