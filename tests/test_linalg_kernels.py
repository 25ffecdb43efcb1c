"""Kernels of factorizations for every kind of target, and what was wrong beside them."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.programs import build_program
from test_compiled_ops import assert_same, native
from test_ops import Case

import graphc
from graphc import f32, linalg
from graphc.codegen.memory import make_plan
from graphc.codegen.schedules import in_place_candidates
from graphc.codegen.target import target_from_name
from graphc.compiler import compile as compile_graph
from graphc.errors import TraceError
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.opdef import Sample
from graphc.ir.ops import REGISTRY
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import DType, f64
from graphc.passes.fuse import fuse

FACTORS = [op for op in REGISTRY.values() if "factor" in op.traits]


def one(
    name: str, shapes: list[tuple[int, ...]], dtype: DType = f32, **attrs: bool
) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one op and operands on whose diagonal are the largest elements."""
    rng = np.random.default_rng(3)
    arrays = [(rng.uniform(-1, 1, s) + s[-1] * np.eye(s[-2], s[-1])).astype(dtype.numpy) for s in shapes]
    return Case(REGISTRY[name], Sample(tuple(arrays), attrs), dtype).graph(), arrays


@pytest.mark.parametrize("target", ["x86-64", "aarch64-linux-gnu", "wasm32", "cortex-m4f"])
@pytest.mark.parametrize("op", FACTORS, ids=lambda op: op.name)
def test_kernels_of_other_targets_mean_the_same(op: object, target: str) -> None:
    """Other vectors, other blocks of rows, and one without f64: its sums are f32."""
    for sample in op.samples(np.random.default_rng(5), f32)[1:4]:  # type: ignore[attr-defined]
        graph = Case(op, sample, f32).graph()  # type: ignore[arg-type]
        plan = make_plan(fuse(graph), target_from_name(target))
        verify_plan(plan)
        for kernel in plan.kernels:
            verify_kernel(kernel)
            assert str(parse_kernel(str(kernel))) == str(kernel)
        assert_same(run_plan(plan, sample.arrays), interpret(graph, sample.arrays))


@pytest.mark.parametrize(
    ("name", "shapes", "attrs"),
    [
        ("cholesky", [(2, 35, 35)], {}),
        ("triangular_solve", [(5, 5), (5, 300)], {"lower": True, "transpose": False, "unit": False}),
        ("lu", [(35, 35)], {}),
        ("qr", [(40, 3)], {}),
        ("svd", [(40, 2)], {}),
    ],
)
def test_matrices_with_more_columns_than_a_warp_has_threads(
    name: str, shapes: list[tuple[int, ...]], attrs: dict[str, bool]
) -> None:
    graph, arrays = one(name, shapes, **attrs)
    assert_same(build_program(graph).run(arrays), interpret(graph, arrays), scale=4)


def test_results_that_nobody_reads_are_not_stored() -> None:
    build = Builder()
    x = build.input(f64[3, 3], "x")
    graph = build.graph("values", [build.emit(REGISTRY["eigh"], [x]).results[0]])
    plan = make_plan(fuse(graph), target_from_name("x86-64"))
    assert [p.name for p in plan.kernels[0].params] == ["in0", "out0", "work", "values"]
    spd = np.diag([3.0, 1, 2])
    assert run_plan(plan, [spd])[0].tolist() == [1, 2, 3]


def test_a_fused_factor_stands_alone_and_reads_views() -> None:
    build = Builder()
    x = build.input(f64[4, 4], "x")
    turned = build.transpose(build.broadcast(build.exp(x), dims=(1, 2), shape=(2, 4, 4)), perm=(0, 2, 1))
    values, order = build.emit(REGISTRY["lu"], [turned]).results
    graph = build.graph("f", [build.tanh(values), order])
    fused = fuse(graph)
    assert [n.attrs["kind"] for n in fused.nodes] == ["map", "factor", "map"]
    array = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    assert_same(native(graph, [array]), interpret(graph, [array]))


def test_a_sum_over_rows_does_not_overwrite_what_the_rows_read() -> None:
    """Of a square domain, a vector for rows and a sum over rows have one type: the sum begins before the first row."""
    build = Builder()
    x, scale = build.input(f32[5, 5], "x"), build.input(f32[5], "scale")
    y = build.exp(x)
    rows = build.reduce_sum(y, axes=(1,))
    columns = build.reduce_sum(build.mul(y, y), axes=(0,))
    graph = build.graph("f", [columns, build.mul(rows, scale)])
    (node,) = fuse(graph).nodes
    assert in_place_candidates(node) == {0: (), 1: (1,)}
    arrays = [np.random.default_rng(1).uniform(-1, 1, s).astype(np.float32) for s in ((5, 5), (5,))]
    want = interpret(graph, arrays)
    compiled = compile_graph(graph, donate=["scale"])
    assert_same(list(compiled(arrays[0], arrays[1].copy())), want)


def test_a_stack_along_time_streams_and_a_matrix_along_time_is_refused() -> None:
    signal = np.random.default_rng(2).uniform(1, 2, (12, 2, 2)).astype(np.float32)
    signal += 3 * np.eye(2, dtype=np.float32)

    def whitened(x: graphc.Array) -> graphc.Array:
        values, vectors = linalg.eigh(x)
        return linalg.solve_triangular(linalg.cholesky(x), vectors, lower=True) * values[..., None, :]

    stream = graphc.streaming(whitened, graphc.f32[12, 2, 2], block=4, axis=0)
    parts = [np.asarray(stream(signal[i : i + 4])) for i in range(0, 12, 4)]
    want = graphc.compile(whitened, signal)(signal)
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=1e-6)
    with pytest.raises(
        TraceError, match="cholesky: streaming: expected time as a dimension before those of the matrices"
    ):
        graphc.streaming(lambda x: linalg.cholesky(x[None]), graphc.f32[4, 4], block=2, axis=0)


def test_several_warps_rotate_together() -> None:
    """Few pairs are not orthogonal, so that the machine that looks for races is done soon."""
    x = np.diag(np.arange(1.0, 35)).astype(np.float32)
    x[0, 33] = x[33, 0] = x[2, 20] = x[20, 2] = 0.5
    graph, _ = one("eigh", [(34, 34)])
    assert_same(build_program(graph).run([x]), interpret(graph, [x]), scale=4)
