"""What works on one matrix: a processor with vectors of lanes, or the threads of a block.

In: a region with one factor op. Out: statements, written in the order in which an algorithm asks for them. An algorithm
says what may be done at the same time (`across`, `panels`) and where that must be done before the next step (`wait`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.threads import launch, unravel
from graphc.codegen.schedules.loops import lanes_of, nest, parameters
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Barrier,
    Buffer,
    Cast,
    Const,
    Expr,
    If,
    Kernel,
    Let,
    Load,
    Reduce,
    Stmt,
    Var,
    constant,
    index,
    loop,
    store,
)
from graphc.ir.types import DType, f64

_MOST_THREADS = 256  # for one matrix
_COLUMNS = 2  # vectors of a panel
Place = Expr | int


@dataclass(frozen=True)
class Matrix:
    """A matrix in memory: the last dimensions of a buffer."""

    buffer: Buffer
    before: tuple[Expr, ...] = ()

    def at(self, *where: Place) -> Expr:
        return Load(self.buffer, (*self.before, *(index(i) for i in where)))


@dataclass(frozen=True)
class Panel:
    """Neighbouring columns that are worked on together; their numbers in registers are (row, vector[, lane])."""

    worker: Worker
    first: Expr
    vectors: int
    stop: Expr | None  # of the last, incomplete, vector

    def cell(self, rows: int) -> Buffer:
        lanes = self.worker.lanes
        return self.worker.cell(self.worker.dtype, (rows, self.vectors, *((lanes,) if lanes > 1 else ())))

    def each(self, body: Callable[[int, Expr, tuple[Expr, ...]], None]) -> None:
        """`body(vector, column, lane's place in a cell)` for all columns at once."""
        worker = self.worker
        if worker.lanes == 1:
            for v in range(self.vectors):
                body(v, self.first + v, ())
            return
        lane = worker.names.var("lane")
        with worker.block() as inside:
            for v in range(self.vectors):
                body(v, self.first + v * worker.lanes + lane, (lane,))
        if self.stop is not None:
            inside = [If(self.first + lane < self.stop, tuple(inside))]
        worker.emit(loop(lane, 0, worker.lanes, inside, binding="vector"))


class Worker:
    """Writes the kernel of the factor op of a region."""

    def __init__(self, region: Graph, target: Target, in_place: Mapping[int, int]) -> None:
        self.node = next(n for n in region.nodes if "factor" in n.op.traits)
        self.region = region
        self.target = target
        self.dtype: DType = self.node.type.dtype
        # sums of squares are taken in f64, where the target has it: no square of an f32 leaves its range
        self.wide: DType = f64 if f64 in target.dtypes else self.dtype
        self.names = Names()
        inputs, results, self.params = parameters(region, in_place, region.outputs)
        self.evaluator = Evaluator(region, inputs, self.names)
        self.results: dict[Value, Buffer] = dict(zip(region.outputs, results, strict=True))
        shape = self.node.operands[-1].shape
        self.batch = shape[:-2]
        self.threads = 0
        if target.has_threads:
            self.threads = min(_MOST_THREADS, -(-max(shape[-2:]) // 32) * 32)
        self.lanes = 1 if self.threads else lanes_of(target, region, max(shape[-2:]))
        self.thread: Expr = index(0)
        self.where: tuple[Expr, ...] = ()  # of the matrix in the stack
        self.number: Expr = index(0)
        self._scratch: list[Buffer] = []
        self._direct = not any(n.op.name == "reshape" for n in region.nodes)
        self._statements: list[Stmt] = []

    @property
    def rows_at_once(self) -> int:
        """Rows of a panel in registers: half of the registers hold sums."""
        if self.threads:
            return 4
        return max(1, min(8, self.target.vector_registers // 2 // _COLUMNS))

    def kernel(self, algorithm: Callable[[Worker], None]) -> Kernel:
        def one(where: tuple[Expr, ...]) -> Sequence[Stmt]:
            self.where = where
            with self.block() as statements:
                algorithm(self)
            return statements

        body: Sequence[Stmt] = ()
        if self.node.type.size and self.threads:

            def in_block(block: Expr, thread: Expr) -> Sequence[Stmt]:
                self.number, self.thread = block, thread
                statements: list[Stmt] = []
                where = unravel(self.names, statements, block, self.batch)
                return [*statements, *one(where)]

            body = launch(self.names, math.prod(self.batch), self.threads, in_block)
        elif self.node.type.size:
            body = nest(self.names, self.batch, one)
        return Kernel("factor", (*self.params, *self._scratch), tuple(body))

    # -- statements -------------------------------------------------------------------------------------------

    def emit(self, statement: Stmt) -> None:
        self._statements.append(statement)

    @contextmanager
    def block(self) -> Iterator[list[Stmt]]:
        """A block of statements: what is written inside goes to it."""
        outer, self._statements = self._statements, []
        yield self._statements
        self._statements = outer

    def let(self, stem: str, value: Expr) -> Expr:
        if isinstance(value, (Const, Var)):
            return value
        var = Var(self.names.fresh(stem), value.dtype)
        self.emit(Let(var, value))
        return var

    def put(self, matrix: Matrix, where: Sequence[Place], value: Expr) -> None:
        self.emit(store(matrix.buffer, (*matrix.before, *where), value))

    def number_of(self, value: float) -> Expr:
        return constant(self.dtype, value)

    def for_each(self, start: Place, stop: Place, body: Callable[[Expr], None], step: int = 1) -> None:
        """`body(i)` one after the other."""
        if isinstance(start, int) and isinstance(stop, int) and stop <= start:
            return
        i = self.names.var("k")
        with self.block() as inside:
            body(i)
        self.emit(loop(i, start, stop, inside, step=step))

    def when(self, condition: Expr, body: Callable[[], None]) -> None:
        """`body()` where the condition, the same one for all threads, holds."""
        with self.block() as inside:
            body()
        self.emit(If(condition, tuple(inside)))

    def once(self, body: Callable[[], None]) -> None:
        """`body()` by one thread."""
        if self.threads:
            self.when(Apply("eq", (self.thread, index(0))), body)
        else:
            body()

    def wait(self) -> None:
        """What was stored before is seen by all threads after."""
        if self.threads:
            self.emit(Barrier())

    # -- what may be done at the same time -------------------------------------------------------------------

    def across(self, start: Place, stop: Place, body: Callable[[Expr], None]) -> None:
        """`body(i)` for all i at once."""
        self.panels(start, stop, lambda panel: panel.each(lambda _, i, __: body(i)), vectors=1)

    def panels(
        self, start: Place, stop: Place, body: Callable[[Panel], None], vectors: int = _COLUMNS
    ) -> None:
        """`body(panel)` for neighbouring columns together, so many vectors of them as there are."""
        if self.lanes == 1:
            first = self.thread + start if self.threads else index(start)
            i = self.names.var("i")
            with self.block() as inside:
                body(Panel(self, i, 1, None))
            if not (isinstance(start, int) and isinstance(stop, int) and stop <= start):
                self.emit(loop(i, first, stop, inside, step=self.threads or 1))
            return
        done = start
        count = vectors
        while count:
            if not isinstance(stop, int) or count * self.lanes <= stop:  # else there is none
                done = self._whole_panels(done, stop, count, body)
            count //= 2
        if isinstance(done, int) and isinstance(stop, int) and done == stop:
            return
        with self.block() as inside:
            body(Panel(self, index(done), 1, index(stop)))
        self.emit(If(index(done) < stop, tuple(inside)))

    def _whole_panels(self, start: Place, stop: Place, vectors: int, body: Callable[[Panel], None]) -> Place:
        """All panels of full vectors from `start` on; gives where they end."""
        width = vectors * self.lanes
        if isinstance(start, int) and isinstance(stop, int):
            end: Place = start + max(0, stop - start) // width * width
            if end == start:
                return start
        else:
            end = self.let("full", index(start) + (index(stop) - start) // width * width)
        i = self.names.var("i")
        with self.block() as inside:
            body(Panel(self, i, vectors, None))
        self.emit(loop(i, start, end, inside, step=width))
        return end

    # -- registers -------------------------------------------------------------------------------------------

    def cell(self, dtype: DType, shape: tuple[int, ...] = ()) -> Buffer:
        buffer = Buffer(self.names.fresh("cell"), dtype, shape, space="reg", access="local")
        self.emit(Alloc(buffer))
        return buffer

    def set(self, cell: Buffer, value: Expr, *where: Place) -> None:
        self.emit(store(cell, where, value))

    def sums(self, start: Place, stop: Place, terms: Callable[[Expr], Sequence[Expr]]) -> list[Expr]:
        """The sums of `terms(i)`, each in the wide type, the same for all threads."""
        lanes = 1 if self.lanes == 1 else min(self.lanes, max(1, self.target.lanes(self.wide)))
        zero, shape = constant(self.wide, 0), (lanes,) if lanes > 1 else ()
        with self.block():  # which is left out: it only tells how many sums there are
            count = len(terms(index(0)))
        cells = [self.cell(self.wide, shape) for _ in range(count)]

        def vector(body: Callable[[tuple[Expr, ...], Expr], None], first: Expr, stop: Place | None) -> None:
            if lanes == 1:
                body((), first)
                return
            lane = self.names.var("lane")
            with self.block() as inside:
                body((lane,), first + lane)
            kept: Sequence[Stmt] = inside if stop is None else [If(first + lane < stop, tuple(inside))]
            self.emit(loop(lane, 0, lanes, kept, binding="vector"))

        def clear(lane: tuple[Expr, ...], i: Expr) -> None:
            for cell in cells:
                self.set(cell, zero, *lane)

        def add(lane: tuple[Expr, ...], i: Expr) -> None:
            for cell, term in zip(cells, terms(i), strict=True):
                self.set(cell, Apply("add", (Load(cell, lane), term)), *lane)

        vector(clear, index(0), None)
        if isinstance(start, int) and isinstance(stop, int):
            end: Place = start + max(0, stop - start) // lanes * lanes
        elif lanes == 1:
            end = stop
        else:
            end = self.let("full", index(start) + (index(stop) - start) // lanes * lanes)
        self.for_each(start, end, lambda i: vector(add, i, None), step=lanes)
        if lanes > 1 and end is not stop and end != stop:
            vector(add, index(end), stop)
        if lanes == 1:
            return [Load(cell, ()) for cell in cells]
        totals = [self.cell(self.wide) for _ in cells]

        def join(lane: tuple[Expr, ...], i: Expr) -> None:
            for cell, total in zip(cells, totals, strict=True):
                self.set(total, Reduce("add", Load(cell, lane)))

        vector(join, index(0), None)
        return [Load(total, ()) for total in totals]

    def widened(self, value: Expr) -> Expr:
        return value if value.dtype is self.wide else Cast(self.wide, value)

    def narrowed(self, value: Expr) -> Expr:
        return value if value.dtype is self.dtype else Cast(self.dtype, value)

    # -- matrices --------------------------------------------------------------------------------------------

    def scratch(self, stem: str, *shape: int, dtype: DType | None = None) -> Matrix:
        """Memory for this matrix alone."""
        before = (math.prod(self.batch),) if self.threads else ()
        buffer = Buffer(self.names.fresh(stem), dtype or self.dtype, (*before, *shape), access="scratch")
        self._scratch.append(buffer)
        return Matrix(buffer, (self.number,) if self.threads else ())

    def is_read(self, position: int) -> bool:
        """True if somebody wants this result of the op."""
        return self.node.results[position] in self.results

    def result(self, position: int) -> Matrix:
        """Where a result goes; scratch memory where nobody reads it."""
        value = self.node.results[position]
        if value in self.results:
            return Matrix(self.results[value], self.where)
        return self.scratch("unread", *value.shape[len(self.batch) :], dtype=value.dtype)

    def read(self, position: int, *where: Place) -> Expr:
        """The element of an operand, with what it takes to compute it."""
        with self.evaluator.scope() as block:
            value = self.evaluator.at(self.node.operands[position], (*self.where, *where))
        for statement in block:
            self.emit(statement)
        return value

    def reader(self, position: int) -> Callable[[Place, Place], Expr]:
        """Gives elements of a matrix that is read many times: where it lies in memory, else a copy's."""
        value = self.node.operands[position]
        if self._direct and self.evaluator.source(value, (*self.where, 0, 0)) is not None:

            def direct(i: Place, j: Place) -> Expr:
                found = self.evaluator.source(value, (*self.where, i, j))
                assert found is not None
                return Load(*found)

            return direct
        copy = self.scratch("copy", *value.shape[-2:])
        self.copy(position, copy)
        return copy.at

    def copy(self, position: int, to: Matrix) -> None:
        """An operand's elements, row by row; then all threads see them."""
        rows, columns = self.node.operands[position].shape[-2:]
        self.for_each(
            0,
            rows,
            lambda i: self.across(0, columns, lambda j: self.put(to, (i, j), self.read(position, i, j))),
        )
        self.wait()


def either(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return Apply("select", (condition, yes, no))


def minus_product(a: Expr, b: Expr, c: Expr) -> Expr:
    """c - a b, rounded once where the target can."""
    return Apply("fma", (Apply("neg", (a,)), b, c))
