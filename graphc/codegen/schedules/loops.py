"""Loops that every schedule writes: over vectors with a masked tail, over rows, and a kernel's parameters.

In: extents and functions that give a loop's body. Out: kernel statements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from graphc.codegen.schedules.evaluate import Names
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Access, Buffer, Expr, If, Stmt, index, loop
from graphc.ir.types import DType, f32

Body = Callable[[Expr], Sequence[Stmt]]


def lanes_of(target: Target, region: Graph, extent: int) -> int:
    """Lanes for a vector loop over `extent` elements: those of the widest type, no more than the extent fills."""
    types: Iterable[DType] = (v.dtype for n in region.nodes for v in (*n.operands, *n.results))
    widest = max(types, key=lambda t: t.bytes, default=f32)
    lanes = target.lanes(widest if widest.bytes >= f32.bytes else f32)
    while lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return max(lanes, 1)


def vector_loop(names: Names, extent: int, lanes: int, body: Body) -> list[Stmt]:
    """`body` for every index below `extent`: full vectors, then one masked vector."""
    if lanes == 1:
        i = names.var("i")
        return [loop(i, 0, extent, body(i))] if extent else []
    statements: list[Stmt] = []
    full = extent // lanes * lanes
    if full:
        i, lane = names.var("i"), names.var("lane")
        inner = loop(lane, 0, lanes, body(i + lane), binding="vector")
        statements.append(loop(i, 0, full, [inner], step=lanes))
    if extent > full:
        statements += lane_block(names, lanes, lambda lane: body(lane + full), extent - full)
    return statements


def lane_block(names: Names, lanes: int, body: Body, active: int | None = None) -> list[Stmt]:
    """`body` once for all lanes, or for the first `active` ones."""
    if lanes == 1:
        return list(body(index(0)))
    lane = names.var("lane")
    statements = tuple(body(lane))
    if active is not None and active < lanes:
        statements = (If(lane < active, statements),)
    return [loop(lane, 0, lanes, statements, binding="vector")]


def nest(
    names: Names, extents: Sequence[int], body: Callable[[tuple[Expr, ...]], Sequence[Stmt]]
) -> list[Stmt]:
    """Serial loops over `extents`, outermost first; a dimension of one element has no loop."""
    variables = [names.var("i") if n != 1 else None for n in extents]
    statements = list(body(tuple(index(0) if v is None else v for v in variables)))
    for variable, n in reversed(list(zip(variables, extents, strict=True))):
        if variable is not None:
            statements = [loop(variable, 0, n, statements)]
    return statements


def parameters(
    region: Graph, in_place: Mapping[int, int], updated: Collection[Value] = ()
) -> tuple[dict[Value, Buffer], list[Buffer], list[Buffer]]:
    """Buffers for the region's inputs and its results, and the kernel's parameters in order.

    A result that overwrites an operand shares its `inout` buffer; those that the kernel reads again (`updated`) are
    `inout` too.
    """
    overwritten = {operand: result for result, operand in in_place.items()}
    params: list[Buffer] = []
    inputs: dict[Value, Buffer] = {}
    for position, value in enumerate(region.inputs):
        access: Access = "inout" if position in overwritten else "in"
        buffer = Buffer(f"in{position}", value.dtype, value.shape, access=access)
        inputs[value] = buffer
        params.append(buffer)
    results: list[Buffer] = []
    for position, value in enumerate(region.outputs):
        if position in in_place:
            results.append(params[in_place[position]])
            continue
        access = "inout" if value in updated else "out"
        buffer = Buffer(f"out{position}", value.dtype, value.shape, access=access)
        results.append(buffer)
        params.append(buffer)
    return inputs, results, params
