"""PLAN: which kernel runs when, on which memory. The arena's bytes are a compile-time constant.

In: what `codegen.memory` decides. Out: what `codegen.program` turns into the entry function, and what dumps show.

Grammar::

    plan   := plan @name workspace bytes { buffer* step* }
    buffer := kind %x: dtype[n, ...] place [steps first..last] [in place of %y]
    kind   := input | output | constant | arena       place := arg i | out i | data | at offset
    step   := call @kernel(%x, ...) | copy %x -> %y | loop | branch
    loop   := loop count [reverse] in %scratch { carry* capture* slice* buffer* step* }
            | while %flag in %scratch { carry* capture* buffer* step* } do { carry* capture* buffer* step* }
    carry  := carry %input, %output: %first -> %last (in place | with %spare | in %ys)
    capture := capture %input: %x       slice := slice (%input | %output): %xs
    branch := branch %condition in %scratch { capture* buffer* step* } else { capture* buffer* step* }

A buffer in place of another one has its memory: the kernel of step `first` overwrites the other's last value.
The body of a loop is a plan of its own, whose arena is the buffer `scratch`. What `capture` names is the same memory in
every step, what `slice` names the step's slice along axis 0. A carry is read where the step before wrote it: in place;
in one of two buffers in turn, its last one and the spare; or in the slice of ys that it is as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Union

import numpy as np

from graphc.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel
from graphc.ir.loc import UNKNOWN, Loc
from graphc.ir.printer import sigil
from graphc.ir.types import TensorType

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True, eq=False)
class PlanBuffer:
    """Memory of one value. `position` is that of the argument or output, `offset` that in the arena."""

    name: str
    type: TensorType
    kind: Literal["input", "output", "constant", "arena"]
    position: int = -1
    offset: int = -1
    first: int = -1  # the step that writes it; -1: before the first step
    last: int = -1  # the last step that reads it
    in_place_of: PlanBuffer | None = None

    @property
    def root(self) -> PlanBuffer:
        """The first buffer that had this memory."""
        buffer = self
        while buffer.in_place_of is not None:
            buffer = buffer.in_place_of
        return buffer


@dataclass(frozen=True, eq=False)
class CallStep:
    """Runs a kernel, which computes `region`. An argument that it updates in place stands once, as what it becomes."""

    kernel: Kernel
    region: Graph
    arguments: tuple[PlanBuffer, ...]
    reads: tuple[PlanBuffer, ...]
    writes: tuple[PlanBuffer, ...]
    loc: Loc = UNKNOWN


@dataclass(frozen=True, eq=False)
class CopyStep:
    """Copies a whole buffer to another one of the same type."""

    source: PlanBuffer
    target: PlanBuffer


@dataclass(frozen=True, eq=False)
class Carry:
    """Memory of a loop's carry. `output` is its position among the body's outputs, `kind` where it is between steps."""

    first: PlanBuffer
    last: PlanBuffer
    output: int
    kind: Literal["in place", "with", "stacked"]
    spare: PlanBuffer | None = None

    @property
    def moves(self) -> bool:
        """True if the first value has memory of its own, not the last one's."""
        return self.first.root is not self.last.root

    def begins_in_spare(self, count: int) -> bool:
        """Of a carry with two buffers: whether the first step writes the spare, so that the last one writes `last`.

        Where the first value is in `last`, the first step must not write there.
        """
        return count % 2 == 0 or not self.moves

    def ends_in_spare(self, count: int) -> bool:
        return self.begins_in_spare(count) == (count % 2 == 1)


@dataclass(frozen=True, eq=False)
class LoopStep:
    """Runs a plan for each step: its inputs are carries, captures, slices of xs; its outputs carries and slices of ys.

    `ys` are buffers and positions of the body's outputs. With a `condition`, a plan that writes `flag` from carries and
    captures, it runs as long as that is true; then there is no count, and no slices.
    """

    body: Plan
    count: int | None
    reverse: bool
    carries: tuple[Carry, ...]
    captures: tuple[PlanBuffer, ...]
    xs: tuple[PlanBuffer, ...]
    ys: tuple[tuple[PlanBuffer, int], ...]
    scratch: PlanBuffer
    condition: Plan | None = None
    flag: PlanBuffer | None = None
    loc: Loc = UNKNOWN

    @property
    def reads(self) -> tuple[PlanBuffer, ...]:
        return (*(c.first for c in self.carries), *self.captures, *self.xs)

    @property
    def writes(self) -> tuple[PlanBuffer, ...]:
        spares = [c.spare for c in self.carries if c.spare is not None]
        own = [self.scratch, *([self.flag] if self.flag is not None else [])]
        return (*(c.last for c in self.carries), *(b for b, _ in self.ys), *spares, *own)

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.body,) if self.condition is None else (self.condition, self.body)


@dataclass(frozen=True, eq=False)
class BranchStep:
    """Runs the first plan where the condition holds, else the second: from the operands to the results."""

    flag: PlanBuffer
    branches: tuple[Plan, Plan]
    operands: tuple[PlanBuffer, ...]
    results: tuple[PlanBuffer, ...]
    scratch: PlanBuffer
    loc: Loc = UNKNOWN

    @property
    def reads(self) -> tuple[PlanBuffer, ...]:
        return (self.flag, *self.operands)

    @property
    def writes(self) -> tuple[PlanBuffer, ...]:
        return (*self.results, self.scratch)

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.branches


Step = Union[CallStep, CopyStep, LoopStep, BranchStep]


@dataclass(frozen=True, eq=False)
class Plan:
    """Buffers, steps in order, and which outputs have the memory of which inputs (`donated`: input, output)."""

    name: str
    buffers: tuple[PlanBuffer, ...]
    steps: tuple[Step, ...]
    workspace_bytes: int
    donated: tuple[tuple[int, int], ...] = ()
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[PlanBuffer]:
        return [b for b in self.buffers if b.kind == kind]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels, those of loops and branches included, in the order of their first calls."""
        return tuple({s.kernel: None for s in all_steps(self) if isinstance(s, CallStep)})

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan, then those of its loops and branches, in order."""
        return (self, *(inner for s in self.steps for p in inner_plans(s) for inner in p.plans))

    def __repr__(self) -> str:
        return f"<plan @{self.name}: {len(self.steps)} steps, {self.workspace_bytes} bytes>"

    def _repr_html_(self) -> str:
        from graphc.ir.highlight import to_html

        return to_html(str(self))

    def __str__(self) -> str:
        head = f"plan {sigil('@', self.name)} workspace {self.workspace_bytes} {{"
        return "\n".join([head, *(f"  {line}" for line in _lines(self)), "}"])


def inner_plans(step: Step) -> tuple[Plan, ...]:
    """The plans of a loop or branch; none of other steps."""
    return step.plans if isinstance(step, (LoopStep, BranchStep)) else ()


def all_steps(plan: Plan) -> Iterator[Step]:
    """The steps in order, those of a loop's or branch's plans after it, once each."""
    for step in plan.steps:
        yield step
        for inner in inner_plans(step):
            yield from all_steps(inner)


def _lines(plan: Plan) -> list[str]:
    """Buffers and steps."""
    lines: list[str] = []
    for b in plan.buffers:
        place = {"input": f"arg {b.position}", "output": f"out {b.position}", "constant": "data"}.get(
            b.kind, f"at {b.root.offset}"
        )
        alive = f" steps {max(b.first, 0)}..{b.last}" if b.kind == "arena" else ""
        alias = f" in place of {_name(b.in_place_of)}" if b.in_place_of else ""
        lines.append(f"{b.kind} {_name(b)}: {b.type!r} {place}{alive}{alias}")
    for step in plan.steps:
        where = f"  {step.loc!r}" if not isinstance(step, CopyStep) and step.loc != UNKNOWN else ""
        if isinstance(step, CopyStep):
            lines.append(f"copy {_name(step.source)} -> {_name(step.target)}")
        elif isinstance(step, CallStep):
            lines.append(
                f"call {sigil('@', step.kernel.name)}({', '.join(map(_name, step.arguments))}){where}"
            )
        elif isinstance(step, LoopStep):
            lines += _loop_lines(step, where)
        else:
            lines.append(f"branch {_name(step.flag)} in {_name(step.scratch)} {{")
            for position, branch in enumerate(step.branches):
                lines += ["} else {"] if position else []
                bound = [*zip(_ports(branch, "input"), step.operands, strict=True)]
                bound += zip(_ports(branch, "output"), step.results, strict=True)
                lines += [f"  capture {port}: {_name(b)}" for port, b in bound]
                lines += [f"  {line}" for line in _lines(branch)]
            lines.append(f"}}{where}")
    return lines


def _loop_lines(step: LoopStep, where: str) -> list[str]:
    scratch = _name(step.scratch)
    if step.flag is None:
        lines = [f"loop {step.count}{' reverse' if step.reverse else ''} in {scratch} {{"]
    else:
        lines = [f"while {_name(step.flag)} in {scratch} {{"]
    n = len(step.carries)
    for plan in step.plans:
        lines += ["} do {"] if plan is step.body and step.condition is not None else []
        inputs, outputs = _ports(plan, "input"), _ports(plan, "output")
        for port, c in zip(inputs, step.carries, strict=False):
            kind = f"with {_name(c.spare)}" if c.spare is not None else c.kind
            output = f", {outputs[c.output]}" if plan is step.body else ""
            lines.append(f"  carry {port}{output}: {_name(c.first)} -> {_name(c.last)} {kind}")
        bound = [("capture", port, b) for port, b in zip(inputs[n:], step.captures, strict=False)]
        if plan is step.body:
            bound += [
                ("slice", p, b) for p, b in zip(inputs[n + len(step.captures) :], step.xs, strict=False)
            ]
            bound += [("slice", outputs[j], b) for b, j in step.ys]
        lines += [f"  {kind} {port}: {_name(b)}" for kind, port, b in bound]
        lines += [f"  {line}" for line in _lines(plan)]
    return [*lines, f"}}{where}"]


def _ports(plan: Plan, kind: str) -> list[str]:
    """The names of a plan's inputs or outputs, in order."""
    by_position = {b.position: _name(b) for b in plan.of_kind(kind)}
    return [by_position[i] for i in sorted(by_position)]


def _name(buffer: PlanBuffer) -> str:
    return sigil("%", buffer.name)


def verify_plan(plan: Plan) -> None:
    """Raises `VerifyError` unless every read follows its write and no two live buffers share memory."""

    def fail(text: str) -> None:
        raise VerifyError(f"plan @{plan.name}: {text}\n{plan}")

    written = {b for b in plan.buffers if b.kind in ("input", "constant")}
    gone: set[PlanBuffer] = set()
    for number, step in enumerate(plan.steps):
        for inner in inner_plans(step):
            _verify_inner(step, inner, fail)
        reads = (step.source,) if isinstance(step, CopyStep) else step.reads
        writes = (step.target,) if isinstance(step, CopyStep) else step.writes
        for b in reads:
            if b not in written:
                fail(f"step {number} reads %{b.name} before it is written")
            if b in gone:
                fail(f"step {number} reads %{b.name} after it was overwritten in place")
        for b in writes:
            if b in written:
                fail(f"step {number} writes %{b.name} a second time")
            if b.kind in ("input", "constant"):
                fail(f"step {number} writes %{b.name}, which is {b.kind}")
            written.add(b)
            if b.in_place_of is not None:
                gone.add(b.in_place_of)
    for b in plan.of_kind("output"):
        if b not in written:
            fail(f"output %{b.name} is never written")
    arena = [b for b in plan.buffers if b.kind == "arena"]
    for i, a in enumerate(arena):
        start, end = a.root.offset, a.root.offset + a.type.bytes
        if start < 0 or start % ALIGNMENT or end > plan.workspace_bytes:
            fail(
                f"%{a.name}: expected an aligned place within {plan.workspace_bytes} bytes, got {start}..{end}"
            )
        for b in arena[i + 1 :]:
            apart = end <= b.root.offset or b.root.offset + b.type.bytes <= start
            if not apart and a.root is not b.root and a.first <= b.last and b.first <= a.last:
                fail(f"%{a.name} and %{b.name} are alive at the same time at the same place")


def _verify_inner(step: Step, inner: Plan, fail: Callable[[str], None]) -> None:
    """What a loop or branch binds to the inputs and outputs of its plan must be of their types."""
    verify_plan(inner)
    assert isinstance(step, (LoopStep, BranchStep))
    if step.scratch.type.bytes < inner.workspace_bytes:
        fail(f"%{step.scratch.name}: expected {inner.workspace_bytes} bytes for the plan inside, got fewer")
    inputs = sorted(inner.of_kind("input"), key=lambda b: b.position)
    outputs = {b.position: b for b in inner.of_kind("output")}

    def bound(buffer: PlanBuffer, type: TensorType, port: PlanBuffer) -> None:
        if type != port.type:
            fail(f"%{buffer.name} for %{port.name} inside: expected {port.type!r}, got {type!r}")

    if isinstance(step, BranchStep):
        given = list(step.operands)
    else:
        given = [*(c.first for c in step.carries), *step.captures]
    whole, slices = inputs[: len(given)], inputs[len(given) :]
    sliced = step.xs if isinstance(step, LoopStep) and inner is step.body else ()
    if len(given) + len(sliced) != len(inputs):
        fail(f"expected {len(inputs)} inputs for the plan inside, got {len(given)} and {len(sliced)} slices")
    for b, port in zip(given, whole, strict=True):
        bound(b, b.type, port)
    if isinstance(step, BranchStep):
        for position, b in enumerate(step.results):
            bound(b, b.type, outputs[position])
        return
    if inner is step.condition:
        return
    for b, port in zip(step.xs, slices, strict=True):
        bound(b, TensorType(b.type.dtype, b.type.shape[1:]), port)
    stacked = {j: b for b, j in step.ys}
    for b, j in step.ys:
        bound(b, TensorType(b.type.dtype, b.type.shape[1:]), outputs[j])
    for b in (*step.xs, *stacked.values()):
        if b.type.shape[0] != step.count:
            fail(f"%{b.name}: expected {step.count} slices, got {b.type!r}")
    for c, port in zip(step.carries, inputs, strict=False):
        output = outputs[c.output]
        bound(c.last, c.last.type, output)
        if (c.kind == "in place") != (output.in_place_of is port):
            fail(f"carry %{c.last.name}: expected %{output.name} in place of %{port.name} inside, or neither")
        if (c.kind == "stacked") != (c.output in stacked):
            fail(f"carry %{c.last.name}: expected it in the slice of ys that it is as well, and nowhere else")
        if c.kind == "with" and (c.spare is None or c.spare.type != c.last.type):
            fail(f"carry %{c.last.name}: expected a spare buffer of {c.last.type!r}")
    positions = [c.output for c in step.carries if c.kind != "stacked"] + list(stacked)
    if sorted(positions) != sorted(outputs):
        fail("loop: expected each output of the body at one place")


def plan_memory(plan: Plan, arrays: Sequence[np.ndarray]) -> dict[PlanBuffer, np.ndarray]:
    """An array for each buffer: copies of the inputs, outputs and an aligned arena that begin as garbage."""
    room = np.full(plan.workspace_bytes + ALIGNMENT, 0xA5, np.uint8)
    inputs = {
        b.position: np.array(arrays[b.position], dtype=b.type.dtype.numpy, order="C")
        for b in plan.of_kind("input")
    }
    outputs = {
        b.position: np.full(b.type.shape, 0x5A, np.uint8).astype(b.type.dtype.numpy)
        for b in plan.of_kind("output")
    }
    return _places(plan, inputs, outputs, room[-room.ctypes.data % ALIGNMENT :])


def _places(
    plan: Plan, inputs: Mapping[int, np.ndarray], outputs: Mapping[int, np.ndarray], arena: np.ndarray
) -> dict[PlanBuffer, np.ndarray]:
    places: dict[PlanBuffer, np.ndarray] = {}
    for b in plan.buffers:
        if b.in_place_of is not None:
            places[b] = places[b.in_place_of]
        elif b.kind == "input":
            places[b] = inputs[b.position]
        elif b.kind == "constant":
            places[b] = np.ascontiguousarray(plan.constants[b.name])
        elif b.kind == "output":
            places[b] = outputs[b.position]
        else:
            bytes_ = arena[b.offset : b.offset + b.type.bytes]
            places[b] = bytes_.view(b.type.dtype.numpy).reshape(b.type.shape)
    return places


def plan_outputs(plan: Plan, places: Mapping[PlanBuffer, np.ndarray]) -> list[np.ndarray]:
    """The outputs' arrays, in order; a donated input that passes through unchanged has no output buffer of its own."""
    outputs = {b.position: places[b] for b in plan.of_kind("output")}
    inputs = {b.position: places[b] for b in plan.of_kind("input")}
    for i, j in plan.donated:
        outputs.setdefault(j, inputs[i])
    return [outputs[j] for j in sorted(outputs)]


def run_plan(plan: Plan, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The plan's outputs, every kernel interpreted, in one arena that begins as garbage."""
    from graphc.ir.kernel_interp import run_kernel

    places = plan_memory(plan, arrays)

    def run(step: CallStep | CopyStep, places: Mapping[PlanBuffer, np.ndarray]) -> None:
        if isinstance(step, CopyStep):
            np.copyto(places[step.target], places[step.source])
        else:
            run_kernel(step.kernel, [places[b] for b in step.arguments])

    perform(plan, places, run)
    return plan_outputs(plan, places)


Perform = Callable[[Union[CallStep, CopyStep], Mapping[PlanBuffer, np.ndarray]], None]


def perform(plan: Plan, places: Mapping[PlanBuffer, np.ndarray], run: Perform) -> None:
    """Goes through the steps as the program does, and through loops and branches; `run` does what calls and copies do."""
    for step in plan.steps:
        if isinstance(step, LoopStep):
            _perform_loop(step, places, run)
        elif isinstance(step, BranchStep):
            branch = step.branches[0 if places[step.flag] else 1]
            inputs = dict(enumerate(places[b] for b in step.operands))
            outputs = dict(enumerate(places[b] for b in step.results))
            perform(branch, _places(branch, inputs, outputs, places[step.scratch]), run)
        else:
            run(step, places)


def _perform_loop(step: LoopStep, places: Mapping[PlanBuffer, np.ndarray], run: Perform) -> None:
    now: list[np.ndarray] = []  # where each carry is
    free: list[list[np.ndarray]] = []  # where it goes to next, of one that has two buffers
    count = step.count
    for c in step.carries:
        first, last = places[c.first], places[c.last]
        if c.kind == "in place" and c.moves:
            np.copyto(last, first)
        now.append(last if c.kind == "in place" else first)
        spare = places[c.spare] if c.spare is not None else last
        free.append([spare, last] if c.begins_in_spare(count or 0) else [last, spare])
    captures = [places[b] for b in step.captures]
    turn = 0
    while count is None or turn < count:
        if step.condition is not None and step.flag is not None:
            flag = {0: places[step.flag]}
            given = dict(enumerate([*now, *captures]))
            perform(step.condition, _places(step.condition, given, flag, places[step.scratch]), run)
            if not places[step.flag]:
                break
        t = (count or 0) - 1 - turn if step.reverse else turn
        inputs = dict(enumerate([*now, *captures, *(places[b][t, ...] for b in step.xs)]))
        outputs = {j: places[b][t, ...] for b, j in step.ys}
        for i, c in enumerate(step.carries):
            if c.kind != "stacked":
                outputs[c.output] = now[i] if c.kind == "in place" else free[i][0]
        perform(step.body, _places(step.body, inputs, outputs, places[step.scratch]), run)
        for i, c in enumerate(step.carries):
            now[i] = outputs[c.output]
            free[i].reverse()
        turn += 1
    for c, array in zip(step.carries, now, strict=True):
        if array is not places[c.last]:
            np.copyto(places[c.last], array)
