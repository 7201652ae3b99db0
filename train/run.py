"""Trains a network: ``python train/run.py [--data scenes|DIR|sfm120k] [--smoothing ...] [--graph] [--out ckpt.pt]``."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from runtime.errors import HowlError
from runtime.io.atomic import ensure_writable
from runtime.io.cli import (
    image_side,
    positive_float,
    positive_int,
    run_command,
    scale_list,
    whole_number,
    with_options,
)
from runtime.io.image import describe_unreadable
from train.backbones import BUILDERS, build_backbone
from train.checkpoint import Checkpoint
from train.config import BACKBONE_LEARNING_RATES, TrainingConfig, scale_for
from train.data import open_data
from train.distributed import ProcessGroup, join_process_group
from train.log import CURVE_SUFFIX, LOG_SUFFIX
from train.losses import LOSSES
from train.models.base import ExtractionConfig
from train.models.graph import nodes_covering
from train.models.how import HowConfig, HowNetwork
from train.trainer import Training
from train.weights.init import init_weights

KEPT_ON_RESUME = {"resume", "epochs", "out", "data_root"}
DEFAULT_BACKBONE = "efficientnet_lite0"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    out = checkpoint_path(options)
    with join_process_group() as processes:
        training = resumed(options, processes) if options.resume else start(options, processes)
        if processes.is_first and training.validation is training.photos:
            print("too few scenes to keep any for validation: the training photos serve for both (10 scenes would do)")
        if processes.is_first:
            print(f"training on {training.photos.describe()}; validation on {training.validation.describe()}")
        if processes.is_first and not training.learns:
            print("the backbone is frozen and there is no refinement: only whitening and visual words are learned")
        checkpoint = training.run(out)
        if checkpoint is not None:
            report(training, checkpoint, out)


def checkpoint_path(options: argparse.Namespace) -> Path:
    """Where the checkpoint goes; found out before any work whether it can go there."""
    out = Path(options.out or options.resume or "ckpt.pt")
    if out.suffix in (LOG_SUFFIX, CURVE_SUFFIX):
        raise HowlError(f"--out {out}: the log or the curve beside the checkpoint gets that name; use .pt")
    ensure_writable(out)
    if out.exists() and not options.resume:
        raise HowlError(f"{out}: exists already; go on with --resume {out}, name another --out, or delete it")
    return out


def start(options: argparse.Namespace, processes: ProcessGroup) -> Training:
    """A run from its first epoch, as the options say."""
    config, extraction = recipe_of(options), extraction_of(options)
    photos, validation = open_data(
        config.data, image_size=extraction.image_size, seed=config.seed, root=Path(options.data_root)
    )
    torch.manual_seed(config.seed)
    network = HowNetwork(network_of(options, extraction.image_size))
    init = options.init or "imagenet"
    taken = init_weights(network, init)
    if processes.is_first and "whitening" in taken:
        print(f"from {init}: {', '.join(sorted(taken))}")
    training = Training(network, photos, validation, config, extraction, processes)
    training.prepare(random_backbone=init == "random", whitened="whitening" in taken)
    return training


def resumed(options: argparse.Namespace, processes: ProcessGroup) -> Training:
    """The run of a checkpoint, taken up where it stopped; only more epochs may be asked of it."""
    given = {name for name, value in vars(options).items() if value is not None} - KEPT_ON_RESUME
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in sorted(given))
        raise HowlError(f"--resume keeps the checkpoint's own settings: leave out {flags}")
    checkpoint = Checkpoint.load(Path(options.resume))
    if "config" not in checkpoint.training:
        raise HowlError(f"{options.resume}: holds no training run to resume")
    config = TrainingConfig(**checkpoint.training["config"])
    if options.epochs is not None:
        config = replace(config, epochs=options.epochs)
    photos, validation = open_data(
        config.data,
        image_size=checkpoint.extraction.image_size,
        seed=config.seed,
        root=Path(options.data_root),
    )
    training = Training(
        checkpoint.build_model(),
        photos,
        validation,
        config,
        checkpoint.extraction,
        processes,
    )
    training.load_state(checkpoint)
    return training


def recipe_of(options: argparse.Namespace) -> TrainingConfig:
    """The config: the data's scale, the backbone's learning rate, and whatever the options say instead."""
    data = options.data or "scenes"
    scale = scale_for(data)
    config = TrainingConfig(
        data=data,
        learning_rate=BACKBONE_LEARNING_RATES[options.backbone or DEFAULT_BACKBONE],
        epochs=scale.epochs,
        tuples=scale.tuples,
        loss=scale.loss,
    )
    return with_options(config, options)


def extraction_of(options: argparse.Namespace) -> ExtractionConfig:
    """Image size, scales and features: the data's, or the options'."""
    return with_options(scale_for(options.data or "scenes").extraction, options)


def network_of(options: argparse.Namespace, image_size: int) -> HowConfig:
    """The network that the options name; its graph covers the whole map at training size."""
    config = with_options(HowConfig(backbone=DEFAULT_BACKBONE), options)
    backbone = build_backbone(config.backbone)
    if config.dimensions > backbone.channels:
        raise HowlError(
            f"--dimensions {config.dimensions}: {config.backbone} has {backbone.channels} channels, no more"
        )
    if options.graph_nodes is None:
        config = replace(config, graph_nodes=nodes_covering(image_size, backbone.stride))
    if config.graph and config.graph_neighbours >= config.graph_nodes:
        raise HowlError(
            f"--graph-neighbours {config.graph_neighbours} needs more than {config.graph_nodes} nodes: lower it, or "
            f"raise --graph-nodes or --image-size"
        )
    return config


def report(training: Training, checkpoint: Checkpoint, out: Path) -> None:
    """What was written, which epoch it is, and which photos were left out."""
    scored = [r for r in training.records if r.mean_average_precision is not None]
    best = max(scored, key=lambda record: (record.mean_average_precision, -record.epoch))
    print(
        f"{out}: epoch {best.epoch} is the best, validation mAP {best.mean_average_precision:.4f}, "
        f"{words_of(checkpoint, training.config)}; log {out.with_suffix(LOG_SUFFIX)}, "
        f"curve {out.with_suffix(CURVE_SUFFIX)}"
    )
    if best.epoch == 0 and training.records[-1].epoch > 0:
        print("no epoch was better than the network before its first step, which is what the checkpoint holds")
    unreadable = training.photos.unreadable | training.validation.unreadable
    if unreadable:
        print(describe_unreadable(unreadable))


def words_of(checkpoint: Checkpoint, config: TrainingConfig) -> str:
    """How many visual words there are, and why not as many as were asked for."""
    count = len(checkpoint.codebook or ())
    fewer = f" ({config.words} asked: too few descriptors for more)" if count < config.words else ""
    return f"{count} visual words{fewer}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train/run.py",
        description="Trains HOW local descriptors, with the learnable filter and the graph where asked for. Defaults "
        "that depend on the data or the backbone are those of train/config.py.",
    )
    parser.add_argument("--data", metavar="scenes|sfm120k|DIR", help="default: scenes, made by the program itself")
    parser.add_argument(
        "--data-root", metavar="DIR", default="data", help="where published data sets lie (%(default)s)"
    )
    parser.add_argument("--out", metavar="CKPT", help="the checkpoint to write; default: ckpt.pt, or the one resumed")
    parser.add_argument("--resume", metavar="CKPT", help="go on where this checkpoint's run stopped")
    parser.add_argument("--seed", type=whole_number)

    network = parser.add_argument_group("network")
    network.add_argument("--backbone", choices=BUILDERS, help=f"default: {DEFAULT_BACKBONE}")
    network.add_argument(
        "--init",
        metavar="imagenet|random|FILE",
        help="the backbone's weights, or a checkpoint to begin with; default: imagenet",
    )
    network.add_argument("--smoothing", choices=("average", "learned", "none"), help="default: average, as HOW")
    network.add_argument("--kernel", type=int, choices=(3, 5, 7), help="side of the smoothing window; default: 3")
    network.add_argument("--bandwidth", choices=("per-position", "shared"), help="of learned smoothing")
    network.add_argument("--graph", action=argparse.BooleanOptionalAction, help="refine the strongest positions")
    network.add_argument("--graph-nodes", type=positive_int, metavar="N", help="default: the map at training size")
    network.add_argument("--graph-neighbours", type=positive_int, metavar="K", help="default: 8")
    network.add_argument("--graph-blocks", type=positive_int, metavar="B", help="default: 2")
    network.add_argument("--dimensions", type=positive_int, metavar="D", help="of a descriptor; default: 128")

    learning = parser.add_argument_group("learning")
    learning.add_argument("--epochs", type=whole_number, help="0 only learns whitening and codebook")
    learning.add_argument("--tuples", type=positive_int, help="query tuples an epoch")
    learning.add_argument(
        "--loss",
        choices=LOSSES,
        help="match: on local features, the default for a folder; contrastive: on sums over photos, as HOW",
    )
    learning.add_argument("--tuples-per-step", type=positive_int, help="default: 5")
    learning.add_argument("--pool", type=positive_int, help="photos that negatives are mined from; default: 20000")
    learning.add_argument(
        "--learning-rate", type=positive_float, help="of the backbone; new modules learn 10 times faster"
    )
    learning.add_argument(
        "--freeze-backbone",
        action=argparse.BooleanOptionalAction,
        help="only the refinements learn: three times as fast, and enough for few photos",
    )
    learning.add_argument("--words", type=positive_int, help="visual words at most; default: 65536")
    learning.add_argument("--validate-every", type=positive_int, metavar="EPOCHS", help="default: 1")

    extraction = parser.add_argument_group("photos")
    extraction.add_argument("--image-size", type=image_side, metavar="PIXELS", help="longest side")
    extraction.add_argument("--scales", type=scale_list, metavar="S,S,...", help="of validation")
    extraction.add_argument("--features", type=positive_int, metavar="K", help="of a photo, in validation")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
