"""The pooling, padding and resampling layers of `graphc.nn`: PyTorch's names and arguments.

In: sizes and settings. Out: modules whose `forward` calls the functions of `pooling`, `padding` and `resampling`, which
check them.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import ArgumentError
from graphc.frontend import padding, pooling, resampling
from graphc.frontend.array import Array
from graphc.frontend.modules import Module
from graphc.frontend.windows import Sizes, sizes_of
from graphc.ir.loc import here

# ------------------------------------------------------------------------------------------------------------ pooling


class _MaxPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = (
            kernel_size,
            kernel_size if stride is None else stride,
            padding,
        )
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        pool = {1: pooling.max_pool1d, 2: pooling.max_pool2d, 3: pooling.max_pool3d}[self.rank]
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest element of each window: `nn.max_pool1d`."""

    rank = 1


class MaxPool2d(_MaxPool):
    """The largest element of each window: `nn.max_pool2d`.

    >>> MaxPool2d(2)
    MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    """

    rank = 2


class MaxPool3d(_MaxPool):
    """The largest element of each window: `nn.max_pool3d`."""

    rank = 3


class _AvgPool(Module):
    rank = 0

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride, self.padding = (
            kernel_size,
            kernel_size if stride is None else stride,
            padding,
        )
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        pool = {1: pooling.avg_pool1d, 2: pooling.avg_pool2d, 3: pooling.avg_pool3d}[self.rank]
        return pool(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window: `nn.avg_pool1d`."""

    rank = 1


class AvgPool2d(_AvgPool):
    """The mean of each window: `nn.avg_pool2d`.

    >>> AvgPool2d(3, stride=2)
    AvgPool2d(kernel_size=3, stride=2, padding=0)
    """

    rank = 2


class AvgPool3d(_AvgPool):
    """The mean of each window: `nn.avg_pool3d`."""

    rank = 3


class _Adaptive(Module):
    def __init__(self, output_size: pooling.OutputSize) -> None:
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """So many means along the spatial dimension: `nn.adaptive_avg_pool1d`."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """So many means along each spatial dimension; one is the global mean: `nn.adaptive_avg_pool2d`.

    >>> AdaptiveAvgPool2d(1)
    AdaptiveAvgPool2d(output_size=1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveAvgPool3d(_Adaptive):
    """So many means along each spatial dimension: `nn.adaptive_avg_pool3d`."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_avg_pool3d(x, self.output_size)


class AdaptiveMaxPool1d(_Adaptive):
    """So many maxima along the spatial dimension: `nn.adaptive_max_pool1d`."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_max_pool1d(x, self.output_size)


class AdaptiveMaxPool2d(_Adaptive):
    """So many maxima along each spatial dimension: `nn.adaptive_max_pool2d`."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_max_pool2d(x, self.output_size)


class AdaptiveMaxPool3d(_Adaptive):
    """So many maxima along each spatial dimension: `nn.adaptive_max_pool3d`."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return pooling.adaptive_max_pool3d(x, self.output_size)


# ------------------------------------------------------------------------------------------- padding and resampling


class _Pad(Module):
    rank = 0
    mode = ""

    def __init__(self, padding: Sizes) -> None:
        count = 2 * self.rank
        sizes = sizes_of(padding, count, least=-(2**31))
        if sizes is None:
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected padding: an integer or {count} of them, got {padding!r}"
            )
        self.padding = sizes

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return padding.pad(x, self.padding, mode=self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_Pad):
    """Zeros around the last dimension."""

    rank, mode = 1, "constant"


class ZeroPad2d(_Pad):
    """Zeros around the last two dimensions: one number, or (left, right, top, bottom).

    >>> ZeroPad2d(2)
    ZeroPad2d((2, 2, 2, 2))
    """

    rank, mode = 2, "constant"


class ZeroPad3d(_Pad):
    """Zeros around the last three dimensions."""

    rank, mode = 3, "constant"


class ReflectionPad1d(_Pad):
    """The last dimension mirrored at both ends."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two dimensions mirrored at both ends."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """The last three dimensions mirrored at both ends."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """The last dimension's outermost elements repeated."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The last two dimensions' outermost elements repeated."""

    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """The last three dimensions' outermost elements repeated."""

    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """The last dimension going on at its other end."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The last two dimensions going on at their other ends."""

    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    """The last three dimensions going on at their other ends."""

    rank, mode = 3, "circular"


class Upsample(Module):
    """The spatial dimensions resampled: `nn.interpolate` with these settings.

    >>> Upsample(scale_factor=2)
    Upsample(scale_factor=2, mode='nearest')
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return resampling.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


class PixelShuffle(Module):
    """Channels as pixels: `nn.pixel_shuffle`.

    >>> PixelShuffle(2)
    PixelShuffle(upscale_factor=2)
    """

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return padding.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Pixels as channels: `nn.pixel_unshuffle`."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return padding.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class Unfold(Module):
    """All windows as columns: `nn.unfold`."""

    def __init__(
        self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
    ) -> None:
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return padding.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Module):
    """Columns put back where they come from: `nn.fold`."""

    def __init__(
        self,
        output_size: Sizes,
        kernel_size: Sizes,
        dilation: Sizes = 1,
        padding: Sizes = 0,
        stride: Sizes = 1,
    ) -> None:
        self.output_size = output_size
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return padding.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )
