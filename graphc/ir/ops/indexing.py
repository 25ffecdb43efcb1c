"""Gather and scatter_add: reading and adding at computed indices, each the other's adjoint.

In: a tensor, integer indices, the attribute `axis`. Out: registered ops. An index out of range reads 0 and adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.batching import all_whole, to_front
from graphc.ir.opdef import ANY, NUMBERS, OpDef, Sample, check_dtype, register
from graphc.ir.types import DType, TensorType, bool_, i32, i64

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

INDICES = (i32, i64)


def _axis(x: TensorType, attrs: Attrs) -> int:
    axis = attrs["axis"]
    if type(axis) is not int or not 0 <= axis < x.rank:
        raise ShapeError(f"expected an axis within rank {x.rank}, got {axis!r}")
    return axis


def _infer_gather(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    x, indices = types
    axis = _axis(x, attrs)
    check_dtype(indices.dtype, INDICES)
    return (TensorType(x.dtype, x.shape[:axis] + indices.shape + x.shape[axis + 1 :]),)


def _ref_gather(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    x, indices = arrays
    axis = attrs["axis"]
    assert isinstance(axis, int)
    inside = (indices >= 0) & (indices < x.shape[axis])
    shape = (1,) * axis + indices.shape + (1,) * (x.ndim - axis - 1)
    if x.shape[axis] == 0:
        return [np.zeros(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)]
    taken = np.take(x, np.where(inside, indices, 0), axis=axis)
    return [np.where(inside.reshape(shape), taken, np.zeros((), x.dtype))]


def _adjoint_gather(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The cotangent added to zeros at the same indices."""
    (g,), (x, indices) = cotangents, node.operands
    return [
        None if g is None else build.scatter_add(build.zeros(x.type), indices, g, axis=node.int("axis")),
        None,
    ]


def _infer_scatter(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    x, indices, updates = types
    (want,) = _infer_gather((x, indices), attrs, regions)
    check_dtype(x.dtype, NUMBERS)
    if updates != want:
        raise ShapeError(f"expected updates of {want!r}, got {updates!r}")
    return (x,)


def _ref_scatter(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    x, indices, updates = arrays
    axis = attrs["axis"]
    assert isinstance(axis, int)
    result = np.moveaxis(np.array(x), axis, 0)
    count = indices.size
    flat = np.moveaxis(updates.reshape((*x.shape[:axis], count, *x.shape[axis + 1 :])), axis, 0)
    inside = ((indices >= 0) & (indices < x.shape[axis])).reshape(-1)
    np.add.at(result, indices.reshape(-1)[inside], flat[inside])
    return [np.ascontiguousarray(np.moveaxis(result, 0, axis)).reshape(x.shape)]


def _adjoint_scatter(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The cotangent itself, and for the updates what it holds at the same indices."""
    (g,), indices = cotangents, node.operands[1]
    return [g, None, None if g is None else build.gather(g, indices, axis=node.int("axis"))]


def _in_one_line(build: Builder, x: Value, indices: Value, axis: int) -> tuple[Value, Value, tuple[int, ...]]:
    """Examples' own tables as one long table: its axis first, indices into it, and the permutation that was applied.

    `x` and `indices` have a batch; `axis` is one of an example. An index out of range stays out of range.
    """
    perm = (0, axis + 1, *(d for d in range(1, x.type.rank) if d != axis + 1))
    moved = build.transpose(x, perm=perm)
    size, n = moved.shape[:2]
    table = build.reshape(moved, shape=(size * n, *moved.shape[2:]))
    type = indices.type
    inside = build.and_(build.ge(indices, build.splat(0, type)), build.lt(indices, build.splat(n, type)))
    first = build.mul(build.iota(dim=0, type=type), build.splat(n, type))
    return table, build.select(inside, build.add(indices, first), build.splat(-1, type)), perm


def _batch_gather(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """Of a batch of tables the axis moves; a batch of indices is one array of indices; of both, one long table."""
    axis = node.int("axis")
    x, indices = operands
    if not batched[1]:
        return [build.gather(x, indices, axis=axis + 1)]
    if not batched[0]:
        return [to_front(build, build.gather(x, indices, axis=axis), axis)]
    table, flat, _ = _in_one_line(build, x, indices, axis)
    found = build.gather(table, flat, axis=0)  # batch, indices, the other dimensions
    rank = indices.type.rank - 1
    perm = (
        0,
        *range(1 + rank, 1 + rank + axis),
        *range(1, 1 + rank),
        *range(1 + rank + axis, found.type.rank),
    )
    return [build.transpose(found, perm=perm)]


def _batch_scatter(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """With the same indices for all the axis moves; with a batch of them the examples' tables are one long table."""
    axis = node.int("axis")
    if not batched[1]:
        x, updates = all_whole(build, operands[::2], batched[::2], size)
        return [build.scatter_add(x, operands[1], updates, axis=axis + 1)]
    x, indices, updates = all_whole(build, operands, batched, size)
    table, flat, perm = _in_one_line(build, x, indices, axis)
    rank = indices.type.rank - 1
    order = (
        0,
        *range(1 + axis, 1 + axis + rank),
        *range(1, 1 + axis),
        *range(1 + axis + rank, updates.type.rank),
    )
    total = build.scatter_add(table, flat, build.transpose(updates, perm=order), axis=0)
    back = build.reshape(total, shape=tuple(x.shape[d] for d in perm))
    return [build.transpose(back, perm=tuple(sorted(range(len(perm)), key=perm.__getitem__)))]


def _cases(rng: np.random.Generator, dtype: DType) -> list[tuple[np.ndarray, np.ndarray, int]]:
    def array(*shape: int) -> np.ndarray:
        if dtype is bool_:
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.is_integer:
            return rng.integers(0, 50, shape).astype(dtype.numpy)
        return rng.uniform(-2, 2, shape).astype(dtype.numpy)

    return [
        (array(5, 3), np.array([0, 4, 4, 2], np.int32), 0),
        (array(3, 20), np.array([[1, 19], [7, 7], [-1, 20]], np.int64), 1),
        (array(6), np.array(3, np.int32), 0),
    ]


gather = register(
    OpDef(
        "gather",
        _infer_gather,
        _ref_gather,
        arity=2,
        adjoint=_adjoint_gather,
        batch=_batch_gather,
        traits=frozenset({"linear", "gather"}),
        latex=r"{0}_{{{1}}}",
        doc="Slices of the first operand along `axis`, picked by indices; an index out of range reads 0.",
        dtypes=ANY,
        samples=lambda rng, dtype: [Sample((x, i), {"axis": a}) for x, i, a in _cases(rng, dtype)],
    )
)


def _scatter_samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    return [
        Sample((x, i, _ref_gather((x, i), {"axis": a})[0]), {"axis": a}) for x, i, a in _cases(rng, dtype)
    ]


scatter_add = register(
    OpDef(
        "scatter_add",
        _infer_scatter,
        _ref_scatter,
        arity=3,
        adjoint=_adjoint_scatter,
        batch=_batch_scatter,
        traits=frozenset({"linear", "scatter"}),
        latex=r"{0} + \operatorname{{scatter}}\left({2}, {1}\right)",
        doc="The first operand with updates added at indices along `axis`, in order; out of range adds nothing.",
        dtypes=NUMBERS,
        samples=_scatter_samples,
    )
)
