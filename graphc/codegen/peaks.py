"""What this machine can do at most: multiply-adds in registers, bytes copied through memory. Both are measured.

In: a target of this machine. Out: rates, the roof under which a profile places kernels.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import Target
from graphc.ir.types import f32


@dataclass(frozen=True)
class Peaks:
    """Floating-point operations (f32) and bytes a second, of one thread."""

    operations: float
    bytes: float


@cache
def measured_peaks(target: Target) -> Peaks:
    """The peaks of this machine with that target's code, measured once a process; takes about half a second."""
    peak, operations = multiply_add_peak(target)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        peak()
        times.append(time.perf_counter() - start)
    return Peaks(operations / min(times), copy_rate())


def copy_rate(megabytes: int = 128) -> float:
    """Bytes a second of a copy between arrays that no cache holds, reads and writes together."""
    source, target = np.ones(megabytes << 18, np.float32), np.empty(megabytes << 18, np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times)


def multiply_add_peak(target: Target, rounds: int = 20000) -> tuple[Callable[[], None], float]:
    """A call that does nothing but accumulate products in registers, and its floating-point operations.

    As many independent sums as hide the latency; a multiply and an add where the target has no fused one. One factor
    is read anew in each round (`volatile`), or the multiplication would be done once, before the loop.

    For each sum its factors stay what they are, as those of a product's tile must: where a multiplication overwrites one
    (SSE2), a multiply-add is three instructions here, half of the times with a copy and half of the times with a load in
    its place. A loop with a copy for each of them takes the same time, which is that of issuing six in a cycle.
    """
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
