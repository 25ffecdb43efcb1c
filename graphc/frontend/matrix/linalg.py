"""Linear algebra, `graphc.linalg`: the Python array API standard's extension of that name, and what SciPy has beside it.

In: matrices in the last two dimensions; the dimensions before are a stack. Out: traced values with derivatives of any
order. Everything runs compiled, on processors and on GPUs. Complex numbers are refused: graphc has none, so there is no
`eig` of a matrix that isn't symmetric.

The logarithm of a Gaussian process's likelihood (C. Rasmussen & C. Williams, Gaussian Processes for Machine Learning,
2006, algorithm 2.1), and its derivative with respect to the length scale:

>>> import graphc, numpy as np
>>> from graphc import linalg
>>> x, y = np.linspace(0, 1, 5), np.sin(np.linspace(0, 3, 5))
>>> def likelihood(length):
...     kernel = graphc.exp(-(((x[:, None] - x) / length) ** 2) / 2) + 0.1 * np.eye(5)
...     factor = linalg.cholesky(kernel)
...     alpha = linalg.solve_triangular(factor, y, lower=True)
...     log_det = graphc.sum(graphc.log(linalg.diagonal(factor)))
...     return -0.5 * linalg.vecdot(alpha, alpha) - log_det - 2.5 * np.log(2 * np.pi)
>>> value, slope = graphc.compile(graphc.value_and_grad(likelihood), graphc.f64[()])(np.float64(0.5))
>>> print(f"{value:.4f} {slope:.4f}")
-3.5841 -0.0222
"""

from __future__ import annotations

from graphc.frontend.linalg import matmul, outer, tensordot, vecdot
from graphc.frontend.manipulation import matrix_transpose
from graphc.frontend.matrix.compositions import (
    cross,
    diagonal,
    expm,
    kron,
    matrix_norm,
    matrix_power,
    norm,
    trace,
    vector_norm,
)
from graphc.frontend.matrix.factorizations import (
    EighResult,
    QRResult,
    SlogdetResult,
    SVDResult,
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    lstsq,
    matrix_rank,
    pinv,
    qr,
    slogdet,
    solve,
    solve_triangular,
    svd,
    svdvals,
)

__all__ = [
    "EighResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "expm",
    "inv",
    "kron",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
