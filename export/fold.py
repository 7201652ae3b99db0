"""Folding: what training keeps apart becomes constants for inference."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.models.base import RetrievalModel


def fold(network: RetrievalModel, precision: str) -> RetrievalModel:
    """A copy for export that computes the same: BatchNorm folded, and what the system itself folds.

    Args:
        network: as trained.
        precision: ``fp32``, ``fp16`` or ``int8``: ``RetrievalModel.folded``.
    """
    folded = copy.deepcopy(network).eval()
    fold_batch_norm(folded.backbone)
    return folded.folded(precision)


@torch.no_grad()
def fold_batch_norm(module: nn.Module) -> None:
    """Folds every BatchNorm into the convolution defined right before it: in our backbones the one that it follows."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(cast(nn.Conv2d, previous[1]), child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = name, child
