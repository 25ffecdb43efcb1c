"""The dot form of a contraction: vectors along the sum in both operands, a tree of shuffles at its end.

In: a `Contraction` whose blocking is of the dot form. Out: its loops. A tile is some rows of one vector of columns, made
by groups of dot products; a tree of shuffles sums a group's lanes into one vector, and more shuffles pick each row's
sums out of the groups' vectors, so that the epilogue works on full vectors of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from graphc.codegen.schedules.loops import lane_block, nest
from graphc.codegen.schedules.operands import Side
from graphc.codegen.schedules.packing import summed_lanes
from graphc.codegen.schedules.tiles import Contraction, Place
from graphc.ir.kernel import (
    Alloc,
    Buffer,
    Expr,
    If,
    Let,
    Load,
    Shuffle,
    Stmt,
    Var,
    constant,
    index,
    load,
    loop,
    store,
)

# (row of a tile, column of it) to the vector of the tile's sums, and its lane, that hold the element
Spot = Callable[[int, int], tuple[int, int]]


class DotProducts:
    """Writes the statements of one contraction in the dot form."""

    def __init__(self, c: Contraction) -> None:
        self.c = c
        self.lanes, self.tile = c.blocking.lanes, c.blocking.tile
        self.left, self.right = c.product.left, c.product.right

    def statements(self, place: Place) -> list[Stmt]:
        """All loops at one place of the outer dimensions."""

        def columns(column: Expr, active: int) -> list[Stmt]:
            def rows(row: Expr, mr: int) -> list[Stmt]:
                return [
                    self.c.call_tile(
                        (mr, active),
                        place,
                        {"row": row, "column": column},
                        lambda inner, at: self._tile(inner, at[0], mr, at[1], active),
                    )
                ]

            return self.c.blocks(self.left.extent, self.tile.rows, rows)

        return self.c.blocks(self.right.extent, self.columns_at_once, columns, "column")

    @property
    def columns_at_once(self) -> int:
        """Columns of a tile: whole groups of them, in one vector if it holds a group."""
        return max(self.lanes // self.tile.vectors, 1) * self.tile.vectors

    def _tile(self, place: Place, row: Expr, mr: int, column: Expr, active: int) -> list[Stmt]:
        """`mr` rows of `active` columns: groups of dot products, then row after row the epilogue."""
        c, lanes = self.c, self.lanes
        nr = min(self.tile.vectors, active)
        each = -(-mr * nr // lanes)  # vectors that a group's sums take
        full = active // nr
        sums = Buffer(
            c.names.fresh("sums"), c.dtype, (-(-active // nr) * each, lanes), space="stack", access="local"
        )
        statements: list[Stmt] = [Alloc(sums)]
        statements += self._groups(place, row, mr, column, nr, full, each, sums)
        if active > full * nr:
            rest = active - full * nr
            statements += self._group(place, row, mr, column + full * nr, rest, index(full * each), sums)

        def spot(i: int, offset: int) -> tuple[int, int]:
            """The vector of `sums` and the lane that hold an element."""
            group = offset // nr
            width = nr if group < full else active - full * nr
            number = i * width + offset - group * nr
            return group * each + number // lanes, number % lanes

        return statements + self._results(place, row, mr, column, active, sums, spot)

    def _groups(
        self, place: Place, row: Expr, mr: int, column: Expr, nr: int, full: int, each: int, sums: Buffer
    ) -> list[Stmt]:
        """All `full` groups of `nr` columns, each of whose sums take `each` vectors."""
        g = self.c.names.var("group") if full > 1 else index(0)
        group = self._group(place, row, mr, column + g * nr, nr, g * each, sums)
        return [loop(g, 0, full, group)] if isinstance(g, Var) else group

    def _results(
        self, place: Place, row: Expr, mr: int, column: Expr, active: int, sums: Buffer, spot: Spot
    ) -> list[Stmt]:
        """The epilogues and stores of a tile, row after row."""
        statements: list[Stmt] = []
        for i in range(mr):
            for start in range(0, active, self.lanes):
                spots = [spot(i, offset) for offset in range(start, min(active, start + self.lanes))]
                finish = partial(self._finish, place, row + i, column + start, sums, spots)
                statements += lane_block(self.c.names, self.lanes, finish)
        return statements

    def _finish(
        self, place: Place, row: Expr, column: Expr, sums: Buffer, spots: list[tuple[int, int]], lane: Expr
    ) -> list[Stmt]:
        """The epilogue of one row, whose sums are at these spots."""
        c = self.c
        statements, value = self.picked(sums, spots, lane)
        c.evaluator.bound[c.product.result] = lambda at: value
        where = self.where(place, row, column + lane, self.left, self.right)
        epilogue = c.finish(where, c.add_to_memory(where))
        return statements + self.masked(len(spots), lane, epilogue)

    def where(self, place: Place, row: Expr, column: Expr, left: Side, right: Side) -> tuple[Expr, ...]:
        """The index of a result of these operands."""
        row_part = (*place.left, row)[: len(left.free)]
        column_part = (*place.right, column)[: len(right.free)]
        return (*place.batch, *row_part, *column_part)

    def masked(self, active: int, lane: Expr, epilogue: list[Stmt]) -> list[Stmt]:
        """An epilogue of the lanes that hold columns; the shuffles before it need all lanes."""
        return [If(lane < active, tuple(epilogue))] if active < self.lanes else epilogue

    def picked(self, sums: Buffer, spots: list[tuple[int, int]], lane: Expr) -> tuple[list[Stmt], Expr]:
        """The sums at these spots as a vector."""
        c, lanes = self.c, self.lanes
        statements: list[Stmt] = []
        total: Expr | None = None
        for vector in dict.fromkeys(v for v, _ in spots):
            part: Expr = load(sums, vector, lane)
            if lanes > 1:
                first = len([v for v, _ in spots if v < vector])
                here = [at for v, at in spots if v == vector]
                # what earlier vectors gave stays; this vector's lanes come after it
                lower = [*range(first)] if total is not None else []
                picked = [*lower, *(at + (lanes if total is not None else 0) for at in here)]
                if total is not None or here != list(range(len(here))):
                    picked += [0] * (lanes - len(picked))
                    part = Shuffle(part if total is None else total, part, tuple(picked))
            var = Var(c.names.fresh("t"), c.dtype)
            statements.append(Let(var, part))
            total = var
        assert total is not None
        return statements, total

    def column_at(self, column: Expr, j: int) -> tuple[Side, Expr]:
        """The operand that holds column `column + j`, and its index there."""
        return self.right, column + j

    def row_at(self, row: Expr, i: int) -> tuple[Side, Expr]:
        """The operand that holds row `row + i`, and its index there."""
        return self.left, row + i

    def _group(
        self, place: Place, row: Expr, mr: int, column: Expr, nr: int, vector: Expr, sums: Buffer
    ) -> list[Stmt]:
        """`mr` x `nr` dot products, summed into the vectors of `sums` from `vector` on."""
        c, lanes, extents = self.c, self.lanes, self.c.product.sums
        depth = extents[-1] if extents else 1
        chains = max(1, min(self.tile.chains, depth // lanes))
        acc = Buffer(c.names.fresh("acc"), c.dtype, (chains, mr, nr, lanes), space="reg", access="local")
        zero = constant(c.dtype, 0)
        cells = [(i, j) for i in range(mr) for j in range(nr)]

        def clear(lane: Expr) -> list[Stmt]:
            return [store(acc, (s, i, j, lane), zero) for s in range(chains) for i, j in cells]

        def products(outer: tuple[Expr, ...], k: Expr, chain: int, lane: Expr) -> list[Stmt]:
            along = (*outer, k + lane) if extents else ()
            with c.evaluator.scope() as inside:
                bs = []
                for j in range(nr):
                    side, own = self.column_at(column, j)
                    at = side.at(place.batch, (*place.right, own), along)
                    bs.append(c.evaluator.at(side.value, at))
                for i in range(mr):
                    side, own = self.row_at(row, i)
                    at = side.at(place.batch, (*place.left, own), along)
                    a = c.evaluator.at(side.value, at)
                    for j in range(nr):
                        cell = (index(chain), index(i), index(j), lane)
                        inside.append(store(acc, cell, c.madd(a, bs[j], Load(acc, cell))))
            return inside

        def pass_over(outer: tuple[Expr, ...]) -> list[Stmt]:
            steps: list[Stmt] = []
            start = 0
            for chain_count in dict.fromkeys((chains, 1)):
                stop = start + (depth - start) // (lanes * chain_count) * (lanes * chain_count)
                if stop > start:
                    k = c.names.var("k")
                    body: list[Stmt] = []
                    for s in range(chain_count):
                        first = k + s * lanes
                        body += lane_block(c.names, lanes, partial(products, outer, first, s))
                    steps.append(loop(k, start, stop, body, step=lanes * chain_count))
                start = stop
            if depth > start:
                steps += lane_block(c.names, lanes, partial(products, outer, index(start), 0), depth - start)
            return steps

        statements: list[Stmt] = [Alloc(acc), *lane_block(c.names, lanes, clear)]
        statements += nest(c.names, extents[:-1], pass_over)

        def total(i: int, j: int, lane: Expr) -> Expr:
            value: Expr = load(acc, 0, i, j, lane)
            for s in range(1, chains):
                value = value + load(acc, s, i, j, lane)
            return value

        def trees(lane: Expr) -> list[Stmt]:
            trees: list[Stmt] = []
            for start in range(0, len(cells), lanes):
                made, joined = summed_lanes(
                    c.names, [total(i, j, lane) for i, j in cells[start : start + lanes]], lanes, c.dtype
                )
                trees += [*made, store(sums, (vector + start // lanes, lane), joined)]
            return trees

        return statements + lane_block(c.names, lanes, trees)
