"""A network → one ONNX graph: uint8 image of any size in, an engine's outputs out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runtime.engine.schema import IMAGE
from runtime.io.image import MIN_SIDE
from train.models.base import Extractor

OPSET = 20  # the newest that TensorRT 10 parses
MAX_SIDE = 16_384  # pixels; the tracer wants a bound
EXAMPLE = (288, 416, 3)  # height and width are dynamic; where a level of it is 3×3, the tracer ties the two together


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
