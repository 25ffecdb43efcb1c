"""The data types of PTX as numpy's, and immediates as numbers.

PTX ISA 5.2 (types) and 4.5 (constants). Registers hold bits: a type belongs to an instruction, not to a register.
"""

from __future__ import annotations

import re

import numpy as np

from ptx.errors import PtxError

NUMPY = {
    "pred": np.dtype(np.bool_),
    **{f"{kind}8": np.dtype(np.uint8) for kind in "bu"},
    **{f"{kind}16": np.dtype(np.uint16) for kind in "bu"},
    **{f"{kind}32": np.dtype(np.uint32) for kind in "bu"},
    **{f"{kind}64": np.dtype(np.uint64) for kind in "bu"},
    **{f"s{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
UNSIGNED = {size: np.dtype(f"uint{8 * size}") for size in (1, 2, 4, 8)}


def bits_of(kind: str) -> np.dtype:
    """The type that a register of this declared type holds its bits in."""
    return NUMPY["pred"] if kind == "pred" else UNSIGNED[NUMPY[kind].itemsize]


def immediate(text: str, dtype: np.dtype) -> np.ndarray:
    """The number that an immediate stands for, as an array of one element.

    >>> immediate("0f3F800000", np.dtype(np.float32)), immediate("-1", np.dtype(np.uint16))
    (array([1.], dtype=float32), array([65535], dtype=uint16))
    """
    if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", text):
        return np.array([int(text[2:], 16)], np.uint32).view(_same_size(dtype, 4, text))
    if re.fullmatch(r"0[dD][0-9A-Fa-f]{16}", text):
        return np.array([int(text[2:], 16)], np.uint64).view(_same_size(dtype, 8, text))
    if not re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", text):
        raise PtxError(f"expected a constant, got {text!r}")
    value = int(text.rstrip("U"), 0) if not re.fullmatch(r"-?0\d+U?", text) else int(text.rstrip("U"), 8)
    if dtype == np.bool_:
        return np.array([value != 0])
    width = 8 * dtype.itemsize
    if not -(1 << (width - 1)) <= value < 1 << width:
        raise PtxError(f"expected a constant of {width} bits, got {text}")
    if dtype.kind == "f":
        raise PtxError(f"expected a constant in hexadecimal for {dtype}, got {text}")
    return np.array([value & ((1 << width) - 1)], UNSIGNED[dtype.itemsize]).view(dtype)


def _same_size(dtype: np.dtype, size: int, text: str) -> np.dtype:
    if dtype.itemsize != size:
        raise PtxError(f"expected a constant of {dtype.itemsize} bytes, got {text}")
    return dtype
