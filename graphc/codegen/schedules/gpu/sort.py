"""The schedule of sort regions for threads: every element finds its rank.

In: a region with one argsort. Out: a kernel. Of short lines a thread counts the elements that come before its own. A
longer line has a block, which merges runs, twice as long each time: an element's place in the merged run is its place in
its own run plus the number of elements of the other run that go before it, which a binary search finds. All threads do
this at once and meet at a barrier after each width. Elements and positions are in shared memory where the line fits,
else in scratch memory. One long line therefore has one multiprocessor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.threads import each, launch, power_of_two, unravel
from graphc.codegen.schedules.loops import parameters
from graphc.codegen.schedules.sort import comes_before
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Barrier,
    Buffer,
    Cast,
    Const,
    Expr,
    If,
    Kernel,
    Let,
    Load,
    Stmt,
    Var,
    index,
    loop,
    store,
)
from graphc.ir.types import i32, i64

COUNTED = 64  # the longest line whose elements are counted; beyond it the comparisons are too many
_SHARED_BYTES = 32 * 1024  # of elements and positions: less than what every device gives a block
_THREADS = 256
_BLOCKS = 1024  # that have scratch memory at the same time


def schedule_sort(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A thread an element of short lines, a block a line of longer ones."""
    node = next(n for n in region.nodes if "sort" in n.op.traits)
    (x,), shape, axis = node.operands, node.type.shape, node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    n, descending = shape[axis], bool(node.attrs["descending"])

    def element(where: Sequence[Expr], block: list[Stmt]) -> Expr:
        with evaluator.scope() as inner:
            value = evaluator.at(x, where)
        block += inner
        return value

    if not node.type.size:
        return Kernel("sort", tuple(params), ())
    if n <= COUNTED:

        def work(number: Expr) -> list[Stmt]:
            block: list[Stmt] = []
            where = unravel(names, block, number, shape)
            rank = Buffer(names.fresh("rank"), i64, (), space="reg", access="local")
            own = element(where, block)
            k = names.var("k")
            inner: list[Stmt] = []
            other = element((*where[:axis], k, *where[axis + 1 :]), inner)
            # those that stand earlier count unless the own element goes before them, later ones if they go before it
            passed = Apply("not", (comes_before(own, other, descending),))
            goes: Expr = Apply(
                "select", (Apply("lt", (k, where[axis])), passed, comes_before(other, own, descending))
            )
            goes = Apply("and", (Apply("ne", (k, where[axis])), goes))
            inner.append(store(rank, (), Load(rank, ()) + Cast(i64, goes)))
            block += [Alloc(rank), store(rank, (), index(0)), loop(k, 0, n, inner)]
            place = (*where[:axis], Load(rank, ()), *where[axis + 1 :])
            block.append(store(result, place, Cast(i32, where[axis])))
            return block

        return Kernel("sort", tuple(params), tuple(each(names, device_of(target), math.prod(shape), work)))

    lines = math.prod(shape) // n
    blocks = min(lines, _BLOCKS)
    threads = min(_THREADS, power_of_two(n))
    small = 2 * n * (x.dtype.bytes + i32.bytes) <= _SHARED_BYTES
    sizes = (2, n) if small else (blocks, 2, n)
    keys, positions = (
        Buffer(names.fresh(stem), dtype, sizes, space="shared", access="local")
        if small
        else Buffer(names.fresh(stem), dtype, sizes, access="scratch")
        for stem, dtype in (("keys", x.dtype), ("positions", i32))
    )

    def body(block_number: Expr, thread: Expr) -> Sequence[Stmt]:
        before = () if small else (block_number,)

        def line(number: Expr) -> list[Stmt]:
            statements: list[Stmt] = []
            outer = unravel(names, statements, number, [1 if d == axis else m for d, m in enumerate(shape)])

            def placed(at: Expr) -> tuple[Expr, ...]:
                return (*outer[:axis], at, *outer[axis + 1 :])

            def fetch(i: Expr) -> list[Stmt]:
                inner: list[Stmt] = []
                value = element(placed(i), inner)
                where = (*before, index(0), i)
                return [*inner, store(keys, where, value), store(positions, where, Cast(i32, i))]

            # the line before this one may still be read
            statements += [Barrier(), *_spread(names, thread, threads, n, fetch), Barrier()]
            width, half = 1, 0
            while width < n:
                last = 2 * width >= n

                def move(i: Expr, width: int = width, half: int = half, last: bool = last) -> list[Stmt]:
                    inner: list[Stmt] = []
                    key = _let(names, inner, "key", Load(keys, (*before, index(half), i)))
                    place = _place(names, inner, keys, (*before, index(half)), i, key, width, n, descending)
                    position = Load(positions, (*before, index(half), i))
                    if last:
                        return [*inner, store(result, placed(place), position)]
                    where = (*before, index(1 - half), place)
                    return [*inner, store(keys, where, key), store(positions, where, position)]

                statements += _spread(names, thread, threads, n, move)
                if not last:
                    statements.append(Barrier())
                width, half = 2 * width, 1 - half
            return statements

        if blocks == lines:
            return line(block_number)
        number = names.var("line")
        # as many turns for every block: all of its threads meet at each barrier
        return [loop(number, block_number, lines, line(number), step=blocks)]

    shared = (keys, positions) if small else ()
    scratch = () if small else (keys, positions)
    return Kernel("sort", (*params, *scratch), tuple(launch(names, blocks, threads, body, shared)))


def _spread(
    names: Names, thread: Expr, threads: int, count: int, work: Callable[[Expr], list[Stmt]]
) -> list[Stmt]:
    """`work(i)` for each i below `count`, neighbouring threads at neighbouring i."""
    if count == threads:
        return work(thread)
    if count < threads:
        return [If(thread < count, tuple(work(thread)))]
    i = names.var("i")
    return [loop(i, thread, count, work(i), step=threads)]


def _place(
    names: Names,
    block: list[Stmt],
    keys: Buffer,
    half: tuple[Expr, ...],
    i: Expr,
    key: Expr,
    width: int,
    n: int,
    descending: bool,
) -> Expr:
    """Where element i goes when its run of `width` is merged with the neighbouring one.

    The binary search keeps that all of the other run's elements before `low` go before element i, and none from `high`
    on does. An element of the first run goes before equal ones of the second.
    """
    run = _let(names, block, "run", i // index(width))
    first = _let(names, block, "first", run // index(2) * (2 * width))
    second = _let(names, block, "second", Apply("eq", (run % index(2), index(1))))
    within = _let(names, block, "within", i - run * width)
    start = _let(names, block, "start", Apply("select", (second, first, first + width)))
    # the neighbour of the last run may be shorter, or missing
    rest = Apply("max", (index(0), index(n) - start))
    size = _let(names, block, "size", Apply("min", (index(width), rest)))
    low, high = (Buffer(names.fresh(stem), i64, (), space="reg", access="local") for stem in ("low", "high"))
    block += [Alloc(low), Alloc(high), store(low, (), index(0)), store(high, (), size)]
    inner: list[Stmt] = []
    a = _let(names, inner, "a", Load(low, ()))
    b = _let(names, inner, "b", Load(high, ()))
    middle = _let(names, inner, "middle", Apply("shr", (a + b, index(1))))
    probe: list[Stmt] = []
    other = _let(names, probe, "other", Load(keys, (*half, start + middle)))
    choice = Apply(
        "select",
        (
            second,
            Apply("not", (comes_before(key, other, descending),)),
            comes_before(other, key, descending),
        ),
    )
    goes = _let(names, probe, "goes", choice)
    probe += [
        store(low, (), Apply("select", (goes, middle + 1, a))),
        store(high, (), Apply("select", (goes, b, middle))),
    ]
    inner.append(If(Apply("lt", (a, b)), tuple(probe)))
    block.append(loop(names.var("step"), 0, width.bit_length(), inner))
    return first + within + _let(names, block, "passed", Load(low, ()))


def _let(names: Names, block: list[Stmt], stem: str, value: Expr) -> Expr:
    if isinstance(value, (Const, Var)):
        return value
    var = Var(names.fresh(stem), value.dtype)
    block.append(Let(var, value))
    return var
