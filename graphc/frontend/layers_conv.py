"""The convolution layers of `graphc.nn`: PyTorch's names, arguments, layouts and defaults.

In: sizes and settings. Out: modules whose `forward` calls the functions of `convolution`. Settings are checked where a
layer is made, what depends on the input where it is called.
"""

from __future__ import annotations

import math

from graphc.errors import ArgumentError
from graphc.frontend import convolution, padding
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.init import Initializer, fan_in_uniform
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.frontend.windows import Sizes, expected_sizes, sizes_of
from graphc.ir.loc import here
from graphc.ir.types import DType, f32

_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
_CONVOLUTIONS = {1: convolution.conv1d, 2: convolution.conv2d, 3: convolution.conv3d}
_TRANSPOSED = {
    1: convolution.conv_transpose1d,
    2: convolution.conv_transpose2d,
    3: convolution.conv_transpose3d,
}


def _tuple(layer: str, name: str, given: object, rank: int, least: int) -> tuple[int, ...]:
    """A setting for each spatial dimension; raises `ArgumentError`."""
    sizes = sizes_of(given, rank, least)
    if sizes is None:
        raise ArgumentError(f"{here().prefix}{layer}: {expected_sizes(name, given, rank, least)}")
    return sizes


class _Convolution(Module):
    """What all convolutions share; `rank` is the number of spatial dimensions."""

    rank = 0
    transposed = False
    weight: Array
    bias: Array | None

    def _prepare(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes | str,
        dilation: Sizes,
        groups: int,
        bias: bool,
        padding_mode: str,
        seed: int | None,
        dtype: DType,
        weight_init: Initializer | None,
        bias_init: Initializer | None,
    ) -> None:
        layer, rank = type(self).__name__, self.rank
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if not is_integer(size, least=1):
                raise ArgumentError(f"{here().prefix}{layer}: expected {name} of at least 1, got {size!r}")
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels)):
            if size % groups:
                raise ArgumentError(
                    f"{here().prefix}{layer}: expected groups that divide {name} {size}, got {groups}"
                )
        if padding_mode not in _PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            modes = "'zeros'" if self.transposed else ", ".join(map(repr, _PADDING_MODES))
            raise ArgumentError(
                f"{here().prefix}{layer}: expected padding_mode {modes}, got {padding_mode!r}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _tuple(layer, "kernel_size", kernel_size, rank, 1)
        self.stride = _tuple(layer, "stride", stride, rank, 1)
        self.dilation = _tuple(layer, "dilation", dilation, rank, 1)
        self.padding_mode = padding_mode
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            if padding not in ("same", "valid") or self.transposed:
                words = "" if self.transposed else ", 'same' or 'valid'"
                raise ArgumentError(
                    f"{here().prefix}{layer}: expected padding of integers{words}, got {padding!r}"
                )
            if padding == "same" and set(self.stride) != {1}:
                raise ArgumentError(
                    f"{here().prefix}{layer}: expected stride 1 with padding='same', got {stride!r}"
                )
            self.padding = padding
        else:
            self.padding = _tuple(layer, "padding", padding, rank, 0)
        rows, columns = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (rows, columns // groups, *self.kernel_size)
        # PyTorch takes the weight's second dimension for the inputs of a unit, of transposed convolutions too
        start = fan_in_uniform(columns // groups * math.prod(self.kernel_size))
        self.register_parameter(
            "weight", Parameter(shape=shape, initializer=weight_init or start, dtype=dtype)
        )
        if bias:
            entry = Parameter(shape=(out_channels,), initializer=bias_init or start, dtype=dtype)
            self.register_parameter("bias", entry)
        else:
            self.bias = None
        if seed is not None:
            self.init(seed)

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        if isinstance(self.padding, str) or any(self.padding):
            parts.append(f"padding={self.padding!r}")
        if set(self.dilation) != {1}:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if "bias" not in self._entries:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        seed: int | None = None,
        dtype: DType = f32,
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
    ) -> None:
        self._prepare(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, seed, dtype,
            weight_init, bias_init,
        )  # fmt: skip

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        weight, bias = self.weight, self.bias
        if not x.dtype.is_float:
            x = F.astype(x, weight.dtype)
        around = self.padding
        if self.padding_mode != "zeros":
            x = padding.pad(x, self._borders(), mode=_PADDING_MODES[self.padding_mode])
            around = "valid"
        return _CONVOLUTIONS[self.rank](x, weight, bias, self.stride, around, self.dilation, self.groups)

    def _borders(self) -> list[int]:
        """(before, after) of each spatial dimension, the last one first."""
        if self.padding == "valid":
            pairs = [(0, 0)] * self.rank
        elif isinstance(self.padding, str):
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(t // 2, t - t // 2) for t in total]
        else:
            pairs = [(p, p) for p in self.padding]
        return [n for pair in reversed(pairs) for n in pair]


class Conv1d(_Conv):
    """The convolution of [N, C, L] with `weight` [out, in / groups, K] and `bias` [out]: `nn.conv1d` with parameters.

    Both start uniform within ±√(groups / (in · K)); `weight_init` and `bias_init` replace that. With `seed` the values
    are drawn at once, else with the model's. `padding_mode` ("zeros", "reflect", "replicate", "circular") says what lies
    beyond the input. Raises `ArgumentError` for settings that are none and, when called, `ShapeError`.

    >>> Conv1d(3, 4, 5, stride=2, seed=0).weight.shape
    (4, 3, 5)
    """

    rank = 1


class Conv2d(_Conv):
    """The convolution of [N, C, H, W] with `weight` [out, in / groups, KH, KW] and `bias` [out]; else as `Conv1d`.

    >>> Conv2d(3, 8, 3, padding=1)
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    rank = 2


class Conv3d(_Conv):
    """The convolution of [N, C, D, H, W] with `weight` [out, in / groups, KD, KH, KW]; else as `Conv1d`.

    >>> Conv3d(3, 8, 2, bias=False)
    Conv3d(3, 8, kernel_size=(2, 2, 2), stride=(1, 1, 1), bias=False)
    """

    rank = 3


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        *,
        seed: int | None = None,
        dtype: DType = f32,
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
    ) -> None:
        self._prepare(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, seed, dtype,
            weight_init, bias_init,
        )  # fmt: skip
        self.output_padding = _tuple(type(self).__name__, "output_padding", output_padding, self.rank, 0)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        weight, bias = self.weight, self.bias
        if not x.dtype.is_float:
            x = F.astype(x, weight.dtype)
        assert not isinstance(self.padding, str)
        return _TRANSPOSED[self.rank](
            x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTranspose):
    """The transposed convolution of [N, C, L] with `weight` [in, out / groups, K]; parameters as in `Conv1d`.

    >>> ConvTranspose1d(3, 4, 5, seed=0).weight.shape
    (3, 4, 5)
    """

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """The transposed convolution of [N, C, H, W] with `weight` [in, out / groups, KH, KW]; else as `ConvTranspose1d`.

    >>> ConvTranspose2d(8, 3, 2, stride=2)
    ConvTranspose2d(8, 3, kernel_size=(2, 2), stride=(2, 2))
    """

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """The transposed convolution of [N, C, D, H, W]; else as `ConvTranspose1d`."""

    rank = 3
