"""Watching a graph's numbers: one more output that says, for each watched value, whether something is wrong with it.

In: a graph, what to look for. Out: the graph with a last output `bool[n]`, and what each of its elements stands for.
The flags are ordinary nodes: they are fused and compiled with what they watch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.types import TensorType, i64

Fault = Literal["nan", "bounds"]


@dataclass(frozen=True)
class Watch:
    """A flag: `value` (of the graph that is watched) has the fault, in sight of `node`, the op that reads or makes it."""

    fault: Fault
    node: Node
    value: Value


def watched(graph: Graph, faults: Sequence[Fault]) -> tuple[Watch, ...]:
    """What there is to watch: for "nan" every float input and result, for "bounds" every index of a gather or scatter.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> graph = build.graph("f", [build.log(build.input(f32[2], "x"))])
    >>> [w.node.op.name for w in watched(graph, ["nan"])]
    ['input', 'log']
    """
    found: list[Watch] = []
    if "nan" in faults:
        values = [*graph.inputs, *(v for n in graph.nodes if n.op.name != "const" for v in n.results)]
        found += [Watch("nan", v.node, v) for v in values if v.dtype.is_float and v.type.size]
    if "bounds" in faults:
        found += [
            Watch("bounds", n, n.operands[1])
            for n in graph.nodes
            if n.op.name in ("gather", "scatter_add") and n.operands[1].type.size
        ]
    return tuple(found)


def watch(graph: Graph, watches: Sequence[Watch]) -> Graph:
    """The graph with one more output: a flag for each watch, in their order. Without watches the graph is unchanged."""
    if not watches:
        return graph
    build = Builder()
    inputs = [build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs]
    values = build.inline(graph.with_outputs([*graph.outputs, *(w.value for w in watches)]), inputs)
    outputs, seen = values[: len(graph.outputs)], values[len(graph.outputs) :]
    flags = []
    for w, value in zip(watches, seen, strict=True):
        build.loc = w.node.loc.with_note(f"check {w.fault}")
        flags.append(build.reshape(_flag(build, w, value), shape=(1,)))
    flag = build.concat(*flags, axis=0) if len(flags) > 1 else flags[0]
    names = graph.output_names or tuple(f"output{i}" for i in range(len(graph.outputs)))
    return build.graph(graph.name, [*outputs, flag], graph.stage, (*names, "check"))


def _flag(build: Builder, w: Watch, value: Value) -> Value:
    """A bool scalar that is true where any element has the fault."""
    if w.fault == "nan":  # a comparison with NaN is false
        wrong = build.not_(build.lt(build.abs(value), build.splat(inf, value.type)))
    else:
        size = w.node.operands[0].shape[w.node.int("axis")]
        below = build.lt(value, build.zeros(value.type))
        # compared as i64: the size of an axis need not fit the indices' type
        wide = build.cast(value, type=TensorType(i64, value.shape))
        wrong = build.or_(below, build.ge(wide, build.splat(size, wide.type)))
    return build.reduce_any(wrong, axes=tuple(range(value.type.rank)))
