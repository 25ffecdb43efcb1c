"""A new op is one entry in the registry: nothing else is told about it, and every stage knows it.

The op is softsign, x / (1 + |x|), with the derivative (1 - |y|)².
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from graphc.compiler import compile as compile_graph
from graphc.frontend.array import Array
from graphc.frontend.calls import Call
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.opdef import OpDef, pointwise, span
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse
from graphc.ir.plan import run_plan
from graphc.ir.types import f32, f64
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.vjp import vjp


@pytest.fixture
def softsign() -> Iterator[OpDef]:
    try:
        yield pointwise(
            "softsign",
            expr=lambda s, x: x / (1 + s.abs(x)),
            deriv=lambda s, x, y: ((1 - s.abs(y)) * (1 - s.abs(y)),),
            ref=lambda x: x / (1 + np.abs(x)),
            samples=span(0.2, 3),
            kink="1 at 0",
        )
    finally:
        REGISTRY.pop("softsign", None)


def reference(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.abs(x)))


def one_op() -> Graph:
    build = Builder()
    x = build.input(f64[3, 5], "x")
    return build.graph("new", [build.softsign(x)])


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    values = rng.uniform(0.2, 3, (3, 5))
    return np.asarray(values * np.where(rng.random((3, 5)) < 0.5, -1, 1))


def test_new_op_is_built_printed_parsed_verified_and_interpreted(softsign: OpDef, x: np.ndarray) -> None:
    graph = one_op()
    verify(graph)
    assert "%0 = softsign %x : f64[3,5]" in str(graph)
    assert parse(str(graph)) == graph
    np.testing.assert_array_equal(interpret(graph, [x])[0], reference(x))


@pytest.mark.parametrize("order", [1, 2])
def test_new_op_is_differentiated_and_agrees_with_the_central_difference(
    softsign: OpDef, x: np.ndarray, order: int
) -> None:
    """The derivatives are 1 / (1 + |x|)² and -2 sign(x) / (1 + |x|)³."""
    first = vjp(one_op())
    ones = np.ones_like(x)
    if order == 1:
        (_, got), f, want = interpret(first, [x, ones]), reference, 1 / (1 + np.abs(x)) ** 2
    else:
        build = Builder()
        (value,) = [build.input(f64[3, 5], "x")]
        _, slope = build.inline(first, [value, build.splat(1, value.type)])
        second = vjp(build.graph("slope", [slope], "differentiated"))
        _, got = interpret(second, [x, ones])
        want = -2 * np.sign(x) / (1 + np.abs(x)) ** 3

        def f(at: np.ndarray) -> np.ndarray:
            return interpret(first, [at, ones])[1]

    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(got, (f(x + 1e-6) - f(x - 1e-6)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_new_op_and_its_derivatives_are_simplified_fused_and_compiled(
    softsign: OpDef, x: np.ndarray, order: int
) -> None:
    graph = one_op()
    for _ in range(order):
        graph = vjp(graph)
    arrays = [x] * len(graph.inputs)
    want = interpret(graph, arrays)
    assert len(fuse(simplify(graph)).nodes) == 1  # one kernel, whatever the order
    compiled = compile_graph(graph)
    result = compiled(*arrays)
    got = [result] if order == 0 else list(result)  # type: ignore[call-overload]
    for native, kernels, expected in zip(got, run_plan(compiled.plan, arrays), want, strict=True):
        np.testing.assert_allclose(native, expected, rtol=1e-13)
        np.testing.assert_allclose(kernels, expected, rtol=1e-13)


def test_new_op_joins_a_traced_function(softsign: OpDef) -> None:
    def call(x: Array) -> Array:
        at = Call("softsign")
        return at.wrap(at.build.softsign(at.float_value(x * 2)))

    compiled = compile_graph(call, f32[3])
    assert "softsign" in str(compiled.graph)
    np.testing.assert_allclose(compiled(np.float32([-1, 0, 4])), np.float32([-2 / 3, 0, 8 / 9]), rtol=1e-6)


def test_registry_is_as_before() -> None:
    assert "softsign" not in REGISTRY
