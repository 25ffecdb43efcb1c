"""Archives of objects (`ar`), as linkers take them: members and their names, in the forms of GNU, BSD and LLVM.

In: bytes. Out: the members in order, without the archive's own tables.
"""

from __future__ import annotations

from graphc.artifact.model import Bytes

MAGIC = b"!<arch>\n"
_HEADER = 60


def read_archive(data: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of each member; raises `ArtifactError` where the archive is damaged.

    >>> read_archive(MAGIC + b"a.o/".ljust(48) + b"2".ljust(10) + b"`" + bytes([10]) + b"hi")
    [('a.o', b'hi')]
    """
    file = Bytes(data, "archive")
    file.check(file.take(0, len(MAGIC)) == MAGIC, "an archive")
    members: list[tuple[str, bytes]] = []
    long_names = Bytes(b"", file.what)
    at = len(MAGIC)
    while at < len(data):
        header = file.take(at, _HEADER)
        file.check(header[58:60] == b"`\n", f"a member's header at {at}")
        digits = header[48:58].strip()
        file.check(digits.isdigit(), "the size of a member", digits)
        size = int(digits)
        content = file.take(at + _HEADER, size)
        name = header[:16].decode(errors="replace").rstrip()
        at += _HEADER + size + size % 2
        if name in ("/", "/SYM64/"):  # tables of symbols
            continue
        if name == "//":
            long_names = Bytes(content.replace(b"/\n", b"\0\0") + b"\0", file.what)
            continue
        if name.startswith("#1/") and name[3:].isdigit():  # BSD: the name stands before the content
            length = int(name[3:])
            file.check(length <= size, "a member's name within the member", length)
            name, content = content[:length].rstrip(b"\0").decode(errors="replace"), content[length:]
            if name.startswith("__.SYMDEF"):
                continue
        elif name.startswith("/") and name[1:].isdigit():
            name = long_names.text(int(name[1:]))
        members.append((name.removesuffix("/"), content))
    return members
