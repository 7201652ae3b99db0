"""A network → one ONNX graph, folded and traced: uint8 image of any size in, an engine's outputs out."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from runtime.engine.schema import IMAGE
from runtime.io.image import MAX_SIDE, MIN_SIDE
from train.models.base import Extractor, RetrievalModel

OPSET = 20  # the newest that TensorRT 10 parses
EXAMPLE = (1152, 1664, 3)  # height and width are dynamic, but the tracer ties a side to 1, 2 or 3 if it has that value:
# the smallest level that there can be, a tenth at stride 32, is 4×6 here


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


def export_onnx(extractor: Extractor, path: Path, metadata: dict[str, str]) -> None:
    """Writes the whole graph, pyramid, selection and refinement inside.

    The graph takes ``image``, uint8 [height, width, 3], RGB, and gives the extractor's ``outputs``, as
    ``runtime.engine.schema`` defines them.

    Args:
        extractor: in eval mode, on the CPU.
        path: of the .onnx file.
        metadata: strings kept in the file.
    """
    size = {
        0: torch.export.Dim("height", min=MIN_SIDE, max=MAX_SIDE),
        1: torch.export.Dim("width", min=MIN_SIDE, max=MAX_SIDE),
    }
    with _quiet_exporter():
        program = torch.onnx.export(
            extractor,
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=(size,),
            input_names=[IMAGE],
            output_names=list(extractor.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's remarks, on torchvision and on its own deprecations, from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
