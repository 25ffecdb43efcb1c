"""Writes the digits' training step as a program for CUDA, its first weights, and batches for the C host to train on.

    python make_step.py [--steps N] [--out FOLDER]

Prints the losses of the same steps on this machine's processor. Needs ``pip install graphc[demo]``, and no GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import nn, optim
from graphc.codegen.launch_table import ptx_files
from graphc.ir.files import write_atomically

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a training step for a C host on a GPU.")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    model.fill(0)
    optimizer = optim.SGD(0.05, momentum=0.9, weight_decay=1e-3)

    def digits_step(params, state, rate, x, y):  # type: ignore[no-untyped-def]
        loss, grads = graphc.value_and_grad(lambda p: nn.cross_entropy(model.apply(p, {}, x)[0], y))(params)
        return {"params": params, "state": state, "loss": loss} | dict(
            zip(("params", "state"), optimizer.update(params, grads, state, rate))
        )

    params = {name: array.copy() for name, array in model.parameters.items()}
    state = optimizer.init(params)
    rate = np.array(optimizer.learning_rate, np.float32)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int32)
    specs = params, state, rate, x[:BATCH], y[:BATCH]

    on_gpu = graphc.compile(digits_step, *specs, target="cuda", donate=("params", "state"))
    files = ptx_files("digits_step", on_gpu.ptx, on_gpu.launches)
    first = [*params.values(), *state.values(), rate, x[:BATCH], y[:BATCH]]  # the program's inputs, in order
    files["digits_step.inputs.bin"] = b"".join(np.ascontiguousarray(a).tobytes() for a in first)
    batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(options.steps)]
    files["digits_step.batches.bin"] = b"".join(x[rows].tobytes() + y[rows].tobytes() for rows in batches)
    for name, content in files.items():
        write_atomically(options.out / name, content)

    on_cpu = graphc.compile(digits_step, *specs, donate=("params", "state"))
    for rows in batches:
        print(f"{on_cpu(params, state, rate, x[rows], y[rows])['loss']:.6f}")


if __name__ == "__main__":
    main()
