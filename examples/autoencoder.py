"""Autoencoders of handwritten digits: a map of them with two numbers for each, and noise that is taken away.

    python examples/autoencoder.py [--epochs N] [--each N] [--latent N] [--seed N] [--out FOLDER]

Model: an MLP from 784 pixels to a few numbers and back; mean squared error, Adam. One has a bottleneck of 2 and is shown as
a map; the other, of 32, sees digits with noise (drawn anew in every compiled step) and is to give those without. Both
are compared with as many principal components, the best linear autoencoder. Data: 5,000 digits of MNIST, 400 of each class to
train on and 100 of each to judge by. G. Hinton and R. Salakhutdinov, Reducing the Dimensionality of Data with Neural
Networks, Science 313, 2006; P. Vincent, H. Larochelle, Y. Bengio and P.-A. Manzagol, Extracting and Composing Robust Features
with Denoising Autoencoders, ICML 2008. Needs ``pip install graphc[demo]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _mnist import load_digits, options
from _plotting import save, styled_pyplot

import graphc
from graphc import nn, optim

BATCH, PIXELS, NOISE = 50, 784, 0.5


class Autoencoder(nn.Module):
    """Pixels from 0 to 1 to `latent` numbers and back; in training, normal noise is added to what it sees."""

    def __init__(self, latent: int, noise: float = 0.0) -> None:
        self.noise = noise
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 64),
            nn.ReLU(),
            nn.Linear(64, 256),
            nn.ReLU(),
            nn.Linear(256, PIXELS),
            nn.Sigmoid(),
        )

    def forward(self, x: graphc.Array) -> graphc.Array:
        if self.training and self.noise > 0:
            x = x + self.noise * graphc.random.normal(self.next_key(), x.shape)
        return self.decoder(self.encoder(x))


def make_model(latent: int = 2, noise: float = 0.0) -> Autoencoder:
    return Autoencoder(latent, noise)


loss = nn.mse


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(2e-3)


def principal_components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of rows, and the orthonormal directions in which they differ most."""
    mean = x.mean(axis=0)
    return mean, np.linalg.svd(x - mean, full_matrices=False)[2][:count]


def projected(x: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    return mean + (x - mean) @ directions.T @ directions


def squared_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - b) ** 2).mean())


def plot(
    codes: np.ndarray, labels: np.ndarray, flat: Autoencoder, rows: dict[str, np.ndarray], path: Path
) -> None:
    """The map: held-out digits by their two numbers, and what the decoder makes of places in it; below, denoised digits."""
    pyplot = styled_pyplot()
    if pyplot is None:
        return
    figure = pyplot.figure(figsize=(10, 8))
    above, below = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    left, right = above.subplots(1, 2, width_ratios=(1.15, 1))
    colors = pyplot.get_cmap("tab10").colors
    for digit, color in enumerate(colors):
        chosen = codes[labels == digit]
        left.scatter(*chosen.T, s=9, color=color, alpha=0.75, linewidths=0)
        left.annotate(
            str(digit), np.median(chosen, axis=0), ha="center", va="center", fontsize=12, weight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": color},
        )  # fmt: skip
    low, high = np.percentile(codes, 2, axis=0), np.percentile(codes, 98, axis=0)
    left.set_title("held-out digits by their two numbers")
    side = 15
    across, up = np.meshgrid(np.linspace(low[0], high[0], side), np.linspace(high[1], low[1], side))
    places = np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)
    images = np.asarray(flat.decoder(places)).reshape(side, side, 28, 28)
    right.imshow(images.transpose(0, 2, 1, 3).reshape(28 * side, 28 * side), cmap="gray_r")
    right.set_title("what the decoder makes of the map's places")
    right.set_axis_off()
    axes = below.subplots(len(rows), 1)
    for axis, (name, digits) in zip(axes, rows.items(), strict=True):
        strip = digits.reshape(-1, 28, 28).transpose(1, 0, 2).reshape(28, -1)
        axis.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    save(pyplot, figure, path)


def main() -> None:
    parser = options("Train autoencoders of digits.", epochs=60)
    parser.add_argument("--latent", type=int, default=32, help="numbers of the denoising one (default: 32)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    (train, _), (test, labels) = (
        (images.reshape(-1, PIXELS), labels) for images, labels in load_digits(given.seed, given.each)
    )

    def trained(latent: int, noise: float) -> Autoencoder:
        model = make_model(latent, noise)
        history = graphc.fit(
            model,
            (train, train),
            loss=loss,
            optimizer=make_optimizer(),
            schedule=optim.schedules.Cosine(given.epochs),
            epochs=given.epochs,
            batch_size=BATCH,
            seed=given.seed,
            progress=False,
        )
        print(
            f"784-256-64-{latent}-64-256-784: training loss {history['loss'][-1]:.4f},"
            f" {np.median(history['us_per_step']):.0f} us a step of {BATCH} digits"
        )
        return model

    flat = trained(2, 0.0)
    ours = squared_error(np.asarray(flat(test)), test)
    linear = squared_error(projected(test, *principal_components(train, 2)), test)
    print(f"two numbers for a held-out digit: error {ours:.4f}, two principal components {linear:.4f}")

    denoising = trained(given.latent, NOISE)
    noisy = test + np.float32(NOISE) * np.random.default_rng(given.seed).normal(size=test.shape).astype(
        np.float32
    )
    clean = np.asarray(denoising(noisy))
    subspace = projected(noisy, *principal_components(train, given.latent))
    errors = {"noisy": noisy, f"{given.latent} principal components": subspace, "denoised": clean}
    for name, images in errors.items():
        print(f"{name:24} error {squared_error(images, test):.4f}")
    rows = {name: images[:20] for name, images in ({"digit": test} | errors).items()}
    plot(np.asarray(flat.encoder(test)), labels, flat, rows, given.out / "autoencoder.png")


if __name__ == "__main__":
    main()
