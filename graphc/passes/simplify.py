"""Algebra of numbers: identities of arithmetic, logic, casts and constants; and the pass that applies all.

In: a graph. Out: an equal graph in which no rule of `RULES` applies. Float results stay the same to the bit,
signed zeros and infinities too, unless a rule's docstring says otherwise. Shape rules: `passes.reshaping`; gathering
marked diagonals, which rounds differently: `passes.diagonals`.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from graphc.ir import ops
from graphc.ir.graph import Attrs, Graph, Node, Value
from graphc.ir.ops import pointwise
from graphc.ir.types import DType, TensorType
from graphc.passes.diagonals import gather_diagonals
from graphc.passes.regions import inside
from graphc.passes.reshaping import SHAPE_RULES
from graphc.passes.rewrite import Number, Outcome, Rewriter, apply, rewrite, splat_of, wrapped
from graphc.passes.tidy import tidy


def is_zero(number: Number, sign: float = 1.0) -> bool:
    """Zero of this sign; an integer's zero has either."""
    return number == 0 and (not isinstance(number, float) or math.copysign(1.0, number) == sign)


def same_bits(x: Number, y: Number, dtype: DType) -> bool:
    """Equal as elements of this type: NaN equals itself, 0.0 is not -0.0."""
    return bool(dtype.numpy.type(x).tobytes() == dtype.numpy.type(y).tobytes())


def _attrs_of_scalar(node: Node) -> Attrs:
    """The node's attributes as those of the same op on scalars."""
    return {k: TensorType(v.dtype, ()) if isinstance(v, TensorType) else v for k, v in node.attrs.items()}


# -------------------------------------------------------------------------------------------------- constants


@rewrite
def fold_pointwise(build: Rewriter, node: Node) -> Outcome:
    """f(c, ...) of splats is a splat: f is computed once, by the op's own numpy reference.

    A transcendental of a constant is therefore numpy's; a compiled one may differ in the last bits.
    """
    if "pointwise" not in node.op.traits or not node.operands:
        return None
    scalars = []
    for operand in node.operands:
        number = splat_of(operand)
        if number is None:
            return None
        scalars.append(np.full((), number, operand.dtype.numpy))
    (result,) = node.op.ref(scalars, _attrs_of_scalar(node))
    return build.splat(np.asarray(result).item(), node.type)


@rewrite
def fold_view(build: Rewriter, node: Node) -> Outcome:
    """Moving the elements of a splat gives a splat; so does padding with, or joining, the same number."""
    if "view" not in node.op.traits or not node.operands:
        return None
    numbers = [splat_of(v) for v in node.operands]
    first = numbers[0]
    if first is None:
        return None
    padding = node.attrs.get("value", first)
    assert isinstance(padding, (bool, int, float))
    if all(n is not None and same_bits(n, first, node.type.dtype) for n in (*numbers, padding)):
        return build.splat(first, node.type)
    return None


@rewrite
def fold_reduction(build: Rewriter, node: Node) -> Outcome:
    """The extremum (any, all) of a splat is its number; the sum of n is n times it.

    A float sum is folded only where each partial sum is an integer below 2^mantissa, exact in any order.
    """
    if "reduction" not in node.op.traits or "index" in node.op.traits:
        return None
    (x,) = node.operands
    number = splat_of(x)
    if number is None or x.type.size == 0:
        return None
    if node.op is not ops.reduce_sum:
        return build.splat(number, node.type)
    count = math.prod(x.shape[a] for a in node.ints("axes"))
    if isinstance(number, float):
        exact = 2 ** (np.finfo(x.dtype.numpy).nmant + 1)
        if not number.is_integer() or is_zero(number, -1.0) or abs(number) * count > exact:
            return None
        return build.splat(number * count, node.type)
    return build.splat(wrapped(int(number) * count, x.dtype), node.type)


# ------------------------------------------------------------------------------------------------- arithmetic


@rewrite
def add_zero(build: Rewriter, node: Node) -> Outcome:
    """x + 0 = x for integers, x + (-0.0) = x for floats; x + 0.0 is not x where x is -0.0."""
    if node.op is not pointwise.add:
        return None
    for x, other in (node.operands, node.operands[::-1]):
        number = splat_of(other)
        if number is not None and is_zero(number, -1.0):
            return x
    return None


@rewrite
def sub_zero(build: Rewriter, node: Node) -> Outcome:
    """x - 0 = x; with floats x - 0.0 = x, but x - (-0.0) is not x where x is -0.0."""
    if node.op is not pointwise.sub:
        return None
    number = splat_of(node.operands[1])
    return node.operands[0] if number is not None and is_zero(number) else None


@rewrite
def sub_from_zero(build: Rewriter, node: Node) -> Outcome:
    """0 - x = -x for integers, -0.0 - x = -x for floats; 0.0 - x is not -x where x is 0.0."""
    if node.op is not pointwise.sub:
        return None
    number = splat_of(node.operands[0])
    return build.neg(node.operands[1]) if number is not None and is_zero(number, -1.0) else None


@rewrite
def mul_one(build: Rewriter, node: Node) -> Outcome:
    """x · 1 = x"""
    match node:
        case Node(op=pointwise.mul, operands=[x, Value(Node(op=ops.const, attrs={"value": 1}))]):
            return x
        case Node(op=pointwise.mul, operands=[Value(Node(op=ops.const, attrs={"value": 1})), x]):
            return x
    return None


@rewrite
def mul_minus_one(build: Rewriter, node: Node) -> Outcome:
    """x · (-1) = -x"""
    match node:
        case Node(op=pointwise.mul, operands=[x, Value(Node(op=ops.const, attrs={"value": -1}))]):
            return build.neg(x)
        case Node(op=pointwise.mul, operands=[Value(Node(op=ops.const, attrs={"value": -1})), x]):
            return build.neg(x)
    return None


@rewrite
def mul_zero_integer(build: Rewriter, node: Node) -> Outcome:
    """x · 0 = 0 for integers; a float x may be infinite, NaN or negative."""
    match node:
        case Node(op=pointwise.mul, operands=[Value(Node(op=ops.const, attrs={"value": int(0)}) as zero), _]):
            return Value(zero)
        case Node(op=pointwise.mul, operands=[_, Value(Node(op=ops.const, attrs={"value": int(0)}) as zero)]):
            return Value(zero)
    return None


@rewrite
def div_one(build: Rewriter, node: Node) -> Outcome:
    """x / 1 = x; so does the integers' floor(x / 1)"""
    match node:
        case Node(op=pointwise.div, operands=[x, Value(Node(op=ops.const, attrs={"value": 1}))]):
            return x
        case Node(op=pointwise.floordiv, operands=[x, Value(Node(op=ops.const, attrs={"value": int(1)}))]):
            return x
    return None


@rewrite
def div_power_of_two(build: Rewriter, node: Node) -> Outcome:
    """x / 2^k = x · 2^(-k): both round the same real number once. Only where 2^(-k) is a normal number."""
    match node:
        case Node(op=pointwise.div, operands=[x, Value(Node(op=ops.const, attrs={"value": float(c)}))]):
            if not math.isfinite(c) or abs(math.frexp(c)[0]) != 0.5:
                return None
            reciprocal, info = 1 / c, np.finfo(x.dtype.numpy)
            if info.tiny <= abs(reciprocal) <= info.max:
                return build.mul(x, build.splat(reciprocal, node.type))
    return None


@rewrite
def pow_small_integer(build: Rewriter, node: Node) -> Outcome:
    """x^1 = x, x^2 = x · x, x^0 = 1 (also of NaN, IEEE 754-2019, 9.2.1), x^(-1) = 1 / x

    Product and quotient are correctly rounded; a pow may be less accurate, so the last bit can change.
    """
    match node:
        case Node(op=pointwise.pow_, operands=[x, Value(Node(op=ops.const, attrs={"value": exponent}))]):
            if exponent == 1:
                return x
            if exponent == 2:
                return build.mul(x, x)
            if exponent == 0:
                return build.splat(1, node.type)
            if exponent == -1:
                return build.div(build.splat(1, node.type), x)
    return None


@rewrite
def neg_neg(build: Rewriter, node: Node) -> Outcome:
    """-(-x) = x"""
    match node:
        case Node(op=pointwise.neg, operands=[Value(Node(op=pointwise.neg, operands=[x]))]):
            return x
    return None


@rewrite
def add_negation(build: Rewriter, node: Node) -> Outcome:
    """x + (-y) = x - y, (-x) + y = y - x: subtraction is defined so (IEEE 754-2019, 5.4.1)"""
    match node:
        case Node(op=pointwise.add, operands=[x, Value(Node(op=pointwise.neg, operands=[y]))]):
            return build.sub(x, y)
        case Node(op=pointwise.add, operands=[Value(Node(op=pointwise.neg, operands=[x])), y]):
            return build.sub(y, x)
    return None


@rewrite
def sub_negation(build: Rewriter, node: Node) -> Outcome:
    """x - (-y) = x + y"""
    match node:
        case Node(op=pointwise.sub, operands=[x, Value(Node(op=pointwise.neg, operands=[y]))]):
            return build.add(x, y)
    return None


@rewrite
def mul_negations(build: Rewriter, node: Node) -> Outcome:
    """(-x) · (-y) = x · y, (-x) / (-y) = x / y"""
    match node:
        case Node(
            op=pointwise.mul | pointwise.div,
            operands=[
                Value(Node(op=pointwise.neg, operands=[x])),
                Value(Node(op=pointwise.neg, operands=[y])),
            ],
        ):
            return Value(build.emit(node.op, [x, y], node.attrs))
    return None


@rewrite
def extremum_of_one(build: Rewriter, node: Node) -> Outcome:
    """max(x, x) = min(x, x) = x"""
    match node:
        case Node(op=pointwise.max_ | pointwise.min_, operands=[x, y]) if x == y:
            return x
    return None


# ------------------------------------------------------------------------------------------- logic and select


@rewrite
def not_not(build: Rewriter, node: Node) -> Outcome:
    """not not x = x"""
    match node:
        case Node(op=pointwise.not_, operands=[Value(Node(op=pointwise.not_, operands=[x]))]):
            return x
    return None


@rewrite
def not_equal(build: Rewriter, node: Node) -> Outcome:
    """not (x = y) is x ≠ y, of NaN too; an order has no such rule: of NaN both x < y and x ≥ y are false"""
    match node:
        case Node(op=pointwise.not_, operands=[Value(Node(op=pointwise.eq, operands=[x, y]))]):
            return build.ne(x, y)
        case Node(op=pointwise.not_, operands=[Value(Node(op=pointwise.ne, operands=[x, y]))]):
            return build.eq(x, y)
    return None


@rewrite
def logic_idempotent(build: Rewriter, node: Node) -> Outcome:
    """x and x = x or x = x"""
    match node:
        case Node(op=pointwise.and_ | pointwise.or_, operands=[x, y]) if x == y:
            return x
    return None


@rewrite
def logic_with_constant(build: Rewriter, node: Node) -> Outcome:
    """x and 1…1 = x or 0 = x xor 0 = x; x and 0 = 0; x or 1…1 = 1…1, with 1…1 = true of a bool"""
    if node.op not in (pointwise.and_, pointwise.or_, pointwise.xor):
        return None
    dtype = node.type.dtype
    ones: Number = True if dtype.kind == "bool" else wrapped(-1, dtype)
    for x, constant in (node.operands, node.operands[::-1]):
        number = splat_of(constant)
        if number is None:
            continue
        neutral = ones if node.op is pointwise.and_ else 0
        if number == neutral:
            return x
        if node.op is not pointwise.xor and number == (0 if neutral else ones):
            return constant
    return None


@rewrite
def select_same(build: Rewriter, node: Node) -> Outcome:
    """(x if c else x) = x"""
    match node:
        case Node(op=ops.select, operands=[_, x, y]) if x == y:
            return x
    return None


@rewrite
def select_constant(build: Rewriter, node: Node) -> Outcome:
    """(x if true else y) = x, (x if false else y) = y"""
    match node:
        case Node(op=ops.select, operands=[Value(Node(op=ops.const, attrs={"value": bool(c)})), x, y]):
            return x if c else y
    return None


@rewrite
def select_not(build: Rewriter, node: Node) -> Outcome:
    """(x if not c else y) = (y if c else x)"""
    match node:
        case Node(op=ops.select, operands=[Value(Node(op=pointwise.not_, operands=[c])), x, y]):
            return Value(build.emit(ops.select, [c, y, x], node.attrs))
    return None


# ------------------------------------------------------------------------------------------------------ casts


@rewrite
def cast_same(build: Rewriter, node: Node) -> Outcome:
    """cast(x) to its own type = x"""
    match node:
        case Node(op=ops.cast, operands=[x]) if x.type == node.type:
            return x
    return None


@rewrite
def cast_of_cast(build: Rewriter, node: Node) -> Outcome:
    """cast(cast(x, A), B) = cast(x, B) where A holds every value of x's type.

    Not where A is a float and B a narrower integer: a float saturates there, an integer wraps.
    """
    match node:
        case Node(op=ops.cast, operands=[Value(Node(op=ops.cast, operands=[x]) as inner)]):
            source, middle, target = x.dtype, inner.type.dtype, node.type.dtype
            if not holds_all(middle, source):
                return None
            if holds_all(target, source) or target.is_float or target.kind == "bool" or not middle.is_float:
                return build.cast(x, type=node.type)
    return None


def holds_all(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if wide == narrow or narrow.kind == "bool":
        return True
    if wide.kind == "bool" or (narrow.is_float and not wide.is_float):
        return False
    if narrow.is_float:
        return wide.bits > narrow.bits
    value_bits = narrow.bits - (narrow.kind == "int")
    if wide.is_float:
        return value_bits <= int(np.finfo(wide.numpy).nmant) + 1
    if narrow.kind == "int" and wide.kind == "uint":
        return False
    return value_bits <= wide.bits - (wide.kind == "int")


ARITHMETIC_RULES = (
    fold_pointwise,
    fold_view,
    fold_reduction,
    add_zero,
    sub_zero,
    sub_from_zero,
    mul_one,
    mul_minus_one,
    mul_zero_integer,
    div_one,
    div_power_of_two,
    pow_small_integer,
    neg_neg,
    add_negation,
    sub_negation,
    mul_negations,
    extremum_of_one,
    not_not,
    not_equal,
    logic_idempotent,
    logic_with_constant,
    select_same,
    select_constant,
    select_not,
    cast_same,
    cast_of_cast,
)
RULES = ARITHMETIC_RULES + SHAPE_RULES


def apply_rules(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """The first half of `simplify`: every rule, and diagonals as they are. `fired` counts the rules by name."""
    inner = inside(tidy(graph), lambda region: apply_rules(region, fired))
    return apply(inner, RULES, fired)


def simplify(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """The graph with every rule of `RULES` applied in one forward pass, and its diagonals gathered.

    `fired` counts the rules by name.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> print(simplify(build.graph("f", [build.mul(build.neg(build.neg(x)), build.splat(1, x.type))])))
    graphc 1
    graph @f(%x: f32[2]) -> (f32[2]) {
      return %x
    }
    """
    return gather_diagonals(apply_rules(graph, fired), RULES)
