"""`minimize`: the least value of a function of arrays, found by one compiled step that is called until it stops.

In: a traced function that gives a scalar, and a start. Out: the best point and what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from graphc.compiler import compile
from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer, is_rate
from graphc.frontend.optim import LBFGS, Optimizer, advance, evaluated
from graphc.frontend.optim.lbfgs import STOPPED
from graphc.frontend.tree import flatten
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.training_memory import aligned
from graphc.transforms import value_and_grad

NumPy = dict[str, np.ndarray]


@dataclass(frozen=True)
class Minimum:
    """Where `minimize` ended: the point, in the start's form, the function's value there, and how it got there.

    `converged` says that the gradient, or what still changed, was small enough; otherwise the steps were used up.
    """

    x: object
    value: float
    gradient: float  # the largest of its elements
    evaluations: int
    converged: bool


@guarded
def minimize(
    fn: Callable[..., object],
    x0: object,
    method: str | Optimizer = "lbfgs",
    *,
    steps: int = 1000,
    tolerance: float | None = None,
    target: str = "cpu",
) -> Minimum:
    """A local minimum of ``fn(x)``, beginning at `x0`: an array, or a dict, list or tuple of arrays.

    `method` is "lbfgs" or an optimiser of `graphc.optim`. Each of at most `steps` steps evaluates the function and its
    gradient once, in one native call. It ends early where no element of the gradient is larger than `tolerance` (by
    default 1e-7 in f64, 1e-4 in f32) and, with L-BFGS, where nothing changes any more.

    Raises `ArgumentError` for settings that make no sense, and what tracing `fn` raises.

    >>> found = minimize(lambda x: ((x - 3) ** 2).sum(), np.zeros(2))
    >>> found.x.round(6), found.converged
    (array([3., 3.]), True)
    """
    where = f"{here().prefix}minimize"
    if not is_integer(steps, least=1):
        raise ArgumentError(f"{where}: steps: expected an integer of at least 1, got {steps!r}")
    if tolerance is not None and not is_rate(tolerance):
        raise ArgumentError(f"{where}: tolerance: expected a finite number of at least 0, got {tolerance!r}")
    leaves, structure = flatten(x0)
    start = [np.asarray(leaf) for leaf in leaves]
    bad = next((a for a in start if a.dtype.kind != "f"), None)
    if not start or bad is not None:
        raise ArgumentError(f"{where}: x0: expected float arrays, got {'none' if bad is None else bad.dtype}")
    limit = (
        tolerance if tolerance is not None else 1e-7 if all(a.dtype == np.float64 for a in start) else 1e-4
    )
    if isinstance(method, str):
        if method != "lbfgs":
            raise ArgumentError(f"{where}: method: expected 'lbfgs' or an optimiser, got {method!r}")
        method = LBFGS(tolerance_grad=limit)
    optimizer: Optimizer = method
    names = structure.paths("x")
    params = aligned(dict(zip(names, start, strict=True)))
    state = aligned(optimizer.init(params))
    judged = evaluated(optimizer, names)

    def step(params: dict[str, Array], state: dict[str, Array], rate: Array) -> object:
        def objective(params: dict[str, Array]) -> object:
            return fn(structure.unflatten([params[name] for name in names]))

        value, grads = cast("tuple[Array, dict[str, Array]]", value_and_grad(objective)(params))
        largest = [F.max(F.abs(grad)) for grad in grads.values()]
        top = largest[0]
        for more in largest[1:]:
            top = F.maximum(top, more)
        new_params, new_state = advance(optimizer, params, grads, state, rate, value)
        return new_params, new_state, {"value": value, "gradient": top}

    rate = np.full((), optimizer.learning_rate, start[0].dtype)
    function = compile(step, params, state, rate, target=target, donate=("params", "state"))
    call = function.bind(params, state, rate)
    numbers = cast("tuple[NumPy, NumPy, NumPy]", call.outputs)[2]
    phase = state.get("search.phase")
    best: tuple[float, float, NumPy] | None = None
    evaluations, converged = 0, False
    while evaluations < steps and not converged:
        evaluations += 1
        if phase is None:
            point = {name: array.copy() for name, array in params.items()}
        call()
        value, gradient = float(numbers["value"]), float(numbers["gradient"])
        if phase is None:
            if best is None or value < best[0]:
                best = (value, gradient, point)
            converged = gradient <= limit
        else:
            converged = int(phase) == STOPPED
    if best is None:
        point = {name: state[judged[name]].copy() for name in names}
        value, gradient = float(state["search.value"]), float(np.abs(state["lbfgs.gradient"]).max(initial=0))
        best = (value, gradient, point)
    value, gradient, point = best
    return Minimum(
        structure.unflatten([point[name] for name in names]), value, gradient, evaluations, converged
    )
