"""Contractions that share an operand, as one: their other operands lie side by side, as if they were one.

In: a contract region with several contractions. Out: its joined `Product` and the cheapest blocking of it (`join`), or
nothing where each on its own costs less; and both forms with such an operand.

One tile covers all that is joined, so that each of its rows or columns belongs to a product that is known when the code
is written. Joined rows share the vectors that are loaded; so do joined columns of the dot form. Joined columns of the
outer form are packed side by side into one panel, where narrow products fill vectors together; where a product does not
begin with a vector the tile's sums go through memory on the stack, from where its epilogue takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

from graphc.codegen.schedules.blocking import Blocking, blockings, choose_blocking
from graphc.codegen.schedules.dot import DotProducts, Spot
from graphc.codegen.schedules.loops import lane_block, nest
from graphc.codegen.schedules.operands import Product, Side, products_of
from graphc.codegen.schedules.outer import LARGEST_EPILOGUE, Block, OuterProducts, from_start
from graphc.codegen.schedules.packing import copy_panel, flat_index
from graphc.codegen.schedules.tiles import Contraction, Place, full_lanes
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Alloc, Buffer, Const, Expr, Stmt, constant, index, load, loop, store

_CALL = (
    50.0  # slots that a kernel of its own costs: its call, those of its tiles, code that isn't in the cache
)
_DOT_VECTORS = (
    2  # vectors of joined columns in the dot form: their groups of columns are written out one by one
)
_RESULT_VECTOR = 2.0  # slots to finish one more vector of results
_PACKED_VECTOR = 5.0  # slots to pack one more vector
# slots to read a vector of the shared operand once more from beyond the second cache, and from beyond the last one
_AGAIN, _AGAIN_FROM_MEMORY = 4.0, 12.0
# What narrower vectors than the full ones cost, where full ones are executed as two halves of so many bytes (Zen 4):
_HALF_BYTES, _NARROW = 32, 0.6
_MARGIN = 0.9  # a gain of less is within the error of the model


@dataclass(frozen=True)
class JoinedSide(Side):
    """Several operands whose last free dimensions count as one; the rest of them are alike."""

    parts: tuple[Side, ...] = ()

    @property
    def extent(self) -> int:
        return sum(part.extent for part in self.parts)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each part begins."""
        return tuple(sum(p.extent for p in self.parts[:i]) for i in range(len(self.parts)))

    def part_at(self, position: int) -> tuple[Side, Expr]:
        """The part at this position, and the index in it."""
        number = max(n for n, start in enumerate(self.starts) if start <= position)
        return self.parts[number], index(position - self.starts[number])

    @property
    def free_stride(self) -> int | None:
        strides = {part.free_stride for part in self.parts if part.extent > 1}
        return strides.pop() if len(strides) == 1 else 1 if not strides else None

    @property
    def summed_stride(self) -> int | None:
        strides = {part.summed_stride for part in self.parts}
        return strides.pop() if len(strides) == 1 else None

    @cached_property
    def is_computed(self) -> bool:
        return any(part.is_computed for part in self.parts)


@dataclass(frozen=True)
class Join:
    """Products as one, and how it runs."""

    products: tuple[Product, ...]
    product: Product
    blocking: Blocking


def join(region: Graph, target: Target) -> Join | None:
    """The region's contractions as one product; `None` where no tile can hold what they don't share."""
    if any("reduction" in n.op.traits for n in region.nodes):
        return None  # by-products are summed for one product
    products = products_of(region)
    lanes = full_lanes(region, target)
    found: list[tuple[float, Product, Blocking]] = []
    for product in _joined(products):
        for b in blockings(product, target, lanes):
            if _fits(product, b):
                found.append((b.cost + _extra(product, b, target), product, b))
    if not found:
        return None
    cost, product, blocking = min(found, key=lambda f: f[0])
    return Join(tuple(products), product, replace(blocking, cost=cost))


@lru_cache(maxsize=256)  # by the region's text: compiling asks more than once
def pays(region: Graph, target: Target) -> bool:
    """True if the region's contractions cost less as one than each on its own."""
    joined = join(region, target)
    if joined is None:
        return False
    lanes = full_lanes(region, target)
    apart = 0.0
    places = 1
    for n in (
        *joined.product.batches,
        *joined.product.left.outer_extents,
        *joined.product.right.outer_extents,
    ):
        places *= max(n, 1)
    for number, product in enumerate(joined.products):
        single = choose_blocking(product, target, lanes)
        narrow = single.lanes < lanes and lanes * product.dtype.bytes > _HALF_BYTES
        apart += single.cost * (_NARROW if narrow else 1.0)
        if number:
            apart += _CALL / places
            apart += max(0.0, _read_again(joined, product, single, target) / places - single.cost)
    return joined.blocking.cost < _MARGIN * apart


def _read_again(joined: Join, product: Product, single: Blocking, target: Target) -> float:
    """How long the shared operand takes to come from beyond the second cache: no product of its own takes less."""
    left_is_shared = isinstance(joined.product.right, JoinedSide)
    shared = product.left if left_is_shared else product.right
    size, second_cache = shared.value.type.bytes, target.cache_bytes[min(1, len(target.cache_bytes) - 1)]
    are_columns = single.form == "outer" and left_is_shared == single.swapped
    if size <= second_cache / 2 or (are_columns and size > second_cache):
        return 0.0  # the blocking's cost has those columns
    each = _AGAIN_FROM_MEMORY if size >= target.cache_bytes[-1] / 2 else _AGAIN
    return each * shared.value.type.size / target.lanes(product.dtype)


def _joined(products: list[Product]) -> Iterator[Product]:
    """The products as one: the left or the right operands are the same."""
    first = products[0]
    accesses = max(p.accesses for p in products)
    lefts, rights = [p.left for p in products], [p.right for p in products]
    if all(side == first.left for side in lefts) and _alike(rights):
        yield Product(first.result, first.left, _side_by_side(rights), accesses)
    if all(side == first.right for side in rights) and _alike(lefts):
        yield Product(first.result, _side_by_side(lefts), first.right, accesses)


def _alike(sides: list[Side]) -> bool:
    return len({side.outer_extents for side in sides}) == 1


def _side_by_side(sides: list[Side]) -> JoinedSide:
    # the part with most dimensions stands for the others, of which one may have no free dimension
    most = max(sides, key=lambda side: len(side.free))
    return JoinedSide(most.value, most.batch, most.free, most.summed, tuple(sides))


def _fits(product: Product, b: Blocking) -> bool:
    """True if one tile holds all that is joined."""
    if b.form == "dot":
        if isinstance(product.left, JoinedSide):
            return b.tile.rows >= product.left.extent
        return product.right.extent <= _DOT_VECTORS * b.lanes
    rows, columns = (product.right, product.left) if b.swapped else (product.left, product.right)
    if isinstance(columns, JoinedSide):
        return b.columns in ("copy", "transpose") and b.tile.vectors * b.lanes >= columns.extent
    return b.tile.rows >= rows.extent and b.rows == "none"


def _extra(product: Product, b: Blocking, target: Target) -> float:
    """Slots beyond those of an ordinary product: what is joined is packed and finished part by part."""
    rows, columns = (product.right, product.left) if b.swapped else (product.left, product.right)
    vectors = -(-columns.extent // b.lanes)
    cost = 0.0
    if b.form == "outer":
        cost += rows.extent * vectors * _RESULT_VECTOR  # the way through memory
    if isinstance(columns, JoinedSide):
        more = sum(-(-part.extent // b.lanes) for part in columns.parts) - vectors
        cost += more * rows.extent * _RESULT_VECTOR
        if b.form == "outer":
            cost += more * product.depth * _PACKED_VECTOR
        elif (b.tile.rows + columns.extent) * product.depth * product.dtype.bytes > target.cache_bytes[
            0
        ] * 3 / 4:
            # each tile of rows reads all columns, from the second cache where the first doesn't hold them
            cost += rows.extent / b.tile.rows * columns.extent * product.depth / b.lanes
    return cost


def _by_shape(c: Contraction, products: Sequence[Product]) -> Iterator[tuple[list[int], list[Value]]]:
    """Products whose results have one shape, by number, and what the region makes of that shape.

    They are finished together, at one index after the other: an epilogue may read several of them.
    """
    for shape in dict.fromkeys(v.shape for v in c.outputs):
        numbers = [n for n, p in enumerate(products) if p.result.shape == shape]
        yield numbers, [v for v in c.outputs if v.shape == shape]


def _own(side: Side, number: int) -> tuple[Side, tuple[int, ...] | None]:
    """A product's own operand of a side, and where each product's part begins; `None` where it is shared."""
    if isinstance(side, JoinedSide):
        return side.parts[number], side.starts
    return side, None


class JoinedOuterProducts(OuterProducts):
    """Writes the statements of several contractions in the outer form."""

    def __init__(self, c: Contraction, products: tuple[Product, ...]) -> None:
        self.products = products
        super().__init__(c)

    @property
    def panel_width(self) -> int:
        # a transposed part's last block is a whole vector wide, wherever the part ends
        return self.width + self.blocking.lanes

    def _pack_columns(self, place: Place, column: Expr, size: int, block: Block) -> list[Stmt]:
        c, lanes, side, panel = self.c, self.blocking.lanes, self.columns, self.panel
        outer = self.outer(place)[1]
        if not isinstance(side, JoinedSide):
            return super()._pack_columns(place, column, size, block)
        assert panel is not None
        extents = self._extents(block.depth)
        statements: list[Stmt] = []
        last = size // lanes * lanes
        if last < size:

            def clear(along: tuple[Expr, ...]) -> list[Stmt]:
                zero = constant(c.dtype, 0)
                spot = flat_index(extents, along)
                return lane_block(c.names, lanes, lambda lane: [store(panel, (spot, lane + last), zero)])

            statements += nest(c.names, extents, clear)
        # in the order of their columns: what a transposed part writes beyond its end is the next one's
        for part, start in zip(side.parts, side.starts, strict=True):

            def element(offset: Expr, along: tuple[Expr, ...], part: Side = part) -> Expr:
                at = part.at(place.batch, (*outer, offset), from_start(block.start, along))
                return c.evaluator.at(part.value, at)

            def spot(k: Expr, offset: Expr, start: int = start) -> tuple[Expr, Expr]:
                return k, offset + start

            if part.summed_stride == 1 and part.free_stride != 1 and lanes > 1:
                statements += self._pack_transposed(place, part, index(0), part.extent, index(start), block)
            else:
                statements += copy_panel(
                    c.names, c.evaluator, element, panel, extents, part.extent, part.extent, lanes, spot
                )
        return statements

    def _each_row(self, row: Expr, mr: int, body: Callable[[Expr, Side, Expr], list[Stmt]]) -> list[Stmt]:
        side = self.rows
        if not isinstance(side, JoinedSide):
            return super()._each_row(row, mr, body)
        statements: list[Stmt] = []
        for part, start in zip(side.parts, side.starts, strict=True):

            def of_part(i: Expr, part: Side = part, start: int = start) -> list[Stmt]:
                return body(i + start, part, i)

            statements += self.c.unrolled(part.extent, of_part)
        return statements

    def _prefetched_results(self) -> list[Buffer]:
        return []

    def _results(self, place: Place, row: Expr, column: Expr, mr: int, size: int, acc: Buffer) -> list[Stmt]:
        c, lanes = self.c, self.blocking.lanes
        nv = -(-size // lanes)
        sums = Buffer(c.names.fresh("sums"), c.dtype, (mr, nv * lanes), space="stack", access="local")

        def keep(i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
            return [store(sums, (i, j * lanes + lane), load(acc, 0, i, j, lane))]

        small = c.epilogue_size * mr * nv <= LARGEST_EPILOGUE
        statements: list[Stmt] = []
        kept = False
        for numbers, results in _by_shape(c, self.products):
            starts = _own(self.columns, numbers[0])[1] or ()
            in_registers = small and all(starts[n] % lanes == 0 for n in numbers if starts)
            if not in_registers and not kept:
                statements += [Alloc(sums), *c.cells(mr, nv, lanes, keep)]
                kept = True
            found = acc if in_registers else sums
            statements += self._finished(place, row, column, mr, size, found, numbers, results)
        return statements

    def _finished(
        self,
        place: Place,
        row: Expr,
        column: Expr,
        mr: int,
        size: int,
        sums: Buffer,
        numbers: list[int],
        results: list[Value],
    ) -> list[Stmt]:
        """The epilogues and stores of a tile's results of one shape; `sums` are the accumulators or a copy in memory."""
        c, lanes = self.c, self.blocking.lanes
        rows, row_starts = _own(self.rows, numbers[0])
        columns, column_starts = _own(self.columns, numbers[0])
        if row_starts is not None:
            mr, row = rows.extent, index(0)
        if column_starts is not None:
            size, column = columns.extent, index(0)

        def total(n: int, i: Expr, j: Expr, lane: Expr) -> Expr:
            i = i + (row_starts[n] if row_starts else 0)
            start = column_starts[n] if column_starts else 0
            if sums.space == "reg":
                return load(sums, 0, i, j + start // lanes, lane)
            return load(sums, i, j * lanes + lane + start)

        def of_row(i: Expr) -> list[Stmt]:
            def finish(j: Expr, lane: Expr) -> list[Stmt]:
                for n in numbers:
                    c.evaluator.bound[self.products[n].result] = _always(total(n, i, j, lane))
                where = self.where(place, row + i, column + j * lanes + lane, rows, columns)
                with c.evaluator.scope() as inside:
                    inside += c.stores(results, where)
                return inside

            nv = -(-size // lanes)
            return c.vectors(nv, lanes, finish, size - (nv - 1) * lanes)

        if mr == 1 or sums.space == "reg":
            return c.unrolled(mr, of_row)
        i = c.names.var("r")
        return [loop(i, 0, mr, of_row(i))]


class JoinedDotProducts(DotProducts):
    """Writes the statements of several contractions in the dot form."""

    def __init__(self, c: Contraction, products: tuple[Product, ...]) -> None:
        self.products = products
        super().__init__(c)

    @property
    def columns_at_once(self) -> int:
        return self.right.extent if isinstance(self.right, JoinedSide) else super().columns_at_once

    def _tile(self, place: Place, row: Expr, mr: int, column: Expr, active: int) -> list[Stmt]:
        # a tile holds all that is joined, from its beginning on
        if isinstance(self.right, JoinedSide):
            column = index(0)
        return super()._tile(place, row, mr, column, active)

    def row_at(self, row: Expr, i: int) -> tuple[Side, Expr]:
        return self.left.part_at(i) if isinstance(self.left, JoinedSide) else super().row_at(row, i)

    def column_at(self, column: Expr, j: int) -> tuple[Side, Expr]:
        if not isinstance(self.right, JoinedSide):
            return super().column_at(column, j)
        assert isinstance(column, Const)
        return self.right.part_at(int(column.value) + j)

    def _groups(
        self, place: Place, row: Expr, mr: int, column: Expr, nr: int, full: int, each: int, sums: Buffer
    ) -> list[Stmt]:
        if not isinstance(self.right, JoinedSide):
            return super()._groups(place, row, mr, column, nr, full, each, sums)
        groups = [
            self._group(place, row, mr, column + g * nr, nr, index(g * each), sums) for g in range(full)
        ]
        return [statement for group in groups for statement in group]

    def _results(
        self, place: Place, row: Expr, mr: int, column: Expr, active: int, sums: Buffer, spot: Spot
    ) -> list[Stmt]:
        statements: list[Stmt] = []
        for numbers, results in _by_shape(self.c, self.products):
            statements += self._finished(place, row, mr, column, active, sums, spot, numbers, results)
        return statements

    def _finished(
        self,
        place: Place,
        row: Expr,
        mr: int,
        column: Expr,
        size: int,
        sums: Buffer,
        spot: Spot,
        numbers: list[int],
        results: list[Value],
    ) -> list[Stmt]:
        """The epilogues and stores of a tile's results of one shape."""
        c, lanes = self.c, self.lanes
        left, row_starts = _own(self.left, numbers[0])
        right, column_starts = _own(self.right, numbers[0])
        if row_starts is not None:
            mr, row = left.extent, index(0)
        if column_starts is not None:
            size, column = right.extent, index(0)

        def finish(i: int, offsets: range, lane: Expr) -> list[Stmt]:
            made: list[Stmt] = []
            for n in numbers:
                first = column_starts[n] if column_starts else 0
                own_row = i + (row_starts[n] if row_starts else 0)
                spots = [spot(own_row, first + offset) for offset in offsets]
                picked, value = self.picked(sums, spots, lane)
                made += picked
                c.evaluator.bound[self.products[n].result] = _always(value)
            where = self.where(place, row + i, column + offsets.start + lane, left, right)
            with c.evaluator.scope() as inside:
                inside += c.stores(results, where)
            return made + self.masked(len(offsets), lane, inside)

        statements: list[Stmt] = []
        for i in range(mr):
            for start in range(0, size, lanes):
                offsets = range(start, min(size, start + lanes))
                statements += lane_block(c.names, lanes, partial(finish, i, offsets))
        return statements


def _always(value: Expr) -> Callable[[tuple[Expr, ...]], Expr]:
    return lambda at: value
