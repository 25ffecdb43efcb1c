"""Pipelines as text, what their errors say, and the loop that runs, times and verifies passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.config import config
from graphc.errors import ArgumentError, VerifyError
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.loc import Loc
from graphc.ir.parser import parse
from graphc.ir.types import f32
from graphc.passes.manager import (
    PASSES,
    Fuse,
    Pass,
    PassRun,
    Simplify,
    Unfuse,
    Verify,
    Vjp,
    format_pipeline,
    parse_pipeline,
    run_pipeline,
)


@pytest.fixture
def square() -> Graph:
    """sum((x * 1)^2), with a line of the user's file."""
    build = Builder()
    x = build.input(f32[3], "x")
    build.loc = Loc("model.py", 4)
    y = build.mul(x, build.splat(1, x.type))
    return build.graph("square", [build.reduce_sum(build.mul(y, y), axes=(0,))])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", ()),
        ("  ", ()),
        ("simplify", (Simplify(),)),
        ("simplify{}", (Simplify(),)),
        ("simplify,fuse , unfuse,verify", (Simplify(), Fuse(), Unfuse(), Verify())),
        ("vjp{wrt=w1}", (Vjp(wrt=("w1",)),)),
        ("vjp{wrt=[w1, layers.0.weight], seeds=false}", (Vjp(wrt=("w1", "layers.0.weight"), seeds=False),)),
        ('vjp{wrt="a, b"}', (Vjp(wrt=("a, b",)),)),
        ("vjp{seeds}", (Vjp(seeds=True),)),
        ("vjp{wrt=[]}", (Vjp(wrt=()),)),
    ],
)
def test_text_of_a_pipeline_gives_its_passes_and_back(text: str, passes: tuple[Pass, ...]) -> None:
    assert parse_pipeline(text) == passes
    assert parse_pipeline(format_pipeline(passes)) == passes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "simplfy",
            "pipeline: expected a pass of simplify, vjp, jvp, mixed, inline, remat, fuse, unfuse, verify, "
            "got 'simplfy' (did you mean 'simplify'?)",
        ),
        ("mixed{dtype=[f16,bf16]}", "pipeline: mixed: dtype: expected one word, got [f16,bf16]"),
        ("vjp{wtr=x}", "pipeline: vjp: expected an option of wrt, seeds, got 'wtr' (did you mean 'wrt'?)"),
        ("fuse{all}", "pipeline: fuse: expected no option, got 'all'"),
        ("vjp{seeds=maybe}", "pipeline: vjp: seeds: expected true or false, got 'maybe'"),
        ("vjp{seeds=[true]}", "pipeline: vjp: seeds: expected true or false, got [true]"),
        ("vjp{seeds,seeds=false}", "pipeline: vjp: expected seeds once, got it twice"),
        ("simplify,", "pipeline 'simplify,': expected the name of a pass, got the end"),
        ("simplify fuse", "pipeline 'simplify fuse': expected a comma, got 'fuse'"),
        ("vjp{wrt=", "pipeline 'vjp{wrt=': expected a value of wrt, got the end"),
        ("vjp{wrt=[a", "pipeline 'vjp{wrt=[a': expected a comma or ], got the end"),
        ("vjp{wrt=a", "pipeline 'vjp{wrt=a': expected a comma or }, got the end"),
        ('vjp{wrt="a}', "pipeline 'vjp{wrt=\"a}': expected a value of wrt, got '\"a}'"),
        ("}", "pipeline '}': expected the name of a pass, got '}'"),
    ],
)
def test_what_is_wrong_in_a_pipeline_is_said(text: str, error: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_pipeline(text)
    assert str(caught.value) == error


@given(st.text(alphabet='vjpwrt={}[],"sd \t\\', max_size=20))
def test_any_text_is_a_pipeline_or_an_argument_error(text: str) -> None:
    try:
        passes = parse_pipeline(text)
    except ArgumentError:
        return
    assert parse_pipeline(format_pipeline(passes)) == passes


names = st.lists(st.text(alphabet="aw1._ -=,{}", min_size=1, max_size=5), max_size=3).map(tuple)


@given(st.lists(st.one_of(st.builds(Vjp, st.none() | names, st.booleans()), st.just(Simplify())), max_size=4))
def test_any_passes_survive_their_text(passes: list[Pass]) -> None:
    assert list(parse_pipeline(format_pipeline(passes))) == passes


def test_a_pass_is_found_by_its_name_and_says_what_it_does() -> None:
    for name, pass_type in PASSES.items():
        assert pass_type.name == name
        assert pass_type.__doc__ and pass_type.__doc__.endswith((".", ".\n    "))
        assert parse_pipeline(name) == (pass_type(),)


def test_passes_run_in_order_and_each_is_reported(square: Graph) -> None:
    runs: list[PassRun] = []
    passes = parse_pipeline("vjp{wrt=x,seeds=false},simplify,verify")
    result = run_pipeline(square, passes, verify_each=True, on_stage=runs.append)
    assert [run.position for run in runs] == [1, 2, 3]
    assert [run.pass_ for run in runs] == list(passes)
    assert runs[0].before is square and runs[1].before is runs[0].graph and runs[2].graph is result
    assert result.stage == "differentiated" and result.output_names == ("", "d_x")
    assert len(runs[1].graph.nodes) < len(runs[1].before.nodes)
    assert all(run.seconds >= 0 for run in runs)
    assert "simplify" in str(runs[1]) and f"{len(result.nodes)} nodes" in str(runs[1])


def test_fuse_then_unfuse_gives_the_graph_back(square: Graph) -> None:
    build = Builder()
    (loss,) = build.inline(square, [build.tanh(build.input(f32[3], "x"))])
    plain = run_pipeline(build.graph("loss", [loss]), parse_pipeline("vjp{seeds=false},simplify"))
    assert any("diagonal" in n.attrs for n in plain.nodes)
    fused = run_pipeline(plain, parse_pipeline("fuse"), verify_each=True)
    assert fused.stage == "fused"
    assert run_pipeline(fused, parse_pipeline("unfuse"), verify_each=True) == plain


@dataclass(frozen=True)
class Breaks(Pass):
    """Gives a graph whose last node claims a wrong type."""

    name: ClassVar[str] = "breaks"

    def __call__(self, graph: Graph) -> Graph:
        node = graph.outputs[0].node
        bad = Node(node.op, node.operands, node.attrs, (), (f32[7],), node.loc, node.serial)
        return graph.with_outputs([Value(bad)])


def test_the_pass_that_breaks_a_graph_is_named_with_the_users_line(square: Graph) -> None:
    with pytest.raises(
        VerifyError, match=r"after pass 2, breaks: model\.py:4: reduce_sum: expected "
    ) as caught:
        run_pipeline(square, [Simplify(), Breaks()], verify_each=True)
    assert isinstance(caught.value.__cause__, VerifyError)
    assert run_pipeline(square, [Simplify(), Breaks()], verify_each=False).outputs


def test_the_first_graph_is_verified_too(square: Graph) -> None:
    with pytest.raises(VerifyError):
        run_pipeline(Breaks()(square), [], verify_each=True)


def test_the_environment_turns_checks_and_lines_on(
    square: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(square, [Simplify()])
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GRAPHC_DEBUG", "2")
    monkeypatch.setenv("GRAPHC_VERIFY", "2")
    config.cache_clear()
    run_pipeline(square, [Simplify()])
    err = capsys.readouterr().err
    assert err.startswith("graphc: 01 simplify") and "4 ->      2 nodes" in err
    with pytest.raises(VerifyError, match="after pass 1, breaks"):
        run_pipeline(square, [Breaks()])


def test_a_pipeline_without_passes_gives_the_graph_itself() -> None:
    graph = parse("graphc 1 graph @f(%x: f32[2]) -> (f32[2]) { return %x }")
    assert run_pipeline(graph, ()) is graph
