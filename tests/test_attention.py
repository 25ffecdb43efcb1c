"""Attention and transformers: values and derivatives against numpy, masks, both targets, a model that learns to copy."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import attention as implementation
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64, i32

RNG = np.random.default_rng(5)
attention = nn.scaled_dot_product_attention


def run(function: Callable[..., object], *args: object) -> list[np.ndarray]:
    return interpret(trace(function, *args), [np.asarray(a) for a in flatten(args)[0]])


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis; zeros where all is -inf."""
    largest = x.max(-1, keepdims=True)
    powers = np.exp(x - np.where(np.isfinite(largest), largest, 0))
    total = powers.sum(-1, keepdims=True)
    return powers / np.where(total == 0, 1, total)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    return softmax(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + bias) @ v


def tensors(dtype: type = np.float64, lengths: tuple[int, int] = (4, 6)) -> list[np.ndarray]:
    q, s = lengths
    return [RNG.normal(size=(2, 3, n, d)).astype(dtype) for n, d in ((q, 5), (s, 5), (s, 7))]


def hidden(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0.0, -np.inf)


MASKS = {
    "none": (None, 0.0),
    "floats": (m := RNG.normal(size=(4, 6)), m),
    "bools": (b := RNG.uniform(size=(3, 4, 6)) < 0.6, hidden(b)),
    "padding": (p := np.arange(6) < np.array([6, 2]).reshape(2, 1, 1, 1), hidden(p)),
    "rows that see nothing": (e := np.arange(4)[:, None] > np.array([1] * 6), hidden(e)),
}


@pytest.mark.parametrize("name", MASKS)
def test_values_and_derivatives(name: str) -> None:
    mask, bias = MASKS[name]
    q, k, v = tensors()
    (got,) = run(lambda q, k, v: attention(q, k, v, mask), q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v, bias), rtol=1e-12, atol=1e-13)
    graphc.check_grads(lambda q, k, v: attention(q, k, v, mask), [q, k, v], order=2)


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient() -> None:
    mask, _ = MASKS["rows that see nothing"]
    q, k, v = tensors()
    (y,) = run(lambda q, k, v: attention(q, k, v, mask), q, k, v)
    gradients = run(
        graphc.grad(lambda q, k, v: (attention(q, k, v, mask) ** 2).sum(), wrt=(0, 1, 2)), q, k, v
    )
    assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_array_equal(y[..., :2, :], 0)
    np.testing.assert_array_equal(gradients[0][..., :2, :], 0)
    assert np.abs(y[..., 2:, :]).min() > 0


def test_causal_attention_does_not_look_ahead() -> None:
    q, k, v = tensors(lengths=(6, 6))
    (got,) = run(lambda q, k, v: attention(q, k, v, is_causal=True), q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v, np.triu(np.full((6, 6), -np.inf), 1)), rtol=1e-12)
    k[..., 3:, :] += 1
    (later,) = run(lambda q, k, v: attention(q, k, v, is_causal=True), q, k, v)
    np.testing.assert_array_equal(later[..., :3, :], got[..., :3, :])
    assert (later[..., 3:, :] != got[..., 3:, :]).all()


def test_scale_and_grouped_heads() -> None:
    q, k, v = tensors()
    few = [x[:, :1] for x in (k, v)]
    (got,) = run(lambda q, k, v: attention(q, k, v, scale=0.25, enable_gqa=True), q, *few)
    np.testing.assert_allclose(got, reference(q * (0.25 * np.sqrt(5)), *few), rtol=1e-12)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (x * np.float32(100) for x in tensors(np.float32))
    (got,) = run(attention, q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v), rtol=2e-2, atol=1)


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    q, k, v = tensors(np.float32, (64, 64))
    key = np.uint32([1, 2])
    function = lambda q, k, v, key: attention(q, k, v, dropout_p=0.5, dropout_key=key)  # noqa: E731
    (got,), (again,) = run(function, q, k, v, key), run(function, q, k, v, key)
    np.testing.assert_array_equal(got, again)
    (ones,) = run(function, q, k, np.ones_like(v), key)
    assert ones.std() > 0.1 and abs(ones.mean() - 1) < 0.02


@pytest.mark.parametrize(("causal", "cut"), [(False, False), (True, False), (True, True)])
def test_on_both_targets(causal: bool, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cut:
        monkeypatch.setattr(implementation, "_MOST_SCORES", 0)
        monkeypatch.setattr(implementation, "_BLOCK", 3)
    q, k, v = (x[:1, :2] for x in tensors(np.float32, (5, 5)))

    def step(q: Array, k: Array, v: Array) -> object:
        def loss(q: Array, k: Array, v: Array) -> Array:
            return (attention(q, k, v, is_causal=causal) ** 2).sum()

        return graphc.value_and_grad(loss, wrt=(0, 1, 2))(q, k, v)

    graph = trace(step, q, k, v)
    expected = interpret(graph, [q, k, v], float64=True)
    for got in (flatten(graphc.compile(step, q, k, v)(q, k, v))[0], build_program(graph).run([q, k, v])):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# -- by blocks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most two queries, whatever the size."""
    monkeypatch.setattr(implementation, "_MOST_SCORES", 0)
    monkeypatch.setattr(implementation, "_BLOCK", 2)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("length", [4, 5])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_give_the_same_values_and_derivatives(name: str, length: int) -> None:
    mask, bias = MASKS[name]
    if mask is not None and mask.shape[-2] == 4:  # of as many rows as there are queries
        mask, bias = (np.concatenate([m, m[..., :1, :]], -2)[..., :length, :] for m in (mask, bias))  # type: ignore[index]
    q, k, v = tensors(lengths=(length, 6))
    graph = trace(lambda q, k, v: attention(q, k, v, mask), q, k, v)
    assert [n.op.name for n in graph.nodes].count("scan") == 1
    np.testing.assert_allclose(
        interpret(graph, [q, k, v])[0], reference(q, k, v, bias), rtol=1e-12, atol=1e-13
    )
    if length == 5:
        graphc.check_grads(lambda q, k, v: attention(q, k, v, mask), [q, k, v], order=2)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("length", [1, 2])
def test_a_few_queries_of_many_keys_go_head_by_head(length: int) -> None:
    q, k, v = tensors(lengths=(length, 6))
    mask = RNG.uniform(size=(length, 6)) < 0.7
    (got,) = run(lambda q, k, v: attention(q, k, v, mask), q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v, hidden(mask)), rtol=1e-12, atol=1e-13)


def test_integers_are_no_queries() -> None:
    with pytest.raises(
        DTypeError, match=r"test_attention\.py:\d+: .*expected float queries, keys and values, got i32"
    ):
        trace(lambda x: attention(x, x, x), i32[2, 3])


@pytest.mark.usefixtures("blocks")
def test_blocks_of_causal_attention() -> None:
    q, k, v = tensors(lengths=(5, 5))
    causal = np.triu(np.full((5, 5), -np.inf), 1)
    (got,) = run(lambda q, k, v: attention(q, k, v, is_causal=True), q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v, causal), rtol=1e-12)
    graphc.check_grads(lambda q, k, v: attention(q, k, v, is_causal=True), [q, k, v], order=1)


@pytest.mark.usefixtures("blocks")
def test_blocks_drop_different_weights() -> None:
    q, k, v = (
        np.zeros((2, 6, 64), np.float32),
        np.zeros((2, 64, 64), np.float32),
        np.eye(64, dtype=np.float32)[None] * np.ones((2, 1, 1), np.float32),
    )
    (y,) = run(
        lambda q, k, v, key: attention(q, k, v, dropout_p=0.5, dropout_key=key), q, k, v, np.uint32([0, 1])
    )
    rows = {(row != 0).tobytes() for row in y.reshape(-1, 64)}
    assert len(rows) == 12 and abs((y != 0).mean() - 0.5) < 0.08


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    def workspace(length: int) -> tuple[int, int]:
        spec = f32[8, length, 16]
        forward = graphc.compile(lambda q, k, v: attention(q, k, v, is_causal=True), spec, spec, spec)
        loss = lambda q, k, v: (attention(q, k, v, is_causal=True) ** 2).sum()  # noqa: E731
        backward = graphc.compile(graphc.grad(loss, wrt=(0, 1, 2)), spec, spec, spec)
        return forward.workspace_bytes, backward.workspace_bytes

    (f, b), (f2, b2) = workspace(512), workspace(1024)
    assert f2 < 2.2 * f and b2 < 2.2 * b
    scores = 4 * 8 * 1024 * 1024
    assert f2 < 0.1 * scores and b2 < 0.2 * scores


def test_a_long_sequence_runs() -> None:
    q, k, v = (RNG.normal(size=(2, 2, 600, 8)).astype(np.float32) for _ in range(3))
    y = graphc.compile(lambda q, k, v: attention(q, k, v), q, k, v)(q, k, v)
    np.testing.assert_allclose(y, reference(q, k, v), rtol=1e-4, atol=1e-5)


# -- heads and transformers -----------------------------------------------------------------------------------------


def test_heads_against_numpy() -> None:
    layer = nn.MultiheadAttention(6, 2, batch_first=True, dtype=f64).init(1)
    x = RNG.normal(size=(3, 4, 6))
    p = layer.parameters
    q, k, v = (
        part.reshape(3, 4, 2, 3).swapaxes(1, 2)
        for part in np.split(x @ p["in_proj_weight"].T + p["in_proj_bias"], 3, axis=-1)
    )
    y = reference(q, k, v).swapaxes(1, 2).reshape(3, 4, 6)
    expected = y @ p["out_proj.weight"].T + p["out_proj.bias"]
    output, none = layer(x, x, x)
    np.testing.assert_allclose(output, expected, rtol=1e-12)
    assert none is None
    output, weights = layer(x, x, x, need_weights=True)
    np.testing.assert_allclose(output, expected, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(weights).sum(-1), np.ones((3, 4)), rtol=1e-12)
    one, _ = layer(x[0], x[0], x[0])
    np.testing.assert_allclose(one, expected[0], rtol=1e-12)


def test_padding_hides_keys_and_a_row_of_padding_is_zero() -> None:
    layer = nn.MultiheadAttention(4, 2, bias=False, batch_first=True, dtype=f64).init(1)
    x = RNG.normal(size=(2, 3, 4))
    padding = np.array([[False, False, True], [True, True, True]])
    output, _ = layer(x, x, x, padding)
    np.testing.assert_allclose(output[0], layer(x[:1, :], x[:1, :2], x[:1, :2])[0][0], rtol=1e-12)
    np.testing.assert_array_equal(output[1], 0)


def test_copies_of_a_layer_draw_their_own_values() -> None:
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2).init(0)
    p = stack.parameters
    assert next(iter(p)) == "layers.0.self_attn.in_proj_weight" and len(p) == 24
    assert (p["layers.0.linear1.weight"] != p["layers.1.linear1.weight"]).any()
    assert stack.layers[1].path == "layers.1"


class Copier(nn.Module):
    """Two causal layers over embedded tokens; logits of the next one."""

    def __init__(self, vocabulary: int, length: int, width: int = 32) -> None:
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.LearnedPositions(length, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, *inputs: Array) -> Array:
        (ids,) = inputs
        y = self.blocks(self.positions(self.tokens(ids)), is_causal=True)
        return self.head(y)


def test_a_causal_transformer_learns_to_copy() -> None:
    rng = np.random.default_rng(0)
    length, vocabulary = 6, 8
    words = rng.integers(0, vocabulary, (1024, length)).astype(np.int32)
    x = np.concatenate([words, words[:, :-1]], axis=1)
    y = np.concatenate([words, words], axis=1)[:, 1:]
    model = Copier(vocabulary, 2 * length - 1)

    def loss(logits: Array, targets: Array) -> Array:
        """Of the second half: what comes first can't be known."""
        second = logits[:, length - 1 :].reshape(-1, vocabulary)
        return nn.cross_entropy(second, targets[:, length - 1 :].reshape(-1))

    history = graphc.fit(
        model, (x, y), loss=loss, optimizer=optim.Adam(3e-3), epochs=24, batch_size=64, progress=False
    )
    assert history["loss"][0] > 1 and history["loss"][-1] < 0.02
    fresh = rng.integers(0, vocabulary, (32, length)).astype(np.int32)
    guesses = np.argmax(model(np.concatenate([fresh, fresh[:, :-1]], axis=1)), axis=-1)[:, length - 1 :]
    assert (guesses == fresh).mean() > 0.98


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "mask", "text"),
    [
        (
            ((2, 4, 5), (2, 6, 5), (2, 5, 5)),
            None,
            "expected queries [..., L, E], keys [..., S, E] and values [..., S, V], got [2, 4, 5], [2, 6, 5], [2, 5, 5]",
        ),
        (((4, 5), (6, 5), (6, 5)), f32[6, 4], "expected a mask that broadcasts to [4, 6], got [6, 4]"),
        (
            ((2, 4, 5), (2, 6, 5), (2, 6, 5)),
            f32[3, 1, 6],
            "expected a mask that broadcasts to [2, 4, 6], got [3, 1, 6]",
        ),
        (((4, 5), (6, 5), (6, 5)), i32[4, 6], "expected a mask of bools or floats, got i32"),
    ],
)
def test_wrong_shapes_and_masks_name_the_line(
    shapes: tuple[tuple[int, ...], ...], mask: object, text: str
) -> None:
    specs = [f32[s] for s in shapes] + ([] if mask is None else [mask])
    pattern = r"test_attention\.py:\d+: scaled_dot_product_attention: " + re.escape(text)
    with pytest.raises((ShapeError, DTypeError), match=pattern):
        trace(lambda *given: attention(*given), *specs)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda a, x: a(x, x, x, x[0]), "expected a key_padding_mask [3, 4], got [4, 6]"),
        (
            lambda a, x: a(x, x, x, attn_mask=x[0]),
            "expected an attn_mask [4, 4] or [6, 4, 4], got [4, 6]",
        ),
        (
            lambda a, x: a(x, x[..., :5], x),
            "expected [N, L, 6], [N, S, 6], [N, S, 6] (or all without N), got [3, 4, 6], [3, 4, 5], [3, 4, 6]",
        ),
    ],
)
def test_wrong_arguments_of_heads_name_the_line(call: Callable[..., object], text: str) -> None:
    layer = nn.MultiheadAttention(6, 2, batch_first=True)
    with pytest.raises(ShapeError, match=r"test_attention\.py:\d+: MultiheadAttention: " + re.escape(text)):
        trace(lambda x: call(layer, x)[0], f32[3, 4, 6])  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.MultiheadAttention(6, 4), "expected embed_dim a multiple of 4 heads, got 6"),
        (lambda: nn.TransformerEncoderLayer(4, 2, activation="tanh"), "expected activation of relu, gelu"),
        (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 0),
            "num_layers of at least 1, got 0",
        ),
        (
            lambda: trace(lambda x: attention(x, x, x, dropout_p=0.5), f32[3, 4]),
            "expected a dropout_key with dropout_p=0.5, got none",
        ),
    ],
)
def test_wrong_settings_name_the_line(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ArgumentError, match=r"test_attention\.py:\d+: .*" + re.escape(text)):
        make()
