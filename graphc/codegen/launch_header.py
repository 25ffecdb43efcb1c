"""The launch table as a C header, for hosts that are not Python: struct arrays, clean under C99 and C++11.

In: a `LaunchTable`. Out: text that declares what the program's arguments are, and each step with its places. A host
loads ``NAME.ptx``, gives every place an address, and goes through ``NAME_table`` with `graphc_perform`.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.launch_types import TYPES
from graphc.runtime.abi import ArrayInfo, identifier
from graphc.runtime.launches import (
    Branch,
    Carry,
    Copy,
    Launch,
    LaunchTable,
    Loop,
    Place,
    Step,
    all_steps,
    array_bytes,
)

_MEMORIES = {
    "input": "GRAPHC_INPUT",
    "output": "GRAPHC_OUTPUT",
    "arena": "GRAPHC_ARENA",
    "constant": "GRAPHC_CONSTANT",
    "port": "GRAPHC_PORT",
}
_NOWHERE = "{GRAPHC_INPUT, 0u}"


def launch_header(table: LaunchTable, name: str) -> str:
    """The C header of a program: ``NAME_table`` says all that a host needs beside the PTX and the constants.

    >>> from graphc.runtime.abi import ProgramInfo
    >>> print(launch_header(LaunchTable(ProgramInfo("f", (), (), 0), ()), "f").splitlines()[-4])
        NULL, NULL, NULL, NULL, NULL,
    """
    symbol = identifier(name)
    info = table.info
    lines: list[str] = []
    for kind, arrays in (("inputs", info.inputs), ("outputs", info.outputs)):
        lines += _arrays(symbol, kind, arrays)
    donations = [f"{{{i}u, {j}u}}" for i, j in info.donated]
    lines += _array("graphc_donation", f"{symbol}_donations", donations)
    writer = _Steps(symbol, table)
    steps = writer.steps(table.steps, f"{symbol}_steps")
    lines += _array("char *const", f"{symbol}_kernels", list(map(_string, writer.kernels)))
    lines += writer.lines
    counts = [len(a) for a in (info.inputs, info.outputs, info.donated, writer.kernels, table.steps)]
    parts = ("inputs", "outputs", "donations", "kernels")
    pointers = [f"{symbol}_{part}" if count else "NULL" for part, count in zip(parts, counts)]
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
            TYPES,
            *lines,
            f"static const graphc_launch_table {symbol}_table = {{",
            f"    {_string(symbol)}, {', '.join(f'{n}u' for n in counts)},",
            f"    {', '.join([*pointers, steps])},",
            f"    {table.arena_bytes}u, {len(table.constants)}u, {writer.ports}u, {writer.most_places}u}};",
            "",
            "#endif",
            "",
        ]
    )


class _Steps:
    """Writes the arrays of steps, those inside of loops and branches before the ones that name them."""

    def __init__(self, symbol: str, table: LaunchTable) -> None:
        self.symbol = symbol
        self.lines: list[str] = []
        self.kernels = list(dict.fromkeys(launch.kernel for launch in table.launches))
        self.ports = 0
        self.most_places = 2 if any(isinstance(s, Copy) for s in all_steps(table.steps)) else 0
        self._number = 0

    def steps(self, steps: Sequence[Step], name: str) -> str:
        """Writes these steps; gives the array's name, or NULL where there are none."""
        self.lines += _array("graphc_step", name, [self._step(step) for step in steps])
        return name if steps else "NULL"

    def _named(self, kind: str, name: str, entries: Sequence[str]) -> str:
        self.lines += _array(kind, name, entries)
        return name if entries else "NULL"

    def _step(self, step: Step) -> str:
        kernel, grid, block, shared, size, loc = 0, (0, 0, 0), (0, 0, 0), 0, 0, ""
        places: tuple[Place, ...] = ()
        loop = branch = "NULL"
        number, self._number = self._number, self._number + 1
        if isinstance(step, Launch):
            kind, kernel, loc = "GRAPHC_LAUNCH", self.kernels.index(step.kernel), step.loc
            grid, block, shared, places = step.grid, step.block, step.shared_bytes, step.arguments
        elif isinstance(step, Copy):
            kind, places, size = "GRAPHC_COPY", (step.source, step.target), step.bytes
        elif isinstance(step, Loop):
            kind, loop = "GRAPHC_LOOP", f"&{self._loop(step, number)}"
        else:
            kind, branch = "GRAPHC_BRANCH", f"&{self._branch(step, number)}"
        at = self._named("graphc_place", f"{self.symbol}_places{number}", list(map(_place, places)))
        self.most_places = max(self.most_places, len(places))
        sizes = ", ".join(f"{{{', '.join(f'{n}u' for n in dimensions)}}}" for dimensions in (grid, block))
        return f"{{{kind}, {kernel}u, {sizes}, {shared}u, {len(places)}u, {at}, {size}u, {loop}, {branch}, {_string(loc)}}}"

    def _loop(self, step: Loop, number: int) -> str:
        name = f"{self.symbol}_loop{number}"
        ports = [s.port for s in step.slices] + [p for c in step.carries for p in (c.reads, c.writes)]
        self.ports = max([self.ports, *(port + 1 for port in ports)])
        slices = [f"{{{s.port}u, {_place(s.place)}, {s.stride}u}}" for s in step.slices]
        at = self._named("graphc_slice", f"{name}_slices", slices)
        carried = self._named("graphc_carry", f"{name}_carries", list(map(_carry, step.carries)))
        condition = self.steps(step.condition, f"{name}_condition")
        steps = self.steps(step.steps, f"{name}_steps")
        counts = ", ".join(
            f"{len(part)}u" for part in (step.slices, step.carries, step.condition, step.steps)
        )
        flag = _NOWHERE if step.flag is None else _place(step.flag)
        whole = (
            f"{int(step.count is None)}u, {int(step.reverse)}u, {step.count or 0}u, {counts}, "
            f"{at}, {carried}, {condition}, {steps}, {flag}"
        )
        self.lines.append(f"static const graphc_loop {name} = {{{whole}}};")
        return name

    def _branch(self, step: Branch, number: int) -> str:
        name = f"{self.symbol}_branch{number}"
        yes, no = self.steps(step.yes, f"{name}_yes"), self.steps(step.no, f"{name}_no")
        whole = f"{_place(step.flag)}, {len(step.yes)}u, {len(step.no)}u, {yes}, {no}"
        self.lines.append(f"static const graphc_branch {name} = {{{whole}}};")
        return name


def _carry(carry: Carry) -> str:
    targets = [*map(_place, carry.targets), _NOWHERE, _NOWHERE][:2]
    return (
        f"{{{carry.reads}u, {carry.writes}u, {_place(carry.first)}, {_place(carry.last)}, {len(carry.targets)}u, "
        f"{{{', '.join(targets)}}}, {carry.bytes}u}}"
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
    return f"{{{_MEMORIES[place.memory]}, {place.at}u}}"


def _string(text: str) -> str:
    """A C string literal; any byte that is not plain ASCII is an octal escape, which no following digit can extend."""
    data = text.encode(errors="surrogateescape")
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in data)
    return f'"{"".join(plain)}"'
