"""Steps of the optimisers and CTC as PTX, run on the machine for it and compared with the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from test_random_graphs import assert_close

import graphc
from graphc.frontend import nn, optim
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from ptx.programs import build_program

RNG = np.random.default_rng(8)
PARAMS = {"w": RNG.normal(size=(7, 5)).astype(np.float32), "b": RNG.normal(size=7).astype(np.float32)}
OPTIMIZERS: dict[str, optim.Optimizer] = {
    "nadam": optim.NAdam(), "radam": optim.RAdam(), "adafactor": optim.Adafactor(),
    "clipped": optim.clip_by_norm(optim.SGD(0.1), 0.5), "accumulated": optim.accumulate(optim.Lion(), 2),
    "lbfgs": optim.LBFGS(history=3),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_as_ptx_is_the_interpreted_one(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    # a line search compares losses: in f32 rounding may choose another branch, which is right too
    dtype = np.float64 if name == "lbfgs" else np.float32
    params = {n: p.astype(dtype) for n, p in PARAMS.items()}
    x = np.random.default_rng(1).normal(size=(9, 5)).astype(dtype)

    def step(
        params: dict[str, graphc.Array], state: dict[str, graphc.Array], x: graphc.Array, rate: graphc.Array
    ) -> object:
        def loss(p: dict[str, graphc.Array]) -> graphc.Array:
            return nn.mse(x @ p["w"].T + p["b"], graphc.zeros((9, 7), dtype=x.dtype))

        value, grads = graphc.value_and_grad(loss)(params)  # type: ignore[misc]
        return optim.advance(optimizer, params, grads, state, rate, value)

    state = optimizer.init(params)
    given = (params, state, x, dtype(0.1))
    graph = trace(step, *given)
    arrays = [np.asarray(a) for a in flatten(given)[0]]
    count = len(params) + len(state)
    built = build_program(graph, tuple((i, i) for i in range(count)))
    for _ in range(2):  # the second step begins with a state that is not 0
        want = interpret(graph, arrays, float64=True)
        got = built.run(arrays)
        assert_close(got, want, 1e-8 if name == "lbfgs" else 1e-3)
        arrays[:count] = [np.asarray(a, b.dtype) for a, b in zip(got, arrays)]


def test_ctc_and_its_gradient_as_ptx() -> None:
    logits, targets = (
        RNG.normal(size=(5, 3, 4)).astype(np.float32),
        np.array([[1, 2], [3, 3], [2, 0]], np.int32),
    )

    def loss(x: graphc.Array, t: graphc.Array) -> graphc.Array:
        return nn.ctc(nn.log_softmax(x, -1), t, [5, 4, 3], [2, 2, 1])

    graph = trace(graphc.value_and_grad(loss), logits, targets)
    assert_close(
        build_program(graph).run([logits, targets]), interpret(graph, [logits, targets], float64=True), 1e-4
    )
