"""Baking: what training kept apart and inference need not, folded into constants."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.models.how import Network
from train.models.smoothing import SharedSmoothing


def fold(network: Network, precision: str) -> Network:
    """A copy for export that computes the same: BatchNorm folded, a shared bandwidth made one constant kernel.

    Args:
        network: as trained.
        precision: ``fp32``; ``fp16`` for a backbone in half precision; ``int8`` for one that is quantised later. The
            head, whose whitening would blow up rounding errors, stays in float32.
    """
    folded = copy.deepcopy(network).eval()
    fold_batch_norm(folded.backbone)
    if isinstance(folded.smoothing, SharedSmoothing):
        folded.smoothing = folded.smoothing.folded()
    if precision == "fp16":
        folded.backbone.half()
    return folded


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
