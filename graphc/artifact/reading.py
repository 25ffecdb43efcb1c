"""One way in for all formats.

In: the bytes of a file. Out: its objects.
"""

from __future__ import annotations

from graphc.artifact.archive import MAGIC, read_archive
from graphc.artifact.coff import COFF_MACHINES, read_coff
from graphc.artifact.elf import read_elf
from graphc.artifact.macho import read_macho
from graphc.artifact.model import ObjectFile, damaged
from graphc.artifact.pe import read_pe
from graphc.artifact.wasm import read_wasm


def read_object(data: bytes) -> ObjectFile:
    """The object, library or module in these bytes.

    Raises `ArtifactError` for anything else, and where it is damaged.

    >>> read_object(bytes([0x64, 0x86, *[0] * 18])).machine
    'x86_64'
    """
    if data[:4] == b"\x7fELF":
        return read_elf(data)
    if data[:4] == b"\0asm":
        return read_wasm(data)
    if data[:4] == b"\xcf\xfa\xed\xfe":
        return read_macho(data)
    if data[:2] == b"MZ":
        return read_pe(data)
    if len(data) >= 20 and int.from_bytes(data[:2], "little") in COFF_MACHINES:
        return read_coff(data)
    raise damaged(
        "object", "an ELF, COFF, PE, Mach-O or WebAssembly file", f"bytes that begin with {data[:8]!r}"
    )


def members(data: bytes) -> list[tuple[str, bytes]]:
    """The members of an archive with their names, or the one file with an empty name.

    >>> members(b"not an archive")
    [('', b'not an archive')]
    """
    return read_archive(data) if data[: len(MAGIC)] == MAGIC else [("", data)]
