"""Gathering diagonals: what is gathered, what is left as it is, and that nothing finite becomes NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import f32
from graphc.frontend import activations
from graphc.frontend.array import Array
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.verify import verify
from graphc.passes.diagonals import gather_diagonals
from graphc.passes.simplify import simplify


def graph(body: str, results: int = 1) -> Graph:
    """A backward pass of x whose cotangent d comes out of a product; types are filled in."""
    lines = [f"{line} : f32[3,3]" for line in body.strip().splitlines()]
    lines, last = lines[:-1], lines[-1].removesuffix(" : f32[3,3]")
    head = "graph @f(%x: f32[3,3], %u: f32[3,3], %w: f32[3,3]) -> "
    types = ", ".join(["f32[3,3]"] * results)
    product = "%d = contract %u, %w {axes=[[1],[0]], batch=[[],[]]} : f32[3,3]"
    return parse(
        "\n".join(["graphc 1", f"{head}({types}) stage differentiated {{", product, *lines, last, "}"])
    )


GATHERED = {
    "a chain": (
        "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a {diagonal}\n%1 = mul %0, %b {diagonal}\nreturn %1",
        "%a = tanh %x\n%b = cos %x\n%0 = mul %a, %b\n%1 = mul %d, %0 {diagonal}\nreturn %1",
    ),
    "parallel paths": (
        "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a {diagonal}\n%1 = mul %d, %b {diagonal}\n%2 = add %0, %1\nreturn %2",
        "%a = tanh %x\n%b = cos %x\n%0 = add %a, %b\n%1 = mul %d, %0 {diagonal}\nreturn %1",
    ),
    "paths of chains with a number": (
        "%a = tanh %x\n%b = cos %x\n%c = const 0.5\n%0 = mul %d, %a {diagonal}\n%1 = mul %0, %b {diagonal}\n"
        "%2 = mul %d, %b {diagonal}\n%3 = mul %2, %c {diagonal}\n%4 = add %1, %3\nreturn %4",
        "%a = tanh %x\n%b = cos %x\n%c = const 0.5\n%0 = mul %a, %b\n%1 = mul %b, %c\n%2 = add %0, %1\n"
        "%3 = mul %d, %2 {diagonal}\nreturn %3",
    ),
    "an unbounded factor and one of at most 1/4": (
        "%s = sigmoid %x\n%o = const 1.0\n%r = sub %o, %s\n%b = mul %s, %r\n%h = add %x, %x\n%a = mul %h, %s\n"
        "%c = const 0.5\n%p = mul %a, %c\n%0 = mul %d, %p {diagonal}\n%1 = mul %0, %b {diagonal}\nreturn %1",
        "%s = sigmoid %x\n%o = const 1.0\n%r = sub %o, %s\n%b = mul %s, %r\n%h = add %x, %x\n%a = mul %h, %s\n"
        "%c = const 0.5\n%p = mul %a, %c\n%0 = mul %p, %b\n%1 = mul %d, %0 {diagonal}\nreturn %1",
    ),
}

LEFT = {
    "a single diagonal": "%a = tanh %x\n%0 = mul %d, %a {diagonal}\nreturn %0",
    "products that are no diagonals": "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a\n%1 = mul %0, %b\nreturn %1",
    "a product that something else reads": (
        "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a {diagonal}\n%1 = mul %0, %b {diagonal}\n%2 = mul %0, %w\n"
        "%3 = sub %1, %2\nreturn %3"
    ),
    "factors that are inputs": "%0 = mul %d, %x {diagonal}\n%1 = mul %0, %u {diagonal}\nreturn %1",
    "factors that lie in memory for a product": (
        "%a = tanh %x\n%b = cos %x\n%p = contract %a, %b {axes=[[1],[0]], batch=[[],[]]}\n"
        "%0 = mul %d, %a {diagonal}\n%1 = mul %0, %b {diagonal}\n%2 = sub %1, %p\nreturn %2"
    ),
    "a cotangent that is a number": (
        "%c = const 2.0\n%a = tanh %x\n%b = cos %x\n%0 = mul %c, %a {diagonal}\n%1 = mul %0, %b {diagonal}\n"
        "%2 = sub %1, %d\nreturn %2"
    ),
    "a factor of the backward pass": (
        "%p = mul %d, %x {diagonal}\n%a = tanh %p\n%b = cos %x\n%0 = mul %w, %a {diagonal}\n"
        "%1 = mul %0, %b {diagonal}\nreturn %1"
    ),
    "cotangents that differ": (
        "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a {diagonal}\n%1 = mul %w, %b {diagonal}\n%2 = add %0, %1\nreturn %2"
    ),
    "a product that may overflow": (
        "%a = exp %x\n%b = exp %a\n%0 = mul %d, %b {diagonal}\n%1 = mul %0, %a {diagonal}\nreturn %1"
    ),
    "a sum that may overflow": (
        "%a = exp %x\n%b = exp %a\n%0 = mul %d, %b {diagonal}\n%1 = mul %d, %a {diagonal}\n%2 = add %0, %1\nreturn %2"
    ),
}


@pytest.mark.parametrize("case", GATHERED)
def test_diagonals_are_gathered(case: str) -> None:
    before, after = map(graph, GATHERED[case])
    result = gather_diagonals(before)
    verify(result)
    assert result == after, str(result)
    assert gather_diagonals(result) == result


@pytest.mark.parametrize("case", LEFT)
def test_diagonals_are_left_where_nothing_is_won_or_something_may_be_lost(case: str) -> None:
    before = graph(LEFT[case])
    assert gather_diagonals(before) is before


def test_an_inner_product_that_is_an_output_stays_one() -> None:
    before = graph(
        "%a = tanh %x\n%b = cos %x\n%0 = mul %d, %a {diagonal}\n%1 = mul %0, %b {diagonal}\nreturn %0, %1", 2
    )
    assert gather_diagonals(before) is before


def test_a_chain_of_any_length_is_gathered_in_pieces() -> None:
    build = Builder()
    x, u = build.input(f32[2, 2], "x"), build.input(f32[2, 2], "u")
    d = build.contract(u, u, axes=((1,), (0,)), batch=((), ()))
    h = x
    for _ in range(3000):
        h = build.sin(h)
        d = build.mul(d, build.cos(h), diagonal=True)
    after = gather_diagonals(build.graph("long", [d], "differentiated"))
    verify(after)
    marked = [n for n in after.nodes if "diagonal" in n.attrs]
    assert len(marked) == 94  # 3000 / 32


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": activations.gelu,
    "gelu by tanh": lambda x: activations.gelu(x, "tanh"),
    "silu": lambda x: x * graphc.sigmoid(x),
    "softplus": activations.softplus,
    "tanh of sin": lambda x: graphc.tanh(graphc.sin(x)),
    "exp of exp": lambda x: graphc.exp(graphc.exp(x)),
    "cube": lambda x: x * x * x,
    "reciprocal": lambda x: 1 / (1 + x * x),
}


def gradient(name: str) -> Graph:
    """Of an activation between two products, by its input: not simplified yet."""

    def loss(x: Array, w: Array) -> Array:
        y = ACTIVATIONS[name](x @ w) @ w
        return (y * y).sum()

    return graphc.trace(graphc.grad(loss), f32[4, 4], f32[4, 4])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_stay_what_they_are_but_for_rounding(name: str, rng: np.random.Generator) -> None:
    before = gradient(name)
    after = simplify(before)
    verify(after)
    arrays = [rng.normal(size=(4, 4)).astype(np.float32) * scale for scale in (1.0, 0.5)]
    (wanted,) = interpret(before, arrays, float64=True)
    np.testing.assert_allclose(interpret(after, arrays)[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(interpret(after, arrays, float64=True)[0], wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e4, 1e20, 1e38])
def test_what_is_finite_stays_finite(name: str, size: float, rng: np.random.Generator) -> None:
    before = gradient(name)
    after = simplify(before)
    for _ in range(5):
        x = rng.choice(np.float32([0, -0.0, 1, -1, size, -size, 3]), (4, 4))
        w = np.diag(rng.choice(np.float32([0, 1, 1e-30]), 4))  # its zeros make zero cotangents
        (was,), (now,) = interpret(before, [x, w]), interpret(after, [x, w])
        assert np.isfinite(now[np.isfinite(was)]).all()


@pytest.mark.parametrize(("name", "saved"), [("gelu", 2), ("silu", 2), ("tanh of sin", 1), ("exp of exp", 0)])
def test_fewer_arrays_are_stored_between_the_kernels(
    name: str, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what fusion computes again would not be stored either
    monkeypatch.setattr("graphc.passes.recompute.recompute", lambda g: g)

    def stored() -> int:
        fused = graphc.compile(gradient(name)).fused
        return sum(len(n.results) for n in fused.nodes if n.op.name == "fused") - len(fused.outputs)

    after = stored()
    monkeypatch.setattr("graphc.passes.diagonals.gather_diagonals", lambda g, rules: g)
    monkeypatch.setattr("graphc.compiler._PROGRAMS", {})
    assert stored() - after == saved
