"""Shrinking graphs: what is left shows the fault, is valid, and has no node too many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import graphc
from graphc.cli import main
from graphc.ir.files import load_graph, save_graph
from graphc.ir.graph import Graph
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify
from graphc.shrink import shrink


def network() -> Graph:
    def loss(w1: graphc.Array, w2: graphc.Array, x: graphc.Array) -> graphc.Array:
        return (graphc.log(1 + graphc.exp(graphc.tanh(x @ w1) @ w2)) ** 2).mean()

    return graphc.trace(
        graphc.value_and_grad(loss, wrt=(0, 1)), graphc.f32[4, 8], graphc.f32[8, 2], graphc.f32[3, 4]
    )


def ops_of(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def test_one_op_is_left_where_one_op_is_at_fault() -> None:
    small = shrink(network(), lambda g: "tanh" in ops_of(g))
    verify(small)
    assert ops_of(small) == ["tanh"]
    assert small.input_types == (graphc.f32[3, 8],)


def test_a_pair_far_apart_is_kept_and_what_is_between_goes() -> None:
    small = shrink(network(), lambda g: {"exp", "log"} <= set(ops_of(g)) and ops_of(g).count("contract") >= 2)
    verify(small)
    assert sorted(ops_of(small)) == ["contract", "contract", "exp", "log"]


def test_fused_regions_are_taken_apart_where_the_fault_is_in_one_of_their_ops() -> None:
    fused = fuse(simplify(network()))

    def has_tanh(g: Graph) -> bool:
        return "tanh" in ops_of(g) or any("tanh" in ops_of(r) for n in g.nodes for r in n.regions)

    assert ops_of(shrink(fused, has_tanh)) == ["tanh"]


def test_every_candidate_is_a_valid_graph() -> None:
    def sees(g: Graph) -> bool:
        verify(g)
        return len(g.nodes) % 3 == 0

    small = shrink(network(), lambda g: verify(g) is None and ops_of(g).count("mul") >= 3)
    assert ops_of(small) == ["mul"] * 3
    shrink(network(), sees)


def test_the_command_writes_a_small_graph_and_says_how_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = network()
    save_graph(graph, tmp_path / "step.gir")
    test = f"{sys.executable} -c \"import sys; sys.exit(' log ' not in open(sys.argv[1]).read())\""
    assert main(["reduce", str(tmp_path / "step.gir"), "--test", test]) == 0
    out, progress = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'step.reduced.gir'}: 1 of {len(graph.nodes)} nodes, ")
    assert "     1 nodes, 1 outputs after" in progress
    assert ops_of(load_graph(tmp_path / "step.reduced.gir")) == ["log"]


def test_a_test_that_fails_on_the_whole_graph_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_graph(network(), tmp_path / "step.gir")
    assert main(["reduce", str(tmp_path / "step.gir"), "--test", "false #"]) == 1
    assert "reduce: expected the test to succeed on" in capsys.readouterr().err
    assert not (tmp_path / "step.reduced.gir").exists()
