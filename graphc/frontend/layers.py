"""The layers of `graphc.nn`: PyTorch's names, arguments, layouts and defaults.

In: sizes and settings. Out: modules whose `forward` composes array functions.
"""

from __future__ import annotations

import math

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.init import Initializer, constant, fan_in_uniform
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.ir.loc import here
from graphc.ir.types import DType, f32


class Linear(Module):
    """y = x Wᵀ + b over the last dimension, with `weight` of shape [out, in] and `bias` of shape [out].

    Both start uniform within ±√(1/in_features); `weight_init` and `bias_init` replace that. With `seed` the values
    are drawn at once, else with the model's. Integer inputs are converted to the weight's data type.
    Raises `ArgumentError` for sizes below 1 and, when called, `ShapeError` where the last dimension is another.

    >>> Linear(3, 2, seed=0).weight.shape
    (2, 3)
    """

    weight: Array
    bias: Array | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        seed: int | None = None,
        dtype: DType = f32,
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
    ) -> None:
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if not is_integer(size, least=1):
                raise ArgumentError(f"{here().prefix}Linear: expected {name} of at least 1, got {size!r}")
        self.in_features = in_features
        self.out_features = out_features
        start = fan_in_uniform(in_features)
        shape = (out_features, in_features)
        self.register_parameter(
            "weight", Parameter(shape=shape, initializer=weight_init or start, dtype=dtype)
        )
        if bias:
            entry = Parameter(shape=(out_features,), initializer=bias_init or start, dtype=dtype)
            self.register_parameter("bias", entry)
        else:
            self.bias = None
        if seed is not None:
            self.init(seed)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        weight, bias = self.weight, self.bias
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"{here().prefix}Linear: expected [..., {self.in_features}], got {list(x.shape)}"
            )
        if not x.dtype.is_float:
            x = F.astype(x, weight.dtype)
        y = F.matmul(x, weight.T)
        return y if bias is None else y + bias

    def extra_repr(self) -> str:
        has_bias = "bias" in self._entries
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}"


class Flatten(Module):
    """Joins the dimensions from `start_dim` to `end_dim` into one.

    >>> Flatten()
    Flatten(start_dim=1, end_dim=-1)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        rank = max(x.ndim, 1)
        start, end = (d + rank if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < rank:
            raise ShapeError(
                f"{here().prefix}Flatten: expected dimensions {self.start_dim} to {self.end_dim} within rank {x.ndim}, "
                f"got {list(x.shape)}"
            )
        return F.reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class ReLU(Module):
    """max(x, 0), with derivative 0 at 0."""

    def forward(self, *inputs: Array) -> Array:
        return activations.relu(*inputs)


class LeakyReLU(Module):
    """x above 0, `negative_slope` · x up to it.

    >>> LeakyReLU()
    LeakyReLU(negative_slope=0.01)
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """x above 0, `alpha` (exp(x) - 1) up to it.

    >>> ELU()
    ELU(alpha=1.0)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class SELU(Module):
    """ELU, scaled such that zero mean and unit variance are a fixed point."""

    def forward(self, *inputs: Array) -> Array:
        return activations.selu(*inputs)


class SiLU(Module):
    """x σ(x)."""

    def forward(self, *inputs: Array) -> Array:
        return activations.silu(*inputs)


class Mish(Module):
    """x tanh(softplus(x))."""

    def forward(self, *inputs: Array) -> Array:
        return activations.mish(*inputs)


class Hardtanh(Module):
    """x within [`min_val`, `max_val`].

    >>> Hardtanh()
    Hardtanh(min_val=-1.0, max_val=1.0)
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        if not min_val < max_val:
            raise ArgumentError(
                f"{here().prefix}Hardtanh: expected min_val < max_val, got {min_val!r} and {max_val!r}"
            )
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Hardsigmoid(Module):
    """x / 6 + 1/2 within [0, 1]."""

    def forward(self, *inputs: Array) -> Array:
        return activations.hardsigmoid(*inputs)


class Hardswish(Module):
    """x times the hard sigmoid of x."""

    def forward(self, *inputs: Array) -> Array:
        return activations.hardswish(*inputs)


class PReLU(Module):
    """x above 0, `weight` · x up to it, where `weight` is trained: one for all or one for each channel (dimension 1).

    >>> PReLU().parameters
    {'weight': array([0.25], dtype=float32)}
    """

    weight: Array

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: DType = f32) -> None:
        if not is_integer(num_parameters, least=1):
            raise ArgumentError(
                f"{here().prefix}PReLU: expected num_parameters of at least 1, got {num_parameters!r}"
            )
        self.num_parameters = num_parameters
        entry = Parameter(shape=(num_parameters,), initializer=constant(init), dtype=dtype)
        self.register_parameter("weight", entry)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Dropout(Module):
    """In training each element is 0 with probability `p`, else divided by 1 - p; else the layer does nothing.

    Training is a call by ``model.apply(..., key=key, train=True)``, as `graphc.fit` makes it; without a key that call
    raises `ArgumentError`, and so does a `p` outside [0, 1].

    >>> Dropout(0.2)
    Dropout(p=0.2)
    """

    def __init__(self, p: float = 0.5) -> None:
        activations.check_probability("Dropout", p)
        self.p = p

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.dropout(x, self.next_key(), self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Sigmoid(Module):
    """The logistic function."""

    def forward(self, *inputs: Array) -> Array:
        return activations.sigmoid(*inputs)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, *inputs: Array) -> Array:
        return activations.tanh(*inputs)


class Softplus(Module):
    """log(1 + exp(x)), stable at both ends."""

    def forward(self, *inputs: Array) -> Array:
        return activations.softplus(*inputs)


class GELU(Module):
    """x Φ(x), exact or (``approximate="tanh"``) by its tanh formula.

    >>> GELU("tanh")
    GELU(approximate='tanh')
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ArgumentError(
                f"{here().prefix}GELU: expected approximate='none' or 'tanh', got {approximate!r}"
            )
        self.approximate = approximate

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softmax(Module):
    """exp(x) / Σ exp(x) along `dim`.

    >>> Softmax(dim=1)
    Softmax(dim=1)
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """x - log Σ exp(x) along `dim`.

    >>> LogSoftmax(dim=1)
    LogSoftmax(dim=1)
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
