"""What each refinement is worth: ``python tools/experiments/ablate.py --train DIR --test DIR... [-- FLAGS]``.

Trains HOW, with the learnable filter, with the graph and with both, alike in all else, exports each, and evaluates the
exported engines. The same command goes on where an interrupted one stopped, and makes the tables anew at its end.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import export.to_trt
import train.run
from runtime.errors import HowlError
from runtime.io.atomic import atomic_write
from runtime.io.cli import positive_int, run_command, whole_number
from runtime.io.image import find_photos
from tools.environment import describe_machine, load_pyplot
from tools.evaluation.distractors import R1M
from tools.experiments.ablation.figures import evaluated
from tools.experiments.ablation.job_pool import Crew
from tools.experiments.ablation.plot import draw
from tools.experiments.ablation.runs import ROWS, Run, all_runs
from tools.experiments.ablation.settings import Settings, keep_settings
from tools.experiments.ablation.stages import STAGES, finish
from tools.experiments.ablation.tables import report
from train.backbones import BUILDERS
from train.data import open_set
from train.models.how import HowConfig

PACKAGES = ("numpy", "torch", "onnxruntime")
OWN = ("data", "out", "resume", "seed", "backbone", "smoothing", "graph")  # of train/run.py, set by the ablation


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    load_pyplot()  # sooner a missing package than a lost measurement
    settings, out = settings_of(options), Path(options.out)
    check_data(settings)
    keep_settings(settings, out)
    runs = all_runs(options.backbones, options.seeds, out)
    try:
        finish_all(runs, settings, options.jobs)
    finally:
        write_results(runs, settings, out)


def settings_of(options: argparse.Namespace) -> Settings:
    """What all runs share; flags for the other commands are tried on their parsers, before any work."""
    training = train.run.parse(options.training)
    flags = {word.partition("=")[0].replace("--no-", "--") for word in options.training}
    given = [name for name in OWN if f"--{name}" in flags]
    if given:
        raise HowlError(f"after --: leave out {', '.join(f'--{name}' for name in given)}, which the ablation sets")
    if export.to_trt.parse(["CKPT", *options.export]).out != export.to_trt.parse(["CKPT"]).out:
        raise HowlError("--export: leave out --out, which the ablation sets")
    return Settings(
        train=options.train,
        test=options.test,
        distractors=options.distractors,
        training=options.training,
        export=options.export,
        data_root=str(training.data_root),
    )


def check_data(settings: Settings) -> None:
    """Raises HowlError where photos to measure on are missing: training comes first, and takes long."""
    for data in settings.test:
        open_set(data, root=Path(settings.data_root))
    if settings.distractors and settings.distractors != R1M:
        find_photos([settings.distractors])


def finish_all(runs: Sequence[Run], settings: Settings, jobs: int) -> None:
    """Every stage of every run that is not done yet."""
    crew = Crew(jobs)
    with tqdm(total=len(runs) * len(STAGES), desc="ablation", unit="stage", disable=None) as bar:
        crew.work(runs, lambda run: finish(run, settings, crew.run, bar.update))


def write_results(runs: Sequence[Run], settings: Settings, out: Path) -> None:
    """Figures, tables and plot of the seeds that are finished, where there are any."""
    results = evaluated(runs)
    if not results:
        return
    result = {"machine": describe_machine(PACKAGES), "settings": settings.as_dict(), "runs": results}
    text = report(result)
    for name, content in (("ablation.json", json.dumps(result, indent=1)), ("ablation.md", text)):
        with atomic_write(out / name) as file:
            file.write((content + "\n").encode())
    draw(results, out / "ablation.png")
    print(f"{text}\n\n{out / 'ablation.json'}, {out / 'ablation.md'}, {out / 'ablation.png'}")
    if len(results) < len(runs):
        print(
            f"{len(results)} of {len(runs)} runs: only backbones and seeds of which all {len(ROWS)} rows are finished"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; what stands after ``--`` is ``training``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="tools/experiments/ablate.py",
        usage="%(prog)s --train DIR --test DIR [DIR ...] [options] [-- FLAGS-OF-TRAIN/RUN.PY ...]",
        description="Trains HOW, with the learnable filter, with the graph and with both, alike in all else, exports "
        "each, and evaluates the engines. Goes on where an interrupted ablation stopped.",
        epilog="What stands after -- goes to every training: --epochs, --tuples, --image-size, --words, --init ...",
        allow_abbrev=False,
    )
    parser.add_argument("--train", required=True, metavar="DATA", help="as train/run.py --data takes it")
    parser.add_argument("--test", required=True, nargs="+", metavar="DATA", help="as tools/evaluate.py takes it")
    parser.add_argument("--distractors", metavar=f"DIR|{R1M}", help="as tools/evaluate.py takes them")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--backbones", choices=BUILDERS, nargs="+", default=[HowConfig.backbone])
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument(
        "--export",
        type=shlex.split,
        default=[],
        metavar='"FLAGS"',
        help='of export/to_trt.py, such as "--image-size 640 --scales 1,0.707,0.5 --features 700"',
    )
    parser.add_argument("--out", metavar="DIR", default="ablation", help="folder to fill, or to go on in (%(default)s)")
    options = parser.parse_args(words[:end])
    options.training = words[end + 1 :]
    options.seeds, options.backbones = list(dict.fromkeys(options.seeds)), list(dict.fromkeys(options.backbones))
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its commands are to end with it
    sys.exit(run_command(main))
