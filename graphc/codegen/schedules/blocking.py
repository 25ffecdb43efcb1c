"""The cost model of contractions: which form, register tile, blocks and packing suit a target's registers and caches.

In: a `Product` and a `Target`. Out: a `Blocking`, the cheapest of all that the operands' layouts allow.

The unit of cost is a slot: the time of one vector multiply-add. Besides, a slot brings one vector from the first cache,
or two scalars (an instruction splats what it reads). What the constants below say was measured on Zen 4 and Zen 5:

- Tiles: rows · vectors accumulators, the vectors of one operand and one splat fill the registers (Goto & van de Geijn,
  Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008): 6 x 4 of 32 registers, 6 x 2 of 16.
  Fewer than `_CHAINS` accumulators wait for each other: then several sets of them take turns along the sum.
- The sum is cut into blocks so that a panel of the columns (block x tile width) stays in the second cache.
- Where the rows of a panel lie far apart in memory they crowd into few sets of a cache and into many pages: blocks are
  short, or the panel is packed, which reads and writes it once more. The same holds for the other operand.
- Dot form (vectors along the sum in both operands) needs no transposed panel, and pays with a tree of shuffles at the
  end of each sum: better for few rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.codegen.schedules.operands import Product, Side
from graphc.codegen.target import Target

_OVERLAP = 0.1  # of the loads' slots is not hidden behind the multiply-adds, or the other way round
_CHAINS = 8  # multiply-adds under way at once: two a cycle, four cycles each
_FAR = 2.5  # slots for a vector from the second cache
_FAR_JUMP = 1.0  # more, where its row lies far from the one before
_COMPUTED = 6.0  # slots for an element or vector that is computed where it is read
_ISSUED = 3.0  # instructions that are issued in a slot
_MOST_ROWS = 16
_MOST_CELLS = 32  # accumulators of a tile; a longer body only takes longer to compile
_TILE_OVERHEAD = 24.0  # slots to call a tile, to set up its addresses and to fill the pipeline
_STORE = 2.0  # slots to finish and store one vector of results
_STREAMING = (
    3.0  # slots that a vector from memory costs beyond one from the second cache, where reads are in order
)
_JUMPING = 8.0  # the same, where each is on another page than the one before
_SCATTER = 12.0  # slots to store or load an element of a result whose vectors lie across its rows
_FAR_RESULT = 4.5  # slots a vector of results that comes from memory, at half the best width of a tile
_BEST_RESULT_ROW = (
    384  # bytes of a tile's row of such results from which on memory is read and written at its best
)
_WAITING = 3.0  # slots to store and load a vector between two blocks of the sum, in the first cache
_FAR_SPLAT = 1.0  # slots for an element of such a piece of a row
_FORESEEN = 2048  # bytes of a row that are read in a piece from which on the processor fetches them ahead
_FAR_ROW = 2048  # bytes between rows beyond which they are far apart
_FAR_BLOCK = 256  # the length of a block of such rows that is read in place
_STREAM_BLOCK = 32  # the length of a block of rows that are read once, from memory, each for all columns
_STREAM_TILES = 4  # tiles of rows for which they are
_SHORT_PANEL = 4  # rows of a tile that need more vectors than come from the second cache
_FAR_PENALTY = 0.03  # of the multiply-adds: so much longer do they take with such a panel
_LINES_TOGETHER = 192  # bytes of a panel's row from which on its lines come together
_NARROW_PENALTY = 0.3  # of the multiply-adds, where a row of a far panel has fewer
_SHORT_SUM = 32  # products of so few terms are bound by their results, which are best stored row after row
_LINE = 64  # bytes that a cache brings at a time
_PAGE = 4096  # bytes between rows that lie in the same sets of the first cache
_ALIASED_ROWS = 8  # rows of that distance that it holds
_ALIASED_PENALTY = 0.1  # of the multiply-adds, where more of them are read over and over

Packing = Literal["none", "copy", "transpose"]
# The loops, from outside: panels of columns, blocks of the sum, rows; or rows, panels, the whole sum, for columns that
# stay in the second cache: results are stored row after row; or blocks of the sum, panels, rows, for columns that are
# read once, from memory, and prefetched.
Order = Literal["panels", "rows", "streams"]


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
    rows_packed: bool = False
    order: Order = "panels"
    cost: float = 0.0


def choose_blocking(product: Product, target: Target, lanes: int) -> Blocking:
    """The cheapest blocking; `lanes` are those of a full vector."""
    return min(_candidates(product, target, lanes), key=lambda b: b.cost)


def fitting_lanes(lanes: int, extent: int) -> int:
    """No more lanes than the extent fills."""
    while lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return max(lanes, 1)


def _candidates(product: Product, target: Target, lanes: int) -> Iterator[Blocking]:
    left, right = product.left, product.right
    for swapped, rows, columns in ((False, left, right), (True, right, left)):
        if not swapped or (columns.extent > 1 and not product.sums_rows):
            yield from _outer(product, target, rows, columns, swapped, lanes)
    both_along = bool(product.sums) and left.summed_stride == right.summed_stride == 1
    if both_along or left.extent == right.extent == 1:
        yield _dot(product, target, lanes)


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


def _free_registers(target: Target) -> int:
    """Registers for sums and for what is held along them: one more vector passes by, one is the allocator's.

    Where there is no fused multiply-add, that last one holds the product.
    """
    return target.vector_registers - 2


def _issue(tile: Tile, fused: bool) -> float:
    """Slots that it takes to issue the instructions of a step.

    A multiplication of its own overwrites a factor: every factor but one that passes by for the last time is copied
    first. Targets of that kind also take two instructions for a splat.
    """
    rows, vectors = tile.rows, tile.vectors
    cells = rows * vectors
    if fused:
        return (cells + vectors + rows + 2) / _ISSUED
    return (3 * cells - max(rows, vectors) + vectors + 2 * rows + 2) / _ISSUED


def _tiles(target: Target, rows: int, vectors: int) -> Iterator[Tile]:
    spare = _free_registers(target)
    for nv in range(1, min(max(vectors, 1), _MOST_CELLS) + 1):
        for mr in range(1, min(max(rows, 1), _MOST_ROWS, _MOST_CELLS // nv) + 1):
            # what there is less of, splats or vectors, stays in registers
            if mr * nv + min(mr, nv) <= spare:
                chains = max(1, min(_CHAINS // (mr * nv), target.vector_registers // (2 * mr * nv)))
                yield Tile(mr, nv, chains)


def _outer(
    product: Product, target: Target, rows: Side, columns: Side, swapped: bool, widest: int
) -> Iterator[Blocking]:
    lanes = fitting_lanes(widest, columns.extent)
    bytes_ = product.dtype.bytes
    packings: list[Packing] = ["none", "copy"]
    if columns.summed_stride == 1 and columns.free_stride != 1 and lanes > 1:
        packings = ["transpose"]
    aliased = rows.free_stride == 1 and product.depth > 8 * _ALIASED_ROWS
    aliased = aliased and (rows.summed_stride or 0) * bytes_ % _PAGE == 0
    for tile in _tiles(target, rows.extent, -(-columns.extent // lanes)):
        if (rows.free_stride or 0) * bytes_ % _PAGE == 0 and rows.free_stride and tile.rows > _ALIASED_ROWS:
            continue
        for packing in packings:
            orders = _orders(
                product, target, rows, columns, tile.vectors * lanes * bytes_, tile.rows, packing
            )
            for rows_packed in (False, True) if rows.is_computed or aliased else (False,):
                for order, depth in orders:
                    yield _outer_blocking(
                        product, target, rows, columns, swapped, lanes, tile, packing, rows_packed, aliased,
                        order, depth,
                    )  # fmt: skip


def _orders(
    product: Product,
    target: Target,
    rows: Side,
    columns: Side,
    row_bytes: int,
    tile_rows: int,
    packing: Packing,
) -> list[tuple[Order, int]]:
    """The orders of the loops that may suit, each with the length of its blocks of the sum."""
    k, first_cache, second_cache = product.depth, *_caches(target)
    columns_bytes = k * columns.extent * product.dtype.bytes
    in_place, one_sum = packing == "none", len(product.sums) == 1
    panel_rows = -(-rows.extent // tile_rows)
    found: list[tuple[Order, int]] = []
    if in_place and columns_bytes <= second_cache // 2 and (row_bytes >= _LINES_TOGETHER or k <= _SHORT_SUM):
        found.append(("rows", k))
    if panel_rows == 1 or not one_sum:
        found.append(("panels", k))
    else:
        most = max(16, (second_cache // (2 if in_place else 4)) // row_bytes)
        if in_place and _is_apart(columns, row_bytes, product.dtype.bytes):
            most = min(most, _FAR_BLOCK)
        found.append(("panels", _even_blocks(k, most)))
        short = _even_blocks(
            k, max(16, _rows_that_stay(columns, first_cache, row_bytes, product.dtype.bytes, packing))
        )
        if short < found[-1][1] and tile_rows < _SHORT_PANEL:
            found.append(("panels", short))
    contiguous = in_place and one_sum and columns.free_stride == 1
    if contiguous and columns_bytes > second_cache // 2 and rows.extent > 1 and panel_rows <= _STREAM_TILES:
        found.append(("streams", min(k, _STREAM_BLOCK)))
    return found


def _even_blocks(depth: int, most: int) -> int:
    """The length of equal blocks of at most about `most` steps, in multiples of 8."""
    blocks = math.ceil(depth / most) if depth else 1
    return min(depth, math.ceil(depth / blocks / 8) * 8)


def _rows_that_stay(
    columns: Side, first_cache: int, row_bytes: int, element_bytes: int, packing: Packing
) -> int:
    """How many rows of a panel stay in the first cache beside what else is read.

    Read in place, rows whose distance has a large divisor in common with a cache's way share its sets.
    """
    spacing = row_bytes
    if packing == "none" and columns.summed_stride is not None:
        spacing = max(spacing, math.gcd(columns.summed_stride * element_bytes, _PAGE))
    return first_cache // 2 // spacing


def _is_apart(columns: Side, row_bytes: int, element_bytes: int) -> bool:
    """True where the rows of a panel lie far apart in memory."""
    gap = columns.summed_stride
    return gap is None or gap * element_bytes > (_FAR_ROW if row_bytes >= _LINES_TOGETHER else _FAR_ROW // 4)


def _outer_blocking(
    product: Product,
    target: Target,
    rows: Side,
    columns: Side,
    swapped: bool,
    lanes: int,
    tile: Tile,
    packing: Packing,
    rows_packed: bool,
    aliased: bool,
    order: Order,
    depth: int,
) -> Blocking:
    m, n, k = rows.extent, columns.extent, product.depth
    bytes_ = product.dtype.bytes
    first_cache, second_cache = _caches(target)
    vectors = -(-n // lanes)
    row_bytes = tile.vectors * lanes * bytes_
    panel_rows = -(-m // tile.rows)
    gap = columns.summed_stride
    # a panel is read from the second cache for the first tile of rows, and for the others where it stays in the first
    if order == "rows":
        stays = k * n * bytes_ <= first_cache // 2
    else:
        stays = depth <= _rows_that_stay(columns, first_cache, row_bytes, bytes_, packing)
    apart = packing == "none" and _is_apart(columns, row_bytes, bytes_)
    far_load = _FAR + _FAR_JUMP * apart
    load = (far_load + (panel_rows - 1) * (1.0 if stays else far_load)) / panel_rows
    if packing == "none":
        if columns.is_computed:
            load += _COMPUTED
        if columns.free_stride != 1 and lanes > 1:
            load += lanes
    # two loads a cycle, and one of vectors that are as wide as a line; a slot of those is a cycle, of others half
    splat = 0.5 if lanes * bytes_ >= _LINE else 1.0
    if tile.rows * depth * bytes_ > first_cache // 2:
        splat += 0.5
    if rows.is_computed and not rows_packed:
        splat += _COMPUTED
    fused = target.is_native("fma", product.dtype)
    store = _STORE if not swapped or rows.extent == 1 else _SCATTER * lanes * product.accesses
    cost, blocks = 0.0, -(-k // depth) if depth else 1
    for tiles_m, mr in _parts(m, tile.rows):
        for tiles_n, nv in _parts(vectors, tile.vectors):
            issue = _issue(Tile(mr, nv), fused)
            loads, sums = nv * load + mr * splat, max(mr * nv, (_CHAINS + 1) / tile.chains)
            step = max(loads, sums, issue) + _OVERLAP * min(loads, sums)
            cost += tiles_m * tiles_n * (k * step + blocks * _TILE_OVERHEAD + mr * nv * store)
    if product.accesses * m * n * bytes_ > second_cache:
        short = max(0.0, _BEST_RESULT_ROW / row_bytes - 1)
        cost += _FAR_RESULT * short * product.accesses * m * vectors
    multiply_adds = m * vectors * k
    narrow = row_bytes < _LINES_TOGETHER
    if apart and order == "panels" and panel_rows > 1:
        cost += (_NARROW_PENALTY if narrow else _FAR_PENALTY) * multiply_adds
    if k * n * bytes_ > second_cache:  # columns come from memory once
        jumps = packing != "transpose" and order != "streams" and (gap is None or gap * bytes_ > _FAR_ROW)
        cost += k * vectors * (_JUMPING if jumps else _STREAMING)
    # short pieces of rows come from beyond the second cache for every panel: too short to be foreseen
    if depth < k and depth * bytes_ < _FORESEEN and m * depth * bytes_ > second_cache:
        cost += _FAR_SPLAT * m * k * -(-vectors // tile.vectors)
    if aliased and not rows_packed:
        cost += _ALIASED_PENALTY * multiply_adds
    # results wait in memory between blocks: those of a panel, or all
    waiting = m * (n * bytes_ if order == "streams" else row_bytes)
    cost += (blocks - 1) * m * vectors * (_WAITING if waiting <= first_cache // 2 else 2 * _FAR)
    if packing != "none":
        jump = _FAR_JUMP * (packing == "copy" and _is_apart(columns, row_bytes, bytes_))
        each = _FAR + jump + 3 + (_COMPUTED if columns.is_computed else 0)
        if packing == "transpose":
            each += lanes.bit_length() - 1
        elif columns.free_stride != 1:
            each += lanes
        cost += each * k * vectors
    if rows_packed:
        cost += k * panel_rows * (3 + (tile.rows * _COMPUTED if rows.is_computed else 0))
    return Blocking("outer", swapped, lanes, tile, depth, packing, rows_packed, order, cost)


# ----------------------------------------------------------------------------------------------------------- dot form


def _dot(product: Product, target: Target, widest: int) -> Blocking:
    m, n, k = max(product.left.extent, 1), max(product.right.extent, 1), product.depth
    lanes = fitting_lanes(widest, product.sums[-1] if product.sums else 1)
    computed = product.left.is_computed + product.right.is_computed
    bytes_, (first_cache, second_cache) = product.dtype.bytes, _caches(target)
    best: tuple[float, Tile] | None = None
    for nr in range(1, min(n, 8) + 1):
        for mr in range(1, min(m, 8) + 1):
            cells = mr * nr
            if cells > max(16, lanes) or cells + nr > _free_registers(target):
                continue
            # a tile's rows stay in the first cache, or at least all rows in the second, or neither
            load = 1.0 if (mr + nr) * k * bytes_ <= first_cache else _FAR
            load += m > mr and m * k * bytes_ > second_cache // 2
            load += _COMPUTED * computed
            streamed = m > mr and m * k * bytes_ > first_cache // 2  # rows come from the second cache
            cost = 0.0
            for tiles_m, a in _parts(m, mr):
                for tiles_n, b in _parts(n, nr):
                    loads, sums = (a + b) * load, max(a * b, _CHAINS / 2)
                    step = max(loads, sums) + _OVERLAP * min(loads, sums) + a * streamed / 2
                    cost += tiles_m * tiles_n * (-(-k // lanes) * step + _TILE_OVERHEAD / 2 + 3 * a * b)
            if best is None or cost < best[0]:
                best = cost, Tile(mr, nr)
    assert best is not None
    return Blocking("dot", False, lanes, best[1], k, cost=best[0] + m * n / lanes * _STORE)
