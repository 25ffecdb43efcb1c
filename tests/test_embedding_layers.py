"""Embeddings, positions, gates, dropouts of channels, containers: values and derivatives against numpy."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc import nn
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import random
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64, i32

RNG = np.random.default_rng(13)


def run(function: Callable[..., object], *args: object) -> list[np.ndarray]:
    return interpret(trace(function, *args), [np.asarray(a) for a in flatten(args)[0]])


# -- tables -------------------------------------------------------------------------------------------------------------


def test_embedding_reads_rows_and_its_gradient_is_one_scatter() -> None:
    table = nn.Embedding(5, 3, dtype=f64).init(0)
    ids = np.array([[4, 0, 4], [1, 4, 0]], np.int32)
    w = table.parameters["weight"]
    np.testing.assert_array_equal(table(ids), w[ids])
    weights = RNG.normal(size=(2, 3, 3))
    gradient = graphc.grad(lambda p, ids: (table.apply(p, {}, ids)[0] * weights).sum())
    graph = trace(gradient, table.parameters, ids)
    expected = np.zeros((5, 3))
    np.add.at(expected, ids, weights)
    np.testing.assert_allclose(interpret(graph, [w, ids])[0], expected, rtol=1e-12)
    assert [n.op.name for n in graph.nodes].count("scatter_add") == 1
    graphc.check_grads(lambda p: table.apply(p, {}, ids)[0] ** 3, [table.parameters], order=2)


def test_ids_outside_of_the_table_read_zeros_and_train_nothing() -> None:
    table = nn.Embedding(3, 2).init(0)
    ids = np.array([-1, 0, 3, 2**31 - 1], np.int32)
    y = table(ids)
    np.testing.assert_array_equal(y[[0, 2, 3]], 0)
    np.testing.assert_array_equal(y[1], table.parameters["weight"][0])
    (gradient,) = run(graphc.grad(lambda p: table.apply(p, {}, ids)[0].sum()), table.parameters)
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [0, 0]])


def test_padding_starts_at_zero_and_stays() -> None:
    table = nn.Embedding(4, 2, padding_idx=-2).init(0)
    assert table.padding_idx == 2
    np.testing.assert_array_equal(table.parameters["weight"][2], 0)
    assert table.parameters["weight"].std() > 0.3
    ids = np.array([2, 1, 2], np.int32)
    (gradient,) = run(graphc.grad(lambda p: table.apply(p, {}, ids)[0].sum()), table.parameters)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, 1], [0, 0], [0, 0]])
    (drawn,) = run(lambda key: table.init(key)[0], random.key(3))
    np.testing.assert_array_equal(drawn[2], 0)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str) -> None:
    ids = np.array([[1, 0, 3], [0, 0, 0], [2, 2, 1]])
    bag = nn.EmbeddingBag(4, 5, mode=mode, padding_idx=0, dtype=f64).init(0)
    w = bag.parameters["weight"]
    kept = [w[row[row != 0]] for row in ids]
    expected = [getattr(np, mode)(rows, axis=0) if len(rows) else np.zeros(5) for rows in kept]
    np.testing.assert_allclose(bag(ids), expected, rtol=1e-12)
    plain = nn.EmbeddingBag(4, 5, mode=mode, dtype=f64).init(1)
    np.testing.assert_allclose(plain(ids), getattr(np, mode)(plain.parameters["weight"][ids], axis=1))


def test_bags_with_weights() -> None:
    bag, ids, weights = (
        nn.EmbeddingBag(4, 5, mode="sum", dtype=f64),
        np.array([[1, 0], [3, 3]]),
        RNG.normal(size=(2, 2)),
    )
    expected = (bag.parameters["weight"][ids] * weights[..., None]).sum(1)
    np.testing.assert_allclose(bag(ids, weights), expected, rtol=1e-12)


# -- positions ------------------------------------------------------------------------------------------------------------


def test_sinusoids() -> None:
    (got,) = run(lambda: nn.sinusoidal_encoding(50, 6, dtype=f64))
    for t in (0, 1, 49):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(got[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], rtol=1e-12)
    x = RNG.normal(size=(2, 50, 6)).astype(np.float32)
    np.testing.assert_allclose(nn.PositionalEncoding(6)(x), x + got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_depend_on_distances_alone(interleaved: bool) -> None:
    q, k = RNG.normal(size=(2, 8))

    def turned(x: np.ndarray, offset: int) -> np.ndarray:
        return run(lambda x: nn.rotary(x, offset, interleaved=interleaved), x[None])[0][0]

    np.testing.assert_allclose(turned(q, 0), q, rtol=1e-12)
    products = [turned(q, 7 + shift) @ turned(k, 3 + shift) for shift in (0, 5, 1000)]
    np.testing.assert_allclose(products, products[0], rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(turned(q, 9)), np.linalg.norm(q), rtol=1e-12)
    z = (q[::2] + 1j * q[1::2] if interleaved else q[:4] + 1j * q[4:]) * np.exp(
        5j / 10000 ** (np.arange(4) / 4)
    )
    parts = np.stack([z.real, z.imag], -1).reshape(8) if interleaved else np.concatenate([z.real, z.imag])
    np.testing.assert_allclose(turned(q, 5), parts, rtol=1e-10)


def test_alibi() -> None:
    (got,) = run(lambda: nn.alibi_bias(8, 3, 5, dtype=f64))
    slopes = 2.0 ** -np.arange(1, 9)
    expected = -slopes[:, None, None] * abs(np.arange(2, 5)[:, None] - np.arange(5))
    np.testing.assert_allclose(got, expected)
    (odd,) = run(lambda: nn.alibi_bias(3, 1, 2, dtype=f64))
    np.testing.assert_allclose(-odd[:, 0, 0], [2**-4, 2**-8, 2**-2])


def test_learned_positions() -> None:
    layer = nn.LearnedPositions(8, 3).init(0)
    x = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x), x + layer.parameters["weight"][:5], rtol=1e-6)


# -- gates and dropouts -----------------------------------------------------------------------------------------------------


def test_gates() -> None:
    x = RNG.normal(size=(3, 8))
    a, b = x[:, :4], x[:, 4:]
    cases: list[tuple[Callable[[Array], Array], np.ndarray]] = [
        (nn.glu, a / (1 + np.exp(-b))),
        (nn.swiglu, a * b / (1 + np.exp(-b))),
        (nn.geglu, a * run(nn.gelu, b)[0]),
    ]
    for function, expected in cases:
        np.testing.assert_allclose(run(function, x)[0], expected, rtol=1e-12)
        graphc.check_grads(function, [x], order=2)
    (columns,) = run(lambda x: nn.GLU(0)(x), x.T)
    np.testing.assert_allclose(columns, (a / (1 + np.exp(-b))).T, rtol=1e-12)


def test_bilinear() -> None:
    layer = nn.Bilinear(2, 3, 4, dtype=f64).init(0)
    x, y = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 3))
    p = layer.parameters
    expected = np.stack([[a @ w @ b for w in p["weight"]] for a, b in zip(x, y, strict=True)]) + p["bias"]
    np.testing.assert_allclose(layer(x, y), expected, rtol=1e-12)
    graphc.check_grads(lambda p, x, y: layer.apply(p, {}, x, y)[0], [p, x, y], order=2)


def train(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    return run(lambda x, key: layer.apply({}, {}, x, key=key, train=True)[0], x, random.key(2))[0]


def test_channels_are_dropped_whole() -> None:
    x = np.ones((40, 50, 2, 3), np.float32)
    y = train(nn.Dropout2d(0.25), x)
    means = y.mean((2, 3))
    np.testing.assert_allclose(np.unique(means), [0, 4 / 3], rtol=1e-6)
    assert (means == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(nn.Dropout2d(0.25)(x), x)
    assert set(np.unique(train(nn.Dropout1d(0.5), np.ones((30, 4), np.float32)).std(1))) == {0.0}


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    y = train(nn.AlphaDropout(0.3), RNG.normal(size=200_000).astype(np.float32))
    assert abs(y.mean()) < 0.01 and abs(y.var() - 1) < 0.02


# -- containers -------------------------------------------------------------------------------------------------------------


def test_containers_name_their_parts() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Identity()})

        def forward(self, *inputs: Array) -> Array:
            (x,) = inputs
            for layer in self.layers:
                x = layer(x)
            return self.heads["a"](self.heads["b"](x))

    model = Model().init(0)
    names = [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "heads.a.weight",
        "heads.a.bias",
    ]
    assert list(model.parameters) == names
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    p = model.parameters
    y = (x @ p[names[0]].T + p[names[1]]) @ p[names[2]].T + p[names[3]]
    np.testing.assert_allclose(model(x), y @ p[names[4]].T + p[names[5]], rtol=1e-5)
    model.layers.append(nn.Linear(2, 2))
    assert "layers.2.weight" in model.parameters and len(model.layers[1:]) == 2 and "a" in model.heads
    with pytest.raises(
        ArgumentError, match=r"test_embedding_layers\.py:\d+: ModuleList: expected modules, got int"
    ):
        nn.ModuleList([3])  # type: ignore[list-item]


def test_sequential_by_names_and_slices() -> None:
    model = nn.Sequential({"first": nn.Linear(2, 3), "then": nn.ReLU()}).append(nn.Linear(3, 1)).init(0)
    assert list(model.parameters) == ["first.weight", "first.bias", "2.weight", "2.bias"]
    x = RNG.normal(size=(4, 2)).astype(np.float32)
    np.testing.assert_allclose(model[2:](model[:2](x)), model(x), rtol=1e-6)
    assert model[-1] is model[2]


def test_residual() -> None:
    layer = nn.Linear(3, 3).init(0)
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(nn.Residual(layer)(x), x + layer(x), rtol=1e-6)
    with pytest.raises(ShapeError, match=r"Residual: expected a module that keeps \[2, 3\], got \[2, 4\]"):
        trace(lambda x: nn.Residual(nn.Linear(3, 4))(x), f32[2, 3])


# -- both targets, wrong input ------------------------------------------------------------------------------------------------


def test_on_both_targets() -> None:
    table, norm = nn.Embedding(6, 4, padding_idx=0), nn.Linear(4, 6)
    ids = RNG.integers(0, 6, (3, 5)).astype(np.int32)

    def gradients(w: Array, v: Array, ids: Array) -> object:
        def loss(w: Array, v: Array) -> Array:
            y = nn.rotary(nn.embedding(ids, w, 0)) @ v.T
            return (nn.swiglu(y) ** 2).sum()

        return graphc.value_and_grad(loss, wrt=(0, 1))(w, v)

    arrays = [table.parameters["weight"], norm.parameters["weight"], ids]
    graph = trace(gradients, *arrays)
    expected = interpret(graph, arrays, float64=True)
    for got in (flatten(graphc.compile(gradients, *arrays)(*arrays))[0], build_program(graph).run(arrays)):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.Embedding(0, 3), "Embedding: expected num_embeddings of at least 1, got 0"),
        (lambda: nn.Embedding(3, 3, 3), "Embedding: expected a padding_idx within 3 rows, got 3"),
        (lambda: nn.EmbeddingBag(3, 3, "min"), "EmbeddingBag: expected mode of sum, mean, max, got 'min'"),
        (lambda: trace(lambda x: nn.Embedding(3, 3)(x), f32[2]), "embedding: expected integer ids, got f32"),
        (
            lambda: trace(lambda x: nn.EmbeddingBag(3, 3)(x), i32[2]),
            "EmbeddingBag: expected ids [N, L], got [2]",
        ),
        (
            lambda: trace(lambda x: nn.rotary(x), f32[2, 3]),
            "rotary: expected an even number of features, got 3",
        ),
        (
            lambda: trace(lambda x: nn.glu(x), f32[2, 3]),
            "glu: expected an even size along dimension -1, got [2, 3]",
        ),
        (
            lambda: trace(lambda x: nn.LearnedPositions(4, 3)(x), f32[5, 3]),
            "LearnedPositions: expected [..., at most 4, 3], got [5, 3]",
        ),
        (
            lambda: trace(lambda x: nn.Bilinear(2, 3, 1)(x, x), f32[5, 2]),
            "Bilinear: expected [..., 2] and [..., 3], got [5, 2] and [5, 2]",
        ),
    ],
)
def test_wrong_input_names_the_line(call: Callable[[], object], text: str) -> None:
    pattern = r"test_embedding_layers\.py:\d+: " + re.escape(text)
    with pytest.raises((ArgumentError, DTypeError, ShapeError), match=pattern):
        call()


# -- weights that are computed ------------------------------------------------------------------------------------------------


def test_weight_norm_starts_with_the_weight_and_trains_norms_and_directions() -> None:
    for layer in (nn.Linear(3, 2, seed=4), nn.Linear(3, 2)):
        before = np.array(layer.weight)
        after = nn.weight_norm(layer)
        assert after is layer
        np.testing.assert_allclose(layer.weight, before, rtol=1e-6)
    fresh = nn.weight_norm(nn.Linear(3, 2, dtype=f64)).init(7)
    g, v = (fresh.parameters[f"parametrizations.weight.original{i}"] for i in (0, 1))
    np.testing.assert_allclose(g, np.linalg.norm(v, axis=1, keepdims=True), rtol=1e-12)
    g *= 3
    np.testing.assert_allclose(fresh.weight, 3 * v, rtol=1e-12)
    x = RNG.normal(size=(5, 3))
    np.testing.assert_allclose(fresh(x), x @ (3 * v).T + fresh.parameters["bias"], rtol=1e-12)
    graphc.check_grads(lambda p, x: fresh.apply(p, {}, x)[0], [fresh.parameters, x], order=2)
    bias, g, v = run(lambda key: fresh.init(key), random.key(0))
    np.testing.assert_allclose(g, np.linalg.norm(v, axis=1, keepdims=True), rtol=1e-12)
    assert bias.shape == (2,) and v.std() > 0.1


def test_spectral_norm_finds_the_largest_singular_value() -> None:
    layer = nn.spectral_norm(nn.Linear(6, 4, dtype=f64), n_power_iterations=200).init(0)
    weight = layer.parameters["parametrizations.weight.original"]
    names = list(layer.buffers)

    def train(x: Array) -> object:
        return layer.apply(layer.parameters, layer.buffers, x, train=True)

    x = np.eye(6)
    y, *buffers = run(train, x)
    sigma = np.linalg.svd(weight, compute_uv=False)[0]
    np.testing.assert_allclose((y - layer.parameters["bias"]).T, weight / sigma, rtol=1e-6)
    layer.load_state({**layer.parameters, **dict(zip(names, buffers, strict=True))})
    np.testing.assert_allclose(np.linalg.svd(layer.weight, compute_uv=False)[0], 1, rtol=1e-6)


def test_parametrizations_say_what_they_need() -> None:
    with pytest.raises(
        ArgumentError,
        match=r"test_embedding_layers\.py:\d+: weight_norm: expected a parameter of Linear \(weight, bias\), got 'w'",
    ):
        nn.weight_norm(nn.Linear(2, 2), "w")
    with pytest.raises(ArgumentError, match="spectral_norm: expected a dim within rank 2, got 2"):
        nn.spectral_norm(nn.Linear(2, 2), dim=2)
