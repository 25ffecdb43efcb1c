"""Reductions taken apart for threads: by-products on their own, and long sums in two stages.

In: a fused graph. Out: a fused graph in which every reduce region has one set of reduced axes, and in which few long rows
are cut into parts: one region reduces each part, another one the parts' results. The cut depends on shapes alone, so
that results do too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

from graphc.codegen.schedules.byproduct import byproducts
from graphc.codegen.schedules.phases import phases
from graphc.ir.graph import Attr, Builder, Graph, Node, Value
from graphc.ir.ops import fused
from graphc.ir.ops.reduce import identity
from graphc.ir.types import TensorType

_ENOUGH_BLOCKS = 512  # that fill a large processor a few times: with as many rows' blocks no row is cut
_ROW_PART, _COLUMN_PART = 8192, 64  # elements of a part along a row, and rows of one down the columns
_COLUMNS = 32  # neighbouring columns that a block sums


def by_stages(graph: Graph) -> Graph:
    """The graph with its reduce regions in as many regions as blocks of threads need.

    >>> from graphc.ir.types import f32
    >>> from graphc.passes.fuse import fuse
    >>> build = Builder()
    >>> total = build.reduce_sum(build.input(f32[1 << 20], "x"), axes=(0,))
    >>> [n.type for n in by_stages(fuse(build.graph("f", [total]))).nodes]
    [f32[128], f32[]]
    """
    if not any(n.attrs.get("kind") == "reduce" for n in graph.nodes):
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        if node.attrs.get("kind") == "reduce":
            _Apart(build, node, new).emit()
            continue
        build.copy(node, new)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def parts_of(rows: int, length: int, along: bool) -> int:
    """Into how many parts each of `rows` rows of this length is cut; `along`: neighbouring elements are of one row.

    >>> parts_of(1, 1 << 20, True), parts_of(1000, 1 << 20, True), parts_of(128, 65536, False)
    (128, 1, 128)
    """
    blocks, part = (rows, _ROW_PART) if along else (-(-rows // _COLUMNS), _COLUMN_PART)
    if rows == 0 or blocks >= _ENOUGH_BLOCKS or length < 4 * part:
        return 1
    return min(length // part, _ENOUGH_BLOCKS // blocks)


class _Apart:
    """A reduce node on its way to one or several."""

    def __init__(self, build: Builder, node: Node, new: dict[Value, Value]) -> None:
        self.build, self.node, self.new = build, node, new
        self.region = node.regions[0]
        # of the region's values that are in memory, those of the new graph
        self.outer = {v: new[o] for v, o in zip(self.region.inputs, node.operands, strict=True)}
        self.names = {v: o.node.name for v, o in zip(self.region.outputs, node.results, strict=True)}

    def emit(self) -> None:
        region = self.region
        phase = phases(region)
        extra = byproducts(region)
        made = {n.results[0] for n in extra}
        # what a by-product sums is stored where it depends on reductions, and computed again where it doesn't
        stored = [n.operands[0] for n in extra if phase[n.operands[0]] and n.operands[0] not in region.inputs]
        outputs = dict.fromkeys([*(v for v in region.outputs if v not in made), *stored])
        self._rows(list(outputs), [n for n in region.nodes if "reduction" in n.op.traits and n not in extra])
        for _, group in groupby(sorted(extra, key=lambda n: n.ints("axes")), key=lambda n: n.ints("axes")):
            nodes = list(group)
            self._rows([n.results[0] for n in nodes], nodes)
        for value, result in zip(region.outputs, self.node.results, strict=True):
            self.new[result] = self.outer[value]

    def _rows(self, outputs: Sequence[Value], reductions: Sequence[Node]) -> None:
        """The regions that make these values, by reductions over the same axes."""
        first = reductions[0]
        domain, axes = first.operands[0].shape, first.ints("axes")
        run = _longest_run(domain, axes)
        length = math.prod(domain[d] for d in run)
        rows = math.prod(n for d, n in enumerate(domain) if d not in axes)
        parts = parts_of(rows, length, bool(axes) and axes[-1] == len(domain) - 1)
        phase = phases(self.region)
        one_pass = all(phase[n.operands[0]] == 0 and "index" not in n.op.traits for n in reductions)
        needed = _needed(outputs, self.outer)
        one_pass = one_pass and not any(  # elements that depend on the whole row
            v.shape == domain and phase[v] for n in needed for v in n.results
        )
        if parts == 1 or not one_pass:
            self._region(outputs, "reduce", first)
            return
        elements = [v for v in outputs if v.shape == domain and v.node not in reductions]
        if elements:
            sums = [n.operands[0] for n in reductions if n.operands[0] not in self.outer]
            self._region(list(dict.fromkeys([*elements, *sums])), "map", first)
        partial = self._partial(reductions, run, parts)
        self._joined([v for v in outputs if v not in elements], reductions, partial)

    def _region(self, outputs: Sequence[Value], kind: str, root: Node) -> None:
        """One region that makes these values from what is in memory."""
        members = _needed(outputs, self.outer)
        inner = Builder()
        operands = list(dict.fromkeys(v for n in members for v in n.operands if v in self.outer))
        copies = inner.inputs_for(operands)
        for member in members:
            inner.copy(member, copies)
        self._emit(inner, [copies[v] for v in outputs], operands, kind, root, outputs)

    def _emit(
        self,
        inner: Builder,
        results: Sequence[Value],
        operands: Sequence[Value],
        kind: str,
        root: Node,
        outputs: Sequence[Value] = (),
    ) -> Node:
        body = inner.graph(kind, results)
        name = next((self.names[v] for v in outputs if self.names.get(v)), "")
        made = self.build.emit(
            fused, [self.outer[v] for v in operands], {"kind": kind}, (body,), root.loc, name
        )
        self.outer.update(zip(outputs, made.results, strict=False))
        return made

    def _partial(self, reductions: Sequence[Node], run: range, parts: int) -> dict[Node, Value]:
        """The reductions of each part of the rows: values of the new graph, the parts where the run began."""
        first = reductions[0]
        domain, axes = first.operands[0].shape, first.ints("axes")
        length = math.prod(domain[d] for d in run)
        part = -(-length // parts)
        if length % part or part % 4:
            part = next(
                (n for n in range(part, 2 * part) if length % n == 0 and n % 4 == 0), -(-part // 4) * 4
            )
        parts = -(-length // part)
        flat = (*domain[: run.start], length, *domain[run.stop :])
        cut = (*domain[: run.start], parts, part, *domain[run.stop :])
        inner = Builder()
        sums = [n.operands[0] for n in reductions]
        members = _needed(sums, self.outer)
        read = [v for n in members for v in n.operands if v in self.outer]
        operands = list(dict.fromkeys([*read, *(v for v in sums if v in self.outer)]))
        copies = inner.inputs_for(operands)
        for member in members:
            inner.copy(member, copies)
        elements = _reshaped(inner, [copies[v] for v in sums], cut if length % part == 0 else flat)
        results = []
        for node, value in zip(reductions, elements, strict=True):
            if length % part:
                nothing = identity(node.op.combine, value.dtype)
                none = [0] * len(flat)
                high = [parts * part - length if d == run.start else 0 for d in range(len(flat))]
                value = inner.pad(
                    value, low=tuple(none), high=tuple(high), interior=tuple(none), value=nothing
                )
                value = inner.reshape(value, shape=cut)
            moved = [d for d in axes if d < run.start] + [run.start + 1]
            moved += [d - len(run) + 2 for d in axes if d >= run.stop]
            results.append(inner.emit(node.op, [value], {"axes": tuple(moved)}, (), node.loc).results[0])
        made = self._emit(inner, results, operands, "reduce", first)
        return dict(zip(reductions, made.results, strict=True))

    def _joined(
        self, outputs: Sequence[Value], reductions: Sequence[Node], partial: Mapping[Node, Value]
    ) -> None:
        """The parts' results as one, and what is made of it."""
        first = reductions[0]
        run = _longest_run(first.operands[0].shape, first.ints("axes"))
        axis = len([d for d in range(run.start) if d not in first.ints("axes")])
        done = {n.results[0]: n for n in reductions}
        members = _needed(outputs, {**self.outer, **dict.fromkeys(done)})
        read = list(dict.fromkeys(v for n in members for v in n.operands if v in self.outer))
        inner = Builder()
        copies = inner.inputs_for([*read, *partial.values()])
        for value, node in done.items():
            joined = inner.emit(node.op, [copies[partial[node]]], {"axes": (axis,)}, (), node.loc, node.name)
            copies[value] = joined.results[0]
        for member in members:
            inner.copy(member, copies)
        self.outer.update((v, v) for v in partial.values())
        self._emit(inner, [copies[v] for v in outputs], [*read, *partial.values()], "reduce", first, outputs)


def _longest_run(domain: Sequence[int], axes: Sequence[int]) -> range:
    """The neighbouring reduced dimensions with most elements."""
    runs: list[range] = []
    for d in axes:
        if runs and runs[-1].stop == d:
            runs[-1] = range(runs[-1].start, d + 1)
        else:
            runs.append(range(d, d + 1))
    return max(runs, key=lambda run: math.prod(domain[d] for d in run), default=range(0))


def _needed(outputs: Sequence[Value], known: Collection[Value]) -> list[Node]:
    """The nodes that make these values of what is known, in order."""
    found: set[Node] = set()
    stack = [v for v in outputs if v not in known]
    while stack:
        node = stack.pop().node
        if node not in found:
            found.add(node)
            stack.extend(v for v in node.operands if v not in known)
    return sorted(found, key=lambda n: n.serial)


def _reshaped(build: Builder, values: Sequence[Value], shape: tuple[int, ...]) -> list[Value]:
    """The values in another shape; what is made index by index is made in that shape, of reshaped operands."""
    new: dict[Value, Value] = {}
    order = _needed(values, ())
    inside = {v for v in values if "pointwise" in v.node.op.traits}
    for node in reversed(order):
        if node.results[0] in inside:
            inside.update(v for v in node.operands if "pointwise" in v.node.op.traits)

    def reshaped(value: Value) -> Value:
        if value not in new:
            node = value.node
            if (
                node.op.name == "const"
                and not node.operands
                and isinstance(node.attrs["value"], (bool, int, float))
            ):
                new[value] = build.splat(node.attrs["value"], TensorType(value.dtype, shape))
            elif node.op.name == "broadcast" and node.operands[0].type.size == 1:
                scalar = build.reshape(node.operands[0], shape=())
                new[value] = build.broadcast(scalar, dims=(), shape=shape)
            else:
                new[value] = build.reshape(value, shape=shape)
        return new[value]

    for node in order:
        if node.results[0] in inside:
            attrs: dict[str, Attr] = dict(node.attrs)
            if "type" in attrs:
                attrs["type"] = TensorType(node.type.dtype, shape)
            copy = build.emit(node.op, [reshaped(v) for v in node.operands], attrs, (), node.loc, node.name)
            new[node.results[0]] = copy.results[0]
    return [reshaped(v) for v in values]
