"""Graphs of ONNX, changed by hand: nodes are added, and values get other names."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

OURS = "howl/"
MIN_IR = 8  # in which initialisers are no inputs


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
