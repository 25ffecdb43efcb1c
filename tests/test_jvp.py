"""Forward mode: every registered op against finite differences and against the adjoint of the adjoint; its cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphc.frontend import functions as F
from graphc.frontend.tracer import trace
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64
from graphc.ir.verify import verify
from graphc.passes.jvp import jvp
from graphc.passes.simplify import simplify
from graphc.passes.vjp import vjp
from tests.test_ops import BY_DEFINITION, Case, cases

CASES = [c for c in cases([f64]) if any(t.dtype.is_float for t in c.values[0].graph().output_types)]  # type: ignore[attr-defined]


def adjoint_of_the_adjoint(graph: Graph) -> Graph:
    """J t by reverse mode alone: the pullback of g -> the gradients, with respect to the seeds g."""
    once = vjp(graph)
    seeds = range(len(graph.inputs), len(once.inputs))
    gradients = once.with_outputs(once.outputs[len(graph.outputs) :])
    return vjp(gradients, list(seeds))


def tangents_of(graph: Graph, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.uniform(-1, 1, t.shape) for t in graph.input_types if t.dtype.is_float]


@pytest.mark.parametrize("case", CASES)
def test_tangent_of_every_op_equals_the_adjoint_of_its_adjoint(case: Case) -> None:
    graph, arrays = case.graph(), list(case.sample.arrays)
    if not any(t.dtype.is_float for t in graph.input_types):
        return
    tangents = tangents_of(graph, np.random.default_rng(1))
    forward = jvp(graph)
    verify(forward)
    got = interpret(forward, [*arrays, *tangents], float64=True)
    floats = [t for t in graph.output_types if t.dtype.is_float]
    seeds = [np.full(t.shape, 0.3) for t in floats]
    twice = adjoint_of_the_adjoint(graph)
    want = interpret(twice, [*arrays, *seeds, *tangents], float64=True)[len(tangents) :]
    assert len(got) == len(graph.outputs) + len(floats)
    for a, b in zip(got[len(graph.outputs) :], want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in CASES if c.values[0].op.name not in BY_DEFINITION])  # type: ignore[attr-defined]
def test_tangent_of_every_op_equals_the_central_difference(case: Case) -> None:
    graph, arrays = case.graph(), list(case.sample.arrays)
    tangents = tangents_of(graph, np.random.default_rng(2))
    if not tangents:
        return
    got = interpret(jvp(graph), [*arrays, *tangents], float64=True)[len(graph.outputs) :]
    step = 1e-6

    def moved(sign: int) -> Sequence[np.ndarray]:
        own = iter(tangents)
        return interpret(
            graph, [a + sign * step * next(own) if a.dtype.kind == "f" else a for a in arrays], float64=True
        )

    floats = [i for i, t in enumerate(graph.output_types) if t.dtype.is_float]
    high, low = moved(1), moved(-1)
    for tangent, i in zip(got, floats, strict=True):
        np.testing.assert_allclose(tangent, (high[i] - low[i]) / (2 * step), rtol=2e-6, atol=2e-6)


def count(graph: Graph, trait: str) -> int:
    return sum(trait in n.op.traits for n in simplify(graph).nodes)


def mlp() -> Graph:
    def fn(x, w1, w2, w3):  # type: ignore[no-untyped-def]
        return F.tanh(F.tanh(x @ w1) @ w2) @ w3

    return trace(fn, f32[8, 5], f32[5, 7], f32[7, 7], f32[7, 3])


def test_forward_mode_costs_one_more_forward_pass() -> None:
    """Along x each contraction has one tangent; along all operands the product rule gives two, but for the first's x."""
    graph = mlp()
    forward = jvp(graph, ["x"])
    assert (count(graph, "contraction"), count(forward, "contraction")) == (3, 6)
    # of the adjoint of the adjoint, without what nothing reads: the same contractions
    once = vjp(graph, ["x"])
    twice = vjp(once.with_outputs(once.outputs[len(graph.outputs) :]), ["d_0"])
    tangents = twice.with_outputs([*twice.outputs[1:]])
    assert count(tangents, "contraction") >= 3 + 2  # the primal's last one is not needed
    assert count(forward, "contraction") <= count(tangents, "contraction") + 1
    assert count(jvp(graph), "contraction") == 3 + 6
    # no transcendental is computed a second time: tanh' = 1 - tanh²
    assert sum(n.op.name == "tanh" for n in simplify(forward).nodes) == 2


def test_tangents_stop_where_derivatives_do() -> None:
    graph = trace(lambda x: (F.stop_gradient(x) * x, F.floor(x), x > 0, x.astype(np.int32)), f64[3])
    forward = jvp(graph)
    assert [t.dtype.is_float for t in forward.output_types] == [True, True, False, False, True, True]
    x, t = np.array([1.5, -2.0, 3.0]), np.array([1.0, 10.0, 100.0])
    *_, first, second = interpret(forward, [x, t])
    np.testing.assert_array_equal(first, x * t)
    np.testing.assert_array_equal(second, 0 * t)


def test_choices_stop_infinite_tangents() -> None:
    """select, not a product: 0 times inf would be NaN."""
    graph = trace(lambda x: F.where(x > 0, F.log(x), 0.0 * x), f64[2])
    *_, tangent = interpret(jvp(graph), [np.array([0.0, 2.0]), np.ones(2)])
    assert np.isfinite(tangent).all()


def test_graphs_without_nodes() -> None:
    build = Builder()
    x = build.input(f32[2], "x")
    (_, tangent) = interpret(jvp(build.graph("same", [x])), [np.float32([1, 2]), np.float32([3, 4])])
    np.testing.assert_array_equal(tangent, [3, 4])
