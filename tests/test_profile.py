"""Profiles: what is counted, that times add up, and that the profiled program computes the same."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.codegen.target import host_target, target_from_name
from graphc.codegen.timed import emit_timed
from graphc.compiler import CompiledFunction
from graphc.errors import ArgumentError, ShapeError, TargetError
from graphc.ir.cost import bytes_moved, contraction_sizes, operations
from graphc.profile import Profile

X, W = np.ones((64, 48), np.float32), np.full((48, 80), 0.01, np.float32)


def layer(x: graphc.Array, w: graphc.Array) -> graphc.Array:
    return nn.softmax(graphc.tanh(x @ w))


@pytest.fixture(scope="module")
def compiled() -> CompiledFunction:
    return graphc.compile(layer, X, W)


@pytest.fixture(scope="module")
def profile(compiled: CompiledFunction) -> Profile:
    return compiled.profile(X, W, seconds=0.02)


def test_every_step_of_the_plan_has_its_time_line_and_counts(
    compiled: CompiledFunction, profile: Profile
) -> None:
    assert [s.kernel for s in profile.steps] == [s.kernel.name for s in compiled.plan.steps]
    product = profile.steps[0]
    assert product.operations == 2 * 64 * 48 * 80 + 64 * 80  # and a tanh of each element
    assert product.bytes == 4 * (64 * 48 + 48 * 80 + 64 * 80)
    assert product.loc.line == layer.__code__.co_firstlineno + 1
    assert product.what == "product 64x80x48, 1 pointwise"


def test_times_add_up_and_spread_around_their_middle(profile: Profile) -> None:
    assert sum(s.percent for s in profile.steps) == pytest.approx(100)
    for s in profile.steps:
        assert 0 <= s.low <= s.seconds <= s.high
        assert s.percent_of_peak == pytest.approx(100 * s.operations / s.seconds / profile.peaks.operations)
        assert s.bound == ("compute" if s.percent_of_peak >= s.percent_of_bandwidth else "memory")
    assert profile.runs > 5


def test_the_table_the_json_and_the_trace_show_the_same_steps(profile: Profile) -> None:
    lines = str(profile).splitlines()
    assert lines[0].startswith(f"@layer: {len(profile.steps)} kernels, ")
    assert [line.split()[0] for line in lines[2:]] == [s.kernel for s in profile.steps]
    data = json.loads(profile.to_json())
    assert [(s["kernel"], s["seconds"]) for s in data["steps"]] == [
        (s.kernel, s.seconds) for s in profile.steps
    ]
    events = [e for e in json.loads(profile.to_trace())["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in events] == [s.kernel for s in profile.steps]
    for before, after in pairwise(events):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])


def test_profiling_leaves_the_arguments_as_they_are_and_checks_them() -> None:
    step = graphc.compile(lambda w, x: w - 0.1 * x, W, W, donate=["w"])
    w = W.copy()
    step.profile(w, W, seconds=0.01)
    np.testing.assert_array_equal(w, W)
    with pytest.raises(ShapeError, match="x: expected float32"):
        step.profile(w, X, seconds=0.01)


def test_the_ordinary_program_reads_no_clock(compiled: CompiledFunction) -> None:
    assert "counter" not in compiled.llvm
    assert emit_timed(compiled.plan, host_target()).count("counter()") == len(compiled.plan.steps) + 3


def test_a_target_without_a_clock_is_refused(compiled: CompiledFunction) -> None:
    with pytest.raises(
        TargetError, match="profile: expected a target with a clock that programs may read, got cortex-m7"
    ):
        emit_timed(compiled.plan, target_from_name("cortex-m7"))
    with pytest.raises(ArgumentError, match="interpreted"):
        graphc.compile(layer, X, W, target="interpreter").profile(X, W)


def test_costs_are_those_of_the_mathematics() -> None:
    graph = graphc.trace(layer, X, W)
    (product,) = [n for n in graph.nodes if n.op.name == "contract"]
    assert contraction_sizes(product) == (1, 64, 80, 48)
    assert bytes_moved(graph) == 4 * (64 * 48 + 48 * 80 + 64 * 80)
    fused = graphc.compile(layer, X, W).fused
    assert operations(fused) == operations(graphc.compile(layer, X, W).stages["simplified"])
