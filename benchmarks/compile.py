"""From the start of a process to its first finished training step: graphc cold and from its cache, beside JAX and torch.

Every measurement is a fresh process on one thread: Python's own start, imports, initial weights, tracing, compilation, one
step; the process says when its step is done, so that its end is no part of it. The workload is the MLP 784-512-512-10 with
batch 128 and momentum. Of graphc's split, `import` is all modules, numpy, llvmlite and those that compiling loads late.
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_WORKLOAD = 1  # of _workloads.WORKLOADS

_CHILD = """
import time
begun = time.time()
start = time.perf_counter()
import json, sys
sys.path.insert(0, {folder!r})
import _harness
_harness.one_thread()
side = {side!r}
import numpy
parts = {{}}
def part(name):
    global last
    now = time.perf_counter()
    parts[name] = now - last
    last = now
last = start
if side == "graphc":
    import graphc, graphc.compiler, graphc.transforms, graphc.frontend.losses, graphc.frontend.optim
elif side == "jax":
    import jax
else:
    import torch
import _workloads
part("import")
w = _workloads.WORKLOADS[{workload}]
if side == "graphc":
    compiled, arguments = _workloads.compiled_step(w)
    part("compile")
    bound = compiled.bind(*arguments)
    bound()
    loss = float(bound.outputs[0])
    parts["weights"] = parts.pop("compile") - sum(compiled.compile_seconds.values())
    for name, seconds in compiled.compile_seconds.items():
        parts[name] = parts.get(name, 0.0) + seconds
else:
    _, step = (_workloads.jax_side if side == "jax" else _workloads.torch_side)(w)
    loss = step()
part("first step")
print(json.dumps({{"loss": loss, "parts": parts, "begun": begun, "done": time.time()}}))
"""


def run(side: str, cache: str) -> tuple[float, dict[str, float], float]:
    """(seconds from the start of a process to its first step's end, its parts, its loss)."""
    here = Path(__file__).parent
    code = _CHILD.format(folder=str(here), side=side, workload=_WORKLOAD)
    path = os.pathsep.join(filter(None, [str(here.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "GRAPHC_CACHE": cache, "PYTHONPATH": path}
    # an installed package has its modules compiled; so has this one after the first process, as Python does by default
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.time()  # the one clock that two processes share everywhere
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{side}: expected a finished step, got:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["done"] - start, {"start": found["begun"] - start, **found["parts"]}, found["loss"]


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 0.0)
    parser.add_argument("--runs", type=int, default=7, help="processes of each kind (default: %(default)s)")
    _harness.add_torch_option(parser)
    options = parser.parse_args()
    peers = _harness.peers(options.torch)
    sides = ["graphc, cold", "graphc, from the cache", *(name for name in peers if name == "jax")]
    found: dict[str, list[tuple[float, dict[str, float], float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        run("graphc", folder)
        for turn in range(options.runs):
            for name in sides:
                side, cache = name.split(",")[0], "off" if name.endswith("cold") else folder
                found[name].append(run(side, cache))
            _harness.progress(f"run {turn + 1} of {options.runs}")
    if "torch" in peers:
        try:
            found["torch.compile"] = [run("torch", "off")]
        except RuntimeError as error:  # it needs a C++ compiler
            _harness.progress(f"torch.compile is not compared: {str(error).strip().splitlines()[-1]}")
    expected = found["graphc, cold"][0][2]
    rows: list[_harness.Row] = []
    for name, runs in found.items():
        if any(abs(loss - expected) > 1e-4 * abs(expected) for _, _, loss in runs):
            raise ValueError(f"{name}: expected the loss {expected}, got {runs[0][2]}")
        middle = sorted(runs, key=lambda r: r[0])[len(runs) // 2]
        rows.append({"name": name, "seconds": middle[0], "ratio_to_jax": None, "split": middle[1]})
    peer = next((row for row in rows if row["name"] == "jax"), None)
    for row in rows if peer is not None else ():
        row["ratio_to_jax"] = float(str(row["seconds"])) / float(str(peer["seconds"])) if peer else None
    notes = [_harness.machine()]
    for row in rows:
        split = row["split"]
        assert isinstance(split, dict)
        parts = ", ".join(f"{part} {1e3 * seconds:.0f}" for part, seconds in split.items())
        notes.append(f"{row['name']}, in ms: {parts}")
    _harness.show(rows, options, notes)


if __name__ == "__main__":
    main()
