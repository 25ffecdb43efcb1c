"""Mach-O: the objects and libraries of macOS, 64 bits. Names lose the underscore that C's have there.

In: bytes. Out: an `ObjectFile`. Layout: Apple's headers mach-o/loader.h, nlist.h and reloc.h.
"""

from __future__ import annotations

from graphc.artifact.model import Bytes, Kind, ObjectFile, Relocation, Section, Symbol, fixed_text

_MACHINES = {0x01000007: "x86_64", 0x0100000C: "aarch64"}
_OBJECT = 1
_SEGMENT, _SYMBOL_TABLE = 0x19, 0x2
_ZEROED = (1, 12, 18)  # zero-fill, of huge size, thread-local
_CODE = 0x80000000 | 0x400  # pure instructions, some instructions
_DEBUG = 0x02000000
_WRITE = 2
_ALLOW_STACK_EXECUTION = 0x20000
_STAB, _PRIVATE, _TYPE, _EXTERNAL, _IN_SECTION = 0xE0, 0x10, 0x0E, 0x01, 0x0E
_ARM64_ADDEND = 10


def read_macho(data: bytes) -> ObjectFile:
    """The object or library in these bytes; raises `ArtifactError` where it is damaged."""
    file = Bytes(data, "Mach-O object")
    magic, machine, _, kind, commands, _, flags, _ = file.unpack("<8I", 0)
    file.check(magic == 0xFEEDFACF, "a 64-bit little-endian Mach-O file", f"bytes {data[:4]!r}")
    linked = kind != _OBJECT
    sections: list[Section] = []
    places: list[tuple[int, int]] = []
    table = (0, 0, 0, 0)
    at = 32
    for _ in range(commands):
        command, size = file.unpack("<II", at)
        file.check(size >= 8, "the size of a load command", size)
        if command == _SEGMENT:
            title = fixed_text(file.take(at + 8, 16))
            protection, count = file.unpack("<II", at + 60)
            for i in range(count):
                found, place = _section(file, at + 72 + 80 * i, linked, title, bool(protection & _WRITE))
                sections.append(found)
                places.append(place)
        elif command == _SYMBOL_TABLE:
            first, number, start, length = file.unpack("<IIII", at + 8)
            table = (first, number, start, length)
        at += size
    first, number, names_at, length = table
    names = Bytes(file.part(names_at, length), file.what)
    symbols = []
    for name, form, home, _, value in file.table("<IBBHQ", first, number):
        symbols.append(_symbol(file, names.text(name) if name else "", form, home, value, sections))
    relocations = _relocations(file, places, len(symbols), symbols, sections) if not linked else []
    return ObjectFile(
        "macho", _MACHINES.get(machine, f"Mach-O machine {machine:#x}"), 64, linked,
        tuple(sections), tuple(symbols), tuple(relocations), bool(flags & _ALLOW_STACK_EXECUTION),
    )  # fmt: skip


def _section(
    file: Bytes, at: int, linked: bool, segment: str, writable: bool
) -> tuple[Section, tuple[int, int]]:
    title, home = fixed_text(file.take(at, 16)), fixed_text(file.take(at + 16, 16))
    address, size, offset, _, relocations, count, flags = file.unpack("<QQIIIII", at + 32)
    # an object has one segment without a name; which one a section will be in is the section's own word
    writable = writable if linked else home.startswith("__DATA")
    content = b"" if flags & 0xFF in _ZEROED else file.part(offset, size)
    loaded = not flags & _DEBUG and home not in ("__LD", "__LLVM")
    section = Section(
        f"{home},{title}", address, size, content, loaded, writable and loaded, bool(flags & _CODE)
    )
    return section, (relocations, count)


def _symbol(file: Bytes, text: str, form: int, home: int, value: int, sections: list[Section]) -> Symbol:
    kind: Kind = "other"
    section = None
    if not form & _STAB and form & _TYPE == _IN_SECTION:
        section = home - 1
        file.check(0 <= section < len(sections), f"one of {len(sections)} sections", home)
        value -= sections[section].address
        file.check(0 <= value <= sections[section].size, "a symbol within its section", text)
        # what C did not name, such as the ltmp0 at the start of each section, is the assembler's own
        if text.startswith("_"):
            kind = "function" if sections[section].executable else "data"
    outside = bool(form & _EXTERNAL) and not form & _STAB
    undefined = outside and form & _TYPE == 0
    visible = outside and not undefined and not form & _PRIVATE
    return Symbol(text.removeprefix("_"), kind, visible, section, value, 0, undefined)


def _relocations(
    file: Bytes, places: list[tuple[int, int]], known: int, symbols: list[Symbol], sections: list[Section]
) -> list[Relocation]:
    """All of them; a section that one is about gets a symbol of its own at the end of `symbols`."""
    own: dict[int, int] = {}
    found = []
    for section, (at, count) in enumerate(places):
        addend = 0
        for offset, packed in file.table("<II", at, count) if count else ():
            which, external, kind = packed & 0xFFFFFF, packed >> 27 & 1, packed >> 28
            if kind == _ARM64_ADDEND and not external:
                addend = which - (1 << 24 if which >> 23 else 0)  # of the next one
                continue
            if not external:
                file.check(0 < which <= len(sections), f"one of {len(sections)} sections", which)
                if which not in own:
                    own[which] = len(symbols)
                    symbols.append(Symbol(sections[which - 1].name, "section", False, which - 1, 0, 0, False))
                which = own[which]
            else:
                file.check(which < known, f"one of {known} symbols", which)
            found.append(Relocation(section, offset, which, addend, kind))
            addend = 0
    return found
