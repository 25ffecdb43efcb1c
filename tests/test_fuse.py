"""Fusion as text: a graph before, the fused graph after. Un-fusing each gives the graph before back."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.frontend import losses
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
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


def ordered(graph: Graph) -> Graph:
    """The same graph with its nodes in the order in which the outputs need them, and without a stage."""
    build = Builder()
    new = {v: build.input(v.type, v.node.name) for v in graph.inputs}

    def visit(value: Value) -> Value:
        if value not in new:
            node = value.node
            copy = build.emit(node.op, [visit(v) for v in node.operands], node.attrs, node.regions)
            new.update(zip(node.results, copy.results, strict=True))
        return new[value]

    return build.graph(graph.name, [visit(v) for v in graph.outputs])


@pytest.mark.parametrize("name", CASES)
def test_fused_graph(name: str) -> None:
    before, after = (parse(text) for text in CASES[name])
    fused = fuse(before)
    verify(fused)
    assert fused == after, str(fused)
    assert ordered(unfuse(fused)) == ordered(before)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=t.shape).astype(t.dtype.numpy) for t in before.input_types]
    for got, want in zip(interpret(fused, arrays), interpret(before, arrays), strict=True):
        np.testing.assert_array_equal(got, want)


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
