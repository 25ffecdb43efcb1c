"""Ops that diagonalize matrices: eigenvalues of symmetric ones, singular values.

In: matrices in the last two dimensions. Out: registered ops. Both are Jacobi's rotations in a fixed order with at most
`SWEEPS` sweeps: deterministic, accurate for small values too, and never an endless loop. Adjoints are compositions of
registered ops (M. Giles, "An extended collection of matrix derivative results for forward and reverse mode AD", 2008;
M. Seeger et al., "Auto-differentiating linear algebra", arXiv:1710.08717).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import OpDef, Sample, check_dtype, register
from graphc.ir.ops.factor import PRECISIONS, flipped, product, square, symmetric
from graphc.ir.types import DType, TensorType, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

# Convergence is quadratic: 6 to 10 sweeps for sizes up to some hundred (Golub & Van Loan, Matrix Computations, 4th ed.,
# section 8.5.3). A sweep that finds nothing to rotate only looks at each pair.
SWEEPS = 15
# An element decides on a vector's sign if it is at least so large beside the largest: rounding can't swap equal ones.
NEAR_LARGEST = 0.9


def with_signs(vectors: np.ndarray) -> np.ndarray:
    """Each column times the sign of its first large element."""
    if vectors.size == 0:
        return vectors
    sizes = np.abs(vectors)
    large = sizes >= NEAR_LARGEST * sizes.max(axis=-2, keepdims=True)
    place = np.argmax(large, axis=-2, keepdims=True)
    return vectors * np.where(np.take_along_axis(vectors, place, axis=-2) < 0, -1.0, 1.0)


def _finite(x: np.ndarray, factor: Callable[[np.ndarray], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """`factor` of matrices of finite elements; NaN for the others."""
    with np.errstate(all="ignore"):
        good = np.isfinite(x).all(axis=(-1, -2))
        results = factor(np.where(good[..., None, None], x, np.eye(x.shape[-2], x.shape[-1])))
        return [np.where(good.reshape(good.shape + (1,) * (r.ndim - good.ndim)), r, np.nan) for r in results]


def _column(build: Builder, x: Value, n: int, dim: int) -> Value:
    """A stack of vectors as rows of matrices (dim -1), or as their columns (dim -2): n times each."""
    rank = x.type.rank
    dims = (*range(rank - 1), rank if dim == -1 else rank - 1)
    shape = (*x.shape[:-1], n, x.shape[-1]) if dim == -1 else (*x.shape[:-1], x.shape[-1], n)
    return build.broadcast(x, dims=dims, shape=shape)


def _one_over(build: Builder, x: Value) -> Value:
    """1 / x, and 0 where x is 0."""
    zero = build.zeros(x.type)
    none = build.eq(x, zero)
    return build.select(
        none, zero, build.div(build.splat(1, x.type), build.select(none, build.splat(1, x.type), x))
    )


def _on_diagonal(build: Builder, x: Value) -> Value:
    """Diagonal matrices of a stack of vectors."""
    spread = _column(build, x, x.shape[-1], -1)
    index, rank = TensorType(i32, spread.shape), spread.type.rank
    same = build.eq(build.iota(dim=rank - 2, type=index), build.iota(dim=rank - 1, type=index))
    return build.select(same, spread, build.zeros(spread.type))


# --------------------------------------------------------------------------------------------- symmetric eigenvalues


def _infer_eigh(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    x = square(types, attrs, regions)
    return (TensorType(x.dtype, x.shape[:-1]), x)


def _ref_eigh(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays
    a = x.astype(np.float64)
    a = (a + np.swapaxes(a, -1, -2)) / 2
    values, vectors = _finite(a, lambda a: np.linalg.eigh(a))
    return [values.astype(x.dtype), with_signs(vectors).astype(x.dtype)]


def _adjoint_eigh(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The symmetric part of V (diag(w̄) + F ⊙ (Vᵀ V̄)) Vᵀ with F[i, j] = 1 / (w[j] - w[i]), 0 where they are equal
    (Giles, section 3.1)."""
    (w_bar, v_bar), (w, v) = cotangents, node.results
    inner: Value | None = None
    if v_bar is not None:
        n = w.shape[-1]
        gaps = _one_over(build, build.sub(_column(build, w, n, -1), _column(build, w, n, -2)))
        inner = build.mul(gaps, product(build, v, v_bar, flip_a=True))
    if w_bar is not None:
        diagonal = _on_diagonal(build, w_bar)
        inner = diagonal if inner is None else build.add(inner, diagonal)
    if inner is None:
        return [None]
    return [symmetric(build, product(build, product(build, v, inner), v, flip_b=True))]


def _apart(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Matrices whose singular values are well apart, in a random basis on either side."""
    m, n = shape[-2:]
    left = np.linalg.qr(rng.standard_normal((*shape[:-2], m, m)))[0]
    right = np.linalg.qr(rng.standard_normal((*shape[:-2], n, n)))[0]
    values = np.zeros((m, n))
    values[range(min(m, n)), range(min(m, n))] = 1 + 0.7 * np.arange(min(m, n))
    return np.asarray(left @ values @ right)


def _eigh_samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    samples = []
    for shape in ((1, 1), (4, 4), (2, 3, 3), (0, 2, 2)):
        base = np.linalg.qr(rng.standard_normal(shape))[0]
        values = np.arange(shape[-1]) - 1.25
        a = base * values @ np.swapaxes(base, -1, -2)
        a = (
            a + np.triu(np.full(shape, 0.125), 1) - np.tril(np.full(shape, 0.125), -1)
        )  # which the op leaves out
        samples.append(Sample((a.astype(dtype.numpy),)))
    return samples


eigh = register(
    OpDef(
        "eigh",
        _infer_eigh,
        _ref_eigh,
        arity=1,
        batch=along(),
        adjoint=_adjoint_eigh,
        traits=frozenset({"factor"}),
        latex=r"\operatorname{{eigh}}\left({0}\right)",
        doc="Eigenvalues of (X + Xᵀ) / 2, ascending, and orthonormal eigenvectors as columns, by "
        f"at most {SWEEPS} sweeps of Jacobi's rotations. The first element of a "
        f"vector that is at least {NEAR_LARGEST} times its largest one is positive. A matrix with an inf or NaN gives NaN.",
        kink="equal eigenvalues: what would turn their vectors into each other gets 0",
        dtypes=PRECISIONS,
        samples=_eigh_samples,
    )
)


# --------------------------------------------------------------------------------------------------- singular values


def _infer_svd(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    (x,) = types
    check_dtype(x.dtype, PRECISIONS)
    if x.rank < 2 or x.shape[-2] < x.shape[-1]:
        raise ShapeError(f"expected matrices with as many rows as columns or more, got {x!r}")
    n = x.shape[-1]
    return (TensorType(x.dtype, (*x.shape[:-2], n)), TensorType(x.dtype, (*x.shape[:-2], n, n)))


def _ref_svd(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,) = arrays

    def factor(a: np.ndarray) -> Sequence[np.ndarray]:
        _, values, right = np.linalg.svd(a, full_matrices=False)
        return values, np.swapaxes(right, -1, -2)

    values, vectors = _finite(x.astype(np.float64), factor)
    return [values.astype(x.dtype), with_signs(vectors).astype(x.dtype)]


def _adjoint_svd(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """X V (diag(s̄ / s) + K + Kᵀ) Vᵀ with K = F ⊙ (Vᵀ V̄), F[i, j] = 1 / (s[j]² - s[i]²), 0 where they are equal:
    V are eigenvectors of XᵀX (Giles, section 3.2)."""
    (s_bar, v_bar), (s, v), (x,) = cotangents, node.results, node.operands
    n = s.shape[-1]
    inner: Value | None = None
    if v_bar is not None:
        across, down = _column(build, s, n, -1), _column(build, s, n, -2)
        gaps = _one_over(build, build.mul(build.sub(across, down), build.add(across, down)))
        turned = build.mul(gaps, product(build, v, v_bar, flip_a=True))
        inner = build.add(turned, flipped(build, turned))
    if s_bar is not None:
        diagonal = _on_diagonal(build, build.mul(s_bar, _one_over(build, s)))
        inner = diagonal if inner is None else build.add(inner, diagonal)
    if inner is None:
        return [None]
    return [product(build, product(build, product(build, x, v), inner), v, flip_b=True)]


svd = register(
    OpDef(
        "svd",
        _infer_svd,
        _ref_svd,
        arity=1,
        batch=along(),
        adjoint=_adjoint_svd,
        traits=frozenset({"factor"}),
        latex=r"\operatorname{{svd}}\left({0}\right)",
        doc="Singular values, descending, and orthonormal right singular vectors as columns, their signs as "
        "those of `eigh`, of matrices with as many rows as columns or more, by "
        f"at most {SWEEPS} sweeps of one-sided rotations (M. Hestenes, 1958). Left vectors are the Q of X V. A matrix "
        "with an inf or NaN gives NaN. Squares of elements must be within f64.",
        kink="equal values: what would turn their vectors into each other gets 0; a value of 0 has derivative 0",
        dtypes=PRECISIONS,
        samples=lambda rng, dtype: [
            Sample((_apart(rng, *shape).astype(dtype.numpy),))
            for shape in ((1, 1), (3, 3), (5, 3), (2, 3, 2), (0, 3, 2))
        ],
    )
)
