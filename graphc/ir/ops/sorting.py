"""The order of the elements along an axis: `argsort`, on which sorting, ranks and the largest k are built.

In: an operand, the attributes `axis` and `descending`. Out: a registered op. It gives positions and no values: the
sorted values are a gather by them, whose adjoint adds each cotangent at the position that its value came from, so
sorting has derivatives of every order without a rule of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import NUMBERS, OpDef, Sample, check_dtype, integer, register
from graphc.ir.types import DType, TensorType, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Graph


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    (x,) = types
    check_dtype(x.dtype, NUMBERS)
    axis = integer(attrs, "axis")
    if not 0 <= axis < x.rank:
        raise ShapeError(f"expected an axis within rank {x.rank}, got {axis}")
    if x.shape[axis] >= 2**31:
        raise ShapeError(f"expected less than 2**31 elements along axis {axis}, got {x!r}")
    if type(attrs["descending"]) is not bool:
        raise ShapeError(f"descending: expected true or false, got {attrs['descending']!r}")
    return (TensorType(i32, x.shape),)


def _ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,), axis = arrays, integer(attrs, "axis")
    if not attrs["descending"]:
        return [np.argsort(x, axis=axis, kind="stable").astype(np.int32)]
    # backwards through the backwards array: equal elements are in their order again
    order = np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    return [(x.shape[axis] - 1 - order).astype(np.int32)]


def _samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def array(shape: tuple[int, ...]) -> np.ndarray:
        if dtype.is_integer:
            return rng.integers(0, 9, shape).astype(dtype.numpy)  # with many equal ones
        values = rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)
        flat = values.reshape(-1)
        flat[1::3] = np.round(flat[1::3])
        flat[2::11] = np.nan
        flat[3::13] = -0.0
        return values.astype(dtype.numpy)

    cases = [
        ((5,), 0),
        ((3, 19), 1),
        ((19, 3), 0),
        ((9, 21), 0),
        ((2, 3, 8), 1),
        ((2, 70), 1),
        ((1, 1), 1),
        ((3, 0), 1),
        ((0, 3), 1),
    ]
    return [
        Sample((array(shape),), {"axis": axis, "descending": descending})
        for shape, axis in cases
        for descending in (False, True)
    ]


argsort = register(
    OpDef(
        "argsort",
        _infer,
        _ref,
        arity=1,
        batch=along("axis"),
        no_derivative="a position is piecewise constant and an integer; the gather by it has one",
        traits=frozenset({"sort"}),
        latex=r"\operatorname{{argsort}} {0}",
        doc="The i32 positions that the elements along an axis have, in increasing order of the elements; equal ones (-0 "
        "and 0 too) stay in their order. NaN counts as greater than any number: last, and first where `descending`.",
        dtypes=NUMBERS,
        samples=_samples,
    )
)
