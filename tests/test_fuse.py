"""Fusion as text: a graph before, the fused graph after. Un-fusing each gives the graph before back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from fused_text import check_fused, ordered

from graphc.codegen.memory import make_plan
from graphc.codegen.target import host_target
from graphc.compiler import compile as compile_graph
from graphc.frontend import activations, losses, optim
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.optim import SGD, Adam, AdamW, Optimizer
from graphc.frontend.tracer import trace
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.plan import CallStep, run_plan, verify_plan
from graphc.ir.types import f32, i32
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.unfuse import unfuse
from graphc.transforms import value_and_grad

CASES = {
    "bias_gradient_is_a_by_product_of_the_contraction_that_makes_its_cotangent": (
        """graphc 1
        graph @bias(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6], %b: f32[6]) -> (f32[4,6], f32[6]) stage differentiated {
          %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
          %1 = mul %0, %j {diagonal} : f32[4,6]
          %2 = reduce_sum %1 {axes=[0]} : f32[6]
          %3 = sub %b, %2 : f32[6]
          return %1, %3
        }
        """,
        """graphc 1
        graph @bias(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6], %b: f32[6]) -> (f32[4,6], f32[6]) stage fused {
          %0, %1 = fused %g, %w, %j {kind="contract"} : (f32[4,6], f32[6]) region(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6]) {
            %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
            %1 = mul %0, %j {diagonal} : f32[4,6]
            %2 = reduce_sum %1 {axes=[0]} : f32[6]
            return %1, %2
          }
          %2 = fused %b, %1 {kind="map"} : f32[6] region(%b: f32[6], %in1: f32[6]) {
            %0 = sub %b, %in1 : f32[6]
            return %0
          }
          return %0, %2
        }
        """,
    ),
    "sum_over_the_rows_is_a_by_product_of_a_pass_over_them": (
        """graphc 1
        graph @rows(%x: f32[4,5]) -> (f32[4], f32[5]) {
          %0 = exp %x : f32[4,5]
          %1 = reduce_sum %0 {axes=[1]} : f32[4]
          %2 = reduce_max %0 {axes=[0]} : f32[5]
          return %1, %2
        }
        """,
        """graphc 1
        graph @rows(%x: f32[4,5]) -> (f32[4], f32[5]) stage fused {
          %0, %1 = fused %x {kind="reduce"} : (f32[4], f32[5]) region(%x: f32[4,5]) {
            %0 = exp %x : f32[4,5]
            %1 = reduce_sum %0 {axes=[1]} : f32[4]
            %2 = reduce_max %0 {axes=[0]} : f32[5]
            return %1, %2
          }
          return %0, %1
        }
        """,
    ),
    "bias_and_activation_go_into_the_store_of_the_contraction": (
        """graphc 1
        graph @layer(%x: f32[4,6], %w: f32[5,6], %b: f32[5]) -> (f32[4,5]) {
          %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[4,5]
          %1 = broadcast %b {dims=[1], shape=[4,5]} : f32[4,5]
          %2 = add %0, %1 : f32[4,5]
          %3 = tanh %2 : f32[4,5]
          return %3
        }
        """,
        """graphc 1
        graph @layer(%x: f32[4,6], %w: f32[5,6], %b: f32[5]) -> (f32[4,5]) stage fused {
          %0 = fused %x, %w, %b {kind="contract"} : f32[4,5] region(%x: f32[4,6], %w: f32[5,6], %b: f32[5]) {
            %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[4,5]
            %1 = broadcast %b {dims=[1], shape=[4,5]} : f32[4,5]
            %2 = add %0, %1 : f32[4,5]
            %3 = tanh %2 : f32[4,5]
            return %3
          }
          return %0
        }
        """,
    ),
    "marked_diagonal_goes_into_the_store_of_the_contraction_that_makes_its_cotangent": (
        """graphc 1
        graph @diagonal(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6]) -> (f32[4,6]) stage differentiated {
          %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
          %1 = mul %0, %j {diagonal} : f32[4,6]
          return %1
        }
        """,
        """graphc 1
        graph @diagonal(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6]) -> (f32[4,6]) stage fused {
          %0 = fused %g, %w, %j {kind="contract"} : f32[4,6] region(%g: f32[4,5], %w: f32[5,6], %j: f32[4,6]) {
            %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
            %1 = mul %0, %j {diagonal} : f32[4,6]
            return %1
          }
          return %0
        }
        """,
    ),
    "marked_diagonal_without_such_a_store_is_computed_in_the_operands_of_its_users": (
        """graphc 1
        graph @prologue(%g: f32[4,5], %j: f32[4,5], %w: f32[5,6], %x: f32[4,3]) -> (f32[4,6], f32[5,3]) stage differentiated {
          %0 = mul %g, %j {diagonal} : f32[4,5]
          %1 = contract %0, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
          %2 = contract %0, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,3]
          return %1, %2
        }
        """,
        """graphc 1
        graph @prologue(%g: f32[4,5], %j: f32[4,5], %w: f32[5,6], %x: f32[4,3]) -> (f32[4,6], f32[5,3]) stage fused {
          %0 = fused %g, %j, %w {kind="contract"} : f32[4,6] region(%g: f32[4,5], %j: f32[4,5], %w: f32[5,6]) {
            %0 = mul %g, %j {diagonal} : f32[4,5]
            %1 = contract %0, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
            return %1
          }
          %1 = fused %g, %j, %x {kind="contract"} : f32[5,3] region(%g: f32[4,5], %j: f32[4,5], %x: f32[4,3]) {
            %0 = mul %g, %j {diagonal} : f32[4,5]
            %1 = contract %0, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,3]
            return %1
          }
          return %0, %1
        }
        """,
    ),
    "sgd_update_goes_into_the_store_of_the_weight_gradient": (
        """graphc 1
        graph @sgd(%g: f32[4,5], %x: f32[4,6], %w: f32[5,6], %r: f32[]) -> (f32[5,6]) stage differentiated {
          %0 = contract %g, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,6]
          %1 = broadcast %r {dims=[], shape=[5,6]} : f32[5,6]
          %2 = mul %0, %1 : f32[5,6]
          %3 = sub %w, %2 : f32[5,6]
          return %3
        }
        """,
        """graphc 1
        graph @sgd(%g: f32[4,5], %x: f32[4,6], %w: f32[5,6], %r: f32[]) -> (f32[5,6]) stage fused {
          %0 = fused %g, %x, %r, %w {kind="contract"} : f32[5,6] region(%g: f32[4,5], %x: f32[4,6], %r: f32[], %w: f32[5,6]) {
            %0 = contract %g, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,6]
            %1 = broadcast %r {dims=[], shape=[5,6]} : f32[5,6]
            %2 = mul %0, %1 : f32[5,6]
            %3 = sub %w, %2 : f32[5,6]
            return %3
          }
          return %0
        }
        """,
    ),
    "merging_stops_where_it_would_make_a_cycle": (
        """graphc 1
        graph @cycle(%x: f32[4,4]) -> (f32[4,4]) {
          %0 = exp %x : f32[4,4]
          %1 = contract %0, %0 {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
          %2 = contract %1, %x {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
          %3 = add %0, %2 : f32[4,4]
          return %3
        }
        """,
        """graphc 1
        graph @cycle(%x: f32[4,4]) -> (f32[4,4]) stage fused {
          %0 = fused %x {kind="map"} : f32[4,4] region(%x: f32[4,4]) {
            %0 = exp %x : f32[4,4]
            return %0
          }
          %1 = fused %0 {kind="contract"} : f32[4,4] region(%in0: f32[4,4]) {
            %0 = contract %in0, %in0 {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
            return %0
          }
          %2 = fused %1, %x, %0 {kind="contract"} : f32[4,4] region(%in0: f32[4,4], %x: f32[4,4], %in2: f32[4,4]) {
            %0 = contract %in0, %x {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
            %1 = add %in2, %0 : f32[4,4]
            return %1
          }
          return %2
        }
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_graph(name: str) -> None:
    check_fused(*CASES[name])


def test_softmax_cross_entropy_and_its_gradient_are_one_pass_over_the_rows() -> None:
    """Maximum, sum, loss of each row and the gradient of the logits: one reduce; the mean over rows is another."""

    def loss(logits: Array, labels: Array) -> Array:
        return losses.cross_entropy(logits, labels)

    simplified = simplify(trace(value_and_grad(loss), f32[8, 10], i32[8]))
    fused = fuse(simplified)
    verify(fused)
    rows, mean = fused.nodes
    assert [rows.attrs["kind"], mean.attrs["kind"]] == ["reduce", "reduce"]
    assert rows.types == (f32[8], f32[8, 10])
    assert mean.types == (f32[()],)
    assert [n.op.name for n in rows.regions[0].nodes if "reduction" in n.op.traits] == [
        "reduce_max",
        *["reduce_sum"] * 2,
    ]
    assert ordered(unfuse(fused)) == ordered(simplified)
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(8, 10)).astype(np.float32), rng.integers(0, 10, 8).astype(np.int32)
    value, gradient = interpret(fused, [logits, labels])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(value, -np.log(p[np.arange(8), labels]).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - np.eye(10)[labels]) / 8, atol=1e-7)


def test_a_marked_diagonal_that_is_an_output_is_stored_once() -> None:
    """Computing it again in the operands would save nothing: it is in memory anyway."""
    before = parse(
        """graphc 1
        graph @kept(%g: f32[4,5], %j: f32[4,5], %w: f32[5,6]) -> (f32[4,5], f32[4,6]) stage differentiated {
          %0 = mul %g, %j {diagonal} : f32[4,5]
          %1 = contract %0, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
          return %0, %1
        }"""
    )
    fused = fuse(before)
    assert [n.attrs["kind"] for n in fused.nodes] == ["map", "contract"]
    assert ordered(unfuse(fused)) == ordered(before)


# ------------------------------------------------------------------------------------------------- whole training steps

OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(0.1), "momentum": SGD(0.1, momentum=0.9), "adam": Adam(0.1),
    "nesterov": SGD(0.1, momentum=0.9, weight_decay=0.1, nesterov=True), "adamw": AdamW(0.1),
    "amsgrad": Adam(0.1, amsgrad=True), "adagrad": optim.Adagrad(0.1), "adadelta": optim.Adadelta(),
    "rmsprop": optim.RMSprop(0.1, momentum=0.9, centered=True, weight_decay=0.1), "nadam": optim.NAdam(0.1),
    "radam": optim.RAdam(0.1), "lion": optim.Lion(0.1, weight_decay=0.1),
    "clipped by value": optim.clip_by_value(Adam(0.1), 0.1), "averaged": optim.ema(SGD(0.1, momentum=0.9)),
    "accumulated": optim.accumulate(Adam(0.1), 4),
    "groups": optim.groups({"weight0": SGD(0.1)}, default=Adam(0.2))}  # fmt: skip
SIZES = (6, 9, 8, 5)


def training_step(optimizer: Optimizer, activation: Callable[[Array], Array], loss: str) -> Graph:
    """The simplified graph of a perceptron's training step for a batch of 7."""
    parameters = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        parameters[f"weight{i}"] = np.zeros((fan_out, fan_in), np.float32)
        parameters[f"bias{i}"] = np.zeros(fan_out, np.float32)

    def value(p: dict[str, Array], x: Array, y: Array) -> Array:
        h = x
        for i in range(len(SIZES) - 1):
            h = h @ p[f"weight{i}"].T + p[f"bias{i}"]
            h = activation(h) if i + 2 < len(SIZES) else h
        return losses.cross_entropy(h, y) if loss == "cross_entropy" else losses.mse(h, y)

    def step(p: dict[str, Array], state: dict[str, Array], x: Array, y: Array, rate: Array) -> object:
        result, gradients = value_and_grad(value)(p, x, y)
        return result, *optimizer.update(p, gradients, state, rate)

    labels = i32[7] if loss == "cross_entropy" else f32[7, SIZES[-1]]
    return simplify(trace(step, parameters, optimizer.init(parameters), f32[7, SIZES[0]], labels, f32[()]))


def arguments_of(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.uniform(0.1, 1, t.shape).astype(t.dtype.numpy)
        if t.dtype.is_float
        else rng.integers(0, SIZES[-1], t.shape).astype(t.dtype.numpy)
        for t in graph.input_types
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_in_the_store_of_the_weight_gradients_and_no_buffer_holds_a_gradient(name: str) -> None:
    graph = training_step(OPTIMIZERS[name], activations.relu, "cross_entropy")
    fused = fuse(graph)
    verify(fused)
    assert ordered(unfuse(fused)) == ordered(graph)
    weights = [f32[shape] for shape in [(9, 6), (8, 9), (5, 8)]]
    updates = [n for n in fused.nodes if any(t in weights for t in n.types)]
    assert len(updates) == len(weights)
    for node in updates:
        assert node.attrs["kind"] == "contract"
        assert all(
            v in fused.outputs for v in node.results
        )  # the new weight and the new state, not the gradient
    made = sum(len(node.results) for node in updates)
    assert made == sum(t in weights for t in fused.output_types)
    count = len([n for n in graph.input_names if n.startswith(("p", "state"))])
    donated = [(i, i + 1) for i in range(count)]
    plan = make_plan(fused, host_target(), donated)
    verify_plan(plan)
    inside = [b for b in plan.buffers if b.kind == "arena"]
    assert not [b for b in inside if b.type in weights]
    assert all(isinstance(step, CallStep) for step in plan.steps)
    arrays = arguments_of(graph)
    want = interpret(graph, arrays)
    positions = sorted(b.position for b in plan.of_kind("output"))
    for position, got in zip(positions, run_plan(plan, arrays), strict=True):
        np.testing.assert_allclose(got, want[position], rtol=1e-4, atol=1e-5)


def test_bias_gradients_are_by_products_of_the_passes_that_make_their_cotangents() -> None:
    fused = fuse(training_step(OPTIMIZERS["sgd"], activations.relu, "cross_entropy"))
    sums = [
        (node.attrs["kind"], reduction.type.shape)
        for node in fused.nodes
        for reduction in node.regions[0].nodes
        if reduction.op.name == "reduce_sum" and reduction.ints("axes") == (0,) and len(node.results) > 1
    ]
    assert sorted(sums) == [("contract", (8,)), ("contract", (9,)), ("reduce", (5,))]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid", "tanh"])
def test_unfusing_a_training_step_gives_it_back(optimizer: str, activation: str, loss: str) -> None:
    function = F.tanh if activation == "tanh" else getattr(activations, activation)
    graph = training_step(OPTIMIZERS[optimizer], function, loss)
    fused = fuse(graph)
    verify(fused)
    assert ordered(unfuse(fused)) == ordered(graph)
    arrays = arguments_of(graph)
    for got, want in zip(interpret(fused, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_chain_of_pointwise_nodes_is_one_pass_whatever_its_length() -> None:
    build = Builder()
    x, scale = build.input(f32[37], "x"), build.input(f32[37], "scale")
    y = x
    for step in range(100):
        y = build.add(build.tanh(build.mul(y, scale)), build.splat(0.01 * step, x.type))
    graph = build.graph("chain", [y])
    assert len([n for n in graph.nodes if "pointwise" in n.op.traits]) == 300
    fused = fuse(graph)
    assert [n.attrs["kind"] for n in fused.nodes] == ["map"]
    assert ordered(unfuse(fused)) == ordered(graph)
    plan = make_plan(fused, host_target())
    assert plan.workspace_bytes == 0 and len(plan.steps) == 1
    compiled = compile_graph(graph)
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.2, 0.8, 37).astype(np.float32) for _ in range(2)]
    (want,) = interpret(graph, arrays, float64=True)
    np.testing.assert_allclose(compiled(*arrays), want, rtol=1e-5)


def test_inputs_of_a_region_have_names_of_their_own() -> None:
    """A user's name may be what an input without a name would be called by its position."""
    build = Builder()
    a, x = build.input(f32[4, 4], "in1"), build.input(f32[4, 4], "x")
    product = build.contract(a, build.exp(x), axes=((1,), (0,)), batch=((), ()))
    fused = fuse(build.graph("f", [product]))
    verify(fused)
    assert [v.node.name for v in fused.nodes[-1].regions[0].inputs] == ["in1", "in2"]
