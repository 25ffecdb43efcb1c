"""The outer form of a contraction: tiles of accumulators, vectors of one operand times splats of the other.

In: a `Contraction` whose blocking is of the outer form. Out: its loops: panels of columns outside, blocks of the sum,
rows inside. Between blocks of the sum a panel's results wait in scratch memory; the last block has the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from graphc.codegen.schedules.blocking import fitting_lanes
from graphc.codegen.schedules.byproduct import update
from graphc.codegen.schedules.loops import lane_block, nest
from graphc.codegen.schedules.operands import Side
from graphc.codegen.schedules.packing import copy_panel, flat_index, splat_panel, transpose_strip
from graphc.codegen.schedules.tiles import Contraction, Place
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Expr,
    Prefetch,
    Stmt,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.ops.reduce import identity

_PACKED_STEPS = 16  # steps of the sum that are packed at a time
LARGEST_EPILOGUE = 150  # pointwise nodes times cells of a tile that are unrolled
_SMALL_CORNER = 100  # a corner is computed with full rows where that adds less than a hundredth to the work
LINE = 64  # bytes that a prefetch brings
_PANELS_AHEAD = 2  # how far ahead columns are prefetched

Step = Callable[[tuple[Expr, ...], int], list[Stmt]]  # (indices along the sum, chain)


@dataclass(frozen=True)
class Block:
    """A part of the sum; is it the first, the last?"""

    start: Expr
    depth: int
    first: bool
    last: bool


class OuterProducts:
    """Writes the statements of one contraction in the outer form."""

    def __init__(self, c: Contraction) -> None:
        self.c = c
        b = self.blocking = c.blocking
        left, right = c.product.left, c.product.right
        self.rows, self.columns = (right, left) if b.swapped else (left, right)
        self.width = b.tile.vectors * b.lanes
        depth = c.product.depth
        self.panel: Buffer | None = None
        if b.columns != "none":
            self.panel = c.scratch_buffer("panel", (b.depth, self.panel_width))
        self.packed_rows: Buffer | None = None
        self.copies = b.lanes if b.rows == "splats" else 1  # of an element of the packed rows
        if b.rows != "none":
            self.packed_rows = c.scratch_buffer("rows", (self.rows.extent * depth * self.copies,))
        self.waiting: Buffer | None = None  # results between blocks of the sum
        if b.depth < depth:
            # whole vectors wait, with lanes beyond the last column too
            width = self.width if b.order == "panels" else -(-self.columns.extent // b.lanes) * b.lanes
            self.waiting = c.scratch_buffer("partial", (self.rows.extent, width))

    @property
    def panel_width(self) -> int:
        """Elements of a row of a packed panel."""
        return self.width

    def statements(self, place: Place) -> list[Stmt]:
        """All loops at one place of the outer dimensions."""
        statements = self._pack_rows(place) if self.packed_rows is not None else []

        def panels(block: Block | None = None) -> list[Stmt]:
            def panel(column: Expr, size: int) -> list[Stmt]:
                if block is not None:
                    return self._block(place, column, size, block)
                return self.along_sum(lambda b: self._block(place, column, size, b))

            return self.c.blocks(self.columns.extent, self.width, panel, "column")

        if self.blocking.order == "rows":
            return statements + self._rows_outside(place)
        return statements + (self.along_sum(panels) if self.blocking.order == "streams" else panels())

    def _rows_outside(self, place: Place) -> list[Stmt]:
        """Every panel of columns for one tile of rows after the other."""
        whole = Block(index(0), self.c.product.depth, True, True)

        def rows(row: Expr, mr: int) -> list[Stmt]:
            return self.c.blocks(
                self.columns.extent,
                self.width,
                lambda column, size: [self._call(place, row, column, mr, size, whole)],
                "column",
            )

        return self.c.blocks(self.rows.extent, self.blocking.tile.rows, rows)

    # --------------------------------------------------------------------------------------------------------- blocks

    def along_sum(self, body: Callable[[Block], list[Stmt]]) -> list[Stmt]:
        """`body` for every block of the sum."""
        depth, size = self.c.product.depth, self.blocking.depth
        if size >= depth:
            return body(Block(index(0), depth, True, True))
        last = (depth - 1) // size * size
        statements = body(Block(index(0), size, True, False))
        if last > size:
            k = self.c.names.var("block")
            statements.append(loop(k, size, last, body(Block(k, size, False, False)), step=size))
        return statements + body(Block(index(last), depth - last, False, True))

    def _block(self, place: Place, column: Expr, size: int, block: Block) -> list[Stmt]:
        """All rows of a panel of columns over one block of the sum."""
        statements: list[Stmt] = []
        rows, done = self.blocking.tile.rows, 0
        if self.blocking.columns == "passing":
            done = min(rows, self.rows.extent)
            statements.append(self._call(place, index(0), column, done, size, block, packs=True))
        elif self.panel is not None:
            statements += self._pack_columns(place, column, size, block)
        return statements + self.c.blocks(
            self.rows.extent - done,
            rows,
            lambda row, mr: [self._call(place, row + done, column, mr, size, block)],
        )

    def _call(
        self, place: Place, row: Expr, column: Expr, mr: int, size: int, block: Block, packs: bool = False
    ) -> Stmt:
        """A call of the tile of `mr` rows and `size` columns, which `packs` what it reads of the columns."""
        if self._corner_repeats(mr, size, block):
            row, mr = index(self.rows.extent - self.blocking.tile.rows), self.blocking.tile.rows
        return self.c.call_tile(
            (mr, size, block.depth, block.first, block.last, packs),
            place,
            {"row": row, "column": column, "step": block.start},
            lambda inner, at: self._tile(
                inner, at[0], at[1], mr, size, Block(at[2], block.depth, block.first, block.last), packs
            ),
        )

    def _corner_repeats(self, mr: int, size: int, block: Block) -> bool:
        """True of the corner that remains of rows and columns if the tile of full rows may compute some of them again.

        It needs no code of its own then. What is updated in place or summed may not be computed twice.
        """
        rows, full = self.rows.extent, self.blocking.tile.rows
        again = (full - mr) * size
        return (
            mr < full <= rows
            and size < self.width
            and block.first
            and block.last
            and self.packed_rows is None  # rows that remain are packed for a tile of their own
            and not self.c.byproducts
            and all(b.access != "inout" for b in self.c.params)
            and again * _SMALL_CORNER <= rows * self.columns.extent
        )

    # -------------------------------------------------------------------------------------------------------- packing

    def outer(self, place: Place) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """The outer indices of rows and columns."""
        return (place.right, place.left) if self.blocking.swapped else (place.left, place.right)

    def _extents(self, depth: int) -> tuple[int, ...]:
        """The loops along a block of the sum; only a sum along one dimension is cut into blocks."""
        sums = self.c.product.sums
        return (depth,) if len(sums) == 1 else sums

    def _pack_columns(self, place: Place, column: Expr, size: int, block: Block) -> list[Stmt]:
        c, lanes, outer, panel = self.c, self.blocking.lanes, self.outer(place)[1], self.panel
        assert panel is not None
        if self.blocking.columns == "transpose":
            return self._pack_transposed(place, self.columns, column, size, index(0), block)

        def element(offset: Expr, along: tuple[Expr, ...]) -> Expr:
            at = self.columns.at(place.batch, (*outer, column + offset), from_start(block.start, along))
            return c.evaluator.at(self.columns.value, at)

        extents, width = self._extents(block.depth), -(-size // lanes) * lanes
        return copy_panel(
            c.names,
            c.evaluator,
            element,
            panel,
            extents,
            size,
            width,
            lanes,
            lambda k, offset: (k, offset),
        )

    def _pack_transposed(
        self, place: Place, side: Side, column: Expr, size: int, start: Expr, block: Block
    ) -> list[Stmt]:
        """`size` columns of an operand, from `column` on, side by side from `start` of the panel on.

        Calls for no more columns each than a vector holds: a transpose is long code, and every panel needs the same one.
        """
        c, lanes, panel = self.c, self.blocking.lanes, self.panel
        assert panel is not None
        packed, extents = panel, self._extents(block.depth)

        def strip(offset: Expr, count: int) -> list[Stmt]:
            def build(inner: Place, at: Sequence[Expr]) -> list[Stmt]:
                outer = self.outer(inner)[1]

                def element(offset: Expr, along: tuple[Expr, ...]) -> Expr:
                    spot = side.at(inner.batch, (*outer, at[0] + offset), from_start(at[2], along))
                    return c.evaluator.at(side.value, spot)

                return transpose_strip(c.names, c.evaluator, element, packed, at[1], extents, count, lanes)

            position = {"column": column + offset, "offset": start + offset, "step": block.start}
            key = ("strip", side.value, count, block.depth)
            return [c.call_tile(key, place, position, build, "strip")]

        return c.blocks(size, lanes, strip, "c")

    def _pack_rows(self, place: Place) -> list[Stmt]:
        """All rows, tile by tile, each with its rows side by side for every step of the sum."""
        c, depth, outer, packed = self.c, self.c.product.depth, self.outer(place)[0], self.packed_rows
        assert packed is not None

        def steps(start: Expr, extents: tuple[int, ...]) -> list[Stmt]:
            def tile(row: Expr, mr: int) -> list[Stmt]:
                def element(offset: Expr, along: tuple[Expr, ...]) -> Expr:
                    at = self.rows.at(place.batch, (*outer, row + offset), from_start(start, along))
                    return c.evaluator.at(self.rows.value, at)

                def spot(k: Expr, offset: Expr) -> tuple[Expr, ...]:
                    return (row * depth + (start + k) * mr + offset,)

                if self.copies > 1:
                    return splat_panel(c.names, c.evaluator, element, packed, extents, mr, self.copies, spot)
                return copy_panel(
                    c.names, c.evaluator, element, packed, extents, mr, mr, fitting_lanes(c.lanes, mr), spot
                )

            return c.blocks(self.rows.extent, self.blocking.tile.rows, tile)

        if len(c.product.sums) != 1:
            return steps(index(0), self._extents(depth))
        # a few steps at a time, so that their rows stay in the first cache from tile to tile
        return c.blocks(depth, _PACKED_STEPS, lambda start, size: steps(start, (size,)), "step")

    # ----------------------------------------------------------------------------------------------------------- tile

    def _tile(
        self, place: Place, row: Expr, column: Expr, mr: int, size: int, block: Block, packs: bool
    ) -> list[Stmt]:
        """`mr` rows of `size` columns over one block of the sum; `packs` the columns' vectors that it loads."""
        k0, depth, first, last = block.start, block.depth, block.first, block.last
        c, lanes, chains = self.c, self.blocking.lanes, self.blocking.tile.chains
        nv = -(-size // lanes)
        active = size - (nv - 1) * lanes  # lanes of the last vector
        rows_outer, columns_outer = self.outer(place)
        dtype, zero = c.dtype, constant(c.dtype, 0)
        acc = Buffer(c.names.fresh("acc"), dtype, (chains, mr, nv, lanes), space="reg", access="local")

        def waiting(i: Expr, j: Expr, lane: Expr) -> tuple[Expr, Expr]:
            offset = j * lanes + lane
            return row + i, column + offset if self.blocking.order == "streams" else offset

        def begin(i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
            start: Expr = zero
            if not first:
                assert self.waiting is not None
                start = load(self.waiting, *waiting(i, j, lane))
            rest = [store(acc, (s, i, j, lane), zero) for s in range(1, chains)]
            return [store(acc, (0, i, j, lane), start), *rest]

        extents = self._extents(depth)
        panel = None if packs else self.panel  # what is read in place of the columns

        def prefetch(k: Expr) -> list[Stmt]:
            """A step's part of a panel to come."""
            statements: list[Stmt] = []
            for j in range(0, self.width, LINE // dtype.bytes):
                there = column + (_PANELS_AHEAD * self.width + j)
                there = Apply("min", (there, index(self.columns.extent - 1)))
                statements += self.prefetch(self.columns.at(place.batch, (*columns_outer, there), (k0 + k,)))
            return statements

        # what packs has enough to read
        prefetches = self.blocking.order == "streams" and not packs and len(extents) == 1

        def column_vector(along: tuple[Expr, ...], j: Expr, lane: Expr) -> Expr:
            if panel is not None:
                return load(panel, flat_index(extents, along), j * lanes + lane)
            at = self.columns.at(
                place.batch, (*columns_outer, column + j * lanes + lane), from_start(k0, along)
            )
            return c.evaluator.at(self.columns.value, at)

        def row_element(along: tuple[Expr, ...], i: Expr, side: Side, own: Expr) -> Callable[[Expr], Expr]:
            """The element for a lane."""
            if self.packed_rows is not None:
                rows, spot = (
                    self.packed_rows,
                    row * c.product.depth + (k0 + flat_index(extents, along)) * mr + i,
                )
                if self.copies > 1:
                    return lambda lane: load(rows, spot * self.copies + lane)
                return lambda lane: load(rows, spot)
            at = side.at(place.batch, (*rows_outer, own), from_start(k0, along))
            a = c.evaluator.at(side.value, at)
            return lambda lane: a

        def accumulate(chain: int, i: Expr, j: Expr, lane: Expr, a: Expr, b: Expr) -> Stmt:
            return store(acc, (chain, i, j, lane), c.madd(a, b, load(acc, chain, i, j, lane)))

        def step(along: tuple[Expr, ...], chain: int) -> list[Stmt]:
            """One rank-1 update. What there is less of, splats or vectors, stays in registers; the other passes by."""
            b = Buffer(c.names.fresh("b"), dtype, (nv, lanes), space="reg", access="local")
            masked = active < lanes and panel is None

            def pack(j: Expr, lane: Expr) -> list[Stmt]:
                assert self.panel is not None
                return [store(self.panel, (flat_index(extents, along), j * lanes + lane), load(b, j, lane))]

            def load_b(j: Expr, lane: Expr) -> list[Stmt]:
                with c.evaluator.scope() as inside:
                    inside.append(store(b, (j, lane), column_vector(along, j, lane)))
                return inside

            def update_row(i: Expr, side: Side, own: Expr) -> list[Stmt]:
                with c.evaluator.scope() as inside:
                    a = row_element(along, i, side, own)
                    inside += c.vectors(
                        nv, lanes, lambda j, lane: [accumulate(chain, i, j, lane, a(lane), load(b, j, lane))]
                    )
                return inside

            # lanes beyond the last column are 0, not undefined: what is read of them never reaches memory
            rest = lane_block(c.names, lanes, lambda lane: [store(b, (index(nv - 1), lane), zero)])
            before = [
                Alloc(b),
                *(prefetch(along[0]) if prefetches else []),
                *(rest if masked else []),
            ]
            if mr >= nv:
                vectors = c.vectors(nv, lanes, load_b, active if masked else None)
                vectors += c.vectors(nv, lanes, pack) if packs else []
                return [*before, *vectors, *self._each_row(row, mr, update_row)]
            splats = Buffer(c.names.fresh("a"), dtype, (mr, lanes), space="reg", access="local")

            def load_splat(i: Expr, side: Side, own: Expr) -> list[Stmt]:
                with c.evaluator.scope() as inside:
                    a = row_element(along, i, side, own)
                    inside += lane_block(c.names, lanes, lambda lane: [store(splats, (i, lane), a(lane))])
                return inside

            def update_column(j: Expr, lane: Expr) -> list[Stmt]:
                return c.unrolled(
                    mr,
                    lambda i: [accumulate(chain, i, j, lane, load(splats, i, lane), load(b, j, lane))],
                )

            def column_of_cells(j: Expr, active: int | None) -> list[Stmt]:
                return [
                    *lane_block(c.names, lanes, lambda lane: load_b(j, lane), active),
                    *(lane_block(c.names, lanes, lambda lane: pack(j, lane)) if packs else []),
                    *lane_block(c.names, lanes, lambda lane: update_column(j, lane)),
                ]

            columns = [
                s
                for j in range(nv)
                for s in column_of_cells(index(j), active if masked and j == nv - 1 else None)
            ]
            return [*before, Alloc(splats), *self._each_row(row, mr, load_splat), *columns]

        def prefetch_row(i: Expr) -> list[Stmt]:
            starts = [
                self.where(place, row + i, column + j * lanes, self.rows, self.columns) for j in range(nv)
            ]
            return [Prefetch(b, at) for b in far for at in starts]

        far = self._prefetched_results() if last else []
        prefetched = prefetch_row if far else None

        def join(i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
            total: Expr = load(acc, 0, i, j, lane)
            for s in range(1, chains):
                total = total + load(acc, s, i, j, lane)
            return [store(acc, (0, i, j, lane), total)]

        def wait(i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
            assert self.waiting is not None
            return [store(self.waiting, waiting(i, j, lane), load(acc, 0, i, j, lane))]

        statements: list[Stmt] = [
            Alloc(acc),
            *c.cells(mr, nv, lanes, begin),
            *self._steps(extents, chains, step, mr, prefetched),
            *(c.cells(mr, nv, lanes, join) if chains > 1 else []),
        ]
        if not last:
            return statements + c.cells(mr, nv, lanes, wait)
        return statements + self._results(place, row, column, mr, size, acc)

    def prefetch(self, at: tuple[Expr, ...]) -> list[Stmt]:
        """Fetches an element of the columns, where it is in memory as it is.

        Far: rows that lie a power of two apart would push each other out of the first cache.
        """
        found = self.c.evaluator.source(self.columns.value, at)
        return [Prefetch(*found, far=True)] if found is not None else []

    def _prefetched_results(self) -> list[Buffer]:
        """What is fetched from memory while the sums are made."""
        return self.c.far_results()

    def _each_row(self, row: Expr, mr: int, body: Callable[[Expr, Side, Expr], list[Stmt]]) -> list[Stmt]:
        """`body(number in the tile, operand, index in the operand)` for the rows of a tile that begins at `row`."""
        return self.c.unrolled(mr, lambda i: body(i, self.rows, row + i))

    def where(self, place: Place, row: Expr, column: Expr, rows: Side, columns: Side) -> tuple[Expr, ...]:
        """The index of a result whose operands are `rows` and `columns`."""
        rows_outer, columns_outer = self.outer(place)
        row_part = (*rows_outer, row)[: len(rows.free)]
        column_part = (*columns_outer, column)[: len(columns.free)]
        parts = (column_part, row_part) if self.blocking.swapped else (row_part, column_part)
        return (*place.batch, *parts[0], *parts[1])

    def _results(self, place: Place, row: Expr, column: Expr, mr: int, size: int, acc: Buffer) -> list[Stmt]:
        """The epilogue and the stores of a tile whose sums are in the first chain of `acc`."""
        c, lanes = self.c, self.blocking.lanes
        where = partial(self.where, place, rows=self.rows, columns=self.columns)
        nv = -(-size // lanes)
        active = size - (nv - 1) * lanes

        def finish(total: Expr, i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
            c.evaluator.bound[c.product.result] = lambda at: total
            return c.finish(
                where(row + i, column + j * lanes + lane),
                lambda number, value: [
                    store(
                        summed[number],
                        (j, lane),
                        Apply(
                            c.byproducts[number].op.combine,
                            (load(summed[number], j, lane), value),
                        ),
                    )
                ],
            )

        # by-products: a tile's rows are summed in registers, then once in memory
        summed = [
            Buffer(c.names.fresh("sum"), b.dtype, (nv, lanes), space="reg", access="local")
            for b in c.byproduct_results
        ]

        def begin_sums(j: Expr, lane: Expr) -> list[Stmt]:
            return [
                store(s, (j, lane), constant(s.dtype, identity(n.op.combine, s.dtype)))
                for s, n in zip(summed, c.byproducts, strict=True)
            ]

        def add_sums(j: Expr, lane: Expr) -> list[Stmt]:
            spot = where(row, column + j * lanes + lane)[-1:]
            return [
                update(n, b, spot, load(s, j, lane))
                for s, n, b in zip(summed, c.byproducts, c.byproduct_results, strict=True)
            ]

        statements: list[Stmt] = [*map(Alloc, summed)]
        if summed:
            statements += c.vectors(nv, lanes, begin_sums)
        if mr > 1 and c.epilogue_size * mr * nv > LARGEST_EPILOGUE:
            # row by row in a loop: the sums go through memory, which costs less than to compile each row
            sums = Buffer(c.names.fresh("sums"), c.dtype, (mr, nv * lanes), space="stack", access="local")
            statements.append(Alloc(sums))
            statements += c.cells(
                mr, nv, lanes,
                lambda i, j, lane: [store(sums, (i, j * lanes + lane), load(acc, 0, i, j, lane))],
            )  # fmt: skip
            i = c.names.var("r")
            of_row = c.vectors(
                nv, lanes, lambda j, lane: finish(load(sums, i, j * lanes + lane), i, j, lane), active
            )
            statements.append(loop(i, 0, mr, of_row))
        else:
            statements += c.cells(
                mr, nv, lanes, lambda i, j, lane: finish(load(acc, 0, i, j, lane), i, j, lane), active
            )
        if summed:
            statements += c.vectors(nv, lanes, add_sums, active)
        return statements

    def _steps(
        self,
        extents: Sequence[int],
        chains: int,
        step: Step,
        rows: int,
        before_row: Callable[[Expr], list[Stmt]] | None,
    ) -> list[Stmt]:
        """The loops along a block of the sum, the chains taking turns in the innermost one.

        `before_row` is run for each of the tile's rows, spread over the loop.
        """
        names = self.c.names
        if not extents:
            return step((), 0)

        def innermost(outer: tuple[Expr, ...]) -> list[Stmt]:
            full = extents[-1] // chains * chains
            statements: list[Stmt] = []
            k = names.var("k")
            body = [s for chain in range(chains) for s in step((*outer, k + chain), chain)]
            part = -(-full // (rows * chains)) * chains
            if before_row is not None and full and not outer:
                i = names.var("r")
                stop = Apply("min", (i * part + part, index(full)))
                statements.append(
                    loop(i, 0, rows, [*before_row(i), loop(k, i * part, stop, body, step=chains)])
                )
            elif full:
                statements.append(loop(k, 0, full, body, step=chains))
            for rest in range(full, extents[-1]):
                statements += step((*outer, index(rest)), 0)
            return statements

        return nest(names, extents[:-1], innermost)


def from_start(start: Expr, along: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The index along the sum of a step of the block that begins at `start`."""
    return (start + along[0],) if len(along) == 1 else along
