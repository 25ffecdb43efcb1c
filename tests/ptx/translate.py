"""The code of a kernel: what it and the functions that it calls are as steps for the machine.

In: a program and a kernel's name. Out: a `Code`: basic blocks in the order in which they should run, each a Python
function (`builder`). Only registers that a block reads before it writes them are kept between blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptx.builder import Builder, Names, Scope, Step, callee_of
from ptx.errors import PtxError
from ptx.flow import Block, blocks_of, order_of
from ptx.numbers import NUMPY
from ptx.parser import Address, Function, Group, Instruction, Operand, Pair, Program, Register, Variable


@dataclass
class Code:
    steps: list[Step]
    start: int
    registers: int
    functions: int
    shared_bytes: int
    local_bytes: int
    unit: int  # the smallest access to global or shared memory


def _reachable(program: Program, name: str) -> list[Function]:
    """The kernel and what it calls, callees first."""
    done: list[Function] = []
    active: list[str] = []

    def visit(name: str) -> None:
        if name in active:
            raise PtxError(f"function {name}: expected no recursion, got a call of itself")
        if name not in program.functions:
            raise PtxError(f"function {name}: expected a function with a body, got a declaration only")
        function = program.functions[name]
        if function in done:
            return
        active.append(name)
        for instruction in function.code:
            if instruction.opcode in ("call", "call.uni"):
                visit(callee_of(instruction))
        active.pop()
        done.append(function)

    visit(name)
    return done


def translate(program: Program, kernel: str) -> Code:
    """The code of a kernel. Raises `PtxError` for every instruction, modifier or operand that is not known."""
    functions = _reachable(program, kernel)
    names = Names()
    shared, shared_bytes = _layout(program, functions, "shared")
    local, local_bytes = _layout(program, functions, "local")
    symbols = {**shared, **local}
    graphs = [(function, blocks_of(function)) for function in functions]
    crossing = _crossing(graphs)
    ranks: dict[tuple[int, int], int] = {}
    for f, (_, blocks) in enumerate(graphs):
        for position in order_of(blocks):
            ranks[f, position] = len(ranks)
    numbers = {function.name: f for f, function in enumerate(functions)}
    steps: list[Step] = [None] * len(ranks)  # type: ignore[list-item]
    for f, (function, blocks) in enumerate(graphs):
        scope = Scope(program, function, names, symbols, frozenset(crossing[function.name]))
        for position, block in enumerate(blocks):
            step = Builder(scope).step(block, f)
            if step.end == "call":
                callee = callee_of(step.last)
                step.target = ranks[numbers[callee], 0]
                step.clears = tuple(
                    names.number(callee, r) for r in sorted(crossing[callee]) if not r.startswith("param:")
                )
            else:
                step.target = -1 if block.target is None else ranks[f, block.target]
            step.follows = -1 if block.follows is None else ranks[f, block.follows]
            if step.follows < 0 and step.end in ("", "barrier", "call"):
                raise PtxError(f"function {function.name}: expected it to end with ret, got its end")
            steps[ranks[f, position]] = step
    start = ranks[len(functions) - 1, 0]
    return Code(steps, start, len(names.numbers), len(functions), shared_bytes, local_bytes, _unit(functions))


def _layout(program: Program, functions: list[Function], space: str) -> tuple[dict[str, int], int]:
    """Offsets of the variables of a space, and their bytes; what the launch brings comes last."""
    variables: list[Variable] = [v for v in program.variables.values() if v.space == space]
    variables += [v for f in functions for v in f.variables.values() if v.space == space]
    offsets: dict[str, int] = {}
    top = 0
    for variable in sorted(variables, key=lambda v: v.count is None):
        top = -(-top // variable.alignment) * variable.alignment
        offsets[variable.name] = top
        top += variable.bytes
    return offsets, top


def _unit(functions: list[Function]) -> int:
    """The smallest number of bytes that an instruction accesses in global or shared memory, at most four.

    A cp.async of a part of a word counts as one of the word: it may be reported beside a write, never be missed.
    """
    smallest = 4
    for function in functions:
        for instruction in function.code:
            parts = instruction.opcode.split(".")
            if parts[0] in ("ld", "st", "atom", "red") and "param" not in parts and "local" not in parts:
                smallest = min(smallest, NUMPY[parts[-1]].itemsize if parts[-1] in NUMPY else 1)
    return smallest


def _crossing(graphs: list[tuple[Function, list[Block]]]) -> dict[str, set[str]]:
    """For each function the registers that a block reads before it writes them: those that must be kept."""
    found: dict[str, set[str]] = {}
    for function, blocks in graphs:
        kept = {f"param:{v.name}" for v in function.parameters}
        for block in blocks:
            written: set[str] = set()
            for instruction in (*block.body, *([block.end] if block.end else ())):
                if instruction.guard is not None and instruction.guard.name not in written:
                    kept.add(instruction.guard.name)
                reads, writes = _uses(instruction)
                kept |= reads - written
                written |= writes
        found[function.name] = kept
    return found


def _uses(instruction: Instruction) -> tuple[set[str], set[str]]:
    """The registers that an instruction reads, and those that it writes."""
    results = _result_count(instruction.opcode)
    reads: set[str] = set()
    writes: set[str] = set()
    for n, operand in enumerate(instruction.operands):
        for register in _registers(operand):
            (writes if n < results and not isinstance(operand, Address) else reads).add(register)
    if instruction.opcode in ("call", "call.uni"):
        reads = {f"param:{m.name}" for g in instruction.operands if isinstance(g, Group) for m in g.members}  # type: ignore[union-attr]
    if instruction.opcode.startswith("st.param"):
        writes |= {f"param:{o.base.name}" for o in instruction.operands if isinstance(o, Address)}
    return reads, writes


def _result_count(opcode: str) -> int:
    first = opcode.split(".")[0]
    none = ("st", "red", "bra", "ret", "exit", "bar", "barrier", "call", "cp", "prefetch", "membar", "fence")
    return 0 if first in none else 1


def _registers(operand: Operand) -> list[str]:
    match operand:
        case Register(name):
            return [name]
        case Address(Register(name)):
            return [name]
        case Group(members):
            return [r for m in members for r in _registers(m)]
        case Pair(first, second):
            return [r.name for r in (first, second) if r is not None]
    return []
