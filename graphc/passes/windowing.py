"""Algebra of windows: where they are slices, where they vanish into contractions, and where zeros are put around once.

In: nodes, by `passes.rewrite`. Out: `WINDOW_RULES`, a part of `passes.simplify.RULES`.
A convolution is contract(window(broadcast(x)), w). Its derivatives arise as sums over windows of contractions; the rules
below turn them into contractions over windows, so that no array of all windows is ever stored:

    sum_k window(contract(g, w)) = sum_k contract(window(broadcast(g)), w) = contract(window(broadcast(g)), w) over k too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from graphc.ir import ops
from graphc.ir.graph import Attrs, Node, Value
from graphc.ir.ops import pointwise, reduce
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import Geometry, emit_window, geometry
from graphc.passes.rewrite import Outcome, Rewriter, rewrite, splat_of

_LONGEST_CHAIN = 32  # views, or sums of products, that are looked through


@rewrite
def window_nothing(build: Rewriter, node: Node) -> Outcome:
    """window(x) of windows of one element that stay within x is a slice"""
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

    Not where the product is read elsewhere, and not where it is no larger than what windows make of it: of one element,
    or of those that touch, whose adjoint this is.
    """
    match node:
        case Node(
            op=ops.window, operands=[Value(Node(op=ops.contract, operands=[a, b]) as inner) as product]
        ):
            g = geometry(node.attrs)
            if product.shape[g.taps] <= g.base or not build.single_use(product):
                return None
            d = dimensions(inner.attrs, a.type.rank, b.type.rank)
            batch = len(d.lhs_batch)
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


@rewrite
def windows_of_added_contractions(build: Rewriter, node: Node) -> Outcome:
    """window(a + b) = window(a) + window(b), and Σ (a + b) = Σ a + Σ b in another order: where contractions take them in

    Only where both do, by the rules above; a derivative of a derivative adds such products.
    """
    if node.op not in (ops.window, ops.reduce_sum):
        return None
    match node.operands[0]:
        case Value(Node(op=pointwise.add, operands=[a, b])) as total:
            if not (build.single_use(total) and _takes_in(build, a, node) and _takes_in(build, b, node)):
                return None
            parts = [build.settle(build.emit(node.op, [v], node.attrs))[0] for v in (a, b)]
            return build.add(*parts)
    return None


def _takes_in(build: Rewriter, value: Value, node: Node, depth: int = 0) -> bool:
    """True of a product that a window or a sum vanishes into, and of a sum of such products."""
    match value:
        case Value(Node(op=pointwise.add, operands=[a, b])):
            deeper = build.single_use(value) and depth < _LONGEST_CHAIN
            return deeper and all(_takes_in(build, v, node, depth + 1) for v in (a, b))
    if not build.single_use(value):
        return False
    perm: Sequence[int] = range(value.type.rank)
    match value:
        case Value(Node(op=ops.transpose, operands=[x]) as inner):
            perm, value = inner.ints("perm"), x
    if value.node.op is not ops.contract or not build.single_use(value):
        return False
    left, right = value.node.operands
    d = dimensions(value.node.attrs, left.type.rank, right.type.rank)
    batch, rows = len(d.lhs_batch), len(d.lhs_batch) + len(d.lhs_free)
    if node.op is ops.reduce_sum:
        return any(perm[axis] < batch for axis in node.ints("axes"))
    at = [perm[node.int(name)] for name in ("axis", "taps")]
    if value.shape[at[1]] <= node.int("base"):
        return False
    return min(at) >= batch and (at[0] < rows) != (at[1] < rows)


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


# ------------------------------------------------------------------------------------------- windows that only touch


@rewrite
def windows_side_by_side(build: Rewriter, node: Node) -> Outcome:
    """window(broadcast(x)) of windows that lie side by side and fill x is a reshape: x[o · K + k]"""
    match node:
        case Node(op=ops.window, operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]):
            g, dims = geometry(node.attrs), inner.ints("dims")
            taps = inner.type.shape[g.taps]
            touch = g.dilation == g.base == 1 and g.offset == 0 and (g.stride == taps or g.size == 1)
            if not touch or g.taps in dims or g.axis not in dims or g.size * taps != inner.type.shape[g.axis]:
                return None
            own = dims.index(g.axis)
            cut = build.reshape(x, shape=(*x.shape[:own], g.size, taps, *x.shape[own + 1 :]))
            # what each dimension of it is in the result, and the order in which they are there
            places = [*dims[: own + 1], g.taps, *dims[own + 1 :]]
            order = tuple(sorted(range(len(places)), key=places.__getitem__))
            moved = build.transpose(cut, perm=order)
            return build.broadcast(moved, dims=tuple(sorted(places)), shape=node.type.shape)
    return None


def _are_apart(g: Geometry, taps: int) -> bool:
    """True of the adjoint of windows that touch: each position is in one of them."""
    return g.stride == 1 and g.dilation == -1 and g.base == taps


@rewrite
def sum_of_windows_side_by_side(build: Rewriter, node: Node) -> Outcome:
    """The sum over k of window(x), where an element is in one window alone, is a reshape: the adjoint of that one

    A float sum of one element and zeros is that element; of -0.0 it would be 0.0.
    """
    match node:
        case Node(op=ops.reduce_sum, operands=[Value(Node(op=ops.window, operands=[x]) as inner)]):
            g = geometry(inner.attrs)
            taps, length = x.shape[g.taps], x.shape[g.axis] * x.shape[g.taps]
            if (
                not _are_apart(g, taps)
                or node.ints("axes") != (g.taps,)
                or not 0 <= g.offset <= length - g.size
            ):
                return None
            rest = [d for d in range(x.type.rank) if d != g.taps]
            at = rest.index(g.axis)
            moved = build.transpose(x, perm=(*rest[: at + 1], g.taps, *rest[at + 1 :]))
            shape = [x.shape[d] for d in rest]
            joined = build.reshape(moved, shape=(*shape[:at], length, *shape[at + 1 :]))
            start = tuple(g.offset if d == at else 0 for d in range(len(shape)))
            return build.slice(joined, start=start, size=node.type.shape, step=(1,) * len(shape))
    return None


# ---------------------------------------------------------------------------------------------------------- maxima


@rewrite
def window_of_select(build: Rewriter, node: Node) -> Outcome:
    """window(x if c else 0) = (window(x) if d else 0), where d is window(c) inside of c and anything else

    The choice is then made where windows are read. Not where it is read elsewhere too, nor of windows that touch:
    all of their elements together are no more than those of what they are windows of.
    """
    match node:
        case Node(op=ops.window, operands=[Value(Node(op=ops.select, operands=[c, x, zero])) as choice]):
            g = geometry(node.attrs)
            if splat_of(zero) != 0 or not build.single_use(choice) or _are_apart(g, x.shape[g.taps]):
                return None
            operands = [_anywhere(build, c, g), emit_window(build, x, g), build.zeros(node.type)]
            return Value(build.emit(ops.select, operands, choice.node.attrs))
    return None


def _anywhere(build: Rewriter, value: Value, g: Geometry) -> Value:
    """window(value) where that is inside of the value, and anything elsewhere."""
    node = value.node
    if node.op is ops.broadcast and g.axis not in node.ints("dims"):
        shape = list(value.shape)
        shape[g.axis] = g.size
        return build.broadcast(node.operands[0], dims=node.ints("dims"), shape=tuple(shape))
    if node.op in (pointwise.eq, pointwise.ne):
        operands = [_anywhere(build, v, g) for v in node.operands]
        return build.settle(build.emit(node.op, operands, node.attrs))[0]
    return emit_window(build, value, g)


@rewrite
def largest_by_position(build: Rewriter, node: Node) -> Outcome:
    """Σ x where k is the position of the largest x, and 0 elsewhere, is max(x); of zeros of both signs it may be either

    Not where the position is read elsewhere: then it is known already.
    """
    match node:
        case Node(op=ops.reduce_sum, operands=[Value(Node(op=ops.select, operands=[c, x, zero]))]):
            match c:
                case Value(Node(op=pointwise.eq, operands=[counts, Value(Node(op=ops.broadcast) as spread)])):
                    (first,) = spread.operands
                case _:
                    return None
            axes = node.ints("axes")
            kept = tuple(d for d in range(x.type.rank) if d not in axes)
            if splat_of(zero) != 0 or first.node.op is not reduce.argmax or not build.single_use(c):
                return None
            # (a transposed or broadcast position is that of something else)
            if spread.ints("dims") != kept or not _is_count(counts, axes) or not build.single_use(first):
                return None
            (flat,) = first.node.operands
            if flat != x:
                if flat.node.op is not ops.reshape or flat.node.operands[0] != x:
                    return None
                joined = (*x.shape[: axes[0]], prod(x.shape[a] for a in axes), *x.shape[axes[-1] + 1 :])
                if axes != tuple(range(axes[0], axes[-1] + 1)) or flat.shape != joined:
                    return None
            if first.node.ints("axes") != axes[:1]:
                return None
            return build.reduce_max(x, axes=axes)
    return None


def _is_count(value: Value, axes: Sequence[int]) -> bool:
    """True of the row-major position within these dimensions, repeated along the others."""
    match value:
        case Value(Node(op=ops.iota)):
            return axes == (value.node.int("dim"),)
        case Value(Node(op=ops.broadcast, operands=[x]) as node) if node.ints("dims") == tuple(axes):
            while x.node.op is ops.reshape:
                x = x.node.operands[0]
            return x.node.op is ops.iota and x.type.rank == 1
    return False


WINDOW_RULES = (
    window_nothing,
    windows_side_by_side,
    sum_of_windows_side_by_side,
    window_of_select,
    largest_by_position,
    window_of_transpose,
    window_of_contract,
    sum_of_contract,
    windows_of_added_contractions,
    contract_of_padding_windows,
)
