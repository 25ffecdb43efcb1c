"""Every array function against NumPy: the same values and, where the documentation says so, the same data types."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphc.errors import DTypeError, GraphcError, ShapeError, TraceError
from graphc.frontend import functions as F
from graphc.frontend.tracer import trace_function
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.verify import verify
from graphc.transforms import grad

RNG = np.random.default_rng(7)
Function = Callable[..., object]


def run(fn: Function, *arrays: object) -> object:
    """Traces and interprets; gives the function's own nested result."""
    traced = trace_function(fn, arrays)
    verify(traced.graph)
    assert parse(str(traced.graph), traced.graph.constants) == traced.graph
    leaves = [np.asarray(a, t.dtype.numpy) for a, t in zip(arrays, traced.graph.input_types, strict=True)]
    return traced.outputs.unflatten(interpret(traced.graph, leaves))


def real(*shape: int, low: float = -3, high: float = 3, dtype: type = np.float32) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def whole(*shape: int, low: int = -9, high: int = 10, dtype: type = np.int32) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def check(ours: object, numpy: object, dtype: object = None, tolerance: float = 2e-6) -> None:
    got, want = np.asarray(ours), np.asarray(numpy)
    assert got.shape == want.shape
    assert got.dtype == (want.dtype if dtype is None else np.dtype(dtype))  # type: ignore[call-overload]
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(got, want)


BINARY = "add subtract multiply divide floor_divide remainder minimum maximum equal not_equal less less_equal greater"
BINARY += " greater_equal logical_and logical_or logical_xor"


@pytest.mark.parametrize("name", BINARY.split())
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32, np.uint32, np.uint8])
def test_binary_functions_broadcast_and_agree_with_numpy(name: str, dtype: type) -> None:
    if np.dtype(dtype).kind == "f":
        a, b = real(4, 1, dtype=dtype), real(3, low=0.5, dtype=dtype)
    else:
        a, b = whole(4, 1, low=1, dtype=dtype), whole(3, low=1, dtype=dtype)
    numpy = getattr(np, name)(a, b)
    f32_division = np.float32 if name == "divide" and np.dtype(dtype).kind != "f" else None
    check(run(getattr(F, name), a, b), numpy, f32_division)
    check(run(lambda x: getattr(F, name)(x, b), a), numpy, f32_division)
    check(run(lambda y: getattr(F, name)(a, y), b), numpy, f32_division)


@pytest.mark.parametrize(
    "name",
    [
        "add",
        "multiply",
        "minimum",
        "maximum",
        "equal",
        "not_equal",
        "less",
        "greater",
        "logical_and",
        "logical_xor",
    ],
)
def test_binary_functions_of_bools_agree_with_numpy(name: str) -> None:
    a, b = np.array([[True], [False]]), np.array([True, False])
    check(run(getattr(F, name), a, b), getattr(np, name)(a, b))


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32, np.uint8, np.bool_])
def test_bitwise_functions_agree_with_numpy(name: str, dtype: type) -> None:
    a, b = whole(3, 4, low=0, dtype=dtype), whole(4, low=0, dtype=dtype)
    check(run(getattr(F, name), a, b), getattr(np, name)(a, b))
    check(run(F.bitwise_invert, a), np.invert(a))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32, np.uint8])
def test_shifts_agree_with_numpy_beyond_the_width_too(dtype: type) -> None:
    a, b = whole(3, 70, dtype=dtype), np.arange(70).astype(dtype)
    check(run(F.bitwise_left_shift, a, b), np.left_shift(a, b))
    check(run(lambda x, y: x >> y, a, b), np.right_shift(a, b))
    check(run(lambda x: np.left_shift(x, 3) | 1 << x, a), np.left_shift(a, 3) | np.left_shift(dtype(1), a))


UNARY: dict[str, tuple[float, float]] = {
    "abs": (-3, 3), "negative": (-3, 3), "positive": (-3, 3), "sign": (-3, 3), "exp": (-3, 3), "exp2": (-3, 3),
    "expm1": (-1, 1), "log": (0.1, 4), "log1p": (-0.7, 3), "log2": (0.1, 4), "log10": (0.1, 4), "sqrt": (0, 4),
    "square": (-3, 3), "reciprocal": (0.2, 3), "sin": (-4, 4), "cos": (-4, 4), "tan": (-1, 1), "sinh": (-3, 3),
    "cosh": (-3, 3), "tanh": (-3, 3), "floor": (-5, 5), "ceil": (-5, 5), "round": (-5, 5), "trunc": (-5, 5),
    "asin": (-1, 1), "acos": (-1, 1), "atan": (-9, 9), "asinh": (-9, 9), "acosh": (1, 9), "atanh": (-0.9, 0.9),
    "cbrt": (-9, 9), "isnan": (-1, 1), "isinf": (-1, 1), "isfinite": (-1, 1), "logical_not": (-1, 1),
}  # fmt: skip


# NumPy's names before 2.0
ARC = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
}


@pytest.mark.parametrize("name", sorted(UNARY))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_unary_functions_agree_with_numpy(name: str, dtype: type) -> None:
    x = real(5, 7, low=UNARY[name][0], high=UNARY[name][1], dtype=dtype)
    numpy = getattr(np, ARC.get(name, name))
    check(run(getattr(F, name), x), numpy(x))
    check(run(numpy, x), numpy(x))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_atan2_agrees_with_numpy(dtype: type) -> None:
    y, x = real(5, 1, dtype=dtype), real(7, dtype=dtype)
    check(run(F.atan2, y, x), np.arctan2(y, x))
    check(run(np.arctan2, y, x), np.arctan2(y, x))


@pytest.mark.parametrize("name", ["exp", "sqrt", "log", "tanh", "reciprocal", "sigmoid", "erf"])
def test_functions_of_real_numbers_compute_integers_as_f32(name: str) -> None:
    x = np.array([1, 2, 3], np.int32)
    numpy = {
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "erf": np.vectorize(math.erf),
        "reciprocal": lambda v: 1 / v,
    }.get(name, getattr(np, name, None))
    assert numpy is not None
    check(run(getattr(F, name), x), numpy(x.astype(np.float64)), np.float32)


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "trunc", "abs", "sign", "negative", "square"])
def test_integers_stay_integers(name: str) -> None:
    x = whole(6)
    check(run(getattr(F, name), x), getattr(np, name)(x), np.int32)


def test_special_values_of_predicates_and_logaddexp() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)
    for name in ("isnan", "isinf", "isfinite"):
        check(run(getattr(F, name), x), getattr(np, name)(x))
    a, b = (
        v.reshape(-1)
        for v in np.meshgrid(np.array([-np.inf, -700, 0, 1e-3, 700, np.inf, np.nan]), x.astype(float))
    )
    with np.errstate(invalid="ignore"):
        check(run(F.logaddexp, a, b), np.logaddexp(a, b))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 7, 0.5, -1, -2, 2.5])
def test_powers_with_python_exponents(exponent: float) -> None:
    x = real(9, low=0.3)
    check(run(lambda v: F.pow(v, exponent), x), np.power(x, exponent), tolerance=1e-5)


def test_powers_of_integers_are_repeated_products() -> None:
    x = whole(9, low=-4, high=5)
    for exponent in (0, 1, 2, 5):
        check(run(lambda v, e=exponent: v**e, x), x**exponent)
    with pytest.raises(
        DTypeError, match="expected floats, or integers to the power of a Python int of at least 0"
    ):
        run(lambda v: v**-1, x)


def test_powers_with_arrays_on_either_side() -> None:
    x, y = real(4, low=0.3), real(4)
    check(run(lambda a, b: a**b, x, y), x**y, tolerance=1e-5)
    check(run(lambda a: 2.0**a, y), np.float32(2) ** y, tolerance=1e-5)


def test_clip_where_astype() -> None:
    x = real(5, 6)
    check(run(lambda v: F.clip(v, -1, 1), x), np.clip(x, -1, 1))
    check(run(lambda v: F.clip(v, None, 0.5), x), np.clip(x, None, 0.5))
    check(run(lambda v: v.clip(min=x[0]), x), np.clip(x, x[0], None))
    check(run(lambda v: F.where(v > 0, v, 0), x), np.where(x > 0, x, np.float32(0)))
    check(run(lambda v: F.where(v[:, :1] > 0, v, v[0]), x), np.where(x[:, :1] > 0, x, x[0]))
    check(run(lambda v: F.astype(v, np.int32), x), x.astype(np.int32))
    check(run(lambda v: v.astype("f64"), x), x.astype(np.float64))
    check(run(lambda v: v.astype(bool), np.float32([0, 0.5, -2])), np.array([False, True, True]))
    nan_bound = np.float32([np.nan, 1])
    check(
        run(lambda v, b: F.clip(v, b, None), np.float32([0, 0]), nan_bound),
        np.clip(np.float32([0, 0]), nan_bound, None),
    )


def test_round_to_decimals() -> None:
    x = np.array([1.2345, -2.675, 1234.5], np.float64)
    check(run(lambda v: F.round(v, 2), x), np.round(x, 2))
    check(run(lambda v: round(v, -2), x), np.round(x, -2))


def test_creation_functions_agree_with_numpy() -> None:
    table: list[tuple[Function, np.ndarray]] = [
        (lambda: F.zeros((2, 3)), np.zeros((2, 3), np.float32)),
        (lambda: F.ones(4, dtype=np.int64), np.ones(4, np.int64)),
        (lambda: F.full((2,), 7), np.full((2,), 7, np.int32)),
        (lambda: F.full((2, 2), [1.0, 2.0]), np.full((2, 2), [1, 2], np.float32)),
        (lambda: F.full((2,), True), np.full((2,), True)),
        (lambda: F.zeros_like(np.ones((2, 3))), np.zeros((2, 3))),
        (lambda: F.ones_like(np.ones(3, np.uint8)), np.ones(3, np.uint8)),
        (lambda: F.full_like(np.ones(3), 2), np.full(3, 2.0)),
        (lambda: F.arange(5), np.arange(5, dtype=np.int32)),
        (lambda: F.arange(2, 11, 3), np.arange(2, 11, 3, dtype=np.int32)),
        (lambda: F.arange(5, 0, -1), np.arange(5, 0, -1, dtype=np.int32)),
        (lambda: F.arange(0), np.arange(0, dtype=np.int32)),
        (lambda: F.arange(0.0, 1.0, 0.1), np.arange(0, 1, 0.1, dtype=np.float32)),
        (lambda: F.arange(3, dtype="f64"), np.arange(3, dtype=np.float64)),
        (lambda: F.linspace(-1, 1, 7), np.linspace(-1, 1, 7, dtype=np.float32)),
        (lambda: F.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False, dtype=np.float32)),
        (lambda: F.eye(3), np.eye(3, dtype=np.float32)),
        (lambda: F.eye(3, 4, k=1, dtype=bool), np.eye(3, 4, k=1, dtype=bool)),
        (lambda: F.asarray([1, 2]), np.array([1, 2], np.int32)),
        (lambda: F.asarray([[1.5, 2]]), np.array([[1.5, 2]], np.float32)),
        (lambda: F.one_hot(np.array([[0, 2], [3, -1]]), 3), np.eye(3, dtype=np.float32)[[[0, 2], [0, 0]]]
         * np.float32([[[1], [1]], [[0], [0]]])),
    ]  # fmt: skip
    for ours, numpy in table:
        check(run(ours), numpy)


X3 = real(3, 4, 5)
X2 = real(4, 6)
N2 = whole(4, 6)

SHAPES: dict[str, tuple[Function, Function, tuple[np.ndarray, ...]]] = {
    "broadcast_to": (lambda x: F.broadcast_to(x, (2, 4, 6)), lambda x: np.broadcast_to(x, (2, 4, 6)), (X2,)),
    "broadcast_to_ones": (
        lambda x: F.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), (real(3, 1),)
    ),
    "reshape": (lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1), (X2,)),
    "reshape_scalar": (lambda x: x.reshape(()), lambda x: x.reshape(()), (real(1, 1),)),
    "flatten": (lambda x: x.flatten(), lambda x: x.flatten(), (X3,)),
    "permute_dims": (lambda x: F.permute_dims(x, (2, 0, -2)), lambda x: x.transpose(2, 0, 1), (X3,)),
    "transpose": (lambda x: x.transpose(), lambda x: x.transpose(), (X3,)),
    "T": (lambda x: x.T, lambda x: x.T, (X2,)),
    "mT": (lambda x: x.mT, lambda x: np.swapaxes(x, -1, -2), (X3,)),
    "swapaxes": (lambda x: x.swapaxes(0, -1), lambda x: x.swapaxes(0, -1), (X3,)),
    "moveaxis": (lambda x: F.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), (X3,)),
    "moveaxis_two": (lambda x: F.moveaxis(x, (0, 1), (2, 0)), lambda x: np.moveaxis(x, (0, 1), (2, 0)), (X3,)),
    "expand_dims": (lambda x: F.expand_dims(x, (0, -1)), lambda x: np.expand_dims(x, (0, -1)), (X2,)),
    "squeeze": (lambda x: x.squeeze(), lambda x: x.squeeze(), (real(1, 3, 1),)),
    "squeeze_axis": (lambda x: F.squeeze(x, -1), lambda x: x.squeeze(-1), (real(1, 3, 1),)),
    "flip": (lambda x: F.flip(x), np.flip, (X3,)),
    "flip_axis": (lambda x: F.flip(x, (0, -1)), lambda x: np.flip(x, (0, -1)), (X3,)),
    "roll": (lambda x: F.roll(x, 3), lambda x: np.roll(x, 3), (X2,)),
    "roll_axes": (lambda x: F.roll(x, (1, -2), (0, 1)), lambda x: np.roll(x, (1, -2), (0, 1)), (X2,)),
    "concat": (lambda x, y: F.concat([x, y], axis=1), lambda x, y: np.concatenate([x, y], 1), (X2, real(4, 2))),
    "concat_types": (lambda x, y: F.concat([x, y]), lambda x, y: np.concatenate([x, y]), (X2, N2)),
    "concat_flat": (lambda x, y: F.concat([x, y], None), lambda x, y: np.concatenate([x, y], None), (X2, X3)),
    "stack": (lambda x, y: F.stack([x, y], axis=-1), lambda x, y: np.stack([x, y], -1), (X2, X2 + 1)),
    "unstack": (lambda x: F.unstack(x, 1)[2], lambda x: x[:, 2], (X2,)),
    "split": (lambda x: F.split(x, 3, axis=1)[1], lambda x: np.split(x, 3, 1)[1], (X2,)),
    "split_at": (lambda x: F.split(x, [1, 4], axis=1)[2], lambda x: np.split(x, [1, 4], 1)[2], (X2,)),
    "tile": (lambda x: F.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3)), (X2,)),
    "tile_short": (lambda x: F.tile(x, 2), lambda x: np.tile(x, 2), (X2,)),
    "repeat": (lambda x: x.repeat(3, axis=1), lambda x: x.repeat(3, axis=1), (X2,)),
    "repeat_flat": (lambda x: F.repeat(x, 2), lambda x: np.repeat(x, 2), (X2,)),
    "repeat_each": (lambda x: F.repeat(x, [1, 0, 2, 3], 0), lambda x: np.repeat(x, [1, 0, 2, 3], 0), (X2,)),
    "pad": (lambda x: F.pad(x, ((1, 0), (2, 3))), lambda x: np.pad(x, ((1, 0), (2, 3))), (X2,)),
    "pad_value": (lambda x: F.pad(x, 1, constant_values=7), lambda x: np.pad(x, 1, constant_values=7), (N2,)),
    "tril": (lambda x: F.tril(x, 1), lambda x: np.tril(x, 1), (X3,)),
    "triu": (lambda x: F.triu(x, -1), lambda x: np.triu(x, -1), (X3,)),
    "diagonal": (lambda x: F.diagonal(x), np.diagonal, (X2,)),
    "diagonal_up": (lambda x: x.diagonal(2, 0, 2), lambda x: x.diagonal(2, 0, 2), (X3,)),
    "diagonal_down": (lambda x: F.diagonal(x, -3), lambda x: np.diagonal(x, -3), (X2,)),
    "diagonal_none": (lambda x: F.diagonal(x, 9), lambda x: np.diagonal(x, 9), (X2,)),
    "take": (lambda x: F.take(x, [[0, -1], [2, 2]], axis=1), lambda x: np.take(x, [[0, -1], [2, 2]], 1), (X2,)),
    "take_flat": (lambda x, i: F.take(x, i), np.take, (X2, np.array([5, -2], np.int32))),
    "take_along": (
        lambda x, i: F.take_along_axis(x, i, axis=1), lambda x, i: np.take_along_axis(x, i, 1),
        (X2, np.array([[0, 5], [-1, 2], [3, 3], [1, 4]])),
    ),
    "broadcast_arrays": (
        lambda x, y: F.broadcast_arrays(x, y)[1], lambda x, y: np.broadcast_arrays(x, y)[1], (X2, N2[:, :1])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_functions_that_move_elements_agree_with_numpy(name: str) -> None:
    ours, numpy, arrays = SHAPES[name]
    check(run(ours, *arrays), numpy(*arrays))


AXES: list[object] = [None, 0, -1, (0, 2), (1,), ()]


@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "var", "std", "prod", "any", "all", "count_nonzero"]
)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_agree_with_numpy(name: str, axis: object, keepdims: bool) -> None:
    numpy = getattr(np, name)(X3, axis=axis, keepdims=keepdims)
    want = np.int32 if name == "count_nonzero" else None
    check(run(lambda x: getattr(F, name)(x, axis, keepdims=keepdims), X3), numpy, want, 1e-5)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64])
def test_reductions_of_integers_have_the_documented_types(dtype: type) -> None:
    x = whole(5, 6, low=0, high=3, dtype=dtype)
    total = np.int32 if dtype in (np.bool_, np.uint8) else dtype
    check(run(F.sum, x), x.sum(), total)
    check(run(lambda v: v.prod(axis=0), x), x.prod(axis=0), total)
    check(run(lambda v: v.cumsum(axis=1), x), x.cumsum(axis=1), total)
    check(run(F.mean, x), x.mean(), np.float32)
    check(run(lambda v: v.max(axis=1), x), x.max(axis=1))
    check(run(lambda v: v.min(axis=1), x), x.min(axis=1))
    check(run(lambda v: v.any(axis=1), x), x.any(axis=1))
    check(run(lambda v: v.all(axis=1), x), x.all(axis=1))


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions_of_extrema_are_i32(name: str) -> None:
    for axis in (None, 0, 1, -1):
        for keepdims in (False, True):
            numpy = getattr(np, name)(X3, axis=axis, keepdims=keepdims)
            check(run(lambda x, a=axis, k=keepdims: getattr(F, name)(x, a, keepdims=k), X3), numpy, np.int32)
    flags = np.array([[False, True], [False, False]])
    check(run(lambda x: getattr(F, name)(x, 1), flags), getattr(np, name)(flags, axis=1), np.int32)


def test_variance_with_a_correction_and_running_sums() -> None:
    check(run(lambda x: x.var(axis=0, ddof=1), X2), X2.var(axis=0, ddof=1), tolerance=1e-5)
    check(run(lambda x: F.std(x, correction=1), X2), X2.std(ddof=1), tolerance=1e-5)
    for axis in (0, 1, -1):
        check(run(lambda x, a=axis: F.cumulative_sum(x, a), X3), X3.cumsum(axis), tolerance=1e-5)
    check(run(lambda x: x.cumsum(), X2), X2.cumsum(), tolerance=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_products_and_extrema_agree_with_numpy(axis: int) -> None:
    check(run(lambda x: F.cumulative_prod(x, axis), X3), X3.cumprod(axis), tolerance=1e-5)
    check(run(lambda x: F.cumulative_max(x, axis), X3), np.maximum.accumulate(X3, axis))
    check(run(lambda x: F.cumulative_min(x, axis), X3), np.minimum.accumulate(X3, axis))
    ints = whole(3, 4, low=0, high=4, dtype=np.uint8)
    check(run(lambda x: F.cumulative_prod(x, axis), ints), ints.cumprod(axis), np.int32)
    check(run(lambda x: F.cumulative_max(x, axis), ints), np.maximum.accumulate(ints, axis))


def test_running_products_have_right_derivatives_at_zeros() -> None:
    """d/dx_j of the sum of w_i x_0 ... x_i is the sum over i >= j of w_i times the others: no division by x_j."""
    x, w = np.array([2.0, 0.0, 3.0, 0.0, 5.0]), np.array([1.0, 10, 100, 1000, 10_000])
    want = [sum(w[i] * np.prod(np.delete(x[: i + 1], j)) for i in range(j, 5)) for j in range(5)]
    got = run(grad(lambda x: (F.cumulative_prod(x) * w).sum()), x)
    np.testing.assert_allclose(np.asarray(got), want)
    got = run(grad(lambda x: F.prod(x)), np.array([2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(np.asarray(got), [0, 6, 0])


def test_the_first_of_equal_running_extrema_takes_the_cotangent() -> None:
    x, w = np.array([1.0, 3, 3, 2, 5, 5]), np.array([1.0, 10, 100, 1000, 10_000, 100_000])
    got = run(grad(lambda x: (F.cumulative_max(x) * w).sum()), x)
    assert np.asarray(got).tolist() == [1, 1110, 0, 0, 110_000, 0]
    got = run(grad(lambda x: (F.cumulative_min(-x) * w).sum()), x)
    assert np.asarray(got).tolist() == [-1, -1110, 0, 0, -110_000, 0]


def test_logsumexp_is_stable_and_right_at_infinities() -> None:
    x = np.array([[1000.0, 1000.5], [-1000.0, -999.0], [-np.inf, -np.inf], [np.inf, 0.0]], np.float32)
    got = np.asarray(run(lambda v: F.logsumexp(v, axis=1), x))
    want = np.logaddexp.reduce(x.astype(np.float64), axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    check(
        run(lambda v: F.logsumexp(v, axis=(0, 1), keepdims=True), X2),
        np.log(np.exp(X2).sum(keepdims=True)),
        tolerance=1e-5,
    )


def test_mean_of_no_elements_is_nan_and_the_maximum_an_error() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert np.isnan(np.asarray(run(lambda x: x.mean(axis=0), empty))).all()
    with pytest.raises(
        ShapeError, match=r"max: expected at least one element along axes \[0\], got f32\[0,3\]"
    ):
        run(lambda x: x.max(axis=0), empty)


MATMUL = [
    ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((5, 2, 3), (1, 3, 4)), ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)), ((2, 3), (1, 1, 3, 4)), ((1, 1, 2, 3), (3, 4)), ((2, 1, 1, 3), (1, 5, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), MATMUL)
def test_matmul_by_all_rank_rules(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = real(*left), real(*right)
    check(run(lambda x, y: x @ y, a, b), a @ b, tolerance=1e-5)
    check(run(lambda y: a @ y, b), a @ b, tolerance=1e-5)


def test_other_products_agree_with_numpy() -> None:
    a, b, c = real(2, 3, 4), real(4, 3, 5), real(2, 3, 4)
    check(
        run(lambda x, y: F.tensordot(x, y, axes=((1, 2), (1, 0))), a, b),
        np.tensordot(a, b, ((1, 2), (1, 0))),
        tolerance=1e-5,
    )
    check(run(lambda x, y: F.tensordot(x, y, axes=1), a, b), np.tensordot(a, b, 1), tolerance=1e-5)
    check(
        run(lambda x, y: F.tensordot(x, y, axes=0), a[0], b[0]), np.tensordot(a[0], b[0], 0), tolerance=1e-5
    )
    check(run(lambda x, y: F.vecdot(x, y), a, c[0]), (a * c[0]).sum(-1), tolerance=1e-5)
    check(run(lambda x, y: F.vecdot(x, y, axis=1), a, c), (a * c).sum(1), tolerance=1e-5)
    check(run(lambda x, y: F.outer(x, y), a[0], b[0]), np.outer(a[0], b[0]))
    d = real(5, 4, 2)
    check(run(lambda x, y: x.dot(y), a, d), np.dot(a, d), tolerance=1e-5)
    flags = RNG.integers(0, 2, (3, 3)).astype(bool)
    check(run(lambda x, y: x @ y, flags, flags), flags @ flags)
    n = whole(3, 3)
    check(run(lambda x, y: x @ y, n, n), n @ n)


EINSUM = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("ij,kj->ki", (3, 4), (5, 4)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("i,j->ij", (3,), (4,)), ("i,i->", (3,), (3,)), ("ij->ji", (3, 4)), ("ij->", (3, 4)), ("ii->i", (4, 4)),
    ("ii", (4, 4)), ("ij,jk", (3, 4), (4, 5)), ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("...ij,...jk", (1, 3, 4), (6, 4, 5)), ("i...->...", (3, 2, 2)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), ("ij,ij->ij", (3, 4), (3, 4)), ("ijj,j->i", (2, 3, 3), (3,)),
    ("ij,k->i", (2, 3), (4,)), ("iji,ij->j", (3, 2, 3), (3, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUM, ids=lambda case: case[0])
def test_einsum_agrees_with_numpy(case: tuple[str, tuple[int, ...]]) -> None:
    subscripts, shapes = case[0], case[1:]
    arrays = [real(*s) for s in shapes]
    check(run(lambda *x: F.einsum(subscripts, *x), *arrays), np.einsum(subscripts, *arrays), tolerance=1e-5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_basic_and_advanced_indexing_agrees_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
    x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + 1
    index: list[object] = list(
        data.draw(
            hnp.basic_indices(shape, allow_newaxis=True).map(lambda i: i if isinstance(i, tuple) else (i,))
        )
    )
    common = data.draw(st.sampled_from([(2,), (2, 3), ()]))
    room = len(shape) - sum(i is not None and i is not Ellipsis for i in index)
    arrays: list[np.ndarray] = []
    axis = 0
    for place, item in enumerate(index):
        if item is None:
            continue
        if item is Ellipsis:
            axis += room
            continue
        if data.draw(st.booleans()):
            n = shape[axis]
            picks = data.draw(hnp.arrays(np.int32, common, elements=st.integers(-n, n - 1)))
            arrays.append(picks)
            index[place] = picks
        axis += 1
    want = x[tuple(index)]
    check(run(lambda v: v[tuple(index)], x), want)

    def traced(v: object, *picks: object) -> object:
        rest = iter(picks)
        return v[tuple(next(rest) if isinstance(i, np.ndarray) else i for i in index)]  # type: ignore[index]

    check(run(traced, x, *arrays), want)
    added = np.zeros_like(x)
    np.add.at(added, tuple(index), np.float32(2))
    check(run(lambda v: F.zeros_like(v).at[tuple(index)].add(2), x), added)


def test_constant_masks_and_lists_index_as_in_numpy() -> None:
    mask = X2 > 0
    check(run(lambda x: x[mask], X2), X2[mask])
    check(run(lambda x: x[mask[:, 0]], X2), X2[mask[:, 0]])
    check(run(lambda x: x[[2, -1, 0], 1:], X2), X2[[2, -1, 0], 1:])
    check(run(lambda x: x[np.array([0, 1])[:, None], [0, 5]], X2), X2[np.array([0, 1])[:, None], [0, 5]])


def test_traced_indices_out_of_range_read_zero_and_add_nothing() -> None:
    x, wrong = np.float32([[1, 2], [3, 4]]), np.array([0, 2, -3], np.int32)
    check(run(lambda v, i: v[i], x, wrong), np.float32([[1, 2], [0, 0], [0, 0]]))
    check(run(lambda v, i: v[i, i], x, wrong), np.float32([1, 0, 0]))
    check(run(lambda v, i: v[0, 1 + i], x, wrong), np.float32([2, 0, 1]))
    check(run(lambda v, i: v.at[i].add(10.0), x, wrong), np.float32([[11, 12], [3, 4]]))


def test_at_add_sums_duplicates_and_broadcasts_values() -> None:
    x, i = np.zeros((4, 3), np.float32), np.array([1, 1, 3], np.int32)
    want = x.copy()
    np.add.at(want, i, np.float32([1, 2, 3]))
    check(run(lambda v, j: v.at[j].add(np.float32([1, 2, 3])), x, i), want)
    check(
        run(lambda v: v.at[1:3, ::-2].add(np.float32([5, 6])), x),
        np.float32([[0] * 3, [6, 0, 5], [6, 0, 5], [0] * 3]),
    )


NUMPY: dict[str, Function] = {
    "ufuncs": lambda x, y: np.exp(np.add(x, y)) * np.float32(2) - np.maximum(x, 0) / np.sqrt(4.0),
    "left_operand": lambda x, y: np.float32(3) * x - y + np.ones((4, 6), np.float32) * x,
    "sum": lambda x, y: np.sum(x, axis=1, keepdims=True) + np.mean(y, 0),
    "moments": lambda x, y: np.var(x, axis=0, ddof=1) + np.std(y, axis=0),
    "where": lambda x, y: np.where(x > y, x, y),
    "concatenate": lambda x, y: np.concatenate([x, y], axis=-1),
    "stack": lambda x, y: np.stack((x, y)),
    "matmul": lambda x, y: np.matmul(x, y.T) + np.dot(x, y.T) + np.einsum("ij,kj->ik", x, y) + X2 @ y.T,
    "reshape": lambda x, y: np.reshape(x, (3, 8)) + np.reshape(np.transpose(y), (3, 8)),
    "clip": lambda x, y: np.clip(x, -0.5, 0.5) + np.clip(y, a_min=0, a_max=None),
    "split": lambda x, y: np.split(x, 2, axis=1)[1] + np.split(y, [3], axis=1)[0],
    "keyword": lambda x, y: np.sum(a=x, axis=0) + np.expand_dims(np.squeeze(y[:1]), axis=0)[0],
    "extrema": lambda x, y: np.max(x, axis=0) + np.amin(y, axis=0) + np.argmax(x, axis=0).astype(np.float32),
    "triangles": lambda x, y: np.tril(x) + np.triu(y, 1) + np.trace(x),
    "like": lambda x, y: np.zeros_like(x) + np.full_like(y, 2.0) + np.float32(np.ndim(x)),
    "pad": lambda x, y: np.pad(x, 1) + np.pad(y, ((1, 1), (1, 1)), constant_values=1.0),
    "rounding": lambda x, y: np.round(x, 1) + np.floor(y) + np.rint(x),
    "moving": lambda x, y: np.roll(np.flip(x, 0), 1, axis=1) + np.repeat(y[:, :3], 2, axis=1) + np.tile(y[:1], (4, 1)),
    "cumprod": lambda x, y: np.cumprod(x, axis=1) + np.cumprod(y, axis=0),
    "cumsum": lambda x, y: np.cumsum(x, axis=1) + np.swapaxes(np.moveaxis(y, 0, 1), 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NUMPY))
def test_numpy_functions_work_on_traced_values(name: str) -> None:
    a, b = real(4, 6), real(4, 6)
    check(run(NUMPY[name], a, b), NUMPY[name](a, b), np.float32, 1e-5)


LINE = re.escape(__file__) + r":\d+: "

ERRORS: list[tuple[Function, type[GraphcError], str]] = [
    (lambda x: F.sum(x, axis=2), ShapeError, r"sum: expected an axis within rank 2, got 2"),
    (lambda x: x.mean(axis=(0, 0)), ShapeError, r"mean: expected different axes, got \[0, 0\]"),
    (lambda x: x + np.zeros((3, 5)), ShapeError, r"add: expected shapes that broadcast together, got \[4, 6\] and \[3, 5\]"),
    (lambda x: x.reshape(5, 5), ShapeError, r"reshape: expected a shape of 24 elements for f32\[4,6\], got \[5, 5\]"),
    (lambda x: x.reshape(-1, 5), ShapeError, r"reshape: expected a shape of 24 elements for f32\[4,6\], got \[-1, 5\]"),
    (lambda x: x[4], ShapeError, r"getitem: expected an index within size 4 of axis 0, got 4"),
    (lambda x: x[0, 0, 0], ShapeError, r"getitem: expected at most 2 indices for f32\[4,6\], got 3"),
    (lambda x: x[[0, 9]], ShapeError, r"getitem: expected indices within size 4, got 9"),
    (lambda x: x[::0], ShapeError, r"getitem: expected a slice step other than 0, got 0"),
    (lambda x: x[x > 0], TraceError, r"getitem: expected ints, slices or integer arrays, got a boolean mask, .*graphc\.where"),
    (lambda x: x[True], TraceError, r"getitem: expected ints, slices or integer arrays, got a boolean mask"),
    (lambda x: x[x], DTypeError, r"getitem: expected integer indices, got f32"),
    (lambda x: x["a"], TraceError, r"getitem: expected ints, slices or integer arrays, got str"),
    (lambda x: x[1.0], TraceError, r"getitem: expected ints, slices or integer arrays, got float"),
    (lambda x: x @ x, ShapeError, r"matmul: expected the last axis of f32\[4,6\] to be as long as the one before the last"),
    (lambda x: x @ 2.0, ShapeError, r"matmul: expected operands of rank 1 or more"),
    (lambda x: F.concat([x, x[:, :2]], axis=0), ShapeError, r"concat: expected equal shapes but for axis 0"),
    (lambda x: F.concat([]), ShapeError, r"concat: expected at least one array, got none"),
    (lambda x: F.stack([x, x[0]]), ShapeError, r"stack: expected equal shapes, got \[4, 6\], \[6\]"),
    (lambda x: F.split(x, 5), ShapeError, r"split: expected a number of equal parts of 4 along axis 0, got 5"),
    (lambda x: F.squeeze(x, 0), ShapeError, r"squeeze: expected size 1 along axis 0, got f32\[4,6\]"),
    (lambda x: F.permute_dims(x, (0, 0)), ShapeError, r"permute_dims: expected each of 2 axes once, got \[0, 0\]"),
    (lambda x: F.broadcast_to(x, (4, 7)), ShapeError, r"broadcast_to: expected a shape that broadcasts to \[4, 7\]"),
    (lambda x: F.pad(x, -1), ShapeError, r"pad: expected non-negative widths for 2 axes, got -1"),
    (lambda x: F.pad(x, 1, mode="edge"), DTypeError, r"pad: expected mode 'constant', got 'edge'"),
    (lambda x: F.zeros((2, -1)), ShapeError, r"zeros: expected a shape of non-negative integers, got \[2, -1\]"),
    (lambda x: F.zeros((2,), dtype="c8"), DTypeError, r"zeros: dtype: expected one of f64, f32, .*, got complex64"),
    (lambda x: x.astype("text"), DTypeError, r"astype: expected a data type, got 'text'"),
    (lambda x: F.arange(x[0, 0]), TraceError, r"arange: stop: expected a Python number, got the traced"),
    (lambda x: F.cumulative_max(x, 2), ShapeError, r"cumulative_max: expected an axis within rank 2, got 2"),
    (lambda x: F.cumulative_min(x > 0), DTypeError, r"cumulative_min: expected a number type, got bool"),
    (lambda x: x << 2, DTypeError, r"bitwise_left_shift: expected integers, got f32"),
    (lambda x: (x > 0) >> (x > 1), DTypeError, r"bitwise_right_shift: expected integers, got bool"),
    (lambda x: x & x, DTypeError, r"bitwise_and: expected integers or bools, got f32"),
    (lambda x: -(x > 0), DTypeError, r"negative: expected numbers, got bools; use logical_not"),
    (lambda x: (x > 0) - (x > 1), DTypeError, r"subtract: expected numbers, got bools"),
    (lambda x: F.one_hot(x, 3), DTypeError, r"one_hot: expected integer labels, got f32"),
    (lambda x: F.einsum("ij,jk->ik", x), ShapeError, r"einsum: expected an operand for each of 2 terms, got 1"),
    (lambda x: F.einsum("ijk->i", x), ShapeError, r"einsum: expected f32\[4,6\] to have an axis for each letter of 'ijk'"),
    (lambda x: F.einsum("ij->k", x), ShapeError, r"einsum: expected output letters of the operands, got 'k'"),
    (lambda x: F.einsum("ij,ij->i", x, x[:, :2]), ShapeError, r"einsum: expected equal sizes for 'j', got 6 and 2"),
    (lambda x: x + "a", TraceError, r"add: expected an array or a number, got str"),
    (lambda x: x + 1j, TraceError, r"add: expected an array or a number, got complex"),
    (lambda x: x + np.complex64(1), DTypeError, r"add: dtype: expected one of .*, got complex64"),
    (lambda x: F.add(x, [[1], [2, 3]]), ShapeError, r"add: expected a list of equal shapes, got a ragged one"),
    (lambda x: np.spacing(x), TraceError, r"numpy\.spacing: expected a function that can be traced"),
    (lambda x: np.linalg.cond(x), TraceError, r"numpy\.cond: expected a function that can be traced"),
    (lambda x: np.add.reduce(x), TraceError, r"numpy\.add\.reduce: expected a plain call on traced values, got reduce"),
    (lambda x: np.add(x, x, out=np.zeros((4, 6))), TraceError, r"numpy\.add: expected no out="),
    (lambda x: np.sum(x, initial=3), TraceError, r"numpy\.sum: expected arguments that can be traced, got: .*initial"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_users_line_and_what_was_expected(case: int) -> None:
    fn, kind, text = ERRORS[case]
    with pytest.raises(kind, match=LINE + text):
        run(fn, X2)


def test_array_functions_outside_of_a_trace_say_what_to_do() -> None:
    with pytest.raises(
        TraceError, match=LINE + r"exp: expected a call in a traced function, got one outside"
    ):
        F.exp(X2)


def test_names_lists_every_function() -> None:
    assert len(set(F.NAMES)) == len(F.NAMES) == 157
    assert all(callable(getattr(F, name)) and getattr(F, name).__doc__ for name in F.NAMES)
