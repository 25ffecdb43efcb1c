"""Resampling of spatial dimensions: nearest, linear and cubic interpolation.

In: a traced value [N, C, *spatial] and PyTorch's settings. Out: a traced value. Interpolation is linear and works along
one dimension at a time: a whole factor repeats elements, anything else is a product with a constant matrix that has a
row of weights for each position of the result. Its adjoint is the product with the transposed matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.pooling import adaptive_average
from graphc.frontend.windows import each, matrix_along
from graphc.ir.graph import Value
from graphc.ir.guard import guarded

_RANKS = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
_MODES = ("nearest", "nearest-exact", "area", *_RANKS)
_CUBIC = -0.75  # the free parameter of Keys' cubic convolution that PyTorch takes


@guarded
def interpolate(
    input: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Array:
    """The input [N, C, *spatial] resampled to `size`, or to ⌊scale_factor · size⌋ along each spatial dimension.

    mode: "nearest", "nearest-exact", "linear" (of [N, C, L]), "bilinear" or "bicubic" (of [N, C, H, W]), "trilinear"
    (of [N, C, D, H, W]), "area" (means). With `align_corners` the outermost elements keep their places, else the
    outermost edges do; a dimension that keeps its size stays as it is. Cubic weights are those of Keys, Cubic convolution
    interpolation for digital image processing, IEEE Transactions on Acoustics, Speech, and Signal Processing 29(6), 1981,
    with a = -3/4.
    Raises `ArgumentError` for settings that are none, `ShapeError` for another rank than the mode's.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: interpolate(x, scale_factor=2, mode="bilinear"), f32[8, 3, 5, 7]).output_types
    (f32[8,3,10,14],)
    """
    call = Call("interpolate")
    x = call.float_value(input)
    rank = len(x.shape) - 2
    if mode not in _MODES:
        raise call.error(ArgumentError, f"expected mode of {', '.join(_MODES)}, got {mode!r}")
    wanted = _RANKS.get(mode, rank)
    if rank != wanted or not 1 <= rank <= 3 or 0 in x.shape[2:]:
        raise call.error(
            ShapeError,
            f"expected an input of rank {wanted + 2 if mode in _RANKS else '3 to 5'} with elements "
            f"for mode {mode!r}, got {x.type!r}",
        )
    if align_corners is not None and mode not in _RANKS:
        raise call.error(
            ArgumentError, f"expected align_corners with {', '.join(_RANKS)} alone, got mode {mode!r}"
        )
    sizes, factors = _sizes(call, x.shape[2:], size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        return call.wrap(adaptive_average(call, x, sizes))
    for i, (to, factor) in enumerate(zip(sizes, factors, strict=True)):
        n = x.shape[2 + i]
        if to == n:
            continue
        step = 1 / factor if factor is not None else n / to  # of the input from one position to the next
        if mode.startswith("nearest"):
            x = _nearest(call, x, 2 + i, to, step, 0.5 if mode == "nearest-exact" else 0.0)
        else:
            x = matrix_along(call, x, _weights(n, to, step, mode == "bicubic", bool(align_corners)), 2 + i)
    return call.wrap(x)


def _sizes(
    call: Call,
    spatial: Sequence[int],
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    recompute: bool,
) -> tuple[list[int], list[float | None]]:
    """The sizes of the result, and the factors that positions are computed with where they were given."""
    if (size is None) == (scale_factor is None):
        raise call.error(
            ArgumentError,
            f"expected size or scale_factor, got size {size!r} and scale_factor {scale_factor!r}",
        )
    rank = len(spatial)
    if size is not None:
        return list(each(call, "size", size, rank, 1)), [None] * rank
    scales = list(scale_factor) if isinstance(scale_factor, (list, tuple)) else [scale_factor] * rank
    fits = len(scales) == rank and all(
        isinstance(s, (int, float, np.integer, np.floating)) and math.isfinite(s) and s > 0 for s in scales
    )
    sizes = [math.floor(n * float(s)) for n, s in zip(spatial, scales, strict=False)] if fits else [0]  # type: ignore[arg-type]
    if min(sizes) < 1:
        raise call.error(
            ArgumentError,
            f"expected scale_factor: {rank} numbers that leave at least one element of {list(spatial)}, "
            f"got {scale_factor!r}",
        )
    return sizes, [None if recompute else float(s) for s in scales]  # type: ignore[arg-type]


def _nearest(call: Call, x: Value, axis: int, to: int, step: float, shift: float) -> Value:
    n = x.shape[axis]
    # in f32, as PyTorch has it: where a product falls just below a whole number counts
    spots = np.floor((np.arange(to, dtype=np.float32) + np.float32(shift)) * np.float32(step))
    at = np.minimum(spots.astype(np.int64), n - 1)
    if to % n == 0 and (at == np.arange(to) // (to // n)).all():
        shape = (*x.shape[: axis + 1], to // n, *x.shape[axis + 1 :])
        dims = tuple(d for d in range(len(shape)) if d != axis + 1)
        spread = call.build.broadcast(x, dims=dims, shape=shape)
        return call.reshape(spread, (*x.shape[:axis], to, *x.shape[axis + 1 :]))
    if n % to == 0 and (at == np.arange(to) * (n // to)).all():
        start, step_of = [0] * len(x.shape), [1] * len(x.shape)
        step_of[axis] = n // to
        return call.slice(x, start, [to if d == axis else m for d, m in enumerate(x.shape)], step_of)
    return matrix_along(call, x, np.eye(n)[at], axis)


def _near(d: np.ndarray) -> np.ndarray:
    """The cubic weight of an element at a distance of at most 1."""
    return np.asarray(((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1)


def _far(d: np.ndarray) -> np.ndarray:
    """The cubic weight of an element at a distance from 1 to 2."""
    return np.asarray(((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC)


def _weights(n: int, to: int, step: float, cubic: bool, align_corners: bool) -> np.ndarray:
    """A row for each position of the result: what it takes of each element of the input."""
    place = np.arange(to, dtype=np.float64)
    if align_corners:
        source = place * ((n - 1) / (to - 1) if to > 1 else 0.0)
    else:
        source = (place + 0.5) * step - 0.5
    if not cubic:
        source = np.clip(source, 0, n - 1)
    first = np.floor(source).astype(np.int64)
    t = source - first
    if cubic:
        taps = [(-1, _far(t + 1)), (0, _near(t)), (1, _near(1 - t)), (2, _far(2 - t))]
    else:
        taps = [(0, 1 - t), (1, t)]
    matrix = np.zeros((to, n))
    for shift, weight in taps:
        np.add.at(matrix, (np.arange(to), np.clip(first + shift, 0, n - 1)), weight)
    return matrix
