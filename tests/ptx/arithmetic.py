"""What PTX's arithmetic gives, over numpy arrays: rounded once, saturated and clamped as the PTX ISA says.

In and out: arrays of one element a thread, or of one element that all threads share. NaNs that are made here have the
host's sign and payload: PTX leaves them to the machine.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

_U32, _U64 = np.uint32, np.uint64


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in f32, rounded once (9.7.3.6).

    The product is exact in f64. The sum's rounding to f64 matters only where f64 then lies halfway between two f32, or
    where f32 is subnormal: there the sum is rounded to odd first (S. Boldo, G. Melquiond, Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd, 2008).
    """
    product = a.astype(np.float64) * b
    total = product + c
    result = total.astype(np.float32)
    halfway = (total.view(_U64) & _U64(0x1FFFFFFF)) == _U64(0x10000000)
    halfway |= np.abs(result) < np.float32(2.0**-126)
    if halfway.any():
        where = np.nonzero(halfway)
        c = np.broadcast_to(c, total.shape)[where].astype(np.float64)
        product = np.broadcast_to(product, total.shape)[where]
        result[where] = _sum_to_odd(product, c).astype(np.float32)
    return result


def _two_sum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x + y rounded, and what the rounding lost (D. Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _sum_to_odd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y in f64; where it is not exact, the neighbour with an odd last bit."""
    total, lost = _two_sum(x, y)
    even = (total.view(_U64) & _U64(1)) == 0
    inexact = (lost != 0) & np.isfinite(lost) & even
    towards = np.where(lost > 0, np.inf, -np.inf)
    return np.where(inexact, np.nextafter(total, towards), total)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in f64, rounded once: Boldo and Melquiond's algorithm; exact fractions where an exponent is extreme."""
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = _two_product(a, b)
    upper, rest = _two_sum(c, low)
    top, left = _two_sum(high, upper)
    result = top + _sum_to_odd(rest, left)
    size = np.maximum(np.abs(a * b), np.abs(c))
    plain = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    safe = plain & (size < 2.0**990) & (np.abs(a) < 2.0**990) & (np.abs(b) < 2.0**990)
    safe &= (np.abs(a * b) > 2.0**-900) & (np.abs(result) > 2.0**-900)
    result = np.where(plain, result, a * b + c)
    zero = plain & ((a == 0) | (b == 0))
    result = np.where(zero, a * b + c, result)
    for n in np.nonzero(plain & ~safe & ~zero)[0]:
        exact = Fraction(float(a[n])) * Fraction(float(b[n])) + Fraction(float(c[n]))
        try:
            result[n] = float(exact) if exact else a[n] * b[n] + c[n]
        except OverflowError:
            result[n] = np.inf if exact > 0 else -np.inf
    return result


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a b rounded, and what the rounding lost (T. Dekker, A floating-point technique for extending precision, 1971)."""
    factor = 2.0**27 + 1
    ah = a * factor - (a * factor - a)
    bh = b * factor - (b * factor - b)
    al, bl = a - ah, b - bh
    product = a * b
    return product, al * bl - (((product - ah * bh) - al * bh) - ah * bl)


def extremum(a: np.ndarray, b: np.ndarray, largest: bool, nan: bool) -> np.ndarray:
    """min and max of floats (9.7.3.11): -0 is less than +0; a NaN loses, or wins with .NaN."""
    if nan:
        chosen = np.maximum(a, b) if largest else np.minimum(a, b)
    else:
        chosen = np.fmax(a, b) if largest else np.fmin(a, b)
    equal = a == b
    if equal.any():
        chosen = np.where(equal, np.where(np.signbit(a) == largest, b, a), chosen)
    return chosen


def float_to_integer(x: np.ndarray, dtype: np.dtype, rounding: str) -> np.ndarray:
    """cvt from float to integer (9.7.9.21): rounded, clamped to the type's range.

    NaN gives 0, and the sign bit alone where source or result have 64 bits.
    """
    function = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
    whole = function(x.astype(np.float64))
    info = np.iinfo(dtype)
    low, high = whole <= float(info.min), whole >= float(info.max)
    inside = np.where(low | high | np.isnan(whole), 0, whole).astype(dtype)
    result = np.where(low, dtype.type(info.min), np.where(high, dtype.type(info.max), inside))
    wide = x.dtype.itemsize == 8 or dtype.itemsize == 8
    nan = dtype.type(info.min) if dtype.kind == "i" else dtype.type(1 << (8 * dtype.itemsize - 1))
    return np.where(np.isnan(whole), nan if wide else dtype.type(0), result)


def round_to_tf32(x: np.ndarray) -> np.ndarray:
    """cvt.rna.tf32.f32 (9.7.9.21): to 10 bits of fraction, halves away from zero; the bits of the f32."""
    bits = x.view(_U32)
    return np.where(np.isnan(x), _U32(0x7FFFFFFF), (bits + _U32(0x1000)) & _U32(0xFFFFE000))


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The bits of the nearest bf16, halves to even (9.7.9.21)."""
    bits = x.view(_U32)
    rounded = (bits + _U32(0x7FFF) + ((bits >> _U32(16)) & _U32(1))) >> _U32(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(_U32) << _U32(16)).view(np.float32)


def flushed(x: np.ndarray) -> np.ndarray:
    """.ftz: subnormal numbers are zeros of their sign."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer division that truncates (9.7.1.8). The divisor is not 0."""
    if a.dtype.kind == "u":
        return a // b
    down = a // b
    return np.where((down < 0) & (down * b != a), down + a.dtype.type(1), down)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rest of `quotient` (9.7.1.9)."""
    return a - quotient(a, b) * b


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product (mul.hi, 9.7.1.3)."""
    bits = 8 * a.dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return ((a.astype(wide) * b.astype(wide)) >> wide.type(bits)).astype(a.dtype)
    half, mask = _U64(32), _U64(0xFFFFFFFF)
    x, y = a.view(_U64), b.view(_U64)
    low = (x & mask) * (y & mask)
    middle = (x >> half) * (y & mask) + (low >> half)
    other = (x & mask) * (y >> half) + (middle & mask)
    top = (x >> half) * (y >> half) + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        top = top - np.where(a < 0, y, _U64(0)) - np.where(b < 0, x, _U64(0))
    return top.view(a.dtype)


def shift_left(a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """shl (9.7.8.7): amounts beyond the width move everything out."""
    bits = 8 * a.dtype.itemsize
    moved = a << np.minimum(amount, _U32(bits - 1)).astype(a.dtype)
    return np.where(amount >= bits, a.dtype.type(0), moved)


def shift_right(a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """shr (9.7.8.8): the sign comes in where the type is signed."""
    bits = 8 * a.dtype.itemsize
    moved = a >> np.minimum(amount, _U32(bits - 1)).astype(a.dtype)
    return moved if a.dtype.kind == "i" else np.where(amount >= bits, a.dtype.type(0), moved)


def funnel_shift(a: np.ndarray, b: np.ndarray, amount: np.ndarray, left: bool, wrap: bool) -> np.ndarray:
    """shf (9.7.8.6) of the 64 bits b:a; wrap takes the amount modulo 32, clamp at most 32."""
    count = (amount & _U32(31) if wrap else np.minimum(amount, _U32(32))).astype(_U64)
    both = (b.astype(_U64) << _U64(32)) | a.astype(_U64)
    return ((both << count) >> _U64(32) if left else both >> count).astype(_U32)


def extract_field(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """bfe (9.7.1.19): `length` bits from `start`, with the field's sign where the type is signed."""
    bits = 8 * a.dtype.itemsize
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    start, length = start & _U32(255), length & _U32(255)
    raw = shift_right(a.view(unsigned), start)
    ones = shift_left(np.ones(1, unsigned), length) - unsigned.type(1)
    field = raw & np.where(length >= bits, unsigned.type(2**bits - 1), ones)
    if a.dtype.kind == "u":
        return field
    # The sign is that of the field's last bit, or of the number's where the field goes beyond it.
    last = np.minimum(start.astype(np.int64) + length.astype(np.int64) - 1, bits - 1).astype(_U32)
    sign = (shift_right(a.view(unsigned), last) & unsigned.type(1)).astype(bool) & (length != 0)
    kept = np.minimum(length.astype(np.int64), np.maximum(bits - start.astype(np.int64), 0)).astype(_U32)
    above = ~(shift_left(np.ones(1, unsigned), kept) - unsigned.type(1))
    above = np.where(kept >= bits, unsigned.type(0), above)
    return np.where(sign, field | above, field).astype(unsigned).view(a.dtype)


def insert_field(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """bfi (9.7.1.20): the low `length` bits of a, put into b at `start`."""
    bits = 8 * a.dtype.itemsize
    start, length = start & _U32(255), length & _U32(255)
    one = a.dtype.type(1)
    ones = np.where(length >= bits, ~a.dtype.type(0), shift_left(np.ones(1, a.dtype), length) - one)
    mask = shift_left(ones.astype(a.dtype), start)
    return (shift_left(a, start) & mask) | (b & ~mask)


def permute_bytes(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """prmt (9.7.8.9) in its default mode: each nibble picks one of eight bytes, or the sign of it eight times."""
    both = a.astype(_U64) | (b.astype(_U64) << _U64(32))
    result = np.zeros(1, _U32)
    for byte in range(4):
        nibble = (selector >> _U32(4 * byte)) & _U32(15)
        picked = (both >> ((nibble & _U32(7)) * _U32(8)).astype(_U64)).astype(_U32) & _U32(255)
        sign = np.where(picked & _U32(128), _U32(255), _U32(0))
        result = result | np.where(nibble & _U32(8), sign, picked) << _U32(8 * byte)
    return result


def leading_zeros(a: np.ndarray) -> np.ndarray:
    """clz (9.7.1.12)."""
    bits, count = 8 * a.dtype.itemsize, np.zeros(a.shape, _U32)
    x = a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < bits:
            empty = x >> a.dtype.type(bits - step) == 0
            count += np.where(empty, _U32(step), _U32(0))
            x = np.where(empty, x << a.dtype.type(step), x)
    return np.where(a == 0, _U32(bits), count)


def reverse_bits(a: np.ndarray) -> np.ndarray:
    """brev (9.7.1.18)."""
    bits = 8 * a.dtype.itemsize
    result = np.zeros_like(a)
    for n in range(bits):
        result |= ((a >> a.dtype.type(n)) & a.dtype.type(1)) << a.dtype.type(bits - 1 - n)
    return result
