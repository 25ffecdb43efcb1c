"""The networkx view of a graph, for analyses such as dominators and minimum cuts; never the IR itself.

In: a graph. Out: a `networkx.DiGraph` whose nodes are the graph's own `Node`s, inputs among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.ir.graph import Graph, Node

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.DiGraph[Node]:
    """A directed graph with an edge from each operand's node to its user; an unused input stands alone.

    Each node carries `op` (the op's name), `label` (as printed), `type` (of its first result), `loc`, `kind` ("input"
    or "op") and `output` (whether the graph returns one of its results); each edge carries `bytes`, the size of the
    values that flow along it, counted once each.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> view = to_networkx(build.graph("f", [build.mul(x, build.tanh(x))]))
    >>> [(a.op.name, b.op.name, flow["bytes"]) for a, b, flow in view.edges(data=True)]
    [('input', 'tanh', 8), ('input', 'mul', 8), ('tanh', 'mul', 8)]
    """
    import networkx

    view: networkx.DiGraph[Node] = networkx.DiGraph(name=graph.name)
    returned = {v.node for v in graph.outputs}

    def add(node: Node, kind: str) -> None:
        label = f"%{node.name}" if kind == "input" else node.op.name + (f" %{node.name}" if node.name else "")
        view.add_node(
            node, op=node.op.name, label=f"{label}: {', '.join(map(repr, node.types))}", type=node.type,
            loc=node.loc, kind=kind, output=node in returned,
        )  # fmt: skip

    for value in graph.inputs:
        add(value.node, "input")
    for node in graph.nodes:
        add(node, "op")
    for node in graph.nodes:
        for value in dict.fromkeys(node.operands):
            already = view.get_edge_data(value.node, node, {"bytes": 0})["bytes"]
            view.add_edge(value.node, node, bytes=already + value.type.bytes)
    return view
