"""What instructions may do to the stack pointer: the form of the tables that each family of processors has.

In: an instruction as capstone prints it, and what is known before it. Out: an `Effect`: what is known after it, whether
it calls, jumps or returns. An instruction that changes the stack pointer in any way but those listed is refused.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


def refused(i: Instruction) -> ArtifactError:
    return ArtifactError(f"expected the stack pointer to change by constants, got {i}")


class Machine(ABC):
    """A family of processors: how its code is decoded and what its instructions do to the stack."""

    name = ""
    pointer = "sp"
    pushed_by_call = 0  # bytes that a call itself stores

    @abstractmethod
    def decode(self, code: bytes, at: int) -> Iterable[tuple[int, int, str, str]]:
        """(offset, size, mnemonic, operands) of each instruction, until one that is none."""

    @abstractmethod
    def step(self, i: Instruction, state: State) -> Effect:
        """What the instruction does; raises `ArtifactError` where that can't be known."""

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

    def rounded(self, state: State, depth: int, mask: int, bits: int) -> State:
        """Rounded down to a power of two: how much that is depends on the caller, so the most is taken."""
        step = (1 << bits) - (mask & (1 << bits) - 1)
        if step & (step - 1):
            raise ArtifactError(f"expected the stack pointer to be rounded to a power of two, got {step}")
        return state.with_depth(depth + step - 1)
