"""The memory plan: donation and its fallback, updates in place, outputs of every kind, and the rules that it must obey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from graphc.codegen.memory import make_plan
from graphc.codegen.target import host_target, target_from_name
from graphc.compiler import compile as compile_graph
from graphc.errors import CompileError, VerifyError
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.plan import CallStep, CopyStep, Plan, PlanBuffer, run_plan, verify_plan
from graphc.ir.types import f32
from graphc.passes.fuse import fuse

Donated = Sequence[tuple[int, int]]


def planned(graph: Graph, donated: Donated = ()) -> Plan:
    """The verified plan; executed by the kernel interpreter it gives what the graph gives."""
    plan = make_plan(fuse(graph), host_target(), donated)
    verify_plan(plan)
    rng = np.random.default_rng(2)
    arrays = [rng.uniform(-1, 1, t.shape).astype(t.dtype.numpy) for t in graph.input_types]
    positions = sorted(b.position for b in plan.of_kind("output"))
    want = interpret(graph, arrays)
    for position, got in zip(positions, run_plan(plan, arrays), strict=True):
        np.testing.assert_allclose(got, want[position], rtol=2e-5, atol=2e-6)
    return plan


def matmul(build: Builder, a: object, b: object) -> object:
    return build.contract(a, b, axes=((1,), (0,)), batch=((), ()))  # type: ignore[arg-type]


def chain(length: int) -> Graph:
    build = Builder()
    x = build.input(f32[9, 9], "x")
    y = x
    for _ in range(length):
        y = matmul(build, y, x)  # type: ignore[assignment]
    return build.graph("chain", [y])


def test_arena_of_a_chain_holds_two_values_whatever_its_length() -> None:
    sizes = {n: planned(chain(n)).workspace_bytes for n in (1, 2, 4, 9)}
    block = -(-9 * 9 * 4 // 64) * 64
    assert sizes == {1: 0, 2: block, 4: 2 * block, 9: 2 * block}


def test_offsets_are_aligned_and_equal_kernels_are_one() -> None:
    plan = planned(chain(6))
    assert [b.root.offset % 64 for b in plan.of_kind("arena")] == [0] * 5
    assert len(plan.kernels) < len(plan.steps) == 6


def test_donated_input_is_overwritten_by_the_kernel_that_reads_it_last() -> None:
    build = Builder()
    p, g = build.input(f32[5], "p"), build.input(f32[5], "g")
    plan = planned(build.graph("update", [build.sub(p, g)]), [(0, 0)])
    (output,) = plan.of_kind("output")
    assert output.in_place_of is plan.of_kind("input")[0]
    assert all(isinstance(step, CallStep) for step in plan.steps)


def test_donation_falls_back_to_a_copy_where_the_input_is_read_at_other_places() -> None:
    build = Builder()
    x = build.input(f32[4, 4], "x")
    plan = planned(build.graph("square", [matmul(build, x, x)]), [(0, 0)])  # type: ignore[list-item]
    call, copy = plan.steps
    assert isinstance(call, CallStep) and isinstance(copy, CopyStep)
    assert copy.source.kind == "arena" and copy.target.in_place_of is plan.of_kind("input")[0]


def test_donation_falls_back_to_a_copy_where_a_later_kernel_reads_the_old_value() -> None:
    build = Builder()
    x, w = build.input(f32[4, 4], "x"), build.input(f32[4, 4], "w")
    new = build.tanh(matmul(build, w, w))
    later = matmul(build, new, x)
    graph = build.graph("late", [new, later])  # type: ignore[list-item]
    plan = planned(graph, [(0, 0)])
    assert isinstance(plan.steps[-1], CopyStep)
    arrays = [np.eye(4, dtype=np.float32) * 2, np.eye(4, dtype=np.float32)]
    run = compile_graph(graph, donate=("x",))
    first, second = run(*arrays)  # type: ignore[misc]
    assert first is arrays[0]
    np.testing.assert_allclose(np.diag(first), np.tanh(1), rtol=1e-6)
    np.testing.assert_allclose(np.diag(second), 2 * np.tanh(1), rtol=1e-6)


def test_outputs_may_be_inputs_constants_and_twice_the_same_value() -> None:
    build = Builder()
    x = build.input(f32[3], "x")
    table = build.constant(np.float32([1, 2, 4]), f32[3])
    y = build.exp(x)
    graph = build.graph("many", [x, y, y, table, build.splat(7, f32[3])])
    plan = planned(graph)
    copies = [s for s in plan.steps if isinstance(s, CopyStep)]
    assert sorted(s.target.position for s in copies) == [0, 2, 3]
    got = compile_graph(graph)(np.float32([0, 1, 2]))
    assert [g.tolist() for g in got[:1]] == [[0, 1, 2]]  # type: ignore[index]
    np.testing.assert_array_equal(got[1], got[2])  # type: ignore[index]
    assert got[3].tolist() == [1, 2, 4] and got[4].tolist() == [7, 7, 7]  # type: ignore[index]


def test_types_of_a_donated_pair_must_be_equal_and_the_graph_fused() -> None:
    build = Builder()
    x = build.input(f32[4, 3], "x")
    graph = build.graph("sum", [build.reduce_sum(x, axes=(0,))])
    with pytest.raises(CompileError, match=r"input %x is donated to output 0: expected equal types"):
        make_plan(fuse(graph), host_target(), [(0, 0)])
    with pytest.raises(CompileError, match="expected a fused graph"):
        make_plan(graph, host_target())


# --------------------------------------------------------------------------------------------------- broken plans


def buffer(name: str, kind: str, offset: int = -1, first: int = -1, last: int = 9) -> PlanBuffer:
    return PlanBuffer(name, f32[4], kind, 0, offset, first, last)  # type: ignore[arg-type]


X, Y = buffer("x", "input"), buffer("y", "output")
A, B = buffer("a", "arena", 0, 0, 2), buffer("b", "arena", 0, 1, 2)
OVER = replace(buffer("over", "output"), in_place_of=X)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan("p", (X, A, Y), (CopyStep(A, Y),), 64), "step 0 reads %a before it is written"),
        (Plan("p", (X, Y), (CopyStep(X, Y), CopyStep(X, Y)), 0), "step 1 writes %y a second time"),
        (Plan("p", (X, Y), (CopyStep(X, Y), CopyStep(Y, X)), 0), "step 1 writes %x"),
        (Plan("p", (X, Y), (), 0), "output %y is never written"),
        (
            Plan("p", (X, OVER, Y), (CopyStep(X, OVER), CopyStep(X, Y)), 0),
            "reads %x after it was overwritten in place",
        ),
        (
            Plan("p", (X, A, Y), (CopyStep(X, A), CopyStep(A, Y)), 8),
            "%a: expected an aligned place within 8 bytes",
        ),
        (
            Plan("p", (X, replace(A, offset=4), Y), (CopyStep(X, Y),), 64),
            "%a: expected an aligned place within 64 bytes, got 4..20",
        ),
        (
            Plan("p", (X, A, B, Y), (CopyStep(X, A), CopyStep(X, B), CopyStep(A, Y)), 64),
            "%a and %b are alive at the same time at the same place",
        ),
    ],
)
def test_broken_plan_is_refused(plan: Plan, text: str) -> None:
    with pytest.raises(VerifyError) as caught:
        verify_plan(plan)
    assert text in str(caught.value)
    assert "plan @p workspace" in str(caught.value)  # with its text


def test_plan_prints_places_lifetimes_and_steps() -> None:
    text = str(planned(chain(3)))
    assert "input %x: f32[9,9] arg 0" in text
    assert "steps 0..1" in text and "call @contract" in text


@pytest.mark.parametrize(("width", "in_place"), [(16, True), (14, False), (32, True), (1000, True)])
def test_short_rows_that_do_not_fill_their_vectors_are_not_updated_in_place(
    width: int, in_place: bool
) -> None:
    """A row's load would wait for the masked store of the row before."""
    build = Builder()
    x, y = build.input(f32[4, 9], "x"), build.input(f32[4, 9], "y")
    v, w = build.input(f32[9, width], "v"), build.input(f32[9, width], "w")
    first = build.tanh(matmul(build, x, v))  # type: ignore[arg-type]
    second = build.add(matmul(build, y, w), first)  # type: ignore[arg-type]
    graph = build.graph("rows", [matmul(build, second, build.transpose(w, perm=(1, 0)))])  # type: ignore[list-item]
    plan = make_plan(fuse(graph), target_from_name("x86-64-v4"))
    verify_plan(plan)
    assert any(b.in_place_of is not None for b in plan.of_kind("arena")) == in_place
