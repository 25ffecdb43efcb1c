"""Tiles of a contraction's operands in shared memory: who fetches what, how, and in which order it lies there.

In: an operand's side of a product, a tile's extents, the number of threads. Out: statements for each step of the summed
dimension. A tile lies [summed][free] in shared memory, whatever the operand's own order is: a thread then reads
neighbouring elements of the free dimension with one access. Threads are dealt out along the dimension that is
contiguous in the operand's memory, so that a warp's accesses are of neighbouring addresses.

An operand that is only views of an input is copied asynchronously. One that is computed (a prologue), or converted for
tensor cores, is fetched into registers before the multiply-adds of the step before and stored after them: its memory
accesses and arithmetic are under way meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.threads import unravel
from graphc.codegen.schedules.gpu.tiling import VECTOR
from graphc.codegen.schedules.loops import lane_block
from graphc.codegen.schedules.operands import Side
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Buffer,
    Const,
    Copy,
    Expr,
    If,
    Stmt,
    constant,
    index,
    load,
    store,
)
from graphc.ir.kernel_print import print_expr
from graphc.ir.types import bool_, f32

Index = tuple[Expr, ...]
Conversion = Callable[[Sequence[Expr]], Expr]  # from the elements of a word to the word


@dataclass(frozen=True)
class Word:
    """What an element of a shared tile is: one f32, or neighbours along the summed dimension, converted."""

    elements: int = 1
    convert: Conversion | None = None


@dataclass
class Staging:
    """Fills one operand's tiles."""

    names: Names
    evaluator: Evaluator
    side: Side
    extent: int  # of the operand's free dimensions together
    sums: tuple[int, ...]
    tile: int  # elements of the free dimension in a tile
    words: int  # along the summed dimension in a tile
    threads: int
    shared: Buffer  # [stage, word, free]
    word: Word

    def __post_init__(self) -> None:
        depth = math.prod(self.sums)
        self.free_extents = tuple(self.side.value.shape[d] for d in self.side.free)
        self.ragged = self.extent % self.tile != 0
        self.ragged_depth = depth % (self.words * self.word.elements) != 0
        self.depth = depth
        self.held: Buffer | None = None
        self._first: tuple[Expr, Expr] = (index(0), index(0))
        self._free: dict[object, Index] = {}

    @cached_property
    def along_summed(self) -> bool:
        """True where the operand's memory is contiguous along the summed dimension, and not along the free one."""
        return self.side.free_stride != 1 and self.side.summed_stride == 1 and self.words > 1

    @cached_property
    def is_copied(self) -> bool:
        """True where nothing has to be computed between memory and shared memory."""
        zeros = (index(0),) * self.side.value.type.rank
        return self.word.convert is None and self.evaluator.source(self.side.value, zeros) is not None

    @cached_property
    def width(self) -> int:
        """Elements of one access: a vector where all addresses are multiples of it and edges don't cut it."""
        side = self.side
        if self.along_summed or side.free_stride != 1 or self.tile % VECTOR or self.free_extents[-1] % VECTOR:
            return 1
        if self.tile // VECTOR * self.words < self.threads:
            return 1  # all threads fetch something
        others = [s for d, s in enumerate(side.strides) if d != side.free[-1]]
        whole = all(s is not None and s % VECTOR == 0 for s in others)
        if not self.is_copied:
            return VECTOR if whole else 1
        found = self.evaluator.source(side.value, (index(0),) * side.value.type.rank)
        assert found is not None
        buffer, where = found
        origin: Expr = index(0)
        for i, stride in zip(where, buffer.element_strides, strict=True):
            origin = origin + i * stride
        return VECTOR if whole and isinstance(origin, Const) and origin.value % VECTOR == 0 else 1

    @cached_property
    def in_pairs(self) -> bool:
        """True where the elements of a word are fetched by one access: they are neighbours, and edges don't cut them."""
        side, elements = self.side, self.word.elements
        return (
            self.along_summed
            and elements > 1
            and side.value.shape[side.summed[-1]] % elements == 0
            and all(
                s is not None and s % elements == 0
                for d, s in enumerate(side.strides)
                if d != side.summed[-1]
            )
        )

    @cached_property
    def pieces(self) -> int:
        """Accesses that fill a tile."""
        return self.tile * self.words // self.width

    @cached_property
    def steps(self) -> int:
        """Accesses of a thread."""
        return -(-self.pieces // self.threads)

    @cached_property
    def _row(self) -> int:
        """Pieces that are neighbours along the contiguous dimension."""
        return self.words if self.along_summed else self.tile // self.width

    # Statements

    def begin(self, block: list[Stmt], thread: Expr, batch: Index, first: Expr) -> None:
        """What is known before the first step: the thread's place in a tile, the operand's free indices there."""
        self.batch, self.start, self.thread = batch, first, thread
        if self._row >= self.threads:
            self._first = (index(0), thread)
        else:
            major, minor = unravel(self.names, block, thread, (self.threads // self._row, self._row))
            self._first = (major, minor)
        if not self.is_copied:
            self.held = Buffer(
                self.names.fresh("held"),
                f32,
                (self.steps, 1, self.word.elements)
                if self.in_pairs
                else (self.steps, self.word.elements, self.width),
                space="reg",
                access="local",
            )
            block.append(Alloc(self.held))
        for step in range(self.steps):
            _, free = self._spot(step)
            key = _key(free)
            if key not in self._free:
                flat = first + free
                if not self.is_copied:
                    flat = _clamped(flat, self._inside(free))
                self._free[key] = (
                    unravel(self.names, block, flat, self.free_extents) if self.side.free else ()
                )

    def _spot(self, step: int) -> tuple[Expr, Expr]:
        """The word and the free index, within a tile, of a thread's access."""
        major, minor = self._first
        if self._row >= self.threads:
            each = self._row // self.threads
            at = (index(step // each), minor + step % each * self.threads)
        else:
            at = (major + step * (self.threads // self._row), minor)
        return (at[1], at[0]) if self.along_summed else (at[0], at[1] * self.width)

    def _inside(self, free: Expr) -> Expr | None:
        return _below(self.start + free, self.extent) if self.ragged else None

    def _within(self, k: Expr) -> Expr | None:
        return _below(k, self.depth) if self.ragged_depth else None

    def copies(self, step: Expr, stage: Expr) -> list[Stmt]:
        """Begins to copy the tile of this step of the summed dimension."""
        assert self.is_copied
        return self._each(lambda n: self._copy(n, step, stage))

    def _copy(self, n: int, step: Expr, stage: Expr) -> list[Stmt]:
        word, free = self._spot(n)
        block: list[Stmt] = []
        k = step * self.words + word
        condition = _both(self._inside(free), self._within(k))
        if isinstance(condition, Const) and not condition.value:
            return [store(self.shared, (stage, word, free), constant(f32, 0))]
        along = unravel(self.names, block, k, self.sums)
        found = self.evaluator.source(
            self.side.value, self.side.at(self.batch, self._free[_key(free)], along)
        )
        assert found is not None
        source, where = found
        block.append(Copy(self.shared, (stage, word, free), source, where, self.width, condition))
        return block

    def fetches(self, step: Expr) -> list[Stmt]:
        """Computes the elements of this step's tile into registers."""
        assert not self.is_copied
        return self._each(lambda n: self._fetch(n, step))

    def _fetch(self, n: int, step: Expr) -> list[Stmt]:
        held = self.held
        assert held is not None
        word, free = self._spot(n)
        block: list[Stmt] = []
        width = self.word.elements if self.in_pairs else self.width
        for element in range(1 if self.in_pairs else self.word.elements):
            k = (step * self.words + word) * self.word.elements + element
            within = self._within(k)
            inside = _both(self._inside(free), within)
            k = _clamped(k, within)

            def lanes(
                lane: Expr, k: Expr = k, inside: Expr | None = inside, element: int = element
            ) -> list[Stmt]:
                with self.evaluator.scope() as inner:
                    along = unravel(self.names, inner, k, self.sums)
                    place = self._free[_key(free)]
                    moved = (*place[:-1], place[-1] + lane) if self.width > 1 else place
                    if self.in_pairs:
                        along = (*along[:-1], along[-1] + lane)
                    value = self.evaluator.at(self.side.value, self.side.at(self.batch, moved, along))
                    if inside is not None:
                        value = Apply("select", (inside, value, constant(f32, 0)))
                    inner.append(store(held, (n, element, lane), value))
                return inner

            block += lane_block(self.names, width, lanes)
        return block

    def puts(self, stage: Expr) -> list[Stmt]:
        """Stores the fetched elements, converted, in a stage of shared memory."""
        return self._each(lambda n: self._put(n, stage))

    def _put(self, n: int, stage: Expr) -> list[Stmt]:
        held = self.held
        assert held is not None
        word, free = self._spot(n)
        convert, cells = self.word.convert, held
        block: list[Stmt] = []
        if convert is not None:
            cells = Buffer(
                self.names.fresh("words"), self.shared.dtype, (1, 1, self.width), space="reg", access="local"
            )
            block.append(Alloc(cells))
            for lane in range(self.width):
                cell = [(0, e) if self.in_pairs else (e, lane) for e in range(self.word.elements)]
                elements = [load(held, n, *at) for at in cell]
                block.append(store(cells, (0, 0, lane), convert(elements)))
        first = n if convert is None else 0
        return block + lane_block(
            self.names,
            self.width,
            lambda lane: [store(self.shared, (stage, word, free + lane), load(cells, first, 0, lane))],
        )

    def _each(self, body: Callable[[int], list[Stmt]]) -> list[Stmt]:
        statements: list[Stmt] = []
        for n in range(self.steps):
            found = body(n)
            if self.pieces < self.threads:
                found = [If(self.thread < self.pieces, tuple(found))]
            statements += found
        return statements


def _below(i: Expr, n: int) -> Expr | None:
    """``i < n``; `None` where it always holds."""
    if isinstance(i, Const):
        return None if i.value < n else constant(bool_, False)
    return i < n


def _both(x: Expr | None, y: Expr | None) -> Expr | None:
    """The conjunction; `None` is true."""
    if x is None or y is None:
        return y if x is None else x
    return next((e for e in (x, y) if isinstance(e, Const)), Apply("and", (x, y)))


def _clamped(i: Expr, inside: Expr | None) -> Expr:
    """The index where it is inside, 0 elsewhere: a safe address."""
    return i if inside is None else Apply("select", (inside, i, index(0)))


def _key(free: Expr) -> str:
    return print_expr(free)
