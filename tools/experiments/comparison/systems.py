"""The systems that are compared, and the stages from each one's training to its figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from tqdm import tqdm

from export.options import ExportOptions
from runtime.io.cli import command_line
from runtime.io.finding import find_photos
from runtime.retriever import Retriever
from tools.evaluation import evaluate_engine
from tools.experiments.comparison.cost import OpenSystem, costs_of
from tools.experiments.stages import EXPORT, TRAINING, Job, Run, Stage, write_json
from tools.index import keep_features
from train.config import TrainOptions

GLOBAL, RERANKED, LOCAL = "global", "global, then local", "local"  # the paper's three frameworks
LOCAL_FEATURES = ("--scales", "1", "0.707", "0.5", "0.353", "--features", "500", "--words", "4096")
SCALES = ("--scales", "1", "0.707", "0.5")


class System(NamedTuple):
    """A system, and how its first answers can be put into a better order.

    Attributes:
        label: for people.
        framework: of its search: one of the three above.
        flags: of ``howl train``; all else is the same for all systems.
        rerank: names of ``howl search --rerank``.
        activations: whether the engine gives them.
        regions: levels of the grid that the index aggregates by; 0 for none.
    """

    label: str
    framework: str
    flags: tuple[str, ...]
    rerank: tuple[str, ...]
    activations: bool = False
    regions: int = 0


SYSTEMS: Mapping[str, System] = {
    "rmac": System("R-MAC", GLOBAL, ("--system", "rmac", *SCALES), ()),
    "gem": System("GeM", GLOBAL, ("--system", "gem", *SCALES), ("similarity", "dsm"), activations=True),
    "ap-gem": System("AP-GeM", GLOBAL, ("--system", "gem", "--loss", "ap", "--tuples-per-step", "20", *SCALES), ()),
    "solar": System("GeM + SOLAR", GLOBAL, ("--system", "solar", *SCALES), ()),
    "delg": System("DELG", GLOBAL, ("--system", "delg", *LOCAL_FEATURES[:-2]), ("ransac",)),
    "delf": System("DELF", LOCAL, ("--system", "delf", *LOCAL_FEATURES), ("ransac", "spatial")),
    "delf-regions": System("DELF, R-ASMK", LOCAL, ("--system", "delf", *LOCAL_FEATURES), (), regions=3),
    "fire": System("FIRe", LOCAL, ("--system", "fire", *LOCAL_FEATURES), ("spatial",)),
    "how": System("HOW", LOCAL, ("--system", "how", *LOCAL_FEATURES), ("ransac", "spatial", "similarity")),
    "both": System(
        "HOW + filter + graph",
        LOCAL,
        ("--system", "how", "--smoothing", "learned", "--refine", "graph", *LOCAL_FEATURES),
        ("spatial",),
    ),
    "self-attention": System(
        "HOW + self-attention", LOCAL, ("--system", "how", "--refine", "self-attention", *LOCAL_FEATURES), ("spatial",)
    ),
}


def job_of(name: str, training: TrainOptions, test: Sequence[str], distractors: str, folder: Path) -> Job:
    """The job of a system.

    Args:
        name: in ``SYSTEMS``.
        training: its options.
        test: data to evaluate on.
        distractors: a folder of photos of none of the scenes.
        folder: of the files.
    """
    run = Run(training.network.backbone, name, training.training.seed, folder)
    return Job(
        run,
        replace(training, out=run.checkpoint),
        ExportOptions(run.checkpoint, run.engine, activations=SYSTEMS[name].activations),
        tuple(test),
        distractors,
    )


def stages_of(name: str) -> tuple[Stage, ...]:
    """Training, export, index, and evaluation without and with each re-ranking."""
    return (TRAINING, EXPORT, INDEX, evaluation_by(None), *map(evaluation_by, SYSTEMS[name].rerank))


def index_photos(job: Job) -> None:
    """Indexes the photos of all test sets, and the distractors, in one index, with what re-rankings need beside it."""
    system, index = SYSTEMS[job.run.row], index_of(job.run)
    with Retriever(job.run.engine, index, regions=system.regions) as retriever:
        retriever.add(find_photos(searched(job)), existing="skip")
        if keeps_features(system):
            keep_features(index, None, retriever.encoder)
    indexed_file(job.run).touch()


def keeps_features(system: System) -> bool:
    """Whether one of its re-rankings matches features that are kept beside the index."""
    return bool({"ransac", "dsm"} & set(system.rerank))


def index_flags(run: Run) -> list[object]:
    """The flags of ``howl index`` that ``index_photos`` does the same as."""
    system = SYSTEMS[run.row]
    regions = ["--regions", system.regions] if system.regions else []
    return ["--index", index_of(run), *regions, *(["--keep-features"] if keeps_features(system) else [])]


def evaluation_by(rerank: str | None) -> Stage:
    """The stage that searches the index for every photo of the test sets, and re-ranks the answers or leaves them."""

    def command(job: Job) -> str:
        flags = ["--index", index_of(job.run), *([] if rerank is None else ["--rerank", rerank]), "--json"]
        return command_line("tools/evaluate.py", job.run.engine, *job.test, *flags)

    done = partial(evaluation_file, rerank)
    return Stage(rerank or "evaluate", done, partial(evaluate, rerank), command)


def evaluate(rerank: str | None, job: Job) -> None:
    """Keeps what the evaluation gives."""
    evaluation = evaluate_engine(job.run.engine, job.test, index=index_of(job.run), rerank=rerank)
    write_json(evaluation_file(rerank, job.run), evaluation.as_dict())


def measure_costs(jobs: Sequence[Job], file: Path) -> None:
    """Keeps what the systems cost, by the names of their runs, unless the file has all of them already."""
    if file.exists() and {job.run.name for job in jobs} <= json.loads(file.read_text()).keys():
        return
    photos = find_photos([cast(str, jobs[0].distractors)])  # all jobs have the same
    systems = {
        job.run.name: OpenSystem(job.run.engine, index_of(job.run), photos, SYSTEMS[job.run.row].rerank)
        for job in tqdm(jobs, desc="opening", unit="system", disable=None)
    }
    write_json(file, costs_of(systems))


def searched(job: Job) -> list[str]:
    """The folders of the photos that are searched."""
    return [*job.test, cast(str, job.distractors)]


def index_of(run: Run) -> Path:
    return run.folder / f"{run.name}.index"


def indexed_file(run: Run) -> Path:
    """An empty file: all photos are in the index."""
    return run.folder / f"{run.name}.indexed"


def evaluation_file(rerank: str | None, run: Run) -> Path:
    return run.evaluation if rerank is None else run.folder / f"{run.name}.{rerank}.eval.json"


INDEX = Stage(
    "index",
    indexed_file,
    index_photos,
    lambda job: command_line("tools/index.py", job.run.engine, *searched(job), *index_flags(job.run)),
)
