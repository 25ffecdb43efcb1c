"""PLAN: which kernel runs when, on which memory. The arena's bytes are a compile-time constant.

In: what `codegen.memory` decides. Out: what `codegen.program` turns into the entry function, and what dumps show.

Grammar::

    plan   := plan @name workspace bytes [at least bytes] { buffer* step* }
    buffer := kind %x: dtype[n, ...] place [steps first..last] [in place of %y]
    kind   := input | output | constant | arena       place := arg i [= out j] | out j [= arg i] | data | at offset
    step   := call @kernel(%x, ...) | copy %x -> %y

A buffer is a value and the memory that it lives in; several may live in the same memory one after the other. One that
is in place of another has its memory: the kernel that writes it reads the other's value, element by element, as a
single ``inout`` parameter. ``arg i = out j`` is donated: the output is the memory of the input. "at least" is the
largest number of bytes that are alive at one time, which no assignment of offsets can beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Union

import numpy as np

from graphc.errors import ArgumentError, VerifyError
from graphc.ir.kernel import Kernel
from graphc.ir.loc import UNKNOWN, Loc
from graphc.ir.types import TensorType

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

Kind = Literal["input", "output", "constant", "arena"]
Memory = tuple[str, int]  # the arena, or the argument, output or constant at a position


@dataclass(frozen=True, eq=False)
class PlanBuffer:
    """Memory of one value. `position` is that of the argument, output or constant, `offset` that in the arena."""

    name: str
    type: TensorType
    kind: Kind
    position: int = -1
    offset: int = 0
    first: int = -1  # the step that writes it; -1: before the first step
    last: int = -1  # the last step that reads it, or `first`
    in_place_of: PlanBuffer | None = None


@dataclass(frozen=True, eq=False)
class CallStep:
    """Runs a kernel. An argument that the kernel updates in place stands once, as what it becomes."""

    kernel: Kernel
    arguments: tuple[PlanBuffer, ...]
    reads: tuple[PlanBuffer, ...]
    writes: tuple[PlanBuffer, ...]
    loc: Loc = UNKNOWN


@dataclass(frozen=True, eq=False)
class CopyStep:
    """Copies a whole buffer to another one of the same type."""

    source: PlanBuffer
    target: PlanBuffer

    @property
    def reads(self) -> tuple[PlanBuffer, ...]:
        return (self.source,)

    @property
    def writes(self) -> tuple[PlanBuffer, ...]:
        return (self.target,)


Step = Union[CallStep, CopyStep]


@dataclass(frozen=True, eq=False)
class Plan:
    """Buffers, steps in order, and which outputs have the memory of which inputs (`donated`: input, output).

    `outputs` are the buffers that hold the results at the end: a donated input that passes through is its own output.
    """

    name: str
    inputs: tuple[PlanBuffer, ...]
    outputs: tuple[PlanBuffer, ...]
    buffers: tuple[PlanBuffer, ...]
    steps: tuple[Step, ...]
    workspace_bytes: int
    lower_bound: int = 0  # the most bytes of the arena that are alive at one time
    donated: tuple[tuple[int, int], ...] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels, in the order of their first calls."""
        return tuple({s.kernel: None for s in self.steps if isinstance(s, CallStep)})

    def memory(self, buffer: PlanBuffer) -> Memory:
        """The memory in which a buffer lies; a donated output lies in its input's."""
        if buffer.kind == "output":
            donor = next((i for i, j in self.donated if j == buffer.position), None)
            return ("output", buffer.position) if donor is None else ("input", donor)
        return (buffer.kind, 0 if buffer.kind == "arena" else buffer.position)

    def __str__(self) -> str:
        bound = f" at least {self.lower_bound}" if self.lower_bound else ""
        lines = [f"plan @{self.name} workspace {self.workspace_bytes}{bound} {{"]
        rows = [self._row(b) for b in self.buffers]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  " + " ".join([*cells, row[3]]).rstrip())
        return "\n".join([*lines, *(f"  {self._step(step)}" for step in self.steps), "}"])

    def _row(self, b: PlanBuffer) -> tuple[str, str, str, str]:
        donors = {j: i for i, j in self.donated}
        taken = dict(self.donated)
        places = {
            "input": f"arg {b.position}" + (f" = out {taken[b.position]}" if b.position in taken else ""),
            "output": f"out {b.position}" + (f" = arg {donors[b.position]}" if b.position in donors else ""),
            "constant": "data",
            "arena": f"at {b.offset}",
        }
        alive = f"steps {b.first}..{b.last}" if b.first >= 0 else ""
        alias = f" in place of %{b.in_place_of.name}" if b.in_place_of else ""
        return b.kind, f"%{b.name}: {b.type!r}", places[b.kind], alive + alias

    def _step(self, step: Step) -> str:
        if isinstance(step, CopyStep):
            return f"copy %{step.source.name} -> %{step.target.name}"
        where = f"  {step.loc!r}" if step.loc != UNKNOWN else ""
        return f"call @{step.kernel.name}({', '.join(f'%{b.name}' for b in step.arguments)}){where}"


# ------------------------------------------------------------------------------------------------------- verifying


def verify_plan(plan: Plan) -> None:
    """Follows the contents of all memory from step to step.

    Every read finds the value that it names: written before, and no byte of it overwritten since. Kernels get what
    they ask for, and no two parameters overlap. Only donated inputs are overwritten. Arena buffers are aligned and
    within the workspace, and the steps that a buffer claims to live for are the steps that use it. At the end each
    output's memory holds its value. Raises `VerifyError`, with the step and the plan, for the first of these that fails.
    """
    _Verifier(plan).run()


class _Verifier:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.contents: dict[Memory, list[PlanBuffer]] = {}
        self.lost: dict[PlanBuffer, str] = {}
        self.where = ""

    def run(self) -> None:
        plan = self.plan
        for buffer in plan.buffers:
            self._check_place(buffer)
            if buffer.kind in ("input", "constant"):
                self.contents.setdefault(plan.memory(buffer), []).append(buffer)
        for number, step in enumerate(plan.steps):
            self.where = f"step {number} "
            for buffer in step.reads:
                self._check_value(buffer, "reads")
                self._check(buffer.first < number <= buffer.last, f"reads %{buffer.name} outside of its steps")
            if isinstance(step, CallStep):
                self._check_call(step)
            else:
                same = step.source.type == step.target.type
                self._check(same, f"copies %{step.source.name} to %{step.target.name} of another type")
            self._check_writes(number, step)
        self.where = ""
        for position, buffer in enumerate(plan.outputs):
            home = next((("input", i) for i, j in plan.donated if j == position), ("output", position))
            self._check(plan.memory(buffer) == home, f"output {position}: %{buffer.name} lies elsewhere")
            self._check_value(buffer, f"output {position} is")

    def _fail(self, text: str) -> NoReturn:
        raise VerifyError(f"plan @{self.plan.name}: {self.where}{text}\n{self.plan}")

    def _check(self, holds: bool, text: str) -> None:
        if not holds:
            self._fail(text)

    def _check_place(self, b: PlanBuffer) -> None:
        if b.kind == "arena":
            inside = 0 <= b.offset <= b.offset + b.type.bytes <= self.plan.workspace_bytes
            if not inside or b.offset % ALIGNMENT:
                limit = f"{ALIGNMENT}-byte aligned place within {self.plan.workspace_bytes} bytes"
                self._fail(f"%{b.name}: expected a {limit}, got {b.offset}..{b.offset + b.type.bytes}")
        elif b.kind == "constant":
            self._check(b.name in self.plan.constants, f"%{b.name}: expected a constant of that name, got none")
        if b.in_place_of is not None:
            other = b.in_place_of
            same = self.plan.memory(b) == self.plan.memory(other) and b.offset == other.offset and b.type == other.type
            self._check(same, f"%{b.name}: in place of %{other.name}, which lies elsewhere")

    def _check_value(self, buffer: PlanBuffer, verb: str) -> None:
        if not any(b is buffer for b in self.contents.get(self.plan.memory(buffer), [])):
            self._fail(f"{verb} %{buffer.name} {self.lost.get(buffer, 'before it is written')}")

    def _check_call(self, step: CallStep) -> None:
        kernel = step.kernel
        expected, given = len(kernel.params), len(step.arguments)
        self._check(expected == given, f"@{kernel.name}: expected {expected} arguments, got {given}")
        for param, b in zip(kernel.params, step.arguments, strict=True):
            fits = param.dtype == b.type.dtype and int(np.prod(param.shape, dtype=np.int64)) == b.type.size
            self._check(fits, f"@{kernel.name}: %{param.name}: expected {param.dtype}{list(param.shape)}, got %{b.name}")
            source = b.in_place_of if param.access == "inout" else b
            if param.access != "out" and (source is None or source not in step.reads):
                self._fail(f"@{kernel.name} reads %{param.name}, but the step does not say so of %{b.name}")
            if (param.access == "in") == (b in step.writes):
                self._fail(f"@{kernel.name}: %{param.name} is {param.access}, the step says otherwise of %{b.name}")
        self._check(set(step.writes) <= set(step.arguments), f"@{kernel.name} writes what is no argument of it")

    def _check_writes(self, number: int, step: Step) -> None:
        donated = {i for i, _ in self.plan.donated}
        updated: set[PlanBuffer | None] = set()
        if isinstance(step, CallStep):
            params = zip(step.kernel.params, step.arguments, strict=True)
            updated = {b.in_place_of for p, b in params if p.access == "inout"}
        for b in step.writes:
            kind, position = memory = self.plan.memory(b)
            self._check(kind != "constant", f"writes %{b.name}, a constant")
            self._check(kind != "input" or position in donated, f"writes %{b.name} over an input that is not donated")
            self._check(b.first == number, f"writes %{b.name} outside of its steps")
            for other in (*step.reads, *step.writes):
                if other is not b and self.plan.memory(other) == memory and _overlap(b, other):
                    allowed = other is b.in_place_of and other in updated
                    self._check(allowed, f"writes %{b.name} over %{other.name}, which it uses")
        for b in step.writes:
            held = self.contents.setdefault(self.plan.memory(b), [])
            for other in [o for o in held if o is b or _overlap(b, o)]:
                held.remove(other)
                self.lost[other] = f"after step {number} wrote %{b.name} there"
            held.append(b)


def _overlap(x: PlanBuffer, y: PlanBuffer) -> bool:
    """True if two buffers of the same memory have bytes in common."""
    return max(x.offset, y.offset) < min(x.offset + x.type.bytes, y.offset + y.type.bytes)


# ---------------------------------------------------------------------------------------------------- interpreting


def run_plan(plan: Plan, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The plan's outputs, every kernel interpreted, in memory that begins as NaN (all bits set).

    The given arrays stay as they are: donated ones are copied first. Raises `ArgumentError` for a wrong number of
    arrays, and what `kernel_interp.run_kernel` raises.
    """
    from graphc.ir.kernel_interp import run_kernel

    if len(arrays) != len(plan.inputs):
        raise ArgumentError(f"plan @{plan.name}: expected {len(plan.inputs)} arrays, got {len(arrays)}")
    memories: dict[Memory, np.ndarray] = {("arena", 0): np.full(plan.workspace_bytes, 0xFF, np.uint8)}
    for b in plan.buffers:
        memory = plan.memory(b)
        if b.kind == "constant":
            memories[memory] = _bytes(plan.constants[b.name])
        elif memory[0] == "input":
            memories.setdefault(memory, _bytes(np.array(arrays[memory[1]], order="C")))
        elif memory[0] == "output":
            memories[memory] = np.full(b.type.bytes, 0xFF, np.uint8)

    def view(b: PlanBuffer) -> np.ndarray:
        stored = memories[plan.memory(b)][b.offset : b.offset + b.type.bytes]
        return stored.view(b.type.dtype.numpy).reshape(b.type.shape)

    for step in plan.steps:
        if isinstance(step, CopyStep):
            np.copyto(view(step.target), view(step.source))
        else:
            # the parameters' shapes may merge dimensions: the same elements in row-major order
            params = zip(step.arguments, step.kernel.params, strict=True)
            run_kernel(step.kernel, [view(b).reshape(p.shape) for b, p in params])
    return [view(b) for b in plan.outputs]


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
