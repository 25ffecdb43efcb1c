"""Orders, quantiles and special functions as in PyTorch and JAX, NaN and equal elements included."""

from __future__ import annotations

import numpy as np
import pytest

import graphc

pytestmark = pytest.mark.peers

X = np.random.default_rng(1).integers(0, 9, (6, 40)).astype(np.float32)
X[0, [3, 7]] = np.nan
X[1, [2, 5]] = [np.inf, -np.inf]
X[2, [1, 9]] = [-0.0, 0.0]


def ours(fn: object, *arrays: np.ndarray) -> list[np.ndarray]:
    found = graphc.compile(fn, *arrays)(*arrays)  # type: ignore[arg-type]
    return [np.asarray(a) for a in (found if isinstance(found, (tuple, list)) else (found,))]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("descending", [False, True])
def test_stable_orders_are_pytorchs(axis: int, descending: bool) -> None:
    torch = pytest.importorskip("torch")
    values, positions = torch.sort(torch.from_numpy(X), dim=axis, descending=descending, stable=True)
    got = ours(
        lambda x: (
            graphc.sort(x, axis, descending=descending),
            graphc.argsort(x, axis, descending=descending),
        ),
        X,
    )
    np.testing.assert_array_equal(got[0], values.numpy())
    np.testing.assert_array_equal(got[1], positions.numpy())


def test_top_k_is_jaxs_and_has_pytorchs_gradient() -> None:
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    values, positions = jax.lax.top_k(X, 7)
    got = ours(lambda x: graphc.top_k(x, 7), X)
    np.testing.assert_array_equal(got[0], np.asarray(values))
    np.testing.assert_array_equal(got[1], np.asarray(positions))
    y = np.random.default_rng(2).permutation(40).astype(np.float32).reshape(5, 8)
    tensor = torch.from_numpy(y).requires_grad_()
    (torch.topk(tensor, 3)[0] ** 2).sum().backward()
    (gradient,) = ours(graphc.grad(lambda x: (graphc.top_k(x, 3)[0] ** 2).sum()), y)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_searchsorted_and_quantile_are_jaxs(side: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    line, wanted = np.sort(X[3]), X[4]
    (got,) = ours(lambda a, v: graphc.searchsorted(a, v, side=side), line, wanted)
    np.testing.assert_array_equal(got, np.asarray(jnp.searchsorted(line, wanted, side=side)))
    (got,) = ours(lambda x: graphc.quantile(x, [0.1, 0.5, 0.9], axis=1), X[3:])
    np.testing.assert_allclose(
        got, np.asarray(jnp.quantile(X[3:], np.float32([0.1, 0.5, 0.9]), axis=1)), rtol=1e-5
    )


def test_special_functions_and_einsum_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    x = np.linspace(-0.999, 0.999, 201).astype(np.float32)
    (got,) = ours(graphc.erfinv, x)
    np.testing.assert_allclose(got, torch.erfinv(torch.from_numpy(x)).numpy(), rtol=2e-5, atol=1e-7)
    a, b = np.float32([3, -1e30, 0]), np.float32([-4, 1e30, 2])
    for name in ("hypot", "copysign", "nextafter"):
        (got,) = ours(getattr(graphc, name), a, b)
        np.testing.assert_allclose(
            got, getattr(torch, name)(torch.from_numpy(a), torch.from_numpy(b)).numpy(), rtol=3e-7
        )
    rng = np.random.default_rng(3)
    operands = [rng.standard_normal(s) for s in ((3, 3, 4), (4, 5), (5, 3))]
    (got,) = ours(lambda *v: graphc.einsum("aab,bc,ca->c", *v), *operands)
    want = torch.einsum("aab,bc,ca->c", *map(torch.from_numpy, operands)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)
