"""Loops and branches on a GPU: the launch table's text, and the host that goes through it, over a fake driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import build, executable, fake_of
from ptx.fake_driver import FakeCuda

import graphc
from graphc.errors import ArtifactError
from graphc.runtime.cuda import asarray
from graphc.runtime.launches import LaunchTable, Loop

Program = Callable[..., object]


def scanned(h, w, x):  # type: ignore[no-untyped-def]
    def step(h, x):  # type: ignore[no-untyped-def]
        h = graphc.tanh(h @ w + x)
        return h, h[0, 0]

    return graphc.scan(step, h, x, reverse=True)


def stopped(h, w, x):  # type: ignore[no-untyped-def]
    return graphc.while_loop(lambda c: c[1] < 3, lambda c: (graphc.tanh(c[0] @ w), c[1] + 1), (h, 0))


def branched(h, w, x):  # type: ignore[no-untyped-def]
    return graphc.cond(h.sum() > 0, lambda: graphc.scan(lambda c, x: (c + x, x), h, x), lambda: (h @ w, x))


def arrays(sign: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [sign * np.abs(rng.normal(size=(2, 4))).astype(np.float32)] + [
        rng.normal(size=s).astype(np.float32) for s in ((4, 4), (5, 2, 4))
    ]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("function", [scanned, stopped, branched])
def test_calls_and_bound_calls_give_what_the_interpreter_gives(function: Program, sign: float) -> None:
    given = arrays(sign)
    want, _ = graphc.frontend.tree.flatten(graphc.compile(function, *given, target="interpreter")(*given))
    run = executable(function, *given)
    on_device = [asarray(a, run.device) for a in given]
    bound = run.bind(*given)
    bound()
    for got in (run(*given), [a.numpy() for a in run(*on_device)], bound.outputs):
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_a_bound_loop_is_one_graph_launch_unless_a_condition_is_read() -> None:
    for function, graphs in ((scanned, 1), (stopped, 0), (branched, 0)):
        run = executable(function, *arrays())
        bound = run.bind(*arrays())
        fake: FakeCuda = fake_of(run)
        before = fake.calls.count("cuGraphLaunch")
        bound()
        assert fake.calls.count("cuGraphLaunch") - before == graphs


def test_the_table_does_not_grow_with_the_steps() -> None:
    tables = [build(scanned, graphc.f32[2, 4], graphc.f32[4, 4], graphc.f32[n, 2, 4])[1] for n in (5, 500)]
    assert abs(len(tables[0].to_json()) - len(tables[1].to_json())) < 50
    for table in tables:
        assert LaunchTable.from_json(table.to_json(), table.constants) == table


def test_a_table_with_a_loop_beyond_its_memory_is_refused() -> None:
    _, table = build(scanned, *arrays())
    (loop,) = (s for s in table.steps if isinstance(s, Loop))
    slices = tuple(replace(s, stride=s.stride + 16) for s in loop.slices)
    wrong = [
        replace(loop, count=6),
        replace(loop, slices=slices),
        replace(loop, count=None),
        replace(loop, carries=tuple(replace(c, bytes=1 << 20) for c in loop.carries)),
        replace(loop, slices=()),
    ]
    for step in wrong:
        steps = tuple(step if s is loop else s for s in table.steps)
        with pytest.raises(ArtifactError, match="launch table: scanned: step"):
            LaunchTable.from_json(replace(table, steps=steps).to_json(), table.constants)
