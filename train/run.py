"""Trains a network: ``python train/run.py [--system how|gem|…] [--data scenes|DIR|sfm120k] [--out ckpt.pt] ...``."""

if __name__ == "__main__":
    import howl

    howl.run_script("train.run")  # before the imports: howl.py says why

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tyro

from runtime.errors import UsageError
from runtime.io.cli import command_line, program
from runtime.io.image import describe_unreadable
from train.checkpoint import Checkpoint
from train.config import ResumeOptions, TrainOptions, options_for, refuse_without_effect
from train.log import CURVE_SUFFIX, LOG_SUFFIX, EpochLog
from train.trainer import Interrupted, resume_training, start_training

PROGRAM = "train/run.py"
OLDER_FLAGS = {"--graph": ("--refine", "graph"), "--no-graph": ("--refine", "none")}  # of commands that are published


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if isinstance(options, TrainOptions):
        refuse_without_effect(options)
    with saying_what_is_kept(options):
        train(options)


def train(options: TrainOptions | ResumeOptions) -> Checkpoint | None:
    """Trains as the options say, and prints a report. Returns and raises as ``start_training``."""
    if isinstance(options, ResumeOptions):
        out = options.out or options.resume
        checkpoint = resume_training(
            options.resume, out=out, epochs=options.epochs, data_root=options.data_root, threads=options.threads
        )
    else:
        out = options.out
        checkpoint = start_training(options)
    if checkpoint is not None:
        print(report(checkpoint, out))
    return checkpoint


@contextmanager
def saying_what_is_kept(options: TrainOptions | ResumeOptions) -> Iterator[None]:
    """Has Ctrl-C say in one line what is kept, and the command that goes on: the message of its KeyboardInterrupt."""
    if isinstance(options, ResumeOptions):
        out, kept = options.out or options.resume, f"{options.resume} is as it was"
    else:
        out, kept = options.out, "nothing is kept yet"
    try:
        yield
    except Interrupted as interrupt:
        again = command_for(ResumeOptions(out, data_root=options.data_root, threads=options.threads))
        raise KeyboardInterrupt(f"interrupted: {out} holds {interrupt}; to go on: {again}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {kept}; to start again: {command_for(options)}") from None


def parse(arguments: Sequence[str] | None = None) -> TrainOptions | ResumeOptions:
    """The options of a command line.

    Some of them are looked at first, because the defaults of the others depend on them.

    Raises:
        HowlError: a value is out of range, or ``--resume`` comes with settings of its run.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = program(PROGRAM)
    if any(word.partition("=")[0] == "--resume" for word in words):
        return parse_resume(words, name)
    words = [new for word in words for new in OLDER_FLAGS.get(word, (word,))]
    looked_at = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, exit_on_error=False
    )
    for flag in ("--system", "--data", "--backbone"):
        looked_at.add_argument(flag)
    looked_at.add_argument("--image-size", "--image_size", type=int)
    try:
        first = vars(looked_at.parse_known_args(words)[0])
    except argparse.ArgumentError:
        first = {}  # tyro refuses the same words, with its own help
    flat = (tyro.conf.OmitArgPrefixes,)  # --epochs rather than --training.epochs
    return tyro.cli(TrainOptions, prog=name, args=words, default=options_for(**first), config=flat)


def command_for(options: TrainOptions | ResumeOptions) -> str:
    """The command that a user would type for these options: the inverse of ``parse``."""
    if isinstance(options, ResumeOptions):
        plain = ResumeOptions(options.resume)
        return command_line(PROGRAM, "--resume", options.resume, options=options, defaults=plain)
    system, data, backbone = options.system, options.training.data, options.network.backbone
    words: list[object] = []
    for flag, value, default in (
        ("--system", system, options_for().system),
        ("--data", data, options_for().training.data),
        ("--backbone", backbone, options_for(system).network.backbone),
        ("--image-size", options.extraction.image_size, options_for(system, data).extraction.image_size),
    ):
        words += [flag, value] if value != default else []
    fitting = options_for(system, data, backbone, options.extraction.image_size)
    return command_line(PROGRAM, *words, options=options, defaults=fitting)


def parse_resume(words: Sequence[str], name: str) -> ResumeOptions:
    """The options beside ``--resume``. Raises HowlError, naming them, if there are others than it allows."""
    options, others = tyro.cli(ResumeOptions, prog=name, args=words, return_unknown_args=True)
    flags = [word.partition("=")[0].replace("--no-", "--") for word in others if word.startswith("--")]
    if others:
        raise UsageError(f"--resume keeps the checkpoint's own settings: leave out {', '.join(flags or others)}")
    return options


def report(checkpoint: Checkpoint, out: Path) -> str:
    """What was written, which epoch it is, and which photos were left out."""
    best, last = best_epoch(checkpoint), len(checkpoint.training["records"]) - 1
    lines = [
        f"{out}: epoch {best.epoch} is the best, validation mAP {best.mean_average_precision:.4f}, "
        f"{words_of(checkpoint)}log {out.with_suffix(LOG_SUFFIX)}, curve {out.with_suffix(CURVE_SUFFIX)}"
    ]
    if best.epoch == 0 and last > 0:
        lines.append("no epoch was better than the network before its first step, which is what the checkpoint holds")
    unreadable = checkpoint.training["unreadable"] | checkpoint.training["unreadable_validation"]
    if unreadable:
        lines.append(describe_unreadable(unreadable))
    return "\n".join(lines)


def best_epoch(checkpoint: Checkpoint) -> EpochLog:
    """The epoch whose weights the checkpoint of a training run holds; number 0 is the network before its first step."""
    return max((EpochLog(**record) for record in checkpoint.training["records"]), key=lambda record: record.rank)


def words_of(checkpoint: Checkpoint) -> str:
    """How many visual words there are, and why not as many as were asked for; nothing if the system has none."""
    if checkpoint.codebook is None:
        return ""
    count, asked = len(checkpoint.codebook), checkpoint.training["config"]["words"]
    fewer = f" ({asked} asked: too few descriptors for more)" if count < asked else ""
    return f"{count} visual words{fewer}; "
