"""Normalisation: layers and functions that give activations zero mean and unit variance, over what differs by name.

In: traced arrays [N, C, ...]. Out: traced arrays of the same shape, and new running statistics where there are any.
Variances take two passes, Σ(x - mean)², since Σx² - n·mean² cancels in floats where the mean is large. Names, layouts
and defaults are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer, is_rate
from graphc.frontend.init import ones, zeros
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Buffer, Parameter
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, f32, i64

# -- functions ----------------------------------------------------------------------------------------------------


def _standardized(x: Array, axes: Sequence[int], eps: float) -> tuple[Array, Array, Array]:
    """x with zero mean and unit variance over axes; its mean and biased variance, without those axes.

    Statistics have the shape of a reduction's result, not of its kept axes: so all of it is one kernel, row by row.
    """
    axes = tuple(axes)
    mean = F.mean(x, axes)
    distance = x - F.expand_dims(mean, axes)
    variance = F.mean(distance * distance, axes)
    return distance * F.expand_dims(F.rsqrt(variance + eps), axes), mean, variance


def _scaled(y: Array, weight: Array | None, bias: Array | None, shape: Sequence[int]) -> Array:
    if weight is not None:
        y = y * F.reshape(weight, shape)
    return y if bias is None else y + F.reshape(bias, shape)


@guarded
def batch_norm(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | Array = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """Each channel (dimension 1) normalised over all others; gives y and the new running mean and variance, [C] each.

    In training y has the statistics of this batch, and the running ones move towards them by `momentum` (the variance
    with n - 1); else y has the running ones, which stay. Ioffe & Szegedy, Batch Normalization, arXiv:1502.03167.
    Raises `ShapeError` where statistics have another length, or a channel has one value only in training.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(batch_norm, f32[4, 3, 5], f32[3], f32[3]).output_types
    (f32[4,3,5], f32[3], f32[3])
    """
    if x.ndim < 2 or running_mean.shape != (x.shape[1],) or running_var.shape != (x.shape[1],):
        raise ShapeError(
            f"{here().prefix}batch_norm: expected [N, C, ...] and statistics [C], got {list(x.shape)}, "
            f"{list(running_mean.shape)} and {list(running_var.shape)}"
        )
    shape = _channels(x)
    if not training:
        # one factor and one term for each channel: what a contraction before it can take into its store
        factor = F.rsqrt(running_var + eps) if weight is None else F.rsqrt(running_var + eps) * weight
        y = (x - F.reshape(running_mean, shape)) * F.reshape(factor, shape)
        return _scaled(y, None, bias, shape), running_mean, running_var
    y, mean, variance = _batch_standardized(x, eps)
    count = x.size // x.shape[1]
    return (
        _scaled(y, weight, bias, shape),
        running_mean * (1.0 - momentum) + mean * momentum,
        running_var * (1.0 - momentum) + variance * (count / (count - 1)) * momentum,
    )


def _channels(x: Array) -> tuple[int, ...]:
    """[C, 1, 1, ...]: what broadcasts over the dimensions after the channels."""
    return (x.shape[1], *(1 for _ in x.shape[2:]))


def _batch_standardized(x: Array, eps: float) -> tuple[Array, Array, Array]:
    if x.size <= x.shape[1]:
        raise ShapeError(
            f"{here().prefix}batch_norm: expected more than one value for each channel in training, "
            f"got {list(x.shape)}"
        )
    return _standardized(x, [d for d in range(x.ndim) if d != 1], eps)


@guarded
def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Normalised over the last dimensions, which are `normalized_shape`, as `weight` and `bias` are.

    Ba, Kiros & Hinton, Layer Normalization, arXiv:1607.06450. Raises `ShapeError` where x ends in other dimensions.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(lambda x: layer_norm(x, 2), graphc.f32[1, 2]), [np.float32([[1, 3]])])[0].round(3)
    array([[-1.,  1.]], dtype=float32)
    """
    shape = _trailing("layer_norm", x, normalized_shape)
    y, _, _ = _standardized(x, range(x.ndim - len(shape), x.ndim), eps)
    return _scaled(y, weight, bias, shape)


@guarded
def rms_norm(
    x: Array, normalized_shape: int | Sequence[int], weight: Array | None = None, eps: float | None = None
) -> Array:
    """x / √(mean(x²) + eps) over the last dimensions; `eps` is that of the data type by default.

    Zhang & Sennrich, Root Mean Square Layer Normalization, arXiv:1910.07467. Raises as `layer_norm`.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(lambda x: rms_norm(x, 2), graphc.f32[2]), [np.float32([1, 7])])[0].round(3)
    array([0.2, 1.4], dtype=float32)
    """
    shape = _trailing("rms_norm", x, normalized_shape)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    small = float(np.finfo(x.dtype.numpy).eps) if eps is None else eps
    y = x * F.expand_dims(F.rsqrt(F.mean(x * x, axes) + small), axes)
    return _scaled(y, weight, None, shape)


def _trailing(what: str, x: Array, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = _shape(what, normalized_shape)
    if x.shape[max(x.ndim - len(shape), 0) :] != shape:
        dims = ", ".join(map(str, shape))
        raise ShapeError(f"{here().prefix}{what}: expected [..., {dims}], got {list(x.shape)}")
    return shape


def _shape(what: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    given = normalized_shape if isinstance(normalized_shape, Sequence) else [normalized_shape]
    if not given or not all(is_integer(n, least=1) for n in given):
        raise ArgumentError(
            f"{here().prefix}{what}: expected normalized_shape of sizes of at least 1, got {normalized_shape!r}"
        )
    return tuple(int(n) for n in given)


@guarded
def group_norm(
    x: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """The channels (dimension 1) in groups; each group of an example normalised. `weight` and `bias` are [C].

    Wu & He, Group Normalization, arXiv:1803.08494. Raises `ShapeError` where the groups don't divide the channels.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(lambda x: group_norm(x, 2), f32[3, 4, 5]).output_types
    (f32[3,4,5],)
    """
    if x.ndim < 2 or x.shape[1] % num_groups:
        raise ShapeError(
            f"{here().prefix}group_norm: expected [N, C, ...] with C a multiple of {num_groups}, got {list(x.shape)}"
        )
    each = x.shape[1] // num_groups
    groups = F.reshape(x, (x.shape[0], num_groups, each, math.prod(x.shape[2:])))
    y, _, _ = _standardized(groups, [2, 3], eps)
    return F.reshape(_scaled(y, weight, bias, (num_groups, each, 1)), x.shape)


@guarded
def instance_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """Each channel (dimension 1) of each example normalised over the dimensions after it.

    Ulyanov, Vedaldi & Lempitsky, Instance Normalization, arXiv:1607.08022. Raises `ShapeError` where there are none.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(instance_norm, f32[3, 4, 5]).output_types
    (f32[3,4,5],)
    """
    return _scaled(_instance_standardized(x, eps)[0], weight, bias, _channels(x))


def _instance_standardized(x: Array, eps: float) -> tuple[Array, Array, Array]:
    if x.ndim < 3 or x.size <= x.shape[0] * x.shape[1]:
        raise ShapeError(
            f"{here().prefix}instance_norm: expected [N, C, ...] with more than one value for each channel, "
            f"got {list(x.shape)}"
        )
    return _standardized(x, range(2, x.ndim), eps)


@guarded
def local_response_norm(
    x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """x / (k + alpha · mean of x² over `size` neighbouring channels, zeros beyond them) to the power `beta`.

    Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012, 3.3.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(lambda x: local_response_norm(x, 3), f32[3, 4, 5]).output_types
    (f32[3,4,5],)
    """
    if x.ndim < 2 or not is_integer(size, least=1):
        raise ShapeError(
            f"{here().prefix}local_response_norm: expected [N, C, ...] and a size of at least 1, "
            f"got {list(x.shape)} and {size!r}"
        )
    widths = [(size // 2, (size - 1) // 2) if d == 1 else (0, 0) for d in range(x.ndim)]
    squares = F.pad(x * x, widths)
    total = squares[:, : x.shape[1]]
    for shift in range(1, size):
        total = total + squares[:, shift : shift + x.shape[1]]
    return x / (total * (alpha / size) + k) ** beta


# -- layers -------------------------------------------------------------------------------------------------------


def _check_features(layer: Module, name: str, value: object, eps: float, momentum: float | None) -> None:
    what = f"{here().prefix}{type(layer).__name__}"
    if not is_integer(value, least=1):
        raise ArgumentError(f"{what}: expected {name} of at least 1, got {value!r}")
    if not is_rate(eps):
        raise ArgumentError(f"{what}: expected eps of at least 0, got {eps!r}")
    if momentum is not None and (not is_rate(momentum) or momentum > 1):
        raise ArgumentError(f"{what}: expected a momentum from 0 to 1 or None, got {momentum!r}")


class _Statistics(Module):
    """A layer with a weight and a bias for each channel, and running statistics of the channels."""

    ranks: tuple[int, ...]
    counts = True  # whether batches are counted; PyTorch's instance norms keep the counter but leave it at 0
    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        dtype: DType,
    ) -> None:
        _check_features(self, "num_features", num_features, eps, momentum)
        if momentum is None and not self.counts:
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected a momentum from 0 to 1, got {momentum!r}"
            )
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        _add_scale(self, (num_features,), affine, affine and bias, dtype)
        for name, start in (("running_mean", zeros()), ("running_var", ones())):
            if track_running_stats:
                entry = Buffer(shape=(num_features,), initializer=start, dtype=dtype)
                self.register_parameter(name, entry)
            else:
                setattr(self, name, None)
        if track_running_stats:
            self.register_parameter("num_batches_tracked", Buffer(initializer=zeros(), dtype=i64))
        else:
            self.num_batches_tracked = None

    def _check(self, x: Array) -> None:
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            forms = " or ".join(
                f"[{', '.join(['N', str(self.num_features), *_DIMENSIONS[rank]])}]" for rank in self.ranks
            )
            raise ShapeError(f"{here().prefix}{type(self).__name__}: expected {forms}, got {list(x.shape)}")

    def _track(self, mean: Array, variance: Array) -> None:
        """Moves the running statistics towards these, [C] each."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        if self.counts:
            self.num_batches_tracked = self.num_batches_tracked + 1
        new: float | Array
        if self.momentum is None:
            new = 1.0 / F.astype(self.num_batches_tracked, mean.dtype)
        else:
            new = self.momentum
        self.running_mean = self.running_mean * (1.0 - new) + mean * new
        self.running_var = self.running_var * (1.0 - new) + variance * new

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={'bias' in self._entries}, track_running_stats={self.track_running_stats}"
        )


_DIMENSIONS: dict[int, list[str]] = {2: [], 3: ["L"], 4: ["H", "W"], 5: ["D", "H", "W"]}


def _add_scale(layer: Module, shape: tuple[int, ...], weight: bool, bias: bool, dtype: DType) -> None:
    for name, wanted, start in (("weight", weight, ones()), ("bias", bias, zeros())):
        if wanted:
            layer.register_parameter(name, Parameter(shape=shape, initializer=start, dtype=dtype))
        else:
            setattr(layer, name, None)


class _BatchNorm(_Statistics):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DType = f32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        self._check(x)
        shape = _channels(x)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            y, _, _ = batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return y
        y, mean, variance = _batch_standardized(x, self.eps)
        if self.training:
            count = x.size // x.shape[1]
            self._track(mean, variance * (count / (count - 1)))
        return _scaled(y, self.weight, self.bias, shape)


class BatchNorm1d(_BatchNorm):
    """`batch_norm` of [N, C] or [N, C, L], with running statistics that training moves and prediction uses.

    `momentum` is the share of a new batch, None for the mean over all batches. Training is a call by
    ``model.apply(..., train=True)``, as `graphc.fit` makes it; the new statistics are among the buffers that it gives.
    Raises `ArgumentError` for a wrong size, eps or momentum; when called, `ShapeError`.

    >>> list(BatchNorm1d(3).buffers)
    ['running_mean', 'running_var', 'num_batches_tracked']
    """

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """As `BatchNorm1d`, of [N, C, H, W].

    >>> BatchNorm2d(3)
    BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """As `BatchNorm1d`, of [N, C, D, H, W].

    >>> BatchNorm3d(3, momentum=None)
    BatchNorm3d(3, eps=1e-05, momentum=None, affine=True, bias=True, track_running_stats=True)
    """

    ranks = (5,)


class _InstanceNorm(_Statistics):
    counts = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        dtype: DType = f32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        single = x.ndim + 1 in self.ranks and x.shape[0] == self.num_features
        if single:  # [C, ...]: one example
            x = F.expand_dims(x, 0)
        self._check(x)
        shape = _channels(x)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            y, _, _ = batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            y, mean, variance = _instance_standardized(x, self.eps)
            if self.training:
                count = x.size // (x.shape[0] * x.shape[1])
                self._track(F.mean(mean, 0), F.mean(variance, 0) * (count / (count - 1)))
            y = _scaled(y, self.weight, self.bias, shape)
        return F.squeeze(y, 0) if single else y


class InstanceNorm1d(_InstanceNorm):
    """`instance_norm` of [N, C, L] or [C, L]; with `track_running_stats` prediction uses running statistics.

    Raises `ArgumentError` for a wrong size, eps or momentum; when called, `ShapeError`.

    >>> InstanceNorm1d(3)
    InstanceNorm1d(3, eps=1e-05, momentum=0.1, affine=False, bias=False, track_running_stats=False)
    """

    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    """As `InstanceNorm1d`, of [N, C, H, W] or [C, H, W].

    >>> list(InstanceNorm2d(3, affine=True).parameters)
    ['weight', 'bias']
    """

    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    """As `InstanceNorm1d`, of [N, C, D, H, W] or [C, D, H, W].

    >>> InstanceNorm3d(3).parameters
    {}
    """

    ranks = (5,)


class LayerNorm(Module):
    """`layer_norm` over the last dimensions, with `weight` and `bias` of the shape of those.

    Raises `ArgumentError` for sizes below 1 and, when called, `ShapeError` where the input ends in other dimensions.

    >>> LayerNorm(3)
    LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True)
    """

    weight: Array | None
    bias: Array | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        self.normalized_shape = _shape("LayerNorm", normalized_shape)
        _check_features(self, "normalized_shape", math.prod(self.normalized_shape), eps, None)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        _add_scale(self, self.normalized_shape, elementwise_affine, elementwise_affine and bias, dtype)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={'bias' in self._entries}"
        )


class RMSNorm(Module):
    """`rms_norm` over the last dimensions, with `weight` of the shape of those.

    Raises `ArgumentError` for sizes below 1 and, when called, `ShapeError` where the input ends in other dimensions.

    >>> RMSNorm(3)
    RMSNorm((3,), eps=None, elementwise_affine=True)
    """

    weight: Array | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        self.normalized_shape = _shape("RMSNorm", normalized_shape)
        _check_features(self, "normalized_shape", math.prod(self.normalized_shape), eps or 0.0, None)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        _add_scale(self, self.normalized_shape, elementwise_affine, False, dtype)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """`group_norm` of [N, C, ...], with `weight` and `bias` of shape [C].

    Raises `ArgumentError` where the groups don't divide the channels and, when called, `ShapeError`.

    >>> GroupNorm(2, 6)
    GroupNorm(2, 6, eps=1e-05, affine=True, bias=True)
    """

    weight: Array | None
    bias: Array | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DType = f32,
    ) -> None:
        _check_features(self, "num_groups", num_groups, eps, None)
        if not is_integer(num_channels, least=1) or num_channels % num_groups:
            raise ArgumentError(
                f"{here().prefix}GroupNorm: expected num_channels a multiple of {num_groups}, got {num_channels!r}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        _add_scale(self, (num_channels,), affine, affine and bias, dtype)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(
                f"{here().prefix}GroupNorm: expected [N, {self.num_channels}, ...], got {list(x.shape)}"
            )
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={'bias' in self._entries}"
        )


class LocalResponseNorm(Module):
    """`local_response_norm` over `size` neighbouring channels (dimension 1).

    >>> LocalResponseNorm(2)
    LocalResponseNorm(2, alpha=0.0001, beta=0.75, k=1.0)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        _check_features(self, "size", size, 0.0, None)
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
