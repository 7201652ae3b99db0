"""A third party's ONNX file: what it takes, what it gives, and what of it howl cannot use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.onnx_graph import MAX_BYTES, converted, load_graph, opset_of
from runtime.bundle import file_checksum
from runtime.engine.onnxruntime import OnnxSession
from runtime.errors import HowlError, IncompatibleError, MissingError, UsageError

MIN_OPSET = 11  # the first with the Range, Round and TopK that the wrapping needs
CONVERTED_OPSET = 17  # that graphs of an older one are converted to
TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}


@dataclass(frozen=True)
class ImageInput:
    """The tensor that a network takes.

    Attributes:
        name: of the tensor.
        element: float32, float16 or uint8: a number of ``TensorProto``.
        batched: whether it has a first axis of length 1.
        channels_first: whether the colours come before height and width.
        height, width: in pixels; None if any number of them is taken.
    """

    name: str
    element: int
    batched: bool
    channels_first: bool
    height: int | None
    width: int | None

    @property
    def dtype(self) -> type[np.generic]:
        return TYPES[self.element]


@dataclass(frozen=True)
class Network:
    """A third party's network, loaded.

    Attributes:
        path: of the file.
        model: the graph with its weights, of opset 11 at least.
        image: its input.
        session: runs the file as it is.
        checksums: SHA-256 of the file, and of the files that hold its weights, by name.
    """

    path: Path
    model: Any
    image: ImageInput
    session: OnnxSession
    checksums: Mapping[str, str]

    @property
    def opset(self) -> int:
        return opset_of(self.model)

    @property
    def is_half(self) -> bool:
        """Whether it computes in fp16, at least in part."""
        return any(tensor.data_type == TensorProto.FLOAT16 for tensor in self.model.graph.initializer)

    def run(self, tensor: NDArray) -> dict[str, NDArray]:
        """All that it gives for its input, by name. Raises HowlError if ONNX Runtime fails."""
        return self.session.run(self.session.outputs, {self.image.name: tensor})


def open_network(path: Path, threads: int | None = None) -> Network:
    """Loads a third party's network.

    Raises:
        HowlError: the file is missing, no ONNX, too large, or takes something else than one RGB image.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file; name the network's .onnx")
    model = load_graph(path)
    weights = {path.name} | {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and tensor.data_location == TensorProto.EXTERNAL
    }
    _load_weights(path, model)
    image = _image_input(path, model)
    session = OnnxSession(path, "cpu", threads)
    if opset_of(model) < MIN_OPSET:
        model = converted(path, model, CONVERTED_OPSET, f"older than {MIN_OPSET}")
    checksums = {name: file_checksum(path.parent / name) for name in sorted(weights)}
    return Network(path, model, image, session, checksums)


def _load_weights(path: Path, model: Any) -> None:
    """Loads weights from the files beside the graph: the engine is one file."""
    try:
        onnx.load_external_data_for_model(model, str(path.absolute().parent))
        size = model.ByteSize()
    except Exception as error:  # onnx raises its checker's errors, protobuf and the operating system theirs
        why = " ".join(str(error).split())[:300]
        raise MissingError(
            f"{path}: the file of its weights cannot be read ({why}); restore it beside the graph"
        ) from None
    if size > MAX_BYTES:
        raise IncompatibleError(f"{path}: {size / 1e9:.1f} GB with its weights, and an engine has 2 at most; take fp16")


def _image_input(path: Path, model: Any) -> ImageInput:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "nothing"
        raise IncompatibleError(f"{path}: takes {len(inputs)} inputs ({names}), and howl gives one image; export it so")
    name, tensor = inputs[0].name, inputs[0].type.tensor_type
    if tensor.elem_type not in TYPES:
        raise IncompatibleError(f"{path}: its input '{name}' is not float32, float16 or uint8; export it so")
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim]
    shown = f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"
    batched = len(dims) == 4
    sides = dims[1:] if batched else dims
    if len(sides) != 3:
        raise IncompatibleError(f"{path}: its input '{name}' is {shown}, and one image is [1, 3, height, width]")
    if batched and dims[0] not in (None, 1):
        raise IncompatibleError(f"{path}: its input '{name}' is {shown}: {dims[0]} images at once; export it for one")
    channels_first = sides[2] != 3 or sides[0] == 3
    channels = sides[0] if channels_first else sides[2]
    if channels not in (None, 3):
        raise IncompatibleError(f"{path}: its input '{name}' is {shown}: no RGB image, which has three colours")
    height, width = sides[1:] if channels_first else sides[:2]
    return ImageInput(name, tensor.elem_type, batched, channels_first, height, width)


def decided_size(network: Network, wanted: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width that photos are stretched to: those that are named, else the graph's own, else None.

    Raises:
        UsageError: the graph takes another size than the one that is named.
        IncompatibleError: it fixes one side only, and no size is named.
    """
    own = network.image.height, network.image.width
    if wanted is None:
        if (own[0] is None) != (own[1] is None):
            raise IncompatibleError(f"{network.path}: fixes one side of its images only; name both: --input HxW")
        return None if own[0] is None or own[1] is None else (own[0], own[1])
    if any(side is not None and side != asked for side, asked in zip(own, wanted, strict=True)):
        sides = "×".join("?" if side is None else str(side) for side in own)
        raise UsageError(f"--input {wanted[0]}x{wanted[1]}: {network.path} takes {sides} (height×width); leave it out")
    return wanted


def run_or_say(network: Network, tensor: NDArray) -> dict[str, NDArray]:
    """``Network.run``, whose error says how the size of images is named."""
    try:
        return network.run(tensor)
    except HowlError as error:
        raise IncompatibleError(
            f"{error}; name the size that it was made for, --input HxW, or --multiple N and --smallest N"
        ) from None
