"""Fusion: groups nodes so that each group becomes one kernel. It only groups; un-fusing gives the graph back.

In: a simplified graph. Out: a graph of stage "fused" whose nodes are `fused` regions (and dense constants).
A group is legal when it is convex and every edge inside it is aligned: producer and consumer work at the same index.

- map: pointwise nodes over one domain, with gathers, pads and concats at their leaves.
- reduce: reductions of one domain over the same axes, and the pointwise nodes before, between and after them: a row
  is read while it is in the cache (softmax, cross-entropy with its gradient).
- contract: one contraction; in its store the pointwise nodes that read it (bias, activation, the marked diagonal of
  the Jacobian, an optimiser's update); in its operands marked diagonals that no store could take. Or several narrow
  contractions that share an operand in the same role, each with its store: the target decides whether they stay one.
- scatter: one scatter_add.
- cumulative: one recurrence or running extremum.
- sort: one argsort.
- factor: one factorization of matrices, or solution with a triangular one.

A contract or row-reduce group may also make by-products: reductions over all of its rows (a bias gradient beside the
cotangent that it sums). They are accumulated as the rows go by, and nothing inside the group reads them.

Cheap values that a group would store for others alone are computed again where they are read: `recompute.py`.

Views (broadcast, reshape, transpose, slice, window), splats and iotas belong to no group: each reader has its own
copy, as index arithmetic. But a contraction's operand that joins dimensions which another view moved is stored in order.
The conversion of 16-bit floats to f32 belongs to its readers, too: it is exact and costs less than the bytes that it
saves. What lies in memory between two groups are the 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from graphc.ir.graph import Builder, Dense, Graph, Node, Value
from graphc.ir.ops import cast, fused
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.residuals import is_cheap
from graphc.ir.types import f32
from graphc.passes.recompute import recompute
from graphc.passes.regions import inside

_VIEWS = ("broadcast", "reshape", "transpose", "slice", "window")
# ops with a trait of this name are groups of their own
_ALONE = ("scatter", "cumulative", "sort", "factor")
_ORDER = (
    "contract",
    "reduce",
    "map",
    *_ALONE,
    "control",
)  # kinds of producers, the best place to go first
_MAIN = frozenset({"contraction", "reduction", *_ALONE})
_LONGEST_SEARCH = 100  # groups
_LARGEST_GROUP = 400  # nodes; a larger kernel only spills
# Free elements that joined contractions have together: more of them fill vectors and registers on their own.
_WIDEST_JOIN = 64
_OPEN_JOINS = 4  # groups of one shared operand that a contraction is offered to: fusion stays linear

# its role, the operand, its batch and summed dimensions, and the outer free extents of the other operand
_SharedOperand = tuple[str, Value, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(eq=False)
class _Group:
    kind: str  # one of _ORDER; control is a loop or branch, which stays as it is
    domain: tuple[int, ...]  # the shape over which it iterates; of a contraction, its result's
    axes: tuple[int, ...] = ()  # of a reduce group
    nodes: list[Node] = field(default_factory=list)
    prologue: set[Node] = field(default_factory=set)  # nodes computed again inside a contraction's operands
    byproducts: set[Node] = field(default_factory=set)  # reductions over the rows

    @property
    def reduced(self) -> tuple[int, ...] | None:
        """The shape of reduced values, `None` where nothing is reduced."""
        if self.kind != "reduce":
            return None
        return tuple(n for d, n in enumerate(self.domain) if d not in self.axes)

    @property
    def contractions(self) -> list[Node]:
        return [n for n in self.nodes if "contraction" in n.op.traits]

    def makes(self, domain: tuple[int, ...]) -> bool:
        """True of a contract group that has a result of this shape."""
        return self.kind == "contract" and any(n.type.shape == domain for n in self.contractions)

    def takes_byproduct(self, other: _Group) -> bool:
        """True if `other` is a reduction, over this group's rows, of something over its domain."""
        rank = len(self.domain)
        if self.kind == "contract":
            if len(self.contractions) > 1:  # they would have to be summed for each
                return False
            rows = tuple(range(rank - 1))
        elif self.kind == "reduce" and self.axes:
            rows = tuple(range(self.axes[0]))
            if self.axes != tuple(range(self.axes[0], rank)):
                return False
        else:
            return False
        return (
            len(other.nodes) == 1
            and other.kind == "reduce"
            and not other.has_index_reduction
            and (other.domain, other.axes) == (self.domain, rows)
            and rows != ()
        )

    @property
    def has_index_reduction(self) -> bool:
        return any("index" in n.op.traits for n in self.nodes)


def fuse(graph: Graph) -> Graph:
    """The same computation as fused regions.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[8], "x")
    >>> fuse(build.graph("f", [build.exp(build.neg(x))])).nodes
    (<fused #2: f32[8]>,)
    """
    return recompute(group(graph))


def group(graph: Graph) -> Graph:
    """The first half of `fuse`: regions that store every value that another region reads."""
    return _Fusion(inside(graph, group)).run()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # what has to be in memory: loops and branches read whole buffers
        whole = [v for n in graph.nodes if "control" in n.op.traits for v in n.operands]
        ordered = [v for n in graph.nodes if "order" in n.op.traits for v in n.operands]
        self.outputs = {*graph.outputs, *whole, *ordered}
        self.inputs = {v.node for v in graph.inputs}
        # an operand that a contraction could only read by divisions is put in order once
        self.put_in_order = {
            v.node
            for n in graph.nodes
            if "contraction" in n.op.traits
            for v in n.operands
            if _is_scrambled(v)
        }
        self.compute = [n for n in graph.nodes if self._is_compute(n)]
        computed = set(self.compute)
        self.group_of: dict[Node, _Group] = {}
        self.successors: dict[Node, list[Node]] = {n: [] for n in self.compute}
        self.waits: dict[
            Node, set[Node]
        ] = {}  # for nodes that read values `after` others: what they wait for
        for node in self.compute:
            sources = {s.node for v in node.operands for s in self._sources(v)}
            if ordered:
                waited = self._waited_for(sources)
                if waited:
                    self.waits[node] = waited
                    sources |= waited
            for source in sources:
                if source in computed:
                    self.successors[source].append(node)

    def run(self) -> Graph:
        for node in self.compute:
            self.group_of[node] = self._alone(node)
            # The contraction that makes the cotangent comes first: its store is free.
            producers = sorted(
                {
                    self.group_of[v.node]
                    for o in node.operands
                    for v in self._sources(o)
                    if v.node in self.group_of
                },
                key=lambda g: (_ORDER.index(g.kind), -g.nodes[-1].serial),
            )
            for producer in producers:
                self._try_merge(producer, node)
        self._join_contractions()
        self._fold_diagonals_into_operands()
        return self._rebuild()

    # ------------------------------------------------------------------------------------------------ what a node is

    def _waited_for(self, sources: Iterable[Node]) -> set[Node]:
        """The nodes that make the operands of those of `sources` that order."""
        found: set[Node] = set()
        stack = [n for n in sources if "order" in n.op.traits]
        while stack:
            for node in {s.node for v in stack.pop().operands for s in self._sources(v)} - found:
                found.add(node)
                if "order" in node.op.traits:
                    stack.append(node)
        return found

    def _is_compute(self, node: Node) -> bool:
        if "order" in node.op.traits:
            return False
        if node.op.name == "const" and isinstance(node.attrs["value"], Dense):
            return False
        if node.op.name in _VIEWS or "leaf" in node.op.traits or _is_widening(node):
            return node in self.put_in_order or any(v in self.outputs for v in node.results)
        return True

    def _is_stored(self, node: Node) -> bool:
        """True of nodes whose results live in memory whatever fusion does: inputs, dense constants, ordered values."""
        dense = node.op.name == "const" and isinstance(node.attrs["value"], Dense)
        return node in self.inputs or dense or "order" in node.op.traits

    def _sources(self, value: Value) -> Iterable[Value]:
        """What is read when `value` is: itself, or what the views that make it read."""
        while not self._is_stored(value.node) and not self._is_compute(value.node):
            if not value.node.operands:
                return ()
            value = value.node.operands[0]
        return (value,)

    def _narrow(self, value: Value) -> Value:
        """The value whose 16 bits are read where its f32 is."""
        while _is_widening(value.node) and not self._is_compute(value.node):
            value = value.node.operands[0]
        return value

    def _alone(self, node: Node) -> _Group:
        if "contraction" in node.op.traits:
            return _Group("contract", node.type.shape, nodes=[node])
        if "reduction" in node.op.traits:
            return _Group("reduce", node.operands[0].shape, node.ints("axes"), [node])
        if "control" in node.op.traits:
            return _Group("control", (), nodes=[node])
        for kind in _ALONE:
            if kind in node.op.traits:
                return _Group(kind, node.type.shape, nodes=[node])
        return _Group("map", node.type.shape, nodes=[node])

    # ------------------------------------------------------------------------------------------------------- merging

    def _try_merge(self, producer: _Group, node: Node) -> None:
        consumer = self.group_of[node]
        if producer is consumer or len(producer.nodes) + len(consumer.nodes) > _LARGEST_GROUP:
            return
        merged = self._merged(producer, consumer)
        if (
            merged is None
            or not self._aligned(producer, consumer, merged)
            or self._path_around(producer, consumer)
        ):
            return
        for member in merged.nodes:
            self.group_of[member] = merged

    def _merged(self, producer: _Group, consumer: _Group) -> _Group | None:
        """The group that both would make, `None` if their kinds or domains don't fit."""
        nodes = sorted([*producer.nodes, *consumer.nodes], key=lambda n: n.serial)
        merged = self._without_byproducts(producer, consumer, nodes)
        if merged is not None:
            merged.byproducts |= producer.byproducts | consumer.byproducts
        return merged

    def _without_byproducts(self, producer: _Group, consumer: _Group, nodes: list[Node]) -> _Group | None:
        if producer.takes_byproduct(consumer):
            return _Group(
                producer.kind, producer.domain, producer.axes, nodes, byproducts=set(consumer.nodes)
            )
        kinds = (producer.kind, consumer.kind)
        if "control" in kinds:
            return None
        if kinds == ("map", "map"):
            return _Group("map", producer.domain, nodes=nodes) if producer.domain == consumer.domain else None
        if "contract" in kinds:
            fits = sorted(kinds) == ["contract", "map"] and (
                producer.makes(consumer.domain) or consumer.makes(producer.domain)
            )
            contract = producer if producer.kind == "contract" else consumer
            return _Group("contract", contract.domain, nodes=nodes) if fits else None
        if {*_ALONE} & {*kinds}:
            return None
        reduce, other = (producer, consumer) if producer.kind == "reduce" else (consumer, producer)
        if other.kind == "reduce":
            same = other.domain == reduce.domain and other.axes == reduce.axes
            if not same or other.has_index_reduction or reduce.has_index_reduction:
                return None
        elif other.domain not in (reduce.domain, reduce.reduced):
            return None
        return _Group("reduce", reduce.domain, reduce.axes, nodes)

    def _aligned(self, producer: _Group, consumer: _Group, merged: _Group) -> bool:
        """True if each edge from producer to consumer reads at the index at which it is written."""
        inside = set(producer.nodes)
        if self.waits and any(not inside.isdisjoint(self.waits.get(n, ())) for n in consumer.nodes):
            return False
        edges = [
            (operand, node)
            for node in consumer.nodes
            for operand in node.operands
            if any(s.node in inside for s in self._sources(operand))
        ]
        if any(s.node in producer.byproducts for operand, _ in edges for s in self._sources(operand)):
            return False
        return all(self._edge_aligned(operand, node, merged) for operand, node in edges)

    def _edge_aligned(self, operand: Value, node: Node, group: _Group) -> bool:
        operand = self._narrow(operand)
        direct = self._is_compute(operand.node)
        if "pointwise" in node.op.traits:
            if direct:
                return True
            inner = operand.node
            return (
                group.kind == "reduce"
                and inner.op.name == "broadcast"
                and self._is_compute(self._narrow(inner.operands[0]).node)
                and inner.operands[0].shape == group.reduced
                and inner.type.shape == group.domain
                and inner.ints("dims") == tuple(d for d in range(len(group.domain)) if d not in group.axes)
            )
        return direct and "reduction" in node.op.traits and operand.shape == group.domain

    def _path_around(self, producer: _Group, consumer: _Group) -> bool:
        """True if a path leaves `producer` and comes back in `consumer` through a third group.

        The search gives up, and says so, after a bounded number of groups: fusion stays linear, and what is far apart
        (an activation and its cotangent) has a path around it, through the loss, anyway.
        """
        goal, start = set(consumer.nodes), set(producer.nodes)
        last = consumer.nodes[-1].serial
        stack = [s for n in producer.nodes for s in self.successors[n] if s not in goal and s not in start]
        seen: set[_Group] = set()
        while stack:
            node = stack.pop()
            group = self.group_of.get(node)
            if group is None or group in seen or group.nodes[0].serial > last:
                continue
            seen.add(group)
            if len(seen) > _LONGEST_SEARCH:
                return True
            for member in group.nodes:
                for successor in self.successors[member]:
                    if successor in goal:
                        return True
                    if successor not in start:
                        stack.append(successor)
        return False

    # ------------------------------------------------------------------------------------------- joined contractions

    def _join_contractions(self) -> None:
        """Narrow contractions that share an operand become one group, and then what reads several of them joins too."""
        joins: dict[_SharedOperand, list[_Group]] = {}
        for node in self.compute:
            group = self.group_of[node]
            if "contraction" not in node.op.traits or group.contractions[0] is not node or group.byproducts:
                continue
            for key, width in _shared_operands(node):
                if width > _WIDEST_JOIN:
                    continue
                open_groups = joins.setdefault(key, [])
                joined = next((g for g in open_groups[-_OPEN_JOINS:] if self._join(key, g, group)), None)
                if joined is None:
                    open_groups.append(group)
                    continue
                merged = self.group_of[node]
                open_groups[open_groups.index(joined)] = merged
                break
        for node in self.compute:
            if self.group_of[node].kind != "map":
                continue
            producers = [self.group_of[v.node] for v in node.operands if v.node in self.group_of]
            for producer in dict.fromkeys(producers):
                if len(producer.contractions) > 1:
                    self._try_merge(producer, node)

    def _join(self, key: _SharedOperand, first: _Group, second: _Group) -> bool:
        """Makes one group of two if they fit each other, and no path between them forbids it."""
        # the first one may have been joined to others by its other operand since
        if first is second or self.group_of[first.nodes[0]] is not first:
            return False
        members = [*first.contractions, *second.contractions]
        widths = [dict(_shared_operands(n)).get(key, _WIDEST_JOIN + 1) for n in members]
        if sum(widths) > _WIDEST_JOIN or len(first.nodes) + len(second.nodes) > _LARGEST_GROUP:
            return False
        nodes = sorted([*first.nodes, *second.nodes], key=lambda n: n.serial)
        merged = _Group("contract", first.domain, nodes=nodes)
        for producer, consumer in ((first, second), (second, first)):
            if not self._aligned(producer, consumer, merged) or self._path_around(producer, consumer):
                return False
        for member in nodes:
            self.group_of[member] = merged
        return True

    # ----------------------------------------------------------------------------------- diagonals into the operands

    def _fold_diagonals_into_operands(self) -> None:
        """A marked diagonal that no contraction's store could take is computed in the operands that it scales.

        So is the rounding of an input to 16 bits: copies of all weights would take more memory than is saved elsewhere.
        """
        for group in dict.fromkeys(self.group_of[n] for n in self.compute):
            if group.kind != "map" or not (
                any("diagonal" in n.attrs for n in group.nodes)
                or all(map(self._rounds_an_input, group.nodes))
            ):
                continue
            if any(v in self.outputs for n in group.nodes for v in n.results) or not all(
                map(is_cheap, group.nodes)
            ):
                continue
            users = {self.group_of[s] for n in group.nodes for s in self.successors[n]} - {group}
            if users and all(user.kind == "contract" and self._feeds_operands(group, user) for user in users):
                for user in users:
                    user.prologue.update(group.nodes)
                for node in group.nodes:
                    del self.group_of[node]

    def _rounds_an_input(self, node: Node) -> bool:
        return node.op is cast and node.type.dtype.is_half and self._is_stored(node.operands[0].node)

    def _feeds_operands(self, group: _Group, user: _Group) -> bool:
        """True if `user` reads the group only as direct operands of its contraction."""
        inside = set(group.nodes)
        return all(
            "contraction" in node.op.traits and self._is_compute(self._narrow(operand).node)
            for node in user.nodes
            for operand in node.operands
            if any(s.node in inside for s in self._sources(operand))
        )

    # ---------------------------------------------------------------------------------------------------- rebuilding

    def _rebuild(self) -> Graph:
        build = Builder()
        new = {v: build.input(v.type, v.node.name, v.node.loc) for v in self.graph.inputs}

        def stored(value: Value) -> Value:
            """What stands for a value that no group makes: ordered ones when they are first read."""
            if value not in new:
                node = value.node
                operands = [stored(v) for v in node.operands]
                copy = build.emit(node.op, operands, node.attrs, (), node.loc, node.name)
                new.update(zip(node.results, copy.results, strict=True))
            return new[value]

        for node in self.graph.nodes:
            if self._is_stored(node) and node not in self.inputs and "order" not in node.op.traits:
                stored(node.results[0])
        for group in self._ordered():
            if group.kind == "control":
                build.copy(group.nodes[0], new)
                continue
            operands, results, region = self._region(group)
            for operand in operands:
                stored(operand)
            loc = next((n.loc for n in group.nodes if n.op.traits & _MAIN), group.nodes[-1].loc)
            name = results[0].node.name
            node = build.emit(fused, [new[v] for v in operands], {"kind": group.kind}, (region,), loc, name)
            new.update(zip(results, node.results, strict=True))
        outputs = [stored(v) for v in self.graph.outputs]
        return build.graph(self.graph.name, outputs, "fused", self.graph.output_names)

    def _ordered(self) -> list[_Group]:
        """Groups so that producers come first, in the order of their main nodes where there is a choice.

        An update in the store of a weight's gradient, which the program states at its end, thus does not put off the
        contraction: the cotangent that it reads lives no longer than it must.
        """
        groups = list(dict.fromkeys(self.group_of[n] for n in self.compute if n in self.group_of))
        needs: dict[_Group, set[_Group]] = {g: set() for g in groups}
        for group in groups:
            for node in (*group.nodes, *group.prologue):
                for operand in node.operands:
                    for source in self._sources(operand):
                        if source.node in self.group_of and source.node not in group.prologue:
                            needs[group].add(self.group_of[source.node])
                for source_node in self.waits.get(node, ()):
                    if source_node in self.group_of:
                        needs[group].add(self.group_of[source_node])
            needs[group].discard(group)
        ordered: list[_Group] = []
        done: set[_Group] = set()
        for root in sorted(groups, key=_main_serial):
            stack = [root]
            while stack:
                group = stack[-1]
                missing = [g for g in needs[group] if g not in done]
                if missing:
                    stack.extend(sorted(missing, key=_main_serial, reverse=True))
                    continue
                stack.pop()
                if group not in done:
                    done.add(group)
                    ordered.append(group)
        return ordered

    def _region(self, group: _Group) -> tuple[list[Value], list[Value], Graph]:
        """What the group reads, what others read of it, and its nodes as a graph with copies of the views."""
        inside = set(group.nodes) | group.prologue
        needed: set[Node] = set()
        stack = list(inside)
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed.add(node)
            for operand in node.operands:
                producer = operand.node
                if producer in inside or not (self._is_stored(producer) or self._is_compute(producer)):
                    stack.append(producer)
        members = sorted(needed, key=lambda n: n.serial)
        operands = list(dict.fromkeys(v for n in members for v in n.operands if v.node not in needed))
        build = Builder()
        new = build.inputs_for(operands)
        for node in members:
            build.copy(node, new)
        own = set(group.nodes)
        results = [
            v
            for n in sorted(own, key=lambda n: n.serial)
            for v in n.results
            if v in self.outputs or any(not self._is_inside(s, group) for s in self._readers(v))
        ]
        return operands, results, build.graph(group.kind, [new[v] for v in results])

    def _is_inside(self, node: Node, group: _Group) -> bool:
        return self.group_of.get(node) is group

    def _readers(self, value: Value) -> list[Node]:
        return [
            s
            for s in self.successors[value.node]
            if any(source == value for operand in s.operands for source in self._sources(operand))
        ]


def _is_widening(node: Node) -> bool:
    """A conversion of 16-bit floats to f32, whose every value it holds."""
    return node.op is cast and node.type.dtype is f32 and node.operands[0].dtype.is_half


def _main_serial(group: _Group) -> int:
    """When the group's main work is to be done: that of its last contraction, reduction or the like."""
    main = [n.serial for n in group.nodes if n.op.traits & _MAIN and n not in group.byproducts]
    return max(main, default=group.nodes[-1].serial)


def _is_scrambled(value: Value) -> bool:
    """True of a view that joins dimensions which another view has moved: no strides say where its elements are."""
    while value.node.op.name in _VIEWS:
        node = value.node
        value = node.operands[0]
        if node.op.name == "reshape" and value.node.op.name in ("transpose", "slice", "window"):
            kept = [n for n in node.type.shape if n != 1]
            whole = [n for n in value.shape if n != 1]
            if len(kept) < len(whole):
                return True
    return False


def _shared_operands(node: Node) -> list[tuple[_SharedOperand, int]]:
    """For each operand of a contraction: what another one that shares it must have in common, and this one's width.

    The width is the extent of the last free dimension of the operand that is not shared.
    """
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    sides = (
        ("left", lhs, d.lhs_batch, d.lhs_summed, [rhs.shape[i] for i in d.rhs_free]),
        ("right", rhs, d.rhs_batch, d.rhs_summed, [lhs.shape[i] for i in d.lhs_free]),
    )
    return [
        ((role, shared, batch, summed, tuple(free[:-1])), free[-1] if free else 1)
        for role, shared, batch, summed, free in sides
    ]
