"""vmap: every registered op against a Python loop, axes and nests, and the composition with the other transforms."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

import graphc
from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.batching import batch_graph
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.ir.opdef import OpDef, register
from graphc.ir.ops import REGISTRY
from graphc.ir.types import f32
from graphc.ir.verify import verify
from graphc.passes.simplify import simplify
from tests.test_ops import Case, cases

LINE = re.escape(__file__) + r":\d+: "
SIZE = 3


def examples(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Different ones of the same distribution: the elements in other orders."""
    return np.stack([array, *(rng.permutation(array.ravel()).reshape(array.shape) for _ in range(SIZE - 1))])


@pytest.mark.parametrize("case", cases())
def test_batch_of_every_op_equals_a_loop(case: Case) -> None:
    """For every choice of batched operands."""
    graph, arrays = case.graph(), case.sample.arrays
    rng = np.random.default_rng(3)
    stacks = [examples(a, rng) for a in arrays]
    for which in product((True, False), repeat=len(arrays)):
        if not any(which) and arrays:
            continue
        batch = batch_graph(graph, which, SIZE)
        verify(batch)
        given = [s if b else a for s, a, b in zip(stacks, arrays, which, strict=True)]
        got = interpret(batch, given)
        loop = [
            interpret(graph, [s[k] if b else a for s, a, b in zip(stacks, arrays, which, strict=True)])
            for k in range(SIZE)
        ]
        for result, one in zip(got, zip(*loop, strict=True), strict=True):
            want = np.stack(one)
            assert (result.dtype, result.shape) == (want.dtype, want.shape)
            if want.dtype.kind == "f":
                np.testing.assert_allclose(result, want, rtol=1e-6, atol=1e-6)
            else:
                np.testing.assert_array_equal(result, want)


def test_every_op_but_those_for_regions_has_a_rule() -> None:
    without = [op.name for op in REGISTRY.values() if op.batch is None and "pointwise" not in op.traits]
    assert set(without) <= {"fused", "const", "iota"}


def test_an_op_without_a_rule_is_taken_example_by_example() -> None:
    sorted_ = register(
        OpDef(
            "sorted_for_test", lambda types, attrs, regions: (types[0], types[1]),
            lambda arrays, attrs: [np.sort(arrays[0], axis=0) + arrays[1][0], arrays[1]], 2, no_derivative="a test",
        )
    )  # fmt: skip
    try:
        build = graphc.ir.graph.Builder()
        x, y = build.input(f32[4], "x"), build.input(f32[2], "y")
        graph = build.graph("f", build.emit(sorted_, [x, y]).results)
        rng = np.random.default_rng(0)
        xs, ys = rng.normal(size=(5, 4)).astype(np.float32), np.float32([1, 2])
        first, second = interpret(batch_graph(graph, [True, False], 5), [xs, ys])
        np.testing.assert_array_equal(first, np.sort(xs, axis=1) + 1)
        np.testing.assert_array_equal(second, np.stack([ys] * 5))
        assert interpret(batch_graph(graph, [True, False], 0), [xs[:0], ys])[0].shape == (0, 4)
        one, _ = interpret(batch_graph(graph, [True, False], 1), [xs[:1], ys])
        np.testing.assert_array_equal(one, first[:1])
    finally:
        REGISTRY.pop("sorted_for_test")


# ---------------------------------------------------------------------------------------------------------- functions


def contractions(graph: Graph) -> list[tuple[int, ...]]:
    return [n.type.shape for n in simplify(graph).nodes if "contraction" in n.op.traits]


def test_shared_weights_make_one_contraction() -> None:
    def mlp(w1: Array, w2: Array, x: Array) -> Array:
        return w2 @ F.tanh(w1 @ x)

    graph = graphc.trace(graphc.vmap(mlp, (None, None, 0)), f32[5, 4], f32[3, 5], f32[32, 4])
    assert sorted(contractions(graph)) == [(3, 32), (5, 32)] or sorted(contractions(graph)) == [
        (32, 3),
        (32, 5),
    ]
    assert len(graph.nodes) < 8


def test_axes_are_integers_nests_and_none() -> None:
    rng = np.random.default_rng(5)
    params = {"w": rng.normal(size=(4, 3, 2)), "b": rng.normal(size=2)}
    x = rng.normal(size=(3, 7, 4))

    def fn(p: dict[str, Array], v: tuple[Array]) -> dict[str, Array]:
        return {"y": v[0] @ p["w"] + p["b"], "b": p["b"] * 2}

    batched = graphc.vmap(fn, ({"w": 0, "b": None}, -1), {"y": -1, "b": None})
    result = batched(params, (x.transpose(1, 0, 2),))
    want = np.stack([x[:, :, k].T @ params["w"][k] + params["b"] for k in range(4)], axis=-1)
    np.testing.assert_allclose(result["y"], want, rtol=1e-12)  # type: ignore[index]
    np.testing.assert_array_equal(result["b"], params["b"] * 2)  # type: ignore[index]


def test_vmap_of_vmap_and_of_captured_values() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 4, 3))

    def table(u: Array, v: Array) -> Array:
        return graphc.vmap(lambda x: graphc.vmap(lambda y: F.sum(x * y) + F.sum(u[0]))(v))(u)

    np.testing.assert_allclose(graphc.compile(table, a, b)(a, b), a @ b.T + a[0].sum(), rtol=1e-12)
    crossed = graphc.vmap(graphc.vmap(lambda x, y: x * y, (None, 0)), (0, None))
    np.testing.assert_array_equal(
        crossed(np.arange(3.0), np.arange(4.0)), np.outer(np.arange(3.0), np.arange(4.0))
    )


def test_gradients_of_each_example() -> None:
    rng = np.random.default_rng(8)
    w, x, y = rng.normal(size=(3, 2)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))

    def loss(w: Array, x: Array, y: Array) -> Array:
        return F.sum((F.tanh(x @ w) - y) ** 2)

    got = graphc.vmap(graphc.grad(loss), (None, 0, 0))(w, x, y)
    want = np.stack([graphc.grad(loss)(w, x[k], y[k]) for k in range(6)])  # type: ignore[misc]
    np.testing.assert_allclose(got, want, rtol=1e-10)
    total = graphc.grad(lambda w: F.sum(graphc.vmap(loss, (None, 0, 0))(w, x, y)))(w)
    np.testing.assert_allclose(total, want.sum(0), rtol=1e-10)
    hessians = graphc.vmap(graphc.hessian(loss), (None, 0, 0))(w, x, y)
    np.testing.assert_allclose(hessians[4], graphc.hessian(loss)(w, x[4], y[4]), rtol=1e-9)  # type: ignore[index]
    _, tangents = graphc.jvp(lambda w: graphc.vmap(loss, (None, 0, 0))(w, x, y), (w,), (w,))
    np.testing.assert_allclose(tangents, (want * w).sum((1, 2)), rtol=1e-10)  # type: ignore[arg-type]


def test_regions_are_batched() -> None:
    x = np.linspace(-2, 2, 12).reshape(4, 3)

    @graphc.custom_vjp
    def tripled(v: Array, s: Array) -> Array:
        return 3 * v * s

    tripled.defvjp(lambda v, s: (tripled.fn(v, s), (v, s)), lambda r, g: (g * r[1], F.sum(g * r[0])))

    def fn(v: Array, s: Array) -> Array:
        return F.sum(graphc.checkpoint(lambda u: F.sin(tripled(u, s)))(v))

    batched = graphc.vmap(fn, (0, None))
    np.testing.assert_allclose(batched(x, np.float64(0.5)), np.sin(1.5 * x).sum(1), rtol=1e-6)
    each = graphc.vmap(graphc.grad(fn, wrt=(0, 1)), (0, None))(x, np.float64(0.5))
    np.testing.assert_allclose(each[0], np.cos(1.5 * x) * 0.5, rtol=1e-10)  # type: ignore[index]
    np.testing.assert_allclose(each[1], (np.cos(1.5 * x) * x).sum(1), rtol=1e-10)  # type: ignore[index]
    outer = graphc.grad(lambda s: F.sum(batched(x, s)))(np.float64(0.5))
    np.testing.assert_allclose(outer, (np.cos(1.5 * x) * x).sum(), rtol=1e-10, atol=1e-12)


def test_keys_of_random_numbers_are_batched() -> None:
    keys = np.arange(8, dtype=np.uint32).reshape(4, 2)

    def draw(key: Array) -> Array:
        return graphc.random.normal(key, (5,))

    got = graphc.vmap(draw)(keys)
    want = np.stack([graphc.compile(draw, k)(k) for k in keys])  # type: ignore[misc]
    np.testing.assert_array_equal(got, want)


def test_compiled_batches_equal_the_interpreter() -> None:
    def fn(x: Array, i: Array) -> Array:
        return F.cumulative_sum(F.exp(x[i]) / F.sum(F.exp(x[i]), axis=-1, keepdims=True), axis=0)

    rng = np.random.default_rng(4)
    x, i = rng.normal(size=(5, 7, 3)), rng.integers(0, 7, (5, 4)).astype(np.int32)
    graph = graphc.trace(graphc.vmap(fn), x, i)
    np.testing.assert_allclose(graphc.compile(graph)(x, i), interpret(graph, [x, i])[0], rtol=1e-12)


def test_wrong_axes_say_what_is_wrong() -> None:
    x, y = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    with pytest.raises(ArgumentError, match=LINE + "vmap: expected axes of one size, got 3 of a, 4 of b"):
        graphc.vmap(lambda a, b: a + b)(x, y)
    with pytest.raises(ArgumentError, match=r"vmap: in_axes: a: expected an axis of f32\[3,2\], got 2"):
        graphc.vmap(lambda a: a, 2)(x)
    with pytest.raises(ArgumentError, match="vmap: in_axes: expected axes for a tuple of 1, got tuple"):
        graphc.vmap(lambda a: a, (0, 0))(x)
    with pytest.raises(
        ArgumentError, match="vmap: in_axes: expected an axis for some argument, got None for all"
    ):
        graphc.vmap(lambda a: a, None)(x)
    with pytest.raises(
        ArgumentError, match="vmap: in_axes: expected integers, None, or nests of them, got str"
    ):
        graphc.vmap(lambda a: a, "0")(x)  # type: ignore[arg-type]
    with pytest.raises(
        ShapeError, match="vmap: out_axes: expected a result that is the same for all examples"
    ):
        graphc.vmap(lambda a: a, 0, None)(x)
