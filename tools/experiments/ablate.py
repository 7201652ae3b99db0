"""What each refinement adds: ``python tools/experiments/ablate.py --train DIR --test DIR... [-- FLAGS]``.

Trains HOW, with the learnable filter, with the graph and with both, alike in all else, exports each, and evaluates the
exported engines. The same command resumes an interrupted ablation, and makes the tables again at its end.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.ablate")  # before the imports: howl.py says why

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tqdm import tqdm

import export.to_trt
import train.run
from export.options import ExportOptions
from runtime.errors import UsageError
from runtime.io.cli import positive_int, whole_number
from runtime.io.files import atomic_write, ensure_writable
from tools.environment import describe_machine, require_packages
from tools.evaluation.distractors import R1M
from tools.experiments.ablation.figures import draw, read_results, report
from tools.experiments.ablation.rows import ROWS, STAGES, all_runs, job_of
from tools.experiments.job_pool import JobPool
from tools.experiments.stages import Job, check_data, finish, keep_settings
from train.backbones import BUILDERS
from train.config import TrainOptions
from train.models.how import HowConfig

PACKAGES = ("numpy", "torch", "onnxruntime")
OWN = (
    "--system",
    "--data",
    "--backbone",
    "--smoothing",
    "--refine",
    "--graph",
    "--seed",
    "--out",
    "--resume",
)  # set here


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words[: words.index("--")] if "--" in words else words
    options = parse(own)
    training = {
        backbone: parse_training(options.train, backbone, words[len(own) + 1 :]) for backbone in options.backbones
    }
    engine = parse_export(options.export)
    out: Path = options.out
    jobs = [
        job_of(run, training[run.backbone], engine, options.test, options.distractors)
        for run in all_runs(options.backbones, options.seeds, out)
    ]
    ablate(jobs, out, options.jobs)


def ablate(jobs: Sequence[Job], out: Path, processes: int = 1) -> None:
    """Every stage of every run that is not done yet, and then, or if it is interrupted, the results so far.

    Args:
        jobs: all rows of some backbones and seeds.
        out: folder of their files, with the settings that it was started with, and of the results.
        processes: jobs that are worked on at a time.

    Raises:
        UsageError: the folder was started with other settings.
        HowlError: data is missing, or a stage failed.
    """
    require_packages("matplotlib", "pandas", "tabulate")
    ensure_writable(out / "ablation.json")
    check_data(jobs[0])
    keep_settings(jobs, out)
    pool = JobPool(processes)
    try:
        with tqdm(total=len(jobs) * len(STAGES), desc="ablation", unit="stage", disable=None) as bar:
            pool.work(jobs, lambda job: finish(job, STAGES, pool.call, bar.update))
    finally:
        write_results(jobs, out)


def write_results(jobs: Sequence[Job], out: Path) -> None:
    """Figures, tables and plot of the seeds that are finished, if there are any."""
    results = read_results([job.run for job in jobs])
    if not results:
        return
    settings = json.loads((out / "settings.json").read_text())
    result = {"machine": describe_machine(PACKAGES), "settings": settings, "runs": results}
    text = report(result)
    for name, content in (("ablation.json", json.dumps(result, indent=1)), ("ablation.md", text)):
        with atomic_write(out / name) as file:
            file.write((content + "\n").encode())
    draw(results, out / "ablation.png")
    print(f"{text}\n\n{out / 'ablation.json'}, {out / 'ablation.md'}, {out / 'ablation.png'}")
    if len(results) < len(jobs):
        print(
            f"{len(results)} of {len(jobs)} runs: only backbones and seeds of which all {len(ROWS)} rows are finished"
        )


def parse_training(data: str, backbone: str, words: Sequence[str]) -> TrainOptions:
    """Options of ``train/run.py`` that all runs of a backbone share.

    Raises:
        UsageError: the words set what the ablation sets.
    """
    flags = {word.partition("=")[0].replace("--no-", "--") for word in words}
    if own := [flag for flag in OWN if flag in flags]:
        raise UsageError(f"after --: leave out {', '.join(own)}, which the ablation sets")
    return cast(TrainOptions, train.run.parse(["--data", data, "--backbone", backbone, *words]))


def parse_export(words: Sequence[str]) -> ExportOptions:
    """Options of ``export/to_trt.py`` that all runs share. Raises UsageError if they name the engine."""
    options = export.to_trt.parse(["CKPT", *words])
    if options.out != ExportOptions(options.checkpoint).out:
        raise UsageError("--export: leave out --out, which the ablation sets")
    return options


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The ablation's own options, which stand before ``--``."""
    parser = argparse.ArgumentParser(
        prog="tools/experiments/ablate.py",
        usage="%(prog)s --train DIR --test DIR [DIR ...] [options] [-- FLAGS-OF-TRAIN/RUN.PY ...]",
        description="Trains HOW, with the learnable filter, with the graph and with both, alike in all else, exports "
        "each, and evaluates the engines. Resumes an interrupted ablation.",
        epilog="What stands after -- goes to every training: --epochs, --tuples, --image-size, --words, --init ...",
        allow_abbrev=False,
    )
    parser.add_argument("--train", required=True, metavar="DATA", help="as howl train --data takes it")
    parser.add_argument("--test", required=True, nargs="+", metavar="DATA", help="as howl evaluate takes it")
    parser.add_argument("--distractors", metavar=f"DIR|{R1M}", help="as howl evaluate takes them")
    parser.add_argument(
        "--seeds", type=whole_number, nargs="+", default=[0, 1, 2], metavar="N", help="of each row (%(default)s)"
    )
    parser.add_argument("--backbones", choices=BUILDERS, nargs="+", default=[HowConfig.backbone])
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="runs at a time (%(default)s)")
    parser.add_argument(
        "--export",
        type=shlex.split,
        default=[],
        metavar='"FLAGS"',
        help='of howl export, such as "--image-size 640 --scales 1 0.707 0.5 --features 700"',
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default="ablation", help="folder to fill, or to go on in (%(default)s)"
    )
    return parser.parse_args(arguments)
