"""Products with few rows whose operands are both contiguous along the sum: a warp for each column, no shared memory.

In: a region with such a contraction (x Wᵀ of few rows, a matrix times a vector). Out: a kernel. The lanes of a warp go
along the sum, 16 bytes each where that fits, and keep the sums of up to 8 rows; butterflies over the lanes add them up
(in the same order in every run), and the epilogue of each row is another lane's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.threads import Partners, unravel
from graphc.codegen.schedules.gpu.tiling import LATENCY, LAUNCH, Work
from graphc.codegen.schedules.loops import lane_block, parameters
from graphc.codegen.schedules.operands import product_of
from graphc.codegen.target import Device
from graphc.ir.graph import Graph
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Expr,
    If,
    Kernel,
    Let,
    Reduce,
    Stmt,
    Var,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.types import f32

_WARPS = 4  # of a block
_ROWS = 8  # of a warp, at most
_UNROLLED = 4  # steps whose loads are under way together
_RESIDENT = 32  # warps of a multiprocessor
_BEGIN = 1000.0  # cycles of a warp outside of its steps: its start, the butterflies, the epilogue


@dataclass(frozen=True)
class WarpForm:
    """Rows of a warp, elements of one access."""

    rows: int
    width: int


def warp_form(work: Work) -> WarpForm | None:
    """How warps share such a product out; `None` where its operands lie otherwise."""
    width = min(work.row_along, work.column_along)
    if work.precision != "f32" or width == 0:
        return None
    return WarpForm(min(work.rows, _ROWS), width)


def warp_cost(form: WarpForm, work: Work, device: Device) -> float:
    """Cycles by the model of `tiling.py`: latency, or the bandwidth of the second cache, and the roofline."""
    warps = work.batches * work.columns * -(-work.rows // form.rows)
    steps = -(-work.depth // (device.warp * form.width))
    fetched = 4 * device.warp * form.width * (1 + form.rows)
    cycles = 0.0
    rounds, left_over = divmod(warps, device.multiprocessors * _RESIDENT)
    for count, resident in ((rounds, _RESIDENT), (left_over > 0, -(-left_over // device.multiprocessors))):
        each = max(LATENCY / _UNROLLED, resident * fetched / device.cache_bytes)
        cycles += count * (_BEGIN + steps * each)
    return LAUNCH + max(cycles, work.moved / device.memory_bytes)


class WarpProducts:
    """A contract region on its way to a kernel of warps."""

    def __init__(
        self, region: Graph, device: Device, in_place: Mapping[int, int], work: Work, form: WarpForm
    ) -> None:
        self.region, self.device, self.work, self.form = region, device, work, form
        self.product = product_of(region)
        self.names = Names()
        inputs, self.results, self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        left, right = self.product.left, self.product.right
        self.sides = (right, left) if work.swapped else (left, right)
        self.extents = tuple(tuple(side.value.shape[d] for d in side.free) for side in self.sides)
        self.sums = Buffer(
            self.names.fresh("sums"), f32, (form.rows, form.width), space="reg", access="local"
        )

    def kernel(self) -> Kernel:
        work, form = self.work, self.form
        grid = (*self.product.batches, -(-work.rows // form.rows), work.columns)
        count = math.prod(grid)
        block, thread = self.names.var("block"), self.names.var("thread")
        body: list[Stmt] = []
        warp, lane = unravel(self.names, body, thread, (_WARPS, self.device.warp))
        number = block * _WARPS + warp
        known = number < count if count % _WARPS else None
        if known is not None:  # all threads come to the exchanges
            number = Apply("min", (number, index(count - 1)))
        *batch, group, column = unravel(self.names, body, number, grid)
        rows = [group * form.rows + r for r in range(form.rows)]
        places = []
        for row in rows:
            safe = row if work.rows % form.rows == 0 else Apply("min", (row, index(work.rows - 1)))
            places.append(unravel(self.names, body, safe, self.extents[0]))
        at = unravel(self.names, body, column, self.extents[1])
        body += [Alloc(self.sums), *self._clear(), *self._sum(tuple(batch), places, at, lane)]
        for r, (row, place) in enumerate(zip(rows, places, strict=True)):
            total = self._total(body, r)
            own: Expr = Apply("eq", (lane, index(r)))
            for condition in (known, row < work.rows if work.rows % form.rows else None):
                own = own if condition is None else Apply("and", (own, condition))
            body.append(If(own, tuple(self._finish(tuple(batch), place, at, total))))
        threads = loop(thread, 0, _WARPS * self.device.warp, body, binding="thread")
        return Kernel(
            "contract", tuple(self.params), (loop(block, 0, -(-count // _WARPS), [threads], binding="block"),)
        )

    def _clear(self) -> list[Stmt]:
        return [
            statement
            for r in range(self.form.rows)
            for statement in lane_block(
                self.names,
                self.form.width,
                lambda lane, r=r: [store(self.sums, (r, lane), constant(f32, 0))],  # type: ignore[misc]
            )
        ]

    def _sum(
        self,
        batch: tuple[Expr, ...],
        rows: Sequence[tuple[Expr, ...]],
        column: tuple[Expr, ...],
        lane: Expr,
    ) -> list[Stmt]:
        """All steps: whole ones in groups, then the rest, then the end that not all lanes have."""
        across = self.device.warp * self.form.width
        whole = self.work.depth // across
        grouped = whole // _UNROLLED * _UNROLLED

        def step(number: Expr) -> list[Stmt]:
            return self._step(batch, rows, column, (number * self.device.warp + lane) * self.form.width)

        body: list[Stmt] = []
        if grouped:
            start, n = self.names.var("start"), self.names.var("n")
            inner = loop(n, 0, _UNROLLED, step(start + n), binding="unroll")
            body.append(loop(start, 0, grouped, [inner], step=_UNROLLED))
        for number in range(grouped, whole):
            body += step(index(number))
        if whole * across < self.work.depth:
            inside = (lane + whole * self.device.warp) * self.form.width < self.work.depth
            body.append(If(inside, tuple(step(index(whole)))))
        return body

    def _step(
        self, batch: tuple[Expr, ...], rows: Sequence[tuple[Expr, ...]], column: tuple[Expr, ...], k: Expr
    ) -> list[Stmt]:
        row_side, column_side = self.sides

        def lanes(lane: Expr) -> list[Stmt]:
            with self.evaluator.scope() as block:
                along = unravel(self.names, block, k, self.product.sums)
                moved = (*along[:-1], along[-1] + lane) if self.form.width > 1 else along
                y = self.evaluator.at(column_side.value, column_side.at(batch, column, moved))
                for r, row in enumerate(rows):
                    x = self.evaluator.at(row_side.value, row_side.at(batch, row, moved))
                    product = Apply("fma", (x, y, load(self.sums, r, lane)))
                    block.append(store(self.sums, (r, lane), product))
            return block

        return lane_block(self.names, self.form.width, lanes)

    def _total(self, body: list[Stmt], r: int) -> Expr:
        """The sum over all lanes of a row's sums, in every lane."""
        if self.form.width == 1:
            total: Expr = load(self.sums, r, 0)
        else:
            part = Buffer(self.names.fresh("part"), f32, (), space="reg", access="local")
            body.append(Alloc(part))
            body += lane_block(
                self.names,
                self.form.width,
                lambda lane: [store(part, (), Reduce("add", load(self.sums, r, lane)))],
            )
            total = load(part)
        partners = Partners(self.names, body)
        distance = self.device.warp // 2
        while distance:
            var = Var(self.names.fresh("total"), f32)
            total = partners.named(total)
            body.append(Let(var, Apply("add", (total, partners.partner(total, distance)))))
            total, distance = var, distance // 2
        return total

    def _finish(
        self, batch: tuple[Expr, ...], row: tuple[Expr, ...], column: tuple[Expr, ...], total: Expr
    ) -> list[Stmt]:
        """The epilogue of one element and its stores."""
        where = (*batch, *column, *row) if self.work.swapped else (*batch, *row, *column)
        with self.evaluator.scope() as block:
            self.evaluator.bound[self.product.result] = lambda _: total
            values = [self.evaluator.at(v, where) for v in self.region.outputs]
            block += [store(b, where, v) for b, v in zip(self.results, values, strict=True)]
            del self.evaluator.bound[self.product.result]
        return block
