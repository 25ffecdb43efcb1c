"""What the instructions of Arm's microcontrollers do to the stack.

In: instructions. Out: effects. Any instruction may be conditional; one that moves the stack may not.
"""

from __future__ import annotations

import re

from graphc.artifact import disassembler
from graphc.artifact.machine import Effect, Instruction, Machine, State, number, operands, refused
from graphc.artifact.model import Relocation
from graphc.errors import ArtifactError

_CONDITIONS = ["eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "cs", "cc"]


class Thumb(Machine):
    name = "Thumb"

    def decode(self, code: bytes, at: int) -> disassembler.Decoded:
        return disassembler.thumb(code, at)

    def step(self, i: Instruction, state: State) -> Effect:
        m, parts = i.mnemonic.removesuffix(".w"), operands(i.text)
        listed = re.findall(r"[a-z]+\d*", i.text[i.text.find("{") :]) if "{" in i.text else []
        if m in ("bl", "blx"):
            return Effect(state, calls=True, target=number(parts[0]), relocated_at=i.at)
        if m in ("cbz", "cbnz"):
            return Effect(state, jumps=True, target=number(parts[-1]), relocated_at=i.at)
        if m in ("tbb", "tbh"):
            raise ArtifactError(f"expected a jump to a known place, got {i}")
        if m in ("udf", "bkpt"):
            return Effect(state, falls_through=False)
        base, condition = (m[:-2], m[-2:]) if m[-2:] in _CONDITIONS and m not in ("cs",) else (m, "")
        if base == "b":
            return Effect(
                state, jumps=True, falls_through=bool(condition), target=number(parts[0]), relocated_at=i.at
            )
        if base == "bx":
            if parts != ["lr"]:
                raise ArtifactError(f"expected a return, got {i}")
            return self._returned(state, state.depth, condition)
        if base in ("pop", "vpop"):
            depth = state.depth - _register_bytes(i.text)
            if "pc" in listed:
                return self._returned(state, depth, condition)
            if condition:
                raise refused(i)
            return Effect(state.with_depth(depth).without(*listed))
        if base in ("push", "vpush"):
            if condition:
                raise refused(i)
            return Effect(state.with_depth(state.depth + _register_bytes(i.text)))
        return self._plain(i, base, condition, parts, listed, state)

    def _returned(self, state: State, depth: int, condition: str) -> Effect:
        if depth:
            raise ArtifactError(f"expected a return at the depth of entry, got one at {depth}")
        return Effect(state, falls_through=bool(condition))

    def _plain(
        self, i: Instruction, m: str, condition: str, parts: list[str], listed: list[str], state: State
    ) -> Effect:  # fmt: skip
        for position, part in enumerate(parts):
            if part == "sp!" or (
                part.startswith("[sp") and (part.endswith("!") or len(parts) > position + 1)
            ):
                return Effect(self._with_access(i, m, condition, parts, position, listed, state))
        if m.startswith(("st", "vst", "cmp", "tst", "cmn", "pld", "it", "nop", "dmb", "vcmp")):
            return Effect(state)
        if m.startswith(("ld", "vld")):
            written = [p for p in parts if not p.startswith(("[", "{"))] + listed
            if "pc" in written or "sp" in written:
                raise refused(i)
            return Effect(state.without(*written))
        kind = m.removesuffix("s") if m in ("adds", "subs", "movs") else m.removesuffix("w")
        to = parts[0] if parts else ""
        after = state.without(to)
        if condition:
            if to in ("sp", "pc"):
                raise refused(i)
            return Effect(after)
        source = parts[1] if len(parts) == 3 or (kind == "mov" and len(parts) == 2) else to
        depth = state.depth if source == "sp" else state.pointer(source)
        value = number(parts[-1])
        if value is None and parts and kind in ("add", "sub"):
            value = state.constant(parts[-1])
        if kind in ("add", "sub") and depth is not None and value is not None:
            depth += value if kind == "sub" else -value
            return Effect(after.with_depth(depth) if to == "sp" else after.holding(to, True, depth))
        if kind in ("mov", "movt"):
            if depth is not None and kind == "mov" and number(parts[-1]) is None:
                return Effect(after.with_depth(depth) if to == "sp" else after.holding(to, True, depth))
            literal = number(parts[-1])
            if literal is not None and to != "sp":
                low = 0 if kind == "mov" else (state.constant(to) or 0) & 0xFFFF
                return Effect(after.holding(to, False, literal if kind == "mov" else low | literal << 16))
        if m == "bfc" and (held := state.pointer(to)) is not None and number(parts[1]) == 0:
            step = 1 << (number(parts[2]) or 0)
            return Effect(after.holding(to, True, held + step - 1))
        if to in ("sp", "pc"):
            raise refused(i)
        return Effect(after)

    def _with_access(
        self, i: Instruction, m: str, condition: str, parts: list[str], position: int, listed: list[str], state: State
    ) -> State:  # fmt: skip
        """An access that moves the stack pointer too."""
        part = parts[position]
        if condition or "pc" in listed or "pc" in parts:
            raise refused(i)
        if part == "sp!":
            size = _register_bytes(i.text)
            down = m.startswith(("stm", "vstm")) and m.endswith("db")
            up = m.startswith(("ldm", "vldm")) and not m.endswith("db")
            if not (down or up):
                raise refused(i)
            return state.with_depth(state.depth + (size if down else -size)).without(
                *([] if down else listed)
            )
        inner = operands(part.rstrip("!")[1:-1])
        value = number(inner[1]) if part.endswith("!") and len(inner) > 1 else number(parts[-1])
        if value is None:
            raise refused(i)
        written = [] if m.startswith("st") else parts[:position]
        return state.with_depth(state.depth - value).without(*written)

    def addend(self, format: str, relocation: Relocation, i: Instruction, effect: Effect) -> int:
        return (effect.target or 0) - i.at  # in the instruction itself


def _register_bytes(text: str) -> int:
    """The bytes of a list of registers.

    >>> _register_bytes("{r4, lr}"), _register_bytes("{d8, d9}")
    (8, 16)
    """
    names = re.findall(r"[a-z]+\d*", text[text.find("{") :])
    return sum(8 if name[0] == "d" else 4 for name in names)
