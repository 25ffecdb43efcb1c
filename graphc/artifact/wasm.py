"""WebAssembly: relocatable objects (with their "linking" section) and final modules.

In: bytes. Out: an `ObjectFile`, whose first section is the code; every data segment is a section of its own.
Layout: the WebAssembly core specification, chapter 5; tool-conventions/Linking.md of the WebAssembly project.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.artifact.model import Bytes, Kind, ObjectFile, Relocation, Section, Symbol

_IMPORT, _GLOBAL, _EXPORT, _CODE, _DATA = 2, 6, 7, 10, 11
_NAMES_OF_SEGMENTS, _SEGMENTS, _SYMBOLS = 9, 5, 8
_LOCAL, _HIDDEN, _UNDEFINED, _EXPLICIT = 0x2, 0x4, 0x10, 0x40
_WITH_ADDEND = (
    3,
    4,
    5,
    8,
    9,
    11,
    14,
    15,
    16,
    17,
    21,
    22,
    23,
)  # addresses of memory, offsets in functions and sections
_KINDS: dict[int, Kind] = {0: "function", 1: "data"}
_KIND_NAMES = ("function", "table", "memory", "global", "tag")


class Cursor:
    """Reads a WebAssembly file from front to back.

    >>> Cursor(Bytes(bytes([0xE5, 0x8E, 0x26]), "x"), 0).number()
    624485
    """

    def __init__(self, file: Bytes, at: int, end: int | None = None) -> None:
        self.file, self.at = file, at
        self.end = len(file) if end is None else end
        file.check(0 <= at <= self.end <= len(file), "a part within the file")

    @property
    def more(self) -> bool:
        return self.at < self.end

    def byte(self) -> int:
        self.file.check(self.at < self.end, f"a byte at {self.at}")
        self.at += 1
        return self.file.data[self.at - 1]

    def number(self) -> int:
        """LEB128 without a sign, at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            self.file.check(shift < 70, f"the end of a number at {self.at}")

    def signed(self) -> int:
        """LEB128 with a sign."""
        start = self.at
        value = self.number()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) else value

    def count(self) -> int:
        """How many entries follow; each of them has at least one byte."""
        value = self.number()
        self.file.check(value <= self.end - self.at, "as many entries as there are bytes", value)
        return value

    def skip(self, size: int) -> int:
        """Goes past so many bytes and says where they began."""
        self.file.check(size <= self.end - self.at, f"{size} bytes at {self.at}")
        self.at += size
        return self.at - size

    def text(self) -> str:
        length = self.number()
        start = self.skip(length)
        return self.file.data[start : start + length].decode(errors="replace")

    def limits(self) -> None:
        flags = self.byte()
        self.number()
        if flags & 1:
            self.number()

    def part(self) -> Cursor:
        """What a size in front says, as a reader of its own; this one goes past it."""
        size = self.number()
        start = self.skip(size)
        return Cursor(self.file, start, self.at)


@dataclass
class Module:
    """The parts of a module that anyone here asks for."""

    imports: list[tuple[str, str]] = field(default_factory=list)  # kind and name
    exports: list[tuple[str, str, int]] = field(default_factory=list)
    code_start: int = 0
    code: bytes = b""
    bodies: list[tuple[int, int]] = field(default_factory=list)  # offset within the code, size
    segments: list[tuple[int, bytes]] = field(default_factory=list)  # address (0 if not known) and content
    segment_names: dict[int, str] = field(default_factory=dict)
    symbols: list[Symbol] | None = None
    relocations: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    own_globals: list[bool] = field(default_factory=list)  # whether each can be changed
    order: list[int] = field(default_factory=list)  # the kinds of all sections

    def imported(self, kind: str) -> list[str]:
        return [name for which, name in self.imports if which == kind]


def read_wasm(data: bytes) -> ObjectFile:
    """The object or module in these bytes; raises `ArtifactError` where it is damaged."""
    return _as_object(read_module(data))


def read_module(data: bytes) -> Module:
    """The parts of the module in these bytes; raises `ArtifactError` where it is damaged."""
    file = Bytes(data, "WebAssembly module")
    _, version = file.unpack("<II", 0)
    file.check(data[:4] == b"\0asm" and version == 1, "version 1 of the format", f"version {version}")
    module = Module()
    top = Cursor(file, 8)
    order: list[int] = []  # of all sections: the kind, which is what relocations count by
    symbols: Cursor | None = None
    while top.more:
        kind = top.byte()
        part = top.part()
        order.append(kind)
        if kind == _IMPORT:
            _imports(part, module)
        elif kind == _EXPORT:
            for _ in range(part.count()):
                name, which, index = part.text(), part.byte(), part.number()
                module.exports.append((_kind(part, which), name, index))
        elif kind == _GLOBAL:
            for _ in range(part.count()):
                part.byte()
                module.own_globals.append(part.byte() == 1)
                while part.byte() != 0x0B:  # its value: one constant
                    part.signed()
        elif kind == _CODE:
            module.code_start, module.code = part.at, file.part(part.at, part.end - part.at)
            for _ in range(part.count()):
                body = part.part()
                module.bodies.append((body.at - module.code_start, body.end - body.at))
        elif kind == _DATA:
            _data(part, module)
        elif kind == 0:
            name = part.text()
            if name == "linking":
                symbols = _linking(part, module) or symbols
            elif name == "name":
                _names(part, module)
            elif name.startswith("reloc."):
                _relocations(part, module)
    if symbols is not None:
        _symbols(symbols, module)
    module.order = order
    return module


def _kind(part: Cursor, which: int) -> str:
    part.file.check(which < len(_KIND_NAMES), "a kind of import or export", which)
    return _KIND_NAMES[which]


def _imports(part: Cursor, module: Module) -> None:
    for _ in range(part.count()):
        part.text()  # the module that it is from
        name, kind = part.text(), _kind(part, part.byte())
        if kind == "function":
            part.number()
        elif kind == "table":
            part.byte()
            part.limits()
        elif kind == "memory":
            part.limits()
        else:
            part.skip(2)
        module.imports.append((kind, name))


def _data(part: Cursor, module: Module) -> None:
    for _ in range(part.count()):
        flags, address = part.number(), 0
        if flags == 2:
            part.number()  # which memory
        if flags in (0, 2):  # where: i32.const n, end
            if part.byte() == 0x41:
                address = part.signed()
            else:
                part.number()
            part.file.check(part.byte() == 0x0B, "the end of a segment's address")
        size = part.number()
        start = part.skip(size)
        module.segments.append((address, part.file.part(start, size)))


def _linking(part: Cursor, module: Module) -> Cursor | None:
    """Takes the segments' names; gives back where the symbols are."""
    version = part.number()
    part.file.check(version == 2, "version 2 of the linking section", version)
    symbols = None
    while part.more:
        kind, inner = part.byte(), part.part()
        if kind == _SEGMENTS:
            for number in range(inner.count()):
                module.segment_names[number] = inner.text()
                inner.number()
                inner.number()
        elif kind == _SYMBOLS:
            symbols = inner
    return symbols


def _names(part: Cursor, module: Module) -> None:
    """Of a final module: the names of its segments."""
    while part.more:
        kind, inner = part.byte(), part.part()
        if kind == _NAMES_OF_SEGMENTS:
            for _ in range(inner.count()):
                number = inner.number()
                module.segment_names[number] = inner.text()


def _symbols(part: Cursor, module: Module) -> None:
    functions, tables = module.imported("function"), module.imported("table")
    named = {0: functions, 2: module.imported("global"), 4: module.imported("tag"), 5: tables}
    found: list[Symbol] = []
    for _ in range(part.count()):
        kind, flags = part.byte(), part.number()
        undefined = bool(flags & _UNDEFINED)
        section: int | None = None
        offset = size = 0
        if kind in named:
            index = part.number()
            imports = named[kind]
            if undefined and not flags & _EXPLICIT:
                part.file.check(index < len(imports), f"one of {len(imports)} imports", index)
                name = imports[index]
            else:
                name = part.text()
            if kind == 0 and not undefined:
                body = index - len(functions)
                part.file.check(
                    0 <= body < len(module.bodies), f"one of {len(module.bodies)} functions", body
                )
                section, (offset, size) = 0, module.bodies[body]
        elif kind == 1:
            name = part.text()
            if not undefined:
                segment, offset, size = part.number(), part.number(), part.number()
                part.file.check(
                    segment < len(module.segments), f"one of {len(module.segments)} segments", segment
                )
                part.file.check(
                    offset + size <= len(module.segments[segment][1]), "a symbol within its segment", name
                )
                section = 1 + segment
        else:
            part.file.check(kind == 3, "a kind of symbol", kind)
            part.number()
            name = ""
        found.append(
            Symbol(name, "section" if kind == 3 else _KINDS.get(kind, "other"),
                   not undefined and not flags & (_LOCAL | _HIDDEN) and kind != 3, section, offset, size, undefined)
        )  # fmt: skip
    module.symbols = found


def _relocations(part: Cursor, module: Module) -> None:
    target = part.number()
    for _ in range(part.count()):
        kind, offset, symbol = part.byte(), part.number(), part.number()
        addend = part.signed() if kind in _WITH_ADDEND else 0
        module.relocations.append((target, offset, symbol, addend, kind))


def _as_object(module: Module) -> ObjectFile:
    sections = [Section("code", 0, len(module.code), module.code, True, False, True)]
    for number, (address, content) in enumerate(module.segments):
        name = module.segment_names.get(number, f"data segment {number}")
        # memory has no protection there: what a segment is for is its name's word
        constant = name.startswith(".rodata")
        sections.append(Section(name, address, len(content), content, True, not constant, False))
    linked = module.symbols is None
    if module.symbols is not None:
        symbols = list(module.symbols)
        known = {s.name for s in symbols}
        # the linker gives the memory and the table, which are no symbols
        symbols += [
            Symbol(name, "other", False, None, 0, 0, True) for _, name in module.imports if name not in known
        ]
    else:
        symbols = _exported(module)
    kinds = dict(enumerate(module.order))
    relocations = [
        Relocation(0, offset, symbol, addend, kind)
        for target, offset, symbol, addend, kind in module.relocations
        if kinds.get(target) == _CODE and module.symbols is not None and symbol < len(module.symbols)
    ]
    return ObjectFile("wasm", "wasm32", 32, linked, tuple(sections), tuple(symbols), tuple(relocations), None)


def _exported(module: Module) -> list[Symbol]:
    symbols = [Symbol(name, "other", False, None, 0, 0, True) for _, name in module.imports]
    functions = len(module.imported("function"))
    for kind, name, index in module.exports:
        section, offset, size = None, 0, 0
        if kind == "function" and 0 <= index - functions < len(module.bodies):
            section, (offset, size) = 0, module.bodies[index - functions]
        symbols.append(
            Symbol(name, "function" if kind == "function" else "other", True, section, offset, size, False)
        )
    return symbols
