"""Scatters by positions that sort, as gathers by the inverse: for targets where a scatter costs elements times indices.

In: a simplified graph. Out: an equal one. The cotangent of sorted values is such a scatter. On a processor it takes a
time in proportion to its indices, which is less than that of sorting once more, and stays.
"""

from __future__ import annotations

from graphc.ir import ops
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.ops import pointwise
from graphc.passes.regions import inside
from graphc.passes.rewrite import Outcome, Rewriter, apply, rewrite, splat_of


@rewrite
def scatter_of_order(build: Rewriter, node: Node) -> Outcome:
    """x + scatter(g, p) = x + g[argsort(p)] where p are the positions that sort lines, each within its own line.

    A permutation's argsort is its inverse; nothing is added to an element twice, so the order of the sum is the same.
    """
    if node.op is not ops.scatter_add:
        return None
    x, indices, updates = node.operands
    if x.type.rank != 1 or indices.type.size != x.type.size:
        return None
    order = _order_of(indices)
    if order is None:
        return None
    inverse = build.argsort(order, axis=order.node.int("axis"), descending=False)
    where = _flat(build, inverse, order.node.int("axis"))
    found = build.gather(build.reshape(updates, shape=x.shape), build.reshape(where, shape=x.shape), axis=0)
    return build.add(x, found)


def gather_permuted(graph: Graph) -> Graph:
    """The graph with the rule applied, in regions too.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, g = build.input(f32[5], "x"), build.input(f32[5], "g")
    >>> order = build.argsort(x, axis=0, descending=False)
    >>> graph = build.graph("f", [build.scatter_add(x, order, g, axis=0)])
    >>> [node.op.name for node in gather_permuted(graph).nodes]
    ['argsort', 'argsort', 'reshape', 'reshape', 'gather', 'add']
    """
    if not any(node.op is ops.argsort or node.regions for node in graph.nodes):
        return graph
    return apply(inside(graph, gather_permuted), (scatter_of_order,))


def _order_of(indices: Value) -> Value | None:
    """The argsort of whose positions `indices` are the flat ones: its own times a stride, and the other dimensions'."""
    while indices.node.op is ops.reshape:
        indices = indices.node.operands[0]
    terms = [indices]
    found: list[tuple[Value, int]] = []
    while terms:
        term = terms.pop()
        if term.node.op is pointwise.add:
            terms += term.node.operands
            continue
        stride = 1
        if term.node.op is pointwise.mul:
            numbers = [splat_of(v) for v in term.node.operands]
            at = next((i for i, n in enumerate(numbers) if n is not None), None)
            if at is None:
                return None
            stride, term = int(numbers[at] or 0), term.node.operands[1 - at]
        if term.node.op is ops.cast:
            term = term.node.operands[0]
        found.append((term, stride))
    orders = [(v, s) for v, s in found if v.node.op is ops.argsort]
    if len(orders) != 1:
        return None
    order, _ = orders[0]
    wanted = {(d, s) for d, s in enumerate(_strides(order.shape)) if order.shape[d] != 1}
    got = set()
    for value, stride in found:
        if value.node.op is ops.argsort:
            dimension = value.node.int("axis")
        elif value.node.op is ops.iota and value.shape == order.shape:
            dimension = value.node.int("dim")
        else:
            return None
        if order.shape[dimension] != 1:
            got.add((dimension, stride))
    return order if got == wanted and len(found) == len({d for d, _ in got}) else None


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return strides[::-1]


def _flat(build: Rewriter, positions: Value, axis: int) -> Value:
    """The places in the flattened array of positions along an axis."""
    flat = positions
    strides = _strides(positions.shape)
    if strides[axis] != 1:
        flat = build.mul(flat, build.splat(strides[axis], flat.type))
    for d, n in enumerate(positions.shape):
        if d != axis and n != 1:
            along = build.iota(dim=d, type=positions.type)
            flat = build.add(flat, build.mul(along, build.splat(strides[d], flat.type)))
    return flat
