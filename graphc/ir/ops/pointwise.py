"""Ops that work element by element: each states its expression and the diagonal of its Jacobian.

In: `pointwise` of `ir.opdef`. Out: registered ops. Derivatives prefer the result `y`, which is kept anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.opdef import (
    ANY,
    INTEGERS,
    LOGIC,
    NUMBERS,
    OpDef,
    Sample,
    check_dtype,
    pointwise,
    register,
    span,
)
from graphc.ir.scalar import cast_numpy, erfinv_numpy
from graphc.ir.types import DType, TensorType, f64, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

add = pointwise("add", lambda s, x, y: x + y, lambda s, x, y, z: (1, 1), np.add, dtypes=NUMBERS)
sub = pointwise("sub", lambda s, x, y: x - y, lambda s, x, y, z: (1, -1), np.subtract, dtypes=NUMBERS)
mul = pointwise("mul", lambda s, x, y: x * y, lambda s, x, y, z: (y, x), np.multiply, dtypes=NUMBERS)
div = pointwise(
    "div",
    expr=lambda s, x, y: x / y,
    deriv=lambda s, x, y, z: (1 / y, -(z / y)),
    ref=np.divide,
    samples=span((-3, 3), (0.5, 3)),
)
neg = pointwise("neg", lambda s, x: -x, lambda s, x, y: (-1,), np.negative, dtypes=NUMBERS)
floordiv = pointwise(
    "floordiv",
    expr=lambda s, x, y: s.floordiv(x, y),
    deriv=lambda s, x, y, z: (0, 0),
    samples=span((-9, 9), (1.2, 4)),
    dtypes=NUMBERS,
    doc="The floor of the quotient, as NumPy's; an integer divided by zero gives 0.",
    kink="0 everywhere: piecewise constant",
)
mod = pointwise(
    "mod",
    expr=lambda s, x, y: s.mod(x, y),
    deriv=lambda s, x, y, z: (1, -s.floordiv(x, y)),
    samples=span((-4, 4), (5, 9)),
    dtypes=NUMBERS,
    doc="The remainder with the divisor's sign, as NumPy's; an integer modulo zero gives 0.",
    kink="at the jumps, as between them",
)
abs_ = pointwise(
    "abs",
    expr=lambda s, x: s.abs(x),
    deriv=lambda s, x, y: (s.sign(x),),
    ref=np.abs,
    samples=span(0.2, 3),
    dtypes=NUMBERS,
    kink="0 at 0",
)
sign = pointwise(
    "sign",
    expr=lambda s, x: s.sign(x),
    deriv=lambda s, x, y: (0,),
    ref=np.sign,
    samples=span(0.2, 3),
    dtypes=NUMBERS,
    doc="-1, 0 or 1; NaN stays NaN.",
    kink="0 everywhere: piecewise constant",
)
max_ = pointwise(
    "max",
    expr=lambda s, x, y: s.max(x, y),
    deriv=lambda s, x, y, z: (
        s.select(x > y, 1, s.select(s.eq(x, y), 0.5, 0)),
        s.select(y > x, 1, s.select(s.eq(x, y), 0.5, 0)),
    ),
    ref=np.maximum,
    dtypes=NUMBERS,
    doc="The larger one; NaN if either is.",
    kink="a tie is shared equally",
)
min_ = pointwise(
    "min",
    expr=lambda s, x, y: s.min(x, y),
    deriv=lambda s, x, y, z: (
        s.select(x < y, 1, s.select(s.eq(x, y), 0.5, 0)),
        s.select(y < x, 1, s.select(s.eq(x, y), 0.5, 0)),
    ),
    ref=np.minimum,
    dtypes=NUMBERS,
    doc="The smaller one; NaN if either is.",
    kink="a tie is shared equally",
)

_COMPARISON = "a comparison is piecewise constant and gives a bool"
eq = pointwise("eq", lambda s, x, y: s.eq(x, y), ref=np.equal, dtypes=ANY, no_derivative=_COMPARISON)
ne = pointwise("ne", lambda s, x, y: s.ne(x, y), ref=np.not_equal, dtypes=ANY, no_derivative=_COMPARISON)
lt = pointwise("lt", lambda s, x, y: x < y, ref=np.less, dtypes=NUMBERS, no_derivative=_COMPARISON)
le = pointwise("le", lambda s, x, y: x <= y, ref=np.less_equal, dtypes=NUMBERS, no_derivative=_COMPARISON)
gt = pointwise("gt", lambda s, x, y: x > y, ref=np.greater, dtypes=NUMBERS, no_derivative=_COMPARISON)
ge = pointwise("ge", lambda s, x, y: x >= y, ref=np.greater_equal, dtypes=NUMBERS, no_derivative=_COMPARISON)

_LOGIC = "logic works on bools and integers"
and_ = pointwise("and", lambda s, x, y: x & y, ref=np.bitwise_and, dtypes=LOGIC, no_derivative=_LOGIC)
or_ = pointwise("or", lambda s, x, y: x | y, ref=np.bitwise_or, dtypes=LOGIC, no_derivative=_LOGIC)
xor = pointwise("xor", lambda s, x, y: x ^ y, ref=np.bitwise_xor, dtypes=LOGIC, no_derivative=_LOGIC)
not_ = pointwise("not", lambda s, x: ~x, ref=np.invert, dtypes=LOGIC, no_derivative=_LOGIC)
shl = pointwise(
    "shl",
    expr=lambda s, x, y: x << y,
    ref=np.left_shift,
    samples=span((-99, 99), (0, 9)),
    dtypes=INTEGERS,
    doc="The bits moved up; by the type's width or more, or by less than 0, all of them move out.",
    no_derivative=_LOGIC,
)
shr = pointwise(
    "shr",
    expr=lambda s, x, y: x >> y,
    ref=np.right_shift,
    samples=span((-99, 99), (0, 9)),
    dtypes=INTEGERS,
    doc="The bits moved down, copies of the sign following in signed types; by the width or more, all of them move out.",
    no_derivative=_LOGIC,
)

select = pointwise(
    "select",
    expr=lambda s, c, x, y: s.select(c, x, y),
    deriv=lambda s, c, x, y, z: (None, s.select(c, 1, 0), s.select(c, 0, 1)),
    ref=np.where,
    dtypes=ANY,
    doc="The second operand where the first is true, else the third.",
)

_CONSTANT = "0 everywhere: piecewise constant"
_ROUNDED = span((0.1, 0.4))
floor = pointwise(
    "floor", lambda s, x: s.floor(x), lambda s, x, y: (0,), np.floor, samples=_ROUNDED, kink=_CONSTANT
)
ceil = pointwise(
    "ceil", lambda s, x: s.ceil(x), lambda s, x, y: (0,), np.ceil, samples=_ROUNDED, kink=_CONSTANT
)
round_ = pointwise(
    "round",
    expr=lambda s, x: s.round(x),
    deriv=lambda s, x, y: (0,),
    ref=np.rint,
    samples=_ROUNDED,
    doc="To the nearest integer, halves to the even one.",
    kink=_CONSTANT,
)
trunc = pointwise(
    "trunc", lambda s, x: s.trunc(x), lambda s, x, y: (0,), np.trunc, samples=_ROUNDED, kink=_CONSTANT
)

exp = pointwise("exp", lambda s, x: s.exp(x), lambda s, x, y: (y,), np.exp)
exp2 = pointwise("exp2", lambda s, x: s.exp2(x), lambda s, x, y: (y * math.log(2),), np.exp2)
expm1 = pointwise("expm1", lambda s, x: s.expm1(x), lambda s, x, y: (y + 1,), np.expm1)
log = pointwise("log", lambda s, x: s.log(x), lambda s, x, y: (1 / x,), np.log, samples=span(0.2, 4))
log1p = pointwise(
    "log1p", lambda s, x: s.log1p(x), lambda s, x, y: (1 / (1 + x),), np.log1p, samples=span(-0.7, 3)
)
log2 = pointwise(
    "log2", lambda s, x: s.log2(x), lambda s, x, y: (1 / (x * math.log(2)),), np.log2, samples=span(0.2, 4)
)
log10 = pointwise(
    "log10",
    expr=lambda s, x: s.log10(x),
    deriv=lambda s, x, y: (1 / (x * math.log(10)),),
    ref=np.log10,
    samples=span(0.2, 4),
)
sqrt = pointwise(
    "sqrt", lambda s, x: s.sqrt(x), lambda s, x, y: (0.5 / y,), np.sqrt, samples=span(0.2, 4), kink="inf at 0"
)
rsqrt = pointwise(
    "rsqrt",
    expr=lambda s, x: s.rsqrt(x),
    deriv=lambda s, x, y: (-0.5 * (y * y * y),),
    ref=lambda x: 1 / np.sqrt(x),
    samples=span(0.2, 4),
)
cbrt = pointwise(
    "cbrt",
    expr=lambda s, x: s.cbrt(x),
    deriv=lambda s, x, y: (1 / (3 * (y * y)),),
    ref=np.cbrt,
    samples=span(0.3, 4),
    doc="The real cube root, of negative numbers too.",
    kink="inf at 0",
)
pow_ = pointwise(
    "pow",
    expr=lambda s, x, y: s.pow(x, y),
    deriv=lambda s, x, y, z: (
        s.select(s.eq(y, 0), 0, y * s.pow(x, y - 1)),
        s.select(s.eq(x, 0), 0, z * s.log(x)),
    ),
    ref=np.power,
    samples=span((0.3, 3), (-2, 2)),
    doc="IEEE 754 pow: x**0 is 1, a negative base with a fractional exponent gives NaN.",
    kink="d/dx is 0 where the exponent is 0, d/dy is 0 where the base is 0",
)
sin = pointwise("sin", lambda s, x: s.sin(x), lambda s, x, y: (s.cos(x),), np.sin)
cos = pointwise("cos", lambda s, x: s.cos(x), lambda s, x, y: (-s.sin(x),), np.cos)
tan = pointwise("tan", lambda s, x: s.tan(x), lambda s, x, y: (1 + y * y,), np.tan, samples=span(-1.2, 1.2))
asin = pointwise(
    "asin",
    expr=lambda s, x: s.asin(x),
    deriv=lambda s, x, y: (1 / s.sqrt((1 - x) * (1 + x)),),
    ref=np.arcsin,
    samples=span(-0.8, 0.8),
    kink="inf at -1 and 1",
)
acos = pointwise(
    "acos",
    expr=lambda s, x: s.acos(x),
    deriv=lambda s, x, y: (-1 / s.sqrt((1 - x) * (1 + x)),),
    ref=np.arccos,
    samples=span(-0.8, 0.8),
    kink="-inf at -1 and 1",
)
atan = pointwise("atan", lambda s, x: s.atan(x), lambda s, x, y: (1 / (1 + x * x),), np.arctan)
atan2 = pointwise(
    "atan2",
    expr=lambda s, x, y: s.atan2(x, y),
    deriv=lambda s, x, y, z: (y / (x * x + y * y), -(x / (x * x + y * y))),
    ref=np.arctan2,
    samples=span((0.3, 3), (-3, 3)),
    doc="The angle of the point whose ordinate is x and whose abscissa is y, from -pi to pi, as NumPy's arctan2(x, y).",
    kink="NaN at the origin",
)
sinh = pointwise("sinh", lambda s, x: s.sinh(x), lambda s, x, y: (s.cosh(x),), np.sinh)
cosh = pointwise("cosh", lambda s, x: s.cosh(x), lambda s, x, y: (s.sinh(x),), np.cosh)
asinh = pointwise("asinh", lambda s, x: s.asinh(x), lambda s, x, y: (1 / s.sqrt(x * x + 1),), np.arcsinh)
acosh = pointwise(
    "acosh",
    expr=lambda s, x: s.acosh(x),
    deriv=lambda s, x, y: (1 / s.sqrt((x - 1) * (x + 1)),),
    ref=np.arccosh,
    samples=span(1.3, 4),
    kink="inf at 1",
)
atanh = pointwise(
    "atanh",
    expr=lambda s, x: s.atanh(x),
    deriv=lambda s, x, y: (1 / ((1 - x) * (1 + x)),),
    ref=np.arctanh,
    samples=span(-0.8, 0.8),
    kink="inf at -1 and 1",
)
tanh = pointwise(
    "tanh",
    expr=lambda s, x: s.tanh(x),
    deriv=lambda s, x, y: (1 - y * y,),
    ref=np.tanh,
    latex=r"\tanh\left({0}\right)",
    samples=span(-4, 4),
)
sigmoid = pointwise(
    "sigmoid",
    expr=lambda s, x: s.sigmoid(x),
    deriv=lambda s, x, y: (y * (1 - y),),
    ref=lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
    latex=r"\sigma\left({0}\right)",
    samples=span(-4, 4),
    doc="The logistic function 1 / (1 + exp(-x)).",
)
erf = pointwise(
    "erf",
    expr=lambda s, x: s.erf(x),
    deriv=lambda s, x, y: (2 / math.sqrt(math.pi) * s.exp(-(x * x)),),
    ref=np.vectorize(math.erf, otypes=[np.float64]),
    samples=span(-2.5, 2.5),
)
erfinv = pointwise(
    "erfinv",
    expr=lambda s, x: s.erfinv(x),
    deriv=lambda s, x, y: (math.sqrt(math.pi) / 2 * s.exp(y * y),),
    ref=erfinv_numpy,
    samples=span(-0.8, 0.8),
    doc="The inverse of erf: inf at 1, -inf at -1, NaN beyond.",
    kink="inf at -1 and 1",
)


def _infer_cast(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    type = attrs["type"]
    assert isinstance(type, TensorType)
    check_dtype(types[0].dtype, ANY)
    check_dtype(type.dtype, ANY)
    if type.shape != types[0].shape:
        raise ShapeError(f"expected a result of shape {list(types[0].shape)}, got {type!r}")
    return (type,)


def _adjoint_cast(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The cotangent converted back to the operand's type."""
    (g,) = cotangents
    source = node.operands[0]
    return [None if g is None or not source.dtype.is_float else build.cast(g, type=source.type)]


def _cast_samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    x = rng.uniform(0, 3, (3, 5)).astype(dtype.numpy)
    return [Sample((x,), {"type": TensorType(f64, (3, 5))}), Sample((x,), {"type": TensorType(i32, (3, 5))})]


def _ref_cast(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    type = attrs["type"]
    assert isinstance(type, TensorType)
    return [cast_numpy(arrays[0], type.dtype.numpy)]


cast = register(
    OpDef(
        "cast",
        _infer_cast,
        _ref_cast,
        arity=1,
        adjoint=_adjoint_cast,
        latex="{0}",
        doc="Conversion: float to integer truncates and saturates, NaN gives 0; integers wrap; bool is 0 or 1.",
        kink="no cotangent passes through an integer",
        traits=frozenset({"pointwise", "linear"}),
        typed=True,
        dtypes=ANY,
        samples=_cast_samples,
    )
)

stop_gradient = pointwise(
    "stop_gradient",
    expr=lambda s, x: x,
    deriv=lambda s, x, y: (0,),
    ref=np.positive,
    doc="The operand; no cotangent passes.",
    kink="0 everywhere, by definition",
)
