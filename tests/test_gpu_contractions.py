"""Products on blocks of threads: every form and precision, run by both interpreters against float64, and assembled.

The PTX interpreter reports races, bad addresses and missing waits of its own accord, so each product that it runs is
also a test of those. Rounding to tensor cores' operands is stated here again, independently of `ir.tensor_cores`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx.assembler import assemble, assembled, find_assembler
from ptx.build import Built, run
from ptx.errors import PtxError

import graphc
from graphc import nn
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.loader import load_object
from graphc.codegen.memory import make_plan
from graphc.codegen.object import compile_assembly, compile_object
from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.gpu.contract import choose_form, form_cost, schedule_contract
from graphc.codegen.schedules.gpu.model import resident_blocks
from graphc.codegen.schedules.gpu.tiling import Tiling, Work, choose_tiling, cost, tilings, work_of
from graphc.codegen.schedules.gpu.warps import WarpForm
from graphc.codegen.schedules.operands import product_of
from graphc.codegen.separate import separate
from graphc.codegen.split import chunk_count, split_sums
from graphc.codegen.target import H100, Device, Target, host_target, target_from_name
from graphc.errors import CompileError, TargetError, VerifyError
from graphc.frontend.array import Array
from graphc.ir import ops, tensor_cores
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.kernel import Barrier, For, If, Kernel, Stmt, Wait
from graphc.ir.kernel_interp import run_kernel
from graphc.ir.kernel_print import statements
from graphc.ir.kernel_text import parse_kernel, print_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.plan import CallStep, Plan
from graphc.ir.types import f32, f64
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify

FORMS = ("AB", "ATB", "ABT")
GPU = target_from_name("nvptx64")
needs_ptxas = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc)")


def region_of(form: str, m: int, n: int, k: int) -> Graph:
    """A product of stored operands."""
    build = Builder()
    a = build.input(f32[(k, m) if form == "ATB" else (m, k)], "a")
    b = build.input(f32[(n, k) if form == "ABT" else (k, n)], "b")
    axes = ((0 if form == "ATB" else 1,), (1 if form == "ABT" else 0,))
    return build.graph("product", [build.contract(a, b, axes=axes, batch=((), ()))])


def fused(region: Graph) -> Graph:
    """A graph of that region alone."""
    build = Builder()
    inputs = build.inputs_for(region.inputs)
    node = build.emit(ops.fused, list(inputs.values()), {"kind": "contract"}, [region])
    return build.graph("alone", node.results, "fused")


def operands(rng: np.random.Generator, form: str, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices as they are stored."""
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a, b = (a.T if form == "ATB" else a), (b.T if form == "ABT" else b)
    return np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)


def product(form: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of stored matrices, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a.T if form == "ATB" else a) @ (b.T if form == "ABT" else b))


def built(kernel: Kernel, target: Target = GPU) -> Built:
    """The kernel's text and PTX, verified."""
    verify_kernel(kernel)
    llvm = emit_kernels([kernel], target)
    return Built(kernel, llvm, assembled(compile_assembly(llvm, target)))


def check(form: str, a: np.ndarray, b: np.ndarray, result: np.ndarray, precise: float = 1e-6) -> None:
    """Each element is within a part of the sum of its products' sizes."""
    error = np.abs(result - product(form, a, b))
    assert (error <= precise * product(form, np.abs(a), np.abs(b)) + 1e-30).all(), error.max()


def launched(plan: Plan, arrays: Sequence[np.ndarray], target: Target = GPU) -> list[np.ndarray]:
    """The plan's outputs, every kernel's PTX interpreted."""
    places = {}
    for b in plan.buffers:
        if b.in_place_of is not None:
            places[b] = places[b.in_place_of]
        elif b.kind == "input":
            places[b] = np.array(arrays[b.position], b.type.dtype.numpy)
        elif b.kind == "constant":
            places[b] = np.array(plan.constants[b.name])
        else:
            places[b] = np.full(b.type.shape, 7, b.type.dtype.numpy)
    for step in plan.steps:
        assert isinstance(step, CallStep)
        shaped = [places[b].reshape(p.shape) for b, p in zip(step.arguments, step.kernel.params, strict=True)]
        after = run(built(step.kernel, target), shaped)
        for b, param, array in zip(step.arguments, step.kernel.params, after, strict=True):
            if param.access != "in":
                places[b][...] = array.reshape(places[b].shape)
    found = {b.position: places[b] for b in plan.of_kind("output")}
    inputs = {b.position: places[b] for b in plan.of_kind("input")}
    found |= {j: inputs[i] for i, j in plan.donated if j not in found}
    return [found[j] for j in sorted(found)]


def graph_of(function: Callable, *arrays: np.ndarray) -> Graph:
    return fuse(simplify(graphc.trace(function, *arrays)))


def normal(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


# ------------------------------------------------------------------------------------------------------ exact products


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("sizes", "tiling"),
    [
        ((1, 1, 1), Tiling(4, 32, 8, 1, 4, 3)),
        ((9, 17, 10), Tiling(16, 16, 8, 2, 4, 2)),
        ((4, 20, 33), Tiling(4, 32, 8, 1, 4, 4)),
    ],
)
def test_kernels_mean_the_product(
    form: str, sizes: tuple[int, int, int], tiling: Tiling, rng: np.random.Generator
) -> None:
    m, n, k = sizes
    a, b = operands(rng, form, m, n, k)
    result = np.zeros((m, n), np.float32)
    run_kernel(schedule_contract(region_of(form, m, n, k), GPU, {}, tiling), [a, b, result])
    check(form, a, b, result)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "sizes",
    [(1, 1000, 33), (1000, 1, 31), (31, 33, 127), (127, 31, 1), (17, 33, 1000), (64, 64, 64), (128, 132, 20)],
)
def test_odd_sizes(form: str, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
    a, b = operands(rng, form, *sizes)
    kernel = built(schedule_contract(region_of(form, *sizes), GPU, {}))
    check(form, a, b, run(kernel, [a, b, np.zeros(sizes[:2], np.float32)])[-1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(128, 128, 8, 8, 8, 3),
        Tiling(128, 64, 16, 8, 4),
        Tiling(64, 64, 16, 4, 4, 2),
        Tiling(64, 32, 8, 4, 8, 4),
        Tiling(1, 128, 16, 1, 4, 3),
        Tiling(8, 64, 16, 8, 4, 2, swapped=True),
    ],
)
@pytest.mark.parametrize("sizes", [(65, 68, 37), (64, 128, 16)])
def test_every_kind_of_tile(
    form: str, tiling: Tiling, sizes: tuple[int, int, int], rng: np.random.Generator
) -> None:
    a, b = operands(rng, form, *sizes)
    kernel = built(schedule_contract(region_of(form, *sizes), GPU, {}, tiling))
    check(form, a, b, run(kernel, [a, b, np.zeros(sizes[:2], np.float32)])[-1])


@settings(max_examples=25)
@given(
    st.sampled_from(FORMS),
    st.tuples(*[st.integers(1, 70)] * 3),
    st.sampled_from([t for t in tilings(Device(), "f32") if t.rows * t.columns <= 2048]),
)
def test_any_tile_of_any_product(form: str, sizes: tuple[int, int, int], tiling: Tiling) -> None:
    a, b = operands(np.random.default_rng(1), form, *sizes)
    kernel = built(schedule_contract(region_of(form, *sizes), GPU, {}, tiling))
    check(form, a, b, run(kernel, [a, b, np.zeros(sizes[:2], np.float32)])[-1])


@pytest.mark.parametrize(("sizes", "width"), [
    ((1, 33, 100), 4), ((3, 9, 128), 4), ((8, 17, 513), 1), ((9, 5, 77), 1), ((1, 1, 1), 1), ((20, 7, 1100), 4),
])  # fmt: skip
def test_a_warp_for_each_column(sizes: tuple[int, int, int], width: int, rng: np.random.Generator) -> None:
    a, b = operands(rng, "ABT", *sizes)
    kernel = built(schedule_contract(region_of("ABT", *sizes), GPU, {}, WarpForm(min(sizes[0], 8), width)))
    assert "shfl.sync" in kernel.ptx and ("ld.global.nc.v4" in kernel.ptx) == (width == 4)
    check("ABT", a, b, run(kernel, [a, b, np.zeros(sizes[:2], np.float32)])[-1])


def test_kernels_of_warps_mean_the_product(rng: np.random.Generator) -> None:
    for sizes, width in (((3, 5, 140), 4), ((9, 3, 33), 1)):
        a, b = operands(rng, "ABT", *sizes)
        result = np.zeros(sizes[:2], np.float32)
        run_kernel(
            schedule_contract(region_of("ABT", *sizes), GPU, {}, WarpForm(8 if width == 1 else 3, width)),
            [a, b, result],
        )
        check("ABT", a, b, result)


# ------------------------------------------------------------------------------------- prologues, epilogues, dimensions


def both_computed(x: Array, w: Array, b: Array) -> Array:
    """The gradient's form: operands that are made of others on the way."""
    return graphc.grad(lambda x, w: graphc.tanh(graphc.tanh(x @ w) @ b).sum(), (0, 1))(x, w)


FUNCTIONS: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "bias and activation": (lambda x, w, b: nn.gelu(x @ w + b), [(17, 9), (9, 33), (33,)]),
    "whole vectors of columns": (lambda x, w, b: graphc.tanh(x @ w.T + b), [(35, 12), (36, 12), (36,)]),
    "a column": (lambda x, w: x @ w + 1, [(33, 70), (70,)]),
    "a row": (lambda x, w: nn.relu(x @ w), [(70,), (70, 33)]),
    "few rows by warps": (lambda x, w, b: nn.gelu(graphc.exp(x) @ w.T + b), [(5, 200), (33, 200), (33,)]),
    "a batch by warps": (lambda x, w: nn.relu(x @ graphc.matrix_transpose(w)), [(3, 2, 130), (3, 9, 130)]),
    "a number": (lambda x, w: x @ w, [(70,), (70,)]),
    "an outer product": (lambda x, w: x[:, None] @ w[None, :], [(33,), (17,)]),
    "a computed operand": (both_computed, [(19, 9), (9, 21), (21, 8)]),
    "a gathered operand": (
        lambda x, w: graphc.take(x, graphc.arange(5, dtype=graphc.i32) * 3, 0) @ w,
        [(20, 9), (9, 8)],
    ),
    "a slice that vectors don't fit": (lambda x, w: x[1:, 3:] @ w, [(9, 15), (12, 8)]),
    "a batch": (lambda x, w: x @ graphc.matrix_transpose(w), [(2, 3, 17, 8), (2, 3, 18, 8)]),
    "several dimensions of each kind": (
        lambda x, w: graphc.einsum("bijk,bjkn->bin", x, w), [(3, 5, 7, 6), (3, 7, 6, 20)],
    ),
    "free dimensions that stay apart": (
        lambda x, w: x @ w + graphc.arange(x.shape[1], dtype=graphc.f32)[:, None], [(5, 7, 12), (12, 9)],
    ),
    "an operand with its time first": (lambda x, w: graphc.einsum("tbd,de->bte", x, w), [(5, 3, 12), (12, 8)]),
    "products that share an operand": (
        lambda x, w, v: nn.sigmoid(x @ w) * graphc.tanh(x @ v), [(9, 17), (17, 12), (17, 12)],
    ),
    "sums over the rows beside it": (
        lambda x, w, b: graphc.grad(lambda w, b: graphc.tanh(graphc.tanh(x @ w + b) @ w.T).sum(), (0, 1))(w, b),
        [(19, 12), (12, 9), (9,)],
    ),
    "attention": (
        lambda q, k, v: nn.softmax(q @ graphc.matrix_transpose(k) * 0.3) @ v, [(2, 9, 8), (2, 11, 8), (2, 11, 8)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_around_a_product_is_in_its_kernel(name: str, rng: np.random.Generator) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = normal(rng, *shapes)
    graph = graph_of(function, *arrays)
    plan = make_plan(graph, GPU)
    exact = interpret(graph, arrays)
    for result, want in zip(launched(plan, arrays), exact, strict=True):
        np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-5)


def test_computed_operands_are_staged_with_their_arithmetic(rng: np.random.Generator) -> None:
    """An operand that is recomputed costs no kernel of its own, and no asynchronous copy."""
    build = Builder()
    x, w = build.input(f32[33, 20], "x"), build.input(f32[20, 36], "w")
    region = build.graph(
        "computed", [build.contract(build.exp(x), build.neg(w), axes=((1,), (0,)), batch=((), ()))]
    )
    for tiling in (Tiling(32, 32, 8, 4, 4), Tiling(16, 64, 16, 2, 4, 3)):
        kernel = schedule_contract(region, GPU, {}, tiling)
        assert "copy" not in str(kernel)
        a, b = normal(rng, (33, 20), (20, 36))
        result = run(built(kernel), [a, b, np.zeros((33, 36), np.float32)])[-1]
        check("AB", np.exp(a), -b, result)


def test_donated_weights_are_updated_where_they_are(rng: np.random.Generator) -> None:
    def step(w: Array, m: Array, x: Array, y: Array) -> tuple[Array, Array]:
        gradient = graphc.grad(lambda w: ((x @ w - y) ** 2).sum())(w)
        moved = 0.9 * m + gradient
        return w - 0.01 * moved, moved

    arrays = normal(rng, (36, 20), (36, 20), (33, 36), (33, 20))
    graph = graph_of(step, *arrays)
    plan = make_plan(graph, GPU, [(0, 0), (1, 1)])
    update = plan.kernels[-1]
    assert [p.access for p in update.params].count("inout") == 2
    for result, want in zip(launched(plan, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(result, want, rtol=1e-4, atol=1e-4)


def test_other_types_and_empty_sizes(rng: np.random.Generator) -> None:
    for dtype, shape in (
        (np.float64, (9, 7, 5)),
        (np.int32, (9, 7, 5)),
        (np.float32, (0, 7, 5)),
        (np.float32, (3, 7, 0)),
    ):
        m, n, k = shape
        a, b = (rng.integers(-9, 9, s).astype(dtype) for s in ((m, k), (k, n)))
        graph = graph_of(lambda a, b: a @ b + 1, a, b)
        np.testing.assert_array_equal(launched(make_plan(graph, GPU), [a, b])[0], a @ b + 1)


def test_what_must_be_taken_apart_first_is_refused() -> None:
    build = Builder()
    x, w = build.input(f32[4, 4], "x"), build.input(f32[4, 4], "w")
    found = [build.contract(x, w, axes=((1,), (i,)), batch=((), ())) for i in (0, 1)]
    with pytest.raises(CompileError, match="expected one contraction and no by-products"):
        schedule_contract(build.graph("two", found), GPU, {})
    with pytest.raises(CompileError, match="expected one with threads"):
        schedule_contract(region_of("AB", 4, 4, 4), host_target(), {})


# ------------------------------------------------------------------------------------------------------- tensor cores


def rounded(precision: str, x: np.ndarray) -> np.ndarray:
    """The nearest number with 10 bits of fraction (ties away from zero), as f16, or with 7 bits (ties to even)."""
    if precision == "f16":
        return np.asarray(x.astype(np.float16), np.float32)
    fraction, exponent = np.frexp(x.astype(np.float64))
    scaled = fraction * 2.0 ** (11 if precision == "tf32" else 8)
    nearest = np.trunc(scaled + np.copysign(0.5, scaled)) if precision == "tf32" else np.rint(scaled)
    return np.ldexp(nearest / 2.0 ** (11 if precision == "tf32" else 8), exponent).astype(np.float32)


# of a product, relative to the sum of its products' sizes: two roundings of 2^-11 (tf32, f16) or 2^-8 (bf16)
PRECISE = {"tf32": 2**-9.9, "f16": 2**-9.9, "bf16": 2**-7.9}


@pytest.mark.parametrize("precision", ["tf32", "f16", "bf16"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 31, 17), (64, 128, 48), (127, 34, 70)])
def test_tensor_cores_round_operands_and_sum_in_f32(
    precision: str, form: str, sizes: tuple[int, int, int], rng: np.random.Generator
) -> None:
    target = replace(GPU, precision=precision)
    a, b = operands(rng, form, *sizes)
    kernel = built(schedule_contract(region_of(form, *sizes), target, {}), target)
    assert "mma.sync" in kernel.ptx
    result = run(kernel, [a, b, np.zeros(sizes[:2], np.float32)])[-1]
    check(form, rounded(precision, a), rounded(precision, b), result)
    check(form, a, b, result, PRECISE[precision])


@pytest.mark.parametrize("precision", ["tf32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(32, 32, 2, 4, 3), (64, 32, 8, 4, 2), (128, 64, 4, 16, 2)])
def test_tiles_of_tensor_cores(
    precision: str, shape: tuple[int, int, int, int, int], rng: np.random.Generator
) -> None:
    rows, columns, thread_rows, thread_columns, stages = shape
    depth = 8 if precision == "tf32" else 16
    tiling = Tiling(rows, columns, depth, thread_rows, thread_columns, stages, precision)  # type: ignore[arg-type]
    a, b = operands(rng, "AB", 65, 66, 40)
    kernel = built(
        schedule_contract(region_of("AB", 65, 66, 40), replace(GPU, precision=precision), {}, tiling)
    )
    result = run(kernel, [a, b, np.zeros((65, 66), np.float32)])[-1]
    check("AB", rounded(precision, a), rounded(precision, b), result)


@pytest.mark.parametrize("precision", ["tf32", "f16", "bf16"])
def test_kernels_mean_the_product_of_rounded_operands(precision: str, rng: np.random.Generator) -> None:
    target = replace(GPU, precision=precision)
    tiling = Tiling(16, 16, 8 if precision == "tf32" else 16, 2, 4, 2, precision)  # type: ignore[arg-type]
    a, b = operands(rng, "ABT", 9, 14, 21)
    result = np.zeros((9, 14), np.float32)
    kernel = schedule_contract(region_of("ABT", 9, 14, 21), target, {}, tiling)
    run_kernel(kernel, [a, b, result])
    check("ABT", rounded(precision, a), rounded(precision, b), result)
    assert print_kernel(parse_kernel(print_kernel(kernel))) == print_kernel(kernel)


def test_a_layer_on_tensor_cores(rng: np.random.Generator) -> None:
    target = replace(GPU, precision="tf32")
    x, w, b = normal(rng, (33, 40), (24, 40), (24,))
    plan = make_plan(graph_of(lambda x, w, b: nn.relu(x @ w.T + b), x, w, b), target)
    exact = np.maximum(rounded("tf32", x).astype(float) @ rounded("tf32", w).T + b, 0)
    np.testing.assert_allclose(launched(plan, [x, w, b], target)[0], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "f16", "bf16"])
def test_rounding_to_words(precision: str, rng: np.random.Generator) -> None:
    exponents = rng.integers(-12, 12, 4000).astype(np.float32)
    x = np.concatenate(
        [rng.standard_normal(4000) * 2**exponents, [0, -0.0, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8]]
    )
    x = np.resize(x, 4096).astype(np.float32)
    if precision == "tf32":
        found = tensor_cores.tf32(x).view(np.float32)
    else:
        pair = tensor_cores.f16_pair if precision == "f16" else tensor_cores.bf16_pair
        halves = pair(x[1::2], x[::2]).view(np.uint16)
        found = halves.view(np.float16).astype(np.float32)
        if precision == "bf16":
            found = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found, rounded(precision, x))


def test_another_precision_is_for_tensor_cores_only() -> None:
    with pytest.raises(TargetError, match="precision: expected f32 on cpu, got tf32"):
        replace(host_target(), precision="tf32")
    with pytest.raises(TargetError, match="precision: expected one of f32, tf32, f16, bf16, got 'f8'"):
        replace(GPU, precision="f8")  # type: ignore[arg-type]
    assert replace(GPU, precision="f16").identity != GPU.identity
    kernel = schedule_contract(graph_of(lambda a: a @ a, np.zeros((8, 8))).nodes[0].regions[0], GPU, {})
    assert {p.dtype for p in kernel.params} == {f64} and "exchange" not in str(kernel)


# ---------------------------------------------------------------------------------------------------------- long sums


@pytest.mark.parametrize(
    ("form", "sizes"), [("AB", (16, 24, 1000)), ("ATB", (8, 12, 1009)), ("ABT", (64, 40, 2003))]
)
def test_long_sums_are_cut(form: str, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Also where no number of chunks divides the sum: the last one is filled up with zeros."""
    whole = fused(region_of(form, *sizes))
    cut = split_sums(whole, GPU)
    verify(cut)
    assert [n.attrs["kind"] for n in cut.nodes] == ["contract", "reduce"]
    a, b = operands(rng, form, *sizes)
    check(form, a, b, interpret(cut, [a, b])[0])
    check(form, a, b, launched(make_plan(whole, GPU), [a, b])[0])


def test_the_second_kernel_has_the_epilogue_and_what_is_donated(rng: np.random.Generator) -> None:
    def step(w: Array, x: Array, y: Array) -> Array:
        return w - 0.01 * (graphc.matrix_transpose(graphc.exp(x)) @ y)

    arrays = normal(rng, (12, 20), (900, 12), (900, 20))
    graph = graph_of(step, *arrays)
    plan = make_plan(graph, GPU, [(0, 0)])
    assert [k.name.rstrip("0123456789") for k in plan.kernels][-2:] == ["contract", "reduce"]
    assert any(p.access == "inout" for p in plan.kernels[-1].params)
    np.testing.assert_allclose(launched(plan, arrays)[0], interpret(graph, arrays)[0], rtol=1e-4, atol=1e-3)


def test_where_a_cut_pays() -> None:
    def chunks(m: int, n: int, k: int, target: Target = GPU) -> int:
        return chunk_count(region_of("AB", m, n, k), target)

    assert chunks(8, 512, 512) > 1 and chunks(256, 1024, 4096) > 1 and chunks(64, 10, 8192) > 8
    assert chunks(1024, 1024, 1024) == chunks(4096, 4096, 64) == chunks(64, 64, 32) == 1
    assert chunks(8, 512, 512, host_target()) == 1
    assert split_sums(fused(region_of("AB", 8, 512, 512)), host_target()).nodes[0].attrs["kind"] == "contract"
    small = fused(region_of("AB", 32, 32, 32))
    assert split_sums(small, GPU) is small


# ---------------------------------------------------------------------------------------------------------- the model


def test_tiles_fit_the_device() -> None:
    for precision in ("f32", "tf32", "f16"):
        for tiling in tilings(Device(), precision):  # type: ignore[arg-type]
            assert tiling.threads % 32 == 0 and tiling.threads <= 256
            assert tiling.shared_bytes <= 48 << 10
    assert resident_blocks(Device(), 256, 127, 33792) == 2


def test_the_model_chooses() -> None:
    def chosen(m: int, n: int, k: int) -> Tiling:
        device = Device()
        work = work_of(product_of(collapse_contraction(region_of("AB", m, n, k))))
        found = choose_tiling(work, device)
        assert cost(found, work, device) <= min(cost(t, work, device) for t in tilings(device, "f32"))
        return found

    large = chosen(4096, 4096, 4096)
    assert large.thread_rows * large.thread_columns == 64 and large.rows * large.columns >= 64 * 64
    assert chosen(1, 4096, 512).rows <= 8
    assert chosen(4096, 1, 512).swapped
    few = work_of(product_of(collapse_contraction(region_of("ABT", 1, 512, 784))))
    assert choose_form(few, Device()) == WarpForm(1, 4)
    assert form_cost(few, Device()) < cost(choose_tiling(few, Device()), few, Device())
    many = work_of(product_of(collapse_contraction(region_of("ABT", 1024, 1024, 1024))))
    assert isinstance(choose_form(many, Device()), Tiling)
    small = chosen(64, 64, 512)
    assert small.rows * small.columns <= 512  # so that many multiprocessors have a tile
    assert cost(large, _square(4096), Device()) > cost(large, _square(4096), H100)


def _square(n: int) -> Work:
    return Work(n, n, n, 1, 1, 4, 12 * n * n)


# ------------------------------------------------------------------------------------------------ machine code, checks

BENCHMARKS = [
    ("AB", 1, 64, 64), ("AB", 32, 32, 32), ("AB", 8, 512, 512), ("AB", 64, 10, 512), ("AB", 128, 512, 784),
    ("AB", 8, 4096, 1024), ("AB", 512, 512, 512), ("AB", 1024, 1024, 1024), ("AB", 100, 130, 77),
    ("ATB", 784, 512, 64), ("ATB", 1024, 4096, 8), ("ABT", 8, 512, 512), ("ABT", 128, 784, 512), ("AB", 1, 1000, 1000),
    ("AB", 33, 65, 129), ("AB", 256, 1024, 4096), ("AB", 2048, 16, 256), ("ATB", 512, 784, 128),
    ("ATB", 4096, 1024, 256), ("ABT", 1, 512, 784), ("ABT", 32, 128, 64), ("ABT", 256, 10, 784), ("ABT", 256, 4096, 1024),
]  # fmt: skip


@needs_ptxas
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", ["f32", "tf32", "f16", "bf16"])
def test_products_of_the_benchmarks_do_not_spill(arch: str, precision: str) -> None:
    """One module of all shapes; of the other precisions every third one."""
    target = replace(GPU, cpu=arch, precision=precision)
    shapes = BENCHMARKS if precision == "f32" else BENCHMARKS[::3]
    kernels: list[Kernel] = []
    for number, shape in enumerate(shapes):
        for kernel in make_plan(fused(region_of(*shape)), target).kernels:
            kernels.append(replace(kernel, name=f"{kernel.name}_{number}"))
    ptx = compile_assembly(emit_kernels(kernels, target), target)
    usage = assemble(ptx, arch)
    assert set(usage) == {k.name for k in kernels}
    for name, used in usage.items():
        assert used.spill_stores == used.spill_loads == used.stack_bytes == 0, name
        assert used.shared_bytes <= (48 << 10) + 1024, name
    if precision == "f32":
        assert "cp.async.ca.shared.global" in ptx and "cp.async.cg.shared.global" in ptx
        assert "ld.shared.v4" in ptx and "st.global.v4" in ptx


def test_the_inner_loop_is_multiply_adds_and_wide_loads() -> None:
    ptx = built(schedule_contract(region_of("AB", 256, 256, 256), GPU, {}, Tiling(128, 128, 16, 8, 8))).ptx
    assert ptx.count("fma.rn.f32") == 8 * 8 * 16
    assert len(re.findall(r"ld\.shared\.v4", ptx)) == 4 * 16
    assert len(re.findall(r"ld\.shared", ptx)) == 4 * 16
    assert len(re.findall(r"cp\.async\.cg\.shared\.global .*, 16;", ptx)) == 2 * 2


def without(pattern: str, number: int, text: str) -> str:
    """The text without the number-th line with the pattern."""
    lines = text.splitlines()
    del lines[[n for n, line in enumerate(lines) if re.search(pattern, line)][number]]
    return "\n".join(lines)


@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_a_missing_barrier_is_a_race(precision: str, rng: np.random.Generator) -> None:
    target = replace(GPU, precision=precision)
    a, b = operands(rng, "AB", 64, 64, 64)
    kernel = built(schedule_contract(region_of("AB", 64, 64, 64), target, {}), target)
    arguments = [a, b, np.zeros((64, 64), np.float32)]
    run(kernel, arguments)
    count = len(re.findall(r"bar(?:rier)?\.", kernel.ptx))
    assert count >= 1
    for number in range(count):
        with pytest.raises(PtxError, match="race"):
            run(kernel, arguments, ptx=without(r"bar(?:rier)?\.", number, kernel.ptx))


def test_a_missing_wait_is_reported_by_both_interpreters(rng: np.random.Generator) -> None:
    a, b = operands(rng, "AB", 16, 16, 32)
    kernel = schedule_contract(region_of("AB", 16, 16, 32), GPU, {}, Tiling(16, 16, 8, 2, 4, 3))
    arguments = [a, b, np.zeros((16, 16), np.float32)]
    machine = built(kernel)
    run(machine, arguments)
    with pytest.raises(PtxError, match=r"cp\.async"):
        run(machine, arguments, ptx=without(r"cp\.async\.wait", 0, machine.ptx))

    def dropped(body: tuple[Stmt, ...], kind: type) -> tuple[Stmt, ...]:
        kept = []
        for stmt in body:
            if isinstance(stmt, For):
                stmt = replace(stmt, body=dropped(stmt.body, kind))
            elif isinstance(stmt, If):
                stmt = replace(stmt, body=dropped(stmt.body, kind), orelse=dropped(stmt.orelse, kind))
            if not isinstance(stmt, kind):
                kept.append(stmt)
        return tuple(kept)

    assert any(isinstance(s, Wait) for s in statements(kernel.body))
    for kind in (Wait, Barrier):
        with pytest.raises(VerifyError, match="expected a store to"):
            run_kernel(replace(kernel, body=dropped(kernel.body, kind)), [x.copy() for x in arguments])


def test_joined_products_and_by_products_are_taken_apart_for_threads(rng: np.random.Generator) -> None:
    function, shapes = FUNCTIONS["products that share an operand"]
    graph = graph_of(function, *normal(rng, *shapes))
    assert len(graph.nodes) == 1
    apart = separate(graph, GPU)
    verify(apart)
    assert [n.attrs["kind"] for n in apart.nodes] == ["contract", "contract"]


def test_copies_are_done_at_once_where_a_target_has_no_others() -> None:
    kernel = parse_kernel(
        """
        kernel @k(%x: f32[12] in, %y: f32[12] out) scalars(%n: i64) {
          alloc %s: f32[12] shared
          for %i = 0 to 12 step 4 serial { copy 4 %s[%i] = %x[%i] if %i < %n commit }
          wait 0
          barrier
          for %j = 0 to 12 step 1 serial { store %y[%j] = load %s[%j] }
        }
        """
    )
    verify_kernel(kernel)
    target = host_target()
    loaded = load_object(compile_object(emit_kernels([kernel], target), target))
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(loaded.address("k"))
    x = np.arange(1, 13, dtype=np.float32)
    for n in (0, 5, 12):
        interpreted, compiled = np.full(12, 7, np.float32), np.full(12, 7, np.float32)
        run_kernel(kernel, [x, interpreted], [n])
        call(x.ctypes.data, compiled.ctypes.data, n)
        np.testing.assert_array_equal(compiled, np.where(np.arange(12) // 4 * 4 < n, x, 0))
        np.testing.assert_array_equal(interpreted, compiled)


def test_an_exchange_that_a_target_has_not_is_refused() -> None:
    kernel = parse_kernel(
        """
        kernel @k(%y: f32[128] out) {
          for %t = 0 to 32 step 1 thread {
            alloc %r: f32[4] reg
            exchange "llvm.nvvm.mma.m16n8k8.row.col.tf32"(
              1065353216:i32, 1065353216:i32, 1065353216:i32, 1065353216:i32, 1065353216:i32, 1065353216:i32,
              0.5, 0.5, 0.5, 0.5) to %r[0], %r[1], %r[2], %r[3]
            for %i = 0 to 4 step 1 unroll { store %y[%t * 4 + %i] = load %r[%i] }
          }
        }
        """
    )
    verify_kernel(kernel)
    result = np.zeros(128, np.float32)
    run_kernel(kernel, [result])
    np.testing.assert_array_equal(result, np.full(128, 8.5))
    np.testing.assert_array_equal(run(built(kernel), [np.zeros(128, np.float32)])[0], result)
    with pytest.raises(CompileError, match="expected an operation of target cpu"):
        emit_kernels([kernel], host_target())
