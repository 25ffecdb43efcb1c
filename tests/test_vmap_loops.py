"""Loops and branches under vmap equal a Python loop over the examples."""

from __future__ import annotations

import numpy as np

import graphc
from graphc import Array

X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def test_a_scan_of_a_batch_is_one_scan() -> None:
    def run(v: Array, factor: Array) -> tuple[Array, Array]:
        carry, ys = graphc.scan(lambda c, u: (c * factor + graphc.sin(u), c + u), v[0], v)
        return carry, ys

    half = np.float32(0.5)
    batch = graphc.vmap(run, (0, None))
    graph = graphc.trace(batch, X, half)
    assert [n.op.name for n in graph.nodes].count("scan") == 1
    for got, want in zip(batch(X, half), zip(*(run(row, half) for row in X), strict=True), strict=True):
        np.testing.assert_allclose(got, np.stack(want), rtol=1e-5)


def test_a_shared_condition_runs_one_branch_and_one_of_each_example_selects() -> None:
    def run(p: Array, v: Array) -> Array:
        return graphc.cond(p, lambda u: u * 2, lambda u: u + 1, v)

    which = np.array([True, False, True, False])
    np.testing.assert_allclose(graphc.vmap(run)(which, X), np.where(which[:, None], X * 2, X + 1))
    shared = graphc.vmap(run, (None, 0))
    np.testing.assert_allclose(shared(np.bool_(True), X), X * 2)
    assert "cond" in [n.op.name for n in graphc.trace(shared, graphc.bool_[()], X).nodes]


def test_a_while_loop_of_a_batch_stops_for_each_example_where_it_would_alone() -> None:
    def run(v: Array) -> Array:
        return graphc.while_loop(lambda c: c.sum() < 10, lambda c: c * c + 1, v)

    for start, got in zip(X, graphc.vmap(run)(X), strict=True):
        want = start
        while want.sum() < 10:
            want = want * want + 1
        np.testing.assert_allclose(got, want, rtol=1e-5)
