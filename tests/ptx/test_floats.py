"""Instructions on floats against exact fractions and numpy: rounding, NaN, signed zeros, subnormal numbers, conversions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from ptx.handwritten import INTEGER_TYPES, evaluate, special_floats, special_integers

FLOATS = {"f32": np.float32, "f64": np.float64}


def rounded(exact: Fraction, dtype: type) -> float:
    """The nearest float, halves to even: found among the neighbours of an approximation."""
    if dtype is np.float64:
        try:
            return exact.numerator / exact.denominator
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
    with np.errstate(over="ignore"):
        guess = np.float32(exact.numerator / exact.denominator)
        near = [guess, np.nextafter(guess, np.float32(-np.inf)), np.nextafter(guess, np.float32(np.inf))]
    near = [x for x in near if np.isfinite(x)]
    if not near or abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
        return math.inf if exact > 0 else -math.inf
    best = min(abs(Fraction(float(x)) - exact) for x in near)
    ties = [x for x in near if abs(Fraction(float(x)) - exact) == best]
    return float(min(ties, key=lambda x: int(np.float32(x).view(np.uint32)) & 1))


def same(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit, but for what kind of NaN."""
    assert result.dtype == expected.dtype
    bits = np.dtype(f"u{result.itemsize}")
    different = (result.view(bits) != expected.view(bits)) & ~(np.isnan(result) & np.isnan(expected))
    assert not different.any(), (result[different][:3], expected[different][:3])


@pytest.mark.parametrize("kind", FLOATS)
def test_fused_multiply_add_rounds_once(kind: str, rng: np.random.Generator) -> None:
    """Also where the sum is halfway between two floats but for a little, and where results are subnormal."""
    dtype = FLOATS[kind]
    a, b, c = (special_floats(rng, dtype, 1000) for _ in range(3))
    mantissa = np.finfo(dtype).nmant
    a[:300] = 1 + rng.integers(0, 2**mantissa, 300) * 2.0**-mantissa
    b[:300] = 1 + rng.integers(0, 2**mantissa, 300) * 2.0**-mantissa
    c[:100] = (rng.choice([-1, 1], 100) * np.ldexp(1.0, rng.integers(-80, 60, 100))).astype(dtype)
    c[100:200] = -(a[100:200] * b[100:200])
    a[200:300] = np.ldexp(a[200:300], -np.finfo(dtype).maxexp // 2 - 20)
    b[200:300] = np.ldexp(b[200:300], -np.finfo(dtype).maxexp // 2 + 15)
    c[200:300] = np.ldexp(rng.standard_normal(100), np.finfo(dtype).minexp - 2)
    result = evaluate(f"fma.rn.{kind} $d, $a, $b, $c;", dtype, a, b, c)
    with np.errstate(all="ignore"):
        plain = a * b + c
    for x, y, z, r, naive in zip(a, b, c, result, plain, strict=True):
        if np.isfinite([x, y, z]).all():
            exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
            if exact:
                assert float(r) == rounded(exact, dtype), (x, y, z)
            else:
                assert r == 0
        else:
            assert r == naive or (np.isnan(r) and np.isnan(naive))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(
    ("name", "count", "function"),
    [
        ("add.rn", 2, np.add),
        ("add", 2, np.add),
        ("sub.rn", 2, np.subtract),
        ("mul.rn", 2, np.multiply),
        ("div.rn", 2, np.divide),
        ("sqrt.rn", 1, np.sqrt),
        ("rcp.rn", 1, lambda a: np.divide(a.dtype.type(1), a)),
        ("neg", 1, np.negative),
        ("abs", 1, np.abs),
        ("copysign", 2, lambda a, b: np.copysign(b, a)),
    ],
)
def test_float_arithmetic(
    name: str, count: int, function: Callable, kind: str, rng: np.random.Generator
) -> None:
    inputs = [special_floats(rng, FLOATS[kind], 127) for _ in range(count)]
    with np.errstate(all="ignore"):
        expected = function(*inputs)
    same(evaluate(f"{name}.{kind} $d, {', '.join(('$a', '$b')[:count])};", FLOATS[kind], *inputs), expected)


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize(("kind", "nan"), [("f32", ""), ("f64", ""), ("f32", ".NaN")])
def test_extrema_order_zeros_and_treat_nan(name: str, kind: str, nan: str) -> None:
    dtype = FLOATS[kind]
    values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
    a, b = (g.ravel().astype(dtype) for g in np.meshgrid(values, values))
    expected = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if math.isnan(x) or math.isnan(y):
            expected.append(
                math.nan if nan or (math.isnan(x) and math.isnan(y)) else y if math.isnan(x) else x
            )
        else:
            expected.append((min if name == "min" else max)(x, y, key=lambda v: (v, math.copysign(1, v))))
    same(evaluate(f"{name}{nan}.{kind} $d, $a, $b;", dtype, a, b), np.array(expected, dtype))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(
    "name", ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
)
def test_comparisons_of_floats(name: str, kind: str, rng: np.random.Generator) -> None:
    a, b = special_floats(rng, FLOATS[kind], 127), special_floats(rng, FLOATS[kind], 127)
    b[:40] = a[:40]
    result = evaluate(f"setp.{name}.{kind} $p, $a, $b; selp.b32 $d, 1, 0, $p;", np.int32, a, b)
    plain = {
        "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    }  # fmt: skip
    expected = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        unordered = math.isnan(x) or math.isnan(y)
        if name in ("num", "nan"):
            expected.append(int(unordered == (name == "nan")))
        else:
            expected.append(int(name.endswith("u") if unordered else plain[name[:2]](x, y)))
    assert result.tolist() == expected


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("rounding", ["rzi", "rni", "rmi", "rpi"])
def test_floats_become_integers_by_clamping(
    to: str, source: str, rounding: str, rng: np.random.Generator
) -> None:
    wide = {"s8": np.int8, "u8": np.uint8, **INTEGER_TYPES}[to]
    info = np.iinfo(wide)
    a = special_floats(rng, FLOATS[source], 127)
    a[:20] = (float(info.max) + np.arange(-10, 10)).astype(FLOATS[source])
    result = evaluate(f"cvt.{rounding}.{to}.{source} $d, $a;", wide, a)
    function = {"rzi": math.trunc, "rni": round, "rmi": math.floor, "rpi": math.ceil}[rounding]
    expected = []
    for x in a.tolist():
        if math.isnan(x):
            special = source == "f64" or info.bits == 64
            expected.append((info.min if info.min else 1 << (info.bits - 1)) if special else 0)
        elif math.isinf(x):
            expected.append(info.max if x > 0 else info.min)
        else:
            expected.append(min(max(function(x), info.min), info.max))
    assert result.tolist() == expected


@pytest.mark.parametrize("to", FLOATS)
@pytest.mark.parametrize("source", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_integers_become_floats_rounded_once(to: str, source: str, rng: np.random.Generator) -> None:
    a = special_integers(rng, INTEGER_TYPES[source], 127)
    result = evaluate(f"cvt.rn.{to}.{source} $d, $a;", FLOATS[to], a)
    assert result.tolist() == [rounded(Fraction(int(x)), FLOATS[to]) for x in a]


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(
    ("rounding", "function"), [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)]
)
def test_floats_are_rounded_to_integers(
    kind: str, rounding: str, function: Callable, rng: np.random.Generator
) -> None:
    a = special_floats(rng, FLOATS[kind], 127)
    same(evaluate(f"cvt.{rounding}.{kind}.{kind} $d, $a;", FLOATS[kind], a), function(a))


def test_conversions_between_floats(rng: np.random.Generator) -> None:
    a, b = special_floats(rng, np.float32, 127), special_floats(rng, np.float64, 127)
    with np.errstate(all="ignore"):
        same(evaluate("cvt.f64.f32 $d, $a;", np.float64, a), a.astype(np.float64))
        same(evaluate("cvt.rn.f32.f64 $d, $a;", np.float32, b), b.astype(np.float32))
        same(evaluate("cvt.rn.f16.f32 $d, $a;", np.float16, a), a.astype(np.float16))
        half = a.astype(np.float16)
    same(evaluate("cvt.f32.f16 $d, $a;", np.float32, half.view(np.uint16)), half.astype(np.float32))


def test_short_floats_keep_the_nearest_bits() -> None:
    """Halves: bf16 to even, tf32 away from zero."""
    a = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F818001, 0xFF800000, 0x7F7FFFFF], np.uint32).view(
        np.float32
    )
    bf16 = evaluate("cvt.rn.bf16.f32 $d, $a;", np.uint16, a)
    assert [hex(x) for x in bf16] == ["0x3f80", "0x3f80", "0x3f82", "0x3f82", "0xff80", "0x7f80"]
    b = np.array([0x3F801000, 0x3F800FFF, 0xBF801000, 0x7F800000], np.uint32).view(np.float32)
    tf32 = evaluate("cvt.rna.tf32.f32 $d, $a;", np.uint32, b)
    assert [hex(x) for x in tf32] == ["0x3f802000", "0x3f800000", "0xbf802000", "0x7f800000"]
    pairs = evaluate("cvt.rn.f16x2.f32 $d, $a, $b;", np.uint32, a[:1], np.array([2.0], np.float32))
    assert hex(pairs[0]) == "0x3c004000"


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("ex2", np.exp2),
        ("lg2", np.log2),
        ("rsqrt", lambda x: 1 / np.sqrt(x)),
        ("tanh", np.tanh),
        ("sqrt", np.sqrt),
    ],
)
def test_approximations_are_the_function(name: str, function: Callable, rng: np.random.Generator) -> None:
    a = np.abs(special_floats(rng, np.float32, 127))
    with np.errstate(all="ignore"):
        same(
            evaluate(f"{name}.approx.f32 $d, $a;", np.float32, a),
            function(a.astype(np.float64)).astype(np.float32),
        )


def test_flushing_makes_subnormals_zero() -> None:
    a = np.array([-140.0, -126.0, 0.0], np.float32)
    assert evaluate("ex2.approx.ftz.f32 $d, $a;", np.float32, a).tolist() == [0.0, 2.0**-126, 1.0]
    assert evaluate("ex2.approx.f32 $d, $a;", np.float32, a).tolist() == [2.0**-140, 2.0**-126, 1.0]
