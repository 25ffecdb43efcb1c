"""Derivatives against finite differences: a check of what a function's derivatives are, order by order.

In: a function and arguments. Out: nothing, or an error that names the order and the argument whose derivative differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.errors import ArgumentError, GradientError
from graphc.frontend.tracer import trace_function
from graphc.frontend.tree import flatten
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.guard import guarded
from graphc.ir.interp import interpret
from graphc.ir.loc import here
from graphc.passes.vjp import vjp

_STEP = 1e-3  # balances h⁴ against rounding / h in double precision: both leave about ten digits


@guarded
def check_grads(
    fn: Callable[..., object],
    args: Sequence[object],
    order: int = 2,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
) -> None:
    """Compares the derivatives of `fn` at `args`, up to this order, with finite differences in double precision.

    The outputs are summed with random weights. For each order the derivative along a random direction is compared with a
    five-point difference quotient (Abramowitz & Stegun 25.3.6), and then takes the function's place for the next order.
    `args` are arrays or nests of them; integers and bools stay as they are. At a kink (relu at 0, ties of max) no
    derivative exists to compare with: choose other arguments. Raises `GradientError` where they differ by more than
    `atol` + `rtol` times the derivative's size, and what `trace` raises.

    >>> check_grads(lambda x: x**3, [np.float32([1.0, 2.0])])
    """
    if order < 1:
        raise ArgumentError(f"{here().prefix}check_grads: expected an order of 1 or more, got {order}")
    traced = trace_function(fn, tuple(args))
    leaves, _ = flatten(tuple(args))
    arrays = [
        np.asarray(a, np.float64 if v.dtype.is_float else v.dtype.numpy)
        for a, v in zip([*leaves, *(p.array for p in traced.parameters)], traced.graph.inputs, strict=True)
    ]
    graph = traced.graph
    if not any(v.dtype.is_float for v in graph.inputs) or not any(v.dtype.is_float for v in graph.outputs):
        raise ArgumentError(
            f"{here().prefix}check_grads: expected a float among the arguments and among the outputs"
        )
    rng = np.random.default_rng(seed)
    scalar = _weighted(graph, rng)
    for now in range(1, order + 1):
        inputs = [i for i, v in enumerate(graph.inputs) if v.dtype.is_float and v.type.size]
        derived = vjp(scalar, inputs, seeds=False)
        gradients = interpret(derived, arrays, float64=True)[1:]
        directions = [rng.standard_normal(arrays[i].shape) for i in inputs]
        wrong = []
        for i, gradient, direction in zip(inputs, gradients, directions, strict=True):
            difference, stray = _difference(scalar, arrays, i, direction)
            product = float(np.vdot(gradient, direction))
            size = float(np.linalg.norm(gradient)) * float(np.linalg.norm(direction))
            if not abs(product - difference) <= atol + rtol * size + stray:
                wrong.append(
                    f"%{graph.inputs[i].node.name}: expected {difference:.9g} (finite differences), got {product:.9g}"
                )
        if wrong:
            what = "derivative" if now == 1 else f"derivative of order {now}"
            raise GradientError(
                f"{here().prefix}check_grads: @{graph.name}: {what} along a random direction of "
                + "; ".join(wrong)
            )
        scalar = _along(derived, directions)


def _weighted(graph: Graph, rng: np.random.Generator) -> Graph:
    """The sum of the graph's float outputs, each element with a random weight."""
    weights = [rng.standard_normal(v.shape) if v.dtype.is_float else None for v in graph.outputs]
    return _dotted(graph, weights)


def _along(derived: Graph, directions: Sequence[np.ndarray]) -> Graph:
    """The derivative along the directions: what the graph of value and gradients gives, summed with their elements."""
    return _dotted(derived, [None, *directions])


def _dotted(graph: Graph, weights: Sequence[np.ndarray | None]) -> Graph:
    """The sum of the graph's outputs, each times its weights; those without are left out."""
    build = Builder()
    inputs = [build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs]
    total: Value | None = None
    for value, weight in zip(build.inline(graph, inputs), weights, strict=True):
        if weight is None or not value.type.size:
            continue
        product = build.mul(value, build.constant(weight, value.type))
        term = build.reduce_sum(product, axes=tuple(range(value.type.rank)))
        if total is not None and total.dtype is not term.dtype:
            wide = max((total.dtype, term.dtype), key=lambda t: t.bits)[()]
            total, term = build.cast(total, type=wide), build.cast(term, type=wide)
        total = term if total is None else build.add(total, term)
    if total is None:
        raise ArgumentError(f"@{graph.name}: expected a float output that is not empty, got none")
    return build.graph(graph.name, [total])


def _difference(
    graph: Graph, arrays: Sequence[np.ndarray], position: int, direction: np.ndarray
) -> tuple[float, float]:
    """The graph's derivative along a direction of one input, and how far rounding may have led it astray."""
    step = _STEP / max(1.0, float(np.abs(direction).max(initial=0.0)))

    def at(distance: float) -> float:
        moved = list(arrays)
        moved[position] = arrays[position] + distance * direction
        return float(interpret(graph, moved, float64=True)[0])

    values = [at(k * step) for k in (-2, -1, 1, 2)]
    quotient = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    rounding = 16 * np.finfo(np.float64).eps * max(map(abs, values)) / step
    return quotient, float(rounding)
