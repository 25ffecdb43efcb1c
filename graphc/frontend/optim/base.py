"""What all optimisers share: their protocol, their checks, and the loop over parameters.

In: flat dicts ``name -> array``. Out: traced dicts of the same names. An optimiser that treats each parameter alone is a
`ByParameter`: it states the arrays that it keeps for a parameter and one step of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_rate
from graphc.ir.guard import guarded
from graphc.ir.types import DType, TensorType, dtype_of

Arrays = Mapping[str, Array]
New = tuple[dict[str, Array], dict[str, Array]]  # parameters and state after a step
Rate = Array | float
NumPy = dict[str, np.ndarray]


class Optimizer(Protocol):
    """What `graphc.fit` needs: a starting learning rate, a state to begin with, and an update."""

    @property
    def learning_rate(self) -> float: ...

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy: ...

    def update(self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate) -> New: ...


@runtime_checkable
class UsesLoss(Protocol):
    """An optimiser whose step wants the loss at the parameters as well: a line search, or what wraps one."""

    def update_with_loss(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array
    ) -> New: ...


@runtime_checkable
class HasEvaluated(Protocol):
    """An optimiser that keeps better weights in its state than those of the next step: averages, the last good point."""

    def evaluated(self, names: list[str]) -> dict[str, str]:
        """For each parameter to be evaluated with an array of the state, the name of that array."""


@guarded
def advance(
    optimizer: Optimizer,
    params: Arrays,
    grads: Arrays,
    state: Arrays,
    learning_rate: Rate,
    loss: Array | None = None,
) -> New:
    """One step of any optimiser; `loss` reaches those that use it."""
    if isinstance(optimizer, UsesLoss) and loss is not None:
        return optimizer.update_with_loss(params, grads, state, learning_rate, loss)
    return optimizer.update(params, grads, state, learning_rate)


@guarded
def evaluated(optimizer: Optimizer, names: list[str]) -> dict[str, str]:
    """The names of the state's arrays that stand for parameters when a model is evaluated; mostly none."""
    return optimizer.evaluated(names) if isinstance(optimizer, HasEvaluated) else {}


@runtime_checkable
class NeedsFullBatch(Protocol):
    """An optimiser, or what wraps one, that says whether it compares losses of different steps."""

    @property
    def full_batch(self) -> bool: ...


@guarded
def needs_full_batch(optimizer: Optimizer) -> bool:
    """Whether each step must see the same data: with a line search it must."""
    return isinstance(optimizer, NeedsFullBatch) and optimizer.full_batch


class ByParameter:
    """The base of optimisers that treat each parameter alone.

    A subclass states `_slots`, the arrays it keeps for one parameter, `_move`, one step of one parameter, and, where it
    counts steps, `counts`. What it keeps for all is in `_scalars` and `_advanced`.
    """

    learning_rate: float
    weight_decay: float
    maximize: bool
    counts: ClassVar[bool] = False
    decoupled: ClassVar[bool] = False  # the decay shrinks the weights, not by way of the gradients

    def _slots(self, param: np.ndarray) -> NumPy:
        return {}

    def _scalars(self, dtype: np.dtype) -> NumPy:
        return {"step": np.zeros((), np.int32)} if self.counts else {}

    def _advanced(self, scalars: Arrays) -> dict[str, Array]:
        return {"step": scalars["step"] + 1} if self.counts else {}

    def _move(
        self, param: Array, grad: Array, slots: Arrays, scalars: Arrays, rate: Rate
    ) -> tuple[Array, dict[str, Array]]:
        raise NotImplementedError

    def _decay(self, param: Array, grad: Array, rate: Rate) -> tuple[Array, Array]:
        """A parameter and its gradient with the weight decay."""
        if self.decoupled:
            return param * (1 - rate * self.weight_decay), grad
        return param, grad + self.weight_decay * param

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        """The state before the first step."""
        widest = np.result_type(*(p.dtype for p in params.values())) if params else np.dtype(np.float32)
        state = self._scalars(widest)
        for name, param in params.items():
            state.update({f"{slot}.{name}": array for slot, array in self._slots(param).items()})
        return state

    def update(self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate) -> New:
        """One step; raises `ArgumentError` where the names or types of the dicts don't fit together."""
        check_arguments(self, params, grads, state)
        scalars = self._advanced(state)
        new_params: dict[str, Array] = {}
        new_state = dict(scalars)
        for name, param in params.items():
            dtype = param.dtype
            slots = {slot: state[f"{slot}.{name}"] for slot in self._slots(np.zeros(param.shape, np.bool_))}
            grad = -grads[name] if self.maximize else grads[name]
            rate = cast(learning_rate, dtype)
            param, grad = self._decay(param, grad, rate) if self.weight_decay else (param, grad)
            moved, kept = self._move(
                param, grad, slots, {n: F.astype(s, dtype) for n, s in scalars.items()}, rate
            )
            new_params[name] = moved
            new_state.update({f"{slot}.{name}": array for slot, array in kept.items()})
        return new_params, new_state

    def _check(self, *names: str) -> None:
        """Raises `ArgumentError` for settings that are not finite numbers of at least 0."""
        for name in names:
            check_rate(f"{type(self).__name__}: {name}", getattr(self, name))


def bias_correction(beta: float, time: Array) -> Array:
    """1 - βᵗ as -expm1(t log β), which keeps all digits in f32; for β = 0 that is 1 from the first step on."""
    return F.ones_like(time) if beta == 0 else -F.expm1(time * math.log(beta))


def cast(rate: Rate, dtype: DType) -> Rate:
    """The rate in the parameter's own type, so that an f64 rate never widens f32 weights."""
    return F.astype(rate, dtype) if isinstance(rate, Array) and rate.dtype != dtype else rate


def check_rate(what: str, value: float) -> None:
    if not is_rate(value):
        raise ArgumentError(f"{what}: expected a finite number of at least 0, got {value!r}")


def check_betas(what: str, betas: tuple[float, ...]) -> None:
    if len(betas) != 2 or not all(is_rate(beta) and beta < 1 for beta in betas):
        raise ArgumentError(f"{what}: betas: expected two numbers in [0, 1), got {betas!r}")


def check_fraction(what: str, value: float) -> None:
    if not (is_rate(value) and value <= 1):
        raise ArgumentError(f"{what}: expected a number from 0 to 1, got {value!r}")


def check_arguments(
    optimizer: ByParameter | Optimizer, params: Arrays, grads: Arrays, state: Arrays, what: str = "update"
) -> None:
    """Raises `ArgumentError` where gradients or state are not those of the parameters."""
    _check_names(f"{what}: grads", grads, params)
    check_state(optimizer, params, state, what)


@guarded
def check_state(
    optimizer: ByParameter | Optimizer,
    params: Mapping[str, Array | np.ndarray],
    state: Mapping[str, Array | np.ndarray],
    what: str = "update",
) -> None:
    """Raises one `ArgumentError` that lists every name, shape and data type of a state that is not the parameters' own.

    >>> from graphc import optim
    >>> check_state(optim.SGD(0.1, momentum=0.9), {"w": np.zeros(2)}, {"momentum.w": np.zeros(3)})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    graphc.errors.ArgumentError: ...:1: update: state: momentum.w: expected f64[2], got f64[3]
    """
    wanted = optimizer.init({n: np.zeros(p.shape, numpy_dtype(p)) for n, p in params.items()})
    _check_names(f"{what}: state", state, wanted)
    wrong = [
        f"{name}: expected {array_type(array)!r}, got {array_type(state[name])!r}"
        for name, array in wanted.items()
        if array_type(array) != array_type(state[name])
    ]
    if wrong:
        raise ArgumentError(f"{what}: state: {'; '.join(wrong)}")


def numpy_dtype(array: Array | np.ndarray) -> np.dtype:
    return np.dtype(array.dtype.numpy if isinstance(array, Array) else array.dtype)


def array_type(array: Array | np.ndarray) -> TensorType:
    return TensorType(
        array.dtype if isinstance(array, Array) else dtype_of(np.asarray(array).dtype), array.shape
    )


def _check_names(what: str, given: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    if set(given) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        raise ArgumentError(f"{what}: expected the parameters' names, missing {missing}, unknown {unknown}")
