"""The trunks: convolutional networks behind one small interface.

A trunk turns an RGB image into a map of non-negative features. Its parameters keep their publisher's names, so that
published weights load as they are.
"""

from train.trunk.base import Trunk
from train.trunk.efficientnet_lite import efficientnet_lite0, efficientnet_lite0_stride32, efficientnet_lite2
from train.trunk.resnet import resnet18, resnet18_stride16, resnet50
from train.trunk.weights import initialise_trunk

BUILDERS = {
    "resnet18": resnet18,
    "resnet18_stride16": resnet18_stride16,
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite0_stride32": efficientnet_lite0_stride32,
    "efficientnet_lite2": efficientnet_lite2,
}


def build_trunk(name: str) -> Trunk:
    """A trunk by its name in ``BUILDERS``, with PyTorch's random initial weights."""
    return BUILDERS[name]()


__all__ = ["BUILDERS", "Trunk", "build_trunk", "initialise_trunk"]
