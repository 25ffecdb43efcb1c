"""The array API standard: its page is today's, what it says is true, and what came with it agrees with NumPy."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from test_array_functions import check, real, run, whole

import graphc
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError, TraceError
from graphc.frontend import array_api, floats
from graphc.frontend.array import Array
from graphc.ir.types import bool_, f32, f64, i32, i64, u8, u32

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("array_api_page", DOCS / "array_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_todays(generator: ModuleType) -> None:
    assert (DOCS / "array-api.md").read_text(encoding="utf-8") == generator.page()


def test_every_function_that_the_page_has_is_reachable_and_every_refused_one_refuses(
    generator: ModuleType,
) -> None:
    for title, names in generator.SECTIONS.items():
        for name in names.split():
            there, _ = generator.status(title, name)
            if there and title.endswith("functions"):
                assert callable(getattr(graphc, name)) and getattr(graphc, name) is getattr(array_api, name)
    x = np.ones(3, np.float32)
    for name in ("nonzero", *generator.SECTIONS["Set functions"].split()):
        with pytest.raises(
            TraceError, match=re.escape(__file__) + rf":\d+: {name}: expected a function whose result"
        ):
            run(lambda v, n=name: getattr(graphc, n)(v), x)


def test_a_traced_array_gives_the_namespace() -> None:
    def generic(x: Array) -> Array:
        xp = x.__array_namespace__(api_version="2024.12")
        assert xp is graphc.array_api and xp.float32 is f32 and xp.bool is bool_
        return xp.sum(xp.astype(x[xp.newaxis, :], xp.float64) * xp.pi, axis=-1)

    x = real(5)
    check(run(generic, x), (x[None].astype(np.float64) * math.pi).sum(-1), tolerance=1e-12)
    with pytest.raises(
        ArgumentError, match=r"__array_namespace__: expected a version from 2021.12 to 2024.12, got '2025.12'"
    ):
        run(lambda v: v.__array_namespace__(api_version="2025.12"), x)
    with pytest.raises(AttributeError, match="no attribute 'complex64'"):
        _ = array_api.complex64


def test_inspection() -> None:
    info = array_api.__array_namespace_info__()
    assert info.default_dtypes() == {
        "real floating": f32, "complex floating": None, "integral": i32, "indexing": i32,
    }  # fmt: skip
    assert info.dtypes(kind="real floating") == {"float32": f32, "float64": f64}
    assert (
        info.dtypes(kind=("bool", "signed integer")).items()
        >= {"bool": bool_, "int32": i32, "int64": i64}.items()
    )
    assert info.capabilities() == {
        "boolean indexing": False,
        "data-dependent shapes": False,
        "max dimensions": None,
    }
    assert info.devices() == [info.default_device()]


# ------------------------------------------------------------------------------------------------------ elementwise

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.5, -3.5, np.inf, -np.inf, np.nan]


def pairs(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    info = np.finfo(dtype)
    tiny = [
        float(info.smallest_subnormal),
        float(info.tiny),
        float(info.max),
        -float(info.max),
        1e-6,
        -float(info.tiny),
    ]
    values = np.array([*SPECIAL, *tiny, *np.random.default_rng(2).uniform(-9, 9, 20)], dtype)
    a, b = np.meshgrid(values, values)
    return a.reshape(-1), b.reshape(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["copysign", "nextafter", "hypot"])
def test_binary_functions_of_floats_agree_with_numpy(name: str, dtype: type) -> None:
    a, b = pairs(dtype)
    if name == "copysign":  # the sign of a NaN is not looked at
        a, b = a[~np.isnan(b)], b[~np.isnan(b)]
    with np.errstate(all="ignore"):
        want = getattr(np, name)(a, b)
    for fn in (getattr(graphc, name), getattr(np, name)):
        got = np.asarray(run(fn, a, b))
        compiled = np.asarray(graphc.compile(lambda x, y, f=fn: f(x, y), a, b)(a, b))
        for found in (got, compiled):
            if name == "hypot":
                np.testing.assert_allclose(found, want, rtol=4 * np.finfo(dtype).eps, atol=0)
                continue
            np.testing.assert_array_equal(found, want)
            numbers = ~np.isnan(want)
            assert (np.signbit(found) == np.signbit(want))[numbers].all()
    assert np.asarray(run(getattr(graphc, name), a, b)).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_of_many_numbers(dtype: type) -> None:
    rng = np.random.default_rng(4)
    info = np.finfo(dtype)
    spread = (
        rng.choice([-1, 1], 4000) * 2.0 ** rng.uniform(info.minexp - info.nmant, info.maxexp - 1e-3, 4000)
    ).astype(dtype)
    powers = (2.0 ** np.arange(info.minexp - info.nmant, info.maxexp)).astype(dtype)
    for x in (spread, powers, -powers):
        for towards in (np.inf, -np.inf, 0.0):
            want = np.nextafter(x, dtype(towards))
            np.testing.assert_array_equal(
                np.asarray(graphc.compile(lambda v, t=towards: graphc.nextafter(v, t), x)(x)), want
            )


def test_signs_and_parts() -> None:
    x = np.float32(SPECIAL)
    want = np.signbit(x) & ~np.isnan(x)
    check(run(graphc.signbit, x), want)
    check(run(np.signbit, x), want)
    check(graphc.compile(graphc.signbit, x)(x), want)
    y = real(3, 4)
    for name, value in (("real", y), ("conj", y), ("imag", 0 * y)):
        check(run(getattr(graphc, name), y), value)
    check(run(np.real, y), y)
    check(run(np.imag, y), np.zeros_like(y))
    check(run(graphc.copysign, np.int32([3, -4]), np.float32([-1, 1])), np.float64([-3, 4]))


def test_hypot_and_copysign_have_derivatives() -> None:
    x, y = np.float64([3.0, -1.0, 0.5, 2.0]), np.float64([4.0, 1.0, -2.5, 2.0])
    graphc.check_grads(graphc.hypot, [x, y], order=2)
    graphc.check_grads(lambda a, b: graphc.copysign(a, b) ** 2 * b, [x, y], order=2)
    got = run(graphc.grad(lambda a: graphc.nextafter(a, 9.0).sum()), x)
    assert np.asarray(got).tolist() == [0, 0, 0, 0]
    big = np.float32([3e30])
    check(run(graphc.hypot, big, big), np.hypot(big, big))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erfinv_is_the_inverse_of_erf(dtype: type) -> None:
    y = np.linspace(-2.5, 2.5, 101).astype(dtype)
    x = np.vectorize(math.erf)(y.astype(np.float64)).astype(dtype)
    inside = np.abs(x) < (1 if dtype is np.float64 else 0.999)
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for found in (run(graphc.erfinv, x), graphc.compile(graphc.erfinv, x)(x)):
        np.testing.assert_allclose(np.asarray(found)[inside], y[inside], rtol=100 * tolerance, atol=tolerance)
    ends = dtype([1, -1, 1.5, np.nan, 0.0, -0.0])
    got = np.asarray(graphc.compile(graphc.erfinv, ends)(ends))
    np.testing.assert_array_equal(got, [np.inf, -np.inf, np.nan, np.nan, 0, 0])
    assert np.signbit(got[-1])
    graphc.check_grads(graphc.erfinv, [np.linspace(-0.9, 0.9, 7)], order=2)


# ----------------------------------------------------------------------------------------- creation, sums, data types


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_meshgrid(indexing: str, dtype: type) -> None:
    for lengths in ((3,), (3, 4), (2, 3, 4), ()):
        arrays = [np.arange(n).astype(dtype) for n in lengths]
        for fn in (graphc.meshgrid, np.meshgrid):
            if not lengths:
                continue
            got = run(lambda *x, f=fn: tuple(f(*x, indexing=indexing)), *arrays)
            for ours, numpy in zip(got, np.meshgrid(*arrays, indexing=indexing), strict=True):  # type: ignore[call-overload]
                check(ours, numpy)


def test_empty_arrays_are_zeros_and_dlpack_arrays_are_constants() -> None:
    x = real(2, 3)
    check(run(lambda v: graphc.empty((2, 3)) + v, x), x)
    check(run(lambda v: graphc.empty_like(v), x), 0 * x)
    check(run(lambda v: np.empty_like(v), x), 0 * x)
    check(run(lambda v: graphc.from_dlpack(x) + v, x), 2 * x)
    check(run(lambda v: graphc.from_dlpack(v), x), x)
    check(run(lambda v: graphc.reshape(graphc.asarray(v, copy=True), (6,), copy=False), x), x.reshape(6))
    check(run(lambda v: graphc.astype(v, f64, copy=False), x), x.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_running_sums_and_products_after_that_of_nothing(dtype: type) -> None:
    x = whole(3, 5, low=-3, high=4, dtype=dtype)
    check(
        run(lambda v: graphc.cumulative_sum(v, axis=1, include_initial=True), x),
        np.insert(np.cumsum(x, 1, dtype), 0, 0, 1),
    )
    check(
        run(lambda v: graphc.cumulative_prod(v, axis=0, include_initial=True), x),
        np.insert(np.cumprod(x, 0, dtype), 0, 1, 0),
    )


def test_limits_of_data_types() -> None:
    for ours, numpy in ((f32, np.float32), (f64, np.float64)):
        limits, info = graphc.finfo(ours), np.finfo(numpy)
        assert (limits.eps, limits.max, limits.min, limits.smallest_normal, limits.bits) == (
            info.eps, info.max, info.min, info.smallest_normal, info.bits,
        )  # fmt: skip
        assert limits.dtype is ours and graphc.finfo(numpy) == limits == graphc.finfo(np.zeros(1, numpy))
    for integer, width in ((i32, np.int32), (i64, np.int64), (u8, np.uint8), (u32, np.uint32)):
        assert (graphc.iinfo(integer).min, graphc.iinfo(integer).max) == (
            np.iinfo(width).min,
            np.iinfo(width).max,
        )
    seen = []
    run(lambda x: seen.append(graphc.finfo(x).bits) or x, np.ones(2))
    assert seen == [64]


def test_kinds_and_promotion_of_data_types() -> None:
    kinds = (
        "bool",
        "signed integer",
        "unsigned integer",
        "integral",
        "real floating",
        "complex floating",
        "numeric",
    )
    names = {
        f32: np.float32,
        f64: np.float64,
        i32: np.int32,
        i64: np.int64,
        u8: np.uint8,
        u32: np.uint32,
        bool_: np.bool_,
    }
    for ours, numpy in names.items():
        for kind in kinds:
            assert graphc.isdtype(ours, kind) == np.isdtype(numpy, kind)  # type: ignore[arg-type]
        assert graphc.isdtype(ours, (f32, "bool")) == (ours in (f32, bool_))
        for other, wide in names.items():
            assert graphc.result_type(ours, other).numpy == np.result_type(numpy, wide)
            assert graphc.can_cast(ours, other) == np.can_cast(numpy, wide)
    assert graphc.result_type(i32, 1.5) is f32 and graphc.result_type(np.zeros(2, np.uint8), 3) is u8
    assert graphc.result_type(2, True) is i32


# -------------------------------------------------------------------------------------------------------------- refused

X = np.ones((2, 3), np.float32)
WRONG: list[tuple[Callable[[Array], object], type[GraphcError], str]] = [
    (lambda x: graphc.signbit(x > 0), DTypeError, "signbit: expected floats, got bool"),
    (lambda x: graphc.nextafter(np.int32([1]), np.int32([1])), DTypeError, "nextafter: expected floats, got i32"),
    (lambda x: graphc.real(x > 0), DTypeError, "real: expected numbers, got bools"),
    (lambda x: graphc.imag(x > 0), DTypeError, "imag: expected numbers, got bools"),
    (lambda x: graphc.meshgrid(x, x), ShapeError, r"meshgrid: expected arrays of rank 1, got f32\[2,3\]"),
    (lambda x: graphc.meshgrid(x[0], indexing="ji"), ArgumentError, "meshgrid: indexing: expected 'xy' or 'ij', got 'ji'"),
    (lambda x: graphc.from_dlpack(3), TraceError, "from_dlpack: expected an array on the CPU, got int"),
    (lambda x: x.to_device("cpu"), TraceError, "to_device: expected a Python value, .* use the target of graphc.compile"),
    (lambda x: np.from_dlpack(x), TraceError, "dlpack: expected a Python value"),
    (lambda x: x.__dlpack__(), TraceError, "dlpack: expected a Python value"),
    (lambda x: graphc.finfo(i32), DTypeError, "finfo: expected a float type, got i32"),
    (lambda x: graphc.iinfo(x), DTypeError, "iinfo: expected an integer type, got f32"),
    (lambda x: graphc.isdtype(f32, "whole numbers"), ArgumentError, "isdtype: kind: .*, got 'whole numbers'"),
    (lambda x: graphc.result_type(), ArgumentError, "result_type: expected at least one argument, got none"),
    (lambda x: graphc.result_type("complex64"), DTypeError, "result_type: .*complex64"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "error", "text"), WRONG)
def test_wrong_arguments_raise_one_error_with_the_line(
    fn: Callable[[Array], object], error: type[GraphcError], text: str
) -> None:
    with pytest.raises(error, match=re.escape(__file__) + r":\d+: .*" + text):
        run(fn, X)


def test_every_function_about_floats_is_offered() -> None:
    own = {
        n for n, f in vars(floats).items() if callable(f) and getattr(f, "__module__", "") == floats.__name__
    }
    assert {n for n in own if not n.startswith("_")} <= set(array_api.NAMES)
