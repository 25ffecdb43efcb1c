"""The expansions of transcendental functions keep their stated error bound, and are right at every special value."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from graphc.errors import CompileError
from graphc.ir import scalar
from graphc.ir.mathfn import EXPANSIONS, ULP, expansion
from graphc.ir.scalar import PRIMITIVES, Scalar
from graphc.ir.types import DType, bf16, f32, f64, i64

Array = np.ndarray
POINTS = 60_000
# where numpy has no extended precision the reference itself may be one unit off
SLACK = 0.0 if np.finfo(np.longdouble).nmant > 52 else 1.0
UNARY = [name for name in EXPANSIONS if name not in ("pow", "atan2")]
both = pytest.mark.parametrize("dtype", [f32, f64], ids=str)


def load_accuracy() -> ModuleType:
    """benchmarks/mathfn_accuracy.py, which measures what docs/math.md states: the tests use the same instrument."""
    path = Path(__file__).parent.parent / "benchmarks" / "mathfn_accuracy.py"
    spec = importlib.util.spec_from_file_location("mathfn_accuracy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


accuracy = load_accuracy()


def evaluate(name: str, dtype: DType, *values: object, double: bool = True) -> Array:
    arrays = [np.asarray(v, dtype=dtype.numpy) for v in values]
    return np.asarray(scalar.to_numpy(expansion(name, dtype, double), arrays))


def special(dtype: DType) -> Array:
    info = np.finfo(dtype.numpy)
    positive = [
        0.0,
        0.5,
        1,
        2,
        3,
        100,
        1e6,
        np.inf,
        np.nan,
        info.tiny,
        info.smallest_subnormal,
        info.max,
        5 * float(info.tiny) / 8,
    ]
    return np.array([*positive, *(-float(v) for v in positive)], dtype=dtype.numpy)


def nodes(tree: Scalar) -> list[Scalar]:
    seen: list[Scalar] = []
    scalar.fold(tree, seen.append, lambda node, values: seen.append(node))
    return seen


def assert_same(got: Array, expected: Array, arguments: list[Array], ulp: float) -> None:
    """Equal within `ulp`; NaN where expected, infinities and signs of zeros exactly."""
    for row in zip(got, expected, *arguments, strict=True):
        y, want = row[:2]
        if np.isnan(want):
            assert np.isnan(y), row
        else:
            assert np.signbit(y) == np.signbit(want), row
            assert y == want or abs(float(y) - float(want)) <= ulp * float(
                np.spacing(np.maximum(abs(y), abs(want)))
            ), row


@both
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("name", EXPANSIONS)
def test_error_stays_within_the_stated_bound(name: str, dtype: DType, fused: bool) -> None:
    arrays = accuracy.inputs(name, dtype, POINTS, np.random.default_rng(20240607))
    with accuracy.multiply_add(accuracy.fused_multiply_add if fused else accuracy.separate_multiply_add):
        error, where = accuracy.largest_error(name, dtype, arrays)
    assert error <= ULP[name][dtype] + SLACK, where
    assert error > 0.3  # the instrument does measure


@both
@pytest.mark.parametrize("name", EXPANSIONS)
def test_trees_hold_no_transcendental_primitive(name: str, dtype: DType) -> None:
    for node in nodes(expansion(name, dtype)):
        assert node.fn in ("arg", "const", "cast", "bitcast") or not PRIMITIVES[node.fn].transcendental


def test_every_transcendental_primitive_has_an_expansion() -> None:
    assert set(EXPANSIONS) == {p.name for p in PRIMITIVES.values() if p.transcendental}


@pytest.mark.parametrize("name", EXPANSIONS)
def test_f32_trees_without_double_never_mention_64_bits(name: str) -> None:
    assert all(node.dtype not in (f64, i64) for node in nodes(expansion(name, f32, double=False)))


@both
@pytest.mark.parametrize("name", UNARY)
def test_special_values_are_numpys(name: str, dtype: DType) -> None:
    x = special(dtype)
    if name in ("sin", "cos", "tan") and dtype is f64:
        x = x[~(np.abs(x) > 1.1e14) | np.isinf(x)]
    assert_same(evaluate(name, dtype, x), PRIMITIVES[name].numpy(x), [x], 4)


@both
def test_pow_has_the_special_cases_of_ieee_754(dtype: DType) -> None:
    integers = [float(2 ** np.finfo(dtype.numpy).nmant + 1), -float(2 ** np.finfo(dtype.numpy).nmant + 1)]
    x, y = (
        a.ravel()
        for a in np.meshgrid(special(dtype), np.append(special(dtype), integers).astype(dtype.numpy))
    )
    assert_same(evaluate("pow", dtype, x, y), PRIMITIVES["pow"].numpy(x, y), [x, y], 4)


@both
def test_atan2_has_the_special_cases_of_ieee_754(dtype: DType) -> None:
    y, x = (a.ravel() for a in np.meshgrid(special(dtype), special(dtype)))
    assert_same(evaluate("atan2", dtype, y, x), np.arctan2(y, x), [y, x], 4)


@both
def test_roots_and_logarithms_of_powers_are_exact(dtype: DType) -> None:
    whole = np.arange(1.0, 200.0)
    assert evaluate("cbrt", dtype, -(whole**3)).tolist() == (-whole).tolist()
    tens = np.arange(11 if dtype is f32 else 23)
    assert evaluate("log10", dtype, 10.0**tens).tolist() == tens.tolist()


@both
def test_pow_named_cases(dtype: DType) -> None:
    inf, nan = np.inf, np.nan
    x = [nan, 1, 1, -1, -2, -2, -2, -8, 0, -0.0, -0.0, 0, 0.5, 2, -inf, -inf, -0.0, inf]
    y = [0, nan, inf, inf, 3, 2, -3, 1 / 3, -1, -1, 3, 2, inf, -inf, 3, 0.5, 0.5, -2]
    expected = [1, 1, 1, 1, -8, 4, -0.125, nan, inf, -inf, -0.0, 0, 0, 0, -inf, inf, 0, 0]
    got = evaluate("pow", dtype, x, y)
    assert np.array_equal(got, np.array(expected, dtype=dtype.numpy), equal_nan=True)
    assert np.signbit(got[10])


@both
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
def test_integer_powers_are_exact_where_representable(dtype: DType, fused: bool) -> None:
    limit = 2 ** (np.finfo(dtype.numpy).nmant + 1)
    pairs = [(b, p) for b in range(1, 300) for p in range(40) if b**p <= limit]
    with accuracy.multiply_add(accuracy.fused_multiply_add if fused else accuracy.separate_multiply_add):
        got = evaluate("pow", dtype, *np.array(pairs, dtype=np.float64).T)
    assert got.tolist() == [float(b**p) for b, p in pairs]


@both
def test_subnormal_results_are_rounded_once(dtype: DType) -> None:
    least = np.finfo(dtype.numpy).smallest_subnormal
    x = np.linspace(-745.2, -708.3, 5000) if dtype is f64 else np.linspace(-104.0, -87.3, 5000)
    x = x.astype(dtype.numpy)
    exact = np.exp(x.astype(np.longdouble))
    got = evaluate("exp", dtype, x)
    assert (
        np.max(np.abs(got - exact))
        <= 0.51 * np.longdouble(least) * (1 + SLACK) + np.max(exact) * np.finfo(dtype.numpy).eps / 2
    )
    power = np.arange(-149, -125) if dtype is f32 else np.arange(-1074, -1021)
    assert np.array_equal(evaluate("exp2", dtype, power), np.ldexp(1.0, power).astype(dtype.numpy))


@both
def test_exp_overflows_and_underflows_at_the_right_places(dtype: DType) -> None:
    top, bottom = (709.782712893384, -745.13) if dtype is f64 else (88.72283, -103.97208)
    inside = np.array([top, bottom], dtype=dtype.numpy)
    outside = np.array([np.nextafter(inside[0], dtype.numpy.type(1e3)), bottom - 0.2], dtype=dtype.numpy)
    assert np.all(np.isfinite(evaluate("exp", dtype, inside))) and np.all(evaluate("exp", dtype, inside) > 0)
    assert evaluate("exp", dtype, outside).tolist() == [np.inf, 0.0]


@both
@pytest.mark.parametrize(
    "name", ["sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "cbrt", "tanh", "erf", "erfinv"]
)
def test_odd_functions_are_exactly_odd(name: str, dtype: DType) -> None:
    x = np.concatenate([np.random.default_rng(1).uniform(0, 30, 5000), [0.0, 1e-300]]).astype(dtype.numpy)
    assert np.array_equal(evaluate(name, dtype, -x), -evaluate(name, dtype, x), equal_nan=True)
    assert np.signbit(evaluate(name, dtype, -0.0)) and not np.signbit(evaluate(name, dtype, 0.0))


@both
def test_cos_and_sigmoid_are_symmetric(dtype: DType) -> None:
    x = np.random.default_rng(2).uniform(0, 40, 5000).astype(dtype.numpy)
    assert np.array_equal(evaluate("cos", dtype, -x), evaluate("cos", dtype, x))
    total = evaluate("sigmoid", dtype, x) + evaluate("sigmoid", dtype, -x)
    assert np.max(np.abs(total - 1)) <= 2 * np.finfo(dtype.numpy).eps


@both
@pytest.mark.parametrize("name", ["tanh", "erf", "sigmoid"])
def test_bounded_functions_stay_in_their_range_and_saturate(name: str, dtype: DType) -> None:
    x = np.linspace(-50, 50, 20001).astype(dtype.numpy)
    y = evaluate(name, dtype, x)
    assert y.max() == 1.0 and y.min() >= (0.0 if name == "sigmoid" else -1.0)
    assert np.min(np.diff(y.astype(np.float64))) >= -np.finfo(dtype.numpy).eps  # two units below 1


@both
def test_log2_and_exp2_are_exact_at_powers_of_two(dtype: DType) -> None:
    low, high = (-149, 128) if dtype is f32 else (-1074, 1024)
    k = np.arange(low, high)
    powers = np.ldexp(1.0, k).astype(dtype.numpy)
    assert np.array_equal(evaluate("log2", dtype, powers), k.astype(dtype.numpy))
    assert np.array_equal(evaluate("exp2", dtype, k), powers)


def test_f32_sin_is_right_for_huge_arguments() -> None:
    x = np.array(
        [1e10, 1e22, 3.4e38, -2.5e30, 16367173 * 2.0**72], dtype=np.float32
    )  # the last lies nearest a multiple
    for name in ("sin", "cos"):
        exact = getattr(np, name)(x.astype(np.float64))
        assert np.max(np.abs(evaluate(name, f32, x) / exact - 1)) < 2.0**-22


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_f32_trigonometry_without_double_is_as_accurate_up_to_its_bound(name: str, fused: bool) -> None:
    rng = np.random.default_rng(5)
    near = np.round(rng.uniform(-2.6e5, 2.6e5, 30000)) * (np.pi / 2)
    x = np.concatenate([rng.uniform(-4e5, 4e5, 30000), near, rng.uniform(-8, 8, 30000)]).astype(np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    _, exponent = np.frexp(exact)
    with accuracy.multiply_add(accuracy.fused_multiply_add if fused else accuracy.separate_multiply_add):
        got = evaluate(name, f32, x, double=False)
    assert np.max(np.abs(got - exact) / np.ldexp(1.0, exponent - 24)) <= 1.0
    assert np.isnan(evaluate(name, f32, [4.2e5, -1e30, np.inf], double=False)).all()


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_f64_trigonometry_is_nan_beyond_its_bound_instead_of_wrong(name: str) -> None:
    assert np.isnan(evaluate(name, f64, [1.2e14, -1e300, np.inf, np.nan])).all()
    assert np.isfinite(evaluate(name, f64, [1.09e14, -1.09e14])).all()


def test_expansions_are_cached_and_unknown_ones_refused() -> None:
    assert expansion("tanh", f32) is expansion("tanh", f32)
    with pytest.raises(CompileError, match=r"mathfn: gamma: expected one of exp, exp2, .*, got 'gamma'"):
        expansion("gamma", f32)
    with pytest.raises(CompileError, match="mathfn: exp: expected f32 or f64, got bf16"):
        expansion("exp", bf16)
