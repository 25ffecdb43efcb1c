"""The schedule of reduce regions for threads: a team of threads for each row, which reads it pass by pass.

In: a region over one domain with reductions along the same axes. Out: a kernel.

The members of a team take a row's elements in turn, accumulate in registers and combine what they have by shuffles
within a warp, and through shared memory between warps; then each of them knows the result. Where the innermost
dimension is reduced, members are neighbouring threads; where it is kept, neighbouring threads have neighbouring rows.
What a later pass needs again stays in registers where a member has few elements, and is read again where it has many.
How many members a team has depends on the shape alone, and they combine in a fixed order: results are the same in
every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.codegen.schedules.collapse import absorb_reshapes, collapse
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import THREADS, device_of, grid_of
from graphc.codegen.schedules.gpu.threads import Partners, launch, power_of_two, unravel
from graphc.codegen.schedules.loops import lane_block, parameters
from graphc.codegen.schedules.phases import Pass, accumulate, is_expensive, phases, plan_passes
from graphc.codegen.target import Device, Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Barrier,
    Buffer,
    Expr,
    If,
    Kernel,
    Load,
    Reduce,
    Stmt,
    constant,
    index,
    loop,
    store,
)
from graphc.ir.ops.reduce import identity
from graphc.ir.types import DType

_KEPT_STEPS = 8  # of a member, in each of which it keeps what later passes need
_KEPT_REGISTERS = 64  # that a member keeps in all
_LARGEST_TEAM = 1024
_LONG_ROW = 1024  # elements, from which on a row has a block to itself


@dataclass(frozen=True)
class Team:
    """How threads share rows: `members` work on one row, `rows` are side by side in a block."""

    members: int
    rows: int
    members_are_neighbours: bool

    @property
    def threads(self) -> int:
        return self.members * self.rows


def team_of(device: Device, rows: int, length: int, members_are_neighbours: bool) -> Team:
    """The team for rows of this length (in accesses), chosen by shape alone.

    >>> team_of(Device(), 4096, 10, True), team_of(Device(), 8, 100000, True).members
    (Team(members=16, rows=16, members_are_neighbours=True), 1024)
    """
    if members_are_neighbours:
        members = min(power_of_two(length), device.warp)
        if length > _LONG_ROW:
            members = min(power_of_two(length // 8), THREADS if rows >= device.warp else _LARGEST_TEAM)
        if members > device.warp:
            return Team(members, 1, True)
        return Team(members, max(device.warp, min(THREADS, power_of_two(rows * members))) // members, True)
    side_by_side = min(power_of_two(rows), device.warp)
    members = min(power_of_two(-(-length // 8)), THREADS // side_by_side)
    if members == 1:
        side_by_side = min(power_of_two(rows), THREADS)
    return Team(members, max(side_by_side, device.warp // members), False)


def schedule_reduce(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A kernel that computes all results of the region, each row by its team."""
    region = absorb_reshapes(region)
    reduction = next(n for n in region.nodes if "reduction" in n.op.traits)
    region = collapse(region, reduction.operands[0].shape, reduction.ints("axes"))
    return _Reduction(region, target, in_place).kernel()


class _Reduction:
    def __init__(self, region: Graph, target: Target, in_place: Mapping[int, int]) -> None:
        self.region = region
        self.device = device_of(target)
        first = next(n for n in region.nodes if "reduction" in n.op.traits)
        self.domain = first.operands[0].shape
        self.axes = first.ints("axes")
        if any(n.ints("axes") != self.axes for n in region.nodes if "reduction" in n.op.traits):
            raise CompileError(f"reduce: expected no by-products, got {region}")
        self.kept = tuple(d for d in range(len(self.domain)) if d not in self.axes)
        self.reduced_shape = tuple(self.domain[d] for d in self.kept)
        self.extents = tuple(self.domain[d] for d in self.axes)
        self.names = Names()
        self.in_place = bool(in_place)
        inputs, self.results, self.params = parameters(region, in_place)
        self.evaluator = Evaluator(region, inputs, self.names)
        self.phase = phases(region)
        rows_are_neighbours = bool(self.kept) and (not self.axes or self.kept[-1] > self.axes[-1])
        self.rows = math.prod(self.reduced_shape)
        self.lanes = 1 if rows_are_neighbours else self._lanes()
        self.length = math.prod(self.extents) // self.lanes  # of a row, in accesses
        self.team = team_of(self.device, self.rows, self.length, not rows_are_neighbours)
        self.steps = -(-self.length // self.team.members)
        self.registers = 0  # that are kept between passes
        self.held: dict[Value, Buffer] = {}
        self.passes = plan_passes(region, (), self._is_domain, self._keep)
        self.shared: list[Buffer] = []
        self.member: Expr = index(0)  # of its team
        self.local: Expr = index(0)  # number of the row in its block
        self.active: Expr | None = None  # false for threads that have no row of their own

    # ------------------------------------------------------------------------------------------------------ analysis

    def _lanes(self) -> int:
        """Elements of one access along the row."""
        if not self.axes or any("index" in n.op.traits for n in self.region.nodes):
            return 1
        widest = max(v.dtype.bytes for v in (*self.region.inputs, *self.region.outputs))
        lanes = min(4, self.device.access_bytes // widest)
        while lanes > 1 and self.extents[-1] % lanes:
            lanes //= 2
        return lanes

    def _is_domain(self, value: Value) -> bool:
        return value.shape == self.domain and bool(self.axes)

    def _keep(self, value: Value) -> bool:
        """Room in registers for a value that is costly to have again: a load, or an expensive function."""
        needed = self.steps * self.lanes * max(1, value.dtype.bytes // 4)
        worth = value in self.evaluator.buffers or is_expensive(value.node)
        if not worth or self.steps > _KEPT_STEPS or self.registers + needed > _KEPT_REGISTERS:
            return False
        self.registers += needed
        shape = (self.steps, self.lanes) if self.lanes > 1 else (self.steps,)
        self.held[value] = Buffer(self.names.fresh("row"), value.dtype, shape, space="reg", access="local")
        return True

    # ------------------------------------------------------------------------------------------------------- writing

    def kernel(self) -> Kernel:
        if self.rows == 0:
            return Kernel("reduce", tuple(self.params), ())
        team, tiles = self.team, -(-self.rows // self.team.rows)
        blocks = grid_of(self.device, tiles, team.threads)

        def body(block: Expr, thread: Expr) -> Sequence[Stmt]:
            if blocks == tiles:
                return self._tile(block, thread)
            tile = self.names.var("tile")
            statements = self._tile(tile, thread)
            if self.shared:
                statements = [*statements, Barrier()]  # the next tile writes what this one reads
            return [loop(tile, block, tiles, statements, step=blocks)]

        statements = launch(self.names, blocks, team.threads, body, self.shared)
        return Kernel("reduce", tuple(self.params), tuple(statements))

    def _tile(self, tile: Expr, thread: Expr) -> list[Stmt]:
        """The rows that a block works on at the same time."""
        team = self.team
        with self.evaluator.scope() as block:
            partners = Partners(self.names, block)
            minor, major = thread, index(0)
            width = team.members if team.members_are_neighbours else team.rows
            if width < team.threads:
                minor, major = partners.named(thread % width), partners.named(thread // width)
            self.member, self.local = (minor, major) if team.members_are_neighbours else (major, minor)
            row = partners.named(tile * team.rows + self.local)
            self.active = None
            if self.rows % team.rows:
                self.active = partners.named(row < self.rows)
                row = partners.named(Apply("min", (row, index(self.rows - 1))))
            where = unravel(self.names, block, row, self.reduced_shape)
            block += self._begin_held()
            for number, step in enumerate(self.passes):
                self._name_reduced(number, where)
                if step.roots(self.region):
                    accumulators = self._accumulators(step, block)
                    block += self._pass(step, accumulators, where)
                    self._combine(accumulators, partners)
                    for value in step.buffered:
                        self._bind_held(value)
                self._name_reduced(number + 1, where)
            self._store_reduced(where, block)
        for value in (*self.held, *(n.results[0] for n in self.region.nodes)):
            self.evaluator.bound.pop(value, None)
        return block

    def _name_reduced(self, phase: int, where: tuple[Expr, ...]) -> None:
        """Names the reduced values that this phase makes known, so that later passes don't compute them again."""
        if not self.axes:
            return
        for node in self.region.nodes:
            value = node.results[0]
            if (
                self.phase[value] == phase
                and node.type.shape == self.reduced_shape
                and "pointwise" in node.op.traits
            ):
                self.evaluator.at(value, where)

    def _new_cell(self, dtype: DType, stem: str, shape: tuple[int, ...], block: list[Stmt]) -> Buffer:
        cell = Buffer(self.names.fresh(stem), dtype, shape, space="reg", access="local")
        block.append(Alloc(cell))
        return cell

    def _accumulators(self, step: Pass, block: list[Stmt]) -> dict[Node, tuple[Buffer, ...]]:
        """Fresh accumulators, set to the identity; an index reduction has a second one for the index."""
        accumulators: dict[Node, tuple[Buffer, ...]] = {}
        shape = (self.lanes,) if self.lanes > 1 else ()
        for node in step.reductions:
            dtype = node.operands[0].dtype
            cells = [self._new_cell(dtype, "acc", shape, block)]
            if "index" in node.op.traits:
                cells.append(self._new_cell(node.type.dtype, "at", shape, block))
            accumulators[node] = tuple(cells)

        def begin(lane: Expr) -> list[Stmt]:
            statements: list[Stmt] = []
            for node, (best, *rest) in accumulators.items():
                start = constant(best.dtype, identity(node.op.combine, best.dtype))
                statements.append(store(best, (lane,) if shape else (), start))
                statements += [
                    store(cell, (lane,) if shape else (), constant(cell.dtype, 0)) for cell in rest
                ]
            return statements

        if accumulators:
            block += lane_block(self.names, self.lanes, begin)
        return accumulators

    def _pass(
        self, step: Pass, accumulators: Mapping[Node, tuple[Buffer, ...]], where: tuple[Expr, ...]
    ) -> list[Stmt]:
        """A member's elements of the row: unrolled where something is kept of them, else in a loop."""
        if self.length == 0:
            return []

        def access(number: Expr, step_number: Expr | None) -> list[Stmt]:
            with self.evaluator.scope() as block:
                *outer, last = (
                    unravel(self.names, block, number, (*self.extents[:-1], self.extents[-1] // self.lanes))
                    if self.axes
                    else (index(0),)
                )

                def element(lane: Expr) -> list[Stmt]:
                    along = (*outer, last * self.lanes + lane) if self.axes else ()
                    return self._element(step, accumulators, where, along, (step_number, lane))

                block += lane_block(self.names, self.lanes, element)
            return block

        members = self.team.members
        if not self.held:
            i = self.names.var("i")
            if members >= self.length:
                body = access(self.member, None)
                return body if members == self.length else [If(self.member < self.length, tuple(body))]
            return [loop(i, self.member, self.length, access(i, None), step=members)]
        statements: list[Stmt] = []
        full = self.length // members
        turn = self.names.var("turn")
        if full:
            statements.append(
                loop(turn, 0, full, access(turn * members + self.member, turn), binding="unroll")
            )
        if full < self.steps:
            last = self.member + full * members
            statements.append(If(last < self.length, tuple(access(last, index(full)))))
        return statements

    _slot: tuple[Expr | None, Expr] = (None, index(0))  # of what is kept: the step, and the lane

    def _element(
        self,
        step: Pass,
        accumulators: Mapping[Node, tuple[Buffer, ...]],
        kept: tuple[Expr, ...],
        along: tuple[Expr, ...],
        slot: tuple[Expr | None, Expr],
    ) -> list[Stmt]:
        rows, elements = iter(kept), iter(along)
        where = tuple(next(elements) if d in self.axes else next(rows) for d in range(len(self.domain)))
        self._slot = slot
        lane = (slot[1],) if self.lanes > 1 else ()
        with self.evaluator.scope() as block:
            values = {v: self.evaluator.at(v, where) for v in (*step.roots(self.region), *step.buffered)}
            for node, cells in accumulators.items():
                position = along[-1] if along else index(0)
                block += accumulate(node, cells, values[node.operands[0]], position, lane)
            for value in step.buffered:
                block.append(store(self.held[value], self._held_at(), values[value]))
            stores = [store(self.results[i], where, values[self.region.outputs[i]]) for i in step.outputs]
            if stores and self.active is not None:
                block.append(If(self.active, tuple(stores)))
            else:
                block += stores
        return block

    def _held_at(self) -> tuple[Expr, ...]:
        turn, lane = self._slot
        assert turn is not None
        return (turn, lane) if self.lanes > 1 else (turn,)

    def _begin_held(self) -> list[Stmt]:
        """What only some members will have is 0 in the others: LLVM may compute with it before it asks who has it."""
        turn = self.length // self.team.members

        def zero(lane: Expr) -> list[Stmt]:
            at = (index(turn), lane) if self.lanes > 1 else (index(turn),)
            return [store(b, at, constant(b.dtype, 0)) for b in self.held.values()]

        begin: list[Stmt] = [Alloc(b) for b in self.held.values()]
        if self.held and turn < self.steps:
            begin += lane_block(self.names, self.lanes, zero)
        return begin

    def _bind_held(self, value: Value) -> None:
        buffer = self.held[value]
        self.evaluator.bound[value] = lambda _: Load(buffer, self._held_at())

    # ----------------------------------------------------------------------------------------------------- combining

    def _combine(self, accumulators: Mapping[Node, tuple[Buffer, ...]], partners: Partners) -> None:
        """After a pass: what the members have becomes one, which all of them know."""
        parts: dict[Node, tuple[Expr, ...]] = {}
        block = partners.block
        for node, cells in accumulators.items():
            if self.lanes > 1:
                (cell,) = cells
                total = self._new_cell(cell.dtype, "total", (), block)

                def join(
                    lane: Expr, node: Node = node, cell: Buffer = cell, total: Buffer = total
                ) -> list[Stmt]:
                    return [store(total, (), Reduce(node.op.combine, Load(cell, (lane,))))]

                block += lane_block(self.names, self.lanes, join)
                cells = (total,)
            parts[node] = tuple(partners.named(Load(cell, ())) for cell in cells)
        if self.team.members > 1:
            over = self._among_neighbours if self.team.members_are_neighbours else self._among_rows
            parts = over(parts, partners)
        for node, values in parts.items():
            result = values[-1]
            self.evaluator.bound[node.results[0]] = lambda _, result=result: result  # type: ignore[misc]

    def _among_neighbours(
        self, parts: Mapping[Node, tuple[Expr, ...]], partners: Partners
    ) -> dict[Node, tuple[Expr, ...]]:
        """By shuffles in each warp, then through shared memory, from where every warp takes the same."""
        warp = self.device.warp
        found = {n: _by_shuffles(n, p, min(self.team.members, warp), partners) for n, p in parts.items()}
        warps = self.team.members // warp
        if warps <= 1:
            return found
        first = partners.named(Apply("eq", (self.member % warp, index(0))))
        cells = self._through_shared(found, (warps,), (partners.named(self.member // warp),), first, partners)
        lane = partners.named(self.member % warps)
        loaded = {n: tuple(partners.named(Load(b, (lane,))) for b in bs) for n, bs in cells.items()}
        return {n: _by_shuffles(n, p, warps, partners) for n, p in loaded.items()}

    def _among_rows(
        self, parts: Mapping[Node, tuple[Expr, ...]], partners: Partners
    ) -> dict[Node, tuple[Expr, ...]]:
        """Members are far apart: all through shared memory, in the order of the members."""
        team = self.team
        local = self.local
        cells = self._through_shared(parts, (team.members, team.rows), (self.member, local), None, partners)
        found: dict[Node, tuple[Expr, ...]] = {}
        for node, buffers in cells.items():
            total = tuple(partners.named(Load(b, (index(0), local))) for b in buffers)
            for member in range(1, team.members):
                other = tuple(partners.named(Load(b, (index(member), local))) for b in buffers)
                total = _joined(node, total, other, partners)
            found[node] = total
        return found

    def _through_shared(
        self,
        parts: Mapping[Node, tuple[Expr, ...]],
        shape: tuple[int, ...],
        where: tuple[Expr, ...],
        condition: Expr | None,
        partners: Partners,
    ) -> dict[Node, tuple[Buffer, ...]]:
        """What threads have, in shared memory where all of the block see it."""
        cells: dict[Node, tuple[Buffer, ...]] = {}
        stores: list[Stmt] = []
        for node, values in parts.items():
            buffers = tuple(
                Buffer(self.names.fresh("shared"), v.dtype, shape, space="shared", access="local")
                for v in values
            )
            cells[node] = buffers
            self.shared += buffers
            stores += [store(b, where, v) for b, v in zip(buffers, values, strict=True)]
        if stores:
            partners.block += [If(condition, tuple(stores))] if condition is not None else stores
            partners.block.append(Barrier())
        return cells

    def _store_reduced(self, where: tuple[Expr, ...], block: list[Stmt]) -> None:
        """One member stores what is known of the whole row."""
        positions = [i for i, v in enumerate(self.region.outputs) if not self._is_domain(v)]
        if not positions:
            return
        values = [self.evaluator.at(self.region.outputs[i], where) for i in positions]
        stores = tuple(store(self.results[i], where, v) for i, v in zip(positions, values, strict=True))
        condition = self.active
        if self.in_place and (self.team.members > 1 or self.active is not None):
            block.append(Barrier())  # all that read a row, threads without one included, have done so
        if self.team.members > 1:
            first = Apply("eq", (self.member, index(0)))
            condition = first if condition is None else Apply("and", (condition, first))
        block += stores if condition is None else [If(condition, stores)]


def _by_shuffles(node: Node, values: tuple[Expr, ...], width: int, partners: Partners) -> tuple[Expr, ...]:
    """Combined over groups of `width` lanes, in all of them: each step adds what the other half has."""
    distance = width // 2
    while distance:
        other = tuple(partners.partner(v, distance) for v in values)
        values = _joined(node, values, other, partners)
        distance //= 2
    return values


def _joined(
    node: Node, values: tuple[Expr, ...], others: tuple[Expr, ...], partners: Partners
) -> tuple[Expr, ...]:
    """What two members have, as one; of equal elements an index reduction takes the first."""
    if len(values) == 1:
        return (partners.named(Apply(node.op.combine, (values[0], others[0]))),)
    (x, at), (y, there) = values, others
    better = Apply("gt" if node.op.combine == "max" else "lt", (y, x))
    earlier = partners.named(Apply("lt", (there, at)))
    wins: Expr = Apply("or", (better, Apply("and", (Apply("eq", (y, x)), earlier))))
    if x.dtype.is_float:  # the first NaN wins
        ours, theirs = Apply("ne", (x, x)), Apply("ne", (y, y))
        nan_wins = Apply("and", (theirs, Apply("or", (Apply("not", (ours,)), earlier))))
        wins = Apply("or", (wins, nan_wins))
    wins = partners.named(wins)
    return tuple(partners.named(Apply("select", (wins, b, a))) for a, b in zip(values, others, strict=True))
