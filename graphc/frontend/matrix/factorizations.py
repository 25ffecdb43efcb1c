"""Factorizations and what is solved with them: Cholesky, QR, LU, eigenvalues, singular values.

In: matrices in the last two dimensions, any dimensions before (they broadcast). Out: traced values. Integers become
floats; complex numbers are refused. Shapes that don't fit raise `ShapeError` with the user's line. Compiled code can't
raise: a matrix that has no such factor, or no inverse, gives NaN or inf where its function says so.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import elementwise, reductions
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.linalg import matmul
from graphc.frontend.manipulation import concat, diagonal, matrix_transpose, reshape
from graphc.ir import ops
from graphc.ir.graph import Value
from graphc.ir.guard import guarded
from graphc.ir.opdef import OpDef
from graphc.ir.ops.factor import take_rows
from graphc.ir.types import TensorType, i32


class QRResult(NamedTuple):
    """What `qr` gives."""

    Q: Array
    R: Array


class EighResult(NamedTuple):
    """What `eigh` gives."""

    eigenvalues: Array
    eigenvectors: Array


class SVDResult(NamedTuple):
    """What `svd` gives."""

    U: Array
    S: Array
    Vh: Array


class SlogdetResult(NamedTuple):
    """What `slogdet` gives."""

    sign: Array
    logabsdet: Array


# ------------------------------------------------------------------------------------------------------ the arguments


def matrix_value(call: Call, x: ArrayLike) -> Value:
    """A stack of matrices of floats."""
    value = call.float_value(x)
    if len(value.shape) < 2:
        raise call.error(ShapeError, f"expected matrices in the last two dimensions, got {value.type!r}")
    return value


def square_value(call: Call, x: ArrayLike) -> Value:
    """A stack of square matrices of floats."""
    value = matrix_value(call, x)
    if value.shape[-1] != value.shape[-2]:
        raise call.error(ShapeError, f"expected square matrices, got {value.type!r}")
    return value


def _of_system(call: Call, a: ArrayLike, b: ArrayLike) -> tuple[Value, Value, bool]:
    """Matrices and their right sides with one type and equal dimensions before the last two, and if the right side is
    one vector (it is a column then)."""
    given, dtype = call.promote(a, b, floats=True)
    left, right = (call.value(x, dtype) for x in given)
    if len(left.shape) < 2:
        raise call.error(ShapeError, f"expected matrices in the last two dimensions, got {left.type!r}")
    vector = len(right.shape) == 1
    if not right.shape:
        raise call.error(ShapeError, f"expected right sides of rank 1 or more, got {right.type!r}")
    if right.shape[-1 if vector else -2] != left.shape[-2]:
        raise call.error(
            ShapeError,
            f"expected right sides with {left.shape[-2]} rows, as {left.type!r} has, got {right.type!r}",
        )
    if vector:
        right = call.reshape(right, (*right.shape, 1))
    batch = call.common_shape([left.shape[:-2], right.shape[:-2]])
    left = call.broadcast(left, (*batch, *left.shape[-2:]))
    return left, call.broadcast(right, (*batch, *right.shape[-2:])), vector


def _factors(call: Call, op: OpDef, x: Value | Array) -> list[Array]:
    """All results of a factorization."""
    value = call.trace.lift(x) if isinstance(x, Array) else x
    return [call.wrap(result) for result in call.build.emit(op, [value]).results]


def _without_column(x: Array, vector: bool) -> Array:
    return reshape(x, x.shape[:-1]) if vector else x


# --------------------------------------------------------------------------------------------------------- factors


@guarded
def cholesky(x: ArrayLike, *, upper: bool = False) -> Array:
    """The lower triangular L with positive diagonal and L Lᵀ = x; with `upper` its transpose.

    `x` (..., n, n): symmetric and positive definite; of any other matrix the symmetric part (x + xᵀ) / 2 is taken.
    Where that isn't positive definite, L is NaN from the first column on whose pivot isn't positive. Raises
    `ShapeError`. Golub & Van Loan, Matrix Computations, section 4.2.

    >>> import graphc, numpy as np
    >>> graphc.compile(cholesky, graphc.f32[2, 2])(np.float32([[4, 2], [2, 5]]))
    array([[2., 0.],
           [1., 2.]], dtype=float32)
    """
    call = Call("linalg.cholesky")
    factor = call.wrap(call.build.cholesky(square_value(call, x)))
    return matrix_transpose(factor) if upper else factor


@guarded
def qr(x: ArrayLike, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """Q with orthonormal columns and the upper triangular R with Q R = x.

    `x` (..., m, n). With k = min(m, n), Q is (..., m, k) and R (..., k, n); with ``mode="complete"`` Q is (..., m, m)
    and R (..., m, n). Signs are those of Householder's reflections, as LAPACK's: where nothing is 0, an element of
    R's diagonal has the sign opposite to that of the element that it is made of, but for the last one of a matrix that
    is not tall. Q is orthonormal whatever the rank; derivatives need full rank (of the first m columns of a wide
    matrix), and are inf or NaN without. Raises `ShapeError`, `ArgumentError` for another mode.

    >>> import graphc, numpy as np
    >>> q, r = graphc.compile(qr, graphc.f32[2, 1])(np.float32([[3], [4]]))
    >>> q.round(3).tolist(), r.tolist()
    ([[-0.6000000238418579], [-0.800000011920929]], [[-5.0]])
    """
    call = Call("linalg.qr")
    value = matrix_value(call, x)
    if mode not in ("reduced", "complete"):
        raise call.error(ArgumentError, f"mode: expected 'reduced' or 'complete', got {mode!r}")
    m, n = value.shape[-2:]
    if m < n:  # the first columns decide on Q
        whole = call.wrap(value)
        q, first = _factors(call, ops.qr, whole[..., :m])
        return QRResult(q, concat([first, matmul(matrix_transpose(q), whole[..., m:])], axis=-1))
    q, r = _factors(call, ops.qr, value)
    if mode == "complete" and m > n:
        rows = call.build.zeros(TensorType(value.dtype, (*value.shape[:-2], m - n, n)))
        return QRResult(_completed(q), concat([r, call.wrap(rows)], axis=-2))
    return QRResult(q, r)


def _completed(q: Array) -> Array:
    """The square orthogonal matrix whose first n columns are those of the m x n matrix Q that reflections made.

    I + Y (Tᵀ - I)⁻¹ Yᵀ with Y = Q - I (its first n columns) and T the upper square of Q is orthogonal and takes the
    first n unit vectors to Q, as the product of the reflections does, so it is that product (compare R. Schreiber &
    C. Van Loan, "A storage-efficient WY representation for products of Householder transformations", 1989).
    """
    m, n = q.shape[-2:]
    unit = np.eye(m, n, dtype=q.dtype.numpy)
    below = q[..., n:, :]
    inner = solve(matrix_transpose(q[..., :n, :]) - unit[:n], matrix_transpose(below))
    rest = matmul(q - unit, inner) + np.eye(m, m - n, -n, dtype=q.dtype.numpy)
    return concat([q, rest], axis=-1)


@guarded
def eigh(x: ArrayLike) -> EighResult:
    """Eigenvalues of symmetric matrices, ascending (..., n), and orthonormal eigenvectors as columns (..., n, n).

    Of `x` (..., n, n) the symmetric part (x + xᵀ) / 2 is taken. The first element of a vector that is at least 0.9
    times its largest one in size is positive. Found by Jacobi's rotations, accurate to rounding for every eigenvalue
    beside the largest; meant for n up to some hundred. Derivatives of vectors grow with one over the distance of
    their eigenvalue from the next; what would turn vectors of equal eigenvalues into each other gets 0. An inf or NaN
    in a matrix makes it all NaN. Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 8.5.

    >>> import graphc, numpy as np
    >>> graphc.compile(lambda x: eigh(x).eigenvalues, graphc.f32[2, 2])(np.float32([[2, 1], [1, 2]]))
    array([1., 3.], dtype=float32)
    """
    call = Call("linalg.eigh")
    return EighResult(*_factors(call, ops.eigh, square_value(call, x)))


@guarded
def eigvalsh(x: ArrayLike) -> Array:
    """The eigenvalues that `eigh` gives, without the vectors.

    >>> import graphc, numpy as np
    >>> graphc.compile(eigvalsh, graphc.f32[2, 2])(np.float32([[2, 1], [1, 2]]))
    array([1., 3.], dtype=float32)
    """
    call = Call("linalg.eigvalsh")
    return _factors(call, ops.eigh, square_value(call, x))[0]


def _tall(call: Call, x: ArrayLike) -> tuple[Array, bool]:
    """The matrix, transposed if it is wide, and whether it was."""
    value = call.wrap(matrix_value(call, x))
    wide = value.shape[-2] < value.shape[-1]
    return (matrix_transpose(value) if wide else value), wide


@guarded
def svd(x: ArrayLike, *, full_matrices: bool = True) -> SVDResult:
    """U, the singular values S, descending, and Vh with U diag(S) Vh = x; U and Vh have orthonormal columns and rows.

    `x` (..., m, n): with k = min(m, n), S is (..., k), U (..., m, m) and Vh (..., n, n), or (..., m, k) and (..., k, n)
    with ``full_matrices=False``. The signs of the vectors on the shorter side are those of `eigh`. Found by one-sided
    rotations; small values keep their digits. Derivatives of vectors grow with one over the distances of the values,
    and those on the longer side are not finite where a value is 0. An inf or NaN in a matrix makes it all NaN.
    Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 8.6.3.

    >>> import graphc, numpy as np
    >>> graphc.compile(lambda x: svd(x).S, graphc.f32[2, 3])(np.float32([[0, 3, 0], [4, 0, 0]]))
    array([4., 3.], dtype=float32)
    """
    call = Call("linalg.svd")
    tall, wide = _tall(call, x)
    values, right = _factors(call, ops.svd, tall)
    # the columns of X V are orthogonal, so QR only scales them: orthonormal ones also where a value is 0
    left, triangle = qr(matmul(tall, right))
    if full_matrices and tall.shape[-2] > tall.shape[-1]:
        left = _completed(left)
    k = tall.shape[-1]
    pivots = diagonal(triangle, 0, -2, -1)
    signs = elementwise.where(pivots < 0, -1.0, elementwise.where(elementwise.isnan(pivots), math.nan, 1.0))
    signs = signs.astype(values.dtype)[..., None, :]
    left = concat([left[..., :k] * signs, left[..., k:]], axis=-1) if left.shape[-1] > k else left * signs
    if wide:
        return SVDResult(right, values, matrix_transpose(left))
    return SVDResult(left, values, matrix_transpose(right))


@guarded
def svdvals(x: ArrayLike) -> Array:
    """The singular values that `svd` gives, without the vectors.

    >>> import graphc, numpy as np
    >>> graphc.compile(svdvals, graphc.f32[2, 3])(np.float32([[0, 3, 0], [4, 0, 0]]))
    array([4., 3.], dtype=float32)
    """
    call = Call("linalg.svdvals")
    return _factors(call, ops.svd, _tall(call, x)[0])[0]


# --------------------------------------------------------------------------------------------------------- solutions


@guarded
def solve_triangular(
    a: ArrayLike,
    b: ArrayLike,
    *,
    lower: bool = False,
    transpose: bool = False,
    unit_diagonal: bool = False,
) -> Array:
    """X with a X = b, or aᵀ X = b with `transpose`, where only the upper triangle of `a` is read (or the lower one).

    `a` (..., n, n), `b` (..., n, k) or (n,); the diagonal counts as 1 with `unit_diagonal`. A zero on the diagonal
    divides: inf or NaN. Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 3.1.

    >>> import graphc, numpy as np
    >>> graphc.compile(solve_triangular, graphc.f32[2, 2], graphc.f32[2])(np.float32([[2, 1], [0, 4]]), np.float32([4, 8]))
    array([1., 2.], dtype=float32)
    """
    call = Call("linalg.solve_triangular")
    square_value(call, a)
    left, right, vector = _of_system(call, a, b)
    found = call.build.triangular_solve(
        left, right, lower=bool(lower), transpose=bool(transpose), unit=bool(unit_diagonal)
    )
    return _without_column(call.wrap(found), vector)


@guarded
def solve(a: ArrayLike, b: ArrayLike) -> Array:
    """X with a X = b, by elimination with partial pivoting.

    `a` (..., n, n), `b` (..., n, k); a `b` of rank 1 is one vector (n,). Where a matrix is singular, X has inf or NaN.
    Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 3.4.

    >>> import graphc, numpy as np
    >>> graphc.compile(solve, graphc.f32[2, 2], graphc.f32[2])(np.float32([[0, 2], [4, 0]]), np.float32([4, 8]))
    array([2., 2.], dtype=float32)
    """
    call = Call("linalg.solve")
    square_value(call, a)
    left, right, vector = _of_system(call, a, b)
    return _without_column(call.wrap(_solved(call, left, right)), vector)


def _solved(call: Call, a: Value, b: Value) -> Value:
    build = call.build
    factors, order = build.emit(ops.lu, [a]).results
    middle = build.triangular_solve(
        factors, take_rows(build, b, order), lower=True, transpose=False, unit=True
    )
    return build.triangular_solve(factors, middle, lower=False, transpose=False, unit=False)


@guarded
def inv(x: ArrayLike) -> Array:
    """The inverse of each matrix of `x` (..., n, n); of a singular one inf or NaN. `solve` takes less and is closer.

    >>> import graphc, numpy as np
    >>> graphc.compile(inv, graphc.f32[2, 2])(np.float32([[0, 2], [4, 0]]))
    array([[0.  , 0.25],
           [0.5 , 0.  ]], dtype=float32)
    """
    call = Call("linalg.inv")
    value = square_value(call, x)
    n = value.shape[-1]
    unit = call.build.constant(np.eye(n, dtype=value.dtype.numpy), TensorType(value.dtype, (n, n)))
    return call.wrap(_solved(call, value, call.broadcast(unit, value.shape)))


@guarded
def slogdet(x: ArrayLike) -> SlogdetResult:
    """The sign of the determinant of each matrix of `x` (..., n, n), and the logarithm of its size, both (...).

    Of a singular matrix they are 0 and -inf. Raises `ShapeError`.

    >>> import graphc, numpy as np
    >>> sign, log = graphc.compile(slogdet, graphc.f32[2, 2])(np.float32([[0, 1], [1, 0]]))
    >>> float(sign), float(log)
    (-1.0, 0.0)
    """
    call = Call("linalg.slogdet")
    pivots, swaps = _pivots(call, square_value(call, x))
    sign = reductions.prod(elementwise.sign(pivots), axis=-1) * swaps
    return SlogdetResult(sign, reductions.sum(elementwise.log(elementwise.abs(pivots)), axis=-1))


@guarded
def det(x: ArrayLike) -> Array:
    """The determinant of each matrix of `x` (..., n, n), of shape (...); its derivative needs an inverse.

    >>> import graphc, numpy as np
    >>> float(graphc.compile(det, graphc.f32[2, 2])(np.float32([[1, 2], [3, 4]])).round(4))
    -2.0
    """
    call = Call("linalg.det")
    pivots, swaps = _pivots(call, square_value(call, x))
    return reductions.prod(pivots, axis=-1) * swaps


def _pivots(call: Call, value: Value) -> tuple[Array, Array]:
    """The diagonal of U, and the sign of the order of the rows: -1 to the number of pairs that stand the other way."""
    factors, order = call.build.emit(ops.lu, [value]).results
    rows = call.wrap(order)
    n = value.shape[-1]
    before = np.triu(np.ones((n, n), np.int32), 1)
    turned = (rows[..., :, None] > rows[..., None, :]).astype(i32) * before
    odd = elementwise.remainder(reductions.sum(turned, axis=(-2, -1)), 2)
    return diagonal(call.wrap(factors), 0, -2, -1), (1 - 2 * odd).astype(value.dtype)


@guarded
def lstsq(a: ArrayLike, b: ArrayLike) -> Array:
    """The X that makes the sum of the squares of a X - b least, by QR.

    `a` (..., m, n), `b` (..., m, k) or (m,); the result is (..., n, k) or (n,). Where m < n it is the shortest of the
    exact solutions. `a` must have full rank: the result has inf or NaN without (``pinv(a) @ b`` takes any rank).
    Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 5.3.

    >>> import graphc, numpy as np
    >>> points = np.float32([[1, 0], [1, 1], [1, 2]])
    >>> graphc.compile(lstsq, graphc.f32[3, 2], graphc.f32[3])(points, np.float32([1, 3, 5])).round(4)
    array([1., 2.], dtype=float32)
    """
    call = Call("linalg.lstsq")
    left, right, vector = _of_system(call, a, b)
    b = call.wrap(right)
    if left.shape[-2] >= left.shape[-1]:
        q, r = _factors(call, ops.qr, left)
        found = solve_triangular(r, matmul(matrix_transpose(q), b))
    else:
        q, r = _factors(call, ops.qr, matrix_transpose(call.wrap(left)))
        found = matmul(q, solve_triangular(r, b, transpose=True))
    return _without_column(found, vector)


def _cutoff(call: Call, values: Array, shape: tuple[int, ...], rtol: float | None) -> Array:
    """Singular values from here on count as 0."""
    epsilon = float(np.finfo(values.dtype.numpy).eps)
    relative = max(shape[-2:]) * epsilon if rtol is None else rtol
    return reductions.max(values, axis=-1, keepdims=True) * relative


@guarded
def pinv(x: ArrayLike, *, rtol: float | None = None) -> Array:
    """The pseudo-inverse (..., n, m) of `x` (..., m, n): singular values up to `rtol` times the largest count as 0.

    `rtol` is max(m, n) times the data type's epsilon where nothing is given. The derivative is that at the same rank.
    Raises `ShapeError`. Golub & Van Loan, Matrix Computations, section 5.5.2.

    >>> import graphc, numpy as np
    >>> graphc.compile(pinv, graphc.f32[2, 2])(np.float32([[2, 0], [0, 0]])).round(4)
    array([[0.5, 0. ],
           [0. , 0. ]], dtype=float32)
    """
    call = Call("linalg.pinv")
    tall, wide = _tall(call, x)
    if 0 in tall.shape[-2:]:
        return matrix_transpose(call.wrap(matrix_value(call, x)))
    values, right = _factors(call, ops.svd, tall)
    kept = elementwise.logical_or(values > _cutoff(call, values, tall.shape, rtol), elementwise.isnan(values))
    inverse = elementwise.where(kept, 1 / elementwise.where(kept, values, 1.0), 0.0)[..., None, :]
    # U = X V / S, whose second division stands with the first: no vector is divided by 0
    left = matmul(tall, right) * inverse
    result = matmul(right * inverse, matrix_transpose(left))
    return matrix_transpose(result) if wide else result


@guarded
def matrix_rank(x: ArrayLike, *, rtol: float | None = None) -> Array:
    """The number (i32) of singular values that are above `rtol` times the largest, for each matrix of `x` (..., m, n).

    `rtol` is max(m, n) times the data type's epsilon where nothing is given. Raises `ShapeError`.

    >>> import graphc, numpy as np
    >>> int(graphc.compile(matrix_rank, graphc.f32[2, 2])(np.float32([[1, 2], [2, 4]])))
    1
    """
    call = Call("linalg.matrix_rank")
    tall, _ = _tall(call, x)
    values = _factors(call, ops.svd, tall)[0]
    if 0 in tall.shape[-2:]:
        return reductions.sum(values, axis=-1).astype(i32)
    return reductions.count_nonzero(values > _cutoff(call, values, tall.shape, rtol), axis=-1)
