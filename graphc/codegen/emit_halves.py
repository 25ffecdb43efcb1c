"""Floats of 16 bits: from their bits to f32 and back, as instructions.

In: values of bf16 and f16, whose LLVM type is i16, or of f32. Out: the other. A target that converts f16 by an
instruction says so in its table (``cast`` is native); everything else is integer arithmetic, a dozen instructions a vector
and never a call. Rounding is to nearest, ties to even; subnormals, infinities and the signs of zeros are kept, and a NaN
stays one.
"""

from __future__ import annotations

from graphc.codegen.emit_writer import Value, Writer
from graphc.ir.types import DType, bf16, f16, f32, f64, i32, u16, u32

_SIGN, _INFINITE = 0x80000000, 0x7F800000


def widened(w: Writer, x: Value) -> Value:
    """The f32 of the same number."""
    bits = x._replace(dtype=u16)
    if x.dtype is f16 and w.target.is_native("cast", f16):
        kind = "half" if x.lanes == 1 else f"<{x.lanes} x half>"
        half = w.fresh()
        w.line(f"{half} = bitcast {w.typed(bits)} to {kind}")
        return w.emit(f"fpext {kind} {half} to {w.type(f32, x.lanes)}", f32, x.lanes)
    word = w.words_of_halves.get(x.text) or w.convert("zext", bits, u32)
    if x.dtype is bf16:
        return w.convert("bitcast", _shift(w, "shl", word, 16), f32)
    # The exponent of an f16, moved to that of an f32, is 112 too low. A product by 2^112 puts it right, and is exact for
    # subnormals too.
    size = _shift(w, "shl", _masked(w, word, 0x7FFF), 13)
    scaled = w.binary("fmul", w.convert("bitcast", size, f32), w.const(f32, 2.0**112, x.lanes))
    number = w.convert("bitcast", scaled, u32)
    special = w.compare("uge", size, w.const(u32, 0x1F << 23, x.lanes))
    number = w.select(special, w.binary("or", size, w.const(u32, _INFINITE, x.lanes)), number)
    sign = _shift(w, "shl", _masked(w, word, 0x8000), 16)
    return w.convert("bitcast", w.binary("or", number, sign), f32)


def rounded(w: Writer, x: Value, dtype: DType) -> Value:
    """The 16-bit float that is nearest to an f32."""
    lanes = x.lanes
    if dtype is f16 and w.target.is_native("cast", f16):
        kind = "half" if lanes == 1 else f"<{lanes} x half>"
        half = w.fresh()
        w.line(f"{half} = fptrunc {w.typed(x)} to {kind}")
        return w.emit(f"bitcast {kind} {half} to {w.type(dtype, lanes)}", dtype, lanes)
    bits = w.convert("bitcast", x, u32)
    if dtype is bf16:
        number = _shift(w, "lshr", w.binary("add", bits, _half_of_the_last(w, bits, 16)), 16)
        quiet = w.binary("or", _shift(w, "lshr", bits, 16), w.const(u32, 0x40, lanes))
        return _half(w, w.select(w.compare("uno", x, x), quiet, number), dtype)
    size = _masked(w, bits, _SIGN - 1)
    # Normal results: the exponent's bias changes from 127 to 15.
    rebiased = w.binary("sub", size, w.const(u32, 112 << 23, lanes))
    normal = _shift(w, "lshr", w.binary("add", rebiased, _half_of_the_last(w, size, 13)), 13)
    # Subnormal ones: beside 1/2, whose last bit is 2^-24, the addition rounds to multiples of that.
    beside = w.binary("fadd", w.convert("bitcast", size, f32), w.const(f32, 0.5, lanes))
    subnormal = w.binary("sub", w.convert("bitcast", beside, u32), w.const(u32, 0x3F000000, lanes))
    number = w.select(w.compare("ult", size, w.const(u32, 113 << 23, lanes)), subnormal, normal)
    number = w.select(
        w.compare("uge", size, w.const(u32, (127 + 16) << 23, lanes)), w.const(u32, 0x7C00, lanes), number
    )
    nan = w.binary("or", _masked(w, _shift(w, "lshr", size, 13), 0x3FF), w.const(u32, 0x7E00, lanes))
    number = w.select(w.compare("uno", x, x), nan, number)
    number = w.binary("or", number, _shift(w, "lshr", _masked(w, bits, _SIGN), 16))
    return _half(w, number, dtype)


def to_odd(w: Writer, x: Value) -> Value:
    """f64 as f32 whose last bit is set where something was lost, which `rounded` then rounds as if it were all there.

    Boldo and Melquiond, Emulation of FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd, 2008.
    """
    near = w.convert("fptrunc", x, f32)
    back = w.convert("fpext", near, f64)
    beyond = w.compare(
        "ogt", w.call("llvm.fabs", [back], f64), w.call("llvm.fabs", [x], f64)
    )  # so that the number lies between it and its neighbour towards 0
    lost = w.compare("one", back, x)
    bits = w.convert("bitcast", near, i32)
    bits = w.binary("sub", bits, w.convert("zext", beyond, i32))
    return w.convert("bitcast", w.binary("or", bits, w.convert("zext", lost, i32)), f32)


def _half(w: Writer, word: Value, dtype: DType) -> Value:
    """A word's lower half. The next op of a chain takes the word: it needs no conversion back and forth."""
    half = w.convert("trunc", word, u16)._replace(dtype=dtype)
    w.words_of_halves[half.text] = word
    return half


def _half_of_the_last(w: Writer, bits: Value, dropped: int) -> Value:
    """What is added before so many bits are dropped: half of the last bit that stays, or 1 less where that bit is 0."""
    odd = _masked(w, _shift(w, "lshr", bits, dropped), 1)
    return w.binary("add", odd, w.const(u32, (1 << dropped - 1) - 1, bits.lanes))


def _shift(w: Writer, opcode: str, x: Value, count: int) -> Value:
    return w.binary(opcode, x, w.const(u32, count, x.lanes))


def _masked(w: Writer, x: Value, mask: int) -> Value:
    return w.binary("and", x, w.const(u32, mask, x.lanes))
