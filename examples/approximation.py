"""Approximates a function of one variable by two linear layers with a tanh between them, for a few hidden sizes.

    python examples/approximation.py [--hidden N ...] [--epochs N] [--seed N] [--out FOLDER]

Needs ``pip install graphc[plot]`` for the plot. That sums of sigmoidal functions approximate every continuous function
on an interval: G. Cybenko, Approximation by Superpositions of a Sigmoidal Function, MCSS 2, 1989.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc
from graphc import init, nn, optim
from graphc.callbacks import Run

POINTS = 512
BATCH = 64


def target(x: np.ndarray) -> np.ndarray:
    """The function that the network is to become."""
    return np.sin(3 * x) + 0.3 * np.cos(9 * x)


def approximate(hidden: int, epochs: int, seed: int) -> tuple[nn.Module, graphc.History]:
    """A network of `hidden` units, trained by Adam with a learning rate that falls to zero as a cosine.

    The first layer starts steeper than by default: the target's fastest part has a period of 0.7, and units that are
    nearly straight lines on the interval would need long to learn it.
    """
    x = np.linspace(-2, 2, POINTS, dtype=np.float32)[:, None]
    first = nn.Linear(1, hidden, weight_init=init.uniform(-5, 5), bias_init=init.uniform(-5, 5))
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(hidden, 1))
    rate = 0.03

    def anneal(run: Run) -> None:
        run.learning_rate = rate / 2 * (1 + np.cos(np.pi * run.epoch / epochs))

    history = graphc.fit(
        model,
        (x, target(x)),
        loss=nn.mse,
        optimizer=optim.Adam(rate),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=[anneal],
        seed=seed,
        progress=False,
    )
    return model, history


def plot(results: dict[int, tuple[nn.Module, graphc.History]], path: Path) -> None:
    """One column for each size: target and approximation above, their difference below."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return
    x = np.linspace(-2, 2, 801, dtype=np.float32)[:, None]
    colors = [
        pyplot.get_cmap("viridis")(0.05 + 0.65 * i / max(1, len(results) - 1)) for i in range(len(results))
    ]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 10}  # fmt: skip
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            2, len(results), figsize=(3 * len(results) + 0.4, 4.6), squeeze=False, sharex=True, sharey="row",
            height_ratios=(2, 1), layout="constrained",
        )  # fmt: skip
        for column, (hidden, (model, _)) in enumerate(results.items()):
            y = np.asarray(model(x))
            above, below = axes[:, column]
            above.plot(x, target(x), color="#b0b0b0", linewidth=4, label="target", solid_capstyle="round")
            above.plot(x, y, color=colors[column], linewidth=1.6, label="approximation")
            residual = y - target(x)
            below.axhline(0, color="#909090", linewidth=0.8)
            below.fill_between(x[:, 0], residual[:, 0], color=colors[column], alpha=0.25, linewidth=0)
            below.plot(x, residual, color=colors[column], linewidth=1)
            above.set_title(f"{hidden} hidden units, max error {np.abs(residual).max():.3f}")
            below.set_xlabel("x")
        axes[0, 0].set_ylabel("f(x)")
        axes[1, 0].set_ylabel("residual")
        axes[0, 0].set_ylim(-1.4, 1.8)
        axes[0, 0].legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
        figure.suptitle("sin 3x + 0.3 cos 9x by two linear layers with a tanh between")
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Approximate a function of one variable.")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[4, 8, 16, 64], help="sizes (default: 4 8 16 64)"
    )
    parser.add_argument("--epochs", type=int, default=3000, help="passes over the 512 points (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    between = np.linspace(-2, 2, 4001, dtype=np.float32)[:, None]  # most of them are no training points
    print(f"f(x) = sin 3x + 0.3 cos 9x on [-2, 2], {POINTS} points, {options.epochs} epochs of Adam")
    results = {}
    for hidden in options.hidden:
        model, history = results[hidden] = approximate(hidden, options.epochs, options.seed)
        error = float(np.abs(np.asarray(model(between)) - target(between)).max())
        time = np.median(history["us_per_step"])
        print(
            f"hidden {hidden:4d}  loss {history['loss'][-1]:.2e}  max error {error:.4f}  {time:.0f} us a step"
        )
    plot(results, options.out / "approximation.png")


if __name__ == "__main__":
    main()
