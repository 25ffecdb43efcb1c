"""Logistic regression in the plane, σ(Ax): every stage of the compiler on a graph that fits a screen, then training.

    python examples/logistic_regression.py [--steps N] [--seed N] [--quiet] [--out FOLDER]

Needs graphc alone. With --out, the stages of both programs and the loss of each step are written there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc
from graphc import Array
from graphc.compiler import CompiledFunction


def loss(a: Array, x: Array, target: Array) -> Array:
    """The mean squared error of y = σ(Ax), for one point x of the plane."""
    y = graphc.sigmoid(a @ x)
    return ((y - target) ** 2).mean()


def batch_loss(a: Array, points: Array, targets: Array) -> Array:
    """The same for the points in the rows of a matrix: y = σ(X Aᵀ)."""
    y = graphc.sigmoid(points @ a.T)
    return ((y - targets) ** 2).mean()


def one_point(a: Array, x: Array, target: Array) -> tuple[Array, Array]:
    """The loss and its gradient with respect to A."""
    return graphc.value_and_grad(loss)(a, x, target)


def train_step(a: Array, points: Array, targets: Array, rate: Array) -> tuple[Array, Array]:
    """One step of gradient descent. A is donated below, so the new matrix takes the memory of the old one."""
    error, gradient = graphc.value_and_grad(batch_loss)(a, points, targets)
    return error, a - rate * gradient


def show(title: str, *stages: object) -> None:
    """Prints stages under a title; the script's folder is left out of their locations, so that lines stay short."""
    folder = str(Path(__file__).parent) + "/"
    print(f"{title}\n")
    for stage in stages:
        print(str(stage).replace(folder, ""))
    print()


def make_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on both sides of a line through the origin, none within 0.2 of it; targets are one-hot rows."""
    random = np.random.default_rng(seed)
    normal = np.array([0.8, -0.6])
    points = random.uniform(-1, 1, (4 * count, 2))
    side = points @ normal
    chosen = np.flatnonzero(np.abs(side) > 0.2)[:count]
    positive = side[chosen] > 0
    targets = np.stack([positive, ~positive], axis=1)
    return points[chosen].astype(np.float32), targets.astype(np.float32)


def show_stages() -> CompiledFunction:
    """Compiles the loss of one point with its gradient and prints what it becomes."""
    matrix, vector = graphc.f32[2, 2], graphc.f32[2]
    forward = graphc.trace(loss, matrix, vector, vector)
    compiled = graphc.compile(one_point, matrix, vector, vector)
    show("1. The traced graph: what the Python function did", forward)
    show(
        "2. The derived graph: the chain rule, in one reverse sweep\n"
        "   {diagonal} marks products with a diagonal Jacobian: σ'(Ax) is a vector, its 2x2 matrix is never built",
        compiled.graph,
    )
    show("3. The fused graph: each region becomes one kernel", compiled.fused)
    show("4. The kernels: loops over buffers, vectors are explicit", *compiled.kernels)
    return compiled


def train(steps: int, seed: int) -> tuple[list[float], np.ndarray, float]:
    """Trains A on a toy set; gives the losses, the matrix and the accuracy."""
    points, targets = make_data(200, seed)
    a = np.zeros((2, 2), np.float32)
    rate = np.float32(5)
    step = graphc.compile(train_step, a, points, targets, rate, donate=["a"])
    losses = []
    for number in range(steps + 1):
        error, a = step(a, points, targets, rate)
        losses.append(float(error))
        if number % max(1, steps // 10) == 0:
            print(f"step {number:4d}  loss {losses[-1]:.5f}")
    predict = graphc.compile(lambda a, points: graphc.sigmoid(points @ a.T), a, points)
    right = predict(a, points).argmax(1) == targets.argmax(1)
    return losses, a, float(right.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Logistic regression in the plane, stage by stage.")
    parser.add_argument("--steps", type=int, default=200, help="steps of gradient descent (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the toy set's points (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="train only, print no stages")
    parser.add_argument(
        "--out", type=Path, help="folder for stages.txt and loss.csv (default: write nothing)"
    )
    options = parser.parse_args()
    compiled = None
    if not options.quiet:
        compiled = show_stages()
        print("5. Training on 200 points, linearly separable: a step is one native function\n")
    losses, a, accuracy = train(options.steps, options.seed)
    print(f"A =\n{a.round(2)}")
    print(f"accuracy: {accuracy:.3f}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{number},{value:.7g}\n" for number, value in enumerate(losses))
        (options.out / "loss.csv").write_text("step,loss\n" + rows)
        if compiled is not None:
            texts = [*map(str, compiled.stages.values()), *map(str, compiled.kernels), str(compiled.plan)]
            (options.out / "stages.txt").write_text("\n\n".join([*texts, compiled.llvm]) + "\n")
        print(f"written: {', '.join(str(path) for path in sorted(options.out.iterdir()))}")


if __name__ == "__main__":
    main()
