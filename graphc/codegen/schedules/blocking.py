"""The cost model of contractions: which form, register tile, blocks and packing suit a target's registers and caches.

In: a `Product` and a `Target`. Out: a `Blocking`, the cheapest of all that the operands' layouts allow.

The unit of cost is a slot: the time of one vector multiply-add. Besides, a slot brings one vector from the first cache,
or two scalars where a vector is as wide as a cache line (an instruction splats what it reads). What the constants below
say was measured on Zen 4 and Zen 5, with 128, 256 and 512 bits:

- Tiles: rows · vectors accumulators, the fewer of splats and vectors, and one that passes by fill the registers (Goto &
  van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008): 6 x 4 of 32 registers, 4 x 3
  of 16. Fewer than `_CHAINS` accumulators wait for each other: then several sets of them take turns along the sum.
- Without a fused multiply-add the number of instructions binds: wide tiles copy least, and rows are packed as splats,
  each element in all lanes: a splat is two instructions there, and its shuffle takes a multiplication's turn.
- The sum is cut into blocks so that a panel of the columns (block x tile width) stays in the second cache, or in the
  first where few rows need more vectors than the second one gives.
- Where the rows of a panel lie far apart in memory they crowd into few sets of a cache and into many pages: blocks are
  short, or the panel is packed: by a copy, which reads and writes it once more, or in passing, by the first tile of
  rows, which stores what it loads. The same holds for the other operand.
- What comes from memory is read in its order: prefetched two panels ahead for a few rows, from end to end for one.
- Dot form (vectors along the sum in both operands) needs no transposed panel, and pays with a tree of shuffles at the
  end of each sum: better for few rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.codegen.schedules.operands import Product
from graphc.codegen.target import Target

# Tiles
_OVERLAP = 0.1  # of the loads' slots is not hidden behind the multiply-adds, or the other way round
_CHAINS = 8  # multiply-adds under way at once: two a cycle, four cycles each
_ISSUED = 3.0  # instructions that are issued in a slot
_SPLAT = 2.0  # instructions of a splat, where it is not one
_SPLATTED = 4.0  # slots to splat an element and to store it
_SPLAT_PENALTY = 0.1  # of the multiply-adds, where each tile splats what it reads with two instructions
_MOST_SPLATS = 2  # times the second cache: what they may take
_COMPUTED = 6.0  # slots for an element or vector that is computed where it is read
_STORE = 2.0  # slots to finish and store one vector of results
_TILE_OVERHEAD = 24.0  # cycles to call a tile, to set up its addresses and to fill the pipeline
_MOST_ROWS = 16
_MOST_CELLS = 32  # accumulators of a tile; a longer body only takes longer to compile
_CODE = 0.003  # of the time: what each further function must save to be worth its compilation

# Panels of columns
_FAR = 2.5  # slots for a vector from the second cache
_FAR_JUMP = 1.0  # more, where its row lies far from the one before
_FAR_ROW = 2048  # bytes between rows beyond which they are far apart
_FAR_BLOCK = 256  # the length of a block of such rows that is read in place
_FAR_PENALTY = 0.03  # of the multiply-adds: so much longer do they take with such a panel
_LINES_TOGETHER = 192  # bytes of a panel's row from which on its lines come together
_NARROW_PENALTY = 0.3  # of the multiply-adds, where a row of a far panel has fewer
_SHORT_PANEL = (
    4  # tiles of fewer rows need more vectors than come from the second cache: short blocks may suit
)
_SHORT_SUM = 32  # products of so few terms are bound by their results, which are best stored row after row

_PASSING = 1.0  # slots to store a vector of a panel in passing
_PASSING_FAR = 2.5  # more, from memory where each is on another page: a copy has more reads under way
_MASKED = 1.0  # slots more for a vector of some lanes only, where there are no registers for masks

# Columns from memory
_STREAMING = 3.0  # slots that a vector costs beyond one from the second cache, where reads are in order
_PREFETCHED = 1.0  # the same, where they are prefetched
_JUMPING = 8.0  # the same, where each is on another page than the one before
_STREAM_BLOCK = 128  # the length of a block of rows that are read once, each for all columns
_SWEPT = 12  # rows at most that are read side by side for a single row of the other operand
_WAYS = 4  # of them that may lie in one set of the first cache
_STREAM_TILES = 4  # tiles of rows up to which that order may suit

# The other operand's rows
_FORESEEN = 2048  # bytes of a piece of a row from which on the processor fetches it ahead
_FAR_SPLAT = 1.0  # slots for an element of a shorter piece that comes from beyond the second cache
_LINE = 64  # bytes that a cache brings at a time
_PAGE = 4096  # bytes between rows that lie in the same sets of the first cache
_ALIASED_ROWS = 8  # rows of that distance that it holds
_ALIASED_PENALTY = 0.1  # of the multiply-adds, where more of them are read over and over

# Results
_SCATTER = 5.0  # slots to store or load an element of a result whose vectors lie across its rows
_SCATTER_FAR = 12.0  # the same, where each row has lines of its own
_BEST_RESULT_ROW = 384  # bytes of a tile's row from which on memory is read and written at its best
_FAR_RESULT = 4.5  # slots a vector of results from memory, in tiles of half that width
_WAITING = 3.0  # slots to store and load a vector between two blocks of the sum, in the first cache

# Panels of columns are read where they are, or copied before they are read, or in passing, by the first tile of rows.
Packing = Literal["none", "copy", "passing", "transpose"]
# The other operand's rows likewise, or each element in all lanes of a vector: then no instruction splats what it reads.
RowPacking = Literal["none", "copy", "splats"]
# The loops, from outside: panels of columns, blocks of the sum, rows; or rows, panels, the whole sum, for columns that
# stay in the second cache: results are stored row after row; or blocks of the sum, panels, rows, for columns that are
# read once, from memory, and prefetched; or short blocks of the sum, all columns, for a single row.
Order = Literal["panels", "rows", "streams", "sweeps"]


@dataclass(frozen=True)
class Tile:
    """Accumulators in registers: `rows` x `vectors` of them, in `chains` sets that take turns along the sum."""

    rows: int
    vectors: int
    chains: int = 1


@dataclass(frozen=True)
class Blocking:
    """How a contraction runs. `swapped`: vectors lie along the left operand. `cost` is in slots."""

    form: Literal["outer", "dot"]
    swapped: bool
    lanes: int
    tile: Tile
    depth: int  # the length of a block of the sum
    columns: Packing = "none"
    rows: RowPacking = "none"
    order: Order = "panels"
    cost: float = 0.0


def choose_blocking(product: Product, target: Target, lanes: int) -> Blocking:
    """The cheapest blocking; `lanes` are those of a full vector."""
    return min(blockings(product, target, lanes), key=lambda b: b.cost)


def fitting_lanes(lanes: int, extent: int) -> int:
    """No more lanes than the extent fills."""
    while lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return max(lanes, 1)


def blockings(product: Product, target: Target, lanes: int) -> Iterator[Blocking]:
    """All blockings that the operands' layouts allow."""
    left, right = product.left, product.right
    yield from _OuterForm(product, target, False, lanes).candidates()
    if left.extent > 1 and not product.sums_rows:
        yield from _OuterForm(product, target, True, lanes).candidates()
    both_along = bool(product.sums) and left.summed_stride == right.summed_stride == 1
    if both_along or left.extent == right.extent == 1:
        yield from _dot(product, target, lanes)


def _caches(target: Target) -> tuple[int, int]:
    """Bytes of the first and of the second cache; a machine with one has it twice."""
    sizes = target.cache_bytes
    return sizes[0], sizes[min(1, len(sizes) - 1)]


def _parts(extent: int, size: int) -> Iterator[tuple[int, int]]:
    """(how many, size) of the full parts and of what remains."""
    if extent // size:
        yield extent // size, size
    if extent % size:
        yield 1, extent % size


# --------------------------------------------------------------------------------------------------------- outer form


def _free_registers(target: Target, fused: bool) -> int:
    """Registers for sums and for what is held along them: one more holds what passes by.

    Where there is no fused multiply-add, another one holds the product.
    """
    return target.vector_registers - (1 if fused else 2)


def _issue(rows: int, vectors: int, fused: bool, splats: bool) -> float:
    """Slots that it takes to issue the instructions of a step; `splats` are read as such.

    A multiplication of its own overwrites a factor: every factor but one that passes by for the last time is copied
    first. Targets of that kind also take two instructions for a splat.
    """
    cells = rows * vectors
    if fused:
        return (cells + vectors + rows + 2) / _ISSUED
    return (3 * cells - max(rows, vectors) + vectors + (1 if splats else _SPLAT) * rows + 2) / _ISSUED


def _even_blocks(depth: int, most: int) -> int:
    """The length of equal blocks of at most about `most` steps, in multiples of 8."""
    blocks = math.ceil(depth / most) if depth else 1
    return min(depth, math.ceil(depth / blocks / 8) * 8)


class _OuterForm:
    """The outer form of a product, with vectors along one of its operands: all blockings that may suit."""

    def __init__(self, product: Product, target: Target, swapped: bool, widest: int) -> None:
        self.swapped = swapped
        self.rows, self.columns = (product.right, product.left) if swapped else (product.left, product.right)
        self.m, self.n, self.k = self.rows.extent, self.columns.extent, product.depth
        self.one_sum = len(product.sums) == 1
        self.accesses = product.accesses
        self.lanes = fitting_lanes(widest, self.n)
        self.vectors = -(-self.n // self.lanes)
        self.bytes = product.dtype.bytes
        # a vector as wide as a line comes, and is multiplied, in a whole cycle; narrower ones in half of one
        self.slots_a_cycle = 1 if self.lanes * self.bytes >= _LINE else 2
        self.fused = target.is_native("fma", product.dtype)
        self.registers = target.vector_registers
        self.spare = _free_registers(target, self.fused)
        self.first_cache, self.second_cache = _caches(target)
        self.gap = self.columns.summed_stride  # from a row of a panel to the next, in elements
        self.far_gap = self.gap is None or self.gap * self.bytes > _FAR_ROW
        row_gap = (self.rows.summed_stride or 0) * self.bytes
        self.aliased = self.rows.free_stride == 1 and self.k > 8 * _ALIASED_ROWS and row_gap % _PAGE == 0
        self.columns_bytes = self.k * self.n * self.bytes
        beyond = self.columns_bytes > self.second_cache // 2
        self.streamed = (
            beyond and self.one_sum and self.columns.free_stride == 1
        )  # once, in the order of memory
        self.rows_jump = self.rows.free_stride == 1 and row_gap > _FAR_ROW

    def candidates(self) -> Iterator[Blocking]:
        """Every tile with every packing and order of the loops that may suit it."""
        packings: list[Packing] = ["none", "copy", "passing"]
        if self.gap == 1 and self.columns.free_stride != 1 and self.lanes > 1:
            packings = ["transpose"]
        if self.m == 1 and self.streamed:
            yield self._sweeps()
        row_packings: list[RowPacking] = ["none"]
        if self.rows.is_computed or self.aliased:
            row_packings.append("copy")
        if not self.fused and self.m * self.k * self.lanes * self.bytes <= _MOST_SPLATS * self.second_cache:
            row_packings.append("splats")
        for tile in self._tiles():
            for packing in packings:
                for order, depth in self._orders(tile, packing):
                    for packed in row_packings:
                        cost = self._cost(tile, packing, order, depth, packed)
                        cost *= 1 + _CODE * (self._functions(tile, packing, depth) - 1)
                        yield Blocking(
                            "outer", self.swapped, self.lanes, tile, depth, packing, packed, order, cost
                        )

    def _sweeps(self) -> Blocking:
        """A single row times all columns, a few steps of the sum at a time."""
        sets = _PAGE // math.gcd((self.gap or 0) * self.bytes, _PAGE)
        depth = min(self.k, _SWEPT, self.registers // 2, _WAYS * sets)
        blocks = -(-self.k // depth)
        load = _FAR + _STREAMING * (self.columns_bytes > self.second_cache)
        load += _COMPUTED * self.columns.is_computed
        cost = self.k * (self.vectors * load + 1 + _COMPUTED * self.rows.is_computed)
        cost += blocks * (self.vectors * _WAITING + _TILE_OVERHEAD * self.slots_a_cycle)
        return Blocking("outer", self.swapped, self.lanes, Tile(1, 1), depth, order="sweeps", cost=cost)

    def _tiles(self) -> list[Tile]:
        """The tiles that fit the registers, but those of less than half as many sums as others."""
        step = (self.rows.free_stride or 0) * self.bytes
        most_rows = _ALIASED_ROWS if step and step % _PAGE == 0 else _MOST_ROWS
        # what there is less of, splats or vectors, stays in registers
        sizes = [
            (rows, vectors)
            for vectors in range(1, min(max(self.vectors, 1), _MOST_CELLS) + 1)
            for rows in range(1, min(max(self.m, 1), most_rows, _MOST_CELLS // vectors) + 1)
            if rows * vectors + min(rows, vectors) <= self.spare
        ]
        most = max(rows * vectors for rows, vectors in sizes)
        tiles = []
        for rows, vectors in sizes:
            cells = rows * vectors
            if 2 * cells >= most:
                chains = max(1, min(_CHAINS // cells, self.registers // (2 * cells)))
                tiles.append(Tile(rows, vectors, chains))
        return tiles

    def _functions(self, tile: Tile, packing: Packing, depth: int) -> int:
        """How many tiles are compiled: those of what remains of rows, columns and sum are functions of their own."""
        blocks = min(3, math.ceil(self.k / depth)) if depth else 1
        rows, columns = (
            1 + (extent > size and extent % size > 0)
            for extent, size in ((self.m, tile.rows), (self.n, tile.vectors * self.lanes))
        )
        return blocks * columns * (rows + (packing == "passing"))

    def _orders(self, tile: Tile, packing: Packing) -> list[tuple[Order, int]]:
        """The orders of the loops that may suit, each with the length of its blocks of the sum."""
        k, row_bytes, in_place = self.k, self._row_bytes(tile), packing == "none"
        panel_rows = -(-self.m // tile.rows)
        found: list[tuple[Order, int]] = []
        if packing == "passing" and panel_rows == 1:
            return found
        together = row_bytes >= _LINES_TOGETHER or k <= _SHORT_SUM
        if in_place and self.columns_bytes <= self.second_cache // 2 and together:
            found.append(("rows", k))
        if panel_rows == 1 or not self.one_sum:
            found.append(("panels", k))
        else:
            most = max(16, (self.second_cache // (2 if in_place else 4)) // row_bytes)
            if packing in ("none", "passing") and self._is_apart(row_bytes):
                most = min(most, _FAR_BLOCK)
            found.append(("panels", _even_blocks(k, most)))
            short = _even_blocks(k, max(16, self._steps_that_stay(row_bytes, packing)))
            if short < found[-1][1] and tile.rows < _SHORT_PANEL:
                found.append(("panels", short))
        if packing in ("none", "passing") and self.streamed and self.m > 1 and panel_rows <= _STREAM_TILES:
            found.append(("streams", _even_blocks(k, _STREAM_BLOCK)))
        return found

    # What a panel is like

    def _row_bytes(self, tile: Tile) -> int:
        return tile.vectors * self.lanes * self.bytes

    def _is_apart(self, row_bytes: int) -> bool:
        """True where the rows of a panel, read in place, lie far apart."""
        far = _FAR_ROW if row_bytes >= _LINES_TOGETHER else _FAR_ROW // 4
        return self.gap is None or self.gap * self.bytes > far

    def _narrow(self, row_bytes: int) -> float:
        """How much more is brought for a panel's row than is read of it, from the lines around it."""
        return max(1.0, min(self.n * self.bytes, _LINES_TOGETHER) / row_bytes)

    def _steps_that_stay(self, row_bytes: int, packing: Packing) -> int:
        """How many rows of a panel stay in the first cache beside what else is read.

        Read in place, rows whose distance has a large divisor in common with a cache's way share its sets.
        """
        spacing = row_bytes
        if packing == "none" and self.gap is not None:
            spacing = max(spacing, math.gcd(self.gap * self.bytes, _PAGE))
        return self.first_cache // 2 // spacing

    # What a blocking costs, in slots

    def _cost(self, tile: Tile, packing: Packing, order: Order, depth: int, rows: RowPacking) -> float:
        m, n, k, vectors, bytes_ = self.m, self.n, self.k, self.vectors, self.bytes
        row_bytes = self._row_bytes(tile)
        panels, panel_rows = -(-vectors // tile.vectors), -(-m // tile.rows)
        blocks = -(-k // depth) if depth else 1
        apart = self._is_apart(row_bytes)
        cost = self._tiles_cost(tile, packing, order, depth, rows)
        if packing == "passing":
            cost += _PASSING * k * vectors
        elif packing == "none":
            if apart and order == "panels" and panel_rows > 1:
                narrow = row_bytes < _LINES_TOGETHER
                cost += (_NARROW_PENALTY if narrow else _FAR_PENALTY) * m * vectors * k
            if n % self.lanes and self.slots_a_cycle > 1:
                cost += _MASKED * k * panel_rows
        else:
            each = _FAR + 3 + _COMPUTED * self.columns.is_computed
            if packing == "transpose":
                each += self.lanes.bit_length() - 1
            else:
                each += _FAR_JUMP * apart + (0 if self.columns.free_stride == 1 else self.lanes)
            cost += each * k * vectors
        if self.columns_bytes > self.second_cache:  # columns come from memory once
            jumps = self.far_gap and packing != "transpose"
            if order == "streams":
                cost += k * vectors * _PREFETCHED
            else:
                wasted = 1.0 if packing == "transpose" else self._narrow(row_bytes)
                cost += k * vectors * (_JUMPING if jumps else _STREAMING) * wasted
                cost += k * vectors * _PASSING_FAR * (jumps and packing == "passing")
        # short pieces of rows come from beyond the second cache for every panel: too short to be foreseen
        if depth < k and depth * bytes_ < _FORESEEN and m * depth * bytes_ > self.second_cache:
            cost += _FAR_SPLAT * m * k * panels
        if self.rows_jump and m * k * bytes_ > self.second_cache:
            cost += _JUMPING * k * panel_rows * (panels if rows == "none" else 1)
        if self.aliased and rows == "none":
            cost += _ALIASED_PENALTY * m * vectors * k
        if rows != "none":
            cost += k * panel_rows * (3 + tile.rows * _COMPUTED * self.rows.is_computed)
        if rows == "splats":
            cost += k * m * _SPLATTED
        elif not self.fused:
            cost += _SPLAT_PENALTY * m * vectors * k
        if self.accesses * m * n * bytes_ > self.second_cache:  # results come from memory
            cost += _FAR_RESULT * max(0.0, _BEST_RESULT_ROW / row_bytes - 1) * self.accesses * m * vectors
        # results wait in memory between blocks: those of a panel, or all
        waiting = m * (row_bytes if order == "panels" else n * bytes_)
        each_waits = _WAITING if waiting <= self.first_cache // 2 else 2 * _FAR
        return cost + (blocks - 1) * m * vectors * each_waits

    def _tiles_cost(self, tile: Tile, packing: Packing, order: Order, depth: int, rows: RowPacking) -> float:
        """All tiles' loops and stores."""
        load, splat = self._load(tile, packing, order, depth), self._splat(tile, depth, rows)
        scattered = self.swapped and self.m > 1
        each = _SCATTER_FAR if self.m * self.bytes > _LINE else _SCATTER
        store = each * self.lanes * self.accesses if scattered else _STORE
        overhead = _TILE_OVERHEAD * self.slots_a_cycle * (-(-self.k // depth) if depth else 1)
        chained = (_CHAINS + 1) / tile.chains
        cost = 0.0
        for tiles_m, mr in _parts(self.m, tile.rows):
            for tiles_n, nv in _parts(self.vectors, tile.vectors):
                loads, sums = nv * load + mr * splat, max(mr * nv, chained)
                step = max(loads, sums, _issue(mr, nv, self.fused, rows == "splats")) + _OVERLAP * min(
                    loads, sums
                )
                cost += tiles_m * tiles_n * (self.k * step + overhead + mr * nv * store)
        return cost

    def _load(self, tile: Tile, packing: Packing, order: Order, depth: int) -> float:
        """Of a vector: from the second cache for the first tile of rows, for others where it stays in the first."""
        row_bytes, panel_rows = self._row_bytes(tile), -(-self.m // tile.rows)
        if order == "rows":
            stays = self.k * self.n * self.bytes <= self.first_cache // 2
        else:
            stays = depth <= self._steps_that_stay(row_bytes, packing)
        # more, where the columns lie; what the first tile packs the others read from the panel
        jump, work = 0.0, 0.0
        if packing in ("none", "passing"):
            if self._is_apart(
                row_bytes
            ):  # the panels after it use the rest of a row's lines if they come soon
                jump = _FAR_JUMP * (1.0 if order == "streams" else self._narrow(row_bytes))
            work += _COMPUTED * self.columns.is_computed
            if self.columns.free_stride != 1 and self.lanes > 1:
                work += self.lanes
        first = _FAR + jump + work
        others = 1.0 if stays else _FAR
        if packing == "none":
            others += work + (0.0 if stays else jump)
        return (first + (panel_rows - 1) * others) / max(panel_rows, 1)

    def _splat(self, tile: Tile, depth: int, rows: RowPacking) -> float:
        """Two scalars come a cycle; a splat that was packed is a vector."""
        if rows == "splats":
            return 1.0 if tile.rows * depth * self.lanes * self.bytes <= self.first_cache // 2 else _FAR
        splat = self.slots_a_cycle / 2
        if tile.rows * depth * self.bytes > self.first_cache // 2:
            splat += 0.5
        return splat + _COMPUTED * (self.rows.is_computed and rows == "none")


# ----------------------------------------------------------------------------------------------------------- dot form


def _dot(product: Product, target: Target, widest: int) -> Iterator[Blocking]:
    m, n, k = max(product.left.extent, 1), max(product.right.extent, 1), product.depth
    lanes = fitting_lanes(widest, product.sums[-1] if product.sums else 1)
    computed = product.left.is_computed + product.right.is_computed
    bytes_, (first_cache, second_cache) = product.dtype.bytes, _caches(target)
    slots_a_cycle = 1 if lanes * bytes_ >= _LINE else 2
    for nr in range(1, min(n, 8) + 1):
        for mr in range(1, min(m, 8) + 1):
            cells = mr * nr
            if cells > max(16, lanes) or cells + nr > _free_registers(
                target, target.is_native("fma", product.dtype)
            ):
                continue
            # a tile's rows stay in the first cache, or at least all rows in the second, or neither
            load = 1.0 if (mr + nr) * k * bytes_ <= first_cache * 7 // 8 else _FAR
            load += m > mr and m * k * bytes_ > second_cache // 2
            load += _COMPUTED * computed
            streamed = m > mr and m * k * bytes_ > first_cache // 2  # rows come from the second cache
            cost = 0.0
            for tiles_m, a in _parts(m, mr):
                for tiles_n, b in _parts(n, nr):
                    loads, sums = (a + b) * load, max(a * b, _CHAINS / 2 * slots_a_cycle)
                    step = max(loads, sums) + _OVERLAP * min(loads, sums) + a * streamed / 3
                    cost += tiles_m * tiles_n * (-(-k // lanes) * step + _TILE_OVERHEAD / 2 + 3 * a * b)
            yield Blocking("dot", False, lanes, Tile(mr, nr), k, cost=cost + m * n / lanes * _STORE)
