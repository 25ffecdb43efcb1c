"""The schedule of contract regions for threads: tiles through shared memory, a part of the result in each thread.

In: a region with one contraction, the nodes that make its operands and those that read it. Out: a kernel.

A block of threads computes a tile of the result. For each step of the summed dimension it brings a tile of both operands
to shared memory (`staging.py`), several steps ahead of their use; a thread keeps its cells of the result in registers
over all steps and then runs the epilogue on them. Free, summed and batch dimensions are each counted as one and taken
apart into indices where a region's views keep them from being merged (`collapse.py`).

How threads multiply is in `products.py`; `tiling.py` chooses the tile. The target's precision decides whether tensor
cores do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu import plain
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.products import products
from graphc.codegen.schedules.gpu.staging import Staging
from graphc.codegen.schedules.gpu.threads import unravel
from graphc.codegen.schedules.gpu.tiling import Tiling, Work, choose_tiling, cost, work_of
from graphc.codegen.schedules.gpu.warps import WarpForm, WarpProducts, warp_cost, warp_form
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


def schedule_contract(
    region: Graph, target: Target, in_place: Mapping[int, int], tiling: Tiling | WarpForm | None = None
) -> Kernel:
    """A kernel of the cheapest form, or of the given one.

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
    work = work_of(product, target.precision)
    chosen = tiling or choose_form(work, device)
    if isinstance(chosen, WarpForm):
        return WarpProducts(region, device, in_place, work, chosen).kernel()
    return _Tiled(region, in_place, chosen).kernel()


def choose_form(work: Work, device: Device) -> Tiling | WarpForm:
    """The cheaper one of the cheapest tiling and, where there is one, the form of warps."""
    tiling, warps = choose_tiling(work, device), warp_form(work)
    if warps is not None and warp_cost(warps, work, device) < cost(tiling, work, device):
        return warps
    return tiling


def form_cost(work: Work, device: Device) -> float:
    """Cycles of the chosen form, by the model."""
    form = choose_form(work, device)
    return warp_cost(form, work, device) if isinstance(form, WarpForm) else cost(form, work, device)


class _Tiled:
    """A contract region on its way to a tiled kernel."""

    def __init__(self, region: Graph, in_place: Mapping[int, int], tiling: Tiling) -> None:
        self.region = region
        self.product = product_of(region)
        self.names = Names()
        inputs, self.results, self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        self.work = work_of(self.product, tiling.precision, tiling.swapped)
        self.steps = -(-self.work.depth // tiling.depth)
        self.tiling = t = replace(tiling, stages=max(2, min(tiling.stages, self.steps + 1)))
        self.products = products(self.names, t)
        left, right = self.product.left, self.product.right
        self.sides = (right, left) if t.swapped else (left, right)
        self.tiles: list[Buffer] = []
        self.stagings: list[Staging] = []
        for stem, side, extent, tile in (
            ("rows", self.sides[0], self.work.rows, t.rows),
            ("columns", self.sides[1], self.work.columns, t.columns),
        ):
            shape = (t.stages, t.words, tile + t.pad)
            shared = Buffer(
                self.names.fresh(stem), self.products.dtype, shape, space="shared", access="local"
            )
            self.tiles.append(shared)
            self.stagings.append(
                Staging(
                    self.names, self.evaluator, side, extent, self.product.sums, tile, t.words, t.threads, shared,
                    self.products.word,
                )
            )  # fmt: skip

    def kernel(self) -> Kernel:
        t = self.tiling
        block, thread = self.names.var("block"), self.names.var("thread")
        grid = (-(-self.work.rows // t.rows), -(-self.work.columns // t.columns))
        body: list[Stmt] = [
            *map(Alloc, self.tiles),
            loop(thread, 0, t.threads, self._thread(block, thread, grid), binding="thread"),
        ]
        blocks = self.work.batches * math.prod(grid)
        return Kernel("contract", tuple(self.params), (loop(block, 0, blocks, body, binding="block"),))

    def _thread(self, block: Var, thread: Var, grid: tuple[int, int]) -> list[Stmt]:
        t = self.tiling
        body: list[Stmt] = []
        *batch, row_tile, column_tile = unravel(self.names, body, block, (*self.product.batches, *grid))
        first_row, first_column = row_tile * t.rows, column_tile * t.columns
        for staging, first in zip(self.stagings, (first_row, first_column), strict=True):
            staging.begin(body, thread, tuple(batch), first)
        self.products.begin(body, thread)
        sums = self.products.sums
        body.append(Alloc(sums))
        body += self._cells(lambda *cell: [store(sums, cell, constant(f32, 0))])
        body += self._pipeline()
        return [*body, *self._epilogue(tuple(batch), first_row, first_column)]

    def _cells(self, body: Callable[..., Sequence[Stmt]]) -> list[Stmt]:
        """`body(group, row, group, column)` for each cell of the thread."""
        groups, rows, column_groups, width = self.products.shape
        g, i, h = self.names.var("g"), self.names.var("i"), self.names.var("h")
        inner = lane_block(self.names, width, lambda lane: body(g, i, h, lane))
        for var, extent in ((h, column_groups), (i, rows), (g, groups)):
            inner = [loop(var, 0, extent, inner, binding="unroll")]
        return inner

    # The summed dimension

    def _pipeline(self) -> list[Stmt]:
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
            return [*body, Barrier(), *self.products.step(self.tiles[0], self.tiles[1], index(0))]
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
            *self.products.step(self.tiles[0], self.tiles[1], now),
            *([If(more, tuple(after))] if self.steps > ahead and after else []),
            store(stage, (), following),
        ]
        return [*body, Alloc(stage), store(stage, (), index(0)), loop(step, 0, self.steps, inner)]

    # The results

    def _epilogue(self, batch: tuple[Expr, ...], first_row: Expr, first_column: Expr) -> list[Stmt]:
        """What is made of the sums, and its stores: a thread's cells only, so that operands may be overwritten."""
        t, own = self.tiling, self.products
        groups, rows, column_groups, columns = own.shape
        across_rows, row_step, across_columns = own.strides
        row_extents, column_extents = (tuple(side.value.shape[d] for d in side.free) for side in self.sides)
        whole = not t.swapped and bool(column_extents) and column_extents[-1] % columns == 0
        width = columns if whole else 1
        g, i, h = self.names.var("g"), self.names.var("i"), self.names.var("h")

        def of_columns(row: tuple[Expr, ...], flat: Expr, first: int) -> list[Stmt]:
            block: list[Stmt] = []
            column = unravel(self.names, block, flat, column_extents)

            def lanes(lane: Expr) -> list[Stmt]:
                moved = (*column[:-1], column[-1] + lane) if width > 1 else column
                where = (*batch, *moved, *row) if t.swapped else (*batch, *row, *moved)
                with self.evaluator.scope() as inner:
                    self.evaluator.bound[self.product.result] = lambda _: load(
                        own.sums, g, i, h, lane + first
                    )
                    values = [self.evaluator.at(v, where) for v in self.region.outputs]
                    inner += [store(b, where, v) for b, v in zip(self.results, values, strict=True)]
                    del self.evaluator.bound[self.product.result]
                return inner

            block += lane_block(self.names, width, lanes)
            return _guarded(block, flat, self.work.columns, t.columns)

        def of_rows(flat: Expr) -> list[Stmt]:
            block: list[Stmt] = []
            row = unravel(self.names, block, flat, row_extents)
            start = first_column + own.column + h * across_columns
            inner = [s for n in range(0, columns, width) for s in of_columns(row, start + n, n)]
            block.append(loop(h, 0, column_groups, inner, binding="unroll"))
            return _guarded(block, flat, self.work.rows, t.rows)

        body = of_rows(first_row + own.row + g * across_rows + i * row_step)
        for var, extent in ((i, rows), (g, groups)):
            body = [loop(var, 0, extent, body, binding="unroll")]
        return body


def _guarded(block: list[Stmt], flat: Expr, extent: int, tile: int) -> list[Stmt]:
    return [If(flat < extent, tuple(block))] if extent % tile else block
