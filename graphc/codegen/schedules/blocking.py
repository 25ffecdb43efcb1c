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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.codegen.schedules.operands import Product, Side
from graphc.codegen.target import Target
from graphc.ir.types import DType

_LOAD = 0.05  # of a slot that even a load in the shadow of a multiply-add costs
_CHAINS = 8  # multiply-adds under way at once: two a cycle, four cycles each
_FAR = 2.0  # slots for a vector from the second cache
_COMPUTED = 6.0  # slots for an element or vector that is computed where it is read
_MOST_ROWS = 16
_MOST_CELLS = 32  # accumulators of a tile; a longer body only takes longer to compile
_TILE_OVERHEAD = 24.0  # slots to call a tile, to set up its addresses and to fill the pipeline
_STORE = 2.0  # slots to finish and store one vector of results
_STREAMING = (
    3.0  # slots that a vector from memory costs beyond one from the second cache, where reads are in order
)
_JUMPING = 8.0  # the same, where each is on another page than the one before
_SCATTER = 5.0  # slots to store or load an element of a result whose vectors lie across its rows
_FAR_ROW = 2048  # bytes between rows beyond which they are far apart
_FAR_BLOCK = 256  # the length of a block of such rows that is read in place
_STREAM_BLOCK = 32  # the length of a block of rows that are read once, from memory, each for all columns
_FAR_PENALTY = 0.03  # of the multiply-adds: so much longer do they take with such a panel
_LINES_TOGETHER = 192  # bytes of a panel's row from which on its lines come together
_NARROW_PENALTY = 0.3  # of the multiply-adds, where a row of a far panel has fewer
_SHORT_SUM = 32  # products of so few terms are bound by their results, which are best stored row after row
_PAGE = 4096  # bytes between rows that lie in the same sets of the first cache
_ALIASED_ROWS = 8  # rows of that distance that it holds
_ALIASED_PENALTY = 0.1  # of the multiply-adds, where more of them are read over and over

Packing = Literal["none", "copy", "transpose"]


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
    rows_outside: bool = False  # all columns fit the second cache: results are stored row after row
    streams: bool = False  # the columns are read once, from memory: blocks of the sum outside, prefetched
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
    for swapped, rows, columns in ((False, left, right), (True, right, left)):
        if not swapped or (columns.extent > 1 and not product.sums_rows):
            yield from _outer(product, target, rows, columns, swapped, lanes)
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


def _free_registers(target: Target, dtype: DType) -> int:
    """Registers for sums and vectors: one is the splat, one the allocator's; a product of its own takes another."""
    return target.vector_registers - (2 if target.is_native("fma", dtype) else 3)


def _tiles(target: Target, rows: int, vectors: int, spare: int) -> Iterator[Tile]:
    for nv in range(1, min(max(vectors, 1), _MOST_CELLS) + 1):
        for mr in range(1, min(max(rows, 1), _MOST_ROWS, _MOST_CELLS // nv) + 1):
            # a single row reads its vectors from memory within the multiply-add
            if mr * nv + (nv if mr > 1 else 1) <= spare:
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
    for tile in _tiles(
        target, rows.extent, -(-columns.extent // lanes), _free_registers(target, product.dtype)
    ):
        if (rows.free_stride or 0) * bytes_ % _PAGE == 0 and rows.free_stride and tile.rows > _ALIASED_ROWS:
            continue
        for packing in packings:
            for rows_packed in (False, True) if rows.is_computed or aliased else (False,):
                yield _outer_blocking(
                    product, target, rows, columns, swapped, lanes, tile, packing, rows_packed, aliased
                )


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
) -> Blocking:
    m, n, k = rows.extent, columns.extent, product.depth
    bytes_ = product.dtype.bytes
    first_cache, second_cache = _caches(target)
    vectors = -(-n // lanes)
    row_bytes = tile.vectors * lanes * bytes_
    panel_rows = -(-m // tile.rows)
    gap = columns.summed_stride
    fits = packing == "none" and k * n * bytes_ <= second_cache // 2
    fits = fits and (row_bytes >= _LINES_TOGETHER or k <= _SHORT_SUM)
    apart = gap is None or gap * bytes_ > (_FAR_ROW if row_bytes >= _LINES_TOGETHER else _FAR_ROW // 4)
    far = packing == "none" and not fits and panel_rows > 1 and apart
    depth = k
    streams = packing == "none" and panel_rows == 1 and k * n * bytes_ > second_cache
    streams = m > 1 and streams and columns.free_stride == 1 and len(product.sums) == 1
    if streams:
        depth = min(k, _STREAM_BLOCK)
    elif panel_rows > 1 and len(product.sums) == 1 and not fits:
        most = max(16, (second_cache // (2 if packing == "none" else 4)) // row_bytes)
        if far:
            most = min(most, _FAR_BLOCK)
        blocks = -(-k // most) if k else 1
        depth = -(-k // blocks)
        depth = min(k, -(-depth // 8) * 8)
    load = 1.0 if depth * row_bytes <= first_cache // 2 and panel_rows > 1 else _FAR
    if packing == "none":
        if columns.is_computed:
            load += _COMPUTED
        if columns.free_stride != 1 and lanes > 1:
            load += lanes
    splat = 0.5 if tile.rows * depth * bytes_ <= first_cache // 2 else 1.0
    if rows.is_computed and not rows_packed:
        splat += _COMPUTED
    store = _STORE if not swapped or rows.extent == 1 else _SCATTER * lanes * product.accesses
    cost = 0.0
    for tiles_m, mr in _parts(m, tile.rows):
        for tiles_n, nv in _parts(vectors, tile.vectors):
            step = max(mr * nv, nv * load + mr * splat, _CHAINS / tile.chains) + _LOAD * (nv + mr)
            cost += tiles_m * tiles_n * (k * step + _TILE_OVERHEAD + mr * nv * store)
    multiply_adds = m * vectors * k
    narrow = row_bytes < _LINES_TOGETHER
    if far:
        cost += (_NARROW_PENALTY if narrow else _FAR_PENALTY) * multiply_adds
    if k * n * bytes_ > second_cache:  # columns come from memory once
        jumps = packing == "none" and not streams and (gap is None or gap * bytes_ > _FAR_ROW)
        cost += k * vectors * (_JUMPING if jumps else _STREAMING)
    if aliased and not rows_packed:
        cost += _ALIASED_PENALTY * multiply_adds
    if depth and k > depth:  # results wait in memory between blocks
        cost += (-(-k // depth) - 1) * m * vectors * 3
    if packing != "none":
        each = _FAR + 3 + (_COMPUTED if columns.is_computed else 0)
        if packing == "transpose":
            each += lanes.bit_length() - 1
        elif columns.free_stride != 1:
            each += lanes
        cost += each * k * vectors
    if rows_packed:
        cost += k * panel_rows * (3 + (tile.rows * _COMPUTED if rows.is_computed else 0))
    return Blocking("outer", swapped, lanes, tile, depth, packing, rows_packed, fits, streams, cost)


# ----------------------------------------------------------------------------------------------------------- dot form


def _dot(product: Product, target: Target, widest: int) -> Iterator[Blocking]:
    m, n, k = max(product.left.extent, 1), max(product.right.extent, 1), product.depth
    lanes = fitting_lanes(widest, product.sums[-1] if product.sums else 1)
    computed = product.left.is_computed + product.right.is_computed
    bytes_, (first_cache, second_cache) = product.dtype.bytes, _caches(target)
    for nr in range(1, min(n, 8) + 1):
        for mr in range(1, min(m, 8) + 1):
            cells = mr * nr
            if cells > max(16, lanes) or cells + nr > _free_registers(target, product.dtype):
                continue
            # a tile's rows stay in the first cache, or at least all rows in the second, or neither
            load = 1.0 if (mr + nr) * k * bytes_ <= first_cache else _FAR
            load += m > mr and m * k * bytes_ > second_cache // 2
            load += _COMPUTED * computed
            streamed = m > mr and m * k * bytes_ > first_cache // 2  # rows come from the second cache
            cost = 0.0
            for tiles_m, a in _parts(m, mr):
                for tiles_n, b in _parts(n, nr):
                    step = max(a * b, (a + b) * load, _CHAINS / 2) + _LOAD * (a + b) + a * streamed
                    cost += tiles_m * tiles_n * (-(-k // lanes) * step + _TILE_OVERHEAD / 2 + 3 * a * b)
            yield Blocking("dot", False, lanes, Tile(mr, nr), k, cost=cost + m * n / lanes * _STORE)
