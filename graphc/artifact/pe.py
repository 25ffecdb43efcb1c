"""PE: the linked libraries and programs of Windows, 64 bits.

In: bytes. Out: an `ObjectFile`, whose symbols are what the file exports and imports. Layout: Microsoft's PE format
specification.
"""

from __future__ import annotations

from graphc.artifact.coff import COFF_MACHINES
from graphc.artifact.model import Bytes, ObjectFile, Section, Symbol, fixed_text

_PLUS = 0x20B  # the 64-bit form
_CODE, _EXECUTE, _WRITE, _DISCARDABLE = 0x20, 0x20000000, 0x80000000, 0x02000000
_NO_EXECUTE = 0x100
_EXPORTS, _IMPORTS = 0, 1


def read_pe(data: bytes) -> ObjectFile:
    """The library or program in these bytes; raises `ArtifactError` where it is damaged or not 64-bit."""
    file = Bytes(data, "PE file")
    (start,) = file.unpack("<I", 60)
    _, machine, count, _, _, _, optional, _ = file.unpack("<IHHIIIHH", start)
    mark = file.take(start, 4)
    file.check(mark == b"PE\0\0" and machine in COFF_MACHINES, "an x86 or Arm program of Windows", mark)
    header = start + 24
    (magic,) = file.unpack("<H", header)
    file.check(magic == _PLUS, "a 64-bit program", f"{magic:#x}")
    (flags,) = file.unpack("<H", header + 70)
    (number,) = file.unpack("<I", header + 108)
    directories = [(0, 0), (0, 0)]
    for i in range(min(number, 2)):
        address, size = file.unpack("<II", header + 112 + 8 * i)
        directories[i] = (address, size)
    sections = []
    for i in range(count):
        at = header + optional + 40 * i
        size, address, stored, place = file.unpack("<IIII", at + 8)
        (kind,) = file.unpack("<I", at + 36)
        content = file.part(place, min(stored, size)) if place else b""
        # what a section needs beyond the file is zeroed; pieces are read by address, so the file's part is enough
        sections.append(
            Section(fixed_text(file.take(at, 8)), address, size, content, not kind & _DISCARDABLE,
                    bool(kind & _WRITE), bool(kind & (_CODE | _EXECUTE)))
        )  # fmt: skip
    image = _Image(file, sections)
    symbols = [*image.exports(*directories[_EXPORTS]), *image.imports(*directories[_IMPORTS])]
    return ObjectFile(
        "coff", COFF_MACHINES[machine], 64, True, tuple(sections), tuple(symbols), (), not flags & _NO_EXECUTE
    )


class _Image:
    """The sections as they stand in memory."""

    def __init__(self, file: Bytes, sections: list[Section]) -> None:
        self.file, self.sections = file, sections

    def place(self, address: int) -> tuple[int, int]:
        """The section that an address is in, and where in it."""
        for number, section in enumerate(self.sections):
            if section.address <= address < section.address + len(section.data):
                return number, address - section.address
        self.file.check(False, f"an address within the sections, {address:#x}")
        raise AssertionError

    def bytes(self, address: int) -> tuple[Bytes, int]:
        number, offset = self.place(address)
        return Bytes(self.sections[number].data, self.file.what), offset

    def text(self, address: int) -> str:
        part, at = self.bytes(address)
        return part.text(at)

    def exports(self, address: int, size: int) -> list[Symbol]:
        if not size:
            return []
        part, at = self.bytes(address)
        functions, names, table, name_table, ordinals = part.unpack("<IIIII", at + 20)
        addresses = self.numbers(table, functions, 4)
        found = []
        for name, ordinal in zip(
            self.numbers(name_table, names, 4), self.numbers(ordinals, names, 2), strict=True
        ):
            self.file.check(ordinal < len(addresses), f"one of {len(addresses)} exports", ordinal)
            section, offset = self.place(addresses[ordinal])
            kind = "function" if self.sections[section].executable else "data"
            found.append(Symbol(self.text(name), kind, True, section, offset, 0, False))  # type: ignore[arg-type]
        return found

    def imports(self, address: int, size: int) -> list[Symbol]:
        found: list[Symbol] = []
        for i in range(size // 20):
            part, at = self.bytes(address + 20 * i)
            lookup, _, _, library, table = part.unpack("<IIIII", at)
            if not library:
                break
            entries, at = self.bytes(lookup or table)
            while True:
                (entry,) = entries.unpack("<Q", at)
                if not entry:
                    break
                name = (
                    f"{self.text(library)}:{entry & 0xFFFF}"
                    if entry >> 63
                    else self.text((entry & 0x7FFFFFFF) + 2)
                )
                found.append(Symbol(name, "other", False, None, 0, 0, True))
                at += 8
        return found

    def numbers(self, address: int, count: int, width: int) -> list[int]:
        if not count:
            return []
        part, at = self.bytes(address)
        return [n for (n,) in part.table("<I" if width == 4 else "<H", at, count)]
