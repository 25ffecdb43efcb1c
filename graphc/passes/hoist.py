"""Work taken out of loops: what no carry needs is done for all steps at once, before or after the loop.

In: a graph. Out: an equal one whose loops do less in each step. Three equalities, for a scan with steps t:

- *before*: f(k, x_t) of captures k and slices x_t alone is a slice of f(k, x), computed once. The input projection
  ``x_t @ W`` of a recurrent cell becomes one product over time and batch.
- *after*: a y that is made of a product, y_t = f(u_t), is f(u) of the stack of what the product reads.
- *sums*: a carry s' = s + u_tᵀ v_t that nothing else reads is the first one plus one product, in which the steps are among the
  summed axes: the gradient of a weight, which backpropagation through time adds up. So is s' = s + Σ u_t, that of a bias.

Sums and products are then taken in another order: float results can differ in the last bits.

What is done for all steps at once is in memory for all steps at once. A loop over blocks, which is there so that not all of
them are in memory (attention without the score matrix), must stay one. So a product moves only where its steps are small,
or where its results take little more memory than what it is made of. Loops that keep little (`remat`) stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from graphc.ir import ops
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.ops import pointwise
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.scan_parts import ScanParts
from graphc.passes.regions import has_control, inside
from graphc.passes.rewrite import splat_of
from graphc.passes.stacking import Stack, can_stack, spread, stack, summed
from graphc.passes.tidy import Body, emit_scan, members, tidy

_ROWS = (
    64  # a step's product of this many rows, or of so many summed, is as fast in the loop as outside of it
)
_MUCH = 16  # times the bytes that it is made of: a value that is larger stays in the loop
_LITTLE = 2
_SMALL = 1 << 24  # bytes of a stack that are worth a sum's products as one


def hoist(graph: Graph) -> Graph:
    """The graph with the three equalities applied to its loops, those inside of others first.

    >>> graph = Builder().graph("empty", [])
    >>> hoist(graph) is graph
    True
    """
    if not has_control(graph):
        return graph
    return tidy(_rebuilt(tidy(_rebuilt(inside(graph, hoist), _Before)), _After))


def _rebuilt(graph: Graph, rule: type[_Before] | type[_After]) -> Graph:
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        build.loc = node.loc
        if node.op is ops.scan and "remat" not in node.attrs:
            rule(build, node, new).run()
        else:
            copy = build.copy(node, new)
            copy.other_locs.extend(loc for loc in node.other_locs if loc not in copy.other_locs)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def _is_product(node: Node) -> bool:
    return "contraction" in node.op.traits


def _rows(node: Node, varies: Sequence[bool]) -> int:
    """The rows of a product's operand that differs between steps."""
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    value, free = (lhs, d.lhs_free) if varies[0] else (rhs, d.rhs_free)
    return prod(value.shape[i] for i in free)


def _summed(node: Node) -> int:
    """How many products an element of a contraction or sum adds up in one step."""
    value = node.operands[0]
    if not _is_product(node):
        return prod(value.shape[i] for i in node.ints("axes"))
    d = dimensions(node.attrs, value.type.rank, node.operands[1].type.rank)
    return prod(value.shape[i] for i in d.lhs_summed)


class _Loop:
    """A scan that is taken apart: `new` has its operands in the graph that is built, and gets its results."""

    def __init__(self, build: Builder, node: Node, new: dict[Value, Value]) -> None:
        self.build = build
        self.new = new
        self.parts = parts = ScanParts(node)
        self.region = parts.body
        self.carries = parts.body.inputs[: parts.carries]
        self.bound = {
            port: Stack(new[operand], position >= parts.captures)
            for position, (port, operand) in enumerate(
                zip(parts.body.inputs[parts.carries :], node.operands[parts.carries :], strict=True)
            )
        }
        self.free = self._free()

    def _free(self) -> dict[Value, bool]:
        """The values that need no carry and can be stacked, and whether they differ between steps."""
        free = {port: s.stacked for port, s in self.bound.items()}
        slices: dict[Value, set[Value]] = {
            port: {port} if s.stacked else set() for port, s in self.bound.items()
        }
        for node in self.region.nodes:
            if all(v in free for v in node.operands) and not node.regions:
                varies = any(free[v] for v in node.operands)
                read = set().union(*(slices[v] for v in node.operands)) if node.operands else set()
                small = self._is_small(
                    node, sum(v.type.bytes for v in read), [free[v] for v in node.operands]
                )
                if not varies or (can_stack(node) and small):
                    free.update((v, varies) for v in node.results)
                    slices.update((v, read) for v in node.results)
        return free

    @staticmethod
    def _is_small(node: Node, read: int, varies: Sequence[bool]) -> bool:
        """True of a value that may be in memory for all steps: it is made of slices of `read` bytes."""
        size = sum(v.type.bytes for v in node.results)
        if "view" in node.op.traits or size <= _LITTLE * read:
            return True
        if _is_product(node) and (all(varies) or _rows(node, varies) >= _ROWS):
            return False
        return size <= _MUCH * read

    def outside(self, value: Value, known: dict[Value, Stack]) -> Stack:
        """A value of the region in all steps, made of `known` ones."""
        for node in members([value], known):
            given = [known[v] for v in node.operands]
            known[node.results[0]] = stack(self.build, node, given, self.parts.length)
        return known[value]


class _Before(_Loop):
    """The first equality."""

    def run(self) -> None:
        region, parts = self.region, self.parts
        heavy: set[Value] = set()
        for node in region.nodes:
            varies = any(self.free.get(v, False) for v in node.operands)
            moves = "view" in node.op.traits or "leaf" in node.op.traits
            if all(v in self.free for v in node.results) and (
                any(v in heavy for v in node.operands) or _is_product(node) or not (varies or moves)
            ):
                heavy.update(node.results)
        taken: dict[Value, None] = {}
        stacked = [v for v in region.outputs[parts.carries :] if v in self.free]
        for node in region.nodes:
            if any(v not in self.free for v in node.results):
                self._take(node.operands, heavy, taken)
        self._take(region.outputs[: parts.carries], heavy, taken)
        if not taken and not stacked:
            self.build.copy(parts.node, self.new)
            return
        known = dict(self.bound)
        body = Body(self.build, region.name)
        inner = {c: body.carry(c) for c in self.carries}
        for value in taken:
            s = self.outside(value, known)
            name = value.node.name
            inner[value] = body.slice(s.value, name) if s.stacked else body.capture(s.value, name)
        for port, s in self.bound.items():
            name = port.node.name
            inner[port] = body.slice(s.value, name) if s.stacked else body.capture(s.value, name)
        for y, result in zip(region.outputs[parts.carries :], parts.ys, strict=True):
            if y in self.free:
                self.new[result] = spread(self.build, self.outside(y, known), parts.length)
        ys = [
            (y, r)
            for y, r in zip(region.outputs[parts.carries :], parts.ys, strict=True)
            if y not in self.free
        ]
        outputs = body.copy([*region.outputs[: parts.carries], *(y for y, _ in ys)], inner)
        init = [self.new[v] for v in parts.init]
        node = parts.node
        made = emit_scan(self.build, body, init, outputs, parts.length, node.attrs, node.loc, node.name)
        results = [*node.results[: parts.carries], *(r for _, r in ys)]
        self.new.update(zip(results, made.results, strict=True))

    def _take(self, values: Iterable[Value], heavy: set[Value], taken: dict[Value, None]) -> None:
        """Adds what is computed before the loop of what these values are; what only moves elements stays inside."""
        stack = list(values)
        while stack:
            value = stack.pop()
            if value not in heavy or value in taken:
                continue
            if "view" in value.node.op.traits and len(value.node.operands) == 1:
                stack.extend(value.node.operands)
            else:
                taken[value] = None


@dataclass
class _Sum:
    """A carry that sums `term`: its position, and what must be stacked for the sum to be taken after the loop."""

    position: int
    term: Value
    leaves: list[Value] = field(default_factory=list)


class _After(_Loop):
    """The second and the third equality."""

    def run(self) -> None:
        region, parts = self.region, self.parts
        n = parts.carries
        self.readers: dict[Value, list[Node]] = {}
        for node in region.nodes:
            for v in node.operands:
                self.readers.setdefault(v, []).append(node)
        asked: dict[Value, None] = dict.fromkeys(region.outputs[n:])
        sums: list[_Sum] = []
        found = [s for i in range(n) if (s := self._sum(i)) is not None]
        # products first: what they stack is then there for the sums
        for s in sorted(found, key=lambda s: not _is_product(self._root(s.term))):
            if self._pays(s, asked):
                asked.update(dict.fromkeys(s.leaves))
                sums.append(s)
        gone = {s.position for s in sums}
        kept = [i for i in range(n) if i not in gone]
        needed = {
            v for node in members([region.outputs[i] for i in kept], region.inputs) for v in node.results
        }
        needed.update(region.outputs[i] for i in kept)
        moved = self._moved(needed, [*asked])
        if not sums and not moved:
            self.build.copy(parts.node, self.new)
            return
        stacks = self._stacks(asked, moved)
        body = Body(self.build, region.name)
        inner = {self.carries[i]: body.carry(self.carries[i]) for i in kept}
        for port, bound in self.bound.items():
            name = port.node.name
            inner[port] = body.slice(bound.value, name) if bound.stacked else body.capture(bound.value, name)
        outputs = body.copy([*(region.outputs[i] for i in kept), *stacks], inner)
        init = [self.new[parts.init[i]] for i in kept]
        node = parts.node
        made = emit_scan(self.build, body, init, outputs, parts.length, node.attrs, node.loc, node.name)
        results = [node.results[i] for i in kept]
        self.new.update(zip(results, made.results, strict=False))
        known = dict(self.bound)
        known.update((v, Stack(r, True)) for v, r in zip(stacks, made.results[len(kept) :], strict=True))
        for y, result in zip(region.outputs[n:], parts.ys, strict=True):
            self.new[result] = spread(self.build, self.outside(y, known), parts.length)
        for one in sums:
            total = self._total(one.term, known)
            first = self.new[parts.init[one.position]]
            number = splat_of(first)
            self.new[node.results[one.position]] = total if number == 0 else self.build.add(first, total)

    # ------------------------------------------------------------------------------------------------------- sums

    def _sum(self, position: int) -> _Sum | None:
        """The carry as a sum over the steps of a term that can be summed after the loop."""
        carry, following = self.carries[position], self.region.outputs[position]
        if following.node.op is not pointwise.add or not carry.dtype.is_float:
            return None
        outputs = self.region.outputs
        if carry in outputs or outputs.count(following) != 1:
            return None
        if self.readers.get(carry) != [following.node] or self.readers.get(following):
            return None
        terms = [v for v in following.node.operands if v != carry]
        if len(terms) != 1:
            return None
        found = _Sum(position, terms[0])
        return found if self._summable(terms[0], found.leaves) else None

    def _summable(self, term: Value, leaves: list[Value]) -> bool:
        node = term.node
        if node.op is pointwise.add:
            return all(self._summable(v, leaves) for v in node.operands)
        if node.op in (ops.transpose, ops.reshape):
            return self._summable(node.operands[0], leaves)
        if _is_product(node) or node.op is ops.reduce_sum:
            leaves.extend(node.operands)
            return any(v not in self.free or self.free[v] for v in node.operands)
        return False

    def _root(self, term: Value) -> Node:
        """The product or sum that makes a term, the first one of several."""
        node = term.node
        while node.op in (pointwise.add, ops.transpose, ops.reshape):
            node = node.operands[0].node
        return node

    def _pays(self, s: _Sum, asked: Iterable[Value]) -> bool:
        """True where little more is stacked than is summed, or where a step sums few products and the stack is small."""
        there = set(asked)
        extra = sum(v.type.bytes for v in dict.fromkeys(s.leaves) if v not in there and v not in self.free)
        few = _summed(self._root(s.term)) < _ROWS
        return _LITTLE * extra <= s.term.type.bytes or (few and extra * self.parts.length <= _SMALL)

    def _total(self, term: Value, known: dict[Value, Stack]) -> Value:
        """The sum of a term over the steps."""
        node = term.node
        self.build.loc = node.loc
        if node.op is pointwise.add:
            first, second = (self._total(v, known) for v in node.operands)
            return self.build.add(first, second)
        if node.op in (ops.transpose, ops.reshape):
            inner = self._total(node.operands[0], known)
            return self.build.emit(node.op, [inner], node.attrs, (), node.loc).results[0]
        return summed(self.build, node, [self.outside(v, known) for v in node.operands])

    # ----------------------------------------------------------------------------------------------------- moving

    def _moved(self, needed: set[Value], asked: Sequence[Value]) -> set[Value]:
        """The values that are computed after the loop: products that no carry needs, and all that is made of them."""
        wanted = {v for node in members(asked, self.region.inputs) for v in node.results}
        moved: set[Value] = set()
        sources: dict[Value, set[Value]] = {}  # of moved values: what is stacked for them
        largest = max((v.type.bytes for v in self.region.outputs[self.parts.carries :]), default=0)
        for node in self.region.nodes:
            (value, *others) = node.results
            if others or value in needed or value not in wanted or value in self.free:
                continue
            if not can_stack(node) or node.regions:
                continue
            if _is_product(node) or any(v in moved for v in node.operands):
                read = set().union(*(sources.get(v, {v}) for v in node.operands))
                size = sum(v.type.bytes for v in read if self.free.get(v, True))
                varies = [self.free.get(v, True) for v in node.operands]
                if not (value.type.bytes <= largest or self._is_small(node, size, varies)):
                    continue
                extra = sum(v.type.bytes for v in read if v not in asked and v not in self.free)
                much = _MUCH if _is_product(node) and _rows(node, varies) < _ROWS else _LITTLE
                if not _is_product(node) or extra <= much * value.type.bytes:
                    moved.add(value)
                    sources[value] = read
        # all that reads one must move too
        for node in reversed(self.region.nodes):
            stays = [n for n in self.readers.get(node.results[0], ()) if n.results[0] not in moved]
            if any(r in wanted or r in needed for n in stays for r in n.results):
                moved.difference_update(node.results)
        return moved

    def _stacks(self, asked: Iterable[Value], moved: set[Value]) -> list[Value]:
        """What must be stacked for `asked` to be there after the loop: what the moved values are made of."""
        found: dict[Value, None] = {}
        seen: set[Value] = set()
        stack = list(asked)
        while stack:
            value = stack.pop()
            if value in seen or value in self.free:
                continue
            seen.add(value)
            if value in moved:
                stack.extend(value.node.operands)
            else:
                found[value] = None
        return sorted(found, key=lambda v: (v.node.serial, v.index))
