"""Convolutions and transposed convolutions in one, two and three dimensions.

In: traced values [batch, channels, *spatial] (the batch may be missing), weights in PyTorch's layout. Out: traced values.
Each is one contraction of the weight with the view of all windows: y[n, f, o] = Σ x[n, c, o·stride + k·dilation - padding]
w[f, c, k] over c and k (cross-correlation, as in PyTorch). Dumoulin & Visin, A guide to convolution arithmetic for deep
learning, arXiv:1603.07285, has the arithmetic of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.frontend.windows import Sizes, Windows, each, sliding
from graphc.ir.graph import Value
from graphc.ir.guard import guarded

Padding = Sizes | str


@guarded
def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """The convolution of [N, C, L] (or [C, L]) with a weight [F, C/groups, K] and a bias [F].

    `padding` is the number of zeros on both sides, "valid" (none), or "same": as many as keep the length, the odd one
    behind. With `groups`, each group of output channels sees its own group of input channels.
    Raises `ShapeError` for sizes that don't fit, `ArgumentError` for settings that are none.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv1d(x, w, stride=2, padding=1), f32[8, 3, 10], f32[4, 3, 3]).output_types
    (f32[8,4,5],)
    """
    return _convolution("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@guarded
def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """The convolution of [N, C, H, W] (or [C, H, W]) with a weight [F, C/groups, KH, KW]; else as `conv1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv2d(x, w, padding="same"), f32[8, 3, 28, 28], f32[4, 3, 5, 5]).output_types
    (f32[8,4,28,28],)
    """
    return _convolution("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@guarded
def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """The convolution of [N, C, D, H, W] (or [C, D, H, W]) with a weight [F, C/groups, KD, KH, KW]; else as `conv1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv3d(x, w), f32[2, 3, 4, 5, 6], f32[4, 3, 2, 2, 2]).output_types
    (f32[2,4,3,4,5],)
    """
    return _convolution("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


@guarded
def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Array:
    """The transposed convolution of [N, C, L] with a weight [C, F/groups, K]: what maps cotangents of `conv1d` back.

    The result has (L - 1) · stride - 2 padding + dilation (K - 1) + output_padding + 1 elements.
    Raises as `conv1d` does; `output_padding` must be less than the stride or the dilation.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv_transpose1d(x, w, stride=2), f32[8, 3, 5], f32[3, 4, 2]).output_types
    (f32[8,4,10],)
    """
    return _transposed(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@guarded
def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Array:
    """The transposed convolution of [N, C, H, W] with a weight [C, F/groups, KH, KW]; else as `conv_transpose1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv_transpose2d(x, w, stride=2), f32[8, 3, 5, 5], f32[3, 4, 2, 2]).output_types
    (f32[8,4,10,10],)
    """
    return _transposed(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@guarded
def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Array:
    """The transposed convolution of [N, C, D, H, W] with a weight [C, F/groups, KD, KH, KW]; else as `conv_transpose1d`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: conv_transpose3d(x, w), f32[2, 3, 4, 4, 4], f32[3, 5, 2, 2, 2]).output_types
    (f32[2,5,5,5,5],)
    """
    return _transposed(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


# ------------------------------------------------------------------------------------------------------- composition


def _convolution(
    name: str, rank: int, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None,
    stride: Sizes, padding: Padding, dilation: Sizes, groups: int,
) -> Array:  # fmt: skip
    call = Call(name)
    x, w, b = _operands(call, rank, input, weight, bias)
    _check_groups(call, groups)
    strides, dilations = each(call, "stride", stride, rank, 1), each(call, "dilation", dilation, rank, 1)
    features, channels, *kernel = w.shape
    if features % groups:
        raise call.error(ShapeError, f"expected groups that divide {features} output channels, got {groups}")
    _check_channels(call, x, channels * groups, rank, w)
    _check_bias(call, b, features)
    low, high = _paddings(call, padding, kernel, strides, dilations)
    spatial = x.shape[-rank:]
    windows = sliding(call, spatial, kernel, strides, dilations, low, high)
    grouped = call.reshape(w, (groups, features // groups, channels, *kernel))
    return _contracted(call, x, grouped, b, windows, summed=2)


def _transposed(
    name: str, rank: int, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None,
    stride: Sizes, padding: Sizes, output_padding: Sizes, groups: int, dilation: Sizes,
) -> Array:  # fmt: skip
    call = Call(name)
    x, w, b = _operands(call, rank, input, weight, bias)
    _check_groups(call, groups)
    strides, dilations = each(call, "stride", stride, rank, 1), each(call, "dilation", dilation, rank, 1)
    paddings = each(call, "padding", padding, rank, 0)
    more = each(call, "output_padding", output_padding, rank, 0)
    channels, features, *kernel = w.shape
    if channels % groups:
        raise call.error(ShapeError, f"expected groups that divide {channels} input channels, got {groups}")
    _check_channels(call, x, channels, rank, w)
    _check_bias(call, b, features * groups)
    for m, s, d in zip(more, strides, dilations, strict=True):
        if m >= max(s, d):
            raise call.error(
                ArgumentError,
                f"expected output_padding less than the stride or the dilation, got {output_padding!r} "
                f"with stride {stride!r} and dilation {dilation!r}",
            )
    sizes = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1
        for n, s, p, d, k, m in zip(x.shape[-rank:], strides, paddings, dilations, kernel, more, strict=True)
    )
    if min(sizes) < 1:
        raise call.error(
            ShapeError,
            f"expected a result of at least one element, got {list(sizes)} for an input of "
            f"{list(x.shape[-rank:])} and padding {padding!r}",
        )
    if max(strides) > 1 and max(dilations) == 1:
        return _by_phases(call, x, w, b, strides, paddings, sizes, groups)
    # position o is reached by element k of the window at (o - k · dilation + padding) / stride
    windows = Windows(tuple(kernel), sizes, (1,) * rank, tuple(-d for d in dilations), paddings, strides)
    grouped = call.reshape(w, (groups, channels // groups, features, *kernel))
    return _contracted(call, x, grouped, b, windows, summed=1)


def _by_phases(
    call: Call, x: Value, weight: Value, bias: Value | None, strides: Sequence[int], paddings: Sequence[int],
    sizes: Sequence[int], groups: int,
) -> Array:  # fmt: skip
    """A transposed convolution as one of stride 1 that makes all phases of a stride side by side.

    With o + padding = u · stride + r and k = j · stride + r, position o is reached by the window at u - j: each phase r
    has its own elements of the weight, and no product is with a zero between elements (Shi et al., arXiv:1609.07009).
    """
    rank = len(strides)
    channels, features, *kernel = weight.shape
    taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
    missing = [j * s - k for j, s, k in zip(taps, strides, kernel, strict=True)]
    if any(missing):
        zeros = (0,) * (rank + 2)
        weight = call.build.pad(weight, low=zeros, high=(0, 0, *missing), interior=zeros, value=0.0)
    cut = call.reshape(
        weight, (channels, features, *(n for pair in zip(taps, strides, strict=True) for n in pair))
    )
    phases = [*range(3, 3 + 2 * rank, 2)]
    moved = call.transpose(cut, [0, 1, *phases, *range(2, 2 + 2 * rank, 2)])
    every = features * math.prod(strides)
    grouped = call.reshape(moved, (groups, channels // groups, every, *taps))
    first = [p // s for p, s in zip(paddings, strides, strict=True)]
    last = [(p + n - 1) // s for p, s, n in zip(paddings, strides, sizes, strict=True)]
    counts = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
    ones = (1,) * rank
    windows = Windows(tuple(taps), counts, ones, (-1,) * rank, tuple(first), ones)
    if bias is not None:
        spread = call.build.broadcast(bias, dims=(0,), shape=(features * groups, *strides))
        bias = call.reshape(spread, (every * groups,))
    y = call.trace.lift(_contracted(call, x, grouped, bias, windows, summed=1))
    lead = y.shape[: len(y.shape) - rank - 1]
    apart = call.reshape(y, (*lead, features * groups, *strides, *counts))
    n = len(lead) + 1
    order = [*range(n), *(d for i in range(rank) for d in (n + rank + i, n + i))]
    whole = [c * s for c, s in zip(counts, strides, strict=True)]
    joined = call.reshape(call.transpose(apart, order), (*lead, features * groups, *whole))
    start = [p - s * a for p, s, a in zip(paddings, strides, first, strict=True)]
    return call.wrap(
        call.slice(
            joined, [*(0 for _ in range(n)), *start], [*joined.shape[:n], *sizes], [1] * len(joined.shape)
        )
    )


def _contracted(
    call: Call, x: Value, weight: Value, bias: Value | None, windows: Windows, summed: int
) -> Array:
    """The windows of x [N, C, *spatial] times a weight [groups, ., ., *kernel] whose dimension `summed` is that of C.

    The batch is one of the contraction, so that the result has its dimensions in the order N, F, *sizes.
    """
    rank = len(windows.kernel)
    batched = len(x.shape) == rank + 2
    groups, inside, features = weight.shape[0], weight.shape[summed], weight.shape[3 - summed]
    n = x.shape[0] if batched else 1
    # dimensions of one element are left out: groups, and of a depthwise convolution the channels of a group
    lead = [size for size, kept in ((groups, groups > 1), (features, groups == 1 or features > 1)) if kept]
    channels = [inside] if groups == 1 or inside > 1 else []
    order = lead + channels if summed == 2 else [*lead[: groups > 1], *channels, *lead[groups > 1 :]]
    w = call.reshape(weight, (*order, *windows.kernel))
    wide = call.build.broadcast(w, dims=tuple(range(1, len(w.shape) + 1)), shape=(n, *w.shape))
    split = (n, *([groups] if groups > 1 else []), *channels, *x.shape[-rank:])
    view = windows.of(call, call.reshape(x, split))
    shared = 1 + (groups > 1)  # batch dimensions: N and the groups
    first = shared + (0 if summed == 1 else len(order) - len(channels) - (groups > 1))
    taps = range(len(wide.shape) - rank, len(wide.shape))
    axes = (
        (*range(first, first + len(channels)), *taps),
        (
            *range(shared, shared + len(channels)),
            *range(shared + len(channels), shared + len(channels) + rank),
        ),
    )
    batch = (tuple(range(shared)), tuple(range(shared)))
    y = call.build.contract(wide, view, axes=axes, batch=batch)
    if bias is not None:
        offset = call.reshape(bias, lead)
        dims = tuple(range(1, 1 + len(lead)))
        y = call.build.add(y, call.build.broadcast(offset, dims=dims, shape=y.shape))
    shape = (groups * features, *windows.sizes)
    return call.wrap(call.reshape(y, (n, *shape) if batched else shape))


# ------------------------------------------------------------------------------------------------------------- checks


def _operands(
    call: Call, rank: int, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[Value, Value, Value | None]:
    """Input, weight and bias with one float type; raises `ShapeError` for wrong ranks."""
    given, dtype = call.promote(input, weight, *([] if bias is None else [bias]), floats=True)
    x, w, *rest = (call.value(g, dtype) for g in given)
    if len(w.shape) != rank + 2 or 0 in w.shape:
        raise call.error(ShapeError, f"expected a weight of rank {rank + 2} with elements, got {w.type!r}")
    if len(x.shape) not in (rank + 1, rank + 2):
        raise call.error(
            ShapeError, f"expected an input [N, C, {_names(rank)}] or [C, {_names(rank)}], got {x.type!r}"
        )
    return x, w, rest[0] if rest else None


def _check_bias(call: Call, bias: Value | None, features: int) -> None:
    if bias is not None and bias.shape != (features,):
        raise call.error(ShapeError, f"expected a bias of {features} elements, got {bias.type!r}")


def _names(rank: int) -> str:
    return ", ".join(["D", "H", "W"][-rank:]) if rank > 1 else "L"


def _check_groups(call: Call, groups: object) -> None:
    if not is_integer(groups, least=1):
        raise call.error(ArgumentError, f"expected groups of at least 1, got {groups!r}")


def _check_channels(call: Call, x: Value, channels: int, rank: int, w: Value) -> None:
    if x.shape[-rank - 1] != channels:
        raise call.error(
            ShapeError,
            f"expected {channels} input channels for a weight of {list(w.shape)}, "
            f"got {x.shape[-rank - 1]} in {list(x.shape)}",
        )


def _paddings(
    call: Call, padding: Padding, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after, along each spatial dimension."""
    if not isinstance(padding, str):
        both = each(call, "padding", padding, len(kernel), 0)
        return both, both
    if padding == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    if padding != "same":
        raise call.error(ArgumentError, f"expected padding of integers, 'same' or 'valid', got {padding!r}")
    if any(s != 1 for s in stride):
        raise call.error(ArgumentError, f"expected stride 1 with padding='same', got {tuple(stride)}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
