"""From a PLAN to one LLVM module: kernels, constants, the entry function and the info constant.

In: a plan and a target. Out: LLVM text whose object needs nothing and shows two symbols, ``NAME_run`` and ``NAME_info``.
Where the host launches kernels they are all that is emitted: the launch table says the rest, constants included.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from graphc.codegen.emit_writer import quoted
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.target import Target
from graphc.ir.kernel import Kernel
from graphc.ir.plan import ALIGNMENT, BranchStep, CallStep, CopyStep, LoopStep, Plan, PlanBuffer, Step
from graphc.runtime.abi import VERSION, ArrayInfo, ProgramInfo, identifier


def program_info(plan: Plan) -> ProgramInfo:
    """What callers need to know, as plain data."""

    def info(buffer: PlanBuffer, name: str) -> ArrayInfo:
        return ArrayInfo(name, buffer.type.dtype.numpy_name, buffer.type.shape)

    inputs = sorted(plan.of_kind("input"), key=lambda b: b.position)
    own = {b.position: info(b, plan.output_names[b.position]) for b in plan.of_kind("output")}
    for i, j in plan.donated:  # an output that is a donated input passes through without a buffer of its own
        own.setdefault(j, info(inputs[i], plan.output_names[j]))
    return ProgramInfo(
        identifier(plan.name),
        tuple(info(b, plan.input_names[b.position]) for b in inputs),
        tuple(own[j] for j in sorted(own)),
        plan.workspace_bytes,
        plan.donated,
    )


def emit_program(plan: Plan, target: Target) -> str:
    """The LLVM text of the whole program."""
    if target.has_threads:
        return emit_kernels(plan.kernels, target)
    # nothing but the entry and the info is seen from outside
    kernels = emit_kernels(plan.kernels, target, linkage="internal")
    info = program_info(plan)
    text = info.to_json().encode() + b"\0"
    symbols = constant_symbols(plan)
    constants = constant_lines(plan, symbols)
    info_line = (
        f"@{info.name}_info = constant {{ i32, i32, [{len(text)} x i8] }} "
        f'{{ i32 {VERSION}, i32 {len(text) - 1}, [{len(text)} x i8] c"{escaped(text)}" }}, align 8'
    )
    return "\n".join([kernels, *constants, info_line, _entry(plan, info, target, symbols)])


def _entry(plan: Plan, info: ProgramInfo, target: Target, symbols: Mapping[PlanBuffer, str]) -> str:
    """The entry: pointers are checked before anything is written, then the steps run in order."""
    lines = [
        f"define i32 @{info.name}_run(ptr %inputs, ptr %outputs, ptr %workspace, ptr %context) "
        f'nounwind "no-builtins" {{',
        "entry:",
    ]
    checks: list[tuple[str, int]] = []
    word = target.index_bits // 8

    def argument(block: str, position: int) -> str:
        name = f"%{block}{position}"
        lines.append(f"  {name}.at = getelementptr i8, ptr %{block}s, i64 {position * word}")
        lines.append(f"  {name} = load ptr, ptr {name}.at, align {word}")
        return name

    def check(name: str, condition: str, status: int) -> None:
        lines.append(f"  {name} = {condition}")
        checks.append((name, status))

    # without arguments there may be no block to load from
    for block, count in (("input", len(info.inputs)), ("output", len(info.outputs))):
        if count:
            check(f"%no.{block}s", f"icmp eq ptr %{block}s, null", 1)
            lines.append(f"  br i1 %no.{block}s, label %status1, label %with.{block}s")
            lines.append(f"with.{block}s:")
            checks.pop()
        for position in range(count):
            name = argument(block, position)
            shape = (info.inputs if block == "input" else info.outputs)[position].shape
            if 0 not in shape:
                check(f"{name}.null", f"icmp eq ptr {name}, null", 1)
    if plan.workspace_bytes:
        lines.append(f"  %address = ptrtoint ptr %workspace to i{target.index_bits}")
        lines.append(f"  %low = and i{target.index_bits} %address, {ALIGNMENT - 1}")
        check("%misaligned", f"icmp ne i{target.index_bits} %low, 0", 2)
        check("%no.workspace", "icmp eq ptr %workspace, null", 2)
    for i, j in plan.donated:
        check(f"%apart{j}", f"icmp ne ptr %input{i}, %output{j}", 3)
    for number, (name, status) in enumerate(checks):
        lines += [f"  br i1 {name}, label %status{status}, label %checked{number}", f"checked{number}:"]
    outputs = {j: f"%output{j}" for j in range(len(info.outputs))}
    lines += step_lines(plan, outputs, {k: quoted(k.name) for k in plan.kernels}, symbols)
    lines.append("  ret i32 0")
    for status in (1, 2, 3):
        used = any(s == status for _, s in checks) or (status == 1 and (info.inputs or info.outputs))
        if used:
            lines += [f"status{status}:", f"  ret i32 {status}"]
    return "\n".join([*lines, "}"]) + "\n"


def step_lines(
    plan: Plan, outputs: Mapping[int, str], kernels: Mapping[Kernel, str], constants: Mapping[PlanBuffer, str]
) -> list[str]:
    """The plan's steps as instructions. Inputs are ``%input0``, ...; the arena is ``%workspace``.

    `outputs` says which pointer each output has, `kernels` and `constants` under which names they are in the module.
    """
    inputs = {b.position: f"%input{b.position}" for b in plan.of_kind("input")}
    return StepWriter(kernels, constants).lines(plan, inputs, outputs, "%workspace")


class StepWriter:
    """Writes the steps of a plan and of those inside it; numbers are unique over all of them."""

    def __init__(self, kernels: Mapping[Kernel, str], constants: Mapping[PlanBuffer, str]) -> None:
        self._kernels = kernels
        self._constants = constants
        self._numbers = itertools.count()

    def lines(
        self, plan: Plan, inputs: Mapping[int, str], outputs: Mapping[int, str], arena: str
    ) -> list[str]:
        lines: list[str] = []
        pointers: dict[PlanBuffer, str] = {}
        for b in plan.buffers:
            if b.in_place_of is not None:
                pointers[b] = pointers[b.in_place_of]
            elif b.kind == "input":
                pointers[b] = inputs[b.position]
            elif b.kind == "output":
                pointers[b] = outputs[b.position]
            elif b.kind == "constant":
                pointers[b] = self._constants[b]
            else:
                name = f"%arena{next(self._numbers)}"
                lines.append(f"  {name} = getelementptr i8, ptr {arena}, i64 {b.offset}")
                pointers[b] = name
        for step in plan.steps:
            lines += self.step(step, pointers)
        return lines

    def step(self, step: Step, pointers: Mapping[PlanBuffer, str]) -> list[str]:
        """One step, on the memory of its plan's buffers."""
        if isinstance(step, CopyStep):
            return self._copy(pointers[step.source], pointers[step.target], step.source.type.bytes)
        if isinstance(step, CallStep):
            arguments = ", ".join(f"ptr {pointers[b]}" for b in step.arguments)
            return [f"  call void {self._kernels[step.kernel]}({arguments})"]
        return self._loop(step, pointers) if isinstance(step, LoopStep) else self._branch(step, pointers)

    def _copy(self, source: str, target: str, count: int) -> list[str]:
        return emit_copy(next(self._numbers), source, target, count)

    def _loop(self, step: LoopStep, pointers: Mapping[PlanBuffer, str]) -> list[str]:
        """A loop over the steps; carries with two buffers are pointers that change places."""
        name = f"loop{next(self._numbers)}"
        lines: list[str] = []
        for c in step.carries:
            if c.kind == "in place" and c.moves:
                lines += self._copy(pointers[c.first], pointers[c.last], c.last.type.bytes)
        lines += [f"  br label %{name}.head", f"{name}.head:", f"  br label %{name}", f"{name}:"]
        lines.append(f"  %{name}.turn = phi i64 [ 0, %{name}.head ], [ %{name}.next, %{name}.latch ]")

        def phi(value: str, first: str, following: str) -> None:
            lines.append(f"  {value} = phi ptr [ {first}, %{name}.head ], [ {following}, %{name}.latch ]")

        now: list[str] = []
        outputs: dict[int, str] = {}
        for i, c in enumerate(step.carries):
            here = f"%{name}.carry{i}"
            if c.kind == "in place":
                now.append(pointers[c.last])
                outputs[c.output] = pointers[c.last]
                continue
            now.append(here)
            if c.spare is None:
                phi(here, pointers[c.first], f"%{name}.y{c.output}")
                continue
            free = [pointers[c.last], pointers[c.spare]]
            if c.begins_in_spare(step.count or 0):
                free.reverse()
            phi(here, pointers[c.first], f"{here}.to")
            phi(f"{here}.to", free[0], f"{here}.then")
            phi(f"{here}.then", free[1], f"{here}.to")
            outputs[c.output] = f"{here}.to"
        turn = f"%{name}.turn"
        if step.reverse:
            turn = f"%{name}.t"
            lines.append(f"  {turn} = sub i64 {(step.count or 0) - 1}, %{name}.turn")

        def slice_of(buffer: PlanBuffer, value: str) -> str:
            size = buffer.type.bytes // (step.count or 1)
            lines.append(f"  {value}.at = mul i64 {turn}, {size}")
            lines.append(f"  {value} = getelementptr i8, ptr {pointers[buffer]}, i64 {value}.at")
            return value

        captures = [pointers[b] for b in step.captures]
        xs = [slice_of(b, f"%{name}.x{i}") for i, b in enumerate(step.xs)]
        outputs.update({j: slice_of(b, f"%{name}.y{j}") for b, j in step.ys})
        arena = pointers[step.scratch]
        if step.condition is not None and step.flag is not None:
            flag = pointers[step.flag]
            given = dict(enumerate([*now, *captures]))
            lines += self.lines(step.condition, given, {0: flag}, arena)
            lines += _test(f"%{name}.more", flag)
            lines += [f"  br i1 %{name}.more, label %{name}.body, label %{name}.done", f"{name}.body:"]
        lines += self.lines(step.body, dict(enumerate([*now, *captures, *xs])), outputs, arena)
        lines += [f"  br label %{name}.latch", f"{name}.latch:", f"  %{name}.next = add i64 %{name}.turn, 1"]
        if step.count is None:
            lines.append(f"  br label %{name}")
        else:
            lines.append(f"  %{name}.more = icmp ult i64 %{name}.next, {step.count}")
            lines.append(f"  br i1 %{name}.more, label %{name}, label %{name}.done")
        lines.append(f"{name}.done:")
        for i, c in enumerate(step.carries):
            size = c.last.type.bytes
            if c.kind == "in place":
                continue
            if step.count is None:  # what a carry was read from in the turn that did not come
                lines += self._copy_unless_there(now[i], pointers[c.last], size)
            elif c.kind == "stacked" or c.ends_in_spare(step.count):
                lines += self._copy(outputs[c.output], pointers[c.last], size)
        return lines

    def _copy_unless_there(self, source: str, target: str, size: int) -> list[str]:
        name = f"moved{next(self._numbers)}"
        return [
            f"  %{name}.there = icmp eq ptr {source}, {target}",
            f"  br i1 %{name}.there, label %{name}.done, label %{name}",
            f"{name}:",
            *self._copy(source, target, size),
            f"  br label %{name}.done",
            f"{name}.done:",
        ]

    def _branch(self, step: BranchStep, pointers: Mapping[PlanBuffer, str]) -> list[str]:
        name = f"branch{next(self._numbers)}"
        lines = _test(f"%{name}.holds", pointers[step.flag])
        lines.append(f"  br i1 %{name}.holds, label %{name}.0, label %{name}.1")
        operands = dict(enumerate(pointers[b] for b in step.operands))
        results = dict(enumerate(pointers[b] for b in step.results))
        for position, plan in enumerate(step.branches):
            lines.append(f"{name}.{position}:")
            lines += self.lines(plan, operands, results, pointers[step.scratch])
            lines.append(f"  br label %{name}.done")
        return [*lines, f"{name}.done:"]


def _test(value: str, flag: str) -> list[str]:
    """Whether the byte of a bool is not zero."""
    return [f"  {value}.byte = load i8, ptr {flag}, align 1", f"  {value} = icmp ne i8 {value}.byte, 0"]


def constant_symbols(plan: Plan) -> dict[PlanBuffer, str]:
    """The names of a plan's constants in its module, those of its loops and branches included."""
    numbered = [
        (b, f"{number}." if number else "")
        for number, p in enumerate(plan.plans)
        for b in p.of_kind("constant")
    ]
    return {b: quoted(f"const.{number}{b.name}") for b, number in numbered}


def constant_lines(plan: Plan, symbols: Mapping[PlanBuffer, str]) -> list[str]:
    """The constants of a plan, and of those inside it, under these names."""
    arrays = {b: p.constants[b.name] for p in plan.plans for b in p.of_kind("constant")}
    return [constant_line(name, arrays[b]) for b, name in symbols.items()]


def constant_line(symbol: str, array: np.ndarray) -> str:
    """A constant of a module: read-only bytes, aligned as the arena is."""
    data = np.ascontiguousarray(array).tobytes() or b"\0"
    return (
        f'{symbol} = internal unnamed_addr constant [{len(data)} x i8] c"{escaped(data)}", align {ALIGNMENT}'
    )


def emit_copy(number: int, source: str, target: str, count: int) -> list[str]:
    """LLVM text of a loop over bytes in chunks as wide as divides their number: no call to memcpy."""
    width = next(w for w in (64, 32, 16, 8, 4, 1) if count % w == 0)
    kind = f"<{width} x i8>" if width > 1 else "i8"
    if count == 0:
        return []
    here = f"copy{number}"
    return [
        f"  br label %{here}.head",
        f"{here}.head:",
        f"  br label %{here}",
        f"{here}:",
        f"  %{here}.i = phi i64 [ 0, %{here}.head ], [ %{here}.next, %{here} ]",
        f"  %{here}.from = getelementptr i8, ptr {source}, i64 %{here}.i",
        f"  %{here}.to = getelementptr i8, ptr {target}, i64 %{here}.i",
        f"  %{here}.value = load {kind}, ptr %{here}.from, align 1",
        f"  store {kind} %{here}.value, ptr %{here}.to, align 1",
        f"  %{here}.next = add i64 %{here}.i, {width}",
        f"  %{here}.more = icmp ult i64 %{here}.next, {count}",
        f"  br i1 %{here}.more, label %{here}, label %{here}.done",
        f"{here}.done:",
    ]


_ESCAPES = {b: f"\\{b:02X}" for b in range(256) if not 32 <= b < 127 or b in b'"\\'}


def escaped(data: bytes) -> str:
    """Bytes as LLVM's string literals have them.

    >>> print(escaped(b'a"b\\n'))
    a\\22b\\0A
    """
    return data.decode("latin-1").translate(_ESCAPES)
