"""The numpy interpreter of GRAPH: slow, plain, and the oracle for everything that is compiled.

In: a graph and arrays. Out: arrays. With `float64` every float is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir.graph import Attr, Attrs, Graph, Node
from graphc.ir.guard import guarded
from graphc.ir.types import DType, TensorType, f64

# is called with each node, inputs and those of regions included, and its results
Seen = Callable[[Node, Sequence[np.ndarray]], None]


@guarded
def interpret(
    graph: Graph, arrays: Sequence[np.ndarray], float64: bool = False, seen: Seen | None = None
) -> list[np.ndarray]:
    """The graph's outputs on these arrays; `seen` is shown every node with its results.

    Raises `ArgumentError`, `ShapeError` or `DTypeError` where the arrays are not those of the graph's inputs.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> interpret(build.graph("twice", [build.add(x, x)]), [np.float32([1, 2])])
    [array([2., 4.], dtype=float32)]
    """
    if len(arrays) != len(graph.inputs):
        raise ArgumentError(f"@{graph.name}: expected {len(graph.inputs)} arguments, got {len(arrays)}")
    given = []
    for value, array in zip(graph.inputs, arrays, strict=True):
        array = np.asarray(array)
        if array.shape != value.shape:
            raise ShapeError(
                f"@{graph.name}: %{value.node.name}: expected {value.type!r}, got {list(array.shape)}"
            )
        kind = "f" if value.dtype.is_float else value.dtype.numpy.kind
        if array.dtype.newbyteorder("=") != value.dtype.numpy and not (
            float64 and array.dtype.kind == kind == "f"
        ):
            raise DTypeError(f"@{graph.name}: %{value.node.name}: expected {value.type!r}, got {array.dtype}")
        given.append(array.astype(_numpy(value.dtype, float64), copy=False))
    return [np.array(a, order="C") for a in _run(graph, given, float64, seen)]


def _run(graph: Graph, arrays: Sequence[np.ndarray], float64: bool, seen: Seen | None) -> list[np.ndarray]:
    values = dict(zip(graph.inputs, arrays, strict=True))
    if seen is not None:
        for value, array in values.items():
            seen(value.node, [array])
    for node in graph.nodes:
        operands = [values[v] for v in node.operands]
        if node.op.control is not None:
            results = node.op.control(
                operands, node.attrs, node.regions, lambda region, given: _run(region, given, float64, seen)
            )
        else:
            attrs: Attrs = (
                {k: _widened(v) for k, v in node.attrs.items()} if float64 and node.op.typed else node.attrs
            )
            results = node.op.ref(operands, attrs)
        if seen is not None:
            seen(node, results)
        values.update(zip(node.results, results, strict=True))
    return [values[v] for v in graph.outputs]


def _numpy(dtype: DType, float64: bool) -> np.dtype:
    return f64.numpy if float64 and dtype.is_float else dtype.numpy


def _widened(value: Attr) -> Attr:
    if isinstance(value, TensorType) and value.dtype.is_float:
        return TensorType(f64, value.shape)
    return value
