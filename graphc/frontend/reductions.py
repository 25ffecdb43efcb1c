"""Array functions that join the elements along axes: sums, means, extrema, their positions, running sums.

In: a traced value, `axis` (None for all, an int or several, negative ones from the end), `keepdims`. Out: traced
values. A wrong or repeated axis raises `ShapeError` with the user's line. Sums and products of bools and of integers of
8 and 16 bits are i32, other types stay (NumPy: 64 bits); means, variances and logsumexp of integers are f32 (NumPy:
float64), those of 16-bit floats are computed in f32 and rounded.
"""

from __future__ import annotations

import math

from graphc.errors import DTypeError, ShapeError
from graphc.frontend import elementwise
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.calls import Call
from graphc.frontend.halves import in_f32
from graphc.frontend.promotion import DTypeLike
from graphc.ir.graph import Value
from graphc.ir.types import DType, TensorType, bool_, i32


def _reduce(call: Call, op: str, value: Value, axis: Axis, keepdims: bool) -> Array:
    axes = call.axes(axis, len(value.shape))
    result = getattr(call.build, op)(value, axes=axes) if axes else value
    return call.wrap(call.reshape(result, _kept_shape(value.shape, axes)) if keepdims else result)


def _kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if d in axes else n for d, n in enumerate(shape))


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[a] for a in axes)


def _summed(call: Call, x: ArrayLike, dtype: DTypeLike | None) -> Value:
    value = call.value(x)
    target: DType = (
        call.dtype(dtype)
        if dtype is not None
        else i32
        if value.dtype.bits < i32.bits and not value.dtype.is_float
        else value.dtype
    )
    return call.cast(value, target)


def sum(x: ArrayLike, axis: Axis = None, *, dtype: DTypeLike | None = None, keepdims: bool = False) -> Array:
    """The sum over axes.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: sum(x, axis=-1, keepdims=True), f32[2, 3]).output_types
    (f32[2,1],)
    """
    call = Call("sum")
    return _reduce(call, "reduce_sum", _summed(call, x, dtype), axis, keepdims)


@in_f32
def mean(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """The mean over axes; NaN of no elements.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import i32
    >>> trace(lambda x: mean(x, axis=0), i32[2, 3]).output_types
    (f32[3],)
    """
    call = Call("mean")
    value = call.float_value(x)
    axes = call.axes(axis, len(value.shape))
    total = call.trace.lift(_reduce(call, "reduce_sum", value, axes, keepdims))
    return call.wrap(call.build.div(total, call.splat(_count(value.shape, axes), total.type)))


@in_f32
def var(x: ArrayLike, axis: Axis = None, *, correction: float = 0, keepdims: bool = False) -> Array:
    """The variance over axes, in two passes: the squared distances from the mean, over n - correction.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import i32
    >>> trace(lambda x: var(x, axis=0), i32[2, 3]).output_types
    (f32[3],)
    """
    call = Call("var")
    value = call.wrap(call.float_value(x))
    axes = call.axes(axis, value.ndim)
    distance = elementwise.subtract(value, mean(value, axes, keepdims=True))
    total = sum(elementwise.square(distance), axes, keepdims=keepdims)
    freedom = float(_count(value.shape, axes) - correction)
    return elementwise.divide(total, freedom if freedom > 0 else 0.0)


@in_f32
def std(x: ArrayLike, axis: Axis = None, *, correction: float = 0, keepdims: bool = False) -> Array:
    """The standard deviation: the root of the variance; its derivative at 0 is not finite."""
    return elementwise.sqrt(var(x, axis, correction=correction, keepdims=keepdims))


def _extremum(name: str, op: str, of_bools: str, x: ArrayLike, axis: Axis, keepdims: bool) -> Array:
    call = Call(name)
    value = call.value(x)
    axes = call.axes(axis, len(value.shape))
    if _count(value.shape, axes) == 0:
        raise call.error(
            ShapeError, f"expected at least one element along axes {list(axes)}, got {value.type!r}"
        )
    return _reduce(call, of_bools if value.dtype is bool_ else op, value, axes, keepdims)


def max(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """The largest element over axes, NaN if any is; a tie shares the cotangent equally.

    Raises `ShapeError` where there are no elements.
    """
    return _extremum("max", "reduce_max", "reduce_any", x, axis, keepdims)


def min(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """The smallest element over axes, NaN if any is; a tie shares the cotangent equally.

    Raises `ShapeError` where there are no elements.
    """
    return _extremum("min", "reduce_min", "reduce_all", x, axis, keepdims)


def any(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether any element is true (not 0); False of no elements."""
    call = Call("any")
    return _reduce(call, "reduce_any", elementwise.truth(call, call.value(x)), axis, keepdims)


def all(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Whether all elements are true (not 0); True of no elements."""
    call = Call("all")
    return _reduce(call, "reduce_all", elementwise.truth(call, call.value(x)), axis, keepdims)


def count_nonzero(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """How many elements are not 0, as i32."""
    call = Call("count_nonzero")
    return sum(call.wrap(elementwise.truth(call, call.value(x))), axis, keepdims=keepdims)


def _position(name: str, x: ArrayLike, axis: int | None, keepdims: bool) -> Array:
    call = Call(name)
    value = call.value(x)
    rank = len(value.shape)
    if value.dtype is bool_:
        value = call.cast(value, i32)
    flat = value if axis is not None else call.reshape(value, (math.prod(value.shape),))
    along = call.axis(axis, rank) if axis is not None else 0
    if flat.shape[along] == 0:
        raise call.error(ShapeError, f"expected at least one element along axis {along}, got {value.type!r}")
    result = getattr(call.build, name)(flat, axes=(along,))
    if keepdims:
        result = call.reshape(
            result, _kept_shape(value.shape, (along,) if axis is not None else tuple(range(rank)))
        )
    return call.wrap(result)


def argmax(x: ArrayLike, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """The i32 position of the first largest element along an axis; None is that in the flattened array.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: argmax(x, axis=1), f32[2, 3]).output_types
    (i32[2],)
    """
    return _position("argmax", x, axis, keepdims)


def argmin(x: ArrayLike, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """The i32 position of the first smallest element along an axis; None is that in the flattened array."""
    return _position("argmin", x, axis, keepdims)


def prod(x: ArrayLike, axis: Axis = None, *, dtype: DTypeLike | None = None, keepdims: bool = False) -> Array:
    """The product over axes, by halves: log2(n) multiplications of whole arrays, right derivatives at zeros.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: prod(x, axis=0), f32[5, 3]).output_types
    (f32[3],)
    """
    call = Call("prod")
    value = _summed(call, x, dtype)
    axes = call.axes(axis, len(value.shape))
    shape = value.shape
    if value.dtype is bool_:
        raise call.error(DTypeError, "expected a number type, got bool")
    kept = [d for d in range(len(shape)) if d not in axes]
    rest = tuple(shape[d] for d in kept)
    lines = call.reshape(call.transpose(value, [*axes, *kept]), (_count(shape, axes), *rest))
    if lines.shape[0] == 0:
        lines = call.splat(1, TensorType(value.dtype, (1, *rest)))
    while lines.shape[0] > 1:
        half, odd = divmod(lines.shape[0], 2)
        pairs = call.build.mul(_rows(call, lines, 0, half), _rows(call, lines, half, half))
        lines = call.build.concat(pairs, _rows(call, lines, 2 * half, 1), axis=0) if odd else pairs
    return call.wrap(call.reshape(lines, _kept_shape(shape, axes) if keepdims else rest))


def _rows(call: Call, value: Value, start: int, size: int) -> Value:
    rest = value.shape[1:]
    return call.slice(value, (start, *(0 for _ in rest)), (size, *rest), (1,) * len(value.shape))


def _after(call: Call, first: int, value: Value, axis: int, include_initial: bool) -> Array:
    """The running results, after the one of no elements where that is wanted."""
    if not include_initial:
        return call.wrap(value)
    one = TensorType(value.dtype, tuple(1 if d == axis else n for d, n in enumerate(value.shape)))
    return call.wrap(call.build.concat(call.splat(first, one), value, axis=axis))


def cumulative_sum(
    x: ArrayLike, axis: int = 0, *, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Array:
    """The running sum along an axis, added up in order; with `include_initial` after a 0.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: cumulative_sum(x, axis=1), f32[2, 5]).output_types
    (f32[2,5],)
    """
    call = Call("cumulative_sum")
    value = _summed(call, x, dtype)
    along = call.axis(axis, len(value.shape))
    total = call.build.recurrence(call.splat(1, value.type), value, axis=along, reverse=False)
    return _after(call, 0, total, along, include_initial)


def cumulative_prod(
    x: ArrayLike, axis: int = 0, *, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Array:
    """The running product along an axis, with right derivatives at zeros; with `include_initial` after a 1.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: cumulative_prod(x, axis=1), f32[2, 5]).output_types
    (f32[2,5],)
    """
    call = Call("cumulative_prod")
    value = _summed(call, x, dtype)
    along = call.axis(axis, len(value.shape))
    place = call.build.iota(dim=along, type=TensorType(i32, value.shape))
    first = call.build.eq(place, call.splat(0, place.type))
    terms = call.build.select(first, value, call.splat(0, value.type))
    product = call.build.recurrence(value, terms, axis=along, reverse=False)
    return _after(call, 1, product, along, include_initial)


def _running(name: str, x: ArrayLike, axis: int) -> Array:
    call = Call(name)
    value = call.value(x)
    if value.dtype is bool_:
        raise call.error(DTypeError, "expected a number type, got bool")
    along = call.axis(axis, len(value.shape))
    return call.wrap(getattr(call.build, name)(value, axis=along, reverse=False))


def cumulative_max(x: ArrayLike, axis: int = 0) -> Array:
    """The largest element so far along an axis, NaN from the first NaN on; the first of equals takes the cotangent.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: cumulative_max(x, axis=1), f32[2, 5]).output_types
    (f32[2,5],)
    """
    return _running("cumulative_max", x, axis)


def cumulative_min(x: ArrayLike, axis: int = 0) -> Array:
    """The smallest element so far along an axis; else as `cumulative_max`."""
    return _running("cumulative_min", x, axis)


@in_f32
def logsumexp(x: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) over axes, where no power overflows: the largest element is subtracted first.

    It is held constant for differentiation, which leaves derivatives of every order right.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: logsumexp(x, axis=1), f32[2, 5]).output_types
    (f32[2],)
    """
    call = Call("logsumexp")
    value = call.wrap(call.float_value(x))
    axes = call.axes(axis, value.ndim)
    largest = elementwise.stop_gradient(max(value, axes, keepdims=True))
    shift = elementwise.where(elementwise.isfinite(largest), largest, 0.0)  # of -inf alone the result is -inf
    total = elementwise.log(sum(elementwise.exp(elementwise.subtract(value, shift)), axes, keepdims=True))
    result = call.trace.lift(elementwise.add(total, shift))
    kept = tuple(n for d, n in enumerate(value.shape) if d not in axes)
    return call.wrap(result if keepdims else call.reshape(result, kept))
