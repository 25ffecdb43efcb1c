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

Sizes = int | Sequence[int]


def each(call: Call, name: str, given: object, rank: int, least: int) -> tuple[int, ...]:
    """A setting for each spatial dimension: the number repeated, or those given. Raises `ArgumentError`."""
    numbers = [given] * rank if isinstance(given, (int, np.integer)) else given
    fits = isinstance(numbers, (list, tuple)) and len(numbers) == rank
    if not fits or not all(is_integer(n, least) for n in numbers):  # type: ignore[union-attr]
        many = "an integer" if rank == 1 else f"an integer or {rank} of them"
        raise call.error(ArgumentError, f"expected {name}: {many}, of at least {least}, got {given!r}")
    return tuple(int(n) for n in numbers)  # type: ignore[union-attr]


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
        dims = (*range(lead), *range(lead + n, lead + 2 * n))
        shape = (*x.shape[:lead], *self.kernel, *x.shape[lead:])
        value = call.build.broadcast(x, dims=dims, shape=shape)
        for i in range(n):
            value = call.build.window(
                value, axis=lead + n + i, taps=lead + i, size=self.sizes[i], stride=self.stride[i],
                dilation=self.dilation[i], offset=self.offset[i], base=self.base[i],
            )  # fmt: skip
        return value


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
