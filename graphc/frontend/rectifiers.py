"""More activation layers under PyTorch's names: bounded, shrinking, and those over channels.

In: settings. Out: modules of one input, with PyTorch's derivatives at kinks.
"""

from __future__ import annotations

from graphc.errors import ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.layers import ELU, Hardtanh, Softmax
from graphc.frontend.modules import Module
from graphc.ir.loc import here


class ReLU6(Hardtanh):
    """x within [0, 6], with derivative 0 at both.

    >>> ReLU6()
    ReLU6()
    """

    def __init__(self) -> None:
        super().__init__(0.0, 6.0)

    def extra_repr(self) -> str:
        return ""


class CELU(ELU):
    """x above 0, `alpha` (exp(x / alpha) - 1) up to it. Barron, arXiv:1704.07483.

    >>> CELU()
    CELU(alpha=1.0)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return self.alpha * activations.elu(x / self.alpha)


class LogSigmoid(Module):
    """log σ(x) = -softplus(-x), stable at both ends."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return -activations.softplus(-x)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return x / (1.0 + F.abs(x))


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return x - F.tanh(x)


class Hardshrink(Module):
    """x where |x| > `lambd`, else 0.

    >>> Hardshrink()
    Hardshrink(0.5)
    """

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return F.where(F.abs(x) <= self.lambd, 0.0, x)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Hardshrink):
    """x - `lambd` above it, x + `lambd` below -`lambd`, 0 between.

    >>> Softshrink()
    Softshrink(0.5)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return F.where(x > self.lambd, x - self.lambd, F.where(x < -self.lambd, x + self.lambd, 0.0))


class Threshold(Module):
    """x above `threshold`, else `value`.

    >>> Threshold(0.1, 20.0)
    Threshold(threshold=0.1, value=20.0)
    """

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold = threshold
        self.value = value

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return F.where(x <= self.threshold, self.value, x)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"


class Softmin(Softmax):
    """The softmax of -x along `dim`.

    >>> Softmin(dim=1)
    Softmin(dim=1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return activations.softmax(-x, self.dim)


class Softmax2d(Module):
    """The softmax over the channels of [N, C, H, W] or [C, H, W], at each place. Raises `ShapeError` for other ranks."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if x.ndim not in (3, 4):
            raise ShapeError(
                f"{here().prefix}Softmax2d: expected [N, C, H, W] or [C, H, W], got {list(x.shape)}"
            )
        return activations.softmax(x, -3)
