"""graphc.linalg beside PyTorch and JAX: values, gradients of a function of every factor, second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import linalg

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(8)
GENERAL = RNG.uniform(-1, 1, (3, 5, 5)) + 3 * np.eye(5)
TALL = RNG.uniform(-1, 1, (2, 6, 4)) + np.eye(6, 4)
NOISE = RNG.uniform(-1, 1, (2, 5, 5))
POSITIVE = NOISE @ np.swapaxes(NOISE, -1, -2) + np.eye(5)
SIDES = RNG.uniform(-1, 1, (3, 5, 2))


def cases(linalg, sum):  # type: ignore[no-untyped-def]
    """Scalar functions that don't depend on the choice of signs, written once for every library."""
    return {
        "cholesky": (lambda a: sum(linalg.cholesky(a) ** 3), [POSITIVE]),
        "solve": (lambda a, b: sum(linalg.solve(a, b) ** 2), [GENERAL, SIDES]),
        "inv": (lambda a: sum(linalg.inv(a) ** 3), [GENERAL]),
        "det": (lambda a: sum(linalg.det(a)), [GENERAL]),
        "slogdet": (lambda a: sum(linalg.slogdet(a)[1] ** 2), [GENERAL]),
        "qr": (lambda a: sum(linalg.qr(a)[0] ** 3 * 0.5) + sum(linalg.qr(a)[1] ** 3), [TALL]),
        "eigh": (lambda a: sum(linalg.eigh(a)[1] ** 4) + sum(linalg.eigh(a)[0] ** 3), [POSITIVE]),
        "eigvalsh": (lambda a: sum(linalg.eigvalsh(a) ** 3), [POSITIVE]),
        "svd": (
            lambda a: sum(linalg.svd(a, full_matrices=False)[0] ** 4) + sum(linalg.svd(a, full_matrices=False)[2] ** 4),
            [TALL],
        ),
        "pinv": (lambda a: sum(linalg.pinv(a) ** 3), [TALL]),
        "nuclear norm": (lambda a: sum(linalg.matrix_norm(a, ord="nuc") ** 2), [TALL]),
        "vector norm": (lambda a: sum(linalg.vector_norm(a, ord=3) ** 2), [TALL]),
        "matrix_power": (lambda a: sum(linalg.matrix_power(a, -3)), [GENERAL]),
        "cross": (lambda a, b: sum(linalg.cross(a, b) ** 3), [TALL[..., :3].copy(), TALL[..., 1:].copy()]),
    }  # fmt: skip


OURS = cases(linalg, graphc.sum)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", OURS)
def test_values_and_gradients_are_pytorch_s(name: str) -> None:
    torch = pytest.importorskip("torch")
    fn, arrays = OURS[name]
    value, gradients = graphc.compile(graphc.value_and_grad(fn, tuple(range(len(arrays)))), *arrays)(*arrays)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    want = cases(torch.linalg, torch.sum)[name][0](*tensors)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(value, want.item(), rtol=1e-11)
    for got, expected in zip(gradients, torch.autograd.grad(want, tensors), strict=True):
        if name == "cholesky":  # ours are those of the symmetric part
            expected = (expected + expected.mT) / 2
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["cholesky", "solve", "inv", "det", "slogdet", "qr", "eigh", "svd"])
def test_second_derivatives_are_pytorch_s(name: str) -> None:
    torch = pytest.importorskip("torch")
    fn, arrays = OURS[name]
    direction = np.cos(np.arange(arrays[0].size)).reshape(arrays[0].shape)
    if name in ("cholesky", "eigh"):
        direction = direction + np.swapaxes(direction, -1, -2)

    def along(slope: Callable[..., graphc.Array]) -> Callable[..., graphc.Array]:
        return lambda *given: graphc.sum(slope(*given) * direction)

    second = graphc.grad(along(graphc.grad(fn)))
    got = graphc.compile(second, *arrays)(*arrays)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = cases(torch.linalg, torch.sum)[name][0](*tensors)  # type: ignore[no-untyped-call]
    (first,) = torch.autograd.grad(value, tensors[:1], create_graph=True)
    (want,) = torch.autograd.grad(torch.sum(first * torch.tensor(direction)), tensors[:1])
    expected = want.numpy()
    if name in ("cholesky", "eigh"):
        expected = (expected + np.swapaxes(expected, -1, -2)) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


def test_exponential_is_jax_s() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        for scale in (1e-3, 1.0, 30.0):
            x = GENERAL[0] * scale / 4
            want = np.asarray(jax.scipy.linalg.expm(jax.numpy.asarray(x)))
            slope = np.asarray(
                jax.grad(lambda x: jax.numpy.sum(jax.scipy.linalg.expm(x)))(jax.numpy.asarray(x))
            )
            got = graphc.compile(linalg.expm, x)(x)
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12 * np.abs(want).max())
            ours = graphc.compile(graphc.grad(lambda x: graphc.sum(linalg.expm(x))), x)(x)
            np.testing.assert_allclose(ours, slope, rtol=1e-9, atol=1e-11 * np.abs(slope).max())
