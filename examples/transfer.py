"""What was learned on the digits 0 to 4 helps to learn 5 to 9 from a few examples.

    python examples/transfer.py [--epochs N] [--steps N] [--each N] [--few N ...] [--runs N] [--seed N] [--out FOLDER]

Model: a trunk of two convolutions and a linear head for five classes; cross-entropy, Adam. The trunk is trained on 0 to 4,
saved, and loaded into new models. In one it is frozen, so that its training step has no backward pass of the trunk, which is
read from the compiler's texts; in one it is trained on; a third begins from scratch. Data: MNIST, 400 digits of each class for
the trunk, a few of each of the others afterwards, 100 of each to judge by. J. Yosinski, J. Clune, Y. Bengio and H. Lipson,
How Transferable Are Features in Deep Neural Networks?, arXiv:1411.1792. Needs ``pip install graphc[demo]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _mnist import Digits, load_digits, options
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import nn, optim
from graphc.compiler import CompiledFunction

BATCH = 25


class Network(nn.Module):
    def __init__(self) -> None:
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * 5 * 5, 5)

    def forward(self, x: graphc.Array) -> graphc.Array:
        return self.head(self.trunk(x))


def make_model(trunk: Path | None = None, frozen: bool = False) -> Network:
    """A new network, or one with the trunk of a file."""
    model = Network()
    if trunk is not None:
        graphc.load_weights(model, trunk, strict=False)
    return model.freeze("trunk.*") if frozen else model


loss = nn.cross_entropy


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(2e-3)


def classes(digits: Digits, first: int, each: int | None = None) -> Digits:
    """The digits of five classes from `first` on, numbered from 0; `each` of each class, or all."""
    images, labels = digits
    rows = [np.flatnonzero(labels == digit)[:each] for digit in range(first, first + 5)]
    chosen = np.sort(np.concatenate(rows))
    return images[chosen], labels[chosen] - first


def train(model: Network, digits: Digits, epochs: int, seed: int) -> CompiledFunction:
    """Trains a model; gives the compiled step."""
    history = graphc.fit(
        model,
        digits,
        loss=loss,
        optimizer=make_optimizer(),
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        progress=False,
    )
    assert history.step is not None
    return history.step


def accuracy(model: Network, digits: Digits) -> float:
    return float((np.asarray(model(digits[0])).argmax(axis=1) == digits[1]).mean())


def backward_of_trunk(step: CompiledFunction) -> tuple[int, int]:
    """How many nodes of the graph, and how many calls of the plan, are the trunk's and say that they are derivatives."""

    def count(text: str) -> int:
        return sum(" in trunk." in line and ' as "d ' in line for line in text.splitlines())

    return count(str(step.graph)), count(str(step.plan))


def plot(few: list[int], found: dict[str, np.ndarray], path: Path) -> None:
    """Held-out accuracy over the number of examples: mean and range of the runs."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure, axis = pyplot.subplots(figsize=(5.6, 3.6))
    for color, (name, values) in zip(COLORS, found.items(), strict=False):
        axis.fill_between(few, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axis.plot(few, values.mean(axis=0), "o-", color=color, markersize=4, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(few, [str(n) for n in few])
    axis.set_xlabel("training examples of each class, 5 to 9")
    axis.set_title("held-out accuracy, 5 to 9")
    axis.legend(loc="lower right")
    save(pyplot, figure, path)


def main() -> None:
    parser = options("Transfer what was learned on other digits.", epochs=10)
    parser.add_argument(
        "--few", type=int, nargs="+", default=[2, 5, 10, 20, 50], help="examples of each of 5 to 9"
    )
    parser.add_argument("--steps", type=int, default=300, help="on those examples (default: 300)")
    parser.add_argument("--runs", type=int, default=5, help="with splits of their own (default: 5)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "trunk.safetensors"
    kinds = {
        "trunk of 0 to 4, frozen": (file, True),
        "trunk of 0 to 4, trained on": (file, False),
        "from scratch": (None, False),
    }
    found = {name: np.zeros((given.runs, len(given.few))) for name in kinds}
    for run in range(given.runs):
        seed = given.seed + run
        digits, test = load_digits(seed, given.each)
        source = make_model()
        train(source, classes(digits, 0), given.epochs, seed)
        graphc.save_weights({f"trunk.{n}": array for n, array in source.trunk.parameters.items()}, file)
        if run == 0:
            print(
                f"trunk: held-out accuracy {accuracy(source, classes(test, 0)):.3f} on 0 to 4, saved as {file}"
            )
        for name, values in found.items():
            for column, each in enumerate(given.few):
                model = make_model(*kinds[name])
                epochs = max(1, given.steps // -(-5 * each // BATCH))
                step = train(model, classes(digits, 5, each), epochs, seed)
                values[run, column] = accuracy(model, classes(test, 5))
            if run == 0:
                nodes, calls = backward_of_trunk(step)
                print(f"{name}: {len(step.plan.steps)} kernels in a step; of the trunk's backward pass {calls}"
                      f" of them, and {nodes} nodes of the graph")  # fmt: skip
    print(f"held-out accuracy on 5 to 9, mean and standard deviation of {given.runs} runs")
    for name, values in found.items():
        for each, column in zip(given.few, values.T, strict=True):
            print(f"{name:28} {each:3d} examples of each: {column.mean():.3f} ± {column.std():.3f}")
    plot(given.few, found, given.out / "transfer.png")


if __name__ == "__main__":
    main()
