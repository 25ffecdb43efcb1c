"""L-BFGS as a state machine: each step is one evaluation of the loss and its gradient, at a point that it was asked for.

A line search calls the loss as often as it likes; a compiled step calls it once. So the search is cut where it calls:
its brackets are scalars of the optimiser's state, the weights of `update` are the trial point, and the step says which
point is next. Nothing is unrolled, and a training step looks like that of any other optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.optim.base import Arrays, New, NumPy, Rate, cast, check_arguments, check_rate
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import i32

START, BRACKET, ZOOM, STOPPED = range(4)  # what the point of this step is for
_ARMIJO, _CURVATURE = 1e-4, 0.9  # Nocedal & Wright's c₁ and c₂
_PAIR = 1e-10  # pairs of less curvature would spoil the approximation


@dataclass(frozen=True)
class _Point:
    """A point of the line: how far along the direction, the loss there, and its slope along the direction."""

    t: Array
    f: Array
    slope: Array


def _choose(condition: Array, yes: _Point, no: _Point) -> _Point:
    return _Point(*(F.where(condition, getattr(yes, n), getattr(no, n)) for n in ("t", "f", "slope")))


@dataclass(frozen=True)
class LBFGS:
    """Quasi-Newton steps from the last `history` changes of weights and gradient, with a line search.

    The direction -H g comes from the two-loop recursion (Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm
    7.4), the step from a bracketing and zooming search for the strong Wolfe conditions (algorithms 3.5 and 3.6) with
    cubic interpolation, as in PyTorch; ``line_search=None`` takes `learning_rate` as it is. The first direction is
    -g, the first trial min(1, 1/|g|₁) times the rate, later ones the rate.

    Each update is one evaluation: `graphc.fit` needs the whole data set as one batch, since two batches are two
    functions. The weights between two evaluations are trial points; the last accepted ones, ``accepted.<name>`` of the
    state, are what models are evaluated with. It stops moving (``search.phase`` is 3) where no gradient is larger than
    `tolerance_grad`, or where weights or loss change by no more than `tolerance_change`.
    Liu & Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, 1989.
    Raises `ArgumentError` for settings out of range, and for parameters of several data types.

    >>> LBFGS(history=2).init({"w": np.zeros((2, 3))})["lbfgs.s"].shape
    (2, 6)
    """

    learning_rate: float = 1.0
    history: int = 10
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    line_search: str | None = "strong_wolfe"
    max_search: int = 25

    full_batch: ClassVar[bool] = True

    @guarded
    def __post_init__(self) -> None:
        for name in ("learning_rate", "tolerance_grad", "tolerance_change"):
            check_rate(f"LBFGS: {name}", getattr(self, name))
        for name in ("history", "max_search"):
            if not is_integer(getattr(self, name), least=1):
                raise ArgumentError(
                    f"LBFGS: {name}: expected an integer of at least 1, got {getattr(self, name)!r}"
                )
        if self.line_search not in (None, "strong_wolfe"):
            raise ArgumentError(
                f"LBFGS: line_search: expected 'strong_wolfe' or None, got {self.line_search!r}"
            )

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        """The state before the first evaluation."""
        kinds = sorted({p.dtype.name for p in params.values()})
        if len(kinds) != 1:
            raise ArgumentError(
                f"LBFGS: expected parameters of one data type, got {', '.join(kinds) or 'none'}"
            )
        dtype = np.dtype(kinds[0])
        size = sum(p.size for p in params.values())
        state: NumPy = {f"accepted.{name}": np.array(p) for name, p in params.items()}
        for name in ("direction", "gradient", "low_gradient"):
            state[f"lbfgs.{name}"] = np.zeros(size, dtype)
        for name in ("s", "y"):
            state[f"lbfgs.{name}"] = np.zeros((self.history, size), dtype)
        for name in _COUNTS:
            state[f"search.{name}"] = np.zeros((), np.int32)
        for name in _NUMBERS:
            state[f"search.{name}"] = np.zeros((), dtype)
        return state

    def evaluated(self, names: list[str]) -> dict[str, str]:
        return {name: f"accepted.{name}" for name in names}

    def update(self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate) -> New:
        """Raises `ArgumentError`: a step needs the loss, which `update_with_loss` takes."""
        raise ArgumentError(
            f"{here().prefix}LBFGS: expected the loss, by update_with_loss, got gradients alone"
        )

    def update_with_loss(
        self, params: Arrays, grads: Arrays, state: Arrays, learning_rate: Rate, loss: Array
    ) -> New:
        """From loss and gradient at a trial point to the next one.

        Raises `ArgumentError` where the names or types of the dicts don't fit together.
        """
        check_arguments(self, params, grads, state)
        return _Search(self, params, grads, state, learning_rate, loss).result()


_COUNTS = ("phase", "trials", "stalled", "iterations", "evaluations")
_NUMBERS = (
    "value", "slope", "t", "scale", "low_t", "low_f", "low_slope", "high_t", "high_f", "high_slope",
)  # fmt: skip


class _Search:
    """One step. Names are as in `LBFGS.init`: `value` and `slope` are those of the accepted point."""

    def __init__(
        self, settings: LBFGS, params: Arrays, grads: Arrays, state: Arrays, rate: Rate, loss: Array
    ) -> None:
        self.settings = settings
        self.params = params
        self.state = state
        self.dtype = next(iter(params.values())).dtype
        self.rate = cast(rate, self.dtype)
        self.gradient = _flat(grads)
        self.direction = state["lbfgs.direction"]
        self.start = _Point(F.zeros((), dtype=self.dtype), self._number("value"), self._number("slope"))
        self.trial = _Point(
            self._number("t"), F.astype(loss, self.dtype), F.sum(self.gradient * self.direction)
        )
        self.low = _Point(self._number("low_t"), self._number("low_f"), self._number("low_slope"))
        self.high = _Point(self._number("high_t"), self._number("high_f"), self._number("high_slope"))
        self.trials = state["search.trials"]
        self.phase = state["search.phase"]

    def _number(self, name: str) -> Array:
        return self.state[f"search.{name}"]

    def result(self) -> New:
        settings = self.settings
        first, stopped = self.phase == START, self.phase == STOPPED
        trial, start = self.trial, self.start
        if settings.line_search is None:
            accepted, at_trial = ~stopped, F.ones_like(stopped)
            point, low, high, next_t, zooming = trial, self.low, self.high, trial.t, stopped
            low_gradient, stalled = self.state["lbfgs.low_gradient"], self._number("stalled")
        else:
            bracketing = self.phase == BRACKET
            steep = _ARMIJO * trial.t * start.slope
            enough = F.abs(trial.slope) <= -_CURVATURE * start.slope
            bad = ~(trial.f <= start.f + steep)  # a loss that is not a number is bad too
            exhausted = self.trials >= settings.max_search
            # bracketing: `low` is the trial before this one
            above = bad | ((self.trials > 1) & (trial.f >= self.low.f))
            found = bracketing & ~above & enough
            closed = bracketing & ~found & (above | (trial.slope >= 0.0))
            extends = bracketing & ~found & ~closed & ~exhausted
            gave_up = bracketing & ~found & ~closed & exhausted
            # zooming: `low` is the best point so far, the minimum lies between it and `high`
            zoom = self.phase == ZOOM
            worse = bad | (trial.f >= self.low.f)
            ended = zoom & ~worse & enough
            turned = trial.slope * (self.high.t - self.low.t) >= 0.0
            before = _choose(gave_up, start, self.low)
            from_bracket = closed | gave_up
            trial_lower = (trial.f < before.f) & F.isfinite(trial.f)
            takes_trial = F.where(from_bracket, trial_lower, F.where(worse, trial_lower, True)) | extends
            low = _choose(takes_trial, trial, before)
            high_of_zoom = _choose(
                worse, _choose(trial_lower, self.low, trial), _choose(turned, self.low, self.high)
            )
            high = _choose(from_bracket, _choose(trial_lower, before, trial), high_of_zoom)
            previous = self.state["lbfgs.low_gradient"]
            previous = F.where(gave_up, self.state["lbfgs.gradient"], previous)
            low_gradient = F.where(takes_trial, self.gradient, previous)
            searching = (closed | zoom) & ~ended
            narrow = F.abs(high.t - low.t) * self._number("scale") < settings.tolerance_change
            over = (searching & (narrow | exhausted)) | gave_up
            zooming = searching & ~over
            inside, stalled = _zoomed(low, high, self._number("stalled") != 0)
            stalled = F.astype(stalled, i32)
            further = _interpolated(
                self.low, trial, (trial.t + 0.01 * (trial.t - self.low.t), trial.t * 10.0)
            )
            next_t = F.where(extends, further, inside)
            at_trial = first | found | ended
            accepted = at_trial | over
            point = _choose(at_trial, trial, low)
        return self._moved(accepted, at_trial, point, low, high, low_gradient, next_t, zooming, stalled)

    def _moved(
        self, accepted: Array, at_trial: Array, point: _Point, low: _Point, high: _Point, low_gradient: Array,
        next_t: Array, zooming: Array, stalled: Array,
    ) -> New:  # fmt: skip
        """The next trial: on the line where the search goes on, else on a new line from the accepted point."""
        settings, state, first = self.settings, self.state, self.phase == START
        stopped = self.phase == STOPPED
        gradient = F.where(at_trial, self.gradient, low_gradient)
        moved = point.t * self.direction
        change = gradient - state["lbfgs.gradient"]
        curvature = F.sum(moved * change)
        pushes = accepted & ~first & (curvature > _PAIR)
        kept = {
            name: F.where(pushes, F.concat([state[f"lbfgs.{name}"][1:], row[None]], axis=0), state[f"lbfgs.{name}"])
            for name, row in (("s", moved), ("y", change))
        }  # fmt: skip
        direction = _two_loop(kept["s"], kept["y"], gradient, settings.history)
        slope = F.sum(gradient * direction)
        still = ~first & (
            (F.max(F.abs(moved)) <= settings.tolerance_change)
            | (F.abs(point.f - self.start.f) < settings.tolerance_change)
        )
        flat = (F.max(F.abs(gradient)) <= settings.tolerance_grad) | (slope > -settings.tolerance_change)
        stops = stopped | (accepted & (still | flat))
        first_rate = F.minimum(1.0 / F.sum(F.abs(gradient)), 1.0) * self.rate
        line_t = F.where(stops, 0.0, F.where(first, first_rate, self.rate))
        fresh = accepted & ~stopped
        base = _Point(F.zeros((), dtype=self.dtype), point.f, slope)  # where the new line begins

        def now(new: Array, old: Array) -> Array:
            return F.where(fresh, new, old)

        low, high = _choose(fresh, base, low), _choose(fresh, base, high)
        if not settings.line_search:
            low = high = base
        t = F.where(stops, 0.0, now(line_t, next_t))
        new_direction = now(direction, self.direction)
        phase = F.where(stops, STOPPED, F.where(fresh | ~zooming, BRACKET, ZOOM))
        numbers = {
            "value": now(point.f, self.start.f), "slope": now(slope, self.start.slope), "t": t,
            "scale": now(F.max(F.abs(direction)), self._number("scale")),
            "low_t": low.t, "low_f": low.f, "low_slope": low.slope,
            "high_t": high.t, "high_f": high.f, "high_slope": high.slope,
            "phase": phase, "trials": F.where(fresh | stops, 0, self.trials + 1),
            "stalled": F.where(fresh, 0, stalled),
            "iterations": state["search.iterations"] + F.astype(fresh & ~first, i32),
            "evaluations": state["search.evaluations"] + F.astype(~stopped, i32),
        }  # fmt: skip
        accepted_now = _split(moved, self.params)
        next_moved = _split(new_direction, self.params)
        new_params: dict[str, Array] = {}
        new_state: dict[str, Array] = {}
        for name in self.params:
            old = state[f"accepted.{name}"]
            place = F.where(fresh & ~first, old + accepted_now[name], old)
            new_state[f"accepted.{name}"] = place
            new_params[name] = F.where(stops, place, place + t * next_moved[name])
        new_state.update(
            {
                "lbfgs.direction": new_direction,
                "lbfgs.gradient": now(gradient, state["lbfgs.gradient"]),
                "lbfgs.low_gradient": now(gradient, low_gradient),
                "lbfgs.s": kept["s"],
                "lbfgs.y": kept["y"],
                **{f"search.{name}": F.astype(value, state[f"search.{name}"].dtype) for name, value in numbers.items()},
            }
        )  # fmt: skip
        return new_params, {name: new_state[name] for name in state}


def _two_loop(s: Array, y: Array, gradient: Array, count: int) -> Array:
    """-H g of the pairs of rows, the newest last; rows of zeros, which are no pairs, change nothing."""
    curvature = F.sum(s * y, axis=1)
    there = curvature > 0.0
    rho = F.where(there, 1.0 / F.where(there, curvature, 1.0), 0.0)
    weights: list[Array] = []
    q = -gradient
    for row in reversed(range(count)):
        weight = rho[row] * F.sum(s[row] * q)
        weights.insert(0, weight)
        q = q - weight * y[row]
    newest = F.sum(y[count - 1] * y[count - 1])
    r = q * F.where(newest > 0.0, curvature[count - 1] / F.where(newest > 0.0, newest, 1.0), 1.0)
    for row in range(count):
        r = r + s[row] * (weights[row] - rho[row] * F.sum(y[row] * r))
    return r


def _interpolated(a: _Point, b: _Point, bounds: tuple[Array, Array]) -> Array:
    """The minimum of the cubic through two points with their slopes, within bounds; their middle where there is none.

    Nocedal & Wright, formula 3.59.
    """
    low, high = bounds
    swapped = a.t > b.t
    left, right = _choose(swapped, b, a), _choose(swapped, a, b)
    width = right.t - left.t
    d1 = left.slope + right.slope - 3.0 * (right.f - left.f) / width
    square = d1 * d1 - left.slope * right.slope
    d2 = F.sqrt(F.maximum(square, 0.0))
    place = right.t - width * ((right.slope + d2 - d1) / (right.slope - left.slope + 2.0 * d2))
    usable = (square >= 0.0) & F.isfinite(place)
    return F.where(usable, F.minimum(F.maximum(F.where(usable, place, low), low), high), (low + high) / 2.0)


def _zoomed(low: _Point, high: _Point, stalled: Array) -> tuple[Array, Array]:
    """The next trial between two points, and whether it came too near to an end: twice in a row it is moved inwards."""
    left, right = F.minimum(low.t, high.t), F.maximum(low.t, high.t)
    t = _interpolated(low, high, (left, right))
    margin = 0.1 * (right - left)
    near = F.minimum(right - t, t - left) < margin
    push = near & (stalled | (t >= right) | (t <= left))
    inwards = F.where(F.abs(t - right) < F.abs(t - left), right - margin, left + margin)
    return F.where(push, inwards, t), near & ~push


def _flat(arrays: Arrays) -> Array:
    return F.concat([F.reshape(array, (-1,)) for array in arrays.values()], axis=0)


def _split(vector: Array, like: Arrays) -> dict[str, Array]:
    parts: dict[str, Array] = {}
    start = 0
    for name, array in like.items():
        size = math.prod(array.shape)
        parts[name] = F.reshape(vector[start : start + size], array.shape)
        start += size
    return parts
