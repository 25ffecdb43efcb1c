"""Array functions that move elements: shapes, axes, joining, splitting, repeating, padding, triangles.

In: traced values (arrays and numbers become constants) and static shapes, axes and counts. Out: traced values made of
views. A wrong axis or shape raises `ShapeError` with the user's line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.calls import Call
from graphc.frontend.creation import diagonal_mask
from graphc.frontend.promotion import as_weak
from graphc.ir.graph import Value
from graphc.ir.guard import guarded

Ints = int | Sequence[int]
PadWidth = int | Sequence[int] | Sequence[Sequence[int]]


def broadcast_to(x: ArrayLike, shape: Ints) -> Array:
    """The array repeated to a shape, by NumPy's rules.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: broadcast_to(x, (2, 3)), f32[3]).output_types
    (f32[2,3],)
    """
    call = Call("broadcast_to")
    return call.wrap(call.broadcast(call.value(x), call.shape(shape)))


def broadcast_arrays(*arrays: ArrayLike) -> list[Array]:
    """The arrays repeated to their common shape, each with its own data type."""
    call = Call("broadcast_arrays")
    values = [call.value(x) for x in arrays]
    shape = call.common_shape([v.shape for v in values]) if values else ()
    return [call.wrap(call.broadcast(v, shape)) for v in values]


def reshape(x: ArrayLike, shape: Ints, *, copy: bool | None = None) -> Array:
    """The same elements in row-major order under another shape; one size may be -1, found from the others.

    `copy` means nothing: a traced value never changes. Raises `ShapeError` where the number of elements differs.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: reshape(x, (2, -1)), f32[3, 4]).output_types
    (f32[2,6],)
    """
    call = Call("reshape")
    value = call.value(x)
    sizes = [call.integer(n, "shape") for n in (shape if isinstance(shape, (tuple, list)) else [shape])]
    total, known = value.type.size, math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) == 1 and known and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    if any(n < 0 for n in sizes) or math.prod(sizes) != total:
        raise call.error(ShapeError, f"expected a shape of {total} elements for {value.type!r}, got {sizes}")
    return call.wrap(call.reshape(value, sizes))


def permute_dims(x: ArrayLike, axes: Sequence[int] | None = None) -> Array:
    """The axes in another order, by default reversed.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: permute_dims(x, (2, 0, 1)), f32[3, 4, 5]).output_types
    (f32[5,3,4],)
    """
    call = Call("permute_dims")
    value = call.value(x)
    rank = len(value.shape)
    perm = [call.axis(a, rank) for a in axes] if axes is not None else list(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise call.error(ShapeError, f"expected each of {rank} axes once, got {list(axes or ())}")
    return call.wrap(call.transpose(value, perm))


def transpose(x: ArrayLike, axes: Sequence[int] | None = None) -> Array:
    """The same as `permute_dims`, under NumPy's name."""
    return permute_dims(x, axes)


@guarded
def matrix_transpose(x: ArrayLike) -> Array:
    """The last two axes exchanged; raises `ShapeError` below rank 2."""
    call = Call("matrix_transpose")
    value = call.value(x)
    rank = len(value.shape)
    if rank < 2:
        raise call.error(ShapeError, f"expected a rank of at least 2, got {value.type!r}")
    return call.wrap(call.transpose(value, [*range(rank - 2), rank - 1, rank - 2]))


def swapaxes(x: ArrayLike, axis1: int, axis2: int) -> Array:
    """Two axes exchanged."""
    call = Call("swapaxes")
    value = call.value(x)
    perm = list(range(len(value.shape)))
    a, b = call.axis(axis1, len(perm)), call.axis(axis2, len(perm))
    perm[a], perm[b] = perm[b], perm[a]
    return call.wrap(call.transpose(value, perm))


def moveaxis(x: ArrayLike, source: Ints, destination: Ints) -> Array:
    """Axes moved to other positions, the rest in their order.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: moveaxis(x, 0, -1), f32[3, 4, 5]).output_types
    (f32[4,5,3],)
    """
    call = Call("moveaxis")
    value = call.value(x)
    rank = len(value.shape)
    sources, targets = (
        [call.axis(a, rank) for a in (given if isinstance(given, (tuple, list)) else [given])]
        for given in (source, destination)
    )
    if len(sources) != len(targets) or len({*sources}) != len(sources) or len({*targets}) != len(targets):
        raise call.error(
            ShapeError, f"expected as many different axes from as to, got {source} and {destination}"
        )
    perm = [d for d in range(rank) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        perm.insert(target, origin)
    return call.wrap(call.transpose(value, perm))


def expand_dims(x: ArrayLike, axis: Axis = 0) -> Array:
    """New axes of size 1 at these positions of the result."""
    call = Call("expand_dims")
    value = call.value(x)
    given: list[int] = [*axis] if isinstance(axis, (tuple, list)) else [call.integer(axis, "axis")]
    rank = len(value.shape) + len(given)
    new = call.axes(given, rank)
    sizes = iter(value.shape)
    return call.wrap(call.reshape(value, [1 if d in new else next(sizes) for d in range(rank)]))


def squeeze(x: ArrayLike, axis: Axis = None) -> Array:
    """Without axes of size 1: these, or all. Raises `ShapeError` where one has another size."""
    call = Call("squeeze")
    value = call.value(x)
    rank = len(value.shape)
    gone = tuple(d for d in range(rank) if value.shape[d] == 1) if axis is None else call.axes(axis, rank)
    for d in gone:
        if value.shape[d] != 1:
            raise call.error(ShapeError, f"expected size 1 along axis {d}, got {value.type!r}")
    return call.wrap(call.reshape(value, [n for d, n in enumerate(value.shape) if d not in gone]))


def flip(x: ArrayLike, axis: Axis = None) -> Array:
    """The elements in reverse order along axes, by default all."""
    call = Call("flip")
    value = call.value(x)
    turned = [d for d in call.axes(axis, len(value.shape)) if value.shape[d] > 1]
    start = [n - 1 if d in turned else 0 for d, n in enumerate(value.shape)]
    return call.wrap(
        call.slice(value, start, value.shape, [-1 if d in turned else 1 for d in range(len(start))])
    )


def roll(x: ArrayLike, shift: Ints, axis: Axis = None) -> Array:
    """The elements moved along axes, those that leave at the end coming back at the start; None rolls the flat array.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: roll(x, 1, axis=0), f32[3, 4]).output_types
    (f32[3,4],)
    """
    call = Call("roll")
    value = call.value(x)
    shape = value.shape
    given_axes = axis if isinstance(axis, (tuple, list)) else [0 if axis is None else axis]
    shifts = list(shift) if isinstance(shift, (tuple, list)) else [shift] * len(given_axes)
    if len(given_axes) == 1 and len(shifts) > 1:
        given_axes = [*given_axes] * len(shifts)
    if len(shifts) != len(given_axes):
        raise call.error(ShapeError, f"expected as many shifts as axes, got {shift} and {axis}")
    if axis is None:
        value = call.reshape(value, (value.type.size,))
    for amount, a in zip(shifts, given_axes, strict=True):
        along = call.axis(a, len(value.shape))
        n = value.shape[along]
        k = call.integer(amount, "shift") % n if n else 0
        if k:
            value = call.build.concat(
                _part(call, value, along, n - k, k), _part(call, value, along, 0, n - k), axis=along
            )
    return call.wrap(call.reshape(value, shape))


def _part(call: Call, value: Value, axis: int, start: int, size: int) -> Value:
    rank = len(value.shape)
    starts = [start if d == axis else 0 for d in range(rank)]
    return call.slice(
        value, starts, [size if d == axis else n for d, n in enumerate(value.shape)], [1] * rank
    )


# ---------------------------------------------------------------------------------------------- joining and splitting


def _promoted(call: Call, arrays: ArrayLike) -> list[Value]:
    """The arrays with one data type, their shapes as they are."""
    items = list(arrays) if isinstance(arrays, (list, tuple, Array, np.ndarray)) else []
    if not items:
        raise call.error(ShapeError, "expected at least one array, got none")
    given, dtype = call.promote(*items)
    return [call.value(g, dtype) for g in given]


def concat(arrays: Sequence[ArrayLike], axis: int | None = 0) -> Array:
    """Arrays one after the other along an axis; None joins them flattened.

    Raises `ShapeError` where sizes differ along another axis.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: concat([x, x], axis=1), f32[2, 3]).output_types
    (f32[2,6],)
    """
    call = Call("concat")
    values = _promoted(call, arrays)
    if axis is None:
        values = [call.reshape(v, (v.type.size,)) for v in values]
    along = call.axis(0 if axis is None else axis, len(values[0].shape))
    return call.wrap(values[0] if len(values) == 1 else call.build.concat(*values, axis=along))


def concatenate(arrays: Sequence[ArrayLike], axis: int | None = 0) -> Array:
    """The same as `concat`, under NumPy's name."""
    return concat(arrays, axis)


def stack(arrays: Sequence[ArrayLike], axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: stack([x, x], axis=-1), f32[3]).output_types
    (f32[3,2],)
    """
    call = Call("stack")
    values = _promoted(call, arrays)
    if len({v.shape for v in values}) > 1:
        raise call.error(
            ShapeError, f"expected equal shapes, got {', '.join(str(list(v.shape)) for v in values)}"
        )
    along = call.axis(axis, len(values[0].shape) + 1)
    shape = (*values[0].shape[:along], 1, *values[0].shape[along:])
    parts = [call.reshape(v, shape) for v in values]
    return call.wrap(parts[0] if len(parts) == 1 else call.build.concat(*parts, axis=along))


def unstack(x: ArrayLike, axis: int = 0) -> tuple[Array, ...]:
    """The slices along an axis, without it."""
    call = Call("unstack")
    value = call.value(x)
    along = call.axis(axis, len(value.shape))
    rest = [n for d, n in enumerate(value.shape) if d != along]
    parts = (_part(call, value, along, i, 1) for i in range(value.shape[along]))
    return tuple(call.wrap(call.reshape(p, rest)) for p in parts)


def split(x: ArrayLike, indices_or_sections: Ints, axis: int = 0) -> list[Array]:
    """Parts along an axis: so many equal ones, or cut at these indices.

    Raises `ShapeError` where the size can't be divided equally.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: split(x, [1, 3], axis=1), f32[2, 6]).output_types
    (f32[2,1], f32[2,2], f32[2,3])
    """
    call = Call("split")
    value = call.value(x)
    along = call.axis(axis, len(value.shape))
    n = value.shape[along]
    if isinstance(indices_or_sections, (tuple, list, np.ndarray)):
        cuts = [slice(None, call.integer(i, "indices")).indices(n)[1] for i in indices_or_sections]
    else:
        sections = call.integer(indices_or_sections, "sections")
        if sections <= 0 or n % sections:
            raise call.error(
                ShapeError, f"expected a number of equal parts of {n} along axis {along}, got {sections}"
            )
        cuts = [n // sections * i for i in range(1, sections)]
    bounds = [0, *cuts, n]
    pairs = itertools.pairwise(bounds)
    return [call.wrap(_part(call, value, along, min(a, n), max(b - a, 0))) for a, b in pairs]


def tile(x: ArrayLike, repetitions: Ints) -> Array:
    """The whole array repeated along each axis.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: tile(x, (2, 2)), f32[3]).output_types
    (f32[2,6],)
    """
    call = Call("tile")
    value = call.value(x)
    counts = call.shape(repetitions)
    rank = max(len(counts), len(value.shape))
    shape = (1,) * (rank - len(value.shape)) + value.shape
    counts = (1,) * (rank - len(counts)) + counts
    wide = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    dims = tuple(2 * d + 1 for d in range(rank))
    spread = call.build.broadcast(call.reshape(value, shape), dims=dims, shape=wide)
    return call.wrap(call.reshape(spread, [c * n for c, n in zip(counts, shape, strict=True)]))


def repeat(x: ArrayLike, repeats: Ints, axis: int | None = None) -> Array:
    """Each element repeated along an axis, so many times all or each its own; None repeats in the flat array."""
    call = Call("repeat")
    value = call.value(x)
    if axis is None:
        value = call.reshape(value, (value.type.size,))
    along = call.axis(0 if axis is None else axis, len(value.shape))
    n = value.shape[along]
    counts = call.shape(repeats)
    if len(counts) == 1:
        shape = (*value.shape[: along + 1], counts[0], *value.shape[along + 1 :])
        dims = tuple(d if d <= along else d + 1 for d in range(len(value.shape)))
        spread = call.build.broadcast(value, dims=dims, shape=shape)
        return call.wrap(
            call.reshape(spread, (*value.shape[:along], n * counts[0], *value.shape[along + 1 :]))
        )
    if len(counts) != n:
        raise call.error(ShapeError, f"expected 1 or {n} counts, got {len(counts)}")
    return call.wrap(
        call.build.gather(value, call.value(np.repeat(np.arange(n), counts).astype(np.int32)), axis=along)
    )


def pad(x: ArrayLike, pad_width: PadWidth, mode: str = "constant", constant_values: float = 0) -> Array:
    """A constant number put before and after the elements: ``n``, ``(before, after)`` or a pair for each axis.

    Raises `ShapeError` for wrong widths, `DTypeError` for another mode or a number that the data type can't hold.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: pad(x, ((0, 0), (1, 2))), f32[2, 3]).output_types
    (f32[2,6],)
    """
    call = Call("pad")
    value = call.value(x)
    rank = len(value.shape)
    if mode != "constant":
        raise call.error(DTypeError, f"expected mode 'constant', got {mode!r}")
    number = as_weak(constant_values)
    if number is None:
        raise call.error(
            DTypeError, f"expected a Python number to pad with, got {type(constant_values).__name__}"
        )
    try:
        widths = np.broadcast_to(np.asarray(pad_width), (rank, 2))
    except ValueError:
        widths = np.array([[-1, -1]])
    if widths.size and (widths.min() < 0 or widths.dtype.kind not in "iu"):
        raise call.error(ShapeError, f"expected non-negative widths for {rank} axes, got {pad_width}")
    fill = call.splat(number, type(value.type)(value.dtype, ())).node.attrs["value"]
    if not widths.any():
        return call.wrap(value)
    low, high = (tuple(int(n) for n in widths[:, side]) for side in (0, 1))
    return call.wrap(call.build.pad(value, low=low, high=high, interior=(0,) * rank, value=fill))


# -------------------------------------------------------------------------------------------- triangles and diagonals


def _triangle(name: str, op: str, x: ArrayLike, k: int) -> Array:
    call = Call(name)
    value = call.value(x)
    if len(value.shape) < 2:
        raise call.error(ShapeError, f"expected a rank of at least 2, got {value.type!r}")
    mask = diagonal_mask(call, value.shape[-2:], call.integer(k, "k"), op)
    return call.wrap(
        call.build.select(call.broadcast(mask, value.shape), value, call.build.zeros(value.type))
    )


def tril(x: ArrayLike, k: int = 0) -> Array:
    """The lower triangle of the last two axes, up to the k-th diagonal; zeros above it."""
    return _triangle("tril", "ge", x, k)


def triu(x: ArrayLike, k: int = 0) -> Array:
    """The upper triangle of the last two axes, from the k-th diagonal; zeros below it."""
    return _triangle("triu", "le", x, k)


def diagonal(x: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The diagonal of two axes, along a new last axis.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: diagonal(x, 1), f32[3, 4]).output_types
    (f32[3],)
    """
    call = Call("diagonal")
    value = call.value(x)
    rank = len(value.shape)
    if rank < 2:
        raise call.error(ShapeError, f"expected a rank of at least 2, got {value.type!r}")
    rows, cols = call.axis(axis1, rank), call.axis(axis2, rank)
    if rows == cols:
        raise call.error(ShapeError, f"expected different axes, got {axis1} and {axis2}")
    k = call.integer(offset, "offset")
    n, m = value.shape[rows], value.shape[cols]
    count = max(min(n, m - k) if k >= 0 else min(n + k, m), 0)
    rest = [d for d in range(rank) if d not in (rows, cols)]
    sizes = [value.shape[d] for d in rest]
    flat = call.reshape(call.transpose(value, [*rest, rows, cols]), [*sizes, n * m])
    first = (k if k >= 0 else -k * m) if count else 0
    step = m + 1 if count > 1 else 1  # elements of a diagonal lie a row and a column apart
    return call.wrap(
        call.slice(flat, [*(0 for _ in rest), first], [*sizes, count], [*(1 for _ in rest), step])
    )


def take_along_axis(x: ArrayLike, indices: ArrayLike, axis: int = -1) -> Array:
    """Along an axis, the elements at indices that have the array's other axes: ``x[i, indices[i, j]]``.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32, i32
    >>> trace(lambda x, i: take_along_axis(x, i, axis=1), f32[2, 5], i32[2, 1]).output_types
    (f32[2,1],)
    """
    from graphc.frontend.indexing import getitem

    call = Call("take_along_axis")
    value, picks = call.value(x), call.value(indices)
    rank = len(value.shape)
    along = call.axis(axis, rank)
    if len(picks.shape) != rank:
        raise call.error(ShapeError, f"expected indices of rank {rank}, got {picks.type!r}")
    index: list[object] = []
    for d in range(rank):
        shape = [-1 if e == d else 1 for e in range(rank)]
        other = np.arange(value.shape[d], dtype=np.int32).reshape(shape)
        index.append(call.wrap(picks) if d == along else other)
    return getitem(call.wrap(value), tuple(index))


def take(x: ArrayLike, indices: ArrayLike, axis: int | None = None) -> Array:
    """The slices at these indices along an axis; None takes elements of the flat array. Negative indices count from
    the end; a traced one out of range reads 0.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32, i32
    >>> trace(lambda x, i: take(x, i, axis=0), f32[5, 3], i32[2]).output_types
    (f32[2,3],)
    """
    from graphc.frontend.indexing import getitem

    call = Call("take")
    value = call.value(x)
    if axis is None:
        value = call.reshape(value, (value.type.size,))
    along = call.axis(0 if axis is None else axis, len(value.shape))
    picks = call.prepare(indices)
    index = np.asarray(picks) if not isinstance(picks, Array) else picks
    return getitem(call.wrap(value), (*(slice(None),) * along, index))
