"""The kernels of a training step, each within the step: time, per cent of the multiply-add peak and of the bandwidth.

Every kernel of the plan is called on its own, in the plan's order and on its memory, with the clock read in between: so
the caches are as they are in the step. Peak and bandwidth are measured in the same run. Bytes are those of the arrays
that a kernel reads and writes, once each; what stays in a cache is faster than memory, so there a kernel may pass 100 %.
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import _workloads
import numpy as np

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import Target, host_target
from graphc.compiler import CompiledFunction
from graphc.ir.graph import Graph, Node
from graphc.ir.ops.contract import dimensions
from graphc.ir.plan import CallStep, Plan, PlanBuffer
from graphc.runtime.executable import aligned_empty


def bandwidth(megabytes: int = 128) -> float:
    """Bytes a second of a copy between arrays that no cache holds, reads and writes together."""
    source, target = np.ones(megabytes << 18, np.float32), np.empty(megabytes << 18, np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times)


def sizes(node: Node) -> tuple[int, int, int, int]:
    """(batches, rows, columns, summed products of an element) of a contraction."""
    left, right = (v.type for v in node.operands)
    d = dimensions(node.attrs, left.rank, right.rank)
    return (
        math.prod(left.shape[i] for i in d.lhs_batch),
        math.prod(left.shape[i] for i in d.lhs_free),
        math.prod(right.shape[i] for i in d.rhs_free),
        math.prod(left.shape[i] for i in d.lhs_summed),
    )


def operations(region: Graph) -> int:
    """Floating-point operations: two for each product that a contraction sums, one for any other node's element."""
    count = 0
    for node in region.nodes:
        if "contraction" in node.op.traits:
            count += 2 * math.prod(sizes(node))
        elif "pointwise" in node.op.traits:
            count += node.type.size
        elif "reduction" in node.op.traits:
            count += node.operands[0].type.size
    return count


def what(region: Graph) -> str:
    """What a kernel does, in few words: a product is rows x columns x summed."""
    products = [sizes(n) for n in region.nodes if "contraction" in n.op.traits]
    counts = {trait: sum(trait in n.op.traits for n in region.nodes) for trait in ("pointwise", "reduction")}
    names = [f"{b} products" if b > 1 else "product" for b, *_ in products]
    parts = [f"{name} {m}x{n}x{k}" for name, (_, m, n, k) in zip(names, products, strict=True)]
    if not parts:
        largest = max(
            (n.type for n in (*region.nodes, *(v.node for v in region.inputs))), key=lambda t: t.size
        )
        parts = [f"{region.name} {'x'.join(map(str, largest.shape)) or 'scalars'}"]
    return ", ".join([*parts, *(f"{n} {trait}" for trait, n in counts.items() if n)])


def memory(plan: Plan, arrays: list[np.ndarray]) -> dict[PlanBuffer, np.ndarray]:
    """What every buffer of the plan is: the arrays given, outputs, and places in one arena."""
    arena = aligned_empty((plan.workspace_bytes,), "uint8")
    places: dict[PlanBuffer, np.ndarray] = {}
    for b in plan.buffers:
        if b.in_place_of is not None:
            places[b] = places[b.in_place_of]
        elif b.kind == "input":
            places[b] = arrays[b.position]
        elif b.kind == "constant":
            places[b] = plan.constants[b.name]
        elif b.kind == "output":
            places[b] = aligned_empty(b.type.shape, b.type.dtype.numpy)
        else:
            places[b] = arena[b.offset : b.offset + b.type.bytes]
    return places


def calls(
    compiled: CompiledFunction, arrays: list[np.ndarray], target: Target
) -> tuple[list[Callable[[], object]], object]:
    """A native call for each step of the plan, in order, and what must be kept as long as they are."""
    plan = compiled.plan
    places = memory(plan, arrays)
    code = load_object(compile_object(emit_kernels(plan.kernels, target), target))
    found: list[Callable[[], object]] = []
    for step in plan.steps:
        if not isinstance(step, CallStep):
            found.append(partial(np.copyto, places[step.target], places[step.source]))
            continue
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(step.arguments))(
            code.address(step.kernel.name)
        )
        found.append(partial(function, *(ctypes.c_void_p(places[b].ctypes.data) for b in step.arguments)))
    return found, (code, places)


def profile(steps: list[Callable[[], object]], seconds: float) -> list[float]:
    """The median time of every step of the sequence, in seconds, with half a microsecond for the call and the clock."""
    clock = time.perf_counter
    samples: list[list[float]] = [[] for _ in steps]
    end = clock() + seconds
    turns = 0
    while clock() < end or turns < 5:
        for i, step in enumerate(steps):
            start = clock()
            step()
            samples[i].append(clock() - start)
        turns += 1
    empty = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
        ctypes.cast(ctypes.pythonapi.Py_IncRef, ctypes.c_void_p).value
    )
    nothing = ctypes.py_object(None)
    del empty, nothing
    return [statistics.median(s[len(s) // 5 :]) for s in samples]


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 2.0)
    options = parser.parse_args()
    target = host_target()
    peak, peak_operations = _harness.multiply_add_peak(target)
    peak()
    rate = peak_operations / _harness.medians(_harness.in_turns({"peak": peak}, 0.3))["peak"]
    stream = bandwidth()
    rows: list[_harness.Row] = []
    for w in _workloads.WORKLOADS:
        if options.only not in w.name:
            continue
        compiled, arguments = _workloads.compiled_step(w, target)
        arrays = [
            np.array(a)
            for group in arguments
            for a in (group.values() if isinstance(group, dict) else (group,))
        ]
        steps, _kept = calls(compiled, arrays, target)
        times = profile(steps, options.seconds)
        total = sum(times)
        for step, seconds in zip(compiled.plan.steps, times, strict=True):
            if not isinstance(step, CallStep):
                continue
            moved = sum(b.type.bytes for b in (*step.reads, *step.writes))
            rows.append(
                {
                    "workload": w.name,
                    "kernel": step.kernel.name,
                    "what": what(step.region),
                    "us": seconds * 1e6,
                    "percent_of_step": 100 * seconds / total,
                    "percent_of_peak": 100 * operations(step.region) / seconds / rate,
                    "percent_of_bandwidth": 100 * moved / seconds / stream,
                }
            )
    notes = [_harness.machine(), f"multiply-add peak {rate / 1e9:.1f} GFLOP/s, copy {stream / 1e9:.1f} GB/s"]
    _harness.show(rows, options, notes)


if __name__ == "__main__":
    main()
