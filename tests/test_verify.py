"""The verifier: each rule of GRAPH broken once, by hand, and the error shows where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from graphc.errors import VerifyError
from graphc.ir.graph import Attr, Builder, Dense, Graph, Node, Value
from graphc.ir.loc import UNKNOWN, Loc
from graphc.ir.opdef import OpDef
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse
from graphc.ir.types import TensorType, f32, f64, i32
from graphc.ir.verify import verify
from graphc.passes.vjp import vjp


def node(
    op: OpDef | str,
    operands: tuple[Value, ...],
    types: tuple[TensorType, ...],
    attrs: Mapping[str, Attr] | None = None,
    regions: tuple[Graph, ...] = (),
    serial: int = 1000,
    loc: Loc = UNKNOWN,
) -> Node:
    """A node past the builder and its checks."""
    found = REGISTRY[op] if isinstance(op, str) else op
    return Node(found, operands, MappingProxyType(dict(attrs or {})), regions, types, loc, serial)


def error_of(graph: Graph) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    return str(caught.value)


def first_line(graph: Graph) -> str:
    return error_of(graph).splitlines()[0]


def inputs(*types: TensorType) -> tuple[Builder, list[Value]]:
    build = Builder()
    return build, [build.input(t, f"x{i}") for i, t in enumerate(types)]


def test_good_graphs_of_each_stage_pass() -> None:
    build, (x, w) = inputs(f32[4, 3], f32[5, 3])
    traced = build.graph(
        "f", [build.reduce_sum(build.tanh(build.contract(x, w, axes=((1,), (1,)))), axes=(0, 1))]
    )
    verify(traced)
    verify(vjp(traced))
    verify(vjp(vjp(traced)))
    verify(
        parse(
            """graphc 1
            graph @f(%x: f32[4]) -> (f32[4]) stage fused {
              %0 = fused %x {kind="map"} : f32[4] region(%a: f32[4]) {
                %b = mul %a, %a {diagonal} : f32[4]
                return %b
              }
              return %0
            }"""
        )
    )


def test_an_input_may_be_an_output_and_may_be_unused() -> None:
    build, (x, _) = inputs(f32[2], f32[3])
    verify(build.graph("f", [x, x]))
    verify(Builder().graph("empty", []))


def test_error_shows_the_users_line_and_ten_lines_of_ir_with_the_culprit_marked(tmp_path: Path) -> None:
    script = tmp_path / "digits.py"
    script.write_text("import graphc\n\nhidden = layer(x)  # the culprit\n")
    build, (value,) = inputs(f32[4])
    chain = [value]
    for _ in range(12):
        chain.append(build.exp(chain[-1]))
    bad = node("tanh", (chain[6],), (f64[4],), serial=500, loc=Loc(str(script), 3, "layers.0"))
    late = node("exp", (Value(bad),), (f64[4],), serial=501)
    lines = error_of(build.graph("f", [Value(late)])).splitlines()
    assert lines[0] == f"{script}:3: tanh: expected type f32[4], got f64[4]"
    assert lines[1] == f"  {script}:3:  hidden = layer(x)  # the culprit"
    shown = lines[2:]
    assert len(shown) == 10
    assert [line for line in shown if line.startswith("  > ")] == [
        next(line for line in shown if "tanh" in line)
    ]
    assert shown[-1] == "    }"
    assert "  >   %6 = tanh %5 : f64[4]" in shown[-4]


def test_error_in_a_graph_too_broken_to_print_still_marks_the_culprit() -> None:
    build, (x,) = inputs(f32[4])
    y = build.exp(x)
    bad = node("tanh", (Value(y.node, 3),), (f32[4],))
    text = error_of(build.graph("f", [Value(bad)]))
    assert "tanh: operand 0: expected one of 1 results, got result 3\n" in text
    assert "  >   <tanh #1000: f32[4]>" in text


def foreign_input() -> Graph:
    build, (x,) = inputs(f32[2])
    stranger = Builder().input(f32[2], "stranger")
    return build.graph("f", [build.add(x, stranger)])


def foreign_output() -> Graph:
    return Graph("f", (), (Builder().input(f32[2], "stranger"),))


def used_before_definition() -> Graph:
    build, (x,) = inputs(f32[2])
    late = node("exp", (x,), (f32[2],), serial=50)
    return build.graph("f", [Value(node("tanh", (Value(late),), (f32[2],), serial=40))])


def mixed_builders() -> Graph:
    build, (x,) = inputs(f32[2])
    a = build.exp(x)
    return build.graph("f", [a, Value(node("tanh", (x,), (f32[2],), serial=a.node.serial))])


def duplicate_input_names() -> Graph:
    build = Builder()
    return build.graph("f", [build.add(build.input(f32[2], "x"), build.input(f32[2], "x"))])


def duplicate_output_names() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [x, build.exp(x)], output_names=["y", "y"])


def the_same_input_twice() -> Graph:
    _, (x,) = inputs(f32[2])
    unnamed = replace(x.node, name="")
    return Graph("f", (Value(unnamed), Value(unnamed)), ())


def operation_as_input() -> Graph:
    build, (x,) = inputs(f32[2])
    return Graph("f", (build.exp(x),), ())


def missing_result_as_output() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [Value(build.exp(x).node, 1)])


def unregistered_op() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [Value(node(replace(REGISTRY["exp"], name="expp"), (x,), (f32[2],)))])


def wrong_arity() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [Value(node("add", (x,), (f32[2],)))])


def wrong_operand_types() -> Graph:
    build, (x, y) = inputs(f32[2], f32[3])
    return build.graph("f", [Value(node("add", (x, y), (f32[2],)))])


def missing_attribute() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [Value(node("reduce_sum", (x,), (f32[()],)))])


def numpy_attribute() -> Graph:
    build, (x,) = inputs(f32[2])
    attrs: dict[str, Attr] = {"low": (0,), "high": (0,), "interior": (0,), "value": np.float64(1.5)}
    return build.graph("f", [Value(node("pad", (x,), (f32[2],), attrs))])


def misspelt_attribute() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [build.reduce_sum(x, axes=(0,), keepdims=True)])


def unrounded_constant() -> Graph:
    build, _ = inputs()
    return build.graph("f", [Value(node("const", (), (f32[2],), {"value": 0.1, "type": f32[2]}))])


def integer_constant_of_floats() -> Graph:
    build, _ = inputs()
    return build.graph("f", [Value(node("const", (), (f32[2],), {"value": 1, "type": f32[2]}))])


def other_type_attribute() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [Value(node("cast", (x,), (f64[2],), {"type": i32[2]}))])


def constant_of_another_shape() -> Graph:
    build, _ = inputs()
    attrs: dict[str, Attr] = {"value": Dense(np.zeros(3, np.float32)), "type": f32[2]}
    return build.graph("f", [Value(node("const", (), (f32[2],), attrs))])


def diagonal_on_add() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [build.add(x, x, diagonal=True)], "differentiated")


def diagonal_in_traced() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [build.mul(x, x, diagonal=True)])


def diagonal_that_is_no_flag() -> Graph:
    build, (x,) = inputs(f32[2])
    return build.graph("f", [build.mul(x, x, diagonal=2)], "differentiated")


def region_of(
    make: Callable[[Builder, Value], Value], x: Value, build: Builder, stage: str = "fused"
) -> Graph:
    inner = Builder()
    region = inner.graph("map", [make(inner, inner.input(f32[2], "a"))])
    fused = build.emit(REGISTRY["fused"], [x], {"kind": "map"}, [region])
    return build.graph("f", fused.results, stage)


def fused_in_differentiated() -> Graph:
    build, (x,) = inputs(f32[2])
    return region_of(lambda inner, a: inner.exp(a), x, build, "differentiated")


def fused_within_fused() -> Graph:
    build, (x,) = inputs(f32[2])

    def nested(inner: Builder, a: Value) -> Value:
        innermost = Builder()
        region = innermost.graph("map", [innermost.exp(innermost.input(f32[2], "b"))])
        return Value(inner.emit(REGISTRY["fused"], [a], {"kind": "map"}, [region]))

    return region_of(nested, x, build)


def region_that_reads_outside() -> Graph:
    build, (x,) = inputs(f32[2])
    region = Graph("map", (Builder().input(f32[2], "a"),), (build.exp(x),))
    return build.graph("f", [Value(node("fused", (x,), (f32[2],), {"kind": "map"}, (region,)))], "fused")


def region_that_shares_a_constant() -> Graph:
    build, (x,) = inputs(f32[2])
    one = build.splat(1, f32[2])
    region = Graph("map", (Builder().input(f32[2], "a"),), (one,))
    fused = node("fused", (x,), (f32[2],), {"kind": "map"}, (region,))
    return build.graph("f", [Value(fused), one], "fused")


def region_with_a_wrong_type() -> Graph:
    build, (x,) = inputs(f32[2])
    return region_of(
        lambda inner, a: Value(node("exp", (a,), (f32[2],), {"axes": 1.0, "bad name": 1})), x, build
    )


def region_on_a_plain_op() -> Graph:
    build, (x,) = inputs(f32[2])
    inner = Builder()
    region = inner.graph("map", [inner.input(f32[2], "a")])
    return build.graph("f", [Value(node("exp", (x,), (f32[2],), regions=(region,)))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_input, "input: expected inputs of this graph, got %stranger from elsewhere"),
        (foreign_output, "input: expected inputs of this graph, got %stranger from elsewhere"),
        (used_before_definition, "tanh: operand 0: expected a value defined above, got a later exp"),
        (mixed_builders, "expected nodes of one builder, got serial 2 a second time"),
        (duplicate_input_names, "graph @f: expected input names once each, got %x a second time"),
        (duplicate_output_names, "graph @f: expected output names once each, got %y a second time"),
        (the_same_input_twice, "graph @f: expected each input once, got one a second time"),
        (operation_as_input, "graph @f: expected inputs only in the header, got a result of exp"),
        (missing_result_as_output, "graph @f: output 0: expected one of 1 results, got result 1"),
        (unregistered_op, "expp: expected a registered op, got expp"),
        (wrong_arity, "add: expected 2 operands, got 1"),
        (wrong_operand_types, "add: expected equal shapes, got f32[2], f32[3]"),
        (missing_attribute, "reduce_sum: expected other attributes, got {}: KeyError('axes')"),
        (
            numpy_attribute,
            "pad: value: expected a plain bool, int, float, str, type or tuple, got np.float64(1.5)",
        ),
        (misspelt_attribute, "reduce_sum: expected attributes of axes, got keepdims"),
        (unrounded_constant, "const: expected a number of f32, got 0.1"),
        (integer_constant_of_floats, "const: expected a number of f32, got 1"),
        (other_type_attribute, "cast: expected the type attribute f64[2], got i32[2]"),
        (constant_of_another_shape, "const: expected a constant of f32[2], got float32[3]"),
        (diagonal_on_add, "add: expected diagonal on mul or select only, got it on add"),
        (
            diagonal_in_traced,
            "mul: expected no diagonal marker before differentiation, got one in stage traced",
        ),
        (diagonal_that_is_no_flag, "mul: diagonal: expected a flag, got 2"),
        (
            fused_in_differentiated,
            "fused: expected fused nodes in stage fused only, got stage differentiated",
        ),
        (
            fused_within_fused,
            "fused: in the region of fused #0: expected a region without fused nodes, got one",
        ),
        (
            region_that_reads_outside,
            "in the region of fused #0: expected a region's own values, got one of the graph",
        ),
        (region_that_shares_a_constant, "in the region of fused #1: expected a region's own values"),
        (
            region_with_a_wrong_type,
            "exp: in the region of fused #0: expected an attribute's name, got 'bad name'",
        ),
        (region_on_a_plain_op, "exp: expected no region, got 1"),
    ],
)
def test_each_broken_rule_is_named(make: Callable[[], Graph], message: str) -> None:
    assert message in first_line(make())


@pytest.mark.parametrize(
    ("make", "marked"), [(duplicate_input_names, "graph @f(%x"), (duplicate_output_names, "return")]
)
def test_errors_of_the_header_and_the_return_mark_that_line(make: Callable[[], Graph], marked: str) -> None:
    (line,) = [line for line in error_of(make()).splitlines() if line.startswith("  > ")]
    assert marked in line


def test_errors_in_a_region_show_the_region() -> None:
    lines = error_of(fused_within_fused()).splitlines()
    assert "    graph @map(%a: f32[2]) -> (f32[2]) {" in lines
    assert any(line.startswith('  >   %0 = fused %a {kind="map"} : f32[2] region(') for line in lines)


def test_marked_line_is_right_after_nodes_with_regions() -> None:
    build, (x,) = inputs(f32[2])
    fused = region_of(lambda inner, a: inner.tanh(inner.exp(a)), x, build).outputs[0]
    bad = node("exp", (fused,), (f64[2],))
    (line,) = [
        line
        for line in error_of(build.graph("f", [Value(bad)], "fused")).splitlines()
        if line.startswith("  > ")
    ]
    assert line.split("  #")[0].strip() == "> %1 = exp %0 : f64[2]".replace("> ", ">   ")


def test_a_large_graph_is_verified_quickly() -> None:
    build, (x,) = inputs(f32[8])
    value = x
    for _ in range(5000):
        value = build.add(build.tanh(value), x)
    verify(build.graph("deep", [value]))
