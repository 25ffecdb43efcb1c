"""Merging dimensions: a region whose nodes treat neighbouring dimensions alike iterates over their product.

In: a region. Out: the same region with fewer, longer dimensions (row-major buffers don't care), so that vectors are full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.types import TensorType


def collapse(region: Graph, domain: Sequence[int], axes: Sequence[int] = ()) -> Graph:
    """The region over merged dimensions of `domain`; the region itself where something in it forbids that.

    `axes` are the reduced dimensions of a reduce region.
    """
    rank = len(domain)
    kept = [d for d in range(rank) if d not in axes]
    reduced_shape = tuple(domain[d] for d in kept)
    merge = [(d in axes) == (d + 1 in axes) for d in range(rank - 1)]  # may d and d + 1 become one?
    covers: dict[Value, tuple[int, ...]] = {}  # the domain's dimensions that an input's dimensions are

    def level(shape: tuple[int, ...]) -> tuple[int, ...] | None:
        if shape == tuple(domain):
            return tuple(range(rank))
        return tuple(kept) if axes and shape == reduced_shape else None

    def cover(value: Value, dims: tuple[int, ...]) -> bool:
        return covers.setdefault(value, dims) == dims

    inputs = set(region.inputs)
    for node in region.nodes:
        own = level(node.type.shape)
        if "reduction" in node.op.traits:
            if tuple(node.ints("axes")) != tuple(axes) or not cover(node.operands[0], tuple(range(rank))):
                return region
            continue
        if own is None or (
            node.op.name not in ("const", "iota", "broadcast") and "pointwise" not in node.op.traits
        ):
            if node.op.name == "const" and node.type.shape == ():
                continue
            return region
        if node.op.name == "broadcast":
            dims = tuple(own[d] for d in node.ints("dims"))
            operand = node.operands[0]
            if not cover(operand, dims) or (
                operand not in inputs and operand.shape != () and level(operand.shape) != dims
            ):
                return region
            for d in range(rank - 1):
                if d in own and d + 1 in own and (d in dims) != (d + 1 in dims):
                    merge[d] = False
        elif node.op.name == "iota":
            d = own[node.int("dim")]
            for side in (d - 1, d):
                if 0 <= side < rank - 1:
                    merge[side] = False
        else:
            for operand in node.operands:
                if operand in inputs and not cover(operand, own):
                    return region
    for output in region.outputs:
        if output in inputs or level(output.shape) is None:
            return region
    if not any(merge):
        return region
    return _rebuild(region, domain, axes, merge, covers, level)


def _rebuild(
    region: Graph,
    domain: Sequence[int],
    axes: Sequence[int],
    merge: Sequence[bool],
    covers: Mapping[Value, tuple[int, ...]],
    level: Callable[[tuple[int, ...]], tuple[int, ...] | None],
) -> Graph:
    """The region with each run of dimensions that `merge` joins as one."""
    run_of = [0]
    for may in merge:
        run_of.append(run_of[-1] + (0 if may else 1))

    def shape_of(dims: Sequence[int]) -> tuple[int, ...]:
        runs = sorted({run_of[d] for d in dims})
        return tuple(math.prod(domain[d] for d in dims if run_of[d] == r) for r in runs)

    def positions(dims: Sequence[int], own: Sequence[int]) -> tuple[int, ...]:
        runs = sorted({run_of[d] for d in own})
        return tuple(sorted({runs.index(run_of[d]) for d in dims}))

    build = Builder()
    new: dict[Value, Value] = {}
    for value in region.inputs:
        dims = covers.get(value)
        shape = value.shape if dims is None else shape_of(dims)
        new[value] = build.input(TensorType(value.dtype, shape), value.node.name)
    for node in region.nodes:
        attrs = dict(node.attrs)
        own = level(node.type.shape)
        if "reduction" in node.op.traits:
            attrs["axes"] = positions(axes, range(len(domain)))
        elif own is not None:
            shape = shape_of(own)
            if "type" in attrs:
                attrs["type"] = TensorType(node.type.dtype, shape)
            if node.op.name == "iota":
                attrs["dim"] = positions([own[node.int("dim")]], own)[0]
            if node.op.name == "broadcast":
                attrs["dims"] = positions([own[d] for d in node.ints("dims")], own)
                attrs["shape"] = shape
        copy = build.emit(node.op, [new[v] for v in node.operands], attrs, (), node.loc, node.name)
        new.update(zip(node.results, copy.results, strict=True))
    return Graph(region.name, build.inputs, tuple(new[v] for v in region.outputs), region.stage)
