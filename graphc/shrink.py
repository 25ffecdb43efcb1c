"""Shrinking a graph that shows a fault to a small one that still does, by delta debugging over its nodes.

In: a graph, and a test that says whether a graph shows the fault. Out: the smallest graph found, of which no single
node can be left out (Zeller & Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.passes.unfuse import unfuse

Test = Callable[[Graph], bool]


def shrink(graph: Graph, shows_fault: Test, on_progress: Callable[[Graph], None] | None = None) -> Graph:
    """The smallest graph found that shows the fault; `on_progress` is told each smaller one.

    A part of a graph is some of its nodes: what they read from the others becomes inputs, what nobody of them reads
    becomes outputs. Then outputs that are not needed are left out. `shows_fault(graph)` must hold of the graph itself.

    >>> from graphc.ir.parser import parse
    >>> text = "graphc 1 graph @f(%x: f32[2]) -> (f32[2]) { %0 = exp %x : f32[2] %1 = log %0 : f32[2] return %1 }"
    >>> [n.op.name for n in shrink(parse(text), lambda g: any(n.op.name == "log" for n in g.nodes)).nodes]
    ['log']
    """
    state = _Shrinking(graph, shows_fault, on_progress)
    if any(n.op.name == "fused" for n in graph.nodes):
        state.try_graph(unfuse(graph))
    state.nodes()
    state.outputs()
    state.nodes()  # without an output more nodes may go
    return state.best


class _Shrinking:
    """The smallest graph so far."""

    def __init__(self, graph: Graph, shows_fault: Test, on_progress: Callable[[Graph], None] | None) -> None:
        self.best = graph
        self._shows_fault = shows_fault
        self._on_progress = on_progress

    def try_graph(self, graph: Graph) -> bool:
        """Takes this graph for the best one if it shows the fault."""
        if not self._shows_fault(graph):
            return False
        self.best = graph
        if self._on_progress is not None:
            self._on_progress(graph)
        return True

    def nodes(self) -> None:
        """Leaves out chunks of nodes, large ones first, down to single ones."""
        chunks = 2
        while len(self.best.nodes) > 1:
            nodes = self.best.nodes
            chunks = min(chunks, len(nodes))
            pieces = [nodes[len(nodes) * i // chunks : len(nodes) * (i + 1) // chunks] for i in range(chunks)]
            smaller = (part(self.best, [n for n in nodes if n not in p]) for p in map(set, pieces))
            keep = next((g for g in smaller if self.try_graph(g)), None)
            if keep is not None:
                chunks = max(chunks - 1, 2)
            elif chunks == len(nodes):
                return
            else:
                chunks = min(2 * chunks, len(nodes))

    def outputs(self) -> None:
        """Leaves out outputs one by one, with what only they need."""
        position = 0
        while len(self.best.outputs) > 1 and position < len(self.best.outputs):
            kept = [v for i, v in enumerate(self.best.outputs) if i != position]
            names = [n for i, n in enumerate(self.best.output_names) if i != position]
            if not self.try_graph(_without_unused_inputs(self.best.with_outputs(kept, names))):
                position += 1


def part(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """The graph of these nodes alone: what they read from others are inputs, what none of them reads are outputs.

    >>> from graphc.ir.parser import parse
    >>> text = "graphc 1 graph @f(%x: f32[2]) -> (f32[2]) { %0 = exp %x : f32[2] %1 = log %0 : f32[2] return %1 }"
    >>> graph = parse(text)
    >>> part(graph, graph.nodes[1:]).input_names
    ('exp',)
    """
    inside = set(nodes)
    read = {v for n in nodes for v in n.operands}
    outputs = dict(zip(graph.outputs, graph.output_names or [""] * len(graph.outputs), strict=True))
    build = Builder()
    new: dict[Value, Value] = {}
    taken = {v.node.name for v in graph.inputs}
    for v in dict.fromkeys(v for n in nodes for v in n.operands):
        if v.node not in inside:
            name = v.node.name or v.node.op.name
            if v not in graph.inputs:
                number = 1
                while name in taken:
                    name, number = f"{v.node.name or v.node.op.name}{number}", number + 1
                taken.add(name)
            new[v] = build.input(v.type, name, v.node.loc)
    results: list[tuple[Value, str]] = []
    for node in graph.nodes:
        if node in inside:
            build.copy(node, new)
            results += [(v, outputs.get(v, "")) for v in node.results if v in outputs or v not in read]
    named = [name for _, name in results] if any(name for _, name in results) else []
    return build.graph(graph.name, [new[v] for v, _ in results], graph.stage, named)


def _without_unused_inputs(graph: Graph) -> Graph:
    used = {v for n in graph.nodes for v in n.operands} | set(graph.outputs)
    return Graph(
        graph.name,
        tuple(v for v in graph.inputs if v in used),
        graph.outputs,
        graph.stage,
        graph.output_names,
    )
