"""What a memory budget costs: training steps of deep networks, without one and with arenas of several sizes.

Prints the arena, the operations and the time of a step for each; the results of all are the same bits, which is checked.
``python benchmarks/rematerialise.py --seconds 3``
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import argparse
from collections.abc import Callable

import numpy as np

import graphc
from graphc.errors import CompileError
from graphc.frontend.array import Array
from graphc.ir.cost import plan_operations

LAYERS, WIDTH, ROWS = 20, 256, 512


def mlp(weights: list[Array], x: Array) -> Array:
    for w in weights:
        x = graphc.tanh(x @ w)
    return (x * x).sum()


def residual(weights: list[Array], x: Array) -> Array:
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        z = x @ first
        x = x + (z * graphc.sigmoid(z)) @ second
    return (x * x).sum()


def checkpointed(weights: list[Array], x: Array) -> Array:
    """The MLP in stretches of four layers that are checkpointed by hand."""

    @graphc.checkpoint
    def stretch(weights: list[Array], x: Array) -> Array:
        for w in weights:
            x = graphc.tanh(x @ w)
        return x

    for start in range(0, len(weights), 4):
        x = stretch(weights[start : start + 4], x)
    return (x * x).sum()


def step(loss: Callable[[list[Array], Array], Array]) -> Callable[..., object]:
    def update(weights: list[Array], x: Array) -> list[Array]:
        gradients = graphc.grad(loss)(weights, x)
        return [w - 1e-3 * g for w, g in zip(weights, gradients, strict=True)]  # type: ignore[call-overload]

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each side")
    seconds = parser.parse_args().seconds
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(WIDTH, WIDTH), scale=WIDTH**-0.5).astype(np.float32) for _ in range(LAYERS)]
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    for name, loss in (("MLP", mlp), ("residual", residual)):
        whole = graphc.compile(step(loss), weights, x)
        sides = {"no budget": whole}
        for part in (0.75, 0.6, 0.5):
            budget = int(whole.workspace_bytes * part)
            try:
                sides[f"budget {part:.0%}"] = graphc.compile(step(loss), weights, x, memory_budget=budget)
            except CompileError as error:
                print(error)
        if loss is mlp:
            sides["checkpoint, 4 layers"] = graphc.compile(step(checkpointed), weights, x)
        want = whole(weights, x)
        for side in sides.values():
            for a, b in zip(want, side(weights, x), strict=True):  # type: ignore[call-overload]
                np.testing.assert_array_equal(a, b)
        bound = {label: side.bind(weights, x) for label, side in sides.items()}
        times = _harness.medians(_harness.in_turns(bound, seconds))
        print(f"\n{name}: {LAYERS} layers of {WIDTH}, batch {ROWS}")
        print(f"{'':<22} {'arena, bytes':>14} {'operations':>12} {'time':>8}")
        for label, side in sides.items():
            more = plan_operations(side.plan) / plan_operations(whole.plan)
            ratio = times[label] / times["no budget"]
            print(f"{label:<22} {side.workspace_bytes:>14,} {more:>12.3f} {ratio:>8.3f}")


if __name__ == "__main__":
    main()
