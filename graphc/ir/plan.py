"""PLAN: which kernel runs when, on which memory. The arena's bytes are a compile-time constant.

In: what `codegen.memory` decides. Out: what `codegen.program` turns into the entry function, and what dumps show.

Grammar::

    plan   := plan @name workspace bytes { buffer* step* }
    buffer := kind %x: dtype[n, ...] place [steps first..last] [in place of %y]
    kind   := input | output | constant | arena       place := arg i | out i | data | at offset
    step   := call @kernel(%x, ...) | copy %x -> %y

A buffer in place of another one has its memory: the kernel of step `first` overwrites the other's last value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


Step = Union[CallStep, CopyStep]


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
        """The distinct kernels, in the order of their first calls."""
        return tuple({s.kernel: None for s in self.steps if isinstance(s, CallStep)})

    def __repr__(self) -> str:
        return f"<plan @{self.name}: {len(self.steps)} steps, {self.workspace_bytes} bytes>"

    def _repr_html_(self) -> str:
        from graphc.ir.highlight import to_html

        return to_html(str(self))

    def __str__(self) -> str:
        lines = [f"plan {sigil('@', self.name)} workspace {self.workspace_bytes} {{"]
        for b in self.buffers:
            place = {"input": f"arg {b.position}", "output": f"out {b.position}", "constant": "data"}.get(
                b.kind, f"at {b.root.offset}"
            )
            alive = f" steps {max(b.first, 0)}..{b.last}" if b.kind == "arena" else ""
            alias = f" in place of {_name(b.in_place_of)}" if b.in_place_of else ""
            lines.append(f"  {b.kind} {_name(b)}: {b.type!r} {place}{alive}{alias}")
        for step in self.steps:
            if isinstance(step, CopyStep):
                lines.append(f"  copy {_name(step.source)} -> {_name(step.target)}")
            else:
                where = f"  {step.loc!r}" if step.loc != UNKNOWN else ""
                lines.append(
                    f"  call {sigil('@', step.kernel.name)}({', '.join(map(_name, step.arguments))}){where}"
                )
        return "\n".join([*lines, "}"])


def _name(buffer: PlanBuffer) -> str:
    return sigil("%", buffer.name)


def verify_plan(plan: Plan) -> None:
    """Raises `VerifyError` unless every read follows its write and no two live buffers share memory."""

    def fail(text: str) -> None:
        raise VerifyError(f"plan @{plan.name}: {text}\n{plan}")

    written = {b for b in plan.buffers if b.kind in ("input", "constant")}
    gone: set[PlanBuffer] = set()
    for number, step in enumerate(plan.steps):
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


def plan_memory(plan: Plan, arrays: Sequence[np.ndarray]) -> dict[PlanBuffer, np.ndarray]:
    """An array for each buffer: copies of the inputs, outputs and an aligned arena that begin as garbage."""
    room = np.full(plan.workspace_bytes + ALIGNMENT, 0xA5, np.uint8)
    arena = room[-room.ctypes.data % ALIGNMENT :]
    places: dict[PlanBuffer, np.ndarray] = {}
    for b in plan.buffers:
        if b.in_place_of is not None:
            places[b] = places[b.in_place_of]
        elif b.kind == "input":
            places[b] = np.array(arrays[b.position], dtype=b.type.dtype.numpy, order="C")
        elif b.kind == "constant":
            places[b] = np.ascontiguousarray(plan.constants[b.name])
        elif b.kind == "output":
            places[b] = np.full(b.type.shape, 0x5A, np.uint8).astype(b.type.dtype.numpy)
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
    for step in plan.steps:
        if isinstance(step, CopyStep):
            np.copyto(places[step.target], places[step.source])
        else:
            run_kernel(step.kernel, [places[b] for b in step.arguments])
    return plan_outputs(plan, places)
