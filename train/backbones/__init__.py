"""The backbones: convolutional networks behind one small interface.

A backbone turns an RGB image into a map of non-negative features. Its parameters keep their publisher's names, so that
published weights load as they are.
"""

from train.backbones.base import Backbone
from train.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite0_stride32, efficientnet_lite2
from train.backbones.resnet import resnet18, resnet18_stride16, resnet50

BUILDERS = {
    "resnet18": resnet18,
    "resnet18_stride16": resnet18_stride16,
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite0_stride32": efficientnet_lite0_stride32,
    "efficientnet_lite2": efficientnet_lite2,
}


def build_backbone(name: str) -> Backbone:
    """A backbone by its name in ``BUILDERS``, with PyTorch's random initial weights."""
    return BUILDERS[name]()


__all__ = ["BUILDERS", "Backbone", "build_backbone"]
