"""Which data type an operation on several operands has: NumPy 2's rules with weak Python scalars.

In: the data types of arrays, and Python scalars. Out: one `DType`, and scalars checked against it.

Where we differ from NumPy, because a network's default float is f32 and its default integer i32:

- a Python float with integer or bool arrays gives f32 (NumPy: float64), and so do true division, mean, exp, sqrt ...
  of integers; a Python int with bool arrays gives i32 (NumPy: int64);
- NumPy's default scalars ``np.float64(2)`` and ``np.int64(2)`` (not arrays of them) are weak, as Python's are, so
  ``x / np.sqrt(64)`` stays f32.

Arrays promote by NumPy's table: i32 with f32 gives f64, u8 with f32 gives f32, i8 with u8 gives i16, u64 with i64 gives
f64. bf16, which NumPy does not have, promotes as f16 does, and with f16 to f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from graphc.errors import DTypeError
from graphc.ir.types import DTYPES, DType, bf16, bool_, dtype_of, f16, f32, i32, i64

Scalar = bool | int | float
DTypeLike = DType | np.dtype | type | str

DEFAULT_FLOAT = f32
DEFAULT_INT = i32


def as_weak(x: object) -> Scalar | None:
    """The Python scalar that `x` is or stands for; None where it is something with a data type of its own.

    >>> as_weak(2), as_weak(np.float64(2)), as_weak(np.float32(2))
    (2, 2.0, None)
    """
    if isinstance(x, np.generic):
        return x.item() if x.dtype in (np.dtype("f8"), np.dtype("i8")) else None
    return x if isinstance(x, (bool, int, float)) else None


def as_dtype(dtype: DTypeLike) -> DType:
    """The `DType` that the user names: one of ours, its name (``"f32"``), or anything numpy knows as a data type.

    The Python types float, int and bool are the default types f32, i32 and bool. Raises `DTypeError`.

    >>> as_dtype("f32"), as_dtype("float64"), as_dtype(float)
    (f32, f64, f32)
    """
    if isinstance(dtype, DType):
        found = dtype
    elif isinstance(dtype, str) and dtype in DTYPES:
        found = DTYPES[dtype]
    elif dtype is float or dtype is int or dtype is bool:
        return {float: DEFAULT_FLOAT, int: DEFAULT_INT, bool: bool_}[dtype]
    else:
        try:
            numpy_dtype = np.dtype(dtype)
        except (TypeError, ValueError):
            raise DTypeError(f"expected a data type, got {dtype!r}") from None
        return dtype_of(numpy_dtype)
    return found


@cache
def promote_types(a: DType, b: DType) -> DType:
    """The type of an operation on arrays of these types, by NumPy's table.

    NumPy has no bf16. Beside any other type than itself it stands where f16 does, as its significand too holds all of u8
    and i8; beside f16, of which neither holds the other, it gives f32.

    >>> from graphc.ir.types import f32, i16, i32, u8
    >>> promote_types(f32, u8), promote_types(f32, i32), promote_types(bf16, f16), promote_types(bf16, i16)
    (f32, f64, f32, f32)
    """
    if a is b:
        return a
    if bf16 in (a, b):
        other = b if a is bf16 else a
        found = f32 if other is f16 else promote_types(f16, other)
        return bf16 if found is f16 else found
    return dtype_of(np.promote_types(a.numpy, b.numpy))


def result_type(strong: Sequence[DType], weak: Sequence[Scalar] = ()) -> DType:
    """The type of an operation on arrays of the types `strong` and Python scalars.

    Raises `DTypeError` where a Python int is out of the type's range (NumPy raises OverflowError).

    >>> from graphc.ir.types import bool_, f64, i32, u8
    >>> result_type([u8], [2]), result_type([i32], [1.5]), result_type([f64], [1.5]), result_type([], [True, 2])
    (u8, f32, f64, i32)
    """
    kinds = {type(w) for w in weak}
    if strong:
        found = strong[0]
        for dtype in strong[1:]:
            found = promote_types(found, dtype)
        if float in kinds and not found.is_float:
            found = DEFAULT_FLOAT
        elif int in kinds and found is bool_:
            found = DEFAULT_INT
    elif float in kinds:
        found = DEFAULT_FLOAT
    elif int in kinds:
        found = default_int(*(w for w in weak if isinstance(w, int)))
    else:
        found = bool_
    for scalar in weak:
        check_range(scalar, found)
    return found


def default_int(*values: int) -> DType:
    """i32, or i64 where a value needs it.

    >>> default_int(7), default_int(2**40)
    (i32, i64)
    """
    return i32 if all(-(2**31) <= v < 2**31 for v in values) else i64


def check_range(scalar: Scalar, dtype: DType) -> None:
    """Raises `DTypeError` where a Python int does not fit in an integer type, as NumPy 2 does."""
    if dtype.is_integer and isinstance(scalar, int) and not isinstance(scalar, bool):
        lowest, highest = dtype.limits
        if not lowest <= scalar <= highest:
            raise DTypeError(f"expected a Python int within {dtype.name}, got {scalar}")


def to_float(dtype: DType) -> DType:
    """The type in which exp, sqrt, mean ... of such elements are computed: floats stay, all else is f32.

    >>> from graphc.ir.types import f64, i32
    >>> to_float(f64), to_float(i32)
    (f64, f32)
    """
    return dtype if dtype.is_float else DEFAULT_FLOAT
