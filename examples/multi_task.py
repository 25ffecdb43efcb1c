"""One network for two questions about a handwritten digit, compared with a network for each question.

    python examples/multi_task.py [--epochs N] [--each N] [--runs N] [--seed N] [--out FOLDER]

Model: a trunk of two convolutions and a linear layer, and two heads: which digit it is (cross-entropy), and how many closed
loops are in it (cross-entropy, weight 0.5): one in 0, 6 and 9, two in 8. Single tasks have the same trunk and one head. Data:
MNIST, 20 digits of each class to train on, few, so that what one task teaches the trunk can help the other, and 100 of each
to judge by. R. Caruana, Multitask Learning, Machine Learning 28, 1997. Needs ``pip install graphc[demo]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _mnist import load_digits, options
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import nn, optim

BATCH = 50
LOOPS = np.array([1, 0, 0, 0, 0, 0, 1, 0, 2, 1], np.int32)  # a handwritten 4 is open, mostly
CLASSES = {"digit": 10, "loops": 3}
WEIGHTS = {"digit": 1.0, "loops": 0.5}


class Heads(nn.Module):
    """A head for each task on one trunk; gives a dict of logits."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 64),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({task: nn.Linear(64, CLASSES[task]) for task in tasks})

    def forward(self, x: graphc.Array) -> dict[str, graphc.Array]:
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}


def make_model(tasks: Sequence[str] = ("digit", "loops")) -> Heads:
    return Heads(tasks)


def make_loss(tasks: Sequence[str] = ("digit", "loops")) -> Callable[..., graphc.Array]:
    return nn.weighted({task: (nn.cross_entropy, WEIGHTS[task]) for task in tasks})


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(2e-3)


def targets(labels: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    answers = {"digit": labels, "loops": LOOPS[labels]}
    return {task: answers[task] for task in tasks}


def plot(curves: dict[str, list[graphc.History]], path: Path) -> None:
    """Held-out accuracy of both tasks over the epochs: the mean of all runs, and their range."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for axis, task in zip(axes, CLASSES, strict=True):
        for color, name in zip(COLORS, ("both tasks", f"{task} alone"), strict=False):
            values = np.array([history[f"val_{task}_accuracy"] for history in curves[name]])
            epochs = np.arange(1, values.shape[1] + 1)
            axis.fill_between(
                epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0
            )
            axis.plot(epochs, values.mean(axis=0), color=color, label=name)
        axis.set_ylim(max(0, axis.get_ylim()[1] - 0.3), None)
        axis.set_title(f"held-out accuracy: {task}")
        axis.set_xlabel("epoch")
        axis.legend(loc="lower right")
    save(pyplot, figure, path)


def main() -> None:
    parser = options("Train one network for two tasks.", epochs=60, each=20)
    parser.add_argument("--runs", type=int, default=5, help="with splits of their own (default: 5)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kinds = {"both tasks": ("digit", "loops"), "digit alone": ("digit",), "loops alone": ("loops",)}
    curves: dict[str, list[graphc.History]] = {name: [] for name in kinds}
    for run in range(given.runs):
        train, test = load_digits(given.seed + run, given.each)
        for name, tasks in kinds.items():
            history = graphc.fit(
                make_model(tasks),
                (train[0], targets(train[1], tasks)),
                loss=make_loss(tasks),
                optimizer=make_optimizer(),
                schedule=optim.schedules.Cosine(given.epochs),
                epochs=given.epochs,
                batch_size=BATCH,
                validation=(test[0], targets(test[1], tasks)),
                metrics=dict.fromkeys(tasks, "accuracy"),
                seed=given.seed + run,
                progress=False,
            )
            curves[name].append(history)
    print(
        f"{10 * given.each} digits to train on, {given.runs} runs; held-out accuracy, mean and standard deviation"
    )
    for name, tasks in kinds.items():
        for task in tasks:
            final = [history[f"val_{task}_accuracy"][-1] for history in curves[name]]
            print(f"{name:12} {task:6} {np.mean(final):.3f} ± {np.std(final):.3f}")
        parameters = sum(array.size for array in make_model(tasks).parameters.values())
        time = np.median([history["us_per_step"][-1] for history in curves[name]])
        print(f"{name:12} {parameters:,} parameters, {time:.0f} us a step of {BATCH}")
    plot(curves, given.out / "multi_task.png")


if __name__ == "__main__":
    main()
