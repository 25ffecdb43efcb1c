"""Indexing by NumPy's rules: ``x[1, ::-2, None, i]`` and ``x.at[index].add(values)``.

In: a traced value and an index. Out: a slice and a reshape for the basic part (ints, slices, None, ``...``), then a
gather for the integer arrays, which broadcast; their axes stand where the arrays stood if these are neighbours, else
first. ``at`` runs the same plan backwards. A constant index out of range raises `ShapeError`; a traced one reads 0.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np

from graphc.errors import DTypeError, ShapeError, TraceError
from graphc.frontend.array import Array, ArrayLike, Index
from graphc.frontend.calls import Call
from graphc.ir.graph import Dense, Value
from graphc.ir.types import TensorType, bool_, i32, i64

Item = int | slice | Array | np.ndarray | EllipsisType | None


@dataclass(frozen=True)
class Basic:
    """What ints, slices and None do: a slice of every axis, then a reshape to `shape`."""

    start: tuple[int, ...]
    size: tuple[int, ...]
    step: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Advanced:
    """What integer arrays do after the basic part: `axes` of its result are picked by `indices` of one shape, whose
    own axes come at `position` of the final result."""

    axes: tuple[int, ...]
    indices: tuple[Value, ...]
    position: int


def getitem(x: Array, index: Index) -> Array:
    """``x[index]``; see the module's docstring."""
    call = Call("getitem")
    value = call.trace.lift(x)
    basic, advanced = _plan(call, value.type, index)
    result = call.reshape(call.slice(value, basic.start, basic.size, basic.step), basic.shape)
    return call.wrap(result if advanced is None else _gather(call, result, advanced))


@dataclass(frozen=True, eq=False)
class At:
    """``x.at``: what indexed updates are asked of.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32, i32
    >>> trace(lambda x, i, v: x.at[i].add(v), f32[5, 3], i32[2], f32[2, 3]).output_types
    (f32[5,3],)
    """

    array: Array

    def __getitem__(self, index: Index) -> AtIndex:
        return AtIndex(self.array, index)


@dataclass(frozen=True, eq=False)
class AtIndex:
    """``x.at[index]``: an array and a place in it."""

    array: Array
    index: Index

    def add(self, values: ArrayLike) -> Array:
        """The array with values added at the index; they broadcast to ``x[index]`` and have the array's data type.

        Where an index stands twice both values are added; a traced one out of range adds nothing.
        """
        call = Call("at.add")
        x = call.trace.lift(self.array)
        if x.dtype is bool_:
            raise call.error(DTypeError, "expected numbers, got bools")
        basic, advanced = _plan(call, x.type, self.index)
        shape = basic.shape if advanced is None else _advanced_shape(basic.shape, advanced)
        update = call.broadcast(call.value(values, x.dtype), shape)
        whole = all(s == 1 for s in basic.step) and basic.size == x.shape and basic.shape == x.shape
        if whole and advanced is not None:
            return call.wrap(_scatter(call, x, advanced, update))
        if advanced is not None:
            update = _scatter(call, call.build.zeros(TensorType(x.dtype, basic.shape)), advanced, update)
        return call.wrap(call.build.add(x, _spread(call, update, basic, x.type)))


# ------------------------------------------------------------------------------------------------------------- plan


def _plan(call: Call, type: TensorType, index: Index) -> tuple[Basic, Advanced | None]:
    items = _expanded(call, type, index)
    start: list[int] = []
    size: list[int] = []
    step: list[int] = []
    shape: list[int] = []
    axes: list[int] = []
    arrays: list[tuple[Array | np.ndarray, int]] = []
    places = [p for p, item in enumerate(items) if isinstance(item, (int, Array, np.ndarray))]
    position: int | None = None
    dims = iter(range(type.rank))
    for item in items:
        if isinstance(item, EllipsisType):
            continue
        if item is None:
            shape.append(1)
            continue
        dim = next(dims)
        n = type.shape[dim]
        if isinstance(item, int):
            if not -n <= item < n:
                raise call.error(ShapeError, f"expected an index within size {n} of axis {dim}, got {item}")
            position = len(shape) - len(axes) if position is None else position
            start, size, step = [*start, item % n], [*size, 1], [*step, 1]
            continue
        if isinstance(item, slice):
            first, count, stride = _slice(call, item, n)
            start, size, step, shape = [*start, first], [*size, count], [*step, stride], [*shape, count]
            continue
        position = len(shape) - len(axes) if position is None else position
        axes.append(len(shape))
        arrays.append((item, n))
        start, size, step, shape = [*start, 0], [*size, n], [*step, 1], [*shape, n]
    basic = Basic(tuple(start), tuple(size), tuple(step), tuple(shape))
    if not arrays:
        return basic, None
    neighbours = places == list(range(places[0], places[-1] + 1))
    indices = [_indices(call, array, n) for array, n in arrays]
    common = call.common_shape([i.shape for i in indices])
    dtype = i64 if any(i.dtype is i64 for i in indices) else i32
    spread = tuple(call.broadcast(call.cast(i, dtype), common) for i in indices)
    return basic, Advanced(tuple(axes), spread, position if neighbours and position is not None else 0)


def _expanded(call: Call, type: TensorType, index: Index) -> list[Item]:
    """The index with one item for each axis, and None for new ones; constant masks become integer arrays."""
    given = list(index) if isinstance(index, tuple) else [index]
    items: list[Item] = []
    ellipsis = -1
    for entry in given:
        if entry is Ellipsis:
            if ellipsis >= 0:
                raise call.error(ShapeError, "expected at most one ellipsis, got more")
            ellipsis = len(items)
        else:
            items.extend(_items(call, entry))
    used = sum(item is not None for item in items)
    if used > type.rank:
        raise call.error(ShapeError, f"expected at most {type.rank} indices for {type!r}, got {used}")
    fill: list[Item] = [slice(None)] * (type.rank - used)
    if ellipsis >= 0 and not fill:
        fill = [Ellipsis]  # it parts its neighbours even where it stands for no axis
    place = ellipsis if ellipsis >= 0 else len(items)
    return [*items[:place], *fill, *items[place:]]


def _items(call: Call, entry: object) -> list[Item]:
    if entry is None or isinstance(entry, slice):
        return [entry]
    if isinstance(entry, (bool, np.bool_)) or (isinstance(entry, Array) and entry.dtype is bool_):
        raise call.error(
            TraceError,
            "expected ints, slices or integer arrays, got a boolean mask, whose result has no static shape; "
            "use graphc.where(mask, x, 0)",
        )
    if isinstance(entry, Array):
        return [entry]
    if not isinstance(entry, np.ndarray):
        try:
            return [operator.index(entry)]  # type: ignore[arg-type]
        except TypeError:
            pass
    prepared = call.prepare(entry) if isinstance(entry, (list, tuple, np.ndarray)) else None
    if isinstance(prepared, Array):
        return [prepared]
    if isinstance(prepared, np.ndarray):
        if prepared.size == 0 and not isinstance(entry, np.ndarray):
            prepared = prepared.astype(np.int32)
        if prepared.dtype == np.bool_ and prepared.ndim:
            return [np.asarray(i) for i in np.nonzero(prepared)]
        if prepared.dtype.kind in "iu":
            return [prepared]
        raise call.error(DTypeError, f"expected integer indices, got {prepared.dtype}")
    raise call.error(TraceError, f"expected ints, slices or integer arrays, got {type(entry).__name__}")


def _slice(call: Call, item: slice, n: int) -> tuple[int, int, int]:
    bounds = slice(*(None if b is None else operator.index(b) for b in (item.start, item.stop, item.step)))
    if bounds.step == 0:
        raise call.error(ShapeError, "expected a slice step other than 0, got 0")
    first, last, step = bounds.indices(n)
    count = len(range(first, last, step))
    return (first, count, step) if count > 1 else (first if count else 0, count, 1)


def _indices(call: Call, array: Array | np.ndarray, n: int) -> Value:
    """The indices counted from 0; constant ones are checked."""
    if isinstance(array, Array) and array.value.node.op.name == "const" and array.trace is call.trace:
        kept = array.value.node.attrs["value"]
        array = kept.array if isinstance(kept, Dense) else np.full(array.shape, kept, array.dtype.numpy)
    if isinstance(array, np.ndarray):
        wrong = array[(array < -n) | (array >= n)]
        if wrong.size:
            raise call.error(ShapeError, f"expected indices within size {n}, got {wrong.reshape(-1)[0]}")
        counted = np.where(array < 0, array + n, array).astype(np.int32 if n < 2**31 else np.int64)
        return call.value(counted)
    value = call.trace.lift(array)
    if value.dtype.kind == "uint":
        return call.cast(value, i32 if value.dtype.bits < 32 else i64)
    if value.dtype.is_integer and value.dtype.bits < 32:
        value = call.cast(value, i32)
    if value.dtype not in (i32, i64):
        raise call.error(DTypeError, f"expected integer indices, got {value.dtype.name}")
    negative = call.build.lt(value, call.build.splat(0, value.type))
    return call.build.select(negative, call.build.add(value, call.splat(n, value.type)), value)


# ------------------------------------------------------------------------------------------------ forward and backward


def _advanced_shape(shape: tuple[int, ...], advanced: Advanced) -> tuple[int, ...]:
    rest = tuple(n for d, n in enumerate(shape) if d not in advanced.axes)
    return rest[: advanced.position] + advanced.indices[0].shape + rest[advanced.position :]


def _merged_perm(rank: int, advanced: Advanced) -> list[int]:
    """The order of axes in which those that are picked are neighbours, at the result's position."""
    rest = [d for d in range(rank) if d not in advanced.axes]
    return [*rest[: advanced.position], *advanced.axes, *rest[advanced.position :]]


def _merged(call: Call, value: Value, advanced: Advanced) -> Value:
    """The value with the picked axes as one."""
    perm, p, k = _merged_perm(len(value.shape), advanced), advanced.position, len(advanced.axes)
    moved = call.transpose(value, perm)
    shape = moved.shape
    return call.reshape(moved, (*shape[:p], math.prod(shape[p : p + k]), *shape[p + k :]))


def _linear(call: Call, sizes: Sequence[int], indices: Sequence[Value]) -> Value:
    """One index into the merged axis, -1 where any of them is out of range."""
    if len(indices) == 1:
        return indices[0]
    dtype = i64 if math.prod(sizes) >= 2**31 else indices[0].dtype
    inside: Value | None = None
    total: Value | None = None
    for index, n in zip(indices, sizes, strict=True):
        value = call.cast(index, dtype)
        number = call.splat(n, value.type)
        total = value if total is None else call.build.add(call.build.mul(total, number), value)
        if value.node.op.name != "const":
            above = call.build.ge(value, call.build.splat(0, value.type))
            within = call.build.and_(above, call.build.lt(value, number))
            inside = within if inside is None else call.build.and_(inside, within)
    assert total is not None
    return total if inside is None else call.build.select(inside, total, call.build.splat(-1, total.type))


def _gather(call: Call, value: Value, advanced: Advanced) -> Value:
    sizes = [value.shape[a] for a in advanced.axes]
    index = _linear(call, sizes, advanced.indices)
    return call.build.gather(_merged(call, value, advanced), index, axis=advanced.position)


def _scatter(call: Call, x: Value, advanced: Advanced, update: Value) -> Value:
    sizes = [x.shape[a] for a in advanced.axes]
    index = _linear(call, sizes, advanced.indices)
    merged = call.build.scatter_add(_merged(call, x, advanced), index, update, axis=advanced.position)
    perm = _merged_perm(len(x.shape), advanced)
    apart = call.reshape(merged, [x.shape[d] for d in perm])
    return call.transpose(apart, sorted(range(len(perm)), key=perm.__getitem__))


def _spread(call: Call, update: Value, basic: Basic, type: TensorType) -> Value:
    """The update at its place among zeros: the adjoint of the slice."""
    value = call.reshape(update, basic.size)
    turned = [s < 0 for s in basic.step]
    if any(turned):
        start = [n - 1 if t else 0 for n, t in zip(basic.size, turned, strict=True)]
        value = call.slice(value, start, basic.size, [-1 if t else 1 for t in turned])
    low, high, interior = [], [], []
    for n, first, count, step in zip(type.shape, basic.start, basic.size, basic.step, strict=True):
        lowest = min(first, first + (count - 1) * step) if count else 0
        low.append(lowest)
        interior.append(abs(step) - 1)
        high.append(n - lowest - ((count - 1) * abs(step) + 1 if count else 0))
    fill = 0.0 if type.dtype.is_float else 0
    return call.build.pad(value, low=tuple(low), high=tuple(high), interior=tuple(interior), value=fill)
