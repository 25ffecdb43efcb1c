"""Cheap values are computed again where they are read, rather than stored."""

from __future__ import annotations

import numpy as np
import pytest
from fused_text import check_fused, ordered, stored

import graphc
from graphc.codegen.memory import make_plan
from graphc.codegen.target import host_target
from graphc.frontend.array import Array
from graphc.ir.graph import Builder
from graphc.ir.interp import interpret
from graphc.ir.plan import CallStep, run_plan, verify_plan
from graphc.ir.types import f32
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.unfuse import unfuse

CASES = {
    "diagonal_of_a_stored_activation_is_computed_where_it_scales_the_cotangent": (
        """graphc 1
        graph @derivative(%x: f32[4,6], %w: f32[6,5], %v: f32[5,7]) -> (f32[4,5]) stage differentiated {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = tanh %0 : f32[4,5]
          %2 = const 1.0 : f32[4,5]
          %3 = mul %1, %1 : f32[4,5]
          %4 = sub %2, %3 : f32[4,5]
          %5 = contract %1, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,7]
          %6 = contract %5, %v {axes=[[1],[1]], batch=[[],[]]} : f32[4,5]
          %7 = mul %6, %4 {diagonal} : f32[4,5]
          return %7
        }
        """,
        """graphc 1
        graph @derivative(%x: f32[4,6], %w: f32[6,5], %v: f32[5,7]) -> (f32[4,5]) stage fused {
          %0 = fused %x, %w {kind="contract"} : f32[4,5] region(%x: f32[4,6], %w: f32[6,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = tanh %0 : f32[4,5]
            return %1
          }
          %1 = fused %0, %v {kind="contract"} : f32[4,7] region(%in0: f32[4,5], %v: f32[5,7]) {
            %0 = contract %in0, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,7]
            return %0
          }
          %2 = fused %0, %1, %v {kind="contract"} : f32[4,5] region(%in0: f32[4,5], %in1: f32[4,7], %v: f32[5,7]) {
            %0 = const 1.0 : f32[4,5]
            %1 = mul %in0, %in0 : f32[4,5]
            %2 = sub %0, %1 : f32[4,5]
            %3 = contract %in1, %v {axes=[[1],[1]], batch=[[],[]]} : f32[4,5]
            %4 = mul %3, %2 {diagonal} : f32[4,5]
            return %4
          }
          return %2
        }
        """,
    ),
    "cheap_function_of_an_input_is_computed_by_each_of_its_readers": (
        """graphc 1
        graph @shared(%x: f32[4,6]) -> (f32[4], f32[]) {
          %0 = const 2.0 : f32[4,6]
          %1 = mul %x, %0 : f32[4,6]
          %2 = sub %1, %x : f32[4,6]
          %3 = reduce_sum %2 {axes=[1]} : f32[4]
          %4 = reduce_max %2 {axes=[0,1]} : f32[]
          return %3, %4
        }
        """,
        """graphc 1
        graph @shared(%x: f32[4,6]) -> (f32[4], f32[]) stage fused {
          %0 = fused %x {kind="reduce"} : f32[4] region(%x: f32[4,6]) {
            %0 = const 2.0 : f32[4,6]
            %1 = mul %x, %0 : f32[4,6]
            %2 = sub %1, %x : f32[4,6]
            %3 = reduce_sum %2 {axes=[1]} : f32[4]
            return %3
          }
          %1 = fused %x {kind="reduce"} : f32[] region(%x: f32[4,6]) {
            %0 = const 2.0 : f32[4,6]
            %1 = mul %x, %0 : f32[4,6]
            %2 = sub %1, %x : f32[4,6]
            %3 = reduce_max %2 {axes=[0,1]} : f32[]
            return %3
          }
          return %0, %1
        }
        """,
    ),
    "one_value_is_stored_in_place_of_two_cheap_functions_of_it": (
        """graphc 1
        graph @common(%x: f32[4,6], %w: f32[6,5]) -> (f32[4], f32[]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = tanh %0 : f32[4,5]
          %2 = const 2.0 : f32[4,5]
          %3 = mul %1, %2 : f32[4,5]
          %4 = mul %1, %1 : f32[4,5]
          %5 = reduce_sum %3 {axes=[1]} : f32[4]
          %6 = reduce_sum %4 {axes=[0,1]} : f32[]
          return %5, %6
        }
        """,
        """graphc 1
        graph @common(%x: f32[4,6], %w: f32[6,5]) -> (f32[4], f32[]) stage fused {
          %0 = fused %x, %w {kind="contract"} : f32[4,5] region(%x: f32[4,6], %w: f32[6,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = tanh %0 : f32[4,5]
            return %1
          }
          %1 = fused %0 {kind="reduce"} : f32[4] region(%in0: f32[4,5]) {
            %0 = const 2.0 : f32[4,5]
            %1 = mul %in0, %0 : f32[4,5]
            %2 = reduce_sum %1 {axes=[1]} : f32[4]
            return %2
          }
          %2 = fused %0 {kind="reduce"} : f32[] region(%in0: f32[4,5]) {
            %0 = mul %in0, %in0 : f32[4,5]
            %1 = reduce_sum %0 {axes=[0,1]} : f32[]
            return %1
          }
          return %1, %2
        }
        """,
    ),
    "a_cheap_value_is_stored_where_a_contraction_reads_it": (
        """graphc 1
        graph @kept(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5], %v: f32[5,7]) -> (f32[4,5], f32[4,7]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = add %0, %y : f32[4,5]
          %2 = contract %1, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,7]
          return %0, %2
        }
        """,
        """graphc 1
        graph @kept(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5], %v: f32[5,7]) -> (f32[4,5], f32[4,7]) stage fused {
          %0, %1 = fused %x, %w, %y {kind="contract"} : (f32[4,5], f32[4,5]) region(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = add %0, %y : f32[4,5]
            return %0, %1
          }
          %2 = fused %1, %v {kind="contract"} : f32[4,7] region(%in0: f32[4,5], %v: f32[5,7]) {
            %0 = contract %in0, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,7]
            return %0
          }
          return %0, %2
        }
        """,
    ),
    "a_cheap_value_is_stored_where_computing_it_would_read_more": (
        """graphc 1
        graph @more(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5]) -> (f32[4,5], f32[]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = tanh %0 : f32[4,5]
          %2 = mul %1, %y : f32[4,5]
          %3 = reduce_sum %2 {axes=[0,1]} : f32[]
          return %1, %3
        }
        """,
        """graphc 1
        graph @more(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5]) -> (f32[4,5], f32[]) stage fused {
          %0, %1 = fused %x, %w, %y {kind="contract"} : (f32[4,5], f32[4,5]) region(%x: f32[4,6], %w: f32[6,5], %y: f32[4,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = tanh %0 : f32[4,5]
            %2 = mul %1, %y : f32[4,5]
            return %1, %2
          }
          %2 = fused %1 {kind="reduce"} : f32[] region(%in0: f32[4,5]) {
            %0 = reduce_sum %in0 {axes=[0,1]} : f32[]
            return %0
          }
          return %0, %2
        }
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_graph(name: str) -> None:
    check_fused(*CASES[name])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_layers_backward_pass_reads_its_activation_and_no_derivative(activation: str) -> None:
    """Of each layer the activation and its cotangent are in memory, nothing else of that size."""

    def loss(p: dict[str, Array], x: Array) -> Array:
        function = getattr(graphc, activation)
        y = function(function(x @ p["w"]) @ p["v"]) @ p["u"]
        return (y * y).sum()

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in [(6, 9), (9, 7), (7, 3), (8, 6)]]
    parameters = dict(zip("wvu", arrays, strict=False))
    graph = simplify(graphc.trace(graphc.value_and_grad(loss), parameters, arrays[-1]))
    fused = fuse(graph)
    shapes = [v.shape for v in stored(fused)]
    assert shapes.count((8, 9)) == shapes.count((8, 7)) == 2
    assert ordered(unfuse(fused)) == ordered(graph)
    for got, want in zip(interpret(fused, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_array_equal(got, want)
    plan = make_plan(fused, host_target())
    verify_plan(plan)
    for got, want in zip(run_plan(plan, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_donated_input_is_not_read_after_its_update() -> None:
    """`p * 2` would be cheap to compute again, but the reader comes after p's new value, which is in p's place."""
    build = Builder()
    p, w = build.input(f32[6, 6], "p"), build.input(f32[6, 6], "w")
    double = build.mul(p, build.splat(2.0, p.type))
    new = build.exp(double)
    product = build.contract(new, w, axes=((1,), (0,)), batch=((), ()))
    graph = build.graph("update", [new, build.add(product, double)])
    plan = make_plan(fuse(graph), host_target(), [(0, 0)])
    verify_plan(plan)
    assert all(isinstance(step, CallStep) for step in plan.steps)  # none is a copy
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape).astype(np.float32) for t in graph.input_types]
    for got, want in zip(run_plan(plan, [a.copy() for a in arrays]), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_long_chain_is_stored_not_computed_again() -> None:
    """Each value of a chain is cheap; a reader far down the chain would compute all of it."""
    build = Builder()
    x = build.input(f32[8, 9], "x")
    y = x
    for step in range(12):
        y = build.mul(y, build.splat(1.0 + step, x.type)) if step % 2 else build.add(y, x)
    graph = build.graph("chain", [build.reduce_sum(y, axes=(1,)), build.reduce_max(y, axes=(0, 1))])
    fused = fuse(graph)
    assert [v.shape for v in stored(fused)] == [(8, 9)]
    assert ordered(unfuse(fused)) == ordered(graph)
