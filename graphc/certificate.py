"""What can be promised of an object file, and the proof: a certificate, read back from the file's own bytes.

In: the bytes of an object, library or module, of graphc's or not. Out: a `Certificate`: what it needs, holds and shows,
how deep each function makes the stack, which instruction sets it uses, and which promises it keeps. What the compiler
counted (operations, bytes, loop iterations) is in the file's info, and told apart from what was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from graphc.artifact.model import ObjectFile
from graphc.artifact.reading import read_object
from graphc.artifact.stack import CodeReport, read_code
from graphc.errors import ArtifactError, CompileError
from graphc.runtime.abi import EntryCost, LibraryInfo, ProgramInfo, find_info

VERSION = 1

# What linkers add to a shared library or program, by format: names it needs, names it shows, sections of the loader's
_LINKERS_NEEDS = {"macho": {"dyld_stub_binder"}}
_LINKERS_NAMES = {"macho": {"__dso_handle", "_mh_dylib_header"}, "wasm": {"memory", "__heap_base"}}
_LOADERS_SECTIONS = {
    "elf": {".dynamic", ".got", ".relro_padding"},
    "macho": {"__DATA_CONST,__got", "__DATA,__data"},
}
_HANDLE_BYTES = 8  # of __dso_handle, which stands in a section that a program's own data would stand in too

# x86: the extension, as capstone names it → the least level of the processor's that has it; all others are of level 3
_EXTENSION_LEVELS = {
    **dict.fromkeys(("sse1", "sse2", "cmov", "fpu", "mmx"), 1),
    **dict.fromkeys(("avx512", "vlx", "bwi", "dqi", "cdi"), 4),
}  # fmt: skip
_EXTENSION_NAMES = {
    "sse1": "SSE", "sse2": "SSE2", "sse3": "SSE3", "ssse3": "SSSE3", "sse41": "SSE4.1", "sse42": "SSE4.2", "avx": "AVX",
    "avx2": "AVX2", "fma": "FMA", "avx512": "AVX-512F", "vlx": "AVX-512VL", "bwi": "AVX-512BW", "dqi": "AVX-512DQ",
    "cdi": "AVX-512CD", "fc16": "F16C",
}  # fmt: skip


@dataclass(frozen=True)
class Promise:
    """One promise: `kept` is None where it can't be told, and `detail` says why, or what breaks it."""

    name: str
    text: str
    kept: bool | None
    detail: str = ""


@dataclass(frozen=True)
class EntryFacts:
    """What is known of one entry. `stack_bytes` is None where its depth could not be proved."""

    function: str
    stack_bytes: int | None
    stack_bytes_run: int | None
    workspace_bytes: int
    # bytes of the arguments and outputs: those named a.b.c are summed as a
    arguments: dict[str, int]
    outputs: dict[str, int]
    updated_in_place_bytes: int
    counted: EntryCost | None


@dataclass(frozen=True)
class Certificate:
    """What a file is and keeps. `entries` is empty for a file that is not graphc's."""

    sha256: str
    bytes: int
    format: str
    machine: str
    linked: bool
    name: str | None
    made_by: str | None
    target: str | None
    needs: list[str]
    shows: list[str]
    writable: list[str]
    executable_stack: bool | None
    code_bytes: int
    constant_bytes: int
    calls_out: list[str]
    indirect_calls: list[str]
    stack_bytes: dict[str, int | None]
    instruction_sets: dict[str, list[str]]
    entries: dict[str, EntryFacts] = field(default_factory=dict)
    promises: list[Promise] = field(default_factory=list)

    @property
    def broken(self) -> list[Promise]:
        return [p for p in self.promises if p.kept is False]

    def to_json(self) -> str:
        """The text of ``NAME.certificate.json``: the same for the same bytes."""
        return json.dumps({"graphc_certificate": VERSION, **asdict(self)}, indent=2) + "\n"

    def check(self) -> None:
        """Raises `CompileError`, with what breaks it, where a promise is broken."""
        if self.broken:
            reasons = "; ".join(f"{p.text}: {p.detail}" for p in self.broken)
            raise CompileError(f"{self.name or 'object'}: expected an object that keeps its promises, got one that does not: "
                               f"{reasons}")  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def certify(data: bytes) -> Certificate:
    """Reads an object, shared library or module and says what it keeps.

    Raises `ArtifactError` where the bytes are no such file, or damaged. A promise that is broken is no error here:
    `Certificate.check` makes it one.

    >>> from graphc.codegen.object import compile_object
    >>> from graphc.codegen.target import target_from_name
    >>> text = "declare void @g() define void @f() nounwind { call void @g() ret void }"
    >>> [p.detail for p in certify(compile_object(text, target_from_name("aarch64-linux-gnu"))).broken]
    ['needs g', 'f calls g']
    """
    file = read_object(data)
    info = _info(data)
    code = read_code(data, file)
    loaded = [s for s in file.sections if s.loaded]
    needs = [n for n in file.undefined if n not in _allowed_needs(file)]
    shows = [n for n in file.visible if not (file.linked and n in _LINKERS_NAMES.get(file.format, ()))]
    writable = _writable(file)
    out = [
        f"{caller} calls {name}" for name, callers in sorted(code.calls_out.items())
        for caller in sorted(set(callers))
    ]  # fmt: skip
    functions = {s.name for s in file.symbols if s.kind == "function" and s.visible and not s.undefined}
    found = Certificate(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        format=file.format,
        machine=file.machine,
        linked=file.linked,
        name=info.name if info else None,
        made_by=info.made_by if info else None,
        target=info.target if info else None,
        needs=file.undefined,
        shows=shows,
        writable=writable,
        executable_stack=file.executable_stack,
        code_bytes=sum(s.size for s in loaded if s.executable),
        constant_bytes=sum(s.size for s in loaded if not s.executable and not s.writable),
        calls_out=out,
        indirect_calls=sorted(set(code.indirect)),
        stack_bytes={name: code.depths.get(name) for name in sorted(functions)},
        instruction_sets=_instruction_sets(code, info, file.linked),
    )
    entries = _entries(info, code) if info else {}
    promises = _promises(found, file, info, code, needs)
    return Certificate(**{**vars(found), "entries": entries, "promises": promises})


def _info(data: bytes) -> LibraryInfo | None:
    try:
        return find_info(data)
    except ArtifactError:
        return None


def _allowed_needs(file: ObjectFile) -> set[str]:
    """What the table of targets lets an object of this format leave to its linker, or a linked file to its loader."""
    if file.linked:
        return _LINKERS_NEEDS.get(file.format, set())
    from graphc.codegen.target import TARGETS

    return {name for t in TARGETS.values() if t.object_format == file.format for name in t.allowed_undefined}


def _writable(file: ObjectFile) -> list[str]:
    """Sections with state; of a linked file, without those that are the loader's own."""
    if not file.linked:
        return file.writable
    loaders = _LOADERS_SECTIONS.get(file.format, set())
    return sorted(
        s.name
        for s in file.sections
        if s.loaded and s.writable and s.size
        and not (s.name in loaders and (s.name != "__DATA,__data" or s.size <= _HANDLE_BYTES))
        # a final module's segments have no names that say what they are for; see the object
        and file.format != "wasm"
    )  # fmt: skip


def _level_of(function: str, info: LibraryInfo | None, linked: bool = False) -> int | None:
    """The level that a function's body is for: its name says it where a library has several, before it is linked."""
    if info is None or (linked and len(info.levels) > 1):
        return None
    head = function.split(".")[0]
    if len(info.levels) > 1 and head[:1] == "v" and head[1:].isdigit():
        return int(head[1:])
    return min(info.levels)


def _instruction_sets(code: CodeReport, info: LibraryInfo | None, linked: bool) -> dict[str, list[str]]:
    """The instruction set extensions in use, by the level of the bodies where that is known."""
    found: dict[str, set[str]] = {}
    for function, names in code.extensions.items():
        level = _level_of(function, info, linked)
        key = "all" if level is None else f"level {level}"
        found.setdefault(key, set()).update(_EXTENSION_NAMES.get(n, n.upper()) for n in names)
    return {key: sorted(names) for key, names in sorted(found.items())}


def _entries(info: LibraryInfo, code: CodeReport) -> dict[str, EntryFacts]:
    return {
        name: EntryFacts(
            program.name,
            code.depths.get(program.name),
            code.depths.get(f"{program.name}_run"),
            program.workspace_bytes,
            _grouped((a.name, a.bytes) for a in program.inputs),
            _grouped((a.name, a.bytes) for a in program.outputs),
            _in_place(program),
            info.costs.get(name),
        )
        for name, program in info.entries.items()
    }


def _grouped(arrays: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, count in arrays:
        group = name.split(".")[0]
        sums[group] = sums.get(group, 0) + count
    return sums


def _in_place(program: ProgramInfo) -> int:
    return sum(program.inputs[i].bytes for i, _ in program.donated)


def _promises(
    found: Certificate, file: ObjectFile, info: LibraryInfo | None, code: CodeReport, needs: list[str]
) -> list[Promise]:
    promises = [
        Promise("self_contained", "needs no symbol from elsewhere", not needs, _listed("needs", needs)),
        Promise("no_calls_out", "calls nothing but its own functions", *_calls(found, code)),
        Promise("no_state", "has no data that it writes", *_state(found, file)),
        Promise("own_names", "shows no names but those that begin with its own", *_names(found, info)),
        Promise("no_executable_stack", "does not ask for an executable stack", *_executable_stack(file)),
        Promise("bounded_stack", "takes a known number of bytes of the stack", *_stack(found, code)),
    ]  # fmt: skip
    if file.machine == "x86_64":
        promises.append(
            Promise(
                "instruction_sets",
                "uses the instructions of its processors only",
                *_levels(info, code, file.linked),
            )
        )
    if info is not None:
        unknown = [n for n in info.entries if n not in info.costs or info.costs[n].iterations is None]
        text = "ends after a known number of loop iterations"
        promises.append(
            Promise("terminates", text, None if unknown else True, _listed("not known for", unknown))
        )
    return promises


def _listed(what: str, names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} {', '.join(names[:most])}{more}" if names else ""


def _calls(found: Certificate, code: CodeReport) -> tuple[bool | None, str]:
    if code.unread:
        return None, code.unread
    problems = [
        *found.calls_out,
        *(f"{name} calls what is known at run time only" for name in found.indirect_calls),
    ]
    return not problems, "; ".join(problems[:8])


def _state(found: Certificate, file: ObjectFile) -> tuple[bool | None, str]:
    if file.format == "wasm" and file.linked:
        return None, "a final module does not say what its data is for; its object does"
    return not found.writable, _listed("has", found.writable)


def _executable_stack(file: ObjectFile) -> tuple[bool | None, str]:
    if file.executable_stack is None and file.format == "elf":
        return None, "the file does not say so, and linkers differ in what that means"
    return not file.executable_stack, "the file is marked so" if file.executable_stack else ""


def _names(found: Certificate, info: LibraryInfo | None) -> tuple[bool | None, str]:
    if info is None:
        return None, "the file does not say which are its own"
    own = {program.name for program in info.entries.values()}
    foreign = [n for n in found.shows if n not in own and not n.startswith(f"{info.name}_")]
    return not foreign, _listed("shows", foreign)


def _stack(found: Certificate, code: CodeReport) -> tuple[bool | None, str]:
    if code.unread:
        return None, code.unread
    unknown = [name for name, depth in found.stack_bytes.items() if depth is None]
    detail = "; ".join(f"{name}: {code.problems.get(name, 'not followed')}" for name in unknown[:4])
    return not unknown, detail


def _levels(info: LibraryInfo | None, code: CodeReport, linked: bool) -> tuple[bool | None, str]:
    if code.unread:
        return None, code.unread
    if info is None:
        return None, "the file does not say what it is for"
    if linked and len(info.levels) > 1:
        return None, "a linked file does not say which level a function is for; its object does"
    wrong = []
    for function, names in sorted(code.extensions.items()):
        level = _level_of(function, info) or 1
        beyond = [n for n in names if _EXTENSION_LEVELS.get(n, 3) > level]
        if beyond:
            wrong.append(
                f"{function} uses {', '.join(_EXTENSION_NAMES.get(n, n) for n in beyond)} at level {level}"
            )
    return not wrong, "; ".join(wrong[:4])


# ------------------------------------------------------------------------------------------------------------- tables


def _lines(c: Certificate) -> list[str]:
    """The certificate for people."""
    what = "linked" if c.linked else "relocatable"
    rows = [
        ("file", f"{c.format} for {c.machine}, {what}, {c.bytes:,} bytes"),
        ("library", f"{c.name}, made by {c.made_by} for {c.target}" if c.name else "not graphc's"),
        ("code", f"{c.code_bytes:,} bytes"),
        ("constants", f"{c.constant_bytes:,} bytes"),
        ("needs", ", ".join(c.needs) or "nothing"),
        (
            "shows",
            ", ".join(c.shows[:12]) + (f" and {len(c.shows) - 12} more" if len(c.shows) > 12 else "")
            or "nothing",
        ),
    ]
    rows += [(f"instructions, {key}" if key != "all" else "instructions", ", ".join(sets))
             for key, sets in c.instruction_sets.items()]  # fmt: skip
    width = max(len(key) for key, _ in rows)
    lines = [f"{key:<{width}}  {value}" for key, value in rows]
    if c.entries:
        lines += ["", *_entry_table(c)]
    elif c.stack_bytes:
        lines += ["", "stack bytes"]
        lines += [f"  {name:<32} {_number(depth):>12}" for name, depth in c.stack_bytes.items()]
    lines += ["", "promises"]
    for p in c.promises:
        mark = {True: "kept    ", False: "BROKEN  ", None: "unknown "}[p.kept]
        lines.append(f"  {mark}{p.text}{f' ({p.detail})' if p.detail else ''}")
    return lines


def _entry_table(c: Certificate) -> list[str]:
    head = ("entry", "stack", "workspace", "arguments", "updated", "outputs", "constants", "operations", "bytes moved",
            "iterations")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for name, e in c.entries.items():
        counted = e.counted
        depth = (
            None
            if e.stack_bytes is None or e.stack_bytes_run is None
            else max(e.stack_bytes, e.stack_bytes_run)
        )
        rows.append(
            (name, _number(depth), _number(e.workspace_bytes), _number(sum(e.arguments.values())),
             _number(e.updated_in_place_bytes), _number(sum(e.outputs.values())),
             *(_number(n) for n in ((counted.constant_bytes, counted.operations, counted.bytes_moved, counted.iterations)
                                    if counted else (None,) * 4)))
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"
