"""The derivatives of loops and branches: emitted as registered ops, so that they have derivatives themselves.

In: a node with regions, and `derive`, which gives the vjp (or the tangents) of a region. Out: for scan the forward loop
that keeps what the backward loop reads, and that loop, which runs from the last step to the first; for cond the taken
branch's vjp, which computes that branch again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphc.errors import TraceError
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.opdef import Augmented, Derive
from graphc.ir.ops.residuals import is_recomputed, residuals
from graphc.ir.ops.scan_parts import ScanParts

if TYPE_CHECKING:
    from graphc.ir.graph import Attr


def reach(region: Graph) -> list[set[int]]:
    """For each output the positions of the inputs from which derivatives lead to it."""
    sources: dict[Value, set[int]] = {
        v: {i} if v.dtype.is_float else set() for i, v in enumerate(region.inputs)
    }
    for node in region.nodes:
        found: set[int] = set()
        for i, operand in enumerate(node.operands):
            found |= sources[operand] if node.op.passes(i) else set()
        for value in node.results:
            sources[value] = found if value.dtype.is_float else set()
    return [sources[v] for v in region.outputs]


@dataclass(frozen=True)
class _Roles:
    """Which of a scan's carries, captures and xs have a cotangent, and which results it comes from (by position)."""

    carries: tuple[int, ...]
    captures: tuple[int, ...]  # positions among the region's inputs, as those of `xs`
    xs: tuple[int, ...]
    ys: tuple[int, ...]  # positions among the region's outputs


def _roles(parts: ScanParts, needed: Sequence[bool], active: Sequence[bool]) -> _Roles:
    """A carry has a cotangent where it depends on what is wanted and what is wanted of the results depends on it."""
    paths = reach(parts.body)
    n, after = parts.carries, parts.carries + parts.captures
    varied = {i for i, wanted in enumerate(needed) if wanted}
    grown = -1
    while grown != len(varied):
        grown = len(varied)
        varied |= {i for i in range(n) if paths[i] & varied}
    useful = {j for j, wanted in enumerate(active) if wanted}
    grown = -1
    while grown != len(useful):
        grown = len(useful)
        useful |= {i for i in range(n) if any(i in paths[j] for j in useful)}
    reached = set().union(*(paths[j] for j in useful)) if useful else set()
    inputs = parts.body.inputs
    wanted = {i for i in varied & reached if inputs[i].dtype.is_float}
    return _Roles(
        tuple(i for i in range(n) if inputs[i].dtype.is_float and i in varied & useful),
        tuple(i for i in range(n, after) if i in wanted),
        tuple(i for i in range(after, len(inputs)) if i in wanted),
        tuple(j for j in range(n, len(paths)) if j in useful and paths[j] & varied),
    )


def augment_scan(
    build: Builder, node: Node, needed: Sequence[bool], active: Sequence[bool], derive: Derive
) -> Augmented | None:
    """The loop with what the backward steps read stacked as further ys, and the loop backward over them.

    Cotangents of the carries are the backward loop's carries. A capture is read in every step, so that its cotangent
    is a sum over the steps, another carry. Those of xs are stacked. (Reverse accumulation through time: Werbos,
    Backpropagation through time, Proceedings of the IEEE 78(10), 1990.)
    """
    parts = ScanParts(node)
    roles = _roles(parts, needed, active)
    wanted = (*roles.carries, *roles.captures, *roles.xs)
    seeds = (*roles.carries, *roles.ys)
    if not any(needed[i] for i in wanted) or not seeds:
        return None
    derived = derive(parts.body, wanted, seeds)
    backward = _Backward(parts, derived, len(seeds))
    stacks = backward.stacked()
    kept = [v for v in stacks if v not in derived.outputs[parts.carries : len(parts.body.outputs)]]
    outputs = (*derived.outputs[: len(parts.body.outputs)], *kept)
    body = Graph(parts.body.name, derived.inputs[: len(parts.body.inputs)], outputs)
    made = build.emit(node.op, node.operands, node.attrs, (body,), node.loc, node.name)
    ys = dict(zip(body.outputs[parts.carries :], ScanParts(made).ys, strict=True))

    def pullback(cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return backward.emit(build, made, ys, roles, cotangents)

    return Augmented(made.results[: len(node.results)], pullback)


class _Backward:
    """The backward half of a body's vjp as the body of a loop of its own."""

    def __init__(self, parts: ScanParts, derived: Graph, seeds: int) -> None:
        self.parts = parts
        self.derived = derived
        inputs, outputs = len(parts.body.inputs), len(parts.body.outputs)
        self.inputs = derived.inputs[:inputs]
        self.next = derived.outputs[: parts.carries]
        self.ys = derived.outputs[parts.carries : outputs]
        self.gradients = derived.outputs[outputs:]
        self.seeds = derived.inputs[inputs : inputs + seeds]
        behind = set(self.seeds)
        for node in derived.nodes:
            if any(v in behind for v in node.operands):
                behind.update(node.results)
        self.behind = {v.node for v in behind} - {v.node for v in self.seeds}
        read = [v for n in derived.nodes if n in self.behind for v in n.operands] + list(self.gradients)
        self.read = [v for v in dict.fromkeys(read) if v not in behind]
        self.stored = self._chosen()

    def _chosen(self) -> set[Value]:
        """What is read of the forward steps. A carry that is read and its next value are one stack."""
        n = self.parts.carries
        free = set(self.inputs[n:])
        stored = set(self.ys)
        remat = self.parts.node.attrs.get("remat") is True
        again = (lambda node: True) if remat else is_recomputed
        carries = dict(zip(self.inputs[:n], self.next, strict=True))
        while True:
            chosen = set(residuals(self.read, free, stored, again))
            # where one of a carry and its next value is stacked, so is the other
            pairs = [pair for pair in carries.items() if pair[1] not in self.inputs and chosen & set(pair)]
            more = {v for pair in pairs for v in pair}
            if more <= stored:
                self.stored = chosen
                return chosen & set(self._needed()[0])
            stored |= more

    def stacked(self) -> list[Value]:
        """The values of the forward body to be stacked: of a carry its next value, where that is not an input itself."""
        n = self.parts.carries
        next_of = dict(zip(self.inputs[:n], self.next, strict=True))
        values = [
            next_of[v] if v in next_of and v not in self.ys and next_of[v] not in self.inputs else v
            for v in self.stored
        ]
        return sorted(dict.fromkeys(values), key=lambda v: (v.node.serial, v.index))

    def emit(
        self,
        build: Builder,
        made: Node,
        ys: Mapping[Value, Value],
        roles: _Roles,
        cotangents: Sequence[Value | None],
    ) -> list[Value | None]:
        """The backward loop: cotangents of the operands from those of the results."""
        parts = ScanParts(made)
        n = parts.carries
        outer: dict[Value, Value] = dict(zip(self.inputs[n:], made.operands[n:], strict=True))
        for value in self.stored:
            outer[value] = self._stack(build, value, made, ys)
        captures = set(self.inputs[n : n + parts.captures])
        leaves, members = self._needed()
        held = [v for v in self.inputs if v in leaves and v in captures]
        slices = [v for v in self.inputs if v in leaves and v in outer and v not in captures]
        slices += [v for v in leaves if v not in self.inputs]
        inner = Builder()
        sums = [self.inputs[i] for i in roles.captures]
        seeds_c, seeds_y = self.seeds[: len(roles.carries)], self.seeds[len(roles.carries) :]
        totals = [Builder().input(v.type, f"sum_{v.node.name}") for v in sums]
        new = inner.inputs_for([*seeds_c, *totals, *held, *seeds_y, *slices])
        for node in members:
            inner.copy(node, new)
        grads = [new[v] for v in self.gradients]
        first, last = len(roles.carries), len(roles.carries) + len(sums)
        added = [inner.add(new[t], g) for t, g in zip(totals, grads[first:last], strict=True)]
        body = inner.graph("body", [*grads[:first], *added, *grads[last:]])
        init = [self._cotangent(build, made, cotangents, i) for i in roles.carries]
        init += [build.zeros(v.type) for v in sums]
        xs = [self._cotangent(build, made, cotangents, j) for j in roles.ys] + [outer[v] for v in slices]
        attrs: dict[str, Attr] = dict(made.attrs)
        attrs |= {"carries": last, "captures": len(held), "reverse": not parts.reverse}
        back = build.emit(made.op, [*init, *(outer[v] for v in held), *xs], attrs, (body,))
        found = dict(zip((*roles.carries, *roles.captures, *roles.xs), back.results, strict=True))
        return [found.get(i) for i in range(len(made.operands))]

    def _needed(self) -> tuple[list[Value], list[Node]]:
        """What the backward body reads from outside, and its nodes."""
        leaves: dict[Value, None] = {}
        members: set[Node] = set()
        stack = list(self.gradients)
        known = {*self.inputs, *self.stored}
        while stack:
            value = stack.pop()
            if value in self.seeds:
                continue
            if value in known and value.node not in self.behind:
                leaves[value] = None
            elif value.node not in members:
                members.add(value.node)
                stack.extend(value.node.operands)
        order = sorted(leaves, key=lambda v: (v.node.serial, v.index))
        return order, sorted(members, key=lambda n: n.serial)

    def _stack(self, build: Builder, value: Value, made: Node, ys: Mapping[Value, Value]) -> Value:
        """The stack of what a value of the body was in each step."""
        if value in ys:
            return ys[value]
        position = self.inputs.index(value)
        init, after = made.operands[position], ys[self.next[position]]
        first = build.reshape(init, shape=(1, *init.shape))
        length, rank = after.shape[0], after.type.rank
        if length < 2:
            return first if length else after
        reverse = ScanParts(made).reverse
        start = (int(reverse), *(0 for _ in init.shape))
        others = build.slice(after, start=start, size=(length - 1, *init.shape), step=(1,) * rank)
        return build.concat(*((others, first) if reverse else (first, others)), axis=0)

    @staticmethod
    def _cotangent(build: Builder, made: Node, given: Sequence[Value | None], position: int) -> Value:
        return given[position] or build.zeros(made.types[position])


def augment_cond(
    build: Builder, node: Node, needed: Sequence[bool], active: Sequence[bool], derive: Derive
) -> Augmented | None:
    """The vjp of the branch that is taken. It computes the branch again: the other one would keep other values."""
    paths = [set().union(*both) for both in zip(*map(reach, node.regions), strict=True)]
    seeds = [j for j, wanted in enumerate(active) if wanted and node.types[j].dtype.is_float and paths[j]]
    reached = set().union(*(paths[j] for j in seeds)) if seeds else set()
    wanted = [i for i in range(len(node.operands) - 1) if needed[i + 1] and i in reached]
    if not wanted:
        return None

    def pullback(cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        regions = []
        for region in node.regions:
            derived = derive(region, wanted, seeds)
            outputs = derived.outputs[len(region.outputs) :]
            regions.append(Graph(region.name, derived.inputs, outputs))
        given = [cotangents[j] or build.zeros(node.types[j]) for j in seeds]
        made = build.emit(node.op, [*node.operands, *given], {}, regions)
        found: list[Value | None] = [None] * len(node.operands)
        for position, value in zip(wanted, made.results, strict=True):
            found[position + 1] = value
        return found

    return Augmented(node.results, pullback)


def refuse_while(
    build: Builder, node: Node, needed: Sequence[bool], active: Sequence[bool], derive: Derive
) -> Augmented | None:
    """A loop whose number of steps is not known before has nowhere to keep what they would have to."""
    if not any(needed) or not any(active):
        return None
    raise TraceError(
        f"{node.loc.prefix}while_loop: expected no reverse derivative through a loop of unknown length; use graphc.scan "
        "with a fixed length, stop_gradient, or forward mode"
    )
