"""Graphs of ONNX, read, changed by hand, and written as engines: nodes are added, and values get other names."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from runtime.engine.schema import IMAGE
from runtime.errors import DamagedError, IncompatibleError, MissingError

OURS = "howl/"
MIN_IR = 8  # in which initialisers are no inputs
MAX_BYTES = 2**31 - 1  # of a file of protobuf


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a graph uses."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def load_graph(path: Path) -> Any:
    """The graph of a file, without weights that lie beside it. Raises HowlError if it is none."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}") from None
    except Exception:  # protobuf's errors share no public base class
        model = None
    if model is None or not model.graph.node:
        raise DamagedError(f"{path}: not an ONNX file, or damaged; name the network's .onnx")
    return model


def converted(path: Path, model: Any, opset: int, reason: str) -> Any:
    """A file's graph with operators of another version. Raises IncompatibleError, with the reason, if it cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # it raises what it meets
        why = " ".join(str(error).split())[:200]
        raise IncompatibleError(
            f"{path}: is of opset {opset_of(model)}, {reason}, and cannot be converted ({why}); export the network "
            f"again with opset_version={opset}"
        ) from None


def local_outputs(features: int, dimensions: int) -> list[Any]:
    """What an engine of K local features in D dimensions gives, as ``runtime.engine.schema`` names it."""
    return [
        helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, [features, dimensions]),
        helper.make_tensor_value_info("strengths", TensorProto.FLOAT, [features]),
        helper.make_tensor_value_info("positions", TensorProto.FLOAT, [features, 3]),
        helper.make_tensor_value_info("count", TensorProto.INT32, [1]),
    ]


def save_engine(path: Path, model: Any, outputs: Sequence[Any], metadata: Mapping[str, str], too_large: str) -> None:
    """Writes a graph whose nodes are complete as an engine's: from ``image`` to its outputs.

    Args:
        path: of the file.
        model: the graph; it gets input, outputs and metadata.
        outputs: what it gives.
        metadata: texts kept in the file, by name; those that howl gave the graph before are not.
        too_large: the error if the engine would be larger than a file of ONNX may be.
    """
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3]))
    model.graph.output.extend(outputs)
    model.ir_version = max(model.ir_version, MIN_IR)
    own = {each.key: each.value for each in model.metadata_props if not each.key.startswith("howl.")}
    helper.set_model_props(model, {**own, **metadata})
    if model.ByteSize() > MAX_BYTES:
        raise IncompatibleError(too_large)
    onnx.save(model, path)


def rename_values(graph: Any, prefix: str) -> None:
    """Puts a prefix before the name of every value in a graph and in the graphs inside its nodes."""
    for part in _all_graphs(graph):
        named = (*part.input, *part.output, *part.value_info, *part.initializer)
        for each in (*named, *(tensor.values for tensor in part.sparse_initializer)):
            each.name = prefix + each.name
        for note in part.quantization_annotation:
            note.tensor_name = prefix + note.tensor_name
            for entry in note.quant_parameter_tensor_names:
                entry.value = prefix + entry.value
        for node in part.node:
            for names in (node.input, node.output):
                names[:] = [name and prefix + name for name in names]  # an input that is left out has no name


def _all_graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for each in inner:
                yield from _all_graphs(each)


class Nodes:
    """Nodes and constants that are added to a graph, in order.

    Attributes:
        made: the nodes.
        constants: initialisers.
    """

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.constants: list[Any] = []
        self._number = 0

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        name = output or self._new_name()
        self.made.append(helper.make_node(operator, inputs, [name], name=OURS + name.removeprefix(OURS), **attributes))
        return name

    def best(self, values: str, number: int) -> tuple[str, str]:
        """The largest of a list, largest first, and where they are."""
        names = [self._new_name(), self._new_name()]
        k = self.whole([number])
        self.made.append(helper.make_node("TopK", [values, k], names, name=names[0], axis=0, largest=1, sorted=1))
        return names[0], names[1]

    def constant(self, values: Any, dtype: Any = np.float32, name: str | None = None) -> str:
        name = name or self._new_name()
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def whole(self, values: Any) -> str:
        return self.constant(values, np.int64)

    def filled(self, shape: str, value: float) -> str:
        """Float32 of a shape, all of one value."""
        return self.add("ConstantOfShape", shape, value=helper.make_tensor("value", TensorProto.FLOAT, [1], [value]))

    def _new_name(self) -> str:
        self._number += 1
        return f"{OURS}{self._number}"
