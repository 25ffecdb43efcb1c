"""Passes inside of loops and branches: the region of such a node is a graph as any other.

In: a graph, a pass. Out: the graph with the pass applied to those regions. Regions of `fused` nodes are kernels, and are
left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.ir.graph import Builder, Graph


def inside(graph: Graph, transform: Callable[[Graph], Graph]) -> Graph:
    """The graph with `transform` applied to the regions of its loops and branches; the graph itself where it has none.

    >>> graph = Builder().graph("empty", [])
    >>> inside(graph, lambda region: region) is graph
    True
    """
    if not has_control(graph):
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        changed = [transform(r) for r in node.regions] if "control" in node.op.traits else None
        copy = build.copy(node, new, changed)
        copy.other_locs.extend(loc for loc in node.other_locs if loc not in copy.other_locs)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def has_control(graph: Graph) -> bool:
    """True where the graph has loops or branches."""
    return any("control" in node.op.traits for node in graph.nodes)
