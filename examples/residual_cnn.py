"""A deep convolutional network with and without residual connections, with and without batch normalisation.

    python examples/residual_cnn.py [--epochs N] [--each N] [--blocks N] [--seed N] [--out FOLDER]

Model: a convolution with stride 2 and max pooling to 7×7, then 10 blocks of two convolutions with 16 channels, the mean of
each channel, a linear layer; cross-entropy, SGD with momentum, the same rate for all four. Data: 5,000 digits of MNIST, 400 of
each class to train on and 100 of each to judge by. K. He, X. Zhang, S. Ren and J. Sun, Deep Residual Learning for Image
Recognition, arXiv:1512.03385; S. Ioffe and C. Szegedy, Batch Normalization, arXiv:1502.03167. Needs
``pip install graphc[demo]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _mnist import load_digits, options
from _plotting import COLORS, save, styled_pyplot

import graphc
from graphc import nn, optim

BATCH, CHANNELS, BLOCKS = 50, 16, 10


def convolution(inputs: int, normalised: bool, stride: int = 1) -> list[nn.Module]:
    """A convolution and what follows it; with normalisation it needs no bias of its own."""
    layer = nn.Conv2d(inputs, CHANNELS, 3, stride=stride, padding=1, bias=not normalised)
    return [layer, nn.BatchNorm2d(CHANNELS)] if normalised else [layer]


def make_model(residual: bool = True, normalised: bool = True, blocks: int = BLOCKS) -> nn.Sequential:
    layers = [*convolution(1, normalised, stride=2), nn.ReLU(), nn.MaxPool2d(2)]
    for _ in range(blocks):
        block = nn.Sequential(
            *convolution(CHANNELS, normalised), nn.ReLU(), *convolution(CHANNELS, normalised)
        )
        layers += [nn.Residual(block) if residual else block, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))


loss = nn.cross_entropy


def make_optimizer() -> optim.Optimizer:
    return optim.SGD(0.05, momentum=0.9, weight_decay=1e-4)


VARIANTS = {
    "residual, batch norm": (True, True),
    "plain, batch norm": (False, True),
    "residual": (True, False),
    "plain": (False, False),
}


def plot(histories: dict[str, graphc.History], blocks: int, path: Path) -> None:
    """Training loss and held-out accuracy of the four networks."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for color, (name, history) in zip(COLORS, histories.items(), strict=False):
        epochs = range(1, history.epochs + 1)
        left.plot(epochs, history["loss"], color=color, label=name)
        right.plot(epochs, history["val_accuracy"], color=color, label=name)
    left.set_yscale("log")
    left.set_title("training loss")
    right.set_title("held-out accuracy")
    right.legend()
    for axis in (left, right):
        axis.set_xlabel("epoch")
    figure.suptitle(f"{2 * blocks + 1} convolutions and a linear layer", fontsize=10)
    save(pyplot, figure, path)


def main() -> None:
    parser = options("Compare residual and plain networks.", epochs=10)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"of two convolutions (default: {BLOCKS})")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train, test = load_digits(given.seed, given.each)
    histories = {}
    for name, (residual, normalised) in VARIANTS.items():
        model = make_model(residual, normalised, given.blocks)
        try:
            history = graphc.fit(
                model,
                train,
                loss=loss,
                optimizer=make_optimizer(),
                schedule=optim.schedules.Cosine(given.epochs),
                epochs=given.epochs,
                batch_size=BATCH,
                validation=test,
                metrics="accuracy",
                seed=given.seed,
                progress=False,
            )
        except graphc.DivergedError as error:
            print(f"{name:22} {error}")
            continue
        histories[name] = history
        print(
            f"{name:22} loss {history['loss'][-1]:.4f}  held-out accuracy {history['val_accuracy'][-1]:.3f}"
            f"  {np.median(history['us_per_step']) / 1e3:.1f} ms a step"
        )
        if residual and normalised:
            together, alone = np.asarray(model(test[0][:8])), np.asarray(model(test[0][:1]))
            same = np.allclose(together[0], alone[0], rtol=1e-4, atol=1e-4)
            print(f"  running statistics: a digit alone is judged as among others: {same}")
    plot(histories, given.blocks, given.out / "residual_cnn.png")


if __name__ == "__main__":
    main()
