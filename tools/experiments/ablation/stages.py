"""The stages of a run, each a command that a user would type: train, export, evaluate."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from runtime.bundle import EngineFiles
from runtime.io.atomic import atomic_write
from tools.experiments.ablation.runs import Run
from tools.experiments.ablation.settings import Settings


class Runner(Protocol):
    """Runs one of howl's commands and gives what it prints where ``captured``; else that goes to the log too."""

    def __call__(self, script: str, *arguments: str | Path, log: Path, captured: bool = False) -> str: ...


class Stage(NamedTuple):
    """A step of a run.

    Attributes:
        name: for people.
        done: a file that is there, whole, once the stage has come to its end.
        do: the work.
    """

    name: str
    done: Callable[[Run], Path]
    do: Callable[[Run, Settings, Runner], None]


def finish(run: Run, settings: Settings, runner: Runner, stepped: Callable[[], object]) -> None:
    """Does the stages that are left; ``stepped`` is called after each, and for those that were done before."""
    for number, stage in enumerate(STAGES):
        if not is_done(run, stage):
            for later in STAGES[number:]:  # their results are of a network that is no more
                later.done(run).unlink(missing_ok=True)
            stage.do(run, settings, runner)
        stepped()


def is_done(run: Run, stage: Stage) -> bool:
    return stage.done(run).exists() and (stage.name != "train" or run.checkpoint.exists())


def train(run: Run, settings: Settings, runner: Runner) -> None:
    """Begins the training, or goes on with one that was interrupted: the checkpoint is written after each epoch."""
    root = ("--data-root", settings.data_root)
    if run.checkpoint.exists():
        runner("train/run.py", "--resume", run.checkpoint, *root, log=run.log)
    else:
        which = ("--data", settings.train, *root, "--backbone", run.backbone, *settings.rows[run.row])
        seed = ("--seed", str(run.seed), "--out", run.checkpoint)
        runner("train/run.py", *which, *settings.training, *seed, log=run.log)
    run.trained.touch()


def export(run: Run, settings: Settings, runner: Runner) -> None:
    runner("export/to_trt.py", run.checkpoint, *settings.export, "--out", run.engine, log=run.log)


def evaluate(run: Run, settings: Settings, runner: Runner) -> None:
    """Keeps what the evaluation prints."""
    distractors = ("--distractors", settings.distractors) if settings.distractors else ()
    arguments = (run.engine, *settings.test, *distractors, "--data-root", settings.data_root, "--json")
    printed = runner("tools/evaluate.py", *arguments, log=run.log, captured=True)
    with atomic_write(run.evaluation) as file:
        file.write(printed.encode())


STAGES = (
    Stage("train", lambda run: run.trained, train),
    Stage("export", lambda run: EngineFiles.of(run.engine).manifest, export),  # is written last, by renaming
    Stage("evaluate", lambda run: run.evaluation, evaluate),
)
