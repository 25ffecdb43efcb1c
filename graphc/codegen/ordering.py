"""Values that are ordered, on the way to a plan: `after` is no step, its result is its operand's own memory.

In: a fused graph. Out: the graph whose nodes read the operands themselves, and for each node those that it waits for.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.ir.graph import Graph, Node, Value


def without_order(graph: Graph) -> tuple[Graph, dict[Node, set[Node]]]:
    """The graph without `after` nodes, and which nodes come before each node besides those that make its operands.

    Nodes that became equal stay two: no builder makes them.

    >>> from graphc.ir.graph import Builder
    >>> without_order(Builder().graph("empty", [], "fused"))[1]
    {}
    """
    if not any("order" in n.op.traits for n in graph.nodes):
        return graph, {}
    new = {v: v for v in graph.inputs}
    tokens: dict[Value, set[Node]] = {}  # of an ordered value: what makes its tokens
    waits: dict[Node, set[Node]] = {}
    for node in graph.nodes:
        if "order" in node.op.traits:
            value, token = node.operands
            made = tokens.get(token, set()) | {new[token].node}
            tokens[node.results[0]] = tokens.get(value, set()) | {n for n in made if n.op.name == "fused"}
            new[node.results[0]] = new[value]
            continue
        copy = replace(node, operands=tuple(new[v] for v in node.operands))
        earlier = set().union(*(tokens.get(v, set()) for v in node.operands))
        if earlier:
            waits[copy] = earlier
        new.update(zip(node.results, copy.results, strict=True))
    outputs = tuple(new[v] for v in graph.outputs)
    rest = Graph(graph.name, graph.inputs, outputs, graph.stage, graph.output_names)
    alive = set(rest.nodes)  # a token that nothing else reads is not computed
    return rest, {n: earlier & alive for n, earlier in waits.items() if n in alive}
