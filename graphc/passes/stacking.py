"""Ops over a further leading axis: what a node gives in every step of a loop, computed for all steps at once.

In: a node, and for each operand a value or the stack of its values along axis 0. Out: the stack of the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir import ops
from graphc.ir.graph import Attr, Builder, Node, Value
from graphc.ir.ops.contract import dimensions
from graphc.ir.types import TensorType


@dataclass(frozen=True)
class Stack:
    """A value, the same in all steps, or (`stacked`) one for each step along axis 0."""

    value: Value
    stacked: bool


def can_stack(node: Node) -> bool:
    """True of nodes for which `stack` knows a rule, whichever operands are stacked.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> can_stack(build.exp(build.input(f32[2], "x")).node)
    True
    """
    if len(node.types) != 1:
        return False
    kinds = {"pointwise", "reduction", "contraction", "cumulative"}
    return bool(node.op.traits & kinds) or node.op in _VIEWS or node.op is ops.concat


_VIEWS = (ops.broadcast, ops.reshape, ops.transpose, ops.slice_, ops.pad)


def stack(build: Builder, node: Node, operands: Sequence[Stack], length: int) -> Stack:
    """The node's result in all of `length` steps; the same in all where its operands are.

    >>> from graphc.ir.types import f32
    >>> inner, build = Builder(), Builder()
    >>> node = inner.contract(inner.input(f32[2, 3], "x"), inner.input(f32[3, 4], "w"), axes=((1,), (0,)), batch=((), ()))
    >>> xs, w = build.input(f32[5, 2, 3], "xs"), build.input(f32[3, 4], "w")
    >>> stack(build, node.node, [Stack(xs, True), Stack(w, False)], 5).value.type
    f32[5,2,4]
    """
    if not any(o.stacked for o in operands):
        (result,) = build.emit(
            node.op, [o.value for o in operands], node.attrs, node.regions, node.loc, node.name
        ).results
        return Stack(result, False)
    if "contraction" in node.op.traits:
        return Stack(_contract(build, node, operands), True)
    shape = (length, *node.type.shape)
    attrs: dict[str, Attr] = dict(node.attrs)
    if "type" in attrs:
        attrs["type"] = TensorType(node.type.dtype, shape)
    given = [o.value for o in operands]
    if "pointwise" in node.op.traits or node.op is ops.concat:
        given = [o.value if o.stacked else _spread(build, o.value, length) for o in operands]
    if node.op in (ops.broadcast, ops.reshape):
        attrs["shape"] = shape
    if node.op is ops.broadcast:
        attrs["dims"] = (0, *_shifted(node.ints("dims")))
    elif node.op is ops.transpose:
        attrs["perm"] = (0, *_shifted(node.ints("perm")))
    elif node.op is ops.slice_:
        attrs["start"] = (0, *node.ints("start"))
        attrs["size"] = (length, *node.ints("size"))
        attrs["step"] = (1, *node.ints("step"))
    elif node.op is ops.pad:
        attrs.update({name: (0, *node.ints(name)) for name in ("low", "high", "interior")})
    elif "axes" in attrs:
        attrs["axes"] = _shifted(node.ints("axes"))
    elif "axis" in attrs:
        attrs["axis"] = node.int("axis") + 1
    if "cumulative" in node.op.traits:
        given = [o.value if o.stacked else _spread(build, o.value, length) for o in operands]
    return Stack(build.emit(node.op, given, attrs, (), node.loc, node.name).results[0], True)


def _shifted(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(d + 1 for d in dims)


def _spread(build: Builder, value: Value, length: int) -> Value:
    """A value that is the same in all steps, as a stack."""
    dims = tuple(range(1, value.type.rank + 1))
    return build.broadcast(value, dims=dims, shape=(length, *value.shape))


def spread(build: Builder, given: Stack, length: int) -> Value:
    """The stack of a value, also of one that is the same in all steps."""
    return given.value if given.stacked else _spread(build, given.value, length)


def _contract(build: Builder, node: Node, operands: Sequence[Stack]) -> Value:
    """The steps are a further free dimension of the operand that is stacked, or a batch dimension of both."""
    left, right = operands
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    one, other = int(left.stacked), int(right.stacked)
    axes = (tuple(i + one for i in d.lhs_summed), tuple(i + other for i in d.rhs_summed))
    batch = (tuple(i + one for i in d.lhs_batch), tuple(i + other for i in d.rhs_batch))
    if one and other:
        batch = ((0, *batch[0]), (0, *batch[1]))
    attrs: dict[str, Attr] = {"axes": axes, "batch": batch}
    made = build.emit(node.op, [left.value, right.value], attrs, (), node.loc, node.name).results[0]
    # batch dimensions come first, then those of the left, then those of the right
    at = 0 if one and other else len(d.lhs_batch) + (0 if one else len(d.lhs_free))
    if at == 0:
        return made
    rank = made.type.rank
    return build.transpose(made, perm=(at, *(i for i in range(rank) if i != at)))


def summed(build: Builder, node: Node, operands: Sequence[Stack]) -> Value:
    """The sum over the steps of a contraction or a sum: one contraction or sum with the steps among the summed axes."""
    stacked = [o.stacked for o in operands]
    if "contraction" not in node.op.traits:
        axes = (0, *_shifted(node.ints("axes")))
        return build.emit(node.op, [operands[0].value], {"axes": axes}, (), node.loc).results[0]
    if not all(stacked):  # the product is linear: the operand that differs is summed first
        given = [build.reduce_sum(o.value, axes=(0,)) if o.stacked else o.value for o in operands]
        return build.emit(node.op, given, node.attrs, (), node.loc).results[0]
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    attrs: dict[str, Attr] = {
        "axes": ((0, *_shifted(d.lhs_summed)), (0, *_shifted(d.rhs_summed))),
        "batch": (_shifted(d.lhs_batch), _shifted(d.rhs_batch)),
    }
    return build.emit(node.op, [o.value for o in operands], attrs, (), node.loc).results[0]
