"""Copies to shared memory and exchanges within a warp: statements that are single instructions of some targets.

In: such a statement. Out: calls of the target's intrinsics. Where a target has no asynchronous copies, `plain_copy` says
the same with loads and stores.
"""

from __future__ import annotations

from graphc.codegen.emit_expr import Expressions
from graphc.codegen.emit_memory import Memory, place_of
from graphc.codegen.emit_registers import Registers
from graphc.codegen.emit_writer import Writer
from graphc.ir.kernel import Commit, Copy, Exchange, If, Load, Stmt, Store, Wait, constant
from graphc.ir.types import i32

_COMMIT, _WAIT = "llvm.nvvm.cp.async.commit.group", "llvm.nvvm.cp.async.wait.group"


def plain_copy(stmt: Copy) -> tuple[Stmt, ...]:
    """The same as loads and stores, which are done at once."""

    def stores(copied: bool) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for n in range(stmt.count):
            at, source_at = (
                (*indices[:-1], indices[-1] + n) if n else indices
                for indices in (stmt.indices, stmt.source_indices)
            )
            zero = constant(stmt.buffer.dtype, 0)
            found.append(Store(stmt.buffer, at, Load(stmt.source, source_at) if copied else zero))
        return tuple(found)

    return stores(True) if stmt.condition is None else (If(stmt.condition, stores(True), stores(False)),)


class Transfers:
    """Writes these statements into a function."""

    def __init__(
        self, writer: Writer, expressions: Expressions, memory: Memory, registers: Registers
    ) -> None:
        self.w, self.x, self.memory, self.registers = writer, expressions, memory, registers

    def instruction(self, stmt: Copy) -> str:
        """The intrinsic that does a copy, empty where the target has none.

        The widest goes past the first cache, which would only hold what shared memory holds already.
        """
        size = stmt.count * stmt.buffer.dtype.bytes
        name = f"llvm.nvvm.cp.async.{'cg' if size == 16 else 'ca'}.shared.global.{size}"
        return name if name in self.w.target.intrinsics else ""

    def copy(self, stmt: Copy) -> None:
        name, pointers = self.instruction(stmt), []
        self.memory.forget(stmt.buffer)
        for buffer, indices in ((stmt.buffer, stmt.indices), (stmt.source, stmt.source_indices)):
            pointer = self.memory.pointer(buffer, place_of(self.x.linear(buffer, indices)))
            pointers.append(f"{self.memory.pointer_type(buffer)} {pointer}")
        if stmt.condition is not None:  # how many bytes are read; the others are zeros
            size = self.w.const(i32, stmt.count * stmt.buffer.dtype.bytes)
            read = self.w.select(self.x.value(stmt.condition), size, self.w.const(i32, 0))
            pointers.append(self.w.typed(read))
            name += ".s"
        self.w.line(f"call void @{name}({', '.join(pointers)})")

    def commit(self, stmt: Commit) -> None:
        if _COMMIT in self.w.target.intrinsics:
            self.w.line(f"call void @{_COMMIT}()")

    def wait(self, stmt: Wait) -> None:
        if _WAIT in self.w.target.intrinsics:
            self.w.line(f"call void @{_WAIT}(i32 {stmt.pending})")
        self.memory.forget()

    def exchange(self, stmt: Exchange) -> None:
        """A call that gives a struct, whose elements go to register cells."""
        if stmt.name not in self.w.target.intrinsics:
            raise self.w.error(f"an operation of target {self.w.target.name}", repr(stmt.name))
        arguments = ", ".join(self.x.word(stmt.name, self.x.value(a)) for a in stmt.args)
        types = ", ".join(self.w.type(buffer.dtype) for buffer, _ in stmt.results)
        found = self.w.fresh()
        self.w.line(f"{found} = call {{ {types} }} @{stmt.name}({arguments})")
        for position, (buffer, indices) in enumerate(stmt.results):
            element = self.w.emit(f"extractvalue {{ {types} }} {found}, {position}", buffer.dtype)
            self.registers.write(*self.x.cell(buffer, indices), element, None)
