"""The schedule of reduce regions: for each row, as many passes over it as reductions depend on one another.

In: a region over one domain with reductions along the same axes. Out: a kernel.

The passes are those of `phases.py`; what is expensive and needed again in a later pass stays in a buffer on the stack.
Where the innermost dimension is reduced, the lanes of a vector accumulate side by side and join at the end of the pass;
where it is kept, each lane has a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphc.codegen.schedules.byproduct import begin, byproducts, update
from graphc.codegen.schedules.collapse import collapse
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lane_block, lanes_of, nest, parameters
from graphc.codegen.schedules.phases import Pass, accumulate, is_expensive, phases, plan_passes
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import (
    Alloc,
    Buffer,
    Expr,
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

# (index of the row's lane, lane), both None where a row has all lanes to itself
RowBody = Callable[["Expr | None", "Expr | None"], Sequence[Stmt]]
# (index of the row's lane, index along the reduced dimensions, lane of the accumulators)
ElementBody = Callable[["Expr | None", "tuple[Expr, ...]", Expr], "list[Stmt]"]


def schedule_reduce(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A kernel that computes all results of the region row by row."""
    reduction = next(n for n in region.nodes if "reduction" in n.op.traits)
    region = collapse(region, reduction.operands[0].shape, reduction.ints("axes"))
    return _Reduction(region, target, in_place).kernel()


class _Reduction:
    def __init__(self, region: Graph, target: Target, in_place: Mapping[int, int]) -> None:
        self.region, self.target = region, target
        first = next(n for n in region.nodes if "reduction" in n.op.traits)
        self.domain = first.operands[0].shape
        self.axes = first.ints("axes")
        self.kept = tuple(d for d in range(len(self.domain)) if d not in self.axes)
        self.reduced_shape = tuple(self.domain[d] for d in self.kept)
        self.names = Names()
        self.byproducts = byproducts(region)
        made = [n.results[0] for n in self.byproducts]
        inputs, self.results, self.params = parameters(region, in_place, made)
        self.byproduct_results = {
            n: self.results[region.outputs.index(n.results[0])] for n in self.byproducts
        }
        self.evaluator = Evaluator(region, inputs, self.names)
        self.lanes_are_rows = bool(self.kept) and (not self.axes or self.kept[-1] > self.axes[-1])
        index_reduction = any("index" in n.op.traits for n in region.nodes)
        inner = self.domain[-1] if self.domain else 1
        scalar = not self.domain or (index_reduction and not self.lanes_are_rows)
        self.lanes = 1 if scalar else lanes_of(target, region, inner)
        self.phase = phases(region)
        self.cells: dict[Value, Buffer] = {}  # of reduced values
        self.row_buffers: dict[Value, Buffer] = {}
        self.passes = self._plan_passes()

    def kernel(self) -> Kernel:
        if self.lanes_are_rows:
            last = self.domain[self.kept[-1]]
            body = nest(self.names, self.reduced_shape[:-1], lambda outer: self._blocks_of_rows(outer, last))
        else:
            body = nest(self.names, self.reduced_shape, lambda outer: self._row(outer, None, None))
        first = [
            statement
            for node, result in self.byproduct_results.items()
            for statement in begin(self.names, node, result, self.lanes)
        ]
        return Kernel("reduce", tuple(self.params), (*first, *body))

    # ------------------------------------------------------------------------------------------------------ analysis

    def _is_domain(self, value: Value) -> bool:
        return value.shape == self.domain and bool(self.axes)

    def _plan_passes(self) -> list[Pass]:
        """An expensive value that two passes need is kept by the first of them, where it fits."""
        row = math.prod(self.domain[d] for d in self.axes) * (self.lanes if self.lanes_are_rows else 1)

        def keep(value: Value) -> bool:
            held = sum(row * v.dtype.bytes for v in self.row_buffers)
            # a row that is longer is computed again instead
            fits = held + row * value.dtype.bytes <= self.target.row_buffer_bytes
            if value in self.evaluator.buffers or not is_expensive(value.node) or not fits:
                return False
            shape = tuple(self.domain[d] for d in self.axes)
            shape += (self.lanes,) if self.lanes_are_rows and self.lanes > 1 else ()
            self.row_buffers[value] = Buffer(
                self.names.fresh("row"), value.dtype, shape, space="stack", access="local"
            )
            return True

        return plan_passes(self.region, self.byproducts, self._is_domain, keep)

    # ------------------------------------------------------------------------------------------------------- writing

    def _blocks_of_rows(self, outer: tuple[Expr, ...], extent: int) -> list[Stmt]:
        """Rows side by side in the lanes of a vector."""
        if self.lanes == 1:
            return nest(self.names, (extent,), lambda inner: self._row((*outer, *inner), None, None))
        statements: list[Stmt] = []
        full = extent // self.lanes * self.lanes
        if full:
            base = self.names.var("i")
            statements.append(loop(base, 0, full, self._row(outer, base, None), step=self.lanes))
        if extent > full:
            statements += self._row(outer, index(full), extent - full)
        return statements

    def _row(self, outer: tuple[Expr, ...], base: Expr | None, active: int | None) -> list[Stmt]:
        """One row, or one vector of rows that begins at `base` (its first `active` lanes)."""
        self.cells = {}
        self.evaluator.bound = {}
        statements: list[Stmt] = [Alloc(b) for b in self.row_buffers.values()]
        with self.evaluator.scope() as block:
            self._reduced_values(0, outer, base, active, block)
            for number, step in enumerate(self.passes):
                if step.roots(self.region):
                    accumulators = self._accumulators(step, block)
                    block += self._pass(step, accumulators, outer, base, active)
                    self._join(step, accumulators, block)
                    for value in step.buffered:
                        self._bind_row_buffer(value)
                self._reduced_values(number + 1, outer, base, active, block)
            block += self._store_reduced(outer, base, active)
        return statements + block

    def _lanewise(self, base: Expr | None, active: int | None, body: RowBody) -> list[Stmt]:
        """`body(index of the row's lane, lane)` once, or for each lane of a vector of rows."""
        if base is None:
            return list(body(None, None))
        return lane_block(self.names, self.lanes, lambda lane: body(base + lane, lane), active)

    def _where(self, outer: tuple[Expr, ...], inner: Expr | None, along: Sequence[Expr]) -> tuple[Expr, ...]:
        """The domain's index of a row's element."""
        kept = iter((*outer, *(() if inner is None else (inner,))))
        reduced = iter(along)
        return tuple(next(reduced) if d in self.axes else next(kept) for d in range(len(self.domain)))

    def _new_cell(self, dtype: DType, stem: str, vector: bool, block: list[Stmt]) -> Buffer:
        shape = (self.lanes,) if vector and self.lanes > 1 else ()
        cell = Buffer(self.names.fresh(stem), dtype, shape, space="reg", access="local")
        block.append(Alloc(cell))
        return cell

    def _bind_cell(self, value: Value, cell: Buffer) -> None:
        self.cells[value] = cell
        self.evaluator.bound[value] = lambda where: Load(cell, (self._lane,) if cell.shape else ())

    def _bind_row_buffer(self, value: Value) -> None:
        buffer = self.row_buffers[value]

        def read(where: tuple[Expr, ...]) -> Expr:
            along = tuple(where[d] for d in self.axes)
            return Load(buffer, (*along, self._lane) if len(buffer.shape) > len(along) else along)

        self.evaluator.bound[value] = read

    _lane: Expr = index(0)  # of the vector of rows that is being written

    def _reduced_values(
        self, phase: int, outer: tuple[Expr, ...], base: Expr | None, active: int | None, block: list[Stmt]
    ) -> None:
        """Computes the reduced values that this phase makes known, once a row."""
        nodes = [
            n
            for n in self.region.nodes
            if self.phase[n.results[0]] == phase
            and n.type.shape == self.reduced_shape
            and "pointwise" in n.op.traits
            and self.axes
        ]
        if not nodes:
            return
        cells = {n.results[0]: self._new_cell(n.type.dtype, "value", base is not None, block) for n in nodes}

        def body(inner: Expr | None, lane: Expr | None) -> list[Stmt]:
            self._lane = lane if lane is not None else index(0)
            where = (*outer, *(() if inner is None else (inner,)))
            with self.evaluator.scope() as inside:
                for value, cell in cells.items():
                    expr = self.evaluator.at(value, where)
                    inside.append(store(cell, (self._lane,) if cell.shape else (), expr))
            return inside

        block += self._lanewise(base, active, body)
        for value, cell in cells.items():
            self._bind_cell(value, cell)

    def _accumulators(self, step: Pass, block: list[Stmt]) -> dict[Node, tuple[Buffer, ...]]:
        """Fresh accumulators, set to the identity: one a lane; an index reduction has a second one for the index."""
        accumulators = {}
        for node in step.reductions:
            dtype = node.operands[0].dtype
            best = self._new_cell(dtype, "acc", True, block)
            cells: tuple[Buffer, ...] = (best,)
            if "index" in node.op.traits:
                cells = (best, self._new_cell(node.type.dtype, "at", True, block))
            accumulators[node] = cells

        def body(lane: Expr) -> list[Stmt]:
            statements: list[Stmt] = []
            for node, (best, *rest) in accumulators.items():
                where = (lane,) if best.shape else ()
                statements.append(
                    store(best, where, constant(best.dtype, identity(node.op.combine, best.dtype)))
                )
                statements += [store(cell, where, constant(cell.dtype, 0)) for cell in rest]
            return statements

        if accumulators:
            block += lane_block(self.names, self.lanes, body)
        return accumulators

    def _pass(
        self,
        step: Pass,
        accumulators: Mapping[Node, tuple[Buffer, ...]],
        outer: tuple[Expr, ...],
        base: Expr | None,
        active: int | None,
    ) -> list[Stmt]:
        extents = [self.domain[d] for d in self.axes]
        roots = step.roots(self.region)

        def element(inner: Expr | None, along: tuple[Expr, ...], cell_lane: Expr) -> list[Stmt]:
            where = self._where(outer, inner, along)
            with self.evaluator.scope() as inside:
                values = {v: self.evaluator.at(v, where) for v in (*roots, *step.buffered)}
                for node, cells in accumulators.items():
                    here = along[-1] if along else index(0)
                    cell = (cell_lane,) if cells[0].shape else ()
                    inside += accumulate(node, cells, values[node.operands[0]], here, cell)
                for value in step.buffered:
                    buffer = self.row_buffers[value]
                    spot = (*along, cell_lane) if len(buffer.shape) > len(along) else along
                    inside.append(store(buffer, spot, values[value]))
                for node in step.byproducts:
                    inside.append(update(node, self.byproduct_results[node], along, values[node.operands[0]]))
                for position in step.outputs:
                    inside.append(store(self.results[position], where, values[self.region.outputs[position]]))
            return inside

        if base is not None:  # each lane a row

            def lanes(inner: Expr | None, lane: Expr | None, along: tuple[Expr, ...]) -> list[Stmt]:
                assert lane is not None
                self._lane = lane
                return element(inner, along, lane)

            return nest(
                self.names,
                extents,
                lambda along: self._lanewise(base, active, lambda inner, lane: lanes(inner, lane, along)),
            )
        if self.lanes == 1:
            return nest(self.names, extents, lambda along: element(None, along, index(0)))
        return nest(self.names, extents[:-1], lambda along: self._vectors(extents[-1], along, element))

    def _vectors(self, extent: int, along: tuple[Expr, ...], element: ElementBody) -> list[Stmt]:
        """The innermost reduced dimension in vectors whose lanes accumulate side by side."""
        full = extent // self.lanes * self.lanes
        statements: list[Stmt] = []
        if full:
            i = self.names.var("i")
            inner = lane_block(self.names, self.lanes, lambda lane: element(None, (*along, i + lane), lane))
            statements.append(loop(i, 0, full, inner, step=self.lanes))
        if extent > full:
            statements += lane_block(
                self.names, self.lanes, lambda lane: element(None, (*along, lane + full), lane), extent - full
            )
        return statements

    def _join(self, step: Pass, accumulators: Mapping[Node, tuple[Buffer, ...]], block: list[Stmt]) -> None:
        """After a pass: the lanes' partial results become one, unless each lane is a row."""
        joined: list[tuple[Node, Buffer, Buffer]] = []
        for node, cells in accumulators.items():
            result = cells[-1]
            if not self.lanes_are_rows and self.lanes > 1:
                total = self._new_cell(result.dtype, "total", False, block)
                joined.append((node, result, total))
                result = total
            self._bind_cell(node.results[0], result)
        if joined:

            def body(lane: Expr) -> list[Stmt]:
                return [store(t, (), Reduce(n.op.combine, Load(acc, (lane,)))) for n, acc, t in joined]

            block += lane_block(self.names, self.lanes, body)

    def _store_reduced(self, outer: tuple[Expr, ...], base: Expr | None, active: int | None) -> list[Stmt]:
        made = [n.results[0] for n in self.byproducts]
        positions = [i for i, v in enumerate(self.region.outputs) if not self._is_domain(v) and v not in made]
        if not positions:
            return []

        def body(inner: Expr | None, lane: Expr | None) -> list[Stmt]:
            self._lane = lane if lane is not None else index(0)
            where = (*outer, *(() if inner is None else (inner,)))
            with self.evaluator.scope() as inside:
                values = [self.evaluator.at(self.region.outputs[i], where) for i in positions]
                inside += [store(self.results[i], where, v) for i, v in zip(positions, values, strict=True)]
            return inside

        return self._lanewise(base, active, body)
