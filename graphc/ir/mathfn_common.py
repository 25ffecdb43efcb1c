"""What the expansions of transcendental functions share: floating-point formats and exact tricks on their bits.

In: the format (f32 or f64) that a tree computes in, and scalar trees. Out: scalar trees for rounding to an integer,
powers of two, splitting into exponent and significand, error-free sums, and polynomials.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.scalar import SCALARS, Scalar, apply, const
from graphc.ir.types import DType, f32, f64, i32, i64

Operand = Scalar | float
INFINITY = float("inf")
NAN = float("nan")


@dataclass(frozen=True)
class Format:
    """An IEEE 754 binary format and the integers of the same width.

    >>> F32.magic == 1.5 * 2**23, F64.smallest_normal == 2.0**-1022
    (True, True)
    """

    dtype: DType
    integer: DType
    mantissa: int  # stored bits of the significand
    bias: int
    low_bits: int  # cleared in the leading half of a Dekker split: products of two halves are exact
    double: bool = True  # f64 arithmetic may be used inside an f32 expansion

    @property
    def wide(self) -> bool:
        """True of f64."""
        return self.dtype is f64

    @property
    def magic(self) -> float:
        """1.5 * 2**mantissa: adding it rounds to an integer, which then stands in the low bits of the sum."""
        return 1.5 * 2.0**self.mantissa

    @property
    def magic_bits(self) -> int:
        return ((self.bias + self.mantissa) << self.mantissa) + (1 << (self.mantissa - 1))

    @property
    def one_bits(self) -> int:
        return self.bias << self.mantissa

    @property
    def sign_bit(self) -> int:
        return -(1 << (self.dtype.bits - 1))

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    def bits(self, x: Scalar) -> Scalar:
        """The integer with the bits of `x`."""
        return SCALARS.bitcast(x, self.integer)

    def value(self, bits: Scalar) -> Scalar:
        """The number with these bits."""
        return SCALARS.bitcast(bits, self.dtype)

    def power_of_two(self, biased: Scalar) -> Scalar:
        """2**(e - bias), where the low bits of the integer hold e; what stands above them is shifted out."""
        return self.value(biased << self.mantissa)

    def leading(self, x: Scalar) -> Scalar:
        """The leading half of `x`; `x` minus it is exact (T. J. Dekker, Numer. Math. 18, 1971, with a mask)."""
        return self.value(self.bits(x) & -(1 << self.low_bits))

    def round(self, x: Scalar, offset: int = 0) -> tuple[Scalar, Scalar]:
        """`x` rounded to an integer n, and an integer whose low bits are n + offset; needs |x| < 2**(mantissa - 2)."""
        return self.rounded(x + self.magic_with(offset), offset)

    def round_product(self, x: Scalar, factor: float, offset: int = 0) -> tuple[Scalar, Scalar]:
        """The same of x * factor."""
        return self.rounded(fma(x, factor, self.magic_with(offset)), offset)

    def rounded(self, shifted: Scalar, offset: int) -> tuple[Scalar, Scalar]:
        return shifted - self.magic_with(offset), self.bits(shifted)

    def magic_with(self, offset: int) -> float:
        return self.magic + offset

    def scale(self, x: Scalar, bits: Scalar) -> Scalar:
        """x * 2**n, where the low bits hold n + 2 * bias: in two exact halves, so that a subnormal result is rounded
        once and an overflow gives infinity."""
        half = bits >> 1
        return x * self.power_of_two(half) * self.power_of_two(bits - half)

    def copy_sign(self, magnitude: Scalar, sign: Scalar) -> Scalar:
        """`magnitude`, which has a cleared sign bit, with the sign of `sign` (also of a zero)."""
        return self.value(self.bits(magnitude) | (self.bits(sign) & self.sign_bit))


F32 = Format(f32, i32, mantissa=23, bias=127, low_bits=12)
F64 = Format(f64, i64, mantissa=52, bias=1023, low_bits=27)
F32_ALONE = Format(f32, i32, mantissa=23, bias=127, low_bits=12, double=False)


def fma(x: Operand, y: Operand, z: Operand) -> Scalar:
    return apply("fma", x, y, z)


def absolute(x: Scalar) -> Scalar:
    return apply("abs", x)


def equal(x: Scalar, y: Operand) -> Scalar:
    return apply("eq", x, y)


def select(condition: Scalar, x: Operand, y: Operand) -> Scalar:
    return apply("select", condition, x, y)


def at_most(x: Scalar, bound: float) -> Scalar:
    """min(x, bound) that keeps NaN with one comparison."""
    return select(x > bound, bound, x)


def at_least(x: Scalar, bound: float) -> Scalar:
    """max(x, bound) that keeps NaN with one comparison."""
    return select(x < bound, bound, x)


def polynomial(x: Scalar, coefficients: tuple[float, ...]) -> Scalar:
    """Horner's rule; the highest power comes first."""
    result: Scalar = const(coefficients[0])
    for coefficient in coefficients[1:]:
        result = fma(result, x, coefficient)
    return result


def two_sum(x: Scalar, y: Scalar) -> tuple[Scalar, Scalar]:
    """The rounded sum and its error, exactly (D. E. Knuth, The Art of Computer Programming 2, 4.2.2, theorem B)."""
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)
