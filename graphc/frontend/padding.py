"""Padding of spatial dimensions, windows as columns, and pixels as channels.

In: traced values and PyTorch's settings. Out: traced values made of views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.frontend.windows import Sizes, each, sliding
from graphc.ir.graph import Value
from graphc.ir.guard import guarded

MODES = ("constant", "reflect", "replicate", "circular")


@guarded
def pad(input: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Array:
    """The input with elements before and after: `pad` is (before, after) of the last dimension, then of the one before...

    mode "constant" puts `value`, and takes elements away where a number is negative; "reflect" mirrors at the outermost
    elements, without repeating them, "replicate" repeats them, "circular" goes on at the other end.
    Raises `ShapeError` where there is not enough to mirror or to go on with, `ArgumentError` for another mode.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: pad(x, (1, 2), mode="reflect"), f32[2, 3, 4]).output_types
    (f32[2,3,7],)
    """
    call = Call("pad")
    x = call.value(input)
    least = -(2**31) if mode == "constant" else 0
    if not isinstance(pad, (list, tuple)) or len(pad) % 2 or not all(is_integer(n, least) for n in pad):
        kind = "" if mode == "constant" else " of at least 0"
        raise call.error(ArgumentError, f"expected pad: pairs of integers{kind}, got {pad!r}")
    if mode not in MODES:
        raise call.error(ArgumentError, f"expected mode of {', '.join(MODES)}, got {mode!r}")
    if len(pad) // 2 > len(x.shape):
        raise call.error(ShapeError, f"expected pad for at most {len(x.shape)} dimensions, got {pad!r}")
    pairs = {len(x.shape) - 1 - i // 2: (int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)}
    if mode == "constant":
        return call.wrap(_constant(call, x, pairs, value))
    for axis, (low, high) in sorted(pairs.items()):
        x = _bordered(call, x, axis, low, high, mode)
    return call.wrap(x)


def _constant(call: Call, x: Value, pairs: dict[int, tuple[int, int]], value: float) -> Value:
    rank = len(x.shape)
    low, high = ([pairs.get(d, (0, 0))[side] for d in range(rank)] for side in (0, 1))
    if any(n + a + b < 0 for n, a, b in zip(x.shape, low, high, strict=True)):
        raise call.error(
            ShapeError,
            f"expected to take away at most what there is, got pad {low} and {high} for {x.type!r}",
        )
    fill = call.splat(value, type(x.type)(x.dtype, ())).node.attrs["value"]
    outside: dict[str, tuple[int, ...]] = {
        "low": tuple(max(a, 0) for a in low),
        "high": tuple(max(b, 0) for b in high),
        "interior": (0,) * rank,
    }
    if any(outside["low"]) or any(outside["high"]):
        x = call.build.pad(x, value=fill, **outside)
    size = [n + min(a, 0) + min(b, 0) for n, a, b in zip(x.shape, low, high, strict=True)]
    start = [max(-a, 0) if n else 0 for a, n in zip(low, size, strict=True)]
    return call.slice(x, start, size, [1] * rank)


def _bordered(call: Call, x: Value, axis: int, low: int, high: int, mode: str) -> Value:
    n = x.shape[axis]
    most = {"reflect": n - 1, "replicate": 2**31 if n else 0, "circular": n}[mode]
    if max(low, high) > most:
        raise call.error(
            ShapeError,
            f"expected pad of at most {max(most, 0)} for {n} elements and mode {mode!r}, got ({low}, {high})",
        )

    def part(first: int, size: int, step: int = 1) -> Value:
        start, sizes, steps = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
        start[axis], sizes[axis], steps[axis] = first, size, step
        return call.slice(x, start, sizes, steps)

    def edge(at: int, size: int) -> Value:
        shape = tuple(size if d == axis else m for d, m in enumerate(x.shape))
        return call.broadcast(part(at, 1), shape)

    before, after = {
        "reflect": lambda: (part(low, low, -1) if low else None, part(n - 2, high, -1) if high else None),
        "replicate": lambda: (edge(0, low) if low else None, edge(n - 1, high) if high else None),
        "circular": lambda: (part(n - low, low) if low else None, part(0, high) if high else None),
    }[mode]()
    parts = [v for v in (before, x, after) if v is not None]
    return parts[0] if len(parts) == 1 else call.build.concat(*parts, axis=axis)


# ----------------------------------------------------------------------------------------------- windows as columns


@guarded
def unfold(
    input: ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Array:
    """All windows of [N, C, H, W] as columns: [N, C · KH · KW, windows]. Raises as `conv2d` does.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: unfold(x, 2), f32[8, 3, 5, 5]).output_types
    (f32[8,12,16],)
    """
    call = Call("unfold")
    x = call.value(input)
    if len(x.shape) not in (3, 4):
        raise call.error(ShapeError, f"expected an input [N, C, H, W] or [C, H, W], got {x.type!r}")
    kernel, paddings = each(call, "kernel_size", kernel_size, 2, 1), each(call, "padding", padding, 2, 0)
    strides, dilations = each(call, "stride", stride, 2, 1), each(call, "dilation", dilation, 2, 1)
    windows = sliding(call, x.shape[-2:], kernel, strides, dilations, paddings, paddings)
    *lead, channels = x.shape[:-2]
    shape = (*lead, channels * math.prod(kernel), math.prod(windows.sizes))
    return call.wrap(call.reshape(windows.of(call, x), shape))


@guarded
def fold(
    input: ArrayLike,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Array:
    """The columns of `unfold` put back where they come from, [N, C, H, W]; elements that meet are summed.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: fold(x, (5, 5), 2), f32[8, 12, 16]).output_types
    (f32[8,3,5,5],)
    """
    call = Call("fold")
    x = call.value(input)
    spatial, kernel = (
        each(call, "output_size", output_size, 2, 1),
        each(call, "kernel_size", kernel_size, 2, 1),
    )
    paddings = each(call, "padding", padding, 2, 0)
    strides, dilations = each(call, "stride", stride, 2, 1), each(call, "dilation", dilation, 2, 1)
    windows = sliding(call, spatial, kernel, strides, dilations, paddings, paddings)
    taps, count = math.prod(kernel), math.prod(windows.sizes)
    if len(x.shape) not in (2, 3) or x.shape[-2] % taps or x.shape[-1] != count:
        raise call.error(
            ShapeError, f"expected [N, C · {taps}, {count}] for an output of {list(spatial)}, got {x.type!r}"
        )
    lead = (*x.shape[:-2], x.shape[-2] // taps)
    cut = call.reshape(x, (*lead, *kernel, *windows.sizes))
    return call.wrap(windows.joined(call, cut, spatial))


# ------------------------------------------------------------------------------------------------ pixels as channels


@guarded
def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> Array:
    """Channels as pixels: [..., C · r², H, W] as [..., C, H · r, W · r] (Shi et al., arXiv:1609.05158).

    Raises `ShapeError` where r² does not divide the channels.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: pixel_shuffle(x, 2), f32[8, 12, 5, 5]).output_types
    (f32[8,3,10,10],)
    """
    call = Call("pixel_shuffle")
    x, r = call.value(input), _factor(call, "upscale_factor", upscale_factor)
    if len(x.shape) < 3 or x.shape[-3] % (r * r):
        raise call.error(ShapeError, f"expected channels that {r * r} divides, got {x.type!r}")
    *lead, channels, height, width = x.shape
    n = len(lead)
    cut = call.reshape(x, (*lead, channels // (r * r), r, r, height, width))
    moved = call.transpose(cut, [*range(n + 1), n + 3, n + 1, n + 4, n + 2])
    return call.wrap(call.reshape(moved, (*lead, channels // (r * r), height * r, width * r)))


@guarded
def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> Array:
    """Pixels as channels: the inverse of `pixel_shuffle`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: pixel_unshuffle(x, 2), f32[8, 3, 10, 10]).output_types
    (f32[8,12,5,5],)
    """
    call = Call("pixel_unshuffle")
    x, r = call.value(input), _factor(call, "downscale_factor", downscale_factor)
    if len(x.shape) < 3 or x.shape[-1] % r or x.shape[-2] % r:
        raise call.error(ShapeError, f"expected a height and a width that {r} divides, got {x.type!r}")
    *lead, channels, height, width = x.shape
    n = len(lead)
    cut = call.reshape(x, (*lead, channels, height // r, r, width // r, r))
    moved = call.transpose(cut, [*range(n + 1), n + 2, n + 4, n + 1, n + 3])
    return call.wrap(call.reshape(moved, (*lead, channels * r * r, height // r, width // r)))


def _factor(call: Call, name: str, r: object) -> int:
    if not is_integer(r, least=1):
        raise call.error(ArgumentError, f"expected {name} of at least 1, got {r!r}")
    return int(r)  # type: ignore[call-overload, no-any-return]
