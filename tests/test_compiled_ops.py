"""Every registered op, compiled to native code: equal to the interpreter on the registry's samples and at the edges.

Floats agree to a relative 1e-5 (f32) or 1e-12 (f64), integers and bools are the same; gradient graphs of order 1 and 2
are compiled as well, and what a schedule says is also run by the kernel interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from graphc.codegen.target import target_from_name
from graphc.compiler import CompiledFunction
from graphc.compiler import compile as compile_graph
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.opdef import OpDef, Sample
from graphc.ir.ops import REGISTRY
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import DType, TensorType, bf16, bool_, dtype_of, f16, f32, f64, i8, i16, i32, u16, u64
from graphc.passes.vjp import vjp

# of 16-bit floats one unit in the last place: f32's differences may end on the other side of a tie
TOLERANCE = {f32.numpy: 1e-5, f64.numpy: 1e-12, bf16.numpy: 2.0**-7, f16.numpy: 2.0**-10}


@dataclass(frozen=True)
class Case:
    op: OpDef
    dtype: DType
    sample: Sample

    def graph(self) -> Graph:
        build = Builder()
        inputs = [
            build.input(TensorType(dtype_of(a.dtype), a.shape), f"x{i}")
            for i, a in enumerate(self.sample.arrays)
        ]
        return build.graph(self.op.name, build.emit(self.op, inputs, self.sample.attrs).results)  # type: ignore[arg-type]


def exercised(samples: Sequence[Sample], dtype: DType) -> Sequence[Sample]:
    """All samples of the data types that most programs have, one of the others: they differ in storage alone."""
    return samples[:1] if dtype in (bf16, f16, i16, i8, u64, u16) else samples


def cases(dtypes: Sequence[DType] | None = None) -> list[object]:
    """One pytest parameter for each op, data type and sample."""
    found: list[object] = []
    for op in REGISTRY.values():
        for dtype in op.dtypes:
            if dtypes is None or dtype in dtypes:
                for number, sample in enumerate(
                    exercised(op.samples(np.random.default_rng(5), dtype), dtype)
                ):
                    found.append(pytest.param(Case(op, dtype, sample), id=f"{op.name}-{dtype}-{number}"))
    return found


def native(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    result = compile_graph(graph)(*arrays)
    return list(result) if isinstance(result, (tuple, list)) else [np.asarray(result)]


def assert_same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], scale: float = 1.0) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype in TOLERANCE:
            tolerance = TOLERANCE[a.dtype] * scale
            wide = [x.astype(np.float32) if x.dtype.itemsize == 2 else x for x in (a, b)]
            np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", cases())
def test_compiled_op_equals_the_interpreter(case: Case) -> None:
    graph, arrays = case.graph(), case.sample.arrays
    assert_same(native(graph, arrays), interpret(graph, arrays))


def specials(dtype: DType) -> np.ndarray:
    """NaN, zeros of both signs, infinities, the ends of the range, subnormals, halves and ordinary numbers."""
    limits = np.finfo(dtype.numpy)
    tiny = [limits.smallest_subnormal, limits.tiny, limits.eps]
    numbers = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 30.0, limits.max, np.inf, *tiny]
    return np.array([np.nan, *numbers, *(-n for n in numbers)], dtype.numpy)


def expected_at_the_edges(op: OpDef, graph: Graph, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The interpreter's values, but for what the documents say of compiled code far out, and for a better formula."""
    (want,) = interpret(graph, arrays)
    wide = want.dtype == np.float64
    with np.errstate(all="ignore"):
        if op.name == "sigmoid":  # numpy has none; (1 + tanh(x / 2)) / 2 cancels where the result is small
            return np.asarray(1 / (1 + np.exp(-arrays[0])))
        if op.name in ("sin", "cos", "tan") and wide:  # the reduction's bound
            return np.where(np.abs(arrays[0]) > 1.1e14, np.nan, want)
        if op.name == "mod" and wide:  # no digit of the quotient would mean anything
            quotient = arrays[0] / arrays[1]
            return np.where(
                (np.abs(quotient) > 2.0**53) & np.isfinite(quotient), 0.0 * np.sign(arrays[1]), want
            )
    return want


POINTWISE = [
    op
    for op in REGISTRY.values()
    if "pointwise" in op.traits and op.expr is not None and f64 in op.dtypes and op.name != "select"
]


@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
@pytest.mark.parametrize("op", POINTWISE, ids=lambda op: op.name)
def test_compiled_pointwise_op_keeps_nan_infinities_and_signs_of_zero(op: OpDef, dtype: DType) -> None:
    values = specials(dtype)
    arrays = [values] if op.arity == 1 else [np.repeat(values, values.size), np.tile(values, values.size)]
    build = Builder()
    inputs = [build.input(dtype[a.shape], f"x{i}") for i, a in enumerate(arrays)]
    graph = build.graph(op.name, build.emit(op, inputs).results)
    (got,), want = native(graph, arrays), expected_at_the_edges(op, graph, arrays)
    assert got.dtype == want.dtype
    if got.dtype == bool:
        np.testing.assert_array_equal(got, want)
        return
    tolerance = TOLERANCE[dtype.numpy]
    # below the normal numbers a relative bound has no meaning
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=float(np.finfo(dtype.numpy).tiny))
    if op.name not in ("max", "min"):  # there IEEE 754 leaves the sign of a zero open
        zero = (want == 0) & (got == 0)
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
def test_compiled_select_passes_the_chosen_special_value_alone(dtype: DType) -> None:
    build = Builder()
    count = specials(dtype).size
    inputs = [build.input(bool_[count], "c"), build.input(dtype[count], "x"), build.input(dtype[count], "y")]
    graph = build.graph("select", [build.select(*inputs)])
    condition = np.arange(count) % 3 == 0
    (got,) = native(graph, [condition, specials(dtype), specials(dtype)[::-1].copy()])
    np.testing.assert_array_equal(got, np.where(condition, specials(dtype), specials(dtype)[::-1]))


def test_compiled_cast_saturates_and_maps_nan_to_zero() -> None:
    build = Builder()
    x = build.input(f64[6], "x")
    graph = build.graph("cast", [build.cast(x, type=i32[6])])
    (got,) = native(graph, [np.array([1.9, -1.9, 3e9, -3e9, np.nan, np.inf])])
    assert got.tolist() == [1, -1, 2**31 - 1, -(2**31), 0, 2**31 - 1]


def test_compiled_integer_division_by_zero_gives_zero_and_follows_numpy_signs() -> None:
    build = Builder()
    x, y = build.input(i32[5], "x"), build.input(i32[5], "y")
    graph = build.graph("division", [build.floordiv(x, y), build.mod(x, y)])
    got = native(graph, [np.int32([7, -7, 5, -8, -(2**31)]), np.int32([2, 2, 0, -3, -1])])
    assert [g.tolist() for g in got] == [[3, -4, 0, 2, -(2**31)], [1, 1, 0, -2, 0]]


DIFFERENTIABLE = [
    c
    for c in cases([f32, f64])
    if c.values[0].op.differentiable and c.values[0].graph().output_types[0].dtype.is_float  # type: ignore[attr-defined]
]  # fmt: skip


def seeds(types: Sequence[TensorType]) -> list[np.ndarray]:
    rng = np.random.default_rng(17)
    return [rng.uniform(0.5, 1.5, t.shape).astype(t.dtype.numpy) for t in types]


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_compiled_gradients_of_order_one_and_two_equal_the_interpreter(case: Case) -> None:
    """The second-order graph holds the first: its outputs are the op's, the gradients, and their gradients."""
    graph = vjp(vjp(case.graph()))
    arrays = [*case.sample.arrays, *seeds(graph.input_types[len(case.sample.arrays) :])]
    assert_same(native(graph, arrays), interpret(graph, arrays), scale=4)


# ------------------------------------------------------------------------------- one of each schedule, interpreted


def _map(build: Builder, x: Value, w: Value) -> list[Value]:
    return [build.tanh(build.mul(x, build.broadcast(w, dims=(1,), shape=x.shape)))]


def _reduce(build: Builder, x: Value, w: Value) -> list[Value]:
    largest = build.broadcast(build.reduce_max(x, axes=(1,)), dims=(0,), shape=x.shape)
    e = build.exp(build.sub(x, largest))
    return [build.div(e, build.broadcast(build.reduce_sum(e, axes=(1,)), dims=(0,), shape=x.shape))]


def _contract(build: Builder, x: Value, w: Value) -> list[Value]:
    square = build.contract(x, x, axes=((1,), (1,)), batch=((), ()))
    return [build.sigmoid(square)]


def _scatter(build: Builder, x: Value, w: Value) -> list[Value]:
    rows = build.cast(build.iota(dim=0, type=i32[3]), type=i32[3])
    picked = build.slice(x, start=(0, 0), size=(3, x.shape[1]), step=(1, 1))
    return [build.scatter_add(x, rows, picked, axis=0)]


def _cumulative(build: Builder, x: Value, w: Value) -> list[Value]:
    down = build.recurrence(build.broadcast(w, dims=(1,), shape=x.shape), x, axis=0, reverse=False)
    return [
        down,
        build.cumulative_max(x, axis=0, reverse=True),
        build.cumulative_min(x, axis=1, reverse=False),
    ]


def _sort(build: Builder, x: Value, w: Value) -> list[Value]:
    return [
        build.argsort(x, axis=1, descending=False),
        build.argsort(build.transpose(x, perm=(1, 0)), axis=1, descending=True),
        build.argsort(x, axis=0, descending=True),
    ]


@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("map", _map),
        ("reduce", _reduce),
        ("contract", _contract),
        ("scatter", _scatter),
        ("cumulative", _cumulative),
        ("sort", _sort),
    ],
)
def test_interpreted_kernels_of_each_schedule_equal_the_graph(kind: str, body: object, dtype: DType) -> None:
    for rows, columns in ((3, 4), (5, 19)):
        build = Builder()
        x, w = build.input(dtype[rows, columns], "x"), build.input(dtype[columns], "w")
        graph = build.graph(kind, body(build, x, w))  # type: ignore[operator]
        rng = np.random.default_rng(rows)
        arrays = [rng.uniform(-1, 1, t.shape).astype(dtype.numpy) for t in graph.input_types]
        compiled: CompiledFunction = compile_graph(graph)
        assert {n.attrs["kind"] for n in compiled.fused.nodes if n.op.name == "fused"} == {kind}
        verify_plan(compiled.plan)
        want = interpret(graph, arrays)
        assert_same(run_plan(compiled.plan, arrays), want)
        assert_same(native(graph, arrays), want)


@pytest.mark.parametrize("target", ["x86-64", "aarch64-linux-gnu"])
def test_kernels_of_other_targets_mean_the_same(target: str) -> None:
    """Their machine code doesn't run here; their kernels do, in the interpreter."""
    from graphc.codegen.memory import make_plan
    from graphc.passes.fuse import fuse

    build = Builder()
    x, w = build.input(f32[5, 19], "x"), build.input(f32[7, 19], "w")
    graph = build.graph("layer", [build.tanh(build.contract(x, w, axes=((1,), (1,)), batch=((), ())))])
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(-1, 1, t.shape).astype(np.float32) for t in graph.input_types]
    plan = make_plan(fuse(graph), target_from_name(target))
    assert_same(run_plan(plan, arrays), interpret(graph, arrays))
