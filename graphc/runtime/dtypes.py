"""The data types of arguments, by their NumPy names: their sizes, and the NumPy type itself.

In: a name, as programs' descriptions have them. Out: bytes, a `numpy.dtype`. The same names stand in `graphc.ir.types`,
which a machine that only runs programs need not have; a test compares the two.
"""

from __future__ import annotations

import numpy as np

from graphc.errors import DTypeError

ITEM_BYTES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip


def numpy_dtype(name: np.dtype | str) -> np.dtype:
    """NumPy's data type of this name; bfloat16 is the package ml_dtypes', and a `DTypeError` where that is missing.

    >>> numpy_dtype("float16")
    dtype('float16')
    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes  # optional: only programs with such arguments need it
    except ImportError:
        raise DTypeError(
            "bfloat16: expected the package ml_dtypes, whose type NumPy's arrays have, got none: "
            "pip install 'graphc[bfloat16]'"
        ) from None
    kind: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return kind


def is_known(kind: np.dtype) -> bool:
    """Whether programs have arguments of this data type.

    >>> is_known(np.dtype("int8")), is_known(np.dtype("complex64"))
    (True, False)
    """
    return kind.isnative and kind.name in ITEM_BYTES
