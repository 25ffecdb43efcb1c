"""How deep WebAssembly's code makes the stack in memory (the engine's own stack of values is the engine's).

In: a `Module`. Out: a `Frame` of each function, as `frames` has it of machine code. LLVM keeps the pointer to that stack
in the global ``__stack_pointer``: a function that needs memory takes it, subtracts a constant, and puts it back.

Instructions: the WebAssembly core specification, 5.4.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphc.artifact.frames import CallSite, Frame, Place
from graphc.artifact.model import Bytes
from graphc.artifact.wasm import Cursor, Module
from graphc.errors import ArtifactError

_CALL, _CALL_INDIRECT, _RETURN_CALL, _RETURN_CALL_INDIRECT = 0x10, 0x11, 0x12, 0x13
_LOCAL_GET, _LOCAL_SET, _LOCAL_TEE, _GLOBAL_GET, _GLOBAL_SET = 0x20, 0x21, 0x22, 0x23, 0x24
_I32_CONST, _I32_ADD, _I32_SUB, _I32_AND = 0x41, 0x6A, 0x6B, 0x71
_SIMD, _MORE = 0xFD, 0xFC


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


class _Function:
    """One function on its way to a `Frame`: which places of the stack its values and locals are."""

    def __init__(self, name: str, module: Module, functions: list[str], pointer: int | None) -> None:
        self.frame = Frame(name)
        self.module, self.functions, self.pointer = module, functions, pointer
        self.values: list[
            tuple[str, int]
        ] = []  # the last known ones: ("stack", depth) or ("constant", value)
        self.locals: dict[int, set[tuple[str, int]]] = {}  # all that each local is ever set to

    def read(self, body: Cursor, size: int) -> Frame:
        for _ in range(body.count()):  # the types of locals
            body.number()
            body.byte()
        instructions = list(_instructions(body))
        self.frame.code_bytes = size
        # twice, as what a local holds must be known from all places that set it
        for last in (False, True):
            depth = 0
            self.values.clear()
            for at, op, operand in instructions:
                depth = self._step(at, op, operand, last, depth)
        if depth:
            raise ArtifactError(
                f"{self.frame.name}: expected the stack pointer of its entry at the end, got {depth} below"
            )
        return self.frame

    def _step(self, at: int, op: int, operand: int, last: bool, depth: int) -> int:
        values = self.values
        if op == _GLOBAL_GET and operand == self.pointer:
            values.append(("stack", depth))
        elif op == _I32_CONST:
            values.append(("constant", operand))
        elif op == _LOCAL_GET:
            found = self.locals.get(operand, set())
            known = next(iter(found)) if last and len(found) == 1 else ("unknown", 0)
            values.append(known)
        elif op in (_I32_ADD, _I32_SUB, _I32_AND) and len(values) >= 2:
            right, left = values.pop(), values.pop()
            values.append(self._combined(op, left, right))
        elif op in (_LOCAL_SET, _LOCAL_TEE):
            value = values[-1] if values else ("unknown", 0)
            self.locals.setdefault(operand, set()).add(value)
            if op == _LOCAL_SET and values:
                values.pop()
        elif op == _GLOBAL_SET and operand == self.pointer:
            kind, place = values.pop() if values else ("unknown", 0)
            if kind == "stack":
                depth = place
            elif last:
                raise ArtifactError(
                    f"{self.frame.name}: expected the stack pointer to change by constants, got another value at {at:#x}"
                )
        else:
            values.clear()  # what the instruction leaves is no place on the stack that is of interest
            if last and op in (_CALL, _RETURN_CALL):
                self.frame.calls.append(CallSite(self._callee(operand), self.frame.depth, at))
            elif last and op in (_CALL_INDIRECT, _RETURN_CALL_INDIRECT):
                self.frame.calls.append(CallSite(None, self.frame.depth, at))
        return depth

    def _combined(self, op: int, left: tuple[str, int], right: tuple[str, int]) -> tuple[str, int]:
        if left[0] == "constant" and op == _I32_ADD:
            left, right = right, left
        if left[0] != "stack" or right[0] != "constant":
            return ("unknown", 0)
        depth = left[1]
        if op == _I32_AND:  # rounded down: how far depends on the caller
            step = -right[1]
            if step <= 0 or step & (step - 1):
                return ("unknown", 0)
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
