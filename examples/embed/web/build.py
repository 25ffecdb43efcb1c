"""Builds the page that trains in the browser: one file with the library, some rows of data and the program in it.

    python build.py [--to FOLDER]

Opens from the disk or from any server, needs no network. Data: E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import f32, i32, nn, optim
from graphc.entries import training_entries

HERE = Path(__file__).resolve().parent
ROWS = 700  # of which the page trains on all but the last hundred


def entries() -> dict[str, object]:
    """init and train_step for batches of 32 drawings, predict for a single one."""
    layers = nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10)
    model, optimizer = nn.Sequential(*layers), optim.SGD(0.05, momentum=0.9)
    training = training_entries(model, nn.cross_entropy, optimizer, (f32[32, 64], i32[32]))
    single = training_entries(model, nn.cross_entropy, optimizer, (f32[1, 64], i32[1]))
    return {"init": training["init"], "train_step": training["train_step"], "predict": single["predict"]}


def samples() -> bytes:
    """Rows of the data set in random order: 64 pixels of four bits each, then the label."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[:ROWS]
    pixels = np.minimum(digits.data[order], 15).astype(np.uint8)
    packed = pixels[:, 0::2] | pixels[:, 1::2] << 4
    return np.concatenate([packed, digits.target[order, None].astype(np.uint8)], axis=1).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", "--out", type=Path, default=Path("out"), help="folder for index.html (out)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights on the page")
    options = parser.parse_args()
    exported = graphc.export(entries(), name="digits", to=options.to, target="wasm32", emit=("shared",))
    if "shared" not in exported.files:
        sys.exit("\n".join(exported.notes))
    library = exported.files["shared"].read_bytes()
    page = (HERE / "page.html").read_text(encoding="utf-8")
    runtime = (HERE / "graphc.mjs").read_text(encoding="utf-8").replace("export class", "class")
    for mark, text in {
        "/*RUNTIME*/": runtime,
        "/*PROGRAM*/": (HERE / "app.mjs").read_text(encoding="utf-8"),
        "LIBRARY": base64.b64encode(library).decode(),
        "SAMPLES": base64.b64encode(samples()).decode(),
        "SEED": str(options.seed),
    }.items():
        page = page.replace(f"{{{{{mark}}}}}", text)
    file = options.to / "index.html"
    file.write_text(page, encoding="utf-8")
    sent = len(gzip.compress(page.encode()))
    print(f"{file}: {len(page.encode()):,} bytes, {sent:,} compressed; the library is {len(library):,}")


if __name__ == "__main__":
    main()
