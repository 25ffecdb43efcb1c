"""How deep machine code makes the stack: every path of a function is followed, and what is done to its stack pointer.

In: an `ObjectFile` and a function of it. Out: a `Frame`: the bytes below the stack pointer that the function was
entered with, and its calls, each with the depth that it is made at. Compilers leave no such numbers in objects.

A depth is proved or the function is refused: where the stack pointer becomes anything but its entry value minus a
constant (or that rounded down), where two paths meet at different depths, or where a jump's target is not in the code.
What each instruction does to the pointer is said by the processors' tables (`x86`, `arm64`, `riscv`, `thumb`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from graphc.artifact.machine import Effect, Instruction, Machine, State
from graphc.artifact.model import ObjectFile, Relocation
from graphc.errors import ArtifactError

_FIRST_CHUNK = 64  # bytes; a block that is longer is decoded again in larger ones
_LONGEST_INSTRUCTION = 15


@dataclass(frozen=True)
class Place:
    """Where code is: a section's index, and an offset in it."""

    section: int
    offset: int


@dataclass(frozen=True)
class CallSite:
    """A call: what is called (a place of the file, a name from outside, or None: an address of run time), and how deep."""

    target: Place | str | None
    depth: int
    at: int


@dataclass
class Frame:
    """What one function does to the stack."""

    name: str
    depth: int = 0  # of itself alone, in bytes
    calls: list[CallSite] = field(default_factory=list)
    code_bytes: int = 0  # of the instructions that can be reached
    forms: dict[str, Instruction] = field(default_factory=dict)  # of each form of instruction, one


class Code:
    """The machine code of a file, function by function.

    Raises `ArtifactError` (in `frame`) where a depth can't be proved.
    """

    def __init__(self, file: ObjectFile, machine: Machine) -> None:
        self.file, self.machine = file, machine
        self._relocations: dict[Place, Relocation] = {Place(r.section, r.offset): r for r in file.relocations}
        self._starts: dict[int, list[int]] = {}
        self._names: dict[Place, str] = {}
        for s in file.symbols:
            if s.section is not None and s.kind == "function":
                self._starts.setdefault(s.section, []).append(s.offset)
                place = Place(s.section, s.offset)
                if place not in self._names or s.visible:
                    self._names[place] = s.name
        for starts in self._starts.values():
            starts.sort()

    def name(self, place: Place) -> str:
        return self._names.get(place, f"{self.file.sections[place.section].name}+{place.offset:#x}")

    def end(self, place: Place) -> int:
        """Where the function that begins there ends at the latest: at the next one, or with its section."""
        starts = self._starts.get(place.section, [])
        following = bisect_right(starts, place.offset)
        return starts[following] if following < len(starts) else len(self.file.sections[place.section].data)

    def frame(self, place: Place) -> Frame:
        """Follows every path of the function that begins at `place`."""
        frame = Frame(self.name(place))
        end = self.end(place)
        seen: dict[int, State] = {}
        waiting = [(place.offset, State())]
        while waiting:
            start, state = waiting.pop()
            for instruction in self._from(place.section, start, end, frame.name):
                at = instruction.at
                before = seen.get(at)
                if before is not None:
                    state = self._met(frame, at, before, state)
                    if state == before:
                        break
                else:
                    frame.code_bytes += instruction.size
                    frame.forms.setdefault(self.machine.form(instruction), instruction)
                seen[at] = state
                try:
                    effect = self.machine.step(instruction, state)
                except ArtifactError as error:
                    raise ArtifactError(f"{frame.name}+{at - place.offset:#x}: {error}") from None
                frame.depth = max(frame.depth, effect.deepest, effect.state.depth)
                state = effect.state
                if effect.calls:
                    target = self._target(place.section, instruction, effect)
                    frame.calls.append(CallSite(target, state.depth, at))
                    state = self.machine.after_call(state, target if isinstance(target, str) else "")
                if effect.jumps:
                    target = self._target(place.section, instruction, effect)
                    if target is None:
                        raise self._refused(frame, at, "a jump to a known place", str(instruction))
                    if isinstance(target, Place) and place.offset <= target.offset < end and (
                        target.section == place.section
                    ):  # fmt: skip
                        waiting.append((target.offset, state.kept()))
                    else:  # a call in the last place: the frame is gone, or what is left of it stays
                        frame.calls.append(CallSite(target, state.depth - self.machine.pushed_by_call, at))
                if not effect.falls_through:
                    break
            else:
                raise self._refused(
                    frame, end, "code that ends in a return or a jump", "the end of the function"
                )
        return frame

    def _met(self, frame: Frame, at: int, before: State, state: State) -> State:
        if before.depth != state.depth:
            raise self._refused(
                frame, at, "one depth of the stack on all paths", f"{before.depth} and {state.depth}"
            )
        return before.common(state)

    def _refused(self, frame: Frame, at: int, expected: str, got: str) -> ArtifactError:
        return ArtifactError(f"{frame.name}: expected {expected}, got {got} at {at:#x}")

    def _from(self, section: int, start: int, end: int, name: str) -> Iterator[Instruction]:
        """The instructions from there on, as long as someone asks."""
        data, position, size = self.file.sections[section].data, start, _FIRST_CHUNK
        while True:
            # from the same start each time, as the decoder keeps Thumb's conditions of the instructions before
            for at, length, mnemonic, text in self.machine.decode(
                data[start : min(start + size, end)], start
            ):
                if at < position:
                    continue
                yield Instruction(at, length, mnemonic, text, data[at : at + length])
                position = at + length
            if position >= end:
                return
            if start + size - position > _LONGEST_INSTRUCTION or start + size >= end:
                raise ArtifactError(
                    f"{name}: expected an instruction of {self.machine.name}, got "
                    f"{data[position : position + 8].hex()} at {position:#x}"
                )
            size *= 4

    def _target(self, section: int, instruction: Instruction, effect: Effect) -> Place | str | None:
        """Where a call or jump goes: what its relocation says, else its own distance."""
        for at in range(effect.relocated_at, instruction.at + instruction.size):
            relocation = self._relocations.get(Place(section, at))
            if relocation is None:
                continue
            symbol = self.file.symbols[relocation.symbol]
            if symbol.section is None:
                return symbol.name
            addend = self.machine.addend(self.file.format, relocation, instruction, effect)
            return Place(symbol.section, symbol.offset + addend)
        if effect.target is None:
            return None
        place = Place(section, effect.target)
        if not self.file.linked:
            return place
        return self._linked(section, effect.target)

    def _linked(self, section: int, offset: int) -> Place | str | None:
        """A distance in a linked file may lead to another section."""
        if 0 <= offset < len(self.file.sections[section].data):
            return Place(section, offset)
        address = self.file.sections[section].address + offset
        for number, other in enumerate(self.file.sections):
            if other.executable and other.address <= address < other.address + other.size:
                return Place(number, address - other.address)
        return None
