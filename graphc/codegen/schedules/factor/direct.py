"""Algorithms with a fixed number of steps: Cholesky, solution with a triangular matrix, LU, QR.

In: a `Worker`. Out: what it writes. G. Golub & C. Van Loan, Matrix Computations, 4th ed., 2013: sections 4.2 (Cholesky),
3.1 (triangular systems), 3.4 (partial pivoting) and 5.2 (Householder's QR).

Cholesky and triangular solution take rows in blocks: a block of rows and a panel of columns stay in registers while all
earlier rows are subtracted from them, as in a product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.codegen.schedules.factor.worker import Matrix, Panel, Place, Worker, either, minus_product
from graphc.ir.kernel import Apply, Buffer, Cast, Expr, Load, constant, index
from graphc.ir.types import i32, i64

# Vectors of a panel that is reflected. It is walked twice from row to row: wide ones, as rows a power of two apart share
# few places in a cache.
_REFLECTED = 8


def triangular_solve(w: Worker) -> None:
    """Rows from the one that is known first; a panel of columns needs no other."""
    n, columns = w.node.operands[1].shape[-2:]
    lower, transpose, unit = (bool(w.node.attrs[name]) for name in ("lower", "transpose", "unit"))
    forward = lower != transpose
    stored = w.reader(0)
    x = w.result(0)

    def a(i: Place, k: Place) -> Expr:
        return stored(k, i) if transpose else stored(i, k)

    rows = min(w.rows_at_once, n)

    def solve(panel: Panel) -> None:
        def rows_from(first: Place, count: int, known: tuple[Place, Place]) -> None:
            sums = panel.cell(count)

            def begin(v: int, column: Expr, lane: tuple[Expr, ...]) -> None:
                for r in range(count):
                    w.set(sums, w.read(1, index(first) + r, column), r, v, *lane)

            panel.each(begin)
            w.for_each(
                *known,
                lambda k: subtract_row(
                    w, panel, sums, count, lambda r: a(index(first) + r, k), lambda j: x.at(k, j)
                ),
            )
            order = list(range(count)) if forward else list(reversed(range(count)))
            solve_in_registers(
                w, panel, sums, order, lambda r, s: a(index(first) + r, index(first) + s), unit
            )

            def end(v: int, column: Expr, lane: tuple[Expr, ...]) -> None:
                for r in range(count):
                    w.put(x, (index(first) + r, column), Load(sums, (index(r), index(v), *lane)))

            panel.each(end)

        full = n // rows * rows
        if forward:
            w.for_each(0, full, lambda i: rows_from(i, rows, (0, i)), step=rows)
            if n > full:
                rows_from(full, n - full, (0, full))
        else:
            w.for_each(0, full, lambda i: rows_from(n - rows - i, rows, (n - i, n)), step=rows)
            if n > full:
                rows_from(0, n - full, (n - full, n))

    w.panels(0, columns, solve)


def subtract_row(
    w: Worker,
    panel: Panel,
    sums: Buffer,
    count: int,
    factor: Callable[[int], Expr],
    row: Callable[[Expr], Expr],
) -> None:
    """Each row in registers minus its factor times one known row."""
    factors = [w.let("factor", factor(r)) for r in range(count)]

    def subtract(v: int, column: Expr, lane: tuple[Expr, ...]) -> None:
        known = w.let("known", row(column))
        for r in range(count):
            held = Load(sums, (index(r), index(v), *lane))
            w.set(sums, minus_product(factors[r], known, held), r, v, *lane)

    panel.each(subtract)


def solve_in_registers(
    w: Worker, panel: Panel, sums: Buffer, order: list[int], a: Callable[[int, int], Expr], unit: bool
) -> None:
    """The rows of a block from one another, in that order."""

    def row(r: int, known: list[int]) -> None:
        factors = [w.let("factor", a(r, s)) for s in known]
        pivot = None if unit else w.let("pivot", a(r, r))

        def finish(v: int, column: Expr, lane: tuple[Expr, ...]) -> None:
            value: Expr = Load(sums, (index(r), index(v), *lane))
            for factor, s in zip(factors, known, strict=True):
                value = minus_product(factor, Load(sums, (index(s), index(v), *lane)), value)
            w.set(sums, value if pivot is None else Apply("div", (value, pivot)), r, v, *lane)

        panel.each(finish)

    for position, r in enumerate(order):
        row(r, order[:position])


def cholesky(w: Worker) -> None:
    """The upper triangular U with UᵀU = X, by blocks of rows; then L = Uᵀ takes its place."""
    n = w.node.type.shape[-1]
    u = w.result(0)
    half = w.number_of(0.5)

    def load(i: Expr, j: Expr) -> None:
        w.put(u, (i, j), (w.read(0, i, j) * half) + (w.read(0, j, i) * half))

    rows = min(w.rows_at_once, n)
    # of a block's first triangle also the lower half: it goes through registers with the rest
    w.for_each(0, n, lambda i: w.across(i // rows * rows, n, lambda j: load(i, j)))
    w.wait()
    full = n // rows * rows
    w.for_each(0, full, lambda i: _block_of_rows(w, u, i, rows, n), step=rows)
    if n > full:
        _block_of_rows(w, u, full, n - full, n)

    def turn(j: Expr, i: Expr) -> None:
        w.put(u, (i, j), w.let("element", u.at(j, i)))
        w.put(u, (j, i), w.number_of(0))

    w.for_each(0, n, lambda j: w.across(j + 1, n, lambda i: turn(j, i)))


def _block_of_rows(w: Worker, u: Matrix, first: Place, count: int, n: int) -> None:
    """`count` rows of U from the rows above."""
    rows = [index(first) + r for r in range(count)]

    def subtract(panel: Panel) -> None:
        sums = panel.cell(count)
        move(panel, sums, True)
        w.for_each(
            0,
            first,
            lambda k: subtract_row(w, panel, sums, count, lambda r: u.at(k, rows[r]), lambda j: u.at(k, j)),
        )
        move(panel, sums, False)

    def move(panel: Panel, sums: Buffer, to_registers: bool) -> None:
        def body(v: int, column: Expr, lane: tuple[Expr, ...]) -> None:
            for r in range(count):
                if to_registers:
                    w.set(sums, u.at(rows[r], column), r, v, *lane)
                else:
                    w.put(u, (rows[r], column), Load(sums, (index(r), index(v), *lane)))

        panel.each(body)

    w.panels(first, n, subtract)
    w.wait()
    w.once(lambda: _corner(w, u, rows))
    w.wait()

    def solve(panel: Panel) -> None:
        sums = panel.cell(count)
        move(panel, sums, True)
        solve_in_registers(w, panel, sums, list(range(count)), lambda r, s: u.at(rows[s], rows[r]), False)
        move(panel, sums, False)

    w.panels(index(first) + count, n, solve)
    w.wait()


def _corner(w: Worker, u: Matrix, rows: list[Expr]) -> None:
    """The small triangle on the diagonal. A pivot that isn't positive has no root: NaN, which all later rows get."""
    done: dict[tuple[int, int], Expr] = {}
    for r, row in enumerate(rows):
        pivot: Expr = u.at(row, row)
        for s in range(r):
            pivot = minus_product(done[s, r], done[s, r], pivot)
        pivot = w.let("pivot", pivot)
        positive = Apply("gt", (pivot, w.number_of(0)))
        root = w.let("root", either(positive, Apply("sqrt", (pivot,)), w.number_of(float("nan"))))
        w.put(u, (row, row), root)
        for c in range(r + 1, len(rows)):
            value: Expr = u.at(row, rows[c])
            for s in range(r):
                value = minus_product(done[s, r], done[s, c], value)
            done[r, c] = w.let("element", Apply("div", (value, root)))
            w.put(u, (row, rows[c]), done[r, c])


def lu(w: Worker) -> None:
    """Column by column: the pivot's row is swapped up, and subtracted from the rows below."""
    n = w.node.type.shape[-1]
    a, order = w.result(0), w.result(1)
    w.copy(0, a)
    w.across(0, n, lambda i: w.put(order, (i,), Cast(i32, i)))
    w.wait()

    def column(k: Expr) -> None:
        best, place = w.cell(w.dtype), w.cell(i64)
        w.set(best, Apply("abs", (a.at(k, k),)))
        w.set(place, k)

        def compare(i: Expr) -> None:
            size = w.let("size", Apply("abs", (a.at(i, k),)))
            now = Load(best, ())
            # the first number after NaN is larger
            larger = w.let("larger", Apply("or", (Apply("gt", (size, now)), _only_first_is_nan(now, size))))
            w.set(best, either(larger, size, now))
            w.set(place, either(larger, i, Load(place, ())))

        w.for_each(k + 1, n, compare)
        row = w.let("row", Load(place, ()))
        w.wait()

        def swap(j: Expr) -> None:
            upper, lower = w.let("upper", a.at(k, j)), w.let("lower", a.at(row, j))
            w.put(a, (k, j), lower)
            w.put(a, (row, j), upper)

        def swap_numbers() -> None:
            upper, lower = w.let("upper", order.at(k)), w.let("lower", order.at(row))
            w.put(order, (k,), lower)
            w.put(order, (row,), upper)

        w.across(0, n, swap)
        w.once(swap_numbers)
        w.wait()
        pivot = w.let("pivot", a.at(k, k))
        divides = w.let("divides", Apply("ne", (pivot, w.number_of(0))))

        def scale(i: Expr) -> None:
            value = w.let("element", a.at(i, k))
            w.put(a, (i, k), either(divides, Apply("div", (value, pivot)), value))

        w.across(k + 1, n, scale)
        w.wait()

        def eliminate(i: Expr) -> None:
            factor = w.let("factor", a.at(i, k))
            w.across(k + 1, n, lambda j: w.put(a, (i, j), minus_product(factor, a.at(k, j), a.at(i, j))))

        w.for_each(k + 1, n, eliminate)
        w.wait()

    w.for_each(0, n, column)


def _only_first_is_nan(first: Expr, second: Expr) -> Expr:
    return Apply("and", (Apply("ne", (first, first)), Apply("eq", (second, second))))


def qr(w: Worker) -> None:
    """Householder's reflections of the columns, then all of them on the identity, the last one first."""
    m, n = w.node.operands[0].shape[-2:]
    q, r = w.result(0), w.result(1)
    work, taus = w.scratch("work", m, n), w.scratch("tau", n)
    w.copy(0, work)
    last = min(n, m - 1)  # a single element is left as it is

    def make(k: Expr) -> None:
        def squared(i: Expr) -> list[Expr]:
            element = w.let("element", w.widened(work.at(i, k)))
            return [element * element]

        (rest,) = w.sums(k + 1, m, squared)
        first = w.let("first", w.widened(work.at(k, k)))
        zero, one = constant(w.wide, 0), constant(w.wide, 1)
        norm = w.let("norm", Apply("sqrt", (Apply("fma", (first, first, rest)),)))
        beta = w.let("beta", either(Apply("lt", (first, zero)), norm, Apply("neg", (norm,))))
        some = w.let("some", Apply("ne", (norm, zero)))
        below = either(some, Apply("div", (one, first - beta)), zero)
        scale = w.let("scale", below)
        tau = w.let("tau", either(some, Apply("div", (beta - first, beta)), constant(w.wide, 2)))
        w.wait()
        w.across(k + 1, m, lambda i: w.put(work, (i, k), w.narrowed(w.widened(work.at(i, k)) * scale)))

        def keep() -> None:
            w.put(work, (k, k), w.narrowed(beta))
            w.put(taus, (k,), w.narrowed(tau))

        w.once(keep)
        w.wait()
        reflect(k, work, k + 1)
        w.wait()

    def reflect(k: Expr, matrix: Matrix, start: Place) -> None:
        """(I - tau v vᵀ) on the rows from k on, with v[k] = 1 and the rest of v below work's diagonal."""
        tau = w.let("tau", taus.at(k))

        def columns(panel: Panel) -> None:
            along = panel.cell(1)

            def begin(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                w.set(along, matrix.at(k, j), 0, v, *lane)

            def add(i: Expr) -> None:
                factor = w.let("factor", work.at(i, k))

                def body(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                    held = Load(along, (index(0), index(v), *lane))
                    w.set(along, Apply("fma", (factor, matrix.at(i, j), held)), 0, v, *lane)

                panel.each(body)

            def subtract(i: Expr | None) -> None:
                row = k if i is None else i
                factor = tau if i is None else w.let("factor", work.at(i, k) * tau)

                def body(v: int, j: Expr, lane: tuple[Expr, ...]) -> None:
                    held = Load(along, (index(0), index(v), *lane))
                    w.put(matrix, (row, j), minus_product(factor, held, matrix.at(row, j)))

                panel.each(body)

            panel.each(begin)
            w.for_each(k + 1, m, add)
            subtract(None)
            w.for_each(k + 1, m, subtract)

        w.panels(start, n, columns, vectors=_REFLECTED)

    w.for_each(0, last, make)
    zero = w.number_of(0)
    if w.is_read(1):
        w.for_each(
            0,
            n,
            lambda i: w.across(
                0,
                n,
                lambda j: w.put(
                    r, (i, j), either(Apply("le", (i, j)), w.let("element", work.at(i, j)), zero)
                ),
            ),
        )
    if w.is_read(0):
        one = w.number_of(1)
        w.for_each(
            0, m, lambda i: w.across(0, n, lambda j: w.put(q, (i, j), either(Apply("eq", (i, j)), one, zero)))
        )
        w.wait()

        def unreflect(step: Expr) -> None:
            k = w.let("k", last - 1 - step)
            reflect(k, q, k)
            w.wait()

        w.for_each(0, last, unreflect)
