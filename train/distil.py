"""Gives a backbone a start without published weights: it learns the features of another backbone.

``python train/distil.py --data DIR [--backbone resnet18] [--teacher efficientnet_lite0] [--out resnet18.pth]``;
then ``python train/run.py --backbone resnet18 --init resnet18.pth ...``. After an interrupt the same command goes on.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("train.distil")  # before the imports: howl.py says why

from collections.abc import Sequence

import tyro

from train.distillation import DistilOptions, distil


def main(arguments: Sequence[str] | None = None) -> None:
    distil(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> DistilOptions:
    """The options of a command line. Raises UsageError if a value is out of range."""
    return tyro.cli(DistilOptions, prog="train/distil.py", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
