"""How deep WebAssembly's code makes the stack in memory (the engine's own stack of values is the engine's).

In: a `Module`. Out: a `Frame` of each function, as `frames` has it of machine code. LLVM keeps the pointer to that stack
in the global ``__stack_pointer``: a function that needs memory takes it, subtracts a constant, and puts it back.

Instructions: the WebAssembly core specification, 5.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphc.artifact.frames import CallSite, Frame, Place
from graphc.artifact.model import Bytes
from graphc.artifact.wasm import Cursor, Module
from graphc.errors import ArtifactError

_CALL, _CALL_INDIRECT, _RETURN_CALL, _RETURN_CALL_INDIRECT = 0x10, 0x11, 0x12, 0x13
_LOCAL_GET, _LOCAL_SET, _LOCAL_TEE, _GLOBAL_GET, _GLOBAL_SET = 0x20, 0x21, 0x22, 0x23, 0x24
_I32_CONST, _I32_ADD, _I32_SUB, _I32_AND = 0x41, 0x6A, 0x6B, 0x71
_SIMD, _MORE = 0xFD, 0xFC
_BINARY = frozenset((*range(0x46, 0x50), *range(0x6A, 0x79)))  # comparisons and arithmetic of i32
_UNARY = frozenset((*range(0x28, 0x36), 0x45, 0x67, 0x68, 0x69, 0xC0, 0xC1))  # loads; of i32 alone
_UNREACHABLE, _LOOP, _ELSE, _END, _BRANCH, _BRANCH_IF, _BRANCH_TABLE, _RETURN = (
    0,
    0x03,
    0x05,
    0x0B,
    0x0C,
    0x0D,
    0x0E,
    0x0F,
)
_OPENS = (0x02, _LOOP, 0x04)  # block, loop, if

_DEEPEST_NESTING = 1000  # so that a hostile module takes no quadratic time; LLVM's have a few dozens

Value = tuple[str, int]  # ("stack", depth below the entry's pointer), ("constant", value) or unknown
_UNKNOWN = ("unknown", 0)


def wasm_frames(module: Module) -> dict[Place, Frame]:
    """The frame of each function; raises `ArtifactError` where one is not valid or its depth can't be proved."""
    functions = module.imported("function")
    names: dict[int, str] = {}
    for symbol in module.symbols or ():
        if symbol.kind == "function" and symbol.section is not None:
            names[symbol.offset] = symbol.name
    for kind, name, index in module.exports:
        if kind == "function" and 0 <= index - len(functions) < len(module.bodies):
            names[module.bodies[index - len(functions)][0]] = name
    pointer = _stack_pointer(module)
    frames = {}
    for number, (start, size) in enumerate(module.bodies):
        name = names.get(start, f"function {number + len(functions)}")
        body = Cursor(Bytes(module.code, f"WebAssembly function {name}"), start, start + size)
        frames[Place(0, start)] = _Function(name, module, functions, pointer).read(body, size)
    return frames


def _stack_pointer(module: Module) -> int | None:
    """Which global it is: in an object the one of that name, in a final module the one that can be changed."""
    imported = module.imported("global")
    if "__stack_pointer" in imported:
        return imported.index("__stack_pointer")
    changeable = [len(imported) + i for i, own in enumerate(module.own_globals) if own]
    return changeable[0] if len(changeable) == 1 else None


@dataclass
class _Construct:
    """A block, loop or branch that is open: the depth that it began at, and the locals that it sets anywhere."""

    depth: int
    sets: frozenset[int]


class _Function:
    """One function on its way to a `Frame`: which places of the stack its values and locals are.

    A construct's end, and a loop's beginning, can be reached from elsewhere: what is set within is not known there.
    """

    def __init__(self, name: str, module: Module, functions: list[str], pointer: int | None) -> None:
        self.frame = Frame(name)
        self.module, self.functions, self.pointer = module, functions, pointer
        self.values: list[Value] = []  # the last known ones
        self.locals: dict[int, Value] = {}
        self.depth = 0
        self.open: list[_Construct] = []
        self.dead = False  # after a jump, until the construct's end
        self.lost = False  # whether a place on the stack may be among the values that are not known any more

    def read(self, body: Cursor, size: int) -> Frame:
        for _ in range(body.count()):  # the types of locals
            body.number()
            body.byte()
        instructions = list(_instructions(body))
        self.frame.code_bytes = size
        sets = _sets_within(instructions)
        self.open.append(_Construct(0, frozenset()))
        for position, (at, op, operand) in enumerate(instructions):
            if op in _OPENS:
                self._begin(op, sets[position])
            elif op in (_ELSE, _END):
                self._end(at, op)
            elif not self.dead:
                self._step(at, op, operand)
        if self.open:
            raise ArtifactError(
                f"{self.frame.name}: expected the end of {len(self.open)} constructs, got the function's"
            )
        return self.frame

    def _begin(self, op: int, sets: frozenset[int]) -> None:
        self.values.clear()
        self.open.append(_Construct(self.depth, sets))
        if op == _LOOP:
            self._forget(sets)

    def _end(self, at: int, op: int) -> None:
        if not self.open:
            raise ArtifactError(f"{self.frame.name}: expected an open construct, got an end at {at:#x}")
        construct = self.open[-1] if op == _ELSE else self.open.pop()
        if not self.dead:
            self._check_depth(at, construct.depth)
        self.depth, self.dead = construct.depth, False
        self._forget(construct.sets)
        self.values.clear()

    def _forget(self, names: frozenset[int]) -> None:
        self.locals = {name: value for name, value in self.locals.items() if name not in names}

    def _check_depth(self, at: int, expected: int) -> None:
        if self.depth != expected:
            raise ArtifactError(
                f"{self.frame.name}: expected one depth of the stack on all paths, got {expected} and {self.depth} at {at:#x}"
            )

    def _jump(self, at: int, levels: int) -> None:
        if levels >= len(self.open):
            raise ArtifactError(
                f"{self.frame.name}: expected one of {len(self.open)} constructs, got {levels} at {at:#x}"
            )
        self._check_depth(at, self.open[-1 - levels].depth)

    def _step(self, at: int, op: int, operand: int) -> None:
        values = self.values
        if op == _GLOBAL_GET and operand == self.pointer:
            values.append(("stack", self.depth))
        elif op == _I32_CONST:
            values.append(("constant", operand))
        elif op == _LOCAL_GET:
            values.append(self.locals.get(operand, _UNKNOWN))
        elif op in _BINARY:
            right, left = self._pop(), self._pop()
            values.append(self._combined(at, op, left, right))
        elif op in _UNARY:
            self._pop()
            values.append(_UNKNOWN)
        elif op in (_LOCAL_SET, _LOCAL_TEE):
            self.locals[operand] = values[-1] if values else _UNKNOWN
            if op == _LOCAL_SET:
                self._pop()
            self.lost = False
        elif op == _GLOBAL_SET and operand == self.pointer:
            kind, place = self._pop()
            if kind != "stack" or place < 0:
                raise self._refused(at)
            self.depth = place
        else:
            # what the instruction takes and leaves is of no interest, unless a place on the stack is below it
            self.lost = any(kind == "stack" for kind, _ in values) and op == _CALL
            values.clear()
            self._control(at, op, operand)

    def _control(self, at: int, op: int, operand: int) -> None:
        if op in (_CALL, _RETURN_CALL):
            self.frame.calls.append(CallSite(self._callee(operand), self.frame.depth, at))
        elif op in (_CALL_INDIRECT, _RETURN_CALL_INDIRECT):
            self.frame.calls.append(CallSite(None, self.frame.depth, at))
        elif op in (_BRANCH, _BRANCH_IF):
            self._jump(at, operand)
        elif op == _BRANCH_TABLE:
            raise ArtifactError(
                f"{self.frame.name}: expected a jump to a known place, got a table at {at:#x}"
            )
        elif op == _RETURN:
            self._check_depth(at, 0)
        self.dead = op in (_UNREACHABLE, _BRANCH, _RETURN, _RETURN_CALL, _RETURN_CALL_INDIRECT)

    def _pop(self) -> Value:
        return self.values.pop() if self.values else _UNKNOWN

    def _refused(self, at: int) -> ArtifactError:
        return ArtifactError(
            f"{self.frame.name}: expected the stack pointer to change by constants, got another value at {at:#x}"
        )

    def _combined(self, at: int, op: int, left: Value, right: Value) -> Value:
        if left[0] == "constant" and op == _I32_ADD:
            left, right = right, left
        if op == _I32_SUB and right[0] != "constant" and (left[0] == "stack" or self.lost):
            raise self._refused(at)  # memory of a size that is known at run time only
        if left[0] != "stack" or right[0] != "constant" or op not in (_I32_ADD, _I32_SUB, _I32_AND):
            return _UNKNOWN
        depth = left[1]
        if op == _I32_AND:  # rounded down: how far depends on the caller
            step = -right[1]
            if step <= 0 or step & (step - 1):
                return _UNKNOWN
            depth += step - 1
        else:
            depth += right[1] if op == _I32_SUB else -right[1]
        self.frame.depth = max(self.frame.depth, depth)
        return ("stack", depth)

    def _callee(self, index: int) -> Place | str:
        if index < len(self.functions):
            return self.functions[index]
        body = index - len(self.functions)
        if body >= len(self.module.bodies):
            raise ArtifactError(
                f"{self.frame.name}: expected one of {len(self.module.bodies)} functions, got {body}"
            )
        return Place(0, self.module.bodies[body][0])


def _sets_within(instructions: list[tuple[int, int, int]]) -> dict[int, frozenset[int]]:
    """The locals that each construct sets, by the position of the instruction that opens it."""
    found: dict[int, frozenset[int]] = {}
    opened: list[tuple[int, set[int]]] = []
    for position, (_, op, operand) in enumerate(instructions):
        if op in _OPENS:
            if len(opened) == _DEEPEST_NESTING:
                raise ArtifactError(
                    f"expected at most {_DEEPEST_NESTING} constructs inside one another, got more"
                )
            opened.append((position, set()))
        elif op in (_LOCAL_SET, _LOCAL_TEE) and opened:
            opened[-1][1].add(operand)
        elif op == _END and opened:
            start, names = opened.pop()
            found[start] = frozenset(names)
            if opened:
                opened[-1][1].update(names)
    for start, names in opened:  # of a body that ends too early, which is told where it is followed
        found[start] = frozenset(names)
    return found


def _instructions(body: Cursor) -> Iterator[tuple[int, int, int]]:
    """(offset, opcode, first operand or 0) of each instruction."""
    while body.more:
        at, op, operand = body.at, body.byte(), 0
        if op in (0x02, 0x03, 0x04, 0x41, 0x42):  # block, loop, if; constants
            operand = body.signed()
        elif op in (0x0C, 0x0D, _CALL, _RETURN_CALL, 0x25, 0x26, 0xD2) or _LOCAL_GET <= op <= _GLOBAL_SET:
            operand = body.number()
        elif op in (_CALL_INDIRECT, _RETURN_CALL_INDIRECT):
            operand = body.number()
            body.number()
        elif op == 0x0E:  # br_table
            for _ in range(body.count() + 1):
                body.number()
        elif op == 0x1C:  # select of types
            for _ in range(body.count()):
                body.byte()
        elif 0x28 <= op <= 0x3E:
            _memory(body)
        elif op in (0x3F, 0x40, 0xD0):
            body.byte()
        elif op in (0x43, 0x44):
            body.skip(4 if op == 0x43 else 8)
        elif op == _MORE:
            kind = body.number()
            for _ in range(
                {8: 2, 9: 1, 10: 2, 11: 1, 12: 2, 13: 1, 14: 2}.get(kind, 1 if 15 <= kind <= 17 else 0)
            ):
                body.number()
            body.file.check(kind <= 17, "an instruction", f"fc {kind}")
        elif op == _SIMD:
            kind = body.number()
            if kind <= 11 or 84 <= kind <= 93:
                _memory(body)
            if kind in (12, 13):  # a constant, a shuffle
                body.skip(16)
            if 21 <= kind <= 34 or 84 <= kind <= 91:  # a lane
                body.byte()
        else:
            plain = op in (0x00, 0x01, 0x05, 0x0B, 0x0F, 0x1A, 0x1B, 0xD1) or 0x45 <= op <= 0xC4
            body.file.check(plain, "an instruction", f"{op:#x} at {at}")
        yield at, op, operand


def _memory(body: Cursor) -> None:
    """Alignment, which memory where there are several, offset."""
    if body.number() & 0x40:
        body.number()
    body.number()
