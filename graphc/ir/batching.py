"""Batching: a graph for one example becomes a graph for many, without a loop.

In: a graph, which of its inputs have a batch as their first dimension, how many examples. Out: a graph whose outputs all
have it. What an op makes of a batch is its own `batch` rule (`OpDef.batch`), most of which are made by the functions here;
an op without one is taken example by example. Batched values have the batch as dimension 0 everywhere.

The idea of a rule for each primitive: Bradbury et al., JAX, 2018; Agarwal & Ganichev, Auto-vectorizing TensorFlow graphs,
2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.ir.graph import Attr, Builder, Graph, Node, Value

# (builder, node of one example, operands, which of them are batched, size of the batch) -> results; None: take the
# examples one by one
Batch = Callable[["Builder", "Node", "Sequence[Value]", "Sequence[bool]", int], "Sequence[Value | None]"]


def batch_graph(graph: Graph, batched: Sequence[bool], size: int) -> Graph:
    """The graph of `size` examples: inputs that are `batched`, and all outputs, have a first dimension of that size.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, w = build.input(f32[3], "x"), build.input(f32[3], "w")
    >>> dot = build.contract(x, w, axes=((0,), (0,)), batch=((), ()))
    >>> print(batch_graph(build.graph("dot", [dot]), [True, False], 8))
    graphc 1
    graph @dot(%x: f32[8,3], %w: f32[3]) -> (f32[8]) {
      %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[8]
      return %0
    }
    """
    from graphc.ir.graph import Builder

    build = Builder()
    inputs = [
        build.input(many(v.type, size) if b else v.type, v.node.name, v.node.loc)
        for v, b in zip(graph.inputs, batched, strict=True)
    ]
    found = batch_into(build, graph, inputs, batched, size)
    outputs = [value if has_batch else whole(build, value, size) for value, has_batch in found]
    return build.graph(graph.name, outputs, graph.stage, graph.output_names)


def batch_into(
    build: Builder, graph: Graph, inputs: Sequence[Value], batched: Sequence[bool], size: int
) -> list[tuple[Value, bool]]:
    """The outputs of `size` examples in this builder, and whether they have a batch: others are the same for all."""
    new = dict(zip(graph.inputs, inputs, strict=True))
    has_batch = {v for v, b in zip(graph.inputs, batched, strict=True) if b}
    for node in graph.nodes:
        operands = [new[v] for v in node.operands]
        which = [v in has_batch for v in node.operands]
        outer, build.loc = build.loc, node.loc
        if any(which):
            results = batch_node(build, node, operands, which, size)
            has_batch.update(node.results)
        else:
            results = build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name).results
        build.loc = outer
        new.update(zip(node.results, results, strict=True))
    return [(new[v], v in has_batch) for v in graph.outputs]


def batch_node(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value]:
    """The results of one node for all examples: by its op's rule, else example by example."""
    rule = node.op.batch or (_pointwise if "pointwise" in node.op.traits else None)
    if rule is not None:
        found = rule(build, node, operands, batched, size)
        results = [v for v in found if v is not None]
        if len(results) == len(node.types):
            return results
    return _one_by_one(build, node, operands, batched, size)


def many(type: TensorType, size: int) -> TensorType:
    """The type of so many values of this type.

    >>> from graphc.ir.types import f32
    >>> many(f32[2, 3], 8)
    f32[8,2,3]
    """
    return TensorType(type.dtype, (size, *type.shape))


def whole(build: Builder, value: Value, size: int) -> Value:
    """The value of one example repeated for all."""
    return build.broadcast(value, dims=tuple(range(1, value.type.rank + 1)), shape=(size, *value.shape))


def all_whole(build: Builder, operands: Sequence[Value], batched: Sequence[bool], size: int) -> list[Value]:
    """All operands with a batch."""
    return [v if b else whole(build, v, size) for v, b in zip(operands, batched, strict=True)]


def to_front(build: Builder, value: Value, dim: int) -> Value:
    """The value with this dimension first, the others in their order."""
    if dim == 0:
        return value
    return build.transpose(value, perm=(dim, *(d for d in range(value.type.rank) if d != dim)))


def along(*names: str) -> Batch:
    """The rule of an op whose attributes `names` are dimensions, or lists of them: each moves up by one."""

    def attrs(node: Node, size: int) -> Mapping[str, Attr]:
        return {name: _moved(node.attrs[name]) for name in names}

    return changed(attrs)


def changed(attrs: Callable[[Node, int], Mapping[str, Attr]]) -> Batch:
    """The rule of an op that works on all examples with other attributes: `attrs` of the node and the batch's size."""

    def rule(
        build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
    ) -> Sequence[Value | None]:
        given = all_whole(build, operands, batched, size)
        return build.emit(node.op, given, {**node.attrs, **attrs(node, size)}, name=node.name).results

    return rule


def _moved(value: Attr) -> Attr:
    if isinstance(value, tuple):
        return tuple(_moved(v) for v in value)
    assert isinstance(value, int)
    return value + 1


def _pointwise(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    attrs = {**node.attrs, "type": many(node.type, size)} if node.op.typed else node.attrs
    return build.emit(node.op, all_whole(build, operands, batched, size), attrs, name=node.name).results


def _one_by_one(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value]:
    """A node for each example; the results one after the other."""
    if size == 0:
        return [build.zeros(many(type, 0)) for type in node.types]
    columns: list[list[Value]] = [[] for _ in node.types]
    for i in range(size):
        own = [_example(build, v, i) if b else v for v, b in zip(operands, batched, strict=True)]
        made = build.emit(node.op, own, node.attrs, node.regions)
        for column, value in zip(columns, made.results, strict=True):
            column.append(build.reshape(value, shape=(1, *value.shape)))
    return [build.concat(*column, axis=0) if size > 1 else column[0] for column in columns]


def _example(build: Builder, value: Value, i: int) -> Value:
    rank = value.type.rank
    row = build.slice(value, start=(i, *(0,) * (rank - 1)), size=(1, *value.shape[1:]), step=(1,) * rank)
    return build.reshape(row, shape=value.shape[1:])
