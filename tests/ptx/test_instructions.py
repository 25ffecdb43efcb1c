"""Single instructions against independent expectations: Python's integers and fractions, and numpy."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from ptx.machine import Memory, Module, PtxError, launch

HEADER = ".version 7.0\n.target sm_80\n.address_size 64\n"
SIZES = (1, 31, 33, 127, 1000)


def evaluate(text: str, result: type, *inputs: np.ndarray) -> np.ndarray:
    """What ``text`` leaves in $d, one thread for each element; $a, $b, ... hold the inputs, $p is a predicate."""
    count = inputs[0].size
    result_type = np.dtype(result)
    names = "abcdefgh"[: len(inputs)].replace("d", "x")
    registers, loads, parameters = [], [], []
    for name, array in zip(names, inputs, strict=True):
        bits = 8 * array.itemsize
        kind = f"{array.dtype.kind if array.dtype.kind in 'iu' else 'b'}{bits}".replace("i", "s")
        registers.append(f".reg .b{max(16, bits)} $in{name};")
        parameters.append(f".param .u64 p{name}")
        loads.append(
            f"ld.param.u64 %p, [p{name}]; mad.wide.u32 %p, %t, {array.itemsize}, %p; ld.global.{kind} $in{name}, [%p];"
        )
    bits = 8 * result_type.itemsize
    body = text.replace("$d", "$out")
    for name in names:
        body = (
            body.replace(f"${name} ", f"$in{name} ")
            .replace(f"${name},", f"$in{name},")
            .replace(f"${name};", f"$in{name};")
        )
        body = body.replace(f"${name}" + "}", f"$in{name}" + "}")
    ptx = f"""{HEADER}
.visible .entry k({", ".join([*parameters, ".param .u64 out", ".param .u32 n"])})
{{
  .reg .b32 %t; .reg .b32 %n; .reg .b32 %w; .reg .b64 %p; .reg .pred %q; .reg .pred $p;
  {" ".join(registers)}
  .reg .b{max(16, bits)} $out;
  mov.u32 %t, %ctaid.x; mov.u32 %w, %ntid.x; mov.u32 %n, %tid.x; mad.lo.s32 %t, %t, %w, %n;
  ld.param.u32 %n, [n];
  setp.ge.u32 %q, %t, %n;
  @%q bra $L_end;
  {" ".join(loads)}
  {body}
  ld.param.u64 %p, [out]; mad.wide.u32 %p, %t, {result_type.itemsize}, %p; st.global.b{bits} [%p], $out;
$L_end:
  ret;
}}"""
    memory = Memory()
    addresses = []
    for array in inputs:
        addresses.append(memory.allocate(array.nbytes))
        memory.write(addresses[-1], array)
    out = memory.allocate(count * result_type.itemsize)
    params = np.array([*addresses, out], np.uint64).tobytes() + np.uint32(count).tobytes()
    launch(Module(ptx), "k", memory, (-(-count // 64), 1, 1), (64, 1, 1), params)
    return np.frombuffer(memory.read(out, count * result_type.itemsize), result_type)


def special_integers(rng: np.random.Generator, dtype: type, count: int) -> np.ndarray:
    info = np.iinfo(dtype)
    edges = [0, 1, 2, 3, 31, 32, 63, 64, info.max, info.max - 1, info.min, info.min + 1, info.max // 3]
    values = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    values[: len(edges)] = np.array(edges, dtype)[:count]
    return rng.permutation(values)


def special_floats(rng: np.random.Generator, dtype: type, count: int) -> np.ndarray:
    info = np.finfo(dtype)
    edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        info.max,
        info.tiny,
        info.smallest_subnormal,
        0.5,
        1.5,
        2.5,
        -2.5,
    ]
    values = np.ldexp(rng.standard_normal(count), rng.integers(-20, 20, count)).astype(dtype)
    values[: len(edges)] = np.array(edges, dtype)[:count]
    return rng.permutation(values)


def wrap(value: int, dtype: type) -> int:
    info = np.iinfo(dtype)
    bits = info.bits
    value &= (1 << bits) - 1
    return value - (1 << bits) if info.min < 0 and value >> (bits - 1) else value


INTEGER_TYPES = {
    "s16": np.int16,
    "u16": np.uint16,
    "s32": np.int32,
    "u32": np.uint32,
    "s64": np.int64,
    "u64": np.uint64,
}


def _truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("kind", INTEGER_TYPES)
@pytest.mark.parametrize("name", INTEGER_OPERATIONS)
def test_integer_arithmetic_wraps(name: str, kind: str, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[kind]
    a, b = special_integers(rng, dtype, 127), special_integers(rng, dtype, 127)
    result = evaluate(f"{name}.{kind} $d, $a, $b;", dtype, a, b)
    expected = [wrap(INTEGER_OPERATIONS[name](int(x), int(y)), dtype) for x, y in zip(a, b, strict=True)]
    assert result.tolist() == expected


@pytest.mark.parametrize("kind", INTEGER_TYPES)
def test_high_products(kind: str, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[kind]
    a, b = special_integers(rng, dtype, 127), special_integers(rng, dtype, 127)
    result = evaluate(f"mul.hi.{kind} $d, $a, $b;", dtype, a, b)
    bits = np.iinfo(dtype).bits
    assert result.tolist() == [wrap(int(x) * int(y) >> bits, dtype) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("kind", INTEGER_TYPES)
@pytest.mark.parametrize("name", ["div", "rem"])
def test_division_truncates(name: str, kind: str, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[kind]
    a, b = special_integers(rng, dtype, 127), special_integers(rng, dtype, 127)
    b[b == 0] = 7
    result = evaluate(f"{name}.{kind} $d, $a, $b;", dtype, a, b)
    quotients = [_truncated(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    if name == "rem":
        quotients = [int(x) - int(y) * q for x, y, q in zip(a, b, quotients, strict=True)]
    assert result.tolist() == [wrap(q, dtype) for q in quotients]


def test_division_by_zero_is_an_error() -> None:
    with pytest.raises(PtxError, match="division by zero"):
        evaluate("div.s32 $d, $a, $b;", np.int32, np.array([1, 2], np.int32), np.array([1, 0], np.int32))


@pytest.mark.parametrize(
    ("kind", "wide"), [("s32", np.int64), ("u32", np.uint64), ("s16", np.int32), ("u16", np.uint32)]
)
def test_wide_products(kind: str, wide: type, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[kind]
    a, b, c = (
        special_integers(rng, dtype, 33),
        special_integers(rng, dtype, 33),
        special_integers(rng, wide, 33),
    )
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert evaluate(f"mul.wide.{kind} $d, $a, $b;", wide, a, b).tolist() == [wrap(p, wide) for p in products]
    sums = [wrap(p + int(z), wide) for p, z in zip(products, c, strict=True)]
    assert evaluate(f"mad.wide.{kind} $d, $a, $b, $c;", wide, a, b, c).tolist() == sums
    d = special_integers(rng, dtype, 33)
    lows = [wrap(p + int(z), dtype) for p, z in zip(products, d, strict=True)]
    assert evaluate(f"mad.lo.{kind} $d, $a, $b, $c;", dtype, a, b, d).tolist() == lows


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_shifts_clamp_their_amount(kind: str, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[kind]
    bits = np.iinfo(dtype).bits
    a = special_integers(rng, dtype, 127)
    amounts = np.array([0, 1, 7, 15, 16, 31, 32, 63, 64, 200, 2**32 - 1], np.uint32)[rng.integers(0, 11, 127)]
    pairs = [(int(x), min(int(n), bits)) for x, n in zip(a, amounts, strict=True)]
    assert evaluate(f"shl.b{bits} $d, $a, $b;", dtype, a, amounts).tolist() == [
        wrap(x << n, dtype) for x, n in pairs
    ]
    assert evaluate(f"shr.{kind} $d, $a, $b;", dtype, a, amounts).tolist() == [x >> n for x, n in pairs]


def _sign_extended(value: int, bits: int) -> int:
    return value - (1 << bits) if bits and value >> (bits - 1) & 1 else value


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_fields_are_taken_out(kind: str, rng: np.random.Generator) -> None:
    """bfe by the words of PTX ISA 9.7.1.19: missing bits are the sign's, where the type has one."""
    dtype = INTEGER_TYPES[kind]
    bits = np.iinfo(dtype).bits
    a = special_integers(rng, dtype, 1000)
    start, length = (rng.integers(0, 80, 1000).astype(np.uint32) for _ in range(2))
    result = evaluate(f"bfe.{kind} $d, $a, $b, $c;", dtype, a, start, length)
    expected = []
    for x, p, n in zip(a.tolist(), start.tolist(), length.tolist(), strict=True):
        raw = x & ((1 << bits) - 1)
        sign = 0 if kind[0] == "u" or n == 0 else raw >> min(p + n - 1, bits - 1) & 1
        value = 0
        for i in range(bits):
            value |= (raw >> (p + i) & 1 if i < n and p + i < bits else sign) << i
        expected.append(wrap(value, dtype))
    assert result.tolist() == expected


@pytest.mark.parametrize("bits", [32, 64])
def test_fields_are_put_in(bits: int, rng: np.random.Generator) -> None:
    dtype = INTEGER_TYPES[f"u{bits}"]
    a, b = special_integers(rng, dtype, 1000), special_integers(rng, dtype, 1000)
    start, length = (rng.integers(0, 80, 1000).astype(np.uint32) for _ in range(2))
    result = evaluate(
        f"bfi.b{bits} $d, $a, $b, $c, $e;", dtype, a, b, start, np.zeros(1000, np.uint32), length
    )
    expected = []
    for x, y, p, n in zip(a.tolist(), b.tolist(), start.tolist(), length.tolist(), strict=True):
        for i in range(n):
            if p + i < bits:
                y = y & ~(1 << (p + i)) | (x >> i & 1 if i < bits else 0) << (p + i)
        expected.append(y)
    assert result.tolist() == expected


@pytest.mark.parametrize("bits", [32, 64])
def test_bits_are_counted_and_reversed(bits: int, rng: np.random.Generator) -> None:
    a = special_integers(rng, INTEGER_TYPES[f"u{bits}"], 127) >> rng.integers(0, bits, 127).astype(
        f"u{bits // 8}"
    )
    dtype = INTEGER_TYPES[f"u{bits}"]
    assert evaluate(f"popc.b{bits} $d, $a;", np.uint32, a).tolist() == [int(x).bit_count() for x in a]
    assert evaluate(f"clz.b{bits} $d, $a;", np.uint32, a).tolist() == [bits - int(x).bit_length() for x in a]
    assert evaluate(f"brev.b{bits} $d, $a;", dtype, a).tolist() == [
        int(f"{int(x):0{bits}b}"[::-1], 2) for x in a
    ]


def test_bytes_are_permuted(rng: np.random.Generator) -> None:
    a, b, c = (special_integers(rng, np.uint32, 127) for _ in range(3))
    result = evaluate("prmt.b32 $d, $a, $b, $c;", np.uint32, a, b, c)
    expected = []
    for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        source = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        nibbles = [z >> 4 * i & 15 for i in range(4)]
        picked = [(255 if source[n & 7] & 128 else 0) if n & 8 else source[n & 7] for n in nibbles]
        expected.append(int.from_bytes(bytes(picked), "little"))
    assert result.tolist() == expected


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(side: str, mode: str, rng: np.random.Generator) -> None:
    a, b = special_integers(rng, np.uint32, 127), special_integers(rng, np.uint32, 127)
    n = rng.integers(0, 70, 127).astype(np.uint32)
    result = evaluate(f"shf.{side}.{mode}.b32 $d, $a, $b, $c;", np.uint32, a, b, n)
    expected = []
    for x, y, k in zip(a.tolist(), b.tolist(), n.tolist(), strict=True):
        k = k & 31 if mode == "wrap" else min(k, 32)
        both = y << 32 | x
        expected.append((both << k >> 32 if side == "l" else both >> k) & 0xFFFFFFFF)
    assert result.tolist() == expected


# Floats

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
    ("to", "source"),
    [
        ("s16", "s8"),
        ("u16", "u8"),
        ("s64", "s32"),
        ("u64", "u32"),
        ("u32", "u64"),
        ("s8", "s32"),
        ("u16", "s32"),
    ],
)
def test_integers_extend_and_truncate(to: str, source: str, rng: np.random.Generator) -> None:
    types = {"s8": np.int8, "u8": np.uint8, **INTEGER_TYPES}
    a = special_integers(rng, types[source], 127)
    assert evaluate(f"cvt.{to}.{source} $d, $a;", types[to], a).tolist() == [
        wrap(int(x), types[to]) for x in a
    ]


def test_integers_saturate(rng: np.random.Generator) -> None:
    a = special_integers(rng, np.int32, 127)
    assert evaluate("cvt.sat.u8.s32 $d, $a;", np.uint8, a).tolist() == np.clip(a, 0, 255).tolist()
    assert (
        evaluate("cvt.sat.s16.s32 $d, $a;", np.int16, a).tolist() == np.clip(a, -(2**15), 2**15 - 1).tolist()
    )


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


@pytest.mark.parametrize("count", SIZES)
def test_moves_pack_and_unpack(count: int, rng: np.random.Generator) -> None:
    a, b = special_integers(rng, np.uint32, max(13, count))[:count], rng.integers(0, 2**32, count, np.uint32)
    packed = evaluate("mov.b64 $d, {$a, $b};", np.uint64, a, b)
    assert packed.tolist() == [int(y) << 32 | int(x) for x, y in zip(a, b, strict=True)]
    text = "{ .reg .b32 lo; .reg .b32 hi; mov.b64 {lo, hi}, $a; add.s32 $d, lo, hi; }"
    assert evaluate(text, np.uint32, packed).tolist() == [
        (int(x) + int(y)) % 2**32 for x, y in zip(a, b, strict=True)
    ]


REFUSED = [
    "add.sat.s32 $d, $a, $b;",
    "add.rn.sat.f32 $d, $a, $b;",
    "add.rn.ftz.f32 $d, $a, $b;",
    "fma.rz.f32 $d, $a, $b, $a;",
    "mul.f16x2 $d, $a, $b;",
    "div.full.f32 $d, $a, $b;",
    "cvt.rz.f32.s32 $d, $a;",
    "setp.lt.ftz.f32 $p, $a, $b; mov.b32 $d, $a;",
    "mov.u32 $d, %clock;",
    "add.s32 $d, $a;",
    "add.s64 $d, $a, $b;",
    "mov.b32 $d, somewhere;",
    "min.xorsign.abs.f32 $d, $a, $b;",
    "vote.all.pred $p, $p; mov.b32 $d, $a;",
    "bar.sync 1; mov.b32 $d, $a;",
    "bar.sync 0, 32; mov.b32 $d, $a;",
    "ld.global.acquire.gpu.b32 $d, [%p];",
    "lop3.b32 $d, $a, $b, $a, 3;",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_known_is_refused(text: str) -> None:
    a = np.ones(1, np.uint32)
    with pytest.raises(PtxError, match=r"function k, PTX line \d+: expected"):
        evaluate(text, np.uint32, a, a)
