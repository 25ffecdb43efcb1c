"""Whole graphs on blocks of threads: every op, every kind of region, odd sizes, training steps, random graphs.

The PTX runs in the machine, which reports races, bad accesses and missing barriers; what a schedule says is also run by
the kernel interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from test_compiled_ops import Case, assert_same, cases
from test_random_graphs import Drawn, arguments, assert_close, graphs, some

import graphc
from graphc import f32
from graphc.codegen import stages
from graphc.codegen.launch import launch_of
from graphc.codegen.target import target_from_name, with_arch
from graphc.errors import ArgumentError, DeviceError, TargetError
from graphc.frontend import activations, losses
from graphc.frontend.optim import SGD, Adam
from graphc.frontend.tracer import trace_function
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.kernel import For
from graphc.ir.kernel_print import statements
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.plan import verify_plan
from graphc.ir.types import DType, TensorType, f64, i32, i64
from graphc.passes.vjp import vjp
from ptx.assembler import assemble, find_assembler
from ptx.programs import BuiltProgram, build_program

RNG = np.random.default_rng(11)
ODD = (1, 31, 33, 127, 1000)


def numbers(*shape: int, dtype: DType = f32) -> np.ndarray:
    return (RNG.standard_normal(shape) * 3).astype(dtype.numpy)


def checked(graph: Graph, donated: tuple[tuple[int, int], ...] = ()) -> BuiltProgram:
    """The built program, whose plan and kernels are valid and come back from their text."""
    built = build_program(graph, donated)
    verify_plan(built.plan)
    for kernel in built.plan.kernels:
        verify_kernel(kernel)
        assert str(parse_kernel(str(kernel))) == str(kernel)
    return built


def runs(
    graph: Graph, arrays: Sequence[np.ndarray], tolerance: float = 2e-5, interpreted: bool = False
) -> BuiltProgram:
    """Compares the PTX (and the interpreted kernels) with the interpreted graph."""
    built, want = checked(graph), interpret(graph, arrays, float64=True)
    assert_close(built.run(arrays), want, tolerance)
    if interpreted:
        assert_close(built.interpreted(arrays), want, tolerance)
    return built


@pytest.mark.parametrize("case", cases())
def test_every_op_in_ptx_equals_the_interpreter(case: Case) -> None:
    graph, arrays = case.graph(), case.sample.arrays
    assert_same(checked(graph).run(arrays), interpret(graph, arrays))


@pytest.mark.parametrize("case", cases([f32, i32]))
def test_every_op_s_kernels_for_threads_interpret_as_the_graph(case: Case) -> None:
    graph, arrays = case.graph(), case.sample.arrays
    assert_same(checked(graph).interpreted(arrays), interpret(graph, arrays))


# Maps


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("rows", [1, 3])
def test_maps_of_any_size(rows: int, columns: int) -> None:
    build = Builder()
    x, y = build.input(f32[rows, columns], "x"), build.input(f32[columns], "y")
    spread = build.broadcast(y, dims=(1,), shape=(rows, columns))
    flipped = build.transpose(build.mul(x, spread), perm=(1, 0))
    graph = build.graph("f", [build.tanh(build.add(x, spread)), build.exp(build.neg(build.abs(flipped)))])
    runs(graph, [numbers(rows, columns), numbers(columns)], interpreted=rows * columns < 100)


def test_neighbouring_elements_are_loaded_together_where_the_last_dimension_allows_it() -> None:
    def loads(columns: int) -> str:
        build = Builder()
        x, y = build.input(f32[5, columns], "x"), build.input(f32[columns], "y")
        total = build.add(x, build.broadcast(y, dims=(1,), shape=(5, columns)))
        return build_program(build.graph("f", [total])).ptx

    assert "ld.global.nc.v4" in loads(64) and "st.global.v4" in loads(64)
    assert "v4" not in loads(66) and "ld.global.nc.v2" in loads(66)
    assert "v2" not in loads(65) and "v4" not in loads(65)


def test_large_maps_go_on_in_steps_of_the_grid() -> None:
    build = Builder()
    graph = build.graph("f", [build.neg(build.input(f32[1 << 24], "x"))])
    (kernel,) = build_program(graph).plan.kernels
    launch = launch_of(kernel)
    blocks = math.prod(launch.grid) * math.prod(launch.block)
    assert blocks * 4 < 1 << 24
    assert any(isinstance(s, For) and s.binding == "serial" for s in statements(kernel.body))


# Reductions


def softmax(build: Builder, x: Value, axis: int) -> list[Value]:
    kept = tuple(d for d in range(x.type.rank) if d != axis)

    def spread(value: Value) -> Value:
        return build.broadcast(value, dims=kept, shape=x.shape)

    e = build.exp(build.sub(x, spread(build.reduce_max(x, axes=(axis,)))))
    total = build.reduce_sum(e, axes=(axis,))
    return [build.div(e, spread(total)), build.log(total)]


def variance(build: Builder, x: Value, axes: tuple[int, ...]) -> list[Value]:
    kept = tuple(d for d in range(x.type.rank) if d not in axes)
    share = build.splat(
        1 / math.prod(x.shape[d] for d in axes), TensorType(x.dtype, tuple(x.shape[d] for d in kept))
    )
    mean = build.mul(build.reduce_sum(x, axes=axes), share)
    apart = build.sub(x, build.broadcast(mean, dims=kept, shape=x.shape))
    return [build.reduce_sum(build.mul(apart, apart), axes=axes), mean, apart]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", ODD[:4])
@pytest.mark.parametrize("columns", ODD)
def test_rows_and_columns_of_any_length(rows: int, columns: int, axis: int) -> None:
    build = Builder()
    x = build.input(f32[rows, columns], "x")
    outputs = [*softmax(build, x, axis), *variance(build, x, (axis,)), build.argmax(x, axes=(axis,))]
    array = np.round(numbers(rows, columns))  # with ties
    runs(build.graph("f", outputs), [array], 1e-4, interpreted=rows * columns < 100)


@pytest.mark.parametrize("shape", [(2, 3000), (3, 4096), (1, 20000), (4097, 1), (5, 7, 11), (300, 40)])
def test_reductions_over_everything_and_over_long_rows(shape: tuple[int, ...]) -> None:
    build = Builder()
    x = build.input(f32[shape], "x")
    everything = tuple(range(len(shape)))
    outputs = [
        *variance(build, x, everything),
        *softmax(build, x, len(shape) - 1),
        build.reduce_max(build.neg(x), axes=(0,)),
    ]
    runs(build.graph("f", outputs), [numbers(*shape)], 1e-4)


@pytest.mark.parametrize("dtype", [f32, f64, i32, i64], ids=repr)
@pytest.mark.parametrize("axis", [0, 1])
def test_index_reductions_take_the_first_of_equal_elements_and_the_first_nan(dtype: DType, axis: int) -> None:
    build = Builder()
    x = build.input(dtype[10, 40], "x")
    graph = build.graph("f", [build.argmax(x, axes=(axis,)), build.argmin(x, axes=(axis,))])
    array = RNG.integers(-3, 4, (10, 40)).astype(dtype.numpy)
    array[7] = array[7, 0]
    if dtype.is_float:
        array[5, 5:] = np.nan
        array[9] = -np.inf
        array[:, 3] = np.inf
    built = checked(graph)
    for got in (built.run([array]), built.interpreted([array])):
        for a, b in zip(got, interpret(graph, [array]), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut where they are short already."""
    monkeypatch.setattr(stages, "_ROW_PART", 16)
    monkeypatch.setattr(stages, "_COLUMN_PART", 4)
    monkeypatch.setattr(stages, "_ENOUGH_BLOCKS", 64)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("shape", [(1, 1000), (64, 64), (257, 3), (127, 10)])
def test_long_sums_in_two_stages(short_stages: None, shape: tuple[int, int], axes: tuple[int, ...]) -> None:
    build = Builder()
    x, w = build.input(f32[shape], "x"), build.input(f32[shape[1]], "w")
    positive = build.max(build.mul(x, build.broadcast(w, dims=(1,), shape=shape)), build.splat(0.0, x.type))
    total = build.reduce_sum(positive, axes=axes)
    outputs = [build.mul(total, total), build.reduce_max(build.neg(x), axes=axes), positive]
    built = runs(build.graph("f", outputs), [numbers(*shape), numbers(shape[1])], 1e-4)
    long = math.prod(shape[d] for d in axes) >= 64
    assert not long or sum(k.name.startswith("reduce") for k in built.plan.kernels) > 1


def test_the_cut_of_a_long_sum_is_not_cut_again() -> None:
    build = Builder()
    x = build.input(f32[70000, 40], "x")
    graph = build.graph("f", [build.reduce_sum(x, axes=(0,)), build.reduce_sum(x, axes=(0, 1))])
    from graphc.passes.fuse import fuse

    once = stages.by_stages(fuse(graph))
    assert stages.by_stages(once) == once
    assert len(once.nodes) == 4


# Contractions with their by-products


def test_a_layer_with_its_gradients_has_regions_that_threads_can_run() -> None:
    def layer(x: graphc.Array, w: graphc.Array, b: graphc.Array) -> graphc.Array:
        return graphc.tanh(x @ w.T + b).sum()

    traced = trace_function(
        lambda *a: graphc.value_and_grad(layer, (0, 1, 2))(*a), (f32[33, 17], f32[31, 17], f32[31]), None
    ).graph
    runs(traced, [numbers(33, 17) / 9, numbers(31, 17) / 9, numbers(31)], 1e-4)


def test_products_that_share_an_operand_have_kernels_of_their_own() -> None:
    build = Builder()
    x = build.input(f32[20, 9], "x")
    none: tuple[int, ...] = ()
    heads = [
        build.contract(x, build.input(f32[9, n], f"w{n}"), axes=((1,), (0,)), batch=(none, none))
        for n in (3, 5)
    ]
    built = runs(build.graph("f", heads), [numbers(20, 9), numbers(9, 3), numbers(9, 5)])
    assert len(built.plan.kernels) == 2


# Gather and scatter


@pytest.mark.parametrize("dtype", [f32, f64, i64], ids=repr)
@pytest.mark.parametrize("count", [1, 40, 500])
def test_scatter_adds_in_order_and_drops_what_is_out_of_range(dtype: DType, count: int) -> None:
    build = Builder()
    x, updates = build.input(dtype[33, 7], "x"), build.input(dtype[count, 7], "updates")
    indices = build.input(i32[count], "indices")
    graph = build.graph(
        "f", [build.scatter_add(x, indices, updates, axis=0), build.gather(x, indices, axis=0)]
    )
    picked = RNG.integers(-5, 40, count).astype(np.int32)
    picked[-1] = np.iinfo(np.int32).max
    arrays = [numbers(33, 7, dtype=dtype), numbers(count, 7, dtype=dtype), picked]
    built, want = checked(graph), interpret(graph, arrays)
    for got in (built.run(arrays), built.interpreted(arrays)):
        for a, b in zip(got, want, strict=True):  # in the order of the indices: the same bits
            np.testing.assert_array_equal(a, b)


def test_a_donated_operand_is_scattered_to_in_place() -> None:
    build = Builder()
    x, indices, updates = build.input(f32[50], "x"), build.input(i32[9], "i"), build.input(f32[9], "u")
    graph = build.graph("f", [build.scatter_add(x, indices, updates, axis=0)])
    built = checked(graph, ((0, 0),))
    arrays = [numbers(50), RNG.integers(0, 50, 9).astype(np.int32), numbers(9)]
    np.testing.assert_array_equal(built.run(arrays)[0], interpret(graph, arrays)[0])
    assert "inout" in str(built.plan.kernels[0])


# Training steps


def training_step(sizes: tuple[int, ...], batch: int, activation: str, adam: bool, classes: bool) -> tuple:
    """A graph that updates donated parameters, its donated pairs, and arrays for it."""
    optimizer = Adam(0.01) if adam else SGD(0.01, momentum=0.9)
    parameters = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        parameters[f"weight{i}"] = (RNG.standard_normal((fan_out, fan_in)) * fan_in**-0.5).astype(np.float32)
        parameters[f"bias{i}"] = numbers(fan_out) / 9
    x = numbers(batch, sizes[0]) / 3
    y = RNG.integers(0, sizes[-1], batch).astype(np.int32) if classes else numbers(batch, sizes[-1])

    def loss(p: dict, x: graphc.Array, y: graphc.Array) -> graphc.Array:
        h = x
        for i in range(len(sizes) - 1):
            h = h @ p[f"weight{i}"].T + p[f"bias{i}"]
            if i + 2 < len(sizes):
                h = graphc.tanh(h) if activation == "tanh" else getattr(activations, activation)(h)
        return losses.cross_entropy(h, y) if classes else losses.mse(h, y)

    def step(p: dict, state: dict, x: graphc.Array, y: graphc.Array, rate: graphc.Array) -> tuple:
        value, gradients = graphc.value_and_grad(loss)(p, x, y)
        return value, *optimizer.update(p, gradients, state, rate)

    given = (parameters, optimizer.init(parameters), x, y, np.float32(0.01))
    compiled = graphc.compile(step, *given, donate=("p", "state"), target="cuda")
    arrays = [np.asarray(a) for a in _leaves(given)]
    return compiled, arrays


def _leaves(value: object) -> list[np.ndarray]:
    if isinstance(value, dict):
        return [a for v in value.values() for a in _leaves(v)]
    if isinstance(value, (tuple, list)):
        return [a for v in value for a in _leaves(v)]
    return [value]  # type: ignore[list-item]


STEPS = [
    ((20, 33, 31, 10), 32, "relu", False, True),
    ((12, 17, 5), 127, "gelu", True, False),
    ((33, 8), 7, "tanh", True, True),
    ((40, 64, 1), 1, "sigmoid", False, False),
]


@pytest.mark.parametrize(("sizes", "batch", "activation", "adam", "classes"), STEPS, ids=str)
def test_training_steps(
    sizes: tuple[int, ...], batch: int, activation: str, adam: bool, classes: bool
) -> None:
    compiled, arrays = training_step(sizes, batch, activation, adam, classes)
    donated = compiled.info.donated
    built = checked(compiled.graph, donated)
    assert built.ptx == compiled.ptx
    assert_close(built.run(arrays), interpret(compiled.graph, arrays, float64=True), 1e-4)


@some(12)
@given(graphs(f32, count=30))
def test_random_graphs(drawn: Drawn) -> None:
    runs(drawn.graph, arguments(drawn.graph.input_types), 2e-4)


@some(12)
@given(graphs(f64, smooth=True))
def test_gradients_of_random_graphs(drawn: Drawn) -> None:
    graph = vjp(drawn.graph)
    runs(graph, arguments(graph.input_types), 1e-9)


@some(8)
@given(graphs(f64, count=20))
def test_kernels_for_threads_of_random_graphs_interpret_as_the_graph(drawn: Drawn) -> None:
    graph = drawn.graph
    arrays = arguments(graph.input_types)
    assert_close(checked(graph).interpreted(arrays), interpret(graph, arrays), 1e-9)


# The assembler, and the driver's side


@pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc-cu12)")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("sizes", "batch", "activation", "adam", "classes"), STEPS, ids=str)
def test_training_steps_assemble_without_spills(
    sizes: tuple[int, ...], batch: int, activation: str, adam: bool, classes: bool, arch: str
) -> None:
    graph = training_step(sizes, batch, activation, adam, classes)[0].graph
    ptx = build_program(graph, target=with_arch(target_from_name("nvptx64"), arch)).ptx
    assert f".target {arch}" in ptx
    for name, usage in assemble(ptx, arch).items():
        assert usage.spill_stores == usage.spill_loads == usage.stack_bytes == 0, name


def test_architectures_are_chosen_by_name() -> None:
    assert target_from_name("nvptx64").cpu == "sm_80"
    assert target_from_name("nvptx64:sm_90").cpu == "sm_90"
    with pytest.raises(TargetError, match=r"target nvptx64: expected one of sm_80, .*, got 'sm_35'"):
        target_from_name("nvptx64:sm_35")
    with pytest.raises(TargetError, match="target wasm32: expected no architecture, got 'sm_80'"):
        target_from_name("wasm32:sm_80")
    assert ".target sm_90" in graphc.compile(lambda x: x + 1, f32[8], target="cuda:sm_90").ptx


def test_a_program_for_a_gpu_shows_its_stages_and_has_no_object() -> None:
    compiled = graphc.compile(lambda x: graphc.exp(x), f32[8], target="cuda")
    assert ".visible .entry map0" in compiled.ptx == compiled.asm
    assert "@map0" in compiled.llvm and "_run" not in compiled.llvm
    with pytest.raises(ArgumentError, match="is PTX: it has no object"):
        _ = compiled.object_code
    with pytest.raises(ArgumentError, match="expected a program compiled for 'cuda'"):
        _ = graphc.compile(lambda x: graphc.exp(x), f32[8]).ptx


def test_without_a_driver_a_program_compiles_and_a_call_says_what_is_missing() -> None:
    compiled = graphc.compile(lambda x: x * 3, f32[8], target="cuda")
    try:
        result = compiled(np.ones(8, np.float32))
    except DeviceError as error:
        assert "libcuda" in str(error) or "cuda" in str(error)
    else:
        np.testing.assert_array_equal(result, np.full(8, 3, np.float32))
