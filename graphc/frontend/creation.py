"""Array functions that make arrays: constants, ranges, the identity, one-hot codes.

In: shapes, data types and Python numbers. Out: constants of the current trace. The default float is f32, the
default integer i32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError, TraceError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.promotion import DTypeLike, Scalar, as_weak, result_type
from graphc.ir.graph import Value
from graphc.ir.types import DType, TensorType, bool_, f32, i32, i64


def asarray(x: ArrayLike, dtype: DTypeLike | None = None, *, copy: bool | None = None) -> Array:
    """An array, number or list as a traced value; lists may hold traced values, which are stacked.

    `copy` means nothing: a traced value never changes.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: asarray([x, 1.0]), f32[()]).output_types
    (f32[2],)
    """
    call = Call("asarray")
    return call.wrap(call.value(x, None if dtype is None else call.dtype(dtype)))


def full(shape: int | Sequence[int], fill_value: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """An array filled with a number; without `dtype`, a Python number has the default type.

    Raises `ShapeError` for a negative size, `DTypeError` for a Python int out of range.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: full((2, 3), 7.0)).output_types
    (f32[2,3],)
    """
    return _full("full", shape, fill_value, dtype)


def _full(name: str, shape: int | Sequence[int], fill_value: ArrayLike, dtype: DTypeLike | None) -> Array:
    call = Call(name)
    sizes = call.shape(shape)
    given = call.prepare(fill_value)
    target = None if dtype is None else call.dtype(dtype)
    if isinstance(given, (Array, np.ndarray)):
        return call.wrap(call.broadcast(call.value(given, target), sizes))
    return call.wrap(call.splat(given, TensorType(target or result_type([], [given]), sizes)))


def zeros(shape: int | Sequence[int], dtype: DTypeLike = f32) -> Array:
    """Zeros.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: zeros((2, 3))).output_types
    (f32[2,3],)
    """
    return _full("zeros", shape, 0, dtype)


def ones(shape: int | Sequence[int], dtype: DTypeLike = f32) -> Array:
    """Ones."""
    return _full("ones", shape, 1, dtype)


def full_like(x: ArrayLike, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """An array filled with a number, of the shape and data type of `x`."""
    call = Call("full_like")
    type = call.value(x).type
    return _full("full_like", type.shape, fill_value, dtype or type.dtype)


def zeros_like(x: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """Zeros of the shape and data type of `x`."""
    return full_like(x, 0, dtype)


def ones_like(x: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """Ones of the shape and data type of `x`."""
    return full_like(x, 1, dtype)


def empty(shape: int | Sequence[int], dtype: DTypeLike = f32) -> Array:
    """Zeros: a traced array has no memory that could be left as it is."""
    return _full("empty", shape, 0, dtype)


def empty_like(x: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """Zeros of the shape and data type of `x`."""
    return full_like(x, 0, dtype)


def from_dlpack(x: object) -> Array:
    """An array of another library on the CPU, such as a torch tensor, as a constant; its elements are copied.

    Raises `TraceError` where it can't be exchanged (DLPack, dmlc.github.io/dlpack).

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: from_dlpack(np.zeros((2, 3), np.float32))).output_types
    (f32[2,3],)
    """
    call = Call("from_dlpack")
    if isinstance(x, Array):
        return x
    try:
        array = np.from_dlpack(x)  # type: ignore[arg-type]
    except (AttributeError, TypeError, RuntimeError, BufferError, ValueError) as error:
        raise call.error(
            TraceError, f"expected an array on the CPU, got {type(x).__name__}: {error}"
        ) from None
    return call.wrap(call.value(np.array(array)))


def meshgrid(*arrays: ArrayLike, indexing: str = "xy") -> list[Array]:
    """Each array of rank 1 repeated over the grid of all: along axis i the i-th ("ij"), with the first two exchanged ("xy").

    Raises `ShapeError` for arrays of other ranks, `ArgumentError` for another indexing.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: meshgrid(x, y), f32[3], f32[4]).output_types
    (f32[4,3], f32[4,3])
    """
    call = Call("meshgrid")
    if indexing not in ("xy", "ij"):
        raise call.error(ArgumentError, f"indexing: expected 'xy' or 'ij', got {indexing!r}")
    values = [call.value(x) for x in arrays]
    for value in values:
        if len(value.shape) > 1:
            raise call.error(ShapeError, f"expected arrays of rank 1, got {value.type!r}")
    values = [call.reshape(v, (v.type.size,)) for v in values]
    places = list(range(len(values)))
    if indexing == "xy" and len(places) > 1:
        places[:2] = [1, 0]
    shape = [0] * len(values)
    for place, value in zip(places, values, strict=True):
        shape[place] = value.shape[0]
    return [
        call.wrap(v if len(shape) == 1 else call.build.broadcast(v, dims=(place,), shape=tuple(shape)))
        for place, v in zip(places, values, strict=True)
    ]


def _number(call: Call, x: object, what: str) -> Scalar:
    if isinstance(x, Array):
        raise call.error(
            TraceError, f"{what}: expected a Python number, got the traced {x!r}: shapes are static"
        )
    weak = x.item() if isinstance(x, (np.generic, np.ndarray)) and x.ndim == 0 else as_weak(x)
    if not isinstance(weak, (bool, int, float)):
        raise call.error(TraceError, f"{what}: expected a Python number, got {type(x).__name__}")
    return weak


def arange(start: float, stop: float | None = None, step: float = 1, dtype: DTypeLike | None = None) -> Array:
    """``start, start + step, ...`` below `stop`, as i32 or, where an argument is a float, f32.

    Raises `TraceError` where an argument is traced.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: arange(5)).output_types, trace(lambda: arange(0, 1, 0.25)).output_types
    ((i32[5],), (f32[4],))
    """
    call = Call("arange")
    first, last = (0, start) if stop is None else (start, stop)
    a, b, s = (_number(call, n, w) for n, w in ((first, "start"), (last, "stop"), (step, "step")))
    if s == 0:
        raise call.error(ShapeError, "expected a step other than 0, got 0")
    line = np.arange(a, b, s)
    found = call.dtype(dtype) if dtype is not None else result_type([], [a, b, s])
    if found is bool_:
        raise call.error(DTypeError, "expected a number type, got bool")
    type = TensorType(found, line.shape)
    if any(isinstance(n, float) for n in (a, b, s)):
        return call.wrap(call.build.constant(line.astype(found.numpy), type))
    result = call.build.iota(dim=0, type=type)
    if s != 1:
        result = call.build.mul(result, call.splat(s, type))
    if a != 0:
        result = call.build.add(result, call.splat(a, type))
    return call.wrap(result)


def linspace(
    start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: DTypeLike = f32
) -> Array:
    """`num` numbers from `start` to `stop`, evenly spaced, computed in double precision.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: linspace(0, 1, 5)).output_types
    (f32[5],)
    """
    call = Call("linspace")
    a, b = _number(call, start, "start"), _number(call, stop, "stop")
    count = call.integer(num, "num")
    if count < 0:
        raise call.error(ShapeError, f"num: expected a number of at least 0, got {count}")
    type = TensorType(call.dtype(dtype), (count,))
    return call.wrap(call.build.constant(np.linspace(a, b, count, endpoint).astype(type.dtype.numpy), type))


def diagonal_mask(call: Call, shape: tuple[int, ...], k: int, op: str) -> Value:
    """Compares ``row + k`` with the column, over the last two axes."""
    rank = len(shape)
    row = call.build.iota(dim=rank - 2, type=TensorType(i32, shape))
    col = call.build.iota(dim=rank - 1, type=TensorType(i32, shape))
    if k:
        row = call.build.add(row, call.splat(k, row.type))
    return getattr(call.build, op)(row, col)  # type: ignore[no-any-return]


def eye(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: DTypeLike = f32) -> Array:
    """Ones on the diagonal (the k-th above the main one), zeros elsewhere.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda: eye(3)).output_types
    (f32[3,3],)
    """
    call = Call("eye")
    shape = call.shape((n_rows, n_rows if n_cols is None else n_cols))
    target: DType = call.dtype(dtype)
    return call.wrap(call.cast(diagonal_mask(call, shape, call.integer(k, "k"), "eq"), target))


def one_hot(labels: ArrayLike, num_classes: int, dtype: DTypeLike = f32) -> Array:
    """1 at each label along a new last axis, 0 elsewhere; a label out of range gives zeros.

    Raises `DTypeError` where the labels are not integers.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import i32
    >>> trace(lambda labels: one_hot(labels, 10), i32[4]).output_types
    (f32[4,10],)
    """
    call = Call("one_hot")
    value = call.value(labels)
    if not value.dtype.is_integer:
        raise call.error(DTypeError, f"expected integer labels, got {value.dtype.name}")
    if value.dtype not in (i32, i64):
        value = call.cast(value, i32)
    (classes,) = call.shape(num_classes)
    type = TensorType(value.dtype, (*value.shape, classes))
    spread = call.build.broadcast(value, dims=tuple(range(len(value.shape))), shape=type.shape)
    return call.wrap(
        call.cast(call.build.eq(spread, call.build.iota(dim=len(value.shape), type=type)), call.dtype(dtype))
    )
