"""Algebra of shapes: views compose, cancel, move onto smaller operands, and vanish into contractions.

In: nodes, by `passes.rewrite`. Out: `SHAPE_RULES`, the second half of `passes.simplify.RULES`.
Views move elements and compute nothing, so each of their rules is an equality of index maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.ir import ops
from graphc.ir.graph import Attr, Node, Value
from graphc.ir.opdef import INPUT
from graphc.ir.ops import reduce
from graphc.ir.ops.contract import dimensions
from graphc.ir.types import TensorType
from graphc.passes.rewrite import Outcome, Rewriter, rewrite, splat_of, wrapped

_EXTREMA = (reduce.reduce_max, reduce.reduce_min, reduce.reduce_any, reduce.reduce_all)


def is_identity(perm: Sequence[int]) -> bool:
    return list(perm) == list(range(len(perm)))


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _other_than_one(shape: Sequence[int]) -> tuple[int, ...]:
    """The dimensions whose size is not 1."""
    return tuple(d for d, n in enumerate(shape) if n != 1)


# -------------------------------------------------------------------------------------------------- broadcast


@rewrite
def broadcast_nothing(build: Rewriter, node: Node) -> Outcome:
    """broadcast(x) that adds no dimension = x; one that adds only dimensions of size 1 is a reshape"""
    match node:
        case Node(op=ops.broadcast, operands=[x]):
            if x.shape == node.type.shape:
                return x
            if x.type.size == node.type.size and _without_ones(x.shape) == _without_ones(node.type.shape):
                return build.reshape(x, shape=node.type.shape)
    return None


@rewrite
def broadcast_of_broadcast(build: Rewriter, node: Node) -> Outcome:
    """broadcast(broadcast(x, d), e) = broadcast(x, e[d])"""
    match node:
        case Node(op=ops.broadcast, operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]):
            outer = node.ints("dims")
            dims = tuple(outer[d] for d in inner.ints("dims"))
            return build.broadcast(x, dims=dims, shape=node.ints("shape"))
    return None


@rewrite
def broadcast_of_unit_dims(build: Rewriter, node: Node) -> Outcome:
    """broadcast(reshape(x, with 1s put in), d) = broadcast(x, d without those of the 1s)"""
    match node:
        case Node(op=ops.broadcast, operands=[Value(Node(op=ops.reshape, operands=[x]) as inner)]):
            if 1 in x.shape or _without_ones(inner.type.shape) != x.shape:
                return None
            outer = node.ints("dims")
            dims = tuple(outer[d] for d in _other_than_one(inner.type.shape))
            return build.broadcast(x, dims=dims, shape=node.ints("shape"))
    return None


@rewrite
def pointwise_of_broadcasts(build: Rewriter, node: Node) -> Outcome:
    """f(broadcast(x), broadcast(y)) = broadcast(f(x, y)): f is computed once for each different operand."""
    if "pointwise" not in node.op.traits:
        return None
    shape = node.type.shape
    used: set[int] = set()
    spread = False
    for operand in node.operands:
        source = operand.node
        if source.op is ops.broadcast:
            used.update(source.ints("dims"))
            spread = True
        elif splat_of(operand) is None:
            return None
    if not spread or len(used) == len(shape):
        return None
    dims = tuple(sorted(used))
    small = tuple(shape[d] for d in dims)
    operands = []
    for operand in node.operands:
        source, number = operand.node, splat_of(operand)
        if number is not None:
            operands.append(build.splat(number, TensorType(operand.dtype, small)))
        else:
            (x,), own = source.operands, tuple(dims.index(d) for d in source.ints("dims"))
            operands.append(x if x.shape == small else build.broadcast(x, dims=own, shape=small))
    attrs: dict[str, Attr] = {
        k: TensorType(v.dtype, small) if isinstance(v, TensorType) else v for k, v in node.attrs.items()
    }
    once = build.settle(build.emit(node.op, operands, attrs))[0]
    return build.broadcast(once, dims=dims, shape=shape)


@rewrite
def pointwise_of_unit_dims(build: Rewriter, node: Node) -> Outcome:
    """f(reshape(x, with 1s put in), c) = reshape(f(x, c)): what follows a reduction has its shape, and its kernel"""
    if "pointwise" not in node.op.traits:
        return None
    inner = [v.node.operands[0] for v in node.operands if v.node.op is ops.reshape]
    numbers = [splat_of(v) for v in node.operands]
    shapes = {x.shape for x in inner}
    if len(shapes) != 1 or len(inner) + sum(n is not None for n in numbers) != len(numbers):
        return None
    (small,), shape = shapes, node.type.shape
    # a view of an input costs nothing where it is; of an output it would be a copy
    computed = all(x.node.op is not INPUT and x.node.op is not ops.const for x in inner)
    if not computed or len(small) >= len(shape) or _without_ones(small) != _without_ones(shape):
        return None
    given = iter(inner)
    operands = [
        next(given) if number is None else build.splat(number, TensorType(operand.dtype, small))
        for operand, number in zip(node.operands, numbers, strict=True)
    ]
    attrs: dict[str, Attr] = {
        k: TensorType(v.dtype, small) if isinstance(v, TensorType) else v for k, v in node.attrs.items()
    }
    return build.reshape(build.settle(build.emit(node.op, operands, attrs))[0], shape=shape)


# ----------------------------------------------------------------------------------------- reshape, transpose


@rewrite
def reshape_nothing(build: Rewriter, node: Node) -> Outcome:
    """reshape(x) to its own shape = x"""
    match node:
        case Node(op=ops.reshape, operands=[x]) if x.shape == node.type.shape:
            return x
    return None


@rewrite
def reshape_of_reshape(build: Rewriter, node: Node) -> Outcome:
    """reshape(reshape(x, s), t) = reshape(x, t)"""
    match node:
        case Node(op=ops.reshape, operands=[Value(Node(op=ops.reshape, operands=[x]))]):
            return build.reshape(x, shape=node.type.shape)
    return None


@rewrite
def reshape_of_broadcast(build: Rewriter, node: Node) -> Outcome:
    """reshape(broadcast(x)) that puts in or takes out 1s = broadcast(x without 1s)"""
    match node:
        case Node(op=ops.reshape, operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]):
            before, after = inner.type.shape, node.type.shape
            if _without_ones(before) != _without_ones(after):
                return None
            moved = dict(zip(_other_than_one(before), _other_than_one(after), strict=True))
            dims = tuple(moved[d] for d in inner.ints("dims") if before[d] != 1)
            small = build.reshape(x, shape=_without_ones(x.shape))
            return build.broadcast(small, dims=dims, shape=after)
    return None


@rewrite
def transpose_nothing(build: Rewriter, node: Node) -> Outcome:
    """transpose(x, identity) = x"""
    match node:
        case Node(op=ops.transpose, operands=[x]) if is_identity(node.ints("perm")):
            return x
    return None


@rewrite
def transpose_of_transpose(build: Rewriter, node: Node) -> Outcome:
    """transpose(transpose(x, p), q) = transpose(x, p[q])"""
    match node:
        case Node(op=ops.transpose, operands=[Value(Node(op=ops.transpose, operands=[x]) as inner)]):
            perm = inner.ints("perm")
            return build.transpose(x, perm=tuple(perm[d] for d in node.ints("perm")))
    return None


@rewrite
def transpose_of_broadcast(build: Rewriter, node: Node) -> Outcome:
    """transpose(broadcast(x)) = broadcast(transpose(x))"""
    match node:
        case Node(op=ops.transpose, operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]):
            perm, dims = node.ints("perm"), inner.ints("dims")
            moved = [perm.index(d) for d in dims]
            order = tuple(sorted(range(len(moved)), key=moved.__getitem__))
            small = build.transpose(x, perm=order)
            return build.broadcast(small, dims=tuple(sorted(moved)), shape=node.type.shape)
    return None


# ----------------------------------------------------------------------------------------- slice, concat, pad


@rewrite
def slice_nothing(build: Rewriter, node: Node) -> Outcome:
    """slice(x) that takes all of x, forwards = x"""
    match node:
        case Node(op=ops.slice_, operands=[x]) if x.shape == node.type.shape:
            # of all n elements only a slice that starts at 0 goes forwards; one element has no direction
            if all(start == 0 for start in node.ints("start")):
                return x
    return None


@rewrite
def slice_of_slice(build: Rewriter, node: Node) -> Outcome:
    """slice(slice(x, a, s), b, t) = slice(x, a + b·s, s·t)"""
    match node:
        case Node(op=ops.slice_, operands=[Value(Node(op=ops.slice_, operands=[x]) as inner)]):
            first, stride = inner.ints("start"), inner.ints("step")
            start = tuple(a + b * s for a, b, s in zip(first, node.ints("start"), stride, strict=True))
            step = tuple(s * t for s, t in zip(stride, node.ints("step"), strict=True))
            return build.slice(x, start=start, size=node.type.shape, step=step)
    return None


@rewrite
def slice_of_broadcast(build: Rewriter, node: Node) -> Outcome:
    """slice(broadcast(x)) = broadcast(slice(x)); a repeated dimension only gets shorter"""
    match node:
        case Node(op=ops.slice_, operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]):
            dims = inner.ints("dims")
            start, size, step = (tuple(node.ints(k)[d] for d in dims) for k in ("start", "size", "step"))
            small = build.slice(x, start=start, size=size, step=step)
            return build.broadcast(small, dims=dims, shape=node.type.shape)
    return None


@rewrite
def slice_of_concat(build: Rewriter, node: Node) -> Outcome:
    """slice(concat(x, y)) that lies within x = slice(x), and so for y"""
    match node:
        case Node(op=ops.slice_, operands=[Value(Node(op=ops.concat) as inner)]) if node.type.size > 0:
            axis = inner.int("axis")
            start, size, step = node.ints("start"), node.ints("size"), node.ints("step")
            ends = (start[axis], start[axis] + (size[axis] - 1) * step[axis])
            offset = 0
            for part in inner.operands:
                length = part.shape[axis]
                if offset <= min(ends) and max(ends) < offset + length:
                    within = (*start[:axis], start[axis] - offset, *start[axis + 1 :])
                    return build.slice(part, start=within, size=size, step=step)
                offset += length
    return None


@rewrite
def concat_of_one(build: Rewriter, node: Node) -> Outcome:
    """concat(x) = x; an operand without elements along the axis is left out"""
    if node.op is not ops.concat:
        return None
    axis = node.int("axis")
    parts = [v for v in node.operands if v.shape[axis] > 0] or list(node.operands[:1])
    if len(parts) == 1:
        return parts[0]
    return build.concat(*parts, axis=axis) if len(parts) < len(node.operands) else None


@rewrite
def pad_nothing(build: Rewriter, node: Node) -> Outcome:
    """pad(x) by nothing = x"""
    match node:
        case Node(op=ops.pad, operands=[x]) if x.shape == node.type.shape:
            return x
    return None


# ------------------------------------------------------------------------------------------------- reductions


@rewrite
def reduce_nothing(build: Rewriter, node: Node) -> Outcome:
    """reduce(x) over no axes = x; over axes of size 1 it is a reshape

    A float sum of the one element -0.0 is then -0.0, where 0.0 + (-0.0) would give 0.0.
    """
    if "reduction" not in node.op.traits or "index" in node.op.traits:
        return None
    (x,) = node.operands
    if all(x.shape[a] == 1 for a in node.ints("axes")):
        return build.reshape(x, shape=node.type.shape)
    return None


@rewrite
def reduce_of_reduce(build: Rewriter, node: Node) -> Outcome:
    """reduce(reduce(x)) = reduce(x) over the axes of both: extrema, logic and integer sums are associative.

    Not where the inner one is read elsewhere: it would be computed twice. A float sum would round otherwise.
    """
    match node:
        case Node(operands=[Value(Node(op=node.op, operands=[x]) as inner) as value]) if _is_exact(node):
            if not build.single_use(value):
                return None
            first = inner.ints("axes")
            kept = [d for d in range(x.type.rank) if d not in first]
            axes = sorted({*first, *(kept[a] for a in node.ints("axes"))})
            return Value(build.emit(node.op, [x], {"axes": tuple(axes)}))
    return None


@rewrite
def reduce_of_broadcast(build: Rewriter, node: Node) -> Outcome:
    """An extremum over equal elements is one of them; an integer sum is their number times one of them."""
    match node:
        case Node(operands=[Value(Node(op=ops.broadcast, operands=[x]) as inner)]) if _is_exact(node):
            shape, dims, axes = inner.type.shape, inner.ints("dims"), node.ints("axes")
            repeats = math.prod(shape[a] for a in axes if a not in dims)
            if repeats == 0 or set(axes) <= set(dims):
                return None
            own = tuple(i for i, d in enumerate(dims) if d in axes)
            small = build.settle(build.emit(node.op, [x], {"axes": own}))[0]
            if node.op is ops.reduce_sum:
                small = build.mul(small, build.splat(wrapped(repeats, small.dtype), small.type))
            kept = [d for d in range(len(shape)) if d not in axes]
            spread = tuple(kept.index(d) for d in dims if d not in axes)
            return build.broadcast(small, dims=spread, shape=node.type.shape)
    return None


def _is_exact(node: Node) -> bool:
    """A reduction whose result does not depend on the order and grouping of the elements."""
    return node.op in _EXTREMA or (node.op is ops.reduce_sum and node.type.dtype.is_integer)


# ------------------------------------------------------------------------------------------------ contraction


@rewrite
def contract_of_transpose(build: Rewriter, node: Node) -> Outcome:
    """contract(transpose(x, p), y) = contract(x, y) with axes p[a], where p keeps x's free dims in order"""
    if node.op is not ops.contract:
        return None
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    left = _through_transpose(lhs, d.lhs_free, d.lhs_summed, d.lhs_batch)
    right = _through_transpose(rhs, d.rhs_free, d.rhs_summed, d.rhs_batch)
    if left is None and right is None:
        return None
    x, lhs_summed, lhs_batch = left or (lhs, d.lhs_summed, d.lhs_batch)
    y, rhs_summed, rhs_batch = right or (rhs, d.rhs_summed, d.rhs_batch)
    return build.contract(x, y, axes=(lhs_summed, rhs_summed), batch=(lhs_batch, rhs_batch))


def _through_transpose(
    operand: Value, free: Sequence[int], summed: Sequence[int], batch: Sequence[int]
) -> tuple[Value, tuple[int, ...], tuple[int, ...]] | None:
    """The operand before its transpose, its summed and batch dims; None where the result would change."""
    match operand:
        case Value(Node(op=ops.transpose, operands=[x]) as node):
            perm = node.ints("perm")
            order = [perm[d] for d in free]
            if order == sorted(order):
                return x, tuple(perm[d] for d in summed), tuple(perm[d] for d in batch)
    return None


@rewrite
def transpose_of_contract(build: Rewriter, node: Node) -> Outcome:
    """(A B)ᵀ = Bᵀ Aᵀ: where the transpose exchanges both sides' free dims, contract(b, a) is laid out so.

    Batch dimensions may change places among themselves. Not where the product is read elsewhere too.
    """
    match node:
        case Node(
            op=ops.transpose, operands=[Value(Node(op=ops.contract, operands=[a, b]) as inner) as product]
        ):
            if not build.single_use(product):
                return None
            d = dimensions(inner.attrs, a.type.rank, b.type.rank)
            pairs, rows, cols = len(d.lhs_batch), len(d.lhs_free), len(d.rhs_free)
            perm = node.ints("perm")
            order, rest = perm[:pairs], perm[pairs:]
            straight = tuple(range(pairs, pairs + rows + cols))
            crossed = straight[rows:] + straight[:rows]
            if sorted(order) != list(range(pairs)) or rest not in (straight, crossed):
                return None
            lhs_batch, rhs_batch = (tuple(side[i] for i in order) for side in (d.lhs_batch, d.rhs_batch))
            if rest == straight:
                return build.contract(a, b, axes=(d.lhs_summed, d.rhs_summed), batch=(lhs_batch, rhs_batch))
            return build.contract(b, a, axes=(d.rhs_summed, d.lhs_summed), batch=(rhs_batch, lhs_batch))
    return None


SHAPE_RULES = (
    broadcast_nothing,
    broadcast_of_broadcast,
    broadcast_of_unit_dims,
    pointwise_of_broadcasts,
    pointwise_of_unit_dims,
    reshape_nothing,
    reshape_of_reshape,
    reshape_of_broadcast,
    transpose_nothing,
    transpose_of_transpose,
    transpose_of_broadcast,
    slice_nothing,
    slice_of_slice,
    slice_of_broadcast,
    slice_of_concat,
    concat_of_one,
    pad_nothing,
    reduce_nothing,
    reduce_of_reduce,
    reduce_of_broadcast,
    contract_of_transpose,
    transpose_of_contract,
)
