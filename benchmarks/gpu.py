"""On a GPU: kernels against the roofline and PyTorch (cuBLAS), whole training steps against torch.compile and JAX.

Without a GPU it says so and exits with status 2. Kernels are timed by CUDA events around many launches, steps by the clock
from the first to the end of the last; the sides take turns. Every side's numbers are checked first.

The roofline is that of Williams, Waterman & Patterson (CACM 52(4), 2009): the longer of bytes by the memory's rate and
operations by the multiply-add units' rate, both as the driver states the device. Rates of f32 are those of plain units: tf32
is off on all sides.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import _harness
import _workloads
import numpy as np

import graphc
from graphc import nn
from graphc.errors import DeviceError
from graphc.ir.types import TensorType, f32, i32
from graphc.runtime.cuda import Device, DeviceArray, asarray
from graphc.runtime.cuda import device as device_of
from graphc.runtime.cuda.devices import Event

NO_GPU = 2  # exit status
_STEPS_CHECKED = 3
_CALLS = 20  # between two events
_TOLERANCE = 2e-3  # relative to the largest element: sums of 4,096 products in another order

# Multiply-adds of f32 a clock and multiprocessor: CUDA C++ Programming Guide, "Throughput of Native Arithmetic
# Instructions". What is not listed is newer, and has as many as the last one.
_MULTIPLY_ADDS = {(8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128}


@dataclass(frozen=True)
class Case:
    """A function that is one kernel, or few; `torch` is the same as source for PyTorch, `operations` are multiply-adds."""

    name: str
    function: Callable[..., object]
    torch: str
    specs: tuple[TensorType, ...]
    operations: float = 0.0

    @property
    def arguments(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [
            rng.standard_normal(s.shape).astype(np.float32) if s.dtype is f32 else rng.integers(0, 8, s.shape).astype(np.int32)
            for s in self.specs
        ]  # fmt: skip


def _product(n: int, k: int, m: int) -> tuple[tuple[TensorType, ...], float]:
    return (f32[n, k], f32[m, k], f32[m]), float(n * k * m)


def cases(long: int, rows: int, width: int, side: int) -> list[Case]:
    """The kernels: `long` is the length of maps, `rows` × `width` what is reduced, `side` that of square products."""
    square, operations = _product(side, side, side)
    thin, few = _product(32, side, side)
    names = f"[{long}]", f"[{rows},{width}]", f"{side}³", f"32×{side}×{side}"
    return [
        Case(f"scale and add {names[0]}", lambda x, y: 2 * x + y, "2 * x + y", (f32[long], f32[long])),
        Case(f"gelu {names[0]}", lambda x: nn.gelu(x), "F.gelu(x)", (f32[long],)),
        Case(f"row sums {names[1]}", lambda x: graphc.sum(x, axis=1), "x.sum(1)", (f32[rows, width],)),
        Case(f"column sums {names[1]}", lambda x: graphc.sum(x, axis=0), "x.sum(0)", (f32[rows, width],)),
        Case(f"softmax {names[1]}", lambda x: nn.softmax(x), "F.softmax(x, -1)", (f32[rows, width],)),
        Case(f"rows by index {names[1]}", lambda x, i: graphc.take(x, i, axis=0), "x[i.long()]",
             (f32[rows, width], i32[rows])),
        Case(f"product {names[2]}", lambda x, w: x @ w.T, "x @ w.T", square[:2], operations),
        Case(f"product, bias, relu {names[2]}", lambda x, w, b: nn.relu(x @ w.T + b), "F.relu(F.linear(x, w, b))", square,
             operations),
        Case(f"product, bias, relu {names[3]}", lambda x, w, b: nn.relu(x @ w.T + b), "F.relu(F.linear(x, w, b))", thin, few),
    ]  # fmt: skip


CASES = cases(1 << 26, 1 << 14, 4096, 4096)


# ----------------------------------------------------------------------------------------------------------- roofline


def peak_operations(device: Device) -> float:
    """Multiply-adds of f32 a second, as the device's numbers state them."""
    each = _MULTIPLY_ADDS.get(device.capability, 128)
    return each * device.multiprocessors * device.clock_hz


def roofline_seconds(device: Device, moved: float, operations: float) -> float:
    """The least time that a kernel can take which moves so many bytes and does so many multiply-adds."""
    rate = device.bytes_per_second
    return max(moved / rate if rate else 0.0, operations / peak_operations(device))


# ------------------------------------------------------------------------------------------------------------- timing


def event_seconds(device: Device, call: Callable[[], object], calls: int) -> float:
    """Seconds of a call on the device, from the first launch to the end of the last."""
    with device.active():
        start, end = Event(device, timing=True), Event(device, timing=True)
        start.record(device.stream.handle)
        for _ in range(calls):
            call()
        end.record(device.stream.handle)
        end.synchronize()
        return end.seconds_since(start) / calls


def torch_seconds(call: Callable[[], object], calls: int) -> float:
    """The same for PyTorch, in its own stream."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return 1e-3 * float(start.elapsed_time(end)) / calls


def clock_seconds(call: Callable[[], object], wait: Callable[[], object], calls: int) -> float:
    """Seconds of a call by the clock, until all of them are done."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return (time.perf_counter() - start) / calls


def in_turns(
    sides: Mapping[str, Callable[[int], float]], seconds: float, calls: int
) -> dict[str, list[float]]:
    """Samples of every side, in a rotating order, for so many seconds a side; the first ones are not kept."""
    for side in sides.values():
        side(2)
    samples: dict[str, list[float]] = {name: [] for name in sides}
    names, end, turn = list(sides), time.perf_counter() + seconds * len(sides), 0
    while time.perf_counter() < end or turn < 3:
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples[name].append(sides[name](calls))
        turn += 1
    return samples


# ------------------------------------------------------------------------------------------------------------ kernels


def kernel_rows(
    device: Device, chosen: Sequence[Case], seconds: float, torch: bool, calls: int = _CALLS
) -> list[_harness.Row]:
    """A row for each kernel: its time, per cent of the roofline, and PyTorch's."""
    rows: list[_harness.Row] = []
    for case in chosen:
        arguments = case.arguments
        compiled = graphc.compile(case.function, *case.specs, target="cuda")
        bound = compiled.bind(*(asarray(a, device) for a in arguments))
        bound()
        output = cast(DeviceArray, bound.outputs)
        expected = cast(np.ndarray, graphc.compile(case.function, *case.specs)(*arguments))
        _check(case.name, output.numpy(), expected)
        sides: dict[str, Callable[[int], float]] = {"graphc": partial(event_seconds, device, bound)}
        if torch:
            sides["torch"] = _torch_kernel(case, arguments, expected)
        middle = _harness.medians(in_turns(sides, seconds, calls))
        moved = float(sum(a.nbytes for a in arguments) + output.nbytes)
        best = roofline_seconds(device, moved, case.operations)
        rows.append(
            {
                "kernel": case.name,
                "graphc_us": middle["graphc"] * 1e6,
                "gigabytes_per_second": moved / middle["graphc"] / 1e9,
                "gigaflops": 2 * case.operations / middle["graphc"] / 1e9,
                "percent_of_roofline": 100 * best / middle["graphc"],
                "torch_us": middle["torch"] * 1e6 if torch else None,
                "ratio": middle["torch"] / middle["graphc"] if torch else float("nan"),
            }
        )
        _harness.progress(f"{case.name}: {middle['graphc'] * 1e6:.0f} us")
    return rows


def _torch_kernel(
    case: Case, arguments: Sequence[np.ndarray], expected: np.ndarray
) -> Callable[[int], float]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    code_of = case.function.__code__
    names = code_of.co_varnames[: code_of.co_argcount]
    tensors = dict(zip(names, (torch.tensor(a, device="cuda") for a in arguments), strict=True))
    code = compile(case.torch, case.name, "eval")
    scope = {"torch": torch, "F": torch.nn.functional, **tensors}

    def call() -> object:
        return eval(code, scope)

    _check(f"torch: {case.name}", cast("torch.Tensor", call()).cpu().numpy(), expected)
    return partial(torch_seconds, call)


def _check(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Raises where a side's numbers are wrong: a fast wrong answer is not timed."""
    error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    if not error < _TOLERANCE:
        raise ValueError(
            f"{name}: expected an error of at most {_TOLERANCE} of the largest element, got {error:.3g}"
        )


# -------------------------------------------------------------------------------------------------------------- steps


def graphc_side(device: Device, w: _workloads.Workload) -> tuple[Callable[[int], float], _workloads.Side]:
    """Times so many steps whose arrays stay on the device; makes one step and gives its loss."""
    compiled, arguments = _workloads.compiled_step(w, "cuda")
    parameters, state, x, y, rate = arguments
    nests = [{k: asarray(v, device) for k, v in arrays.items()} for arrays in (parameters, state)]
    bound = compiled.bind(*nests, *(asarray(a, device) for a in (x, y, rate)))

    def step() -> float:
        bound()
        return float(cast(DeviceArray, cast("tuple[object, ...]", bound.outputs)[0]).item())

    return partial(clock_seconds, bound, device.synchronize), step


def torch_side(
    w: _workloads.Workload, mode: str | None = None
) -> tuple[Callable[[int], float], _workloads.Side]:
    import torch

    call, step = _workloads.torch_side(w, "cuda", mode)
    return partial(clock_seconds, call, torch.cuda.synchronize), step


def jax_side(w: _workloads.Workload) -> tuple[Callable[[int], float], _workloads.Side]:
    import jax

    call, step = _workloads.jax_side(w, wait=False)
    last: list[object] = []

    def run() -> None:
        last[:] = [call()]

    return partial(clock_seconds, run, lambda: jax.block_until_ready(last)), step


def step_rows(
    device: Device,
    chosen: Sequence[_workloads.Workload],
    seconds: float,
    peers: Sequence[str],
    calls: int = _CALLS,
) -> list[_harness.Row]:
    """A row for each training step: the time of one, on each side."""
    makers: dict[str, Callable[[_workloads.Workload], tuple[Callable[[int], float], _workloads.Side]]] = {
        "graphc": partial(graphc_side, device)
    }
    if "torch" in peers:
        makers["torch_compile"] = torch_side
        makers["torch_graphs"] = partial(torch_side, mode="reduce-overhead")  # PyTorch's way to CUDA graphs
    if "jax" in peers:
        makers["jax"] = jax_side
    rows: list[_harness.Row] = []
    for w in chosen:
        exact = _workloads.exact_losses(w, _STEPS_CHECKED)
        sides: dict[str, Callable[[int], float]] = {}
        for name, make in makers.items():
            try:
                side, step = make(w)
                _workloads.check(name, w, [step() for _ in range(_STEPS_CHECKED)], exact)
            except RuntimeError as error:
                _harness.progress(f"{name} is not compared: {str(error).splitlines()[0]}")
                continue
            sides[name] = side
        middle = {name: statistics.median(s) for name, s in in_turns(sides, seconds, calls).items()}
        others = [t for name, t in middle.items() if name != "graphc"]
        times = {f"{name}_us": middle[name] * 1e6 if name in middle else None for name in makers}
        ratio = min(others) / middle["graphc"] if others else float("nan")
        rows.append({"step": w.name, **times, "ratio": ratio})
        _harness.progress(f"{w.name}: {middle['graphc'] * 1e6:.0f} us")
    return rows


def main(
    arguments: Sequence[str] | None = None,
    kernels: Sequence[Case] = CASES,
    workloads: Sequence[_workloads.Workload] = _workloads.WORKLOADS,
    calls: int = _CALLS,
) -> int:
    parser = _harness.arguments(__doc__ or "", 1.0)
    _harness.add_torch_option(parser)
    options = parser.parse_args(arguments)
    try:
        device = device_of(0)
    except DeviceError as error:
        print(f"no GPU to measure: {error}", file=sys.stderr)
        return NO_GPU
    peers = [name for name in _harness.peers(options.torch) if _sees_a_gpu(name)]
    chosen = [case for case in kernels if options.only in case.name]
    rows = kernel_rows(device, chosen, options.seconds, "torch" in peers, calls)
    steps = step_rows(device, [w for w in workloads if options.only in w.name], options.seconds, peers, calls)
    for table in (rows, steps):
        if table:
            _harness.print_table(table, options.markdown)
    version = ".".join(map(str, device.driver.version))
    rate, peak = device.bytes_per_second / 1e9, 2e-9 * peak_operations(device)
    _harness.finish(
        [*rows, *steps],
        options,
        [f"{device!r}, CUDA {version}; as stated: {rate:.0f} GB/s, {peak:.0f} GFLOP/s of f32"],
    )
    return 0


def _sees_a_gpu(name: str) -> bool:
    if name == "torch":
        import torch

        found = torch.cuda.is_available()
    else:
        import jax

        found = jax.default_backend() == "gpu"
    if not found:
        _harness.progress(f"{name} sees no GPU: not compared")
    return found


if __name__ == "__main__":
    sys.exit(main())
