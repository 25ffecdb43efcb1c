"""What the benchmarks share: one thread, sides that take turns, medians, checks first, tables.

In: functions that do the same work. Out: seconds a call for each, measured in turns so that a machine whose speed drifts
slows all of them. Import this module before numpy: it sets the variables that libraries read when they start.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_KERNEL_CHOICES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
)  # would keep OpenBLAS from choosing its best kernels

Row = dict[str, object]


def one_thread() -> None:
    """Every library on one thread of one core; before numpy is imported."""
    if "numpy" in sys.modules:
        raise RuntimeError("one_thread: expected to be called before numpy is imported")
    for name in _THREADS:
        os.environ[name] = "1"
    for name in _KERNEL_CHOICES:
        os.environ.pop(name, None)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def installed(*names: str) -> list[str]:
    """Those of the packages that are here."""
    return [name for name in names if find_spec(name) is not None]


def in_turns(
    sides: Mapping[str, Callable[[], object]], seconds: float, batch_seconds: float = 2e-2
) -> dict[str, list[float]]:
    """Seconds a call of every side: batches of calls, the sides in a rotating order, for so many seconds a side."""
    calls: dict[str, int] = {}
    for name, side in sides.items():
        side()
        start = time.perf_counter()
        side()
        calls[name] = max(1, round(batch_seconds / max(time.perf_counter() - start, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    names, end, turn = list(sides), time.perf_counter() + seconds * len(sides), 0
    while time.perf_counter() < end or turn < 3:
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            side, count = sides[name], calls[name]
            start = time.perf_counter()
            for _ in range(count):
                side()
            samples[name].append((time.perf_counter() - start) / count)
        turn += 1
    return samples


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side.

    >>> medians({"a": [3.0, 1.0, 2.0]})
    {'a': 2.0}
    """
    return {name: statistics.median(times) for name, times in samples.items()}


def ratio(samples: Mapping[str, Sequence[float]], ours: str) -> float:
    """How many times as long the fastest peer takes, by medians; NaN without peers.

    >>> ratio({"us": [1.0, 1.0], "a": [2.0, 2.0], "b": [3.0, 3.0]}, "us")
    2.0
    """
    middle = medians(samples)
    peers = [t for name, t in middle.items() if name != ours]
    return min(peers) / middle[ours] if peers else float("nan")


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean.

    >>> round(geometric_mean([1.0, 4.0]), 6)
    2.0
    """
    return statistics.geometric_mean(values)


def multiply_add_peak(target: object, rounds: int = 20000) -> tuple[Callable[[], None], float]:
    """A call that does nothing but accumulate products in registers, and its floating-point operations.

    As many independent sums as hide the latency; a multiply and an add where the target has no fused one. One factor
    is read anew in each round (`volatile`), or the multiplication would be done once, before the loop.

    For each sum its factors stay what they are, as those of a product's tile must: where a multiplication overwrites one
    (SSE2), a multiply-add is three instructions here, half of the times with a copy and half of the times with a load in
    its place. A loop with a copy for each of them takes the same time, which is that of issuing six in a cycle.
    """
    import ctypes

    import numpy as np

    from graphc.codegen.loader import load_object
    from graphc.codegen.object import compile_object
    from graphc.codegen.target import Target
    from graphc.ir.types import f32

    assert isinstance(target, Target)
    lanes, pairs = target.lanes(f32), 6  # 12 sums, 2 factors and the products in flight: 16 registers
    vector = f"<{lanes} x float>" if lanes > 1 else "float"
    multiply_add = f"@llvm.fmuladd.{f'v{lanes}f32' if lanes > 1 else 'f32'}"
    chains = 2 * pairs
    lines = [
        f"declare {vector} {multiply_add}({vector}, {vector}, {vector})",
        "define void @peak(i64 %n, ptr %p) nounwind {",
        "entry:",
        "  %q = getelementptr i8, ptr %p, i64 64",
        f"  %b0 = load {vector}, ptr %p, align 4",
        f"  %b1 = load {vector}, ptr %q, align 4",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %j, %loop ]",
    ]
    lines += [f"  %c{k} = phi {vector} [ %b0, %entry ], [ %d{k}, %loop ]" for k in range(chains)]
    for k in range(pairs):
        lines.append(f"  %a{k} = load volatile {vector}, ptr %p, align 4")
        lines += [
            f"  %d{2 * k + s} = call {vector} {multiply_add}({vector} %a{k}, {vector} %b{s}, {vector} %c{2 * k + s})"
            for s in range(2)
        ]
    lines += [
        "  %j = add i64 %i, 1",
        "  %more = icmp slt i64 %j, %n",
        "  br i1 %more, label %loop, label %done",
        "done:",
    ]
    total = "%d0"
    for k in range(1, chains):
        lines.append(f"  %s{k} = fadd {vector} {total}, %d{k}")
        total = f"%s{k}"
    lines += [f"  store {vector} {total}, ptr %p, align 4", "  ret void", "}"]
    loaded = load_object(compile_object("\n".join(lines), target))
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(loaded.address("peak"))
    memory = np.zeros(64, np.float32)
    address = memory.ctypes.data

    def peak() -> None:
        function(rounds, address)

    peak.__dict__["keep"] = (loaded, memory)
    return peak, 2.0 * lanes * chains * rounds


def arguments(description: str, seconds: float) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write an object with the rows to this file"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--only", metavar="TEXT", default="", help="only cases whose name contains this text")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help="how long each side of each case is measured (default: %(default)s)",
    )
    return parser


def add_torch_option(parser: argparse.ArgumentParser) -> None:
    """`--no-torch`: torch.compile takes seconds, on some machines half a minute, for each case."""
    parser.add_argument(
        "--no-torch",
        dest="torch",
        action="store_false",
        help="leave torch.compile out, which takes long to compile; it also needs a C++ compiler",
    )


def peers(torch: bool) -> list[str]:
    """Those of JAX and PyTorch that are here and wanted; says which are not compared."""
    found = [name for name in installed("jax", "torch") if torch or name != "torch"]
    for name in ("jax", "torch"):
        if name not in found:
            reason = "left out" if name in installed(name) else "not installed"
            progress(f"{name} is {reason}: not compared")
    return found


def progress(text: str) -> None:
    """A line on standard error, so that long work is seen to move."""
    print(text, file=sys.stderr, flush=True)


def show(rows: Sequence[Row], options: argparse.Namespace, notes: Sequence[str] = ()) -> None:
    """The rows as a table on standard output, and as JSON where that is asked for."""
    if rows:
        print_table(rows, options.markdown)
    finish(rows, options, notes)


def print_table(rows: Sequence[Row], markdown: bool) -> None:
    """Rows that have the same names, as a table on standard output."""
    names = [name for name in rows[0] if not isinstance(rows[0][name], dict)]
    cells = [[_cell(row[name]) for name in names] for row in rows]
    if markdown:
        print("| " + " | ".join(names) + " |")
        print("|" + "---|" * len(names))
        for line in cells:
            print("| " + " | ".join(line) + " |")
    else:
        widths = [max(len(names[i]), *(len(line[i]) for line in cells)) for i in range(len(names))]
        for line in [names, *cells]:
            print("  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)))


def finish(rows: Sequence[Row], options: argparse.Namespace, notes: Sequence[str] = ()) -> None:
    """The notes below the tables, and rows and notes as JSON where that is asked for."""
    if not rows:
        print(f"no case matches {options.only!r}")
        return
    for note in notes:
        print(note)
    if options.json is not None:
        options.json.write_text(
            json.dumps({"rows": [*map(_without_nan, rows)], "notes": list(notes)}, indent=2) + "\n"
        )


def _without_nan(row: Row) -> Row:
    """JSON has no NaN: a ratio without peers is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return (
            f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
        )
    return str(value)


def machine() -> str:
    """This machine in a line."""
    from graphc.codegen.target import host_target

    target = host_target()
    caches = ", ".join(f"{size >> 10} KiB" for size in target.cache_bytes)
    return f"{target.cpu}, {target.vector_bits}-bit vectors, caches {caches}, one thread"
