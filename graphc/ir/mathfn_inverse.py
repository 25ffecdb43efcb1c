"""Expansions of the inverse functions: atan, atan2, asin and acos from one polynomial, asinh, acosh and atanh by log1p.

In: a floating-point format. Out: a scalar tree of arg(0) (atan2: and arg(1)) without transcendental primitives.

The coefficients are fitted as those of `mathfn_exp`.
"""

from __future__ import annotations

from graphc.ir.mathfn_common import INFINITY, NAN, Format, absolute, equal, fma, polynomial, select
from graphc.ir.mathfn_log import log1p
from graphc.ir.scalar import Scalar, apply, arg, substitute

# (atan(t)/t - 1) / t^2 in t^2 on |t| <= tan(pi/8): 2^-30.4 and 2^-59.4 relative to atan
ATAN_F32 = (-0.06090035289525986, 0.10599065572023392, -0.14244365692138672, 0.19998526573181152,
            -0.33333316445350647)  # fmt: skip
ATAN_F64 = (-0.017909451201195355, 0.03806648836146316, -0.050393763701959006, 0.05847904455801692,
            -0.0666310606656342, 0.07692060392437013, -0.09090897768296236, 0.11111110783884337,
            -0.1428571428020743, 0.19999999999953738, -0.333333333333332)  # fmt: skip
# pi/4 as a number of the format and the rest
QUARTER_PI_F32 = (0.7853981852531433, -2.1855695000931214e-08)
QUARTER_PI_F64 = (0.7853981633974483, 3.061616997868383e-17)
LN2 = 0.6931471805599453
TAN_PI_8 = 0.41421356237309503
TAN_3PI_8 = 2.414213562373095


def atan_of_positive(form: Format, x: Scalar) -> Scalar:
    """atan of x >= 0: by pi/4 or pi/2 plus the atan of a t within tan(pi/8), with one division for all three cases.

    J.-M. Muller, Elementary Functions, 3rd ed. 2016, section 11.5: atan(x) = pi/4 + atan((x - 1)/(x + 1)),
    atan(x) = pi/2 - atan(1/x).
    """
    middle, large = x > TAN_PI_8, x > TAN_3PI_8
    high, low = QUARTER_PI_F64 if form.wide else QUARTER_PI_F32

    def chosen(beyond: Scalar | float, between: Scalar | float, small: Scalar | float) -> Scalar:
        return select(large, beyond, select(middle, between, small))

    t = chosen(-1.0, x - 1, x) / chosen(x, x + 1, 1.0)
    z = t * t
    tail = fma(z * polynomial(z, ATAN_F64 if form.wide else ATAN_F32), t, chosen(2 * low, low, 0.0))
    return chosen(2 * high, high, 0.0) + (t + tail)


def atan(form: Format) -> Scalar:
    """Odd, and keeps the sign of zero."""
    x = arg(0)
    return form.copy_sign(atan_of_positive(form, absolute(x)), x)


def atan2(form: Format) -> Scalar:
    """The angle of the point (x, y) = (arg(1), arg(0)): the atan of the smaller over the larger size, put in its octant.

    Zeros and infinities are those of IEEE 754-2019, 9.2.1, as `numpy.arctan2` has them.
    """
    y, x = arg(0), arg(1)
    height, width = absolute(y), absolute(x)
    high, low = QUARTER_PI_F64 if form.wide else QUARTER_PI_F32
    larger, smaller = apply("max", height, width), apply("min", height, width)
    ratio = select(equal(larger, 0.0), 0.0, smaller / larger)
    ratio = select(equal(smaller, INFINITY), 1.0, ratio)
    angle = atan_of_positive(form, ratio)
    angle = select(height > width, 2 * high - (angle - 2 * low), angle)
    angle = select(form.bits(x) < 0, 4 * high - (angle - 4 * low), angle)
    return form.copy_sign(angle, y)


def asin(form: Format) -> Scalar:
    """atan(x / sqrt(1 - x^2)), where 1 - x^2 is (1 - x)(1 + x) so that nothing cancels; NaN beyond 1."""
    x = arg(0)
    a = absolute(x)
    return form.copy_sign(atan_of_positive(form, a / apply("sqrt", (1 - a) * (1 + a))), x)


def acos(form: Format) -> Scalar:
    """2 atan(sqrt((1 - x)/(1 + x))); NaN beyond 1."""
    x = arg(0)
    return 2 * atan_of_positive(form, apply("sqrt", (1 - x) / (1 + x)))


def _log1p_of(form: Format, u: Scalar) -> Scalar:
    return substitute(log1p(form), [u])


def _log_of_twice(form: Format, a: Scalar, u: Scalar) -> Scalar:
    """log(1 + u), or log(2 a) where a is so large that both are the same and its square would overflow."""
    big = a > 2.0 ** (form.mantissa + 2)
    return _log1p_of(form, select(big, a, u)) + select(big, LN2, 0.0)


def asinh(form: Format) -> Scalar:
    """log(a + sqrt(a^2 + 1)) of a = |x|, as log1p(a + a^2 / (1 + sqrt(a^2 + 1)))."""
    x = arg(0)
    a = absolute(x)
    square = a * a
    y = _log_of_twice(form, a, a + square / (1 + apply("sqrt", 1 + square)))
    return form.copy_sign(y, x)


def acosh(form: Format) -> Scalar:
    """log(x + sqrt(x^2 - 1)) as log1p(t + sqrt(t (t + 2))) with t = x - 1; NaN below 1."""
    x = arg(0)
    t = x - 1
    return select(x < 1, NAN, _log_of_twice(form, x, t + apply("sqrt", t * (t + 2))))


def atanh(form: Format) -> Scalar:
    """log((1 + a)/(1 - a)) / 2 of a = |x|, as log1p(2 a / (1 - a)) / 2; NaN beyond 1."""
    x = arg(0)
    a = absolute(x)
    return form.copy_sign(0.5 * _log1p_of(form, 2 * a / (1 - a)), x)
