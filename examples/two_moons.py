"""Separates two half circles that reach into one another: the boundary of a straight line, and of an MLP.

    python examples/two_moons.py [--epochs N] [--points N] [--noise S] [--seed N] [--out FOLDER]

Model: 2-16-16-1 with tanh, binary cross-entropy, Adam. Data: points on two half circles with Gaussian noise, 1,000 to train
on and 1,000 to judge by, drawn from the seed. Needs ``pip install graphc[plot]`` for the plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import nn, optim


def make_data(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane, half of them on each moon, and which moon it is: 0 the upper, 1 the lower one."""
    random = np.random.default_rng(seed)
    moon, angle = np.arange(count) % 2, random.uniform(0, np.pi, count)
    across = np.where(moon == 0, np.cos(angle), 1 - np.cos(angle))
    up = np.where(moon == 0, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([across, up], axis=1) + noise * random.normal(size=(count, 2))
    return points.astype(np.float32), moon.astype(np.float32)


def make_model(hidden: int = 16) -> nn.Sequential:
    """An MLP that gives one logit; without hidden units it is logistic regression."""
    if hidden == 0:
        return nn.Sequential(nn.Linear(2, 1))
    return nn.Sequential(
        nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
    )


def loss(logits: graphc.Array, moon: graphc.Array) -> graphc.Array:
    return nn.binary_cross_entropy_with_logits(logits[:, 0], moon)


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(0.01)


def accuracy(model: nn.Module, points: np.ndarray, moon: np.ndarray) -> float:
    return float(((np.asarray(model(points))[:, 0] > 0) == moon).mean())


def plot(models: dict[str, nn.Module], points: np.ndarray, moon: np.ndarray, path: Path) -> None:
    """One square for each model: the held-out points, and how probable the lower moon is, with the boundary at a half."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("moons", ["#a3bfd1", "#ffffff", "#eab0b6"])
    low, high = points.min(axis=0) - 0.3, points.max(axis=0) + 0.3
    across, up = np.meshgrid(np.linspace(low[0], high[0], 240), np.linspace(low[1], high[1], 240))
    grid = np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)
    figure, axes = pyplot.subplots(1, len(models), figsize=(4.6 * len(models), 3.3), sharey=True)
    for axis, (name, model) in zip(axes, models.items(), strict=True):
        probability = 1 / (1 + np.exp(-np.asarray(model(grid)).reshape(across.shape)))
        filled = axis.contourf(across, up, probability, np.linspace(0, 1, 21), cmap=shades)
        axis.contour(across, up, probability, [0.5], colors="#222222", linewidths=1.6)
        for value in (0, 1):
            chosen = points[moon == value]
            axis.scatter(*chosen.T, s=9, color=COLORS[value], edgecolors="white", linewidths=0.4)
        axis.set_title(f"{name}: {accuracy(model, points, moon):.3f} of held-out points")
        axis.set_aspect("equal")
        axis.grid(False)
    figure.colorbar(filled, ax=axes, label="probability of the lower moon", ticks=[0, 0.5, 1], shrink=0.8)
    save(pyplot, figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Separate two moons.")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the points (default: 100)")
    parser.add_argument("--points", type=int, default=1000, help="of each part (default: 1000)")
    parser.add_argument("--noise", type=float, default=0.15, help="standard deviation (default: 0.15)")
    parser.add_argument("--seed", type=int, default=0, help="of points, weights and batches (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train = make_data(options.points, options.noise, 2 * options.seed)
    held_out = make_data(options.points, options.noise, 2 * options.seed + 1)
    models = {"a line": make_model(0), "MLP 2-16-16-1": make_model()}
    for name, model in models.items():
        history = graphc.fit(
            model,
            train,
            loss=loss,
            optimizer=make_optimizer(),
            epochs=options.epochs,
            batch_size=50,
            seed=options.seed,
            progress=False,
        )
        print(
            f"{name:14} loss {history['loss'][-1]:.4f}  held-out accuracy {accuracy(model, *held_out):.3f}"
            f"  {np.median(history['us_per_step']):.0f} us a step"
        )
    plot(models, *held_out, options.out / "two_moons.png")


if __name__ == "__main__":
    main()
