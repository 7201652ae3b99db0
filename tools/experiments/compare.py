"""The paper's comparison of systems: ``python tools/experiments/compare.py --train DIR --test DIR --distractors DIR``.

Every system is trained with the same small budget, exported, indexed and evaluated, without and with its re-rankings,
and its bytes and milliseconds are measured. The same command goes on after an interrupt, and makes the table again.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.compare")  # before the imports: howl.py says why

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tqdm import tqdm

import train.run
from runtime.io.cli import positive_int
from runtime.io.files import atomic_write, ensure_writable
from tools.environment import describe_machine, require_packages
from tools.experiments.comparison.figures import draw, read_results, table
from tools.experiments.comparison.systems import SYSTEMS, job_of, measure_costs, stages_of
from tools.experiments.job_pool import JobPool
from tools.experiments.stages import Job, check_data, finish, keep_settings
from train.config import TrainOptions

PACKAGES = ("numpy", "torch", "onnxruntime")
BUDGET = ("--image-size", "480", "--tuple-size", "320", "--epochs", "1", "--tuples", "60")
COSTS = "costs.json"
RESULT, TABLE, PLOT = "comparison.json", "comparison.md", "comparison.png"


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words[: words.index("--")] if "--" in words else words
    options = parse(own)
    shared = words[len(own) + 1 :]
    jobs = [
        job_of(name, parse_training(name, options.train, shared), options.test, options.distractors, options.out)
        for name in options.systems
    ]
    compare(jobs, options.out, options.jobs)


def compare(jobs: Sequence[Job], out: Path, processes: int = 1) -> None:
    """Every stage of every system that is not done yet; then all are timed, and the table is made.

    Args:
        jobs: of the systems.
        out: folder of their files, with the settings that it was started with, and of the table.
        processes: systems that are worked on at a time.

    Raises:
        UsageError: the folder was started with other settings.
        HowlError: data is missing, or a stage failed.
    """
    require_packages("matplotlib", "pandas", "tabulate")
    ensure_writable(out / RESULT)
    check_data(jobs[0])
    keep_settings(jobs, out)
    pool = JobPool(processes)
    stages = sum(len(stages_of(job.run.row)) for job in jobs)
    with tqdm(total=stages, desc="comparison", unit="stage", disable=None) as bar:
        pool.work(jobs, lambda job: finish(job, stages_of(job.run.row), pool.call, bar.update))
    measure_costs(jobs, out / COSTS)
    write_results(jobs, out)


def write_results(jobs: Sequence[Job], out: Path) -> None:
    """Figures, table and plot."""
    lines = read_results([job.run for job in jobs], json.loads((out / COSTS).read_text()))
    result = {"machine": describe_machine(PACKAGES), "systems": lines}
    text = table(result)
    for name, content in ((RESULT, json.dumps(result, indent=1)), (TABLE, text)):
        with atomic_write(out / name) as file:
            file.write((content + "\n").encode())
    draw(result, out / PLOT)
    print(f"{text}\n\n{out / RESULT}, {out / TABLE}, {out / PLOT}")


def parse_training(name: str, data: str, words: Sequence[str]) -> TrainOptions:
    """Options of ``train/run.py`` for a system: its own flags, and those that all share."""
    return cast(TrainOptions, train.run.parse(["--data", data, *SYSTEMS[name].flags, *BUDGET, *words]))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The comparison's own options, which stand before ``--``."""
    parser = argparse.ArgumentParser(
        prog="tools/experiments/compare.py",
        usage="%(prog)s --train DIR --test DIR [DIR ...] --distractors DIR [options] [-- FLAGS-OF-TRAIN/RUN.PY ...]",
        description="Trains every system of the paper's comparison with the same small budget, exports, indexes and "
        "evaluates it, and measures what it costs. Goes on with an interrupted comparison.",
        epilog=f"What stands after -- goes to every training, after {' '.join(BUDGET)}.",
        allow_abbrev=False,
    )
    parser.add_argument("--train", required=True, metavar="DIR", help="one folder a scene, to train on")
    parser.add_argument("--test", required=True, nargs="+", metavar="DIR", help="one folder a scene, to evaluate on")
    parser.add_argument("--distractors", required=True, metavar="DIR", help="photos of none of the scenes")
    parser.add_argument("--systems", choices=SYSTEMS, nargs="+", default=list(SYSTEMS), help="(all)")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="systems at a time (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", default="comparison", help="(%(default)s)")
    return parser.parse_args(arguments)
