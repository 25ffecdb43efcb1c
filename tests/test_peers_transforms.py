"""The transforms against JAX's, and their compositions."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

import graphc

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def jax() -> ModuleType:
    module: ModuleType = pytest.importorskip("jax")
    module.config.update("jax_enable_x64", True)
    return module


def loss(xp: ModuleType, p: dict[str, object], x: object) -> object:
    """A network with a gather, a running sum, a softmax and a residual sum."""
    h = xp.tanh(x @ p["w"])  # type: ignore[operator]
    h = h + xp.sin(h)[::-1] * p["b"]
    e = xp.exp(h - xp.max(h))
    s = e / xp.sum(e)
    return xp.sum(s * h[p["i"]]) + xp.sum(h[:3] ** 2) * xp.sum(x)


def problem() -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(6)
    p = {"w": rng.normal(size=(4, 5)), "b": rng.normal(size=5), "i": np.int32([4, 0, 0, 2, 1])}
    t = {"w": rng.normal(size=(4, 5)), "b": rng.normal(size=5)}
    return p, rng.normal(size=(7, 4)), t, rng.normal(size=(7, 4))


def both(jax: ModuleType) -> tuple[Callable[..., object], Callable[..., object]]:
    import jax.numpy as jnp

    return (lambda p, x: loss(graphc, p, x)), (lambda p, x: loss(jnp, p, x))  # type: ignore[arg-type]


def same(got: object, want: object) -> None:
    if isinstance(want, dict):
        for k, v in want.items():
            same(got[k], v)  # type: ignore[index]
    elif isinstance(want, (tuple, list)):
        for a, b in zip(got, want, strict=True):  # type: ignore[call-overload]
            same(a, b)
    else:
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-10, atol=1e-12)


def test_vmap_and_its_compositions(jax: ModuleType) -> None:
    ours, theirs = both(jax)
    p, x, _, _ = problem()
    axes = ({"w": None, "b": None, "i": None}, 0)
    same(graphc.vmap(ours, axes)(p, x), jax.vmap(theirs, axes)(p, x))
    many = {
        "w": np.stack([p["w"]] * 7, axis=2) * np.arange(1, 8),
        "b": p["b"],
        "i": np.stack([np.roll(p["i"], k) for k in range(7)]),
    }
    axes = ({"w": -1, "b": None, "i": 0}, 0)
    same(graphc.vmap(ours, axes)(many, x), jax.vmap(theirs, axes)(many, x))
    shared = ({"w": None, "b": None, "i": None}, 0)
    same(
        graphc.vmap(graphc.grad(ours, wrt="x"), shared)(p, x),
        jax.vmap(jax.grad(theirs, argnums=1), shared)(p, x),
    )
    same(
        graphc.vmap(graphc.hessian(ours, wrt="x"), shared)(p, x),
        jax.vmap(jax.hessian(theirs, argnums=1), shared)(p, x),
    )


def test_jvp_hvp_and_linearize(jax: ModuleType) -> None:
    ours, theirs = both(jax)
    p, x, t, s = problem()
    zero = np.zeros(5, jax.dtypes.float0)
    same(
        graphc.jvp(ours, (p, x[0]), ({**t, "i": None}, s[0])),
        jax.jvp(theirs, (p, x[0]), ({**t, "i": zero}, s[0])),
    )
    y, along = graphc.linearize(lambda v: ours(p, v), x[0])
    y2, along2 = jax.linearize(lambda v: theirs(p, v), x[0])
    same((y, along(s[0])), (y2, along2(s[0])))
    product = graphc.hvp(lambda v, p: ours(p, v), x[0], s[0], p)
    same(product, jax.jvp(jax.grad(lambda v: theirs(p, v)), (x[0],), (s[0],))[1])


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
def test_jacobians(jax: ModuleType, mode: str) -> None:
    import jax.numpy as jnp

    def fn(xp: ModuleType, x: object) -> dict[str, object]:
        return {"a": xp.tanh(x)[1:] * x[0], "b": xp.cumulative_sum(x), "c": xp.exp(x)}  # type: ignore[index]

    x = np.random.default_rng(1).normal(size=6)
    same(graphc.jacobian(lambda v: fn(graphc, v), mode=mode)(x), jax.jacrev(lambda v: fn(jnp, v))(x))  # type: ignore[arg-type]


def test_custom_vjp(jax: ModuleType) -> None:
    import jax.numpy as jnp

    def make(wrap: Callable[..., object], xp: ModuleType) -> Callable[..., object]:
        @wrap
        def fn(x, s):  # type: ignore[no-untyped-def]
            return xp.sin(x) * s, xp.sum(x)

        def forward(x, s):  # type: ignore[no-untyped-def]
            return (xp.sin(x) * s, xp.sum(x)), (x, s)

        def backward(residuals, g):  # type: ignore[no-untyped-def]
            x, s = residuals
            return xp.clip(g[0] * xp.cos(x) * s, -0.5, 0.5) + 2 * g[1], xp.sum(g[0] * xp.sin(x)) * 3

        fn.defvjp(forward, backward)
        return lambda x, s: xp.sum(fn(x, s)[0] ** 2) * fn(x, s)[1]  # type: ignore[no-any-return]

    ours, theirs = make(graphc.custom_vjp, graphc), make(jax.custom_vjp, jnp)
    x, s = np.random.default_rng(2).normal(size=(3, 5)), np.float64(0.7)
    same(graphc.grad(ours, wrt=(0, 1))(x[0], s), jax.grad(theirs, argnums=(0, 1))(x[0], s))
    twice = graphc.grad(lambda x, s: (graphc.grad(ours)(x, s) ** 2).sum(), wrt=(0, 1))(x[0], s)
    same(twice, jax.grad(lambda x, s: (jax.grad(theirs)(x, s) ** 2).sum(), argnums=(0, 1))(x[0], s))
    same(graphc.vmap(graphc.grad(ours), (0, None))(x, s), jax.vmap(jax.grad(theirs), (0, None))(x, s))


def test_checkpoint(jax: ModuleType) -> None:
    ours, theirs = both(jax)
    p, x, _, s = problem()
    f, g = (lambda v: graphc.checkpoint(ours)(p, v)), (lambda v: jax.checkpoint(theirs)(p, v))
    same(graphc.grad(f)(x[0]), jax.grad(g)(x[0]))
    same(graphc.hessian(f)(x[0]), jax.hessian(g)(x[0]))
    same(graphc.jvp(f, (x[0],), (s[0],)), jax.jvp(g, (x[0],), (s[0],)))
    same(graphc.vmap(graphc.grad(f))(x), jax.vmap(jax.grad(g))(x))
