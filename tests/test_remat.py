"""Rematerialisation: fewer bytes, the same bits, budgets that are met or refused, and what is computed again."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.compiler import compile as compile_graph
from graphc.errors import ArgumentError, CompileError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.cost import operations
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import f32
from graphc.ir.verify import verify
from graphc.passes.manager import format_pipeline, parse_pipeline, run_pipeline
from graphc.passes.remat import estimate, parse_bytes, remat
from graphc.passes.simplify import simplify

Arrays = list[np.ndarray]
LINE = re.escape(__file__) + r":\d+: "


def mlp(weights: list[Array], x: Array) -> Array:
    for w in weights:
        x = F.tanh(x @ w)
    return F.sum(x * x)


def residual(weights: list[Array], x: Array) -> Array:
    for w in weights:
        x = x + F.sin(F.exp(-((x @ w) ** 2)))
    return F.sum(x * x)


def step(loss: Callable[..., Array], layers: int = 7, width: int = 16, rows: int = 64) -> Graph:
    def update(weights: list[Array], x: Array) -> list[Array]:
        gradients = graphc.grad(loss)(weights, x)
        return [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]  # type: ignore[call-overload]

    return graphc.trace(update, [f32[width, width]] * layers, f32[rows, width])


def arrays_of(graph: Graph) -> Arrays:
    rng = np.random.default_rng(1)
    return [rng.normal(size=t.shape, scale=0.3).astype(np.float32) for t in graph.input_types]


def contractions(graph: Graph) -> int:
    return sum("contraction" in n.op.traits for n in simplify(graph).nodes)


@pytest.mark.parametrize("loss", [mlp, residual])
def test_less_memory_and_the_same_bits(loss: Callable[..., Array]) -> None:
    graph = step(loss)
    arrays = arrays_of(graph)
    whole = compile_graph(graph)
    budget = whole.workspace_bytes * 4 // 5
    fitted = compile_graph(graph, memory_budget=budget)
    assert fitted.workspace_bytes <= budget
    verify_plan(fitted.plan)
    for a, b in zip(whole.flat(*arrays), fitted.flat(*arrays), strict=True):
        np.testing.assert_array_equal(a, b)


def test_graph_with_values_computed_again_is_valid_and_equal() -> None:
    graph = step(mlp, 6, 4, 3)
    found = remat(graph, 0)
    verify(found.graph)
    again = parse(str(found.graph), found.graph.constants)
    assert again == found.graph
    arrays = arrays_of(graph)
    for a, b in zip(interpret(graph, arrays), interpret(found.graph, arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    compiled = compile_graph(found.graph)
    for a, b in zip(run_plan(compiled.plan, arrays), compiled.flat(*arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_pointwise_values_come_before_contractions() -> None:
    """Of z · sigmoid(z) both the value and the slope are read later: z alone is kept, and no contraction is repeated."""

    def swish(weights: list[Array], x: Array) -> Array:
        for w in weights:
            z = x @ w
            x = z * F.sigmoid(z)
        return F.sum(x * x)

    graph = step(swish)
    gentle = remat(graph, int(estimate(graph) * 0.75))
    assert gentle.bytes <= estimate(graph) * 0.75
    assert contractions(gentle.graph) == contractions(graph)
    assert gentle.operations < operations(simplify(graph)) / 4
    hard = remat(graph, 0)
    assert hard.bytes < gentle.bytes
    assert contractions(hard.graph) > contractions(graph)


def test_a_deep_chain_needs_about_twice_the_root_of_its_depth() -> None:
    """Chen et al. 2016: of n layers 2 sqrt(n) values instead of n, for at most one more forward pass."""
    graph = step(mlp, layers=16)
    value = 64 * 16 * 4
    least = remat(graph, 0)
    assert estimate(graph) >= 16 * value
    assert least.bytes <= 10 * value
    assert contractions(least.graph) <= contractions(graph) + 16


def test_a_graph_that_fits_stays_and_a_forward_pass_has_nothing_to_compute_again() -> None:
    graph = step(mlp)
    assert remat(graph, estimate(graph)).graph is graph
    forward = graphc.trace(mlp, [f32[16, 16]] * 3, f32[8, 16])
    assert remat(forward, 0).graph is forward


def test_a_budget_that_cannot_be_met_says_the_least() -> None:
    graph = step(mlp, 4)
    with pytest.raises(
        CompileError, match=LINE + r"@update: memory_budget: expected an arena of at most 1,000 bytes, got"
    ) as error:
        compile_graph(graph, memory_budget=1000)
    least = int(str(error.value).split("got ")[1].split(",  the")[0].split(", the")[0].replace(",", ""))
    assert compile_graph(graph, memory_budget=least).workspace_bytes == least
    with pytest.raises(ArgumentError, match="memory_budget: expected a target that compiles"):
        compile_graph(graph, target="interpreter", memory_budget=1000)


def test_texts_of_budgets() -> None:
    assert [parse_bytes(s) for s in (7, "7", "2kB", "2 KiB", "0.5MB", "1GiB")] == [
        7,
        7,
        2000,
        2048,
        500000,
        2**30,
    ]
    for wrong in ("much", "-1", "1 TBs", -1, True):
        with pytest.raises(ArgumentError, match="memory budget: expected bytes such as"):
            parse_bytes(wrong)


def test_pipeline_text() -> None:
    graph = step(mlp)
    passes = parse_pipeline("simplify,remat{budget=24KiB}")
    assert format_pipeline(passes) == "simplify,remat{budget=[24KiB]}"
    assert parse_pipeline(format_pipeline(passes)) == passes
    assert estimate(run_pipeline(graph, passes)) <= 24 * 1024 < estimate(graph)
    with pytest.raises(
        CompileError, match=r"@update: remat: expected an arena of at most 10 bytes, got [\d,]+, the least"
    ):
        run_pipeline(graph, parse_pipeline("remat{budget=10}"))


def test_fit_within_a_budget() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = np.sin(x.sum(1, keepdims=True)).astype(np.float32)

    def train(budget: int | None) -> tuple[int, Arrays]:
        layers = [layer for _ in range(5) for layer in (nn.Linear(16, 16), nn.Tanh())]
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), *layers, nn.Linear(16, 1))
        history = graphc.fit(
            model, (x, y), loss=nn.mse, optimizer=optim.Adam(), epochs=1, batch_size=128, progress=False,
            memory_budget=budget,
        )  # fmt: skip
        return history.step.workspace_bytes, list(model.parameters.values())  # type: ignore[union-attr]

    whole, weights = train(None)
    fitted, same = train(whole * 4 // 5)
    assert fitted <= whole * 4 // 5
    for a, b in zip(weights, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
