"""Array functions about single floating-point numbers: signs, neighbours, lengths; and parts of complex numbers.

In: traced values, arrays, Python numbers, which promote and broadcast. Out: traced values. Graphs have no bit patterns:
signs and neighbours are found by arithmetic.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.errors import DTypeError
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.ir.graph import Value
from graphc.ir.types import bool_


def signbit(x: ArrayLike) -> Array:
    """Whether the sign is minus, of -0.0 too; of a NaN false, whatever its sign. Raises `DTypeError` of integers.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(signbit, f32[3]).output_types
    (bool[3],)
    """
    call = Call("signbit")
    value = call.value(x)
    if not value.dtype.is_float:
        raise call.error(DTypeError, f"expected floats, got {value.dtype.name}")
    return call.wrap(_is_negative(call, value))


def _is_negative(call: Call, value: Value) -> Value:
    """True below 0, and at -0.0: there the reciprocal is -inf."""
    zero, one = call.splat(0, value.type), call.splat(1, value.type)
    number = call.build.select(call.build.eq(value, zero), call.build.div(one, value), value)
    return call.build.lt(number, zero)


def copysign(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The absolute value of `x1` with the sign of `x2`; a NaN in `x2` counts as positive.

    The derivative by `x1` is 1 or -1 (0 where `x1` is 0), by `x2` 0. Integers are computed as f32.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(copysign, f32[3], f32[()]).output_types
    (f32[3],)
    """
    call = Call("copysign")
    a, b = call.operands(x1, x2, floats=True)
    size = call.build.abs(a)
    return call.wrap(call.build.select(_is_negative(call, b), call.build.neg(size), size))


def hypot(x1: ArrayLike, x2: ArrayLike) -> Array:
    """sqrt(x1**2 + x2**2), where neither square overflows or vanishes: the larger size is divided out first.

    It is held constant for differentiation, which leaves derivatives of every order right; at the origin they are NaN.
    An infinity gives inf, beside NaN too.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(hypot, f32[3], f32[()]).output_types
    (f32[3],)
    """
    call = Call("hypot")
    a, b = call.operands(x1, x2, floats=True)
    build = call.build
    infinity, zero, one = (call.splat(n, a.type) for n in (math.inf, 0, 1))
    sizes = build.abs(a), build.abs(b)
    larger = build.max(*sizes)
    usable = build.and_(build.gt(larger, zero), build.lt(larger, infinity))
    scale = build.stop_gradient(build.select(usable, larger, one))
    u, v = build.div(a, scale), build.div(b, scale)
    length = build.mul(scale, build.sqrt(build.add(build.mul(u, u), build.mul(v, v))))
    infinite = build.or_(build.eq(sizes[0], infinity), build.eq(sizes[1], infinity))
    return call.wrap(build.select(infinite, infinity, length))


def nextafter(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The next number from `x1` towards `x2`; no cotangent passes.

    By rounding: S. M. Rump, P. Zimmermann, S. Boldo and G. Melquiond, Computing Predecessor and Successor in Rounding to
    Nearest, BIT 49, 2009, algorithm 2, which is exact. Raises `DTypeError` of integers.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: nextafter(x, 1.0), f32[3]).output_types
    (f32[3],)
    """
    call = Call("nextafter")
    a, b = call.operands(x1, x2)
    if not a.dtype.is_float:
        raise call.error(DTypeError, f"expected floats, got {a.dtype.name}")
    build = call.build
    info = np.finfo(a.dtype.numpy)
    unit, least = float(info.epsneg), float(info.smallest_subnormal)

    def splat(number: float) -> Value:
        return call.splat(number, a.type)

    up = build.lt(a, b)
    size = build.abs(a)
    small = build.lt(size, splat(0.5 / unit**2 * least))
    scaled = build.select(small, build.mul(a, splat(1 / unit)), a)
    step = build.mul(splat(unit * (1 + 2 * unit)), build.abs(scaled))
    moved = build.add(scaled, build.select(up, step, build.neg(step)))
    moved = build.select(small, build.mul(moved, splat(unit)), moved)
    one = build.select(up, splat(least), splat(-least))
    moved = build.select(build.lt(size, splat(least / unit)), build.add(a, one), moved)
    largest = build.select(up, splat(-float(info.max)), splat(float(info.max)))
    moved = build.select(build.eq(size, splat(math.inf)), largest, moved)
    moved = build.select(build.eq(a, b), b, moved)  # of two zeros the second one
    unordered = build.or_(build.ne(a, a), build.ne(b, b))
    return call.wrap(build.stop_gradient(build.select(unordered, splat(math.nan), moved)))


def erfinv(x: ArrayLike) -> Array:
    """The inverse of erf on (-1, 1): inf at 1, -inf at -1, NaN beyond.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(erfinv, f32[3]).output_types
    (f32[3],)
    """
    call = Call("erfinv")
    return call.wrap(call.build.erfinv(call.float_value(x)))


def _numeric(call: Call, x: ArrayLike) -> Value:
    value = call.value(x)
    if value.dtype is bool_:
        raise call.error(DTypeError, "expected numbers, got bools; convert them by astype")
    return value


def real(x: ArrayLike) -> Array:
    """The operand: graphs have real numbers only."""
    call = Call("real")
    return call.wrap(_numeric(call, x))


def conj(x: ArrayLike) -> Array:
    """The operand: a real number is its own conjugate."""
    call = Call("conj")
    return call.wrap(_numeric(call, x))


def imag(x: ArrayLike) -> Array:
    """Zeros: graphs have real numbers only."""
    call = Call("imag")
    return call.wrap(call.build.zeros(_numeric(call, x).type))
