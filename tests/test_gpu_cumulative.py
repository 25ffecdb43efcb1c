"""Running sums, products and extrema on blocks of threads: odd sizes, both interpreters, extremes, gradients, resources.

The PTX interpreter reports races, bad addresses and missing barriers of its own accord.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx.assembler import assemble, assembled, find_assembler
from ptx.build import Built, run
from ptx.programs import BuiltProgram, build_program

import graphc
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.launch import launch_of
from graphc.codegen.object import compile_assembly
from graphc.codegen.schedules.gpu.cumulative import schedule_cumulative
from graphc.codegen.target import Target, target_from_name
from graphc.ir import ops
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_interp import run_kernel
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.plan import verify_plan
from graphc.ir.types import DType, TensorType, f32, f64, i32, i64, u8, u32

GPU = target_from_name("nvptx64")
ODD = (1, 31, 33, 127, 1000)
NAMES = ("recurrence", "sum", "cumulative_max", "cumulative_min")
DTYPES = (f64, f32, i64, i32, u32, u8)
needs_ptxas = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc)")


def region_of(name: str, shape: tuple[int, ...], axis: int, reverse: bool, dtype: DType = f32) -> Graph:
    """A cumulative op of stored operands; a sum is a recurrence whose factors are 1."""
    build = Builder()
    kind = TensorType(dtype, shape)
    count = 2 if name == "recurrence" else 1
    operands = [build.input(kind, f"x{i}") for i in range(count)]
    if name == "sum":
        operands.insert(0, build.splat(1, kind))
    op = {"sum": ops.recurrence}.get(name) or getattr(ops, name)
    node = build.emit(op, operands, {"axis": axis, "reverse": reverse})
    return build.graph("region", node.results)


def arrays_of(region: Graph, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(-1.1, 1.1, v.shape).astype(v.dtype.numpy)
        if v.dtype.is_float
        else rng.integers(0, 90, v.shape).astype(v.dtype.numpy)
        for v in region.inputs
    ]


def kernel_of(region: Graph, target: Target = GPU) -> Kernel:
    kernel = schedule_cumulative(region, target, {})
    verify_kernel(kernel)
    assert str(parse_kernel(str(kernel))) == str(kernel)
    return kernel


def ptx_of(kernel: Kernel, target: Target = GPU) -> Built:
    llvm = emit_kernels([kernel], target)
    return Built(kernel, llvm, assembled(compile_assembly(llvm, target)))


def expected(region: Graph, arrays: list[np.ndarray]) -> np.ndarray:
    """What numpy makes of it, floats in 64 bits."""
    (result,) = interpret(region, arrays, float64=True)
    return np.asarray(result)


def check(result: np.ndarray, want: np.ndarray) -> None:
    if result.dtype.kind == "f":
        tolerance = 3e-5 if result.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(result, want, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(result, want)


def launched(region: Graph, arrays: list[np.ndarray]) -> np.ndarray:
    """The kernel's PTX, run."""
    (value,) = region.outputs
    return run(ptx_of(kernel_of(region)), [*arrays, np.zeros(value.shape, value.dtype.numpy)])[-1]


# --------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", ODD)
def test_odd_lengths_in_both_interpreters(name: str, length: int, axis: int, reverse: bool) -> None:
    shape = (3, length) if axis else (length, 3)
    region = region_of(name, shape, axis, reverse)
    arrays = arrays_of(region)
    want = expected(region, arrays)
    interpreted = np.zeros(shape, np.float32)
    run_kernel(kernel_of(region), [*arrays, interpreted])
    check(interpreted, want)
    check(launched(region, arrays), want)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1025), (2, 2048), (1, 4100), (1, 9001), (2, 16388)])
def test_long_rows_are_scanned_by_whole_blocks(name: str, shape: tuple[int, int], reverse: bool) -> None:
    region = region_of(name, shape, 1, reverse)
    launch = launch_of(kernel_of(region))
    assert launch.grid[0] == shape[0] and launch.block[0] >= 128
    arrays = arrays_of(region)
    check(launched(region, arrays), expected(region, arrays))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
@pytest.mark.parametrize("shape", [(5, 33), (40, 6), (1, 3000)])
def test_every_data_type(name: str, dtype: DType, shape: tuple[int, int]) -> None:
    region = region_of(name, shape, 1, False, dtype)
    arrays = arrays_of(region)
    with np.errstate(over="ignore"):
        want = expected(region, arrays)
    check(launched(region, arrays), want)


@settings(max_examples=25)
@given(
    st.sampled_from(NAMES), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(0, 2),
    st.booleans(), st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_shape_and_axis(name: str, shape: list[int], axis: int, reverse: bool, dtype: DType) -> None:
    region = region_of(name, tuple(shape), axis % len(shape), reverse, dtype)
    arrays = arrays_of(region)
    check(launched(region, arrays), expected(region, arrays))


def test_short_rows_share_warps_and_columns_are_neighbours() -> None:
    launch = launch_of(kernel_of(region_of("sum", (4096, 10), 1, False)))
    assert (launch.grid[0], launch.block[0]) == (256, 256)  # 16 threads a row
    launch = launch_of(kernel_of(region_of("sum", (10, 4096), 0, False)))
    assert launch.grid[0] * launch.block[0] == 4096


def test_neighbouring_elements_of_long_rows_are_loaded_together() -> None:
    assert "ld.global.nc.v4" in ptx_of(kernel_of(region_of("sum", (3, 4096), 1, True))).ptx
    assert "ld.global.nc.v" not in ptx_of(kernel_of(region_of("sum", (3, 4097), 1, True))).ptx


# ------------------------------------------------------------------------------------------------------------ extremes


@pytest.mark.parametrize("length", [400, 4000])
def test_products_stay_zero_after_a_zero_however_large_the_factors(length: int) -> None:
    """The product of the factors alone leaves the range of every float."""
    region = region_of("recurrence", (1, length), 1, False)
    factors, terms = np.full((1, length), 1e30, np.float32), np.zeros((1, length), np.float32)
    assert (launched(region, [factors, terms]) == 0).all()


def test_products_from_very_small_to_very_large() -> None:
    """The product of two neighbouring factors doesn't fit in f32, the results do."""
    factors = np.array([[1e-30, 1e30, 1e30, 1e-30] * 300], np.float32)
    terms = np.zeros_like(factors)
    terms[0, 0] = 1e-30
    region = region_of("recurrence", factors.shape, 1, False)
    result = launched(region, [factors, terms])
    np.testing.assert_allclose(result, expected(region, [factors, terms]), rtol=3e-5)
    np.testing.assert_allclose(result, [[1e-30, 1, 1e30, 1] * 300], rtol=1e-3)


@pytest.mark.parametrize("length", [40, 2000])
def test_infinite_and_undefined_elements_are_those_of_serial_steps(length: int) -> None:
    factors = np.ones((4, length), np.float32)
    terms = np.ones((4, length), np.float32)
    factors[0, 7], factors[1, 9], terms[2, 11] = np.inf, np.nan, -np.inf
    factors[3, 0] = np.nan  # the first factor isn't used
    factors[0, 20] = 0  # infinity times 0
    region = region_of("recurrence", factors.shape, 1, False)
    (want,) = interpret(region, [factors, terms])
    np.testing.assert_array_equal(launched(region, [factors, terms]), want)


@pytest.mark.parametrize("name", ["cumulative_max", "cumulative_min"])
@pytest.mark.parametrize("axis", [0, 1])
def test_extrema_are_nan_from_the_first_nan_on(name: str, axis: int) -> None:
    region = region_of(name, (70, 1100), axis, False)
    (x,) = arrays_of(region)
    x[5, 600] = np.nan
    np.testing.assert_array_equal(launched(region, [x]), expected(region, [x]).astype(np.float32))


def test_the_sign_of_a_zero_survives() -> None:
    region = region_of("sum", (1, 3), 1, False)
    result = launched(region, [np.full((1, 3), -0.0, np.float32)])
    assert np.signbit(result).all()


# ------------------------------------------------------------------------------------------------------ whole programs


def program(function: Callable, x: np.ndarray) -> BuiltProgram:
    built = build_program(graphc.trace(function, x))
    verify_plan(built.plan)
    return built


FUNCTIONS: dict[str, Callable] = {
    "sum": graphc.cumulative_sum,
    "prod": graphc.cumulative_prod,
    "max": graphc.cumulative_max,
    "min": graphc.cumulative_min,
}


def derivative(name: str, axis: int, order: int) -> Callable:
    function = lambda x: FUNCTIONS[name](graphc.sin(x), axis=axis)  # noqa: E731
    for _ in range(order):
        function = graphc.grad(lambda x, inner=function: (inner(x) ** 2).sum())
    return function


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_whole_programs_and_their_derivatives(name: str, axis: int, order: int) -> None:
    x = np.random.default_rng(3).uniform(-1.5, 1.5, (5, 37)).astype(np.float32)
    built = program(derivative(name, axis, order), x)
    (want,) = interpret(built.graph, [x], float64=True)
    (got,) = built.run([x])
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * np.abs(want).max())


def test_an_operand_may_be_overwritten() -> None:
    x = np.random.default_rng(4).uniform(-1, 1, (5, 1500)).astype(np.float32)
    graph = graphc.trace(lambda x: graphc.cumulative_sum(graphc.sin(x), axis=1), x)
    built = build_program(graph, donated=((0, 0),))
    verify_plan(built.plan)
    check(built.run([x])[0], np.cumsum(np.sin(x.astype(np.float64)), axis=1))


# ----------------------------------------------------------------------------------------------------------- resources


@needs_ptxas
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_assemble_without_spills(name: str, arch: str) -> None:
    target = target_from_name(f"nvptx64:{arch}")
    for dtype in DTYPES:
        for shape in ((3, 10), (5, 33), (3, 1000), (2, 9001), (2, 16384)):
            for axis in (0, 1):
                kernel = kernel_of(region_of(name, shape, axis, True, dtype), target)
                (usage,) = assemble(ptx_of(kernel, target).ptx, arch).values()
                assert usage.spill_stores == usage.spill_loads == 0
                serial = dtype is f64 and name == "recurrence"  # a thread a row, whose loads are unrolled
                assert usage.registers <= (160 if serial else 64)


@needs_ptxas
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_assemble_without_spills(name: str) -> None:
    x = np.ones((5, 1000), np.float32)
    for usage in assemble(program(derivative(name, 1, 2), x).ptx, "sm_80").values():
        assert usage.spill_stores == usage.spill_loads == 0
