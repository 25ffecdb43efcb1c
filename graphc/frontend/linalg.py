"""Array functions that are contractions: matrix products by all rank rules, tensordot, einsum.

In: traced values, arrays, Python numbers. Out: traced values, each made by one `contract` for every two operands.
Shapes that don't fit raise `ShapeError` with the user's line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.errors import ShapeError
from graphc.frontend import elementwise, reductions
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.ir.graph import Value
from graphc.ir.types import bool_, i32

Axes = int | tuple[int | Sequence[int], int | Sequence[int]]
_NONE: tuple[int, ...] = ()


def _pair(call: Call, x1: ArrayLike, x2: ArrayLike) -> tuple[Value, Value, bool]:
    """Both operands with one data type, and whether they were bools (which are counted as i32)."""
    given, dtype = call.promote(x1, x2)
    target = i32 if dtype is bool_ else dtype
    a, b = (call.value(g, target) for g in given)
    return a, b, dtype is bool_


def _result(call: Call, value: Value, logical: bool) -> Array:
    return call.wrap(elementwise.truth(call, value) if logical else value)


def matmul(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The matrix product of the last two axes; the axes before broadcast, an operand of rank 1 is a row or a column.

    Raises `ShapeError` for scalars and where sizes don't fit.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, w: matmul(x, w), f32[7, 2, 3], f32[3, 4]).output_types
    (f32[7,2,4],)
    """
    call = Call("matmul")
    a, b, logical = _pair(call, x1, x2)
    if not a.shape or not b.shape:
        raise call.error(ShapeError, f"expected operands of rank 1 or more, got {a.type!r} and {b.type!r}")
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise call.error(
            ShapeError, f"expected the last axis of {a.type!r} to be as long as the one before the last of {b.type!r}"
            if len(b.shape) > 1 else f"expected {a.type!r} and {b.type!r} with equal last axes",
        )  # fmt: skip
    return _result(call, _matmul(call, a, b), logical)


def _matmul(call: Call, a: Value, b: Value) -> Value:
    if len(b.shape) == 1:
        return call.build.contract(a, b, axes=((len(a.shape) - 1,), (0,)), batch=(_NONE, _NONE))
    if len(a.shape) == 1:  # the result has b's axes but the one that is summed
        return call.build.contract(a, b, axes=((0,), (len(b.shape) - 2,)), batch=(_NONE, _NONE))
    outer_a, outer_b = a.shape[:-2], b.shape[:-2]
    outer = call.common_shape([outer_a, outer_b])
    result = (*outer, a.shape[-2], b.shape[-1])
    if math.prod(outer_b) == 1 and outer_a == outer:
        right = call.reshape(b, b.shape[-2:])
        return call.build.contract(a, right, axes=((len(a.shape) - 1,), (0,)), batch=(_NONE, _NONE))
    if math.prod(outer_a) == 1 and outer_b == outer:
        left = call.reshape(a, a.shape[-2:])
        product = call.build.contract(left, b, axes=((1,), (len(b.shape) - 2,)), batch=(_NONE, _NONE))
        rank = len(result)
        return call.transpose(product, [*range(1, rank - 1), 0, rank - 1])
    a = call.broadcast(a, (*outer, *a.shape[-2:]))
    b = call.broadcast(b, (*outer, *b.shape[-2:]))
    rank = len(result)
    batch = tuple(range(rank - 2))
    return call.build.contract(a, b, axes=((rank - 1,), (rank - 2,)), batch=(batch, batch))


def dot(x1: ArrayLike, x2: ArrayLike) -> Array:
    """NumPy's dot: the last axis of `x1` with the one before the last of `x2`, no batch axes; scalars multiply."""
    call = Call("dot")
    a, b, logical = _pair(call, x1, x2)
    if not a.shape or not b.shape:
        return elementwise.multiply(x1, x2)
    axis = max(len(b.shape) - 2, 0)
    if a.shape[-1] != b.shape[axis]:
        raise call.error(
            ShapeError, f"expected axes of equal sizes to sum over, got {a.type!r} and {b.type!r}"
        )
    product = call.build.contract(a, b, axes=((len(a.shape) - 1,), (axis,)), batch=(_NONE, _NONE))
    return _result(call, product, logical)


def tensordot(x1: ArrayLike, x2: ArrayLike, axes: Axes = 2) -> Array:
    """The product summed over pairs of axes: the last n of `x1` with the first n of `x2`, or two lists.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: tensordot(x, y, axes=((0,), (1,))), f32[2, 3], f32[4, 2]).output_types
    (f32[3,4],)
    """
    call = Call("tensordot")
    a, b, logical = _pair(call, x1, x2)
    rank_a, rank_b = len(a.shape), len(b.shape)
    if isinstance(axes, (tuple, list)):
        left, right = axes
        lists = [list(s) if isinstance(s, (tuple, list)) else [s] for s in (left, right)]
    else:
        count = call.integer(axes, "axes")
        if not 0 <= count <= min(rank_a, rank_b):
            raise call.error(ShapeError, f"expected at most {min(rank_a, rank_b)} axes, got {count}")
        lists = [list(range(rank_a - count, rank_a)), list(range(count))]
    summed_a = tuple(call.axis(d, rank_a) for d in lists[0])
    summed_b = tuple(call.axis(d, rank_b) for d in lists[1])
    return _result(call, call.build.contract(a, b, axes=(summed_a, summed_b), batch=(_NONE, _NONE)), logical)


def vecdot(x1: ArrayLike, x2: ArrayLike, axis: int = -1) -> Array:
    """The sum of products along one axis; the other axes broadcast."""
    call = Call("vecdot")
    a, b = call.operands(x1, x2)
    if not a.shape:
        raise call.error(ShapeError, f"expected operands of rank 1 or more, got {a.type!r}")
    along = call.axis(axis, len(a.shape))
    if a.dtype is bool_:
        return reductions.any(elementwise.logical_and(call.wrap(a), call.wrap(b)), axis=along)
    batch = tuple(d for d in range(len(a.shape)) if d != along)
    return call.wrap(call.build.contract(a, b, axes=((along,), (along,)), batch=(batch, batch)))


def outer(x1: ArrayLike, x2: ArrayLike) -> Array:
    """Every product of an element of `x1` with one of `x2`; both are flattened.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: outer(x, y), f32[2], f32[3]).output_types
    (f32[2,3],)
    """
    call = Call("outer")
    a, b, logical = _pair(call, x1, x2)
    a, b = call.reshape(a, (a.type.size,)), call.reshape(b, (b.type.size,))
    return _result(call, call.build.contract(a, b, axes=(_NONE, _NONE), batch=(_NONE, _NONE)), logical)


# ------------------------------------------------------------------------------------------------------------ einsum


def einsum(subscripts: str, *operands: ArrayLike) -> Array:
    """Einstein's sum: ``einsum("bij,bjk->bik", x, y)``. An ellipsis stands for axes that broadcast.

    Operands are joined from left to right, two at a time. Without an arrow the result has the letters that stand
    once, in order. Raises `ShapeError` where the subscripts don't fit the operands.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: einsum("ij,kj->ki", x, y), f32[2, 3], f32[4, 3]).output_types
    (f32[4,2],)
    """
    call = Call("einsum")
    given, dtype = call.promote(*operands)
    target = i32 if dtype is bool_ else dtype
    values = [call.value(g, target) for g in given]
    terms, result = _parse(call, subscripts, values)
    sizes = _sizes(call, terms, values)
    labelled = [_diagonals(call, v, t, sizes) for v, t in zip(values, terms, strict=True)]
    for letter in result:
        if letter not in sizes:
            raise call.error(
                ShapeError, f"expected output letters of the operands, got {letter!r} in {subscripts!r}"
            )
    value, term = labelled[0]
    for position, (other, other_term) in enumerate(labelled[1:], start=1):
        later = set(result).union(*(t for _, t in labelled[position + 1 :]))
        value, term = _join(call, value, term, other, other_term, later)
    value, term = _sum_out(call, value, term, set(result))
    missing = [letter for letter in result if letter not in term]  # axes of size 1 that broadcasting dropped
    value = call.reshape(value, [*value.shape, *(1 for _ in missing)])
    term += "".join(missing)
    return _result(call, call.transpose(value, [term.index(letter) for letter in result]), dtype is bool_)


def _parse(call: Call, subscripts: str, values: list[Value]) -> tuple[list[str], str]:
    """The letters of each operand's axes and of the result's; an ellipsis becomes letters of its own."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    plain = text.replace("...", "").replace("->", "").replace(",", "")
    if not all(c.isascii() and c.isalpha() for c in plain):
        raise call.error(ShapeError, f"expected letters, commas, '...' and '->', got {subscripts!r}")
    if len(terms) != len(values):
        raise call.error(ShapeError, f"expected an operand for each of {len(terms)} terms, got {len(values)}")
    extra = [len(v.shape) - len(t.replace("...", "")) for v, t in zip(values, terms, strict=True)]
    for value, term, n in zip(values, terms, extra, strict=True):
        if n < 0 or (n and "..." not in term):
            raise call.error(
                ShapeError, f"expected {value.type!r} to have an axis for each letter of {term!r}"
            )
    most = max((n for n, t in zip(extra, terms, strict=True) if "..." in t), default=0)
    dots = "".join(chr(0x3B1 + i) for i in range(most))  # letters that no user's term has
    expanded = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, extra, strict=True)]
    if arrow:
        result = right.replace("...", dots)
    else:
        letters = [c for t in terms for c in t if c != "."]
        result = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if len(set(result)) != len(result):
        raise call.error(ShapeError, f"expected each output letter once, got {subscripts!r}")
    return expanded, result


def _sizes(call: Call, terms: list[str], values: list[Value]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, n in zip(term, value.shape, strict=True):
            known = sizes.setdefault(letter, n)
            if known == 1:
                sizes[letter] = n
            elif n not in (1, known):
                raise call.error(ShapeError, f"expected equal sizes for {letter!r}, got {known} and {n}")
    return sizes


def _diagonals(call: Call, value: Value, term: str, sizes: dict[str, int]) -> tuple[Value, str]:
    """Without axes of size 1 that broadcast, and with one axis for each letter."""
    from graphc.frontend.manipulation import diagonal

    kept = [d for d, letter in enumerate(term) if value.shape[d] == sizes[letter]]
    value, term = call.reshape(value, [value.shape[d] for d in kept]), "".join(term[d] for d in kept)
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            value = call.trace.lift(diagonal(call.wrap(value), 0, first, second))
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
    return value, term


def _sum_out(call: Call, value: Value, term: str, needed: set[str]) -> tuple[Value, str]:
    axes = tuple(d for d, letter in enumerate(term) if letter not in needed)
    if not axes:
        return value, term
    return call.build.reduce_sum(value, axes=axes), "".join(c for c in term if c in needed)


def _join(call: Call, a: Value, left: str, b: Value, right: str, later: set[str]) -> tuple[Value, str]:
    """One contraction: letters of both are paired where they are needed later, else summed."""
    a, left = _sum_out(call, a, left, later | set(right))
    b, right = _sum_out(call, b, right, later | set(left))
    batch = [c for c in left if c in right and c in later]
    summed = [c for c in left if c in right and c not in later]
    product = call.build.contract(
        a,
        b,
        axes=(tuple(map(left.index, summed)), tuple(map(right.index, summed))),
        batch=(tuple(map(left.index, batch)), tuple(map(right.index, batch))),
    )
    used = set(batch) | set(summed)
    return product, "".join(
        [*batch, *(c for c in left if c not in used), *(c for c in right if c not in used)]
    )
