"""Expansions of sin, cos and tan.

In: a floating-point format. Out: a scalar tree of arg(0) without transcendental primitives. The argument is reduced to
|r| <= pi/4 and the quadrant chooses between the two polynomials and the sign.

The coefficients are fitted as those of `mathfn_exp`.
"""

from __future__ import annotations

from graphc.ir.mathfn_common import F64, NAN, Format, absolute, equal, fma, polynomial, select, two_sum
from graphc.ir.scalar import SCALARS, Scalar, apply, arg
from graphc.ir.types import f32, f64

# sin(r)/r - 1 over r^2, in r^2: 2^-27.9 and 2^-63.2 relative to sin
SIN_F32 = (-0.0001951826416188851, 0.008332189172506332, -0.16666655242443085)
SIN_F64 = (-7.397303703637563e-13, 1.6054467498958736e-10, -2.5052072096516593e-08, 2.75573190780912e-06,
           -0.00019841269840968962, 0.008333333333333045, -0.16666666666666666)  # fmt: skip
# (cos(r) - 1 + r^2/2) / r^4, in r^2: 2^-33.1 and 2^-64.2
COS_F32 = (2.443255652906373e-05, -0.0013887310633435845, 0.04166664555668831)
COS_F64 = (-1.1359892687276903e-11, 2.087572862321171e-09, -2.755731439734441e-07, 2.480158728966306e-05,
           -0.0013888888888874467, 0.0416666666666666)  # fmt: skip
# 1/(2 pi) as five signed digits of 30 bits and the rest: 203 bits, 2^-75 of a turn at the largest f32
TURNS = (0.15915494319051504, -9.861970528407538e-11, -2.98359219573521e-19, -1.4528344694242218e-28,
         3.2976802233091087e-37, 2.451648649116084e-46)  # fmt: skip
TWO_PI = 6.283185307179586
TWO_OVER_PI = 0.6366197723675814
# pi/2 as five signed digits of 12 (24) bits and the rest
HALF_PI_F32 = (1.57080078125, -4.410743713378906e-06, -4.371395334601402e-08, 2.5650592760939617e-12,
               -1.7156415177410622e-15, 5.170182817331536e-19)  # fmt: skip
HALF_PI_F64 = (1.5707963705062866, -4.371138828673793e-08, -1.7151244041267635e-15, -9.531610680280991e-23,
               -1.2536989931632848e-29, -2.7529965190440717e-37)  # fmt: skip
# Cody and Waite's reduction is used below these bounds: 2^18 and 2^46 quarter turns
LARGEST_F32 = 4.1e5
LARGEST_F64 = 1.1e14


def reduce_in_f64(form: Format, x: Scalar) -> tuple[Scalar, Scalar]:
    """The remainder r of any f32 modulo pi/2, and an integer whose low bits are the quadrant.

    After M. H. Payne and R. N. Hanek, Radian reduction for trigonometric functions, SIGNUM Newsletter 18, 1983: x times
    each digit of 1/(2 pi) is exact in f64 (24 + 29 bits), so whole turns are dropped from it without error.
    """
    wide = SCALARS.cast(x, f64)
    parts = [turns - apply("round", turns) for turns in (wide * digit for digit in TURNS[:-1])] + [
        wide * TURNS[-1]
    ]
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = total + part
    quarters, _ = F64.round_product(total, 4.0)
    rest = fma(quarters, -0.25, parts[0])
    for part in parts[1:]:
        rest = rest + part
    _, quadrant = form.round(SCALARS.cast(quarters, f32))
    return SCALARS.cast(rest * TWO_PI, f32), quadrant


def reduce_cody_waite(form: Format, x: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """The remainder of x modulo pi/2 as r + low, and an integer whose low bits are the quadrant.

    Cody and Waite, Software Manual for the Elementary Functions, 1980, chapter 8, with both the multiple and pi/2 split so
    that all products are exact; the first five differences are exact too, later ones keep their error.
    """
    digits = HALF_PI_F64 if form.wide else HALF_PI_F32
    n, quadrant = form.round_product(x, TWO_OVER_PI)
    coarse = 1.5 * 2.0 ** (form.mantissa + (25 if form.wide else 11))
    n_high = (n + coarse) - coarse
    n_low = n - n_high
    r = x
    for product in (
        n_high * digits[0],
        n_low * digits[0],
        n_high * digits[1],
        n_low * digits[1],
        n_high * digits[2],
    ):
        r = r - product
    low = n * -digits[5]
    for product in (
        n_low * digits[2],
        n_high * digits[3],
        n_low * digits[3],
        n_high * digits[4],
        n_low * digits[4],
    ):
        r, error = two_sum(r, -product)
        low = low + error
    total = r + low
    return total, (r - total) + low, quadrant


def sin_and_cos(form: Format, r: Scalar, low: Scalar | None) -> tuple[Scalar, Scalar]:
    """Both of r + low, |r| <= pi/4."""
    z = r * r
    sin = polynomial(z, SIN_F64 if form.wide else SIN_F32)
    cos = polynomial(z, COS_F64 if form.wide else COS_F32)
    if low is None:
        sin = fma(sin, z * r, r)
        cos = fma(cos, z * z, fma(z, -0.5, 1.0))
    else:
        sin = r + fma(sin, z * r, low * fma(z, -0.5, 1.0))
        half = 0.5 * z
        leading = 1 - half
        cos = leading + (((1 - leading) - half) + fma(cos, z * z, -(r * low)))
    return sin, cos


def quadrant_value(form: Format, r: Scalar, low: Scalar | None, quadrant: Scalar) -> Scalar:
    """sin(r + low + quadrant pi/2)."""
    sin, cos = sin_and_cos(form, r, low)
    value = select(equal(quadrant & 1, 0), sin, cos)
    return form.value(form.bits(value) ^ ((quadrant & 2) << (form.dtype.bits - 2)))


def reduced(form: Format, x: Scalar, quarter_turns: int) -> Scalar:
    """sin(x + quarter_turns pi/2) of any x; NaN at infinity and beyond the bound of the reduction."""
    if form.wide or not form.double:
        r, low, quadrant = reduce_cody_waite(form, x)
        value = quadrant_value(form, r, low, quadrant + quarter_turns if quarter_turns else quadrant)
        return select(absolute(x) < (LARGEST_F64 if form.wide else LARGEST_F32), value, NAN)
    r32, quadrant = reduce_in_f64(form, x)
    return quadrant_value(form, r32, None, quadrant + quarter_turns if quarter_turns else quadrant)


def sin(form: Format) -> Scalar:
    """Odd: sin(-0) = -0."""
    x = arg(0)
    return select(equal(x, 0.0), x, reduced(form, x, 0))


def cos(form: Format) -> Scalar:
    """cos(x) = sin(x + pi/2), added to the quadrant and not to x."""
    return reduced(form, arg(0), 1)


def tan(form: Format) -> Scalar:
    """sin/cos, or -cos/sin where the quadrant is odd; the range is that of sin."""
    x = arg(0)
    if form.wide or not form.double:
        r, low, quadrant = reduce_cody_waite(form, x)
        sin, cos = sin_and_cos(form, r, low)
    else:
        r, quadrant = reduce_in_f64(form, x)
        sin, cos = sin_and_cos(form, r, None)
    even = equal(quadrant & 1, 0)
    value = select(even, sin, -cos) / select(even, cos, sin)
    if form.wide or not form.double:
        value = select(absolute(x) < (LARGEST_F64 if form.wide else LARGEST_F32), value, NAN)
    return select(equal(x, 0.0), x, value)
