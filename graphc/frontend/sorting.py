"""Array functions about order: sorting, the largest k, quantiles, positions in sorted arrays.

In: traced values, arrays, Python numbers. Out: traced values. Everything rests on one op, `argsort`: values are
gathered by positions, so that a cotangent goes to the element that its value came from. Sorting is stable. NaN counts as
greater than every number: last, as in NumPy, and first in descending order, as in PyTorch and JAX. Functions whose
result's shape would depend on the numbers (`nonzero`, `unique_values`, ...) raise `TraceError` and say what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from graphc.errors import ArgumentError, ShapeError, TraceError
from graphc.frontend import elementwise
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.calls import Call
from graphc.ir.graph import Value
from graphc.ir.types import TensorType, bool_, i32, i64

_METHODS = ("linear", "lower", "higher", "midpoint", "nearest")


def _order(call: Call, value: Value, axis: int, descending: bool) -> Value:
    keys = call.cast(value, i32) if value.dtype is bool_ else value
    return call.build.argsort(keys, axis=axis, descending=descending)


def _at(call: Call, value: Value, positions: Value, axis: int) -> Value:
    """The elements at positions along an axis; all of them are within range."""
    if len(value.shape) == 1:
        return call.build.gather(value, positions, axis=0)
    small = value.type.size < 2**31
    index = TensorType(i32 if small else i64, positions.shape)
    flat, stride = call.cast(positions, index.dtype), 1
    strides = [1] * len(value.shape)
    for d in reversed(range(len(value.shape))):
        strides[d] = stride
        stride *= value.shape[d]
    if strides[axis] != 1:
        flat = call.build.mul(flat, call.splat(strides[axis], index))
    for d, n in enumerate(value.shape):
        if d != axis and n != 1:
            along = call.build.iota(dim=d, type=index)
            if strides[d] != 1:
                along = call.build.mul(along, call.splat(strides[d], index))
            flat = call.build.add(flat, along)
    return call.build.gather(call.reshape(value, (value.type.size,)), flat, axis=0)


def argsort(x: ArrayLike, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The i32 positions that put the elements along an axis in order; equal elements stay in theirs.

    `stable=False` gives the same. Raises `ShapeError` for a wrong axis, and so of a scalar.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: argsort(x), f32[2, 5]).output_types
    (i32[2,5],)
    """
    call = Call("argsort")
    value = call.value(x)
    return call.wrap(_order(call, value, call.axis(axis, len(value.shape)), bool(descending)))


def sort(x: ArrayLike, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Array:
    """The elements along an axis in order, NaN last (`descending`: first).

    The cotangent of each goes to where it came from. Raises `ShapeError` for a wrong axis, and so of a scalar.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: sort(x, axis=0), f32[2, 5]).output_types
    (f32[2,5],)
    """
    call = Call("sort")
    value = call.value(x)
    along = call.axis(axis, len(value.shape))
    return call.wrap(_at(call, value, _order(call, value, along, bool(descending)), along))


def top_k(x: ArrayLike, k: int, axis: int = -1, *, largest: bool = True) -> tuple[Array, Array]:
    """The k largest elements along an axis (or smallest), greatest first, and their i32 positions.

    Of equal elements the earlier ones are taken, as by `jax.lax.top_k`; `torch.topk` leaves that open. The whole line is
    sorted. Raises `ShapeError` where there are fewer than k elements.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: top_k(x, 3), f32[2, 5]).output_types
    (f32[2,3], i32[2,3])
    """
    call = Call("top_k")
    value = call.value(x)
    along, count = call.axis(axis, len(value.shape)), call.integer(k, "k")
    if not 0 <= count <= value.shape[along]:
        raise call.error(ShapeError, f"k: expected 0 to {value.shape[along]} elements, got {count}")
    positions = _order(call, value, along, bool(largest))
    rank = len(value.shape)
    kept = tuple(count if d == along else n for d, n in enumerate(value.shape))
    first = call.slice(positions, (0,) * rank, kept, (1,) * rank)
    return call.wrap(_at(call, value, first, along)), call.wrap(first)


def searchsorted(
    x1: ArrayLike, x2: ArrayLike, *, side: str = "left", sorter: ArrayLike | None = None
) -> Array:
    """Where the elements of `x2` would go in `x1`, which is sorted: before equal ones (`left`) or after them (`right`).

    `sorter` holds the positions that sort `x1`. A binary search of log2(n) steps, each a gather and a comparison.
    Raises `ShapeError` unless `x1` has rank 1, `ArgumentError` for another side.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, v: searchsorted(x, v), f32[9], f32[2, 3]).output_types
    (i32[2,3],)
    """
    call = Call("searchsorted")
    if side not in ("left", "right"):
        raise call.error(ArgumentError, f"side: expected 'left' or 'right', got {side!r}")
    given, dtype = call.promote(x1, x2)
    line, wanted = (call.value(g, i32 if dtype is bool_ else dtype) for g in given)
    if len(line.shape) != 1:
        raise call.error(ShapeError, f"expected a sorted array of rank 1, got {line.type!r}")
    n = line.shape[0]
    order = None if sorter is None else call.value(sorter)
    if order is not None:
        if order.shape != line.shape or not order.dtype.is_integer:
            raise call.error(ShapeError, f"sorter: expected integers of shape [{n}], got {order.type!r}")
        line = call.build.gather(line, order if order.dtype is i64 else call.cast(order, i32), axis=0)
    index = TensorType(i32, wanted.shape)
    found = call.splat(0, index)
    build = call.build
    for bit in reversed(range(n.bit_length())):
        candidate = build.add(found, call.splat(1 << bit, index))
        last = build.min(candidate, call.splat(n, index))
        seen = build.gather(line, build.sub(last, call.splat(1, index)), axis=0)
        before = (build.lt if side == "left" else build.le)(seen, wanted)
        if wanted.dtype.is_float:  # NaN is the greatest
            wanted_nan = build.ne(wanted, wanted)
            passes = build.and_(wanted_nan, build.eq(seen, seen)) if side == "left" else wanted_nan
            before = build.or_(before, passes)
        inside = build.le(candidate, call.splat(n, index))
        found = build.select(build.and_(inside, before), candidate, found)
    return call.wrap(found)


# --------------------------------------------------------------------------------------------------------- quantiles


def quantile(
    x: ArrayLike,
    q: float | Sequence[float],
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    """The value below which a part `q` (0 to 1) of the elements along axes lies; several ones stand along a new first axis.

    Between two elements, by `method`: linear interpolation, lower, higher, midpoint or nearest (halves to the even
    position), as NumPy's. NaN where any element is. Raises `ArgumentError` for another method and for q outside of
    [0, 1], `TraceError` for a traced q, `ShapeError` of no elements.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: quantile(x, [0.1, 0.9], axis=1), f32[3, 5]).output_types
    (f32[2,3],)
    """
    return _quantile("quantile", x, q, axis, method, keepdims, 1)


def percentile(
    x: ArrayLike,
    q: float | Sequence[float],
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    """The same as `quantile`, with q from 0 to 100."""
    return _quantile("percentile", x, q, axis, method, keepdims, 100)


def median(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """The middle element along axes, or the mean of the two; NaN where any element is.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: median(x, axis=1, keepdims=True), f32[3, 5]).output_types
    (f32[3,1],)
    """
    return _quantile("median", x, 0.5, axis, "linear", keepdims, 1)


def _quantile(
    name: str, x: ArrayLike, q: float | Sequence[float], axis: Axis, method: str, keepdims: bool, whole: int
) -> Array:
    call = Call(name)
    if method not in _METHODS:
        raise call.error(ArgumentError, f"method: expected one of {', '.join(_METHODS)}, got {method!r}")
    parts = _parts(call, q, whole)
    value = call.float_value(x)
    axes = call.axes(axis, len(value.shape))
    kept = [d for d in range(len(value.shape)) if d not in axes]
    rest = tuple(value.shape[d] for d in kept)
    n = math.prod(value.shape[d] for d in axes)
    if n == 0:
        raise call.error(
            ShapeError, f"expected at least one element along axes {list(axes)}, got {value.type!r}"
        )
    lines = call.reshape(call.transpose(value, [*kept, *axes]), (*rest, n))
    ordered = _at(call, lines, _order(call, lines, len(rest), False), len(rest))

    def element(i: int) -> Array:
        size = (*rest, 1)
        return call.wrap(
            call.reshape(call.slice(ordered, (*(0 for _ in rest), i), size, (1,) * len(size)), rest)
        )

    last = element(n - 1)  # NaN if any is
    found = []
    for part in parts.reshape(-1):
        place = float(part) * (n - 1)
        below = min(math.floor(place), n - 1)
        above, between = min(below + 1, n - 1), place - below
        if method == "nearest":
            result = element(round(place))
        elif method == "lower" or between == 0:
            result = element(below)
        elif method == "higher":
            result = element(above)
        else:
            share = 0.5 if method == "midpoint" else between
            result = element(below) * (1 - share) + element(above) * share
        missing = elementwise.isnan(last)
        found.append(elementwise.where(missing, last, result))
    shape = tuple(1 if d in axes else m for d, m in enumerate(value.shape)) if keepdims else rest
    values = [call.reshape(f.value, (1, *shape)) for f in found]
    joined = call.build.concat(*values, axis=0) if len(values) > 1 else values[0]
    return call.wrap(call.reshape(joined, (*parts.shape, *shape)))


def _parts(call: Call, q: object, whole: int) -> np.ndarray:
    if isinstance(q, Array) or (isinstance(q, (list, tuple)) and any(isinstance(p, Array) for p in q)):
        raise call.error(TraceError, "q: expected Python numbers, got a traced value: positions are static")
    given = np.asarray(q)
    parts = given.astype(np.float64) if given.dtype.kind in "iuf" else np.zeros(0)
    if parts.size == 0 or not bool(((parts >= 0) & (parts <= whole)).all()):
        raise call.error(ArgumentError, f"q: expected numbers from 0 to {whole}, got {q!r}")
    return parts / whole


def diff(
    x: ArrayLike,
    axis: int = -1,
    n: int = 1,
    *,
    prepend: ArrayLike | None = None,
    append: ArrayLike | None = None,
) -> Array:
    """The differences of neighbours along an axis, `n` times; of bools, whether they differ.

    `prepend` and `append` are joined to the array first; a scalar stands for one element everywhere. Raises
    `ShapeError` for a negative n.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: diff(x, n=2), f32[3, 5]).output_types
    (f32[3,3],)
    """
    call = Call("diff")
    ends = [e for e in (prepend, x, append) if e is not None]
    given, dtype = call.promote(*ends)
    shape = call.value(x).shape
    along, times = call.axis(axis, len(shape)), call.integer(n, "n")
    if times < 0:
        raise call.error(ShapeError, f"n: expected a number of at least 0, got {times}")
    one = tuple(1 if d == along else m for d, m in enumerate(shape))
    values = [call.value(g, dtype) for g in given]
    values = [v if v.shape else call.broadcast(v, one) for v in values]
    line = call.build.concat(*values, axis=along) if len(values) > 1 else values[0]
    for _ in range(times):
        size = tuple(max(m - 1, 0) if d == along else m for d, m in enumerate(line.shape))
        if line.shape[along] == 0:
            break
        ahead = tuple(int(d == along) for d in range(len(shape)))
        later = call.slice(line, ahead, size, (1,) * len(size))
        earlier = call.slice(line, (0,) * len(size), size, (1,) * len(size))
        line = (call.build.ne if dtype is bool_ else call.build.sub)(later, earlier)
    return call.wrap(line)


# --------------------------------------------------------------------- what would have a shape that depends on numbers


def _refused(name: str, instead: str) -> NoReturn:
    raise Call(name).error(
        TraceError,
        f"expected a function whose result has a static shape, got {name}: how many elements it gives depends on "
        f"their numbers; use {instead}",
    )


def nonzero(x: ArrayLike) -> NoReturn:
    """Raises `TraceError`: how many elements are not 0 is not known while tracing."""
    _refused(
        "nonzero", "graphc.where(condition, a, b), or graphc.argsort(x == 0) and graphc.count_nonzero(x)"
    )


_SORTED = "graphc.sort(x), in which equal elements are neighbours"


def unique_all(x: ArrayLike) -> NoReturn:
    """Raises `TraceError`: how many different elements there are is not known while tracing."""
    _refused("unique_all", _SORTED)


def unique_counts(x: ArrayLike) -> NoReturn:
    """Raises `TraceError`: how many different elements there are is not known while tracing."""
    _refused("unique_counts", _SORTED)


def unique_inverse(x: ArrayLike) -> NoReturn:
    """Raises `TraceError`: how many different elements there are is not known while tracing."""
    _refused("unique_inverse", _SORTED)


def unique_values(x: ArrayLike) -> NoReturn:
    """Raises `TraceError`: how many different elements there are is not known while tracing."""
    _refused("unique_values", _SORTED)
