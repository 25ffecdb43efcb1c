"""Courses of the learning rate: functions of a base rate and of how many epochs, or steps, are done.

In: the base rate and a count from 0. Out: the rate, a Python float: it is a runtime scalar of the step, so nothing is
compiled anew. The numbers are those of PyTorch's `torch.optim.lr_scheduler`, in closed form. `fit(schedule=...)` counts
epochs; `by_step` makes it count the optimiser's steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.errors import ArgumentError
from graphc.frontend.checks import is_integer, is_rate
from graphc.ir.guard import guarded

Schedule = Callable[[float, int], float]


@dataclass(frozen=True)
class ByStep:
    """A schedule that counts steps; see `by_step`."""

    schedule: Schedule

    def __call__(self, base: float, count: int) -> float:
        return self.schedule(base, count)


def by_step(schedule: Schedule) -> ByStep:
    """The same course, of the number of the optimiser's steps instead of the number of epochs.

    >>> by_step(Exponential(0.5))(1.0, 2)
    0.25
    """
    return ByStep(schedule)


@dataclass(frozen=True)
class Constant:
    """The base rate times `factor` for the first `total` counts, then the base rate.

    >>> [Constant(0.5, 2)(1.0, t) for t in range(4)]
    [0.5, 0.5, 1.0, 1.0]
    """

    factor: float = 1 / 3
    total: int = 5

    @guarded
    def __post_init__(self) -> None:
        _rate("Constant: factor", self.factor)
        _count("Constant: total", self.total)

    def __call__(self, base: float, count: int) -> float:
        return base * self.factor if count < self.total else base


@dataclass(frozen=True)
class Step:
    """Times `gamma` after every `size` counts.

    >>> [Step(2, 0.5)(1.0, t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    size: int
    gamma: float = 0.1

    @guarded
    def __post_init__(self) -> None:
        _count("Step: size", self.size)
        _rate("Step: gamma", self.gamma)

    def __call__(self, base: float, count: int) -> float:
        return float(base * self.gamma ** (count // self.size))


@dataclass(frozen=True)
class MultiStep:
    """Times `gamma` at each of the milestones.

    >>> [MultiStep((1, 3), 0.5)(1.0, t) for t in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    @guarded
    def __post_init__(self) -> None:
        _rate("MultiStep: gamma", self.gamma)
        if not all(is_integer(m, least=0) for m in self.milestones) or list(self.milestones) != sorted(
            self.milestones
        ):
            raise ArgumentError(f"MultiStep: milestones: expected growing integers, got {self.milestones!r}")

    def __call__(self, base: float, count: int) -> float:
        return float(base * self.gamma ** bisect_right(self.milestones, count))


@dataclass(frozen=True)
class Exponential:
    """Times `gamma` at each count.

    >>> [Exponential(0.5)(1.0, t) for t in range(3)]
    [1.0, 0.5, 0.25]
    """

    gamma: float

    @guarded
    def __post_init__(self) -> None:
        _rate("Exponential: gamma", self.gamma)

    def __call__(self, base: float, count: int) -> float:
        return float(base * self.gamma**count)


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` times the base rate over `total` counts: with the defaults a warm-up.

    >>> [Linear(0.5, 1.0, 2)(1.0, t) for t in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    start: float = 1 / 3
    end: float = 1.0
    total: int = 5

    @guarded
    def __post_init__(self) -> None:
        _rate("Linear: start", self.start)
        _rate("Linear: end", self.end)
        _count("Linear: total", self.total)

    def __call__(self, base: float, count: int) -> float:
        return base * (self.start + (self.end - self.start) * min(self.total, count) / self.total)


@dataclass(frozen=True)
class Polynomial:
    """base · (1 - t / total)^power, 0 from `total` on.

    >>> [Polynomial(2, power=2.0)(1.0, t) for t in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """

    total: int = 5
    power: float = 1.0

    @guarded
    def __post_init__(self) -> None:
        _count("Polynomial: total", self.total)
        _rate("Polynomial: power", self.power)

    def __call__(self, base: float, count: int) -> float:
        return float(base * (1.0 - min(self.total, count) / self.total) ** self.power)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the base rate to `least` in `total` counts, and back up after it.

    Loshchilov & Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, arXiv:1608.03983, formula 5.

    >>> [round(Cosine(4)(1.0, t), 3) for t in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    total: int
    least: float = 0.0

    @guarded
    def __post_init__(self) -> None:
        _count("Cosine: total", self.total)
        _rate("Cosine: least", self.least)

    def __call__(self, base: float, count: int) -> float:
        return self.least + (base - self.least) * (1 + math.cos(math.pi * count / self.total)) / 2


@dataclass(frozen=True)
class CosineRestarts:
    """A cosine of `first` counts, begun anew when it is over; each time it takes `factor` times as long.

    Loshchilov & Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, arXiv:1608.03983.

    >>> [round(CosineRestarts(2, factor=2)(1.0, t), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    first: int
    factor: int = 1
    least: float = 0.0

    @guarded
    def __post_init__(self) -> None:
        _count("CosineRestarts: first", self.first)
        _count("CosineRestarts: factor", self.factor)
        _rate("CosineRestarts: least", self.least)

    def __call__(self, base: float, count: int) -> float:
        length = self.first
        if self.factor == 1:
            count %= length
        while count >= length:
            count -= length
            length *= self.factor
        return self.least + (base - self.least) * (1 + math.cos(math.pi * count / length)) / 2


@dataclass(frozen=True)
class OneCycle:
    """Up to the base rate and down again, over `total` counts, mostly steps.

    From base / `div_factor` up in the first `pct_start` of them, then down to that start divided by
    `final_div_factor`; with `three_phase` first down to the start as fast as up. `anneal` is "cos" or "linear". The
    optimiser's rate is the largest one. Smith & Topin, Super-Convergence, arXiv:1708.07120.
    Raises `ArgumentError` for settings out of range.

    >>> [round(OneCycle(10)(1.0, t), 3) for t in (0, 2, 9)]
    [0.04, 1.0, 0.0]
    """

    total: int
    pct_start: float = 0.3
    anneal: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    @guarded
    def __post_init__(self) -> None:
        _count("OneCycle: total", self.total)
        if not (is_rate(self.pct_start) and self.pct_start <= 1):
            raise ArgumentError(f"OneCycle: pct_start: expected a number from 0 to 1, got {self.pct_start!r}")
        if self.anneal not in ("cos", "linear"):
            raise ArgumentError(f"OneCycle: anneal: expected 'cos' or 'linear', got {self.anneal!r}")
        for name in ("div_factor", "final_div_factor"):
            if not (is_rate(getattr(self, name)) and getattr(self, name) > 0):
                raise ArgumentError(
                    f"OneCycle: {name}: expected a finite number above 0, got {getattr(self, name)!r}"
                )

    def __call__(self, base: float, count: int) -> float:
        first = base / self.div_factor
        phases = [(self.pct_start * self.total - 1, first, base)]
        if self.three_phase:
            phases.append((2 * self.pct_start * self.total - 2, base, first))
        phases.append((self.total - 1, phases[-1][2], first / self.final_div_factor))
        begin = 0.0
        for end, low, high in phases:
            if count <= end or end == self.total - 1:
                share = min(1.0, (count - begin) / (end - begin)) if end > begin else 1.0
                if self.anneal == "linear":
                    return (high - low) * share + low
                return high + (low - high) / 2.0 * (math.cos(math.pi * share) + 1)
            begin = end
        raise AssertionError("the last phase ends the cycle")


@dataclass(frozen=True)
class Sequential:
    """See `sequence`."""

    schedules: tuple[Schedule, ...]
    milestones: tuple[int, ...]

    def __call__(self, base: float, count: int) -> float:
        place = bisect_right(self.milestones, count)
        begun = self.milestones[place - 1] if place else 0
        return self.schedules[place](base, count - begun)


def sequence(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Sequential:
    """One schedule after another; each counts from 0 when its turn comes, at its milestone.

    Raises `ArgumentError` unless there is a milestone between each two.

    >>> course = sequence([Linear(0.5, 1.0, 2), Exponential(0.5)], [2])
    >>> [course(1.0, t) for t in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """
    if len(milestones) != len(schedules) - 1 or list(milestones) != sorted(milestones):
        raise ArgumentError(
            f"sequence: milestones: expected {max(0, len(schedules) - 1)} growing integers, got {milestones!r}"
        )
    return Sequential(tuple(schedules), tuple(milestones))


@dataclass(frozen=True)
class Product:
    """See `product`."""

    schedules: tuple[Schedule, ...]

    def __call__(self, base: float, count: int) -> float:
        rate = base
        for schedule in self.schedules:
            rate = schedule(rate, count)
        return rate


def product(*schedules: Schedule) -> Product:
    """Each schedule takes the rate of the one before it for its base: a warm-up of a decay.

    >>> product(Constant(0.5, 2), Exponential(0.5))(1.0, 1)
    0.25
    """
    return Product(schedules)


@dataclass(frozen=True)
class Pace:
    """The learning rate of each step."""

    schedule: Schedule | None
    accumulate: int = 1

    def rate(self, base: float, epoch: int, step: int) -> float:
        """The rate after so many epochs, and so many steps in all."""
        if self.schedule is None:
            return base
        count = step // self.accumulate if isinstance(self.schedule, ByStep) else epoch
        return float(self.schedule(base, count))

    @property
    def by_step(self) -> bool:
        return isinstance(self.schedule, ByStep)


def _rate(what: str, value: float) -> None:
    if not is_rate(value):
        raise ArgumentError(f"{what}: expected a finite number of at least 0, got {value!r}")


def _count(what: str, value: int) -> None:
    if not is_integer(value, least=1):
        raise ArgumentError(f"{what}: expected an integer of at least 1, got {value!r}")
