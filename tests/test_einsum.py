"""einsum: NumPy's values for a table and for random subscripts, the order of contractions, derivatives, clear errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_array_functions import check, run

import graphc
from graphc.errors import ArgumentError, GraphcError, ShapeError, TraceError
from graphc.frontend.array import Array
from graphc.ir.types import f32

RNG = np.random.default_rng(5)
SIZES = dict(zip("abcdefghij", (2, 3, 4, 5, 2, 3, 4, 2, 3, 2), strict=True))

TABLE = [
    "ab,bc->ac", "ab,bc", "ab,cb->ca", "a,b->ab", "a,b->ba", "a,a->", "ab,ab->", "ab->ba", "ab->", "ab->a", "ab->b", "a->a",
    "aa->a", "aa->", "aab->b", "aab->ab", "aaa->a", "aba->ab", "aab,bcc->ac", "aab,abb->ab", "abc,cde->abde", "abc,cd,de->abe",
    "ab,bc,cd,da->", "ab,bc,cd,da->bd", "a,b,c->abc", "abc,abd->acd", "abc,abc->ab", "ab,a->ab", "ab,b,a->", "ab,c->abc",
    "...ab,...bc->...ac", "...a,...a->...", "a...,a...->...", "...,...", "...aa->...a", "a...b->b...a", "b,ab...->a...",
    "ab,bc,cd,de,ef->af", "aab,bc,cca->b", "ab , bc -> ac", "abcd,efcd->abef", "ba,", "ba",
]  # fmt: skip


def operands_of(subscripts: str, extra: tuple[int, ...] = (3, 2)) -> list[np.ndarray]:
    terms = subscripts.replace(" ", "").split("->")[0].split(",")
    shapes: list[tuple[int, ...]] = []
    for term in terms:
        before, dots, after = term.partition("...")
        shapes.append((*(SIZES[c] for c in before), *(extra if dots else ()), *(SIZES[c] for c in after)))
    return [RNG.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("subscripts", TABLE)
def test_values_are_numpys(subscripts: str) -> None:
    arrays = operands_of(subscripts)
    want = np.einsum(subscripts, *arrays)
    for optimize in ("auto", False, "greedy"):
        got = run(lambda *x, o=optimize: graphc.einsum(subscripts, *x, optimize=o), *arrays)
        check(got, want, tolerance=1e-12)
    check(run(lambda *x: np.einsum(subscripts, *x), *arrays), want, tolerance=1e-12)


@pytest.mark.parametrize("subscripts", ["aab,bcc->ac", "ab,bc,cd,da->bd", "...aa->...a", "aaa->a"])
def test_compiled_values_are_numpys(subscripts: str) -> None:
    arrays = operands_of(subscripts)
    got = graphc.compile(lambda *x: graphc.einsum(subscripts, *x), *arrays)(*arrays)
    check(got, np.einsum(subscripts, *arrays), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_other_data_types(dtype: type) -> None:
    x, y = (RNG.integers(0, 2 if dtype is np.bool_ else 5, (3, 3)).astype(dtype) for _ in range(2))
    check(run(lambda a, b: graphc.einsum("ab,bc->ac", a, b), x, y), np.einsum("ab,bc->ac", x, y))
    check(run(lambda a: graphc.einsum("aa->a", a), x), np.einsum("aa->a", x))


def test_ellipses_of_several_ranks_and_axes_of_one_broadcast() -> None:
    for shapes in (((3, 4, 5), (5, 2)), ((4, 5), (3, 1, 5, 2)), ((1, 4, 5), (3, 5, 2))):
        x, y = (RNG.standard_normal(s) for s in shapes)
        want = np.einsum("...ab,...bc->...ac", x, y)
        check(run(lambda a, b: graphc.einsum("...ab,...bc->...ac", a, b), x, y), want, tolerance=1e-12)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    letters = "abcdef"
    terms = draw(st.lists(st.text(letters, max_size=4), min_size=1, max_size=4))
    used = sorted({c for t in terms for c in t})
    result = draw(st.permutations(used))[: draw(st.integers(0, len(used)))] if used else []
    return ",".join(terms) + (f"->{''.join(result)}" if draw(st.booleans()) else "")


@settings(max_examples=120, deadline=None)
@given(subscripts=expressions(), optimize=st.sampled_from(["auto", False, "optimal"]))
def test_random_subscripts(subscripts: str, optimize: str | bool) -> None:
    arrays = operands_of(subscripts)
    want = np.einsum(subscripts, *arrays)
    got = run(lambda *x: graphc.einsum(subscripts, *x, optimize=optimize), *arrays)
    check(got, want, tolerance=1e-9)


def sizes_of_contractions(fn: Callable[..., object], *arrays: np.ndarray) -> list[tuple[int, ...]]:
    graph = graphc.trace(fn, *arrays)
    return [n.type.shape for n in graph.nodes if n.op.name == "contract"]


def test_the_cheapest_order_is_taken() -> None:
    """A chain that is cheap from the right: left to right makes a 100 x 100 matrix, which the path avoids."""
    x, y, z = np.ones((100, 2)), np.ones((2, 100)), np.ones((100, 1))
    assert sizes_of_contractions(lambda *a: graphc.einsum("ab,bc,cd->ad", *a, optimize=False), x, y, z) == [
        (100, 100), (100, 1),
    ]  # fmt: skip
    assert sizes_of_contractions(lambda *a: graphc.einsum("ab,bc,cd->ad", *a), x, y, z)[0] == (2, 1)
    own = ["einsum_path", (1, 2), (0, 1)]
    assert sizes_of_contractions(lambda *a: graphc.einsum("ab,bc,cd->ad", *a, optimize=own), x, y, z)[0] == (
        2,
        1,
    )
    path, _ = np.einsum_path("ab,bc,cd->ad", x, y, z)
    assert sizes_of_contractions(lambda *a: graphc.einsum("ab,bc,cd->ad", *a, optimize=path), x, y, z)[0] == (
        2,
        1,
    )


def test_a_diagonal_is_read_by_index_arithmetic() -> None:
    compiled = graphc.compile(lambda x: graphc.einsum("ii->i", x), f32[5, 5])
    assert {n.op.name for r in compiled.fused.nodes for g in r.regions for n in g.nodes} <= {
        "reshape",
        "slice",
    }


@pytest.mark.parametrize(
    "subscripts", ["ab,bc->ac", "aab,bc->c", "ab,bc,cd->ad", "aa->", "...ab,...b->...a", "aba->ba"]
)
def test_derivatives_of_order_one_and_two(subscripts: str) -> None:
    arrays = operands_of(subscripts, (2,))
    graphc.check_grads(lambda *x: graphc.sin(graphc.einsum(subscripts, *x)), arrays, order=2)


def test_without_opt_einsum_the_extra_is_named_and_two_operands_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    x = np.ones((2, 2))
    check(run(lambda a: graphc.einsum("ab,bc->ac", a, a), x), x @ x)
    check(run(lambda a: np.einsum("ab,bc,cd->ad", a, a, a), x), x @ x @ x)
    with pytest.raises(
        GraphcError,
        match=re.escape(__file__) + r":\d+: einsum: expected the package opt_einsum.*graphc\[einsum\].*False",
    ):
        run(lambda a: graphc.einsum("ab,bc,cd->ad", a, a, a), x)


X = np.ones((4, 6), np.float32)
WRONG: list[tuple[Callable[[Array], object], type[GraphcError], str]] = [
    (lambda x: graphc.einsum("ab,bc->ac", x), ShapeError, "expected an operand for each of 2 terms, got 1"),
    (lambda x: graphc.einsum("a1->a", x), ShapeError, "expected letters, commas"),
    (lambda x: graphc.einsum("ab->aa", x), ShapeError, "expected each output letter once, got 'ab->aa'"),
    (lambda x: graphc.einsum("aa->a", x), ShapeError, "expected equal sizes for 'a', got 4 and 6"),
    (lambda x: graphc.einsum("ab,ac,ad", x, x, x, optimize="best"), ArgumentError, "optimize: expected a bool, .* got 'best'"),
    (lambda x: graphc.einsum("ab,ac,ad", x, x, x, optimize=[(0, 1)]), ArgumentError, "an order that joins all 3 operands"),
    (lambda x: graphc.einsum("ab,ac", x, x, optimize=[(0, 2)]), ArgumentError, r"different positions below 2, got \[0, 2\]"),
    (lambda x: np.einsum(x, [0, 1]), TraceError, "einsum: expected subscripts as a text first, got Array"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "error", "text"), WRONG)
def test_wrong_arguments_raise_one_error_with_the_line(
    fn: Callable[[Array], object], error: type[GraphcError], text: str
) -> None:
    with pytest.raises(error, match=re.escape(__file__) + r":\d+: .*" + text):
        run(fn, X)
