"""Expansions of the logarithms and of pow.

In: a floating-point format. Out: a scalar tree of arg(0) (pow: and arg(1)) without transcendental primitives. All write
x = 2^k m with m in [sqrt(1/2), sqrt(2)) by integer arithmetic on the bits and use a series about m = 1.

The coefficients are fitted as those of `mathfn_exp`.
"""

from __future__ import annotations

from graphc.ir.mathfn_common import INFINITY, NAN, Format, absolute, equal, fma, polynomial, select, two_sum
from graphc.ir.mathfn_exp import LN2_F32, LN2_F64, LOG2_E, exp2_reduced
from graphc.ir.scalar import Scalar, apply, arg

SQRT_HALF_BITS_F32 = 0x3F3504F3
SQRT_HALF_BITS_F64 = 0x3FE6A09E667F3BCD
# (log(1 + f) - f + f^2/2) / f^3: 2^-30.2 relative to log(1 + f)
LOG_F32 = (0.06792517006397247, -0.11718080192804337, 0.11889543384313583, -0.12397566437721252,
           0.1421816498041153, -0.1666848510503769, 0.20002223551273346, -0.25, 0.3333331048488617)  # fmt: skip
# (2 atanh(s)/s - 2) / s^2 in s^2, f = 2s/(1 - s): 2^-59.5
LOG_F64 = (0.14795534140471944, 0.15314094473556739, 0.18183562491156174, 0.2222219861147363, 0.2857142874197419,
           0.3999999999941681, 0.6666666666666734)  # fmt: skip
# log2(1 + f)/f - 1: 2^-27.0
LOG2_F32 = (-0.1127009317278862, 0.1859067976474762, -0.1894790232181549, 0.20446719229221344, -0.2398347407579422,
            0.2885914742946625, -0.3606860041618347, 0.4808971881866455, -0.7213475108146667,
            0.4426950514316559)  # fmt: skip
# 1/ln(2) in two parts, the first of 26 bits
LOG2_E_F64 = (1.4426950514316559, -1.0542692476429138e-08)
# log10(2) in two parts, the product of the first with any exponent exact, and log10(e) likewise with half a significand
LOG10_2_F32 = (0.301025390625, 4.605038981195214e-06)
LOG10_2_F64 = (0.3010299956640665, -8.532344317057107e-14)
LOG10_E_F32 = (0.434326171875, -3.168997174817235e-05)
LOG10_E_F64 = (0.4342944845557213, -2.6524694553078553e-09)
LOG10_E = 0.4342944819032518
# (3 atanh(s)/s - 3 - s^2) / s^4 in s^2: 2^-36.8 and 2^-66.3 relative to 3 atanh(s)/s
POW_F32 = (0.35128968954086304, 0.4282064735889435, 0.6000022888183594)
POW_F64 = (0.1979475392912815, 0.19885192973867274, 0.23080137727704736, 0.27272676505508175, 0.333333337805092,
           0.42857142855145086, 0.600000000000034)  # fmt: skip
# 2/(3 ln(2)): in two parts of 12 (26) bits and the rest, and as one number
TWO_THIRDS_LOG2_E_F32 = (0.9619140625, -0.00011736857413779944)
TWO_THIRDS_LOG2_E_F64 = (0.9617967009544373, -7.028461650952758e-09)
TWO_THIRDS_LOG2_E = 0.9617966939259756


def split(form: Format, x: Scalar) -> tuple[Scalar, Scalar]:
    """The integer k and m in [sqrt(1/2), sqrt(2)) with x = 2^k m, of a positive normal number."""
    bits = form.bits(x)
    k = (bits - (SQRT_HALF_BITS_F64 if form.wide else SQRT_HALF_BITS_F32)) >> form.mantissa
    return k, form.value(bits - (k << form.mantissa))


def split_any(form: Format, x: Scalar) -> tuple[Scalar, Scalar]:
    """The same of any positive number, k as a floating-point number; an integer-to-float conversion is avoided because
    x86 before AVX-512 has none of 64 bits."""
    tiny = x < form.smallest_normal
    k, m = split(form, select(tiny, x * 2.0**form.mantissa, x))
    return to_float(form, k) - select(tiny, form.magic + form.mantissa, form.magic), m


def to_float(form: Format, k: Scalar) -> Scalar:
    """k + magic, of a small integer."""
    return form.value(k + form.magic_bits)


def log_parts(f: Scalar) -> tuple[Scalar, Scalar]:
    """f^2/2 and the rest t in log(1 + f) = f - f^2/2 + t.

    t = s (f^2/2 + R(s^2)), s = f/(2 + f): J.-M. Muller, Elementary Functions, 3rd ed. 2016, chapter 11.
    """
    s = f / (2 + f)
    z = s * s
    half_square = 0.5 * f * f
    return half_square, s * fma(polynomial(z, LOG_F64), z, half_square)


def log_sum(form: Format, k: Scalar, f: Scalar) -> Scalar:
    """k ln(2) + log(1 + f), small terms first; the product of k and the high part of ln(2) is exact."""
    high, low = LN2_F64 if form.wide else LN2_F32
    if form.wide:
        half_square, rest = log_parts(f)
        return k * high - ((half_square - fma(k, low, rest)) - f)
    square = f * f
    rest = fma(k, low, square * (f * polynomial(f, LOG_F32)))
    return fma(k, high, f + fma(-0.5, square, rest))


def of_positive(x: Scalar, pole: float, y: Scalar) -> Scalar:
    """`y` where x > pole, -inf at the pole, NaN below it and for NaN, inf at inf."""
    return select(x > pole, select(x < INFINITY, y, x), select(equal(x, pole), -INFINITY, NAN))


def log(form: Format) -> Scalar:
    """log(x) = k ln(2) + log(m)."""
    x = arg(0)
    k, m = split_any(form, x)
    return of_positive(x, 0.0, log_sum(form, k, m - 1))


def log1p(form: Format) -> Scalar:
    """log(1 + x), where what 1 + x loses by rounding is added to m - 1."""
    x = arg(0)
    u = 1 + x
    lost = x - (u - 1)
    k, m = split(form, u)
    # 2^(1 - k): unlike 2^-k it does not leave the range at the largest k; there it is 0, and so is what is lost
    twice_inverse = form.value(form.one_bits + (1 << form.mantissa) - (k << form.mantissa))
    y = log_sum(form, to_float(form, k) - form.magic, (m - 1) + lost * twice_inverse * 0.5)
    return of_positive(x, -1.0, select(equal(x, 0.0), x, y))


def log2(form: Format) -> Scalar:
    """log2(x) = k + log2(m), exact at powers of two.

    f64 multiplies log(m), split into two parts, with 1/ln(2), split as well.
    """
    x = arg(0)
    k, m = split_any(form, x)
    f = m - 1
    if form.wide:
        half_square, rest = log_parts(f)
        high = form.leading(f - half_square)
        low = ((f - high) - half_square) + rest
        product = high * LOG2_E_F64[0]  # exact
        total = k + product
        error = (k - total) + product  # exact: k is 0 or larger than the product
        y = total + (error + fma(low, LOG2_E, high * LOG2_E_F64[1]))
    else:
        y = k + fma(polynomial(f, LOG2_F32), f, f)
    return of_positive(x, 0.0, y)


def log10(form: Format) -> Scalar:
    """log10(x) = k log10(2) + log(m) log10(e), with both constants and log(m) in two parts."""
    x = arg(0)
    k, m = split_any(form, x)
    f = m - 1
    if form.wide:
        half_square, rest = log_parts(f)
    else:
        half_square = 0.5 * f * f
        rest = 2 * half_square * (f * polynomial(f, LOG_F32))
    two_high, two_low = LOG10_2_F64 if form.wide else LOG10_2_F32
    e_high, e_low = LOG10_E_F64 if form.wide else LOG10_E_F32
    high = form.leading(f - half_square)
    low = ((f - high) - half_square) + rest
    product = high * e_high  # exact, as is k two_high
    total, error = two_sum(k * two_high, product)
    return of_positive(x, 0.0, total + (error + fma(low, LOG10_E, fma(high, e_low, k * two_low))))


def cbrt(form: Format) -> Scalar:
    """2^(log2|x| / 3), whose error Newton's iteration for y^3 = |x| squares and makes that of its last sum.

    The quotient |x| / y^2 neither overflows nor leaves the normal numbers.
    """
    x = arg(0)
    a = absolute(x)
    k, m = split_any(form, a)
    f = m - 1
    if form.wide:
        half_square, rest = log_parts(f)
        logarithm = fma((f - half_square) + rest, LOG2_E, k)
    else:
        logarithm = k + fma(polynomial(f, LOG2_F32), f, f)
    third = logarithm * (1 / 3)
    n, bits = form.round(third, form.bias)
    y = exp2_reduced(form, third - n) * form.power_of_two(bits)
    y = y + (a / (y * y) - y) * (1 / 3)
    return form.copy_sign(select((a > 0) & (a < INFINITY), y, a), x)


def log2_in_two_parts(form: Format, x: Scalar) -> tuple[Scalar, Scalar]:
    """log2 of a positive number as a leading half and a rest: about 35 correct bits in f32, 64 in f64.

    log(m) = 2/3 s (3 + s^2 + R(s^2)) with s = (m - 1)/(m + 1); each factor is carried as two numbers by Dekker's
    splits, whose products are exact with and without fused multiply-add. P. Markstein, IA-64 and Elementary Functions,
    2000, chapter 12, and Muller, chapter 11, explain why log2 needs as many more bits as the exponent has.
    """
    k, m = split_any(form, x)
    scale_high, scale_low = TWO_THIRDS_LOG2_E_F64 if form.wide else TWO_THIRDS_LOG2_E_F32
    f = m - 1
    divisor = m + 1
    inverse = 1.0 / divisor
    s = f * inverse
    s_high = form.leading(s)
    divisor_high = form.leading(divisor)
    divisor_low = m - (divisor_high - 1)  # exact, although m + 1 was rounded
    s_low = ((f - s_high * divisor_high) - s_high * divisor_low) * inverse
    s = s_high + s_low  # the reciprocal left it 1.5 ulp off
    z = s * s
    tail = fma(z * z, polynomial(z, POW_F64 if form.wide else POW_F32), s_low * (s_high + s))
    square = s_high * s_high
    factor_high = form.leading(3 + square + tail)
    factor_low = tail - ((factor_high - 3) - square)
    product = s_high * factor_high
    rest = fma(s_low, factor_high, factor_low * s)
    log_high = form.leading(product + rest)
    log_low = rest - (log_high - product)
    scaled_high = scale_high * log_high
    scaled_low = fma(scale_low, log_high, log_low * TWO_THIRDS_LOG2_E)
    high = form.leading((scaled_high + scaled_low) + k)
    return high, scaled_low - ((high - k) - scaled_high)


def power_of_positive(form: Format, x: Scalar, y: Scalar) -> Scalar:
    """2^(y log2(x)) of finite positive `x`."""
    # beyond this bound the result is 0, 1 or infinity already; without it the parts of the product could be inf - inf
    bound = 2.0**64 if form.wide else 2.0**32
    y = select(y > bound, bound, select(y < -bound, -bound, y))
    log_high, log_low = log2_in_two_parts(form, x)
    y_high = form.leading(y)
    low = fma(y - y_high, log_high, y * log_low)
    high = y_high * log_high  # exact
    exponent = high + low
    n, bits = form.round(exponent, 2 * form.bias)
    result = form.scale(exp2_reduced(form, (high - n) + low), bits)
    return select(
        exponent > form.bias + 1, INFINITY, select(exponent <= -(form.bias + form.mantissa), 0.0, result)
    )


def pow_(form: Format) -> Scalar:
    """|x|^y and the special cases of IEEE 754-2019, section 9.2.1, as numpy.power has them."""
    x, y = arg(0), arg(1)
    magnitude = absolute(x)
    result = power_of_positive(form, magnitude, y)
    result = select(equal(magnitude, 0.0), select(y < 0, INFINITY, 0.0), result)
    result = select(equal(magnitude, INFINITY), select(y < 0, 0.0, INFINITY), result)
    half = y * 0.5
    is_integer = equal(apply("floor", y), y)
    is_odd = is_integer & apply("ne", apply("floor", half), half)
    sign = select(is_odd, form.bits(x) & form.sign_bit, 0)
    result = form.value(form.bits(result) ^ sign)
    undefined = ((x < 0) & (x > -INFINITY)) & ~is_integer
    not_a_number = undefined | apply("ne", x, x) | apply("ne", y, y)
    return select(equal(x, 1.0) | equal(y, 0.0), 1.0, select(not_a_number, NAN, result))
