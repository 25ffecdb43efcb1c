"""LLVM text to bytes: object files and assembly, the same bytes for the same text, and what an object asks of a linker.

In: the emitter's text and a `Target`. Out: object bytes or assembly text. No optimiser pass is run: the emitter writes
what it wants, and passes cost two thirds of the compile time without making the code faster (measured).
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from graphc.artifact.reading import read_object
from graphc.errors import CompileError

if TYPE_CHECKING:
    import llvmlite.binding as llvm

    from graphc.codegen.target import Target

_LOCK = threading.Lock()  # LLVM's target machines are not for two threads at once
_MACHINES: dict[tuple[str, str, str, str, str, str, int], llvm.TargetMachine] = {}


def _machine(target: Target, opt: int) -> llvm.TargetMachine:
    import llvmlite.binding as llvm

    key = (target.triple, target.cpu, target.features, target.abi, target.relocation, target.code_model, opt)
    if key not in _MACHINES:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        _MACHINES[key] = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=opt, reloc=target.relocation,
            codemodel=target.code_model, jit=False, abiname=target.abi,
        )  # fmt: skip
    return _MACHINES[key]


def _parsed(llvm_text: str, target: Target, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    import llvmlite.binding as llvm

    try:
        module = llvm.parse_assembly(llvm_text, llvm.create_context())
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        message = str(error)
        found = re.search(r":(\d+):\d+: error: (.*)", message)
        if found is None:
            raise CompileError(
                f"llvm: expected a valid module for {target.name}, got: {message.strip()}"
            ) from None
        number = int(found.group(1))
        line = llvm_text.splitlines()[number - 1].strip()
        raise CompileError(f"llvm:{number}: expected valid LLVM IR, got {found.group(2)}\n  {line}") from None
    return module


def compile_object(llvm_text: str, target: Target, opt: int = 1) -> bytes:
    """The object file of a module; `opt` (0 to 3) is the level of LLVM's code generator:
    beyond 1 the same code takes a little longer (measured), at 0 it is several times slower.

    Raises `CompileError`, with the offending line, where LLVM can't read the text.

    >>> from graphc.codegen.target import target_from_name
    >>> compile_object("define void @f() nounwind { ret void }", target_from_name("x86-64"))[:4]
    b'\\x7fELF'
    """
    with _LOCK:
        machine = _machine(target, opt)
        return bytes(machine.emit_object(_parsed(llvm_text, target, machine)))


def compile_assembly(llvm_text: str, target: Target, opt: int = 1) -> str:
    """The assembly (PTX for nvptx64) of a module; raises like `compile_object`.

    >>> from graphc.codegen.target import target_from_name
    >>> "ret" in compile_assembly("define void @f() nounwind { ret void }", target_from_name("x86-64"))
    True
    """
    with _LOCK:
        machine = _machine(target, opt)
        return str(machine.emit_assembly(_parsed(llvm_text, target, machine)))


def undefined_symbols(data: bytes) -> list[str]:
    """The symbols that an object of any format needs from elsewhere, sorted. Generated objects need none.

    Raises `ArtifactError` for what is no object, and for a damaged one.

    >>> from graphc.codegen.target import target_from_name
    >>> text = "declare void @g() define void @f() nounwind { call void @g() ret void }"
    >>> undefined_symbols(compile_object(text, target_from_name("aarch64-linux-gnu")))
    ['g']
    """
    return read_object(data).undefined


def writable_sections(data: bytes) -> list[str]:
    """The names of an object's sections that are loaded, writable and not empty: its global state, if any.

    >>> from graphc.codegen.target import target_from_name
    >>> writable_sections(compile_object("@x = global i32 1", target_from_name("x86-64")))
    ['.data']
    """
    return read_object(data).writable
