"""Trains an MLP on scikit-learn's 1,797 handwritten digits and checks that its saved weights predict the same.

    python examples/digits.py [--target interpreter] [--precision f16] [--seed N] [--out FOLDER]

Needs ``pip install graphc[demo]`` (scikit-learn, matplotlib, tqdm, safetensors). Data: E. Alpaydin and C. Kaynak,
Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import nn, optim

BATCH = 32


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def load_data(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training, validation and test parts (80/10/10), shuffled; each pixel is centred by its training mean."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int32)
    cuts = [len(x) * 8 // 10, len(x) * 9 // 10]
    x = x - x[: cuts[0]].mean(axis=0)
    return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an MLP on handwritten digits.")
    parser.add_argument("--target", default="cpu", help="cpu (default), cuda, or interpreter (numpy)")
    parser.add_argument(
        "--precision", default="f32", help="f32 (default), bf16 or f16: of what products read"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and the batches")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for weights and plot")
    parser.add_argument(
        "--check", nargs=2, type=Path, metavar=("WEIGHTS", "PREDICTIONS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    train, validation, test = load_data(options.seed)
    if options.check:  # a fresh process: nothing but the files
        model = make_model()
        model.load(options.check[0])
        np.save(options.check[1], predict(model, test[0]))
        return

    options.out.mkdir(parents=True, exist_ok=True)
    model = make_model()
    print(model)
    history = graphc.fit(
        model,
        train,
        loss=nn.cross_entropy,
        optimizer=optim.SGD(0.05, momentum=0.9, weight_decay=1e-3),
        epochs=200,
        batch_size=BATCH,
        validation=validation,
        metrics="accuracy",
        callbacks=[graphc.EarlyStopping(patience=20)],
        seed=options.seed,
        target=options.target,
        precision=options.precision,
    )
    history.plot(options.out / "history.png")
    step = history.step
    if options.target != "interpreter":
        parts = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in step.compile_seconds.items())
        print(f"compiled in {1e3 * sum(step.compile_seconds.values()):.0f} ms ({parts})")
        print(f"kernels in a step: {len(step.plan.steps)}, arena: {step.workspace_bytes:,} bytes")
    print(f"{np.median(history['us_per_step']):.0f} us a step of {BATCH} rows, {history.epochs} epochs")

    weights, predictions = options.out / "digits.safetensors", options.out / "predictions.npy"
    model.save(weights)
    here = predict(model, test[0])
    command = [
        sys.executable,
        __file__,
        "--seed",
        str(options.seed),
        "--check",
        str(weights),
        str(predictions),
    ]
    subprocess.run(command, check=True)
    same = here.tobytes() == np.load(predictions).tobytes()
    print(f"a fresh process with {weights} predicts {'the same, bit for bit' if same else 'SOMETHING ELSE'}")
    if not same:
        sys.exit(1)
    accuracy = float((here.argmax(1) == test[1]).mean())
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()
