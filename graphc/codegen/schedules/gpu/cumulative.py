"""The schedule of cumulative regions for threads: a thread for each line, or a team that scans a row together.

In: a region with one recurrence or running extremum. Out: a kernel.

Where the axis isn't the last dimension, neighbouring threads have neighbouring lines and each walks its own. Along the
last dimension a team scans a tile of the row at a time: what elements do to a carried value is associative (steps
r -> a r + b compose as pairs), so lanes combine by shuffles and warps through shared memory, always in the same order
(G. Blelloch, "Prefix Sums and Their Applications", 1990). Each member then walks its own few elements from the value
before them. Pairs of f32 are combined in f64; for those of f64 there is no wider type, so their rows are walked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import THREADS, device_of
from graphc.codegen.schedules.gpu.threads import Partners, each, launch, power_of_two, unravel
from graphc.codegen.schedules.loops import lane_block, parameters
from graphc.codegen.target import Device, Target
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Barrier,
    Buffer,
    Cast,
    Expr,
    If,
    Kernel,
    Load,
    Stmt,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.types import DType, f32, f64, i32

_VECTOR = 4  # elements of a member in a tile, at most
_LONG_ROW = 1024  # elements, from which on a row has a block to itself
_LARGEST_TEAM = 512
_LARGEST = 1.7976931348623157e308  # of f64


def schedule_cumulative(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A kernel that goes along the axis serially, or along the last dimension by scans."""
    node = next(n for n in region.nodes if "cumulative" in n.op.traits)
    rank, axis = node.type.rank, node.int("axis")
    # pairs of f64 have no wider type that their products could not overflow in
    scanned = axis == rank - 1 and (node.type.dtype is not f64 or not _is_pair(node))
    if scanned and node.type.size:
        return _Scan(region, node, device_of(target), in_place).kernel()
    return _walk(region, node, device_of(target), in_place)


def _is_pair(node: Node) -> bool:
    """True of a recurrence with factors that may be other than 1."""
    if len(node.operands) == 1:
        return False
    factor = node.operands[0].node
    return factor.op.name != "const" or factor.attrs["value"] != 1


def _walk(region: Graph, node: Node, device: Device, in_place: Mapping[int, int]) -> Kernel:
    """One thread for each line."""
    *factors, terms = node.operands
    shape, axis = node.type.shape, node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    others = tuple(1 if d == axis else n for d, n in enumerate(shape))

    def work(number: Expr) -> Sequence[Stmt]:
        carried = Buffer(names.fresh("carried"), result.dtype, (), space="reg", access="local")
        block: list[Stmt] = []
        line = unravel(names, block, number, others)

        def step(along: Expr, first: bool) -> list[Stmt]:
            place = index(shape[axis] - 1) - along if node.attrs["reverse"] else along
            where = (*line[:axis], place, *line[axis + 1 :])
            with evaluator.scope() as inner:
                value = evaluator.at(terms, where)
                if not first:
                    factor = evaluator.at(factors[0], where) if factors else None
                    value = _after(node, load(carried), factor, value)
                inner += [store(carried, (), value), store(result, where, load(carried))]
            return inner

        k = names.var("k")
        return [
            *block, Alloc(carried), *step(index(0), True), loop(k, 1, shape[axis], step(k, False)),
        ]  # fmt: skip

    lines = math.prod(others) if node.type.size else 0
    return Kernel("cumulative", tuple(params), tuple(each(names, device, lines, work)))


def _after(node: Node, before: Expr, factor: Expr | None, value: Expr) -> Expr:
    """The carried value after an element."""
    if not node.op.combine:
        return Apply("add", (before if factor is None else Apply("mul", (factor, before)), value))
    return Apply(node.op.combine, (before, value))


@dataclass(frozen=True)
class _Steps:
    """What some elements in a row do to the value before them: r -> factor r + value, or combine(r, value).

    Without a value before them, the last of them is `value`.
    """

    factor: Expr | None
    value: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.value,) if self.factor is None else (self.factor, self.value)


def _steps(parts: Sequence[Expr]) -> _Steps:
    *factor, value = parts
    return _Steps(factor[0] if factor else None, value)


class _Scan:
    """A cumulative region along its last dimension, on its way to a kernel of teams."""

    def __init__(self, region: Graph, node: Node, device: Device, in_place: Mapping[int, int]) -> None:
        self.node, self.device = node, device
        self.names = Names()
        inputs, (self.result,), self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        *self.outer, length = node.type.shape
        self.rows = math.prod(self.outer)
        pair = _is_pair(node)
        self.operands: tuple[Value, ...] = node.operands if pair else node.operands[-1:]
        self.dtype: DType = node.type.dtype
        # products of many factors leave the range of f32 where no result does
        self.wide: DType = f64 if pair and self.dtype is f32 else self.dtype
        access = max(1, min(_VECTOR, device.access_bytes // self.dtype.bytes))
        self.width = math.gcd(length, access) if length > device.warp else 1
        self.length = length // self.width  # in accesses
        members = min(power_of_two(self.length), device.warp)
        if length > _LONG_ROW:
            members = max(members, min(power_of_two(self.length // 2), _LARGEST_TEAM))
        self.members, self.group = members, min(members, device.warp)
        self.warps = members // self.group
        self.teams = 1
        if self.warps == 1:
            self.teams = max(device.warp, min(THREADS, power_of_two(self.rows * members))) // members
        self.tiles = -(-self.length // members)
        stages = min(self.tiles, 2)  # a tile's totals are read while the next one's are stored
        self.totals = [
            Buffer(self.names.fresh("total"), self.wide, (stages, self.warps), space="shared", access="local")
            for _ in self.operands
        ]

    def kernel(self) -> Kernel:
        blocks, threads = -(-self.rows // self.teams), self.teams * self.members
        shared = self.totals if self.warps > 1 else []
        return Kernel(
            "cumulative",
            tuple(self.params),
            tuple(launch(self.names, blocks, threads, self._thread, shared)),
        )

    def _thread(self, block: Expr, thread: Expr) -> list[Stmt]:
        body: list[Stmt] = []
        named = Partners(self.names, body).named
        team, member = unravel(self.names, body, thread, (self.teams, self.members))
        row = block * self.teams + team
        active: Expr | None = None
        if self.rows % self.teams:  # all threads come to the exchanges
            active = named(row < self.rows)
            row = named(Apply("min", (row, index(self.rows - 1))))
        row_at = unravel(self.names, body, row, self.outer)
        carried = Buffer(self.names.fresh("carried"), self.wide, (), space="reg", access="local")
        body += [Alloc(carried), store(carried, (), constant(self.wide, 0))]
        if self.tiles == 1:
            return [*body, *self._tile(row_at, member, index(0), active, carried)]
        tile = self.names.var("tile")
        return [*body, loop(tile, 0, self.tiles, self._tile(row_at, member, tile, active, carried))]

    def _tile(
        self, row: tuple[Expr, ...], member: Expr, tile: Expr, active: Expr | None, carried: Buffer
    ) -> list[Stmt]:
        """A tile of the row: `width` neighbouring elements of each member."""
        block: list[Stmt] = []
        partners = Partners(self.names, block)
        named = partners.named
        number = named(tile * self.members + member)
        inside = active
        if self.length % self.members:
            exists = number < self.length
            inside = named(exists if active is None else Apply("and", (active, exists)))
        reverse = bool(self.node.attrs["reverse"])
        first = (index(self.length - 1) - number if reverse else number) * self.width
        order = [index(e) for e in (reversed(range(self.width)) if reverse else range(self.width))]
        elements = self._fetched(block, row, first, inside)

        def at(place: Expr, dtype: DType) -> _Steps:
            parts = [load(b, *([place] if self.width > 1 else [])) for b in elements]
            return _steps([named(p if dtype is self.dtype else Cast(dtype, p)) for p in parts])

        own = at(order[0], self.wide)
        for place in order[1:]:
            own = self._joined(own, at(place, self.wide), partners)
        lane = named(member % self.group) if self.warps > 1 else member
        mine = self._scanned(own, lane, self.group, partners)
        begun = None if self.tiles == 1 else named(Apply("gt", (tile, index(0))))
        # whether there is a value before this warp's elements, and it
        known, before = begun, named(load(carried))
        total = self._of_lane(mine, self.group - 1, self.group, partners)
        if self.warps > 1:
            warp = named(member // self.group)
            warps = self._exchanged(total, tile, lane, warp, partners)
            total = self._of_lane(warps, self.warps - 1, self.warps, partners)
            last = Cast(i32, Apply("max", (warp - 1, index(0))))
            earlier = self._of_lane(warps, last, self.warps, partners)
            later = named(Apply("gt", (warp, index(0))))
            before = named(Apply("select", (later, self._applied(earlier, begun, before, partners), before)))
            known = later if begun is None else named(Apply("or", (later, begun)))
        after = self._applied(total, begun, load(carried), partners)
        if self.group > 1:
            shifted = _steps([partners.before(p, 1, self.group) for p in mine.parts])
            not_first = named(Apply("gt", (lane, index(0))))
            behind = self._applied(shifted, known, before, partners)
            before = named(Apply("select", (not_first, behind, before)))
            known = not_first if known is None else named(Apply("or", (not_first, known)))
        value = before if self.wide is self.dtype else named(Cast(self.dtype, before))
        results = Buffer(self.names.fresh("results"), self.dtype, self._cells, space="reg", access="local")
        block.append(Alloc(results))
        for place in order:
            step = at(place, self.dtype)
            new = _after(self.node, value, step.factor, step.value)
            if place is order[0]:
                new = step.value if known is None else Apply("select", (known, named(new), step.value))
            value = named(new)
            block.append(store(results, [place] if self.width > 1 else [], value))

        def put(lane: Expr) -> list[Stmt]:
            held = (lane,) if self.width > 1 else ()
            return [store(self.result, (*row, first + lane), Load(results, held))]

        stores = lane_block(self.names, self.width, put)
        block += stores if inside is None else [If(inside, tuple(stores))]
        if self.tiles > 1:
            block.append(store(carried, (), after))
        return block

    @property
    def _cells(self) -> tuple[int, ...]:
        return (self.width,) if self.width > 1 else ()

    def _fetched(
        self, block: list[Stmt], row: tuple[Expr, ...], first: Expr, inside: Expr | None
    ) -> list[Buffer]:
        """A member's elements of the operands; beyond the end of the row they are 0, and what follows from them isn't used."""
        cells = [
            Buffer(self.names.fresh("element"), self.dtype, self._cells, space="reg", access="local")
            for _ in self.operands
        ]

        def zero(lane: Expr) -> list[Stmt]:
            return [store(c, (lane,) if self.width > 1 else (), constant(self.dtype, 0)) for c in cells]

        def fetch(lane: Expr) -> list[Stmt]:
            with self.evaluator.scope() as inner:
                values = [self.evaluator.at(v, (*row, first + lane)) for v in self.operands]
                held = (lane,) if self.width > 1 else ()
                inner += [store(c, held, v) for c, v in zip(cells, values, strict=True)]
            return inner

        block += map(Alloc, cells)
        fetches = lane_block(self.names, self.width, fetch)
        if inside is None:
            block += fetches
        else:
            block += [*lane_block(self.names, self.width, zero), If(inside, tuple(fetches))]
        return cells

    # Steps

    def _joined(self, early: _Steps, late: _Steps, partners: Partners) -> _Steps:
        """What two neighbouring runs of elements do together."""
        value = partners.named(_after(self.node, early.value, late.factor, late.value))
        if early.factor is None or late.factor is None:
            return _Steps(None, value)
        factor = partners.named(Apply("mul", (early.factor, late.factor)))
        if (
            self.wide.is_float
        ):  # a product of finite factors stays finite: 0 times it is 0, as it is step by step
            largest = constant(self.wide, _LARGEST)
            finite = [Apply("le", (Apply("abs", (f,)), largest)) for f in (early.factor, late.factor)]
            beyond = Apply("gt", (Apply("abs", (factor,)), largest))
            overflows = partners.named(Apply("and", (beyond, Apply("and", tuple(finite)))))
            sign = Apply("lt", (factor, constant(self.wide, 0)))
            bound = Apply("select", (sign, constant(self.wide, -_LARGEST), largest))
            factor = partners.named(Apply("select", (overflows, bound, factor)))
        return _Steps(factor, value)

    def _applied(self, steps: _Steps, known: Expr | None, before: Expr, partners: Partners) -> Expr:
        """The value after some elements, where that before them is known or where there is none."""
        if known is None:
            return steps.value
        new = partners.named(_after(self.node, before, steps.factor, steps.value))
        return partners.named(Apply("select", (known, new, steps.value)))

    def _scanned(self, own: _Steps, lane: Expr, width: int, partners: Partners) -> _Steps:
        """Of each lane, what its elements and those of the lanes before it in its group do together."""
        distance = 1
        while distance < width:
            other = _steps([partners.before(p, distance, width) for p in own.parts])
            joined = self._joined(other, own, partners)
            has = partners.named(lane >= distance)
            own = _steps(
                [
                    partners.named(Apply("select", (has, new, old)))
                    for new, old in zip(joined.parts, own.parts, strict=True)
                ]
            )
            distance *= 2
        return own

    def _of_lane(self, steps: _Steps, lane: Expr | int, width: int, partners: Partners) -> _Steps:
        return steps if width == 1 else _steps([partners.of_lane(p, lane, width) for p in steps.parts])

    def _exchanged(self, total: _Steps, tile: Expr, lane: Expr, warp: Expr, partners: Partners) -> _Steps:
        """In the lanes of every warp: of each warp, what its elements and those of the warps before it do together."""
        stage = tile % 2 if self.tiles > 1 else index(0)
        stage = partners.named(stage)
        stores = tuple(store(b, (stage, warp), p) for b, p in zip(self.totals, total.parts, strict=True))
        partners.block += [If(Apply("eq", (lane, index(0))), stores), Barrier()]
        which = partners.named(lane % self.warps)
        loaded = _steps([partners.named(load(b, stage, which)) for b in self.totals])
        return self._scanned(loaded, which, self.warps, partners)
