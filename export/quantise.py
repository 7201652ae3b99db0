"""Static quantisation: the same graph, its backbone in 8-bit integers (Jacob et al., CVPR 2018), for CPUs.

Activations become unsigned and weights signed bytes, the one pairing that x86 multiplies natively (VNNI). Ranges are
those seen on calibration photos, of every level of the pyramid for itself. The head (attention, smoothing, graph,
whitening, selection) stays in float32: it is a small part of the work, and whitening would blow up rounding errors.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from runtime.engine.schema import IMAGE
from runtime.io.image import Image

SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter notes the modules, in quotes, that a node comes from
BACKBONE = "network.backbone"


def quantise_backbone(source: Path, target: Path, float_layers: Sequence[str], photos: Sequence[Image]) -> None:
    """Writes an exported graph with its backbone quantised.

    Args:
        source: as ``export_onnx`` writes it, in float32.
        target: of the quantised graph.
        float_layers: modules of the backbone that stay as they are.
        photos: to calibrate on, RGB uint8 [H, W, 3], as the engine takes them; a few dozen of the kind to be searched.
    """
    with _quiet_quantiser():
        quantize_static(
            source,
            target,
            _Calibration(photos),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_quantize=backbone_nodes(onnx.load(source), float_layers),
            calibrate_method=CalibrationMethod.MinMax,
        )


def backbone_nodes(model: onnx.ModelProto, float_layers: Sequence[str]) -> list[str]:
    """The names of the nodes that come from the backbone, but not from the layers that stay in float."""
    left_out = [f"'{BACKBONE}.{layer}'" for layer in float_layers]
    scopes = {node.name: _scopes(node) for node in model.graph.node}
    return [
        name
        for name, scope in scopes.items()
        if _innermost_part(scope) == BACKBONE and not any(layer in scope for layer in left_out)
    ]


def _innermost_part(scope: str) -> str:
    """The part of the network that a node is in: a module of the head may be called from within the backbone."""
    parts = re.findall(r"'(network\.\w+)", scope)
    return parts[-1] if parts else ""


def _scopes(node: onnx.NodeProto) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")


class _Calibration(CalibrationDataReader):
    """Photos, one after the other, as the quantiser asks for them."""

    def __init__(self, photos: Sequence[Image]) -> None:
        self._photos = iter(photos)

    def get_next(self) -> dict[str, Any] | None:
        photo = next(self._photos, None)
        return None if photo is None else {IMAGE: photo}


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Keeps the quantiser's advice, to optimise a graph that is optimised already, from the user."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
