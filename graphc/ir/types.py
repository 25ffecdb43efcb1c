"""Data types and tensor types, the same in all four representations.

In: nothing. Out: `DType`, `TensorType`, and the table `DTYPES` that every room reads: all that is known of a type stands
in its row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class DType:
    """A data type of tensor elements. ``f32[32, 64]`` makes a `TensorType`.

    >>> f32[2, 3], f64[()], bool_[4]
    (f32[2,3], f64[], bool[4])
    """

    name: str
    kind: str  # "float", "int", "uint" or "bool"
    bits: int  # of a value; a bool has 1 and is stored in a byte
    numpy_name: str
    c_name: str  # of an element's storage in C, which has no type for 16-bit floats
    mantissa: int = 0  # stored bits of a float's significand, without the leading one
    exponent: int = 0  # bits of a float's exponent

    @property
    def numpy(self) -> np.dtype:
        """The numpy data type with the same bytes in memory; that of bf16 is the package ml_dtypes'.

        Raises `DTypeError` where the package is missing.
        """
        return _bfloat16() if self.numpy_name == "bfloat16" else np.dtype(self.numpy_name)

    @property
    def bytes(self) -> int:
        return max(8, self.bits) // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_half(self) -> bool:
        """True of the floats of 16 bits, which are stored as such and computed with as f32."""
        return self.kind == "float" and self.bits == 16

    @property
    def largest(self) -> float:
        """The largest finite float.

        >>> f32.largest, f16.largest
        (3.4028234663852886e+38, 65504.0)
        """
        return math.ldexp(2.0 - 2.0**-self.mantissa, 2 ** (self.exponent - 1) - 1)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive float with a full significand."""
        return math.ldexp(1.0, 2 - 2 ** (self.exponent - 1))

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest value of an integer type.

        >>> i8.limits, u16.limits
        ((-128, 127), (0, 65535))
        """
        signed = self.kind == "int"
        return (-(1 << self.bits - 1) if signed else 0), (1 << self.bits - signed) - 1

    def rounded(self, number: float) -> float:
        """The float of this type that is nearest to a number, ties to even; it needs no package.

        >>> f16.rounded(0.1), bf16.rounded(257.0), bf16.rounded(1e39)
        (0.0999755859375, 256.0, inf)
        """
        if self.bits > 16 or self.exponent == f16.exponent:
            with np.errstate(all="ignore"):
                return float(np.dtype(self.numpy_name).type(number))
        if not math.isfinite(number) or number == 0:
            return number
        last = max(math.frexp(number)[1] - 1, 2 - 2 ** (self.exponent - 1)) - self.mantissa
        near = math.ldexp(round(math.ldexp(number, -last)), last)
        return near if abs(near) <= self.largest else math.copysign(math.inf, number)

    @property
    def is_integer(self) -> bool:
        """True of signed and unsigned integers, not of bool."""
        return self.kind in ("int", "uint")

    def __getitem__(self, shape: int | Sequence[int]) -> TensorType:
        return TensorType(self, (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape))

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class TensorType:
    """A data type and a static shape; printed ``f32[32,64]``, a scalar ``f32[]``.

    >>> f32[32, 64].size, f32[32, 64].bytes, f32[()].rank
    (2048, 8192, 0)
    """

    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(
            isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in self.shape
        ):
            raise ShapeError(
                f"{self.dtype.name}: expected a shape of non-negative integers, got {self.shape}"
            )
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes

    def __repr__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


f64 = DType("f64", "float", 64, "float64", "double", 52, 11)
f32 = DType("f32", "float", 32, "float32", "float", 23, 8)
# The first 16 bits of an f32: Wang and Kanwar, BFloat16: The secret to high performance on Cloud TPUs, 2019
bf16 = DType("bf16", "float", 16, "bfloat16", "uint16_t", 7, 8)
f16 = DType("f16", "float", 16, "float16", "uint16_t", 10, 5)  # IEEE 754 binary16
i64 = DType("i64", "int", 64, "int64", "int64_t")
i32 = DType("i32", "int", 32, "int32", "int32_t")
i16 = DType("i16", "int", 16, "int16", "int16_t")
i8 = DType("i8", "int", 8, "int8", "int8_t")
u64 = DType("u64", "uint", 64, "uint64", "uint64_t")
u32 = DType("u32", "uint", 32, "uint32", "uint32_t")
u16 = DType("u16", "uint", 16, "uint16", "uint16_t")
u8 = DType("u8", "uint", 8, "uint8", "uint8_t")
bool_ = DType("bool", "bool", 1, "bool", "uint8_t")

DTYPES = {t.name: t for t in (f64, f32, bf16, f16, i64, i32, i16, i8, u64, u32, u16, u8, bool_)}
_BY_NUMPY = {t.numpy_name: t for t in DTYPES.values()}


@cache
def _bfloat16() -> np.dtype:
    try:
        import ml_dtypes
    except ImportError:
        raise DTypeError(
            "bf16: expected the package ml_dtypes, whose bfloat16 NumPy's arrays have, got none: "
            "pip install 'graphc[bfloat16]'"
        ) from None
    kind: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return kind


def dtype_of(numpy_dtype: np.dtype | type | str) -> DType:
    """The `DType` of a numpy data type, in any byte order.

    Raises `DTypeError` where there is none (complex, strings, objects).

    >>> dtype_of(np.float32), dtype_of("bool")
    (f32, bool)
    """
    found = _BY_NUMPY.get(np.dtype(numpy_dtype).newbyteorder("=").name)
    if found is None:
        raise DTypeError(f"dtype: expected one of {', '.join(DTYPES)}, got {np.dtype(numpy_dtype).name}")
    return found
