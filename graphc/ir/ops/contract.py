"""The contraction: a matrix product over any axes, with batch dimensions. Linear layers, and all their derivatives.

In: two tensors, `axes` (what is summed) and `batch` (what is paired), each a pair of lists. Out: the registered op;
result dimensions are batch, then the left operand's free ones, then the right operand's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.batching import to_front
from graphc.ir.opdef import NUMBERS, Derive, OpDef, Sample, Tangents, check_dtype, int_list, register
from graphc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


@dataclass(frozen=True)
class Dimensions:
    """Which dimension of each operand plays which part."""

    lhs_batch: tuple[int, ...]
    lhs_free: tuple[int, ...]
    lhs_summed: tuple[int, ...]
    rhs_batch: tuple[int, ...]
    rhs_free: tuple[int, ...]
    rhs_summed: tuple[int, ...]


def dimensions(attrs: Attrs, lhs_rank: int, rhs_rank: int) -> Dimensions:
    """The parts of the dimensions of a contraction with these attributes."""
    lhs_summed, rhs_summed = _pair(attrs, "axes")
    lhs_batch, rhs_batch = _pair(attrs, "batch") if "batch" in attrs else ((), ())

    def free(rank: int, used: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(d for d in range(rank) if d not in used)

    return Dimensions(
        lhs_batch, free(lhs_rank, lhs_batch + lhs_summed), lhs_summed,
        rhs_batch, free(rhs_rank, rhs_batch + rhs_summed), rhs_summed,
    )  # fmt: skip


def _pair(attrs: Attrs, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A list for the left operand and one for the right."""
    sides = attrs[name]
    if not isinstance(sides, tuple) or len(sides) != 2:
        raise ShapeError(f"{name}: expected two lists of integers, got {sides!r}")
    return int_list({name: sides[0]}, name), int_list({name: sides[1]}, name)


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    lhs, rhs = types
    check_dtype(lhs.dtype, NUMBERS)
    if lhs.dtype != rhs.dtype:
        raise DTypeError(f"expected equal data types, got {lhs!r} and {rhs!r}")
    d = dimensions(attrs, lhs.rank, rhs.rank)
    for name, left, right in (("axes", d.lhs_summed, d.rhs_summed), ("batch", d.lhs_batch, d.rhs_batch)):
        if len(left) != len(right):
            raise ShapeError(
                f"{name}: expected as many on the left as on the right, got {list(left)} and {list(right)}"
            )
        for a, b in zip(left, right, strict=True):
            if not (0 <= a < lhs.rank and 0 <= b < rhs.rank) or lhs.shape[a] != rhs.shape[b]:
                raise ShapeError(f"{name} {a} of {lhs!r} and {b} of {rhs!r}: expected equal sizes")
    for t, used in ((lhs, d.lhs_summed + d.lhs_batch), (rhs, d.rhs_summed + d.rhs_batch)):
        if len(set(used)) != len(used):
            raise ShapeError(f"expected each dimension of {t!r} at most once, got {list(used)}")
    shape = [lhs.shape[a] for a in d.lhs_batch + d.lhs_free] + [rhs.shape[b] for b in d.rhs_free]
    return (TensorType(lhs.dtype, tuple(shape)),)


def _ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    lhs, rhs = arrays
    d = dimensions(attrs, lhs.ndim, rhs.ndim)
    left = list(range(lhs.ndim))
    right = [lhs.ndim + i for i in range(rhs.ndim)]
    for a, b in zip(d.lhs_batch + d.lhs_summed, d.rhs_batch + d.rhs_summed, strict=True):
        right[b] = a
    out = [left[a] for a in d.lhs_batch + d.lhs_free] + [right[b] for b in d.rhs_free]
    with np.errstate(all="ignore"):
        result = np.einsum(lhs, left, rhs, right, out, optimize=lhs.dtype.kind == "f")
    return [np.asarray(result).astype(lhs.dtype)]


def _adjoint(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Each operand's cotangent is the contraction of g with the other operand over that one's free dimensions."""
    (g,) = cotangents
    if g is None:
        return [None, None]
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    batch = tuple(range(len(d.lhs_batch)))
    lhs_free = tuple(len(batch) + i for i in range(len(d.lhs_free)))
    rhs_free = tuple(len(batch) + len(lhs_free) + i for i in range(len(d.rhs_free)))

    def of_operand(
        own_batch: tuple[int, ...], own_free: tuple[int, ...], own_summed: tuple[int, ...],
        other: Value, other_batch: tuple[int, ...], other_free: tuple[int, ...], other_summed: tuple[int, ...],
        g_other_free: tuple[int, ...],
    ) -> Value:  # fmt: skip
        partial = build.contract(g, other, axes=(g_other_free, other_free), batch=(batch, other_batch))
        # the result's dimensions are batch, own free, then the other's summed ones in increasing order
        summed = tuple(own_summed[other_summed.index(b)] for b in sorted(other_summed))
        stands_for = own_batch + own_free + summed
        perm = tuple(stands_for.index(i) for i in range(len(stands_for)))
        return partial if perm == tuple(range(len(perm))) else build.transpose(partial, perm=perm)

    return [
        of_operand(
            d.lhs_batch, d.lhs_free, d.lhs_summed, rhs, d.rhs_batch, d.rhs_free, d.rhs_summed, rhs_free
        ),
        of_operand(
            d.rhs_batch, d.rhs_free, d.rhs_summed, lhs, d.lhs_batch, d.lhs_free, d.lhs_summed, lhs_free
        ),
    ]


def _tangent(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """The product rule: the contraction of each operand's tangent with the other operand."""
    parts = []
    for position, tangent in enumerate(tangents):
        if tangent is not None:
            pair = [tangent if i == position else v for i, v in enumerate(node.operands)]
            parts.append(build.contract(*pair, **node.attrs))
    return node.results, [build.add(*parts) if len(parts) == 2 else parts[0] if parts else None]


def _batch(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """Of two batches a batch dimension; of one a free dimension of its operand, put first."""
    left, right = batched
    lhs, rhs = (v.type.rank for v in node.operands)
    d = dimensions(node.attrs, lhs, rhs)

    def moved(dims: tuple[int, ...], by: bool) -> tuple[int, ...]:
        return tuple(i + by for i in dims)

    batch = (moved(d.lhs_batch, left), moved(d.rhs_batch, right))
    if left and right:
        batch = ((0, *batch[0]), (0, *batch[1]))
    axes = (moved(d.lhs_summed, left), moved(d.rhs_summed, right))
    result = build.contract(*operands, axes=axes, batch=batch)
    at = 0 if left and right else len(d.lhs_batch) + (0 if left else len(d.lhs_free))
    return [to_front(build, result, at)]


def _samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def array(*shape: int) -> np.ndarray:
        if dtype.is_integer:
            return rng.integers(0, 5, shape).astype(dtype.numpy)
        return rng.uniform(-1, 1, shape).astype(dtype.numpy)

    none: tuple[int, ...] = ()
    return [
        Sample((array(4, 7), array(7, 5)), {"axes": ((1,), (0,)), "batch": (none, none)}),
        Sample((array(4, 18), array(5, 18)), {"axes": ((1,), (1,)), "batch": (none, none)}),
        Sample((array(7, 4), array(7, 21)), {"axes": ((0,), (0,)), "batch": (none, none)}),
        Sample((array(7, 19), array(3, 7)), {"axes": ((0,), (1,)), "batch": (none, none)}),
        Sample((array(2, 4, 3), array(2, 3, 5)), {"axes": ((2,), (1,)), "batch": ((0,), (0,))}),
        Sample((array(4, 2, 3, 2), array(3, 5, 2, 4)), {"axes": ((2, 1), (0, 2)), "batch": ((0,), (3,))}),
        Sample((array(6), array(6)), {"axes": ((0,), (0,)), "batch": (none, none)}),
        Sample((array(3), array(4)), {"axes": (none, none), "batch": (none, none)}),
    ]


contract = register(
    OpDef(
        "contract",
        _infer,
        _ref,
        arity=2,
        adjoint=_adjoint,
        tangent=_tangent,
        batch=_batch,
        traits=frozenset({"contraction"}),
        latex="{0} {1}",
        doc="The product summed over pairs of axes; paired batch dimensions come first in the result.",
        dtypes=NUMBERS,
        samples=_samples,
    )
)
