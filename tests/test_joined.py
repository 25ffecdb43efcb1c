"""Contractions that share an operand: what is joined, when it is taken apart again, and that both compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from fused_text import check_fused, ordered
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc
from graphc.codegen.memory import make_plan
from graphc.codegen.schedules.joined import join
from graphc.codegen.separate import separate
from graphc.codegen.target import Target, host_target, target_from_name
from graphc.frontend.array import Array
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.parser import parse
from graphc.ir.plan import Plan, run_plan, verify_plan
from graphc.ir.types import f64
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.passes.unfuse import unfuse

TINY = (256, 1024)  # bytes of caches so small that small shapes are cut and packed like large ones

CASES = {
    "narrow_contractions_of_one_operand_are_one_kernel_each_with_its_store": (
        """graphc 1
        graph @heads(%x: f32[4,6], %w: f32[9,6], %v: f32[3,6]) -> (f32[4,9], f32[4,3]) {
          %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[4,9]
          %1 = tanh %0 : f32[4,9]
          %2 = contract %x, %v {axes=[[1],[1]], batch=[[],[]]} : f32[4,3]
          %3 = neg %2 : f32[4,3]
          return %1, %3
        }
        """,
        """graphc 1
        graph @heads(%x: f32[4,6], %w: f32[9,6], %v: f32[3,6]) -> (f32[4,9], f32[4,3]) stage fused {
          %0, %1 = fused %x, %w, %v {kind="contract"} : (f32[4,9], f32[4,3]) region(%x: f32[4,6], %w: f32[9,6], %v: f32[3,6]) {
            %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[4,9]
            %1 = tanh %0 : f32[4,9]
            %2 = contract %x, %v {axes=[[1],[1]], batch=[[],[]]} : f32[4,3]
            %3 = neg %2 : f32[4,3]
            return %1, %3
          }
          return %0, %1
        }
        """,
    ),
    "what_reads_several_joined_contractions_goes_into_their_store": (
        """graphc 1
        graph @gate(%x: f32[4,6], %w: f32[6,5], %v: f32[6,5]) -> (f32[4,5]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = sigmoid %0 : f32[4,5]
          %2 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %3 = mul %1, %2 : f32[4,5]
          return %3
        }
        """,
        """graphc 1
        graph @gate(%x: f32[4,6], %w: f32[6,5], %v: f32[6,5]) -> (f32[4,5]) stage fused {
          %0 = fused %x, %w, %v {kind="contract"} : f32[4,5] region(%x: f32[4,6], %w: f32[6,5], %v: f32[6,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = sigmoid %0 : f32[4,5]
            %2 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %3 = mul %1, %2 : f32[4,5]
            return %3
          }
          return %0
        }
        """,
    ),
    "contractions_of_one_right_operand_are_joined_too": (
        """graphc 1
        graph @twins(%x: f32[2,6], %y: f32[3,6], %w: f32[6,9]) -> (f32[2,9], f32[3,9]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[2,9]
          %1 = contract %y, %w {axes=[[1],[0]], batch=[[],[]]} : f32[3,9]
          return %0, %1
        }
        """,
        """graphc 1
        graph @twins(%x: f32[2,6], %y: f32[3,6], %w: f32[6,9]) -> (f32[2,9], f32[3,9]) stage fused {
          %0, %1 = fused %x, %w, %y {kind="contract"} : (f32[2,9], f32[3,9]) region(%x: f32[2,6], %w: f32[6,9], %y: f32[3,6]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[2,9]
            %1 = contract %y, %w {axes=[[1],[0]], batch=[[],[]]} : f32[3,9]
            return %0, %1
          }
          return %0, %1
        }
        """,
    ),
    "a_contraction_of_the_others_result_is_not_joined": (
        """graphc 1
        graph @path(%x: f32[4,4], %w: f32[4,4]) -> (f32[4,4]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
          %1 = contract %x, %0 {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
          return %1
        }
        """,
        """graphc 1
        graph @path(%x: f32[4,4], %w: f32[4,4]) -> (f32[4,4]) stage fused {
          %0 = fused %x, %w {kind="contract"} : f32[4,4] region(%x: f32[4,4], %w: f32[4,4]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
            return %0
          }
          %1 = fused %x, %0 {kind="contract"} : f32[4,4] region(%x: f32[4,4], %in1: f32[4,4]) {
            %0 = contract %x, %in1 {axes=[[1],[0]], batch=[[],[]]} : f32[4,4]
            return %0
          }
          return %1
        }
        """,
    ),
    "operands_in_another_role_and_wide_contractions_are_not_joined": (
        """graphc 1
        graph @roles(%g: f32[4,5], %w: f32[5,6], %x: f32[4,6], %v: f32[5,60]) -> (f32[4,6], f32[5,6], f32[4,60]) {
          %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
          %1 = contract %g, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,6]
          %2 = contract %g, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,60]
          return %0, %1, %2
        }
        """,
        """graphc 1
        graph @roles(%g: f32[4,5], %w: f32[5,6], %x: f32[4,6], %v: f32[5,60]) -> (f32[4,6], f32[5,6], f32[4,60]) stage fused {
          %0 = fused %g, %w {kind="contract"} : f32[4,6] region(%g: f32[4,5], %w: f32[5,6]) {
            %0 = contract %g, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,6]
            return %0
          }
          %1 = fused %g, %x {kind="contract"} : f32[5,6] region(%g: f32[4,5], %x: f32[4,6]) {
            %0 = contract %g, %x {axes=[[0],[0]], batch=[[],[]]} : f32[5,6]
            return %0
          }
          %2 = fused %g, %v {kind="contract"} : f32[4,60] region(%g: f32[4,5], %v: f32[5,60]) {
            %0 = contract %g, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,60]
            return %0
          }
          return %0, %1, %2
        }
        """,
    ),
    "a_contraction_with_a_by_product_is_not_joined": (
        """graphc 1
        graph @sums(%x: f32[4,6], %w: f32[6,5], %v: f32[6,3]) -> (f32[4,5], f32[5], f32[4,3]) {
          %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
          %1 = reduce_sum %0 {axes=[0]} : f32[5]
          %2 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,3]
          return %0, %1, %2
        }
        """,
        """graphc 1
        graph @sums(%x: f32[4,6], %w: f32[6,5], %v: f32[6,3]) -> (f32[4,5], f32[5], f32[4,3]) stage fused {
          %0, %1 = fused %x, %w {kind="contract"} : (f32[4,5], f32[5]) region(%x: f32[4,6], %w: f32[6,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = reduce_sum %0 {axes=[0]} : f32[5]
            return %0, %1
          }
          %2 = fused %x, %v {kind="contract"} : f32[4,3] region(%x: f32[4,6], %v: f32[6,3]) {
            %0 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,3]
            return %0
          }
          return %0, %1, %2
        }
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_graph(name: str) -> None:
    check_fused(*CASES[name])


# --------------------------------------------------------------------------------------------------------- the kernels

# How the shared operand and the others are stored, and the products. The first four share the left one.
FORMS: dict[str, tuple[str, str, Callable[[Array, Array], Array]]] = {
    "AB": ("mk", "kn", lambda s, o: s @ o),
    "ABT": ("mk", "nk", lambda s, o: s @ o.T),
    "ATB": ("km", "kn", lambda s, o: s.T @ o),
    "ATBT": ("km", "nk", lambda s, o: s.T @ o.T),
    "right AB": ("km", "nk", lambda s, o: o @ s),
    "right ABT": ("mk", "nk", lambda s, o: o @ s.T),
    "right ATB": ("km", "kn", lambda s, o: o.T @ s),
}


def operands(form: str, m: int, extents: Sequence[int], k: int) -> list[np.ndarray]:
    """The shared operand, then the others, as they are stored."""
    rng = np.random.default_rng(m + k + sum(extents))
    own, others, _ = FORMS[form]

    def stored(letters: str, free: int) -> np.ndarray:
        return rng.standard_normal([k if letter == "k" else free for letter in letters]).astype(np.float32)

    return [stored(own, m), *(stored(others, n) for n in extents)]


def products(form: str) -> Callable[..., tuple[Array, ...]]:
    """All products, each with an epilogue of its own."""
    product = FORMS[form][2]
    return lambda shared, *others: tuple(
        product(shared, other) * (number + 1) for number, other in enumerate(others)
    )


def always_if_possible(region: Graph, target: Target) -> bool:
    return join(region, target) is not None


def joined_plan(graph: Graph, target: Target, donated: Sequence[tuple[int, int]] = ()) -> Plan:
    """The plan in which everything is joined that can be."""
    with patch("graphc.codegen.separate.pays", always_if_possible):
        plan = make_plan(fuse(simplify(graph)), target, donated)
    verify_plan(plan)
    for kernel in plan.kernels:
        verify_kernel(kernel)
    return plan


def check(function: Callable, arrays: Sequence[np.ndarray], target: Target, kernels: int | None = 1) -> None:  # type: ignore[type-arg]
    """Joined, compiled and interpreted kernel by kernel, the function gives what its graph gives in float64."""
    graph = graphc.trace(function, *arrays)
    want = interpret(graph, list(arrays), float64=True)
    plan = joined_plan(graph, target)
    if kernels is not None:
        assert len(plan.steps) == kernels
    with patch("graphc.codegen.separate.pays", always_if_possible):
        # programs are kept by their graph: a target of its own makes this one new
        compiled = graphc.compile(
            function, *arrays, target=replace(target, cache_bytes=(*target.cache_bytes, 1))
        )
    for results in (run_plan(plan, list(arrays)), compiled(*arrays)):
        for got, exact in zip(results, want, strict=True):
            np.testing.assert_allclose(got, exact, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("cache_bytes", [(32 << 10, 1 << 20), TINY])
@pytest.mark.parametrize("form", FORMS)
def test_joined_products_of_every_form(form: str, cache_bytes: tuple[int, ...]) -> None:
    target = replace(host_target(), cache_bytes=cache_bytes)
    for m, extents, k in [
        (9, (10, 3), 37),
        (1, (1, 1), 20),
        (40, (2, 5, 1), 70),
        (33, (8, 8), 16),
        (5, (17, 16), 3),
    ]:
        check(products(form), operands(form, m, extents, k), target, kernels=None)


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("form", ["AB", "ABT", "right AB", "right ABT"])
def test_every_vector_width(name: str, form: str) -> None:
    target = target_from_name(name)
    if not host_target().triple.startswith("x86_64") or target.vector_bits > host_target().vector_bits:
        pytest.skip(f"{name} does not run on this machine")
    check(products(form), operands(form, 19, (3, 4), 37), replace(target, cache_bytes=TINY))


def test_vectors_matrices_and_batches_share_an_operand(rng: np.random.Generator) -> None:
    def array(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    target = host_target()
    check(lambda x, v, w: (x @ v, x @ w), [array(9, 20), array(20), array(20, 7)], target)
    check(lambda x, v, w: (x @ v, x @ w), [array(3, 9, 20), array(3, 20, 5), array(3, 20, 7)], target)
    check(lambda x, v, w: (v @ x, w @ x), [array(3, 20, 9), array(3, 2, 20), array(3, 1, 20)], target)
    check(lambda x, v, w: (x @ v.T, x @ w), [array(2, 9, 20), array(5, 20), array(20, 7)], target)


def test_epilogues_may_read_the_sums_of_other_products(rng: np.random.Generator) -> None:
    """The gates of a cell: three products of one input, one result."""

    def cell(x: Array, i: Array, f: Array, g: Array, c: Array) -> tuple[Array, Array]:
        forget = graphc.sigmoid(x @ f.T)
        new = forget * c + graphc.sigmoid(x @ i.T) * graphc.tanh(x @ g.T)
        return new, forget

    for n in (5, 20):
        arrays = [
            rng.standard_normal(s).astype(np.float32) for s in [(9, 20), (n, 20), (n, 20), (n, 20), (9, n)]
        ]
        for target in (host_target(), replace(host_target(), cache_bytes=TINY)):
            check(cell, arrays, target)


@pytest.mark.parametrize("joined", [True, False])
def test_donated_inputs_are_overwritten(joined: bool, rng: np.random.Generator) -> None:
    """Also one that both products' epilogues read, at the index that is about to be written."""

    def update(x: Array, w: Array, v: Array, a: Array, b: Array) -> tuple[Array, Array]:
        return a - x @ w, b - a * (x @ v)

    arrays = [rng.standard_normal(s).astype(np.float32) for s in [(9, 20), (20, 5), (20, 5), (9, 5), (9, 5)]]
    graph = graphc.trace(update, *arrays)
    want = interpret(graph, arrays, float64=True)
    with patch("graphc.codegen.separate.pays", lambda region, target: joined):
        plan = make_plan(fuse(simplify(graph)), host_target(), [(3, 0), (4, 1)])
    verify_plan(plan)
    assert len(plan.steps) == (1 if joined else 2)
    assert all(b.in_place_of is not None for b in plan.of_kind("output"))
    for got, exact in zip(run_plan(plan, arrays), want, strict=True):
        np.testing.assert_allclose(got, exact, atol=1e-4)


@settings(max_examples=12)
@given(st.data())
def test_random_mixes(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(sorted(FORMS)))
    m, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    extents = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=4))
    cache_bytes = data.draw(st.sampled_from([(32 << 10, 1 << 20), TINY]))
    check(
        products(form),
        operands(form, m, extents, k),
        replace(host_target(), cache_bytes=cache_bytes),
        kernels=None,
    )


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Contractions of few operands in every order, and pointwise nodes and sums over rows that read them."""
    build = Builder()
    m, k = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    widths = draw(st.lists(st.sampled_from((k, 3, 5, 17)), min_size=1, max_size=2))
    values = [build.input(f64[m, k], "x"), build.input(f64[2, k], "y"), build.input(f64[m, widths[0]], "z")]
    weights = [build.input(f64[k, n], f"w{i}") for i, n in enumerate([*widths, widths[0]])]
    for _ in range(draw(st.integers(4, 14))):
        x = draw(st.sampled_from(values))
        kind = draw(
            st.sampled_from(("contract", "contract", "contract", "gradient", "tanh", "binary", "binary"))
        )
        if kind == "contract":
            fit = [w for w in weights if w.shape[0] == x.shape[1]]
            if fit:
                w = draw(st.sampled_from(fit))
                values.append(build.contract(x, w, axes=((1,), (0,)), batch=((), ())))
        elif kind == "gradient":
            y = draw(st.sampled_from([v for v in values if v.shape[0] == x.shape[0]]))
            values.append(build.contract(x, y, axes=((0,), (0,)), batch=((), ())))
        elif kind == "tanh":
            values.append(build.tanh(x))
        else:
            y = draw(st.sampled_from([v for v in values if v.type == x.type]))
            values.append(build.mul(build.tanh(x), y) if draw(st.booleans()) else build.sub(x, y))
    sums = [build.reduce_sum(v, axes=(0,)) for v in values[3:] if draw(st.integers(0, 3)) == 0]
    return build.graph("network", [*values[-4:], *sums])


@settings(max_examples=40)
@given(networks())
def test_random_networks_joined_and_apart(graph: Graph) -> None:
    graph = simplify(graph)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape) for t in graph.input_types]
    want = interpret(graph, arrays)
    fused = fuse(graph)
    verify(fused)
    assert ordered(unfuse(fused)) == ordered(graph)
    for decision in (always_if_possible, lambda region, target: False):
        with patch("graphc.codegen.separate.pays", decision):
            apart = separate(fused, host_target())
            plan = make_plan(fused, host_target())
        verify(apart)
        assert ordered(unfuse(apart)) == ordered(graph)
        verify_plan(plan)
        positions = sorted(b.position for b in plan.of_kind("output"))
        for position, got in zip(positions, run_plan(plan, arrays), strict=True):
            np.testing.assert_allclose(got, want[position], rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------- joined or apart


def separated(function: Callable, arrays: Sequence[np.ndarray], target: Target) -> Graph:  # type: ignore[type-arg]
    return separate(fuse(simplify(graphc.trace(function, *arrays))), target)


@pytest.mark.parametrize(
    ("form", "m", "extents", "k", "kernels"),
    [
        ("ABT", 4096, (10, 3), 1024, 1),  # the shared operand comes from memory once
        ("AB", 512, (8, 8, 8, 8), 64, 1),  # four products fill the lanes
        ("right ABT", 1024, (1, 1), 1024, 1),
        ("ABT", 1, (20, 20), 784, 2),  # a packed panel for a single row
        ("AB", 100, (32, 32), 512, 2),  # vectors are full as they are
    ],
)
def test_the_cost_model_decides(form: str, m: int, extents: tuple[int, ...], k: int, kernels: int) -> None:
    target = replace(target_from_name("x86-64-v4"), cache_bytes=(32 << 10, 1 << 20))
    fused = separated(products(form), operands(form, m, extents, k), target)
    assert len(fused.nodes) == kernels


def test_what_is_taken_apart_means_the_same_and_unfuses_to_the_same_graph() -> None:
    """A value that a later product's epilogue reads becomes a result of the earlier product's region."""
    before = parse(CASES["what_reads_several_joined_contractions_goes_into_their_store"][0])
    fused = fuse(before)
    with patch("graphc.codegen.separate.pays", lambda region, target: False):
        apart = separate(fused, host_target())
    verify(apart)
    assert apart == parse(
        """graphc 1
        graph @gate(%x: f32[4,6], %w: f32[6,5], %v: f32[6,5]) -> (f32[4,5]) stage fused {
          %0 = fused %x, %w {kind="contract"} : f32[4,5] region(%x: f32[4,6], %w: f32[6,5]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = sigmoid %0 : f32[4,5]
            return %1
          }
          %1 = fused %x, %v, %0 {kind="contract"} : f32[4,5] region(%x: f32[4,6], %v: f32[6,5], %in2: f32[4,5]) {
            %0 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = mul %in2, %0 : f32[4,5]
            return %1
          }
          return %1
        }
        """
    )
    assert ordered(unfuse(apart)) == ordered(before) == ordered(unfuse(fused))
    assert separate(apart, host_target()) is apart
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=t.shape).astype(np.float32) for t in before.input_types]
    np.testing.assert_array_equal(interpret(apart, arrays)[0], interpret(before, arrays)[0])


def test_a_region_with_by_products_is_taken_apart() -> None:
    """Fusion does not make one; a hand-written one is legal, and each product sums its own rows."""
    text = """graphc 1
        graph @sums(%x: f32[4,6], %w: f32[6,5], %v: f32[6,3]) -> (f32[5], f32[4,3]) stage fused {
          %0, %1 = fused %x, %w, %v {kind="contract"} : (f32[5], f32[4,3]) region(%x: f32[4,6], %w: f32[6,5], %v: f32[6,3]) {
            %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[4,5]
            %1 = reduce_sum %0 {axes=[0]} : f32[5]
            %2 = contract %x, %v {axes=[[1],[0]], batch=[[],[]]} : f32[4,3]
            return %1, %2
          }
          return %0, %1
        }
        """
    fused = parse(text)
    apart = separate(fused, host_target())
    assert [[n.op.name for n in node.regions[0].nodes] for node in apart.nodes] == [
        ["contract", "reduce_sum"],
        ["contract"],
    ]
    plan = make_plan(fused, host_target())
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=t.shape).astype(np.float32) for t in fused.input_types]
    for got, want in zip(run_plan(plan, arrays), interpret(fused, arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_results_that_depend_on_no_contraction_are_taken_apart_too() -> None:
    build = Builder()
    x, z = build.input(f64[5, 4], "x"), build.input(f64[5, 3], "z")
    first, second = (build.contract(x, build.input(f64[4, n], f"w{n}"), axes=((1,), (0,)), batch=((), ()))
                     for n in (2, 3))  # fmt: skip
    activation = build.tanh(z)
    results = [first, build.add(second, activation), activation, build.neg(activation)]
    graph = build.graph("f", results)
    fused = fuse(graph)
    assert len(fused.nodes) == 1
    with patch("graphc.codegen.separate.pays", lambda region, target: False):
        apart = separate(fused, host_target())
        plan = make_plan(fused, host_target())
    verify(apart)
    assert ordered(unfuse(apart)) == ordered(graph)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape) for t in graph.input_types]
    for got, want in zip(run_plan(plan, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
