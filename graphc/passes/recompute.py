"""Cheap values that one fused region stores only for others to read are computed again where they are read.

In: a fused graph. Out: the same graph with fewer stored values. Un-fusing both gives the same graph.

A result of a region is given up if

- it is a short chain of cheap pointwise nodes over values that are in memory anyway: operands of the region, or its
  other results (`1 - y²` beside the `y` that it is the derivative of); or, where several results are cheap functions of
  one value that isn't stored, that one is stored in their place;
- all its readers use it index by index, in pointwise nodes or reductions, not in a contraction's operand, where an
  element would be computed many times;
- the bytes pay: for n bytes that are stored less, the readers together read at most n / 2 bytes more.

The readers' region then holds the chain. What they read besides lives longer, which that bound covers too: at most half
of what no longer lives. Inputs of the graph are read by a region that did not read them only where no output
has their type: one that is donated would have to be kept for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.ops.residuals import is_cheap
from graphc.passes.regions import inside

_LONGEST_CHAIN = 4  # cheap nodes: they take as long as to store and to load a vector in the second cache
_LARGEST_REGION = 400  # nodes
_NODES_AT_ONCE = 100  # computed again before regions' sizes are looked at anew


def recompute(graph: Graph) -> Graph:
    """The fused graph in which cheap values are computed again rather than stored.

    >>> recompute(Builder().graph("empty", [], "fused")).nodes
    ()
    """
    return _Recomputation(inside(graph, recompute)).run()


@dataclass(eq=False)
class _Region:
    """A fused node while its region changes. `operands` and `results` are values of the graph around it."""

    node: Node
    graph: Graph
    operands: tuple[Value, ...]
    results: tuple[Value, ...]

    @property
    def outer(self) -> dict[Value, Value]:
        """The graph's values that the region's inputs stand for."""
        return dict(zip(self.graph.inputs, self.operands, strict=True))

    def inner(self, value: Value) -> Value:
        """The input that stands for a value of the graph."""
        return self.graph.inputs[self.operands.index(value)]

    @property
    def made(self) -> dict[Value, Value]:
        """The graph's values that the region's outputs stand for."""
        return dict(zip(self.graph.outputs, self.results, strict=True))

    def rebuilt(
        self, made: Mapping[Value, Value], chain: Sequence[Node], known: Mapping[Value, Value]
    ) -> _Region:
        """The region with `chain` before its nodes; its outputs are the keys of `made`.

        `known` gives, for values of the region or of the chain, what they are now: a value of the graph around the
        region, which becomes an input, or the chain's result.
        """

        def resolved(value: Value) -> Value:
            while value in known:
                value = known[value]
            return value

        needed: set[Node] = set()
        stack = [resolved(v).node for v in made]
        own = {*chain, *self.graph.nodes}
        while stack:
            node = stack.pop()
            if node in own and node not in needed:
                needed.add(node)
                stack.extend(resolved(v).node for v in node.operands)
        members = [n for n in (*chain, *self.graph.nodes) if n in needed]
        needs = (v for n in members for v in map(resolved, n.operands))
        operands = list(dict.fromkeys(v for v in needs if v.node not in needed))
        build = Builder()
        new = build.inputs_for(operands)
        for node in members:
            operand_values = [new[resolved(v)] for v in node.operands]
            copy = build.emit(node.op, operand_values, node.attrs, node.regions, node.loc, node.name)
            new.update(zip(node.results, copy.results, strict=True))
        graph = build.graph(self.graph.name, [new[resolved(v)] for v in made])
        return _Region(self.node, graph, tuple(operands), tuple(made.values()))


@dataclass(frozen=True)
class _Chain:
    """Cheap nodes that make a region's result of what is in memory, `leaves`, and at most one value that isn't, `missing`."""

    value: Value  # of the graph
    result: Value  # of its region
    nodes: tuple[Node, ...]
    leaves: dict[Value, Value]  # of the region, and what they are in the graph
    missing: Value | None


class _Recomputation:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inputs = set(graph.inputs)
        self.outputs = {
            *graph.outputs,
            *(v for n in graph.nodes if "control" in n.op.traits for v in n.operands),
        }
        self.output_types = {v.type for v in graph.outputs}
        self.regions = {
            n: _Region(n, n.regions[0], n.operands, n.results) for n in graph.nodes if n.op.name == "fused"
        }
        self.changed = False
        self.readers: dict[Value, list[Node]] = {}
        for node in self.regions:
            for value in dict.fromkeys(node.operands):
                self.readers.setdefault(value, []).append(node)

    def run(self) -> Graph:
        for node in list(self.regions):
            while node in self.regions and (chains := self._independent_chains(node)):
                self._give_up(node, chains, {})
            self._store_what_they_share(node)
        return self._rebuild() if self.changed else self.graph

    def _independent_chains(self, node: Node) -> list[_Chain]:
        """Results of a region to give up at once, as none of them is made of another: rebuilding regions takes long."""
        chains: list[_Chain] = []
        leaves: set[Value] = set()
        for value in self.regions[node].results:
            chain = self._chain(node, value, [c.value for c in chains]) if value not in leaves else None
            if chain is not None and chain.missing is None and self._pays([chain], 0):
                chains.append(chain)
                leaves.update(chain.leaves.values())
                if sum(len(c.nodes) for c in chains) > _NODES_AT_ONCE:
                    break
        return chains

    def _store_what_they_share(self, node: Node) -> None:
        """Where several results are cheap functions of one value that isn't stored, it is, and they are not."""
        by_missing: dict[Value, list[Value]] = {}
        for value in self.regions[node].results if node in self.regions else ():
            chain = self._chain(node, value)
            if chain is not None and chain.missing is not None:
                by_missing.setdefault(chain.missing, []).append(value)
        if not by_missing:
            return
        missing, values = max(by_missing.items(), key=lambda item: len(item[1]))
        if len(values) < 2 or _feeds_operands(self.regions[node].graph, [missing.node]):
            return
        # stands for the value until the graph is rebuilt
        stored = Builder().input(missing.type, missing.node.name)
        chains: list[_Chain] = []
        for value in values:
            chain = self._chain(node, value, values)
            if chain is None or chain.missing != missing:
                return
            chains.append(replace(chain, leaves={**chain.leaves, missing: stored}, missing=None))
        if self._pays(chains, missing.type.bytes):
            self._give_up(node, chains, {missing: stored})

    def _chain(self, node: Node, value: Value, without: Sequence[Value] = ()) -> _Chain | None:
        """How `value` is made of what is in memory; `None` if it isn't cheap, is an output, or nobody reads it.

        Results `without` which to do are not taken as in memory.
        """
        if value in self.outputs or not self.readers.get(value):
            return None
        region = self.regions[node]
        result = region.graph.outputs[region.results.index(value)]
        in_memory = {inner: v for inner, v in region.made.items() if v != value and v not in without}
        in_memory.update(region.outer)
        leaves: dict[Value, Value] = {}
        nodes: set[Node] = set()
        missing: Value | None = None
        cheap = 0
        stack = [result]
        while stack:
            inner = stack.pop()
            if inner in in_memory:
                leaves[inner] = in_memory[inner]
            elif inner.node not in nodes and inner != missing:
                if is_cheap(inner.node):
                    cheap += 1
                elif inner.node.op.name != "broadcast" and "leaf" not in inner.node.op.traits:
                    if missing is not None or inner == result:
                        return None
                    missing = inner
                    continue
                nodes.add(inner.node)
                if cheap > _LONGEST_CHAIN:
                    return None
                stack.extend(inner.node.operands)
        if not cheap:
            return None
        return _Chain(value, result, tuple(n for n in region.graph.nodes if n in nodes), leaves, missing)

    def _pays(self, chains: Sequence[_Chain], stored: int) -> bool:
        """True if giving up these results, for `stored` bytes that are stored in their place, saves more than it costs."""
        saved = sum(c.value.type.bytes for c in chains) - stored
        less = more = 0
        for reader in dict.fromkeys(r for c in chains for r in self.readers[c.value]):
            region = self.regions[reader]
            own = [c for c in chains if c.value in region.operands]
            if len(region.graph.nodes) + sum(len(c.nodes) for c in own) > _LARGEST_REGION:
                return False
            if not all(_used_by_index(region.graph, region.inner(c.value)) for c in own):
                return False
            less += sum(c.value.type.bytes for c in own)
            for leaf in dict.fromkeys(v for c in own for v in c.leaves.values()):
                if leaf in region.operands and _used_by_index(region.graph, region.inner(leaf)):
                    continue
                if leaf in self.inputs and leaf.type in self.output_types:
                    return False
                more += leaf.type.bytes
        return saved > 0 and more - less <= saved // 2

    def _give_up(self, node: Node, chains: Sequence[_Chain], stored: Mapping[Value, Value]) -> None:
        """The readers compute these values; the region stores `stored` and no longer makes the values for them."""
        self.changed = True
        by_reader: dict[Node, list[_Chain]] = {}
        for chain in chains:
            for reader in self.readers.pop(chain.value):
                by_reader.setdefault(reader, []).append(chain)
        nodes = self.regions[node].graph.nodes
        for reader, own in by_reader.items():
            old = self.regions[reader]
            wanted = {n for chain in own for n in chain.nodes}
            known = {**old.outer}
            for chain in own:
                known.update(chain.leaves)
                known[old.inner(chain.value)] = chain.result
            self._replace(reader, old.rebuilt(old.made, [n for n in nodes if n in wanted], known))
        old = self.regions[node]
        given_up = {chain.value for chain in chains}
        made = {**stored, **{inner: v for inner, v in old.made.items() if v not in given_up}}
        if made:
            self._replace(node, old.rebuilt(made, (), old.outer))
        else:
            self._replace(node, _Region(node, old.graph, (), ()))
            del self.regions[node]

    def _replace(self, node: Node, region: _Region) -> None:
        old = self.regions[node]
        self.regions[node] = region
        for value in set(old.operands) - set(region.operands):
            if node in self.readers.get(value, ()):
                self.readers[value].remove(node)
        for value in region.operands:
            if value not in old.operands:
                self.readers.setdefault(value, []).append(node)

    def _rebuild(self) -> Graph:
        build = Builder()
        new = {v: build.input(v.type, v.node.name, v.node.loc) for v in self.graph.inputs}
        for node in self.graph.nodes:
            if node.op.name != "fused":
                build.copy(node, new)
            elif node in self.regions:
                region = self.regions[node]
                operands = [new[v] for v in region.operands]
                copy = build.emit(node.op, operands, node.attrs, (region.graph,), node.loc, node.name)
                new.update(zip(region.results, copy.results, strict=True))
        outputs = [new[v] for v in self.graph.outputs]
        return build.graph(self.graph.name, outputs, "fused", self.graph.output_names)


def _used_by_index(region: Graph, value: Value) -> bool:
    """True if only pointwise nodes and reductions read the input, outside of contractions' operands."""
    if value in region.outputs:
        return False
    readers = {n for n in region.nodes if value in n.operands}
    if any(not n.op.traits & {"pointwise", "reduction"} for n in readers):
        return False
    return not _feeds_operands(region, readers)


def _feeds_operands(region: Graph, nodes: Iterable[Node]) -> bool:
    """True if one of the nodes is computed in the operand of a contraction or scatter."""
    stack = [v.node for n in region.nodes if n.op.traits & {"contraction", "scatter"} for v in n.operands]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(v.node for v in node.operands)
    return not seen.isdisjoint(nodes)
