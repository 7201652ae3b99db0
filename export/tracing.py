"""A network → one graph, folded and traced: uint8 image of any size in, an engine's outputs out.

ONNX for ONNX Runtime and TensorRT, or a program of PyTorch's.
"""

import copy
import json
import logging
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_eval

from runtime.engine.pytorch import RECORD
from runtime.engine.schema import IMAGE
from runtime.io.files import atomic_write
from runtime.io.image import MAX_SIDE, MIN_SIDE
from train.models.base import Extractor, RetrievalModel

OPSET = 20  # the newest that TensorRT 10 parses
EXAMPLE = (1152, 1664, 3)  # height and width are dynamic, but the tracer ties a side to 1, 2 or 3 if it has that value:
# the smallest level that there can be, a tenth at stride 32, is 4×6 here
SIDES = {
    0: torch.export.Dim("height", min=MIN_SIDE, max=MAX_SIDE),
    1: torch.export.Dim("width", min=MIN_SIDE, max=MAX_SIDE),
}


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
    trace_onnx(
        extractor, path, (torch.zeros(EXAMPLE, dtype=torch.uint8),), (SIDES,), (IMAGE,), extractor.outputs, metadata
    )


def trace_onnx(
    module: nn.Module,
    path: Path,
    examples: Sequence[Tensor],
    dynamic: Sequence[Mapping[int, Any]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
) -> None:
    """Writes a module as an ONNX file.

    Args:
        module: in eval mode, on the CPU.
        path: of the .onnx file.
        examples: inputs to trace it with.
        dynamic: of each input, the axes that may have another length.
        inputs, outputs: the names of its tensors.
        metadata: texts kept in the file, by name.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            tuple(examples),
            dynamo=True,
            dynamic_shapes=tuple(dynamic),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def export_program(extractor: Extractor, path: Path) -> int:
    """Writes the whole graph as a program of PyTorch's, ``engine.pt2``, with the same input and outputs.

    Args:
        extractor: in eval mode, on the CPU; an engine may run the program on a GPU all the same.
        path: of the file.

    Returns:
        the least side, in pixels, of an image that it takes.
    """
    size = {side: torch.export.Dim.DYNAMIC for side in (0, 1)}
    with _quiet_exporter():
        program = torch.export.export(
            extractor,
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            dynamic_shapes=(size,),
            prefer_deferred_runtime_asserts_over_guards=True,  # else the sizes of each level bound those of the image
        )
        program.example_inputs = None  # an image of zeros, larger than the network
        least = least_side(program.module())
        record = {"inputs": [IMAGE], "outputs": extractor.outputs, "smallest": least}
        with atomic_write(path) as file:
            torch.export.save(program, file, extra_files={RECORD: json.dumps(record)})
    return least


def least_side(module: nn.Module) -> int:
    """The least side of an image that a traced program takes; it was traced for maps of at least two cells a side."""

    def run(height: int, width: int) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True):  # shapes only: nothing is computed
            module(torch.zeros((height, width, 3), dtype=torch.uint8))

    def is_taken(side: int) -> bool:
        try:
            run(side, side)
        except (AssertionError, RuntimeError):
            return False
        return True

    run(*EXAMPLE[:2])  # what fails here has another reason
    return bisect_left(range(EXAMPLE[0]), True, lo=MIN_SIDE, key=is_taken)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps the exporter's remarks, on torchvision, its own deprecations and sizes that were tried, from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._subclasses.fake_tensor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # errors are raised as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
