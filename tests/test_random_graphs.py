"""Random graphs of twenty operations and more: every stage of the pipeline means the same as the one before it.

Comparisons are made between inputs only, and values are kept near 1, so that rounding cannot change a choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fused_text import ordered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.compiler import CompiledFunction
from graphc.compiler import compile as compile_graph
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.parser import parse
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import DType, TensorType, f32, f64, i32
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.unfuse import unfuse
from graphc.passes.vjp import vjp

SIZES = (1, 2, 3, 5, 8, 17)
SHAPES = ((), (5,), (17,), (3, 5), (5, 3), (2, 17), (8, 1), (2, 3, 5))


class Maker:
    """Draws one operation after the other; each takes values that are there and adds one."""

    def __init__(self, draw: st.DrawFn, dtype: DType, smooth: bool) -> None:
        self.draw = draw
        self.dtype = dtype
        self.build = Builder()
        self.inputs = [
            self.build.input(dtype[shape], f"x{i}")
            for i, shape in enumerate(draw(st.lists(st.sampled_from(SHAPES), min_size=3, max_size=5)))
        ]
        self.indices = self.build.input(i32[4], "indices")
        self.values = list(self.inputs)
        kinked = [] if smooth else [self.extremum, self.absolute, self.reduce_extremum]
        self.makers = [
            self.unary, self.unary, self.binary, self.binary, self.choice, self.broadcast, self.reshape,
            self.transpose, self.slice, self.pad, self.concat, self.gather, self.scatter, self.reduce, self.softmax,
            self.contract, self.contract, *kinked,
        ]  # fmt: skip

    def value(self, least_rank: int = 0) -> Value:
        """One that is there, later ones first, or the first input with more dimensions."""
        fit = [v for v in reversed(self.values) if v.type.rank >= least_rank and v.type.size <= 600]
        if fit:
            return fit[self.draw(st.integers(0, min(len(fit) - 1, 7)))]
        return self.build.broadcast(
            self.inputs[0], dims=_last(self.inputs[0], 3), shape=_padded(self.inputs[0], 3)
        )

    def axis(self, x: Value) -> int:
        return self.draw(st.integers(0, x.type.rank - 1))

    def like(self, x: Value) -> Value:
        """Another value of this shape: one that is there, a constant, or a broadcast number."""
        fit = [v for v in self.values if v.type == x.type]
        scalars = [v for v in self.values if v.type.size == 1]
        kind = self.draw(st.integers(0, 4))
        if kind < 3 or not scalars:
            return fit[self.draw(st.integers(0, len(fit) - 1))] if fit else x
        if kind == 3:
            data = np.cos(np.arange(x.type.size, dtype=np.float64)).reshape(x.shape)
            return self.build.constant(data, x.type)
        one = self.build.reshape(scalars[self.draw(st.integers(0, len(scalars) - 1))], shape=())
        return self.build.broadcast(one, dims=(), shape=x.shape)

    def scaled(self, x: Value, factor: float) -> Value:
        return self.build.mul(x, self.build.splat(factor, x.type))

    def unary(self) -> Value:
        build, x = self.build, self.value()
        square = build.add(build.mul(x, x), build.splat(1, x.type))
        name = self.draw(
            st.sampled_from(("tanh", "sigmoid", "sin", "cos", "erf", "neg", "exp", "log", "sqrt", "rsqrt"))
        )
        if name in ("log", "sqrt", "rsqrt"):
            return getattr(build, name)(square)  # type: ignore[no-any-return]
        return getattr(build, name)(build.tanh(x) if name == "exp" else x)  # type: ignore[no-any-return]

    def binary(self) -> Value:
        x = self.value()
        y = self.like(x)
        name = self.draw(st.sampled_from(("add", "sub", "mul", "div")))
        if name == "div":
            return self.build.div(x, self.build.add(self.build.mul(y, y), self.build.splat(1, y.type)))
        if name == "mul":
            return self.build.mul(self.build.tanh(x), y)
        return self.scaled(getattr(self.build, name)(x, y), 0.5)

    def extremum(self) -> Value:
        x = self.value()
        return getattr(self.build, self.draw(st.sampled_from(("max", "min"))))(x, self.like(x))  # type: ignore[no-any-return]

    def absolute(self) -> Value:
        return self.build.abs(self.value())

    def choice(self) -> Value:
        x = self.draw(st.sampled_from(self.inputs))
        other = [v for v in self.inputs if v.type == x.type]
        where = self.build.lt(x, self.build.splat(0.1, x.type))
        if len(other) > 1:
            where = self.build.or_(where, self.build.gt(other[0], other[1]))
        return self.build.select(where, self.like(x), self.like(x))

    def broadcast(self) -> Value:
        x = self.value()
        if x.type.rank >= 3:
            return self.build.neg(x)
        dim = self.draw(st.integers(0, x.type.rank))
        count = self.draw(st.sampled_from(SIZES[:4]))
        shape = (*x.shape[:dim], count, *x.shape[dim:])
        return self.build.broadcast(x, dims=tuple(d for d in range(len(shape)) if d != dim), shape=shape)

    def reshape(self) -> Value:
        x = self.value()
        size = x.type.size
        factor = self.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        shape = self.draw(st.sampled_from([(size,), (factor, size // factor), (factor, 1, size // factor)]))
        return self.build.reshape(x, shape=shape)

    def transpose(self) -> Value:
        x = self.value(2)
        return self.build.transpose(x, perm=tuple(self.draw(st.permutations(range(x.type.rank)))))

    def slice(self) -> Value:
        x = self.value(1)
        start, size, step = [], [], []
        for n in x.shape:
            first = self.draw(st.integers(0, n - 1))
            stride = self.draw(st.sampled_from((1, 1, 2, -1, -2)))
            most = (n - 1 - first) // stride + 1 if stride > 0 else first // -stride + 1
            start.append(first)
            step.append(stride)
            size.append(self.draw(st.integers(1, most)))
        return self.build.slice(x, start=tuple(start), size=tuple(size), step=tuple(step))

    def pad(self) -> Value:
        x = self.value(1)
        low, high, interior = (tuple(self.draw(st.integers(0, most)) for _ in x.shape) for most in (2, 2, 1))
        return self.build.pad(
            x, low=low, high=high, interior=interior, value=self.draw(st.sampled_from((0.0, 0.5)))
        )

    def concat(self) -> Value:
        x = self.value(1)
        axis = self.axis(x)
        return self.build.concat(x, self.like(x), axis=axis)

    def gather(self) -> Value:
        x = self.value(1)
        return self.build.gather(x, self.indices, axis=self.axis(x))

    def scatter(self) -> Value:
        x = self.value(1)
        axis = self.axis(x)
        return self.build.scatter_add(
            x, self.indices, self.build.gather(x, self.indices, axis=axis), axis=axis
        )

    def _axes(self, x: Value) -> tuple[int, ...]:
        return tuple(sorted(self.draw(st.sets(st.integers(0, x.type.rank - 1), min_size=1))))

    def reduce(self) -> Value:
        x = self.value(1)
        axes = self._axes(x)
        count = math.prod(x.shape[a] for a in axes)
        return self.scaled(self.build.reduce_sum(x, axes=axes), 1 / count)

    def reduce_extremum(self) -> Value:
        x = self.value(1)
        return getattr(self.build, self.draw(st.sampled_from(("reduce_max", "reduce_min"))))(
            x, axes=self._axes(x)
        )  # type: ignore[no-any-return]

    def softmax(self) -> Value:
        build, x = self.build, self.build.tanh(self.value(1))
        axes = self._axes(x)
        kept = tuple(d for d in range(x.type.rank) if d not in axes)
        e = build.exp(x)
        return build.div(e, build.broadcast(build.reduce_sum(e, axes=axes), dims=kept, shape=x.shape))

    def contract(self) -> Value:
        """Along one common size, with a batch dimension where both sides have one; else the outer product."""
        x, y = self.value(1), self.value(1)
        pairs = [(a, b) for a in range(x.type.rank) for b in range(y.type.rank) if x.shape[a] == y.shape[b]]
        axes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if pairs:
            a, b = self.draw(st.sampled_from(pairs))
            axes = ((a,), (b,))
            rest = [(c, d) for c, d in pairs if c != a and d != b]
            if rest and self.draw(st.booleans()):
                c, d = self.draw(st.sampled_from(rest))
                batch = ((c,), (d,))
        used = [x.shape[i] for i in axes[0] + batch[0]]
        rank = x.type.rank + y.type.rank - 2 * len(axes[0]) - len(batch[0])
        if rank > 3 or x.type.size * y.type.size > 600 * max(1, math.prod(used)):
            return self.build.tanh(x)
        product = self.build.contract(x, y, axes=axes, batch=batch)
        return self.scaled(product, 1 / math.prod(x.shape[i] for i in axes[0]))


def _last(x: Value, rank: int) -> tuple[int, ...]:
    return tuple(range(rank - x.type.rank, rank))


def _padded(x: Value, rank: int) -> tuple[int, ...]:
    return (1,) * (rank - x.type.rank) + x.shape


class Drawn:
    """A graph that a failing test shows as its text."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __repr__(self) -> str:
        return f"\n{self.graph}"


@st.composite
def graphs(draw: st.DrawFn, dtype: DType, smooth: bool = False, count: int = 20) -> Drawn:
    """At least `count` operations; the last ones, and one in between, are outputs."""
    maker = Maker(draw, dtype, smooth)
    while len(maker.values) < len(maker.inputs) + count:
        maker.values.append(draw(st.sampled_from(maker.makers))())
    outputs = [*maker.values[-3:], maker.values[len(maker.values) // 2]]
    return Drawn(maker.build.graph("random", outputs))


def arguments(types: Sequence[TensorType], seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(-1, 1, t.shape).astype(t.dtype.numpy)
        if t.dtype.is_float
        else rng.integers(-1, 6, t.shape).astype(t.dtype.numpy)
        for t in types
    ]


def assert_close(got: Sequence[np.ndarray], want: Sequence[np.ndarray], tolerance: float) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        bound = tolerance * max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


def native(compiled: CompiledFunction, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    result = compiled(*arrays)
    return list(result) if isinstance(result, (tuple, list)) else [np.asarray(result)]


def some(examples: int) -> settings:
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@some(40)
@given(graphs(f64))
def test_every_stage_of_a_double_precision_graph_means_the_same(drawn: Drawn) -> None:
    graph = drawn.graph
    arrays = arguments(graph.input_types)
    want = interpret(graph, arrays)
    compiled = compile_graph(graph)
    assert_close(native(compiled, arrays), want, 1e-9)
    fused = fuse(graph)  # of the graph as it is, and below of the simplified one
    verify(fused)
    assert_close(interpret(fused, arrays), want, 1e-12)
    simplified = simplify(graph)
    verify(simplified)
    assert_close(interpret(simplified, arrays), want, 1e-10)
    for stage in (graph, simplified, fused, compiled.fused):
        again = parse(str(stage), stage.constants)
        assert again == stage
        assert str(again) == str(stage)


@some(25)
@given(graphs(f32, count=30))
def test_compiled_single_precision_graph_is_near_the_double_precision_interpretation(drawn: Drawn) -> None:
    graph = drawn.graph
    arrays = arguments(graph.input_types)
    assert_close(native(compile_graph(graph), arrays), interpret(graph, arrays, float64=True), 2e-4)


@some(12)
@given(graphs(f64, count=20))
def test_unfusing_gives_the_simplified_graph_back(drawn: Drawn) -> None:
    graph = drawn.graph
    simplified = simplify(graph)
    assert ordered(unfuse(fuse(simplified))) == ordered(simplified)


@some(12)
@given(graphs(f64, count=20))
def test_kernels_of_random_graphs_are_valid_reparsable_and_interpret_as_the_graph(drawn: Drawn) -> None:
    graph = drawn.graph
    compiled = compile_graph(graph)
    verify_plan(compiled.plan)
    for kernel in compiled.kernels:
        verify_kernel(kernel)
        assert str(parse_kernel(str(kernel))) == str(kernel)
    arrays = arguments(graph.input_types)
    assert_close(run_plan(compiled.plan, arrays), interpret(graph, arrays), 1e-9)


@some(25)
@given(graphs(f64, smooth=True, count=20))
def test_compiled_gradient_equals_the_central_difference(drawn: Drawn) -> None:
    """Along one random direction: <g, d> against (f(x + hd) - f(x - hd)) / 2h of the interpreter."""
    graph = drawn.graph
    adjoint = vjp(graph)
    verify(adjoint)
    arrays = arguments(graph.input_types)
    count = len(graph.outputs)
    seeds = arguments(adjoint.input_types[len(arrays) :], seed=7)
    gradients = native(compile_graph(adjoint), [*arrays, *seeds])[count:]
    interpreted = interpret(adjoint, [*arrays, *seeds])[count:]
    assert_close(gradients, interpreted, 1e-9)
    floats = [i for i, t in enumerate(graph.input_types) if t.dtype.is_float]
    directions = dict(zip(floats, arguments([graph.input_types[i] for i in floats], seed=9), strict=True))
    analytic = sum(float(np.vdot(g, directions[i])) for g, i in zip(gradients, floats, strict=True))
    step = 1e-6

    def value(sign: int) -> float:
        moved = [a + sign * step * directions[i] if i in directions else a for i, a in enumerate(arrays)]
        return sum(float(np.vdot(s, r)) for s, r in zip(seeds, interpret(graph, moved), strict=True))

    numeric = (value(1) - value(-1)) / (2 * step)
    scale = max(1.0, sum(float(np.abs(g).sum()) for g in gradients))
    assert abs(analytic - numeric) <= 1e-6 * scale
