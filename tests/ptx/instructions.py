"""The instructions that the interpreter knows: opcode, types of the operands, meaning. Everything else is refused.

In: an opcode with all its modifiers, as one word. Out: a `Meaning`: the types of results and operands, and a function
over numpy arrays. A rule's pattern must match the whole word, so no modifier is ever ignored. Sections are those of
the PTX ISA 9.0. Instructions that see memory or other threads are in `effects`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ptx import arithmetic
from ptx.numbers import NUMPY

Kinds = tuple["str | tuple[str, ...]", ...]  # a tuple inside stands for {a, b}


@dataclass(frozen=True)
class Meaning:
    """`compute(*operands)` gives the result, or a tuple of several.

    An effect's function is called as ``compute(lanes, instruction, *operands)``. Operands of kind "address" are u64
    numbers, of kind "place" the parsed operand itself.
    """

    results: Kinds
    operands: Kinds
    compute: Callable[..., object]
    effect: bool = False


RULES: list[tuple[re.Pattern[str], Callable[..., Meaning]]] = []


def rule(pattern: str) -> Callable[[Callable[..., Meaning]], Callable[..., Meaning]]:
    """Registers what the opcodes of a pattern mean; the function gets the pattern's groups."""

    def register(function: Callable[..., Meaning]) -> Callable[..., Meaning]:
        RULES.append((re.compile(pattern), function))
        return function

    return register


@cache
def meaning_of(opcode: str) -> Meaning | None:
    """What an opcode means; `None` where no rule knows it.

    >>> meaning_of("add.rn.f32").operands, meaning_of("add.rn.sat.f32")
    (('f32', 'f32'), None)
    """
    for pattern, function in RULES:
        found = pattern.fullmatch(opcode)
        if found:
            return function(*found.groups())
    return None


INTEGER = r"([su](?:16|32|64))"
FLOAT = r"(f32|f64)"
BITS = r"(b(?:16|32|64))"


def _same(kind: str, count: int, compute: Callable[..., object]) -> Meaning:
    return Meaning((kind,), (kind,) * count, compute)


# Arithmetic: 9.7.1 (integers), 9.7.3 (floats)

_ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@rule(rf"(add|sub)\.{INTEGER}")
def _integer_sum(name: str, kind: str) -> Meaning:
    return _same(kind, 2, _ARITHMETIC[name])


@rule(rf"(add|sub|mul)(?:\.rn)?\.{FLOAT}")
def _float_arithmetic(name: str, kind: str) -> Meaning:
    return _same(kind, 2, _ARITHMETIC[name])


@rule(rf"mul\.(lo|hi|wide)\.{INTEGER}")
def _integer_product(part: str, kind: str) -> Meaning:
    if part == "wide":
        wide = _twice(kind)
        dtype = NUMPY[wide]
        return Meaning((wide,), (kind, kind), lambda a, b: a.astype(dtype) * b.astype(dtype))
    return _same(kind, 2, np.multiply if part == "lo" else arithmetic.high_product)


def _twice(kind: str) -> str:
    return f"{kind[0]}{2 * int(kind[1:])}"


@rule(rf"mad\.(lo|wide)\.{INTEGER}")
def _multiply_add(part: str, kind: str) -> Meaning:
    if part == "wide":
        wide = _twice(kind)
        dtype = NUMPY[wide]
        return Meaning((wide,), (kind, kind, wide), lambda a, b, c: a.astype(dtype) * b.astype(dtype) + c)
    return _same(kind, 3, lambda a, b, c: a * b + c)


@rule(rf"fma\.rn\.{FLOAT}")
def _fused_multiply_add(kind: str) -> Meaning:
    return _same(kind, 3, arithmetic.fma32 if kind == "f32" else arithmetic.fma64)


@rule(rf"div\.rn\.{FLOAT}")
def _float_division(kind: str) -> Meaning:
    return _same(kind, 2, np.divide)


@rule(rf"(sqrt|rcp)\.rn\.{FLOAT}")
def _exact_root(name: str, kind: str) -> Meaning:
    one = NUMPY[kind].type(1)
    return _same(kind, 1, np.sqrt if name == "sqrt" else lambda a: one / a)


@rule(r"(neg|abs)\.([s](?:16|32|64)|f32|f64)")
def _sign_change(name: str, kind: str) -> Meaning:
    return _same(kind, 1, np.negative if name == "neg" else np.abs)


@rule(rf"copysign\.{FLOAT}")
def _copy_sign(kind: str) -> Meaning:
    return _same(kind, 2, lambda a, b: np.copysign(b, a))


@rule(rf"(min|max)\.{INTEGER}")
def _integer_extremum(name: str, kind: str) -> Meaning:
    return _same(kind, 2, np.minimum if name == "min" else np.maximum)


@rule(r"(min|max)(\.NaN)?\.f32|(min|max)\.f64")
def _float_extremum(name: str | None, nan: str | None, name64: str | None) -> Meaning:
    kind, largest, wins = "f32" if name else "f64", (name or name64) == "max", nan is not None
    return _same(kind, 2, lambda a, b: arithmetic.extremum(a, b, largest, wins))


# 9.7.3.16 to 9.7.3.22: functions with an error bound. Here they are rounded correctly, which is within any bound.
_APPROXIMATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "rcp": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@rule(r"(ex2|lg2|rsqrt|rcp|sqrt|sin|cos|tanh(?!\.approx\.ftz))\.approx(\.ftz)?\.f32")
def _approximate(name: str, flush: str | None) -> Meaning:
    function = _APPROXIMATE[name]

    def compute(x: np.ndarray) -> np.ndarray:
        if flush:
            return arithmetic.flushed(function(arithmetic.flushed(x).astype(np.float64)).astype(np.float32))
        return function(x.astype(np.float64)).astype(np.float32)

    return _same("f32", 1, compute)


# Bits: 9.7.1.11 to 9.7.1.20, 9.7.8


@rule(r"(and|or|xor)\.(pred|b(?:16|32|64))")
def _bitwise(name: str, kind: str) -> Meaning:
    return _same(kind, 2, {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[name])


@rule(r"not\.(pred|b(?:16|32|64))")
def _complement(kind: str) -> Meaning:
    return _same(kind, 1, np.invert)


@rule(rf"shl\.{BITS}")
def _shift_left(kind: str) -> Meaning:
    return Meaning((kind,), (kind, "u32"), arithmetic.shift_left)


@rule(r"shr\.([bsu](?:16|32|64))")
def _shift_right(kind: str) -> Meaning:
    return Meaning((kind,), (kind, "u32"), arithmetic.shift_right)


@rule(r"shf\.(l|r)\.(wrap|clamp)\.b32")
def _funnel_shift(side: str, mode: str) -> Meaning:
    return _same("b32", 3, lambda a, b, c: arithmetic.funnel_shift(a, b, c, side == "l", mode == "wrap"))


@rule(r"bfe\.([su](?:32|64))")
def _extract_field(kind: str) -> Meaning:
    return Meaning((kind,), (kind, "u32", "u32"), arithmetic.extract_field)


@rule(r"bfi\.(b32|b64)")
def _insert_field(kind: str) -> Meaning:
    return Meaning((kind,), (kind, kind, "u32", "u32"), arithmetic.insert_field)


@rule(r"prmt\.b32")
def _permute_bytes() -> Meaning:
    return _same("b32", 3, arithmetic.permute_bytes)


@rule(r"(popc|clz)\.(b32|b64)")
def _count_bits(name: str, kind: str) -> Meaning:
    if name == "clz":
        return Meaning(("u32",), (kind,), arithmetic.leading_zeros)
    return Meaning(("u32",), (kind,), lambda a: np.bitwise_count(a).astype(np.uint32))


@rule(r"brev\.(b32|b64)")
def _reverse_bits(kind: str) -> Meaning:
    return _same(kind, 1, arithmetic.reverse_bits)


# Comparison and selection: 9.7.6

_COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def _comparison(name: str, is_float: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if name in ("num", "nan"):
        wanted = name == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == wanted
    if is_float and name.endswith("u"):  # true also where there is a NaN
        compare = _COMPARISONS[name[:-1]]
        return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)
    if is_float and name == "ne":
        return lambda a, b: (a < b) | (a > b)
    return _COMPARISONS[name]


@rule(
    r"setp\.(?:(eq|ne)\.(b(?:16|32|64))|(eq|ne|lt|le|gt|ge)\.(s(?:16|32|64))|(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)\.(u(?:16|32|64))"
    r"|((?:eq|ne|lt|le|gt|ge)u?|num|nan)\.(f32|f64))"
)
def _set_predicate(*groups: str | None) -> Meaning:
    name, kind = (g for g in groups if g is not None)
    return Meaning(("pred",), (kind, kind), _comparison(name, kind[0] == "f"))


@rule(r"setp\.(eq|ne|lt|le|gt|ge|(?:eq|ne|lt|le|gt|ge)u)\.(and|or|xor)\.([su](?:16|32|64)|f32|f64)")
def _set_combined_predicate(name: str, combine: str, kind: str) -> Meaning:
    compare = _comparison(name, kind[0] == "f")
    join = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[combine]
    return Meaning(("pred",), (kind, kind, "pred"), lambda a, b, c: join(compare(a, b), c))


@rule(r"selp\.([bsu](?:16|32|64)|f32|f64)")
def _select(kind: str) -> Meaning:
    return Meaning((kind,), (kind, kind, "pred"), lambda a, b, p: np.where(p, a, b))


@rule(r"testp\.(finite|infinite|number|notanumber|normal|subnormal)\.(f32|f64)")
def _test_property(name: str, kind: str) -> Meaning:
    smallest = np.finfo(NUMPY[kind]).tiny
    tests: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= smallest),
        "subnormal": lambda a: np.abs(a) < smallest,  # 9.7.3.1: zero counts as subnormal
    }
    return Meaning(("pred",), (kind,), tests[name])


# Movement and conversion: 9.7.9.2, 9.7.9.21


@rule(r"mov\.(pred|[bsu](?:16|32|64)|f32|f64)")
def _move(kind: str) -> Meaning:
    return _same(kind, 1, lambda a: a)


def packed(kind: str, parts: int) -> Meaning:
    """mov.b64 d, {a, b}: the first member has the lowest bits."""
    width = int(kind[1:]) // parts
    dtype = NUMPY[kind]

    def compute(*members: np.ndarray) -> np.ndarray:
        result = members[0].astype(dtype)
        for n, member in enumerate(members[1:], 1):
            result = result | member.astype(dtype) << dtype.type(n * width)
        return result

    return Meaning((kind,), ((f"b{width}",) * parts,), compute)


def unpacked(kind: str, parts: int) -> Meaning:
    """mov.b64 {a, b}, d."""
    width = int(kind[1:]) // parts
    dtype, part = NUMPY[kind], NUMPY[f"b{width}"]
    return Meaning(
        ((f"b{width}",) * parts,),
        (kind,),
        lambda a: tuple((a >> dtype.type(n * width)).astype(part) for n in range(parts)),
    )


@rule(r"cvt(\.sat)?\.([su](?:8|16|32|64))\.([su](?:8|16|32|64))")
def _convert_integers(saturate: str | None, to: str, source: str) -> Meaning:
    dtype = NUMPY[to]
    if not saturate:
        return Meaning((to,), (source,), lambda a: a.astype(dtype))
    low = max(np.iinfo(dtype).min, np.iinfo(NUMPY[source]).min)
    high = min(np.iinfo(dtype).max, np.iinfo(NUMPY[source]).max)
    return Meaning((to,), (source,), lambda a: np.clip(a, low, high).astype(dtype))


@rule(r"cvt\.(rni|rzi|rmi|rpi)\.([su](?:8|16|32|64))\.(f32|f64)")
def _convert_to_integer(rounding: str, to: str, source: str) -> Meaning:
    return Meaning((to,), (source,), lambda a: arithmetic.float_to_integer(a, NUMPY[to], rounding))


@rule(r"cvt\.rn\.(f32|f64)\.([su](?:8|16|32|64))")
def _convert_from_integer(to: str, source: str) -> Meaning:
    dtype = NUMPY[to]
    return Meaning((to,), (source,), lambda a: a.astype(dtype))


@rule(r"cvt\.(rni|rzi|rmi|rpi)\.(f32\.f32|f64\.f64)")
def _round(rounding: str, kinds: str) -> Meaning:
    return _same(kinds[:3], 1, {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding])


@rule(r"cvt\.(rn\.f32\.f64|f64\.f32|rn\.f16\.f32|f32\.f16)")
def _convert_floats(kinds: str) -> Meaning:
    to, source = kinds.removeprefix("rn.").split(".")
    dtype = NUMPY[to]
    return Meaning((to,), (source,), lambda a: a.astype(dtype))


@rule(r"cvt\.rna\.tf32\.f32")
def _convert_to_tf32() -> Meaning:
    return Meaning(("b32",), ("f32",), arithmetic.round_to_tf32)


@rule(r"cvt\.rn\.bf16\.f32")
def _convert_to_bf16() -> Meaning:
    return Meaning(("b16",), ("f32",), arithmetic.to_bf16)


@rule(r"cvt\.f32\.bf16")
def _convert_from_bf16() -> Meaning:
    return Meaning(("f32",), ("b16",), arithmetic.from_bf16)


@rule(r"cvt\.rn\.(f16x2|bf16x2)\.f32")
def _convert_two(kind: str) -> Meaning:
    """The first operand goes to the upper half."""

    def half(x: np.ndarray) -> np.ndarray:
        bits = arithmetic.to_bf16(x) if kind == "bf16x2" else x.astype(np.float16).view(np.uint16)
        return bits.astype(np.uint32)

    return Meaning(("b32",), ("f32", "f32"), lambda a, b: half(a) << np.uint32(16) | half(b))
