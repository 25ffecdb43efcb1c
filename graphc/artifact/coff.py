"""COFF: the objects of Windows' linkers.

In: bytes. Out: an `ObjectFile`. Layout: Microsoft's PE format specification, the sections about COFF objects.
"""

from __future__ import annotations

from graphc.artifact.model import Bytes, Kind, ObjectFile, Relocation, Section, Symbol, fixed_text

COFF_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x14C: "i386"}
_CODE, _DISCARDABLE, _REMOVED, _EXECUTE, _WRITE = 0x20, 0x02000000, 0x800, 0x20000000, 0x80000000
_MANY_RELOCATIONS = 0x01000000
_ZEROED, _MERGED = 0x80, 0x1000
_EXTERNAL, _STATIC, _WEAK, _FUNCTION = 2, 3, 105, 0x20


def read_coff(data: bytes) -> ObjectFile:
    """The object in these bytes; raises `ArtifactError` where it is damaged or for another machine."""
    file = Bytes(data, "COFF object")
    machine, count, _, table, symbol_count, optional, _ = file.unpack("<HHIIIHH", 0)
    file.check(machine in COFF_MACHINES, "an x86 or Arm object", f"machine {machine:#x}")
    names_at = table + 18 * symbol_count
    names = Bytes(b"", file.what)
    if table:
        (size,) = file.unpack("<I", names_at)
        names = Bytes(file.part(names_at, size), file.what)
    sections, places, merged = [], [], []
    for i in range(count):
        at = 20 + optional + 40 * i
        title = fixed_text(file.take(at, 8))
        _, _, size, start, relocations, _, number, _, flags = file.unpack("<IIIIIIHHI", at + 8)
        if title[:1] == "/" and title[1:].isdigit():
            title = names.text(int(title[1:]))
        content = b"" if flags & _ZEROED or not start else file.part(start, size)
        loaded = not flags & (_DISCARDABLE | _REMOVED)
        sections.append(
            Section(title, 0, size, content, loaded, bool(flags & _WRITE), bool(flags & (_CODE | _EXECUTE)))
        )
        if flags & _MANY_RELOCATIONS and number == 0xFFFF:  # the first entry has the number, itself included
            (number,) = file.unpack("<I", relocations)
            relocations, number = relocations + 10, max(number, 1) - 1
        places.append((relocations, number))
        merged.append(bool(flags & _MERGED))
    symbols, index = _symbols(file, names, table, symbol_count, sections, merged)
    found = []
    for section, (at, number) in enumerate(places):
        for offset, which, kind in file.table("<IIH", at, number) if number else ():
            file.check(which in index, "a symbol", which)
            found.append(Relocation(section, offset, index[which], 0, kind))
    return ObjectFile(
        "coff", COFF_MACHINES[machine], 32 if machine == 0x14C else 64, False,
        tuple(sections), tuple(symbols), tuple(found), None,
    )  # fmt: skip


def _symbols(
    file: Bytes, names: Bytes, table: int, count: int, sections: list[Section], merged: list[bool]
) -> tuple[list[Symbol], dict[int, int]]:
    """The symbols, and where in that list each entry of the table is (auxiliary entries are none)."""
    raw = file.part(table, 18 * count) if table else b""
    entries = Bytes(raw, file.what)
    symbols: list[Symbol] = []
    index: dict[int, int] = {}
    at = 0
    while table and at < count:
        zero, offset = entries.unpack("<II", 18 * at)
        value, home, form, storage, more = entries.unpack("<IhHBB", 18 * at + 8)
        text = names.text(offset) if zero == 0 else fixed_text(entries.take(18 * at, 8))
        section = home - 1 if home > 0 else None
        file.check(section is None or section < len(sections), f"one of {len(sections)} sections", home)
        kind: Kind = "other"
        if section is not None:
            file.check(value <= sections[section].size, "a symbol within its section", text)
            # a section's own symbol is a static one with an auxiliary entry about the section
            own = storage == _STATIC and more and text == sections[section].name
            kind = "section" if own else "function" if form == _FUNCTION else "data"
        # a constant that the linker merges with equal ones of other files (__real@3f800000) is no name of this one's
        shared = section is not None and merged[section] and not sections[section].writable
        outside = storage in (_EXTERNAL, _WEAK) and not shared
        index[at] = len(symbols)
        symbols.append(
            Symbol(text, kind, outside and section is not None, section, value, 0, outside and home == 0)
        )
        at += 1 + more
    return symbols, index
