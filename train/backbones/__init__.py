"""The backbones: convolutional networks behind one small interface.

A backbone turns an RGB image into a map of non-negative features. Its parameters keep their publisher's names, so that
published weights load as they are.
"""

from train.backbones.base import Backbone
from train.backbones.registry import BUILDERS, build_backbone

__all__ = ["BUILDERS", "Backbone", "build_backbone"]
