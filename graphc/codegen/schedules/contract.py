"""The schedule of contract regions: register tiles in explicit vectors, with a hole in the store and in both operands.

In: a region with one contraction, the nodes that make its operands and those that read it. Out: a kernel.

A contraction is a product of a left operand (batch, rows, sum) and a right one (batch, columns, sum). Two forms:

- outer: vectors along the free dimension of one operand, splats of the other; `tile_rows` x `tile_vectors`
  accumulators stay in registers over the whole sum (a rank-1 update a step).
- dot: vectors along the summed dimension of both, for products whose operands are both contiguous there (x Wᵀ).

The form follows from which dimension of each operand is contiguous; the tile from the number of registers:
rows · vectors accumulators, the vectors of one operand and one splat must fit (Goto & van de Geijn, Anatomy of
High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008). Measured on Zen 4: 6 x 4 is the best tile of 32
registers, 6 x 2 of 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lane_block, lanes_of, nest, parameters
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Expr,
    Kernel,
    Load,
    Reduce,
    Stmt,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.ops.contract import Dimensions, dimensions

_MOST_ROWS = 12  # more accumulators hide no more latency
_DOT_TILE = 4  # 4 x 4 dot products share 8 loads


def schedule_contract(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A kernel of the form that the operands' layouts suggest."""
    return _Contraction(region, target, in_place).kernel()


@dataclass(frozen=True)
class _Side:
    """One operand: how its dimensions are indexed, and its innermost free dimension, which is tiled."""

    value: Value
    batch: tuple[int, ...]
    free: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def extent(self) -> int:
        return self.value.shape[self.free[-1]] if self.free else 1

    @property
    def outer_extents(self) -> tuple[int, ...]:
        return tuple(self.value.shape[d] for d in self.free[:-1])

    def at(self, batch: Sequence[Expr], free: Sequence[Expr], along: Sequence[Expr]) -> tuple[Expr, ...]:
        where: dict[int, Expr] = {}
        # the tiled index stands for the last free dimension, and for nothing where there is none
        for dims, indices in ((self.batch, batch), (self.free, free[: len(self.free)]), (self.summed, along)):
            where.update(zip(dims, indices, strict=True))
        return tuple(where[d] for d in range(len(where)))


class _Contraction:
    def __init__(self, region: Graph, target: Target, in_place: Mapping[int, int]) -> None:
        self.region = region
        self.target = target
        self.node = next(n for n in region.nodes if "contraction" in n.op.traits)
        self.result = self.node.results[0]
        self.dtype = self.result.dtype
        self.names = Names()
        inputs, self.results, self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        lhs, rhs = self.node.operands
        d: Dimensions = dimensions(self.node.attrs, lhs.type.rank, rhs.type.rank)
        self.left = _Side(lhs, d.lhs_batch, d.lhs_free, d.lhs_summed)
        self.right = _Side(rhs, d.rhs_batch, d.rhs_free, d.rhs_summed)
        self.sums = tuple(lhs.shape[a] for a in d.lhs_summed)
        self.batches = tuple(lhs.shape[a] for a in d.lhs_batch)

    def kernel(self) -> Kernel:
        left, right = innermost_dimension(self.left.value), innermost_dimension(self.right.value)
        along_right = bool(self.right.free) and right == self.right.free[-1]
        along_left = bool(self.left.free) and left == self.left.free[-1]
        both_summed = bool(self.sums) and left == self.left.summed[-1] and right == self.right.summed[-1]
        if along_right and self.right.extent > 1:
            body: Callable[..., list[Stmt]] = self._outer_right
        elif along_left and self.left.extent > 1:
            body = self._outer_left
        elif both_summed or self.left.extent == self.right.extent == 1:
            body = self._dot
        else:
            body = self._outer_right if self.right.extent >= self.left.extent else self._outer_left
        extents = (*self.batches, *self.left.outer_extents, *self.right.outer_extents)
        statements = nest(self.names, extents, lambda outer: self._split(outer, body))
        return Kernel("contract", tuple(self.params), tuple(statements))

    def _split(self, outer: tuple[Expr, ...], body: Callable[..., list[Stmt]]) -> list[Stmt]:
        nb, nl = len(self.batches), len(self.left.outer_extents)
        return body(outer[:nb], outer[nb : nb + nl], outer[nb + nl :])

    # ---------------------------------------------------------------------------------------------------- outer form

    def _outer_right(self, batch: Sequence[Expr], left: Sequence[Expr], right: Sequence[Expr]) -> list[Stmt]:
        return self._outer(batch, self.left, left, self.right, right, swapped=False)

    def _outer_left(self, batch: Sequence[Expr], left: Sequence[Expr], right: Sequence[Expr]) -> list[Stmt]:
        return self._outer(batch, self.right, right, self.left, left, swapped=True)

    def _outer(
        self,
        batch: Sequence[Expr],
        rows: _Side,
        rows_outer: Sequence[Expr],
        columns: _Side,
        columns_outer: Sequence[Expr],
        swapped: bool,
    ) -> list[Stmt]:
        """Vectors along `columns`, splats of `rows`."""
        lanes = lanes_of(self.target, self.region, columns.extent)
        vectors, height = tile_shape(self.target, rows.extent, columns.extent, lanes)

        def tile(row: Expr, mr: int, column: Expr, nv: int, active: int) -> list[Stmt]:
            def where(r: Expr, c: Expr) -> tuple[Expr, ...]:
                row_part, column_part = (
                    (*rows_outer, r)[: len(rows.free)],
                    (*columns_outer, c)[: len(columns.free)],
                )
                return (*batch, *column_part, *row_part) if swapped else (*batch, *row_part, *column_part)

            acc = Buffer(self.names.fresh("acc"), self.dtype, (mr, nv, lanes), space="reg", access="local")
            statements: list[Stmt] = [Alloc(acc)]
            zero = constant(self.dtype, 0)
            statements += self._cells(mr, nv, lanes, lambda i, j, lane: [store(acc, (i, j, lane), zero)])

            def step(along: tuple[Expr, ...]) -> list[Stmt]:
                b = Buffer(self.names.fresh("b"), self.dtype, (nv, lanes), space="reg", access="local")

                def load_b(j: Expr, lane: Expr) -> list[Stmt]:
                    with self.evaluator.scope() as inside:
                        at = columns.at(batch, (*columns_outer, column + j * lanes + lane), along)
                        inside.append(store(b, (j, lane), self.evaluator.at(columns.value, at)))
                    return inside

                def update(i: Expr) -> list[Stmt]:
                    with self.evaluator.scope() as inside:
                        a = self.evaluator.at(rows.value, rows.at(batch, (*rows_outer, row + i), along))
                        inside += self._vectors(
                            nv,
                            lanes,
                            lambda j, lane: [
                                store(
                                    acc, (i, j, lane), self._madd(a, load(b, j, lane), load(acc, i, j, lane))
                                )
                            ],
                        )
                    return inside

                # lanes beyond the last column are 0, not undefined: what is read of them never reaches memory
                rest = lane_block(self.names, lanes, lambda lane: [store(b, (index(nv - 1), lane), zero)])
                return [
                    Alloc(b),
                    *(rest if active < lanes else []),
                    *self._vectors(nv, lanes, load_b, active),
                    *self._unrolled(mr, update),
                ]

            statements += nest(self.names, self.sums, step)

            def finish(i: Expr, j: Expr, lane: Expr) -> list[Stmt]:
                self.evaluator.bound[self.result] = lambda at: Load(acc, (i, j, lane))
                return self._epilogue(where(row + i, column + j * lanes + lane))

            return statements + self._cells(mr, nv, lanes, finish, active)

        def column_of_tiles(column: Expr, nv: int, active: int) -> list[Stmt]:
            return self._blocks(rows.extent, height, lambda row, mr: tile(row, mr, column, nv, active))

        width = vectors * lanes
        full = columns.extent // width * width
        statements: list[Stmt] = []
        if full:
            c = self.names.var("col")
            statements.append(loop(c, 0, full, column_of_tiles(c, vectors, lanes), step=width))
        if columns.extent > full:
            rest = columns.extent - full
            nv = -(-rest // lanes)
            statements += column_of_tiles(index(full), nv, rest - (nv - 1) * lanes)
        return statements

    # ------------------------------------------------------------------------------------------------------ dot form

    def _dot(self, batch: Sequence[Expr], left: Sequence[Expr], right: Sequence[Expr]) -> list[Stmt]:
        """Vectors along the last summed dimension; the sums of a tile's row meet in memory for a vector epilogue."""
        depth = self.sums[-1] if self.sums else 1
        lanes = lanes_of(self.target, self.region, depth)
        width = lanes_of(self.target, self.region, self.right.extent)

        def block(column: Expr, active: int) -> list[Stmt]:
            def tile(row: Expr, mr: int) -> list[Stmt]:
                sums = Buffer(
                    self.names.fresh("sums"), self.dtype, (mr, width), space="stack", access="local"
                )
                statements: list[Stmt] = [Alloc(sums)]
                statements += self._blocks(
                    active,
                    _DOT_TILE,
                    lambda j, nr: self._dot_tile(
                        batch, left, right, row, mr, column, j, nr, lanes, depth, sums
                    ),
                )

                def finish(i: Expr, lane: Expr) -> list[Stmt]:
                    self.evaluator.bound[self.result] = lambda at: Load(sums, (i, lane))
                    row_part = (*left, row + i)[: len(self.left.free)]
                    column_part = (*right, column + lane)[: len(self.right.free)]
                    return self._epilogue((*batch, *row_part, *column_part))

                return statements + self._unrolled(
                    mr, lambda i: lane_block(self.names, width, lambda lane: finish(i, lane), active)
                )

            return self._blocks(self.left.extent, _DOT_TILE, tile)

        full = self.right.extent // width * width
        statements: list[Stmt] = []
        if full:
            c = self.names.var("col")
            statements.append(loop(c, 0, full, block(c, width), step=width))
        if self.right.extent > full:
            statements += block(index(full), self.right.extent - full)
        return statements

    def _dot_tile(
        self,
        batch: Sequence[Expr],
        left: Sequence[Expr],
        right: Sequence[Expr],
        row: Expr,
        mr: int,
        column: Expr,
        offset: Expr,
        nr: int,
        lanes: int,
        depth: int,
        sums: Buffer,
    ) -> list[Stmt]:
        """`mr` x `nr` dot products, into columns `offset` and on of `sums`."""
        acc = Buffer(self.names.fresh("acc"), self.dtype, (mr, nr, lanes), space="reg", access="local")
        zero = constant(self.dtype, 0)
        statements: list[Stmt] = [Alloc(acc)]
        statements += self._cells(mr, nr, lanes, lambda i, j, lane: [store(acc, (i, j, lane), zero)])

        def vector(outer: tuple[Expr, ...], k: Expr, lane: Expr) -> list[Stmt]:
            along = (*outer, k + lane) if self.sums else ()
            with self.evaluator.scope() as inside:
                bs = [
                    self.evaluator.at(
                        self.right.value, self.right.at(batch, (*right, column + offset + j), along)
                    )
                    for j in range(nr)
                ]
                for i in range(mr):
                    a = self.evaluator.at(self.left.value, self.left.at(batch, (*left, row + i), along))
                    for j in range(nr):
                        cell = (index(i), index(j), lane)
                        inside.append(store(acc, cell, self._madd(a, bs[j], Load(acc, cell))))
            return inside

        def pass_over(outer: tuple[Expr, ...]) -> list[Stmt]:
            full = depth // lanes * lanes
            steps: list[Stmt] = []
            if full:
                k = self.names.var("k")
                body = lane_block(self.names, lanes, lambda lane: vector(outer, k, lane))
                steps.append(loop(k, 0, full, body, step=lanes))
            if depth > full:
                steps += lane_block(
                    self.names, lanes, lambda lane: vector(outer, index(full), lane), depth - full
                )
            return steps

        statements += nest(self.names, self.sums[:-1], pass_over)

        def join(lane: Expr) -> list[Stmt]:
            return [
                store(
                    sums,
                    (i, offset + j),
                    Reduce("add", load(acc, i, j, lane)) if lanes > 1 else load(acc, i, j, lane),
                )
                for i in range(mr)
                for j in range(nr)
            ]

        return statements + lane_block(self.names, lanes, join)

    # --------------------------------------------------------------------------------------------------- shared parts

    def _madd(self, a: Expr, b: Expr, c: Expr) -> Expr:
        if self.dtype.is_float:
            return Apply("fma", (a, b, c))
        return Apply("add", (Apply("mul", (a, b)), c))

    def _epilogue(self, where: tuple[Expr, ...]) -> list[Stmt]:
        """All results at this index, then their stores."""
        with self.evaluator.scope() as inside:
            values = [self.evaluator.at(v, where) for v in self.region.outputs]
            inside += [store(b, where, v) for b, v in zip(self.results, values, strict=True)]
        return inside

    def _unrolled(self, count: int, body: Callable[[Expr], Sequence[Stmt]]) -> list[Stmt]:
        if count == 1:
            return list(body(index(0)))
        i = self.names.var("r")
        return [loop(i, 0, count, body(i), binding="unroll")]

    def _vectors(
        self, nv: int, lanes: int, body: Callable[[Expr, Expr], Sequence[Stmt]], active: int | None = None
    ) -> list[Stmt]:
        """`body(vector, lane)` for `nv` vectors, the last one with its first `active` lanes."""
        masked = active is not None and active < lanes
        whole = nv - 1 if masked else nv

        def lanewise(j: Expr, active: int | None = None) -> list[Stmt]:
            return lane_block(self.names, lanes, lambda lane: body(j, lane), active)

        statements = self._unrolled(whole, lanewise) if whole else []
        return statements + lanewise(index(nv - 1), active) if masked else statements

    def _cells(
        self,
        mr: int,
        nv: int,
        lanes: int,
        body: Callable[[Expr, Expr, Expr], Sequence[Stmt]],
        active: int | None = None,
    ) -> list[Stmt]:
        return self._unrolled(
            mr, lambda i: self._vectors(nv, lanes, lambda j, lane: body(i, j, lane), active)
        )

    def _blocks(self, extent: int, size: int, body: Callable[[Expr, int], list[Stmt]]) -> list[Stmt]:
        """`body(start, size)` over blocks of `size`, then over what remains."""
        size = min(size, extent)
        if extent == 0:
            return []
        full = extent // size * size
        statements: list[Stmt] = []
        if full == size:
            statements += body(index(0), size)
        else:
            start = self.names.var("row")
            statements.append(loop(start, 0, full, body(start, size), step=size))
        if extent > full:
            statements += body(index(full), extent - full)
        return statements


def tile_shape(target: Target, rows: int, columns: int, lanes: int) -> tuple[int, int]:
    """(vectors, rows) of the register tile: as large as the registers allow, rows that divide evenly preferred."""
    registers = target.vector_registers
    vectors = max(1, min(4 if registers >= 32 else 2, -(-columns // lanes)))
    most = max(1, min(rows, _MOST_ROWS, (registers - 1 - vectors) // vectors))
    height = next((h for h in range(most, math.ceil(most * 2 / 3) - 1, -1) if h and rows % h == 0), most)
    return vectors, height


def innermost_dimension(value: Value) -> int | None:
    """Which dimension of a region's value is contiguous in memory, `None` if none is."""
    path: list[Node] = []
    while value.node.operands:
        path.append(value.node)
        value = max(value.node.operands, key=lambda v: v.type.size)
    if value.node.op.name != "input":
        return None
    inner: int | None = max((d for d, n in enumerate(value.shape) if n > 1), default=value.type.rank - 1)
    for node in reversed(path):
        if inner is None or inner < 0:
            return None
        match node.op.name:
            case "broadcast":
                inner = node.ints("dims")[inner]
            case "transpose":
                inner = node.ints("perm").index(inner)
            case "slice":
                inner = inner if node.ints("step")[inner] == 1 else None
            case "reshape":
                last = node.type.rank - 1
                inner = last if last >= 0 and node.type.shape[last] == node.operands[0].shape[-1] else None
            case _:
                inner = inner if "pointwise" in node.op.traits else None
    return inner
