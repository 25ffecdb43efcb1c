"""Inlining: what stands for a function becomes that function's nodes, once nothing needs to know that it was one.

In: a graph. Out: the same computation without `checkpoint`, `custom_vjp` and other ops with the trait `call`.
"""

from __future__ import annotations

from collections.abc import Collection

from graphc.ir.graph import Builder, Graph, Node


def is_call(node: Node) -> bool:
    """True of a node that only stands for its first region."""
    return "call" in node.op.traits


def plain(graph: Graph) -> Graph:
    """The graph inlined, and without the order that `after` states: what it computes, for those who only read it."""
    graph = inline(graph)
    if not any("order" in n.op.traits for n in graph.nodes):
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        operands = [new[v] for v in node.operands]
        if "order" in node.op.traits:
            new[node.results[0]] = operands[0]
            continue
        copy = build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
        new.update(zip(node.results, copy.results, strict=True))
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def inline(graph: Graph, calls: Collection[Node] | None = None) -> Graph:
    """The graph with the first region of each call, or of those that are given, in its place.

    >>> from graphc.ir.parser import parse
    >>> graph = parse('''graphc 1
    ... graph @f(%x: f32[2]) -> (f32[2]) {
    ...   %0 = checkpoint %x : f32[2] region(%y: f32[2]) { %0 = exp %y : f32[2] return %0 }
    ...   return %0
    ... }''')
    >>> [node.op.name for node in inline(graph).nodes]
    ['exp']
    """
    wanted = {n for n in graph.nodes if is_call(n) and (calls is None or n in calls)}
    if not wanted:
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        operands = [new[v] for v in node.operands]
        if node in wanted:
            region = inline(node.regions[0]) if calls is None else node.regions[0]
            new.update(zip(node.results, build.inline(region, operands), strict=True))
            continue
        copy = build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
        new.update(zip(node.results, copy.results, strict=True))
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)
