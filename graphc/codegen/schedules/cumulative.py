"""The schedule of cumulative regions: serial along the axis, in vectors across the last of the other dimensions.

In: a region with one recurrence or running extremum. Out: a kernel. The carried values stay in a register: a vector of
them where the axis is not the last dimension, else one, since neighbours then wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lane_block, lanes_of, nest, parameters
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Alloc, Apply, Buffer, Expr, Kernel, Load, Stmt, index, loop, store


def schedule_cumulative(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """One loop along the axis for each vector of lines."""
    node = next(n for n in region.nodes if "cumulative" in n.op.traits)
    *factors, terms = node.operands
    shape, axis = node.type.shape, node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    across = shape[-1] if axis < len(shape) - 1 else 1
    outer_shape = shape[:-1] if axis < len(shape) - 1 else shape
    lanes = lanes_of(target, region, across)

    def lines(outer: tuple[Expr, ...], base: Expr, active: int | None) -> list[Stmt]:
        cell = Buffer(
            names.fresh("carried"), result.dtype, (lanes,) if lanes > 1 else (), space="reg", access="local"
        )

        def step(lane: Expr, along: Expr, first: bool) -> list[Stmt]:
            place = along if not node.attrs["reverse"] else index(shape[axis] - 1) - along
            where = [*outer, *([base + lane] if len(outer) < len(shape) else [])]
            where[axis] = place
            held = (lane,) if cell.shape else ()
            with evaluator.scope() as block:
                value = evaluator.at(terms, where)
                if not first and factors:
                    value = Apply(
                        "add", (Apply("mul", (evaluator.at(factors[0], where), Load(cell, held))), value)
                    )
                elif not first:
                    value = Apply(node.op.combine, (Load(cell, held), value))
                block += [store(cell, held, value), store(result, where, Load(cell, held))]
            return block

        k = names.var("k")
        return [
            Alloc(cell),
            *lane_block(names, lanes, lambda lane: step(lane, index(0), True), active),
            loop(k, 1, shape[axis], lane_block(names, lanes, lambda lane: step(lane, k, False), active)),
        ]

    def block(outer: tuple[Expr, ...]) -> list[Stmt]:
        full = across // lanes * lanes
        i = names.var("i")
        whole: list[Stmt] = [loop(i, 0, full, lines(outer, i, None), step=lanes)] if full > lanes else []
        if full == lanes:
            whole = lines(outer, index(0), None)
        return whole + (lines(outer, index(full), across - full) if across > full else [])

    extents = tuple(1 if d == axis else n for d, n in enumerate(outer_shape))
    statements = nest(names, extents, block) if node.type.size else []
    return Kernel("cumulative", tuple(params), tuple(statements))
