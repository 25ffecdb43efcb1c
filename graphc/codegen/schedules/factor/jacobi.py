"""Jacobi's rotations: eigenvalues of symmetric matrices, singular values.

In: a `Worker`. Out: what it writes. Pairs of rows in cyclic order, at most `SWEEPS` times; a pair that is orthogonal to
working precision is passed over (G. Golub & C. Van Loan, Matrix Computations, 4th ed., 2013, sections 8.5 and 8.6.3).
Vectors are rows while they are rotated, so that neighbours lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphc.codegen.schedules.factor.worker import Matrix, Panel, Worker, either
from graphc.ir.kernel import Apply, Expr, Load, constant, index
from graphc.ir.ops.spectral import NEAR_LARGEST, SWEEPS
from graphc.ir.types import i64


def eigh(w: Worker) -> None:
    """Rotations from both sides make the matrix diagonal."""
    n = w.node.operands[0].shape[-1]
    a, values = w.scratch("work", n, n), w.scratch("values", n)
    vectors = _identity(w, n) if w.is_read(1) else None
    half = w.number_of(0.5)

    def load(i: Expr, j: Expr) -> None:
        w.put(a, (i, j), (w.read(0, i, j) * half) + (w.read(0, j, i) * half))

    w.for_each(0, n, lambda i: w.across(0, n, lambda j: load(i, j)))
    w.wait()
    spoiled = _spoiled(w, a, n, n)

    def pair(p: Expr, q: Expr, turned: Callable[[], None]) -> None:
        first, second = w.let("first", a.at(p, p)), w.let("second", a.at(q, q))
        mixed = w.let("mixed", a.at(p, q))
        size = w.let("size", Apply("abs", (mixed,)) * w.number_of(16))
        small = Apply("and", (_absorbs(first, size), _absorbs(second, size)))
        large = w.let("large", Apply("not", (small,)))
        w.wait()

        def rotate() -> None:
            turned()
            t, c, s = _angle(w, second - first, mixed)

            def turn(i: Expr) -> None:
                other = Apply("and", (Apply("ne", (i, p)), Apply("ne", (i, q))))

                def both() -> None:
                    x, y = w.let("x", a.at(p, i)), w.let("y", a.at(q, i))
                    upper, lower = w.let("upper", c * x - s * y), w.let("lower", s * x + c * y)
                    w.put(a, (p, i), upper)
                    w.put(a, (q, i), lower)
                    w.put(a, (i, p), upper)
                    w.put(a, (i, q), lower)

                w.when(other, both)
                if vectors is not None:
                    _turn(w, vectors, p, q, i, c, s)

            w.across(0, n, turn)
            w.wait()

            def corner() -> None:
                w.put(a, (p, p), first - t * mixed)
                w.put(a, (q, q), second + t * mixed)
                w.put(a, (p, q), w.number_of(0))
                w.put(a, (q, p), w.number_of(0))

            w.once(corner)
            w.wait()

        w.when(large, rotate)

    _sweeps(w, n, pair)
    w.across(0, n, lambda i: w.put(values, (i,), a.at(i, i)))
    w.wait()
    _sort(w, values, vectors, n, descending=False)
    _finish(w, values, vectors, n, spoiled)


def svd(w: Worker) -> None:
    """Rotations from the right make the columns orthogonal: their lengths are the singular values."""
    m, n = w.node.operands[0].shape[-2:]
    columns, values = w.scratch("work", n, m), w.scratch("values", n)
    vectors = _identity(w, n) if w.is_read(1) else None
    w.for_each(0, n, lambda j: w.across(0, m, lambda i: w.put(columns, (j, i), w.read(0, i, j))))
    w.wait()
    spoiled = _spoiled(w, columns, n, m)
    epsilon = constant(w.wide, float(np.finfo(w.dtype.numpy).eps))

    def pair(p: Expr, q: Expr, turned: Callable[[], None]) -> None:
        def products(i: Expr) -> list[Expr]:
            x, y = w.let("x", w.widened(columns.at(p, i))), w.let("y", w.widened(columns.at(q, i)))
            return [x * x, y * y, x * y]

        first, second, mixed = (w.let("sum", total) for total in w.sums(0, m, products))
        bound = Apply("sqrt", (first,)) * Apply("sqrt", (second,)) * epsilon
        large = w.let("large", Apply("gt", (Apply("abs", (mixed,)), bound)))
        w.wait()

        def rotate() -> None:
            turned()
            _, c, s = (w.let("part", w.narrowed(part)) for part in _angle(w, second - first, mixed))
            w.across(0, m, lambda i: _turn(w, columns, p, q, i, c, s))
            if vectors is not None:
                matrix = vectors
                w.across(0, n, lambda i: _turn(w, matrix, p, q, i, c, s))
            w.wait()

        w.when(large, rotate)

    _sweeps(w, n, pair)

    def length(p: Expr) -> None:
        def squared(i: Expr) -> list[Expr]:
            x = w.let("x", w.widened(columns.at(p, i)))
            return [x * x]

        (total,) = w.sums(0, m, squared)
        w.once(lambda: w.put(values, (p,), w.narrowed(Apply("sqrt", (total,)))))

    w.for_each(0, n, length)
    w.wait()
    _sort(w, values, vectors, n, descending=True)
    _finish(w, values, vectors, n, spoiled)


def _sweeps(w: Worker, n: int, pair: Callable[[Expr, Expr, Callable[[], None]], None]) -> None:
    """`pair(p, q, turned)` for all pairs, again and again until a sweep turned none. `turned()` says that one was."""
    busy = w.cell(i64)
    w.set(busy, index(1))

    def sweep() -> None:
        w.set(busy, index(0))
        w.for_each(
            0,
            n - 1,
            lambda p: w.for_each(p + 1, n, lambda q: pair(p, q, lambda: w.set(busy, index(1)))),
        )

    w.for_each(0, SWEEPS if n > 1 else 0, lambda _: w.when(Apply("ne", (Load(busy, ()), index(0))), sweep))


def _identity(w: Worker, n: int) -> Matrix:
    matrix = w.scratch("vectors", n, n)
    one, zero = w.number_of(1), w.number_of(0)
    w.for_each(
        0,
        n,
        lambda i: w.across(0, n, lambda j: w.put(matrix, (i, j), either(Apply("eq", (i, j)), one, zero))),
    )
    return matrix


def _spoiled(w: Worker, matrix: Matrix, rows: int, columns: int) -> Expr:
    """0, or NaN if an element is inf or NaN: it is added to all results."""
    total = w.cell(w.wide)
    zero = constant(w.wide, 0)
    w.set(total, zero)

    def row(i: Expr) -> None:
        (found,) = w.sums(0, columns, lambda j: [w.widened(matrix.at(i, j)) * zero])
        w.set(total, Load(total, ()) + found)

    w.for_each(0, rows, row)
    w.wait()
    return w.let("spoiled", w.narrowed(Load(total, ())))


def _absorbs(number: Expr, size: Expr) -> Expr:
    """True if adding something of this size changes nothing."""
    large = Apply("abs", (number,))
    return Apply("eq", (large + size, large))


def _angle(w: Worker, difference: Expr, mixed: Expr) -> tuple[Expr, Expr, Expr]:
    """Tangent, cosine and sine of the smaller rotation that makes the mixed element 0."""
    dtype = mixed.dtype
    one, zero = constant(dtype, 1), constant(dtype, 0)
    ratio = w.let("ratio", Apply("div", (difference, mixed * constant(dtype, 2))))
    root = Apply("sqrt", (Apply("fma", (ratio, ratio, one)),))
    tangent = Apply("div", (one, Apply("abs", (ratio,)) + root))
    t = w.let("t", either(Apply("lt", (ratio, zero)), Apply("neg", (tangent,)), tangent))
    c = w.let("c", Apply("div", (one, Apply("sqrt", (Apply("fma", (t, t, one)),)))))
    return t, c, w.let("s", t * c)


def _turn(w: Worker, matrix: Matrix, p: Expr, q: Expr, i: Expr, c: Expr, s: Expr) -> None:
    """Element i of rows p and q, rotated."""
    x, y = w.let("x", matrix.at(p, i)), w.let("y", matrix.at(q, i))
    w.put(matrix, (p, i), c * x - s * y)
    w.put(matrix, (q, i), s * x + c * y)


def _sort(w: Worker, values: Matrix, vectors: Matrix | None, n: int, descending: bool) -> None:
    """By selection: whatever the values are, rows only change places."""

    def select(k: Expr) -> None:
        best, place = w.cell(w.dtype), w.cell(i64)
        w.set(best, values.at(k))
        w.set(place, k)

        def compare(i: Expr) -> None:
            value = w.let("value", values.at(i))
            now = Load(best, ())
            better = w.let("better", Apply("gt" if descending else "lt", (value, now)))
            w.set(best, either(better, value, now))
            w.set(place, either(better, i, Load(place, ())))

        w.for_each(k + 1, n, compare)
        row = w.let("row", Load(place, ()))
        moved = w.let("moved", values.at(k))
        w.wait()

        def swap() -> None:
            w.put(values, (row,), moved)
            w.put(values, (k,), Load(best, ()))

        w.once(swap)
        if vectors is not None:
            matrix = vectors

            def swap_row(i: Expr) -> None:
                upper, lower = w.let("upper", matrix.at(k, i)), w.let("lower", matrix.at(row, i))
                w.put(matrix, (k, i), lower)
                w.put(matrix, (row, i), upper)

            w.across(0, n, swap_row)
        w.wait()

    w.for_each(0, n - 1, select)


def _finish(w: Worker, values: Matrix, vectors: Matrix | None, n: int, spoiled: Expr) -> None:
    """The results: values, and vectors as columns with their signs."""
    if w.is_read(0):
        result = w.result(0)
        w.across(0, n, lambda i: w.put(result, (i,), values.at(i) + spoiled))
    if vectors is None:
        return
    matrix, columns = vectors, w.result(1)
    near = w.number_of(NEAR_LARGEST)

    def column(panel: Panel) -> None:
        largest, sign = panel.cell(1), panel.cell(1)

        def begin(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
            w.set(largest, w.number_of(0), 0, v, *lane)
            w.set(sign, w.number_of(0), 0, v, *lane)

        def measure(i: Expr) -> None:
            def body(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                held = Load(largest, (index(0), index(v), *lane))
                w.set(largest, Apply("max", (held, Apply("abs", (matrix.at(j, i),)))), 0, v, *lane)

            panel.each(body)

        def look(i: Expr) -> None:
            def body(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                element = w.let("element", matrix.at(j, i))
                bound = Load(largest, (index(0), index(v), *lane)) * near
                held = w.let("held", Load(sign, (index(0), index(v), *lane)))
                reached = Apply("ge", (Apply("abs", (element,)), bound))
                found = Apply("and", (Apply("eq", (held, w.number_of(0))), reached))
                own = either(Apply("lt", (element, w.number_of(0))), w.number_of(-1), w.number_of(1))
                w.set(sign, either(found, own, held), 0, v, *lane)

            panel.each(body)

        def write(i: Expr) -> None:
            def body(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                signed = matrix.at(j, i) * Load(sign, (index(0), index(v), *lane))
                w.put(columns, (i, j), signed + spoiled)

            panel.each(body)

        panel.each(begin)
        w.for_each(0, n, measure)
        w.for_each(0, n, look)
        w.for_each(0, n, write)

    w.panels(0, n, column, vectors=1)
