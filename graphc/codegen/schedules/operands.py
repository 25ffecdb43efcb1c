"""The operands of a contraction as a schedule sees them: which dimension plays which part, and where elements lie.

In: a region with one contraction. Out: a `Product` (sizes, sides, results) whose `Side`s know their memory strides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from graphc.codegen.schedules.evaluate import is_plain_view
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import Expr
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import geometry
from graphc.ir.types import DType


@dataclass(frozen=True)
class Side:
    """One operand: how its dimensions are indexed. Its last free dimension is the one that is tiled."""

    value: Value
    batch: tuple[int, ...]
    free: tuple[int, ...]
    summed: tuple[int, ...]

    @cached_property
    def extent(self) -> int:
        return self.value.shape[self.free[-1]] if self.free else 1

    @cached_property
    def outer_extents(self) -> tuple[int, ...]:
        return tuple(self.value.shape[d] for d in self.free[:-1])

    @cached_property
    def strides(self) -> tuple[int | None, ...]:
        return memory_strides(self.value)

    @cached_property
    def free_stride(self) -> int | None:
        """Elements in memory from one index of the tiled dimension to the next; `None` where it isn't one number."""
        return self.strides[self.free[-1]] if self.free else None

    @cached_property
    def summed_stride(self) -> int | None:
        """The same along the last summed dimension."""
        return self.strides[self.summed[-1]] if self.summed else None

    @cached_property
    def is_computed(self) -> bool:
        """True where an element costs more than a load: there is arithmetic between memory and the contraction."""
        stack, seen = [self.value.node], set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.op.name not in ("input", "const") and not is_plain_view(node):
                return True
            stack.extend(v.node for v in node.operands)
        return False

    def at(self, batch: Sequence[Expr], free: Sequence[Expr], along: Sequence[Expr]) -> tuple[Expr, ...]:
        """The operand's index of an element."""
        where: dict[int, Expr] = {}
        # the tiled index stands for the last free dimension, and for nothing where there is none
        for dims, indices in ((self.batch, batch), (self.free, free[: len(self.free)]), (self.summed, along)):
            where.update(zip(dims, indices, strict=True))
        return tuple(where[d] for d in range(len(where)))


@dataclass(frozen=True)
class Product:
    """A contraction: its result's index is batch, then the left side's free dimensions, then the right side's."""

    result: Value
    left: Side
    right: Side
    accesses: int = 1  # arrays of the result's shape that the epilogue reads or writes
    sums_rows: bool = False  # the region has by-products, which are summed over the left operand's dimensions

    @cached_property
    def dtype(self) -> DType:
        return self.result.dtype

    @cached_property
    def batches(self) -> tuple[int, ...]:
        return tuple(self.left.value.shape[d] for d in self.left.batch)

    @cached_property
    def sums(self) -> tuple[int, ...]:
        return tuple(self.left.value.shape[d] for d in self.left.summed)

    @cached_property
    def depth(self) -> int:
        """How many products are summed for an element of the result."""
        return math.prod(self.sums)


def contractions(region: Graph) -> list[Node]:
    """The contractions of a contract region."""
    return [n for n in region.nodes if "contraction" in n.op.traits]


def product_of(region: Graph) -> Product:
    """The contraction of a contract region that has one."""
    return products_of(region)[0]


def products_of(region: Graph) -> list[Product]:
    """All contractions of a contract region."""
    return [_product(region, node) for node in contractions(region)]


def _product(region: Graph, node: Node) -> Product:
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    return Product(
        node.results[0],
        Side(lhs, d.lhs_batch, d.lhs_free, d.lhs_summed),
        Side(rhs, d.rhs_batch, d.rhs_free, d.rhs_summed),
        len([v for v in (*region.inputs, *region.outputs) if v.shape == node.type.shape]),
        any("reduction" in n.op.traits for n in region.nodes),
    )


def memory_strides(value: Value) -> tuple[int | None, ...]:
    """Elements from one index to the next along each dimension, through views and pointwise nodes, where it is constant.

    Of several operands the largest counts: it is the one whose memory traffic matters. A dimension of one element
    has stride 0, like one along which elements repeat.
    """
    path: list[Node] = []
    while value.node.operands:
        path.append(value.node)
        value = max(value.node.operands, key=lambda v: v.type.size)
    strides: list[int | None] = [None] * value.type.rank
    if value.node.op.name == "input":
        strides = [0 if n == 1 else math.prod(value.shape[d + 1 :]) for d, n in enumerate(value.shape)]
    shape = value.shape
    for node in reversed(path):
        match node.op.name:
            case "broadcast":
                dims = node.ints("dims")
                strides = [strides[dims.index(d)] if d in dims else 0 for d in range(node.type.rank)]
            case "transpose":
                strides = [strides[d] for d in node.ints("perm")]
            case "slice":
                steps = node.ints("step")
                strides = [None if s is None else s * k for s, k in zip(strides, steps, strict=True)]
            case "reshape":
                strides = _reshaped(shape, strides, node.type.shape)
            case "window":
                g = geometry(node.attrs)
                step, tap = strides[g.axis], strides[g.taps]
                if step is None or g.base > 1:
                    strides[g.axis] = strides[g.taps] = None
                else:
                    strides[g.axis] = step * g.stride
                    strides[g.taps] = None if tap is None else tap + step * g.dilation
            case _ if "pointwise" not in node.op.traits:
                strides = [None] * node.type.rank
        shape = node.type.shape
        strides = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    return tuple(strides)


def _reshaped(shape: Sequence[int], strides: Sequence[int | None], target: Sequence[int]) -> list[int | None]:
    """Strides after a reshape, group by group of dimensions whose products are equal."""
    left = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result: list[int | None] = []
    right = [n for n in target if n != 1]
    while left and right:
        taken, wanted = [left.pop(0)], [right.pop(0)]
        while math.prod(n for n, _ in taken) != math.prod(wanted):
            if math.prod(n for n, _ in taken) < math.prod(wanted) and left:
                taken.append(left.pop(0))
            elif right:
                wanted.append(right.pop(0))
            else:  # shapes with a zero
                return [None] * len(target)
        inner = taken[-1][1]
        dense = inner is not None and all(
            s == inner * math.prod(n for n, _ in taken[i + 1 :]) for i, (_, s) in enumerate(taken)
        )
        for i in range(len(wanted)):
            result.append(inner * math.prod(wanted[i + 1 :]) if dense and inner is not None else None)
    kept = iter(result)
    return [0 if n == 1 else next(kept, None) for n in target]
