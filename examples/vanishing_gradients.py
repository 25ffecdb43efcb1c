"""Follows the gradient of recurrent networks back through time, and mends its explosion by clipping.

    python examples/vanishing_gradients.py [--steps N] [--seed N] [--out FOLDER]

Model: h' = f(W h + U x), f the identity or tanh, with W scaled to a spectral radius ρ, its largest eigenvalue's size; an
LSTM for comparison. For the linear one ∂h_n/∂h_0 = Wⁿ = V Λⁿ V⁻¹, so the gradient vanishes for ρ < 1 and explodes for
ρ > 1: ρⁿ ≤ ‖Wⁿ‖ ≤ κ(V) ρⁿ, where κ(V) = ‖V‖ ‖V⁻¹‖. With tanh each step is multiplied by f' ≤ 1 besides: ‖∂h_n/∂h_0‖ ≤ ‖W‖ⁿ
(R. Pascanu, T. Mikolov and Y. Bengio, On the Difficulty of Training Recurrent Neural Networks, 2013, arXiv:1211.5063).
Data: random sequences for the gradients. For the training the adding problem, made at random as in S. Hochreiter and
J. Schmidhuber, Long Short-Term Memory, Neural Computation 9, 1997: the sum of two marked ones of 20 numbers.
Result: how much the gradient shrinks or grows in a step beside ρ, and that the bounds hold; the losses of a network
with and without clipping of the gradient's norm, and of the LSTM. Needs ``pip install graphc[plot]`` for the plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

import graphc
from graphc import Array, nn, optim

STEPS, HIDDEN, ROWS = 60, 48, 16  # of the gradients' study
RADII = (0.8, 1.0, 1.2)
LENGTH, BATCH = 20, 64  # of the adding problem
LIMIT = 1.0  # of the gradient's norm


def recurrent_matrix(radius: float, seed: int) -> np.ndarray:
    """A random matrix whose largest eigenvalue has that size."""
    w = np.random.default_rng(seed).normal(size=(HIDDEN, HIDDEN))
    return (w * (radius / np.abs(np.linalg.eigvals(w)).max())).astype(np.float32)


def linear_step(h: Array, x: Array, w: Array) -> Array:
    return h @ w.T + x


def tanh_step(h: Array, x: Array, w: Array) -> Array:
    return graphc.tanh(h @ w.T + x)


class LSTMStep(nn.Module):
    """An LSTM's step of both its states as one array [N, 2 HIDDEN]; its forget gates start nearly open."""

    def __init__(self) -> None:
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)

    def forward(self, *inputs: Array) -> Array:
        state, x = inputs
        h, c = self.cell(x, (state[:, :HIDDEN], state[:, HIDDEN:]))
        return graphc.concat([h, c], axis=1)


def open_forget_gates(model: nn.Module, hidden: int) -> None:
    """Adds 2 to what the forget gates get: σ(2) = 0.88 of a cell is kept, not half of it (Gers et al., 2000)."""
    for name, array in model.parameters.items():
        if name.split(".")[-1].startswith("bias_ih"):
            array[hidden : 2 * hidden] += 2


def through_time(
    step: Callable[..., Array], start: Array, x: Array, direction: Array, *weights: Array
) -> Array:
    """‖∂e/∂h_t‖ for t = 0 … T - 1, where e is the part of h_T [N, S] in a direction; the mean over the rows of x [T, N, ...].

    To each h a disturbance of zero is added before it is used: the gradient by it is the one by h.
    """

    def loss(disturbances: Array) -> Array:
        def disturbed(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            return step(h + inputs[1], inputs[0], *weights), None

        last, _ = graphc.scan(disturbed, start, (x, disturbances))
        return (last @ direction).sum()

    gradients = graphc.grad(loss)(graphc.zeros((len(x), *start.shape), dtype=start.dtype))
    return graphc.sqrt((gradients**2).sum(axis=-1)).mean(axis=-1)


def norms_through_time(
    step: Callable[..., Array], states: int, seed: int, *weights: np.ndarray
) -> np.ndarray:
    """The same for random inputs and a random direction of length 1, by the number of steps back from the end."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(STEPS, ROWS, HIDDEN)).astype(np.float32) * np.float32(0.3)
    start = np.zeros((ROWS, states), np.float32)
    direction = random.normal(size=states).astype(np.float32)
    direction /= np.linalg.norm(direction)

    def norms(start: Array, x: Array, direction: Array, weights: tuple[Array, ...]) -> Array:
        return through_time(step, start, x, direction, *weights)

    compiled = graphc.compile(norms, start, x, direction, weights)
    return compiled(start, x, direction, weights)[::-1]


class Reader(nn.Module):
    """The last output of a recurrent layer [N, T, 2] in one number."""

    def __init__(self, kind: type[nn.RNN] | type[nn.LSTM], hidden: int = HIDDEN) -> None:
        self.rnn = kind(2, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        y, _ = self.rnn(x)
        return self.head(y[:, -1])[:, 0]


def make_reader(kind: type[nn.RNN] | type[nn.LSTM], seed: int) -> Reader:
    """The RNN starts with a spectral radius of 1.3, where gradients explode; the LSTM with open forget gates."""
    model = Reader(kind).init(seed)
    if kind is nn.RNN:
        model.parameters["rnn.weight_hh_l0"][:] = recurrent_matrix(1.3, seed)
    else:
        open_forget_gates(model, HIDDEN)
    return model


def make_optimizer(kind: type[nn.RNN] | type[nn.LSTM], clipped: bool) -> optim.Optimizer:
    """Gradient descent with momentum; the LSTM, whose gradients are small, bears a larger rate."""
    optimizer = optim.SGD(0.1 if kind is nn.LSTM else 0.03, momentum=0.9)
    return optim.clip_by_norm(optimizer, LIMIT) if clipped else optimizer


def adding_problem(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [LENGTH, 2] of numbers and marks, and the sums of the two marked numbers, one in each half."""
    random = np.random.default_rng(seed)
    numbers, marks = random.random((examples, LENGTH)), np.zeros((examples, LENGTH))
    for half in (0, LENGTH // 2):
        marks[np.arange(examples), half + random.integers(0, LENGTH // 2, examples)] = 1
    x = np.stack([numbers, marks], axis=-1).astype(np.float32)
    return x, (numbers * marks).sum(axis=1).astype(np.float32)


def train(kind: type[nn.RNN] | type[nn.LSTM], clipped: bool, steps: int, seed: int) -> np.ndarray:
    """[2, steps]: the loss and the gradient's norm, before clipping, of each step, up to a loss that is not finite.

    Every step has new sequences, and the norm is no metric of predictions: so the loop is written out, not `graphc.fit`.
    """
    model, optimizer = make_reader(kind, seed), make_optimizer(kind, clipped)
    params = model.parameters
    state = optimizer.init(params)

    def step(params: dict[str, Array], state: dict[str, Array], rate: Array, x: Array, y: Array) -> object:
        def loss(params: dict[str, Array]) -> Array:
            return nn.mse(model.apply(params, {}, x, train=True)[0], y)

        value, gradients = graphc.value_and_grad(loss)(params)
        squares = [(g**2).sum() for g in gradients.values()]
        return (
            value,
            graphc.sqrt(graphc.stack(squares).sum()),
            *optimizer.update(params, gradients, state, rate),
        )

    rate, found = np.float32(optimizer.learning_rate), []
    sequences = adding_problem(BATCH * steps, seed)
    x, y = (part.reshape(steps, BATCH, *part.shape[1:]) for part in sequences)
    compiled = graphc.compile(step, params, state, rate, x[0], y[0], donate=("params", "state"))
    for number in range(steps):
        value, norm, params, state = compiled(params, state, rate, x[number], y[number])
        if not (np.isfinite(value) and np.isfinite(norm)):
            break
        found.append((float(value), float(norm)))
    return np.array(found).T


def running_mean(values: np.ndarray, wide: int = 25) -> np.ndarray:
    """Each value's mean with those before it, so many at most."""
    return np.array([values[max(0, end - wide) : end].mean() for end in range(1, len(values) + 1)])


def plot(
    norms: dict[str, dict[float, np.ndarray]], lstm: np.ndarray, runs: dict[str, np.ndarray], path: Path
) -> None:
    """Gradients through time on the left; losses and gradients of three trainings on the right."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 10,
             "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8}  # fmt: skip
    colors, back = dict(zip(RADII, ("#2563eb", "#6b7280", "#c2410c"), strict=True)), np.arange(1, STEPS + 1)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplot_mosaic("ab;ac", figsize=(10, 5.4), layout="constrained")
        axis = axes["a"]
        for radius, color in colors.items():
            axis.semilogy(
                back, norms["linear"][radius], color=color, linewidth=1.8, label=f"linear, ρ = {radius}"
            )
            axis.semilogy(back, radius**back, color=color, linewidth=0.9, linestyle=":")
            axis.semilogy(back, norms["tanh"][radius], color=color, linewidth=1.2, linestyle="--")
        axis.semilogy(back, lstm, color="#0f766e", linewidth=1.8, label="LSTM, forget gates open")
        axis.plot([], [], color="#404040", linestyle="--", linewidth=1.2, label="the same with tanh")
        axis.plot([], [], color="#404040", linestyle=":", linewidth=0.9, label="ρⁿ")
        axis.set(
            title="The gradient by the state n steps back",
            xlabel="n",
            ylabel="‖∂e / ∂h‖",
            xlim=(0, STEPS + 1),
        )
        axis.set_ylim(1e-11, 1e6)
        axis.legend(loc="lower left")
        shades = ("#c2410c", "#2563eb", "#0f766e")
        for (name, (losses, gradients)), color in zip(runs.items(), shades, strict=True):
            steps = np.arange(1, len(losses) + 1)
            axes["b"].semilogy(steps, losses, color=color, alpha=0.15, linewidth=0.6)
            axes["b"].semilogy(steps, running_mean(losses), color=color, linewidth=1.5, label=name)
            axes["c"].semilogy(steps, gradients, color=color, linewidth=0.7, alpha=0.8)
        axes["b"].axhline(1 / 6, color="#808080", linewidth=0.9, linestyle=":", label="always guessing 1")
        axes["b"].set(title="Learning to add two of 20 numbers", ylabel="mean squared error")
        axes["b"].legend(ncols=2, loc="upper right")
        axes["b"].set_ylim(1e-3, 1e4)
        axes["c"].axhline(LIMIT, color="#404040", linewidth=0.9, linestyle=":")
        axes["c"].set(
            title="Its gradient's norm; clipped above the dotted line", xlabel="step", ylabel="‖∂e / ∂θ‖"
        )
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def study_gradients(seed: int) -> tuple[dict[str, dict[float, np.ndarray]], np.ndarray]:
    """The gradients of all networks by steps back, printed with their growth in a step and checked with the bounds."""
    print(
        f"gradient by the state n steps back, {HIDDEN} units; growth in a step: the mean over n = 20 … {STEPS}"
    )
    print(f"{'':14}{'ρ':>5}{'‖W‖':>7}{'κ(V)':>7}{'n = 10':>11}{f'n = {STEPS}':>11}{'growth':>9}")
    norms: dict[str, dict[float, np.ndarray]] = {"linear": {}, "tanh": {}}
    for radius in RADII:
        w = recurrent_matrix(radius, seed)
        values, vectors = np.linalg.eig(w.astype(np.float64))
        size, condition = np.linalg.norm(w, 2), np.linalg.cond(vectors)
        assert np.isclose(np.abs(values).max(), radius)
        for name, step in (("linear", linear_step), ("tanh", tanh_step)):
            found = norms[name][radius] = norms_through_time(step, HIDDEN, seed, w)
            bound = (
                condition * radius ** np.arange(1.0, STEPS + 1)
                if name == "linear"
                else size ** np.arange(1.0, STEPS + 1)
            )
            if not (found <= bound * 1.001).all():
                raise SystemExit(f"{name}, ρ = {radius}: the gradient is above its bound")
            growth = (found[-1] / found[19]) ** (1 / (STEPS - 20))
            print(
                f"{name:14}{radius:5.1f}{size:7.2f}{condition:7.1f}{found[9]:11.2e}{found[-1]:11.2e}{growth:9.3f}"
            )
    cell = LSTMStep().init(seed)
    open_forget_gates(cell, HIDDEN)
    lstm = norms_through_time(cell, 2 * HIDDEN, seed)
    growth = (lstm[-1] / lstm[19]) ** (1 / (STEPS - 20))
    print(f"{'LSTM':33}{lstm[9]:11.2e}{lstm[-1]:11.2e}{growth:9.3f}")
    print("all are within their bounds: κ(V) ρⁿ for the linear ones, ‖W‖ⁿ with tanh")
    return norms, lstm


def main() -> None:
    parser = argparse.ArgumentParser(description="Follow gradients back through time, and clip them.")
    parser.add_argument("--steps", type=int, default=1500, help="of each training (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of matrices, weights and sequences (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    norms, lstm = study_gradients(options.seed)
    print(f"learning to add two marked ones of {LENGTH} numbers; always guessing 1 has a loss of {1 / 6:.3f}")
    runs = {}
    for name, kind, clipped in (
        ("RNN", nn.RNN, False),
        ("RNN, clipped", nn.RNN, True),
        ("LSTM, clipped", nn.LSTM, True),
    ):
        losses, gradients = runs[name] = train(kind, clipped, options.steps, options.seed)
        ended = f"loss of the last {min(100, len(losses))} of {len(losses)} steps {losses[-100:].mean():.4f}"
        print(f"{name:14} {ended}, largest gradient {gradients.max():.3g}")
    plot(norms, lstm, runs, options.out / "vanishing_gradients.png")


if __name__ == "__main__":
    main()
