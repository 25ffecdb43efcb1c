"""Gradient descent with momentum, and Lion, which takes the signs of it.

The formulas are PyTorch's, term by term, so that the same gradients give the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.optim.base import Arrays, ByParameter, NumPy, Rate, check_betas
from graphc.ir.guard import guarded


@dataclass(frozen=True)
class SGD(ByParameter):
    """Stochastic gradient descent with heavy-ball or Nesterov's momentum and L2 weight decay.

    g ← g + λ w,  b ← μ b + g,  w ← w - η b; with `nesterov` w ← w - η (g + μ b). The momentum b begins at 0 and is
    kept as ``momentum.<name>``. Polyak, Some Methods of Speeding up the Convergence of Iteration Methods, 1964;
    Nesterov, A Method of Solving a Convex Programming Problem with Convergence Rate O(1/k²), 1983; in the form of
    Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013, without their
    (1 - μ). With `maximize` the gradients change their sign. Raises `ArgumentError` for a negative or non-finite
    setting, and for `nesterov` without momentum.

    >>> SGD(0.1, momentum=0.9).init({"w": np.float32([1, 2])})
    {'momentum.w': array([0., 0.], dtype=float32)}
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "momentum", "weight_decay")
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD: nesterov: expected a momentum above 0, got 0")

    def _slots(self, param: np.ndarray) -> NumPy:
        return {"momentum": np.zeros_like(param)} if self.momentum else {}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        if not self.momentum:
            return param - rate * grad, {}
        moved = self.momentum * slots["momentum"] + grad
        return param - rate * (grad + self.momentum * moved if self.nesterov else moved), {"momentum": moved}


@dataclass(frozen=True)
class Lion(ByParameter):
    """Steps of one size, in the direction of the signs of a mean of gradients.

    w ← w - η λ w,  w ← w - η sign(β₁ m + (1 - β₁) g),  m ← β₂ m + (1 - β₂) g. State: ``exp_avg.<name>``.
    Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv:2302.06675, algorithm 2.
    Raises `ArgumentError` for settings out of range.

    >>> sorted(Lion().init({"w": np.float32([1, 2])}))
    ['exp_avg.w']
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    maximize: bool = False

    decoupled: ClassVar[bool] = True

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "weight_decay")
        check_betas("Lion", self.betas)

    def _slots(self, param: np.ndarray) -> NumPy:
        return {"exp_avg": np.zeros_like(param)}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        (now, later), mean = self.betas, slots["exp_avg"]
        return (
            param - rate * F.sign(now * mean + (1 - now) * grad),
            {"exp_avg": later * mean + (1 - later) * grad},
        )
