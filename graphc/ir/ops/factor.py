"""Ops that take matrices apart: Cholesky, LU, QR, and the solution with a triangular matrix that their rules need.

In: matrices in the last two dimensions, any dimensions before. Out: registered ops. Adjoints are compositions of
registered ops, so derivatives of any order follow. Nothing is raised for a singular matrix: compiled code can't; each
op says which elements are then NaN or inf.

Rules: I. Murray, "Differentiation of the Cholesky decomposition", arXiv:1602.07527; S. Walter & L. Lehmann,
"Algorithmic differentiation of linear algebra functions", 2010, for QR; M. Giles, "An extended collection of matrix
derivative results for forward and reverse mode AD", 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import OpDef, Sample, check_dtype, register
from graphc.ir.types import DType, TensorType, f32, f64, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

PRECISIONS = (f64, f32)


# ------------------------------------------------------------------------------------- what the rules are written in


def square(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> TensorType:
    """The one operand's type; raises unless it is a square matrix of floats."""
    (x,) = types
    check_dtype(x.dtype, PRECISIONS)
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"expected square matrices in the last two dimensions, got {x!r}")
    return x


def product(build: Builder, a: Value, b: Value, flip_a: bool = False, flip_b: bool = False) -> Value:
    """The product of two stacks of matrices, each transposed first where asked for."""
    rank = a.type.rank
    batch = tuple(range(rank - 2))
    axes = ((rank - 2 if flip_a else rank - 1,), (rank - 1 if flip_b else rank - 2,))
    return build.contract(a, b, axes=axes, batch=(batch, batch))


def flipped(build: Builder, x: Value) -> Value:
    """Each matrix transposed."""
    rank = x.type.rank
    return build.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def symmetric(build: Builder, x: Value) -> Value:
    """(X + Xᵀ) / 2."""
    return build.mul(build.add(x, flipped(build, x)), build.splat(0.5, x.type))


def lower_part(build: Builder, x: Value, strict: bool = False) -> Value:
    """The elements on and below the diagonal, or only those below it; 0 elsewhere."""
    rows, columns = _places(build, x)
    kept = build.gt(rows, columns) if strict else build.ge(rows, columns)
    return build.select(kept, x, build.zeros(x.type))


def upper_part(build: Builder, x: Value, strict: bool = False) -> Value:
    """The elements on and above the diagonal, or only those above it; 0 elsewhere."""
    rows, columns = _places(build, x)
    kept = build.lt(rows, columns) if strict else build.le(rows, columns)
    return build.select(kept, x, build.zeros(x.type))


def with_unit_diagonal(build: Builder, x: Value) -> Value:
    """X with ones on its diagonal."""
    return build.select(build.eq(*_places(build, x)), build.splat(1, x.type), x)


def _places(build: Builder, x: Value) -> tuple[Value, Value]:
    index = TensorType(i32, x.shape)
    rank = x.type.rank
    return build.iota(dim=rank - 2, type=index), build.iota(dim=rank - 1, type=index)


def matrices(rng: np.random.Generator, dtype: DType, *shape: int) -> np.ndarray:
    """Well-conditioned ones: noise on the longest diagonal that fits."""
    noise = rng.uniform(-0.5, 0.5, shape)
    noise += 2 * np.eye(shape[-2], shape[-1]) * np.sign(rng.uniform(-1, 1, shape[-1:]))
    return noise.astype(dtype.numpy)


def positive(rng: np.random.Generator, dtype: DType, *shape: int) -> np.ndarray:
    """Well-conditioned positive definite ones, a little asymmetric: ops take the symmetric part."""
    noise = rng.uniform(-0.5, 0.5, shape)
    return (noise @ np.swapaxes(noise, -1, -2) + noise / 9 + np.eye(shape[-1])).astype(dtype.numpy)


# ----------------------------------------------------------------------------------------------------------- Cholesky


def _ref_cholesky(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays
    a = x.astype(np.float64)
    a = (a + np.swapaxes(a, -1, -2)) / 2
    result = np.zeros_like(a)
    with np.errstate(all="ignore"):
        for j in range(x.shape[-1]):
            column = a[..., j:, j] - np.einsum("...ik,...k->...i", result[..., j:, :j], result[..., j, :j])
            pivot = column[..., :1]
            root = np.sqrt(np.where(pivot > 0, pivot, np.nan))
            result[..., j:, j] = column / root
            result[..., j, j] = root[..., 0]
    return [result.astype(x.dtype)]


def _adjoint_cholesky(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The symmetric part of L⁻ᵀ Φ(LᵀG) L⁻¹, where Φ keeps the lower triangle with half of the diagonal
    (Murray, section 3)."""
    (g,), (factor,) = cotangents, node.results
    if g is None:
        return [None]
    inner = product(build, factor, g, flip_a=True)
    both = build.add(lower_part(build, inner), lower_part(build, inner, strict=True))
    half = build.mul(both, build.splat(0.5, both.type))
    left = build.triangular_solve(factor, half, lower=True, transpose=True, unit=False)
    right = build.triangular_solve(factor, flipped(build, left), lower=True, transpose=True, unit=False)
    return [symmetric(build, right)]


cholesky = register(
    OpDef(
        "cholesky",
        lambda types, attrs, regions: (square(types, attrs, regions),),
        _ref_cholesky,
        arity=1,
        batch=along(),
        adjoint=_adjoint_cholesky,
        traits=frozenset({"factor"}),
        latex=r"\operatorname{{chol}}\left({0}\right)",
        doc="The lower triangular L with positive diagonal and L Lᵀ = (X + Xᵀ) / 2, matrix by matrix. From the first "
        "column on whose pivot isn't positive, the lower triangle is NaN.",
        dtypes=PRECISIONS,
        samples=lambda rng, dtype: [
            Sample((positive(rng, dtype, *shape),))
            for shape in ((1, 1), (5, 5), (2, 3, 3), (9, 9), (0, 2, 2))
        ],
    )
)


# --------------------------------------------------------------------------------------------------- triangular solve


def _infer_solve(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    a, b = types
    square([a], attrs, regions)
    if b.dtype != a.dtype:
        raise DTypeError(f"expected equal data types, got {a!r}, {b!r}")
    if b.rank != a.rank or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"expected right sides with rows as those of {a!r}, got {b!r}")
    for name in ("lower", "transpose", "unit"):
        if type(attrs[name]) is not bool:
            raise ShapeError(f"{name}: expected true or false, got {attrs[name]!r}")
    return (b,)


def _ref_solve(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    a, x = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    if attrs["transpose"]:
        a = np.swapaxes(a, -1, -2)
    n = a.shape[-1]
    forward = attrs["lower"] != attrs["transpose"]
    with np.errstate(all="ignore"):
        for i in range(n) if forward else reversed(range(n)):
            done = slice(0, i) if forward else slice(i + 1, n)
            x[..., i, :] -= np.einsum("...k,...km->...m", a[..., i, done], x[..., done, :])
            if not attrs["unit"]:
                x[..., i, :] /= a[..., i, i, None]
    return [x.astype(arrays[1].dtype)]


def _adjoint_solve(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Of B the solution S with the transposed matrix; of A the triangle of -S Xᵀ (Giles, section 2.3.1)."""
    (g,), (a, _), (x,) = cotangents, node.operands, node.results
    if g is None:
        return [None, None]
    lower, transpose, unit = (bool(node.attrs[name]) for name in ("lower", "transpose", "unit"))
    back = build.triangular_solve(a, g, lower=lower, transpose=not transpose, unit=unit)
    outer = product(build, x, back, flip_b=True) if transpose else product(build, back, x, flip_b=True)
    part = lower_part if lower else upper_part
    return [build.neg(part(build, outer, strict=unit)), back]


def _solve_samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    cases = [
        ((1, 1), 1, True, False, False),
        ((5, 5), 3, True, False, False),
        ((5, 5), 3, True, True, False),
        ((2, 4, 4), 2, False, False, False),
        ((2, 4, 4), 2, False, True, True),
        ((9, 9), 19, True, False, True),
        ((11, 11), 5, False, False, False),
        ((0, 2, 2), 3, True, False, False),
        ((3, 3), 0, True, False, False),
    ]
    return [
        Sample(
            (matrices(rng, dtype, *shape), rng.uniform(-1, 1, (*shape[:-1], m)).astype(dtype.numpy)),
            {"lower": lower, "transpose": transpose, "unit": unit},
        )
        for shape, m, lower, transpose, unit in cases
    ]


triangular_solve = register(
    OpDef(
        "triangular_solve",
        _infer_solve,
        _ref_solve,
        arity=2,
        batch=along(),
        adjoint=_adjoint_solve,
        traits=frozenset({"factor"}),
        latex=r"{0}^{{-1}} {1}",
        doc="X with A X = B, or Aᵀ X = B with `transpose`, where only the lower triangle of A is read, or the upper one, "
        "and its diagonal counts as 1 with `unit`. A zero on the diagonal divides: inf or NaN.",
        dtypes=PRECISIONS,
        samples=_solve_samples,
    )
)


# ----------------------------------------------------------------------------------------------------------------- LU


def _infer_lu(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    x = square(types, attrs, regions)
    return (x, TensorType(i32, x.shape[:-1]))


def _ref_lu(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays
    n = x.shape[-1]
    factors = x.astype(np.float64).reshape(-1, n, n)
    order = np.tile(np.arange(n, dtype=np.int32), (len(factors), 1))
    with np.errstate(all="ignore"):
        for a, rows in zip(factors, order, strict=True):
            for k in range(n):
                sizes = np.abs(a[k:, k])
                best = k + int(np.argmax(np.where(np.isnan(sizes), -1, sizes)))
                a[[k, best]] = a[[best, k]]
                rows[[k, best]] = rows[[best, k]]
                if a[k, k] != 0:
                    a[k + 1 :, k] /= a[k, k]
                a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return [factors.reshape(x.shape).astype(x.dtype), order.reshape(x.shape[:-1])]


def take_rows(build: Builder, x: Value, order: Value) -> Value:
    """Row order[i] of each matrix as its row i."""
    flat = build.reshape(x, shape=(order.type.size, x.shape[-1]))
    return build.reshape(build.gather(flat, _row_numbers(build, order), axis=0), shape=x.shape)


def put_rows(build: Builder, x: Value, order: Value) -> Value:
    """Row i of each matrix as its row order[i]: the inverse of `take_rows`, and its adjoint."""
    flat = build.reshape(x, shape=(order.type.size, x.shape[-1]))
    put = build.scatter_add(build.zeros(flat.type), _row_numbers(build, order), flat, axis=0)
    return build.reshape(put, shape=x.shape)


def _row_numbers(build: Builder, order: Value) -> Value:
    """The places of rows in all matrices below one another."""
    n = order.shape[-1]
    count = TensorType(i32, (order.type.size // max(n, 1), n))
    rows = build.reshape(order, shape=count.shape)
    first = build.mul(build.iota(dim=0, type=count), build.splat(n, count))
    return build.reshape(build.add(rows, first), shape=(order.type.size,))


def _adjoint_lu(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Pᵀ L⁻ᵀ (stril(Lᵀ stril(G)) + triu(triu(G) Uᵀ)) U⁻ᵀ: dL = L stril(M) and dU = triu(M) U with
    M = L⁻¹ P dX U⁻¹ (after Giles, section 2; the same pivots)."""
    g = cotangents[0]
    if g is None:
        return [None]
    factors, order = node.results
    lower = with_unit_diagonal(build, lower_part(build, factors))
    of_lower = product(build, lower, lower_part(build, g, strict=True), flip_a=True)
    of_upper = product(build, upper_part(build, g), upper_part(build, factors), flip_b=True)
    middle = build.add(lower_part(build, of_lower, strict=True), upper_part(build, of_upper))
    left = build.triangular_solve(factors, middle, lower=True, transpose=True, unit=True)
    right = build.triangular_solve(factors, flipped(build, left), lower=False, transpose=False, unit=False)
    return [put_rows(build, flipped(build, right), order)]


lu = register(
    OpDef(
        "lu",
        _infer_lu,
        _ref_lu,
        arity=1,
        batch=along(),
        adjoint=_adjoint_lu,
        traits=frozenset({"factor"}),
        latex=r"\operatorname{{LU}}\left({0}\right)",
        doc="L and U with L U = P X in one matrix (the ones on L's diagonal are left out), and the i32 row of X that "
        "each row is. Each pivot is the largest element of its column below, the first of equal ones. A column of "
        "zeros stays one: U then has a zero on its diagonal.",
        kink="a singular matrix has inf or NaN",
        dtypes=PRECISIONS,
        samples=lambda rng, dtype: [
            Sample((matrices(rng, dtype, *shape)[..., ::-1].copy(),))
            for shape in ((1, 1), (5, 5), (2, 3, 3), (2, 2, 4, 4), (9, 9), (0, 2, 2))
        ],
    )
)


# ----------------------------------------------------------------------------------------------------------------- QR


def _infer_qr(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,) = types
    check_dtype(x.dtype, PRECISIONS)
    if x.rank < 2 or x.shape[-2] < x.shape[-1]:
        raise ShapeError(f"expected matrices with as many rows as columns or more, got {x!r}")
    return (x, TensorType(x.dtype, (*x.shape[:-2], x.shape[-1], x.shape[-1])))


def _ref_qr(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays
    m, n = x.shape[-2:]
    work = x.astype(np.float64)
    q = np.broadcast_to(np.eye(m, n), work.shape).copy()
    vectors = []
    with np.errstate(all="ignore"):
        for k in range(min(n, m - 1)):
            first, rest = work[..., k, k], work[..., k + 1 :, k]
            norm = np.sqrt(first**2 + np.sum(rest**2, axis=-1))
            beta = np.where(first < 0, norm, -norm)
            some = norm != 0
            scale = np.where(some, 1 / (first - beta), 0)
            vector = np.concatenate([np.ones_like(rest[..., :1]), rest * scale[..., None]], axis=-1)
            tau = np.where(some, (beta - first) / beta, 2)
            work[..., k + 1 :, k], work[..., k, k] = 0, beta
            _reflect(work[..., k:, k + 1 :], vector, tau)
            vectors.append((vector, tau))
        for k, (vector, tau) in reversed(list(enumerate(vectors))):
            _reflect(q[..., k:, k:], vector, tau)
    return [q.astype(x.dtype), np.triu(work[..., :n, :]).astype(x.dtype)]


def _reflect(a: np.ndarray, vector: np.ndarray, tau: np.ndarray) -> None:
    """(I - tau v vᵀ) A in place."""
    along = np.einsum("...i,...ij->...j", vector, a)
    a -= tau[..., None, None] * vector[..., :, None] * along[..., None, :]


def _adjoint_qr(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """(Q̄ + Q copy(R R̄ᵀ - Q̄ᵀ Q)) R⁻ᵀ, where copy mirrors the lower triangle to the upper one
    (Walter & Lehmann, section 3)."""
    (q_bar, r_bar), (q, r) = cotangents, node.results
    inner: Value | None = None
    if r_bar is not None:
        inner = product(build, r, r_bar, flip_b=True)
    if q_bar is not None:
        along = build.neg(product(build, q_bar, q, flip_a=True))
        inner = along if inner is None else build.add(inner, along)
    if inner is None:
        return [None]
    copied = build.add(lower_part(build, inner), flipped(build, lower_part(build, inner, strict=True)))
    total = product(build, q, copied)
    if q_bar is not None:
        total = build.add(q_bar, total)
    solved = build.triangular_solve(r, flipped(build, total), lower=False, transpose=False, unit=False)
    return [flipped(build, solved)]


qr = register(
    OpDef(
        "qr",
        _infer_qr,
        _ref_qr,
        arity=1,
        batch=along(),
        adjoint=_adjoint_qr,
        traits=frozenset({"factor"}),
        latex=r"\operatorname{{QR}}\left({0}\right)",
        doc="Q with orthonormal columns and the upper triangular R with Q R = X, of matrices with as many rows as columns "
        "or more, by Householder's reflections as in LAPACK: an element of R's diagonal has the sign opposite to that "
        "of the element that it is made of, but for the last one of a square matrix, which stays. Q is orthonormal "
        "whatever the rank. Squares of elements must be within f64.",
        kink="a matrix without full rank has inf or NaN",
        dtypes=PRECISIONS,
        samples=lambda rng, dtype: [
            Sample((matrices(rng, dtype, *shape),))
            for shape in ((1, 1), (4, 1), (4, 4), (7, 3), (2, 5, 3), (2, 2, 3, 3), (0, 3, 2))
        ],
    )
)
