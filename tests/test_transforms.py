"""Gradients: against finite differences and closed forms, nested, captured, in traced code and on arrays."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import ArgumentError, DTypeError, TraceError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.tracer import current_trace, trace, trace_function
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64
from graphc.passes.vjp import vjp as vjp_pass
from graphc.transforms import grad, stop_gradient, value_and_grad, vjp

LINE = re.escape(__file__) + r":\d+: "
RNG = np.random.default_rng(3)


def run(fn: Callable[..., object], *arrays: object) -> object:
    traced = trace_function(fn, arrays)
    leaves = [np.asarray(a, t.dtype.numpy) for a, t in zip(arrays, traced.graph.input_types, strict=True)]
    return traced.outputs.unflatten(interpret(traced.graph, leaves))


def real(*shape: int) -> np.ndarray:
    return RNG.uniform(-2, 2, shape)


SMOOTH: dict[str, Callable[[Array], Array]] = {
    "logaddexp": lambda x: F.logaddexp(x[0], x[1]),
    "logsumexp": lambda x: F.logsumexp(x, axis=1),
    "prod": lambda x: F.prod(x, axis=1),
    "prod_all": lambda x: F.prod(x[:, :3]),
    "cumulative_sum": lambda x: F.cumulative_sum(x, axis=1) ** 2,
    "var": lambda x: F.var(x, axis=0, correction=1),
    "std": lambda x: F.std(x, axis=1),
    "mean": lambda x: F.mean(x, axis=(0, 1)),
    "sinh": lambda x: F.sinh(x),
    "cosh": lambda x: F.cosh(x),
    "tan": lambda x: F.tan(x / 2),
    "pow": lambda x: F.pow(x, 3) + F.pow(x * x + 1, 0.5) + F.pow(x * x + 1, 1.7),
    "einsum": lambda x: F.einsum("ij,kj->ik", x, x),
    "einsum_diagonal": lambda x: F.einsum("ii->i", x[:, :4]) * F.einsum("ij->j", x)[:4],
    "matmul": lambda x: F.matmul(x[None], F.stack([x.T, x.T * 2])),
    "tensordot": lambda x: F.tensordot(x, x, axes=((0, 1), (0, 1))),
    "getitem": lambda x: x[1:, ::-2] * x[np.array([0, 0, 2])][:, :3],
    "gather_two": lambda x: x[np.array([0, 3, 3]), np.array([1, 1, -1])] ** 2,
    "at_add": lambda x: x.at[1:3, 0].add(x[0, 1] * 3) * x.at[np.array([0, 0])].add(x[1]),
    "roll_pad_flip": lambda x: F.roll(x, 2, axis=1) * F.flip(F.pad(x, 1)[1:-1, 1:-1]),
    "tile_repeat": lambda x: F.tile(x, (2, 1)) * F.repeat(x, 2, axis=0),
    "triangles": lambda x: F.tril(x) * F.triu(x, -1) + F.trunc(x),
    "take_along_axis": lambda x: (
        F.take_along_axis(x, np.array([[0, 1], [2, 2], [4, 0], [1, 1]]), axis=1) ** 2
    ),
    "clip_where": lambda x: F.clip(x, -1.0, 1.0) * F.where(x > 0, x, 2 * x),
    "concat": lambda x: F.concat([x, x * x], axis=1) * F.split(F.concat([x, x, x], axis=1), [10], axis=1)[0],
    "numpy": lambda x: np.tanh(np.maximum(x, 0.1)) + np.log1p(np.square(x)),
    "astype": lambda x: x.astype(np.float32).astype(np.float64) * 2,
}


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_gradients_agree_with_finite_differences_at_orders_one_and_two(name: str) -> None:
    x, direction, weight = real(4, 5), real(4, 5), 0.7

    def loss(v: Array) -> Array:
        return F.sum(F.sin(SMOOTH[name](v) * weight))

    def slope(v: Array) -> Array:
        return F.sum(grad(loss)(v) * direction)

    for function, gradient in ((loss, grad(loss)), (slope, grad(slope))):
        if name == "astype":
            continue  # f32 in the middle is too coarse for differences; its adjoint is in the registry's tests
        step = 1e-6
        difference = (
            np.asarray(run(function, x + step * direction)) - np.asarray(run(function, x - step * direction))
        ) / (2 * step)
        np.testing.assert_allclose(
            np.sum(np.asarray(run(gradient, x)) * direction), difference, rtol=2e-5, atol=2e-6
        )


def test_logaddexp_shares_a_tie_and_has_its_second_derivative() -> None:
    first = run(lambda x, y: grad(F.logaddexp, wrt=(0, 1))(x, y), 1.0, 1.0)
    np.testing.assert_allclose(np.asarray(first), [0.5, 0.5])
    second = run(lambda x: grad(grad(lambda v: F.logaddexp(v, 1.0)))(x), 1.0)
    np.testing.assert_allclose(np.asarray(second), 0.25)


def test_nested_derivatives_do_not_confuse_their_variables() -> None:
    """d/dx [x · (d/dy (x + y) at y = x)] = 1: perturbation confusion gives 2 (Siskind & Pearlmutter, 2005)."""

    def fn(x: Array) -> Array:
        return x * grad(lambda y: x + y)(x)

    assert grad(fn)(3.0) == 1.0
    assert run(grad(fn), 3.0) == 1.0


def test_gradients_of_gradients() -> None:
    cube = grad(grad(lambda x: x**3))
    assert cube(2.0) == 12.0 and grad(cube)(2.0) == 6.0
    np.testing.assert_allclose(grad(grad(np.sin))(0.5), -np.sin(0.5), rtol=1e-6)


def test_gradients_flow_through_captured_values() -> None:
    def outer(w: Array, x: Array) -> Array:
        inner = grad(lambda v: F.sum(w * v**3))(x)  # 3 w v^2
        return F.sum(inner * inner)

    w, x = real(4), real(4)
    np.testing.assert_allclose(np.asarray(run(grad(outer), w, x)), 18 * w * x**4, rtol=1e-12)


def test_the_graph_of_a_gradient_is_marked_as_differentiated_and_shares_the_forward_pass() -> None:
    graph = trace(value_and_grad(lambda x: F.sum(F.exp(x))), f32[3])
    assert graph.stage == "differentiated"
    assert [node.op.name for node in graph.nodes].count("exp") == 1
    assert graph.name == "value_and_grad_lambda" and graph.input_names == ("x",)
    assert trace(lambda x: x + 1, f32[3]).stage == "traced"


def test_derived_nodes_keep_the_users_line_and_say_what_they_are() -> None:
    def loss(x: Array) -> Array:
        return F.sum(F.tanh(x))

    marked = [n for n in trace(grad(loss), f32[3]).nodes if n.attrs.get("diagonal")]
    assert [n.loc.note for n in marked] == ["d loss / d x"]
    assert all(n.loc.file == __file__ for n in marked)


def test_gradients_mirror_the_structure_of_the_arguments() -> None:
    params = {"layers": [{"w": real(3, 2), "b": real(2)}], "scale": np.float64(1.5) * np.ones(())}

    def loss(p: dict, x: Array) -> Array:
        layer = p["layers"][0]
        return F.sum((x @ layer["w"] + layer["b"]) * p["scale"])

    x = real(5, 3)
    value, got = value_and_grad(loss)(params, x)
    assert sorted(got) == ["layers", "scale"]
    np.testing.assert_allclose(value, ((x @ params["layers"][0]["w"] + params["layers"][0]["b"]) * 1.5).sum())
    np.testing.assert_allclose(got["layers"][0]["w"], 1.5 * np.repeat(x.sum(0)[:, None], 2, 1))
    np.testing.assert_allclose(got["layers"][0]["b"], [7.5, 7.5])


def test_wrt_by_position_and_name_and_several() -> None:
    def fn(x: Array, y: Array, z: Array) -> Array:
        return x * x * y + z * y * y

    assert grad(fn, wrt="y")(2.0, 3.0, 4.0) == 28.0
    assert grad(fn, wrt=-1)(2.0, 3.0, 4.0) == 9.0
    dx, dz = grad(fn, wrt=("x", 2))(2.0, 3.0, 4.0)
    assert (dx, dz) == (12.0, 9.0)
    value, (dy,) = value_and_grad(fn, wrt=[1])(2.0, 3.0, 4.0)
    assert (value, dy) == (48.0, 28.0)


def test_aux_is_given_back() -> None:
    def fn(x: Array) -> tuple[Array, dict]:
        y = F.exp(x)
        return F.sum(y), {"y": y, "count": 3}

    x = np.float32([0, 1])
    gradient, aux = grad(fn, has_aux=True)(x)
    np.testing.assert_allclose(gradient, np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(aux["y"], np.exp(x), rtol=1e-6)
    assert aux["count"] == 3
    (value, aux), gradient = value_and_grad(fn, has_aux=True)(x)
    np.testing.assert_allclose(value, np.exp(x).sum(), rtol=1e-6)


def test_arguments_outside_of_wrt_may_be_anything_in_traced_code() -> None:
    def loss(w: Array, axis: int, names: list[str], x: Array) -> Array:
        assert names == ["a"]
        return F.sum(F.sum(w * x, axis=axis) ** 2)

    got = run(lambda w, x: grad(loss)(w, 1, ["a"], x), real(2, 3), real(2, 3))
    assert np.asarray(got).shape == (2, 3)
    with pytest.raises(ArgumentError, match=r"argument\.2\.0: expected an array or a number, got str 'a'"):
        grad(loss)(real(2, 3), 1, ["a"], real(2, 3))


def test_keyword_arguments_are_constants() -> None:
    def loss(w: Array, scale: float = 1.0, axis: int = 0) -> Array:
        return F.sum(F.sum(w, axis=axis) * scale)

    call = grad(loss)
    np.testing.assert_array_equal(call(np.ones((2, 3), np.float32), scale=3.0, axis=1), np.full((2, 3), 3))
    np.testing.assert_array_equal(call(np.ones((2, 3), np.float32), scale=4.0), np.full((2, 3), 4))
    exact = grad(lambda x, power=1: x**power)
    assert (exact(3.0, power=2), exact(3.0, power=2.0), exact(3.0, power=1)) == (6.0, 6.0, 1.0)
    with pytest.raises(
        ArgumentError, match=r"expected keyword arguments that are plain constants, got scale; pass arrays"
    ):
        call(np.ones((2, 3), np.float32), scale=np.ones(3))


def test_parameters_lifted_in_the_loss_are_constants_for_the_gradient() -> None:
    weight = np.float32([2, 3])

    def loss(x: Array) -> Array:
        active = current_trace()
        assert active is not None
        return F.sum(x * x * active.parameter("weight", weight, "owner"))

    traced = trace_function(grad(loss), [f32[2]])
    assert traced.graph.input_names == ("x", "weight") and traced.parameters[0].array is weight
    np.testing.assert_array_equal(grad(loss)(np.float32([1, 2])), [4, 12])


def test_stop_gradient_is_a_constant_for_differentiation() -> None:
    assert grad(lambda x: x * stop_gradient(x))(3.0) == 3.0


def test_the_loss_may_ignore_an_argument_or_be_a_constant() -> None:
    assert grad(lambda x: x * 0 + 1.0)(3.0) == 0.0
    assert grad(lambda x, y: y * 2.0)(3.0, 1.0) == 0.0
    assert grad(lambda x: 1.0)(3.0) == 0.0


def test_vjp_gives_outputs_and_a_pullback() -> None:
    x, w = real(2, 3), real(3, 4)
    y, pullback = vjp(lambda a, b: a @ b, x, w)
    np.testing.assert_allclose(y, x @ w)
    g = real(2, 4)
    dx, dw = pullback(g)
    np.testing.assert_allclose(dx, g @ w.T)
    np.testing.assert_allclose(dw, x.T @ g)


def test_vjp_of_nested_outputs_and_integer_arguments() -> None:
    x, labels = real(3), np.array([2, 0], np.int32)

    def fn(p: dict, index: Array) -> dict:
        return {"picked": p["x"][index] * 2, "index": index, "square": p["x"] ** 2}

    outputs, pullback = vjp(fn, {"x": x}, labels)
    np.testing.assert_array_equal(outputs["index"], labels)
    dp, dindex = pullback({"square": np.ones(3), "picked": np.array([1.0, 10.0]), "index": labels})
    np.testing.assert_allclose(dp["x"], 2 * x + [20, 0, 2])
    assert dindex is None
    with pytest.raises(
        ArgumentError, match=LINE + r"vjp: cotangents: expected a dict with picked, index, square, got a dict"
    ):
        pullback({"picked": 1.0})


def test_vjp_composes_in_traced_code() -> None:
    def hessian_vector(x: Array, v: Array) -> Array:
        _, pullback = vjp(grad(lambda t: F.sum(t**4)), x)
        return pullback(v)[0]

    x, v = real(3), real(3)
    np.testing.assert_allclose(np.asarray(run(hessian_vector, x, v)), 12 * x**2 * v, rtol=1e-12)

    def through_pullback(x: Array) -> Array:
        y, pullback = vjp(F.exp, x)
        return F.sum(pullback(y)[0])  # exp(2 x), differentiable like anything else

    np.testing.assert_allclose(np.asarray(run(grad(through_pullback), x)), 2 * np.exp(2 * x), rtol=1e-12)
    with pytest.raises(ArgumentError, match=LINE + r"vjp: expected a cotangent of f64\[3\], got f32\[3\]"):
        trace(lambda a, g: vjp(F.exp, a)[1](g), f64[3], f32[3])


def test_direct_calls_compile_once_per_type(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def loss(x: Array) -> Array:
        calls.append(x)
        return F.sum(x * x)

    gradient = grad(loss)
    for x in (np.float32([1, 2]), np.float32([3, 4]), np.float64([5, 6])):
        got = gradient(x)
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got, 2 * x)
    assert len(calls) in (2, 3)  # the interpreter, where there is no compiler, traces anew


ERRORS = [
    (lambda: grad(lambda x: x)(np.ones(3, np.float32)), TraceError,
     r"grad: expected a function that gives a float scalar, got f32\[3\]; reduce it by sum or mean, or use graphc\.vjp"),
    (lambda: grad(lambda x: F.argmax(x))(np.ones(3, np.float32)), TraceError,
     r"grad: expected a function that gives a float scalar, got i32\[\]; an integer or bool has no derivative"),
    (lambda: grad(lambda x: (F.sum(x), x))(np.ones(3, np.float32)), TraceError,
     r"grad: expected a function that gives one float scalar, got a tuple of 2; return the loss alone, or \(loss, aux\)"),
    (lambda: grad(lambda x: F.sum(x), has_aux=True)(np.ones(3, np.float32)), TraceError,
     r"grad: expected \(loss, aux\) with has_aux, got Array"),
    (lambda: grad(lambda x: x * 1.0)(3), DTypeError,
     r"grad: %x: expected a float argument, got i32\[\]; convert it by astype, or leave it out of wrt"),
    (lambda: value_and_grad(lambda x: x, wrt=1)(3.0), ArgumentError,
     r"value_and_grad: wrt: expected positional arguments of lambda \(x\), got 1"),
    (lambda: grad(lambda x: x, wrt="w")(3.0), ArgumentError,
     r"grad: wrt: expected positional arguments of lambda \(x\), got 'w'"),
    (lambda: grad(lambda x: x, wrt=(0, 0))(3.0), ArgumentError, r"grad: wrt: expected different arguments, got \(0, 0\)"),
    (lambda: grad(lambda x: x)(f32[3]), ArgumentError, r"argument\.0: expected an array or a number, got TensorType"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_say_what_to_do(case: int) -> None:
    call, kind, text = ERRORS[case]
    with pytest.raises(kind, match=LINE + text):
        call()


def test_without_seeds_only_the_first_output_is_differentiated() -> None:
    graph = trace(lambda x: ((x * x).sum(), 5 * x), f64[3])
    x = np.array([1.0, 2.0, 3.0])
    *_, gradient = interpret(vjp_pass(graph, seeds=False), [x])
    np.testing.assert_array_equal(gradient, 2 * x)
