"""The op that orders: a value that is there only once another one is. It moves nothing and computes nothing.

In: a value and a token of any type. Out: the registered op. Equal nodes are one; what reads a value `after` a token is
never equal to what reads the value itself. So a forward value can be computed a second time, late, when a cotangent that
serves as token has arrived. A plan gives the result the operand's own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.ir.opdef import ANY, Derive, OpDef, Sample, Tangents, check_dtype, register
from graphc.ir.types import DType, TensorType, bool_

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    for type in types:
        check_dtype(type.dtype, ANY)
    return (types[0],)


def _adjoint(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The cotangent itself; the token has none."""
    return [cotangents[0], None]


def _tangent(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """The tangent, after the same token."""
    dx, token = tangents[0], node.operands[1]
    return node.results, [None if dx is None else build.after(dx, token)]


def _batch(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """The value of all examples, after the tokens of all."""
    result = build.after(*operands)
    return [result if batched[0] else build.broadcast(
        result, dims=tuple(range(1, result.type.rank + 1)), shape=(size, *result.shape))]  # fmt: skip


def _samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def array(*shape: int) -> np.ndarray:
        if dtype is bool_:
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.is_integer:
            return rng.integers(0, 100, shape).astype(dtype.numpy)
        return rng.uniform(-2, 2, shape).astype(dtype.numpy)

    return [Sample((array(3, 5), array(4))), Sample((array(), array(2, 2)))]


after = register(
    OpDef(
        "after",
        _infer,
        lambda arrays, attrs: [arrays[0]],
        arity=2,
        adjoint=_adjoint,
        tangent=_tangent,
        batch=_batch,
        traits=frozenset({"order"}),
        latex="{0}",
        doc="The first operand, computed from no earlier than the second one, the token, is there.",
        dtypes=ANY,
        samples=_samples,
    )
)
