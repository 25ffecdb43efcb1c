"""The compiler's own time against the size of the graph: every pass should take time in proportion to the nodes.

Three families of graphs of about 300 to 10,000 nodes: a chain of pointwise operations, a training step of a deep perceptron,
and random pointwise operations between values that are there. The slope of log(seconds) over log(nodes) says how time
grows: 1 is proportion, 2 is the square. Code is emitted for all sizes, and made by LLVM up to `--llvm` nodes.
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import graphc
from graphc import f32
from graphc.codegen.memory import make_plan
from graphc.codegen.object import compile_object
from graphc.codegen.program import emit_program
from graphc.codegen.target import host_target
from graphc.frontend.array import Array
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.vjp import vjp

Model = tuple[
    Callable[..., Array], list[TensorType], int
]  # a function to a scalar, its arguments, those that are trained

_WIDTH = 16
_SIZES = (300, 1000, 3000, 10_000)
_PARTS = ("trace", "vjp", "simplify", "fuse", "schedule", "emit", "llvm")


def chain(nodes: int) -> Model:
    """Pointwise operations one after the other."""

    def fn(x: Array) -> Array:
        for _ in range(nodes // 9):
            x = graphc.tanh(x) * 0.5 + graphc.exp(-x)
        return graphc.sum(x)

    return fn, [f32[8, _WIDTH]], 1


def perceptron(nodes: int) -> Model:
    """Many small layers; with the backward pass about 8 nodes each."""
    layers = max(1, nodes // 8)

    def fn(*arguments: Array) -> Array:
        *weights, h = arguments
        for weight in weights:
            h = graphc.tanh(h @ weight)
        return graphc.sum(h * h)

    return fn, [f32[_WIDTH, _WIDTH]] * layers + [f32[8, _WIDTH]], layers


def pointwise(nodes: int) -> Model:
    """Random operations between any two of the last twenty values."""
    rng = random.Random(nodes)
    count = nodes // 2
    steps = [(rng.choice("+-*t"), rng.random(), rng.random()) for _ in range(count)]

    def fn(*arguments: Array) -> Array:
        values = list(arguments)
        for op, first, second in steps:
            recent = values[-20:]
            x, y = recent[int(first * len(recent))], recent[int(second * len(recent))]
            values.append(
                x + y if op == "+" else x - y if op == "-" else x * y if op == "*" else graphc.tanh(x)
            )
        total = values[-1]
        for value in values[-20:-1]:
            total = total + value
        return graphc.sum(total)

    return fn, [f32[8, _WIDTH]] * 8, 8


FAMILIES: dict[str, Callable[[int], Model]] = {
    "chain": chain,
    "perceptron": perceptron,
    "pointwise": pointwise,
}


def measured(model: Model, llvm_nodes: int) -> tuple[int, dict[str, float]]:
    """How many nodes the differentiated graph has, and the seconds of each part."""
    fn, types, trained = model
    target = host_target()
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def part(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name] = now - last
        last = time.perf_counter()

    traced = graphc.trace(fn, *types, name="model")
    part("trace")
    both = vjp(traced, wrt=list(range(trained)))
    part("vjp")
    simplified = simplify(both)
    part("simplify")
    fused = fuse(simplified)
    part("fuse")
    plan = make_plan(fused, target, ())
    part("schedule")
    text = emit_program(plan, target)
    part("emit")
    if _size(both) <= llvm_nodes:
        compile_object(text, target)
        part("llvm")
    return _size(both), seconds


def _size(graph: Graph) -> int:
    return len(graph.nodes)


def slope(nodes: Sequence[int], seconds: Sequence[float]) -> float:
    """Of the straight line through log(seconds) over log(nodes) by least squares.

    >>> round(slope([100, 1000], [0.01, 0.1]), 6), round(slope([10, 100, 1000], [1.0, 100.0, 10000.0]), 6)
    (1.0, 2.0)
    """
    xs, ys = [math.log(n) for n in nodes], [math.log(s) for s in seconds]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def plot(rows: Sequence[_harness.Row], file: Path) -> None:
    """Seconds over nodes, one panel a family; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(str(row["graph"]) for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(5 * len(names), 4), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        own = [row for row in rows if row["graph"] == name]
        for part in _PARTS:
            points = [(row["nodes"], row[f"{part}_ms"]) for row in own if row[f"{part}_ms"] is not None]
            if points:
                panel.loglog(*zip(*points, strict=True), marker="o", label=part)
        panel.set_title(name)
        panel.set_xlabel("nodes of the differentiated graph")
    panels[0][0].set_ylabel("ms")
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 0.0)
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the times into this file, by matplotlib"
    )
    parser.add_argument("--runs", type=int, default=2, help="the least of so many (default: %(default)s)")
    parser.add_argument(
        "--nodes", type=int, default=_SIZES[-1], help="the largest graphs (default: %(default)s)"
    )
    parser.add_argument(
        "--llvm", type=int, default=1500, help="LLVM compiles graphs up to this size (default: %(default)s)"
    )
    options = parser.parse_args()
    rows: list[_harness.Row] = []
    slopes: list[str] = []
    measured(chain(300), options.llvm)  # imports, and Python's own warming up
    for name, family in FAMILIES.items():
        if options.only not in name:
            continue
        own: list[tuple[int, dict[str, float]]] = []
        for size in (n for n in _SIZES if n <= options.nodes):
            runs = [measured(family(size), options.llvm) for _ in range(options.runs)]
            best = {part: min(r[1][part] for r in runs) for part in runs[0][1]}
            own.append((runs[0][0], best))
            times = {f"{part}_ms": best[part] * 1e3 if part in best else None for part in _PARTS}
            rows.append({"graph": name, "nodes": own[-1][0], **times})
            _harness.progress(f"{name}, {own[-1][0]} nodes: {sum(best.values()):.2f} s")
        parts = {}
        for part in _PARTS:
            points = [(nodes, best[part]) for nodes, best in own if part in best]
            if len(points) > 1:
                parts[part] = slope(*zip(*points, strict=True))
        slopes.append(f"{name}, slopes: " + ", ".join(f"{part} {s:.2f}" for part, s in parts.items()))
    _harness.show(rows, options, [_harness.machine(), *slopes])
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
