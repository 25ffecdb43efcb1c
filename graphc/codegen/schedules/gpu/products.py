"""How a thread multiplies its part of a tile: f32 by f32, or a warp's fragments on tensor cores.

In: a `Tiling`, the two tiles in shared memory. Out: where a thread's cells of the result are, and the statements of one
step of the summed dimension. The cells are a register buffer [row group, row, column group, column].
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.codegen.schedules.evaluate import Names
from graphc.codegen.schedules.gpu.staging import Word
from graphc.codegen.schedules.gpu.threads import unravel
from graphc.codegen.schedules.gpu.tiling import FRAGMENT, VECTOR, WORD_ELEMENTS, Tiling
from graphc.codegen.schedules.loops import lane_block
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Exchange,
    Expr,
    Intrinsic,
    Let,
    Stmt,
    Var,
    index,
    load,
    loop,
    store,
)
from graphc.ir.tensor_cores import CONVERSIONS, PRODUCTS
from graphc.ir.types import DType, f32, i32

_LANE_COLUMNS, _LANES = 8, 32  # of a warp
_UNROLLED = 16  # words of a step: of more the assembler fetches so many ahead that registers run out


@dataclass
class Products:
    """One product for each element of a step; a warp is 4 rows by 8 columns of threads, so that it reads few elements.

    A thread's rows and columns come in groups of four neighbours, the groups a whole tile's width of threads apart:
    its loads are 16 bytes long, and those of a warp in different banks.
    """

    names: Names
    tiling: Tiling
    dtype: DType = f32  # of a word in shared memory
    word: Word = field(default_factory=Word)
    sums: Buffer = field(init=False)
    row: Expr = field(init=False)  # of the thread's first cell, in the tile
    column: Expr = field(init=False)

    def __post_init__(self) -> None:
        groups, row, column_groups, column = self.shape
        self.sums = self._registers("sums", (groups, row, column_groups, column), f32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Row groups, rows of a group, column groups, columns of a group."""
        rows = min(self.tiling.thread_rows, VECTOR)
        return self.tiling.thread_rows // rows, rows, self.tiling.thread_columns // VECTOR, VECTOR

    @property
    def strides(self) -> tuple[int, int, int]:
        """Rows from one group to the next and within a group, columns from one group to the next."""
        t, (_, rows, _, columns) = self.tiling, self.shape
        return rows * (t.rows // t.thread_rows), 1, columns * (t.columns // t.thread_columns)

    def begin(self, body: list[Stmt], thread: Var) -> None:
        """The thread's place in the tile."""
        t = self.tiling
        rows, columns = t.rows // t.thread_rows, t.columns // t.thread_columns
        lane_columns = min(_LANE_COLUMNS, columns)
        lane_rows = min(_LANES // lane_columns, rows)
        lane_columns = min(_LANES // lane_rows, columns)
        extents = (rows // lane_rows, columns // lane_columns, lane_rows, lane_columns)
        warp_row, warp_column, lane_row, lane_column = unravel(self.names, body, thread, extents)
        self.row = (warp_row * lane_rows + lane_row) * self.shape[1]
        self.column = (warp_column * lane_columns + lane_column) * self.shape[3]

    def step(self, left: Buffer, right: Buffer, stage: Expr) -> list[Stmt]:
        """Outer products of the thread's rows and columns, for each word of the step."""
        groups, rows, column_groups, _ = self.shape
        across_rows, _, across_columns = self.strides
        words = min(self.tiling.words, _UNROLLED)
        start, n = self.names.var("start"), self.names.var("n")
        k = start + n
        mine = self._registers("mine", (groups, rows), f32)
        body: list[Stmt] = [Alloc(mine)]
        for g in range(groups):

            def fetch(lane: Expr, g: int = g) -> list[Stmt]:
                return [store(mine, (g, lane), load(left, stage, k, self.row + g * across_rows + lane))]

            body += lane_block(self.names, rows, fetch)

        def lanes(lane: Expr) -> list[Stmt]:
            statements: list[Stmt] = []
            for h in range(column_groups):
                other = Var(self.names.fresh("other"), f32)
                at = self.column + h * across_columns + lane
                statements.append(Let(other, load(right, stage, k, at)))
                for g in range(groups):
                    for i in range(rows):
                        product = Apply("fma", (load(mine, g, i), other, load(self.sums, g, i, h, lane)))
                        statements.append(store(self.sums, (g, i, h, lane), product))
            return statements

        body += lane_block(self.names, VECTOR, lanes)
        inner = loop(n, 0, words, body, binding="unroll")
        return [loop(start, 0, self.tiling.words, [inner], step=words)]

    def _registers(self, stem: str, shape: tuple[int, ...], dtype: DType) -> Buffer:
        return Buffer(self.names.fresh(stem), dtype, shape, space="reg", access="local")


class FragmentProducts(Products):
    """Products of 16 x 8 fragments, by whole warps; `ir.tensor_cores` says which thread has what."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.tiling.thread_rows // 2, 2, self.tiling.thread_columns // 2, 2

    @property
    def strides(self) -> tuple[int, int, int]:
        return 2 * FRAGMENT, FRAGMENT, FRAGMENT

    def begin(self, body: list[Stmt], thread: Var) -> None:
        t = self.tiling
        warp_rows, warp_columns = FRAGMENT * t.thread_rows, 4 * t.thread_columns
        extents = (t.rows // warp_rows, t.columns // warp_columns, FRAGMENT, 4)
        warp_row, warp_column, self._group, self._lane = unravel(self.names, body, thread, extents)
        self._first_row, self._first_column = warp_row * warp_rows, warp_column * warp_columns
        self.row = self._first_row + self._group
        self.column = self._first_column + self._lane * 2

    def step(self, left: Buffer, right: Buffer, stage: Expr) -> list[Stmt]:
        groups, _, column_groups, _ = self.shape
        k = self.names.var("k")
        body: list[Stmt] = []

        def words(tile: Buffer, first: Expr, halves: int) -> list[Expr]:
            """A fragment's words of this thread: both halves of rows at the first words, then at the others."""
            found: list[Expr] = []
            for word in range(2):
                for half in range(halves):
                    var = Var(self.names.fresh("word"), i32)
                    at = (stage, k + self._lane + 4 * word, first + self._group + FRAGMENT * half)
                    body.append(Let(var, load(tile, *at)))
                    found.append(var)
            return found

        columns = [words(right, self._first_column + h * FRAGMENT, 1) for h in range(column_groups)]
        for g in range(groups):
            rows = words(left, self._first_row + g * 2 * FRAGMENT, 2)
            for h in range(column_groups):
                cells = [tuple(map(index, (g, i, h, c))) for i in range(2) for c in range(2)]
                given = (*rows, *columns[h], *(load(self.sums, *cell) for cell in cells))
                results = tuple((self.sums, cell) for cell in cells)
                body.append(Exchange(PRODUCTS[self.tiling.precision], given, results))
        return [loop(k, 0, self.tiling.words, body, step=FRAGMENT, binding="unroll")]


def products(names: Names, tiling: Tiling) -> Products:
    """The products of a tiling's precision."""
    if tiling.precision == "f32":
        return Products(names, tiling)
    elements, conversion = WORD_ELEMENTS[tiling.precision], CONVERSIONS[tiling.precision]
    # of a pair the first operand is the upper half, and the element that comes later
    word = Word(elements, lambda values: Intrinsic(conversion, tuple(reversed(values)), i32))
    return FragmentProducts(names, tiling, i32, word)
