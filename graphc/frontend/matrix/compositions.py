"""Matrix functions that are compositions: norms, powers, the exponential, cross and Kronecker products.

In: traced values, arrays, Python numbers. Out: traced values. Axes or shapes that don't fit raise `ShapeError` with the
user's line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import elementwise, reductions
from graphc.frontend import manipulation as shapes
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.calls import Call
from graphc.frontend.linalg import matmul
from graphc.frontend.matrix.factorizations import inv, matrix_value, solve, square_value, svdvals
from graphc.frontend.promotion import DTypeLike
from graphc.ir.guard import guarded
from graphc.ir.types import f64

MatrixOrder = float | Literal["fro", "nuc"]


@guarded
def diagonal(x: ArrayLike, *, offset: int = 0) -> Array:
    """The diagonals of the matrices in the last two dimensions: above the main one for an `offset` above 0.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: diagonal(x), f32[5, 3, 4]).output_types
    (f32[5,3],)
    """
    return shapes.diagonal(x, offset, -2, -1)


@guarded
def trace(x: ArrayLike, *, offset: int = 0, dtype: DTypeLike | None = None) -> Array:
    """The sum of the diagonal of each matrix in the last two dimensions.

    >>> import graphc, numpy as np
    >>> float(graphc.compile(trace, graphc.f32[2, 2])(np.float32([[1, 2], [3, 4]])))
    5.0
    """
    return reductions.sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


@guarded
def cross(x1: ArrayLike, x2: ArrayLike, *, axis: int = -1) -> Array:
    """The cross product of vectors of three elements along an axis; the other axes broadcast.

    >>> import graphc, numpy as np
    >>> graphc.compile(cross, graphc.f32[3], graphc.f32[3])(np.float32([1, 0, 0]), np.float32([0, 1, 0]))
    array([0., 0., 1.], dtype=float32)
    """
    call = Call("linalg.cross")
    a, b = (
        shapes.moveaxis(call.wrap(v), call.axis(axis, len(v.shape)), -1) for v in map(call.value, (x1, x2))
    )
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise call.error(
            ShapeError, f"expected 3 elements along axis {axis}, got {a.shape[-1]} and {b.shape[-1]}"
        )
    first, second = [1, 2, 0], [2, 0, 1]

    def turned(x: Array, order: list[int]) -> Array:
        return shapes.stack([x[..., i] for i in order], axis=-1)

    result = turned(a, first) * turned(b, second) - turned(a, second) * turned(b, first)
    return shapes.moveaxis(result, -1, axis)


@guarded
def kron(x1: ArrayLike, x2: ArrayLike) -> Array:
    """The Kronecker product: `x2` times each element of `x1`, in its place; missing axes of either come first.

    >>> import graphc, numpy as np
    >>> graphc.compile(kron, graphc.f32[2], graphc.f32[2])(np.float32([1, 10]), np.float32([1, 2]))
    array([ 1.,  2., 10., 20.], dtype=float32)
    """
    call = Call("linalg.kron")
    given, dtype = call.promote(x1, x2)
    a, b = (call.wrap(call.value(x, dtype)) for x in given)
    rank = max(a.ndim, b.ndim)
    left, right = ((1,) * (rank - x.ndim) + x.shape for x in (a, b))
    spread = shapes.reshape(a, [n for m in left for n in (m, 1)])
    other = shapes.reshape(b, [n for m in right for n in (1, m)])
    return shapes.reshape(spread * other, [m * n for m, n in zip(left, right, strict=True)])


# ------------------------------------------------------------------------------------------------------------- norms


@guarded
def vector_norm(x: ArrayLike, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Array:
    """The norm (Σ |x|ᵖ)^(1/p) over axes (all of them for None) with p = `ord`; inf and -inf: largest and smallest size.

    For 0 it is the number of elements other than 0. Where all elements are 0, the derivative is 0.

    >>> import graphc, numpy as np
    >>> float(graphc.compile(vector_norm, graphc.f32[2])(np.float32([3, 4])))
    5.0
    """
    call = Call("linalg.vector_norm")
    value = call.wrap(call.float_value(x))
    axes = call.axes(axis, value.ndim)
    if isinstance(ord, bool) or not isinstance(ord, (int, float)):
        raise call.error(ArgumentError, f"ord: expected a number, got {ord!r}")
    sizes = elementwise.abs(value)
    if ord == math.inf:
        return reductions.max(sizes, axes, keepdims=keepdims)
    if ord == -math.inf:
        return reductions.min(sizes, axes, keepdims=keepdims)
    if ord == 0:
        return reductions.sum((value != 0).astype(value.dtype), axes, keepdims=keepdims)
    if ord == 1:
        return reductions.sum(sizes, axes, keepdims=keepdims)
    if ord == 2:
        return _root(reductions.sum(elementwise.square(value), axes, keepdims=keepdims), 2)
    return _root(reductions.sum(elementwise.pow(sizes, ord), axes, keepdims=keepdims), ord)


def _root(total: Array, order: float) -> Array:
    """total^(1/order); 0, with derivative 0, where the total is 0."""
    none = total == 0
    inside = elementwise.where(none, 1.0, total)
    root = elementwise.sqrt(inside) if order == 2 else elementwise.pow(inside, 1 / order)
    return elementwise.where(none, 0.0 if order > 0 else math.inf, root)


@guarded
def matrix_norm(x: ArrayLike, *, keepdims: bool = False, ord: MatrixOrder = "fro") -> Array:
    """The norm of each matrix in the last two dimensions.

    `ord`: "fro" (the root of the sum of squares), "nuc" (the sum of the singular values), 2 and -2 (the largest and the
    smallest singular value), 1 and -1 (the largest and the smallest sum of sizes of a column), inf and -inf (of a row).
    Raises `ShapeError`, `ArgumentError` for another order.

    >>> import graphc, numpy as np
    >>> float(graphc.compile(lambda x: matrix_norm(x, ord=1), graphc.f32[2, 2])(np.float32([[1, -2], [3, 4]])))
    6.0
    """
    call = Call("linalg.matrix_norm")
    value = call.wrap(matrix_value(call, x))
    if ord == "fro":
        return vector_norm(value, axis=(-2, -1), keepdims=keepdims)
    if (isinstance(ord, str) and ord != "nuc") or ord not in ("nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise call.error(ArgumentError, f"ord: expected 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}")
    if ord in ("nuc", 2, -2):
        values = svdvals(value)
        join = reductions.sum if ord == "nuc" else reductions.max if ord == 2 else reductions.min
        result = join(values, axis=-1)
    else:
        sums = reductions.sum(elementwise.abs(value), axis=-2 if ord in (1, -1) else -1)
        result = reductions.max(sums, axis=-1) if ord > 0 else reductions.min(sums, axis=-1)  # type: ignore[operator]
    return result[..., None, None] if keepdims else result


@guarded
def norm(x: ArrayLike, ord: MatrixOrder | None = None, axis: Axis = None, keepdims: bool = False) -> Array:
    """NumPy's norm: of the vector along one axis, or of the matrices along two; of all elements where neither is given.

    >>> import graphc, numpy as np
    >>> float(graphc.compile(norm, graphc.f32[2, 2])(np.float32([[1, 1], [1, 1]])))
    2.0
    """
    call = Call("linalg.norm")
    value = call.wrap(call.float_value(x))
    if axis is None and ord is None:
        flat = vector_norm(shapes.reshape(value, (-1,)))
        return shapes.reshape(flat, (1,) * value.ndim) if keepdims else flat
    if axis is None:
        given = tuple(range(value.ndim))
    else:
        given = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if len(given) == 1:
        order = 2 if ord is None else ord
        if isinstance(order, str):
            raise call.error(ArgumentError, f"ord: expected a number for a vector, got {order!r}")
        return vector_norm(value, axis=given, keepdims=keepdims, ord=order)
    if len(given) != 2:
        raise call.error(ShapeError, f"expected one axis or two, got {list(given)}")
    places = [call.axis(a, value.ndim) for a in given]
    call.axes(given, value.ndim)
    moved = shapes.moveaxis(value, tuple(places), (-2, -1))
    result = matrix_norm(moved, ord="fro" if ord is None else ord)
    for place in sorted(places) if keepdims else ():
        result = shapes.expand_dims(result, place)
    return result


# ------------------------------------------------------------------------------------------------------------ powers


@guarded
def matrix_power(x: ArrayLike, n: int) -> Array:
    """The product of `n` times each square matrix of `x` (..., k, k), of its inverse where n < 0, by repeated squaring.

    >>> import graphc, numpy as np
    >>> graphc.compile(lambda x: matrix_power(x, 5), graphc.f32[2, 2])(np.float32([[1, 1], [0, 1]]))
    array([[1., 5.],
           [0., 1.]], dtype=float32)
    """
    call = Call("linalg.matrix_power")
    count = call.integer(n, "n")
    given = call.value(x)
    if len(given.shape) < 2 or given.shape[-1] != given.shape[-2]:
        raise call.error(ShapeError, f"expected square matrices, got {given.type!r}")
    if count == 0:
        unit = np.eye(given.shape[-1], dtype=given.dtype.numpy)
        return shapes.broadcast_to(unit, given.shape)
    base = call.wrap(given) if count > 0 else inv(call.wrap(given))
    count = -count if count < 0 else count
    result: Array | None = None
    while count:
        if count % 2:
            result = base if result is None else matmul(result, base)
        count //= 2
        if count:
            base = matmul(base, base)
    assert result is not None
    return result


# The [7/7] and [13/13] approximants, and the 1-norm up to which their error is below rounding of f32 and f64.
_PADE_7 = (17297280.0, 8648640.0, 1995840.0, 277200.0, 25200.0, 1512.0, 56.0, 1.0)
_PADE_13 = (
    64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0, 129060195264000.0,
    10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0, 40840800.0, 960960.0, 16380.0, 182.0, 1.0,
)  # fmt: skip
_SQUARINGS = 16


@guarded
def expm(x: ArrayLike) -> Array:
    """The exponential of each square matrix of `x` (..., n, n): scaling, a Padé approximant, and squaring.

    The number of squarings depends on the matrix; 16 are made, of which those that aren't needed are passed over. A
    matrix whose 1-norm is above 2¹⁶ times the approximant's bound (3.9 for f32, 5.4 for f64) gives NaN. Raises
    `ShapeError`. N. Higham, "The scaling and squaring method for the matrix exponential revisited", 2005.

    >>> import graphc, numpy as np
    >>> graphc.compile(expm, graphc.f32[2, 2])(np.float32([[0, 1], [0, 0]])).round(4)
    array([[1., 1.],
           [0., 1.]], dtype=float32)
    """
    call = Call("linalg.expm")
    value = call.wrap(square_value(call, x))
    if 0 in value.shape:
        return value
    weights, bound = (_PADE_13, 5.371920351148152) if value.dtype is f64 else (_PADE_7, 3.925724783138660)
    size = elementwise.stop_gradient(matrix_norm(value, ord=1, keepdims=True))
    halvings = elementwise.maximum(elementwise.ceil(elementwise.log2(size / bound)), 0.0)
    scaled = value * elementwise.exp2(-elementwise.minimum(halvings, float(_SQUARINGS)))
    square = matmul(scaled, scaled)
    even, odd = _horner(square, weights[::2]), _horner(square, weights[1::2])
    odd = matmul(scaled, odd)
    result = solve(even - odd, even + odd)
    for step in range(_SQUARINGS):
        result = elementwise.where(halvings > step, matmul(result, result), result)
    return elementwise.where(halvings <= _SQUARINGS, result, math.nan)


def _horner(x: Array, weights: tuple[float, ...]) -> Array:
    """Σ weights[i] xⁱ."""
    unit = np.eye(x.shape[-1])

    def scaled(weight: float) -> np.ndarray:
        return (unit * weight).astype(x.dtype.numpy)

    result: Array = x * weights[-1] + scaled(weights[-2])
    for weight in reversed(weights[:-2]):
        result = matmul(result, x) + scaled(weight)
    return result
