"""LLVM text to bytes: object files and assembly, the same bytes for the same text, and what an object asks of a linker.

In: the emitter's text and a `Target`. Out: object bytes or assembly text. No optimiser pass is run: the emitter writes
what it wants, and passes cost two thirds of the compile time without making the code faster (measured).
"""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphc.errors import ArtifactError, CompileError

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


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    entry_size: int


_SYMBOL_TABLE, _ALLOC, _WRITE = 2, 2, 1


def _sections(data: bytes) -> tuple[list[_Section], bool, int]:
    """The section headers, whether the file is 64-bit, and the number of the section that holds the names."""
    if len(data) < 52 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] != 1:
        raise ArtifactError(
            f"object: expected a little-endian ELF file, got bytes that begin with {data[:8]!r}"
        )
    wide = data[4] == 2
    try:
        if wide:
            (table,) = struct.unpack_from("<Q", data, 40)
            size, count, names = struct.unpack_from("<HHH", data, 58)
        else:
            (table,) = struct.unpack_from("<I", data, 32)
            size, count, names = struct.unpack_from("<HHH", data, 46)
        sections = []
        for i in range(count):
            fields = struct.unpack_from("<IIQQQQIIQQ" if wide else "<IIIIIIIIII", data, table + i * size)
            name, kind, flags, _, offset, length, link, _, _, entry = fields
            sections.append(_Section(name, kind, flags, offset, length, link, entry))
    except struct.error as error:
        raise ArtifactError(
            f"object: expected {len(data)} bytes to hold the section table, got {error}"
        ) from None
    return sections, wide, names


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def undefined_symbols(data: bytes) -> list[str]:
    """The symbols that an object needs from elsewhere, sorted. Generated objects need none.

    Raises `ArtifactError` for what is no ELF, wasm, COFF (x86-64) or 64-bit Mach-O object. Layout: System V ABI, chapter 4;
    the WebAssembly core specification, 5.5; Microsoft, PE Format, "COFF Symbol Table"; Apple, <mach-o/nlist.h>.

    >>> from graphc.codegen.target import target_from_name
    >>> text = "declare void @g() define void @f() nounwind { call void @g() ret void }"
    >>> undefined_symbols(compile_object(text, target_from_name("aarch64-linux-gnu")))
    ['g']
    """
    if data[:4] == b"\0asm":
        return sorted(_wasm_imports(data))
    if data[:4] == b"\xcf\xfa\xed\xfe":
        return sorted(_macho_undefined(data))
    if data[:2] == b"\x64\x86":
        return sorted(_coff_undefined(data))
    sections, wide, _ = _sections(data)
    found = []
    for section in sections:
        if section.kind != _SYMBOL_TABLE:
            continue
        strings = sections[section.link].offset
        for at in range(section.offset, section.offset + section.size, section.entry_size):
            (name,) = struct.unpack_from("<I", data, at)
            (home,) = struct.unpack_from("<H", data, at + (6 if wide else 14))
            if home == 0 and name:
                found.append(_string(data, strings + name))
    return sorted(found)


def _macho_undefined(data: bytes) -> list[str]:
    """The undefined external symbols of a Mach-O object, without the underscore that C names begin with there."""
    (commands,) = struct.unpack_from("<I", data, 16)
    at, names = 32, []
    for _ in range(commands):
        command, size = struct.unpack_from("<II", data, at)
        if command == 2:  # LC_SYMTAB
            table, count, strings, _ = struct.unpack_from("<IIII", data, at + 8)
            for entry in range(table, table + 16 * count, 16):
                name, kind = struct.unpack_from("<IB", data, entry)
                if kind & 0x01 and kind & 0x0E == 0:  # N_EXT, N_UNDF
                    names.append(_string(data, strings + name).removeprefix("_"))
        at += size
    return names


def _coff_undefined(data: bytes) -> list[str]:
    """The external symbols of a COFF object that are in no section of it."""
    table, count = struct.unpack_from("<II", data, 8)
    strings = table + 18 * count
    names, position = [], 0
    while position < count:
        entry = table + 18 * position
        long, start, value, home, _, storage, more = struct.unpack_from("<IIIhHBB", data, entry)
        if storage == 2 and home == 0 and value == 0:
            short = data[entry : entry + 8].rstrip(b"\0").decode()
            names.append(short if long else _string(data, strings + start))
        position += 1 + more
    return names


def writable_sections(data: bytes) -> list[str]:
    """The names of an ELF object's sections that are loaded, writable and not empty: its global state, if any.

    >>> from graphc.codegen.target import target_from_name
    >>> writable_sections(compile_object("@x = global i32 1", target_from_name("x86-64")))
    ['.data']
    """
    sections, _, names = _sections(data)
    wanted = [s for s in sections if s.flags & _ALLOC and s.flags & _WRITE and s.size]
    return sorted(_string(data, sections[names].offset + s.name) for s in wanted)


def _wasm_imports(data: bytes) -> list[str]:
    def number(at: int) -> tuple[int, int]:  # LEB128
        value, shift = 0, 0
        while True:
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    def text(at: int) -> tuple[str, int]:
        length, at = number(at)
        return data[at : at + length].decode(), at + length

    def limits(at: int) -> int:
        flags, at = number(at)
        _, at = number(at)
        return number(at)[1] if flags & 1 else at

    at, names = 8, []
    while at < len(data):
        section = data[at]
        size, at = number(at + 1)
        if section == 2:  # imports
            count, here = number(at)
            for _ in range(count):
                _, here = text(here)
                name, here = text(here)
                kind, here = data[here], here + 1
                if kind == 0:  # a function and its type
                    here = number(here)[1]
                elif kind == 1:  # a table
                    here = limits(here + 1)
                elif kind == 2:  # a memory
                    here = limits(here)
                else:  # a global and its mutability
                    here += 2
                names.append(name)
        at += size
    return names
