"""Ops that go along one axis and carry a value from element to element: running sums, products and extrema.

In: operands of one shape, the attributes `axis` and `reverse` (true: from the last element to the first). Out:
registered ops. Running sums and products are both the linear recurrence r[i] = a[i] r[i-1] + b[i], whose adjoint is a
recurrence in the other direction: exact where elements are 0, since nothing is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import NUMBERS, Adjoint, OpDef, Sample, check_dtype, integer, register
from graphc.ir.types import DType, TensorType, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    check_dtype(types[0].dtype, NUMBERS)
    if any(t.shape != types[0].shape for t in types):
        raise ShapeError(f"expected equal shapes, got {', '.join(map(repr, types))}")
    if any(t.dtype != types[0].dtype for t in types):
        raise DTypeError(f"expected equal data types, got {', '.join(map(repr, types))}")
    axis = integer(attrs, "axis")
    if not 0 <= axis < types[0].rank:
        raise ShapeError(f"expected an axis within rank {types[0].rank}, got {axis}")
    if type(attrs["reverse"]) is not bool:
        raise ShapeError(f"reverse: expected true or false, got {attrs['reverse']!r}")
    return (types[0],)


def _along(arrays: Sequence[np.ndarray], attrs: Attrs) -> list[np.ndarray]:
    """Views with the axis first, in the direction of the op."""
    moved = [np.moveaxis(x, integer(attrs, "axis"), 0) for x in arrays]
    return [x[::-1] if attrs["reverse"] else x for x in moved]


def shifted(build: Builder, x: Value, axis: int, later: bool, fill: float | bool) -> Value:
    """Each element's neighbour: the one before it, or the later one; `fill` where there is none."""
    rank, n = x.type.rank, x.shape[axis]
    one = tuple(int(d == axis) for d in range(rank))
    zero = (0,) * rank
    size = tuple(m - o for m, o in zip(x.shape, one, strict=True))
    if n == 0:
        return x
    kept = build.slice(x, start=one if later else zero, size=size, step=(1,) * rank)
    return build.pad(kept, low=zero if later else one, high=one if later else zero, interior=zero, value=fill)


def _ref_recurrence(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    result = np.array(arrays[1])
    a, r = _along([arrays[0], result], attrs)
    with np.errstate(all="ignore"):
        for i in range(1, len(r)):
            r[i] += a[i] * r[i - 1]
    return [result]


def _adjoint_recurrence(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """Of b the recurrence of the cotangent in the other direction, with each a read one place later; of a that times
    the result one place before."""
    (g,) = cotangents
    if g is None:
        return [None, None]
    (a, _), (r,) = node.operands, node.results
    axis, reverse = node.int("axis"), bool(node.attrs["reverse"])
    zero = 0.0 if a.dtype.is_float else 0
    back = build.recurrence(shifted(build, a, axis, not reverse, zero), g, axis=axis, reverse=not reverse)
    return [build.mul(back, shifted(build, r, axis, reverse, zero)), back]


def _recurrence_samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def array(*shape: int) -> np.ndarray:
        if dtype.is_integer:
            return rng.integers(0, 4, shape).astype(dtype.numpy)
        return rng.uniform(-1.2, 1.2, shape).astype(dtype.numpy)

    cases = [((7,), 0), ((5, 19), 0), ((5, 19), 1), ((3, 4, 6), 1), ((2, 1), 1), ((3, 0), 1), ((0, 3), 1)]
    samples = [
        Sample((array(*shape), array(*shape)), {"axis": axis, "reverse": reverse})
        for shape, axis in cases
        for reverse in (False, True)
    ]
    samples[0].arrays[0][3:5] = 0  # zeros are what divisions would fail at
    return samples


recurrence = register(
    OpDef(
        "recurrence",
        _infer,
        _ref_recurrence,
        arity=2,
        adjoint=_adjoint_recurrence,
        batch=along("axis"),
        traits=frozenset({"cumulative"}),
        latex=r"r_i = {0}_i r_{{i-1}} + {1}_i",
        doc="Each result is the one before it times the first operand's element, plus the second's; the first result "
        "is the second operand's element. A running sum has ones as first operand.",
        dtypes=NUMBERS,
        samples=_recurrence_samples,
    )
)


def _adjoint_extremum(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """Each cotangent goes to the element that is the extremum there, the first one of equals."""
    (g,) = cotangents
    (x,), (y,) = node.operands, node.results
    if g is None or x.type.size == 0:
        return [g]
    axis, reverse = node.int("axis"), bool(node.attrs["reverse"])
    index = TensorType(i32, x.shape)
    fresh = shifted(build, build.splat(1, index), axis, reverse, 0)
    new = build.or_(
        build.eq(fresh, build.splat(0, index)), build.ne(y, shifted(build, y, axis, reverse, _zero(x.dtype)))
    )
    spot = build.iota(dim=axis, type=index)
    last = build.splat(x.shape[axis] - 1 if reverse else 0, index)
    follow = build.cumulative_min if reverse else build.cumulative_max
    position = follow(build.select(new, spot, last), axis=axis, reverse=reverse)
    flat, stride = build.splat(0, index), 1
    for d in reversed(range(x.type.rank)):
        along = position if d == axis else build.iota(dim=d, type=index)
        flat = build.add(flat, build.mul(along, build.splat(stride, index)))
        stride *= x.shape[d]
    line = (x.type.size,)
    zeros = build.zeros(TensorType(x.dtype, line))
    total = build.scatter_add(zeros, build.reshape(flat, shape=line), build.reshape(g, shape=line), axis=0)
    return [build.reshape(total, shape=x.shape)]


def _zero(dtype: DType) -> float:
    return 0.0 if dtype.is_float else 0


def _extremum(name: str, combine: str, numpy: np.ufunc) -> OpDef:
    def ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
        (x,) = _along(arrays, attrs)
        with np.errstate(invalid="ignore"):
            y = numpy.accumulate(x, axis=0) if len(x) else x
        y = y[::-1] if attrs["reverse"] else y
        return [np.ascontiguousarray(np.moveaxis(y, 0, integer(attrs, "axis")))]

    def samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
        def array(shape: tuple[int, ...]) -> np.ndarray:
            if dtype.is_integer:
                return rng.integers(0, 90, shape).astype(dtype.numpy)
            return rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape).astype(dtype.numpy)

        return [Sample((array(s.arrays[0].shape),), s.attrs) for s in _recurrence_samples(rng, dtype)]

    adjoint: Adjoint = _adjoint_extremum
    return register(
        OpDef(
            name,
            _infer,
            ref,
            arity=1,
            adjoint=adjoint,
            batch=along("axis"),
            traits=frozenset({"cumulative"}),
            combine=combine,
            latex=rf"r_i = \{combine}_{{{{j \leq i}}}} {{0}}_j",
            doc=f"The {combine}imum of the elements up to each; NaN from the first NaN on.",
            kink="the first of equal elements takes the cotangent",
            dtypes=NUMBERS,
            samples=samples,
        )
    )


cumulative_max = _extremum("cumulative_max", "max", np.maximum)
cumulative_min = _extremum("cumulative_min", "min", np.minimum)
