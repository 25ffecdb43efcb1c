"""Ops that stand for a function, its graph a region: they say how it is differentiated, and are inlined after that.

In: the operands of the function, and regions over them. Out: registered ops. The first region is what the op computes.

- checkpoint: the backward pass computes the region a second time instead of keeping its values (Griewank & Walther,
  Evaluating Derivatives, 2nd ed., SIAM 2008, ch. 12).
- custom_vjp: regions `function`, `forward` and `backward`. `forward` gives the function's results and then residuals;
  `backward` takes residuals and the cotangents of the float results, and gives those of the float operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.errors import ShapeError, VerifyError
from graphc.ir.batching import batch_graph, whole
from graphc.ir.opdef import ANY, OpDef, no_ref, register, run_first
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    if len(regions) != 1:
        raise VerifyError(f"expected one region, got {len(regions)}")
    _check("operands", types, regions[0].input_types)
    return regions[0].output_types


def _check(what: str, got: Sequence[TensorType], want: Sequence[TensorType]) -> None:
    if tuple(got) != tuple(want):
        raise ShapeError(f"expected {what} {list(want)}, got {list(got)}")


def _floats(types: Sequence[TensorType]) -> tuple[TensorType, ...]:
    return tuple(t for t in types if t.dtype.is_float)


def _infer_custom(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    if len(regions) != 3:
        raise VerifyError(f"expected the regions function, forward and backward, got {len(regions)}")
    function, forward, backward = regions
    results = function.output_types
    _check("operands", types, function.input_types)
    _check("operands of forward", forward.input_types, types)
    _check("results of forward first", forward.output_types[: len(results)], results)
    residuals = forward.output_types[len(results) :]
    _check("operands of backward", backward.input_types, (*residuals, *_floats(results)))
    _check("results of backward", backward.output_types, _floats(types))
    return results


def _adjoint_custom(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """What the region `backward` makes of forward's residuals and the cotangents."""
    _, forward, backward = node.regions
    residuals = build.inline(forward, node.operands)[len(node.types) :]
    seeds = [
        build.zeros(type) if cotangent is None else cotangent
        for cotangent, type in zip(cotangents, node.types, strict=True)
        if type.dtype.is_float
    ]
    found = iter(build.inline(backward, [*residuals, *seeds]))
    return [next(found) if v.dtype.is_float else None for v in node.operands]


def _forward_first(node: Node) -> tuple[Graph, ...]:
    """Where the node is differentiated, `forward` computes its results."""
    _, forward, backward = node.regions
    return forward.with_outputs(forward.outputs[: len(node.types)]), forward, backward


def _batch(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """The same op on a region of all examples."""
    return build.emit(node.op, operands, node.attrs, [batch_graph(node.regions[0], batched, size)]).results


def _batch_custom(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """The same op on regions of all examples; all operands get a batch, so that each example has its cotangents."""
    regions = [batch_graph(region, [True] * len(region.inputs), size) for region in node.regions]
    given = [v if b else whole(build, v, size) for v, b in zip(operands, batched, strict=True)]
    return build.emit(node.op, given, node.attrs, regions).results


checkpoint = register(
    OpDef(
        "checkpoint",
        _infer,
        no_ref,
        control=run_first,
        no_derivative="the chain rule differentiates its region, computed a second time",
        batch=_batch,
        doc="The region, of which the backward pass keeps nothing but the operands: it computes the rest again.",
        traits=frozenset({"region", "call", "recomputed"}),
        dtypes=ANY,
    )
)

custom_vjp = register(
    OpDef(
        "custom_vjp",
        _infer_custom,
        no_ref,
        control=run_first,
        adjoint=_adjoint_custom,
        differentiated=_forward_first,
        batch=_batch_custom,
        doc="The first region, a function with a derivative of its own: the second region gives its results and what the "
        "third one, its backward pass, wants kept.",
        traits=frozenset({"region", "call"}),
        dtypes=ANY,
    )
)
