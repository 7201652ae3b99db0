"""The backbones that there are, by the name that the command line gives them."""

from train.backbones.base import Backbone
from train.backbones.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite0_stride32,
    efficientnet_lite1,
    efficientnet_lite2,
)
from train.backbones.resnet import (
    resnet18,
    resnet18_stride16,
    resnet50,
    resnet50_stride32,
    resnet50_unit,
    resnet101_stride32,
    resnet152_stride32,
)

BUILDERS = {
    "resnet18": resnet18,
    "resnet18_stride16": resnet18_stride16,
    "resnet50": resnet50,
    "resnet50_unit": resnet50_unit,
    "resnet50_stride32": resnet50_stride32,
    "resnet101_stride32": resnet101_stride32,
    "resnet152_stride32": resnet152_stride32,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite0_stride32": efficientnet_lite0_stride32,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
}


def build_backbone(name: str) -> Backbone:
    """A backbone by its name in ``BUILDERS``, with PyTorch's random initial weights."""
    return BUILDERS[name]()
