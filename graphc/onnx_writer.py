"""What an ONNX model is written into: nodes, constants, names, and the graphs of loops and branches.

In: names of operands, operators, attributes. Out: nodes of the package onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.inline import plain
from graphc.ir.loc import UNKNOWN
from graphc.ir.printer import value_names
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from typing import Any

    from onnx import GraphProto, NodeProto, TensorProto


def info(name: str, type: TensorType):  # type: ignore[no-untyped-def]  # the package's class has several homes
    from onnx import helper

    return helper.make_tensor_value_info(name, onnx_type(type), list(type.shape))


def onnx_type(type: TensorType) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(type.dtype.numpy))


Write = Callable[
    ["Writer", Graph, Mapping[Value, str]], None
]  # the nodes of a graph whose values have these names
Fill = Callable[[], Sequence[str]]


class Writer:
    """The nodes so far. `result` is the name that the current node's value has to get."""

    def __init__(self, write: Write) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.custom = False
        self.node: Node | None = None
        self.result = ""
        self._taken: set[str] = set()
        self._write = write

    def fresh(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}.{number}"
        self._taken.add(name)
        return name

    def emit(
        self,
        op: str,
        operands: Sequence[str],
        result: str = "",
        domain: str = "",
        unread: Sequence[str] = (),
        **attrs: Any,
    ) -> str:
        """Adds a node and gives its result's name: a fresh one where none is asked for; it comes after `unread` ones."""
        from onnx import helper

        name = result or self.fresh(f"{self.result}/{op}")
        made = helper.make_node(op, operands, [*unread, name], name=name, domain=domain, **attrs)
        if self.node is not None and self.node.loc != UNKNOWN:
            made.doc_string = repr(self.node.loc)
        self.nodes.append(made)
        return name

    def emit_all(self, op: str, operands: Sequence[str], results: Sequence[str], **attrs: Any) -> None:
        """Adds a node with several results, whose names are given."""
        self.emit(op, operands, results[-1], unread=results[:-1], **attrs)

    def inline(self, graph: Graph, arguments: Sequence[str]) -> list[str]:
        """Writes the nodes of a graph whose inputs have these names; gives the names of its outputs."""
        graph = plain(graph)
        names = dict(zip(graph.inputs, arguments, strict=True))
        wanted = {v: self.fresh(name) for v, name in value_names(graph).items() if v not in names}
        self._write(self, graph, names | wanted)
        return [(names | wanted)[v] for v in graph.outputs]

    def region(
        self, name: str, inputs: Mapping[str, TensorType], outputs: Sequence[TensorType], fill: Fill
    ) -> GraphProto:
        """A graph inside of a node: `fill` writes it and gives the names of its outputs. It may read what is around it."""
        from onnx import helper

        around, node, result = self.nodes, self.node, self.result
        self.nodes = []
        results = []
        for made, type in zip(fill(), outputs, strict=True):
            # an output is of its own node: inputs and what is around can't be outputs
            results.append(info(self.emit("Identity", [made], self.fresh(f"{name}/output")), type))
        inner, self.nodes, self.node, self.result = self.nodes, around, node, result
        return helper.make_graph(inner, name, [info(n, t) for n, t in inputs.items()], results)

    def constant(self, array: np.ndarray, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or self.fresh(f"{self.result}/constant")
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64).reshape(len(values)))

    def scalar(self, value: float, like: TensorType) -> str:
        return self.constant(np.array(value, like.dtype.numpy))
