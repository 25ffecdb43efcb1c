"""Expansions of inverse functions: atan, atan2, asin and acos from one polynomial, asinh, acosh and atanh by log1p, erfinv.

In: a floating-point format. Out: a scalar tree of arg(0) (atan2: and arg(1)) without transcendental primitives.

The coefficients are fitted as those of `mathfn_exp`.
"""

from __future__ import annotations

from graphc.ir.mathfn_common import INFINITY, NAN, Format, absolute, equal, fma, polynomial, select
from graphc.ir.mathfn_log import log, log1p
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
# erfinv(x)/x of w = -log(1 - x^2): in w - 5/2 (f32) or w - 25/8 (f64) where w is small: 2^-24.6 and 2^-56.0
ERFINV_F32 = (-1.0191496258027399e-10, -8.668887829799132e-09, 2.580210711755626e-08, 4.6439612333415425e-07,
              -3.485054321572534e-06, -4.954644282406662e-06, 0.0002184272452723235, -0.0012527580838650465,
              -0.004177510738372803, 0.24664029479026794, 1.5014094114303589)  # fmt: skip
ERFINV_F64 = (9.989718826643187e-25, -2.2080983845968938e-23, -3.8227854262394574e-22, 4.541930283267606e-21,
              1.9353708681100887e-20, -3.835603278184608e-19, 6.419092972617773e-19, 1.6073782824122755e-17,
              -1.2281127529534108e-16, -4.5004600328418284e-17, 6.528436637494413e-15, -3.998275614018909e-14,
              -8.076825374822359e-14, 2.630358703220481e-12, -1.297858278487173e-11, -5.414252230518708e-11,
              1.0512227104878321e-09, -4.1126614527002465e-09, -2.907038999273041e-08, 4.2347881807700565e-07,
              -1.365469177380573e-06, -1.3882523394833664e-05, 0.00018673420802077886, -0.0007407025341543535,
              -0.006033670871427133, 0.2401581824255883, 1.6536545626831027)  # fmt: skip
# in sqrt(w) - 3 (f32) and sqrt(w) - 13/4, sqrt(w) - 5 (f64) beyond w = 5 and 25/4, 16: 2^-27.1, 2^-55.0, 2^-55.7
ERFINV_TAIL_F32 = (-3.100150206591934e-05, 0.00016104115638881922, -0.00027315618353895843,
                   -0.00012127436639275402, 0.001470736926421523, -0.0035662127193063498,
                   0.005689605139195919, -0.007642972748726606, 0.009444965049624443, 1.0016752481460571,
                   2.832976818084717)  # fmt: skip
ERFINV_MIDDLE_F64 = (8.993162649587005e-09, -1.533755869660956e-08, -2.4802359132507473e-08,
                     1.3167893501400746e-07, -2.4056315758777257e-07, -2.772982329050301e-08,
                     1.4780908671870747e-06, -3.985629774523283e-06, 2.9341068477493217e-06,
                     1.246499710440614e-05, -4.732110141884494e-05, 6.82871252519723e-05,
                     2.4031585496886648e-05, -0.00035503781498917743, 0.000953289334038982,
                     -0.0016882755353439603, 0.002491442098387535, -0.003751208508229248, 0.00537091455354375,
                     1.0052589676941655, 3.0838856104922208)  # fmt: skip
ERFINV_TAIL_F64 = (5.61182519890453e-13, 5.303515389957967e-12, -2.429472591611977e-11, 1.75164405226352e-11,
                   8.07868195866306e-11, -3.863803820962111e-10, 1.2984011109126846e-09,
                   -3.5280628723260493e-09, 7.838041990170607e-09, -1.521750593526445e-08,
                   2.9008879603186025e-08, -6.757131629799915e-08, 2.290563872021712e-07,
                   -9.930257857006012e-07, 4.526051747323365e-06, -1.968177116805058e-05,
                   7.599527818965296e-05, -0.0002150301197998202, -0.0001387193183851964, 1.0103004648645448,
                   4.849906401408584)  # fmt: skip
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


def erfinv(form: Format) -> Scalar:
    """x P(w), w = -log((1 - x)(1 + x)), P about the middle of w's range and, in the tails, of sqrt(w)'s.

    M. Giles, Approximating the Erfinv Function, GPU Computing Gems, 2012. 1 - x is exact where it counts.
    """
    x = arg(0)
    a = absolute(x)
    w = -substitute(log(form), [(1 - a) * (1 + a)])
    root = apply("sqrt", w)
    if form.wide:
        far = select(
            w < 16.0, polynomial(root - 3.25, ERFINV_MIDDLE_F64), polynomial(root - 5.0, ERFINV_TAIL_F64)
        )
        ratio = select(w < 6.25, polynomial(w - 3.125, ERFINV_F64), far)
    else:
        ratio = select(w < 5.0, polynomial(w - 2.5, ERFINV_F32), polynomial(root - 3.0, ERFINV_TAIL_F32))
    return x * select(a < 1.0, ratio, select(equal(a, 1.0), INFINITY, NAN))
