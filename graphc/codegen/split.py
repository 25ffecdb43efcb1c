"""Long sums cut into chunks, where a product alone has too few tiles to keep a device busy (split-K).

In: a fused graph, a target. Out: a fused graph in which such a contraction is two regions: one contracts each chunk of
the sum as a further batch, the other one adds the chunks' results in order and holds what the contraction's epilogue was.
How many chunks depends on the shapes and the target's table alone, and nothing is added out of order: a program gives
the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.gpu.contract import form_cost
from graphc.codegen.schedules.gpu.tiling import LAUNCH, work_of
from graphc.codegen.schedules.operands import contractions, product_of
from graphc.codegen.target import Target
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.ops.contract import dimensions
from graphc.ir.types import f32

_SHORTEST = 32  # elements of a chunk
_MOST = 256  # chunks
_PAYS = 0.9  # a gain of less is within the error of the model
_REDUCE = 1500.0  # cycles of the second kernel before and after its memory accesses


def split_sums(graph: Graph, target: Target) -> Graph:
    """The graph with the sums cut that are faster so; the graph itself on targets without threads.

    >>> from graphc.codegen.target import target_from_name
    >>> split_sums(Builder().graph("empty", [], "fused"), target_from_name("nvptx64")).nodes
    ()
    """
    if not target.has_threads:
        return graph
    chunks = {
        node: count
        for node in graph.nodes
        if node.attrs.get("kind") == "contract" and (count := chunk_count(node.regions[0], target)) > 1
    }
    if not chunks:
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        if node in chunks:
            operands = [new[v] for v in node.operands]
            new.update(zip(node.results, _split(build, node, operands, chunks[node]), strict=True))
            continue
        build.copy(node, new)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def chunk_count(region: Graph, target: Target) -> int:
    """In how many chunks a contract region's sum is cut; 1: it stays whole."""
    device = target.device
    found = contractions(region)
    if device is None or len(found) != 1 or any("reduction" in n.op.traits for n in region.nodes):
        return 1
    product = product_of(collapse_contraction(region))
    values = (product.result, product.left.value, product.right.value)
    if any(v.dtype is not f32 for v in values) or 0 in (*product.result.shape, product.depth):
        return 1
    work = work_of(product, target.precision)
    whole = form_cost(work, device)
    best, count = _PAYS * whole, 1
    size = 4 * product.result.type.size
    rate = device.cache_bytes * device.multiprocessors
    for chunks in _counts(max(_summed_extents(found[0]))):
        partial = size * chunks
        extra = LAUNCH + _REDUCE + (partial + size * product.accesses) / rate
        if extra >= best:
            break
        operands = work.moved - size * product.accesses
        cut = replace(
            work,
            depth=-(-work.depth // chunks),
            batches=work.batches * chunks,
            moved=operands + partial,
        )
        taken = form_cost(cut, device) + extra
        if taken < best:
            best, count = taken, chunks
    return count


def _summed_extents(contraction: Node) -> list[int]:
    lhs, rhs = contraction.operands
    d = dimensions(contraction.attrs, lhs.type.rank, rhs.type.rank)
    return [lhs.shape[i] for i in d.lhs_summed] or [1]


def _counts(extent: int) -> Iterator[int]:
    """The numbers of chunks that are tried: divisors; where there are few of those, powers of two with a padded end."""
    most = min(_MOST, extent // _SHORTEST)
    divisors = [n for n in range(2, most + 1) if extent % n == 0]
    powers = [2**i for i in range(1, max(most, 1).bit_length()) if 2**i <= most]
    yield from divisors if len(divisors) >= len(powers) / 2 else sorted({*divisors, *powers})


def _split(build: Builder, node: Node, operands: list[Value], chunks: int) -> list[Value]:
    """Emits both regions for a fused node; gives its results."""
    region = node.regions[0]
    (contraction,) = contractions(region)
    needed = _feeding(contraction)
    members = [n for n in region.nodes if n in needed]
    inner = Builder()
    inputs = [v for v in region.inputs if any(v in n.operands for n in (*members, contraction))]
    copies = inner.inputs_for(inputs)
    for member in members:
        inner.copy(member, copies)
    lhs, rhs = (copies[v] for v in contraction.operands)
    d = dimensions(contraction.attrs, lhs.type.rank, rhs.type.rank)
    longest = max(range(len(d.lhs_summed)), key=lambda i: lhs.shape[d.lhs_summed[i]])
    left, right = (
        _cut(inner, value, dims[longest], chunks)
        for value, dims in ((lhs, d.lhs_summed), (rhs, d.rhs_summed))
    )

    def moved(dims: tuple[int, ...], at: int) -> tuple[int, ...]:
        return tuple(i + (i >= at) for i in dims)

    at_left, at_right = d.lhs_summed[longest], d.rhs_summed[longest]
    attrs = dict(contraction.attrs)
    attrs["axes"] = (moved(d.lhs_summed, at_left), moved(d.rhs_summed, at_right))
    attrs["batch"] = ((at_left, *moved(d.lhs_batch, at_left)), (at_right, *moved(d.rhs_batch, at_right)))
    (partial,) = inner.emit(contraction.op, [left, right], attrs, (), contraction.loc).results
    outer = dict(zip(region.inputs, operands, strict=True))
    body = inner.graph(region.name, [partial])
    made = build.emit(node.op, [outer[v] for v in inputs], node.attrs, (body,), node.loc)
    return _added(build, node, contraction, outer, made.results[0])


def _added(
    build: Builder, node: Node, contraction: Node, outer: dict[Value, Value], partial: Value
) -> list[Value]:
    """Emits the region that adds the chunks and does what the contraction's readers did."""
    region = node.regions[0]
    after = _needed_without(region, contraction)
    used = [v for v in region.inputs if v in region.outputs or any(v in n.operands for n in after)]
    inner = Builder()
    chunked = inner.input(partial.type, "chunks")
    copies = inner.inputs_for(used)
    copies[contraction.results[0]] = inner.reduce_sum(chunked, axes=(0,))
    for member in after:
        inner.copy(member, copies)
    body = inner.graph(region.name, [copies[v] for v in region.outputs])
    attrs = {**node.attrs, "kind": "reduce"}
    made = build.emit(node.op, [partial, *(outer[v] for v in used)], attrs, (body,), node.loc, node.name)
    return list(made.results)


def _cut(build: Builder, value: Value, dim: int, chunks: int) -> Value:
    """The value with a dimension as two: chunks, and what is in each; the last one is filled up with zeros."""
    extent = value.shape[dim]
    size = -(-extent // chunks)
    if size * chunks != extent:
        none = (0,) * value.type.rank
        high = tuple(size * chunks - extent if i == dim else 0 for i in range(value.type.rank))
        value = build.pad(value, low=none, high=high, interior=none, value=0.0)
    return build.reshape(value, shape=(*value.shape[:dim], chunks, size, *value.shape[dim + 1 :]))


def _feeding(node: Node) -> set[Node]:
    """What a node is made of."""
    found: set[Node] = set()
    stack = [v.node for v in node.operands]
    while stack:
        member = stack.pop()
        if member not in found and member.op.name != "input":
            found.add(member)
            stack.extend(v.node for v in member.operands)
    return found


def _needed_without(region: Graph, contraction: Node) -> list[Node]:
    """The nodes that the results need, where the contraction's result is given."""
    found: set[Node] = set()
    stack = [v.node for v in region.outputs]
    while stack:
        member = stack.pop()
        if member in found or member is contraction or member.op.name == "input":
            continue
        found.add(member)
        stack.extend(v.node for v in member.operands)
    return [n for n in region.nodes if n in found]
