"""A single row times columns from beyond the second cache: a few rows of them side by side, from end to end.

In: a `Contraction` whose blocking has the order "sweeps". Out: its loops: short blocks of the sum outside, all columns
inside. A block's rows are as many streams as the processor follows; their splats stay in registers.
"""

from __future__ import annotations

from functools import partial
from itertools import product

from graphc.codegen.schedules.loops import lane_block
from graphc.codegen.schedules.outer import LINE, Block, OuterProducts
from graphc.codegen.schedules.tiles import Place
from graphc.ir.kernel import Alloc, Apply, Buffer, Expr, Stmt, constant, index, load, store

_FIRST_LINES = 2  # of each row of the next block: once it has seen these, the processor foresees the others


class SweptProducts(OuterProducts):
    """Writes the statements of one contraction with a single row."""

    def statements(self, place: Place) -> list[Stmt]:
        return self.along_sum(lambda block: [self._sweep(place, block)])

    def _sweep(self, place: Place, block: Block) -> Stmt:
        """A call of the kernel for all columns over one block of the sum."""
        return self.c.call_tile(
            (block.depth, block.first, block.last),
            place,
            {"step": block.start},
            lambda inner, at: self._columns(inner, at[0], block),
            "sweep",
        )

    def _columns(self, place: Place, start: Expr, block: Block) -> list[Stmt]:
        """All columns, one vector after the other; the block begins at `start`."""
        c, lanes = self.c, self.blocking.lanes
        outer = self.outer(place)[1]
        splats = Buffer(c.names.fresh("a"), c.dtype, (block.depth, lanes), space="reg", access="local")

        def column(column: Expr, size: int) -> list[Stmt]:
            acc = Buffer(c.names.fresh("acc"), c.dtype, (1, 1, 1, lanes), space="reg", access="local")

            def begin(lane: Expr) -> list[Stmt]:
                total: Expr = constant(c.dtype, 0)
                if not block.first:
                    assert self.waiting is not None
                    total = load(self.waiting, 0, column + lane)
                return [store(acc, (0, 0, 0, lane), total)]

            def update(k: int, lane: Expr) -> list[Stmt]:
                with c.evaluator.scope() as inside:
                    at = self.columns.at(place.batch, (*outer, column + lane), (start + k,))
                    b = c.evaluator.at(self.columns.value, at)
                    total = c.madd(load(splats, k, lane), b, load(acc, 0, 0, 0, lane))
                    inside.append(store(acc, (0, 0, 0, lane), total))
                return inside

            def wait(lane: Expr) -> list[Stmt]:
                assert self.waiting is not None
                return [store(self.waiting, (0, column + lane), load(acc, 0, 0, 0, lane))]

            statements = [Alloc(acc), *lane_block(c.names, lanes, begin)]
            for k in range(block.depth):
                active = size if size < lanes else None
                statements += lane_block(c.names, lanes, partial(update, k), active)
            if not block.last:
                return statements + lane_block(c.names, lanes, wait)
            return statements + self._results(place, index(0), column, 1, size, acc)

        statements: list[Stmt] = [Alloc(splats)]
        for k in range(block.depth):
            statements += self._splat(place, start + k, k, splats)
        if not block.last:
            statements += self._prefetched_rows(place, start + block.depth, block.depth)
        return statements + c.blocks(self.columns.extent, lanes, column, "column")

    def _splat(self, place: Place, step: Expr, k: int, splats: Buffer) -> list[Stmt]:
        """The row's element of a step, in all lanes of a register."""
        c = self.c
        with c.evaluator.scope() as inside:
            at = self.rows.at(place.batch, (*self.outer(place)[0], index(0)), (step,))
            a = c.evaluator.at(self.rows.value, at)
            inside += lane_block(c.names, self.blocking.lanes, lambda lane: [store(splats, (k, lane), a)])
        return inside

    def _prefetched_rows(self, place: Place, start: Expr, count: int) -> list[Stmt]:
        """The beginnings of the rows of the next block."""
        statements: list[Stmt] = []
        last, line = self.c.product.depth - 1, LINE // self.c.dtype.bytes
        for k, j in product(range(count), range(_FIRST_LINES)):
            step = Apply("min", (start + k, index(last)))
            column = index(min(j * line, self.columns.extent - 1))
            statements += self.prefetch(
                self.columns.at(place.batch, (*self.outer(place)[1], column), (step,))
            )
        return statements
