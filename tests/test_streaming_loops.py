"""Streamed loops: a scan over time goes on from block to block, and gives what the whole sequence gives."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import Array, f32, nn
from graphc.errors import TraceError

LENGTH = 24
RNG = np.random.default_rng(3)
SEQUENCE = RNG.standard_normal((LENGTH, 2, 3)).astype(np.float32)
SOUND = RNG.standard_normal((1, 1, LENGTH)).astype(np.float32)


class Audio(nn.Module):
    """A causal convolution, a GRU and a product: [1, 1, T] to [1, 1, T]."""

    def __init__(self) -> None:
        self.convolution = nn.Conv1d(1, 4, 3)
        self.recurrent = nn.GRU(4, 5, batch_first=True)
        self.out = nn.Linear(5, 1)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        h = graphc.tanh(self.convolution(graphc.pad(x, ((0, 0), (0, 0), (2, 0)))))
        y, _ = self.recurrent(graphc.swapaxes(h, 1, 2))
        return graphc.swapaxes(self.out(y), 1, 2)


def outputs(model: nn.Module) -> Callable[[Array], Array]:
    return lambda x: model(x)[0]


def streamed(fn: Callable[..., object], x: np.ndarray, block: int, axis: int) -> np.ndarray:
    """All blocks, twice: `reset` begins anew."""
    stream = graphc.streaming(fn, x, axis=axis, block=block)
    runs = []
    for _ in range(2):
        parts = np.split(x, x.shape[axis] // block, axis)
        runs.append(np.concatenate([np.asarray(stream(np.ascontiguousarray(p))) for p in parts], axis))
        stream.reset()
    np.testing.assert_array_equal(runs[0], runs[1])
    return runs[0]


@pytest.mark.parametrize("block", [1, 6, LENGTH])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_give_block_by_block_what_the_whole_gives(
    kind: Callable[..., nn.Module], block: int
) -> None:
    model = kind(3, 4, num_layers=2)
    want = np.asarray(graphc.compile(outputs(model), SEQUENCE, target="interpreter")(SEQUENCE))
    got = streamed(outputs(model), SEQUENCE, block, axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 8])
def test_a_causal_model_of_sound_streams_frame_by_frame(block: int) -> None:
    model = Audio()
    want = np.asarray(graphc.compile(model, SOUND, target="interpreter")(SOUND))
    got = streamed(model, SOUND, block, axis=2)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_state_is_what_the_carries_begin_as() -> None:
    stream = graphc.streaming(
        lambda x: graphc.scan(lambda c, x: ((c[0] + x, c[1] + 1), c[0] * c[1]), (0.5, np.int32(3)), x)[1],
        f32[8],
        block=2,
    )
    assert {k: (v.dtype.name, v.item()) for k, v in stream.state.items()} == {
        "carry0": ("float32", 0.5),
        "carry1": ("int32", 3),
    }
    got = [stream(np.array([1, 2], np.float32)), stream(np.array([3, 4], np.float32))]
    np.testing.assert_array_equal(got, [[0.5 * 3, 1.5 * 4], [3.5 * 5, 6.5 * 6]])


def test_a_first_carry_that_is_an_argument_is_taken_at_the_beginning() -> None:
    def fn(start: Array, x: Array) -> object:
        return graphc.scan(lambda c, x: (0.5 * c + x, c), start * 2, x)[1]

    start, x = np.array([1, -1], np.float32), RNG.standard_normal((8, 2)).astype(np.float32)
    want = np.asarray(graphc.compile(fn, start, x)(start, x))
    stream = graphc.streaming(fn, start, x, axis=0, block=2, static=["start"])
    got = np.concatenate([np.asarray(stream(start, x[t : t + 2])) for t in range(0, 8, 2)])
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_loops_at_a_slower_rate_and_beside_what_is_given_for_all_times() -> None:
    weights = RNG.standard_normal(6).astype(np.float32)

    def fn(x: Array) -> object:
        slow = x[::4]
        return graphc.scan(lambda c, x: (c + x[0] * x[1], c), 0.0, (slow, graphc.asarray(weights)))[1]

    x = SEQUENCE[:, 0, 0].copy()
    want = np.asarray(graphc.compile(fn, x)(x))
    stream = graphc.streaming(fn, x, block=8)
    got = np.concatenate([np.asarray(stream(x[t : t + 8])) for t in range(0, LENGTH, 8)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn, told",
    [
        (
            outputs(nn.GRU(3, 4, bidirectional=True)),
            "a loop from the beginning to the end, got a reversed one",
        ),
        (lambda x: nn.GRU(3, 4)(x)[1], "a result of each step, got the last carry of a loop along time"),
        (
            lambda x: graphc.scan(lambda c, w: (c + w, c), 0 * x, graphc.ones(3))[0],
            "a loop over time itself, whose first carries and captures do not vary with it",
        ),
        (
            lambda x: graphc.scan(
                lambda c, x: (c + x, c), 0.0, graphc.concat([x[2:, 0, 0], graphc.zeros(2)])
            )[1],
            "a loop over signals that do not look ahead",
        ),
    ],
)
def test_loops_that_need_the_future_are_refused(fn: Callable[..., object], told: str) -> None:
    with pytest.raises(TraceError) as refused:
        graphc.streaming(fn, SEQUENCE, axis=0)
    assert str(refused.value).startswith(f"{__file__}:")
    assert f"scan: streaming: expected {told}" in str(refused.value)


MAIN = """
#include "audio.h"
#include <stdio.h>

int main(void) {
    static float past[AUDIO_BLOCK_PAST0_SIZE], carry[AUDIO_BLOCK_CARRY0_SIZE], x[4], y[4];
    static _Alignas(64) char workspace[AUDIO_WORKSPACE_BYTES];
    while (fread(x, sizeof(float), 4, stdin) == 4) {
        if (audio_block(past, carry, x, y, workspace, 0)) return 1;
        fwrite(y, sizeof(float), 4, stdout);
    }
    return 0;
}
"""


def test_a_streamed_gru_is_a_function_of_c_with_its_weights_inside(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    model = Audio()
    want = np.asarray(graphc.compile(model, SOUND, target="interpreter")(SOUND))
    stream = graphc.streaming(model, SOUND, block=4)
    assert not any(array.any() for array in stream.state.values())
    graphc.export({"block": stream.entry}, name="audio", to=tmp_path, weights="embedded")
    (tmp_path / "main.c").write_text(MAIN)
    subprocess.run(
        [compiler, "-o", "main", "main.c", "audio.o"], cwd=tmp_path, check=True, capture_output=True
    )
    run = subprocess.run([tmp_path / "main"], input=SOUND.tobytes(), check=True, capture_output=True)
    np.testing.assert_allclose(np.frombuffer(run.stdout, np.float32), want.ravel(), rtol=1e-5, atol=1e-6)
