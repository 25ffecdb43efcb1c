"""What the instructions of x86-64 do to the stack, and which extensions they are of.

In: instructions. Out: effects. The processor's stack grows by calls too.
"""

from __future__ import annotations

import re

from graphc.artifact import disassembler
from graphc.artifact.machine import Effect, Instruction, Machine, State, number, operands, refused
from graphc.artifact.model import Relocation
from graphc.errors import ArtifactError

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
        found = disassembler.x86_groups(i.code) - _NO_EXTENSIONS
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

    def decode(self, code: bytes, at: int) -> disassembler.Decoded:
        return disassembler.x86(code, at)

    def step(self, i: Instruction, state: State) -> Effect:
        # without what stands in front, as in notrack jmp and repz ret
        m, parts = i.mnemonic.split()[-1], operands(i.text)
        if m in ("ret", "retf"):
            if state.depth:
                raise ArtifactError(f"expected a return at the depth of entry, got one at {state.depth}")
            return Effect(state, falls_through=False)
        if m == "enter":
            raise refused(i)
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
                raise refused(i)
            return Effect(after)
        deepest = 0
        if "[" in i.text:
            for register, below in _BELOW.findall(i.text):
                base = state.depth if register == "rsp" else state.pointer(register)
                if base is not None:
                    deepest = max(deepest, base + int(below, 0))
        if not parts:
            frame = state.pointer("rbp")
            if m == "leave" and frame is not None:  # mov rsp, rbp; pop rbp
                return Effect(state.with_depth(frame - 8).without("rbp"))
            if m in ("leave", "pushfq", "popfq"):
                raise refused(i)
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
                value -= 1 << 64 if value >= 1 << 63 else 0  # capstone prints some negative ones unsigned
                return state.with_depth(state.depth + (value if m == "sub" else -value))
            if m == "and" and value is not None:
                return self.rounded(state, state.depth, value, 64)
            if m == "mov" and (depth := state.pointer(parts[1])) is not None:
                return state.with_depth(depth)
            if m == "lea" and (found := _OF_STACK.search(parts[1])):
                base = state.depth if found.group(1) == "rsp" else state.pointer(found.group(1))
                if base is not None:
                    return state.with_depth(base - _displacement(found))
        raise refused(i)

    def addend(self, format: str, relocation: Relocation, i: Instruction, effect: Effect) -> int:
        if format == "elf":
            return relocation.addend + 4
        return int.from_bytes(i.code[-4:], "little", signed=True)  # the addend is in the place itself

    def after_call(self, state: State, name: str) -> State:
        return state if name in _PROBES else state.kept()


def _displacement(found: re.Match[str]) -> int:
    return int(found.group(3) or "0", 0) * (-1 if found.group(2) == "-" else 1)
