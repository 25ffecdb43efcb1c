"""Pooling in one, two and three dimensions: maxima and means of windows.

In: traced values [..., *spatial] and PyTorch's settings. Out: traced values. A pooling reduces the view of all windows
over their elements; the cotangent of a maximum goes to the first element that attains it, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.frontend.windows import Sizes, Windows, each, matrix_along, sliding
from graphc.ir.graph import Value
from graphc.ir.guard import guarded
from graphc.ir.types import TensorType, i32

OutputSize = int | Sequence[int | None]


@guarded
def max_pool1d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window of [N, C, L] (or [C, L]); NaN where there is one in it.

    `stride` is the kernel's size where none is given. Beyond the input, up to `padding` ≤ kernel_size / 2, elements are
    -inf. With `ceil_mode` what remains at the end gets a window of its own.
    Raises `ShapeError` where a window is larger than the padded input, `ArgumentError` for settings that are none.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: max_pool1d(x, 3, stride=2, padding=1), f32[8, 4, 9]).output_types
    (f32[8,4,5],)
    """
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode)


@guarded
def max_pool2d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window of [N, C, H, W] (or [C, H, W]); else as `max_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: max_pool2d(x, 2), f32[8, 4, 28, 28]).output_types
    (f32[8,4,14,14],)
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode)


@guarded
def max_pool3d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window of [N, C, D, H, W] (or [C, D, H, W]); else as `max_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: max_pool3d(x, 2), f32[8, 4, 4, 6, 6]).output_types
    (f32[8,4,2,3,3],)
    """
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode)


@guarded
def avg_pool1d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window of [N, C, L] (or [C, L]).

    `count_include_pad` says whether the zeros of `padding` are counted; what `ceil_mode` adds behind them never is.
    With `divisor_override` the sum is divided by that number. Else as `max_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: avg_pool1d(x, 3, stride=2), f32[8, 4, 9]).output_types
    (f32[8,4,4],)
    """
    return _avg_pool(
        "avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@guarded
def avg_pool2d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window of [N, C, H, W] (or [C, H, W]); else as `avg_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: avg_pool2d(x, 2), f32[8, 4, 6, 6]).output_types
    (f32[8,4,3,3],)
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@guarded
def avg_pool3d(
    input: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of each window of [N, C, D, H, W] (or [C, D, H, W]); else as `avg_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: avg_pool3d(x, 2), f32[8, 4, 4, 6, 6]).output_types
    (f32[8,4,2,3,3],)
    """
    return _avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@guarded
def adaptive_avg_pool1d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many means of [N, C, L]: window i goes from ⌊i L / O⌋ to before ⌈(i + 1) L / O⌉. None keeps a size.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: adaptive_avg_pool1d(x, 3), f32[8, 4, 7]).output_types
    (f32[8,4,3],)
    """
    return _adaptive("adaptive_avg_pool1d", 1, input, output_size)


@guarded
def adaptive_avg_pool2d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many means of [N, C, H, W] along each spatial dimension; else as `adaptive_avg_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: adaptive_avg_pool2d(x, 1), f32[8, 4, 7, 7]).output_types
    (f32[8,4,1,1],)
    """
    return _adaptive("adaptive_avg_pool2d", 2, input, output_size)


@guarded
def adaptive_avg_pool3d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many means of [N, C, D, H, W] along each spatial dimension; else as `adaptive_avg_pool1d`."""
    return _adaptive("adaptive_avg_pool3d", 3, input, output_size)


@guarded
def adaptive_max_pool1d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many maxima of [N, C, L], with the windows of `adaptive_avg_pool1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: adaptive_max_pool1d(x, 3), f32[8, 4, 7]).output_types
    (f32[8,4,3],)
    """
    return _adaptive("adaptive_max_pool1d", 1, input, output_size)


@guarded
def adaptive_max_pool2d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many maxima of [N, C, H, W] along each spatial dimension; else as `adaptive_max_pool1d`."""
    return _adaptive("adaptive_max_pool2d", 2, input, output_size)


@guarded
def adaptive_max_pool3d(input: ArrayLike, output_size: OutputSize) -> Array:
    """So many maxima of [N, C, D, H, W] along each spatial dimension; else as `adaptive_max_pool1d`."""
    return _adaptive("adaptive_max_pool3d", 3, input, output_size)


# ------------------------------------------------------------------------------------------------------- composition


def _input(call: Call, rank: int, input: ArrayLike) -> Value:
    x = call.float_value(input)
    if len(x.shape) not in (rank + 1, rank + 2):
        names = ", ".join(["D", "H", "W"][-rank:]) if rank > 1 else "L"
        raise call.error(ShapeError, f"expected an input [N, C, {names}] or [C, {names}], got {x.type!r}")
    if 0 in x.shape[-rank:]:
        raise call.error(ShapeError, f"expected an input with elements to pool, got {x.type!r}")
    return x


def _settings(
    call: Call, rank: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    kernel = each(call, "kernel_size", kernel_size, rank, 1)
    strides = kernel if stride is None else each(call, "stride", stride, rank, 1)
    paddings = each(call, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(paddings, kernel, strict=True)):
        raise call.error(
            ArgumentError,
            f"expected padding of at most half the kernel, got padding {padding!r} for kernel {kernel_size!r}",
        )
    return kernel, strides, paddings


def _max_pool(
    name: str, rank: int, input: ArrayLike, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
    dilation: Sizes, ceil_mode: bool,
) -> Array:  # fmt: skip
    call = Call(name)
    x = _input(call, rank, input)
    kernel, strides, paddings = _settings(call, rank, kernel_size, stride, padding)
    dilations = each(call, "dilation", dilation, rank, 1)
    windows = sliding(call, x.shape[-rank:], kernel, strides, dilations, paddings, paddings, ceil_mode)
    return call.wrap(_first_maxima(call, _windows_of_padded(call, x, windows), rank))


def _windows_of_padded(call: Call, x: Value, windows: Windows) -> Value:
    """The windows of x with -inf wherever they reach beyond it."""
    rank = len(windows.kernel)
    lead = len(x.shape) - rank
    low, high = [0] * lead, [0] * lead
    for n, k, o, s, d, a in zip(
        x.shape[-rank:], windows.kernel, windows.sizes, windows.stride, windows.dilation, windows.offset,
        strict=True,
    ):  # fmt: skip
        low.append(-a)
        high.append(max(0, (o - 1) * s + (k - 1) * d + a + 1 - n))
    if any(low) or any(high):
        x = call.build.pad(x, low=tuple(low), high=tuple(high), interior=(0,) * len(low), value=-math.inf)
    inside = Windows(
        windows.kernel, windows.sizes, windows.stride, windows.dilation, (0,) * rank, windows.base
    )
    return inside.of(call, x)


def _first_maxima(call: Call, x: Value, rank: int) -> Value:
    """The largest element over the `rank` dimensions before the last `rank` ones, as the one at its first position.

    The position is no function of x to differentiate, so that the cotangent goes to that element alone.
    """
    lead = len(x.shape) - 2 * rank
    kernel, sizes = x.shape[lead : lead + rank], x.shape[lead + rank :]
    flat = call.reshape(x, (*x.shape[:lead], math.prod(kernel), *sizes))
    first = call.build.argmax(flat, axes=(lead,))
    every = call.build.iota(dim=0, type=TensorType(i32, (math.prod(kernel),)))
    taps = tuple(range(lead, lead + rank))
    rest = tuple(d for d in range(len(x.shape)) if d not in taps)
    chosen = call.build.eq(
        call.build.broadcast(call.reshape(every, kernel), dims=taps, shape=x.shape),
        call.build.broadcast(first, dims=rest, shape=x.shape),
    )
    return call.build.reduce_sum(call.build.select(chosen, x, call.build.zeros(x.type)), axes=taps)


def _avg_pool(
    name: str, rank: int, input: ArrayLike, kernel_size: Sizes, stride: Sizes | None, padding: Sizes,
    ceil_mode: bool, count_include_pad: bool, divisor_override: int | None,
) -> Array:  # fmt: skip
    call = Call(name)
    x = _input(call, rank, input)
    kernel, strides, paddings = _settings(call, rank, kernel_size, stride, padding)
    if divisor_override is not None and (not isinstance(divisor_override, int) or divisor_override == 0):
        raise call.error(
            ArgumentError, f"expected divisor_override of an integer but 0, got {divisor_override!r}"
        )
    spatial = x.shape[-rank:]
    windows = sliding(call, spatial, kernel, strides, (1,) * rank, paddings, paddings, ceil_mode)
    lead = len(x.shape) - rank
    total = call.build.reduce_sum(windows.of(call, x), axes=tuple(range(lead, lead + rank)))
    if divisor_override is not None:
        return call.wrap(call.build.div(total, call.splat(divisor_override, total.type)))
    counts = np.ones((), np.int64)
    for n, k, s, p, o in zip(spatial, kernel, strides, paddings, windows.sizes, strict=True):
        start = np.arange(o) * s - p
        least, most = (-p, n + p) if count_include_pad else (0, n)
        counts = np.multiply.outer(counts, np.minimum(start + k, most) - np.maximum(start, least))
    if (counts == counts.flat[0]).all():
        return call.wrap(call.build.div(total, call.splat(int(counts.flat[0]), total.type)))
    divisor = call.build.constant(counts.astype(x.dtype.numpy), TensorType(x.dtype, counts.shape))
    return call.wrap(call.build.div(total, call.broadcast(divisor, total.shape)))


def _adaptive(name: str, rank: int, input: ArrayLike, output_size: OutputSize) -> Array:
    call = Call(name)
    x = _input(call, rank, input)
    given = [output_size] * rank if isinstance(output_size, (int, np.integer)) else output_size
    fits = isinstance(given, (list, tuple)) and len(given) == rank
    if not fits or not all(n is None or is_integer(n, least=1) for n in given):
        raise call.error(
            ArgumentError,
            f"expected an output_size of {rank} integers of at least 1 or None, got {output_size!r}",
        )
    sizes = [n if o is None else int(o) for n, o in zip(x.shape[-rank:], given, strict=True)]
    return call.wrap(_adaptive_max(call, x, sizes) if "max" in name else adaptive_average(call, x, sizes))


def _even_windows(call: Call, x: Value, sizes: Sequence[int]) -> Value | None:
    """The view of windows that share x equally; None where they can't."""
    rank = len(sizes)
    spatial = x.shape[-rank:]
    if any(n % o for n, o in zip(spatial, sizes, strict=True)):
        return None
    kernel = [n // o for n, o in zip(spatial, sizes, strict=True)]
    return sliding(call, spatial, kernel, kernel, (1,) * rank, (0,) * rank, (0,) * rank).of(call, x)


def adaptive_average(call: Call, x: Value, sizes: Sequence[int]) -> Value:
    """Means of the windows of `adaptive_avg_pool1d` along the last dimensions."""
    rank = len(sizes)
    lead = len(x.shape) - rank
    taps = tuple(range(lead, lead + rank))
    if max(sizes) == 1:  # one window, all of x: its elements stay in their places
        total = call.reshape(call.build.reduce_sum(x, axes=taps), (*x.shape[:lead], *sizes))
        return call.build.div(total, call.splat(math.prod(x.shape[lead:]), total.type))
    view = _even_windows(call, x, sizes)
    if view is None:
        return _uneven_means(call, x, sizes)
    total = call.build.reduce_sum(view, axes=taps)
    return call.build.div(total, call.splat(math.prod(view.shape[d] for d in taps), total.type))


def _adaptive_max(call: Call, x: Value, sizes: Sequence[int]) -> Value:
    view = _even_windows(call, x, sizes)
    return _uneven_maxima(call, x, sizes) if view is None else _first_maxima(call, view, len(sizes))


def _edges(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where `size` windows over n elements begin, and where they end."""
    i = np.arange(size)
    return i * n // size, -(-(i + 1) * n // size)


def _uneven_means(call: Call, x: Value, sizes: Sequence[int]) -> Value:
    """Means of windows of several lengths: along each dimension a product with a matrix that says who is in which."""
    rank = len(sizes)
    for d, size in zip(range(len(x.shape) - rank, len(x.shape)), sizes, strict=True):
        n = x.shape[d]
        start, end = _edges(n, size)
        at = np.arange(n)
        inside = (at >= start[:, None]) & (at < end[:, None])
        weights = inside / (end - start)[:, None]
        x = matrix_along(call, x, weights, d)
    return x


def _uneven_maxima(call: Call, x: Value, sizes: Sequence[int]) -> Value:
    """Maxima of windows of several lengths: the shorter ones repeat their last element."""
    rank = len(sizes)
    lead = len(x.shape) - rank
    for i, size in enumerate(sizes):
        start, end = _edges(x.shape[lead + 2 * i], size)
        longest = int((end - start).max())
        at = np.minimum(start[:, None] + np.arange(longest), end[:, None] - 1).astype(np.int32)
        indices = call.build.constant(at, TensorType(i32, at.shape))
        x = call.build.gather(x, indices, axis=lead + 2 * i)
    spots = range(lead, lead + 2 * rank)
    return _first_maxima(call, call.transpose(x, [*range(lead), *spots[1::2], *spots[::2]]), rank)
