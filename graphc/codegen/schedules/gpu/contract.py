"""The schedule of contract regions for threads: tiles through shared memory, a part of the result in each thread.

In: a region with one contraction, the nodes that make its operands and those that read it. Out: a kernel.

A block of threads computes a tile of the result. For each step of the summed dimension it brings a tile of both operands
to shared memory (`staging.py`), several steps ahead of their use; a thread keeps its cells of the result in registers
over all steps and then runs the epilogue on them. Free, summed and batch dimensions are each counted as one and taken
apart into indices where a region's views keep them from being merged (`collapse.py`).

A thread's rows and columns come in groups of four neighbours, the groups a whole tile's width of threads apart: its
loads from shared memory are 16 bytes long and those of a warp in different banks. A warp is 4 rows by 8 columns of
threads, so that it reads few different elements. `tiling.py` chooses the tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu import plain
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.staging import Staging, Word
from graphc.codegen.schedules.gpu.threads import unravel
from graphc.codegen.schedules.gpu.tiling import PAD, VECTOR, Tiling, choose_tiling, sizes
from graphc.codegen.schedules.loops import lane_block, parameters
from graphc.codegen.schedules.operands import contractions, product_of
from graphc.codegen.target import Device, Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Barrier,
    Buffer,
    Commit,
    Expr,
    If,
    Kernel,
    Let,
    Load,
    Stmt,
    Var,
    Wait,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.types import f32, i64

_LANE_COLUMNS, _LANES = 8, 32  # of a warp


def schedule_contract(
    region: Graph, target: Target, in_place: Mapping[int, int], tiling: Tiling | None = None
) -> Kernel:
    """A kernel of the cheapest tiling, or of the given one.

    Raises `CompileError` for several contractions or by-products in one region: `separate` takes them apart first.
    """
    device = device_of(target)
    if len(contractions(region)) != 1 or any("reduction" in n.op.traits for n in region.nodes):
        raise CompileError(f"contract: expected one contraction and no by-products, got {region}")
    region = collapse_contraction(region)
    product = product_of(region)
    operands = (product.left.value, product.right.value)
    if any(v.dtype is not f32 for v in (product.result, *operands)) or 0 in (
        *product.result.shape,
        product.depth,
    ):
        return plain.schedule_contract(region, target, in_place)
    return _Tiled(region, device, in_place, tiling or choose_tiling(product, device)).kernel()


class _Tiled:
    """A contract region on its way to a tiled kernel."""

    def __init__(self, region: Graph, device: Device, in_place: Mapping[int, int], tiling: Tiling) -> None:
        self.region, self.tiling = region, tiling
        self.product = product_of(region)
        self.names = Names()
        inputs, self.results, self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        self.rows, self.columns, depth, self.batches = sizes(self.product, tiling.swapped)
        self.steps = -(-depth // tiling.depth)
        self.tiling = replace(tiling, stages=max(2, min(tiling.stages, self.steps + 1)))
        left, right = self.product.left, self.product.right
        self.sides = (right, left) if tiling.swapped else (left, right)
        word = Word()
        self.words = tiling.depth // word.elements
        self.tiles = [
            Buffer(
                self.names.fresh(stem),
                f32,
                (self.tiling.stages, self.words, extent + PAD),
                space="shared",
                access="local",
            )
            for stem, extent in (("rows", tiling.rows), ("columns", tiling.columns))
        ]
        self.stagings = [
            Staging(
                self.names, self.evaluator, side, extent, self.product.sums, tile, self.words, tiling.threads,
                shared, word,
            )
            for side, extent, tile, shared in zip(
                self.sides, (self.rows, self.columns), (tiling.rows, tiling.columns), self.tiles, strict=True
            )
        ]  # fmt: skip
        self.group = min(tiling.thread_rows, VECTOR)
        self.row_groups = tiling.thread_rows // self.group
        self.column_groups = tiling.thread_columns // VECTOR
        shape = (self.row_groups, self.group, self.column_groups, VECTOR)
        self.sums = Buffer(self.names.fresh("sums"), f32, shape, space="reg", access="local")

    def kernel(self) -> Kernel:
        t = self.tiling
        block, thread = self.names.var("block"), self.names.var("thread")
        grid = (self.batches, -(-self.rows // t.rows), -(-self.columns // t.columns))
        body: list[Stmt] = [
            *map(Alloc, self.tiles),
            loop(thread, 0, t.threads, self._thread(block, thread, grid), binding="thread"),
        ]
        return Kernel(
            "contract", tuple(self.params), (loop(block, 0, math.prod(grid), body, binding="block"),)
        )

    def _thread(self, block: Var, thread: Var, grid: tuple[int, int, int]) -> list[Stmt]:
        t = self.tiling
        body: list[Stmt] = []
        *batch, row_tile, column_tile = unravel(self.names, body, block, (*self.product.batches, *grid[1:]))
        first_row, first_column = row_tile * t.rows, column_tile * t.columns
        place = tuple(batch)
        for staging, first in zip(self.stagings, (first_row, first_column), strict=True):
            staging.begin(body, thread, place, first)
        row, column = self._position(body, thread)
        body.append(Alloc(self.sums))
        body += self._cells(lambda *cell: [store(self.sums, cell, constant(f32, 0))])
        body += self._pipeline(row, column)
        body += self._epilogue(place, first_row + row * self.group, first_column + column * VECTOR)
        return body

    def _position(self, body: list[Stmt], thread: Var) -> tuple[Expr, Expr]:
        """The thread's row and column among the threads of a tile."""
        rows, columns = (
            self.tiling.rows // self.tiling.thread_rows,
            self.tiling.columns // self.tiling.thread_columns,
        )
        lane_columns = min(_LANE_COLUMNS, columns)
        lane_rows = min(_LANES // lane_columns, rows)
        lane_columns = min(_LANES // lane_rows, columns)
        extents = (rows // lane_rows, columns // lane_columns, lane_rows, lane_columns)
        warp_row, warp_column, lane_row, lane_column = unravel(self.names, body, thread, extents)
        return warp_row * lane_rows + lane_row, warp_column * lane_columns + lane_column

    # The summed dimension

    def _pipeline(self, row: Expr, column: Expr) -> list[Stmt]:
        """All steps. Each stage of shared memory is filled for the step that comes `ahead` later.

        One barrier a step is enough: what is overwritten in a step was last read in the step before.
        """
        stages, ahead = self.tiling.stages, self.tiling.stages - 1
        copied = [s for s in self.stagings if s.is_copied]
        computed = [s for s in self.stagings if not s.is_copied]
        body: list[Stmt] = []
        for first in range(ahead):
            if first < self.steps:
                for staging in copied:
                    body += staging.copies(index(first), index(first))
                for staging in computed:
                    body += [*staging.fetches(index(first)), *staging.puts(index(first))]
            body += [Commit()] if copied else []
        if self.steps == 1:
            body += [Wait(0)] if copied else []
            return [*body, Barrier(), *self._multiply(index(0), row, column)]
        stage = Buffer(self.names.fresh("stage"), i64, (), space="reg", access="local")
        now = Var(self.names.fresh("now"))
        step = self.names.var("step")
        free = Apply(
            "select", (Apply("eq", (now, index(0))), index(stages - 1), now - 1)
        )  # the stage to fill
        more = step < self.steps - ahead
        before: list[Stmt] = []
        after: list[Stmt] = []
        for staging in copied:
            before += staging.copies(step + ahead, free)
        for staging in computed:
            before += staging.fetches(step + ahead)
            after += staging.puts(free)
        following = Apply("select", (Apply("eq", (now, index(stages - 1))), index(0), now + 1))
        inner: list[Stmt] = [
            Let(now, load(stage)),
            *([Wait(ahead - 1)] if copied else []),
            Barrier(),
            *([If(more, tuple(before))] if self.steps > ahead else []),
            *([Commit()] if copied else []),
            *self._multiply(now, row, column),
            *([If(more, tuple(after))] if self.steps > ahead and after else []),
            store(stage, (), following),
        ]
        return [*body, Alloc(stage), store(stage, (), index(0)), loop(step, 0, self.steps, inner)]

    def _multiply(self, stage: Expr, row: Expr, column: Expr) -> list[Stmt]:
        """One step's multiply-adds: outer products of the thread's rows and columns."""
        t = self.tiling
        left, right = self.tiles
        across_rows = self.group * (t.rows // t.thread_rows)
        across_columns = VECTOR * (t.columns // t.thread_columns)
        k = self.names.var("k")
        mine = Buffer(
            self.names.fresh("mine"), f32, (self.row_groups, self.group), space="reg", access="local"
        )
        body: list[Stmt] = [Alloc(mine)]
        for g in range(self.row_groups):

            def fetch(lane: Expr, g: int = g) -> list[Stmt]:
                return [
                    store(mine, (g, lane), load(left, stage, k, row * self.group + g * across_rows + lane))
                ]

            body += lane_block(self.names, self.group, fetch)

        def lanes(lane: Expr) -> list[Stmt]:
            statements: list[Stmt] = []
            for h in range(self.column_groups):
                other = Var(self.names.fresh("other"), f32)
                statements.append(
                    Let(other, load(right, stage, k, column * VECTOR + h * across_columns + lane))
                )
                for g in range(self.row_groups):
                    for i in range(self.group):
                        total = load(self.sums, g, i, h, lane)
                        product = Apply("fma", (load(mine, g, i), other, total))
                        statements.append(store(self.sums, (g, i, h, lane), product))
            return statements

        body += lane_block(self.names, VECTOR, lanes)
        return [loop(k, 0, t.depth, body, binding="unroll")]

    def _cells(self, body: Callable[..., Sequence[Stmt]]) -> list[Stmt]:
        """`body(group, row, group, lane)` for each cell of the thread."""
        g, i, h = self.names.var("g"), self.names.var("i"), self.names.var("h")
        inner = lane_block(self.names, VECTOR, lambda lane: body(g, i, h, lane))
        for var, extent in ((h, self.column_groups), (i, self.group), (g, self.row_groups)):
            inner = [loop(var, 0, extent, inner, binding="unroll")]
        return inner

    # The results

    def _epilogue(self, batch: tuple[Expr, ...], first_row: Expr, first_column: Expr) -> list[Stmt]:
        """What is made of the sums, and its stores: a thread's cells only, so that operands may be overwritten."""
        t = self.tiling
        row_side, column_side = self.sides
        row_extents = tuple(row_side.value.shape[d] for d in row_side.free)
        column_extents = tuple(column_side.value.shape[d] for d in column_side.free)
        width = VECTOR if not t.swapped and column_extents and column_extents[-1] % VECTOR == 0 else 1
        across_rows = self.group * (t.rows // t.thread_rows)
        across_columns = VECTOR * (t.columns // t.thread_columns)
        g, i, h = self.names.var("g"), self.names.var("i"), self.names.var("h")

        def of_columns(row: tuple[Expr, ...], flat: Expr, cell: Callable[[Expr], Expr]) -> list[Stmt]:
            block: list[Stmt] = []
            column = unravel(self.names, block, flat, column_extents) if column_extents else ()

            def lanes(lane: Expr) -> list[Stmt]:
                moved = (*column[:-1], column[-1] + lane) if width > 1 else column
                free = (*moved, *row) if t.swapped else (*row, *moved)
                where = (*batch, *free)
                with self.evaluator.scope() as inner:
                    self.evaluator.bound[self.product.result] = lambda _: cell(lane)
                    values = [self.evaluator.at(v, where) for v in self.region.outputs]
                    inner += [store(b, where, v) for b, v in zip(self.results, values, strict=True)]
                    del self.evaluator.bound[self.product.result]
                return inner

            block += lane_block(self.names, width, lanes)
            return _guarded(block, flat, self.columns, t.columns)

        def of_rows(flat: Expr) -> list[Stmt]:
            block: list[Stmt] = []
            row = unravel(self.names, block, flat, row_extents) if row_extents else ()
            start = first_column + h * across_columns
            inner: list[Stmt] = []
            for n in range(VECTOR // width):
                inner += of_columns(row, start + n, lambda lane, n=n: Load(self.sums, (g, i, h, lane + n)))  # type: ignore[misc]
            block.append(loop(h, 0, self.column_groups, inner, binding="unroll"))
            return _guarded(block, flat, self.rows, t.rows)

        body = of_rows(first_row + g * across_rows + i)
        for var, extent in ((i, self.group), (g, self.row_groups)):
            body = [loop(var, 0, extent, body, binding="unroll")]
        return body


def _guarded(block: list[Stmt], flat: Expr, extent: int, tile: int) -> list[Stmt]:
    return [If(flat < extent, tuple(block))] if extent % tile else block
