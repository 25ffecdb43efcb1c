"""What the instructions of aarch64 do to the stack.

In: instructions. Out: effects.
"""

from __future__ import annotations

import re

from graphc.artifact import disassembler
from graphc.artifact.machine import Effect, Instruction, Machine, State, number, operands, refused
from graphc.errors import ArtifactError


class Arm64(Machine):
    name = "aarch64"

    def decode(self, code: bytes, at: int) -> disassembler.Decoded:
        return disassembler.arm64(code, at)

    def step(self, i: Instruction, state: State) -> Effect:
        m, parts = i.mnemonic, operands(i.text)
        if m == "ret":
            if state.depth:
                raise ArtifactError(f"expected a return at the depth of entry, got one at {state.depth}")
            return Effect(state, falls_through=False)
        if m in ("brk", "udf", "hlt"):
            return Effect(state, falls_through=False)
        if m in ("bl", "blr"):
            return Effect(state, calls=True, target=number(parts[0]), relocated_at=i.at)
        if m in ("b", "br") or m.startswith("b."):
            return Effect(
                state,
                jumps=True,
                falls_through=m.startswith("b."),
                target=number(parts[0]),
                relocated_at=i.at,
            )
        if m in ("cbz", "cbnz", "tbz", "tbnz"):
            return Effect(state, jumps=True, target=number(parts[-1]), relocated_at=i.at)
        names = ["x" + p[1:] if re.fullmatch(r"w\d+", p) else p for p in parts]
        return self._plain(i, m, names, state)

    def _plain(self, i: Instruction, m: str, parts: list[str], state: State) -> Effect:
        deepest = 0
        moved = None
        for position, part in enumerate(parts):
            if not part.startswith("[sp"):
                continue
            inner = operands(part.rstrip("!")[1:-1])
            offset = (number(inner[1]) or 0) if len(inner) > 1 else 0
            if part.endswith("!"):  # the pointer moves, then the access
                if len(inner) < 2 or number(inner[1]) is None:
                    raise refused(i)
                moved = state.depth - offset
            elif len(parts) > position + 1:  # the access, then the pointer moves
                value = number(parts[position + 1])
                if value is None:
                    raise refused(i)
                moved = state.depth - value
            elif offset < 0:
                deepest = state.depth - offset
        if m.startswith(("st", "prfm", "cmp", "tst", "cmn", "ccmp")):
            return Effect(state if moved is None else state.with_depth(moved), deepest)
        written = [p for p in parts if not p.startswith("[")] if m.startswith("ld") else parts[:1]
        if m.startswith("ld"):
            if "sp" in written:
                raise refused(i)
            after = state.without(*written)
            return Effect(after if moved is None else after.with_depth(moved), deepest)
        if ("sp" in parts and m in ("sub", "add", "mov", "and")) or parts[:1] == ["sp"]:
            return Effect(self._moved(i, m, parts, state), deepest)
        after = state.without(*written)
        if m in ("sub", "add") and len(parts) >= 3 and (depth := state.pointer(parts[1])) is not None:
            value = _shifted(parts[2:])
            if value is not None:
                after = after.holding(parts[0], True, depth + (value if m == "sub" else -value))
        return Effect(after, deepest)

    def _moved(self, i: Instruction, m: str, parts: list[str], state: State) -> State:
        """The stack pointer is read into a register or changed."""
        source = parts[1] if len(parts) > 1 else ""
        depth = state.depth if source == "sp" else state.pointer(source)
        if depth is None:
            raise refused(i)
        value = _shifted(parts[2:])
        if m == "mov" and len(parts) == 2:
            value = 0
        elif m == "and" and value is not None and parts[0] == "sp":
            return self.rounded(state, depth, value, 64)
        elif m not in ("sub", "add") or value is None:
            if parts[0] == "sp":
                raise refused(i)
            return state.without(parts[0])
        depth += value if m == "sub" else -value
        return state.with_depth(depth) if parts[0] == "sp" else state.holding(parts[0], True, depth)


def _shifted(parts: list[str]) -> int | None:
    """An immediate with the shift that may follow it."""
    value = number(parts[0]) if parts else None
    if value is None or len(parts) == 1:
        return value
    found = re.fullmatch(r"lsl #(\d+)", parts[1])
    return value << int(found.group(1)) if found else None
