"""Adam and its kin: running means of the gradient and of its square, both corrected for their start at 0.

The formulas are PyTorch's, term by term, so that the same gradients give the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.optim.base import Arrays, ByParameter, NumPy, Rate, bias_correction, check_betas
from graphc.ir.guard import guarded
from graphc.ir.types import f64


class _Moments(ByParameter):
    """The two running means that all of the family keep."""

    betas: tuple[float, float]
    counts: ClassVar[bool] = True

    @guarded
    def __post_init__(self) -> None:
        self._check("learning_rate", "eps", "weight_decay")
        check_betas(type(self).__name__, self.betas)

    def _slots(self, param: np.ndarray) -> NumPy:
        return {"exp_avg": np.zeros_like(param), "exp_avg_sq": np.zeros_like(param)}

    def _means(self, grad: Array, slots: Arrays) -> dict[str, Array]:
        beta1, beta2 = self.betas
        mean, square = slots["exp_avg"], slots["exp_avg_sq"]
        return {
            "exp_avg": mean + (1 - beta1) * (grad - mean),
            "exp_avg_sq": beta2 * square + (1 - beta2) * (grad * grad),
        }


@dataclass(frozen=True)
class Adam(_Moments):
    """Adam: steps scaled by running means of the gradient and of its square, both corrected for their start at 0.

    g ← g + λ w,  m ← m + (1 - β₁)(g - m),  v ← β₂ v + (1 - β₂) g²,
    w ← w - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε). With `amsgrad` the largest v so far takes v's place.
    State: ``exp_avg.<name>``, ``exp_avg_sq.<name>``, with `amsgrad` ``max_exp_avg_sq.<name>``, and the i32 scalar
    ``step``. 1 - βᵗ is computed as -expm1(t log β), which keeps all digits in f32 where 1 - 0.999 would lose half of
    them. Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, algorithm 1; Reddi, Kale
    & Kumar, On the Convergence of Adam and Beyond, ICLR 2018. Raises `ArgumentError` for settings out of range.

    >>> sorted(Adam().init({"w": np.float32([1, 2])}))
    ['exp_avg.w', 'exp_avg_sq.w', 'step']
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False

    def _slots(self, param: np.ndarray) -> NumPy:
        largest = {"max_exp_avg_sq": np.zeros_like(param)} if self.amsgrad else {}
        return {**super()._slots(param), **largest}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        beta1, beta2 = self.betas
        time = scalars["step"]
        # the corrections of both means are applied to two scalars, not to every element (Adam's paper, section 2)
        root = F.sqrt(bias_correction(beta2, time))
        step_size = rate / bias_correction(beta1, time) * root
        eps = self.eps * root
        kept = self._means(grad, slots)
        square = kept["exp_avg_sq"]
        if self.amsgrad:
            square = kept["max_exp_avg_sq"] = F.maximum(slots["max_exp_avg_sq"], square)
        return param - step_size * (kept["exp_avg"] / (F.sqrt(square) + eps)), kept


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay shrinks the weights by η λ w, whatever the size of the gradients.

    Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101, algorithm 2.

    >>> AdamW().weight_decay
    0.01
    """

    weight_decay: float = 1e-2

    decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class NAdam(_Moments):
    """Adam with Nesterov's momentum, whose size grows along a schedule.

    μₜ = β₁ (1 - ½ · 0.96^(t ψ)) with ψ the `momentum_decay`, and with the means m and v of Adam
    w ← w - η [(1 - μₜ) / (1 - Πμ) · g + μₜ₊₁ / (1 - Πμ · μₜ₊₁) · m] / (√(v / (1 - β₂ᵗ)) + ε).
    State: that of Adam, and ``mu_product``, the product of all μ so far.
    Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop. Raises `ArgumentError` for settings out of range.

    >>> sorted(NAdam().init({"w": np.float32([1, 2])}))
    ['exp_avg.w', 'exp_avg_sq.w', 'mu_product', 'step']
    """

    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    maximize: bool = False

    @guarded
    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum_decay")

    def _scalars(self, dtype: np.dtype) -> NumPy:
        return {**super()._scalars(dtype), "mu_product": np.ones((), dtype)}

    def _advanced(self, scalars: Arrays) -> dict[str, Array]:
        product = scalars["mu_product"]
        step = scalars["step"] + 1
        return {"step": step, "mu_product": product * self._momentum(F.astype(step, product.dtype))}

    def _momentum(self, time: Array) -> Array:
        return self.betas[0] * (1.0 - 0.5 * F.exp(time * (self.momentum_decay * math.log(0.96))))

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        time, product = scalars["step"], scalars["mu_product"]
        now, later = self._momentum(time), self._momentum(time + 1)
        kept = self._means(grad, slots)
        denominator = F.sqrt(kept["exp_avg_sq"] / bias_correction(self.betas[1], time)) + self.eps
        of_grad = rate * (1.0 - now) / (1.0 - product)
        of_mean = rate * later / (1.0 - product * later)
        return param - of_grad * (grad / denominator) - of_mean * (kept["exp_avg"] / denominator), kept


@dataclass(frozen=True)
class RAdam(_Moments):
    """Adam that waits for its second moment: steps without it while its variance would be large, rectified ones after.

    ρ∞ = 2 / (1 - β₂) - 1,  ρₜ = ρ∞ - 2 t β₂ᵗ / (1 - β₂ᵗ),  m̂ = m / (1 - β₁ᵗ). While ρₜ ≤ 5, w ← w - η m̂; then
    w ← w - η m̂ √(1 - β₂ᵗ) / (√v + ε) · √((ρₜ - 4)(ρₜ - 2) ρ∞ / ((ρ∞ - 4)(ρ∞ - 2) ρₜ)). ρₜ is a small difference of
    large numbers and is computed in f64. State: that of Adam.
    Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv:1908.03265, algorithm 2.
    Raises `ArgumentError` for settings out of range.

    >>> sorted(RAdam().init({"w": np.float32([1, 2])}))
    ['exp_avg.w', 'exp_avg_sq.w', 'step']
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False

    @property
    def decoupled(self) -> bool:  # type: ignore[override]  # a setting here, a fact of the class elsewhere
        return self.decoupled_weight_decay

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        beta1, beta2 = self.betas
        dtype = param.dtype
        time = F.astype(scalars["step"], f64)
        correction = bias_correction(beta2, time)
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * time * (1.0 - correction) / correction
        rectified = length > 5.0
        safe = F.where(rectified, length, 6.0)
        factor = (safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)
        scale = F.astype(F.sqrt(factor * correction), dtype)
        kept = self._means(grad, slots)
        step = rate / bias_correction(beta1, scalars["step"])
        adaptive = scale / (F.sqrt(kept["exp_avg_sq"]) + self.eps)
        return param - step * (kept["exp_avg"] * F.where(rectified, adaptive, 1.0)), kept
