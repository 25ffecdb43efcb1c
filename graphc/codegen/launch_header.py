"""The launch table as a C header, for hosts that are not Python: struct arrays, clean under C99 and C++11.

In: a `LaunchTable`. Out: text that declares what the program's arguments are, and each step with its places. A host
loads ``NAME.ptx``, gives every place an address, and goes through ``NAME_steps`` in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import CompileError
from graphc.runtime.abi import ArrayInfo, identifier
from graphc.runtime.launches import Copy, Launch, LaunchTable, Place, array_bytes

_KINDS = {
    "input": "GRAPHC_INPUT",
    "output": "GRAPHC_OUTPUT",
    "arena": "GRAPHC_ARENA",
    "constant": "GRAPHC_CONSTANT",
}

# The same in the header of every program, and declared once where several are included.
_TYPES = """\
#ifndef GRAPHC_LAUNCH_TABLE_H
#define GRAPHC_LAUNCH_TABLE_H

enum graphc_memory { GRAPHC_INPUT, GRAPHC_OUTPUT, GRAPHC_ARENA, GRAPHC_CONSTANT };

/* Where a value is: the number of an input or output, or a byte offset in the arena or among the constants. */
typedef struct graphc_place {
    enum graphc_memory memory;
    uint64_t at;
} graphc_place;

/* A launch of a kernel, whose parameters are the 64-bit addresses of its places; or, where `kernel` is NULL, a copy of
   `bytes` bytes from places[0] to places[1]. `loc` is the line of the program that it comes from, or "". */
typedef struct graphc_step {
    const char *kernel;
    uint32_t grid[3], block[3], shared_bytes;
    uint32_t place_count;
    const graphc_place *places;
    uint64_t bytes;
    const char *loc;
} graphc_step;

/* An argument or output: `dtype` is NumPy's name of it. */
typedef struct graphc_array {
    const char *name, *dtype;
    uint64_t bytes;
    uint32_t rank;
    const uint64_t *shape;
} graphc_array;

/* The memory of this input becomes that of this output: pass one address for both. */
typedef struct graphc_donation {
    uint32_t input, output;
} graphc_donation;

typedef struct graphc_launch_table {
    const char *name;
    uint32_t input_count, output_count, donation_count, step_count;
    const graphc_array *inputs, *outputs;
    const graphc_donation *donations;
    const graphc_step *steps;
    uint64_t arena_bytes, constant_bytes; /* both to be aligned to 64 bytes */
} graphc_launch_table;

#endif
"""


def launch_header(table: LaunchTable, name: str) -> str:
    """The C header of a program: ``NAME_table`` says all that a host needs beside the PTX and the constants.

    >>> from graphc.runtime.abi import ProgramInfo
    >>> print(launch_header(LaunchTable(ProgramInfo("f", (), (), 0), ()), "f").splitlines()[-3])
        NULL, NULL, NULL, NULL, 0u, 0u};
    """
    symbol = identifier(name)
    info = table.info
    lines: list[str] = []
    for kind, arrays in (("inputs", info.inputs), ("outputs", info.outputs)):
        lines += _arrays(symbol, kind, arrays)
    donations = [f"{{{i}u, {j}u}}" for i, j in info.donated]
    lines += _array("graphc_donation", f"{symbol}_donations", donations)
    steps = []
    for number, step in enumerate(table.steps):
        if not isinstance(step, (Launch, Copy)):
            raise CompileError(f"{name}: expected launches and copies for a C host, got a loop or branch")
        places = step.arguments if isinstance(step, Launch) else (step.source, step.target)
        lines += _array("graphc_place", f"{symbol}_places{number}", list(map(_place, places)))
        at = f"{symbol}_places{number}" if places else "NULL"
        if isinstance(step, Launch):
            grid, block = (f"{{{', '.join(f'{n}u' for n in size)}}}" for size in (step.grid, step.block))
            steps.append(
                f"{{{_string(step.kernel)}, {grid}, {block}, {step.shared_bytes}u, {len(places)}u, {at}, 0u, "
                f"{_string(step.loc)}}}"
            )
        else:
            steps.append(f'{{NULL, {{0u, 0u, 0u}}, {{0u, 0u, 0u}}, 0u, 2u, {at}, {step.bytes}u, ""}}')
    lines += _array("graphc_step", f"{symbol}_steps", steps)
    counts = [len(info.inputs), len(info.outputs), len(info.donated), len(table.steps)]
    parts = zip(("inputs", "outputs", "donations", "steps"), counts)
    pointers = ", ".join(f"{symbol}_{part}" if count else "NULL" for part, count in parts)
    guard = f"GRAPHC_{symbol.upper()}_LAUNCHES_H"
    return "\n".join(
        [
            f"/* {symbol}: the launch table of {symbol}.ptx. Written by graphc. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stddef.h>",
            "#include <stdint.h>",
            "",
            _TYPES,
            *lines,
            f"static const graphc_launch_table {symbol}_table = {{",
            f"    {_string(symbol)}, {', '.join(f'{n}u' for n in counts)},",
            f"    {pointers}, {table.arena_bytes}u, {len(table.constants)}u}};",
            "",
            "#endif",
            "",
        ]
    )


def _arrays(symbol: str, kind: str, arrays: Sequence[ArrayInfo]) -> list[str]:
    lines, entries = [], []
    for number, array in enumerate(arrays):
        shape = f"{symbol}_{kind}{number}_shape"
        lines += _array("uint64_t", shape, [f"{n}u" for n in array.shape])
        at = shape if array.shape else "NULL"
        entries.append(
            f"{{{_string(array.name)}, {_string(array.dtype)}, {array_bytes(array)}u, {len(array.shape)}u, {at}}}"
        )
    return [*lines, *_array("graphc_array", f"{symbol}_{kind}", entries)]


def _array(kind: str, name: str, entries: Sequence[str]) -> list[str]:
    """A constant array; C has none without elements."""
    if not entries:
        return []
    one_line = f"static const {kind} {name}[] = {{{', '.join(entries)}}};"
    if len(one_line) <= 120:
        return [one_line]
    return [f"static const {kind} {name}[] = {{", *(f"    {entry}," for entry in entries), "};"]


def _place(place: Place) -> str:
    return f"{{{_KINDS[place.memory]}, {place.at}u}}"


def _string(text: str) -> str:
    """A C string literal; any byte that is not plain ASCII is an octal escape, which no following digit can extend."""
    data = text.encode(errors="surrogateescape")
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in data)
    return f'"{"".join(plain)}"'
