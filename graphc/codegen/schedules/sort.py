"""The schedule of sort regions: ranks are counted for short lines, longer ones are merged bottom-up.

In: a region with one argsort. Out: a kernel. Runs of at most 8 elements are put in order by counting, for each element,
those that come before it: every pair is compared once, without branches. Runs are then merged, twice as long each time,
between two halves of scratch memory that hold elements and positions (D. E. Knuth, The Art of Computer Programming 3,
5.2.4), two whole runs from both ends at once; every loop's bounds are constants. Short lines along another axis than the
last are counted in vectors, one line a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lanes_of, nest, parameters, vector_loop
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Cast,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Stmt,
    Var,
    index,
    loop,
    store,
)
from graphc.ir.types import DType, i32, i64

RUN = 8  # elements that are ordered by counting
_ACROSS = 16  # the longest line that lanes count together: n(n - 1)/2 comparisons, n elements and ranks in registers


def comes_before(later: Expr, earlier: Expr, descending: bool) -> Expr:
    """Whether an element goes before one that stands earlier in the line; equal elements keep their order.

    NaN counts as the greatest: no number is less than or equal to it, and only a number goes before it.
    """
    small, large = (earlier, later) if descending else (later, earlier)
    if not small.dtype.is_float:
        return Apply("lt", (small, large))
    ordered = Apply("le", (large, small))
    return Apply("and", (Apply("not", (ordered,)), Apply("eq", (small, small))))


def schedule_sort(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """One line after the other, or a line in each lane."""
    node = next(n for n in region.nodes if "sort" in n.op.traits)
    (x,), shape, axis = node.operands, node.type.shape, node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    line = _Line(names, x.dtype, shape[axis], bool(node.attrs["descending"]))

    def element(where: Sequence[Expr], block: list[Stmt]) -> Expr:
        with evaluator.scope() as inner:
            value = evaluator.at(x, where)
        block += inner
        return value

    def placed(outer: tuple[Expr, ...], at: Expr) -> tuple[Expr, ...]:
        return (*outer[:axis], at, *outer[axis + 1 :])

    if not node.type.size:
        return Kernel("sort", tuple(params), ())
    if axis < len(shape) - 1 and shape[axis] <= _ACROSS and shape[-1] > 1:
        lanes = lanes_of(target, region, shape[-1])

        def across(outer: tuple[Expr, ...]) -> list[Stmt]:
            def body(last: Expr) -> list[Stmt]:
                where = (*outer, last)
                return line.counted(
                    shape[axis],
                    lambda i, block: element(placed(where, index(i)), block),
                    lambda i, rank, value: [store(result, placed(where, rank), Const(i32, i))],
                )

            return vector_loop(names, shape[-1], lanes, body)

        outer_shape = tuple(1 if d == axis else n for d, n in enumerate(shape[:-1]))
        return Kernel("sort", tuple(params), tuple(nest(names, outer_shape, across)))

    def one(outer: tuple[Expr, ...]) -> list[Stmt]:
        return line.sorted(
            lambda i, block: element(placed(outer, i), block),
            lambda i, position: store(result, placed(outer, i), position),
        )

    outer_shape = tuple(1 if d == axis else n for d, n in enumerate(shape))
    return Kernel("sort", (*params, *line.scratch), tuple(nest(names, outer_shape, one)))


class _Line:
    """The statements that put one line in order."""

    def __init__(self, names: Names, dtype: DType, length: int, descending: bool) -> None:
        self.names = names
        self.dtype = dtype
        self.length = length
        self.descending = descending
        self.scratch: tuple[Buffer, ...] = ()
        if length > RUN:  # two halves, so that a merge reads one and writes the other
            self.scratch = (
                Buffer(names.fresh("keys"), dtype, (2, length), access="scratch"),
                Buffer(names.fresh("positions"), i32, (2, length), access="scratch"),
            )

    def counted(
        self,
        count: int,
        element: Callable[[int, list[Stmt]], Expr],
        put: Callable[[int, Expr, Expr], Sequence[Stmt]],
    ) -> list[Stmt]:
        """Elements 0 to count - 1 put where their ranks say: how many of the others come before them."""
        statements: list[Stmt] = []
        values = [element(i, statements) for i in range(count)]
        ranks: list[Expr] = [index(0)] * count
        for j in range(1, count):
            for i in range(j):
                before = self._let(statements, "before", comes_before(values[j], values[i], self.descending))
                goes = self._let(statements, "goes", Cast(i64, before))
                ranks[i] = self._let(statements, "rank", ranks[i] + goes)
                ranks[j] = self._let(statements, "rank", ranks[j] + (index(1) - goes))
        for i in range(count):
            statements += put(i, ranks[i], values[i])
        return statements

    def sorted(
        self, element: Callable[[Expr, list[Stmt]], Expr], put: Callable[[Expr, Expr], Stmt]
    ) -> list[Stmt]:
        """A whole line, its positions given to `put` in order."""
        n = self.length
        if n <= RUN:
            return self.counted(
                n,
                lambda i, block: element(index(i), block),
                lambda i, rank, value: [put(rank, Const(i32, i))],
            )
        keys, positions = self.scratch
        statements: list[Stmt] = []

        def run(first: Expr, count: int) -> list[Stmt]:
            def keep(i: int, rank: Expr, value: Expr) -> list[Stmt]:
                where = (index(0), first + rank)
                return [store(keys, where, value), store(positions, where, Cast(i32, first + i))]

            return self.counted(count, lambda i, block: element(first + i, block), keep)

        statements += self._blocks(RUN, run)
        width, half = RUN, 0
        while width < n:
            last = 2 * width >= n
            statements += self._blocks(2 * width, self._merge_of(width, half, put if last else None))
            width, half = 2 * width, 1 - half
        return statements

    def _blocks(self, size: int, body: Callable[[Expr, int], list[Stmt]]) -> list[Stmt]:
        """`body(first, count)` for each block of the line, the last one with what is left."""
        full, rest = self.length // size * size, self.length % size
        statements: list[Stmt] = []
        if full:
            first = self.names.var("first")
            statements.append(loop(first, 0, full, body(first, size), step=size))
        return statements + (body(index(full), rest) if rest else [])

    def _merge_of(
        self, width: int, half: int, put: Callable[[Expr, Expr], Stmt] | None
    ) -> Callable[[Expr, int], list[Stmt]]:
        """Merges two neighbouring runs of one half into the other, or into the result (`put`)."""
        keys, positions = self.scratch

        def body(first: Expr, count: int) -> list[Stmt]:
            def give(k: Expr, key: Expr, position: Expr) -> list[Stmt]:
                if put is not None:
                    return [put(first + k, position)]
                where = (index(1 - half), first + k)
                return [store(keys, where, key), store(positions, where, position)]

            k = self.names.var("k")
            if count <= width:  # there is no second run
                where = (index(half), first + k)
                return [loop(k, 0, count, give(k, Load(keys, where), Load(positions, where)))]
            if count == 2 * width:
                return self._merge_from_both_ends(width, half, first, give)
            left, right = (
                Buffer(self.names.fresh(stem), i64, (), space="reg", access="local")
                for stem in ("left", "right")
            )
            inner: list[Stmt] = []
            i = self._let(inner, "i", Load(left, ()))
            j = self._let(inner, "j", Load(right, ()))
            # what is read at the end of a run is not used
            a_at = (index(half), first + self._let(inner, "a", Apply("min", (i, index(width - 1)))))
            b_at = (index(half), first + self._let(inner, "b", Apply("min", (j, index(count - 1)))))
            a = self._let(inner, "key", Load(keys, a_at))
            b = self._let(inner, "key", Load(keys, b_at))
            before = Apply("and", (Apply("lt", (j, index(count))), comes_before(b, a, self.descending)))
            second = self._let(inner, "second", Apply("or", (Apply("ge", (i, index(width))), before)))
            step = self._let(inner, "step", Cast(i64, second))
            where = (index(half), self._either(inner, step, a_at[1], b_at[1]))
            inner += give(k, Load(keys, where), Load(positions, where))
            inner += [store(left, (), i + (index(1) - step)), store(right, (), j + step)]
            return [
                Alloc(left),
                Alloc(right),
                store(left, (), index(0)),
                store(right, (), index(width)),
                loop(k, 0, count, inner),
            ]

        return body

    def _merge_from_both_ends(
        self, width: int, half: int, first: Expr, give: Callable[[Expr, Expr, Expr], list[Stmt]]
    ) -> list[Stmt]:
        """Two whole runs: in each step the smallest of what is left goes to the front and the greatest to the end.

        After fewer than `width` steps neither end has left its runs, so nothing is checked; and the two ends don't wait
        for each other, which is most of the time that a merge takes.
        """
        keys, positions = self.scratch
        k = self.names.var("k")
        ends: list[Buffer] = []
        inner: list[Stmt] = []
        for back in (False, True):
            # how many of the first run this end has taken; of the second it has taken the rest of k
            taken = Buffer(self.names.fresh("taken"), i64, (), space="reg", access="local")
            ends.append(taken)
            i = self._let(inner, "i", Load(taken, ()))
            j = self._let(inner, "j", k - i)
            a_at = self._let(inner, "a", first + (width - 1) - i if back else first + i)
            b_at = self._let(inner, "b", first + (2 * width - 1) - j if back else first + width + j)
            a, b = (self._let(inner, "key", Load(keys, (index(half), at))) for at in (a_at, b_at))
            before = self._let(inner, "before", comes_before(b, a, self.descending))
            goes = self._let(inner, "goes", Cast(i64, before))
            # the element of the second run goes to the front if it comes before, and to the end if it doesn't
            second = self._let(inner, "second", index(1) - goes) if back else goes
            where = (index(half), self._either(inner, second, a_at, b_at))
            inner += give(index(2 * width - 1) - k if back else k, Load(keys, where), Load(positions, where))
            inner.append(store(taken, (), i + (index(1) - second)))
        starts = [s for end in ends for s in (Alloc(end), store(end, (), index(0)))]
        return [*starts, loop(k, 0, width, inner)]

    def _either(self, block: list[Stmt], second: Expr, a: Expr, b: Expr) -> Expr:
        """The second index where `second` is 1, the first where it is 0: by arithmetic, since LLVM makes a branch of a
        choice in such a loop, and its outcome can't be predicted."""
        return self._let(block, "spot", a + Apply("and", (b - a, index(0) - second)))

    def _let(self, block: list[Stmt], stem: str, value: Expr) -> Expr:
        if isinstance(value, (Const, Var)):
            return value
        var = Var(self.names.fresh(stem), value.dtype)
        block.append(Let(var, value))
        return var
