"""The library that the programs in this folder are built on: the digits MLP with its training step, and its data.

    python digits_library.py --to FOLDER [--target T] [--epochs N]

Writes the library with its header (`digits.o`, `digits.h`, and libraries where a linker is found), `digits.bin` with the
rows, the order of training and the weights to begin with, and `losses.txt`: what training in Python gives, for comparison.
Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import f32, i32, nn, optim
from graphc.entries import training_entries

BATCH, FEATURES, CLASSES = 32, 64, 10
RATE = 0.05


def make_model(seed: int = 0) -> nn.Sequential:
    graphc.init.seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def entries(model: nn.Module) -> dict[str, object]:
    """predict, loss, grads and train_step for batches of 32 rows."""
    optimizer = optim.SGD(RATE, momentum=0.9, weight_decay=1e-3)
    return dict(training_entries(model, nn.cross_entropy, optimizer, (f32[BATCH, FEATURES], i32[BATCH])))


def load_data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows, centred by the mean of those to train on, labels, and how many rows are to train on; the rest is for testing."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int32)
    train = len(x) * 8 // 10 // BATCH * BATCH
    return x - x[:train].mean(axis=0), y, train


def train_in_python(
    model: nn.Module, x: np.ndarray, y: np.ndarray, order: np.ndarray
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The mean loss of each epoch, and the trained weights, by the same entry compiled for this process."""
    entry = entries(model)["train_step"]
    params = {name: np.array(p) for name, p in model.parameters.items()}
    state = {f"momentum.{name}": np.zeros_like(p) for name, p in params.items()}
    step = graphc.compile(entry.function, *entry.specs, donate=entry.donate)
    losses = []
    for epoch in order:
        total = 0.0
        for rows in epoch.reshape(-1, BATCH):
            result = step(params, {}, state, np.float32(RATE), x[rows], y[rows])
            total += float(result["loss"])
        losses.append(total / (len(epoch) // BATCH))
    return losses, params


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, default=Path("out"), help="folder for what is made (out)")
    parser.add_argument("--target", default="cpu", help="as of graphc.export: cpu, wasm32, aarch64-linux-gnu, ... (cpu)")
    parser.add_argument("--epochs", type=int, default=20, help="how often training goes over the rows (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and the order")
    options = parser.parse_args()

    model = make_model(options.seed)
    print(graphc.export(entries(model), name="digits", to=options.to, target=options.target))

    x, y, train = load_data(options.seed)
    rng = np.random.default_rng(options.seed)
    order = np.stack([rng.permutation(train) for _ in range(options.epochs)]).astype(np.int32)
    initial = np.concatenate([p.ravel() for p in model.parameters.values()]).astype(np.float32)
    header = np.array([len(x), train, options.epochs, len(initial)], np.int32)
    with open(options.to / "digits.bin", "wb") as file:
        for part in (header, x, y, order, initial):
            file.write(np.ascontiguousarray(part).tobytes())

    losses, params = train_in_python(model, x, y, order)
    for name, p in params.items():
        model.parameters[name][...] = p
    accuracy = float((np.asarray(model(x[train:])).argmax(1) == y[train:]).mean())
    lines = [f"epoch {n}: loss {loss:.9g}" for n, loss in enumerate(losses, 1)]
    (options.to / "losses.txt").write_text("\n".join([*lines, f"test accuracy: {accuracy:.4f}"]) + "\n")
    print(f"in Python: last loss {losses[-1]:.6f}, test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
