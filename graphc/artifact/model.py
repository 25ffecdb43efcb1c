"""What an object file is, whatever its format: sections, symbols, relocations. And bytes that are read with care.

In: what the readers of this room find. Out: an `ObjectFile`, the same form for ELF, COFF, Mach-O and WebAssembly.
A file that says something impossible is an `ArtifactError`: every number of it is checked before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from graphc.errors import ArtifactError

_LONGEST_NAME = 4096  # bytes: a hostile table of names must not make large ones of few bytes

Format = Literal["elf", "coff", "macho", "wasm"]
Kind = Literal["function", "data", "section", "other"]


@dataclass(frozen=True)
class Section:
    """A part of the file that has a name. `data` is empty where memory is only zeroed; `size` is that in memory."""

    name: str
    address: int  # 0 until a linker has given it one
    size: int
    data: bytes
    loaded: bool
    writable: bool
    executable: bool


@dataclass(frozen=True)
class Symbol:
    """A name, as C spells it. `section` is an index into the file's sections, `offset` is within that section."""

    name: str
    kind: Kind
    visible: bool  # to a linker or a loader, as opposed to within the file alone
    section: int | None  # None: needed from elsewhere, or in no section
    offset: int
    size: int  # 0 where the format does not say
    undefined: bool


@dataclass(frozen=True)
class Relocation:
    """A place that the linker fills in: `offset` within section `section`, by the address of `symbol` (an index)."""

    section: int
    offset: int
    symbol: int
    addend: int
    kind: int  # as the format and the machine number them


@dataclass(frozen=True)
class ObjectFile:
    """What the reader of a format found. `linked`: a shared library, executable or final module, not a linker's input."""

    format: Format
    machine: str
    bits: int
    linked: bool
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]
    executable_stack: bool | None  # None where the format has no such mark

    @cached_property
    def undefined(self) -> list[str]:
        """The names that the file needs from elsewhere, sorted."""
        return sorted({s.name for s in self.symbols if s.undefined})

    @cached_property
    def visible(self) -> list[str]:
        """The names that the file gives to others, sorted."""
        return sorted({s.name for s in self.symbols if s.visible and not s.undefined})

    @cached_property
    def writable(self) -> list[str]:
        """The names of sections that are loaded, writable and not empty: global state, if there is any."""
        return sorted(s.name for s in self.sections if s.loaded and s.writable and s.size)

    def content(self, name: str) -> bytes | None:
        """The bytes of a defined symbol up to its size, or to the section's end where the format says no size."""
        for symbol in self.symbols:
            if symbol.name == name and symbol.section is not None:
                end = symbol.offset + symbol.size if symbol.size else None
                return self.sections[symbol.section].data[symbol.offset : end]
        return None


def damaged(what: str, expected: str, got: object) -> ArtifactError:
    return ArtifactError(f"{what}: expected {expected}, got {got}")


class Bytes:
    """The bytes of a file. What is asked for and not there is an `ArtifactError`.

    >>> Bytes(bytes([1, 2, 3, 4]), "object").unpack("<HH", 0)
    (513, 1027)
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what = data, what
        self._parts = 0

    def __len__(self) -> int:
        return len(self.data)

    def check(self, holds: bool, expected: str, got: object = "a damaged file") -> None:
        if not holds:
            raise damaged(self.what, expected, got)

    def take(self, at: int, size: int) -> bytes:
        self.check(
            at >= 0 and size >= 0 and at + size <= len(self.data),
            f"{size} bytes at {at}", f"a file of {len(self.data)} bytes",
        )  # fmt: skip
        return self.data[at : at + size]

    def part(self, at: int, size: int) -> bytes:
        """`take` for the large parts of a file, which do not overlap: a small file can't ask for much memory."""
        found = self.take(at, size)
        self._parts += size
        self.check(self._parts <= len(self.data), "parts that do not overlap")
        return found

    def unpack(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(at, struct.calcsize(layout)))

    def table(self, layout: str, at: int, count: int) -> list[tuple[int, ...]]:
        """`count` entries side by side, a part of the file."""
        return list(struct.iter_unpack(layout, self.part(at, count * struct.calcsize(layout))))

    def text(self, at: int) -> str:
        """The text that begins there and ends with a zero byte."""
        self.check(0 <= at < len(self.data), f"a name at {at}")
        end = self.data.find(b"\0", at, at + _LONGEST_NAME)
        self.check(end >= 0, f"the end of the name at {at}")
        return self.data[at:end].decode(errors="replace")


def fixed_text(raw: bytes) -> str:
    """A name in a field of fixed width."""
    return raw.partition(b"\0")[0].decode(errors="replace")
