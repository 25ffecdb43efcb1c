"""Register buffers: cells that are SSA values, merged by phis where control flow meets.

In: reads and writes with constant indices (the last may be the lane's). Out: values. A buffer that is accessed by lane
anywhere is cut into vectors of that many lanes along its last dimension; one lane of them can be named by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.codegen.emit_memory import LANE, Affine
from graphc.codegen.emit_writer import Value, Writer
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Bitcast,
    Buffer,
    Cast,
    Const,
    Exchange,
    Expr,
    For,
    If,
    Intrinsic,
    Let,
    Load,
    Reduce,
    Shuffle,
    Stmt,
    Store,
    Var,
)

Cell = tuple[int, tuple[int, ...]]  # id of the buffer, index with the last dimension counted in vectors


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions that an expression is made of, the indices of a load among them."""
    kind = type(expr)
    if kind is Const or kind is Var:
        return ()
    if isinstance(expr, (Apply, Intrinsic)):
        return expr.args
    if isinstance(expr, Load):
        return expr.indices
    if isinstance(expr, (Cast, Bitcast, Reduce)):
        return (expr.x,)
    if isinstance(expr, Shuffle):
        return (expr.x, expr.y)
    return ()


def expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that stand in a statement itself."""
    if isinstance(stmt, For):
        return (stmt.start, stmt.stop)
    if isinstance(stmt, Let):
        return (stmt.value,)
    if isinstance(stmt, If):
        return (stmt.condition,)
    if isinstance(stmt, Store):
        return (*stmt.indices, stmt.value)
    if isinstance(stmt, Exchange):
        return stmt.args
    return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all below it, each once."""
    seen, stack = {id(expr)}, [expr]
    while stack:
        node = stack.pop()
        yield node
        for child in children(node):
            if id(child) not in seen:
                seen.add(id(child))
                stack.append(child)


class Registers:
    """The cells of a function's register buffers at the point where instructions are written."""

    def __init__(self, writer: Writer, body: Sequence[Stmt], lanes_of: dict[int, int]) -> None:
        self.w = writer
        self.cells: dict[Cell, Value] = {}
        self.buffers: dict[int, Buffer] = {}
        self.lanes_mix = False  # does an expression look at other lanes?
        self._width: dict[int, int] = {}
        self._measure(body, {}, lanes_of)

    def _measure(self, body: Sequence[Stmt], lanes: dict[str, int], lanes_of: dict[int, int]) -> None:
        """Finds the buffers whose last index is a vector loop's variable; `lanes_of` gives lanes by id of the loop."""
        for stmt in body:
            if isinstance(stmt, Store):
                self._measure_access(stmt.buffer, stmt.indices, lanes)
            for root in expressions(stmt):
                for expr in walk(root):
                    if isinstance(expr, Load):
                        self._measure_access(expr.buffer, expr.indices, lanes)
                    elif isinstance(expr, (Reduce, Shuffle, Intrinsic)):
                        self.lanes_mix = True
            if isinstance(stmt, For):
                width = lanes_of.get(id(stmt), 1)
                inner = {k: v for k, v in lanes.items() if k != stmt.var.name}
                self._measure(stmt.body, {**inner, stmt.var.name: width} if width > 1 else inner, lanes_of)
            elif isinstance(stmt, If):
                self._measure(stmt.body, lanes, lanes_of)
                self._measure(stmt.orelse, lanes, lanes_of)

    def _measure_access(self, buffer: Buffer, indices: Sequence[Expr], lanes: dict[str, int]) -> None:
        if buffer.space != "reg" or not indices or not lanes:
            return
        for expr in walk(indices[-1]):
            width = lanes.get(expr.name, 1) if isinstance(expr, Var) else 1
            if width > 1 and self._width.setdefault(id(buffer), width) != width:
                got = f"{self._width[id(buffer)]} and {width}"
                raise self.w.error(
                    f"register buffer %{buffer.name} to be accessed with one number of lanes", got
                )

    def cell(self, buffer: Buffer, indices: Sequence[Affine]) -> tuple[Cell, int | None]:
        """The cell that an index names; with it the lane, where the index names one lane of a vector."""
        terms = indices[-1].terms if indices else {}
        if any(not i.is_constant for i in indices[:-1]) or (terms and terms != {LANE: 1}):
            expected = "constants, unrolled variables and, last, the vector variable"
            raise self.w.error(f"register buffer %{buffer.name} to be indexed by {expected}", "another index")
        return self.cell_at(buffer, [i.const for i in indices], bool(terms))

    def cell_at(self, buffer: Buffer, position: list[int], vector: bool) -> tuple[Cell, int | None]:
        """The same for known numbers, to the last of which the lane's is added if `vector`."""
        self.buffers[id(buffer)] = buffer
        width = self._width.get(id(buffer), 1)
        at = position[-1] if position else 0
        if vector and at % width:
            raise self.w.error(
                f"register buffer %{buffer.name} to be accessed at multiples of {width}", str(at)
            )
        if position and width > 1:
            position[-1] = at // width
        return (id(buffer), tuple(position)), (at % width if width > 1 and not vector else None)

    def lanes(self, cell: Cell) -> int:
        return self._width.get(cell[0], 1)

    def current(self, cell: Cell) -> Value:
        """The cell's value; undefined before the first store."""
        found = self.cells.get(cell)
        return self.w.poison(self.buffers[cell[0]].dtype, self.lanes(cell)) if found is None else found

    def read(self, buffer: Buffer, cell: Cell, lane: int | None) -> Value:
        value = self.cells.get(cell)
        if value is None:
            raise self.w.error(
                f"register %{buffer.name}{list(cell[1])} to be stored before it is read", "a read"
            )
        return value if lane is None else self.w.lane(value, lane)

    def write(self, cell: Cell, lane: int | None, value: Value, mask: Value | None) -> None:
        """Stores a cell; under a mask the inactive lanes keep what they have."""
        width = self.lanes(cell)
        if (
            lane is not None or width == 1
        ):  # one element: of all the lanes that store it, the last active one wins
            old = self.current(cell)
            if lane is not None:
                old = self.w.lane(old, lane)
            element = self._last_active(value, mask, old)
            self.cells[cell] = element if lane is None else self.w.insert(self.current(cell), element, lane)
            return
        value = self.w.broadcast(value, width)
        if mask is not None and not self._agrees_outside(value, mask, self.current(cell)):
            value = self.w.select(mask, value, self.current(cell))
        self.cells[cell] = value

    def _agrees_outside(self, value: Value, mask: Value, old: Value) -> bool:
        """True if the lanes outside the mask are what the cell holds already: both are 0."""
        zero = self.w.const(value.dtype, 0, value.lanes)
        return old.text == zero.text and self.w.zero_outside.get(value.text) == mask.text

    def _last_active(self, value: Value, mask: Value | None, old: Value) -> Value:
        if mask is None:
            return self.w.lane(value, value.lanes - 1)
        if mask.const is not None:
            active = [n for n, on in enumerate(mask.const) if on]
            return self.w.lane(value, active[-1]) if active else old
        if value.lanes == 1:
            return self.w.select(self.w.any_lane(mask), value, old)
        for lane in range(value.lanes):
            old = self.w.select(self.w.lane(mask, lane), self.w.lane(value, lane), old)
        return old

    def drop(self, buffer: Buffer) -> None:
        """The buffer begins or ends its life: it has no values."""
        self.cells = {cell: value for cell, value in self.cells.items() if cell[0] != id(buffer)}

    def drop_allocated(self, body: Sequence[Stmt]) -> None:
        """Ends the life of what a block allocated."""
        for stmt in body:
            if isinstance(stmt, Alloc) and stmt.buffer.space == "reg":
                self.drop(stmt.buffer)
