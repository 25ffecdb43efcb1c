"""From a PLAN to one LLVM module: kernels, constants, the entry function and the info constant.

In: a plan, a target, and the text by which the program describes itself. Out: LLVM text whose object needs nothing, has
no writable data, and shows two symbols: ``NAME_run`` and ``NAME_info``.

The entry is ``int32_t NAME_run(const void *const *inputs, void *const *outputs, void *workspace, const
graphc_context *ctx)``. It checks all pointers before it writes anything, runs the steps one after the other, and gives
one of the status codes below. `NAME_info` is the constant ``{ int32 version, int32 bytes of text, char text[] }``.
"""

from __future__ import annotations

import re

import numpy as np

from graphc.codegen import emit_math
from graphc.codegen.emitter import emit_function, helper_functions, module_header
from graphc.codegen.target import Target
from graphc.errors import CompileError, TargetError
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_print import callees
from graphc.ir.plan import ALIGNMENT, CallStep, Plan, PlanBuffer

ABI_VERSION = 1
SUCCESS, NULL_ARRAY, BAD_WORKSPACE, NOT_DONATED = range(4)  # what the entry returns


def identifier(name: str) -> str:
    """The program's name as a C identifier.

    >>> identifier("train step"), identifier("2d"), identifier("<lambda>")
    ('train_step', 'g_2d', 'lambda')
    """
    text = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "graph"
    return text if not text[0].isdigit() else f"g_{text}"


def emit_program(plan: Plan, target: Target, info: str) -> str:
    """The LLVM text of the whole program; `info` is the text in `NAME_info`.

    Raises `TargetError` where the target runs kernels by launches, and what the emitter raises for a kernel.
    """
    if target.positions["thread"]:
        raise TargetError(f"target {target.name!r}: expected one that runs a whole program, got one that launches kernels")
    functions = [emit_function(kernel, target, linkage="internal") for kernel in _all_kernels(plan)]
    helpers = {name for name in emit_math.HELPERS for text in functions if f"@graphc.{name}(" in text}
    text = info.encode() + b"\0"
    constants = [
        f"{_constant(b)} = internal unnamed_addr constant [{max(b.type.bytes, 1)} x i8] "
        f'c"{_escaped(_data(plan.constants[b.name]))}", align {ALIGNMENT}'
        for b in plan.buffers
        if b.kind == "constant"
    ]
    info_constant = (
        f"@{identifier(plan.name)}_info = constant {{ i32, i32, [{len(text)} x i8] }} "
        f'{{ i32 {ABI_VERSION}, i32 {len(text) - 1}, [{len(text)} x i8] c"{_escaped(text)}" }}, align 8'
    )
    parts = [module_header(target), *functions, helper_functions(helpers), *constants, info_constant]
    return "\n".join([*parts, "", _Entry(plan, target).text()])


def _all_kernels(plan: Plan) -> list[Kernel]:
    """The kernels and all that they call, each once; every name is one kernel's."""
    found: dict[str, Kernel] = {}
    pending = list(plan.kernels)
    while pending:
        kernel = pending.pop(0)
        if kernel.name not in found:
            found[kernel.name] = kernel
            pending += callees(kernel)
        elif found[kernel.name] is not kernel:
            raise CompileError(f"kernel @{kernel.name}: expected one kernel of this name, got two")
    return list(found.values())


class _Entry:
    """The entry function while it is written."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan, self.target = plan, target
        self.lines: list[str] = []
        self.statuses: set[int] = set()
        self.blocks = 0

    def text(self) -> str:
        head = (
            f"define i32 @{identifier(self.plan.name)}_run(ptr %inputs, ptr %outputs, ptr %workspace, ptr %context) "
            'nounwind "no-builtins" {'
        )
        self._check_arguments()
        pointers = {b: self._pointer(b) for b in self.plan.buffers}
        for number, step in enumerate(self.plan.steps):
            if isinstance(step, CallStep):
                arguments = ", ".join(f"ptr {pointers[b]}" for b in step.arguments)
                self.lines.append(f"  call void @{step.kernel.name}({arguments})")
            else:
                size = step.source.type.bytes
                self.lines += _copy(number, pointers[step.source], pointers[step.target], size)
        self.lines.append(f"  ret i32 {SUCCESS}")
        for status in sorted(self.statuses):
            self.lines += [f"status{status}:", f"  ret i32 {status}"]
        return "\n".join([head, "entry:", *self.lines, "}", ""])

    def _check_arguments(self) -> None:
        word = self.target.index_bits // 8
        for block, buffers in (("input", self.plan.inputs), ("output", self.plan.outputs)):
            if buffers:  # without arguments there need not be a block to load from
                self._refuse([(f"%no.{block}s", f"icmp eq ptr %{block}s, null")], NULL_ARRAY)
            for position in range(len(buffers)):
                name = f"%{block}{position}"
                self.lines.append(f"  {name}.at = getelementptr i8, ptr %{block}s, i64 {position * word}")
                self.lines.append(f"  {name} = load ptr, ptr {name}.at, align {word}")
            held = [f"%{block}{position}" for position, b in enumerate(buffers) if b.type.bytes]
            self._refuse([(f"{name}.null", f"icmp eq ptr {name}, null") for name in held], NULL_ARRAY)
        if self.plan.workspace_bytes:
            size = f"i{self.target.index_bits}"
            self.lines.append(f"  %address = ptrtoint ptr %workspace to {size}")
            self.lines.append(f"  %low = and {size} %address, {ALIGNMENT - 1}")
            misaligned = ("%misaligned", f"icmp ne {size} %low, 0")
            self._refuse([misaligned, ("%no.workspace", "icmp eq ptr %workspace, null")], BAD_WORKSPACE)
        apart = [(f"%apart{j}", f"icmp ne ptr %input{i}, %output{j}") for i, j in self.plan.donated]
        self._refuse(apart, NOT_DONATED)

    def _refuse(self, conditions: list[tuple[str, str]], status: int) -> None:
        """Returns `status` where one of the named conditions holds."""
        if not conditions:
            return
        self.lines += [f"  {name} = {condition}" for name, condition in conditions]
        some = conditions[0][0]
        for name, _ in conditions[1:]:
            self.lines.append(f"  {name}.or = or i1 {some}, {name}")
            some = f"{name}.or"
        self.blocks += 1
        self.statuses.add(status)
        self.lines += [f"  br i1 {some}, label %status{status}, label %checked{self.blocks}", f"checked{self.blocks}:"]

    def _pointer(self, b: PlanBuffer) -> str:
        if b.kind == "constant":
            return _constant(b)
        if b.kind != "arena":
            return f"%{b.kind}{b.position}"
        name = f"%at{b.offset}"
        line = f"  {name} = getelementptr i8, ptr %workspace, i64 {b.offset}"
        if line not in self.lines:
            self.lines.append(line)
        return name


def _copy(number: int, source: str, target: str, size: int) -> list[str]:
    """A loop over bytes in chunks as wide as divides their number: no call to memcpy."""
    if size == 0:
        return []
    width = next(w for w in (64, 32, 16, 8, 4, 2, 1) if size % w == 0)
    kind = f"<{width} x i8>" if width > 1 else "i8"
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
        f"  %{here}.more = icmp ult i64 %{here}.next, {size}",
        f"  br i1 %{here}.more, label %{here}, label %{here}.done",
        f"{here}.done:",
    ]


def _constant(b: PlanBuffer) -> str:
    return f"@graphc.constant{b.position}"


def _data(array: np.ndarray) -> bytes:
    """The bytes in little-endian order: all targets have it."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() or b"\0"


def _escaped(data: bytes) -> str:
    if len(data) > 4096:  # weights: a loop over bytes takes 0.1 s a megabyte
        return "\\" + data.hex("\\")
    return "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in data)
