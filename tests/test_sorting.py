"""Sorting and what rests on it: NumPy's values and positions, derivatives, both targets, any length, one clear error."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx.programs import build_program
from test_array_functions import check, run

import graphc
from graphc.codegen.schedules.gpu import sort as gpu_sort
from graphc.errors import ArgumentError, GraphcError, ShapeError, TraceError
from graphc.frontend.array import Array
from graphc.ir.cost import operations
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.types import DType, f32, f64, i32, i64, u8, u32

RNG = np.random.default_rng(3)


def argsort_graph(dtype: DType, shape: tuple[int, ...], axis: int, descending: bool) -> Graph:
    build = Builder()
    return build.graph("f", [build.argsort(build.input(dtype[shape], "x"), axis=axis, descending=descending)])


def with_ties(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """Every value several times, and NaN, infinities and both zeros among floats."""
    x = RNG.integers(0, max(int(np.prod(shape)) // 3, 2), shape).astype(dtype.numpy)
    if dtype.is_float and x.size > 8:
        flat = x.reshape(-1)
        flat[RNG.integers(0, x.size, 6)] = [np.nan, np.nan, np.inf, -np.inf, -0.0, 0.0]
    return x


def expected(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """Positions by Python's own stable sort, NaN as the greatest."""

    def one(line: np.ndarray) -> list[int]:
        keys = [(bool(v != v), 0 if v != v else v.item()) for v in line]
        return (
            sorted(range(len(line)), key=keys.__getitem__, reverse=False)
            if not descending
            else sorted(range(len(line)), key=lambda i: (not keys[i][0], -keys[i][1]))
        )

    return np.apply_along_axis(one, axis, x).astype(np.int32) if x.size else np.zeros(x.shape, np.int32)


@pytest.mark.parametrize("dtype", [f32, f64, i32, u8], ids=repr)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 65, 300])
def test_compiled_positions_are_those_of_a_stable_sort(length: int, dtype: DType) -> None:
    for shape, axis in (((3, length), 1), ((length, 5), 0), ((2, length, 3), 1)):
        x = with_ties(shape, dtype)
        for descending in (False, True):
            graph = argsort_graph(dtype, shape, axis, descending)
            want = expected(x, axis, descending)
            np.testing.assert_array_equal(interpret(graph, [x])[0], want)
            np.testing.assert_array_equal(np.asarray(graphc.compile(graph)(x)), want)


@pytest.mark.parametrize("memory", ["shared", "scratch"])
@pytest.mark.parametrize(("dtype", "length"), [(f32, 64), (f32, 65), (f64, 130), (i32, 257), (f32, 700)])
def test_threads_sort_lines_of_any_length(
    dtype: DType, length: int, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the machine, which reports races; more lines than blocks, with memory shared by a block or not."""
    monkeypatch.setattr(gpu_sort, "_BLOCKS", 2)
    if memory == "scratch":
        monkeypatch.setattr(gpu_sort, "_SHARED_BYTES", 0)
    for shape, axis, descending in (((3, length), 1, False), ((length, 2), 0, True)):
        x = with_ties(shape, dtype)
        built = build_program(argsort_graph(dtype, shape, axis, descending))
        want = expected(x, axis, descending)
        np.testing.assert_array_equal(built.run([x])[0], want)
        if length == 65 and memory == "scratch" and axis == 0:
            np.testing.assert_array_equal(built.interpreted([x])[0], want)


@pytest.mark.parametrize("dtype", [i32, i64, u32, u8], ids=repr)
def test_integers_at_the_ends_of_their_range(dtype: DType) -> None:
    info = np.iinfo(dtype.numpy)
    ends = [info.max, info.min, 1, info.max - 1, info.max // 2 + 1, info.min + 1, 0]
    x = np.array(ends * 3, dtype.numpy).reshape(3, 7).T.copy()
    for axis in (0, 1):
        for descending in (False, True):
            graph = argsort_graph(dtype, x.shape, axis, descending)
            want = expected(x, axis, descending)
            np.testing.assert_array_equal(np.asarray(graphc.compile(graph)(x)), want)
            np.testing.assert_array_equal(build_program(graph).run([x])[0], want)
    line = np.array(ends * 9, dtype.numpy)
    graph = argsort_graph(dtype, line.shape, 0, False)
    np.testing.assert_array_equal(np.asarray(graphc.compile(graph)(line)), np.argsort(line, kind="stable"))


def test_threads_take_derivatives_of_sorted_values() -> None:
    x = RNG.permutation(np.linspace(-1, 1, 24)).reshape(4, 6).astype(np.float32)
    graph = graphc.trace(graphc.grad(lambda v: (graphc.sort(v, axis=0) ** 2 * np.arange(6)).sum()), x)
    np.testing.assert_allclose(build_program(graph).run([x])[0], interpret(graph, [x])[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"), [((6,), 0), ((3, 5), 1), ((4, 3), 0), ((2, 5, 3), 1), ((1, 4), 1)]
)
@pytest.mark.parametrize("order", [1, 2])
def test_a_cotangent_of_sorted_values_is_gathered_by_threads(
    shape: tuple[int, ...], axis: int, order: int
) -> None:
    weights = RNG.normal(size=shape).astype(np.float32)

    def loss(x: Array) -> Array:
        return (graphc.sort(x, axis=axis) ** 3 * weights).sum()

    def derived(x: Array) -> object:
        return graphc.grad(loss)(x) if order == 1 else graphc.hvp(loss, x, weights)

    x = RNG.normal(size=shape).astype(np.float32)
    graph = graphc.trace(derived, x)
    built = build_program(graph)
    assert "scatter" not in "".join(kernel.name for kernel in built.plan.kernels)
    (want,) = interpret(graph, [x], float64=True)
    for found in (built.interpreted([x]), built.run([x])):
        np.testing.assert_allclose(found[0], want, rtol=1e-5, atol=1e-6)


def test_a_scatter_by_other_positions_stays() -> None:
    def other(x: Array) -> Array:
        return graphc.grad(lambda x: (x[graphc.argsort(x) // 2] ** 2).sum())(x)  # type: ignore[return-value]

    def part(x: Array) -> Array:
        return graphc.grad(lambda x: (graphc.top_k(x, 3)[0] ** 2).sum())(x)  # type: ignore[return-value]

    x = RNG.normal(size=6).astype(np.float32)
    for f in (other, part):
        built = build_program(graphc.trace(f, x))
        assert "scatter" in "".join(kernel.name for kernel in built.plan.kernels)
        np.testing.assert_allclose(built.run([x])[0], interpret(built.graph, [x])[0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    line=st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0, np.nan, np.inf, -np.inf]), max_size=40),
    descending=st.booleans(),
)
def test_any_line(line: list[float], descending: bool) -> None:
    x = np.float32(line)
    graph = argsort_graph(f32, x.shape, 0, descending)
    np.testing.assert_array_equal(np.asarray(graphc.compile(graph)(x)), expected(x, 0, descending))


def test_the_kernel_is_the_same_from_run_to_run_and_counts_its_comparisons() -> None:
    graph = argsort_graph(f32, (3, 100), 1, False)
    assert operations(graph) == 3 * 100 * 7
    assert str(graphc.compile(graph).kernels) == str(graphc.compile(graph).kernels)


# ----------------------------------------------------------------------------------------------- the array functions


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint8, np.bool_])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort_and_argsort_agree_with_numpy(axis: int, dtype: type) -> None:
    x = RNG.integers(0, 9, (6, 5, 4)).astype(dtype)
    check(run(lambda v: graphc.sort(v, axis), x), np.sort(x, axis))
    check(run(lambda v: graphc.argsort(v, axis), x), np.argsort(x, axis, kind="stable"), np.int32)
    check(run(lambda v: np.sort(v, axis), x), np.sort(x, axis))
    check(run(lambda v: np.argsort(v, axis=axis), x), np.argsort(x, axis, kind="stable"), np.int32)
    check(run(lambda v: graphc.sort(v, axis, descending=True), x), np.flip(np.sort(x, axis), axis))
    check(run(lambda v: v.argsort(), x), np.argsort(x, kind="stable"), np.int32)


def test_nan_is_the_greatest() -> None:
    x = np.float32([2, np.nan, 1, np.nan, np.inf])
    check(run(graphc.sort, x), np.sort(x))
    check(run(lambda v: graphc.argsort(v, descending=True), x), [1, 3, 4, 0, 2], np.int32)
    check(run(lambda v: np.sort(v, None), x.reshape(5, 1)), np.sort(x))


def test_sort_in_compiled_code_with_what_comes_before_and_after() -> None:
    x = RNG.standard_normal((40, 30)).astype(np.float32)
    got = graphc.compile(lambda v: graphc.sort(graphc.tanh(v) * 2, axis=0) + 1, x)(x)
    np.testing.assert_allclose(np.asarray(got), np.sort(np.tanh(x) * 2, 0) + 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: graphc.sort(x**3, axis=0) * np.arange(12).reshape(4, 3),
        lambda x: graphc.sort(graphc.sin(x), descending=True) ** 2 * np.arange(3),
        lambda x: graphc.top_k(x * x, 2)[0] * x[:, :2],
        lambda x: graphc.quantile(x**3, [0.1, 0.6], axis=0) ** 2,
        lambda x: graphc.median(x * x) ** 2,
        lambda x: graphc.diff(x**3, n=2, axis=0),
    ],
)
def test_derivatives_of_order_one_and_two(fn: Callable[[Array], Array]) -> None:
    x = RNG.permutation(np.linspace(0.3, 2, 12)).reshape(4, 3)
    graphc.check_grads(fn, [x], order=2)


def test_a_cotangent_goes_to_where_the_element_came_from() -> None:
    x = np.float64([3, 1, 2, 1])
    got = run(lambda v: graphc.grad(lambda u: (graphc.sort(u) * np.float64([1, 10, 100, 1000])).sum())(v), x)
    assert np.asarray(got).tolist() == [1000, 1, 100, 10]


@pytest.mark.parametrize("largest", [True, False])
def test_top_k(largest: bool) -> None:
    x = RNG.integers(0, 6, (7, 9)).astype(np.float32)
    order = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :4]
    values, positions = run(lambda v: graphc.top_k(v, 4, largest=largest), x)  # type: ignore[misc]
    check(positions, order, np.int32)
    check(values, np.take_along_axis(x, order, 1))
    values, positions = run(lambda v: graphc.top_k(v, 0, axis=0), x)  # type: ignore[misc]
    assert np.asarray(values).shape == np.asarray(positions).shape == (0, 9)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 9, 31])
def test_searchsorted(n: int, side: str) -> None:
    x = np.sort(RNG.integers(0, 12, n)).astype(np.float32)
    v = np.float32([[-1, 0, 0.5, 3, 5], [7, 11, 12, np.inf, np.nan]])
    want = np.searchsorted(x, v, side=side)  # type: ignore[call-overload]
    check(run(lambda a, b: graphc.searchsorted(a, b, side=side), x, v), want, np.int32)
    check(run(lambda a, b: np.searchsorted(a, b, side=side), x, v), want, np.int32)  # type: ignore[call-overload]
    shuffled = RNG.permutation(x)
    order = np.argsort(shuffled, kind="stable").astype(np.int32)
    sorted_by = run(lambda a, b, s: graphc.searchsorted(a, b, side=side, sorter=s), shuffled, v, order)
    check(sorted_by, want, np.int32)
    got = graphc.compile(lambda a, b: graphc.searchsorted(a, b, side=side), x, v)(x, v)
    check(got, want, np.int32)
    checked = graphc.compile(lambda a, b: graphc.searchsorted(a, b, side=side), x, v, check="bounds")
    check(checked(x, v), want, np.int32)  # a search reads nothing out of range


def test_searchsorted_puts_nan_last_as_numpy() -> None:
    x = np.float32([1, 2, np.nan, np.nan])
    v = np.float32([0, 2, np.nan, np.inf])
    for side in ("left", "right"):
        want = np.searchsorted(x, v, side=side)  # type: ignore[call-overload]
        check(run(lambda a, b, s=side: graphc.searchsorted(a, b, side=s), x, v), want, np.int32)
    whole = np.int32([1, 3, 3, 9])
    check(run(lambda a: graphc.searchsorted(a, 3), whole), np.searchsorted(whole, 3), np.int32)


@pytest.mark.parametrize("method", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantiles_agree_with_numpy(method: str) -> None:
    x = RNG.standard_normal((5, 6, 3))
    for q, axis, keepdims in ((0.3, 0, False), ([0, 0.25, 1], (0, 2), True), ([[0.5], [0.9]], None, False)):
        want = np.quantile(x, q, axis=axis, method=method, keepdims=keepdims)  # type: ignore[call-overload]
        got = run(partial(graphc.quantile, q=q, axis=axis, method=method, keepdims=keepdims), x)
        check(got, want, tolerance=1e-12)
    check(run(lambda v: np.quantile(v, 0.2, axis=1), x), np.quantile(x, 0.2, axis=1), tolerance=1e-12)
    check(run(lambda v: np.percentile(v, 20, axis=1), x), np.percentile(x, 20, axis=1), tolerance=1e-12)
    check(run(lambda v: np.median(v, axis=1), x), np.median(x, axis=1), tolerance=1e-12)
    check(run(lambda v: graphc.median(v, axis=-1, keepdims=True), x), np.median(x, axis=-1, keepdims=True))


def test_a_quantile_of_nan_is_nan_and_of_integers_f32() -> None:
    x = np.float32([[1, np.nan, 3], [1, 2, 3]])
    check(run(lambda v: graphc.median(v, axis=1), x), np.median(x, axis=1))
    check(run(lambda v: graphc.median(v), np.int32([3, 1, 2, 8])), np.float32(2.5))
    infinite = np.float32([1, np.inf, np.inf])
    check(run(lambda v: graphc.quantile(v, 0.75), infinite), np.float32(np.inf))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_diff_agrees_with_numpy(dtype: type) -> None:
    x = RNG.integers(0, 2 if dtype is np.bool_ else 9, (4, 6)).astype(dtype)
    for n, axis in ((1, -1), (2, 0), (0, 1), (9, 1)):
        check(run(lambda v, n=n, axis=axis: graphc.diff(v, axis, n), x), np.diff(x, n, axis))
    check(run(lambda v: np.diff(v, axis=0, prepend=x[:2], append=v[:1]), x), np.diff(x, 1, 0, x[:2], x[:1]))
    if dtype is not np.bool_:
        check(run(lambda v: graphc.diff(v, prepend=dtype(3)), x), np.diff(x, prepend=dtype(3)))


# ------------------------------------------------------------------------------------------------------------ refused

X = np.ones((4, 6), np.float32)
WRONG: list[tuple[Callable[[Array], object], type[GraphcError], str]] = [
    (lambda x: graphc.sort(x, axis=2), ShapeError, "sort: expected an axis within rank 2, got 2"),
    (lambda x: graphc.sort(x[0, 0]), ShapeError, "sort: expected an axis within rank 0, got -1"),
    (lambda x: graphc.top_k(x, 7), ShapeError, "top_k: k: expected 0 to 6 elements, got 7"),
    (lambda x: graphc.searchsorted(x, 1.0), ShapeError, r"searchsorted: expected a sorted array of rank 1, got f32\[4,6\]"),
    (lambda x: graphc.searchsorted(x[0], 1.0, side="up"), ArgumentError, "searchsorted: side: expected 'left' or 'right'"),
    (lambda x: graphc.searchsorted(x[0], 1.0, sorter=x[0]), ShapeError, r"sorter: expected integers of shape \[6\], got f32"),
    (lambda x: graphc.quantile(x, 1.5), ArgumentError, "quantile: q: expected numbers from 0 to 1, got 1.5"),
    (lambda x: graphc.quantile(x, "0.5"), ArgumentError, "quantile: q: expected numbers from 0 to 1, got '0.5'"),
    (lambda x: graphc.quantile(x, x[0, 0]), TraceError, "quantile: q: expected Python numbers, got a traced value"),
    (lambda x: graphc.quantile(x, 0.5, method="weibull"), ArgumentError, "quantile: method: expected one of linear"),
    (lambda x: graphc.percentile(x, 101), ArgumentError, "percentile: q: expected numbers from 0 to 100, got 101"),
    (lambda x: graphc.median(x[:0]), ShapeError, "median: expected at least one element along axes"),
    (lambda x: graphc.diff(x, n=-1), ShapeError, "diff: n: expected a number of at least 0, got -1"),
    (lambda x: x.sort(), TraceError, "sort: expected a Python value, .*; use graphc.sort"),
    (lambda x: graphc.nonzero(x), TraceError, "nonzero: expected a function whose result has a static shape"),
    (lambda x: x.nonzero(), TraceError, "nonzero: .* use graphc.where"),
    (lambda x: np.nonzero(x), TraceError, "nonzero: expected a function whose result has a static shape"),
    (lambda x: np.unique(x), TraceError, "unique_values: expected .* use graphc.sort"),
    (lambda x: graphc.unique_all(x), TraceError, "unique_all: expected .* depends on their numbers"),
    (lambda x: graphc.unique_counts(x), TraceError, "unique_counts: expected"),
    (lambda x: graphc.unique_inverse(x), TraceError, "unique_inverse: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "error", "text"), WRONG)
def test_wrong_arguments_raise_one_error_with_the_line(
    fn: Callable[[Array], object], error: type[GraphcError], text: str
) -> None:
    with pytest.raises(error, match=re.escape(__file__) + r":\d+: .*" + text):
        run(fn, X)


def test_the_op_refuses_wrong_attributes() -> None:
    build = Builder()
    x = build.input(f32[2, 3], "x")
    with pytest.raises(ShapeError, match="argsort: expected an axis within rank 2, got 2"):
        build.argsort(x, axis=2, descending=False)
    with pytest.raises(ShapeError, match="argsort: descending: expected true or false, got 1"):
        build.argsort(x, axis=1, descending=1)


def test_streams_order_along_other_axes_than_time() -> None:
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    stream = graphc.streaming(lambda v: graphc.argsort(v, axis=0), x, block=2)
    got = np.concatenate(
        [np.asarray(stream(np.ascontiguousarray(x[:, t : t + 2]))) for t in range(0, 8, 2)], 1
    )
    np.testing.assert_array_equal(got, np.argsort(x, 0))
    with pytest.raises(TraceError, match="streaming: expected a sort along another axis than time"):
        graphc.streaming(lambda v: graphc.argsort(v, axis=1), x, block=2)
