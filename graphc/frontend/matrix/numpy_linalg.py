"""The functions of `numpy.linalg` on traced values, with NumPy's own arguments.

In: the calls that NumPy hands over (`numpy_bridge`). Out: a table from NumPy's functions to ours. Signs of vectors are
those of `graphc.linalg`, which may differ from LAPACK's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from graphc.errors import TraceError
from graphc.frontend import reductions
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.manipulation import matrix_transpose, tril, triu
from graphc.frontend.matrix import linalg
from graphc.ir.loc import here

Function = Callable[..., object]


class LstsqResult(NamedTuple):
    """What `numpy.linalg.lstsq` gives."""

    x: Array
    residuals: Array
    rank: Array
    s: Array


def _mirrored(a: ArrayLike, triangle: str) -> Array:
    """The symmetric matrix of which one triangle is given."""
    if triangle.upper() not in ("L", "U"):
        raise TraceError(f"{here().prefix}numpy.linalg.eigh: UPLO: expected 'L' or 'U', got {triangle!r}")
    lower = triangle.upper() == "L"
    rest = tril(a, -1) if lower else triu(a, 1)
    return (tril(a) if lower else triu(a)) + matrix_transpose(rest)


def _eigh(a: ArrayLike, UPLO: str = "L") -> linalg.EighResult:
    return linalg.eigh(_mirrored(a, UPLO))


def _eigvalsh(a: ArrayLike, UPLO: str = "L") -> Array:
    return linalg.eigvalsh(_mirrored(a, UPLO))


def _cholesky(a: ArrayLike, *, upper: bool = False) -> Array:
    return linalg.cholesky(_mirrored(a, "U" if upper else "L"), upper=upper)


def _qr(a: ArrayLike, mode: str = "reduced") -> linalg.QRResult | Array:
    if mode == "r":
        return linalg.qr(a).R
    return linalg.qr(a, mode=mode)  # type: ignore[arg-type]  # which refuses others


def _svd(
    a: ArrayLike, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> linalg.SVDResult | Array:
    return linalg.svd(a, full_matrices=full_matrices) if compute_uv else linalg.svdvals(a)


def _pinv(
    a: ArrayLike, rcond: float | None = None, hermitian: bool = False, *, rtol: float | None = None
) -> Array:
    return linalg.pinv(a, rtol=_pinv_rtol(rcond, rtol))


def _pinv_rtol(rcond: float | None, rtol: float | None) -> float | None:
    if rtol is not None:
        return rtol
    return 1e-15 if rcond is None else rcond


def _matrix_rank(
    A: ArrayLike, tol: float | None = None, hermitian: bool = False, *, rtol: float | None = None
) -> Array:
    if tol is None:
        return linalg.matrix_rank(A, rtol=rtol)
    return reductions.count_nonzero(linalg.svdvals(A) > tol, axis=-1)


def _lstsq(a: ArrayLike, b: ArrayLike, rcond: float | None = None) -> LstsqResult:
    """NumPy's takes any rank: by the pseudo-inverse. Residuals are there whatever the rank is."""
    call = Call("numpy.linalg.lstsq")
    left, right = call.wrap(call.float_value(a)), call.wrap(call.float_value(b))
    x = linalg.matmul(linalg.pinv(left, rtol=rcond), right)
    residuals = reductions.sum((linalg.matmul(left, x) - right) ** 2, axis=0)
    if right.ndim == 1:
        residuals = residuals[None]
    return LstsqResult(x, residuals, linalg.matrix_rank(left, rtol=rcond), linalg.svdvals(left))


def _cross(x1: ArrayLike, x2: ArrayLike, *, axis: int = -1) -> Array:
    return linalg.cross(x1, x2, axis=axis)


def functions() -> Mapping[Function, Function]:
    """NumPy's functions that this NumPy has, and what is called for them."""
    own: dict[str, Function] = {
        "eigh": _eigh, "eigvalsh": _eigvalsh, "cholesky": _cholesky, "qr": _qr, "svd": _svd, "pinv": _pinv,
        "matrix_rank": _matrix_rank, "lstsq": _lstsq, "cross": _cross,
    }  # fmt: skip
    same = (
        "solve", "inv", "det", "slogdet", "matrix_power", "norm", "matrix_norm", "vector_norm", "svdvals", "trace",
        "diagonal", "outer", "matmul", "tensordot", "vecdot", "matrix_transpose",
    )  # fmt: skip
    for name in same:
        own[name] = getattr(linalg, name)
    table = {getattr(np.linalg, name): function for name, function in own.items() if hasattr(np.linalg, name)}
    return {**table, np.kron: linalg.kron}
