"""Builds the firmware that trains on a Cortex-M4, and shows what it takes of flash and memory.

    python build.py [--to FOLDER]

Needs ``pip install 'graphc[demo,link]'``. Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc import f32, i32, nn, optim
from graphc.artifact.reading import read_object
from graphc.entries import training_entries

HERE = Path(__file__).resolve().parent
ROWS, TESTED, BATCH = 640, 128, 16
FLASH, RAM = 256 << 10, 128 << 10


def write_rows(file: Path, seed: int) -> None:
    """The rows as constants of a C header."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))[:ROWS]
    pixels, labels = digits.data[order].astype(int), digits.target[order]
    mean = pixels[: ROWS - TESTED].mean(axis=0) / 16
    lines = [",\n".join("{" + ",".join(map(str, row)) + "}" for row in pixels), ",".join(map(str, labels))]
    means = ",".join(f"{m:.6f}f" for m in mean)
    file.write_text(
        f"#include <stdint.h>\nenum {{ ROWS = {ROWS}, TESTED = {TESTED} }};\n"
        f"static const uint8_t row_pixels[ROWS][64] = {{\n{lines[0]}}};\n"
        f"static const uint8_t row_labels[ROWS] = {{{lines[1]}}};\n"
        f"static const float row_mean[64] = {{{means}}};\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", "--out", type=Path, default=Path("out"), help="folder for the firmware (out)")
    parser.add_argument("--seed", type=int, default=0, help="which rows are taken")
    options = parser.parse_args()
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    entries = training_entries(
        model, nn.cross_entropy, optim.SGD(0.05, momentum=0.9), (f32[BATCH, 64], i32[BATCH])
    )
    wanted = {name: entries[name] for name in ("init", "train_step", "predict")}
    graphc.export(wanted, name="digits", to=options.to, target="cortex-m4f", emit=("object", "header"))
    write_rows(options.to / "rows.h", options.seed)
    firmware = options.to / "firmware.elf"
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp",
        "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-sanitize=all", "-I", str(options.to),
        str(HERE / "main.c"), str(options.to / "digits.o"), "-nostdlib", f"-Wl,-T,{HERE / 'board.ld'}",
        "-Wl,--entry=reset", "-o", str(firmware),
    ]  # fmt: skip
    subprocess.run(command, check=True)

    sections = {s.name: s.size for s in read_object((firmware).read_bytes()).sections}
    library = {s.name: s.size for s in read_object((options.to / "digits.o").read_bytes()).sections}
    code = sum(n for name, n in library.items() if name.startswith((".text", ".rodata")))
    flash, data, stack = (
        sections[".text"] + sections.get(".ARM.exidx", 0),
        sections[".bss"],
        sections[".stack"],
    )
    print(f"flash   {flash:>8,} of {FLASH:,} bytes: the library {code:,}, rows and program {flash - code:,}")
    print(
        f"memory  {data + stack:>8,} of {RAM:,} bytes: weights, momentum, batch and workspace {data:,}, stack {stack:,}"
    )
    print(f"run it: qemu-system-arm -M mps2-an386 -nographic -semihosting -kernel {firmware}")


if __name__ == "__main__":
    main()
