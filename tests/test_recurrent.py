"""Recurrent layers: values and derivatives against numpy, lengths, both targets, the shape of the loop."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64

RNG = np.random.default_rng(9)
KINDS: dict[str, type] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}
T, N, IN, HIDDEN = 4, 3, 2, 5


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def step(
    kind: str, p: dict[str, np.ndarray], suffix: str, x: np.ndarray, state: list[np.ndarray]
) -> list[np.ndarray]:
    """One step in numpy, as PyTorch's page states it."""
    w, u, b, d = (p[f"{name}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = state[0]
    a, e = x @ w.T + b, h @ u.T + d
    if kind == "RNN":
        return [np.tanh(a + e)]
    if kind == "GRU":
        (ar, az, an), (er, ez, en) = np.split(a, 3, -1), np.split(e, 3, -1)
        r, z = sigmoid(ar + er), sigmoid(az + ez)
        return [(1 - z) * np.tanh(an + r * en) + z * h]
    i, f, g, o = np.split(a + e, 4, -1)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def run_numpy(
    kind: str, p: dict[str, np.ndarray], x: np.ndarray, lengths: np.ndarray, layers: int, directions: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Row by row, each up to its own length."""
    count = 2 if kind == "LSTM" else 1
    finals = [np.zeros((layers * directions, x.shape[1], HIDDEN)) for _ in range(count)]
    for layer in range(layers):
        y = np.zeros((*x.shape[:2], directions * HIDDEN))
        for direction in range(directions):
            suffix = f"_l{layer}" + "_reverse" * direction
            for row in range(x.shape[1]):
                state = [np.zeros(HIDDEN) for _ in range(count)]
                times = range(lengths[row])
                for t in reversed(times) if direction else times:
                    state = step(kind, p, suffix, x[t, row], state)
                    y[t, row, direction * HIDDEN : (direction + 1) * HIDDEN] = state[0]
                for final, s in zip(finals, state, strict=True):
                    final[layer * directions + direction, row] = s
        x = y
    return y, finals


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_equations(kind: str, directions: int) -> None:
    layer = KINDS[kind](IN, HIDDEN, 2, bidirectional=directions == 2, dtype=f64).init(3)
    x = RNG.normal(size=(T, N, IN))
    for lengths in (np.full(N, T), np.array([2, 4, 1])):
        y, finals = run_numpy(kind, layer.parameters, x, lengths, 2, directions)
        output, state = layer(x, lengths=lengths)
        np.testing.assert_allclose(output, y, rtol=1e-10, atol=1e-12)
        for got, want in zip(flatten(state)[0], finals, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    output, state = layer(x)
    one, last = layer(x[:, 0])
    np.testing.assert_allclose(one, output[:, 0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(flatten(last)[0][0], flatten(state)[0][0][:, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str) -> None:
    layer = KINDS[kind](IN, HIDDEN, bidirectional=True, dtype=f64).init(1)
    x, lengths = RNG.normal(size=(T, N, IN)), np.array([2, 4, 3])

    def output(params: dict[str, Array], x: Array) -> object:
        return layer.apply(params, {}, x, lengths=lengths)[0]

    graphc.check_grads(output, [layer.parameters, x], order=2)


@pytest.mark.parametrize("kind", KINDS)
def test_on_both_targets(kind: str) -> None:
    layer = KINDS[kind](2, 3)
    x = RNG.normal(size=(3, 2, 2)).astype(np.float32)

    def gradients(params: dict[str, Array], x: Array) -> object:
        def loss(params: dict[str, Array], x: Array) -> Array:
            y, state = layer.apply(params, {}, x)[0]
            return (y * y).sum() + sum(s.sum() for s in flatten(state)[0])  # type: ignore[attr-defined, no-any-return]

        return graphc.value_and_grad(loss, wrt=(0, 1))(params, x)

    graph = trace(gradients, layer.parameters, x)
    arrays = [*layer.parameters.values(), x]
    expected = interpret(graph, arrays, float64=True)
    compiled = flatten(graphc.compile(gradients, layer.parameters, x)(layer.parameters, x))[0]
    for got in (compiled, build_program(graph).run(arrays)):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loops_multiply_with_the_hidden_state_alone(kind: str) -> None:
    """What is the same for all steps is one contraction: the input's part before, weight gradients after the loops."""
    layer = KINDS[kind](8, 16)

    def gradients(p: dict[str, Array], x: Array) -> object:
        return graphc.grad(lambda p, x: (layer.apply(p, {}, x)[0][0] ** 2).sum(), wrt=(0, 1))(p, x)

    graph = graphc.compile(gradients, layer.parameters, f32[20, 4, 8]).fused
    outside, inside = contractions(graph)
    assert (outside, inside) == (
        4,
        2,
    )  # x Wᵀ, and the gradients of both weights and of x; h Wᵀ, and its cotangent
    longer = graphc.compile(gradients, layer.parameters, f32[40, 4, 8]).fused
    assert len(longer.nodes) == len(graph.nodes)


def contractions(graph: Graph) -> tuple[int, int]:
    """Those of a graph, and those within its loops."""
    outside = inside = 0
    for node in graph.nodes:
        below = [contractions(region) for region in node.regions]
        found = sum(a for a, _ in below) + ("contraction" in node.op.traits)
        inside += sum(b for _, b in below) + (found if node.op.name == "scan" else 0)
        outside += 0 if node.op.name == "scan" else found
    return outside, inside


@pytest.mark.parametrize(("layer", "cell"), [("RNN", nn.RNNCell), ("GRU", nn.GRUCell), ("LSTM", nn.LSTMCell)])
def test_a_cell_is_a_step_of_its_layer(layer: str, cell: type) -> None:
    many, one = KINDS[layer](IN, HIDDEN, dtype=f64).init(0), cell(IN, HIDDEN, dtype=f64)
    one.load_state({name.removesuffix("_l0"): value for name, value in many.parameters.items()})
    x = RNG.normal(size=(T, N, IN))
    state: object = None
    for t in range(T):
        state = one(x[t], state) if state is not None else one(x[t])
    for got, want in zip(flatten(state)[0], flatten(many(x)[1])[0], strict=True):
        np.testing.assert_allclose(got, want[0], rtol=1e-12)


def test_states_are_carried_over() -> None:
    layer = nn.LSTM(IN, HIDDEN, 2, dtype=f64).init(0)
    x = RNG.normal(size=(T, N, IN))
    y, state = layer(x)
    first, middle = layer(x[:2])
    second, end = layer(x[2:], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), y, rtol=1e-12)
    for a, b in zip(end, state, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_dropout_stands_between_layers_only() -> None:
    x, key = np.ones((T, N, IN), np.float32), np.uint32([0, 3])
    for layers, drawn in ((1, False), (2, True)):
        layer = nn.GRU(IN, HIDDEN, layers, dropout=0.5).init(0)

        def call(key: Array, layer: nn.Module = layer) -> object:
            return layer.apply(layer.parameters, {}, x, key=key, train=True)[0]

        y = interpret(trace(call, key), [key])[0]
        assert (not np.allclose(y, layer(x)[0])) == drawn


def test_a_recurrent_model_learns_to_count() -> None:
    rng = np.random.default_rng(0)

    class Counter(nn.Module):
        def __init__(self) -> None:
            self.rnn = nn.LSTM(1, 8, batch_first=True)
            self.head = nn.Linear(8, 1)

        def forward(self, *inputs: Array) -> Array:
            _, (h, _) = self.rnn(inputs[0])
            return self.head(h[0])

    x = (rng.uniform(size=(256, 8, 1)) < 0.5).astype(np.float32)
    history = graphc.fit(
        Counter(), (x, x.sum(1) - 4), loss=nn.mse, optimizer=optim.Adam(0.05), epochs=30, progress=False
    )
    assert history["loss"][-1] < 0.05 * history["loss"][0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: trace(lambda x: nn.GRU(2, 3)(x)[0], f32[4, 3, 5]),
            "GRU: expected [T, N, 2] or [T, 2], got [4, 3, 5]",
        ),
        (
            lambda: trace(lambda x, h: nn.GRU(2, 3)(x, h)[0], f32[4, 3, 2], f32[1, 2, 3]),
            "GRU: expected a state of [1, 3, 3], got [1, 2, 3]",
        ),
        (
            lambda: trace(lambda x, h: nn.LSTM(2, 3)(x, h)[0], f32[4, 3, 2], f32[1, 3, 3]),
            "LSTM: expected a state (h, c), got Array",
        ),
        (
            lambda: trace(lambda x: nn.RNN(2, 3)(x, lengths=x[0, :, 0])[0], f32[4, 3, 2]),
            "RNN: expected integer lengths, got f32",
        ),
        (
            lambda: trace(lambda x: nn.RNN(2, 3)(x, lengths=np.array([1, 2]))[0], f32[4, 3, 2]),
            "RNN: expected lengths [3], got [2]",
        ),
        (lambda: nn.RNN(2, 3, nonlinearity="gelu"), "RNN: expected nonlinearity of tanh, relu, got 'gelu'"),
        (lambda: nn.LSTM(2, 3, proj_size=3), "LSTM: expected proj_size below hidden_size, got 3"),
        (lambda: nn.GRU(2, 0), "GRU: expected hidden_size of at least 1, got 0"),
        (
            lambda: trace(lambda x: nn.LSTMCell(2, 3)(x)[0], f32[4, 3]),
            "LSTMCell: expected [N, 2] or [2], got [4, 3]",
        ),
    ],
)
def test_wrong_input_names_the_line(call: Callable[[], object], text: str) -> None:
    with pytest.raises(
        (ArgumentError, DTypeError, ShapeError), match=r"test_recurrent\.py:\d+: " + re.escape(text)
    ):
        call()
