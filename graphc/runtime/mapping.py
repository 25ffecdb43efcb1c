"""Object files to addresses without a linker: sections are mapped, relocations applied, pages made executable.

In: the bytes of an ELF object for x86-64 Linux. Out: a `MappedObject`, or `None` for what only a real linker knows:
other machines, writable or thread-local data, relocations beyond those that code and constants of one object need.

No page is ever writable and executable at the same time. Every number of the file is checked before it is used: a
damaged object is an `ArtifactError`, never a wild access. Layout: System V ABI, chapters 4 and 5; its AMD64 supplement.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Sequence

from graphc.errors import ArtifactError, CompileError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_RELOCATABLE, _X86_64 = 1, 62
_PROGBITS, _SYMBOLS, _RELA, _REL = 1, 2, 4, 9
_WRITE, _ALLOC, _EXECUTE, _THREAD_LOCAL = 0x1, 0x2, 0x4, 0x400
_RESERVED = 0xFF00  # section numbers from here on are none
_ABSOLUTE_64, _RELATIVE_32, _CALL_32 = (
    1,
    2,
    4,
)  # S + A; S + A - P, which a call of the object's own code has too


class MappedObject:
    """Machine code in this process; dropping it unmaps the code."""

    def __init__(self, memory: mmap.mmap, start: int, symbols: dict[str, int]) -> None:
        self._memory = memory
        self.start, self.bytes = start, len(memory)
        self._symbols = symbols

    def address(self, symbol: str) -> int:
        """The address of a function or constant of the object; raises `CompileError` where it has none of that name."""
        if symbol not in self._symbols:
            raise CompileError(f"object: expected a symbol {symbol!r}, got none of that name")
        return self._symbols[symbol]


def map_object(data: bytes) -> MappedObject | None:
    """The object in this process; `None` where it has something that needs LLVM's linker.

    Raises `ArtifactError` for a damaged one.

    >>> map_object(b"not an object") is None
    True
    """
    here = sys.platform.startswith("linux") and platform.machine() == "x86_64"
    if not here or data[:7] != b"\x7fELF\2\1\1":
        return None
    return _Reader(data).mapped()


class _Reader:
    """One object file on its way to memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        header = self.unpack(_HEADER, 0)
        self.kind, self.machine = header[1], header[2]
        table, entry, count = header[6], header[11], header[12]
        self.check(count == 0 or entry == _SECTION.size, "the entries of its section table")
        self.sections = [self.unpack(_SECTION, table + i * entry) for i in range(count)]

    def unpack(self, layout: struct.Struct, at: int) -> tuple[int, ...]:
        self.check(0 <= at <= len(self.data) - layout.size, f"{layout.size} bytes at {at}")
        return layout.unpack_from(self.data, at)

    def check(self, holds: bool, expected: str) -> None:
        if not holds:
            raise ArtifactError(f"object: expected {expected}, got a damaged file of {len(self.data)} bytes")

    def content(self, number: int) -> bytes:
        """The bytes of a section in the file."""
        _, _, _, _, offset, size, *_ = self.sections[number]
        self.check(offset + size <= len(self.data), f"section {number} in the file")
        return self.data[offset : offset + size]

    def table(self, number: int, layout: struct.Struct) -> list[tuple[int, ...]]:
        """The entries of a section that is a table."""
        content = self.content(number)
        whole = self.sections[number][9] == layout.size and len(content) % layout.size == 0
        self.check(whole, f"a table of {layout.size}-byte entries in section {number}")
        return list(layout.iter_unpack(content))

    def mapped(self) -> MappedObject | None:
        if (self.kind, self.machine) != (_RELOCATABLE, _X86_64):
            return None
        # code first, then constants on pages of their own
        parts = [i for i, s in enumerate(self.sections) if s[2] & _ALLOC and s[5]]
        for i in parts:
            _, kind, flags, _, _, _, _, _, alignment, _ = self.sections[i]
            if kind != _PROGBITS or flags & (_WRITE | _THREAD_LOCAL) or alignment > mmap.PAGESIZE:
                return None
            self.check(alignment & (alignment - 1) == 0, f"a power of two as the alignment of section {i}")
        places: dict[int, int] = {}
        end = 0
        spans: list[tuple[int, int, int]] = []
        for executable, protection in ((True, mmap.PROT_READ | mmap.PROT_EXEC), (False, mmap.PROT_READ)):
            start = end = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
            for i in parts:
                if bool(self.sections[i][2] & _EXECUTE) == executable:
                    end = -(-end // max(self.sections[i][8], 1)) * max(self.sections[i][8], 1)
                    places[i] = end
                    end += len(self.content(i))
            if end > start:
                spans.append((start, end - start, protection))
        if not end:
            return None
        memory = mmap.mmap(-1, end, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for i, place in places.items():
            memory[place : place + self.sections[i][5]] = self.content(i)
        if not self.relocate(memory, base, places):
            return None
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, size, protection in spans:
            if protect(base + start, size, protection):
                return None  # a system that forbids it; LLVM may know another way
        return MappedObject(memory, base, self.shown(base, places))

    def relocate(self, memory: mmap.mmap, base: int, places: dict[int, int]) -> bool:
        """Applies all relocations of what is mapped; False where one is of another kind."""
        for number, section in enumerate(self.sections):
            _, kind, _, _, _, _, link, target, _, _ = section
            if kind == _REL and target in places:
                return False
            if kind != _RELA or target not in places:
                continue
            self.check(link < len(self.sections), f"the symbols of section {number}")
            symbols = self.table(link, _SYMBOL)
            for offset, info, addend in self.table(number, _RELOCATION):
                kind, which = info & 0xFFFFFFFF, info >> 32
                if kind not in (_ABSOLUTE_64, _RELATIVE_32, _CALL_32):
                    return False
                width = 8 if kind == _ABSOLUTE_64 else 4
                self.check(
                    offset + width <= self.sections[target][5], f"a relocation within section {target}"
                )
                self.check(which < len(symbols), f"symbol {which} of a relocation")
                address = self.address(symbols[which], base, places)
                if address is None:
                    return False
                at = places[target] + offset
                if kind == _ABSOLUTE_64:
                    memory[at : at + 8] = (address + addend & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
                else:
                    distance = address + addend - (base + at)
                    self.check(-(1 << 31) <= distance < 1 << 31, "a distance of 32 bits in a relocation")
                    memory[at : at + 4] = distance.to_bytes(4, "little", signed=True)
        return True

    def address(self, symbol: Sequence[int], base: int, places: dict[int, int]) -> int | None:
        """Where a symbol is; `None` if it is not in the object."""
        _, _, _, section, value, _ = symbol
        if section == 0 or section >= _RESERVED:
            return None
        self.check(section < len(self.sections), f"section {section} of a symbol")
        if section not in places:
            return None
        self.check(value <= self.sections[section][5], f"a symbol within section {section}")
        return base + places[section] + value

    def shown(self, base: int, places: dict[int, int]) -> dict[str, int]:
        """The addresses of the symbols that are global."""
        found: dict[str, int] = {}
        for number, section in enumerate(self.sections):
            if section[1] != _SYMBOLS:
                continue
            self.check(section[6] < len(self.sections), f"the names of section {number}")
            names = self.content(section[6])
            for symbol in self.table(number, _SYMBOL):
                address = self.address(symbol, base, places) if symbol[1] >> 4 else None
                if address is not None:
                    stop = names.find(b"\0", symbol[0])
                    self.check(
                        symbol[0] < len(names) and stop >= 0, f"the name of a symbol of section {number}"
                    )
                    found[names[symbol[0] : stop].decode(errors="replace")] = address
        return found
