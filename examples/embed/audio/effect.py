"""Trains a GRU to imitate an overdriven amplifier, and exports it as a function of one sample, for a real-time thread.

    python effect.py [--to FOLDER] [--epochs N]

The effect is y[n] = 0.7 y[n-1] + 0.3 tanh(4 x[n] + 0.8 y[n-1]). The GRU (Cho et al., arXiv:1406.1078; gates as in
PyTorch's nn.GRUCell) is unrolled over 32 samples for training. Exported is one step of it with its weights inside: a
sample and the state go in, a sample and the new state come out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc
from graphc import f32, optim

HIDDEN, LENGTH, BATCH, WARM_UP = 12, 32, 64, 8
Arrays = dict[str, graphc.Array]


def effect(x: np.ndarray) -> np.ndarray:
    """The amplifier, sample by sample, along the last axis."""
    y = np.zeros_like(x)
    last = np.zeros(x.shape[:-1], x.dtype)
    for n in range(x.shape[-1]):
        last = y[..., n] = 0.7 * last + 0.3 * np.tanh(4 * x[..., n] + 0.8 * last)
    return y


def signal(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """Sums of three sines with an envelope."""
    n = np.arange(length)
    pitch, phase = rng.uniform(0.005, 0.12, (3, rows, 1)), rng.uniform(0, 2 * np.pi, (3, rows, 1))
    loudness = rng.uniform(0.05, 0.9, (rows, 1))
    return (loudness * np.sin(2 * np.pi * pitch * n + phase).mean(axis=0)).astype(np.float32)


def first_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    bound = HIDDEN**-0.5
    shapes = {"input": (3 * HIDDEN,), "hidden": (HIDDEN, 3 * HIDDEN), "bias": (3 * HIDDEN,),
              "candidate_bias": (HIDDEN,), "out": (HIDDEN,), "through": (1,)}  # fmt: skip
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def cell(w: Arrays, h: graphc.Array, x: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
    """One step: the new state [rows, HIDDEN] and a sample for each row."""
    from_input = x[:, None] * w["input"] + w["bias"]
    from_hidden = h @ w["hidden"]
    reset = graphc.sigmoid(from_input[:, :HIDDEN] + from_hidden[:, :HIDDEN])
    update = graphc.sigmoid(from_input[:, HIDDEN : 2 * HIDDEN] + from_hidden[:, HIDDEN : 2 * HIDDEN])
    inner = from_hidden[:, 2 * HIDDEN :] + w["candidate_bias"]
    candidate = graphc.tanh(from_input[:, 2 * HIDDEN :] + reset * inner)
    h = (1 - update) * candidate + update * h
    return h, h @ w["out"] + w["through"] * x


def loss(w: Arrays, x: graphc.Array, y: graphc.Array) -> graphc.Array:
    """The mean squared error after a few samples, for the state to settle."""
    h = graphc.zeros((BATCH, HIDDEN))
    total = 0.0
    for n in range(LENGTH):
        h, out = cell(w, h, x[:, n])
        if n >= WARM_UP:
            total = total + ((out - y[:, n]) ** 2).mean()
    return total / (LENGTH - WARM_UP)


def train(epochs: int, seed: int) -> tuple[dict[str, np.ndarray], float]:
    rng = np.random.default_rng(seed)
    w = first_weights(rng)
    optimizer = optim.Adam(3e-3)
    state = optimizer.init(w)

    def step(
        w: Arrays, state: Arrays, rate: graphc.Array, x: graphc.Array, y: graphc.Array
    ) -> tuple[object, ...]:
        error, gradients = graphc.value_and_grad(loss)(w, x, y)
        new_w, new_state = optimizer.update(w, gradients, state, rate)
        return new_w, new_state, error

    x = signal(rng, BATCH, LENGTH)
    compiled = graphc.compile(step, w, state, np.float32(0), x, x, donate=("w", "state"))
    error = np.float32(0)
    for epoch in range(epochs):
        x = signal(rng, BATCH, LENGTH)
        rate = np.float32(3e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs)))
        _, _, error = compiled(w, state, rate, x, effect(x))
    return w, float(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", "--out", type=Path, default=Path("out"), help="folder for the library (out)")
    parser.add_argument("--epochs", type=int, default=4000, help="steps of training (4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the signals")
    options = parser.parse_args()
    w, error = train(options.epochs, options.seed)
    print(f"root mean square error of the last batch: {error**0.5:.4f}")

    def step(h: graphc.Array, x: graphc.Array) -> dict[str, graphc.Array]:
        """One sample through the effect; h is the state, zero at the beginning."""
        new_h, y = cell({name: graphc.asarray(a) for name, a in w.items()}, h, x)
        return {"h": new_h, "y": y}

    entry = graphc.Entry(step, [f32[1, HIDDEN], f32[1]], donate=["h"])
    print(graphc.export({"step": entry}, name="effect", to=options.to))


if __name__ == "__main__":
    main()
