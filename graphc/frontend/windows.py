"""What convolution and pooling share: settings for each spatial dimension, and the view of all windows.

In: a traced value whose last dimensions are spatial, and PyTorch's settings: a number for all of them or one for each.
Out: tuples of numbers, and a value that has a dimension for the elements of a window beside that of the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.ir.graph import Value
from graphc.ir.types import TensorType

Sizes = int | Sequence[int]


def sizes_of(given: object, count: int, least: int) -> tuple[int, ...] | None:
    """A setting for each of `count` dimensions: the number repeated, or those given; None where it is none.

    >>> sizes_of(2, 3, 1), sizes_of((1, 2), 2, 1), sizes_of((1, 2), 3, 1), sizes_of(0, 1, 1)
    ((2, 2, 2), (1, 2), None, None)
    """
    if isinstance(given, (int, np.integer)):
        given = [given] * count
    if not isinstance(given, (list, tuple)) or len(given) != count:
        return None
    return tuple(int(n) for n in given) if all(is_integer(n, least) for n in given) else None


def expected_sizes(name: str, given: object, count: int, least: int) -> str:
    """The text of an error about such a setting."""
    many = "an integer" if count == 1 else f"an integer or {count} of them"
    return f"expected {name}: {many}, of at least {least}, got {given!r}"


def each(call: Call, name: str, given: object, rank: int, least: int) -> tuple[int, ...]:
    """A setting for each spatial dimension. Raises `ArgumentError` where it is none."""
    sizes = sizes_of(given, rank, least)
    if sizes is None:
        raise call.error(ArgumentError, expected_sizes(name, given, rank, least))
    return sizes


@dataclass(frozen=True)
class Windows:
    """Windows along each spatial dimension: element k of window o is at (o · stride + k · dilation + offset) / base."""

    kernel: tuple[int, ...]
    sizes: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    offset: tuple[int, ...]
    base: tuple[int, ...]

    def of(self, call: Call, x: Value) -> Value:
        """[..., *spatial] as [..., *kernel, *sizes]; what no window element finds in x is 0."""
        n = len(self.kernel)
        lead = len(x.shape) - n
        for i in range(n):
            taps = lead + i  # those of the dimensions before are in their places already
            shape = (*x.shape[:taps], self.kernel[i], *x.shape[taps:])
            dims = tuple(d for d in range(len(shape)) if d != taps)
            spread = call.build.broadcast(x, dims=dims, shape=shape)
            x = call.build.window(
                spread, axis=taps + 1 + i, taps=taps, size=self.sizes[i], stride=self.stride[i],
                dilation=self.dilation[i], offset=self.offset[i], base=self.base[i],
            )  # fmt: skip
        return x

    def joined(self, call: Call, x: Value, spatial: Sequence[int]) -> Value:
        """The adjoint of `of`: [..., *kernel, *sizes] as [..., *spatial], where elements that meet are summed."""
        n = len(self.kernel)
        lead = len(x.shape) - 2 * n
        for i in reversed(range(n)):
            taps = lead + i
            x = call.build.window(
                x, axis=taps + 1 + i, taps=taps, size=spatial[i], stride=self.base[i],
                dilation=-self.dilation[i], offset=-self.offset[i], base=self.stride[i],
            )  # fmt: skip
            x = call.build.reduce_sum(x, axes=(taps,))
        return x


def matrix_along(call: Call, x: Value, matrix: np.ndarray, axis: int) -> Value:
    """The product of a constant matrix [to, from] with each line along an axis of x: any linear map of positions."""
    m = call.build.constant(
        np.ascontiguousarray(matrix, dtype=x.dtype.numpy), TensorType(x.dtype, matrix.shape)
    )
    if axis == len(x.shape) - 1:
        return call.build.contract(x, m, axes=((axis,), (1,)), batch=((), ()))
    # the dimensions before are paired, so that those of the result are in order
    lead = tuple(range(axis))
    wide = call.build.broadcast(m, dims=(axis, axis + 1), shape=(*x.shape[:axis], *matrix.shape))
    return call.build.contract(wide, x, axes=((axis + 1,), (axis,)), batch=(lead, lead))


def sliding(
    call: Call,
    spatial: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    low: Sequence[int],
    high: Sequence[int],
    ceil_mode: bool = False,
) -> Windows:
    """Windows over an array with zeros before (low) and after (high) it.

    With `ceil_mode` there is one more where elements remain, unless it begins beyond the array and what is before it.
    Raises `ShapeError` where a window is larger than the padded array.
    """
    sizes = []
    for n, k, s, d, a, b in zip(spatial, kernel, stride, dilation, low, high, strict=True):
        reach = d * (k - 1) + 1
        if n + a + b < reach:
            raise call.error(
                ShapeError,
                f"expected a window of at most the padded input, got a window of {reach} (kernel {k}, dilation {d}) "
                f"on {n + a + b} elements (input {list(spatial)}, padding {a} + {b})",
            )
        rest = n + a + b - reach
        size = -(-rest // s) + 1 if ceil_mode else rest // s + 1
        if ceil_mode and (size - 1) * s >= n + a:
            size -= 1
        sizes.append(size)
    return Windows(
        tuple(kernel), tuple(sizes), tuple(stride), tuple(dilation), tuple(-a for a in low), (1,) * len(sizes)
    )
