"""From the PLANs of several functions to one LLVM module: what an exported object holds.

In: entries, each with a plan for every target that has a body in the library. Out: LLVM text whose object shows, for
each entry, ``NAME_entry`` (typed) and ``NAME_entry_run`` (on arrays of pointers), and ``NAME_info``, ``NAME_cpu`` and
``NAME_strerror``. Kernels of equal text are one function, equal constants one constant.

An entry checks all that it is given before it writes anything, then calls the best body that the context's level allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphc.codegen.emit_writer import quoted
from graphc.codegen.emitter import helper_functions, kernel_functions, module_header
from graphc.codegen.processor import processor_function
from graphc.codegen.program import constant_line, escaped, program_info, step_lines
from graphc.codegen.target import Target
from graphc.ir.kernel import Kernel
from graphc.ir.plan import ALIGNMENT, Plan, PlanBuffer
from graphc.runtime.abi import MAGIC, STATUS, VERSION, LibraryInfo, ProgramInfo

_MESSAGE_BYTES = 128  # of a status's text in the table that `NAME_strerror` points into


@dataclass(frozen=True)
class EntryPlans:
    """One entry: what C calls it, and its plan for each target of the library, in the targets' order."""

    symbol: str
    plans: tuple[Plan, ...]

    @property
    def info(self) -> ProgramInfo:
        """What callers need to know; the workspace is large enough for every body."""
        info = program_info(self.plans[0])
        return replace(
            info, name=self.symbol, workspace_bytes=max(plan.workspace_bytes for plan in self.plans)
        )


def emit_library(info: LibraryInfo, entries: Sequence[EntryPlans], targets: Sequence[Target]) -> str:
    """The LLVM text of a library; `targets` are ordered by level, and a module's machine is the first one."""
    constants = _Constants()
    parts: list[str] = []
    helpers: set[str] = set()
    for position, target in enumerate(targets):
        prefix = f"v{target.level}." if len(targets) > 1 else ""
        plans = {e.symbol: e.plans[position] for e in entries}
        kernels, symbols = _distinct_kernels([k for plan in plans.values() for k in plan.kernels], prefix)
        functions, needed = kernel_functions(kernels, target, "internal", prefix)
        parts += functions
        helpers |= needed
        for e in entries:
            parts.append(_body(f"{prefix}{e.symbol}.body", e, position, target, symbols, constants))
    for e in entries:
        parts += [_typed(e.info, targets), _run(e.info, targets[0])]
    parts.append(processor_function(f"{info.name}_cpu", targets[0]))
    parts.append(_strerror(f"{info.name}_strerror"))
    return "\n".join(
        [module_header(targets[0]), helper_functions(helpers), *constants.lines, _info(info), *parts]
    )


class _Constants:
    """The constants of a module, by their bytes: one of each."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._symbols: dict[str, str] = {}

    def symbol(self, array: np.ndarray) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        if digest not in self._symbols:
            self._symbols[digest] = quoted(f"const.{len(self._symbols)}")
            self.lines.append(constant_line(self._symbols[digest], array))
        return self._symbols[digest]


def _distinct_kernels(kernels: Sequence[Kernel], prefix: str) -> tuple[list[Kernel], dict[Kernel, str]]:
    """Kernels to emit, of equal ones the first, under names of their own; and the function of each given one."""
    by_text: dict[str, Kernel] = {}
    symbols: dict[Kernel, str] = {}
    taken: set[str] = set()
    for kernel in kernels:
        text = str(replace(kernel, name=""))
        if text not in by_text:
            name, number = kernel.name, 1
            while name in taken:
                number += 1
                name = f"{kernel.name}.{number}"
            taken.add(name)
            by_text[text] = replace(kernel, name=name)
        symbols[kernel] = quoted(f"{prefix}{by_text[text].name}")
    return list(by_text.values()), symbols


def _pointers(info: ProgramInfo) -> list[str]:
    """The pointers of an entry's arrays, in the order of the typed form."""
    return [*(f"%input{i}" for i in range(len(info.inputs))), *(f"%output{j}" for j in info.own_outputs)]


def _parameters(names: Sequence[str]) -> str:
    return ", ".join(f"ptr {name}" for name in names)


def _body(
    symbol: str, entry: EntryPlans, position: int, target: Target, kernels: Mapping[Kernel, str],
    constants: _Constants,
) -> str:  # fmt: skip
    """The function that runs the plan for one target, without checks."""
    plan, info = entry.plans[position], entry.info
    outputs = {j: f"%output{j}" for j in info.own_outputs} | {j: f"%input{i}" for i, j in info.donated}
    places: dict[PlanBuffer, str] = {
        b: constants.symbol(p.constants[b.name]) for p in plan.plans for b in p.of_kind("constant")
    }
    lines = step_lines(plan, outputs, kernels, places)
    attributes = f'nounwind "no-builtins" {target.function_attributes}'.rstrip()
    head = f"define internal void {quoted(symbol)}({_parameters([*_pointers(info), '%workspace'])}) {attributes} {{"
    return "\n".join([head, "entry:", *lines, "  ret void", "}", ""])


def _checked_symbol(info: ProgramInfo, target: Target) -> str:
    """The function with an entry's code. In ELF the name that is seen from outside is an alias of it, since a call of
    that name from within would go through the linker's table; elsewhere a name can't be taken over by another library.
    """
    return quoted(f"{info.name}.checked" if target.object_format == "elf" else info.name)


def _typed(info: ProgramInfo, targets: Sequence[Target]) -> str:
    """The typed entry: everything is checked, then the best body that the context's level allows runs."""
    index = f"i{targets[0].index_bits}"
    lines: list[str] = []
    statuses: set[int] = set()

    def refuse(name: str, condition: str, status: int) -> None:
        statuses.add(status)
        lines.append(f"  %{name} = {condition}")
        lines.append(f"  br i1 %{name}, label %status{status}, label %{name}.ok")
        lines.append(f"{name}.ok:")

    lines += [
        "entry:",
        "  %given = icmp ne ptr %context, null",
        "  br i1 %given, label %read, label %checks",
        "read:",
        "  %version = load i32, ptr %context, align 4",
    ]
    refuse("other", f"icmp ne i32 %version, {VERSION}", 5)
    lines += [
        "  %isa.at = getelementptr i8, ptr %context, i64 4",
        "  %isa.given = load i32, ptr %isa.at, align 4",
        "  %room.at = getelementptr i8, ptr %context, i64 8",
        "  %room.given = load i64, ptr %room.at, align 4",
        "  br label %checks",
        "checks:",
        "  %isa = phi i32 [ 1, %entry ], [ %isa.given, %other.ok ]",
        "  %room = phi i64 [ -1, %entry ], [ %room.given, %other.ok ]",
    ]
    if targets[0].level > 1:
        refuse("old", f"icmp ult i32 %isa, {targets[0].level}", 6)
    arrays = [*info.inputs, *(info.outputs[j] for j in info.own_outputs)]
    for name, array in zip(_pointers(info), arrays, strict=True):
        if array.size:
            refuse(f"{name[1:]}.null", f"icmp eq ptr {name}, null", 1)
    if info.workspace_bytes:
        refuse("no.workspace", "icmp eq ptr %workspace, null", 2)
        lines.append(f"  %address = ptrtoint ptr %workspace to {index}")
        lines.append(f"  %low = and {index} %address, {ALIGNMENT - 1}")
        refuse("misaligned", f"icmp ne {index} %low, 0", 2)
        refuse("small", f"icmp ult i64 %room, {info.workspace_bytes}", 4)
    arguments = _parameters([*_pointers(info), "%workspace"])
    for target in reversed(targets[1:]):
        level = target.level
        lines += [
            f"  %has{level} = icmp uge i32 %isa, {level}",
            f"  br i1 %has{level}, label %level{level}, label %below{level}",
            f"level{level}:",
            f"  call void {quoted(f'v{level}.{info.name}.body')}({arguments})",
            "  ret i32 0",
            f"below{level}:",
        ]
    least = f"v{targets[0].level}." if len(targets) > 1 else ""
    lines += [f"  call void {quoted(f'{least}{info.name}.body')}({arguments})", "  ret i32 0"]
    for status in sorted(statuses):
        lines += [f"status{status}:", f"  ret i32 {status}"]
    names = [*_pointers(info), "%workspace", "%context"]
    symbol, checked = quoted(info.name), _checked_symbol(info, targets[0])
    head = f'i32 {checked}({_parameters(names)}) nounwind "no-builtins" {{'
    if checked == symbol:
        return "\n".join([f"define {head}", *lines, "}", ""])
    alias = f"{symbol} = alias i32 ({', '.join('ptr' for _ in names)}), ptr {checked}"
    return "\n".join([alias, f"define internal {head}", *lines, "}", ""])


def _run(info: ProgramInfo, target: Target) -> str:
    """The entry on arrays of pointers, which every language can call without knowing the types."""
    word = target.index_bits // 8
    lines = ["entry:"]
    refused = False
    for block, count in (("inputs", len(info.inputs)), ("outputs", len(info.outputs))):
        if count:
            lines.append(f"  %no.{block} = icmp eq ptr %{block}, null")
            lines.append(f"  br i1 %no.{block}, label %status1, label %with.{block}")
            lines.append(f"with.{block}:")
            refused = True
        for position in range(count):
            name = f"%{block[:-1]}{position}"
            lines.append(f"  {name}.at = getelementptr i8, ptr %{block}, i64 {position * word}")
            lines.append(f"  {name} = load ptr, ptr {name}.at, align {word}")
    for i, j in info.donated:
        if info.inputs[i].size:  # a pointer that is missing is told as that
            lines.append(f"  %null{j} = icmp eq ptr %input{i}, null")
            lines.append(f"  br i1 %null{j}, label %status1, label %there{j}")
            lines.append(f"there{j}:")
        lines.append(f"  %apart{j} = icmp ne ptr %input{i}, %output{j}")
        lines.append(f"  br i1 %apart{j}, label %status3, label %same{j}")
        lines.append(f"same{j}:")
    arguments = _parameters([*_pointers(info), "%workspace", "%context"])
    lines.append(f"  %status = call i32 {_checked_symbol(info, target)}({arguments})")
    lines.append("  ret i32 %status")
    if refused:
        lines += ["status1:", "  ret i32 1"]
    if info.donated:
        lines += ["status3:", "  ret i32 3"]
    head = (
        f"define i32 {quoted(f'{info.name}_run')}(ptr %inputs, ptr %outputs, ptr %workspace, ptr %context) "
        'nounwind "no-builtins" {'
    )
    return "\n".join([head, *lines, "}", ""])


def _strerror(symbol: str) -> str:
    """The text of a status: texts of one length side by side, since a table of pointers would need a relocation each."""
    texts = [*(STATUS[status] for status in sorted(STATUS)), "no status of this library"]
    table = b"".join(text.encode().ljust(_MESSAGE_BYTES, b"\0") for text in texts)
    assert len(table) == len(texts) * _MESSAGE_BYTES
    last = len(texts) - 1
    return "\n".join([
        f'@graphc.messages = internal unnamed_addr constant [{len(table)} x i8] c"{escaped(table)}", align 1',
        f'define ptr {quoted(symbol)}(i32 %status) nounwind "no-builtins" {{',
        "entry:",
        f"  %known = icmp ult i32 %status, {last}",
        f"  %row = select i1 %known, i32 %status, i32 {last}",
        "  %wide = zext i32 %row to i64",
        f"  %offset = mul i64 %wide, {_MESSAGE_BYTES}",
        "  %text = getelementptr i8, ptr @graphc.messages, i64 %offset",
        "  ret ptr %text",
        "}",
        "",
    ])  # fmt: skip


def _info(info: LibraryInfo) -> str:
    """`NAME_info`: the mark, the version, the length of the text, the text with a zero byte."""
    text = info.to_json().encode()
    kind = f"{{ [{len(MAGIC)} x i8], i32, i32, [{len(text) + 1} x i8] }}"
    fields = (
        f'[{len(MAGIC)} x i8] c"{escaped(MAGIC)}"',
        f"i32 {VERSION}",
        f"i32 {len(text)}",
        f'[{len(text) + 1} x i8] c"{escaped(text)}\\00"',
    )
    return f"{quoted(f'{info.name}_info')} = constant {kind} {{ {', '.join(fields)} }}, align 8"
