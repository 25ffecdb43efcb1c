"""What every schedule for threads writes: loops over blocks and threads, and indices taken apart.

In: extents and functions that give a thread's work. Out: kernel statements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphc.codegen.schedules.evaluate import Names
from graphc.codegen.schedules.gpu.model import THREADS, grid_of
from graphc.codegen.target import Device
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Bitcast,
    Buffer,
    Cast,
    Const,
    Expr,
    If,
    Intrinsic,
    Let,
    Stmt,
    Var,
    index,
    loop,
)
from graphc.ir.types import f32, i32, i64, u16

Work = Callable[[Expr], Sequence[Stmt]]


def launch(
    names: Names,
    blocks: int,
    threads: int,
    body: Callable[[Expr, Expr], Sequence[Stmt]],
    shared: Sequence[Buffer] = (),
) -> list[Stmt]:
    """`body(block, thread)` for each thread of a grid of one dimension; `shared` may grow while the body is written."""
    block, thread = names.var("block"), names.var("thread")
    inner = loop(thread, 0, threads, body(block, thread), binding="thread")
    return [loop(block, 0, blocks, [*(Alloc(b) for b in shared), inner], binding="block")]


def each(names: Names, device: Device, count: int, work: Work, threads: int = THREADS) -> list[Stmt]:
    """`work(i)` for each i below `count`, neighbouring threads at neighbouring i: a grid-stride loop.

    Where the grid has a thread for each i, there is no loop.
    """
    if count == 0:
        return []
    threads = min(threads, max(device.warp, -(-count // device.warp) * device.warp))
    needed = -(-count // threads)
    blocks = grid_of(device, needed, threads)

    def body(block: Expr, thread: Expr) -> Sequence[Stmt]:
        first = block * threads + thread
        if blocks < needed:
            i = names.var("i")
            return [loop(i, first, count, work(i), step=blocks * threads)]
        statements = work(first)
        return statements if count == blocks * threads else [If(first < count, tuple(statements))]

    return launch(names, blocks, threads, body)


def unravel(names: Names, block: list[Stmt], flat: Expr, extents: Sequence[int]) -> tuple[Expr, ...]:
    """The index, in row-major order over `extents`, of the element with number `flat`; its parts are named in `block`.

    Divisions are done in 32 bits where all numbers fit: a multiprocessor has no wider ones.
    """
    total = math.prod(extents)
    many = [n for n in extents if n != 1]
    if len(many) <= 1:
        return tuple(flat if n != 1 else index(0) for n in extents)
    narrow = total < 2**31
    rest: Expr = flat
    if narrow and not isinstance(flat, Const):
        rest = _named(names, block, Cast(i32, flat))
    result: list[Expr] = []
    inner = total
    for n in extents:
        if n == 1:
            result.append(index(0))
            continue
        inner //= n
        part = rest
        if inner > 1:
            divisor = Const(rest.dtype, inner)
            part = _named(names, block, rest // divisor)
            rest = _named(names, block, rest - part * divisor)
        result.append(_named(names, block, Cast(i64, part)) if part.dtype is i32 else part)
    return tuple(result)


def _named(names: Names, block: list[Stmt], value: Expr) -> Expr:
    if isinstance(value, (Const, Var)):
        return value
    var = Var(names.fresh("at"), value.dtype)
    block.append(Let(var, value))
    return var


def power_of_two(number: int) -> int:
    """The smallest power of two that isn't below the number.

    >>> power_of_two(5), power_of_two(8), power_of_two(0)
    (8, 8, 1)
    """
    return 1 << max(number - 1, 0).bit_length()


class Partners:
    """Values that threads combine with those of other threads; what it names goes to `block`."""

    def __init__(self, names: Names, block: list[Stmt]) -> None:
        self.names = names
        self.block = block

    def named(self, value: Expr) -> Expr:
        return _named(self.names, self.block, value)

    def partner(self, value: Expr, distance: int) -> Expr:
        """The value that the lane whose number differs in this one bit has."""
        return self._moved(value, "bfly", distance, 31)

    def before(self, value: Expr, distance: int, width: int) -> Expr:
        """The value of the lane so far before this one within its group of `width` lanes; its own where there is none."""
        return self._moved(value, "up", distance, (32 - width) << 8)

    def of_lane(self, value: Expr, lane: Expr | int, width: int) -> Expr:
        """The value that one lane of each group of `width` lanes has."""
        return self._moved(value, "idx", lane, (32 - width) << 8 | 31)

    def _moved(self, value: Expr, mode: str, which: Expr | int, clamp: int) -> Expr:
        """A value of any type of another lane: by words of 32 bits."""
        chosen = Const(i32, which) if isinstance(which, int) else self.named(which)

        def word(part: Expr) -> Expr:
            kind = "f32" if part.dtype is f32 else "i32"
            args = (Const(i32, -1), self.named(part), chosen, Const(i32, clamp))
            return self.named(Intrinsic(f"llvm.nvvm.shfl.sync.{mode}.{kind}", args, part.dtype))

        dtype = value.dtype
        if dtype in (f32, i32):
            return word(value)
        if dtype.is_half:
            return self.named(Bitcast(dtype, self._moved(Bitcast(u16, value), mode, which, clamp)))
        if dtype.bytes < i32.bytes:
            return self.named(Cast(dtype, word(Cast(i32, value))))
        if dtype.bytes == i32.bytes:
            return self.named(Bitcast(dtype, word(Bitcast(i32, value))))
        bits = self.named(value if dtype is i64 else Bitcast(i64, value))
        low = word(Cast(i32, bits))
        high = word(Cast(i32, Apply("shr", (bits, Const(i64, 32)))))
        low = Apply("and", (Cast(i64, low), Const(i64, 0xFFFFFFFF)))
        whole = self.named(Apply("or", (Apply("shl", (Cast(i64, high), Const(i64, 32))), low)))
        return whole if dtype is i64 else self.named(Bitcast(dtype, whole))
