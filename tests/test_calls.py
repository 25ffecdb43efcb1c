"""checkpoint and custom_vjp: values, derivatives of order 1 and 2, memory, text, and what is said of wrong use."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc.compiler import compile as compile_graph
from graphc.errors import ArgumentError, ShapeError, TraceError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import f32, f64
from graphc.ir.verify import verify

LINE = re.escape(__file__) + r":\d+: "


def layer(w: Array, x: Array) -> Array:
    return F.tanh(F.sin(x @ w) @ w.T)


def deep(one: Callable[[Array, Array], Array]) -> Callable[[list[Array], Array], Array]:
    def loss(weights: list[Array], x: Array) -> Array:
        for w in weights:
            x = one(w, x)
        return (x * x).sum()

    return loss


def arguments(dtype: type = np.float32, layers: int = 6, width: int = 16, rows: int = 64):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(width, width), scale=0.3).astype(dtype) for _ in range(layers)]
    return weights, rng.normal(size=(rows, width)).astype(dtype)


def test_checkpoint_takes_less_memory_and_gives_the_same_bits() -> None:
    given = arguments()
    kept = compile_graph(graphc.grad(deep(layer)), *given)
    again = compile_graph(graphc.grad(deep(graphc.checkpoint(layer))), *given)
    for a, b in zip(kept(*given), again(*given), strict=True):
        np.testing.assert_array_equal(a, b)
    # of the two values in each layer, one is kept; the other one lives in one layer at a time
    assert again.workspace_bytes < 0.7 * kept.workspace_bytes
    verify_plan(again.plan)


def test_the_plan_of_a_checkpoint_means_what_it_says() -> None:
    weights, x = arguments(np.float32, 2, 4, 3)
    again = compile_graph(graphc.grad(deep(graphc.checkpoint(layer))), weights, x)
    for a, b in zip(run_plan(again.plan, [*weights, x]), again(weights, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_chain_of_checkpoints_keeps_the_arguments_of_each() -> None:
    """In one layer at a time three values and their cotangents are alive, however many layers there are."""

    def block(x: Array) -> Array:
        for _ in range(8):
            x = F.exp(F.sin(x[:, ::-1]))
        return x

    def run(one: Callable[[Array], Array], blocks: int) -> int:
        def loss(x: Array) -> Array:
            for _ in range(blocks):
                x = one(x)
            return F.sum(x)

        return compile_graph(graphc.grad(loss), f32[64, 64]).workspace_bytes // (64 * 64 * 4)

    assert run(graphc.checkpoint(block), 8) < run(block, 8) / 3


@pytest.mark.parametrize("wrap", [graphc.checkpoint, lambda f: graphc.checkpoint(graphc.checkpoint(f))])
def test_checkpoint_is_transparent_to_second_derivatives(wrap: Callable[..., Callable[..., Array]]) -> None:
    given = arguments(np.float64, 2, 3, 4)

    def curvature(one: Callable[[Array, Array], Array]) -> Callable[..., Array]:
        def fn(weights: list[Array], x: Array) -> Array:
            gradient = graphc.grad(deep(one), wrt=1)(weights, x)
            return (gradient * gradient).sum()

        return graphc.grad(fn)

    want, got = curvature(layer)(*given), curvature(wrap(layer))(*given)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_checkpoint_takes_nests_options_and_captured_values() -> None:
    def fn(params: dict[str, Array], x: Array, power: int = 2) -> dict[str, Array]:
        return {"y": params["w"] * x**power + scale, "n": F.sum(x) > 0}

    def loss(params: dict[str, Array], x: Array, s: Array) -> Array:
        nonlocal scale
        scale = s
        result = graphc.checkpoint(fn)(params, x, power=3)
        return (result["y"] ** 2).sum()

    scale: object = None
    params, x, s = {"w": np.float64(2.0)}, np.array([1.0, 2.0]), np.float64(0.5)
    slopes = graphc.grad(loss, wrt=(0, 1, 2))(params, x, s)
    y = 2 * x**3 + 0.5
    np.testing.assert_allclose(slopes[0]["w"], (2 * y * x**3).sum())
    np.testing.assert_allclose(slopes[1], 2 * y * 6 * x**2)
    np.testing.assert_allclose(slopes[2], (2 * y).sum())


@graphc.custom_vjp
def log1pexp(x: Array) -> Array:
    return F.log(1 + F.exp(x))


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = log1pexp.fn(x)
    return y, (x, y)


log1pexp.defvjp(_forward, lambda residuals, g: (g * (1 - 1 / (1 + F.exp(residuals[0]))),))


def test_custom_vjp_is_what_the_gradient_uses() -> None:
    """The example of JAX's manual: log(1 + exp(x)) at 100 has the slope 1, where the chain rule gives inf / inf."""
    plain = graphc.grad(log1pexp.fn)(100.0)
    assert np.isnan(plain)
    assert graphc.grad(log1pexp)(100.0) == 1.0
    x = np.linspace(-3, 3, 7)
    slope = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(graphc.grad(lambda v: log1pexp(v).sum())(x), slope, rtol=1e-12)
    second = graphc.grad(lambda v: graphc.grad(lambda u: log1pexp(u).sum())(v).sum())(x)
    np.testing.assert_allclose(second, slope * (1 - slope), rtol=1e-12)


def test_custom_vjp_may_state_anything() -> None:
    """Straight through: the forward pass rounds, the cotangent passes, limited, and integers have none."""

    @graphc.custom_vjp
    def rounded(x: Array, digits: Array) -> Array:
        return F.round(x * digits) / digits

    rounded.defvjp(
        lambda x, digits: (rounded.fn(x, digits), None),
        lambda residuals, g: (F.clip(g, -1.0, 1.0), None),
    )
    x = np.array([0.13, -0.77])
    np.testing.assert_array_equal(rounded(x, 10), [0.1, -0.8])
    weights = np.array([0.5, 7.0])
    np.testing.assert_array_equal(graphc.grad(lambda v: (rounded(v, 10) * weights).sum())(x), [0.5, 1.0])


def test_identity_with_its_own_derivative_does_not_mix_cotangents() -> None:
    @graphc.custom_vjp
    def reversed_(x: Array) -> Array:
        return x

    reversed_.defvjp(lambda x: (x, None), lambda residuals, g: (-g,))
    assert graphc.grad(lambda x: reversed_(x) * 2 + x)(1.0) == -1.0


def test_graphs_print_parse_verify_interpret() -> None:
    graph = graphc.trace(lambda x: graphc.checkpoint(lambda v: log1pexp(v) * 2)(x), f64[3])
    again = parse(str(graph))
    verify(again)
    assert again == graph and str(again) == str(graph)
    x = np.linspace(-1, 1, 3)
    np.testing.assert_allclose(interpret(again, [x])[0], 2 * np.log1p(np.exp(x)), rtol=1e-15)
    np.testing.assert_allclose(compile_graph(again)(x), 2 * np.log1p(np.exp(x)), rtol=1e-12)


def test_wrong_rules_say_what_is_wrong() -> None:
    def make(forward: object, backward: object) -> Callable[..., object]:
        made = graphc.custom_vjp(lambda x: x * 2)
        made.defvjp(forward, backward)  # type: ignore[arg-type]
        return graphc.grad(lambda x: made(x).sum())  # type: ignore[no-any-return]

    x = np.ones(3, np.float32)
    with pytest.raises(TraceError, match=LINE + r".*custom_vjp: lambda: expected rules, got none"):
        graphc.custom_vjp(lambda x: x)(x)
    with pytest.raises(
        TraceError, match=LINE + r".*expected forward to give \(result, residuals\), got an array"
    ):
        make(lambda x: x * 2, lambda r, g: (g,))(x)
    with pytest.raises(
        ShapeError, match=r"expected forward to give an array of \[f32\[3\]\] first, got .*f32\[\]"
    ):
        make(lambda x: (x.sum(), None), lambda r, g: (g,))(x)
    with pytest.raises(
        TraceError, match=r"expected backward to give a tuple of 1 cotangents.*got a tuple of 2"
    ):
        make(lambda x: (x * 2, None), lambda r, g: (g, g))(x)
    with pytest.raises(ShapeError, match=r"expected backward to give f32\[3\] for %x, got f32\[\]"):
        make(lambda x: (x * 2, None), lambda r, g: (g.sum(),))(x)
    with pytest.raises(ArgumentError, match="checkpoint: x: expected an array or a number, got str 'a'"):
        graphc.trace(lambda v: graphc.checkpoint(lambda x: v)("a"), f32[2])

    def outer(w: Array) -> Array:
        inner = graphc.custom_vjp(lambda x: x * w)
        inner.defvjp(lambda x: (x * w, None), lambda r, g: (g,))
        return inner(w)

    with pytest.raises(TraceError, match="expected functions of their arguments alone, got one that reads w"):
        graphc.trace(outer, f32[2])


def test_forward_mode_of_both() -> None:
    x = np.linspace(-2, 2, 5)
    slope = 1 / (1 + np.exp(-x))
    value, tangent = graphc.jvp(log1pexp, (x,), (2.0,))
    np.testing.assert_allclose(value, np.log1p(np.exp(x)), rtol=1e-12)
    np.testing.assert_allclose(tangent, 2 * slope, rtol=1e-12)
    _, again = graphc.jvp(graphc.checkpoint(lambda v: F.sin(v) ** 2), (x,), (x,))
    np.testing.assert_allclose(again, 2 * np.sin(x) * np.cos(x) * x, rtol=1e-12)
    curved = graphc.hvp(lambda v: graphc.checkpoint(F.sin)(log1pexp(v)).sum(), x, np.ones(5))
    y = np.log1p(np.exp(x))
    np.testing.assert_allclose(curved, np.cos(y) * slope * (1 - slope) - np.sin(y) * slope**2, rtol=1e-10)


def test_donated_arguments_are_not_overwritten_before_they_are_read_again() -> None:
    weights, x = arguments(np.float32, 4, 8, 16)

    def step(weights: list[Array], x: Array) -> list[Array]:
        gradients = graphc.grad(deep(graphc.checkpoint(layer)))(weights, x)
        return [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]  # type: ignore[call-overload]

    want = compile_graph(step, weights, x, target="interpreter")(weights, x)
    compiled = compile_graph(step, weights, x, donate=("weights",))
    verify_plan(compiled.plan)
    for a, b in zip(want, compiled([w.copy() for w in weights], x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_ordered_value_is_no_step_and_no_copy() -> None:
    text = """graphc 1
    graph @f(%x: f32[64,64], %t: f32[3]) -> (f32[64,64]) {
      %0 = exp %t : f32[3]
      %1 = sin %x : f32[64,64]
      %2 = after %1, %0 : f32[64,64]
      %3 = contract %2, %2 {axes=[[1],[0]], batch=[[],[]]} : f32[64,64]
      return %3
    }"""
    graph = parse(text)
    compiled = compile_graph(graph)
    steps = [s.kernel.name.rstrip("0123456789") for s in compiled.plan.steps]  # type: ignore[union-attr]
    assert steps == ["map", "contract"]  # nothing reads the token itself: it is not computed either
    later = graph.with_outputs([*graph.outputs, graph.nodes[0].results[0]])
    first = compile_graph(later).plan.steps[0]
    assert first.writes[0].type.shape == (3,)  # type: ignore[union-attr]
    x, t = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), np.ones(3, np.float32)
    np.testing.assert_allclose(compiled(x, t), np.sin(x) @ np.sin(x), rtol=1e-3, atol=1e-4)


def test_what_no_function_is() -> None:
    for wrap, name in (
        (graphc.checkpoint, "checkpoint"),
        (graphc.custom_vjp, "custom_vjp"),
        (graphc.vmap, "vmap"),
    ):
        with pytest.raises(ArgumentError, match=LINE + f"{name}: expected a function, got int 3"):
            wrap(3)  # type: ignore[operator]
