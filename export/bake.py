"""Baking: what training kept apart and inference need not, folded into constants."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.network import Network
from train.smoothing import SharedSmoothing


def bake(network: Network, precision: str) -> Network:
    """A copy for export that computes the same: BatchNorm folded, a shared bandwidth made one constant kernel.

    Args:
        network: as trained.
        precision: ``fp32``; ``fp16`` for a trunk in half precision; ``int8`` for one that is quantised later. The head,
            whose whitening would blow up rounding errors, stays in float32.
    """
    baked = copy.deepcopy(network).eval()
    fold_batch_norm(baked.trunk)
    if isinstance(baked.smoothing, SharedSmoothing):
        baked.smoothing = baked.smoothing.baked()
    if precision == "fp16":
        baked.trunk.half()
    return baked


@torch.no_grad()
def fold_batch_norm(module: nn.Module) -> None:
    """Folds every BatchNorm into the convolution defined right before it, which in our trunks is the one it follows."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(cast(nn.Conv2d, previous[1]), child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = name, child
