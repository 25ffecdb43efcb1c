"""Curvature of a loss: extreme eigenvalues and the spectral density of its Hessian, which is never built.

In: a function that gives a float scalar, its parameters as a nest, further arguments. Out: numpy arrays. The Hessian is seen
only through products with vectors (`hvp`, compiled once); Lanczos' iteration makes of them a small tridiagonal matrix.

Lanczos, An Iteration Method for the Solution of the Eigenvalue Problem, J. Res. Natl. Bur. Stand. 45, 1950. Full
reorthogonalisation, twice: Parlett, The Symmetric Eigenvalue Problem, SIAM 1998, ch. 6 and 13. Spectral density by
stochastic Lanczos quadrature: Ghorbani, Krishnan & Xiao, arXiv:1901.10159.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphc.compiler import compile
from graphc.errors import ArgumentError
from graphc.frontend.tracer import function_name
from graphc.frontend.tree import flatten
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.tangents import hvp
from graphc.transforms import Function

Which = Literal["largest", "smallest", "magnitude"]
Product = Callable[[np.ndarray], np.ndarray]

_NOTHING_LEFT = 1e-12  # of the norm of a product: what remains of it after orthogonalisation is rounding
_BETWEEN_CHECKS = 5  # iterations


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues of a Hessian, the extreme one first, with unit eigenvectors as nests like the parameters.

    `residuals` bound the errors of the eigenvalues: each is the norm of H v - value v.
    """

    values: np.ndarray
    vectors: list[object]
    residuals: np.ndarray


@dataclass(frozen=True)
class Density:
    """A spectral density as points with weights that sum to 1: the quadrature of all probes."""

    values: np.ndarray
    weights: np.ndarray
    dimension: int

    @property
    def trace(self) -> float:
        """An unbiased estimate of the sum of all eigenvalues."""
        return self.dimension * float(self.weights @ self.values)

    def at(self, points: np.ndarray, width: float) -> np.ndarray:
        """The density at points, each value of the quadrature spread to a Gaussian of this standard deviation."""
        offsets = (np.asarray(points, np.float64)[..., None] - self.values) / width
        bells = np.exp(-0.5 * offsets**2) / (width * np.sqrt(2 * np.pi))
        density: np.ndarray = bells @ self.weights
        return density


@guarded
def lanczos_eigenvalues(
    fn: Function,
    params: object,
    *args: object,
    k: int = 1,
    which: Which = "largest",
    tolerance: float = 1e-4,
    max_steps: int = 300,
    seed: int = 0,
) -> Eigenpairs:
    """The `k` extreme eigenvalues of the Hessian of ``fn(params, *args)`` with respect to `params`, and eigenvectors.

    `which` is "largest", "smallest" or "magnitude" (largest absolute values). Stops where all residuals are below
    `tolerance` times the largest absolute eigenvalue, at the latest after `max_steps` products with the Hessian (or as
    many as there are parameters, when the values are exact up to rounding). Products are in the parameters' data type,
    everything else in f64. Raises `ArgumentError` for a wrong `k` or `which`, and what `hvp` raises.

    >>> found = lanczos_eigenvalues(lambda p: p["a"] ** 2 + 3 * p["b"] ** 2, {"a": 1.0, "b": 1.0}, k=2)
    >>> found.values.round(4)
    array([6., 2.])
    """
    product, unflatten, size = _hessian(fn, params, args)
    if not isinstance(k, int) or not 1 <= k <= size:
        raise ArgumentError(
            f"{here().prefix}lanczos_eigenvalues: k: expected 1 to {size}, the number of parameters, got {k!r}"
        )
    if which not in ("largest", "smallest", "magnitude"):
        raise ArgumentError(
            f"{here().prefix}lanczos_eigenvalues: which: expected largest, smallest or magnitude, got {which!r}"
        )
    rng = np.random.default_rng(seed)
    iteration = _Lanczos(product, rng.normal(size=size), rng)
    steps = min(size, max(max_steps, k))
    while True:
        iteration.step()
        done = len(iteration.alphas)
        if done < k or (done < steps and done % _BETWEEN_CHECKS):
            continue
        values, ritz = iteration.eigh()
        order = np.argsort({"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which])[:k]
        residuals = np.abs(iteration.next_beta * ritz[-1, order])
        if done >= steps or np.all(residuals <= tolerance * np.max(np.abs(values))):
            break
    vectors = ritz[:, order].T @ np.array(iteration.basis[:done])
    return Eigenpairs(values[order], [unflatten(v) for v in vectors], residuals)


@guarded
def spectral_density(
    fn: Function, params: object, *args: object, probes: int = 8, steps: int = 64, seed: int = 0
) -> Density:
    """The distribution of the eigenvalues of the Hessian of ``fn(params, *args)``: stochastic Lanczos quadrature.

    Each of `probes` random vectors gives `steps` points and weights at the cost of as many products with the Hessian.
    ``density.at(points, width)`` is the smoothed density.

    >>> density = spectral_density(lambda p: (p ** 2).sum(), np.ones(4, np.float32))
    >>> round(density.trace, 4)
    8.0
    """
    for name, value in (("probes", probes), ("steps", steps)):
        if not isinstance(value, int) or value < 1:
            raise ArgumentError(
                f"{here().prefix}spectral_density: {name}: expected an integer of at least 1, got {value!r}"
            )
    product, _, size = _hessian(fn, params, args)
    rng = np.random.default_rng(seed)
    values: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for _ in range(probes):
        iteration = _Lanczos(product, rng.choice([-1.0, 1.0], size), rng, restarts=False)
        while len(iteration.alphas) < min(steps, size) and not iteration.ended:
            iteration.step()
        found, ritz = iteration.eigh()
        values.append(found)
        weights.append(ritz[0] ** 2 / probes)
    return Density(np.concatenate(values), np.concatenate(weights), size)


class _Lanczos:
    """The iteration: an orthonormal basis of Krylov's space in which the operator is tridiagonal."""

    def __init__(
        self, product: Product, start: np.ndarray, rng: np.random.Generator, restarts: bool = True
    ) -> None:
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.next_beta = 0.0
        self.basis = [start / np.linalg.norm(start)]
        self.ended = False  # the space is invariant, and no other one is begun
        self._product, self._rng, self._restarts = product, rng, restarts

    def step(self) -> None:
        """One product, and what is new in it as the next direction."""
        if self.alphas:
            self.betas.append(self.next_beta)
        q = self.basis[-1]
        w = self._product(q)
        scale = float(np.linalg.norm(w))
        self.alphas.append(float(q @ w))
        w = self._orthogonal(w)
        self.next_beta = float(np.linalg.norm(w))
        if self.next_beta <= _NOTHING_LEFT * max(scale, 1e-300):
            self.next_beta = 0.0
            self.ended = not self._restarts or len(self.basis) == len(q)
            # an eigenvalue that occurs several times has more directions than one space of Krylov's holds
            w = self._orthogonal(self._rng.normal(size=len(q))) if not self.ended else q
        self.basis.append(w / np.linalg.norm(w))

    def _orthogonal(self, w: np.ndarray) -> np.ndarray:
        basis = np.array(self.basis)
        for _ in range(2):  # twice is enough: Parlett
            w = w - basis.T @ (basis @ w)
        return w

    def eigh(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the tridiagonal matrix."""
        matrix = np.diag(self.alphas) + np.diag(self.betas, 1) + np.diag(self.betas, -1)
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors


def _hessian(
    fn: Function, params: object, args: tuple[object, ...]
) -> tuple[Product, Callable[[np.ndarray], object], int]:
    """The product of the Hessian with a flat vector, a vector as a nest of the parameters' shapes, and its length."""

    def product(params: object, vector: object, *rest: object) -> object:
        return hvp(fn, params, vector, *rest)

    leaves, structure = flatten(params)
    arrays = [np.asarray(leaf, np.float32 if isinstance(leaf, float) else None) for leaf in leaves]
    nest = structure.unflatten(arrays)
    sizes = np.cumsum([a.size for a in arrays])
    if not arrays or sizes[-1] == 0:
        raise ArgumentError(f"{here().prefix}hessian of {function_name(fn)}: expected parameters, got none")
    compiled = compile(product, nest, nest, *args, name=f"{function_name(fn)}_hvp")

    def unflatten(vector: np.ndarray) -> object:
        parts = np.split(vector, sizes[:-1])
        return structure.unflatten([p.reshape(a.shape) for p, a in zip(parts, arrays, strict=True)])

    def apply(vector: np.ndarray) -> np.ndarray:
        given = [
            p.astype(a.dtype).reshape(a.shape)
            for p, a in zip(np.split(vector, sizes[:-1]), arrays, strict=True)
        ]
        found, _ = flatten(compiled(nest, structure.unflatten(given), *args))
        return np.concatenate([np.asarray(f, np.float64).ravel() for f in found])

    return apply, unflatten, int(sizes[-1])
