"""Data types and tensor types, the same in all four representations.

In: nothing. Out: `DType`, `TensorType`, and the table `DTYPES` that every room reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    compiled: bool = True  # graphs of this type can be traced, interpreted and compiled

    @property
    def numpy(self) -> np.dtype:
        """The numpy data type with the same bytes in memory."""
        return np.dtype(self.numpy_name)

    @property
    def bytes(self) -> int:
        return max(8, self.bits) // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

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


f64 = DType("f64", "float", 64, "float64")
f32 = DType("f32", "float", 32, "float32")
i64 = DType("i64", "int", 64, "int64")
i32 = DType("i32", "int", 32, "int32")
u32 = DType("u32", "uint", 32, "uint32")
u8 = DType("u8", "uint", 8, "uint8")
bool_ = DType("bool", "bool", 1, "bool")
# Declared so that files and errors can name them; their arithmetic is not there yet.
bf16 = DType("bf16", "float", 16, "bfloat16", compiled=False)
f16 = DType("f16", "float", 16, "float16", compiled=False)
i16 = DType("i16", "int", 16, "int16", compiled=False)
i8 = DType("i8", "int", 8, "int8", compiled=False)
u16 = DType("u16", "uint", 16, "uint16", compiled=False)
u64 = DType("u64", "uint", 64, "uint64", compiled=False)

DTYPES = {t.name: t for t in (f64, f32, i64, i32, u32, u8, bool_, bf16, f16, i16, i8, u16, u64)}
_BY_NUMPY = {t.numpy_name: t for t in DTYPES.values()}


def dtype_of(numpy_dtype: np.dtype | type | str) -> DType:
    """The `DType` of a numpy data type, in any byte order.

    Raises `DTypeError` where there is none (complex, strings, objects) or its arithmetic is not there yet.

    >>> dtype_of(np.float32), dtype_of("bool")
    (f32, bool)
    """
    found = _BY_NUMPY.get(np.dtype(numpy_dtype).newbyteorder("=").name)
    if found is None or not found.compiled:
        names = ", ".join(t.name for t in DTYPES.values() if t.compiled)
        raise DTypeError(f"dtype: expected one of {names}, got {np.dtype(numpy_dtype).name}")
    return found
