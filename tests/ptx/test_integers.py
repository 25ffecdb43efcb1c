"""Instructions on integers and bits against Python's integers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ptx.handwritten import INTEGER_TYPES, evaluate, special_integers
from ptx.machine import PtxError

SIZES = (1, 31, 33, 127, 1000)


def wrap(value: int, dtype: type) -> int:
    info = np.iinfo(dtype)
    bits = info.bits
    value &= (1 << bits) - 1
    return value - (1 << bits) if info.min < 0 and value >> (bits - 1) else value


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
    result = evaluate(f"bfi.b{bits} $d, $a, $b, $c, $e;", dtype, a, b, start, length)
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
