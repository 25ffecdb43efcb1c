"""From a fused graph to a PLAN: order, in-place updates, donation, and offsets in one arena.

In: a fused graph, a target, which inputs are donated to which outputs. Out: a `Plan` with scheduled kernels.

Offsets are assigned greedily by size, the largest buffer first at the lowest place where it fits beside the buffers
that live at the same time (Pisarchyk & Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np

from graphc.codegen.control import Own, carries_in_place, control_step
from graphc.codegen.schedules import in_place_candidates, schedule
from graphc.codegen.separate import separate
from graphc.codegen.split import split_sums
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Dense, Graph, Node, Value
from graphc.ir.kernel import Kernel
from graphc.ir.plan import ALIGNMENT, BranchStep, CallStep, CopyStep, LoopStep, Plan, PlanBuffer, Step
from graphc.ir.types import TensorType

_LONG_ROW = 4  # vectors: one stall a row doesn't count


def make_plan(graph: Graph, target: Target, donated: Sequence[tuple[int, int]] = ()) -> Plan:
    """The plan of a fused graph; `donated` pairs an input's position with that of the output that gets its memory.

    Raises `CompileError` where the graph is not fused or a pair's types differ.
    """
    return _Planner(prepared(graph, target), target, donated, Kernels(target)).plan()


def prepared(graph: Graph, target: Target) -> Graph:
    """The fused graph as the target's kernels want it."""
    return split_sums(separate(graph, target), target)


class Kernels:
    """The kernels of a program: equal regions have one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._made: dict[str, Kernel] = {}
        self._counts: dict[str, int] = {}

    def kernel(self, node: Node, in_place: Mapping[int, int]) -> Kernel:
        text = f"{node.attrs['kind']} {sorted(in_place.items())} {node.regions[0].canonical}"
        if text not in self._made:
            made = schedule(node, self._target, in_place)
            number = self._counts[made.name] = self._counts.get(made.name, -1) + 1
            self._made[text] = replace(made, name=f"{made.name}{number}")
        return self._made[text]


@dataclass(eq=False)
class _Place:
    """Where a value lives while the plan is being made."""

    kind: Literal["input", "output", "constant", "arena"]
    position: int = -1
    in_place_of: Value | None = None


class _Order:
    """Which kernel comes before which. networkx could sort too, but takes longer to import than a model to compile."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = list(nodes)
        self._rank = {n: i for i, n in enumerate(nodes)}
        self._later: list[set[int]] = [set() for _ in nodes]

    def add(self, before: Node, after: Node) -> None:
        self._later[self._rank[before]].add(self._rank[after])

    def reaches(self, start: Node, goal: Node) -> bool:
        """True if `start` comes before `goal`, or is it."""
        wanted, stack = self._rank[goal], [self._rank[start]]
        seen = set(stack)
        while stack:
            here = stack.pop()
            if here == wanted:
                return True
            new = self._later[here] - seen
            seen |= new
            stack.extend(new)
        return False

    def sorted(self) -> list[Node]:
        """All nodes in an order that obeys, as near to the given one as it can be."""
        waiting = [0] * len(self._nodes)
        for after in self._later:
            for i in after:
                waiting[i] += 1
        ready = [i for i, count in enumerate(waiting) if count == 0]
        heapify(ready)
        done: list[Node] = []
        while ready:
            here = heappop(ready)
            done.append(self._nodes[here])
            for i in self._later[here]:
                waiting[i] -= 1
                if waiting[i] == 0:
                    heappush(ready, i)
        return done


class _Planner:
    def __init__(
        self,
        graph: Graph,
        target: Target,
        donated: Sequence[tuple[int, int]],
        kernels: Kernels,
        carried: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`carried` pairs, as `donated`, inputs with the outputs that have their memory where that needs no copy."""
        self.graph = graph
        self.target = target
        self.donated = tuple(donated)
        self.carried = {j: graph.inputs[i] for i, j in carried}
        self.kernels = kernels
        for i, j in donated:
            if graph.inputs[i].type != graph.outputs[j].type:
                raise CompileError(
                    f"@{graph.name}: input %{graph.inputs[i].node.name} is donated to output {j}: "
                    f"expected equal types, got {graph.inputs[i].type!r} and {graph.outputs[j].type!r}"
                )
        self.nodes = [n for n in graph.nodes if n.regions]
        for node in graph.nodes:
            if not node.regions and not (node.op.name == "const" and isinstance(node.attrs["value"], Dense)):
                raise CompileError(
                    f"{node.loc.prefix}{node.op.name}: expected a fused graph; run the fuse pass first"
                )
        self.readers: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.operands):
                self.readers.setdefault(value, []).append(node)
        self.candidates = {
            n: in_place_candidates(n) if n.op.name == "fused" else carries_in_place(n) for n in self.nodes
        }
        self.places: dict[Value, _Place] = {}
        self.copies: list[tuple[Value, int]] = []  # (value, output) that no kernel writes directly

    def plan(self) -> Plan:
        self._place_outputs()
        step_of = {n: i for i, n in enumerate(self.nodes)}
        self._place_arena(step_of)
        return self._assemble(step_of)

    # -------------------------------------------------------------------------------------------------------- places

    def _place_outputs(self) -> None:
        graph = self.graph
        inputs = set(graph.inputs)
        for position, value in enumerate(graph.inputs):
            self.places[value] = _Place("input", position)
        for node in graph.nodes:
            if node.op.name == "const":
                self.places[node.results[0]] = _Place("constant")
        donors = {j: graph.inputs[i] for i, j in self.donated}
        order = _Order(self.nodes)
        producers = {v: n for n in self.nodes for v in n.results}
        for node in self.nodes:
            for v in node.operands:
                if v in producers:
                    order.add(producers[v], node)
        for position, value in enumerate(graph.outputs):
            donor = donors.get(position)
            if value in inputs and value != donor and value in donors.values():
                raise CompileError(f"@{graph.name}: output {position} is a donated input of another output")
            if donor is not None and value == donor:
                continue  # it is there already
            if value in self.places:
                self.copies.append((value, position))
                continue
            carry = self.carried.get(position)
            if carry is not None and self._may_overwrite(carry, value, producers[value], order):
                self.places[value] = _Place("output", position, in_place_of=carry)
            elif donor is None:
                self.places[value] = _Place("output", position)
            elif self._may_overwrite(donor, value, producers[value], order):
                self.places[value] = _Place("output", position, in_place_of=donor)
            else:
                self.copies.append((value, position))
        self.nodes = order.sorted()

    def _may_overwrite(self, donor: Value, value: Value, writer: Node, order: _Order) -> bool:
        """True if all reads of the donor can come before `writer` stores; the order then says so."""
        position = writer.results.index(value)
        readers = [n for n in self.readers.get(donor, []) if n is not writer]
        if donor in writer.operands:
            own = writer.operands.index(donor)
            if own not in self.candidates[writer][position] or writer.operands.count(donor) > 1:
                return False
        if donor in self.graph.outputs or any(order.reaches(writer, r) for r in readers):
            return False
        for reader in readers:
            order.add(reader, writer)
        return True

    def _place_arena(self, step_of: Mapping[Node, int]) -> None:
        """Values between kernels; one that its operand's last reader makes takes the operand's place."""
        last = {v: max(step_of[n] for n in readers) for v, readers in self.readers.items()}
        kept = {v for v, _ in self.copies}
        for step, node in enumerate(self.nodes):
            taken: set[Value] = set()
            for position, value in enumerate(node.results):
                if value in self.places:
                    continue
                place = _Place("arena")
                candidates = () if self._stalls_in_place(node, value) else self.candidates[node][position]
                for own in candidates:
                    operand = node.operands[own]
                    free = (
                        self.places[operand].kind == "arena"
                        and operand not in kept
                        and operand not in taken
                        and last[operand] == step
                        and node.operands.count(operand) == 1
                    )
                    if free:
                        place.in_place_of = operand
                        taken.add(operand)
                        break
                self.places[value] = place

    def _stalls_in_place(self, node: Node, value: Value) -> bool:
        """True of short rows that don't fill their vectors: a row's load would wait for the masked store before it.

        A processor takes a masked store for as wide as its vector, and the next row begins within that.
        """
        if node.attrs.get("kind") not in ("contract", "reduce") or value.type.size == max(
            value.shape, default=1
        ):
            return False  # a map's rows are one long one, and a single row is before no other
        lanes = self.target.lanes(value.dtype)
        return value.shape[-1] % lanes != 0 and value.shape[-1] < _LONG_ROW * lanes

    # ------------------------------------------------------------------------------------------------------ assembly

    def _assemble(self, step_of: Mapping[Node, int]) -> Plan:
        graph, count = self.graph, len(self.nodes)
        last = {v: max(step_of[n] for n in readers) for v, readers in self.readers.items()}
        last.update({v: count + len(self.copies) for v, _ in self.copies})
        names = self._names()
        buffers: dict[Value, PlanBuffer] = {}

        def buffer(value: Value) -> PlanBuffer:
            place = self.places[value]
            first = step_of.get(value.node, -1)
            alive = max(last.get(value, first), first)
            other = buffers[place.in_place_of] if place.in_place_of is not None else None
            kind = place.kind
            return PlanBuffer(
                names[value],
                value.type,
                kind,
                place.position,
                -1,
                first,
                alive,
                other,
            )

        for value in self.places:
            if self.places[value].kind != "arena":
                buffers[value] = buffer(value)
        for node in self.nodes:
            for value in node.results:
                if self.places[value].kind == "arena":
                    buffers[value] = buffer(value)
        steps: list[Step] = []
        scratch: list[PlanBuffer] = []

        def own(types: Sequence[TensorType]) -> list[PlanBuffer]:
            """Memory for the next step alone."""
            made = [
                PlanBuffer(f"scratch{len(scratch) + i}", t, "arena", first=len(steps), last=len(steps))
                for i, t in enumerate(types)
            ]
            scratch.extend(made)
            return made

        for node in self.nodes:
            if node.op.name == "fused":
                steps.append(self._call(node, buffers, own))
            else:
                reads, writes = ([buffers[v] for v in vs] for vs in (node.operands, node.results))
                steps.append(self._control(node, reads, writes, own))
        workspace = _assign_offsets([*buffers.values(), *scratch])
        extra: list[PlanBuffer] = []
        donors = {j: graph.inputs[i] for i, j in self.donated}
        for value, position in self.copies:
            donor = donors.get(position)
            target = PlanBuffer(
                f"out{position}", value.type, "output", position, first=len(steps),
                in_place_of=buffers[donor] if donor is not None else None,
            )  # fmt: skip
            extra.append(target)
            steps.append(CopyStep(buffers[value], target))
        output_names = tuple(graph.output_names) or tuple(f"output{i}" for i in range(len(graph.outputs)))
        return Plan(
            graph.name,
            (*buffers.values(), *scratch, *extra),
            tuple(steps),
            workspace,
            self.donated,
            {buffers[v].name: _array_of(v.node) for v in self.places if self.places[v].kind == "constant"},
            graph.input_names,
            output_names,
        )

    def _call(self, node: Node, buffers: Mapping[Value, PlanBuffer], own: Own) -> CallStep:
        in_place: dict[int, int] = {}
        for position, value in enumerate(node.results):
            donor = self.places[value].in_place_of
            if donor is not None and donor in node.operands:
                in_place[position] = node.operands.index(donor)
        kernel = self.kernels.kernel(node, in_place)
        overwritten = {operand: position for position, operand in in_place.items()}
        arguments = [
            buffers[node.results[overwritten[i]]] if i in overwritten else buffers[v]
            for i, v in enumerate(node.operands)
        ]
        arguments += [buffers[v] for i, v in enumerate(node.results) if i not in in_place]
        arguments += own([TensorType(p.dtype, p.shape) for p in kernel.params if p.access == "scratch"])
        return CallStep(
            kernel,
            node.regions[0],
            tuple(arguments),
            tuple(buffers[v] for v in node.operands),
            tuple(buffers[v] for v in node.results),
            node.loc,
        )

    def _control(
        self,
        node: Node,
        reads: list[PlanBuffer],
        writes: list[PlanBuffer],
        own: Own,
    ) -> LoopStep | BranchStep:
        def plan_of(region: Graph, carried: Sequence[tuple[int, int]] = ()) -> Plan:
            return _Planner(prepared(region, self.target), self.target, (), self.kernels, carried).plan()

        return control_step(node, reads, writes, own, plan_of)

    def _names(self) -> dict[Value, str]:
        names: dict[Value, str] = {}
        taken: set[str] = set()
        for number, value in enumerate(dict.fromkeys([*self.graph.inputs, *self.places])):
            wanted = value.node.name if value.index == 0 else ""
            name = wanted or f"v{number}"
            while name in taken:
                name = f"{wanted or 'v'}.{number}"
                number += 1
            taken.add(name)
            names[value] = name
        return names


def _assign_offsets(buffers: Sequence[PlanBuffer]) -> int:
    """Gives each arena buffer its offset; returns the arena's bytes. Buffers that share memory are one block."""
    blocks: dict[PlanBuffer, list[PlanBuffer]] = {}
    for b in buffers:
        if b.kind == "arena":
            blocks.setdefault(b.root, []).append(b)
    spans = {r: (min(b.first for b in bs), max(b.last for b in bs)) for r, bs in blocks.items()}
    # of those that have a place: first and last step, first byte and the byte after the last; arrays, since every block is
    # compared with all of them, and a graph of thousands of nodes has thousands
    first, last, low, high = np.zeros((4, len(blocks)), np.int64)
    total = 0
    for count, root in enumerate(sorted(blocks, key=lambda r: (-r.type.bytes, spans[r][0]))):
        start, end = spans[root]
        size = -(-max(root.type.bytes, 1) // ALIGNMENT) * ALIGNMENT
        rivals = np.flatnonzero((first[:count] <= end) & (last[:count] >= start))
        rivals = rivals[np.argsort(low[rivals], kind="stable")]
        # the bytes before each rival begin where the rivals before it end
        begin = np.maximum.accumulate(np.concatenate(([0], high[rivals])))
        fits = np.flatnonzero(begin[:-1] + size <= low[rivals])
        offset = int(begin[fits[0] if len(fits) else -1])
        object.__setattr__(root, "offset", offset)
        first[count], last[count], low[count], high[count] = start, end, offset, offset + size
        total = max(total, offset + size)
    return total


def _array_of(constant: Node) -> np.ndarray:
    value = constant.attrs["value"]
    assert isinstance(value, Dense)
    return value.array
