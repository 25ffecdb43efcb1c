"""jvp, hvp, Jacobians and Hessians of functions: values against closed forms, and how many sweeps they take."""

from __future__ import annotations

import re

import numpy as np
import pytest

import graphc
from graphc.errors import ArgumentError, DTypeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.graph import Graph
from graphc.ir.types import f32
from graphc.passes.simplify import simplify

LINE = re.escape(__file__) + r":\d+: "


def count(graph: Graph, *names: str) -> int:
    return sum(n.op.name in names for n in simplify(graph).nodes)


def test_jvp_of_nests_and_its_composition_with_grad() -> None:
    params, x = {"w": np.array([1.0, 2.0]), "n": np.int32(2)}, np.float64(3.0)

    def fn(p: dict[str, Array], v: Array) -> dict[str, Array]:
        return {"y": p["w"] * v**2, "k": p["n"] + 1}

    value, tangent = graphc.jvp(fn, (params, x), ({"w": np.array([1.0, 0.0]), "n": None}, 1.0))
    np.testing.assert_allclose(value["y"], [9, 18])  # type: ignore[index]
    np.testing.assert_allclose(tangent["y"], [9 + 6, 12])  # type: ignore[index]
    assert tangent["k"] is None and value["k"] == 3  # type: ignore[index]
    # forward over reverse, reverse over forward, forward over forward: all 6 x
    cube = lambda v: v**3  # noqa: E731
    assert graphc.jvp(graphc.grad(cube), (2.0,), (1.0,))[1] == 12
    assert graphc.grad(lambda v: graphc.jvp(cube, (v,), (1.0,))[1])(2.0) == 12
    assert graphc.jvp(lambda v: graphc.jvp(cube, (v,), (1.0,))[1], (2.0,), (1.0,))[1] == 12


def test_perturbations_do_not_mix() -> None:
    """d/dx [x · (d/dy (x + y))] = 1 (Siskind & Pearlmutter, 2005)."""
    slope = graphc.jvp(lambda x: x * graphc.jvp(lambda y: x + y, (x,), (1.0,))[1], (3.0,), (1.0,))[1]
    assert slope == 1.0


def test_linearize_shares_the_forward_pass() -> None:
    def both(x: Array) -> tuple[Array, Array, Array]:
        y, along = graphc.linearize(F.exp, x)
        return y, along(1.0), along(x)

    graph = graphc.trace(both, f32[3])
    assert count(graph, "exp") == 1
    _, along = graphc.linearize(np.sin, 0.5)
    np.testing.assert_allclose(along(2.0), 2 * np.cos(0.5), rtol=1e-6)


def test_jvp_costs_one_more_forward_pass_and_hvp_about_four() -> None:
    def loss(weights: list[Array], x: Array) -> Array:
        for w in weights:
            x = F.tanh(x @ w)
        return F.sum(x * x)

    weights, x = [f32[8, 8]] * 4, f32[16, 8]
    forward = graphc.trace(loss, weights, x)
    pushed = graphc.trace(lambda w, x, t: graphc.jvp(lambda v: loss(w, v), (x,), (t,)), weights, x, x)
    product = graphc.trace(lambda w, x, v: graphc.hvp(lambda u: loss(w, u), x, v), weights, x, x)
    assert count(forward, "contract") == 4
    assert count(pushed, "contract") == 8
    # forward, reverse, and the tangents of both: one a layer each, as weights are constant, without the last of the gradient
    assert count(product, "contract") == 15


def test_hvp_is_the_hessian_times_a_vector() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 3))
    x, v = {"u": rng.normal(size=3), "s": rng.normal()}, {"u": rng.normal(size=3), "s": rng.normal()}

    def fn(p: dict[str, Array], scale: Array) -> Array:
        return scale * (F.sum(F.sin(p["u"])) * p["s"] ** 2 + p["u"] @ a @ p["u"])

    x = {k: np.asarray(q) for k, q in x.items()}
    v = {k: np.asarray(q) for k, q in v.items()}
    got = graphc.hvp(fn, x, v, np.float64(2.0))
    h = np.zeros((4, 4))
    h[:3, :3] = np.diag(-np.sin(x["u"]) * x["s"] ** 2) + a + a.T
    h[:3, 3] = h[3, :3] = np.cos(x["u"]) * 2 * x["s"]
    h[3, 3] = 2 * np.sin(x["u"]).sum()
    want = 2 * h @ np.append(v["u"], v["s"])
    np.testing.assert_allclose(got["u"], want[:3], rtol=1e-10)  # type: ignore[index]
    np.testing.assert_allclose(got["s"], want[3], rtol=1e-10)  # type: ignore[index]


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3)])
def test_jacobian_of_a_layer(mode: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    w, x = rng.normal(size=shape), rng.normal(size=shape[1])
    got = graphc.jacobian(lambda v: F.tanh(w @ v), mode=mode)(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, (1 - np.tanh(w @ x) ** 2)[:, None] * w, rtol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian_of_nests_has_the_shapes_of_results_and_arguments(mode: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 3)), rng.normal(size=4)

    def fn(p: tuple[Array, Array]) -> dict[str, Array]:
        return {"outer": p[0].T, "sum": F.sum(p[0]) * p[1][:2] ** 2}

    got = graphc.jacobian(fn, mode=mode)((x, y))  # type: ignore[arg-type]
    assert got["outer"][0].shape == (3, 2, 2, 3)  # type: ignore[index]
    np.testing.assert_array_equal(got["outer"][0], np.einsum("il,jk->ijkl", np.eye(3), np.eye(2)))  # type: ignore[index]
    np.testing.assert_array_equal(got["outer"][1], np.zeros((3, 2, 4)))  # type: ignore[index]
    np.testing.assert_allclose(got["sum"][0], np.multiply.outer(y[:2] ** 2, np.ones((2, 3))), rtol=1e-12)  # type: ignore[index]
    want = np.zeros((2, 4))
    want[[0, 1], [0, 1]] = 2 * y[:2] * x.sum()
    np.testing.assert_allclose(got["sum"][1], want, rtol=1e-12)  # type: ignore[index]


def test_a_pointwise_function_takes_one_sweep() -> None:
    def fn(x: Array, y: Array) -> Array:
        return F.sin(x * y) + F.exp(x)

    n = 50
    graph = graphc.trace(graphc.jacobian(fn, wrt=(0, 1)), f32[n], f32[n])
    costly = [v for v in simplify(graph).nodes if v.op.name in ("sin", "cos", "exp")]
    assert {v.type.shape for v in costly} == {(n,)}  # not one for each of n sweeps
    assert {v.type.shape for v in simplify(graph).nodes if v.op.name == "mul"} == {(n,)}
    x, y = np.random.default_rng(0).normal(size=(2, n))
    dx, dy = graphc.jacobian(fn, wrt=(0, 1))(x, y)  # type: ignore[misc]
    np.testing.assert_allclose(dx, np.diag(np.cos(x * y) * y + np.exp(x)), rtol=1e-11)
    np.testing.assert_allclose(dy, np.diag(np.cos(x * y) * x), rtol=1e-11)
    # the Hessian of a sum of functions of single elements is diagonal too
    curvature = graphc.trace(graphc.hessian(lambda x: F.sum(F.sin(x))), f32[n])
    assert {v.type.shape for v in simplify(curvature).nodes if v.op.name == "sin"} == {(n,)}
    np.testing.assert_allclose(graphc.hessian(lambda x: F.sum(F.sin(x)))(x), np.diag(-np.sin(x)), rtol=1e-11)


def test_sweeps_are_one_batch() -> None:
    """A Jacobian of 6 rows: as many contractions as one pullback has."""

    def fn(x: Array, w: Array, v: Array) -> Array:
        return F.tanh(x @ w) @ v

    def pull(x: Array, w: Array, v: Array, g: Array) -> object:
        return graphc.vjp(lambda u: fn(u, w, v), x)[1](g)

    pulled = graphc.trace(pull, f32[20], f32[20, 9], f32[9, 6], f32[6])
    whole = graphc.trace(graphc.jacobian(fn), f32[20], f32[20, 9], f32[9, 6])
    assert count(whole, "contract") <= count(pulled, "contract")


def test_hessian_equals_jacobian_of_gradient_by_reverse() -> None:
    x = np.random.default_rng(4).normal(size=(2, 3))

    def fn(v: Array) -> Array:
        return F.sum(F.sin(v[0] * v[1]) * F.sum(v**2))

    forward = graphc.hessian(fn)(x)
    reverse = graphc.jacobian(graphc.grad(fn), mode="reverse")(x)
    np.testing.assert_allclose(forward, reverse, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(forward, np.transpose(forward, (2, 3, 0, 1)), rtol=1e-11, atol=1e-12)  # type: ignore[arg-type]
    third = graphc.jacobian(graphc.hessian(lambda v: F.sum(v**3)))(np.ones(2))
    assert third[0, 0, 0] == 6 and third[0, 0, 1] == 0  # type: ignore[index]


def test_within_traced_code_and_with_captured_values() -> None:
    def fn(x: Array, a: Array) -> Array:
        inner = graphc.jacobian(lambda v: F.sin(v) * a)(x)
        return F.sum(inner)

    x, a = np.array([0.1, 0.2]), np.array([2.0, 3.0])
    np.testing.assert_allclose(graphc.grad(fn)(x, a), -np.sin(x) * a, rtol=1e-12)
    np.testing.assert_allclose(graphc.grad(fn, wrt="a")(x, a), np.cos(x), rtol=1e-12)


def test_wrong_use_says_what_is_wrong() -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(
        ArgumentError, match=LINE + "jacobian: mode: expected auto, forward or reverse, got 'back'"
    ):
        graphc.jacobian(F.sin, mode="back")  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match=LINE + r"jacobian: result 0: expected a float, got bool\[3\]"):
        graphc.jacobian(lambda v: v > 0)(x)
    with pytest.raises(DTypeError, match="jacobian: %v: expected a float argument"):
        graphc.jacobian(lambda v: v * 2)(np.arange(3))
    with pytest.raises(ArgumentError, match=LINE + "jvp: expected a tangent for each of 1 primals, got 2"):
        graphc.jvp(F.sin, (x,), (x, x))
    with pytest.raises(ArgumentError, match=r"jvp: %x: expected a tangent of f32\[3\], got f64\[3\]"):
        graphc.jvp(F.sin, (x,), (x.astype(np.float64),))
    with pytest.raises(ArgumentError, match=r"jvp: tangents.0: expected an array, got a tuple"):
        graphc.jvp(F.sin, (x,), ((x,),))
