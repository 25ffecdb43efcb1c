"""What a call costs around the machine code: tiny programs against an empty C call, and `fit` against its bare steps."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import graphc
from graphc import nn, optim
from graphc.callbacks import Run
from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import host_target
from graphc.runtime.executable import aligned_empty

Call = Callable[[], object]

_SIDE = 8
_ROWS, _BATCH, _EPOCHS = 1792, 32, 100  # as many rows as the digits of scikit-learn have, in full batches
FIT = f"fit, MLP 64-128-128-10, batch {_BATCH}, momentum"


def empty_call() -> Call:
    """A C function of four pointers that returns at once, by the quickest way through ctypes: arguments made before."""
    text = "define i32 @empty(ptr %a, ptr %b, ptr %c, ptr %d) nounwind { ret i32 0 }"
    loaded = load_object(compile_object(text, host_target()))
    function = ctypes.CFUNCTYPE(ctypes.c_int32)(loaded.address("empty"))
    pointer = ctypes.byref(ctypes.c_size_t())
    function.__dict__["keep"] = loaded
    return partial(function, pointer, pointer, pointer, None)


def updates(count: int) -> Callable[..., list]:
    """Half of the arguments minus the other half, one by one: what a program of many arguments does, at its smallest."""

    def update(*arrays):
        return [p - g for p, g in zip(arrays[: count // 2], arrays[count // 2 :])]

    return update


def product(a, b):
    return a @ b


def double(x):
    return x + x


CASES: tuple[
    tuple[str, Callable, int, int], ...
] = (  # a function, its arguments, the first of which are donated
    ("x + x, 1 argument", double, 1, 0),
    ("a @ b, 2 arguments", product, 2, 0),
    ("p - g, 4 arguments, 2 donated", updates(4), 4, 2),
    ("p - g, 20 arguments, 10 donated", updates(20), 20, 10),
)


def numpy_side(fn: Callable, arrays: Sequence[np.ndarray], donated: int) -> Call:
    """NumPy's own functions on the same arrays, into memory that exists."""
    if fn is product:
        return partial(np.matmul, *arrays, out=np.empty_like(arrays[0]))
    if fn is double:
        return partial(np.add, arrays[0], arrays[0], out=np.empty_like(arrays[0]))
    pairs = list(zip(arrays[:donated], arrays[donated:], strict=True))

    def run() -> None:
        for p, g in pairs:
            np.subtract(p, g, out=p)

    return run


def jax_side(fn: Callable, arrays: Sequence[np.ndarray], donated: int) -> Call:
    """A jitted function on arrays of the device, with the same donation."""
    import jax

    jitted = jax.jit(fn, donate_argnums=tuple(range(donated)))
    held = [jax.device_put(np.copy(a)) for a in arrays]
    rest = held[donated:]

    def run() -> object:
        results = jitted(*held[:donated], *rest)
        held[:donated] = results if donated else ()
        return jax.block_until_ready(results)

    return run


def torch_side(fn: Callable, arrays: Sequence[np.ndarray]) -> Call:
    """A compiled function on tensors, without gradients."""
    import torch

    torch.set_num_threads(1)
    compiled = torch.compile(fn)
    tensors = [torch.tensor(a) for a in arrays]

    def run() -> object:
        with torch.no_grad():
            return compiled(*tensors)

    run()  # compiles
    return run


def call_rows(options: argparse.Namespace, peers: Sequence[str]) -> list[_harness.Row]:
    """Nanoseconds a call, for every way to call each case."""
    empty = empty_call()
    rows: list[_harness.Row] = []
    for name, fn, count, donated in CASES:
        if options.only not in name:
            continue
        rng = np.random.default_rng(0)
        arrays = [rng.random((_SIDE, _SIDE), np.float32) for _ in range(count)]
        graph = graphc.trace(fn, *arrays, name="tiny")
        compiled = graphc.compile(graph, donate=graph.input_names[:donated])
        wanted = graphc.interpret(graph, arrays)
        ways: dict[str, Callable] = {
            "executable": compiled._program.executable,
            "flat": compiled.flat,
            "call": compiled,
        }
        sides: dict[str, Call] = {"empty": empty}
        for way, run in ways.items():
            own = [a.copy() for a in arrays]
            results = run(*own)
            check(way, results if isinstance(results, (list, tuple)) else [results], wanted)
            sides[way] = partial(run, *own)
        sides["bound"] = compiled.bind(*(a.copy() for a in arrays))
        sides["numpy"] = numpy_side(fn, [a.copy() for a in arrays], donated)
        if "jax" in peers:
            sides["jax"] = jax_side(fn, arrays, donated)
        if "torch" in peers:
            try:
                sides["torch_compile"] = torch_side(fn, arrays)
            except RuntimeError as error:  # it needs a C++ compiler
                _harness.progress(f"torch.compile is not compared: {str(error).splitlines()[0]}")
        middle = _harness.medians(_harness.in_turns(sides, options.seconds))
        row: _harness.Row = {"case": name}
        for side in ("empty", "bound", *ways, "numpy", "jax", "torch_compile"):
            row[f"{side}_ns"] = middle[side] * 1e9 if side in middle else None
        rows.append(row)
        _harness.progress(f"{name}: a bound call takes {middle['bound'] / middle['empty']:.2f} empty ones")
    return rows


def check(side: str, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    """Raises where a result is wrong: a fast wrong answer is not timed."""
    for a, b in zip(found, wanted, strict=True):
        if not np.allclose(a, b, rtol=1e-5):
            raise ValueError(f"{side}: expected {b}, got {a}")


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy in memory like `fit`'s own."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


class _BareSteps:
    """A callback that times bare native steps between epochs, so that both see the same machine."""

    def __init__(self, x: np.ndarray, y: np.ndarray, optimizer: optim.Optimizer) -> None:
        self.bare: list[float] = []
        self.epochs: list[float] = []
        self._batch = aligned_copy(x[:_BATCH]), aligned_copy(y[:_BATCH])
        self._optimizer = optimizer
        self._bound: Call | None = None
        self._left = 0.0

    def __call__(self, run: Run) -> None:
        entered = time.perf_counter()
        if self._bound is None:
            params = {name: aligned_copy(array) for name, array in run.params.items()}
            state = {name: aligned_copy(array) for name, array in self._optimizer.init(params).items()}
            rate = np.zeros((), np.float32)  # the weights stay what they are
            assert run.history.step is not None
            self._bound = run.history.step.bind(params, {}, state, rate, *self._batch)
        else:
            self.epochs.append(entered - self._left)
        steps = _ROWS // _BATCH
        start = time.perf_counter()
        for _ in range(steps):
            self._bound()
        self.bare.append(time.perf_counter() - start)
        self._left = time.perf_counter()


def fit_row() -> _harness.Row:
    """An epoch of `fit`, everything that happens in it, against as many bare steps."""
    rng = np.random.default_rng(0)
    x = rng.random((_ROWS, 64), np.float32)
    y = rng.integers(0, 10, _ROWS)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = optim.SGD(0.01, momentum=0.9)
    watcher = _BareSteps(x, y.astype(np.int32), optimizer)
    graphc.fit(
        model, (x, y), loss=nn.cross_entropy, optimizer=optimizer, epochs=_EPOCHS, batch_size=_BATCH,
        callbacks=[watcher], progress=False,
    )  # fmt: skip
    steps = _ROWS // _BATCH
    epoch, bare = statistics.median(watcher.epochs), statistics.median(watcher.bare)
    return {
        "case": FIT,
        "steps": steps,
        "epoch_us": epoch * 1e6,
        "bare_steps_us": bare * 1e6,
        "between_us_a_step": (epoch - bare) / steps * 1e6,
        "between_percent": 100 * (epoch - bare) / epoch,
    }


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 0.3)
    _harness.add_torch_option(parser)
    options = parser.parse_args()
    calls = call_rows(options, _harness.peers(options.torch))
    steps = [fit_row()] if options.only in FIT else []
    for rows in (calls, steps):
        if rows:
            _harness.print_table(rows, options.markdown)
            print()
    _harness.finish([*calls, *steps], options, [_harness.machine()])


if __name__ == "__main__":
    main()
