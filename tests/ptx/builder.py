"""One basic block to a Python function over numpy arrays.

In: the instructions of a block. Out: a `Step` whose function runs them for the active lanes. A register is a variable of
that function, in each type that it is used as; what other blocks read is stored with the lanes at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ptx import effects, warps  # their rules are registered by importing them
from ptx.errors import PtxError
from ptx.flow import BARRIERS, Block
from ptx.instructions import Meaning, meaning_of, packed, unpacked
from ptx.lanes import Lanes
from ptx.numbers import NUMPY, bits_of, immediate
from ptx.parser import (
    Address,
    Function,
    Group,
    Immediate,
    Instruction,
    Operand,
    Pair,
    Program,
    Register,
    Sink,
    Special,
    Symbol,
)

_RULES = (effects, warps)

_WIDENING = ("ld.", "st.", "cvt.")  # 9.4.1: their registers may be wider than the instruction's type


@dataclass
class Step:
    """A block: `run(lanes)` runs its instructions and gives the lanes that its end or its guard holds for (`None`: all)."""

    run: Callable[[Lanes], np.ndarray | None]
    test: Callable[[Lanes], np.ndarray] | None  # of a guarded instruction: where it is to run
    end: str  # branch, return, exit, barrier, call, or nothing
    target: int  # ranks; -1: none
    follows: int
    function: int
    last: Instruction
    clears: tuple[int, ...] = ()  # of a call: the registers that are undefined when the function begins


class Names:
    """The numbers of registers over all functions, and where variables are."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def number(self, function: str, name: str) -> int:
        return self.numbers.setdefault((function, name), len(self.numbers))


def callee_of(instruction: Instruction) -> str:
    match instruction.operands:
        case (Symbol(name),) | (Symbol(name), Group()):
            return name
    raise PtxError(f"PTX line {instruction.line}: expected a call without results, got {instruction.text!r}")


@dataclass(frozen=True)
class Scope:
    """What the blocks of a function share."""

    program: Program
    function: Function
    names: Names
    symbols: Mapping[str, int]  # where variables are in their spaces
    kept: frozenset[str]  # the registers that are stored for other blocks

    @cached_property
    def guesses(self) -> frozenset[tuple[Operand, ...]]:
        """Register and address of the loads whose value a compare-and-swap of the same place expects.

        Whatever they read is checked there, so they may read while others swap: LLVM's expansion of atomic operations.
        """
        swaps = (i for i in self.function.code if i.opcode.startswith("atom.") and ".cas." in i.opcode)
        return frozenset((i.operands[2], i.operands[1]) for i in swaps if len(i.operands) == 4)


class Builder:
    """The Python function of one block, on its way."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.function = scope, scope.function
        self.lines: list[str] = []
        self.things: dict[str, object] = {str(d): d for d in map(np.dtype, (
            "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"
        ))}  # fmt: skip
        self.known: dict[str, dict[np.dtype, str]] = {}  # the Python variables that hold a register, by type
        self.changed: dict[str, None] = {}
        self.fresh = 0
        self.instruction: Instruction

    def fail(self, expected: str, got: str) -> PtxError:
        where = f"function {self.function.name}, PTX line {self.instruction.line}"
        return PtxError(f"{where}: expected {expected}, got {got}\n  {self.instruction.text}")

    def thing(self, value: object) -> str:
        """A name for a constant of the function."""
        name = f"k{len(self.things)}"
        self.things[name] = value
        return name

    # Registers

    def kind(self, name: str) -> str:
        if name.startswith("param:"):
            variable = self.function.variables[name.removeprefix("param:")]
            if variable.count != 1 or variable.kind not in NUMPY:
                raise self.fail("a parameter of one number", variable.name)
            return variable.kind
        return self.function.registers[name]

    def read_register(self, name: str, dtype: np.dtype) -> str:
        own = bits_of(self.kind(name))
        found = self.known.setdefault(name, {})
        if not found:
            self.fresh += 1
            found[own] = f"v{self.fresh}"
            self.lines.append(f"v{self.fresh} = fetch({self.scope.names.number(self.function.name, name)})")
        if dtype in found:
            return found[dtype]
        if (own == np.bool_) != (dtype == np.bool_):
            raise self.fail(f"a register for {dtype}", f"{name} of .{self.kind(name)}")
        if own.itemsize < dtype.itemsize or (own.itemsize > dtype.itemsize and not self._may_widen()):
            raise self.fail(f"a register of {8 * dtype.itemsize} bits", f"{name} of .{self.kind(name)}")
        source, text = next(iter(found.items()))
        self.fresh += 1
        if own.itemsize > dtype.itemsize:
            unsigned = f"uint{8 * dtype.itemsize}"
            text = f"{text}.view({own}).astype({unsigned})"
            source = np.dtype(unsigned)
        view = f".view({dtype})" if source != dtype else ""
        self.lines.append(f"v{self.fresh} = {text}{view}")
        found[dtype] = f"v{self.fresh}"
        return found[dtype]

    def _may_widen(self) -> bool:
        return self.instruction.opcode.startswith(_WIDENING)

    def write_register(self, name: str, dtype: np.dtype, text: str) -> None:
        own = bits_of(self.kind(name))
        if (own == np.bool_) != (dtype == np.bool_) or own.itemsize < dtype.itemsize:
            raise self.fail(f"a register for {dtype}", f"{name} of .{self.kind(name)}")
        if own.itemsize > dtype.itemsize:
            if not self._may_widen() or dtype.kind == "f":
                raise self.fail(f"a register of {8 * dtype.itemsize} bits", f"{name} of .{self.kind(name)}")
            wide = f"{'int' if dtype.kind == 'i' else 'uint'}{8 * own.itemsize}"
            text, dtype = f"{text}.astype({wide})", np.dtype(wide)
        self.fresh += 1
        self.lines.append(f"v{self.fresh} = {text}")
        self.known[name] = {dtype: f"v{self.fresh}"}
        self.changed[name] = None

    # Operands

    def read(self, operand: Operand, kind: str) -> str:
        """The Python expression of an operand."""
        if kind == "address":
            return self.address(operand)
        dtype = NUMPY[kind]
        match operand:
            case Register(name, negated):
                text = self.read_register(name, dtype)
                return f"~{text}" if negated else text
            case Immediate(text):
                try:
                    return self.thing(immediate(text, dtype))
                except PtxError as error:
                    raise self.fail("a constant of its type", str(error)) from None
            case Special(name):
                if self.instruction.opcode != "mov.u32" or not self._is_position(name):
                    raise self.fail("a special register that is known, in mov.u32", name)
                return f"lanes.special({name!r})"
            case Symbol(name, offset) if self.instruction.opcode in (
                "mov.u64",
                "mov.b64",
                "mov.u32",
                "mov.b32",
            ):
                return self.thing(np.array([self.place_of(name) + offset], dtype))
        raise self.fail(f"an operand of .{kind}", str(operand))

    def _is_position(self, name: str) -> bool:
        base, _, axis = name.partition(".")
        return name == "%laneid" or (base in ("%tid", "%ctaid", "%ntid", "%nctaid") and axis in tuple("xyz"))

    def place_of(self, name: str) -> int:
        if name in self.scope.symbols:
            return self.scope.symbols[name]
        if self.function.entry:
            offsets = parameter_offsets(self.function)[0]
            if name in offsets:
                return offsets[name]
        raise self.fail("a variable", name)

    def address(self, operand: Operand) -> str:
        match operand:
            case Address(Register(name), offset):
                own = bits_of(self.kind(name))
                text = self.read_register(name, own)
                if own.itemsize == 4:  # 32-bit addresses are of shared memory
                    text = f"{text}.astype(uint64)"
                elif own.itemsize != 8:
                    raise self.fail("an address of 32 or 64 bits", name)
                return f"({text} + {self.thing(np.array([offset % 2**64], np.uint64))})" if offset else text
            case Address(Symbol(name), offset):
                return self.thing(np.array([self.place_of(name) + offset], np.uint64))
        raise self.fail("an address", str(operand))

    # Instructions

    def step(self, block: Block, function: int) -> Step:
        guard = block.body[0].guard if block.body else None
        test = self._test(guard, block.body[0]) if guard is not None else None
        for instruction in block.body:
            self.instruction = instruction
            self.add(instruction)
        end, result = "", "None"
        if block.end is not None:
            self.instruction = block.end
            end = self.ending(block.end)
            if block.end.guard is not None:
                if block.end.opcode != "bra":
                    raise self.fail("a guard of a branch or of an ordinary instruction", "one of this")
                result = self.read(block.end.guard, "pred")
        for name in self.changed:
            if name in self.scope.kept:
                text = self.read_register(name, bits_of(self.kind(name)))
                self.lines.append(f"put({self.scope.names.number(self.function.name, name)}, {text})")
        last = block.end or block.body[-1]
        return Step(self.compiled(result), test, end, -1, -1, function, last)

    def _test(self, guard: Register, instruction: Instruction) -> Callable[[Lanes], np.ndarray]:
        builder = Builder(self.scope)
        builder.instruction = instruction
        return builder.compiled(builder.read(guard, "pred"))  # type: ignore[return-value]

    def compiled(self, result: str) -> Callable[[Lanes], np.ndarray | None]:
        body = ["fetch, put = lanes.fetch, lanes.put", *self.lines, f"return {result}"]
        source = "def block(lanes):\n" + "".join(f"    {line}\n" for line in body)
        scope = dict(self.things)
        exec(compile(source, f"<{self.function.name}>", "exec"), scope)
        return scope["block"]  # type: ignore[return-value]

    def ending(self, instruction: Instruction) -> str:
        opcode = instruction.opcode
        if opcode in BARRIERS:
            if instruction.operands != (Immediate("0"),):
                raise self.fail("barrier 0 of all threads", instruction.text)
            return "barrier"
        if opcode in ("bra", "bra.uni"):
            if opcode == "bra.uni" and instruction.guard is not None:
                raise self.fail("bra.uni without a guard", instruction.text)
            return "branch"
        if opcode in ("ret", "ret.uni"):
            return "exit" if self.function.entry else "return"
        if opcode == "exit":
            return "exit"
        self.pass_arguments(instruction)
        return "call"

    def pass_arguments(self, instruction: Instruction) -> None:
        callee = self.scope.program.functions[callee_of(instruction)]
        given = instruction.operands[1].members if len(instruction.operands) > 1 else ()  # type: ignore[union-attr]
        if len(given) != len(callee.parameters) or callee.results:
            raise self.fail(f"{len(callee.parameters)} arguments and no result", str(len(given)))
        for symbol, parameter in zip(given, callee.parameters, strict=True):
            assert isinstance(symbol, Symbol)
            name = f"param:{symbol.name}"
            if bits_of(self.kind(name)) != bits_of(parameter.kind):
                raise self.fail(f"an argument of .{parameter.kind}", symbol.name)
            text = self.read_register(name, bits_of(parameter.kind))
            self.lines.append(
                f"put({self.scope.names.number(callee.name, f'param:{parameter.name}')}, {text})"
            )

    def add(self, instruction: Instruction) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        if opcode.startswith("ld.param") and not self.function.entry:
            self.move_parameter(operands[0], operands[1], opcode.split(".")[-1], load=True)
            return
        if opcode.startswith("st.param"):
            self.move_parameter(operands[1], operands[0], opcode.split(".")[-1], load=False)
            return
        try:
            meaning = self.meaning(instruction)
        except PtxError as error:
            raise self.fail("an instruction that is known", str(error)) from None
        if meaning is None:
            raise self.fail("an instruction that is known", opcode)
        self.apply(instruction, meaning)

    def move_parameter(self, register: Operand, address: Operand, kind: str, load: bool) -> None:
        """Parameters of functions are registers here; only whole ones are moved."""
        if not isinstance(address, Address) or not isinstance(address.base, Symbol) or address.offset:
            raise self.fail("a whole parameter", str(address))
        name = f"param:{address.base.name}"
        if address.base.name not in self.function.variables or kind not in NUMPY:
            raise self.fail("a parameter of this function or of a call", address.base.name)
        if bits_of(self.kind(name)) != bits_of(kind):
            raise self.fail(f"a parameter of .{kind}", f".{self.kind(name)}")
        if load:
            if not isinstance(register, Register):
                raise self.fail("a register", str(register))
            self.write_register(register.name, bits_of(kind), self.read_register(name, bits_of(kind)))
        else:
            self.write_register(name, bits_of(kind), self.read(register, str(kind)))

    def meaning(self, instruction: Instruction) -> Meaning | None:
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in ("mov.b32", "mov.b64", "mov.b128") and len(operands) == 2:
            for group, function in ((operands[0], unpacked), (operands[1], packed)):
                if isinstance(group, Group):
                    return function(opcode[4:], len(group.members))
        if opcode.startswith("ld.") and operands in self.scope.guesses:
            opcode = f"ld.relaxed.sys.{opcode[3:]}"
        return meaning_of(opcode)

    def apply(self, instruction: Instruction, meaning: Meaning) -> None:
        operands = list(instruction.operands)
        results: list[Operand] = []
        if meaning.results:
            if not operands:
                raise self.fail("a result", "none")
            first = operands.pop(0)
            optional = len(meaning.results) > 1
            if optional:
                second = first.second if isinstance(first, Pair) else None
                results = [(first.first or Sink()) if isinstance(first, Pair) else first, second or Sink()]
            elif isinstance(meaning.results[0], tuple):
                if not isinstance(first, Group):
                    raise self.fail("a group of registers", str(first))
                results = list(first.members)
            else:
                results = [first]
        kinds = [k for k in meaning.operands if not (isinstance(k, str) and k.endswith("?"))]
        if len(operands) == len(meaning.operands):
            kinds = [k.removesuffix("?") if isinstance(k, str) else k for k in meaning.operands]
        if len(operands) != len(kinds):
            raise self.fail(f"{len(kinds)} operands", str(len(operands)))
        arguments: list[str] = []
        for operand, kind in zip(operands, kinds, strict=True):
            if isinstance(kind, tuple):
                if not isinstance(operand, Group) or len(operand.members) != len(kind):
                    raise self.fail(f"a group of {len(kind)}", str(operand))
                arguments += [self.read(o, k) for o, k in zip(operand.members, kind, strict=True)]
            else:
                arguments.append(self.read(operand, kind))
        if meaning.effect:
            thing = self.thing(instruction)
            self.lines.append(f"lanes.at = {thing}")
            arguments = ["lanes", thing, *arguments]
        call = f"{self.thing(meaning.compute)}({', '.join(arguments)})"
        if not results:
            self.lines.append(call)
            return
        result_kinds = [
            k.removesuffix("?") for r in meaning.results for k in (r if isinstance(r, tuple) else (r,))
        ]
        if len(results) != len(result_kinds):
            raise self.fail(f"{len(result_kinds)} results", str(len(results)))
        if len(results) == 1 and not isinstance(meaning.results[0], tuple):
            self.set(results[0], result_kinds[0], call)
            return
        self.fresh += 1
        whole = f"v{self.fresh}"
        self.lines.append(f"{whole} = {call}")
        for n, (result, kind) in enumerate(zip(results, result_kinds, strict=True)):
            self.set(result, kind, f"{whole}[{n}]")

    def set(self, result: Operand, kind: str, text: str) -> None:
        if isinstance(result, Sink):
            self.lines.append(text)
        elif isinstance(result, Register) and not result.negated:
            self.write_register(result.name, NUMPY[kind], text)
        else:
            raise self.fail("a register", str(result))


def parameter_offsets(function: Function) -> tuple[dict[str, int], int]:
    """Where a kernel's parameters are in the bytes that a launch passes, and how many bytes there are."""
    offsets: dict[str, int] = {}
    top = 0
    for parameter in function.parameters:
        top = -(-top // parameter.alignment) * parameter.alignment
        offsets[parameter.name] = top
        top += parameter.bytes
    return offsets, top
