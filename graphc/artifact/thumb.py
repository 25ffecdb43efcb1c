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
        if base.startswith(("ld", "vld", "st", "vst", "pld")):
            return self._access(i, base, condition, parts, listed, state)
        return self._plain(i, base, condition, parts, state)

    def _returned(self, state: State, depth: int, condition: str) -> Effect:
        if depth:
            raise ArtifactError(f"expected a return at the depth of entry, got one at {depth}")
        return Effect(state, falls_through=bool(condition))

    def _access(
        self, i: Instruction, m: str, condition: str, parts: list[str], listed: list[str], state: State
    ) -> Effect:  # fmt: skip
        """A load or store: `ldm r0!, {r1, r2}`, `ldr r1, [r0, #4]!` or `ldr r1, [r0], #4`, without writing back too."""
        if listed:
            size = _register_bytes(i.text)
            base, back, offset = parts[0].rstrip("!"), "!" in parts[0], -size if m.endswith("db") else size
            below = -offset if m.endswith("db") and not back else 0
            named = listed
        else:
            place = next((n for n, part in enumerate(parts) if part.startswith("[")), None)
            if place is None:
                raise refused(i)
            inner, behind = operands(parts[place].rstrip("!")[1:-1]), parts[place + 1 :]
            base, back, named = inner[0], "!" in parts[place] or bool(behind), parts[:place]
            steps = behind or inner[1:]
            moved = number(steps[0]) if len(steps) == 1 else None if steps else 0
            if moved is None and back:
                raise refused(i)
            offset = moved or 0
            below = 0 if back else max(-offset, 0)
        written = named if m.startswith(("ld", "vld")) else named[:1] if m.startswith("strex") else []
        if "pc" in written or "sp" in written or (back and base == "sp" and condition):
            raise refused(i)
        after = state.without(*written)
        if back:
            after = after.with_depth(state.depth - offset) if base == "sp" else after.without(base)
        return Effect(after, deepest=state.depth + below if below and base == "sp" else 0)

    def _plain(self, i: Instruction, m: str, condition: str, parts: list[str], state: State) -> Effect:
        if m.startswith(("cmp", "tst", "cmn", "it", "nop", "dmb", "vcmp")):
            return Effect(state)
        kind = m.removesuffix("s") if m in ("adds", "subs", "movs") else m.removesuffix("w")
        to = parts[0] if parts else ""
        both = (len(parts) == 4 and m[1:5] in ("mull", "mlal", "maal", "mlsl")) or (
            len(parts) == 3 and m == "vmov"
        )
        after = state.without(*parts[: 2 if both else 1])  # umull r0, r1, r2, r3 and vmov r0, r1, d0 give two
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

    def addend(self, format: str, relocation: Relocation, i: Instruction, effect: Effect) -> int:
        return (effect.target or 0) - i.at  # in the instruction itself


def _register_bytes(text: str) -> int:
    """The bytes of a list of registers.

    >>> _register_bytes("{r4, lr}"), _register_bytes("{d8, d9}")
    (8, 16)
    """
    names = re.findall(r"[a-z]+\d*", text[text.find("{") :])
    return sum(8 if name[0] == "d" else 4 for name in names)
