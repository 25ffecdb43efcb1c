"""Eigenvalues of Hessians without the Hessian: against numpy's of the explicit matrix."""

from __future__ import annotations

import re

import numpy as np
import pytest

import graphc
from graphc.curvature import lanczos_eigenvalues, spectral_density
from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array

LINE = re.escape(__file__) + r":\d+: "


def network(p: dict[str, Array], x: Array, y: Array) -> Array:
    return F.mean((F.tanh(x @ p["w1"]) @ p["w2"] - y) ** 2)


@pytest.fixture(scope="module")
def problem() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    params = {"w1": rng.normal(size=(4, 6)), "w2": rng.normal(size=(6, 2))}
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    blocks = graphc.hessian(network)(params, x, y)
    names = ("w1", "w2")
    rows = [
        np.concatenate([blocks[a][b].reshape(params[a].size, params[b].size) for b in names], axis=1)  # type: ignore[index]
        for a in names
    ]
    return params, x, y, np.concatenate(rows)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_extreme_eigenvalues_and_vectors(problem, which: str) -> None:  # type: ignore[no-untyped-def]
    params, x, y, h = problem
    np.testing.assert_allclose(h, h.T, atol=1e-12)
    found = lanczos_eigenvalues(network, params, x, y, k=4, which=which, tolerance=1e-9)  # type: ignore[arg-type]
    values = np.linalg.eigvalsh(h)
    order = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    np.testing.assert_allclose(found.values, values[np.argsort(order)][:4], rtol=1e-7, atol=1e-9)
    for value, vector in zip(found.values, found.vectors, strict=True):
        assert vector["w1"].shape == (4, 6) and vector["w2"].shape == (6, 2)  # type: ignore[index]
        v = np.concatenate([vector["w1"].ravel(), vector["w2"].ravel()])  # type: ignore[index]
        np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-10)
        np.testing.assert_allclose(h @ v, value * v, atol=1e-7)
    assert np.all(found.residuals <= 1e-8 * np.abs(values).max())


def test_all_eigenvalues_also_those_that_occur_several_times() -> None:
    scale = np.array([5.0, 5.0, 5.0, 1.0, 1.0, -2.0, 0.0])
    found = lanczos_eigenvalues(lambda p: (p * p * scale / 2).sum(), np.ones(7), k=7)
    np.testing.assert_allclose(found.values, np.sort(scale)[::-1], atol=1e-10)
    vectors = np.array(found.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(7), atol=1e-10)


def test_single_precision_and_parameters_that_are_numbers() -> None:
    params = {"a": np.float32([1, 2]), "b": 3.0}
    found = lanczos_eigenvalues(lambda p: (p["a"] ** 2).sum() * 2 + p["b"] ** 2 * 5, params, k=3)
    np.testing.assert_allclose(found.values, [10, 4, 4], rtol=1e-6)


def test_density_has_the_moments_of_the_spectrum(problem) -> None:  # type: ignore[no-untyped-def]
    params, x, y, h = problem
    density = spectral_density(network, params, x, y, probes=20, steps=12)
    np.testing.assert_allclose(density.weights.sum(), 1)
    rng = np.random.default_rng(0)
    probes = np.array([rng.choice([-1.0, 1.0], 36) for _ in range(20)])
    # Gauss quadrature is exact for polynomials of degree 2 * 12 - 1 (Golub & Welsch, 1969)
    np.testing.assert_allclose(density.trace, np.einsum("pi,ij,pj->p", probes, h, probes).mean(), rtol=1e-9)
    cubes = np.einsum("pi,ij,pj->p", probes, h @ h @ h, probes).mean()
    np.testing.assert_allclose(density.dimension * (density.weights @ density.values**3), cubes, rtol=1e-9)
    points = np.linspace(-8, 40, 4000)
    np.testing.assert_allclose(np.trapezoid(density.at(points, 0.5), points), 1, rtol=1e-3)
    # a quadratic form has one eigenvalue: the iteration ends after one step
    one = spectral_density(lambda p: (p**2).sum(), np.ones(5))
    np.testing.assert_allclose(one.values, 2)


def test_wrong_use_says_what_is_wrong() -> None:
    with pytest.raises(ArgumentError, match=LINE + "lanczos_eigenvalues: k: expected 1 to 2, .* got 3"):
        lanczos_eigenvalues(lambda p: (p**2).sum(), np.ones(2), k=3)
    with pytest.raises(ArgumentError, match="which: expected largest, smallest or magnitude, got 'top'"):
        lanczos_eigenvalues(lambda p: (p**2).sum(), np.ones(2), which="top")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="probes: expected an integer of at least 1, got 0"):
        spectral_density(lambda p: (p**2).sum(), np.ones(2), probes=0)
