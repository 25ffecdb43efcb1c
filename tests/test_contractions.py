"""Contractions in every form, tile, block and packing: against numpy, and kernel by kernel in the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc.codegen.memory import make_plan
from graphc.codegen.program import emit_program
from graphc.codegen.schedules import operands as operands_module
from graphc.codegen.schedules import tiles
from graphc.codegen.schedules.blocking import Blocking, blockings
from graphc.codegen.schedules.tiles import Contraction
from graphc.codegen.target import Target, host_target, target_from_name
from graphc.frontend.array import Array
from graphc.ir.kernel_print import callees, print_kernel, used_buffers
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.plan import run_plan, verify_plan
from graphc.ir.types import f32, f64
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify

Product = Callable[[Array, Array], Array]
FORMS: dict[str, tuple[Product, bool, bool]] = {  # is the left operand stored [K, M], the right one [N, K]?
    "AB": (lambda a, b: a @ b, False, False),
    "ATB": (lambda a, b: a.T @ b, True, False),
    "ABT": (lambda a, b: a @ b.T, False, True),
    "ATBT": (lambda a, b: a.T @ b.T, True, True),
}
# caches so small that small shapes are cut and packed like large ones
TINY = (256, 1024)


def operands(form: str, m: int, n: int, k: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    _, left, right = FORMS[form]
    a, b = rng.standard_normal((k, m) if left else (m, k)), rng.standard_normal((n, k) if right else (k, n))
    return a.astype(dtype), b.astype(dtype)


def blocking(product: Product, a: np.ndarray, b: np.ndarray, target: Target) -> Blocking:
    graph = fuse(simplify(graphc.trace(product, a, b)))
    region = next(n for n in graph.nodes if n.op.name == "fused").regions[0]
    return Contraction(region, target, {}).blocking


def check(product: Product, a: np.ndarray, b: np.ndarray, target: Target, expected: np.ndarray) -> None:
    result = graphc.compile(product, a, b, target=target)(a, b)
    scale = np.abs(a).max() * np.abs(b).max() * max(min(a.shape), 1)
    np.testing.assert_allclose(result, expected, atol=1e-6 * max(scale, 1.0) * 4, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cache_bytes", [(32 << 10, 1 << 20), TINY])
def test_odd_sizes(form: str, cache_bytes: tuple[int, ...]) -> None:
    target = replace(host_target(), cache_bytes=cache_bytes)
    for m, n, k in [
        (1, 1, 1),
        (1, 70, 9),
        (33, 1, 17),
        (3, 5, 31),
        (16, 17, 3),
        (31, 33, 127),
        (7, 100, 64),
        (1, 127, 1000),
    ]:
        a, b = operands(form, m, n, k)
        check(FORMS[form][0], a, b, target, FORMS[form][0](a.astype(np.float64), b.astype(np.float64)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("form", FORMS)
def test_every_vector_width(name: str, form: str) -> None:
    target = target_from_name(name)
    if not host_target().triple.startswith("x86_64") or target.vector_bits > host_target().vector_bits:
        pytest.skip(f"{name} does not run on this machine")
    for m, n, k in [(5, 37, 70), (40, 19, 33)]:
        a, b = operands(form, m, n, k)
        check(FORMS[form][0], a, b, replace(target, cache_bytes=TINY), FORMS[form][0](a, b))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_the_interpreted_plan_agrees(form: str) -> None:
    target = replace(host_target(), cache_bytes=TINY)
    a, b = operands(form, 9, 37, 70)
    plan = make_plan(fuse(simplify(graphc.trace(FORMS[form][0], a, b))), target)
    verify_plan(plan)
    np.testing.assert_allclose(run_plan(plan, [a, b])[0], FORMS[form][0](a, b), atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "shape", "expected"),
    [
        ("AB", (64, 64, 64), {"form": "outer", "columns": "none", "rows": "none"}),
        ("AB", (256, 1024, 640), {"form": "outer", "columns": "passing"}),
        ("ABT", (64, 64, 64), {"form": "outer", "columns": "transpose"}),
        ("ABT", (2, 64, 512), {"form": "dot"}),
        ("ATB", (1024, 640, 70), {"form": "outer", "rows": "copy"}),
        ("AB", (2, 4096, 100), {"form": "outer", "order": "streams"}),
        ("AB", (1, 1000, 100), {"form": "outer", "order": "sweeps", "depth": 12}),
        (
            "AB",
            (1, 1024, 100),
            {"form": "outer", "order": "sweeps", "depth": 4},
        ),  # rows share the sets of a cache
    ],
)
def test_the_cost_model_chooses(form: str, shape: tuple[int, int, int], expected: dict[str, object]) -> None:
    target = replace(target_from_name("x86-64-v4"), cache_bytes=(32 << 10, 256 << 10))
    a, b = operands(form, *shape)
    chosen = blocking(FORMS[form][0], a, b, target)
    assert {name: getattr(chosen, name) for name in expected} == expected
    if host_target().vector_bits >= target.vector_bits and host_target().triple.startswith("x86_64"):
        check(FORMS[form][0], a, b, target, FORMS[form][0](a, b))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(
    ("form", "shape"), [("AB", (5, 21, 150)), ("AB", (1, 37, 40)), ("ATB", (9, 5, 40)), ("ABT", (6, 21, 20))]
)
def test_every_kind_of_blocking_computes_the_product(
    form: str, shape: tuple[int, int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each kind that the cost model may choose from: compiled where the target runs here, some interpreted."""
    target = replace(target_from_name(name), cache_bytes=(1024, 4096))
    a, b = operands(form, *shape)
    expected = FORMS[form][0](a, b)
    kinds: dict[tuple[object, ...], Blocking] = {}

    def keep(product: operands_module.Product, target: Target, lanes: int) -> Blocking:
        found = sorted(blockings(product, target, lanes), key=lambda c: c.cost)
        for c in found:
            kinds.setdefault((c.form, c.swapped, c.columns, c.rows, c.order, c.tile.chains > 1), c)
        return found[0]

    monkeypatch.setattr(tiles, "choose_blocking", keep)
    graph = fuse(simplify(graphc.trace(FORMS[form][0], a, b)))
    make_plan(graph, target)
    runs = host_target().triple.startswith("x86_64") and target.vector_bits <= host_target().vector_bits
    for number, kind in enumerate(kinds.values()):
        monkeypatch.setattr(tiles, "choose_blocking", lambda *_, kind=kind: kind)
        if not runs or name == "x86-64-v3":
            result = run_plan(make_plan(graph, target), [a, b])[0]
            np.testing.assert_allclose(result, expected, atol=1e-4, err_msg=str(kind))  # type: ignore[arg-type]
        if runs:
            exe = graphc.compile(FORMS[form][0], a, b, target=target, name=f"kind{number}")
            np.testing.assert_allclose(exe(a, b), expected, atol=1e-4, err_msg=str(kind))  # type: ignore[arg-type]


def test_what_the_first_rows_read_is_packed_as_they_go() -> None:
    """Two tiles of rows with 16 registers: the second one reads what the first one stored."""
    target = replace(target_from_name("x86-64-v3"), cache_bytes=(32 << 10, 1 << 20))
    a, b = operands("AB", 8, 512, 512)
    chosen = blocking(FORMS["AB"][0], a, b, target)
    assert (chosen.columns, chosen.tile.rows, chosen.tile.vectors) == ("passing", 4, 3)
    plan = make_plan(fuse(simplify(graphc.trace(FORMS["AB"][0], a, b))), target)
    text = print_kernel(plan.kernels[0])
    assert "prefetch far" in text
    assert print_kernel(parse_kernel(text)) == text
    assert "i32 0, i32 2, i32 1)" in emit_program(plan, target)


def test_rows_are_splatted_once_where_a_splat_is_slow() -> None:
    a, b = operands("AB", 64, 512, 128)
    caches = (32 << 10, 1 << 20)
    chosen = {
        name: blocking(FORMS["AB"][0], a, b, replace(target_from_name(name), cache_bytes=caches)).rows
        for name in ("x86-64", "x86-64-v3")
    }
    assert chosen == {"x86-64": "splats", "x86-64-v3": "none"}


@pytest.mark.parametrize("registers", [16, 32])
def test_tiles_fit_the_registers(registers: int) -> None:
    target = replace(target_from_name("x86-64-v3"), vector_registers=registers)
    for form in FORMS:
        for shape in [(1, 64, 64), (8, 512, 512), (100, 130, 77), (64, 10, 512), (512, 512, 512)]:
            tile = blocking(FORMS[form][0], *operands(form, *shape), target).tile
            cells = tile.rows * tile.vectors
            assert tile.chains * cells + min(tile.rows, tile.vectors) + 1 <= registers


def test_computed_operands_are_computed_once_an_element() -> None:
    """Prologues: what an operand computes is packed where many tiles share it."""
    a, b = operands("AB", 40, 200, 64)
    s = np.random.default_rng(0).standard_normal(a.shape).astype(np.float32)

    def product(a: Array, b: Array, s: Array) -> Array:
        return graphc.vjp(lambda x: graphc.tanh(x), s)[1](a)[0] @ b  # type: ignore[no-any-return]

    for cache_bytes in [(32 << 10, 1 << 20), TINY]:
        exe = graphc.compile(product, a, b, s, target=replace(host_target(), cache_bytes=cache_bytes))
        expected = (a * (1 - np.tanh(s.astype(np.float64)) ** 2)) @ b
        np.testing.assert_allclose(exe(a, b, s), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_other_types(dtype: type) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, s).astype(dtype) for s in ((19, 70), (37, 70)))
    exe = graphc.compile(lambda a, b: a @ b.T, a, b, target=replace(host_target(), cache_bytes=TINY))
    np.testing.assert_array_equal(exe(a, b), a @ b.T)


def test_several_summed_free_and_batch_dimensions() -> None:
    rng = np.random.default_rng(0)
    for target in (host_target(), replace(host_target(), cache_bytes=TINY)):
        a, b = rng.standard_normal((3, 5, 7, 6)), rng.standard_normal((3, 7, 6, 20))
        exe = graphc.compile(
            lambda a, b: graphc.einsum("bijk,bjkn->bin", a, b), f64[a.shape], f64[b.shape], target=target
        )
        np.testing.assert_allclose(exe(a, b), np.einsum("bijk,bjkn->bin", a, b), atol=1e-12)
        a, b = rng.standard_normal((2, 3, 4, 17)), rng.standard_normal((2, 3, 18, 17))
        exe = graphc.compile(
            lambda a, b: graphc.matmul(a, graphc.matrix_transpose(b)),
            f64[a.shape],
            f64[b.shape],
            target=target,
        )
        np.testing.assert_allclose(exe(a, b), a @ np.swapaxes(b, -1, -2), atol=1e-12)
        x, w = (
            rng.standard_normal((4, 6, 33)).astype(np.float32),
            rng.standard_normal((65, 33)).astype(np.float32),
        )
        exe = graphc.compile(lambda x, w: x @ w.T, f32[x.shape], f32[w.shape], target=target)
        np.testing.assert_allclose(exe(x, w), x @ w.T, atol=1e-4)


@pytest.mark.parametrize("cache_bytes", [(32 << 10, 1 << 20), TINY])
@pytest.mark.parametrize("form", ["AB", "ATB", "ABT"])
@pytest.mark.parametrize("shape", [(13, 37, 70), (3, 5, 600)])
def test_sums_over_the_rows_are_by_products(
    form: str, cache_bytes: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    a, b = operands(form, *shape)

    def both(a: Array, b: Array) -> tuple[Array, Array, Array]:
        y = FORMS[form][0](a, b) * 0.1
        return y, y.sum(axis=0), y.max(axis=0)

    exe = graphc.compile(both, a, b, target=replace(host_target(), cache_bytes=cache_bytes))
    assert [k.name for k in exe.kernels] == ["contract0"]
    expected = FORMS[form][0](a, b) * np.float32(0.1)  # type: ignore[arg-type,operator]
    for result, want in zip(exe(a, b), (expected, expected.sum(0), expected.max(0)), strict=True):
        np.testing.assert_allclose(result, want, atol=1e-4)
    np.testing.assert_allclose(run_plan(exe.plan, [a, b])[1], expected.sum(0), atol=1e-4)


def test_a_corner_is_computed_with_full_rows_unless_that_would_update_twice() -> None:
    target = target_from_name("x86-64-v3")
    a, b = operands("AB", 131, 203, 7)
    c = np.random.default_rng(0).standard_normal((131, 203)).astype(np.float32)

    def update(c: Array, a: Array, b: Array) -> Array:
        return c - a @ b

    plain = graphc.compile(update, c, a, b, target=target)
    in_place = graphc.compile(update, c, a, b, target=target, donate=["c"])
    tiles = [len(callees(f.kernels[0])) - 1 for f in (plain, in_place)]
    assert tiles == [3, 4]
    want = c.astype(np.float64) - a.astype(np.float64) @ b
    np.testing.assert_allclose(plain(c, a, b), want, atol=1e-5)
    np.testing.assert_allclose(in_place(c.copy(), a, b), want, atol=1e-5)


def test_a_tile_takes_the_buffers_that_it_uses() -> None:
    a, b = operands("ABT", 128, 512, 64)
    f = graphc.compile(FORMS["ABT"][0], a, b, target=target_from_name("x86-64-v3"))
    for callee in callees(f.kernels[0])[:-1]:
        assert set(callee.params) <= used_buffers(callee.body)


# --------------------------------------------------------------------------------------------------- merged dimensions


def rows_and_sequences(x: Array, w: Array, b: Array) -> Array:
    """A layer on a batch of sequences: batch and time are one dimension of rows."""
    return graphc.tanh(x @ w.T + b)


def with_positions(x: Array, w: Array, b: Array) -> Array:
    """The time's index is a value in the store: time stays a dimension of its own."""
    time = graphc.arange(x.shape[1], dtype=graphc.f32)
    return x @ w.T + b + time[:, None]


def weight_gradient(x: Array, w: Array, b: Array) -> Array:
    """A sum over batch and time, which is one long sum."""
    return graphc.einsum("btd,bte->de", x, graphc.tanh(x) * 2)


def scaled_by_row(x: Array, w: Array, b: Array) -> Array:
    """A bias for each time step: batch and time differ for it."""
    return x @ w.T + b[0] * x[0, :, :1]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (rows_and_sequences, [(35, 12), (9, 12), (9,), (35, 9)]),
        (with_positions, [(5, 7, 12), (9, 12), (9,), (5, 7, 9)]),
        (weight_gradient, [(35, 12), (35, 12), (12, 12)]),
        (scaled_by_row, None),
    ],
)
def test_dimensions_that_are_treated_alike_are_one(
    function: Callable[[Array, Array, Array], Array], shapes: list[tuple[int, ...]] | None
) -> None:
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((5, 7, 12), (9, 12), (9,)))
    exe = graphc.compile(function, x, w, b)
    np.testing.assert_allclose(exe(x, w, b), graphc.interpret(exe.graph, [x, w, b])[0], atol=1e-5)
    np.testing.assert_allclose(run_plan(exe.plan, [x, w, b])[0], exe(x, w, b), atol=1e-5)
    if shapes is not None:
        kernel = next(k for k in exe.kernels if k.name.startswith("contract"))
        assert [p.shape for p in kernel.params if p.access != "scratch"] == shapes


def test_merged_batches_and_gradients_of_sequences() -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((2, 3, n, 8)).astype(np.float32) for n in (5, 6))
    exe = graphc.compile(lambda q, k: graphc.matmul(q, graphc.matrix_transpose(k)), q, k)
    assert [p.shape for p in exe.kernels[0].params] == [(6, 5, 8), (6, 6, 8), (6, 5, 6)]
    np.testing.assert_allclose(exe(q, k), q @ np.swapaxes(k, -1, -2), atol=1e-5)

    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((5, 7, 12), (9, 12), (9,)))
    step = graphc.compile(
        graphc.grad(lambda p, x: graphc.tanh(x @ p["w"].T + p["b"]).sum()), {"w": w, "b": b}, x
    )
    got, want = step({"w": w, "b": b}, x), graphc.interpret(step.graph, [w, b, x], float64=True)
    for result, exact in zip(got.values(), want, strict=True):  # type: ignore[attr-defined]
        np.testing.assert_allclose(result, exact, atol=1e-4)
