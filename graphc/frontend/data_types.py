"""Functions about data types, under the array API standard's names: limits, kinds, promotion.

In: data types by any of their names (`frontend.promotion`), arrays, Python numbers. Out: data types, bools and numbers,
never a node; they may be called outside of traced functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError, GraphcError
from graphc.frontend import promotion
from graphc.frontend.array import Array
from graphc.frontend.promotion import DTypeLike, as_dtype, as_weak
from graphc.ir.loc import here
from graphc.ir.types import DType, TensorType, dtype_of

_KINDS = {
    "bool": ("bool",),
    "signed integer": ("int",),
    "unsigned integer": ("uint",),
    "integral": ("int", "uint"),
    "real floating": ("float",),
    "complex floating": (),
    "numeric": ("int", "uint", "float"),
}


@dataclass(frozen=True)
class FloatLimits:
    """What a float type can hold; `eps` is the distance from 1 to the next number."""

    dtype: DType
    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float


@dataclass(frozen=True)
class IntegerLimits:
    """What an integer type can hold."""

    dtype: DType
    bits: int
    max: int
    min: int


def _located(name: str, error: GraphcError) -> DTypeError:
    return DTypeError(f"{here().prefix}{name}: {error}")


def _dtype(name: str, given: object) -> DType:
    if isinstance(given, (Array, TensorType)):
        return given.dtype
    try:
        return (
            dtype_of(given.dtype) if isinstance(given, (np.ndarray, np.generic)) else as_dtype(given)  # type: ignore[arg-type]
        )
    except DTypeError as error:
        raise _located(name, error) from None


def finfo(type: DTypeLike | Array) -> FloatLimits:
    """The limits of a float type, or of an array's. Raises `DTypeError` for another type.

    >>> finfo("f32").eps, finfo("f32").max
    (1.1920928955078125e-07, 3.4028234663852886e+38)
    """
    dtype = _dtype("finfo", type)
    if not dtype.is_float:
        raise DTypeError(f"{here().prefix}finfo: expected a float type, got {dtype.name}")
    info = np.finfo(dtype.numpy)
    return FloatLimits(
        dtype, dtype.bits, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal)
    )


def iinfo(type: DTypeLike | Array) -> IntegerLimits:
    """The limits of an integer type, or of an array's. Raises `DTypeError` for another type.

    >>> iinfo("u8").min, iinfo("u8").max
    (0, 255)
    """
    dtype = _dtype("iinfo", type)
    if not dtype.is_integer:
        raise DTypeError(f"{here().prefix}iinfo: expected an integer type, got {dtype.name}")
    info = np.iinfo(dtype.numpy)
    return IntegerLimits(dtype, dtype.bits, int(info.max), int(info.min))


def isdtype(dtype: DTypeLike, kind: DTypeLike | tuple[DTypeLike, ...]) -> bool:
    """Whether a data type is of a kind ("bool", "signed integer", "unsigned integer", "integral", "real floating",
    "complex floating", "numeric"), is another data type, or one of several of them.

    >>> isdtype("f32", "real floating"), isdtype("i32", ("bool", "unsigned integer"))
    (True, False)
    """
    found = _dtype("isdtype", dtype)
    if isinstance(kind, tuple):
        return any(isdtype(found, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return found.kind in _KINDS[kind]
    if isinstance(kind, str) and " " in kind:
        raise ArgumentError(
            f"{here().prefix}isdtype: kind: expected one of {', '.join(_KINDS)}, got {kind!r}"
        )
    return found is _dtype("isdtype", kind)


def can_cast(from_: DTypeLike | Array, to: DTypeLike) -> bool:
    """Whether promotion leads from one type to the other: every value of the first is one of the second.

    >>> can_cast("u8", "f32"), can_cast("i32", "f32")
    (True, False)
    """
    source, target = _dtype("can_cast", from_), _dtype("can_cast", to)
    try:
        return promotion.promote_types(source, target) is target
    except DTypeError:  # a type that graphs don't have
        return False


def result_type(*arrays_and_dtypes: object) -> DType:
    """The data type of an operation on arrays, data types and Python numbers, which are weak.

    Raises `DTypeError` where there is none, `ArgumentError` of nothing.

    >>> result_type("i32", 1.5), result_type("u8", "i32")
    (f32, i32)
    """
    if not arrays_and_dtypes:
        raise ArgumentError(f"{here().prefix}result_type: expected at least one argument, got none")
    weak = [w for x in arrays_and_dtypes if (w := as_weak(x)) is not None]
    strong = [_dtype("result_type", x) for x in arrays_and_dtypes if as_weak(x) is None]
    try:
        return promotion.result_type(strong, weak)
    except DTypeError as error:
        raise _located("result_type", error) from None
