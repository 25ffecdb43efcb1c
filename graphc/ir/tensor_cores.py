"""What tensor cores do, in numpy: how f32 is rounded to their operands, and the product of a warp's fragments.

In: arrays with one value a thread. Out: the same. The layout of fragments is that of PTX's ``mma.sync`` (PTX ISA 8.5,
"Matrix fragments for mma.m16n8k8 and mma.m16n8k16"): with g = lane / 4 and t = lane % 4, a thread has of the left matrix
the rows g and g + 8 at the words t and t + 4, of the right one the column g at these words, and of the result the
rows g and g + 8 at the columns 2t and 2t + 1. A word is one tf32, or two halves that are neighbours along the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

_WARP, _GROUPS, _THREADS = 32, 8, 4


def tf32(x: np.ndarray) -> np.ndarray:
    """The word of the nearest number with 10 bits of mantissa; of two, the one away from zero.

    >>> tf32(np.float32([1 + 2**-11])).view(np.float32)
    array([1.0009766], dtype=float32)
    """
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = np.where(np.isfinite(x), bits + np.uint32(0x1000), bits) & np.uint32(0xFFFFE000)
    return np.asarray(rounded, np.uint32).view(np.int32)


def f16_pair(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Two f16 in a word, each the nearest, ties to even."""
    with np.errstate(over="ignore"):
        return _pair(*(np.asarray(x, np.float32).astype(np.float16).view(np.uint16) for x in (high, low)))


def bf16_pair(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Two bfloat16 in a word, each the nearest, ties to even."""

    def rounded(x: np.ndarray) -> np.ndarray:
        bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), 0x7FFF, nearest).astype(np.uint16)

    return _pair(rounded(high), rounded(low))


def _pair(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return np.asarray(high.astype(np.uint32) << 16 | low, np.uint32).view(np.int32)


def _of_tf32(words: np.ndarray) -> np.ndarray:
    return np.asarray((words.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)[..., None], np.float64)


def _of_f16(words: np.ndarray) -> np.ndarray:
    return np.asarray(words[..., None].view(np.uint16).view(np.float16), np.float64)


def _of_bf16(words: np.ndarray) -> np.ndarray:
    return np.asarray((words[..., None].view(np.uint16).astype(np.uint32) << 16).view(np.float32), np.float64)


def _product(elements: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    """C + A B of each warp, summed exactly and rounded once (the hardware's order is not specified)."""

    def meaning(*values: np.ndarray) -> np.ndarray:
        threads = len(values[0])
        if threads % _WARP:
            raise ValueError(f"a block of whole warps, got {threads} threads")
        lanes = [np.ascontiguousarray(v).reshape(-1, _GROUPS, _THREADS) for v in values]  # [warp, g, t]
        a = np.stack([elements(v) for v in lanes[:4]])  # [part, warp, g, t, element]
        b = np.stack([elements(v) for v in lanes[4:6]])
        size = a.shape[-1]
        # parts are (word half, row half) of the left matrix, word halves of the right one
        left = a.reshape(2, 2, -1, _GROUPS, _THREADS, size).transpose(2, 1, 3, 0, 4, 5)
        left = left.reshape(-1, 2 * _GROUPS, 2 * _THREADS * size)
        right = b.transpose(1, 0, 3, 4, 2).reshape(-1, 2 * _THREADS * size, _GROUPS)
        sums = np.stack(lanes[6:]).reshape(2, 2, -1, _GROUPS, _THREADS)  # [row half, column, warp, g, t]
        total = sums.transpose(2, 0, 3, 4, 1).reshape(-1, 2 * _GROUPS, _GROUPS) + left @ right
        result = total.reshape(-1, 2, _GROUPS, _THREADS, 2).transpose(0, 2, 3, 1, 4)
        return np.asarray(result.reshape(threads, 4), np.float32)

    return meaning


# By precision: LLVM's name of the conversion of f32 to words, and of the product.
CONVERSIONS: Mapping[str, str] = MappingProxyType(
    {"tf32": "llvm.nvvm.f2tf32.rna", "f16": "llvm.nvvm.ff2f16x2.rn", "bf16": "llvm.nvvm.ff2bf16x2.rn"}
)
PRODUCTS: Mapping[str, str] = MappingProxyType(
    {
        "tf32": "llvm.nvvm.mma.m16n8k8.row.col.tf32",
        "f16": "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
        "bf16": "llvm.nvvm.mma.m16n8k16.row.col.bf16",
    }
)
CONVERSION_MEANINGS: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    dict(zip(CONVERSIONS.values(), (tf32, f16_pair, bf16_pair), strict=True))
)
PRODUCT_MEANINGS: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    dict(zip(PRODUCTS.values(), map(_product, (_of_tf32, _of_f16, _of_bf16)), strict=True))
)
