"""Einstein's sum, `einsum`: products of any number of operands, summed over the letters that the result lacks.

In: subscripts and operands. Out: a traced value, made by one `contract` for every two operands. Which two come next is
found by opt_einsum where there are three or more (D. G. A. Smith and J. Gray, opt_einsum, Journal of Open Source
Software 3(26), 2018). A letter that an operand has twice is its diagonal, which is read by index arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import ArgumentError, GraphcError, ShapeError, TraceError
from graphc.frontend import elementwise
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.ir.graph import Value
from graphc.ir.types import bool_, i32

_STRATEGIES = ("auto", "greedy", "optimal", "dp", "branch-all", "branch-2", "auto-hq")
Optimize = bool | str | Sequence["str | Sequence[int]"]
_Labelled = tuple[Value, str]


def einsum(subscripts: object, *operands: ArrayLike, optimize: Optimize = "auto") -> Array:
    """Einstein's sum: ``einsum("bij,bjk->bik", x, y)``. An ellipsis stands for axes that broadcast.

    Without an arrow the result has the letters that stand once, in order; a letter that stands twice in one term is the
    diagonal. Three or more operands are contracted pair by pair in the order that costs least, found by opt_einsum's
    strategy `optimize` (the extra `einsum` installs it); ``optimize=False`` goes from left to right, and a list of
    pairs of positions, as `numpy.einsum_path` gives it, is an order of one's own.

    Raises `ShapeError` where the subscripts don't fit the operands, `ArgumentError` for another strategy or order.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x, y: einsum("ij,kj->ki", x, y), f32[2, 3], f32[4, 3]).output_types
    (f32[4,2],)
    """
    call = Call("einsum")
    if not isinstance(subscripts, str):
        kind = type(subscripts).__name__
        raise call.error(TraceError, f"expected subscripts as a text first, got {kind}")
    given, dtype = call.promote(*operands)
    target = i32 if dtype is bool_ else dtype
    values = [call.value(g, target) for g in given]
    terms, result = _parse(call, subscripts, values)
    sizes = _sizes(call, terms, values)
    waiting = [_diagonals(call, v, t, sizes) for v, t in zip(values, terms, strict=True)]
    for letter in result:
        if letter not in sizes:
            raise call.error(
                ShapeError, f"expected output letters of the operands, got {letter!r} in {subscripts!r}"
            )
    for step in _path(call, waiting, result, optimize):
        taken = [waiting[i] for i in sorted(step)]
        waiting = [w for i, w in enumerate(waiting) if i not in step]
        needed = set(result).union(*(term for _, term in waiting))
        joined = taken[0]
        for position, other in enumerate(taken[1:], start=1):
            later = needed.union(*(term for _, term in taken[position + 1 :]))
            joined = _join(call, *joined, *other, later)
        waiting.append(joined)
    ((value, term),) = waiting
    value, term = _sum_out(call, value, term, set(result))
    missing = [letter for letter in result if letter not in term]  # axes of size 1 that broadcasting dropped
    value = call.reshape(value, [*value.shape, *(1 for _ in missing)])
    term += "".join(missing)
    found = call.wrap(call.transpose(value, [term.index(letter) for letter in result]))
    return call.wrap(elementwise.truth(call, found.value)) if dtype is bool_ else found


def _path(call: Call, operands: list[_Labelled], result: str, optimize: Optimize) -> list[tuple[int, ...]]:
    """Which operands are contracted next, by their positions; what they make is put at the end."""
    count = len(operands)
    if not isinstance(optimize, (bool, str)):
        return _own_path(call, count, optimize)
    if isinstance(optimize, str) and optimize not in _STRATEGIES:
        raise call.error(
            ArgumentError,
            f"optimize: expected a bool, a list of pairs or one of {', '.join(_STRATEGIES)}, got {optimize!r}",
        )
    if count < 3 or optimize is False:
        return [tuple(range(count))]
    try:
        from opt_einsum import contract_path
    except ImportError as error:
        raise call.error(
            GraphcError,
            "expected the package opt_einsum, which orders three or more operands, got none: "
            "pip install graphc[einsum], or pass optimize=False for the order from left to right",
        ) from error
    terms = ",".join(term for _, term in operands)
    kept = "".join(c for c in result if any(c in term for _, term in operands))
    shapes = [value.shape for value, _ in operands]
    strategy = "auto" if optimize is True else optimize
    path, _ = contract_path(f"{terms}->{kept}", *shapes, shapes=True, optimize=strategy)
    return [tuple(step) for step in path]


def _own_path(call: Call, count: int, optimize: Sequence[str | Sequence[int]]) -> list[tuple[int, ...]]:
    steps = [tuple(step) for step in optimize if not isinstance(step, str)]
    left = count
    for step in steps:
        if (
            len(set(step)) != len(step)
            or not step
            or not all(isinstance(i, int) and 0 <= i < left for i in step)
        ):
            raise call.error(
                ArgumentError, f"optimize: expected different positions below {left}, got {list(step)}"
            )
        left += 1 - len(step)
    if left != 1:
        raise call.error(
            ArgumentError, f"optimize: expected an order that joins all {count} operands, got {list(steps)}"
        )
    return steps


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
