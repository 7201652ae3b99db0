"""Wraps a third party's graph into an engine's: photo in, features out, as ``runtime.engine.schema`` names them.

Only operators are added whose form is the same from opset 11 on, so that the third party's graph keeps its own opset
and is computed as it was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.foreign.network import Network
from export.foreign.options import JUST_ABOVE, Preprocessing
from export.foreign.outputs import Outputs
from export.onnx_graph import Nodes, load_graph, local_outputs, rename_values, save_engine
from runtime.engine.schema import IMAGE
from runtime.io.image import MIN_SIDE

THEIRS = "network/"
MEAN, MATRIX = "howl/whitening.mean", "howl/whitening.matrix"
LEAST = 1e-12  # of a norm that is divided by


@dataclass(frozen=True)
class Whitening:
    """x ↦ (x − mean) · matrix, of local descriptors.

    Attributes:
        mean: float32 [D].
        matrix: float32 [D, D].
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    @classmethod
    def of_engine(cls, path: Path) -> "Whitening | None":
        """The whitening in an engine that ``write_engine`` wrote; None if it has none, or is of another kind."""
        constants = {tensor.name: tensor for tensor in load_graph(path).graph.initializer}
        if not {MEAN, MATRIX} <= constants.keys():
            return None
        return cls(*(numpy_helper.to_array(constants[name]) for name in (MEAN, MATRIX)))

    def __call__(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of float32 [n, D]."""
        whitened: NDArray[np.float32] = np.asarray((descriptors - self.mean) @ self.matrix, np.float32)
        return whitened


def write_engine(
    path: Path,
    network: Network,
    preprocessing: Preprocessing,
    outputs: Outputs,
    features: int | None,
    whitening: Whitening | None,
    metadata: Mapping[str, str],
) -> None:
    """Writes the network as an engine.

    Args:
        path: of the file.
        network: of the third party; it is left as it is.
        preprocessing: of a photo.
        outputs: that become features.
        features: K, local features of a photo; None of a global network.
        whitening: of local descriptors, if there is one.
        metadata: texts kept in the file, by name.

    Raises:
        IncompatibleError: the engine would be larger than a file of ONNX may be.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    rename_values(model.graph, THEIRS)
    nodes = Nodes()
    ratio = _add_preprocessing(nodes, network, preprocessing)
    before = list(nodes.made)
    nodes.made.clear()
    made = _add_global(nodes, outputs) if features is None else _add_local(nodes, outputs, features, ratio, whitening)
    theirs = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*before, *theirs, *nodes.made])
    model.graph.initializer.extend(nodes.constants)
    save_engine(
        path, model, made, metadata, f"{network.path}: larger than 2 GB as an engine, which is one file; take fp16"
    )


def _add_preprocessing(nodes: Nodes, network: Network, how: Preprocessing) -> str | None:
    """From ``image`` to the network's input.

    Returns:
        how many pixels of the image there are to one of the input, across and down, float32 [2]; None if they are one.
    """
    shape = nodes.add("Shape", IMAGE)
    sides = [nodes.add("Gather", shape, nodes.whole([axis])) for axis in (0, 1)]
    planes = nodes.add("Transpose", nodes.add("Cast", IMAGE, to=TensorProto.FLOAT), perm=[2, 0, 1])
    sizes = _sizes(nodes, sides, how)
    ratio = None
    if sizes is not None:
        full, part = ([nodes.add("Cast", side, to=TensorProto.FLOAT) for side in each] for each in (sides, sizes))
        ratios = [nodes.add("Div", a, b) for a, b in zip(full, part, strict=True)]
        ratio = nodes.add("Concat", ratios[1], ratios[0], axis=0)
        if how.antialias:
            rows, columns = (_weights(nodes, *each) for each in zip(sides, sizes, ratios, strict=True))
            planes = nodes.add(
                "MatMul", nodes.add("MatMul", rows, planes), nodes.add("Transpose", columns, perm=[1, 0])
            )
        else:
            planes = _resized(nodes, planes, sides, sizes)
    factor = how.unit / (255 * np.array(how.std, np.float64))
    planes = nodes.add("Mul", planes, nodes.constant(factor.reshape(3, 1, 1)))
    offset = how.unit * np.array(how.mean) / np.array(how.std)
    planes = nodes.add("Sub", planes, nodes.constant(offset.reshape(3, 1, 1)))
    if network.image.element == TensorProto.UINT8:
        planes = nodes.add("Round", nodes.add("Add", planes, nodes.constant(JUST_ABOVE)))
    if not network.image.channels_first:
        planes = nodes.add("Transpose", planes, perm=[1, 2, 0])
    if network.image.batched:
        planes = nodes.add("Reshape", planes, nodes.add("Concat", nodes.whole([1]), nodes.add("Shape", planes), axis=0))
    nodes.add("Cast", planes, output=THEIRS + network.image.name, to=network.image.element)
    return ratio


def _sizes(nodes: Nodes, sides: list[str], how: Preprocessing) -> list[str] | None:
    """Height and width of the network's input, int64 [1] each; None if it has the image's own."""
    if how.input is not None:
        return [nodes.whole([side]) for side in how.input]
    if how.multiple == 1 and how.smallest <= MIN_SIDE:
        return None
    step, least = nodes.constant([how.multiple]), nodes.constant([how.least])
    sizes = []
    for side in sides:  # in floats: Max takes no whole numbers in opset 11
        steps = nodes.add("Round", nodes.add("Div", nodes.add("Cast", side, to=TensorProto.FLOAT), step))
        size = nodes.add("Max", nodes.add("Mul", steps, step), least)
        sizes.append(nodes.add("Cast", size, to=TensorProto.INT64))
    return sizes


def _weights(nodes: Nodes, full: str, part: str, ratio: str) -> str:
    """What each pixel of a side counts in each of a resized one: a triangle as wide as two new pixels, or old ones.

    The bilinear interpolation of PIL, and of PyTorch with ``antialias``. As a product of matrices, because TensorRT's
    Resize does not average.
    """
    half, one = nodes.constant([0.5]), nodes.constant([1.0])
    centres = []
    for side, form in ((part, [-1, 1]), (full, [1, -1])):
        numbers = nodes.add("Range", nodes.whole(0), nodes.add("Squeeze", side), nodes.whole(1))
        numbers = nodes.add("Reshape", nodes.add("Cast", numbers, to=TensorProto.FLOAT), nodes.whole(form))
        centres.append(nodes.add("Add", numbers, half))
    distance = nodes.add("Abs", nodes.add("Sub", centres[1], nodes.add("Mul", centres[0], ratio)))
    weights = nodes.add("Relu", nodes.add("Sub", one, nodes.add("Div", distance, nodes.add("Max", ratio, one))))
    column = nodes.filled(nodes.add("Concat", full, nodes.whole([1]), axis=0), 1.0)
    return nodes.add("Div", weights, nodes.add("MatMul", weights, column))


def _resized(nodes: Nodes, planes: str, sides: list[str], sizes: list[str]) -> str:
    """Between the four nearest pixels, [3, h, w]."""
    lead, nothing = nodes.whole([1, 3]), nodes.constant([])
    image = nodes.add("Reshape", planes, nodes.add("Concat", lead, *sides, axis=0))
    resized = nodes.add("Resize", image, nothing, nothing, nodes.add("Concat", lead, *sizes, axis=0), mode="linear")
    return nodes.add("Reshape", resized, nodes.add("Concat", nodes.whole([3]), *sizes, axis=0))


def _add_global(nodes: Nodes, outputs: Outputs) -> list[Any]:
    vector = nodes.add("Cast", THEIRS + outputs.descriptors, to=TensorProto.FLOAT)
    vector = nodes.add("Reshape", vector, nodes.whole([-1]))
    norm = nodes.add("Max", nodes.add("ReduceL2", vector, keepdims=1), nodes.constant([LEAST]))
    nodes.add("Div", vector, norm, output="global_descriptor")
    return [helper.make_tensor_value_info("global_descriptor", TensorProto.FLOAT, [outputs.dimensions])]


def _add_local(
    nodes: Nodes, outputs: Outputs, features: int, ratio: str | None, whitening: Whitening | None
) -> list[Any]:
    """The ``features`` rows of the best scores; those of a score above 0 are valid."""
    D = outputs.dimensions
    rows = nodes.add("Cast", THEIRS + outputs.descriptors, to=TensorProto.FLOAT)
    rows = nodes.add("Reshape", rows, nodes.whole([D, -1] if outputs.transposed else [-1, D]))
    if outputs.transposed:
        rows = nodes.add("Transpose", rows, perm=[1, 0])
    places = nodes.add("Cast", THEIRS + str(outputs.positions), to=TensorProto.FLOAT)
    places = nodes.add("Reshape", places, nodes.whole([-1, 2]))
    if ratio is not None:  # pixels of another size; a centre lies half a pixel from the edge at both
        half = nodes.constant([0.5])
        places = nodes.add("Sub", nodes.add("Mul", nodes.add("Add", places, half), ratio), half)
    if outputs.scores is None:
        scores = nodes.filled(nodes.add("Gather", nodes.add("Shape", rows), nodes.whole([0])), 1.0)
    else:
        scores = nodes.add("Cast", THEIRS + outputs.scores, to=TensorProto.FLOAT)
        scores = nodes.add("Reshape", scores, nodes.whole([-1]))

    def padded(values: str, *axes: int) -> str:
        return nodes.add("Concat", values, nodes.filled(nodes.whole([features, *axes]), 0.0), axis=0)

    best, index = nodes.best(padded(scores), features)
    best = nodes.add("Relu", best)
    strongest = nodes.add("Max", nodes.add("Gather", best, nodes.whole([0])), nodes.constant([LEAST]))
    nodes.add("Div", best, strongest, output="strengths")
    places = nodes.add("Gather", padded(places, 2), index, axis=0)
    nodes.add("Concat", places, nodes.filled(nodes.whole([features, 1]), 1.0), axis=1, output="positions")
    chosen = {"output": "descriptors"} if whitening is None else {}
    rows = nodes.add("Gather", padded(rows, D), index, axis=0, **chosen)
    if whitening is not None:
        centred = nodes.add("Sub", rows, nodes.constant(whitening.mean, name=MEAN))
        nodes.add("MatMul", centred, nodes.constant(whitening.matrix, name=MATRIX), output="descriptors")
    valid = nodes.add("Cast", nodes.add("Greater", best, nodes.constant(0.0)), to=TensorProto.INT32)
    nodes.add("ReduceSum", valid, keepdims=1, output="count")
    return local_outputs(features, D)
