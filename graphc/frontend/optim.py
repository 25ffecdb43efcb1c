"""Optimisers as pure functions: parameters, gradients and state in, new parameters and state out.

In: flat dicts ``name -> array`` and a learning rate that is a runtime scalar. Out: traced dicts of the same names.
The formulas are PyTorch's, term by term, so that the same gradients give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_rate
from graphc.ir.types import DType

Arrays = Mapping[str, Array]
Rate = Array | float


class Optimizer(Protocol):
    """What `graphc.fit` needs: a starting learning rate, a state to begin with, and an update."""

    @property
    def learning_rate(self) -> float: ...

    def init(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def update(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate
    ) -> tuple[dict[str, Array], dict[str, Array]]: ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball or Nesterov's momentum and L2 weight decay.

    g ← g + λ w,  b ← μ b + g,  w ← w - η b; with `nesterov` w ← w - η (g + μ b). The momentum b begins at 0 and is
    kept as ``momentum.<name>``. Polyak, Some Methods of Speeding up the Convergence of Iteration Methods, 1964;
    Nesterov, A Method of Solving a Convex Programming Problem with Convergence Rate O(1/k²), 1983; in the form of
    Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013, without their
    (1 - μ). Raises `ArgumentError` for a negative or non-finite setting, and for `nesterov` without momentum.

    >>> SGD(0.1, momentum=0.9).init({"w": np.float32([1, 2])})
    {'momentum.w': array([0., 0.], dtype=float32)}
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "weight_decay"):
            _check(f"SGD: {name}", getattr(self, name))
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD: nesterov: expected a momentum above 0, got 0")

    def init(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The state before the first step; empty without momentum."""
        return {f"momentum.{name}": np.zeros_like(p) for name, p in params.items()} if self.momentum else {}

    def update(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """One step; raises `ArgumentError` where the names of the dicts don't fit together."""
        _check_names(params, grads, state, self.init({name: np.zeros(0) for name in params}))
        new_params, new_state = {}, {}
        for name, param in params.items():
            grad = grads[name] + self.weight_decay * param if self.weight_decay else grads[name]
            if self.momentum:
                moved = new_state[f"momentum.{name}"] = self.momentum * state[f"momentum.{name}"] + grad
                grad = grad + self.momentum * moved if self.nesterov else moved
            new_params[name] = param - _cast(learning_rate, param.dtype) * grad
        return new_params, new_state


@dataclass(frozen=True)
class Adam:
    """Adam: steps scaled by running means of the gradient and of its square, both corrected for their start at 0.

    g ← g + λ w,  m ← m + (1 - β₁)(g - m),  v ← β₂ v + (1 - β₂) g²,
    w ← w - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε).
    State: ``exp_avg.<name>``, ``exp_avg_sq.<name>`` and the i32 scalar ``step``. 1 - βᵗ is computed as
    -expm1(t log β), which keeps all digits in f32 where 1 - 0.999 would lose half of them.
    Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, algorithm 1.
    Raises `ArgumentError` for settings out of range.

    >>> sorted(Adam().init({"w": np.float32([1, 2])}))
    ['exp_avg.w', 'exp_avg_sq.w', 'step']
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    decoupled: ClassVar[bool] = False  # the decay shrinks the weights, not by way of the gradients

    def __post_init__(self) -> None:
        what = type(self).__name__
        for name in ("learning_rate", "eps", "weight_decay"):
            _check(f"{what}: {name}", getattr(self, name))
        betas: tuple[float, ...] = self.betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ArgumentError(f"{what}: betas: expected two numbers in [0, 1), got {self.betas!r}")

    def init(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The state before the first step: all zeros."""
        state: dict[str, np.ndarray] = {"step": np.zeros((), np.int32)}
        for name, param in params.items():
            state[f"exp_avg.{name}"] = np.zeros_like(param)
            state[f"exp_avg_sq.{name}"] = np.zeros_like(param)
        return state

    def update(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """One step; raises `ArgumentError` where the names of the dicts don't fit together."""
        _check_names(params, grads, state, self.init({name: np.zeros(0) for name in params}))
        beta1, beta2 = self.betas
        step = state["step"] + 1
        new_params: dict[str, Array] = {}
        new_state = {"step": step}
        for name, param in params.items():
            dtype = param.dtype
            time = F.astype(step, dtype)
            # the corrections of both means are applied to two scalars, not to every element (Adam's paper, section 2)
            root = F.sqrt(_bias_correction(beta2, time))
            step_size = _cast(learning_rate, dtype) / _bias_correction(beta1, time) * root
            eps = self.eps * root
            grad = grads[name]
            if self.weight_decay and self.decoupled:
                param = param * (1 - _cast(learning_rate, dtype) * self.weight_decay)
            elif self.weight_decay:
                grad = grad + self.weight_decay * param
            mean, square = state[f"exp_avg.{name}"], state[f"exp_avg_sq.{name}"]
            mean = mean + (1 - beta1) * (grad - mean)
            square = beta2 * square + (1 - beta2) * (grad * grad)
            new_params[name] = param - step_size * (mean / (F.sqrt(square) + eps))
            new_state[f"exp_avg.{name}"], new_state[f"exp_avg_sq.{name}"] = mean, square
        return new_params, new_state


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay shrinks the weights by η λ w, whatever the size of the gradients.

    Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101, algorithm 2.

    >>> AdamW().weight_decay
    0.01
    """

    weight_decay: float = 1e-2

    decoupled: ClassVar[bool] = True


def _bias_correction(beta: float, time: Array) -> Array:
    """1 - βᵗ; for β = 0 that is 1 from the first step on."""
    return F.ones_like(time) if beta == 0 else -F.expm1(time * math.log(beta))


def _cast(rate: Rate, dtype: DType) -> Rate:
    """The rate in the parameter's own type, so that an f64 rate never widens f32 weights."""
    return F.astype(rate, dtype) if isinstance(rate, Array) and rate.dtype != dtype else rate


def _check(what: str, value: float) -> None:
    if not is_rate(value):
        raise ArgumentError(f"{what}: expected a finite number of at least 0, got {value!r}")


def _check_names(
    params: Mapping[str, object],
    grads: Mapping[str, object],
    state: Mapping[str, object],
    wanted: Mapping[str, object],
) -> None:
    for what, given, names in (("grads", grads, params), ("state", state, wanted)):
        if set(given) != set(names):
            missing, unknown = sorted(set(names) - set(given)), sorted(set(given) - set(names))
            raise ArgumentError(
                f"update: {what}: expected the parameters' names, missing {missing}, unknown {unknown}"
            )
