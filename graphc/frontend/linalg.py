"""Array functions that are contractions: matrix products by all rank rules, tensordot, outer products.

In: traced values, arrays, Python numbers. Out: traced values, each made by one `contract` for every two operands.
Shapes that don't fit raise `ShapeError` with the user's line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.errors import ShapeError
from graphc.frontend import elementwise, reductions
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.ir.graph import Value
from graphc.ir.guard import guarded
from graphc.ir.types import bool_, i32

Axes = int | tuple[int | Sequence[int], int | Sequence[int]]
_NONE: tuple[int, ...] = ()


def _pair(call: Call, x1: ArrayLike, x2: ArrayLike) -> tuple[Value, Value, bool]:
    """Both operands with one data type, and whether they were bools (which are counted as i32)."""
    given, dtype = call.promote(x1, x2)
    target = i32 if dtype is bool_ else dtype
    a, b = (call.value(g, target) for g in given)
    return a, b, dtype is bool_


def _result(call: Call, value: Value, logical: bool) -> Array:
    return call.wrap(elementwise.truth(call, value) if logical else value)


@guarded
def matmul(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The matrix product of the last two axes; the axes before broadcast, an operand of rank 1 is a row or a column.

    Raises `ShapeError` for scalars and where sizes don't fit.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: matmul(x, w), f32[7, 2, 3], f32[3, 4]).output_types
    (f32[7,2,4],)
    """
    call = Call("matmul")
    a, b, logical = _pair(call, x1, x2)
    if not a.shape or not b.shape:
        raise call.error(ShapeError, f"expected operands of rank 1 or more, got {a.type!r} and {b.type!r}")
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise call.error(
            ShapeError, f"expected the last axis of {a.type!r} to be as long as the one before the last of {b.type!r}"
            if len(b.shape) > 1 else f"expected {a.type!r} and {b.type!r} with equal last axes",
        )  # fmt: skip
    return _result(call, _matmul(call, a, b), logical)


def _matmul(call: Call, a: Value, b: Value) -> Value:
    if len(b.shape) == 1:
        return call.build.contract(a, b, axes=((len(a.shape) - 1,), (0,)), batch=(_NONE, _NONE))
    if len(a.shape) == 1:  # the result has b's axes but the one that is summed
        return call.build.contract(a, b, axes=((0,), (len(b.shape) - 2,)), batch=(_NONE, _NONE))
    outer_a, outer_b = a.shape[:-2], b.shape[:-2]
    outer = call.common_shape([outer_a, outer_b])
    result = (*outer, a.shape[-2], b.shape[-1])
    if math.prod(outer_b) == 1 and outer_a == outer:
        right = call.reshape(b, b.shape[-2:])
        return call.build.contract(a, right, axes=((len(a.shape) - 1,), (0,)), batch=(_NONE, _NONE))
    if math.prod(outer_a) == 1 and outer_b == outer:
        left = call.reshape(a, a.shape[-2:])
        product = call.build.contract(left, b, axes=((1,), (len(b.shape) - 2,)), batch=(_NONE, _NONE))
        rank = len(result)
        return call.transpose(product, [*range(1, rank - 1), 0, rank - 1])
    a = call.broadcast(a, (*outer, *a.shape[-2:]))
    b = call.broadcast(b, (*outer, *b.shape[-2:]))
    rank = len(result)
    batch = tuple(range(rank - 2))
    return call.build.contract(a, b, axes=((rank - 1,), (rank - 2,)), batch=(batch, batch))


def dot(x1: ArrayLike, x2: ArrayLike) -> Array:
    """NumPy's dot: the last axis of `x1` with the one before the last of `x2`, no batch axes; scalars multiply."""
    call = Call("dot")
    a, b, logical = _pair(call, x1, x2)
    if not a.shape or not b.shape:
        return elementwise.multiply(x1, x2)
    axis = max(len(b.shape) - 2, 0)
    if a.shape[-1] != b.shape[axis]:
        raise call.error(
            ShapeError, f"expected axes of equal sizes to sum over, got {a.type!r} and {b.type!r}"
        )
    product = call.build.contract(a, b, axes=((len(a.shape) - 1,), (axis,)), batch=(_NONE, _NONE))
    return _result(call, product, logical)


@guarded
def tensordot(x1: ArrayLike, x2: ArrayLike, axes: Axes = 2) -> Array:
    """The product summed over pairs of axes: the last n of `x1` with the first n of `x2`, or two lists.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: tensordot(x, y, axes=((0,), (1,))), f32[2, 3], f32[4, 2]).output_types
    (f32[3,4],)
    """
    call = Call("tensordot")
    a, b, logical = _pair(call, x1, x2)
    rank_a, rank_b = len(a.shape), len(b.shape)
    if isinstance(axes, (tuple, list)):
        left, right = axes
        lists = [list(s) if isinstance(s, (tuple, list)) else [s] for s in (left, right)]
    else:
        count = call.integer(axes, "axes")
        if not 0 <= count <= min(rank_a, rank_b):
            raise call.error(ShapeError, f"expected at most {min(rank_a, rank_b)} axes, got {count}")
        lists = [list(range(rank_a - count, rank_a)), list(range(count))]
    summed_a = tuple(call.axis(d, rank_a) for d in lists[0])
    summed_b = tuple(call.axis(d, rank_b) for d in lists[1])
    return _result(call, call.build.contract(a, b, axes=(summed_a, summed_b), batch=(_NONE, _NONE)), logical)


@guarded
def vecdot(x1: ArrayLike, x2: ArrayLike, axis: int = -1) -> Array:
    """The sum of products along one axis; the other axes broadcast."""
    call = Call("vecdot")
    a, b = call.operands(x1, x2)
    if not a.shape:
        raise call.error(ShapeError, f"expected operands of rank 1 or more, got {a.type!r}")
    along = call.axis(axis, len(a.shape))
    if a.dtype is bool_:
        return reductions.any(elementwise.logical_and(call.wrap(a), call.wrap(b)), axis=along)
    batch = tuple(d for d in range(len(a.shape)) if d != along)
    return call.wrap(call.build.contract(a, b, axes=((along,), (along,)), batch=(batch, batch)))


@guarded
def outer(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Every product of an element of `x1` with one of `x2`; both are flattened.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: outer(x, y), f32[2], f32[3]).output_types
    (f32[2,3],)
    """
    call = Call("outer")
    a, b, logical = _pair(call, x1, x2)
    a, b = call.reshape(a, (a.type.size,)), call.reshape(b, (b.type.size,))
    return _result(call, call.build.contract(a, b, axes=(_NONE, _NONE), batch=(_NONE, _NONE)), logical)
