"""Expansions of the exponential family: exp, exp2, expm1, tanh, sigmoid and erf.

In: a floating-point format. Out: a scalar tree of arg(0) without transcendental primitives. All reduce to exp(r) on
|r| <= ln(2)/2 by Cody and Waite's two-part ln(2) and scale by a power of two made in the exponent's bits.

The coefficients are minimax in the weight of the result's relative error, fitted in 70-digit arithmetic (weighted
least squares at Chebyshev nodes with Lawson's iteration), rounded from the lowest power up, refitting the rest.
"""

from __future__ import annotations

from graphc.ir.mathfn_common import (
    Format,
    absolute,
    at_least,
    at_most,
    fma,
    polynomial,
    select,
)
from graphc.ir.scalar import Scalar, apply, arg

LOG2_E = 1.4426950408889634
# ln(2) in two parts; the product of the first with any exponent is exact.
LN2_F32 = (0.693145751953125, 1.428606765330187e-06)
LN2_F64 = (0.6931471805598903, 5.497923018708371e-14)

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2: 2^-26.1 (short), 2^-31.0 and 2^-61.5 relative to expm1(r)
EXP_F32_SHORT = (0.0013863352360203862, 0.008366569876670837, 0.04166751727461815, 0.1666654348373413,
                 0.4999999701976776)  # fmt: skip
EXP_F32 = (0.0001973499747691676, 0.0013933040900155902, 0.008333575911819935, 0.041666485369205475,
           0.1666666567325592, 0.5)  # fmt: skip
EXP_F64 = (2.089119013949106e-09, 2.5109258233898202e-08, 2.755734725151741e-07, 2.755724360710796e-06,
           2.4801587244417843e-05, 0.0001984126988669438, 0.0013888888888920173, 0.008333333333321416,
           0.041666666666666616, 0.16666666666666677, 0.5)  # fmt: skip
# (2^r - 1) / r on |r| <= 1/2: 2^-23.3 (short), 2^-28.2 and 2^-57.8 relative to 2^r
EXP2_F32_SHORT = (0.00134166213683784, 0.009671859443187714, 0.055502746254205704, 0.24022234976291656,
                  0.6931472420692444)  # fmt: skip
EXP2_F32 = (0.0001545635750517249, 0.001339131616987288, 0.009618077427148819, 0.055503588169813156,
            0.24022650718688965, 0.6931471824645996)  # fmt: skip
EXP2_F64 = (4.461369466584062e-10, 7.0736225035733745e-09, 1.0178014118278027e-07, 1.321543637562988e-06,
            1.5252733967260117e-05, 0.0001540353045446397, 0.001333355814623537, 0.009618129107596782,
            0.055504108664822686, 0.24022650695910122, 0.6931471805599453)  # fmt: skip
# erf(x)/x - 1 in x^2 on |x| <= 0.9 (2^-26.1) and on |x| <= 1 (2^-56.0)
ERF_F32 = (-0.0006080907769501209, 0.005009894259274006, -0.026777273043990135, 0.11282084882259369,
           -0.37612515687942505, 0.12837915122509003)  # fmt: skip
ERF_F64 = (-7.758145551872863e-10, 1.3698751552225316e-08, -1.6203266913371008e-07, 1.64466993461972e-06,
           -1.492467386351618e-05, 0.00012055291353389849, -0.0008548325845306761, 0.005223977604091945,
           -0.02686617064281581, 0.11283791670941835, -0.3761263890318344, 0.12837916709551256)  # fmt: skip
# log2(erfc(x)) on [0.85, 3.95]: 2^-28.8 relative to erf
LOG2_ERFC_F32 = (0.0002939837286248803, -0.004499347880482674, 0.03249254450201988, -0.15080726146697998,
                 -0.9182943105697632, -1.6274524927139282, -0.00014982576249167323)  # fmt: skip
# exp(x^2) erfc(x) on [1, 5.95], a quotient of polynomials: 2^-59.3
ERFCX_TOP_F64 = (0.0010035338090233186, 0.013333178313770941, 0.08708754565284257, 0.35234969675584416,
                 0.9445735147251412, 1.6772784019326121, 1.8441627464158339, 0.9999999924967213)  # fmt: skip
ERFCX_BOTTOM_F64 = (0.001778717381659274, 0.023632442176005866, 0.1552480457476203, 0.6363392162919521,
                    1.7505105914861714, 3.2732681377358532, 4.03143310869721, 2.9725418315804046, 1.0)  # fmt: skip


def reduce_exp(form: Format, x: Scalar, offset: int) -> tuple[Scalar, Scalar]:
    """r with x = n ln(2) + r, and an integer whose low bits are n + offset.

    W. J. Cody and W. Waite, Software Manual for the Elementary Functions, 1980, chapter 6.
    """
    high, low = LN2_F64 if form.wide else LN2_F32
    n, bits = form.round_product(x, LOG2_E, offset)
    return fma(n, -low, fma(n, -high, x)), bits


def expm1_reduced(r: Scalar, coefficients: tuple[float, ...]) -> Scalar:
    """exp(r) - 1 on the reduced interval."""
    return fma(polynomial(r, coefficients), r * r, r)


def exp_of(form: Format, x: Scalar) -> Scalar:
    """exp where `x` is bounded such that the exponent of the result fits twice the range of the format."""
    r, bits = reduce_exp(form, x, 2 * form.bias)
    return form.scale(1 + expm1_reduced(r, EXP_F64 if form.wide else EXP_F32_SHORT), bits)


def exp(form: Format) -> Scalar:
    """exp(x) = 2^n exp(r)."""
    low, high = (-746.0, 710.0) if form.wide else (-104.0, 89.0)
    return exp_of(form, at_least(at_most(arg(0), high), low))


def exp2(form: Format) -> Scalar:
    """2^x = 2^n 2^(x - n), where the difference is exact."""
    low, high = (-1075.0, 1024.0) if form.wide else (-150.0, 128.0)
    x = at_least(at_most(arg(0), high), low)
    n, bits = form.round(x, 2 * form.bias)
    return form.scale(exp2_reduced(form, x - n), bits)


def exp2_reduced(form: Format, r: Scalar) -> Scalar:
    """2^r on |r| <= 1/2."""
    return fma(polynomial(r, EXP2_F64 if form.wide else EXP2_F32), r, 1.0)


def expm1(form: Format) -> Scalar:
    """exp(x) - 1 = 2 (2^(n-1) (exp(r) - 1) + (2^(n-1) - 1/2)): halved, so that n = 1024 does not overflow."""
    low, high = (-38.0, 710.0) if form.wide else (-18.0, 89.0)
    x = arg(0)
    r, bits = reduce_exp(form, at_least(at_most(x, high), low), form.bias - 1)
    half = form.power_of_two(bits)
    y = 2 * fma(half, expm1_reduced(r, EXP_F64 if form.wide else EXP_F32), half - 0.5)
    return select(absolute(x) < 2.0 ** -(form.mantissa + 2), x, y)  # keeps -0 and subnormal numbers


def tanh(form: Format) -> Scalar:
    """tanh|x| = e / (e + 2) with e = expm1(2|x|): no cancellation and one division."""
    x = arg(0)
    doubled = at_most(2 * absolute(x), 38.25 if form.wide else 18.25)
    r, bits = reduce_exp(form, doubled, form.bias)
    power = form.power_of_two(bits)
    e = fma(power, expm1_reduced(r, EXP_F64 if form.wide else EXP_F32), power - 1)
    return form.copy_sign(e / (e + 2), x)


def quarter_exp(form: Format, a: Scalar) -> tuple[Scalar, Scalar]:
    """exp(r) - 1 and 2^(n-2) with exp(a) = 2^n exp(r): a quarter, so that n = 1025 does not overflow."""
    r, bits = reduce_exp(form, at_most(a, 710.5 if form.wide else 89.5), form.bias - 2)
    return expm1_reduced(r, EXP_F64 if form.wide else EXP_F32), form.power_of_two(bits)


def sinh(form: Format) -> Scalar:
    """(e + e/(e + 1)) / 2 with e = expm1(|x|), which is carried as a quarter."""
    x = arg(0)
    part, power = quarter_exp(form, absolute(x))
    e = fma(power, part, power - 0.25)
    y = 2 * (e + e / (4 * e + 1))
    return form.copy_sign(select(absolute(x) < 2.0 ** -(form.mantissa + 2), absolute(x), y), x)


def cosh(form: Format) -> Scalar:
    """(e + 1/e) / 2 with e = exp(|x|), which is carried as a quarter."""
    part, power = quarter_exp(form, absolute(arg(0)))
    e = fma(power, part, power)
    return 2 * (e + 0.0625 / e)


def sigmoid(form: Format) -> Scalar:
    """1 / (1 + exp(-x)), and exp(x) / (1 + exp(x)) below zero: exp never overflows, tails keep their precision."""
    x = arg(0)
    e = exp_of(form, at_least(-absolute(x), -746.0 if form.wide else -104.0))
    return select(x < 0, e, 1.0) / (1 + e)


def erf(form: Format) -> Scalar:
    """x P(x^2) near zero, 1 - erfc(|x|) elsewhere.

    f32: erfc = 2^polynomial(|x|). f64: erfc = exp(-x^2) R(|x|), the form of W. J. Cody, Rational Chebyshev
    approximations for the error function, Math. Comp. 23, 1969.
    """
    x = arg(0)
    a = absolute(x)
    small = fma(polynomial(a * a, ERF_F64 if form.wide else ERF_F32), a, a)
    if form.wide:
        b = at_most(a, 5.95)  # erf is 1 from here on
        r, bits = reduce_exp(form, -(b * b), form.bias)
        ratio = polynomial(b, ERFCX_TOP_F64) / polynomial(b, ERFCX_BOTTOM_F64)
        large = 1 - (1 + expm1_reduced(r, EXP_F64)) * form.power_of_two(bits) * ratio
    else:
        exponent = polynomial(at_most(a, 3.95), LOG2_ERFC_F32)
        n, bits = form.round(exponent, form.bias)
        r = exponent - n
        large = fma(-fma(polynomial(r, EXP2_F32_SHORT), r, 1.0), form.power_of_two(bits), 1.0)
    return form.copy_sign(select(a < (1.0 if form.wide else 0.875), small, large), x)


def rsqrt(form: Format) -> Scalar:
    """1 / sqrt(x): both are correctly rounded in hardware, so -0, infinity and subnormal numbers are right as well."""
    return 1.0 / apply("sqrt", arg(0))
