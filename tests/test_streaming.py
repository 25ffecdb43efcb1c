"""Streams: block after block gives what the whole signal gives, and what can't be streamed is refused with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc
from graphc import f32, i32
from graphc.errors import ArgumentError, ShapeError, TraceError

LENGTH = 48
RNG = np.random.default_rng(0)
X = RNG.standard_normal(LENGTH).astype(np.float32)
CHANNELS = RNG.standard_normal((3, LENGTH)).astype(np.float32)
Array = graphc.Array


def delayed(x: Array, count: int, fill: float = 0.0) -> Array:
    """x[t - count]."""
    if count == 0:
        return x
    pads = [(0, 0)] * (x.ndim - 1) + [(count, 0)]
    return graphc.pad(x, pads, constant_values=fill)[..., : x.shape[-1]]


def whole_and_blocks(
    fn: Callable[..., object], *signals: np.ndarray, block: int, axis: int | str = "time"
) -> None:
    want = np.asarray(graphc.compile(fn, *signals, target="interpreter")(*signals))
    stream = graphc.streaming(fn, *signals, block=block, axis=axis)
    at = -1 if axis == "time" else int(axis)
    for _ in range(2):  # and once more from the beginning
        parts = [
            stream(*(np.ascontiguousarray(np.take(s, range(t, t + block), axis=at)) for s in signals))
            for t in range(0, LENGTH, block)
        ]
        got = np.concatenate(parts, axis=at)
        np.testing.assert_allclose(got, np.take(want, range(got.shape[at]), axis=at), rtol=1e-5, atol=1e-5)
        stream.reset()


def fir(x: Array) -> Array:
    return sum((0.5**k * delayed(x, k) for k in range(7)), 0.0 * x)


def dilated(x: Array) -> Array:
    h = graphc.tanh(x + 0.3 * delayed(x, 1))
    h = graphc.tanh(h + 0.3 * delayed(h, 2, 0.25))
    return h + 0.3 * delayed(h, 4)


def convolution(x: Array) -> Array:
    weights = np.linspace(-1, 1, 2 * 3 * 5).reshape(2, 3, 5).astype(np.float32)
    windows = graphc.stack([delayed(x, 4 - k) for k in range(5)], axis=1)  # [channels, taps, time]
    return graphc.tensordot(graphc.asarray(weights), windows, axes=((1, 2), (0, 1)))


def padded_once_and_sliced(x: Array) -> Array:
    earlier = graphc.concat([graphc.full(4, 0.5), x])
    return earlier[:-4] - 2 * earlier[1:-3] + earlier[3:-1] * earlier[4:]


def pooled(x: Array) -> Array:
    return graphc.maximum(x[::2], x[1::2])


def pooled_by_windows(x: Array) -> Array:
    return x.reshape((LENGTH // 4, 4)).mean(axis=1)


def running_mean(x: Array) -> Array:
    return graphc.cumulative_sum(x, axis=0) / (1 + graphc.arange(LENGTH))


def enveloped(x: Array) -> Array:
    return delayed(x * graphc.asarray(np.hanning(LENGTH).astype(np.float32)), 2) + x


def looks_ahead_and_waits(x: Array) -> Array:
    ahead = graphc.concat([x[3:], graphc.zeros(3)])
    return delayed(ahead + x, 3, -1.0)


@pytest.mark.parametrize("block", [1, 3, 4, 16, 48])
@pytest.mark.parametrize(
    "fn", [fir, dilated, running_mean, enveloped, padded_once_and_sliced, looks_ahead_and_waits]
)
def test_blocks_give_what_the_whole_gives(fn: Callable[..., object], block: int) -> None:
    whole_and_blocks(fn, X, block=block)


@pytest.mark.parametrize("block", [4, 12])
@pytest.mark.parametrize("fn", [pooled, pooled_by_windows])
def test_pooling_makes_shorter_blocks(fn: Callable[..., object], block: int) -> None:
    want = np.asarray(graphc.compile(fn, X)(X))
    stream = graphc.streaming(fn, X, block=block)
    got = np.concatenate([stream(X[t : t + block]) for t in range(0, LENGTH, block)])
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_convolutions_over_channels() -> None:
    whole_and_blocks(convolution, CHANNELS, block=6)


def test_time_may_be_any_axis() -> None:
    whole_and_blocks(
        lambda x: x / x.sum(axis=1, keepdims=True) ** 2, np.ascontiguousarray(CHANNELS.T), block=8, axis=0
    )
    whole_and_blocks(
        lambda x: graphc.cumulative_sum(x, axis=0), np.ascontiguousarray(CHANNELS.T), block=8, axis=0
    )


def test_running_extrema_go_on() -> None:
    whole_and_blocks(lambda x: graphc.cumulative_max(x, axis=0), X, block=6)


def test_weights_do_not_vary_and_several_signals_meet() -> None:
    w = np.float32([[0.5, -1, 2]])

    def mixed(w: Array, x: Array, y: Array) -> Array:
        return (w @ x)[0] * delayed(y, 2) + y

    want = np.asarray(graphc.compile(mixed, w, CHANNELS, X)(w, CHANNELS, X))
    stream = graphc.streaming(mixed, w, CHANNELS, X, block=12, static=["w"])
    parts = [
        stream(w, np.ascontiguousarray(CHANNELS[:, t : t + 12]), X[t : t + 12]) for t in range(0, LENGTH, 12)
    ]
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=1e-5, atol=1e-6)


def test_the_state_holds_no_more_than_is_reached_back_to() -> None:
    stream = graphc.streaming(lambda x: x + delayed(x, 5), X, block=16)
    assert {name: array.shape for name, array in stream.state.items()} == {"past0": (5,)}


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["delay", "tanh", "add", "sum", "ahead"]), st.integers(0, 5)),
        min_size=1,
        max_size=6,
    ),
    block=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_random_causal_functions(steps: list[tuple[str, int]], block: int) -> None:
    def fn(x: Array) -> Array:
        h, ahead = x, 0
        for what, k in steps:
            if what == "delay":
                h = delayed(h, k, 0.5)
            elif what == "tanh":
                h = graphc.tanh(h)
            elif what == "add":
                h = h + delayed(h, k)
            elif what == "sum":
                h = graphc.cumulative_sum(h, axis=0) * 0.1
            else:  # looks ahead, and makes up for it at once
                h = delayed(graphc.concat([h[k:], graphc.zeros(k)]) if k else h, k)
        return h + ahead

    whole_and_blocks(fn, X, block=block)


# ---------------------------------------------------------------------------------------------------------- refused


def line_of(fn: Callable[..., object]) -> str:
    return f"{__file__}:{fn.__code__.co_firstlineno + 1}: "


def test_a_function_that_looks_ahead_is_refused_with_how_far() -> None:
    def future(x: Array) -> Array:
        return x[2:]

    with pytest.raises(TraceError) as raised:
        graphc.streaming(future, X)
    assert str(raised.value).startswith(line_of(future))
    assert "expected output 0 to need the past alone, got one that looks 2 samples ahead" in str(raised.value)


@pytest.mark.parametrize(
    "name, fn",
    [
        ("reduce_sum", lambda x: x - x.mean()),
        ("slice", lambda x: x[::-1]),
        ("recurrence", lambda x: graphc.flip(graphc.cumulative_sum(graphc.flip(x), axis=0)) + x),
        ("contract", lambda x: x @ x),
    ],
)
def test_ops_over_all_of_time_are_refused(name: str, fn: Callable[..., object]) -> None:
    with pytest.raises(TraceError, match=r"streaming: expected .*, got (\w+) along time"):
        graphc.streaming(fn, X)


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ShapeError, match="expected signals of one length, got %x 48, %y 40"):
        graphc.streaming(lambda x, y: (x, y), X, X[:40])
    with pytest.raises(ShapeError, match="expected a block of a multiple of 2 samples, got 3"):
        graphc.streaming(pooled, X, block=3)
    with pytest.raises(ArgumentError, match='axis: expected "time" or an axis of x'):
        graphc.streaming(fir, X, axis=1)
    with pytest.raises(ArgumentError, match="static: expected some of x, got 'w'"):
        graphc.streaming(fir, X, static=["w"])
    with pytest.raises(ArgumentError, match="expected an argument that varies with time, got none"):
        graphc.streaming(fir, X, static=["x"])
    with pytest.raises(ArgumentError, match="expected a block of at least one sample, got 0"):
        graphc.streaming(fir, X, block=0)


def test_a_stream_is_an_entry_of_a_library(tmp_path: Path) -> None:
    stream = graphc.streaming(fir, X, block=16)
    graphc.export({"block": stream.entry}, name="fir", to=tmp_path)
    library = graphc.load(tmp_path / "fir.so")
    state = {name: array.copy() for name, array in stream.state.items()}
    want = np.asarray(graphc.compile(fir, X)(X))
    got = []
    for t in range(0, LENGTH, 16):
        out = library.block(*state.values(), X[t : t + 16])["output0"]
        got.append(np.array(out))
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-5, atol=1e-6)


def test_indices_may_vary_with_time() -> None:
    table = np.arange(5, dtype=np.float32) ** 2
    labels = RNG.integers(0, 5, LENGTH).astype(np.int32)
    stream = graphc.streaming(lambda i: graphc.take(graphc.asarray(table), i, axis=0), i32[LENGTH], block=8)
    np.testing.assert_array_equal(stream(labels[:8]), table[labels[:8]])
    assert stream.graph.input_types[-1] == i32[8] and f32[8] in stream.graph.output_types
