"""What both forms of a contraction share: its state, tiles as kernels that are called, unrolled cells, the store.

In: a contract region. Out: a `Contraction`, which the forms in `outer.py` and `dot.py` write their loops with.

A tile (and a strip that packing transposes) is a kernel of its own that takes those of the caller's buffers that it uses
and its position: it is emitted once, however many loops call it, and the registers of its loops are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphc.codegen.schedules.blocking import Blocking, choose_blocking
from graphc.codegen.schedules.byproduct import byproducts, update
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lane_block, lanes_of, parameters
from graphc.codegen.schedules.operands import Product, product_of
from graphc.codegen.target import Target
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import (
    Apply,
    Buffer,
    Call,
    Const,
    Expr,
    Kernel,
    Stmt,
    Var,
    index,
    loop,
    store,
)
from graphc.ir.kernel_print import used_buffers

_UNBOUNDED = 1 << 60


@dataclass(frozen=True)
class Place:
    """Where in the result's outer dimensions a tile is: batch, and all but the last free dimension of each side."""

    batch: tuple[Expr, ...]
    left: tuple[Expr, ...]
    right: tuple[Expr, ...]

    @property
    def indices(self) -> tuple[Expr, ...]:
        return (*self.batch, *self.left, *self.right)

    def like(self, indices: Sequence[Expr]) -> Place:
        """These indices, in the same parts."""
        nb, nl = len(self.batch), len(self.left)
        return Place(tuple(indices[:nb]), tuple(indices[nb : nb + nl]), tuple(indices[nb + nl :]))


def full_lanes(region: Graph, target: Target) -> int:
    """Lanes of a full vector."""
    return lanes_of(target, region, _UNBOUNDED)


class Contraction:
    """A contract region on its way to a kernel; product and blocking are its own unless they are given."""

    def __init__(
        self,
        region: Graph,
        target: Target,
        in_place: Mapping[int, int],
        product: Product | None = None,
        blocking: Blocking | None = None,
    ) -> None:
        self.region = region
        self.target = target
        self.product = product or product_of(region)
        self.dtype = self.product.dtype
        self.names = Names()
        self.byproducts = byproducts(region)
        made = [n.results[0] for n in self.byproducts]
        inputs, results, self.params = parameters(region, in_place, made)
        results_of = dict(zip(region.outputs, results, strict=True))
        self.byproduct_results = [results_of[v] for v in made]
        self.outputs = {v: b for v, b in results_of.items() if v not in made}
        self.evaluator = Evaluator(region, inputs, self.names)
        self.scratch: list[Buffer] = []
        self.lanes = full_lanes(region, target)
        self.blocking = blocking or choose_blocking(self.product, target, self.lanes)
        self._tiles: dict[Hashable, Kernel] = {}

    def scratch_buffer(self, stem: str, shape: Sequence[int]) -> Buffer:
        """Memory of the kernel's own that it does not keep on the stack."""
        buffer = Buffer(self.names.fresh(stem), self.dtype, tuple(shape), access="scratch")
        self.scratch.append(buffer)
        return buffer

    def call_tile(
        self,
        key: Hashable,
        place: Place,
        position: Mapping[str, Expr],
        build: Callable[[Place, Sequence[Expr]], list[Stmt]],
        name: str = "tile",
    ) -> Stmt:
        """A call of the kernel `key` at this place and position; the first call has it built."""
        moving = [i for i in place.indices if not isinstance(i, Const)]
        if key not in self._tiles:
            names = iter([Var(self.names.fresh("at")) for _ in moving])
            inner = place.like([i if isinstance(i, Const) else next(names) for i in place.indices])
            offsets = [Var(self.names.fresh(stem)) for stem in position]
            body = build(inner, offsets)
            scalars = (*(i for i in inner.indices if isinstance(i, Var)), *offsets)
            used = used_buffers(body)
            params = tuple(b for b in (*self.params, *self.scratch) if b in used)
            self._tiles[key] = Kernel(name, params, tuple(body), scalars)
        kernel = self._tiles[key]
        windows = tuple((b, (index(0),) * len(b.shape)) for b in kernel.params)
        return Call(kernel, windows, (*moving, *position.values()))

    @property
    def epilogue_size(self) -> int:
        """How many pointwise nodes the region has."""
        return sum("pointwise" in n.op.traits for n in self.region.nodes)

    def far_results(self) -> list[Buffer]:
        """The arrays of the result's shape that the epilogue reads and writes, if they come from beyond the caches."""
        operands = {self.product.left.value.node, self.product.right.value.node}
        read = {
            v
            for node in self.region.nodes
            if "pointwise" in node.op.traits and node not in operands
            for v in node.operands
        }
        shape = self.product.result.shape
        inputs = [self.evaluator.buffers[v] for v in self.region.inputs if v in read]
        buffers = [b for b in dict.fromkeys([*inputs, *self.outputs.values()]) if b.shape == shape]
        size = sum(b.dtype.bytes for b in buffers) * self.product.result.type.size
        return buffers if size > self.target.cache_bytes[min(1, len(self.target.cache_bytes) - 1)] else []

    # ----------------------------------------------------------------------------------------------------- statements

    def madd(self, a: Expr, b: Expr, c: Expr) -> Expr:
        if self.dtype.is_float:
            return Apply("fma", (a, b, c))
        return a * b + c

    def finish(self, where: tuple[Expr, ...], add: Callable[[int, Expr], list[Stmt]]) -> list[Stmt]:
        """All results at this index, then their stores; `add` accumulates what the by-products sum."""
        with self.evaluator.scope() as inside:
            stores = self.stores(self.outputs, where)
            summed = [self.evaluator.at(n.operands[0], where) for n in self.byproducts]
            inside += stores
            inside += [s for number, v in enumerate(summed) for s in add(number, v)]
        return inside

    def stores(self, results: Iterable[Value], where: tuple[Expr, ...]) -> list[Stmt]:
        """The stores of these results at this index; their values come into the scope that is open."""
        return [store(self.outputs[v], where, self.evaluator.at(v, where)) for v in results]

    def add_to_memory(self, where: tuple[Expr, ...]) -> Callable[[int, Expr], list[Stmt]]:
        """By-products accumulated where they are."""
        return lambda number, value: [
            update(self.byproducts[number], self.byproduct_results[number], where[-1:], value)
        ]

    def unrolled(self, count: int, body: Callable[[Expr], Sequence[Stmt]]) -> list[Stmt]:
        if count == 1:
            return list(body(index(0)))
        i = self.names.var("r")
        return [loop(i, 0, count, body(i), binding="unroll")]

    def vectors(
        self, nv: int, lanes: int, body: Callable[[Expr, Expr], Sequence[Stmt]], active: int | None = None
    ) -> list[Stmt]:
        """`body(vector, lane)` for `nv` vectors, the last one with its first `active` lanes."""
        masked = active is not None and active < lanes
        whole = nv - 1 if masked else nv

        def lanewise(j: Expr, active: int | None = None) -> list[Stmt]:
            return lane_block(self.names, lanes, lambda lane: body(j, lane), active)

        statements = self.unrolled(whole, lanewise) if whole else []
        return statements + lanewise(index(nv - 1), active) if masked else statements

    def cells(
        self,
        mr: int,
        nv: int,
        lanes: int,
        body: Callable[[Expr, Expr, Expr], Sequence[Stmt]],
        active: int | None = None,
    ) -> list[Stmt]:
        """`body(row, vector, lane)` for all cells of a tile."""
        return self.unrolled(mr, lambda i: self.vectors(nv, lanes, lambda j, lane: body(i, j, lane), active))

    def blocks(
        self, extent: int, size: int, body: Callable[[Expr, int], Sequence[Stmt]], stem: str = "row"
    ) -> list[Stmt]:
        """`body(start, size)` over blocks of `size`, then over what remains."""
        if extent == 0:
            return []
        size = min(size, extent)
        full = extent // size * size
        statements: list[Stmt] = []
        if full == size:
            statements += body(index(0), size)
        else:
            start = self.names.var(stem)
            statements.append(loop(start, 0, full, body(start, size), step=size))
        if extent > full:
            statements += body(index(full), extent - full)
        return statements
