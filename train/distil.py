"""Gives a backbone a start where no published weights are at hand: it learns to see what another backbone sees.

``python train/distil.py --data DIR [--backbone resnet18] [--teacher efficientnet_lite0] [--out resnet18.pth]``;
then ``python train/run.py --backbone resnet18 --init resnet18.pth ...``. The same command goes on after an interrupt.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from runtime.errors import HowlError
from runtime.io.atomic import ensure_writable
from runtime.io.cli import image_side, positive_float, positive_int, run_command, whole_number, with_options
from train.backbones import BUILDERS, build_backbone
from train.data import open_data
from train.distillation import Distillation, DistillationConfig
from train.weights.init import init_backbone
from train.weights.safe_load import load_tensors, save_tensors

TEACHERS = {16: "efficientnet_lite0", 32: "efficientnet_lite0_stride32"}  # by stride, with weights at hand


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    out = Path(options.out or f"{options.backbone}.pth")
    ensure_writable(out)
    if out.exists():
        raise HowlError(f"{out}: exists already; name another --out, or delete it")
    config = with_options(DistillationConfig(), options)
    torch.manual_seed(config.seed)
    student = build_backbone(options.backbone)
    teacher_name = options.teacher or TEACHERS.get(student.stride, options.backbone)
    teacher = build_backbone(teacher_name)
    if teacher.stride != student.stride:
        raise HowlError(
            f"--teacher {teacher_name}: its stride is {teacher.stride}, that of {options.backbone} {student.stride}; "
            f"their maps must be of one size"
        )
    init_backbone(teacher, teacher_name, options.teacher_init)
    photos, validation = open_data(
        options.data, image_size=options.image_size, seed=config.seed, root=Path(options.data_root)
    )
    judged = "the photos held out" if validation is not photos else "the same photos: too few scenes to hold any out"
    print(f"distilling from {photos.describe()}; judged on {validation.describe()}")
    distillation = Distillation(teacher, student, photos, config)
    settings = {
        "backbone": options.backbone,
        "teacher": teacher_name,
        "teacher_init": options.teacher_init,
        "data": options.data,
        "image_size": options.image_size,
        **asdict(config),
    }
    progress = out.with_name(out.name + ".progress")
    if progress.exists():
        distillation.load_state(read_progress(progress, settings))
        print(f"goes on after step {distillation.steps_done}, from {progress}")
    explained = distillation.run(validation, keep=lambda state: save_tensors(progress, {**state, "settings": settings}))
    save_tensors(out, student.state_dict())
    progress.unlink(missing_ok=True)
    print(f"{out}: explains {explained:.1%} of the variance of {teacher_name}'s features on {judged}")
    if explained <= 0:
        print("no better than their mean: give it more --steps")


def read_progress(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run left. Raises HowlError where it had other settings."""
    progress = load_tensors(path)
    if not isinstance(progress, dict) or progress.get("settings") != settings:
        raise HowlError(f"{path}: left by a run with other settings: delete it, or name another --out")
    return progress


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train/distil.py",
        description="Trains a backbone from random weights to give another's features, for train/run.py --init.",
    )
    parser.add_argument("--data", metavar="scenes|sfm120k|DIR", required=True, help="photos; their labels are not used")
    parser.add_argument(
        "--data-root", metavar="DIR", default="data", help="where published data sets lie (%(default)s)"
    )
    parser.add_argument("--backbone", choices=BUILDERS, default="resnet18", help="what learns (%(default)s)")
    parser.add_argument(
        "--teacher",
        choices=BUILDERS,
        help="what it learns from; default: EfficientNet-Lite0 at the stride of --backbone",
    )
    parser.add_argument(
        "--teacher-init", metavar="imagenet|FILE", default="imagenet", help="the teacher's weights (%(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", help="the state dict to write; default: the backbone's name and .pth")
    parser.add_argument("--image-size", type=image_side, default=480, metavar="PIXELS", help="(%(default)s)")
    parser.add_argument("--crop", type=image_side, metavar="PIXELS", help="side of what is learned from; default: 192")
    parser.add_argument("--batch", type=positive_int, help="crops a step; default: 32")
    parser.add_argument("--steps", type=positive_int, help="default: 2000")
    parser.add_argument("--learning-rate", type=positive_float, help="at its peak; default: 0.002")
    parser.add_argument("--seed", type=whole_number)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
