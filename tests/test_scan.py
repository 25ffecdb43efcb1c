"""Loops and branches: numpy statements of what they mean, derivatives by finite differences, compiled against interpreted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc import check_grads
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError, TraceError, VerifyError
from graphc.ir import ops
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.ops.scan_parts import ScanParts
from graphc.ir.parser import parse
from graphc.ir.plan import LoopStep, Plan, run_plan, verify_plan
from graphc.ir.types import f32
from graphc.ir.verify import verify
from graphc.passes.unfuse import unfuse
from graphc.passes.vjp import derive
from tests.ptx.programs import build_program

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def cell(w: object) -> Callable[[object, object], tuple[object, object]]:
    def step(h: object, x: object) -> tuple[object, object]:
        h = graphc.tanh(h @ w + x)
        return h, h

    return step


def everywhere(fn: Callable[..., object], *args: np.ndarray, rtol: float = 1e-4) -> Graph:
    """Compiles, and compares every level with the interpreter in double precision."""
    compiled = graphc.compile(fn, *args)
    graph = compiled.graph
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in args]
    want = interpret(graph, wide, float64=True)
    for name, stage in compiled.stages.items():
        verify(stage)
        assert parse(str(stage), stage.constants) == stage
        for a, b in zip(want, interpret(stage, wide, float64=True), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=name)
    verify(unfuse(compiled.fused))
    plan = compiled.plan
    verify_plan(plan)
    program = build_program(graph)
    flat, _ = graphc.frontend.tree.flatten(compiled(*args))
    for got in (flat, run_plan(plan, args), program.run(args)):
        for a, b in zip(want, got, strict=True):
            size = float(np.abs(a).max(initial=0)) if a.dtype.kind == "f" else 0.0
            np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * size + 1e-6)
    return graph


# ------------------------------------------------------------------------------------------------------ what they mean


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_a_scan_is_the_loop(length: int, reverse: bool) -> None:
    h, w, x = normal(2, 3), normal(3, 3), normal(length, 2, 3)
    carry, ys = graphc.scan(cell(w), h, x, reverse=reverse)
    want, stacked = h, np.zeros_like(x)
    for t in reversed(range(length)) if reverse else range(length):
        want = np.tanh(want @ w + x[t])
        stacked[t] = want
    np.testing.assert_allclose(carry, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ys, stacked, rtol=1e-5, atol=1e-6)


def test_carries_and_ys_are_nests() -> None:
    def step(carry: dict[str, object], x: object) -> tuple[object, object]:
        return {"sum": carry["sum"] + x, "n": carry["n"] + 1}, (None, {"twice": x * 2})

    carry, ys = graphc.scan(step, {"n": 0, "sum": np.float32(0)}, np.float32([1, 2, 3]))
    assert carry == {"n": 3, "sum": 6.0}
    assert ys[0] is None and ys[1]["twice"].tolist() == [2, 4, 6]


def test_a_scan_without_xs_has_a_length() -> None:
    carry, ys = graphc.scan(lambda c, _: (c * 2, None), np.int32(1), length=5)
    assert carry == 32 and ys is None


def test_a_body_compiles_once_for_each_type() -> None:
    calls = []

    def step(c: object, x: object) -> tuple[object, object]:
        calls.append(1)
        return c + x, None

    for _ in range(3):
        graphc.scan(step, 0.0, np.ones(4, np.float32))
    assert len(calls) == 1
    graphc.scan(step, 0.0, np.ones(5, np.float32))
    assert len(calls) == 2


def test_cond_runs_one_branch() -> None:
    f = graphc.compile(
        lambda p, x: graphc.cond(p, lambda x: (x / 2, x), lambda x: (x, x + 1), x), graphc.bool_[()], f32[2]
    )
    x = np.float32([4, 6])
    assert [a.tolist() for a in f(True, x)] == [[2, 3], [4, 6]]
    assert [a.tolist() for a in f(False, x)] == [[4, 6], [5, 7]]


@pytest.mark.parametrize(("start", "steps"), [(1, 0), (2, 1), (1000, 9)])
def test_a_while_loop_stops_when_its_condition_fails(start: int, steps: int) -> None:
    n, count = graphc.while_loop(lambda c: c[0] > 1, lambda c: (c[0] // 2, c[1] + 1), (start, 0))
    assert (n, count) == (1, steps)


def test_a_while_loop_whose_carry_can_not_be_updated_in_place() -> None:
    w, x = normal(3, 3) * 0.3, normal(2, 3)
    for steps in range(4):
        got = graphc.compile(
            lambda n, x, w: graphc.while_loop(lambda c: c[1] < n, lambda c: (c[0] @ w, c[1] + 1), (x, 0))[0],
            graphc.i32[()], x, w,
        )(steps, x, w)  # fmt: skip
        np.testing.assert_allclose(got, x @ np.linalg.matrix_power(w, steps), rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- compiled


def lstm(w: object, u: object, b: object, x: object) -> object:
    size = u.shape[0]

    def step(state: tuple[object, object], x: object) -> tuple[object, object]:
        h, c = state
        z = x @ w + h @ u + b
        i, f, g, o = (z[:, k * size : (k + 1) * size] for k in range(4))
        c = graphc.nn.sigmoid(f) * c + graphc.nn.sigmoid(i) * graphc.tanh(g)
        h = graphc.nn.sigmoid(o) * graphc.tanh(c)
        return (h, c), h

    zeros = graphc.zeros((x.shape[1], size))
    return graphc.scan(step, (zeros, zeros), x)[1]


def test_a_cell_with_gates_and_its_gradient_at_every_level() -> None:
    args = (normal(3, 16) * 0.5, normal(4, 16) * 0.5, normal(16), normal(5, 2, 3))
    everywhere(lstm, *args)
    grad = graphc.value_and_grad(lambda *a: (lstm(*a) ** 2).sum(), wrt=(0, 1, 2, 3))
    everywhere(grad, *args)


@pytest.mark.parametrize("reverse", [False, True])
def test_nested_loops_at_every_level(reverse: bool) -> None:
    def f(s: object, x: object) -> object:
        def row(c: object, x: object) -> tuple[object, object]:
            return graphc.scan(lambda c, v: (graphc.sin(c * s + v), c * v), c, x, reverse=reverse)

        return graphc.scan(row, 0.3, x)

    args = (normal(), normal(3, 4))
    everywhere(f, *args)
    everywhere(graphc.grad(lambda s, x: f(s, x)[0] + (f(s, x)[1] ** 2).sum(), wrt=(0, 1)), *args)


def test_branches_and_loops_within_each_other_at_every_level() -> None:
    def f(x: object) -> object:
        def step(c: object, x: object) -> tuple[object, object]:
            c = graphc.cond(x > 0, lambda c: c * x, lambda c: graphc.sin(c) + x, c)
            return c, c

        total = graphc.scan(step, 1.0, x)[0]
        return graphc.cond(
            total > 0, lambda: graphc.scan(lambda c, v: (c * v, None), 1.0, x)[0], lambda: total
        )

    for x in (np.float32([2, -1, 3]), np.float32([-2, 0.5, 0.1])):
        everywhere(f, x)
        everywhere(graphc.grad(f), x)


def test_a_while_loop_at_every_level() -> None:
    everywhere(
        lambda x: graphc.while_loop(lambda c: c[1] < 3, lambda c: (graphc.tanh(c[0] @ x), c[1] + 1), (x, 0)),
        normal(4, 4),
    )


def test_slices_that_are_no_whole_vectors_at_every_level() -> None:
    def f(x: object) -> object:
        return graphc.scan(lambda c, x: (graphc.tanh(c[::-1] + x), c * 2), np.ones(3, np.float32), x)

    everywhere(f, normal(4, 3))


def random_body(rng: np.random.Generator) -> Callable[..., tuple[list[object], list[object]]]:
    """A body of a few ops on carries, x and captures."""
    kinds = [int(k) for k in rng.integers(0, 9, size=rng.integers(2, 7))]
    pick = [int(n) for n in rng.integers(0, 1000, size=40)]

    def body(carry: Sequence[object], x: object, held: Sequence[object]) -> tuple[list[object], list[object]]:
        pool: list[object] = [*carry, x]
        for number, kind in enumerate(kinds):
            a, b = (pool[pick[2 * number + side] % len(pool)] for side in range(2))
            made = {
                0: lambda a, b: graphc.tanh(a),
                1: lambda a, b: a * b * 0.9,
                2: lambda a, b: a @ held[0] * 0.9,
                3: lambda a, b: graphc.sin(a) + held[1],
                4: lambda a, b: a - b * 0.5,
                5: lambda a, b: a / (1.5 + b * b),
                6: lambda a, b: graphc.exp(-a * a),
                7: lambda a, b: a.sum(axis=0) * 0.3 + b,
                8: lambda a, b: graphc.concat([a[:, 1:], b[:, :1]], axis=1),
            }[kind](a, b)
            pool.append(made)
        new = [pool[pick[20 + j] % len(pool)] for j in range(len(carry))]
        return new, [pool[pick[25 + j] % len(pool)] for j in range(pick[29] % 3)]

    return body


@pytest.mark.parametrize("seed", range(4))
def test_random_bodies_and_their_gradients_at_every_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = random_body(rng)
    carry = [rng.normal(size=(3, 4)).astype(np.float32) * 0.5 for _ in range(rng.integers(1, 4))]
    held = [rng.normal(size=s).astype(np.float32) * 0.4 for s in ((4, 4), (4,))]
    x = rng.normal(size=(rng.integers(1, 5), 3, 4)).astype(np.float32)
    reverse, checkpoint = bool(seed % 2), seed % 3 == 0

    def loss(x: object, w: object, b: object, *carry: object) -> object:
        new, ys = graphc.scan(
            lambda c, x: body(c, x, (w, b)), list(carry), x, reverse=reverse, checkpoint=checkpoint
        )
        return sum(graphc.sin(v * (1 + 0.1 * i)).sum() for i, v in enumerate([*new, *ys]))

    args = (x, *held, *carry)
    everywhere(graphc.value_and_grad(loss, wrt=tuple(range(len(args)))), *args, rtol=1e-3)
    check_grads(loss, args, order=1)


# ------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_order_1_and_2(reverse: bool, checkpoint: bool) -> None:
    def f(h: object, w: object, x: object) -> object:
        carry, ys = graphc.scan(cell(w), h, x, reverse=reverse, checkpoint=checkpoint)
        return (carry * ys).sum()

    check_grads(f, (normal(2, 3), normal(3, 3), normal(3, 2, 3)), order=2)


def test_derivatives_of_branches_of_order_2() -> None:
    for x in (0.5, -0.5):
        check_grads(
            lambda x: graphc.cond(x > 0, lambda y: graphc.sin(y * x), lambda y: y * y * x, x * 2),
            [x],
            order=2,
        )


def test_nested_loops_have_second_derivatives() -> None:
    def f(s: object, x: object) -> object:
        return graphc.scan(
            lambda c, r: graphc.scan(lambda c, v: (graphc.sin(c * s + v), None), c, r),
            0.3,
            x,
        )[0]

    check_grads(f, (normal(), normal(2, 3)), order=2)


def test_the_second_derivative_compiles() -> None:
    def f(w: object, x: object) -> object:
        return (graphc.scan(cell(w), graphc.zeros((2, 3)), x)[1] ** 2).sum()

    everywhere(
        graphc.grad(lambda w, x: (graphc.grad(f)(w, x) ** 2).sum(), wrt=(0, 1)),
        normal(3, 3),
        normal(4, 2, 3),
    )


def test_a_loop_keeps_the_fewest_bytes() -> None:
    """Of tanh the result alone, which is a y anyway; captures and xs are not stacked again."""
    graph = graphc.compile(
        graphc.grad(lambda w, x: (graphc.scan(cell(w), graphc.zeros((2, 3)), x)[1] ** 2).sum(), wrt=(0, 1)),
        f32[3, 3], f32[4, 2, 3],
    ).stages["rewritten"]  # fmt: skip
    forward, backward = (ScanParts(n) for n in graph.nodes if n.op is ops.scan)
    assert len(forward.ys) == 1
    assert [v.type for v in backward.xs] == [f32[4, 2, 3]] * 3  # cotangents, carries before, carries after


def test_checkpoint_keeps_carries_only() -> None:
    def gradient(checkpoint: bool) -> Callable[..., object]:
        def f(w: object, x: object) -> object:
            def step(h: object, x: object) -> tuple[object, object]:
                for _ in range(4):
                    h = graphc.tanh(graphc.exp(-h) @ w + x)
                return h, None

            return graphc.scan(step, graphc.zeros((2, 4)), x, checkpoint=checkpoint)[0].sum()

        return graphc.grad(f, wrt=(0, 1))

    w, x = normal(4, 4) * 0.3, normal(60, 2, 4)
    plain, kept = (graphc.compile(gradient(c), w, x) for c in (False, True))
    for a, b in zip(plain(w, x), kept(w, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert kept.workspace_bytes * 4 < plain.workspace_bytes
    assert kept.memory.peak[1] * 4 < plain.memory.peak[1]
    everywhere(gradient(True), w, x[:3])


def test_nothing_flows_through_what_stops_gradients() -> None:
    f = graphc.grad(
        lambda x: x * graphc.while_loop(lambda c: c < 10.0, lambda c: c * 2, graphc.stop_gradient(x))
    )
    assert f(1.0) == 16
    counted = graphc.grad(lambda x: graphc.scan(lambda c, x: ((c[0] + 1, c[1] * x), None), (0, 1.0), x)[0][1])
    assert counted(np.float32([2, 3])).tolist() == [3, 2]


def pushed(graph: Graph, wrt: Sequence[int], outputs: Sequence[int]) -> Graph:
    """The graph with tangents, as the adjoint of its adjoint."""
    pulled = derive(graph, wrt, outputs)
    count = len(graph.inputs)
    only = Graph("pulled", pulled.inputs, pulled.outputs[len(graph.outputs) :], "differentiated")
    both = derive(only, range(count, count + len(outputs)), range(len(wrt)))
    build = Builder()
    inputs = list(build.inputs_for(graph.inputs).values())
    moving = [build.input(graph.inputs[i].type, f"t_{i}") for i in wrt]
    zeros = [build.zeros(graph.outputs[j].type) for j in outputs]
    tangents = build.inline(both, [*inputs, *zeros, *moving])[len(wrt) :]
    return build.graph("pushed", [*build.inline(graph, inputs), *tangents], "differentiated")


def quotient(graph: Graph, arrays: list[np.ndarray], along: list[np.ndarray]) -> list[np.ndarray]:
    step = 1e-6
    up, down = (
        interpret(graph, [a + s * step * d for a, d in zip(arrays, along, strict=True)]) for s in (1, -1)
    )
    return [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]


LOOPS = {
    "scan": lambda h, w, x: graphc.scan(
        lambda c, x: ((graphc.tanh(c[0] @ w + x), c[1] * x), c[0] + 1), (h, h), x
    ),
    "cond": lambda h, w, x: graphc.cond(h[0, 0] > 0, lambda h: (h @ w, x), lambda h: (h, x + 1), h),
    "while": lambda h, w, x: graphc.while_loop(
        lambda c: (c[0] * c[0]).sum() < 9, lambda c: (c[0] * 1.5 + x[0], graphc.sin(c[1] @ w)), (h, h)
    ),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("moving", [(0, 1, 2), (2,), (0,)])
def test_tangents_of_loops_and_branches(name: str, moving: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=s) for s in ((2, 3), (3, 3), (4, 2, 3))]
    graph = graphc.trace(LOOPS[name], *arrays)
    (node,) = (n for n in graph.nodes if "control" in n.op.traits)
    build = Builder()
    new = {v: build.input(v.type, v.node.name) for v in graph.inputs}
    slopes = {i: build.input(graph.inputs[i].type, f"t{i}") for i in moving}
    for inner in graph.nodes:
        if inner is not node and node.serial > inner.serial:
            build.copy(inner, new)
    copy = build.copy(node, new)
    tangents = [slopes.get(graph.inputs.index(v)) if v in graph.inputs else None for v in node.operands]
    assert node.op.tangent is not None
    results, found = node.op.tangent(build, copy, tangents, pushed)
    zero = [t or build.zeros(r.type) for t, r in zip(found, results, strict=True)]
    moved = build.graph("moved", [*results, *zero], "differentiated")
    verify(moved)
    along = [rng.normal(size=a.shape) * (i in moving) for i, a in enumerate(arrays)]
    got = interpret(moved, [*arrays, *(along[i] for i in moving)])
    values, slopes_got = got[: len(results)], got[len(results) :]
    order = [node.results.index(v) for v in graph.outputs]
    for j, value, slope in zip(order, interpret(graph, arrays), quotient(graph, arrays, along), strict=True):
        np.testing.assert_allclose(values[j], value, rtol=1e-12)
        np.testing.assert_allclose(slopes_got[j], slope, rtol=1e-6, atol=1e-7)


# --------------------------------------------------------------------------------------------------------------- plans


def loop_of(plan: Plan) -> LoopStep:
    return next(s for s in plan.steps if isinstance(s, LoopStep))


def test_no_step_copies_a_carry() -> None:
    args = (f32[2, 4], f32[4, 4], f32[5, 2, 4])
    plans = [
        graphc.compile(fn, *args).plan
        for fn in (
            lambda h, w, x: graphc.scan(lambda h, x: (h * 0.5 + x, None), h, x)[0],
            lambda h, w, x: graphc.scan(lambda h, x: (graphc.tanh(h @ w) + x, None), h, x)[0],
            lambda h, w, x: graphc.scan(cell(w), h, x)[1],
        )
    ]
    assert [loop_of(p).carries[0].kind for p in plans] == ["in place", "with", "stacked"]
    for plan in plans:
        assert len(loop_of(plan).body.steps) == 1


@pytest.mark.parametrize("length", [4, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_donated_carry_is_updated_in_its_memory(length: int, in_place: bool) -> None:
    w, x, h = normal(3, 3), normal(length, 2, 3), normal(2, 3)

    def f(h: object, w: object, x: object) -> object:
        return graphc.scan(lambda h, x: (h + x if in_place else graphc.tanh(h @ w + x), None), h, x)[0]

    compiled = graphc.compile(f, h, w, x, donate=["h"])
    want = graphc.compile(f, h, w, x, target="interpreter")(h, w, x)
    given = h.copy()
    assert compiled(given, w, x) is given
    np.testing.assert_allclose(given, want, rtol=1e-5, atol=1e-6)


def test_size_of_the_code_does_not_depend_on_the_length() -> None:
    def step(w: object, x: object) -> object:
        return (graphc.scan(cell(w), graphc.zeros((2, 8)), x)[1] ** 2).sum()

    short, long = (graphc.compile(graphc.grad(step), f32[8, 8], f32[n, 2, 8]) for n in (10, 1000))
    assert len(short.plan.kernels) == len(long.plan.kernels)
    assert len(long.llvm.splitlines()) < 1.5 * len(short.llvm.splitlines())


def test_a_loop_in_a_plan_is_verified() -> None:
    plan = graphc.compile(
        lambda h, w, x: graphc.scan(cell(w), h, x)[0], f32[2, 4], f32[4, 4], f32[5, 2, 4]
    ).plan
    loop = loop_of(plan)
    verify_plan(plan)
    assert "loop 5 in %" in str(plan) and "stacked" not in str(plan)
    wrong = {
        "expected f32[2,4], got f32[1,2,4]": replace(loop, xs=(replace(loop.xs[0], type=f32[5, 1, 2, 4]),)),
        "expected 6 slices": replace(loop, count=6),
        "expected a spare buffer": replace(loop, carries=(replace(loop.carries[0], spare=None),)),
        "in place of": replace(loop, carries=(replace(loop.carries[0], kind="in place"),)),
        "expected it in the slice of ys": replace(loop, carries=(replace(loop.carries[0], kind="stacked"),)),
        "expected 3 inputs for the plan inside, got 1 and 1 slices": replace(loop, carries=()),
    }
    for text, step in wrong.items():
        with pytest.raises(VerifyError, match=re.escape(text)):
            verify_plan(replace(plan, steps=tuple(step if s is loop else s for s in plan.steps)))


def test_checks_profile_and_pages_know_loops(tmp_path: object) -> None:
    def f(w: object, x: object) -> object:
        return graphc.scan(cell(w), graphc.zeros((2, 3)), x)[0].sum()

    w, x = normal(3, 3), normal(4, 2, 3)
    grad = graphc.grad(f)
    want = grad(w, x)
    for check in ("nan", "bounds", "stages"):
        np.testing.assert_allclose(graphc.compile(grad, w, x, check=check)(w, x), want)
    compiled = graphc.compile(grad, w, x)
    assert "loop" in [s.kernel for s in compiled.profile(w, x, seconds=0.01).steps]
    assert "loop" in compiled.memory.steps
    compiled.view(f"{tmp_path}/page.html", w, x)
    x[2, 0, 0] = np.nan
    with pytest.raises(graphc.errors.NonFiniteError):
        graphc.compile(f, w, x, check="nan")(w, x)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kind", "text", "fn"),
    [
        (TraceError, "scan: expected a body that gives (carry, y), got an array",
         lambda x: graphc.scan(lambda c, x: c, 0.0, x)),
        (DTypeError, "scan: carry: expected a body that keeps its type f32[], got f64[]",
         lambda x: graphc.scan(lambda c, x: (c.astype("f64"), x), 0.0, x)),
        (ShapeError, "scan: carry.h: expected a body that keeps its type f32[], got f32[2]",
         lambda x: graphc.scan(lambda c, x: ({"h": graphc.stack([x, x])}, x), {"h": 0.0}, x)),
        (ArgumentError, "scan: the body changes the carry's structure: carry: expected a tuple of 1, got Array",
         lambda x: graphc.scan(lambda c, x: (x, x), (0.0,), x)),
        (ArgumentError, "scan: expected a function, got int 3", lambda x: graphc.scan(3, 0.0, x)),
        (ShapeError, "scan: expected xs or a length, got neither", lambda x: graphc.scan(lambda c, x: (c, x), 0.0)),
        (ShapeError, "scan: xs.1: expected 4 slices along axis 0, got f32[3]",
         lambda x: graphc.scan(lambda c, x: (c, None), 0.0, (x, x[:3]))),
        (ShapeError, "scan: length: expected at least 0, got -1", lambda x: graphc.scan(lambda c, x: (c, x), x, None, -1)),
        (ShapeError, "cond: pred: expected a scalar, got f32[4]", lambda x: graphc.cond(x, lambda: x, lambda: x)),
        (ShapeError, "cond: output: expected branches that give equal types, got f32[4] where true and f32[3] where false",
         lambda x: graphc.cond(x[0] > 0, lambda x: x, lambda x: x[:3], x)),
        (ShapeError, "cond: expected branches that give equal structures, got a tuple of 1 where true and an array where "
         "false", lambda x: graphc.cond(x[0] > 0, lambda x: (x,), lambda x: x, x)),
        (DTypeError, "while_loop: expected a condition that gives bool[], got f32[4]",
         lambda x: graphc.while_loop(lambda x: x, lambda x: x, x)),
        (TraceError, "while_loop: expected no reverse derivative through a loop of unknown length; use graphc.scan",
         graphc.grad(lambda x: graphc.while_loop(lambda x: x.sum() < 3, lambda x: x * 2, x).sum())),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_what_was_expected(
    kind: type[GraphcError], text: str, fn: Callable[..., object]
) -> None:
    with pytest.raises(kind) as caught:
        graphc.trace(fn, f32[4])
    assert re.match(rf".*test_scan\.py:\d+: {re.escape(text)}", str(caught.value))


def test_the_verifier_refuses_a_scan_that_is_none() -> None:
    text = """graphc 1
    graph @f(%x: f32[4], %c: f32[]) -> (f32[]) {
      %a = scan %c, %x {captures=0, carries=1, length=LENGTH, reverse=false} : f32[] region(%a: f32[], %x: TYPE) {
        return %x
      }
      return %a
    }"""
    for length, type, wanted in (
        ("5", "f32[]", "xs 0: expected 5 slices along axis 0, got f32[4]"),
        ("4", "i32[]", "body: expected inputs [f32[], f32[]], got [f32[], i32[]]"),
    ):
        with pytest.raises(GraphcError, match=re.escape(wanted)):
            parse(text.replace("LENGTH", length).replace("TYPE", type))
