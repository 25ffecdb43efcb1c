"""Array functions that work element by element, under the array API standard's names.

In: traced values, arrays and Python numbers, which promote (`frontend.promotion`) and broadcast as in NumPy.
Out: traced values. Functions of real numbers (exp, divide, ...) compute integers and bools as f32. Where shapes
don't broadcast they raise `ShapeError`, where a data type is not allowed `DTypeError`, with the user's line.
"""

from __future__ import annotations

import builtins
import math

from graphc.errors import DTypeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.promotion import DTypeLike, as_weak
from graphc.ir.graph import Value
from graphc.ir.types import DType, TensorType, bool_, i32


def _binary(name: str, op: str, x1: ArrayLike, x2: ArrayLike, of_bools: str = "") -> Array:
    """Two operands of one type; `of_bools` is the op on bools where NumPy has one."""
    call = Call(name)
    a, b = call.operands(x1, x2)
    if a.dtype is bool_ and not of_bools:
        raise call.error(DTypeError, "expected numbers, got bools; convert them by astype")
    return call.wrap(getattr(call.build, of_bools if a.dtype is bool_ else op)(a, b))


def _float_unary(name: str, x: ArrayLike) -> Array:
    call = Call(name)
    return call.wrap(getattr(call.build, name)(call.float_value(x)))


# ---------------------------------------------------------------------------------------------------- arithmetic


def add(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The sum; of bools, whether either is true.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: add(x, 2.5), f32[2, 3]).output_types
    (f32[2,3],)
    """
    return _binary("add", "add", x1, x2, of_bools="or")


def subtract(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The difference."""
    return _binary("subtract", "sub", x1, x2)


def multiply(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The product; of bools, whether both are true."""
    return _binary("multiply", "mul", x1, x2, of_bools="and")


def divide(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The true quotient; integers divide as f32 (NumPy: float64).

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import i32
    >>> trace(lambda x: divide(x, 2), i32[3]).output_types
    (f32[3],)
    """
    call = Call("divide")
    return call.wrap(call.build.div(*call.operands(x1, x2, floats=True)))


def floor_divide(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The floor of the quotient; an integer divided by zero gives 0."""
    return _binary("floor_divide", "floordiv", x1, x2)


def remainder(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The remainder with the divisor's sign; an integer modulo zero gives 0."""
    return _binary("remainder", "mod", x1, x2)


def pow(x1: ArrayLike, x2: ArrayLike) -> Array:
    """`x1` to the power of `x2`.

    A Python exponent of 0.5, 1, 2, 3 or 4 becomes a root or products. Integers have powers by a Python int of at
    least 0 only (NumPy: by arrays of integers, too); others raise `DTypeError`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> [node.op.name for node in trace(lambda x: pow(x, 2), f32[3]).nodes]
    ['mul']
    """
    call = Call("pow")
    exponent = as_weak(x2)
    given, dtype = call.promote(x1, x2)
    if exponent is not None and not isinstance(exponent, bool) and as_weak(x1) is None:
        base = call.value(given[0], dtype)
        if dtype.is_float and exponent == 0.5:
            return call.wrap(call.build.sqrt(base))
        if dtype.is_float and exponent in (1, 2, 3, 4):
            return call.wrap(_power(call, base, int(exponent)))
        if dtype.is_integer and isinstance(exponent, int) and exponent >= 0:
            return call.wrap(_power(call, base, exponent))
    if not dtype.is_float:
        raise call.error(
            DTypeError,
            f"expected floats, or integers to the power of a Python int of at least 0, got {dtype.name}",
        )
    return call.wrap(call.build.pow(*call.operands(x1, x2)))


def _power(call: Call, base: Value, exponent: int) -> Value:
    """By repeated squaring: Knuth, The Art of Computer Programming 2, 4.6.3."""
    result: Value | None = None
    while exponent:
        if exponent & 1:
            result = base if result is None else call.build.mul(result, base)
        exponent >>= 1
        if exponent:
            base = call.build.mul(base, base)
    return result if result is not None else call.splat(1, base.type)


def negative(x: ArrayLike) -> Array:
    """The number with the other sign."""
    call = Call("negative")
    value = call.value(x)
    if value.dtype is bool_:
        raise call.error(DTypeError, "expected numbers, got bools; use logical_not")
    return call.wrap(call.build.neg(value))


def positive(x: ArrayLike) -> Array:
    """The operand itself."""
    call = Call("positive")
    return call.wrap(call.value(x))


def _keep_bool(name: str, x: ArrayLike) -> Array:
    call = Call(name)
    value = call.value(x)
    return call.wrap(value if value.dtype is bool_ else getattr(call.build, name)(value))


def abs(x: ArrayLike) -> Array:
    """The absolute value; its derivative at 0 is 0."""
    return _keep_bool("abs", x)


def sign(x: ArrayLike) -> Array:
    """-1, 0 or 1; NaN stays NaN."""
    return _keep_bool("sign", x)


def minimum(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The smaller one, NaN if either is; a tie shares the cotangent equally."""
    return _binary("minimum", "min", x1, x2, of_bools="and")


def maximum(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The larger one, NaN if either is; a tie shares the cotangent equally."""
    return _binary("maximum", "max", x1, x2, of_bools="or")


def clip(x: ArrayLike, min: ArrayLike | None = None, max: ArrayLike | None = None) -> Array:
    """`x` within bounds, either of which may be None. The derivative at a bound is 1.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: clip(x, 0, 1), f32[3]).output_types
    (f32[3],)
    """
    call = Call("clip")
    bounds = [b for b in (min, max) if b is not None]
    values = call.operands(x, *bounds)
    result, rest = values[0], values[1:]
    for bound, op in ((min, "lt"), (max, "gt")):
        if bound is not None:
            limit = rest.pop(0)
            result = call.build.select(getattr(call.build, op)(result, limit), limit, result)
            result = _keep_nan(call, limit, result)
    return call.wrap(result)


def _keep_nan(call: Call, limit: Value, result: Value) -> Value:
    """A bound of NaN gives NaN, as in NumPy; a bound that is a constant number needs no check."""
    if not limit.dtype.is_float or limit.node.op.name == "const":
        return result
    return call.build.select(call.build.ne(limit, limit), limit, result)


# --------------------------------------------------------------------------------------------- comparison, logic


def _comparison(name: str, op: str, x1: ArrayLike, x2: ArrayLike) -> Array:
    call = Call(name)
    a, b = call.operands(x1, x2)
    if a.dtype is bool_ and op not in ("eq", "ne"):
        a, b = call.cast(a, i32), call.cast(b, i32)
    return call.wrap(getattr(call.build, op)(a, b))


def equal(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether the elements are equal, as bools; NaN equals nothing."""
    return _comparison("equal", "eq", x1, x2)


def not_equal(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether the elements differ."""
    return _comparison("not_equal", "ne", x1, x2)


def less(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether x1 < x2."""
    return _comparison("less", "lt", x1, x2)


def less_equal(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether x1 <= x2."""
    return _comparison("less_equal", "le", x1, x2)


def greater(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether x1 > x2."""
    return _comparison("greater", "gt", x1, x2)


def greater_equal(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether x1 >= x2."""
    return _comparison("greater_equal", "ge", x1, x2)


def truth(call: Call, value: Value) -> Value:
    """Whether each element is not zero."""
    return value if value.dtype is bool_ else call.build.ne(value, call.build.splat(0, value.type))


def _logical(name: str, op: str, x1: ArrayLike, x2: ArrayLike) -> Array:
    call = Call(name)
    a, b = (call.wrap(truth(call, call.value(x))) for x in (x1, x2))
    return call.wrap(getattr(call.build, op)(*call.operands(a, b)))


def logical_and(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether both are true; a number is true where it is not 0."""
    return _logical("logical_and", "and_", x1, x2)


def logical_or(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether either is true."""
    return _logical("logical_or", "or_", x1, x2)


def logical_xor(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Whether exactly one is true."""
    return _logical("logical_xor", "xor", x1, x2)


def logical_not(x: ArrayLike) -> Array:
    """Whether it is false."""
    call = Call("logical_not")
    return call.wrap(call.build.not_(truth(call, call.value(x))))


def _bitwise(name: str, op: str, *operands: ArrayLike) -> Array:
    call = Call(name)
    values = call.operands(*operands)
    if values[0].dtype.is_float:
        raise call.error(DTypeError, f"expected integers or bools, got {values[0].dtype.name}")
    return call.wrap(getattr(call.build, op)(*values))


def bitwise_and(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The bits that both have; of integers and bools."""
    return _bitwise("bitwise_and", "and_", x1, x2)


def bitwise_or(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The bits that either has."""
    return _bitwise("bitwise_or", "or_", x1, x2)


def bitwise_xor(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The bits that exactly one has."""
    return _bitwise("bitwise_xor", "xor", x1, x2)


def _shift(name: str, op: str, x1: ArrayLike, x2: ArrayLike) -> Array:
    call = Call(name)
    a, b = call.operands(x1, x2)
    if not a.dtype.is_integer:
        raise call.error(DTypeError, f"expected integers, got {a.dtype.name}")
    return call.wrap(getattr(call.build, op)(a, b))


def bitwise_left_shift(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The bits of `x1` moved up by `x2` places; by the type's width or more, all of them move out."""
    return _shift("bitwise_left_shift", "shl", x1, x2)


def bitwise_right_shift(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The bits of `x1` moved down by `x2` places; signed integers keep their sign."""
    return _shift("bitwise_right_shift", "shr", x1, x2)


def bitwise_invert(x: ArrayLike) -> Array:
    """All bits turned; of a bool, whether it is false."""
    return _bitwise("bitwise_invert", "not_", x)


def _constant(call: Call, value: Value, number: bool) -> Array:
    return call.wrap(call.build.splat(number, TensorType(bool_, value.shape)))


def isnan(x: ArrayLike) -> Array:
    """Whether it is NaN."""
    call = Call("isnan")
    value = call.value(x)
    return call.wrap(call.build.ne(value, value)) if value.dtype.is_float else _constant(call, value, False)


def isinf(x: ArrayLike) -> Array:
    """Whether it is an infinity of either sign."""
    call = Call("isinf")
    value = call.value(x)
    if not value.dtype.is_float:
        return _constant(call, value, False)
    return call.wrap(call.build.eq(call.build.abs(value), call.splat(math.inf, value.type)))


def isfinite(x: ArrayLike) -> Array:
    """Whether it is neither NaN nor an infinity."""
    call = Call("isfinite")
    value = call.value(x)
    if not value.dtype.is_float:
        return _constant(call, value, True)
    return call.wrap(call.build.lt(call.build.abs(value), call.splat(math.inf, value.type)))


def where(condition: ArrayLike, x1: ArrayLike, x2: ArrayLike) -> Array:
    """`x1` where the condition is true, else `x2`. The cotangent goes to the one that was chosen.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: where(x > 0, x, 0), f32[3]).output_types
    (f32[3],)
    """
    call = Call("where")
    test = truth(call, call.value(condition))
    given, dtype = call.promote(x1, x2)
    shapes = [g.shape for g in given if not isinstance(g, (builtins.bool, int, float))]
    shape = call.common_shape([test.shape, *shapes])
    chosen = [call.fitted(g, TensorType(dtype, shape)) for g in given]
    return call.wrap(call.build.select(call.broadcast(test, shape), *chosen))


def astype(x: ArrayLike, dtype: DTypeLike, *, copy: bool = True) -> Array:
    """The elements converted: a float to an integer truncates and saturates, NaN gives 0; a bool is 0 or 1.

    `copy` means nothing: a traced value never changes.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: astype(x, "f64"), f32[3]).output_types
    (f64[3],)
    """
    call = Call("astype")
    target: DType = call.dtype(dtype)
    value = call.value(x)
    return call.wrap(truth(call, value) if target is bool_ else call.cast(value, target))


def stop_gradient(x: ArrayLike) -> Array:
    """The operand, as a constant for differentiation.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: stop_gradient(x), f32[3]).output_types
    (f32[3],)
    """
    call = Call("stop_gradient")
    value = call.value(x)
    return call.wrap(call.build.stop_gradient(value) if value.dtype.is_float else value)


# ---------------------------------------------------------------------------------------------------- exponentials


def exp(x: ArrayLike) -> Array:
    """e to the power of x."""
    return _float_unary("exp", x)


def exp2(x: ArrayLike) -> Array:
    """2 to the power of x."""
    return _float_unary("exp2", x)


def expm1(x: ArrayLike) -> Array:
    """exp(x) - 1 without the loss of small x."""
    return _float_unary("expm1", x)


def log(x: ArrayLike) -> Array:
    """The natural logarithm: -inf at 0, NaN below."""
    return _float_unary("log", x)


def log1p(x: ArrayLike) -> Array:
    """log(1 + x) without the loss of small x."""
    return _float_unary("log1p", x)


def log2(x: ArrayLike) -> Array:
    """The logarithm to base 2."""
    return _float_unary("log2", x)


def log10(x: ArrayLike) -> Array:
    """The logarithm to base 10."""
    return _float_unary("log10", x)


def logaddexp(x1: ArrayLike, x2: ArrayLike) -> Array:
    """log(exp(x1) + exp(x2)), where neither power overflows.

    The larger one plus log1p of the power of minus their distance d. A tie lies within the smooth branch d <= 0, so
    that derivatives of every order are right there, too.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: logaddexp(x, y), f32[3], f32[3]).output_types
    (f32[3],)
    """
    call = Call("logaddexp")
    a, b = (call.wrap(v) for v in call.operands(x1, x2, floats=True))
    d = where(logical_and(equal(a, b), isinf(a)), 0.0, subtract(a, b))  # inf - inf would be NaN
    above = greater(d, 0)
    return add(where(above, a, b), log1p(exp(where(above, negative(d), d))))


def sqrt(x: ArrayLike) -> Array:
    """The square root: NaN below 0, its derivative at 0 is inf."""
    return _float_unary("sqrt", x)


def cbrt(x: ArrayLike) -> Array:
    """The real cube root, of negative numbers too; its derivative at 0 is inf."""
    return _float_unary("cbrt", x)


def rsqrt(x: ArrayLike) -> Array:
    """1 / sqrt(x)."""
    return _float_unary("rsqrt", x)


def square(x: ArrayLike) -> Array:
    """x times x."""
    call = Call("square")
    value = call.value(x)
    return call.wrap(call.build.and_(value, value) if value.dtype is bool_ else call.build.mul(value, value))


def reciprocal(x: ArrayLike) -> Array:
    """1 / x; of integers as f32 (NumPy: an integer)."""
    call = Call("reciprocal")
    value = call.float_value(x)
    return call.wrap(call.build.div(call.splat(1, value.type), value))


def sin(x: ArrayLike) -> Array:
    """The sine of an angle in radians."""
    return _float_unary("sin", x)


def cos(x: ArrayLike) -> Array:
    """The cosine of an angle in radians."""
    return _float_unary("cos", x)


def tan(x: ArrayLike) -> Array:
    """The tangent of an angle in radians."""
    return _float_unary("tan", x)


def asin(x: ArrayLike) -> Array:
    """The angle within ±pi/2 whose sine is x; NaN beyond ±1."""
    return _float_unary("asin", x)


def acos(x: ArrayLike) -> Array:
    """The angle from 0 to pi whose cosine is x; NaN beyond ±1."""
    return _float_unary("acos", x)


def atan(x: ArrayLike) -> Array:
    """The angle within ±pi/2 whose tangent is x."""
    return _float_unary("atan", x)


def atan2(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The angle of the point (x2, x1), from -pi to pi; integers compute as f32 (NumPy: float64).

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import i32
    >>> trace(lambda y: atan2(y, 2), i32[3]).output_types
    (f32[3],)
    """
    call = Call("atan2")
    return call.wrap(call.build.atan2(*call.operands(x1, x2, floats=True)))


def sinh(x: ArrayLike) -> Array:
    """The hyperbolic sine."""
    return _float_unary("sinh", x)


def cosh(x: ArrayLike) -> Array:
    """The hyperbolic cosine."""
    return _float_unary("cosh", x)


def asinh(x: ArrayLike) -> Array:
    """The inverse of the hyperbolic sine."""
    return _float_unary("asinh", x)


def acosh(x: ArrayLike) -> Array:
    """The inverse of the hyperbolic cosine, from 0 up; NaN below 1."""
    return _float_unary("acosh", x)


def atanh(x: ArrayLike) -> Array:
    """The inverse of the hyperbolic tangent; NaN beyond ±1."""
    return _float_unary("atanh", x)


def tanh(x: ArrayLike) -> Array:
    """The hyperbolic tangent."""
    return _float_unary("tanh", x)


def sigmoid(x: ArrayLike) -> Array:
    """The logistic function 1 / (1 + exp(-x))."""
    return _float_unary("sigmoid", x)


def erf(x: ArrayLike) -> Array:
    """The error function, 2/sqrt(pi) times the integral of exp(-t²) from 0 to x."""
    return _float_unary("erf", x)


# -------------------------------------------------------------------------------------------------------- rounding


def _rounding(name: str, x: ArrayLike) -> Array:
    call = Call(name)
    value = call.value(x)
    return call.wrap(getattr(call.build, name)(value) if value.dtype.is_float else value)


def floor(x: ArrayLike) -> Array:
    """The largest integer not above x; integers stay."""
    return _rounding("floor", x)


def ceil(x: ArrayLike) -> Array:
    """The smallest integer not below x; integers stay."""
    return _rounding("ceil", x)


def trunc(x: ArrayLike) -> Array:
    """The integer next to x towards 0; integers stay."""
    return _rounding("trunc", x)


def round(x: ArrayLike, decimals: int = 0) -> Array:
    """The nearest integer, halves to the even one, or the nearest multiple of 10**-decimals; integers stay.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: round(x, 2), f32[3]).output_types
    (f32[3],)
    """
    call = Call("round")
    places = call.integer(decimals, "decimals")
    value = call.value(x)
    if places == 0 or not value.dtype.is_float:
        return _rounding("round", x)
    scale = 10.0 ** builtins.abs(places)
    grown = multiply(x, scale) if places > 0 else divide(x, scale)
    whole = _rounding("round", grown)
    return divide(whole, scale) if places > 0 else multiply(whole, scale)
