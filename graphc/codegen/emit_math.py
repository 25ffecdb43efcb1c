"""The primitive scalar functions and the conversions as LLVM instructions, for every data type.

In: a primitive's name and the values of its arguments (scalars or vectors). Out: the value of the result. What would
become a call on the target is expanded here in integer and float arithmetic; results are those of
`ir.scalar.PRIMITIVES` and `ir.scalar.cast_numpy`.

`fma` rounds once where the target has a fused instruction and is a product and a sum elsewhere (LLVM's `fmuladd`): an
expansion that needs the exact product's low part has to be right with both, for example by splitting its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.codegen import emit_halves
from graphc.codegen.emit_writer import Operation, Value, Writer
from graphc.ir import scalar, threefry
from graphc.ir.scalar import PRIMITIVES, cast_numpy
from graphc.ir.types import bool_, f32, f64, i32, i64, u32

if TYPE_CHECKING:
    from graphc.ir.types import DType

_BITS = {f32: i32, f64: i64}
_MANTISSA = {f32: 23, f64: 52}


_INTEGRAL = (
    "floor",
    "ceil",
    "round",
    "trunc",
)  # leave integers as they are; numpy takes long ones through f64


def apply(w: Writer, fn: str, args: Sequence[Value]) -> Value:
    """The value of a primitive that is not transcendental; known integers are folded.

    Raises `CompileError` where the primitive has no meaning for the type (``sub`` of bools, ``div`` of integers).
    """
    if args[-1].dtype.is_half and fn != "select":
        raise _refuse(w, fn, args[-1].dtype)
    if fn not in _INTEGRAL and all(a.const is not None for a in args):
        return _folded(w, fn, args)
    return _OPERATIONS[fn](w, args)


def _folded(w: Writer, fn: str, args: Sequence[Value]) -> Value:
    if fn == "div":
        raise w.error("floats for 'div'", args[0].dtype.name)
    lanes = max(a.lanes for a in args)
    values = [np.array(a.const, dtype=a.dtype.numpy) for a in args]
    try:
        result = np.broadcast_to(PRIMITIVES[fn].numpy(*values), (lanes,))
    except TypeError as error:
        raise w.error(f"operands that {fn!r} is defined for", str(error)) from None
    dtype = bool_ if PRIMITIVES[fn].result == "bool" else args[1 if fn == "select" else 0].dtype
    return w.const_lanes(dtype, [int(n) for n in result.astype(dtype.numpy)])


# Arithmetic


def _refuse(w: Writer, fn: str, dtype: DType) -> Exception:
    return w.error(f"operands that {fn!r} is defined for", dtype.name)


def _arithmetic(fn: str, of_floats: str, of_integers: str, of_bools: str) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        x, y = args
        opcode = of_floats if x.dtype.is_float else of_bools if x.dtype is bool_ else of_integers
        if not opcode:
            raise _refuse(w, fn, x.dtype)
        return w.binary(opcode, x, y)

    return emit


def _zero(w: Writer, like: Value) -> Value:
    return w.const(like.dtype, 0, like.lanes)


def _neg(w: Writer, args: Sequence[Value]) -> Value:
    (x,) = args
    if x.dtype.is_float:
        return w.emit(f"fneg {w.typed(x)}", x.dtype, x.lanes)
    if x.dtype is bool_:
        raise _refuse(w, "neg", x.dtype)
    return w.binary("sub", _zero(w, x), x)


def _abs(w: Writer, args: Sequence[Value]) -> Value:
    (x,) = args
    if x.dtype.is_float:
        return w.call("llvm.fabs", [x], x.dtype)
    if x.dtype.kind != "int":
        return x
    return w.select(w.compare("slt", x, _zero(w, x)), _neg(w, [x]), x)


def _sign(w: Writer, args: Sequence[Value]) -> Value:
    (x,) = args
    zero, one = _zero(w, x), w.const(x.dtype, 1, x.lanes)
    if x.dtype is bool_:
        raise _refuse(w, "sign", x.dtype)
    if x.dtype.kind == "uint":
        return w.select(w.compare("ne", x, zero), one, zero)
    less, more = ("olt", "ogt") if x.dtype.is_float else ("slt", "sgt")
    rest = zero
    if x.dtype.is_float:  # NaN stays, both zeros give +0
        rest = w.select(w.compare("uno", x, x), x, zero)
    below = w.select(w.compare(less, x, zero), w.const(x.dtype, -1, x.lanes), rest)
    return w.select(w.compare(more, x, zero), one, below)


def _extremum(fn: str, intrinsic: str, of_floats: str, signed: str, unsigned: str) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        x, y = w.alike(*args)
        if not x.dtype.is_float:
            predicate = signed if x.dtype.kind == "int" else unsigned
            return w.select(w.compare(predicate, x, y), x, y)
        if w.target.is_native(fn, x.dtype):
            return w.call(intrinsic, [x, y], x.dtype)
        # x86's own min and max: the second operand where either is NaN, so y's NaN stays; then x's.
        either = w.select(w.compare(of_floats, x, y), x, y)
        return w.select(w.compare("uno", x, x), x, either)

    return emit


def _fma(w: Writer, args: Sequence[Value]) -> Value:
    x, y, z = w.alike(*args)
    if not x.dtype.is_float:
        return apply(w, "add", [apply(w, "mul", [x, y]), z])
    name = "llvm.fma" if w.target.is_native("fma", x.dtype) else "llvm.fmuladd"
    return w.call(name, [x, y, z], x.dtype)


def _sqrt(w: Writer, args: Sequence[Value]) -> Value:
    (x,) = args
    if not w.target.is_native("sqrt", x.dtype):
        raise _refuse(w, "sqrt", x.dtype)
    return w.call("llvm.sqrt", args, x.dtype)


# Rounding


def _rounding(fn: str, intrinsic: str, correct: Callable[[Writer, Value, Value], Value]) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        (x,) = args
        if not x.dtype.is_float:
            return x
        if w.target.is_native(fn, x.dtype):
            return w.call(intrinsic, [x], x.dtype)
        # Adding and taking away 2^mantissa rounds to an integer, half to even; from there on every float is one.
        magnitude = w.call("llvm.fabs", [x], x.dtype)
        big = w.const(x.dtype, 2.0 ** _MANTISSA[x.dtype], x.lanes)
        nearest = w.binary("fsub", w.binary("fadd", magnitude, big), big)
        rounded = correct(w, x, w.call("llvm.copysign", [nearest, x], x.dtype))
        small = w.compare("olt", magnitude, big)  # false for NaN, which stays
        return w.select(small, w.call("llvm.copysign", [rounded, x], x.dtype), x)

    return emit


def _step_down(w: Writer, x: Value, rounded: Value) -> Value:
    one = w.const(x.dtype, 1.0, x.lanes)
    return w.select(w.compare("ogt", rounded, x), w.binary("fsub", rounded, one), rounded)


def _step_up(w: Writer, x: Value, rounded: Value) -> Value:
    one = w.const(x.dtype, 1.0, x.lanes)
    return w.select(w.compare("olt", rounded, x), w.binary("fadd", rounded, one), rounded)


def _step_in(w: Writer, x: Value, rounded: Value) -> Value:
    magnitude = w.call("llvm.fabs", [x], x.dtype)
    return _step_down(w, magnitude, w.call("llvm.fabs", [rounded], x.dtype))


# Division


def _quotient_and_rest(w: Writer, x: Value, y: Value) -> tuple[Value, Value]:
    """Truncated quotient and remainder, without the traps: dividing by 0 gives (0, 0), INT_MIN / -1 wraps."""
    x, y = w.alike(x, y)
    if y.const is not None and not {0, -1} & set(y.const):
        quotient = _divided(w, x, y)
        return quotient, w.binary("sub", x, w.binary("mul", quotient, y))
    zero, one = _zero(w, x), w.const(x.dtype, 1, x.lanes)
    bad = unsafe = w.compare("eq", y, zero)
    if x.dtype.kind == "int":
        flipped = w.compare("eq", y, w.const(x.dtype, -1, x.lanes))
        unsafe = w.binary("or", bad, flipped)
    quotient = _divided(w, x, w.select(unsafe, one, y))
    if x.dtype.kind == "int":
        quotient = w.select(flipped, w.binary("sub", zero, x), quotient)
    quotient = w.select(bad, zero, quotient)
    rest = w.binary("sub", x, w.binary("mul", quotient, y))
    return quotient, w.select(bad, zero, rest)


def _divided(w: Writer, x: Value, y: Value) -> Value:
    if ("division", x.dtype) not in w.target.outlined:
        return w.binary("sdiv" if x.dtype.kind == "int" else "udiv", x, y)
    helper = "sdiv64" if x.dtype.kind == "int" else "udiv64"
    w.helpers.add(helper)
    parts = [
        w.emit(f"call i64 @graphc.{helper}(i64 {w.lane(x, n).text}, i64 {w.lane(y, n).text})", x.dtype)
        for n in range(x.lanes)
    ]
    return parts[0] if x.lanes == 1 else _gathered(w, parts)


def _gathered(w: Writer, parts: Sequence[Value]) -> Value:
    result = w.poison(parts[0].dtype, len(parts))
    for position, part in enumerate(parts):
        result = w.insert(result, part, position)
    return result


def _power_of_two(y: Value) -> int | None:
    if y.const is None or len(set(y.const)) != 1 or y.const[0] <= 0 or y.const[0] & (y.const[0] - 1):
        return None
    return y.const[0].bit_length() - 1


def _floordiv(w: Writer, args: Sequence[Value]) -> Value:
    x, y = args
    if x.dtype is bool_:
        raise _refuse(w, "floordiv", x.dtype)
    if x.dtype.is_float:
        return apply(w, "floor", [w.binary("fdiv", x, y)])
    shift = _power_of_two(y)
    if shift is not None:  # an arithmetic shift rounds down
        return w.binary("ashr" if x.dtype.kind == "int" else "lshr", x, w.const(x.dtype, shift))
    quotient, rest = _quotient_and_rest(w, x, y)
    if x.dtype.kind != "int":
        return quotient
    return w.select(_signs_differ(w, rest, y), w.binary("sub", quotient, w.const(x.dtype, 1)), quotient)


def _signs_differ(w: Writer, rest: Value, y: Value) -> Value:
    """True where the remainder isn't 0 and hasn't the divisor's sign."""
    zero = _zero(w, rest)
    opposite = w.compare("slt", w.binary("xor", rest, y), zero)
    return w.binary("and", w.compare("ne", rest, zero), opposite)


def _mod(w: Writer, args: Sequence[Value]) -> Value:
    x, y = w.alike(*args)
    if x.dtype is bool_:
        raise _refuse(w, "mod", x.dtype)
    if x.dtype.is_float:
        return _float_mod(w, x, y)
    if _power_of_two(y) is not None:
        return w.binary("and", x, w.const(x.dtype, (y.const or (1,))[0] - 1))
    _, rest = _quotient_and_rest(w, x, y)
    if x.dtype.kind != "int":
        return rest
    return w.select(_signs_differ(w, rest, y), w.binary("add", rest, y), rest)


def _float_mod(w: Writer, x: Value, y: Value) -> Value:
    """x - floor(x / y) y with the divisor's sign, within [0, |y|] as in numpy.

    With a fused multiply-add and a quotient below 2^mantissa the first remainder is exact and at most one y too low
    (P. Markstein, IA-64 and Elementary Functions, 2000, chapter 8); above it the result is 0: no digit of it would mean
    anything.
    """
    dtype, lanes = x.dtype, x.lanes
    zero, infinity = w.const(dtype, 0.0, lanes), w.const(dtype, float("inf"), lanes)
    size = w.call("llvm.fabs", [y], dtype)
    quotient = w.binary("fdiv", x, y)
    whole = apply(w, "floor", [quotient])
    rest = _fma(w, [_neg(w, [whole]), y, x])
    same_sign = w.call("llvm.copysign", [rest, y], dtype)  # |rest| with y's sign
    wrong = w.compare("une", rest, same_sign)
    rest = w.select(wrong, w.binary("fadd", rest, y), rest)
    outside = w.compare("ugt", w.call("llvm.fabs", [rest], dtype), size)  # only without a fused multiply-add
    large = w.compare(
        "uge", w.call("llvm.fabs", [quotient], dtype), w.const(dtype, 2.0 ** _MANTISSA[dtype], lanes)
    )
    rest = w.select(w.binary("or", outside, large), zero, rest)
    rest = w.call("llvm.copysign", [rest, y], dtype)
    # An infinite divisor leaves x alone, or is the result where the signs differ.
    agrees = w.compare("oeq", w.call("llvm.copysign", [x, y], dtype), x)
    by_infinity = w.select(agrees, w.call("llvm.copysign", [x, y], dtype), y)
    endless = w.compare("oeq", size, infinity)
    rest = w.select(endless, by_infinity, rest)
    # NaN where either is, where x is infinite, and where y is 0: all of them make x * 0 / y a NaN.
    invalid = w.binary("fdiv", w.binary("fmul", x, zero), w.select(endless, w.const(dtype, 1.0, lanes), y))
    return w.select(w.compare("uno", invalid, invalid), invalid, rest)


# Comparison, bits, selection


def _comparison(of_floats: str, signed: str, unsigned: str) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        x, y = args
        return w.compare(
            of_floats if x.dtype.is_float else signed if x.dtype.kind == "int" else unsigned, x, y
        )

    return emit


def _bitwise(opcode: str) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        if args[0].dtype.is_float:
            raise _refuse(w, opcode, args[0].dtype)
        return w.binary(opcode, args[0], args[1])

    return emit


def _not(w: Writer, args: Sequence[Value]) -> Value:
    (x,) = args
    if x.dtype.is_float:
        raise _refuse(w, "not", x.dtype)
    return w.binary("xor", x, w.const(x.dtype, -1 if x.dtype.kind == "int" else 2**x.dtype.bits - 1))


def _shift(w: Writer, args: Sequence[Value], left: bool) -> Value:
    """Shifting by the width or more moves everything out, as in numpy; LLVM leaves it undefined."""
    x, y = w.alike(*args)
    if not x.dtype.is_integer:
        raise _refuse(w, "shl" if left else "shr", x.dtype)
    signed = x.dtype.kind == "int"
    opcode = "shl" if left else "ashr" if signed else "lshr"
    if y.const is not None and all(0 <= n < x.dtype.bits for n in y.const):
        return w.binary(opcode, x, y)
    inside = w.compare("ult", y, w.const(x.dtype, x.dtype.bits, x.lanes))
    if opcode == "ashr":
        return w.binary(opcode, x, w.select(inside, y, w.const(x.dtype, x.dtype.bits - 1, x.lanes)))
    shifted = w.binary(opcode, x, w.select(inside, y, _zero(w, x)))
    return w.select(inside, shifted, _zero(w, x))


_RANDOM_WORDS = threefry.block(*map(scalar.arg, range(4)))


def _threefry(word: int) -> Operation:
    def emit(w: Writer, args: Sequence[Value]) -> Value:
        if args[0].dtype is not u32:
            raise _refuse(w, f"threefry{word}", args[0].dtype)

        def of_node(node: scalar.Scalar, values: list[Value]) -> Value:
            return w.const(u32, node.value) if node.fn == "const" else apply(w, node.fn, values)

        return scalar.fold(_RANDOM_WORDS[word], lambda node: args[int(node.value)], of_node)

    return emit


def _select(w: Writer, args: Sequence[Value]) -> Value:
    condition, x, y = args
    if condition.dtype is not bool_:
        condition = cast(w, condition, bool_)
    return w.select(condition, x, y)


_OPERATIONS: dict[str, Operation] = {
    "add": _arithmetic("add", "fadd", "add", "or"),
    "sub": _arithmetic("sub", "fsub", "sub", ""),
    "mul": _arithmetic("mul", "fmul", "mul", "and"),
    "div": _arithmetic("div", "fdiv", "", ""),
    "floordiv": _floordiv,
    "mod": _mod,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "min": _extremum("min", "llvm.minimum", "olt", "slt", "ult"),
    "max": _extremum("max", "llvm.maximum", "ogt", "sgt", "ugt"),
    "fma": _fma,
    "sqrt": _sqrt,
    "floor": _rounding("floor", "llvm.floor", _step_down),
    "ceil": _rounding("ceil", "llvm.ceil", _step_up),
    "round": _rounding("round", "llvm.roundeven", lambda w, x, rounded: rounded),
    "trunc": _rounding("trunc", "llvm.trunc", _step_in),
    "eq": _comparison("oeq", "eq", "eq"),
    "ne": _comparison("une", "ne", "ne"),
    "lt": _comparison("olt", "slt", "ult"),
    "le": _comparison("ole", "sle", "ule"),
    "gt": _comparison("ogt", "sgt", "ugt"),
    "ge": _comparison("oge", "sge", "uge"),
    "and": _bitwise("and"),
    "or": _bitwise("or"),
    "xor": _bitwise("xor"),
    "not": _not,
    "shl": lambda w, args: _shift(w, args, True),
    "shr": lambda w, args: _shift(w, args, False),
    "threefry0": _threefry(0),
    "threefry1": _threefry(1),
    "select": _select,
}


# Conversions


def cast(w: Writer, x: Value, dtype: DType) -> Value:
    """Conversion by `cast_numpy`'s rules: float to integer truncates and saturates, NaN gives 0, integers wrap."""
    source = x.dtype
    if source is dtype:
        return x
    if source.is_half:
        return cast(w, emit_halves.widened(w, x), dtype)
    if dtype.is_half:
        odd = source is f64
        return emit_halves.rounded(w, emit_halves.to_odd(w, x) if odd else cast(w, x, f32), dtype)
    if x.const is not None:
        numbers = cast_numpy(np.array(x.const, dtype=source.numpy), dtype.numpy)
        if not dtype.is_float:
            return w.const_lanes(dtype, [int(n) for n in numbers])
        if len(set(x.const)) == 1:
            return w.const(dtype, float(numbers[0]), x.lanes)
    if dtype is bool_:
        return w.compare("une" if source.is_float else "ne", x, _zero(w, x))
    if source.is_float and dtype.is_float:
        return w.convert("fpext" if dtype.bits > source.bits else "fptrunc", x, dtype)
    if source.is_float:
        return _float_to_integer(w, x, dtype)
    if dtype.is_float:
        if (f"to {dtype.name}", source) in w.target.outlined:
            return _from_long(w, x, dtype)
        return w.convert("sitofp" if source.kind == "int" else "uitofp", x, dtype)
    if dtype.bits == source.bits:  # the same bits, signed and unsigned
        return x._replace(dtype=dtype)
    if dtype.bits < source.bits:
        return w.convert("trunc", x, dtype)
    return w.convert("sext" if source.kind == "int" else "zext", x, dtype)


def _float_to_integer(w: Writer, x: Value, dtype: DType) -> Value:
    source, lanes = x.dtype, x.lanes
    signed = dtype.kind == "int"
    lowest, highest = (
        (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1) if signed else (0, 2**dtype.bits - 1)
    )
    # Both bounds are powers of two, or small: exact in every float type. The conversion of what lies outside is
    # undefined in LLVM, so 0 takes its place; NaN stays 0.
    below = w.compare("ole", x, w.const(source, float(lowest), lanes))
    above = w.compare("oge", x, w.const(source, float(highest + 1), lanes))
    inside = w.binary("and", w.compare("ogt", x, w.const(source, float(lowest), lanes)),
                      w.compare("olt", x, w.const(source, float(highest + 1), lanes)))  # fmt: skip
    safe = w.select(inside, x, w.const(source, 0.0, lanes))
    if dtype.bits < 32:
        number = w.convert("trunc", w.convert("fptosi", safe, i32), dtype)
    elif (f"from {source.name}", dtype) in w.target.outlined:
        number = _to_long(w, safe, dtype)
    else:
        number = w.convert("fptosi" if signed else "fptoui", safe, dtype)
    number = w.select(below, w.const(dtype, lowest, lanes), number)
    return w.select(above, w.const(dtype, highest, lanes), number)


def _to_long(w: Writer, x: Value, long: DType) -> Value:
    """A float within i64 or u64, in two halves: |x| = high 2^32 + low, and both subtraction and product are exact."""
    dtype, lanes = x.dtype, x.lanes
    size = w.call("llvm.fabs", [x], dtype)
    high = w.convert("fptoui", w.binary("fmul", size, w.const(dtype, 2.0**-32, lanes)), i32)
    back = w.binary("fmul", w.convert("uitofp", high, dtype), w.const(dtype, 2.0**32, lanes))
    low = w.convert("fptoui", w.binary("fsub", size, back), i32)
    shifted = w.binary("shl", w.convert("zext", high, long), w.const(long, 32, lanes))
    number = w.binary("or", shifted, w.convert("zext", low, long))
    if long.kind == "uint":
        return number
    return w.select(w.compare("olt", x, w.const(dtype, 0.0, lanes)), _neg(w, [number]), number)


def _from_long(w: Writer, x: Value, dtype: DType) -> Value:
    """An i64 or u64 to a float, rounded once: 32 leading bits, the last of them sticky, then an exact scaling."""
    lanes, signed = x.lanes, x.dtype.kind == "int"
    x = x._replace(dtype=i64)
    negative = w.compare("slt", x, _zero(w, x))
    size = w.select(negative, w.binary("sub", _zero(w, x), x), x) if signed else x
    high = w.convert("trunc", w.binary("lshr", size, w.const(i64, 32, lanes)), i32)
    low = w.convert("trunc", size, i32)
    if dtype is f64:  # high 2^32 is exact, the sum rounds once
        scaled = w.binary("fmul", w.convert("uitofp", high, f64), w.const(f64, 2.0**32, lanes))
        number = w.binary("fadd", scaled, w.convert("uitofp", low, f64))
    else:
        # 26 to 32 bits are kept, so that the last of them, which says that lost bits weren't 0, is never a result's.
        number = w.const(f32, 0.0, lanes)
        for drop, above in (
            (0, 0),
            (6, 2**32),
            (12, 2**38),
            (18, 2**44),
            (24, 2**50),
            (30, 2**56),
            (32, 2**62),
        ):
            kept = w.binary("lshr", size, w.const(i64, drop, lanes))
            lost = w.binary("and", size, w.const(i64, 2**drop - 1, lanes))
            sticky = w.convert("zext", w.compare("ne", lost, _zero(w, x)), i64)
            bits = w.convert("trunc", w.binary("or", kept, sticky), i32)
            part = w.binary("fmul", w.convert("uitofp", bits, f32), w.const(f32, 2.0**drop, lanes))
            number = w.select(w.compare("uge", size, w.const(i64, above, lanes)), part, number)
    return w.select(negative, _neg(w, [number]), number) if signed else number


def bitcast(w: Writer, x: Value, dtype: DType) -> Value:
    """The same bits as another type. Raises `CompileError` where the widths differ."""
    if x.dtype is dtype:
        return x
    if x.dtype.bytes != dtype.bytes:
        raise w.error(f"a type of {x.dtype.bytes} bytes to bitcast {x.dtype.name} to", dtype.name)
    if dtype is bool_:
        return w.compare("ne", x, _zero(w, x))
    return w.convert("zext" if x.dtype is bool_ else "bitcast", x, dtype)


# Restoring division, one bit a step: for targets whose 64-bit division would be a call to a helper of the C library.
HELPERS = {
    "sdiv64": """\
define internal i64 @graphc.sdiv64(i64 %x, i64 %y) noinline nounwind "no-builtins" {
entry:
  %xs = ashr i64 %x, 63
  %xa = xor i64 %x, %xs
  %n = sub i64 %xa, %xs
  %ys = ashr i64 %y, 63
  %ya = xor i64 %y, %ys
  %d = sub i64 %ya, %ys
  br label %bit
bit:
  %i = phi i32 [ 64, %entry ], [ %left, %bit ]
  %high = phi i64 [ 0, %entry ], [ %high.next, %bit ]
  %low = phi i64 [ %n, %entry ], [ %low.next, %bit ]
  %top = lshr i64 %low, 63
  %up = shl i64 %high, 1
  %rest = or i64 %up, %top
  %shifted = shl i64 %low, 1
  %fits = icmp uge i64 %rest, %d
  %less = sub i64 %rest, %d
  %high.next = select i1 %fits, i64 %less, i64 %rest
  %one = zext i1 %fits to i64
  %low.next = or i64 %shifted, %one
  %left = sub i32 %i, 1
  %more = icmp ne i32 %left, 0
  br i1 %more, label %bit, label %done
done:
  %sign = xor i64 %xs, %ys
  %flip = xor i64 %low.next, %sign
  %q = sub i64 %flip, %sign
  ret i64 %q
}
""",
    "udiv64": """\
define internal i64 @graphc.udiv64(i64 %n, i64 %d) noinline nounwind "no-builtins" {
entry:
  br label %bit
bit:
  %i = phi i32 [ 64, %entry ], [ %left, %bit ]
  %high = phi i64 [ 0, %entry ], [ %high.next, %bit ]
  %low = phi i64 [ %n, %entry ], [ %low.next, %bit ]
  %carry = icmp slt i64 %high, 0
  %top = lshr i64 %low, 63
  %up = shl i64 %high, 1
  %rest = or i64 %up, %top
  %shifted = shl i64 %low, 1
  %above = icmp uge i64 %rest, %d
  %fits = or i1 %carry, %above
  %less = sub i64 %rest, %d
  %high.next = select i1 %fits, i64 %less, i64 %rest
  %one = zext i1 %fits to i64
  %low.next = or i64 %shifted, %one
  %left = sub i32 %i, 1
  %more = icmp ne i32 %left, 0
  br i1 %more, label %bit, label %done
done:
  ret i64 %low.next
}
""",
}
