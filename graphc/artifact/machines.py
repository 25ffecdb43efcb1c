"""What instructions do to the stack pointer: one table for each family of processors.

In: an instruction as capstone prints it, and what is known before it. Out: an `Effect`: what is known after it, whether
it calls, jumps or returns. An instruction that changes the stack pointer in any way but those listed is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from graphc.artifact.model import Relocation
from graphc.errors import ArtifactError

_NOTHING: Mapping[str, tuple[bool, int]] = {}


@dataclass(frozen=True)
class State:
    """How far below its entry value the stack pointer is (at most), and registers that are so too, or constants."""

    depth: int = 0
    held: Mapping[str, tuple[bool, int]] = field(
        default_factory=lambda: _NOTHING
    )  # (of the stack?, depth or value)

    def with_depth(self, depth: int) -> State:
        if depth < 0:
            raise ArtifactError(
                f"expected a stack pointer at or below its entry value, got {-depth} above it"
            )
        return State(depth, self.held)

    def holding(self, register: str, stack: bool, value: int) -> State:
        return State(self.depth, {**self.held, register: (stack, value)})

    def without(self, *registers: str) -> State:
        if not any(r in self.held for r in registers):
            return self
        return State(self.depth, {r: v for r, v in self.held.items() if r not in registers})

    def kept(self) -> State:
        """What is worth to be known at a jump's target: constants are not."""
        return self.without(*(r for r, (stack, _) in self.held.items() if not stack))

    def common(self, other: State) -> State:
        return State(self.depth, {r: v for r, v in self.held.items() if other.held.get(r) == v})

    def pointer(self, register: str) -> int | None:
        """The depth that a register holds, where it holds a place on the stack."""
        found = self.held.get(register)
        return found[1] if found and found[0] else None

    def constant(self, register: str) -> int | None:
        found = self.held.get(register)
        return found[1] if found and not found[0] else None


class Instruction(NamedTuple):
    """One instruction: `at` is its offset in the section, `text` its operands."""

    at: int
    size: int
    mnemonic: str
    text: str
    code: bytes

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.text}".rstrip()


class Effect(NamedTuple):
    """What an instruction does. `target` is where it goes if no relocation says otherwise."""

    state: State
    deepest: int = 0  # what is touched below the stack pointer
    calls: bool = False
    jumps: bool = False
    falls_through: bool = True
    target: int | None = None
    relocated_at: int = 0  # where the relocation of its target may begin


_SPLIT = re.compile(r",\s*(?![^\[{(]*[\]})])")
_NUMBER = re.compile(r"#?(-?(?:0x[0-9a-f]+|\d+))$")


def operands(text: str) -> list[str]:
    """The operands, with brackets kept together.

    >>> operands("x29, x30, [sp, #-0x10]!")
    ['x29', 'x30', '[sp, #-0x10]!']
    """
    return _SPLIT.split(text) if text else []


def number(text: str) -> int | None:
    """A constant operand.

    >>> number("#-0x10"), number("rax")
    (-16, None)
    """
    found = _NUMBER.match(text)
    return int(found.group(1), 0) if found else None


def _refused(i: Instruction) -> ArtifactError:
    return ArtifactError(f"expected the stack pointer to change by constants, got {i}")


class Machine:
    """A family of processors: how its code is decoded and what its instructions do to the stack."""

    name = ""
    pointer = "sp"
    pushed_by_call = 0  # bytes that a call itself stores

    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        """(offset, size, mnemonic, operands) of each instruction, until one that is none."""
        raise NotImplementedError

    def step(self, i: Instruction, state: State) -> Effect:
        """What the instruction does; raises `ArtifactError` where that can't be known."""
        raise NotImplementedError

    def form(self, i: Instruction) -> str:
        """A text that is the same for instructions that need the same of a processor."""
        return i.mnemonic

    def extensions(self, i: Instruction) -> set[str]:
        """The instruction set extensions that an instruction is of, where this family has any that matter here."""
        return set()

    def addend(self, format: str, relocation: Relocation, i: Instruction, effect: Effect) -> int:
        """What the target of a call is beyond the relocation's symbol."""
        return relocation.addend

    def after_call(self, state: State, name: str) -> State:
        """A call keeps the frame's registers by the convention of every system; constants are gone."""
        return state.kept()

    def _rounded(self, state: State, depth: int, mask: int, bits: int) -> State:
        """Rounded down to a power of two: how much that is depends on the caller, so the most is taken."""
        step = (1 << bits) - (mask & (1 << bits) - 1)
        if step & (step - 1):
            raise ArtifactError(f"expected the stack pointer to be rounded to a power of two, got {step}")
        return state.with_depth(depth + step - 1)


# ------------------------------------------------------------------------------------------------------------ x86-64

_X86_NARROW = {
    narrow: wide
    for wide, narrows in {
        "rax": "eax ax al", "rbx": "ebx bx bl", "rcx": "ecx cx cl", "rdx": "edx dx dl", "rsi": "esi si sil",
        "rdi": "edi di dil", "rbp": "ebp bp bpl", "rsp": "esp sp spl",
        **{f"r{n}": f"r{n}d r{n}w r{n}b" for n in range(8, 16)},
    }.items()
    for narrow in narrows.split()
}  # fmt: skip
_X86_READS = ("cmp", "test", "push", "call", "jmp", "bt", "nop", "prefetch")
_X86_SEVERAL = (
    "xchg",
    "cmpxchg",
    "xadd",
    "mul",
    "imul",
    "div",
    "idiv",
    "cpuid",
    "xgetbv",
    "rdtsc",
    "cqo",
    "cdq",
)
_BELOW = re.compile(r"\[(\w+) - (0x[0-9a-f]+|\d+)\]")
_OF_STACK = re.compile(r"\[(\w+)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]$")
_PROBES = ("__chkstk", "___chkstk_ms")  # touch the pages of a large frame; keep rax, which is its size


_DIGITS = re.compile(r"0x[0-9a-f]+|\d+(?!\w)")
# groups of capstone's that say something else
_NO_EXTENSIONS = {
    "mode64", "not64bitmode", "call", "ret", "jump", "branch_relative", "int", "iret", "privilege", "novlx", "vm",
}  # fmt: skip
_AVX_PERMUTES = ("vpermilp", "vperm2f128", "vptest")  # of AVX although they are as wide and named as AVX2's
_BY_NAME = {"popcnt": "popcnt", "lzcnt": "lzcnt", "movbe": "movbe"}


class X86(Machine):
    name, pointer, pushed_by_call = "x86-64", "rsp", 8

    def form(self, i: Instruction) -> str:
        # the same mnemonic is of another extension with wider registers, or in EVEX's encoding (which begins with 62)
        return f"{i.mnemonic} {_DIGITS.sub('', i.text)} {i.code[0] == 0x62}"

    def extensions(self, i: Instruction) -> set[str]:
        c = _capstone()
        detailed = c.Cs(c.CS_ARCH_X86, c.CS_MODE_64)
        detailed.detail = True
        found = {
            detailed.group_name(group)
            for instruction in detailed.disasm(i.code, i.at)
            for group in instruction.groups
        }
        found -= _NO_EXTENSIONS
        # capstone's groups lack some: the encoding says more (in 64-bit code C4 and C5 begin VEX, 62 EVEX)
        prefix = i.code[0]
        if prefix == 0x62:
            found.add("avx512")
        elif prefix in (0xC4, 0xC5) and not i.mnemonic.startswith("k"):
            wide = (
                "ymm" in i.text and i.mnemonic.startswith("vp") and not i.mnemonic.startswith(_AVX_PERMUTES)
            )
            found.add("fma" if i.mnemonic.startswith(("vfm", "vfnm")) else "avx2" if wide else "avx")
        elif i.mnemonic.startswith("k") and prefix in (0xC4, 0xC5):
            found.add("avx512")
        elif i.mnemonic in _BY_NAME:
            found.add(_BY_NAME[i.mnemonic])
        return found

    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        return _x86().disasm_lite(code, at)

    def step(self, i: Instruction, state: State) -> Effect:
        m, parts = i.mnemonic, operands(i.text)
        if m in ("ret", "retf"):
            if state.depth:
                raise ArtifactError(f"expected a return at the depth of entry, got one at {state.depth}")
            return Effect(state, falls_through=False)
        if m in ("ud2", "int3", "hlt"):
            return Effect(state, falls_through=False)
        if m == "call":
            deeper = state.depth + 8
            return Effect(state, deeper, calls=True, target=number(i.text), relocated_at=i.at)
        if m[0] == "j" or m.startswith("loop"):
            return Effect(
                state, jumps=True, falls_through=m != "jmp", target=number(i.text), relocated_at=i.at
            )
        if m == "push":
            return Effect(state.with_depth(state.depth + 8))
        if m == "pop":
            after = state.with_depth(state.depth - 8).without(_X86_NARROW.get(parts[0], parts[0]))
            if parts[0] == "rsp":
                raise _refused(i)
            return Effect(after)
        deepest = 0
        if "[" in i.text:
            for register, below in _BELOW.findall(i.text):
                base = state.depth if register == "rsp" else state.pointer(register)
                if base is not None:
                    deepest = max(deepest, base + int(below, 0))
        if not parts:
            if m in ("leave", "enter", "pushfq", "popfq"):
                raise _refused(i)
            return Effect(state.without("rax", "rbx", "rcx", "rdx"))
        first = _X86_NARROW.get(parts[0], parts[0])
        if any(_X86_NARROW.get(p, p) == "rsp" for p in parts) and not (
            m.startswith(_X86_READS) or (m == "mov" and first != "rsp")
        ):
            return Effect(self._moved(i, m, parts, state), deepest)
        if m.startswith(_X86_READS):
            return Effect(state, deepest)
        if m.startswith(_X86_SEVERAL):
            return Effect(
                state.without(*(_X86_NARROW.get(p, p) for p in (*parts, "rax", "rdx", "rcx", "rbx"))), deepest
            )
        after = state.without(first)
        if m == "mov" and len(parts) == 2:
            value = number(parts[1])
            if parts[1] == "rsp" and not parts[0].startswith("["):
                after = after.holding(first, True, state.depth)
            elif value is not None and first == "rax":
                after = after.holding(first, False, value)
        elif m == "lea" and (found := _OF_STACK.search(parts[1])) and found.group(1) == "rsp":
            after = after.holding(first, True, state.depth - _displacement(found))
        return Effect(after, deepest)

    def _moved(self, i: Instruction, m: str, parts: list[str], state: State) -> State:
        """The stack pointer is what the instruction changes."""
        if parts[0] == "rsp" and len(parts) == 2:
            value = number(parts[1])
            if value is None and not parts[1].startswith("["):
                value = state.constant(_X86_NARROW.get(parts[1], parts[1]))
            if m in ("sub", "add") and value is not None:
                value -= 1 << 64 if value >> 63 else 0
                return state.with_depth(state.depth + (value if m == "sub" else -value))
            if m == "and" and value is not None:
                return self._rounded(state, state.depth, value, 64)
            if m == "mov" and (depth := state.pointer(parts[1])) is not None:
                return state.with_depth(depth)
            if m == "lea" and (found := _OF_STACK.search(parts[1])):
                base = state.depth if found.group(1) == "rsp" else state.pointer(found.group(1))
                if base is not None:
                    return state.with_depth(base - _displacement(found))
        raise _refused(i)

    def addend(self, format: str, relocation: Relocation, i: Instruction, effect: Effect) -> int:
        if format == "elf":
            return relocation.addend + 4
        return int.from_bytes(i.code[-4:], "little", signed=True)  # the addend is in the place itself

    def after_call(self, state: State, name: str) -> State:
        return state if name in _PROBES else state.kept()


def _displacement(found: re.Match[str]) -> int:
    return int(found.group(3) or "0", 0) * (-1 if found.group(2) == "-" else 1)


# ----------------------------------------------------------------------------------------------------------- aarch64


class Arm64(Machine):
    name = "aarch64"

    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        return _arm64().disasm_lite(code, at)

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
                    raise _refused(i)
                moved = state.depth - offset
            elif len(parts) > position + 1:  # the access, then the pointer moves
                value = number(parts[position + 1])
                if value is None:
                    raise _refused(i)
                moved = state.depth - value
            elif offset < 0:
                deepest = state.depth - offset
        if m.startswith(("st", "prfm", "cmp", "tst", "cmn", "ccmp")):
            return Effect(state if moved is None else state.with_depth(moved), deepest)
        written = [p for p in parts if not p.startswith("[")] if m.startswith("ld") else parts[:1]
        if m.startswith("ld"):
            if "sp" in written:
                raise _refused(i)
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
            raise _refused(i)
        value = _shifted(parts[2:])
        if m == "mov" and len(parts) == 2:
            value = 0
        elif m == "and" and value is not None and parts[0] == "sp":
            return self._rounded(state, depth, value, 64)
        elif m not in ("sub", "add") or value is None:
            if parts[0] == "sp":
                raise _refused(i)
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


# ------------------------------------------------------------------------------------------------------------ RISC-V


class RiscV(Machine):
    name = "riscv64"

    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        return _riscv().disasm_lite(code, at)

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
                    return self._rounded(state, state.depth, value, 64)
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
            raise _refused(i)
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


# ------------------------------------------------------------------------------------------------------------- Thumb

_CONDITIONS = ["eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "cs", "cc"]


class Thumb(Machine):
    name = "Thumb"

    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        return _thumb().disasm_lite(code, at)

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
                raise _refused(i)
            return Effect(state.with_depth(depth).without(*listed))
        if base in ("push", "vpush"):
            if condition:
                raise _refused(i)
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
                raise _refused(i)
            return Effect(state.without(*written))
        kind = m.removesuffix("s") if m in ("adds", "subs", "movs") else m.removesuffix("w")
        to = parts[0] if parts else ""
        after = state.without(to)
        if condition:
            if to in ("sp", "pc"):
                raise _refused(i)
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
            raise _refused(i)
        return Effect(after)

    def _with_access(
        self, i: Instruction, m: str, condition: str, parts: list[str], position: int, listed: list[str], state: State
    ) -> State:  # fmt: skip
        """An access that moves the stack pointer too."""
        part = parts[position]
        if condition or "pc" in listed or "pc" in parts:
            raise _refused(i)
        if part == "sp!":
            size = _register_bytes(i.text)
            down = m.startswith(("stm", "vstm")) and m.endswith("db")
            up = m.startswith(("ldm", "vldm")) and not m.endswith("db")
            if not (down or up):
                raise _refused(i)
            return state.with_depth(state.depth + (size if down else -size)).without(
                *([] if down else listed)
            )
        inner = operands(part.rstrip("!")[1:-1])
        value = number(inner[1]) if part.endswith("!") and len(inner) > 1 else number(parts[-1])
        if value is None:
            raise _refused(i)
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


# ------------------------------------------------------------------------------------------------------ disassemblers


def machine_of(name: str) -> Machine | None:
    """The table for a machine of `ObjectFile.machine`, where there is one."""
    known: dict[str, type[Machine]] = {"x86_64": X86, "aarch64": Arm64, "riscv": RiscV, "arm": Thumb}
    return known[name]() if name in known else None


class MissingDisassembler(ArtifactError):
    """capstone is not installed."""


def _capstone():  # type: ignore[no-untyped-def]
    try:
        import capstone
    except ImportError:
        raise MissingDisassembler(
            "expected the package capstone, which reads machine code, got none: pip install 'graphc[inspect]'"
        ) from None
    return capstone


@cache
def _x86():  # type: ignore[no-untyped-def]
    c = _capstone()
    return c.Cs(c.CS_ARCH_X86, c.CS_MODE_64)


@cache
def _arm64():  # type: ignore[no-untyped-def]
    c = _capstone()
    return c.Cs(c.CS_ARCH_ARM64, c.CS_MODE_ARM)


@cache
def _riscv():  # type: ignore[no-untyped-def]
    c = _capstone()
    return c.Cs(c.CS_ARCH_RISCV, c.CS_MODE_RISCV64 | c.CS_MODE_RISCVC)


@cache
def _thumb():  # type: ignore[no-untyped-def]
    c = _capstone()
    return c.Cs(c.CS_ARCH_ARM, c.CS_MODE_THUMB | c.CS_MODE_MCLASS | c.CS_MODE_V8)
