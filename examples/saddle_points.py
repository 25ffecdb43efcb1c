"""Gradient descent at saddle points: who is stuck, who escapes, and what the Hessian's smallest eigenvalue says of it.

    python examples/saddle_points.py [--epochs N] [--noise S] [--seed N] [--out FOLDER]

Two losses of two parameters: f(x, y) = x² - y² + y⁴/4, with its saddle at 0 and minima at y = ±√2, and the two-layer linear
network u v x, fitted to the target x: (u v - 1)²/2, with its saddle at u = v = 0. All walkers begin on the line that
descent follows into the saddle, or a thousandth beside it. A walk is one compiled `graphc.scan`; the eigenvalue is
Lanczos', from products with the Hessian. That noise escapes from saddles: R. Ge, F. Huang, C. Jin and Y. Yuan,
Escaping From Saddle Points, COLT 2015. Needs ``pip install graphc[plot]`` for the plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import optim

Params = dict[str, graphc.Array]
Loss = Callable[[Params], graphc.Array]
RATE = 0.05
EVERY = 4  # steps from one eigenvalue to the next


def quartic(params: Params) -> graphc.Array:
    x, y = params["at"][0], params["at"][1]
    return x**2 - y**2 + y**4 / 4


def linear_network(params: Params) -> graphc.Array:
    u, v = params["at"][0], params["at"][1]
    return (u * v - 1) ** 2 / 2


@dataclass(frozen=True)
class Landscape:
    """A loss, a point of the line that leads into its saddle, its losses there and at the minima, and the part to draw."""

    title: str
    loss: Loss
    start: tuple[float, float]
    beside: tuple[float, float]  # the same, a thousandth away from the line
    saddle: float
    minimum: float
    extent: tuple[float, float, float, float]

    @property
    def escaped(self) -> float:
        """The loss halfway down from the saddle."""
        return (self.saddle + self.minimum) / 2


LANDSCAPES = (
    Landscape("x² - y² + y⁴/4", quartic, (1.5, 0), (1.5, 1e-3), 0, -1, (-1.2, 1.8, -2, 2)),
    Landscape("(u v - 1)²/2", linear_network, (1.2, -1.2), (1.201, -1.2), 0.5, 0, (-1.6, 1.6, -1.6, 1.6)),
)


def make_optimizer(momentum: float = 0.0) -> optim.Optimizer:
    return optim.SGD(RATE, momentum=momentum)


def make_walk(
    loss: Loss, optimizer: optim.Optimizer, noise: float, steps: int
) -> Callable[[Params, graphc.Array], object]:
    """The function that gives all points of a walk, and their losses; each gradient has normal noise added."""

    def walk(params: Params, key: graphc.Array) -> object:
        def step(carry: tuple[Params, Params], key: graphc.Array) -> object:
            params, state = carry
            value, gradient = graphc.value_and_grad(loss)(params)
            if noise > 0:
                gradient = {"at": gradient["at"] + noise * graphc.random.normal(key, (2,))}
            moved, state = optimizer.update(params, gradient, state, optimizer.learning_rate)
            return (moved, state), (params["at"], value)

        state = optimizer.init({"at": np.zeros(2, np.float32)})
        first = {name: graphc.asarray(array) for name, array in state.items()}
        return graphc.scan(step, (params, first), graphc.random.split(key, steps))[1]

    return walk


def smallest_eigenvalues(loss: Loss, points: np.ndarray) -> np.ndarray:
    """Of the Hessian at each point."""
    found = [graphc.lanczos_eigenvalues(loss, {"at": point}, which="smallest") for point in points]
    return np.array([pairs.values[0] for pairs in found])


@dataclass(frozen=True)
class Walker:
    name: str
    momentum: float
    noisy: bool
    beside: bool


WALKERS = (
    Walker("descent, on the line", 0.0, False, False),
    Walker("momentum, on the line", 0.9, False, False),
    Walker("descent, 0.001 beside", 0.0, False, True),
    Walker("momentum, 0.001 beside", 0.9, False, True),
    Walker("descent with noise, on the line", 0.0, True, False),
)


@dataclass(frozen=True)
class Walk:
    walker: Walker
    points: np.ndarray
    losses: np.ndarray
    eigenvalues: np.ndarray
    escape: int | None  # the first step whose loss is halfway down

    def __str__(self) -> str:
        end = f"escaped at step {self.escape}" if self.escape is not None else "stuck"
        return (
            f"  {self.walker.name:32} {end:21} loss {self.losses[-1]:7.4f}"
            f"  smallest eigenvalue {self.eigenvalues.min():6.3f} at worst, {self.eigenvalues[-1]:6.3f} at the end"
        )


def take(landscape: Landscape, walker: Walker, noise: float, steps: int, seed: int) -> Walk:
    run = make_walk(landscape.loss, make_optimizer(walker.momentum), noise if walker.noisy else 0.0, steps)
    start = np.float32(landscape.beside if walker.beside else landscape.start)
    key = graphc.random.key(seed)
    points, losses = graphc.compile(run, {"at": start}, key)({"at": start}, key)
    (below,) = np.nonzero(losses < landscape.escaped)
    escape = int(below[0]) if len(below) else None
    return Walk(walker, points, losses, smallest_eigenvalues(landscape.loss, points[::EVERY]), escape)


def plot(walks: dict[Landscape, list[Walk]], path: Path) -> None:
    """A row for each loss: the walks over its contours, and the smallest eigenvalue along them."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(len(walks), 2, figsize=(9.6, 3.7 * len(walks)), width_ratios=(1, 1.25))
    for (landscape, taken), (left, right) in zip(walks.items(), axes, strict=True):
        x0, x1, y0, y1 = landscape.extent
        x, y = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
        height = landscape.loss({"at": np.stack([x, y])})
        levels = landscape.minimum + (height.max() - landscape.minimum) * np.linspace(0, 1, 25) ** 2
        left.contour(x, y, height, levels, colors="#c9c9c9", linewidths=0.7, linestyles="solid")
        for color, walk in zip(COLORS, taken, strict=True):
            width = 4.0 if not (walk.walker.noisy or walk.walker.beside or walk.walker.momentum) else 1.5
            left.plot(*walk.points.T, color=color, linewidth=width, label=walk.walker.name)
            left.plot(*walk.points[-1], "o", color=color, markersize=5)
            steps = EVERY * np.arange(len(walk.eigenvalues))
            right.plot(steps, walk.eigenvalues, color=color, linewidth=width)
        left.plot(0, 0, "x", color="#222222", markersize=7)
        left.set_title(f"loss {landscape.title}; × is the saddle, a dot the end of a walk")
        left.set_xlim(x0, x1)
        left.set_ylim(y0, y1)
        left.grid(False)
        right.axhline(0, color="#909090", linewidth=0.8)
        right.set_title("smallest eigenvalue of the Hessian along the way")
        right.set_xlabel("step")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    save(pyplot, figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch descent at saddle points.")
    parser.add_argument("--epochs", type=int, default=200, help="steps of a walk (default: 200)")
    parser.add_argument(
        "--noise", type=float, default=0.05, help="of each gradient's elements (default: 0.05)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    walks = {}
    for landscape in LANDSCAPES:
        at_saddle = smallest_eigenvalues(landscape.loss, np.zeros((1, 2), np.float32))[0]
        print(f"{landscape.title}: smallest eigenvalue {at_saddle:.3f} at the saddle, {options.epochs} steps")
        walks[landscape] = [
            take(landscape, walker, options.noise, options.epochs, options.seed) for walker in WALKERS
        ]
        print(*walks[landscape], sep="\n")
    plot(walks, options.out / "saddle_points.png")


if __name__ == "__main__":
    main()
