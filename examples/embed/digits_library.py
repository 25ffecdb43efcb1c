"""The library that the programs in this folder are built on: the digits MLP with its training step, and its data.

    python digits_library.py --to FOLDER [--target T] [--epochs N]

Writes the library with its header (`digits.o`, `digits.h`, and libraries where a linker is found), `digits.bin` with the
rows and the order of training, and `losses.txt`: what the same training in Python gives, for comparison.
Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import f32, i32, nn, optim
from graphc.entries import Entry, training_entries

BATCH, FEATURES, CLASSES = 32, 64, 10
RATE = 0.05


def entries() -> dict[str, Entry]:
    """init, predict, loss, grads and train_step of the model, for batches of 32 rows."""
    layers = nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    optimizer = optim.SGD(RATE, momentum=0.9, weight_decay=1e-3)
    batch = f32[BATCH, FEATURES], i32[BATCH]
    return training_entries(nn.Sequential(*layers), nn.cross_entropy, optimizer, batch)


def load_data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows, centred by the mean of those to train on, labels, and how many rows are to train on; the rest is for testing."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int32)
    train = len(x) * 8 // 10 // BATCH * BATCH
    return x - x[:train].mean(axis=0), y, train


def train_in_python(x: np.ndarray, y: np.ndarray, train: int, order: np.ndarray, seed: int) -> list[str]:
    """The mean loss of each epoch and the accuracy on the other rows, by the same entries compiled for this process."""
    init, predict, _, _, train_step = (
        graphc.compile(e.function, *e.specs, donate=e.donate) for e in entries().values()
    )
    begin = init(np.int64(seed))
    params, state = begin["params"], begin["state"]
    lines = []
    for number, rows in enumerate(order, 1):
        total = 0.0
        for batch in rows.reshape(-1, BATCH):
            total += float(train_step(params, {}, state, {}, np.float32(RATE), x[batch], y[batch])["loss"])
        lines.append(f"epoch {number}: loss {total / (train // BATCH):.9g}")
    right = 0
    for start in range(train, len(x), BATCH):
        part = np.zeros((BATCH, FEATURES), np.float32)
        count = len(x[start : start + BATCH])
        part[:count] = x[start : start + BATCH]
        scores = predict(params, {}, part)["prediction"]
        right += int((scores[:count].argmax(1) == y[start : start + BATCH]).sum())
    return [*lines, f"test accuracy: {right / (len(x) - train):.4f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", "--out", type=Path, default=Path("out"), help="folder for what is made (out)")
    parser.add_argument(
        "--target", default="cpu", help="as of graphc.export: cpu, wasm32, aarch64-linux-gnu, ... (cpu)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="how often training goes over the rows (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and the order")
    options = parser.parse_args()

    print(graphc.export(entries(), name="digits", to=options.to, target=options.target))
    x, y, train = load_data(options.seed)
    rng = np.random.default_rng(options.seed)
    order = np.stack([rng.permutation(train) for _ in range(options.epochs)]).astype(np.int32)
    header = np.array([len(x), train, options.epochs, options.seed], np.int32)
    (options.to / "digits.bin").write_bytes(
        b"".join(np.ascontiguousarray(a).tobytes() for a in (header, x, y, order))
    )
    lines = train_in_python(x, y, train, order, options.seed)
    (options.to / "losses.txt").write_text("\n".join(lines) + "\n")
    print("in Python:", *lines[-2:], sep="\n  ")


if __name__ == "__main__":
    main()
