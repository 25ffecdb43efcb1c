"""What the instructions of RISC-V do to the stack; 64 bits, compressed ones among them.

In: instructions. Out: effects. Large frames and calls take their constants from two instructions.
"""

from __future__ import annotations

from graphc.artifact import disassembler
from graphc.artifact.machine import Effect, Instruction, Machine, State, number, operands, refused
from graphc.errors import ArtifactError


class RiscV(Machine):
    name = "riscv64"

    def decode(self, code: bytes, at: int) -> disassembler.Decoded:
        return disassembler.riscv(code, at)

    def step(self, i: Instruction, state: State) -> Effect:
        m, parts = i.mnemonic.removeprefix("c."), operands(i.text)
        if m == "ret" or (m in ("jr", "jalr") and _jumped(m, parts) == ("zero", "ra", 0)):
            if state.depth:
                raise ArtifactError(f"expected a return at the depth of entry, got one at {state.depth}")
            return Effect(state, falls_through=False)
        if m in ("ebreak", "unimp"):
            return Effect(state, falls_through=False)
        if m in ("jr", "jalr"):
            link, base, offset = _jumped(m, parts)
            start = state.constant(base)  # of auipc: an offset in the section
            target = None if start is None else start + offset
            calls = link == "ra"
            # the relocation of such a pair is at its first instruction
            return Effect(
                state, calls=calls, jumps=not calls, falls_through=calls, target=target, relocated_at=i.at - 4
            )
        if m in ("jal", "j"):
            distance = number(parts[-1])
            target = None if distance is None else i.at + distance
            calls = m == "jal" and (len(parts) == 1 or parts[0] == "ra")
            return Effect(
                state, calls=calls, jumps=not calls, falls_through=calls, target=target, relocated_at=i.at
            )
        if m[0] == "b" and number(parts[-1]) is not None and m != "bseti":
            return Effect(state, jumps=True, target=i.at + (number(parts[-1]) or 0), relocated_at=i.at)
        return Effect(self._plain(i, m, parts, state))

    def _plain(self, i: Instruction, m: str, parts: list[str], state: State) -> State:
        if not parts or (
            m.startswith(("sd", "sw", "sb", "sh", "fs", "swsp", "sdsp", "fence")) and "(" in i.text
        ):
            return state
        to = parts[0]
        value = number(parts[-1])
        source = parts[1] if len(parts) == 3 or m in ("mv", "addi4spn") else to  # c.addi a1, 4 reads a1
        after = state.without(to)
        if m in ("addi", "addi16sp", "addi4spn", "mv", "andi"):
            value = 0 if m == "mv" else value
            depth = state.depth if source == "sp" else state.pointer(source)
            known = state.constant(source)
            if m == "andi":
                if to == "sp" and source == "sp" and value is not None:
                    return self.rounded(state, state.depth, value, 64)
            elif depth is not None and value is not None:
                return (
                    after.with_depth(depth - value) if to == "sp" else after.holding(to, True, depth - value)
                )
            elif known is not None and value is not None and to != "sp":
                return after.holding(to, False, known + value)
        elif m == "addiw" and (known := state.constant(source)) is not None and value is not None:
            return after.holding(to, False, known + value)
        elif m == "lui" and value is not None:
            return after.holding(to, False, (value & 0xFFFFF) << 12 if value >= 0 else value << 12)
        elif m == "auipc" and value is not None:
            signed = value - (1 << 20) if value >> 19 == 1 else value
            return after.holding(to, False, i.at + (signed << 12))
        elif m == "li" and value is not None:
            return after.holding(to, False, value)
        elif m in ("sub", "add") and to == "sp":
            known = state.constant(parts[-1])
            if known is not None and (len(parts) == 2 or parts[1] == "sp"):
                return state.with_depth(state.depth + (known if m == "sub" else -known))
        if to == "sp":
            raise refused(i)
        return after


def _jumped(m: str, parts: list[str]) -> tuple[str, str, int]:
    """(link, base, offset) of jr and jalr in each of the forms that they are printed in.

    >>> _jumped("jalr", ["ra"]), _jumped("jr", ["ra"]), _jumped("jalr", ["ra", "ra", "-0x10"])
    (('ra', 'ra', 0), ('zero', 'ra', 0), ('ra', 'ra', -16))
    """
    if m == "jr":
        return "zero", parts[0], (number(parts[1]) or 0) if len(parts) > 1 else 0
    if len(parts) == 1:
        return "ra", parts[0], 0
    if len(parts) == 2:
        return "ra", parts[0], number(parts[1]) or 0
    return parts[0], parts[1], number(parts[2]) or 0
