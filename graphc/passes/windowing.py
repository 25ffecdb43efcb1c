"""Algebra of windows: where they are slices, where they vanish into contractions, and where zeros are put around once.

In: nodes, by `passes.rewrite`. Out: `WINDOW_RULES`, a part of `passes.simplify.RULES`.
A convolution is contract(window(broadcast(x)), w). Its derivatives arise as sums over windows of contractions; the rules
below turn them into contractions over windows, so that no array of all windows is ever stored:

    sum_k window(contract(g, w)) = sum_k contract(window(broadcast(g)), w) = contract(window(broadcast(g)), w) over k too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir import ops
from graphc.ir.graph import Attrs, Node, Value
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import Geometry, emit_window, geometry
from graphc.passes.rewrite import Outcome, Rewriter, rewrite

_LONGEST_CHAIN = (
    32  # views between a contraction and what it reads: more of them are looked through no further
)


@rewrite
def window_nothing(build: Rewriter, node: Node) -> Outcome:
    """window(x) of windows of one element, each the next one of x = x; of those within x it is a slice"""
    match node:
        case Node(op=ops.window, operands=[x]):
            g = geometry(node.attrs)
            if x.shape[g.taps] != 1 or x.type.size == 0 or not g.stays_inside(x.shape):
                return None
            start, step = [0] * x.type.rank, [1] * x.type.rank
            start[g.axis], step[g.axis] = g.offset if g.size else 0, g.stride
            return build.slice(x, start=tuple(start), size=node.type.shape, step=tuple(step))
    return None


@rewrite
def window_of_transpose(build: Rewriter, node: Node) -> Outcome:
    """window(transpose(x, p)) = transpose(window(x), p)"""
    match node:
        case Node(op=ops.window, operands=[Value(Node(op=ops.transpose, operands=[x]) as inner)]):
            g, perm = geometry(node.attrs), inner.ints("perm")
            moved = emit_window(build, x, replace(g, axis=perm[g.axis], taps=perm[g.taps]))
            return build.transpose(moved, perm=perm)
    return None


@rewrite
def window_of_contract(build: Rewriter, node: Node) -> Outcome:
    """window(contract(a, b)) = contract(window(broadcast(a)), b) paired along k, where b alone has k and a slides

    Not where the product is read elsewhere, and not of windows of one element: the product is smaller before them.
    """
    match node:
        case Node(
            op=ops.window, operands=[Value(Node(op=ops.contract, operands=[a, b]) as inner) as product]
        ):
            g = geometry(node.attrs)
            if product.shape[g.taps] == 1 or not build.single_use(product):
                return None
            d = dimensions(inner.attrs, a.type.rank, b.type.rank)
            batch, rows = len(d.lhs_batch), len(d.lhs_free)
            # the dimension of a result is that of the left or the right operand
            free = [(0, i) for i in d.lhs_free] + [(1, i) for i in d.rhs_free]
            if min(g.axis, g.taps) < batch:
                return None
            (slides, axis), (counts, taps) = free[g.axis - batch], free[g.taps - batch]
            if slides == counts:
                return None
            operands = [a, b]
            x = operands[slides]
            spread = build.broadcast(
                x, dims=tuple(range(x.type.rank)), shape=(*x.shape, product.shape[g.taps])
            )
            operands[slides] = emit_window(build, spread, replace(g, axis=axis, taps=x.type.rank))
            paired = (x.type.rank, taps) if slides == 0 else (taps, x.type.rank)
            made = build.contract(
                *operands,
                axes=(d.lhs_summed, d.rhs_summed),
                batch=((*d.lhs_batch, paired[0]), (*d.rhs_batch, paired[1])),
            )
            # k now stands behind the other batch dimensions
            order = [*range(batch), g.taps, *(i for i in range(batch, batch + len(free)) if i != g.taps)]
            perm = tuple(order.index(i) for i in range(len(order)))
            assert rows + len(d.rhs_free) == len(free)
            return build.transpose(made, perm=perm)
    return None


@rewrite
def sum_of_contract(build: Rewriter, node: Node) -> Outcome:
    """The sum of a contraction over a batch dimension is a contraction that sums it; sums are taken in another order.

    Not where the product is read elsewhere.
    """
    match node:
        case Node(op=ops.reduce_sum, operands=[value]):
            perm: Sequence[int] = range(value.type.rank)
            match value:
                case Value(Node(op=ops.transpose, operands=[product]) as inner):
                    perm = inner.ints("perm")
                case _:
                    product = value
            match product:
                case Value(Node(op=ops.contract, operands=[a, b]) as contraction):
                    pass
                case _:
                    return None
            d = dimensions(contraction.attrs, a.type.rank, b.type.rank)
            batch = len(d.lhs_batch)
            summed = [perm[axis] for axis in node.ints("axes")]
            gone = [i for i in summed if i < batch]
            if not gone or not (build.single_use(value) and build.single_use(product)):
                return None
            kept = [i for i in range(batch) if i not in gone]
            made = build.contract(
                a,
                b,
                axes=(
                    (*(d.lhs_batch[i] for i in gone), *d.lhs_summed),
                    (*(d.rhs_batch[i] for i in gone), *d.rhs_summed),
                ),
                batch=(tuple(d.lhs_batch[i] for i in kept), tuple(d.rhs_batch[i] for i in kept)),
            )
            # what the dimensions of the new product were in the old one
            stands_for = [i for i in range(product.type.rank) if i not in gone]
            rest = [stands_for.index(i) for i in summed if i not in gone]
            if rest:
                made = build.reduce_sum(made, axes=tuple(sorted(rest)))
            left = [i for i in stands_for if i not in summed]
            order = [i for i in perm if i not in summed]
            return build.transpose(made, perm=tuple(left.index(i) for i in order))
    return None


# ------------------------------------------------------------------------------------------------- zeros around


@rewrite
def contract_of_padding_windows(build: Rewriter, node: Node) -> Outcome:
    """contract(window(x), y) = contract(window(pad(x)), y), where windows reach beyond x or lie between its elements

    The zeros are stored once, around and between the elements of x. A contraction then reads windows as it reads any
    array, without a condition for each of its products.
    """
    if node.op is not ops.contract:
        return None
    operands = [_with_zeros(build, v) for v in node.operands]
    if operands == list(node.operands):
        return None
    return Value(build.emit(ops.contract, operands, node.attrs))


def _with_zeros(build: Rewriter, value: Value) -> Value:
    """The value with windows that stay inside, by zeros around what they are windows of."""
    chain: list[Node] = []  # from the outermost view to the innermost
    last = -1  # the innermost window that does not stay inside
    x = value
    while x.node.op in (ops.window, ops.broadcast, ops.transpose, ops.reshape, ops.slice_):
        if len(chain) == _LONGEST_CHAIN:
            return value
        if x.node.op is ops.window and not geometry(x.node.attrs).stays_inside(x.node.operands[0].shape):
            if x.node.operands[0].type.size == 0:
                return value
            last = len(chain)
        chain.append(x.node)
        x = x.node.operands[0]
    if last < 0:
        return value
    made = chain[last].operands[0]
    for view in reversed(chain[: last + 1]):
        g = geometry(view.attrs) if view.op is ops.window else None
        if g is None or g.stays_inside(made.shape):
            made = build.settle(build.emit(view.op, [made], view.attrs))[0]
        else:
            made = _window_inside(build, made, g)
    return made


def _window_inside(build: Rewriter, x: Value, g: Geometry) -> Value:
    """window(x) as a window, with base 1, of x with zeros."""
    first, last = g.span(x.shape[g.taps])
    length = (x.shape[g.axis] - 1) * g.base + 1
    low, high = max(0, -first), max(0, last + 1 - length)
    padded = _padded(build, x, g.axis, low, high, g.base - 1)
    return emit_window(build, padded, replace(g, offset=g.offset + low, base=1))


def _padded(build: Rewriter, x: Value, axis: int, low: int, high: int, interior: int) -> Value:
    """pad(x) along one dimension, as near to where x is stored as views let it through."""
    views: list[tuple[Node, int]] = []
    while len(views) < _LONGEST_CHAIN:
        node = x.node
        if node.op is ops.broadcast and axis in node.ints("dims"):
            inner = node.ints("dims").index(axis)
        elif node.op is ops.transpose:
            inner = node.ints("perm")[axis]
        elif node.op is ops.window and axis not in (node.int("axis"), node.int("taps")):
            inner = axis
        else:
            break
        views.append((node, axis))
        x, axis = node.operands[0], inner
    widths = {name: [0] * x.type.rank for name in ("low", "high", "interior")}
    match x:
        case Value(Node(op=ops.pad, operands=[y]) as pad) if pad.attrs["value"] == 0 and not any(
            pad.ints(name)[axis] for name in widths
        ):
            x, widths = y, {name: list(pad.ints(name)) for name in widths}
    for name, width in (("low", low), ("high", high), ("interior", interior)):
        widths[name][axis] = width
    made = build.pad(x, value=0.0 if x.dtype.is_float else 0, **{k: tuple(v) for k, v in widths.items()})
    for node, outer in reversed(views):
        attrs: Attrs = dict(node.attrs)
        if node.op is ops.broadcast:
            shape = list(node.type.shape)
            shape[outer] = made.shape[node.ints("dims").index(outer)]
            attrs = {**attrs, "shape": tuple(shape)}
        made = build.settle(build.emit(node.op, [made], attrs))[0]
    return made


WINDOW_RULES = (
    window_nothing,
    window_of_transpose,
    window_of_contract,
    sum_of_contract,
    contract_of_padding_windows,
)
