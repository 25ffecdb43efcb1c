"""The text of each kernel, cut out of what the whole program prints: KERNEL, LLVM IR and assembly.

In: a plan, the program's LLVM text and assembly. Out: for each kernel its texts, with those of the functions it calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphc.ir.kernel import Kernel

_DEFINE = re.compile(r'^define [^@\n]*@("[^"]+"|[\w.$-]+)\(', re.MULTILINE)
_CALLED = re.compile(r'\bcall [^@\n]*@("[^"]+"|[\w.$-]+)\(')
_LABEL = re.compile(r'^("[^"\n]+"|[A-Za-z_$][\w.$@-]*):', re.MULTILINE)
_FRAME = re.compile(r"^\s*\.(cfi_\w+|p2align|file|type|addrsig\w*)\b")


@dataclass(frozen=True)
class KernelCode:
    """The texts of one kernel. One that a target doesn't give is empty."""

    kernel: str
    llvm: str
    asm: str


def kernel_codes(kernels: tuple[Kernel, ...], llvm: str, asm: str) -> list[KernelCode]:
    """The texts of each kernel, in order."""
    functions = llvm_functions(llvm)
    labels = asm_functions(asm, set(functions))
    found = []
    for kernel in kernels:
        names = _reached(kernel.name, functions)
        found.append(
            KernelCode(
                str(kernel),
                "\n\n".join(functions[n] for n in names),
                "\n\n".join(labels[n] for n in names if n in labels),
            )
        )
    return found


def _reached(name: str, functions: dict[str, str]) -> list[str]:
    """A function and those that it calls, in the order of their first calls."""
    order: list[str] = []
    stack = [name]
    while stack:
        current = stack.pop()
        if current in functions and current not in order:
            order.append(current)
            stack += [m.strip('"') for m in _CALLED.findall(functions[current])][::-1]
    return order


def llvm_functions(text: str) -> dict[str, str]:
    """The definitions of a module by name.

    >>> llvm_functions("define void @f() {\\n  ret void\\n}\\n")["f"]
    'define void @f() {\\n  ret void\\n}'
    """
    found = {}
    for match in _DEFINE.finditer(text):
        end = text.find("\n}", match.end())
        found[match.group(1).strip('"')] = text[match.start() : end + 2 if end >= 0 else len(text)]
    return found


def asm_functions(text: str, names: set[str]) -> dict[str, str]:
    """The instructions below each function's label, to the next function; directives about frames are left out.

    Mach-O and COFF put an underscore before C names, which is no part of the name here.
    """
    starts: list[tuple[int, str]] = []
    for match in _LABEL.finditer(text):
        label = match.group(1).strip('"')
        name = label if label in names else label.removeprefix("_")
        if name in names:
            starts.append((match.start(), name))
    found = {}
    for (start, name), (stop, _) in zip(starts, [*starts[1:], (len(text), "")], strict=True):
        body = text[start:stop]
        for mark in ("\n.Lfunc_end", "\nLfunc_end", "\n\t.section", "\n\tend_function"):
            at = body.find(mark)
            body = body[:at] if at >= 0 else body
        found[name] = "\n".join(line for line in body.splitlines() if not _FRAME.match(line)).rstrip()
    return found
