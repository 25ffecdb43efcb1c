"""ELF: what gcc, clang and their linkers write for Linux and for bare machines; 32 and 64 bits, little-endian.

In: bytes. Out: an `ObjectFile`. Layout: System V ABI (generic), chapters 4 and 5, and the processors' supplements.
"""

from __future__ import annotations

from graphc.artifact.model import Bytes, Kind, ObjectFile, Relocation, Section, Symbol, damaged

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_ARM = 40
_RELOCATABLE, _SHARED, _EXECUTABLE = 1, 3, 2
_SYMBOLS, _RELA, _NOBITS, _REL, _DYNAMIC_SYMBOLS = 2, 4, 8, 9, 11
_WRITE, _ALLOC, _CODE = 1, 2, 4
_KINDS: dict[int, Kind] = {0: "other", 1: "data", 2: "function", 3: "section", 10: "function"}
_HIDDEN = (1, 2)  # internal and hidden
_ABSOLUTE, _RESERVED = 0xFFF1, 0xFF00
_STACK_SEGMENT, _SEGMENT_EXECUTABLE = 0x6474E551, 1
_THREAD_LOCAL = 0x400


def read_elf(data: bytes) -> ObjectFile:
    """The object in these bytes; raises `ArtifactError` where it is damaged or big-endian."""
    file = Bytes(data, "ELF object")
    ident = file.take(0, 16)
    if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] != 1:
        raise damaged("ELF object", "a little-endian ELF file", f"bytes that begin with {data[:8]!r}")
    wide = ident[4] == 2
    header = file.unpack("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", 16)
    kind, machine, _, _, segments, table, _, _, segment_bytes, segment_count, entry, count, names = header
    file.check(
        kind in (_RELOCATABLE, _EXECUTABLE, _SHARED), "an object, executable or library", f"type {kind}"
    )
    layout = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
    file.check(count == 0 or entry == (64 if wide else 40), "the size of a section header", entry)
    headers = file.table(layout, table, count)
    file.check(count == 0 or names < count, "the section of the names", names)

    parts: dict[int, Bytes] = {}

    def part(number: int) -> Bytes:
        """A section's bytes in the file."""
        file.check(number < count, f"one of {count} sections", number)
        if number not in parts:
            _, form, _, _, offset, size, *_ = headers[number]
            parts[number] = Bytes(b"" if form == _NOBITS else file.part(offset, size), file.what)
        return parts[number]

    sections = []
    titles = part(names) if count else file
    for number, (title, form, flags, address, _, size, *_) in enumerate(headers):
        # only what is loaded is looked at by anyone; a debugger's sections may be large
        sections.append(
            Section(
                titles.text(title) if form else "", address, size,
                part(number).data if flags & _ALLOC else b"", bool(flags & _ALLOC),
                bool(flags & (_WRITE | _THREAD_LOCAL)), bool(flags & _CODE),
            )
        )  # fmt: skip
    tables = [i for i, h in enumerate(headers) if h[1] == _SYMBOLS]
    if kind != _RELOCATABLE:  # what a loader sees counts; a stripped library has nothing else
        tables = [i for i, h in enumerate(headers) if h[1] == _DYNAMIC_SYMBOLS] + tables
    symbols: list[Symbol] = []
    first: dict[int, int] = {}  # of each table, its first symbol's index in `symbols`
    for number in tables:
        first[number] = len(symbols)
        own = headers[number][1] == (_SYMBOLS if kind == _RELOCATABLE else _DYNAMIC_SYMBOLS)
        symbols += _symbols(part(number), part(headers[number][6]), wide, machine, own, sections)
    name = _MACHINES.get(machine, f"ELF machine {machine}")
    if machine == _ARM and any(_in_arm_state(Bytes(part(number).data, file.what)) for number in tables):
        name = "arm (A32)"
    relocations = []
    for number, (_, form, _, _, _, _, link, target, *_) in enumerate(headers):
        if kind != _RELOCATABLE or form not in (_RELA, _REL) or link not in first:
            continue
        file.check(target < count, f"one of {count} sections", target)
        entries, known = part(number), len(symbols) - first[link]
        for offset, which, relocation, addend in _relocations(entries, wide, form == _RELA):
            file.check(which < known, f"one of {known} symbols", which)
            relocations.append(Relocation(target, offset, first[link] + which, addend, relocation))
    return ObjectFile(
        "elf", name, 64 if wide else 32, kind != _RELOCATABLE,
        tuple(sections), tuple(symbols), tuple(relocations),
        _executable_stack(file, wide, kind, headers, sections, (segments, segment_bytes, segment_count)),
    )  # fmt: skip


def _in_arm_state(entries: Bytes) -> bool:
    """Whether any function of an Arm file is of the instruction set whose addresses are even."""
    symbols = entries.table("<IIIBBH", 0, len(entries) // 16)
    return any(info & 15 == 2 and home and not value & 1 for _, value, _, info, _, home in symbols)


def _symbols(
    entries: Bytes, names: Bytes, wide: bool, machine: int, own: bool, sections: list[Section]
) -> list[Symbol]:
    """`own`: this table is what others link against."""
    size = 24 if wide else 16
    entries.check(len(entries) % size == 0, f"a table of {size}-byte symbols", f"{len(entries)} bytes")
    found = []
    for fields in entries.table("<IBBHQQ" if wide else "<IIIBBH", 0, len(entries) // size):
        if wide:
            name, info, other, home, value, length = fields
        else:
            name, value, length, info, other, home = fields
        kind = _KINDS.get(info & 15, "other")
        if machine == _ARM and kind == "function":
            value &= ~1  # the lowest bit says that it is Thumb code
        section = home if 0 < home < _RESERVED else None
        entries.check(section is None or section < len(sections), f"one of {len(sections)} sections", home)
        text = names.text(name) if name else ""
        if section is not None:
            value -= sections[section].address
            entries.check(0 <= value <= sections[section].size, "a symbol within its section", text)
            if kind == "section":
                text = sections[section].name
        bound = info >> 4 != 0 and own and other & 3 not in _HIDDEN
        found.append(
            Symbol(text, kind, bound and (section is not None or home == _ABSOLUTE), section, value, length,
                   own and home == 0 and bool(text) and info >> 4 != 0)
        )  # fmt: skip
    return found


def _relocations(entries: Bytes, wide: bool, explicit: bool) -> list[tuple[int, int, int, int]]:
    """(offset, symbol, kind, addend) of each entry; an implicit addend is in the place that it patches."""
    layout = {(True, True): "<QQq", (True, False): "<QQ", (False, True): "<IIi", (False, False): "<II"}
    form = layout[wide, explicit]
    size = {"<QQq": 24, "<QQ": 16, "<IIi": 12, "<II": 8}[form]
    entries.check(len(entries) % size == 0, f"a table of {size}-byte relocations", f"{len(entries)} bytes")
    shift, mask = (32, 0xFFFFFFFF) if wide else (8, 0xFF)
    return [
        (offset, info >> shift, info & mask, rest[0] if rest else 0)
        for offset, info, *rest in entries.table(form, 0, len(entries) // size)
    ]


def _executable_stack(
    file: Bytes, wide: bool, kind: int, headers: list[tuple[int, ...]], sections: list[Section],
    segments: tuple[int, int, int],
) -> bool | None:  # fmt: skip
    """Whether linking or loading the file makes stacks executable; None on machines without the mark."""
    if kind == _RELOCATABLE:
        flags = [h[2] for h, s in zip(headers, sections, strict=True) if s.name == ".note.GNU-stack"]
        # what a missing note means is each linker's own choice
        return bool(flags[0] & _CODE) if flags else None
    start, size, count = segments
    layout = "<IIQQQQQQ" if wide else "<IIIIIIII"
    file.check(count == 0 or size == (56 if wide else 32), "the size of a segment header", size)
    for fields in file.table(layout, start, count):
        if fields[0] == _STACK_SEGMENT:
            return bool(fields[1 if wide else 6] & _SEGMENT_EXECUTABLE)
    return None
