"""What tests of fusion share: a fused graph as text, checked against the one expected, un-fused and interpreted."""

from __future__ import annotations

import numpy as np

from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.unfuse import unfuse


def ordered(graph: Graph) -> Graph:
    """The same graph with its nodes in the order in which the outputs need them, and without a stage."""
    build = Builder()
    new = {v: build.input(v.type, v.node.name) for v in graph.inputs}
    stack = list(reversed(graph.outputs))
    while stack:
        value = stack[-1]
        missing = [v for v in value.node.operands if v not in new]
        if value in new or missing:
            stack = stack[:-1] if value in new else [*stack, *reversed(missing)]
            continue
        node = value.node
        copy = build.emit(node.op, [new[v] for v in node.operands], node.attrs, node.regions)
        new.update(zip(node.results, copy.results, strict=True))
    return build.graph(graph.name, [new[v] for v in graph.outputs])


def check_fused(before_text: str, after_text: str) -> None:
    """Fusing gives the graph after, un-fusing that gives the graph before, and both mean the same."""
    before, after = parse(before_text), parse(after_text)
    fused = fuse(before)
    verify(fused)
    assert fused == after, str(fused)
    assert ordered(unfuse(fused)) == ordered(before)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=t.shape).astype(t.dtype.numpy) for t in before.input_types]
    for got, want in zip(interpret(fused, arrays), interpret(before, arrays), strict=True):
        np.testing.assert_array_equal(got, want)


def stored(fused: Graph) -> list[Value]:
    """The values that a fused graph keeps in memory between its regions."""
    return [v for n in fused.nodes for v in n.results if v not in fused.outputs]
