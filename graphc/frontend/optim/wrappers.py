"""Optimisers made of optimisers: clipped gradients, micro-batches, averaged weights, groups of parameters.

In: an optimiser. Out: one with the same protocol, whose update is part of the same compiled step. They nest:
``ema(clip_by_norm(Adam(), 1.0))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer, is_rate
from graphc.frontend.optim.base import (
    Arrays,
    New,
    NumPy,
    Optimizer,
    Rate,
    advance,
    cast,
    check_arguments,
    check_fraction,
    evaluated,
    needs_full_batch,
)
from graphc.frontend.promotion import result_type
from graphc.ir.guard import guarded
from graphc.ir.loc import here


class _Wrapper:
    """An optimiser around another one, `optimizer`; `_step` is its update."""

    optimizer: Optimizer

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    @property
    def full_batch(self) -> bool:
        return needs_full_batch(self.optimizer)

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        """The state before the first step."""
        return self.optimizer.init(params)

    def evaluated(self, names: list[str]) -> dict[str, str]:
        return evaluated(self.optimizer, names)

    def update(self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate) -> New:
        """One step; raises `ArgumentError` where the names or types of the dicts don't fit together."""
        check_arguments(self, params, grads, state)
        return self._step(params, grads, state, learning_rate, None)

    def update_with_loss(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array
    ) -> New:
        """One step of an optimiser that may use the loss as well."""
        check_arguments(self, params, grads, state)
        return self._step(params, grads, state, learning_rate, loss)

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        raise NotImplementedError


@dataclass(frozen=True)
class ClipByValue(_Wrapper):
    """See `clip_by_value`."""

    optimizer: Optimizer
    limit: float

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        clipped = {name: F.clip(grad, -self.limit, self.limit) for name, grad in grads.items()}
        return advance(self.optimizer, params, clipped, state, learning_rate, loss)


@dataclass(frozen=True)
class ClipByNorm(_Wrapper):
    """See `clip_by_norm`."""

    optimizer: Optimizer
    limit: float
    norm_type: float = 2.0

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        norm = global_norm(grads, self.norm_type)
        factor = F.minimum(self.limit / (norm + 1e-6), 1.0)
        clipped = {name: grad * F.astype(factor, grad.dtype) for name, grad in grads.items()}
        return advance(self.optimizer, params, clipped, state, learning_rate, loss)


@guarded
def clip_by_value(optimizer: Optimizer, limit: float) -> ClipByValue:
    """Every element of the gradients is clipped to [-limit, limit] before the step: torch.nn.utils.clip_grad_value_.

    Raises `ArgumentError` for a limit that is no finite number of at least 0.

    >>> from graphc import optim
    >>> clip_by_value(optim.SGD(0.1), 0.5).learning_rate
    0.1
    """
    _check_limit("clip_by_value", limit)
    return ClipByValue(optimizer, limit)


@guarded
def clip_by_norm(optimizer: Optimizer, limit: float, norm_type: float = 2.0) -> ClipByNorm:
    """The gradients are scaled so that the norm of all of them together is at most `limit`.

    g ← g · min(1, limit / (‖g‖ + 1e-6)), as torch.nn.utils.clip_grad_norm_; `norm_type` is the p of the norm, which
    may be `math.inf`. Pascanu, Mikolov & Bengio, On the Difficulty of Training Recurrent Neural Networks, ICML 2013.
    Every gradient has to be there before the first weight can change, so gradients are stored. Raises `ArgumentError`
    for a limit that is no finite number of at least 0 and for a norm that is not above 0.

    >>> from graphc import optim
    >>> clip_by_norm(optim.SGD(0.1), 1.0).limit
    1.0
    """
    _check_limit("clip_by_norm", limit)
    if not norm_type > 0:
        raise ArgumentError(
            f"{here().prefix}clip_by_norm: norm_type: expected a number above 0, got {norm_type!r}"
        )
    return ClipByNorm(optimizer, limit, norm_type)


def global_norm(grads: Arrays, norm_type: float = 2.0) -> Array:
    """The p-norm of all elements of all gradients, in the widest of their data types."""
    widest = result_type([grad.dtype for grad in grads.values()], [])
    if math.isinf(norm_type):
        largest = [F.astype(F.max(F.abs(grad)), widest) for grad in grads.values() if grad.size]
        total = largest[0]
        for more in largest[1:]:
            total = F.maximum(total, more)
        return total
    sums = [
        F.astype(F.sum(grad * grad if norm_type == 2 else F.pow(F.abs(grad), norm_type)), widest)
        for grad in grads.values()
    ]
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return F.sqrt(total) if norm_type == 2 else F.pow(total, 1 / norm_type)


@dataclass(frozen=True)
class Accumulate(_Wrapper):
    """See `accumulate`."""

    optimizer: Optimizer
    steps: int

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        return {
            "micro_step": np.zeros((), np.int32),
            **{f"accumulated.{name}": np.zeros_like(param) for name, param in params.items()},
            **self.optimizer.init(params),
        }

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        position = state["micro_step"] + 1
        full = position >= self.steps
        sums = {name: state[f"accumulated.{name}"] + grad / self.steps for name, grad in grads.items()}
        inner = {name: a for name, a in state.items() if name != "micro_step" and not name.startswith(_SUM)}
        new_params, new_state = advance(self.optimizer, params, sums, inner, learning_rate, loss)
        return {name: F.where(full, new, params[name]) for name, new in new_params.items()}, {
            "micro_step": F.where(full, 0, position),
            **{f"{_SUM}{name}": F.where(full, 0.0, total) for name, total in sums.items()},
            **{name: F.where(full, new, inner[name]) for name, new in new_state.items()},
        }


_SUM = "accumulated."


@guarded
def accumulate(optimizer: Optimizer, steps: int) -> Optimizer:
    """The optimiser takes a step once in `steps` updates, with the mean of their gradients.

    For a loss that is a mean over rows, `steps` equal micro-batches make the step of one large batch. All is in one
    compiled function: the new weights are chosen by a counter in the state. State: ``accumulated.<name>`` and
    ``micro_step`` besides the optimiser's own. Raises `ArgumentError` where `steps` is no integer of at least 1.

    >>> from graphc import optim
    >>> sorted(accumulate(optim.SGD(0.1), 4).init({"w": np.zeros(2)}))
    ['accumulated.w', 'micro_step']
    """
    if not is_integer(steps, least=1):
        raise ArgumentError(
            f"{here().prefix}accumulate: steps: expected an integer of at least 1, got {steps!r}"
        )
    return Accumulate(optimizer, steps) if steps > 1 else optimizer


@dataclass(frozen=True)
class Ema(_Wrapper):
    """See `ema`."""

    optimizer: Optimizer
    decay: float

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        averages = {f"{_AVERAGE}{name}": np.array(param) for name, param in params.items()}
        return {**averages, **self.optimizer.init(params)}

    def evaluated(self, names: list[str]) -> dict[str, str]:
        return {name: f"{_AVERAGE}{name}" for name in names}

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        inner = {name: a for name, a in state.items() if not name.startswith(_AVERAGE)}
        new_params, new_state = advance(self.optimizer, params, grads, inner, learning_rate, loss)
        averages = {name: state[f"{_AVERAGE}{name}"] for name in params}
        kept = {
            f"{_AVERAGE}{name}": average + (1 - self.decay) * (new_params[name] - average)
            for name, average in averages.items()
        }
        return new_params, {**kept, **new_state}


_AVERAGE = "ema."


@guarded
def ema(optimizer: Optimizer, decay: float = 0.999) -> Ema:
    """Keeps an exponential moving average of the weights, with which `graphc.fit` evaluates and ends.

    a ← a + (1 - decay)(w - a) after each step, beginning with the first weights: torch.optim.swa_utils' average of that
    name. State: ``ema.<name>`` besides the optimiser's own. Polyak & Juditsky, Acceleration of Stochastic Approximation
    by Averaging, 1992. Raises `ArgumentError` for a decay that is not from 0 to 1.

    >>> from graphc import optim
    >>> ema(optim.SGD(0.1)).init({"w": np.float32([1, 2])})
    {'ema.w': array([1., 2.], dtype=float32)}
    """
    check_fraction(f"{here().prefix}ema: decay", decay)
    return Ema(optimizer, decay)


@dataclass(frozen=True)
class Groups:
    """See `groups`."""

    members: tuple[tuple[str, Optimizer], ...]

    @property
    def learning_rate(self) -> float:
        return self.members[0][1].learning_rate

    @property
    def full_batch(self) -> bool:
        return any(needs_full_batch(member) for _, member in self.members)

    def _names(self, names: list[str]) -> list[list[str]]:
        """The parameters of each group: a name belongs to the first pattern that fits it."""
        found: list[list[str]] = [[] for _ in self.members]
        for name in names:
            chosen = next((i for i, (p, _) in enumerate(self.members) if fnmatchcase(name, p)), None)
            if chosen is None:
                patterns = ", ".join(pattern for pattern, _ in self.members)
                raise ArgumentError(
                    f"groups: {name}: expected a pattern that fits it or a default, got {patterns}"
                )
            found[chosen].append(name)
        for pattern, _ in self.members:
            if pattern != _DEFAULT and not any(fnmatchcase(name, pattern) for name in names):
                raise ArgumentError(
                    f"groups: {pattern}: expected a pattern of a parameter's name, got none of {', '.join(names)}"
                )
        return found

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        """The states of all groups: ``groups.0.momentum.<name>``."""
        return {
            f"groups.{i}.{slot}": array
            for i, ((_, member), names) in enumerate(
                zip(self.members, self._names(list(params)), strict=True)
            )
            if names
            for slot, array in member.init({name: params[name] for name in names}).items()
        }

    def evaluated(self, names: list[str]) -> dict[str, str]:
        return {
            name: f"groups.{i}.{slot}"
            for i, ((_, member), mine) in enumerate(zip(self.members, self._names(names), strict=True))
            for name, slot in evaluated(member, mine).items()
        }

    def update(self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate) -> New:
        """One step; raises `ArgumentError` where the names or types of the dicts don't fit together."""
        return self._step(params, grads, state, learning_rate, None)

    def update_with_loss(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array
    ) -> New:
        """One step of optimisers that may use the loss as well."""
        return self._step(params, grads, state, learning_rate, loss)

    def _step(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array | None
    ) -> New:
        check_arguments(self, params, grads, state)
        new_params: dict[str, Array] = {}
        new_state: dict[str, Array] = {}
        for i, ((_, member), names) in enumerate(zip(self.members, self._names(list(params)), strict=True)):
            if not names:
                continue
            prefix = f"groups.{i}."
            mine = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
            # a rate that changes in the course of training changes by the same factor for all groups
            share = member.learning_rate / self.learning_rate if self.learning_rate else 1.0
            moved, kept = advance(
                member,
                {name: params[name] for name in names},
                {name: grads[name] for name in names},
                mine,
                cast(learning_rate, params[names[0]].dtype) * share if share != 1.0 else learning_rate,
                loss,
            )
            new_params.update(moved)
            new_state.update({f"{prefix}{name}": array for name, array in kept.items()})
        return {name: new_params[name] for name in params}, new_state


_DEFAULT = "*"


@guarded
def groups(members: Mapping[str, Optimizer], default: Optimizer | None = None) -> Groups:
    """Different optimisers, rates and decays for parameters by their names.

    Keys are patterns as of a shell (``"trunk.*"``, ``"*.bias"``); a parameter belongs to the first that fits it, else
    to `default`. The learning rate of the whole is that of the first group; where a schedule or a callback changes it,
    the others' change by the same factor, so each keeps its ratio. Raises `ArgumentError` for no group and, at the
    start of the training, for a pattern that fits no parameter and a parameter that fits no pattern.

    >>> from graphc import optim
    >>> mixed = groups({"trunk.*": optim.SGD(1e-3, momentum=0.9)}, default=optim.Adam())
    >>> list(mixed.init({"trunk.w": np.zeros(2), "head.w": np.zeros(2)}))
    ['groups.0.momentum.trunk.w', 'groups.1.step', 'groups.1.exp_avg.head.w', 'groups.1.exp_avg_sq.head.w']
    """
    pairs = [*members.items(), *([(_DEFAULT, default)] if default is not None else [])]
    if not pairs:
        raise ArgumentError(f"{here().prefix}groups: expected at least one optimiser, got none")
    first = pairs[0][1].learning_rate
    if not first and any(member.learning_rate for _, member in pairs):
        raise ArgumentError(
            f"{here().prefix}groups: expected a first group with a learning rate above 0, got 0: freeze the "
            "parameters that are to stay"
        )
    return Groups(tuple(pairs))


def _check_limit(what: str, limit: float) -> None:
    if not is_rate(limit):
        raise ArgumentError(
            f"{here().prefix}{what}: limit: expected a finite number of at least 0, got {limit!r}"
        )
