"""Packing: copies of an operand's panels in the order in which a contraction reads them.

In: an operand, a block of its sum, a scratch buffer. Out: statements that fill the buffer. What an operand computes (a
diagonal of a Jacobian, say) is computed here, once an element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lane_block, nest
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Expr,
    Let,
    Load,
    Shuffle,
    Stmt,
    Var,
    constant,
    index,
    loop,
    store,
)
from graphc.ir.types import DType

# the operand's element at (index along the panel's width, indices along the sum)
Element = Callable[[Expr, tuple[Expr, ...]], Expr]


def flat_index(extents: Sequence[int], indices: Sequence[Expr]) -> Expr:
    """The row-major position of these indices."""
    flat: Expr = index(0)
    for n, i in zip(extents, indices, strict=True):
        flat = flat * n + i
    return flat


def copy_panel(
    names: Names,
    evaluator: Evaluator,
    element: Element,
    packed: Buffer,
    extents: Sequence[int],
    active: int,
    width: int,
    lanes: int,
    at: Callable[[Expr, Expr], Sequence[Expr]],
) -> list[Stmt]:
    """`packed[at(k, c)] = element(c, indices of k)`, in vectors of columns; from `active` columns to `width` they are 0."""

    def columns(along: tuple[Expr, ...]) -> list[Stmt]:
        k = flat_index(extents, along)
        statements: list[Stmt] = []
        for start in range(0, active, lanes):

            def copy(lane: Expr, start: int = start) -> list[Stmt]:
                with evaluator.scope() as inside:
                    inside.append(store(packed, at(k, lane + start), element(lane + start, along)))
                return inside

            def zero(lane: Expr, start: int = start) -> list[Stmt]:
                return [store(packed, at(k, lane + start), constant(packed.dtype, 0))]

            if active < start + lanes <= width:
                statements += lane_block(names, lanes, zero)
            statements += lane_block(names, lanes, copy, active - start)
        return statements

    return nest(names, extents, columns)


def splat_panel(
    names: Names,
    evaluator: Evaluator,
    element: Element,
    packed: Buffer,
    extents: Sequence[int],
    width: int,
    lanes: int,
    at: Callable[[Expr, Expr], Sequence[Expr]],
) -> list[Stmt]:
    """`packed[at(k, c) * lanes + lane] = element(c, indices of k)` for all lanes."""

    def columns(along: tuple[Expr, ...]) -> list[Stmt]:
        return [s for c in range(width) for s in splat(index(c), along)]

    def splat(c: Expr, along: tuple[Expr, ...]) -> list[Stmt]:
        with evaluator.scope() as inside:
            value = element(c, along)
            (spot,) = at(flat_index(extents, along), c)
            inside += lane_block(names, lanes, lambda lane: [store(packed, (spot * lanes + lane,), value)])
        return inside

    return nest(names, extents, columns)


def transpose_strip(
    names: Names,
    evaluator: Evaluator,
    element: Element,
    packed: Buffer,
    start: Expr,
    extents: Sequence[int],
    count: int,
    lanes: int,
) -> list[Stmt]:
    """`packed[k, start + c] = element(c, indices of k)` for `count` columns where the operand is contiguous along the
    last of the indices; columns from `count` to `lanes` are 0.

    Blocks of lanes x lanes are read along the sum, transposed in registers and stored along the columns: each row of
    the operand is read from end to end, which the processor foresees.
    """

    def block(outer: tuple[Expr, ...], k: Expr, steps: int) -> list[Stmt]:
        """`steps` steps of the sum from `k`."""
        cells = Buffer(names.fresh("block"), packed.dtype, (lanes, lanes), space="reg", access="local")

        def clear(lane: Expr) -> list[Stmt]:
            first = 0 if steps < lanes else count
            return [store(cells, (c, lane), constant(packed.dtype, 0)) for c in range(first, lanes)]

        def read(lane: Expr) -> list[Stmt]:
            with evaluator.scope() as inside:
                for c in range(count):
                    inside.append(store(cells, (c, lane), element(index(c), (*outer, k + lane))))
            return inside

        def write(lane: Expr) -> list[Stmt]:
            vectors = [Load(cells, (index(c), lane)) for c in range(lanes)]
            statements, rows = transposed(names, vectors, packed.dtype)
            first = flat_index(extents, (*outer, k))
            return [
                *statements,
                *(store(packed, (first + r, lane + start), rows[r]) for r in range(steps)),
            ]

        statements: list[Stmt] = [Alloc(cells)]
        if steps < lanes or count < lanes:
            statements += lane_block(names, lanes, clear)
        return [*statements, *lane_block(names, lanes, read, steps), *lane_block(names, lanes, write)]

    def along(outer: tuple[Expr, ...]) -> list[Stmt]:
        extent = extents[-1]
        if extent <= lanes:
            return block(outer, index(0), extent)
        k = names.var("k")
        # the last block overlaps with the one before it and writes the same again: it needs no code of its own
        first = k if extent % lanes == 0 else Apply("min", (k, index(extent - lanes)))
        return [loop(k, 0, extent, block(outer, first, lanes), step=lanes)]

    return nest(names, extents[:-1], along)


def transposed(names: Names, vectors: Sequence[Expr], dtype: DType) -> tuple[list[Stmt], list[Expr]]:
    """The transpose of a square of vectors: log2(lanes) rounds, each of which interleaves vector i with i + lanes / 2."""
    lanes = len(vectors)
    half = lanes // 2
    low = tuple(i // 2 + (i % 2) * lanes for i in range(lanes))
    high = tuple(i + half for i in low)
    statements: list[Stmt] = []
    rows = list(vectors)
    for _ in range(lanes.bit_length() - 1):
        mixed: list[Expr] = []
        for i in range(half):
            for pattern in (low, high):
                var = Var(names.fresh("t"), dtype)
                statements.append(Let(var, Shuffle(rows[i], rows[i + half], pattern)))
                mixed.append(var)
        rows = mixed
    return statements, rows


def summed_lanes(names: Names, vectors: Sequence[Expr], lanes: int, dtype: DType) -> tuple[list[Stmt], Expr]:
    """One vector whose lane i is the sum of vector i's lanes; lanes beyond the number of vectors repeat sums.

    In round d = 1, 2, 4 ... the lanes of a pair of vectors whose number has bit d come from the second one, and each
    lane is added to its neighbour at distance d.
    """
    statements: list[Stmt] = []
    level = list(vectors)
    d = 1
    while d < lanes:
        kept = tuple(lane + lanes * (lane & d > 0) for lane in range(lanes))
        moved = tuple((lane ^ d) + lanes * (lane & d > 0) for lane in range(lanes))
        joined: list[Expr] = []
        for i in range(0, len(level), 2):
            x, y = level[i], level[min(i + 1, len(level) - 1)]
            var = Var(names.fresh("t"), dtype)
            statements.append(Let(var, Shuffle(x, y, kept) + Shuffle(x, y, moved)))
            joined.append(var)
        level, d = joined, 2 * d
    return statements, level[0]
