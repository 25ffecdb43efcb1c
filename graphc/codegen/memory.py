"""From a fused graph to a PLAN: order, in-place updates, donation, and offsets in one arena.

In: a fused graph, a target, which inputs are donated to which outputs. Out: a `Plan` with scheduled kernels.

Kernels write outputs directly; a copy is made only where one value is several outputs, where an output is an input or
a constant, and where a donated input is still needed when its output is computed. Intermediates lie in one arena, at
offsets that are assigned greedily by size (Pisarchyk & Lee, Efficient Memory Management for Deep Neural Net
Inference, 2020); of several orders the one with the smallest arena wins.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from graphc.codegen.schedules import in_place_candidates, schedule
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Dense, Graph, Node, Value
from graphc.ir.kernel import Kernel
from graphc.ir.plan import ALIGNMENT, CallStep, CopyStep, Kind, Plan, PlanBuffer, Step
from graphc.ir.types import TensorType


def make_plan(graph: Graph, target: Target, donated: Sequence[tuple[int, int]] = ()) -> Plan:
    """The plan of a fused graph; `donated` pairs an input's position with that of the output that gets its memory.

    Raises `CompileError` where the graph is not fused, a pair's types differ, or a position stands in two pairs.
    """
    planner = _Planner(graph, tuple(donated))
    planner.place_outputs()
    planner.donate()
    planner.order()
    planner.share()
    return planner.plan(target)


class Interval(NamedTuple):
    """Bytes that are alive from step `first` to step `last`, both included."""

    bytes: int
    first: int
    last: int


def assign_offsets(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each interval, so that no two overlap in both bytes and steps, and the arena's bytes.

    Offsets and the arena are multiples of 64 bytes.

    >>> assign_offsets([Interval(100, 0, 1), Interval(60, 1, 2), Interval(100, 2, 3)])
    ([0, 128, 0], 192)
    """

    def lifetime(i: int) -> int:
        return intervals[i].last - intervals[i].first + 1

    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-intervals[i].bytes, intervals[i].first),
        lambda i: (-intervals[i].bytes * lifetime(i), intervals[i].first),
        lambda i: (-lifetime(i), -intervals[i].bytes),
        lambda i: (intervals[i].first, -intervals[i].bytes),
    ]
    best: tuple[list[int], int] | None = None
    bound = lower_bound(intervals)
    for key in orders:
        found = _place(intervals, sorted(range(len(intervals)), key=key))
        if best is None or found[1] < best[1]:
            best = found
        if best[1] == bound:
            break
    assert best is not None
    return best


def lower_bound(intervals: Sequence[Interval]) -> int:
    """The most bytes that are alive at one step, each interval rounded up to whole cache lines.

    >>> lower_bound([Interval(100, 0, 1), Interval(60, 1, 2), Interval(100, 2, 3)])
    192
    """
    changes: dict[int, int] = {}
    for interval in intervals:
        changes[interval.first] = changes.get(interval.first, 0) + _aligned(interval.bytes)
        changes[interval.last + 1] = changes.get(interval.last + 1, 0) - _aligned(interval.bytes)
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most


def _place(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Each interval in turn in the smallest gap that holds it between those that live at the same time."""
    offsets = [0] * len(intervals)
    placed: list[int] = []
    total = 0
    for i in order:
        size, first, last = _aligned(intervals[i].bytes), intervals[i].first, intervals[i].last
        if not size:
            continue
        rivals = sorted(
            (offsets[p], offsets[p] + _aligned(intervals[p].bytes))
            for p in placed
            if intervals[p].first <= last and first <= intervals[p].last
        )
        best, room, end = -1, 0, 0
        for low, high in rivals:
            if low - end >= size and (best < 0 or low - end < room):
                best, room = end, low - end
            end = max(end, high)
        offsets[i] = best if best >= 0 else end
        placed.append(i)
        total = max(total, offsets[i] + size)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# --------------------------------------------------------------------------------------------------------- planning


@dataclass(eq=False)
class _Item:
    """A value in memory, while the plan is being made. Items without a home share the arena."""

    name: str
    type: TensorType
    home: tuple[Kind, int] | None = None
    over: _Item | None = None  # the item that its kernel overwrites in place

    @property
    def root(self) -> _Item:
        item = self
        while item.over is not None:
            item = item.over
        return item


@dataclass(eq=False)
class _Task:
    """A kernel's call, or (without a node) a copy. `rank` is its place in the order where there is a choice."""

    node: Node | None
    reads: list[_Item]
    writes: list[_Item]
    rank: tuple[int, int]
    in_place: dict[int, int] = field(default_factory=dict)  # result → operand
    after: list[_Task] = field(default_factory=list)  # tasks that must come later
    candidates: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


class _Planner:
    def __init__(self, graph: Graph, donated: tuple[tuple[int, int], ...]) -> None:
        self.graph = graph
        self.donated = donated
        self._check_donated()
        self._taken: set[str] = set()
        self.items: dict[Value, _Item] = {}
        self.constants: list[Dense] = []
        self.tasks: list[_Task] = []
        self.writer: dict[_Item, _Task] = {}
        self.outputs: list[_Item] = []
        for position, value in enumerate(graph.inputs):
            self.items[value] = self._item(value, ("input", position))
        for node in graph.nodes:
            data = node.attrs.get("value")
            if node.op.name == "const" and isinstance(data, Dense):
                self.items[node.results[0]] = self._item(node.results[0], ("constant", len(self.constants)))
                self.constants.append(data)
            elif node.op.name == "fused":
                self._add_call(node)
            else:
                raise CompileError(f"{node.loc.prefix}{node.op.name}: expected a fused graph; run the fuse pass first")

    def _check_donated(self) -> None:
        graph = self.graph
        for side, positions in (("input", [i for i, _ in self.donated]), ("output", [j for _, j in self.donated])):
            twice = next((p for p in positions if positions.count(p) > 1), None)
            if twice is not None:
                raise CompileError(f"@{graph.name}: donation: expected {side} {twice} in one pair, got it in several")
        for i, j in self.donated:
            if graph.inputs[i].type != graph.outputs[j].type:
                raise CompileError(
                    f"@{graph.name}: input %{graph.inputs[i].node.name} is donated to output {j}: "
                    f"expected equal types, got {graph.inputs[i].type!r} and {graph.outputs[j].type!r}"
                )

    def _add_call(self, node: Node) -> None:
        for value in node.results:
            self.items[value] = self._item(value, None)
        reads, writes = [self.items[v] for v in node.operands], [self.items[v] for v in node.results]
        task = _Task(node, reads, writes, (len(self.tasks), 0), candidates=in_place_candidates(node))
        self._add(task)

    def _add_copy(self, source: _Item, target: _Item) -> _Task:
        """A copy that comes right after its source is written, while that is in the cache; of an input, at the end."""
        writer = self.writer.get(source)
        rank = (len(self.tasks), 1) if writer is None else (writer.rank[0], len(self.tasks))
        task = _Task(None, [source], [target], rank)
        self._add(task)
        return task

    def _add(self, task: _Task) -> None:
        self.tasks.append(task)
        for item in task.writes:
            self.writer[item] = task
        for item in dict.fromkeys(task.reads):
            if item in self.writer:
                self.writer[item].after.append(task)

    def _item(self, value: Value, home: tuple[Kind, int] | None) -> _Item:
        wanted = value.node.name if value.index == 0 else ""
        return _Item(self._unique(wanted or "t"), value.type, home)

    def _unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}.{number}"
        self._taken.add(name)
        return name

    # ---------------------------------------------------------------------------------------------------- the stages

    def place_outputs(self) -> None:
        """Each output is written directly by its kernel, else copied. Of equal outputs a donated one is the direct one."""
        donors = {j: i for i, j in self.donated}
        homes: dict[_Item, int] = {}
        for position, value in sorted(enumerate(self.graph.outputs), key=lambda output: output[0] not in donors):
            item = self.items[value]
            if item.home is None:
                homes[item] = position
                item.home = ("output", position)
        for position, value in enumerate(self.graph.outputs):
            item = self.items[value]
            passes_through = position in donors and item.home == ("input", donors[position])
            if passes_through or homes.get(item) == position:
                self.outputs.append(item)
            else:
                self.outputs.append(self._copy_of(item, position))

    def _copy_of(self, item: _Item, position: int) -> _Item:
        """The output at `position`, as a copy of this item."""
        names = self.graph.output_names
        name = names[position] if names and names[position] else f"{item.name}.out{position}"
        target = _Item(self._unique(name), item.type, ("output", position))
        self._add_copy(item, target)
        return target

    def donate(self) -> None:
        """Lets outputs overwrite their donors: once all others have read those, or else through the arena."""
        for i, j in self.donated:
            donor, output = self.items[self.graph.inputs[i]], self.outputs[j]
            if output is donor:
                continue
            writer = self.writer[output]
            readers = [t for t in self.tasks if donor in t.reads]
            others = [t for t in readers if t is not writer]
            direct = not any(self._reaches(writer, t) for t in others)
            if direct and writer in readers:
                position, operand = writer.writes.index(output), writer.reads.index(donor)
                direct = operand in writer.candidates.get(position, ()) and writer.reads.count(donor) == 1
                if direct:
                    writer.in_place[position] = operand
                    output.over = donor
            if not direct:
                output.home = None
                self.outputs[j] = self._copy_of(output, j)
                writer, others = self.writer[self.outputs[j]], readers
            for task in others:
                task.after.append(writer)

    def _reaches(self, start: _Task, goal: _Task) -> bool:
        """True if `goal` has to come after `start`."""
        stack, seen = [start], {start}
        while stack:
            for task in stack.pop().after:
                if task is goal:
                    return True
                if task not in seen:
                    seen.add(task)
                    stack.append(task)
        return False

    def order(self) -> None:
        """Sorts the tasks topologically, by rank where there is a choice."""
        waiting = dict.fromkeys(self.tasks, 0)
        for task in self.tasks:
            for later in task.after:
                waiting[later] += 1
        ready = [(t.rank, n, t) for n, t in enumerate(self.tasks) if not waiting[t]]
        number = {t: n for n, t in enumerate(self.tasks)}
        heapq.heapify(ready)
        self.tasks = []
        while ready:
            _, _, task = heapq.heappop(ready)
            self.tasks.append(task)
            for later in task.after:
                waiting[later] -= 1
                if not waiting[later]:
                    heapq.heappush(ready, (later.rank, number[later], later))

    def share(self) -> None:
        """A result takes the memory of an intermediate that its kernel is the last to read, where it may overwrite it."""
        self.last = {item: step for step, task in enumerate(self.tasks) for item in (*task.writes, *task.reads)}
        donors = {j for _, j in self.donated}
        for step, task in enumerate(self.tasks):
            for position, item in enumerate(task.writes):
                if position in task.in_place or (item.home is not None and item.home[1] in donors):
                    continue
                for operand in task.candidates.get(position, ()):
                    old = task.reads[operand]
                    dies = old.home is None and self.last[old] == step and task.reads.count(old) == 1
                    if dies and operand not in task.in_place.values():
                        task.in_place[position] = operand
                        item.over = old
                        while item.home is not None and item.over is not None:  # the chain lies in the output's memory
                            item.over.home = item.home
                            item = item.over
                        break

    # ------------------------------------------------------------------------------------------------------ assembly

    def plan(self, target: Target) -> Plan:
        """The plan of the ordered tasks."""
        written = {item: step for step, task in enumerate(self.tasks) for item in task.writes}
        chains: dict[_Item, list[_Item]] = {}
        for item in written:
            if item.home is None:
                chains.setdefault(item.root, []).append(item)
        intervals = [
            Interval(root.type.bytes, min(written[m] for m in chain), max(self.last[m] for m in chain))
            for root, chain in chains.items()
        ]
        offsets, workspace = assign_offsets(intervals)
        offset_of = dict(zip(chains, offsets, strict=True))
        buffers: dict[_Item, PlanBuffer] = {}
        for item in (*self.items.values(), *written):
            if item not in written:
                buffers[item] = self._buffer(item, 0, -1, None)
        for item, step in written.items():
            over = buffers[item.over] if item.over is not None else None
            buffers[item] = self._buffer(item, offset_of.get(item.root, 0), step, over)
        return Plan(
            self.graph.name,
            tuple(buffers[self.items[v]] for v in self.graph.inputs),
            tuple(buffers[item] for item in self.outputs),
            tuple(buffers.values()),
            tuple(self._steps(buffers, target)),
            workspace,
            lower_bound(intervals),
            self.donated,
            {item.name: self.constants[item.home[1]].array for item in buffers if item.home and item.home[0] == "constant"},
            self.graph.input_names,
            self.graph.output_names or tuple(f"output{i}" for i in range(len(self.outputs))),
        )

    def _buffer(self, item: _Item, offset: int, first: int, over: PlanBuffer | None) -> PlanBuffer:
        kind, position = item.home or ("arena", -1)
        return PlanBuffer(item.name, item.type, kind, position, offset, first, self.last.get(item, first), over)

    def _steps(self, buffers: Mapping[_Item, PlanBuffer], target: Target) -> list[Step]:
        kernels = _Kernels()
        steps: list[Step] = []
        for task in self.tasks:
            reads, writes = tuple(buffers[i] for i in task.reads), tuple(buffers[i] for i in task.writes)
            if task.node is None:
                steps.append(CopyStep(reads[0], writes[0]))
                continue
            arguments = list(reads)
            for result, operand in task.in_place.items():
                arguments[operand] = writes[result]
            arguments += [b for result, b in enumerate(writes) if result not in task.in_place]
            kernel = kernels.unique(schedule(task.node, target, task.in_place))
            steps.append(CallStep(kernel, tuple(arguments), reads, writes, task.node.loc))
        return steps



class _Kernels:
    """Kernels by their text: equal ones are one, and each has a name of its own."""

    def __init__(self) -> None:
        self._known: dict[str, Kernel] = {}
        self._counts: dict[str, int] = {}

    def unique(self, kernel: Kernel) -> Kernel:
        text = str(kernel)
        if text not in self._known:
            number = self._counts[kernel.name] = self._counts.get(kernel.name, -1) + 1
            self._known[text] = replace(kernel, name=f"{kernel.name}{number}")
        return self._known[text]
