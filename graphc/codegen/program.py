"""From a PLAN to one LLVM module: kernels, constants, the entry function and the info constant.

In: a plan and a target. Out: LLVM text whose object needs nothing and shows two symbols, ``NAME_run`` and ``NAME_info``.
Where the host launches kernels they are all that is emitted: the launch table says the rest, constants included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.codegen.emit_writer import quoted
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.target import Target
from graphc.ir.kernel import Kernel
from graphc.ir.plan import ALIGNMENT, CopyStep, Plan, PlanBuffer
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
    constants = [constant_line(name, plan.constants[b.name]) for b, name in constant_symbols(plan).items()]
    info_line = (
        f"@{info.name}_info = constant {{ i32, i32, [{len(text)} x i8] }} "
        f'{{ i32 {VERSION}, i32 {len(text) - 1}, [{len(text)} x i8] c"{escaped(text)}" }}, align 8'
    )
    return "\n".join([kernels, *constants, info_line, _entry(plan, info, target)])


def _entry(plan: Plan, info: ProgramInfo, target: Target) -> str:
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
    lines += step_lines(plan, outputs, {k: quoted(k.name) for k in plan.kernels}, constant_symbols(plan))
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
    lines: list[str] = []
    pointers: dict[PlanBuffer, str] = {}
    for b in plan.buffers:
        if b.kind == "input":
            pointers[b] = f"%input{b.position}"
        elif b.kind == "output":
            pointers[b] = outputs[b.position]
        elif b.kind == "constant":
            pointers[b] = constants[b]
        elif b.in_place_of is not None:
            pointers[b] = pointers[b.in_place_of]
        else:
            name = f"%arena{len(pointers)}"
            lines.append(f"  {name} = getelementptr i8, ptr %workspace, i64 {b.offset}")
            pointers[b] = name
    for number, step in enumerate(plan.steps):
        if isinstance(step, CopyStep):
            lines += emit_copy(number, pointers[step.source], pointers[step.target], step.source.type.bytes)
        else:
            arguments = ", ".join(f"ptr {pointers[b]}" for b in step.arguments)
            lines.append(f"  call void {kernels[step.kernel]}({arguments})")
    return lines


def constant_symbols(plan: Plan) -> dict[PlanBuffer, str]:
    """The names of a plan's constants in its module."""
    return {b: quoted(f"const.{b.name}") for b in plan.of_kind("constant")}


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
