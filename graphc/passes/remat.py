"""Rematerialisation: forward values that the backward pass computes again instead of keeping them, to fit a budget.

In: a differentiated graph, a budget in bytes. Out: an equal graph that needs less memory between forward and backward pass.
What is kept is a minimum cut. The network has an edge for each forward value, with its bytes as capacity; the source feeds
what is not to be computed again (contractions; inputs are there anyway), the sink drinks what the backward pass reads. The
values on the cut are kept, and what lies between the cut and the sink is computed again, from operands `after` a cotangent
that has come back that far, so late. Where that is not enough, stretches of the forward pass (of so many contractions)
keep only what crosses into the next one: within them contractions are computed again too, the earliest stretches first.

The cut by maximum flow: Ford & Fulkerson, 1956, here networkx's; for backward passes: Jain et al., Checkmate, MLSys 2020
(which solves an integer program), and He & Yu, Transcending Runtime-Memory Tradeoffs in Checkpointing by Fusing
Recomputation and Memory Optimization, MLSys 2023. Stretches: Chen et al., arXiv:1604.06174.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from graphc.errors import ArgumentError
from graphc.ir.cost import operations
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.opdef import INPUT
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify

Measure = Callable[[Graph], int]

_CHEAP = frozenset(
    {"pointwise", "view", "reduction", "leaf", "order"}
)  # computed again wherever that saves memory
_MORE_DIVISIONS = 2  # tried after the first one that is enough: another one may repeat fewer operations
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(size: int | str) -> int:
    """A number of bytes: an integer, or a text such as "64MB" (10^6) or "64MiB" (2^20).

    Raises `ArgumentError` for anything else.

    >>> parse_bytes("64MB"), parse_bytes("1.5 KiB"), parse_bytes(10)
    (64000000, 1536, 10)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size) if isinstance(size, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise ArgumentError(f"memory budget: expected bytes such as 64000000 or '64MB', got {size!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


@dataclass(frozen=True)
class Rematerialised:
    """A graph that computes some values again: what its memory measures, and the operations that it does besides."""

    graph: Graph
    bytes: int
    operations: int


def remat(graph: Graph, budget: int, measure: Measure | None = None) -> Rematerialised:
    """The graph that fits the budget with the fewest operations more, else the one that needs the least memory.

    `measure` says how much memory a graph takes (default: an estimate). Graphs that are nothing but a forward pass, and
    those that fit anyway, stay as they are.

    >>> from graphc.ir.graph import Builder
    >>> remat(Builder().graph("empty", []), 0).bytes
    0
    """
    take = measure or estimate
    whole = Rematerialised(graph, take(graph), 0)
    if whole.bytes <= budget:
        return whole
    flow = _Flow(simplify(graph))
    if not flow.needed:
        return whole
    before = operations(flow.graph)
    best = whole

    def tried(stretches: list[range]) -> Rematerialised:
        nonlocal best
        made = flow.rebuilt(stretches)
        found = Rematerialised(made, take(made), max(operations(made) - before, 0))
        fits, fitted = found.bytes <= budget, best.bytes <= budget
        better = (found.operations, found.bytes) < (best.operations, best.bytes)
        if (fits and (not fitted or better)) or (not fits and not fitted and found.bytes < best.bytes):
            best = found
        return found

    if tried([]).bytes <= budget:
        return best
    left = _MORE_DIVISIONS
    for stretches in flow.divisions():
        left -= best.bytes <= budget
        if left < 0:
            break
        low, high = 1, len(stretches)  # the fewest of the earliest stretches that are enough
        while low < high:
            middle = (low + high) // 2
            if tried(stretches[:middle]).bytes <= budget:
                high = middle
            else:
                low = middle + 1
        tried(stretches[:low])
    return best


def estimate(graph: Graph) -> int:
    """The most bytes that values between kernels take at once, in the order of the fused graph; in-place updates not
    considered.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[64, 64], "x")
    >>> product = build.contract(x, x, axes=((1,), (0,)), batch=((), ()))
    >>> estimate(build.graph("f", [build.contract(product, x, axes=((1,), (0,)), batch=((), ()))]))
    16384
    """
    fused = fuse(simplify(graph))
    alias = {n.results[0]: n.operands[0] for n in fused.nodes if "order" in n.op.traits}

    def root(value: Value) -> Value:
        while value in alias:
            value = alias[value]
        return value

    last: dict[Value, int] = {}
    for step, node in enumerate(fused.nodes):
        if "order" not in node.op.traits:
            last.update((root(v), step) for v in node.operands)
    outside = {*fused.inputs, *map(root, fused.outputs)}
    ends: dict[int, int] = {}
    used = most = 0
    for step, node in enumerate(fused.nodes):
        if node.op.name != "fused":
            continue
        for value in node.results:
            if value not in outside:
                used += value.type.bytes
                end = last.get(value, step)
                ends[end] = ends.get(end, 0) + value.type.bytes
        most = max(most, used)
        used -= ends.pop(step, 0)
    return most


# --------------------------------------------------------------------------------------------------- the network


def is_derived(node: Node) -> bool:
    """True of what the chain rule made: its location says so."""
    return node.loc.note.startswith("d ")


@dataclass
class _Flow:
    """A graph as a forward pass and what comes after it."""

    graph: Graph
    forward: list[Node] = field(init=False)
    needed: set[Value] = field(init=False)  # forward values that the rest reads

    def __post_init__(self) -> None:
        later: set[Node] = set()
        for node in self.graph.nodes:
            if is_derived(node) or any(v.node in later for v in node.operands):
                later.add(node)
        self._later = later
        self.forward = [n for n in self.graph.nodes if n not in later]
        self._rank = {n: i for i, n in enumerate(self.forward)}
        self.needed = {
            v for n in later for v in n.operands if v.node in self._rank and "leaf" not in v.node.op.traits
        }
        self._last_use = {n: i for i, n in enumerate(self.forward)}  # by the forward pass
        for i, node in enumerate(self.forward):
            for v in node.operands:
                if v.node in self._rank:
                    self._last_use[v.node] = i
        self._depth = self._depths()
        self._reach = self._reaches()
        self._tokens = self._possible_tokens()

    def _depths(self) -> dict[Node, int]:
        """For each node of the forward pass, how many contractions are on the longest way to it."""
        depth: dict[Node, int] = {}
        for node in self.forward:
            own = max((depth.get(v.node, 0) for v in node.operands), default=0)
            depth[node] = own + ("contraction" in node.op.traits)
        return depth

    def _is_cheap(self, node: Node) -> bool:
        """True of what is computed again from what is near it; what joins two depths, such as a residual sum, would need
        that of all the layers before it."""
        depths = {
            self._depth[v.node]
            for v in node.operands
            if v.node in self._rank and "leaf" not in v.node.op.traits
        }
        return bool(node.op.traits & _CHEAP) and len(depths) < 2

    def _reaches(self) -> dict[Node, int]:
        """For each node the last node of the forward pass that it depends on: how late it is."""
        reach: dict[Node, int] = {}
        for node in self.graph.nodes:
            own = self._rank.get(node, -1)
            reach[node] = max([own, *(reach.get(v.node, -1) for v in node.operands)])
        return reach

    def _possible_tokens(self) -> list[Node]:
        """Derived values that are in memory anyway: operands of contractions, or all where there are none."""
        found = {
            source
            for n in self._later
            if "contraction" in n.op.traits
            for v in n.operands
            if (source := _without_views(v).node) in self._later
        }
        return sorted(found or self._later, key=lambda n: n.serial)

    def divisions(self) -> Iterator[list[range]]:
        """The forward pass cut into stretches of 1, 2, 3, 4, 6, 8 ... contractions, where few bytes cross."""
        crossing = self._crossing()
        spots = [i for i, n in enumerate(self.forward) if "contraction" in n.op.traits]
        size, seen = 1, set()
        while size < len(spots):
            bounds = [0]
            for k in range(size, len(spots), size):
                first, stop = spots[k - 1] + 1, spots[k] + 1
                best = min(range(first, stop), key=lambda i: (crossing[i], i))
                if best > bounds[-1]:
                    bounds.append(best)
            ranges = [range(a, b) for a, b in zip(bounds, [*bounds[1:], len(self.forward)], strict=True)]
            key = tuple(bounds)
            if key not in seen and len(ranges) > 1:
                seen.add(key)
                yield ranges[:-1]  # the backward pass begins in the last one
            size = size + 1 if size < 4 else size + size // 2

    def _crossing(self) -> list[int]:
        """The bytes of forward values that are made before each node and read at it or later, by the forward pass."""
        change = [0] * (len(self.forward) + 2)
        for i, node in enumerate(self.forward):
            if node.op.traits & {"leaf", "view"}:
                continue
            end = self._last_use[node]
            for v in node.results:
                change[i + 1] += v.type.bytes
                change[end + 1] -= v.type.bytes
        total, crossing = 0, []
        for c in change:
            total += c
            crossing.append(total)
        return crossing

    def kept(self, stretches: list[range]) -> set[Value]:
        """The forward values on the minimum cut where contractions of these stretches may be computed again."""
        import networkx as nx

        stretch_of = {i: k for k, r in enumerate(stretches) for i in r}
        network: nx.DiGraph = nx.DiGraph()
        outputs = set(self.graph.outputs)
        source, sink = "source", "sink"
        network.add_node(source)
        network.add_node(sink)
        for i, node in enumerate(self.forward):
            if "leaf" in node.op.traits:
                continue
            free = i in stretch_of or self._is_cheap(node)
            for v in node.results:
                begin, end = (v, "in"), (v, "out")
                capacity = 0 if v in outputs else v.type.bytes
                if "view" in node.op.traits and len(node.operands) == 1:
                    network.add_edge(begin, end)  # no capacity is infinite: its operand is kept instead
                else:
                    network.add_edge(begin, end, capacity=capacity)
                if not free:
                    network.add_edge(source, begin)
                if v in self.needed:
                    network.add_edge(end, sink)
                for u in node.operands:
                    if u.node in self._rank and "leaf" not in u.node.op.traits:
                        network.add_edge((u, "out"), begin)
                        own, before = stretch_of.get(i), stretch_of.get(self._rank[u.node])
                        if own is not None and own != before:  # what crosses into a stretch
                            network.add_edge(source, (_without_views(u), "in"))
                            network.add_edge((_without_views(u), "out"), sink)
        if network.in_degree(sink) == 0 or network.out_degree(source) == 0:
            return set()
        _, (reached, _) = nx.minimum_cut(network, source, sink)
        return {v for v, side in reached - {source} if side == "in" and (v, "out") not in reached}

    # -------------------------------------------------------------------------------------------------- rebuilding

    def rebuilt(self, stretches: list[range]) -> Graph:
        """The graph in which what is needed and not kept is computed again."""
        return _Rebuild(self, self.kept(stretches)).run()

    def token_for(self, value: Value, reader: Node) -> Value | None:
        """The derived value made last before `reader` that comes after the forward pass is done with `value`."""
        last = self._last_use[value.node]
        found = None
        for node in self._tokens:
            if node.serial >= reader.serial:
                break
            if self._reach[node] > last:
                found = node.results[0]
        return found


class _Rebuild:
    def __init__(self, flow: _Flow, kept: set[Value]) -> None:
        self.flow = flow
        self.kept = kept
        self.build = Builder()
        self.new: dict[Value, Value] = {}
        self.again: dict[Value, Value] = {}  # what has been computed again

    def run(self) -> Graph:
        flow, graph, build = self.flow, self.flow.graph, self.build
        self.new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
        in_memory = {*graph.inputs, *graph.outputs, *self.kept}
        for node in graph.nodes:
            operands = [self.new[v] for v in node.operands]
            if node not in flow._rank:
                for i, v in enumerate(node.operands):
                    if v in flow.needed and v not in in_memory:
                        operands[i] = self._recomputed(v, node, in_memory)
            copy = build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
            for loc in node.other_locs:
                if loc != copy.loc and loc not in copy.other_locs:
                    copy.other_locs.append(loc)
            self.new.update(zip(node.results, copy.results, strict=True))
        outputs = [self.new[v] for v in graph.outputs]
        return build.graph(graph.name, outputs, graph.stage, graph.output_names)

    def _recomputed(self, value: Value, reader: Node, in_memory: set[Value]) -> Value:
        if value in self.again:
            return self.again[value]
        token = self.flow.token_for(value, reader)
        if token is None:
            return self.new[value]
        cone: set[Node] = set()
        stack = [value.node]
        while stack:
            node = stack.pop()
            if node in cone:
                continue
            cone.add(node)
            for v in node.operands:
                if not self._is_there(v, in_memory):
                    stack.append(v.node)
        for node in sorted(cone, key=lambda n: n.serial):
            operands = [
                self.again[v] if v in self.again
                else self.build.after(self.new[v], self.new[token]) if self._is_there(v, in_memory) and not self._is_leaf(v)
                else self.new[v]
                for v in node.operands
            ]  # fmt: skip
            copy = self.build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
            self.again.update(zip(node.results, copy.results, strict=True))
        return self.again[value]

    def _is_leaf(self, value: Value) -> bool:
        return "leaf" in value.node.op.traits

    def _is_there(self, value: Value, in_memory: set[Value]) -> bool:
        return value in in_memory or value in self.again or self._is_leaf(value) or value.node.op is INPUT


def _without_views(value: Value) -> Value:
    while "view" in value.node.op.traits and len(value.node.operands) == 1:
        value = value.node.operands[0]
    return value
