"""Rules for values that are ordered after others: what needs no memory needs no order either.

In: nodes while a graph is rewritten. Out: `ORDER_RULES`, a part of `simplify.RULES`. After them both operands of every
`after` are values that are computed, so that a plan finds the memory that the result shares.
"""

from __future__ import annotations

from graphc.ir import ops
from graphc.ir.graph import Node
from graphc.passes.rewrite import Outcome, Rewriter, rewrite

_MOVES = (ops.broadcast, ops.reshape, ops.transpose, ops.slice_)


@rewrite
def order_of_leaf(build: Rewriter, node: Node) -> Outcome:
    """after(c, t) = c for a constant c: it is there whenever it is read. after(x, c) = x for the same reason."""
    if node.op is not ops.after:
        return None
    value, token = node.operands
    return value if any("leaf" in v.node.op.traits for v in (value, token)) else None


@rewrite
def order_through_view(build: Rewriter, node: Node) -> Outcome:
    """after(view(x), t) = view(after(x, t)): views are index arithmetic of whoever reads them."""
    if node.op is not ops.after or node.operands[0].node.op not in _MOVES:
        return None
    value, token = node.operands
    moved = build.after(value.node.operands[0], token)
    return build.settle(build.emit(value.node.op, [moved], value.node.attrs))


@rewrite
def order_after_view(build: Rewriter, node: Node) -> Outcome:
    """after(x, view(t)) = after(x, t)"""
    if node.op is not ops.after or node.operands[1].node.op not in _MOVES:
        return None
    value, token = node.operands
    return build.after(value, token.node.operands[0])


ORDER_RULES = (order_of_leaf, order_through_view, order_after_view)
