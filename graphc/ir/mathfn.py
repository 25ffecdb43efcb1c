"""Transcendental functions as polynomials: what stands in place of libm in generated code.

In: the name of a transcendental primitive and a floating-point type. Out: a scalar tree over the other primitives, casts
and bitcasts, without branches and tables, and `ULP`, the bound on its error that tests enforce and docs/math.md lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from graphc.errors import CompileError
from graphc.ir import mathfn_exp, mathfn_inverse, mathfn_log, mathfn_trig
from graphc.ir.mathfn_common import F32, F32_ALONE, F64, Format
from graphc.ir.scalar import Scalar
from graphc.ir.types import DType, f32, f64


@dataclass(frozen=True)
class Expansion:
    """How one transcendental primitive is computed, and how well.

    >>> EXPANSIONS["exp"].ulp[f32]
    1.1
    """

    name: str
    build: Callable[[Format], Scalar]
    ulp: Mapping[
        DType, float
    ]  # largest error in units in the last place, with and without fused multiply-add
    doc: str  # method, source and range


def _entry(name: str, build: Callable[[Format], Scalar], ulp32: float, ulp64: float, doc: str) -> Expansion:
    return Expansion(name, build, {f32: ulp32, f64: ulp64}, doc)


EXPANSIONS: dict[str, Expansion] = {
    entry.name: entry
    for entry in (
        _entry("exp", mathfn_exp.exp, 1.1, 1.1, "two-part ln 2 and a polynomial; Cody and Waite 1980, chapter 6"),
        _entry("exp2", mathfn_exp.exp2, 1.1, 1.1, "exact reduction and a polynomial; Muller 2016, chapter 11"),
        _entry("expm1", mathfn_exp.expm1, 1.5, 2.0, "as exp, with 2^n - 1 added last; Tang, ACM TOMS 18, 1992"),
        _entry("log", mathfn_log.log, 1.0, 1.0,
               "2^k m by bits; f32 a polynomial in m - 1, f64 in s^2, s = f/(2 + f); Muller 2016, chapter 11"),
        _entry("log1p", mathfn_log.log1p, 1.5, 1.5, "as log, with the rounding error of 1 + x added to m - 1"),
        _entry("log2", mathfn_log.log2, 1.5, 1.0, "as log; f64 scales by 1/ln 2 in two parts (Dekker 1971)"),
        _entry("rsqrt", mathfn_exp.rsqrt, 1.5, 1.5, "1/sqrt(x), two correctly rounded operations"),
        _entry("sin", mathfn_trig.sin, 1.75, 1.0,
               "f32: 203 bits of 1/(2 pi) in f64, any argument (Payne and Hanek 1983); f64: Cody and Waite 1980 with "
               "split factors up to |x| = 1.1e14, NaN beyond"),
        _entry("cos", mathfn_trig.cos, 1.75, 1.0, "as sin, one quadrant further"),
        _entry("tan", mathfn_trig.tan, 4.0, 2.5, "sin/cos after one reduction; the range is that of sin"),
        _entry("atan", mathfn_inverse.atan, 2.0, 2.0,
               "polynomial within tan(pi/8), else about pi/4 or pi/2; Muller 2016, section 11.5"),
        _entry("atan2", mathfn_inverse.atan2, 2.5, 2.5, "atan of the smaller over the larger size, put in its octant"),
        _entry("asin", mathfn_inverse.asin, 3.0, 3.0, "atan(x / sqrt((1 - x)(1 + x)))"),
        _entry("acos", mathfn_inverse.acos, 2.75, 2.75, "2 atan(sqrt((1 - x)/(1 + x)))"),
        _entry("sinh", mathfn_exp.sinh, 2.25, 2.5, "(e + e/(e + 1))/2 with e = expm1(|x|)"),
        _entry("cosh", mathfn_exp.cosh, 1.5, 1.5, "(e + 1/e)/2 with e = exp(|x|)"),
        _entry("asinh", mathfn_inverse.asinh, 2.0, 2.0, "log1p(a + a^2/(1 + sqrt(a^2 + 1))) of a = |x|"),
        _entry("acosh", mathfn_inverse.acosh, 2.5, 2.75, "log1p(t + sqrt(t (t + 2))) with t = x - 1"),
        _entry("atanh", mathfn_inverse.atanh, 2.25, 2.0, "log1p(2 a/(1 - a))/2 of a = |x|"),
        _entry("log10", mathfn_log.log10, 1.0, 1.0, "as log, scaled by log10(e) in two parts (Dekker 1971)"),
        _entry("cbrt", mathfn_log.cbrt, 1.0, 1.0, "2^(log2(x)/3) and a step of Newton's iteration"),
        _entry("tanh", mathfn_exp.tanh, 2.5, 2.75, "e/(e + 2) with e = expm1(2|x|)"),
        _entry("sigmoid", mathfn_exp.sigmoid, 2.5, 2.5, "exp(-|x|) on both sides, one division"),
        _entry("erf", mathfn_exp.erf, 2.0, 1.5,
               "polynomial near 0, else 1 - erfc; f32 erfc = 2^polynomial, f64 exp(-x^2) times a quotient (Cody 1969)"),
        _entry("erfinv", mathfn_inverse.erfinv, 2.5, 2.75,
               "x P(-log(1 - x^2)), in the tails of the root; Giles, GPU Computing Gems, 2012"),
        _entry("pow", mathfn_log.pow_, 1.5, 1.75,
               "log2 in two parts by Dekker's splits, 2^z; special cases of IEEE 754-2019, 9.2.1"),
    )
}  # fmt: skip

ULP: dict[str, Mapping[DType, float]] = {name: entry.ulp for name, entry in EXPANSIONS.items()}


@cache
def expansion(name: str, dtype: DType, double: bool = True) -> Scalar:
    """The tree that computes a transcendental primitive; the same object at every call.

    `double=False` keeps f64 out of f32 trees, for targets without it: sin and cos are then NaN beyond |x| = 4.1e5.
    Raises `CompileError` for an unknown name and for types other than f32 and f64 (narrower ones compute in f32).

    >>> from graphc.ir.scalar import to_numpy
    >>> import numpy as np
    >>> to_numpy(expansion("exp", f32), [np.float32(1)])
    np.float32(2.7182817)
    """
    if name not in EXPANSIONS:
        raise CompileError(f"mathfn: {name}: expected one of {', '.join(EXPANSIONS)}, got {name!r}")
    if dtype not in (f32, f64):
        raise CompileError(f"mathfn: {name}: expected f32 or f64, got {dtype.name}")
    return EXPANSIONS[name].build(F64 if dtype is f64 else F32 if double else F32_ALONE)
