"""Optimisers whose step is scaled element by element by what gradients were: Adagrad, RMSprop, Adadelta, Adafactor.

The formulas are PyTorch's, term by term, so that the same gradients give the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.optim.base import Arrays, ByParameter, NumPy, Rate, check_fraction
from graphc.ir.guard import guarded


@dataclass(frozen=True)
class Adagrad(ByParameter):
    """Steps divided by the root of the sum of all squared gradients so far.

    g ← g + λ w,  s ← s + g²,  w ← w - η / (1 + (t - 1) κ) · g / (√s + ε), with κ the `lr_decay`; s begins at
    `initial_accumulator_value`. State: ``sum.<name>`` and the i32 scalar ``step``.
    Duchi, Hazan & Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011.
    Raises `ArgumentError` for settings out of range.

    >>> sorted(Adagrad().init({"w": np.float32([1, 2])}))
    ['step', 'sum.w']
    """

    learning_rate: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False

    counts: ClassVar[bool] = True

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def _slots(self, param: np.ndarray) -> NumPy:
        return {"sum": np.full_like(param, self.initial_accumulator_value)}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        total = slots["sum"] + grad * grad
        slower = rate / (1 + (scalars["step"] - 1) * self.lr_decay) if self.lr_decay else rate
        return param - slower * (grad / (F.sqrt(total) + self.eps)), {"sum": total}


@dataclass(frozen=True)
class RMSprop(ByParameter):
    """Steps divided by the root of a running mean of squared gradients.

    g ← g + λ w,  v ← α v + (1 - α) g²,  r = √v + ε,  w ← w - η g / r. With `centered`, v is reduced by the square of
    the running mean of g, an estimate of the variance; with `momentum` b ← μ b + g / r,  w ← w - η b.
    State: ``square_avg.<name>``, and ``grad_avg.<name>`` and ``momentum.<name>`` where they are used.
    Tieleman & Hinton, Lecture 6.5 - RMSProp, Coursera: Neural Networks for Machine Learning, 2012; centred in Graves,
    Generating Sequences with Recurrent Neural Networks, arXiv:1308.0850. Raises `ArgumentError` for settings out of
    range.

    >>> sorted(RMSprop(momentum=0.9).init({"w": np.float32([1, 2])}))
    ['momentum.w', 'square_avg.w']
    """

    learning_rate: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "eps", "weight_decay", "momentum")
        check_fraction("RMSprop: alpha", self.alpha)

    def _slots(self, param: np.ndarray) -> NumPy:
        names = ["square_avg", *["grad_avg"] * self.centered, *["momentum"] * bool(self.momentum)]
        return {name: np.zeros_like(param) for name in names}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        square = self.alpha * slots["square_avg"] + (1 - self.alpha) * (grad * grad)
        kept, variance = {"square_avg": square}, square
        if self.centered:
            mean = kept["grad_avg"] = slots["grad_avg"] + (1 - self.alpha) * (grad - slots["grad_avg"])
            variance = square - mean * mean
        scaled = grad / (F.sqrt(variance) + self.eps)
        if self.momentum:
            scaled = kept["momentum"] = self.momentum * slots["momentum"] + scaled
        return param - rate * scaled, kept


@dataclass(frozen=True)
class Adadelta(ByParameter):
    """Steps whose size is that of earlier steps: units are right without a learning rate of their own.

    g ← g + λ w,  v ← ρ v + (1 - ρ) g²,  Δ = √(u + ε) / √(v + ε) · g,  u ← ρ u + (1 - ρ) Δ²,  w ← w - η Δ.
    State: ``square_avg.<name>`` (v) and ``acc_delta.<name>`` (u).
    Zeiler, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701, algorithm 1.
    Raises `ArgumentError` for settings out of range.

    >>> sorted(Adadelta().init({"w": np.float32([1, 2])}))
    ['acc_delta.w', 'square_avg.w']
    """

    learning_rate: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    maximize: bool = False

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "eps", "weight_decay")
        check_fraction("Adadelta: rho", self.rho)

    def _slots(self, param: np.ndarray) -> NumPy:
        return {"square_avg": np.zeros_like(param), "acc_delta": np.zeros_like(param)}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        square = self.rho * slots["square_avg"] + (1 - self.rho) * (grad * grad)
        delta = F.sqrt(slots["acc_delta"] + self.eps) / F.sqrt(square + self.eps) * grad
        moved = self.rho * slots["acc_delta"] + (1 - self.rho) * (delta * delta)
        return param - rate * delta, {"square_avg": square, "acc_delta": moved}


@dataclass(frozen=True)
class Adafactor(ByParameter):
    """Adaptive steps whose second moments of a matrix are kept as one number a row and one a column.

    With b = t^τ (τ the `beta2_decay`), r ← r + b (mean of g² over the columns - r), c likewise over the rows, the
    second moment is V = r cᵀ / mean r; vectors and scalars keep it whole. U = g / √V is clipped to a root mean square
    of `d`, and the step is relative: w ← w - max(ε₂, rms(w)) · min(η, 1/√t) · U, after a decay by η λ w. ε₁ is by
    default the machine epsilon of the data type. Dimensions before the last two are matrices of their own.
    State: ``row_var.<name>`` and ``col_var.<name>``, or ``variance.<name>``, and the i32 scalar ``step``.
    Shazeer & Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, ICML 2018, arXiv:1804.04235,
    algorithms 4 and 5. Raises `ArgumentError` for settings out of range.

    >>> {name: array.shape for name, array in Adafactor().init({"w": np.zeros((3, 5)), "b": np.zeros(3)}).items()}
    {'step': (), 'row_var.w': (3, 1), 'col_var.w': (1, 5), 'variance.b': (3,)}
    """

    learning_rate: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0
    maximize: bool = False

    counts: ClassVar[bool] = True

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "d", "weight_decay")
        if not self.beta2_decay <= 0:
            raise ArgumentError(
                f"Adafactor: beta2_decay: expected a number of at most 0, got {self.beta2_decay!r}"
            )

    def _slots(self, param: np.ndarray) -> NumPy:
        if param.ndim < 2:
            return {"variance": np.zeros_like(param)}
        *outer, rows, columns = param.shape
        return {
            "row_var": np.zeros((*outer, rows, 1), param.dtype),
            "col_var": np.zeros((*outer, 1, columns), param.dtype),
        }

    def _decay(self, param: Array, grad: Array, rate: Rate) -> tuple[Array, Array]:
        """Nothing yet: `_move` shrinks the weights after it took their size."""
        return param, grad

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        time, size = scalars["step"], param.size
        first = float(np.finfo(param.dtype.numpy).eps) if self.eps[0] is None else self.eps[0]
        share = F.pow(time, self.beta2_decay)
        relative = F.minimum(F.asarray(rate), F.rsqrt(time))
        step = F.maximum(_root_mean_square(param, size), self.eps[1]) * relative
        square = grad * grad
        if grad.ndim < 2:
            kept = {"variance": slots["variance"] + share * (square - slots["variance"])}
            estimate = kept["variance"]
        else:
            rows = slots["row_var"] + share * (F.mean(square, axis=-1, keepdims=True) - slots["row_var"])
            columns = slots["col_var"] + share * (F.mean(square, axis=-2, keepdims=True) - slots["col_var"])
            kept = {"row_var": rows, "col_var": columns}
            estimate = rows * columns / F.maximum(F.mean(rows, axis=-2, keepdims=True), first)
        update = F.rsqrt(F.maximum(estimate, first * first)) * grad
        clipped = F.maximum(_root_mean_square(update, size) / self.d, 1.0)
        if self.weight_decay:
            param = param * (1 - rate * self.weight_decay)
        return param - step / clipped * update, kept


def _root_mean_square(x: Array, size: int) -> Array:
    return F.sqrt(F.sum(x * x)) / math.sqrt(size)
