"""Constants, and ops that only move elements: each is an index map, so code generation folds it into its reader.

In: operands and static attributes. Out: registered ops; the adjoint of each is made of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.batching import along, changed
from graphc.ir.graph import Dense
from graphc.ir.opdef import (
    ANY,
    NUMBERS,
    Derive,
    OpDef,
    Sample,
    Tangents,
    check_dtype,
    int_list,
    integer,
    register,
)
from graphc.ir.types import DType, TensorType, bool_

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

_LINEAR_VIEW = frozenset({"view", "linear"})


def _type(attrs: Attrs) -> TensorType:
    value = attrs["type"]
    if not isinstance(value, TensorType):
        raise DTypeError(f"expected a tensor type, got {value!r}")
    return value


def _array(rng: np.random.Generator, dtype: DType, *shape: int) -> np.ndarray:
    if dtype is bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0, 100, shape).astype(dtype.numpy)
    return rng.uniform(-2, 2, shape).astype(dtype.numpy)


# ---------------------------------------------------------------------------------------------------- const and iota


def canonical_number(value: object, dtype: DType) -> bool | int | float | None:
    """The number as a constant of this type holds it, of its kind and precision; None where the type can't.

    >>> from graphc.ir.types import f32, i32, u8
    >>> canonical_number(1, f32), canonical_number(0.1, f32), canonical_number(300, u8), canonical_number(1.5, i32)
    (1.0, 0.10000000149011612, None, None)
    """
    if not isinstance(value, (bool, int, float)):
        return None
    if isinstance(value, bool) or dtype.kind == "bool":
        return value if isinstance(value, bool) and dtype.kind == "bool" else None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return None
    if dtype.is_float:
        return dtype.rounded(float(value))
    if not isinstance(value, int):
        return None
    lowest, highest = dtype.limits
    return int(value) if lowest <= value <= highest else None


def _infer_const(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    type, value = _type(attrs), attrs["value"]
    check_dtype(type.dtype, ANY)
    if isinstance(value, Dense):
        if value.array.shape != type.shape or value.array.dtype != type.dtype.numpy:
            raise ShapeError(
                f"expected a constant of {type!r}, got {value.array.dtype.name}{list(value.array.shape)}"
            )
    elif canonical_number(value, type.dtype) is None:
        raise DTypeError(f"expected a number of {type.dtype.name}, got {value!r}")
    return (type,)


def _ref_const(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    value, type = attrs["value"], _type(attrs)
    return [
        value.array.astype(type.dtype.numpy)
        if isinstance(value, Dense)
        else np.full(type.shape, value, type.dtype.numpy)
    ]


const = register(
    OpDef(
        "const", _infer_const, _ref_const, 0, no_derivative="a constant has no operands", typed=True, dtypes=ANY,
        traits=frozenset({"leaf"}), doc="A splat of one number, or an array named by the digest of its bytes.",
        samples=lambda rng, dtype: [
            Sample((), {"value": dtype is bool_ or (2.5 if dtype.is_float else 3), "type": TensorType(dtype, (3, 2))}),
            Sample((), {"value": Dense(_array(rng, dtype, 3, 2)), "type": TensorType(dtype, (3, 2))}),
        ],
    )
)  # fmt: skip


def _infer_iota(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    type = _type(attrs)
    check_dtype(type.dtype, NUMBERS)
    if not 0 <= integer(attrs, "dim") < type.rank:
        raise ShapeError(f"expected a dimension within rank {type.rank}, got {attrs['dim']}")
    return (type,)


def _ref_iota(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    type, dim = _type(attrs), integer(attrs, "dim")
    line = np.arange(type.shape[dim]).astype(type.dtype.numpy)
    return [np.broadcast_to(line.reshape([-1 if d == dim else 1 for d in range(type.rank)]), type.shape)]


iota = register(
    OpDef(
        "iota", _infer_iota, _ref_iota, 0, no_derivative="a constant has no operands", typed=True, dtypes=NUMBERS,
        traits=frozenset({"leaf"}), doc="The index along one dimension.",
        samples=lambda rng, dtype: [Sample((), {"dim": d, "type": TensorType(dtype, (3, 5))}) for d in (0, 1)],
    )
)  # fmt: skip

# -------------------------------------------------------------------------------------- broadcast, reshape, transpose


def _infer_broadcast(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,), dims, shape = types, int_list(attrs, "dims"), int_list(attrs, "shape")
    if len(dims) != x.rank or list(dims) != sorted(set(dims)) or not all(0 <= d < len(shape) for d in dims):
        raise ShapeError(f"expected {x.rank} increasing dims within rank {len(shape)}, got {list(dims)}")
    if any(shape[d] != n for d, n in zip(dims, x.shape, strict=True)):
        raise ShapeError(f"expected {x!r} along dims {list(dims)}, got {list(shape)}")
    return (TensorType(x.dtype, shape),)


def _ref_broadcast(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,), dims, shape = arrays, int_list(attrs, "dims"), int_list(attrs, "shape")
    padded = [1] * len(shape)
    for d, n in zip(dims, x.shape, strict=True):
        padded[d] = n
    return [np.broadcast_to(x.reshape(padded), shape)]


def _adjoint_broadcast(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The cotangent summed over the repeated dimensions."""
    (g,) = cotangents
    new = tuple(d for d in range(len(node.ints("shape"))) if d not in node.ints("dims"))
    return [None if g is None else build.reduce_sum(g, axes=new)]


def _batch_broadcast(node: Node, size: int) -> Attrs:
    return {"dims": (0, *(d + 1 for d in node.ints("dims"))), "shape": (size, *node.ints("shape"))}


broadcast = register(
    OpDef(
        "broadcast", _infer_broadcast, _ref_broadcast, 1, _adjoint_broadcast, traits=_LINEAR_VIEW, dtypes=ANY,
        batch=changed(_batch_broadcast), latex="{0}",
        doc="Operand dimension i becomes result dimension dims[i]; the others repeat it.",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 5),), {"dims": (1,), "shape": (3, 5)}),
            Sample((_array(rng, dtype, 3),), {"dims": (0,), "shape": (3, 5)}),
            Sample((_array(rng, dtype),), {"dims": (), "shape": (3, 5)}),
        ],
    )
)  # fmt: skip


def _infer_reshape(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,), shape = types, int_list(attrs, "shape")
    if math.prod(shape) != x.size:
        raise ShapeError(f"expected a shape of {x.size} elements for {x!r}, got {list(shape)}")
    return (TensorType(x.dtype, shape),)


def _adjoint_reshape(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The cotangent under the operand's shape."""
    (g,) = cotangents
    return [None if g is None else build.reshape(g, shape=node.operands[0].shape)]


reshape = register(
    OpDef(
        "reshape", _infer_reshape, lambda arrays, attrs: [arrays[0].reshape(int_list(attrs, "shape"))], 1, _adjoint_reshape,
        traits=_LINEAR_VIEW, dtypes=ANY, latex="{0}",
        batch=changed(lambda node, size: {"shape": (size, *node.ints("shape"))}),
        doc="The same elements in row-major order under another shape.",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 4, 6),), {"shape": (3, 8)}),
            Sample((_array(rng, dtype, 4, 6),), {"shape": (2, 2, 6, 1)}),
            Sample((_array(rng, dtype, 1, 1),), {"shape": ()}),
        ],
    )
)  # fmt: skip


def _infer_transpose(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,), perm = types, int_list(attrs, "perm")
    if sorted(perm) != list(range(x.rank)):
        raise ShapeError(f"expected a permutation of {x.rank} dimensions, got {list(perm)}")
    return (TensorType(x.dtype, tuple(x.shape[p] for p in perm)),)


def _adjoint_transpose(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The cotangent with its dimensions put back by the inverse permutation."""
    (g,), perm = cotangents, node.ints("perm")
    inverse = tuple(sorted(range(len(perm)), key=perm.__getitem__))
    return [None if g is None else build.transpose(g, perm=inverse)]


transpose = register(
    OpDef(
        "transpose", _infer_transpose, lambda arrays, attrs: [arrays[0].transpose(int_list(attrs, "perm"))], 1,
        _adjoint_transpose, traits=_LINEAR_VIEW, dtypes=ANY, latex="{0}^T",
        batch=changed(lambda node, size: {"perm": (0, *(d + 1 for d in node.ints("perm")))}),
        doc="Result dimension i is operand dimension perm[i].",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 4, 6),), {"perm": (1, 0)}),
            Sample((_array(rng, dtype, 2, 3, 5),), {"perm": (2, 0, 1)}),
        ],
    )
)  # fmt: skip

# ----------------------------------------------------------------------------------------------- slice, pad, concat


def _infer_slice(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,) = types
    start, size, step = (int_list(attrs, k) for k in ("start", "size", "step"))
    if not len(start) == len(size) == len(step) == x.rank:
        raise ShapeError(f"expected start, size and step for each of {x.rank} dimensions")
    for n, a, count, s in zip(x.shape, start, size, step, strict=True):
        last = a + (count - 1) * s
        if s == 0 or count < 0 or (count and not (0 <= a < n and 0 <= last < n)):
            raise ShapeError(f"expected a slice within {x!r}, got start {a}, size {count}, step {s}")
    return (TensorType(x.dtype, size),)


def _ref_slice(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    start, size, step = (int_list(attrs, k) for k in ("start", "size", "step"))
    picks = [a + s * np.arange(n) for a, n, s in zip(start, size, step, strict=True)]
    return [arrays[0][np.ix_(*picks)] if picks else arrays[0]]


def _adjoint_slice(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Zeros around and between; where the step was negative, the cotangent is turned around first."""
    (g,) = cotangents
    if g is None:
        return [None]
    x = node.operands[0]
    start, size, step = (node.ints(k) for k in ("start", "size", "step"))
    if any(s < 0 for s in step):
        turn = tuple(-1 if s < 0 else 1 for s in step)
        first = tuple(max(n - 1, 0) if s < 0 else 0 for n, s in zip(size, step, strict=True))
        g = build.slice(g, start=first, size=size, step=turn)
    low, high, interior = [], [], []
    for n, a, count, s in zip(x.shape, start, size, step, strict=True):
        lowest = min(a, a + (count - 1) * s) if count else 0
        low.append(lowest)
        interior.append(abs(s) - 1)
        high.append(n - lowest - ((count - 1) * abs(s) + 1 if count else 0))
    return [build.pad(g, low=tuple(low), high=tuple(high), interior=tuple(interior), value=0.0)]


slice_ = register(
    OpDef(
        "slice", _infer_slice, _ref_slice, 1, _adjoint_slice, traits=_LINEAR_VIEW, dtypes=ANY, latex="{0}",
        batch=changed(
            lambda node, size: {
                "start": (0, *node.ints("start")), "size": (size, *node.ints("size")), "step": (1, *node.ints("step"))
            }
        ),
        doc="Result index i is operand index start + i * step along each dimension; steps may be negative.",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 6, 7),), {"start": (1, 0), "size": (3, 4), "step": (1, 2)}),
            Sample((_array(rng, dtype, 6, 7),), {"start": (5, 6), "size": (3, 7), "step": (-2, -1)}),
            Sample((_array(rng, dtype, 40),), {"start": (3,), "size": (33,), "step": (1,)}),
        ],
    )
)  # fmt: skip


def _padded(n: int, low: int, high: int, interior: int) -> int:
    return low + high + (n + (n - 1) * interior if n else 0)


def _infer_pad(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,) = types
    low, high, interior = (int_list(attrs, k) for k in ("low", "high", "interior"))
    if not len(low) == len(high) == len(interior) == x.rank or min((*low, *high, *interior, 0)) < 0:
        raise ShapeError(f"expected non-negative low, high and interior for each of {x.rank} dimensions")
    value = attrs["value"]
    if canonical_number(value, x.dtype) is None and not (x.dtype is bool_ and value in (0, 1)):
        raise DTypeError(f"expected a number of {x.dtype.name} to pad with, got {value!r}")
    return (TensorType(x.dtype, tuple(map(_padded, x.shape, low, high, interior))),)


def _ref_pad(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays
    low, high, interior = (int_list(attrs, k) for k in ("low", "high", "interior"))
    result = np.full(tuple(map(_padded, x.shape, low, high, interior)), attrs["value"], x.dtype)
    spots = [a + (i + 1) * np.arange(n) for a, i, n in zip(low, interior, x.shape, strict=True)]
    result[np.ix_(*spots) if spots else ()] = x
    return [result]


def _adjoint_pad(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The slice of the cotangent where the operand's elements stand."""
    (g,) = cotangents
    if g is None:
        return [None]
    step = tuple(i + 1 for i in node.ints("interior"))
    return [build.slice(g, start=node.ints("low"), size=node.operands[0].shape, step=step)]


def _tangent_pad(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """The tangent with zeros around: what is padded with is constant."""
    (dx,) = tangents
    sides = {k: node.ints(k) for k in ("low", "high", "interior")}
    return node.results, [None if dx is None else build.pad(dx, **sides, value=0.0)]


pad = register(
    OpDef(
        "pad", _infer_pad, _ref_pad, 1, _adjoint_pad, traits=_LINEAR_VIEW, dtypes=ANY, latex="{0}",
        tangent=_tangent_pad,
        batch=changed(lambda node, size: {k: (0, *node.ints(k)) for k in ("low", "high", "interior")}),
        doc="`value` put before (low), after (high) and between (interior) the elements of each dimension.",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 3, 4),), {"low": (1, 0), "high": (0, 2), "interior": (0, 0), "value": 0}),
            Sample((_array(rng, dtype, 3, 4),), {"low": (1, 0), "high": (0, 2), "interior": (2, 1), "value": 1}),
            Sample((_array(rng, dtype, 21),), {"low": (5,), "high": (9,), "interior": (0,), "value": 0}),
        ],
    )
)  # fmt: skip


def _infer_concat(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    axis = integer(attrs, "axis")
    if not types or not 0 <= axis < types[0].rank:
        raise ShapeError(f"expected at least one operand of a rank above {axis}")

    def others(t: TensorType) -> tuple[int, ...]:
        return t.shape[:axis] + t.shape[axis + 1 :]

    for t in types:
        if t.rank != types[0].rank or others(t) != others(types[0]):
            raise ShapeError(f"expected equal shapes but for axis {axis}, got {', '.join(map(repr, types))}")
        if t.dtype != types[0].dtype:
            raise DTypeError(f"expected equal data types, got {', '.join(map(repr, types))}")
    shape = list(types[0].shape)
    shape[axis] = sum(t.shape[axis] for t in types)
    return (TensorType(types[0].dtype, tuple(shape)),)


def _adjoint_concat(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Each operand's own slice of the cotangent."""
    (g,), axis = cotangents, node.int("axis")
    parts: list[Value | None] = []
    offset = 0
    for x in node.operands:
        start = tuple(offset if d == axis else 0 for d in range(x.type.rank))
        parts.append(
            None if g is None else build.slice(g, start=start, size=x.shape, step=(1,) * x.type.rank)
        )
        offset += x.shape[axis]
    return parts


concat = register(
    OpDef(
        "concat", _infer_concat, lambda arrays, attrs: [np.concatenate(arrays, axis=integer(attrs, "axis"))], None,
        _adjoint_concat, traits=_LINEAR_VIEW, dtypes=ANY, latex="[{0}]",
        batch=along("axis"), doc="Operands one after the other along `axis`.",
        samples=lambda rng, dtype: [
            Sample((_array(rng, dtype, 3, 4), _array(rng, dtype, 2, 4)), {"axis": 0}),
            Sample((_array(rng, dtype, 2, 3), _array(rng, dtype, 2, 20), _array(rng, dtype, 2, 1)), {"axis": 1}),
        ],
    )
)  # fmt: skip
