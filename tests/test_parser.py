"""The text of GRAPH: what is printed is read back, and what can't be read says where and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphc.errors import ArtifactError, ParseError, VerifyError
from graphc.ir.files import load_graph, save_graph
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.loc import Loc
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse, parse_all
from graphc.ir.types import bool_, f32, f64, i32, u8
from graphc.ir.verify import verify

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

MLP = """graphc 1
graph @mlp(%x: f32[32,64], %w1: f32[128,64], %b1: f32[128]) -> (%y: f32[32,128]) {
  %0 = contract %x, %w1 {axes=[[1],[1]], batch=[[],[]]} : f32[32,128]       loc("digits.py":14 in layers.0)
  %1 = broadcast %b1 {dims=[1], shape=[32,128]} : f32[32,128]               loc("digits.py":14 in layers.0)
  %2 = add %0, %1 : f32[32,128]                                             loc("digits.py":14 in layers.0)
  %h = sigmoid %2 : f32[32,128]                                             loc("digits.py":15 as "the \\"hidden\\" layer")
  return %h
}"""

FUSED = """graphc 1
graph @step(%x: f32[4], %y: f32[4]) -> (f32[4], f32[]) stage fused {
  %0, %1 = fused %x, %y {kind="map"} : (f32[4], f32[]) region(%a: f32[4], %b: f32[4]) {
    %0 = mul %a, %b {diagonal} : f32[4]                                       loc("digits.py":3)
    %1 = reduce_sum %0 {axes=[0]} : f32[]
    return %0, %1
  }  loc("digits.py":2 in net)
  return %0, %1
}"""


def one(*operations: str, inputs: str = "%x: f32[2]", result: str = "%0", type: str = "f32[2]") -> str:
    """A small graph around these lines."""
    body = "\n".join(f"  {line}" for line in operations)
    return f"graphc 1\ngraph @f({inputs}) -> ({type}) {{\n{body}\n  return {result}\n}}"


def error_of(text: str, **arguments: object) -> str:
    with pytest.raises(ParseError) as caught:
        parse(text, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("text", [MLP, FUSED], ids=["mlp", "fused"])
def test_text_is_read_and_printed_as_it_was(text: str) -> None:
    graph = parse(text)
    assert str(graph) == text
    verify(graph)


def test_parsed_graph_has_the_names_types_stage_and_locations_of_its_text() -> None:
    graph = parse(MLP)
    assert (graph.name, graph.stage, graph.output_names) == ("mlp", "traced", ("y",))
    assert graph.input_names == ("x", "w1", "b1")
    assert graph.output_types == (f32[32, 128],)
    assert [n.op.name for n in graph.nodes] == ["contract", "broadcast", "add", "sigmoid"]
    assert graph.nodes[0].attrs["axes"] == ((1,), (1,))
    assert graph.nodes[0].loc == Loc("digits.py", 14, "layers.0")
    assert graph.nodes[3].loc.note == 'the "hidden" layer'
    assert graph.nodes[3].name == "h"
    assert parse(FUSED).stage == "fused"
    assert parse(FUSED).nodes[0].regions[0].nodes[0].attrs["diagonal"] is True


def test_parsed_graph_computes() -> None:
    x, y = np.float32([1, 2, 3, 4]), np.float32([2, 2, 2, 0.5])
    product, total = interpret(parse(FUSED), [x, y])
    assert product.tolist() == [2, 4, 6, 2]
    assert float(total) == 14


def test_comments_and_free_whitespace_are_skipped() -> None:
    text = "# a dump\r\ngraphc 1 // version\n\n" + one("%0 = add %x , %x:f32[ 2 ]  # sum").split("\n", 1)[1]
    assert parse(text) == parse(one("%0 = add %x, %x : f32[2]"))


@pytest.mark.parametrize(
    "value", ["1.0", "0.5", "1e-05", "1e+20", "-0.0", "nan", "inf", "-inf", "3.4028234663852886e+38"]
)
def test_float_constants_keep_their_value_and_text(value: str) -> None:
    graph = parse(one(f"%0 = const {value} : f64[2]", inputs="", type="f64[2]"))
    (got,) = interpret(graph, [])
    np.testing.assert_array_equal(got, np.full(2, float(value)))
    assert np.signbit(got[0]) == value.startswith("-")
    assert f"const {value} : f64[2]" in str(graph)


def test_constants_take_the_kind_and_precision_of_their_type() -> None:
    assert parse(one("%0 = const 1 : f32[2]", inputs="")) == parse(one("%0 = const 1.0 : f32[2]", inputs=""))
    build = Builder()
    expected = build.graph("f", [build.splat(0.1, f32[2])])
    assert parse(one("%0 = const 0.1 : f32[2]", inputs="")) == expected


def test_attribute_values_keep_their_types() -> None:
    build = Builder()
    attrs = {
        "flag": True, "off": False, "one": 1, "real": 1.0, "tiny": 5e-324, "text": 'a "b"\\\n\t\r', "kind": "map",
        "shape": f32[2, 3], "dtype": bool_, "nested": ((1, (2.0, ())), "x"), "none": (), "minus": -(2**63),
    }  # fmt: skip
    inner = Builder()
    region = inner.graph("map", [inner.input(f32[2], "x")])
    node = build.emit(REGISTRY["fused"], [build.input(f32[2], "x")], attrs, [region])
    again = parse(str(build.graph("f", node.results, "fused"))).nodes[0]
    assert dict(again.attrs) == attrs
    assert {k: type(v) for k, v in again.attrs.items()} == {k: type(v) for k, v in attrs.items()}


def test_dense_constants_come_from_the_side_file() -> None:
    build = Builder()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    graph = build.graph("f", [build.constant(array, f32[2, 3]), build.constant(np.int32([3, 1]), i32[2])])
    again = parse(str(graph), graph.constants)
    assert again == graph
    np.testing.assert_array_equal(interpret(again, [])[0], array)


def test_dense_constants_of_hand_written_text_may_have_any_name() -> None:
    graph = parse(one("%0 = const @w : f32[2]", inputs=""), {"w": np.float32([1, 2])})
    assert interpret(graph, [])[0].tolist() == [1, 2]


def test_names_that_are_not_plain_words_are_quoted() -> None:
    build = Builder()
    names = [
        "na me",
        "0.weight",
        'say "x"',
        "back\\slash",
        "new\nline",
        "ünïcode",
        "5",
        "layers.0.weight",
        "a%b",
        "",
    ]
    inputs = [build.input(f32[2], n) for n in names]
    total = inputs[0]
    for value in inputs[1:]:
        total = build.add(total, value)
    graph = build.graph("odd name", [total], output_names=["the loss"])
    again = parse(str(graph))
    assert again.input_names[:-1] == tuple(names[:-1])
    assert (again.name, again.output_names) == ("odd name", ("the loss",))
    assert again == graph
    assert str(again) == str(graph)


def test_user_names_that_clash_stay_unique() -> None:
    build = Builder()
    x = build.input(f32[2], "h")
    y = Value(build.emit(REGISTRY["exp"], [x], name="h"))
    z = Value(build.emit(REGISTRY["add"], [x, y], name="h"))
    graph = build.graph("f", [z, y])
    assert "%h.2 = exp %h" in str(graph) and "%h.3 = add %h, %h.2" in str(graph)
    assert str(parse(str(graph))) == str(graph)


def test_locations_with_odd_characters_survive() -> None:
    build = Builder()
    build.loc = Loc('C:\\my "files"\\a)b.py', 3, "block 1(a)", "d loss / d x\nd y")
    graph = build.graph("f", [build.exp(build.input(f32[2], "x"))])
    assert parse(str(graph)).nodes[0].loc == build.loc


def test_joined_dumps_are_read_one_by_one() -> None:
    graphs = parse_all(f"{MLP}\n\n{FUSED}\n" + one("%0 = exp %x : f32[2]").removeprefix("graphc 1\n"))
    assert [g.name for g in graphs] == ["mlp", "step", "f"]
    assert "expected the end of the text after one graph, got graphc" in error_of(f"{MLP}\n{FUSED}")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of every kind of attribute, with shared values, odd names and locations."""
    build = Builder()
    shape = (3, 4)
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    names = draw(st.lists(words.filter(bool), min_size=1, max_size=3, unique=True))
    values = [build.input(f32[shape], n) for n in names]
    numbers = st.floats(width=32)
    for _ in range(draw(st.integers(0, 12))):
        build.loc = (
            Loc(draw(words), draw(st.integers(0, 99)), draw(words), draw(words))
            if draw(st.booleans())
            else Loc()
        )
        x = draw(st.sampled_from(values))
        y = draw(st.sampled_from(values))
        match draw(st.integers(0, 8)):
            case 0:
                new = Value(
                    build.emit(
                        REGISTRY[draw(st.sampled_from(["add", "mul", "max"]))], [x, y], name=draw(words)
                    )
                )
            case 1:
                new = build.mul(x, y, diagonal=True)
            case 2:
                new = build.splat(draw(numbers), f32[shape])
            case 3:
                new = build.select(build.lt(x, y), x, y)
            case 4:
                new = build.broadcast(build.reduce_max(x, axes=(0, 1)), dims=(), shape=shape)
            case 5:
                new = build.contract(
                    build.contract(x, y, axes=((1,), (1,))), y, axes=((1,), (0,)), batch=((), ())
                )
            case 6:
                new = build.pad(
                    build.slice(x, start=(0, 3), size=(3, 2), step=(1, -2)),
                    low=(0, 1), high=(0, 1), interior=(0, 0), value=draw(numbers),
                )  # fmt: skip
            case 7:
                array = np.float32(draw(st.lists(numbers, min_size=4, max_size=4)))
                new = build.broadcast(build.constant(array, f32[4]), dims=(1,), shape=shape)
            case _:
                new = build.cast(build.cast(x, type=f64[shape]), type=f32[shape])
        values.append(new)
    outputs = draw(st.lists(st.sampled_from(values), max_size=3))
    output_names = draw(st.lists(words, min_size=len(outputs), max_size=len(outputs)))
    return build.graph(draw(words), outputs, "differentiated", output_names)


@quick
@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    text = str(graph)
    again = parse(text, graph.constants)
    assert again == graph
    assert str(again) == text
    assert again.output_names == graph.output_names or not any(graph.output_names)
    assert [n.loc for n in again.nodes] == [
        replace(n.loc, line=n.loc.line if n.loc.file else 0) for n in graph.nodes
    ]


# ------------------------------------------------------------------------------------------------------------ errors


def test_error_shows_file_line_column_the_line_and_a_caret() -> None:
    text = one("%0 = add %x, %y : f32[2]")
    assert error_of(text, filename="net.gir") == (
        "net.gir:3:16: expected a value defined above, got %y\n"
        "      %0 = add %x, %y : f32[2]\n"
        "                   ^"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "<text>:1:1: expected 'graphc', got the end of the text"),
        ("graphc 2\n", "<text>:1:8: expected format version 1, got 2"),
        ("graphc x", "<text>:1:8: expected format version 1, got x"),
        ("graphc 1\nmodule @f", "<text>:2:1: expected 'graph', got module"),
        ("\x7fELF\x02\x01\x00\x00", "<text>:1:1: expected text of a graph, got '\\x7f'"),
        (one("%0 = tanhh %x : f32[2]"), "3:8: expected a registered op, got tanhh (did you mean tanh or atanh?)"),
        (one("%0 = __class__ %x : f32[2]"), "3:8: expected a registered op, got __class__"),
        (one("%0 = input : f32[2]"), "3:8: expected a registered op, got input"),
        (one("%0 = exp %hidden1 : f32[2]", inputs="%hidden: f32[2]"), "got %hidden1 (did you mean %hidden?)"),
        (one("%0 = exp %0 : f32[2]"), "3:12: expected a value defined above, got %0"),
        (one("%x = exp %x : f32[2]"), "3:3: expected a new name, got %x a second time"),
        (one("%0 = exp %x : f32[2]", "%0 = tanh %x : f32[2]"), "4:3: expected a new name, got %0 a second time"),
        (one("%0 = exp %x : f32[2]", inputs="%x: f32[2], %x: f32[2]"), "2:22: expected a new name, got %x a second time"),
        (one("%0 = exp %x : f32[3]"), "3:17: exp: expected type f32[2], got f32[3]"),
        (one("%0 = exp %x : (f32[2], f32[2])"), "exp: expected type f32[2], got (f32[2], f32[2])"),
        (one("%0, %1 = exp %x : f32[2]"), "3:3: exp: expected 1 results, got 2"),
        (one("%0 = exp %x : f32[2]", type="f64[2]"), "expected outputs f64[2] as announced, got f32[2]"),
        (one("%0 = exp %x : f32[2]", result="%0, %0"), "expected outputs f32[2] as announced, got (f32[2], f32[2])"),
        (one("%0 = exp %x, %x : f32[2]"), "3:8: exp: expected 1 operands, got 2"),
        (one('%0 = reduce_sum %x {axes=[3]} : f32[2] loc("net.py":7)'),
         "3:8: net.py:7: reduce_sum: expected increasing axes within rank 1, got [3]"),
        (one("%0 = reduce_sum %x : f32[2]"), "reduce_sum: attributes {} don't fit: KeyError: 'axes'"),
        (one("%0 = exp %x : q8[2]"), "expected a data type of f64, f32, bf16"),
        (one("%0 = exp %x : f23[2]"), "got f23 (did you mean f32"),
        (one("%0 = exp %x : f32"), "3:17: expected a type such as f32[2,3], got f32"),
        (one("%0 = exp %x : f32[-2]"), "3:17: expected a type such as f32[2,3], got f32[-2]"),
        (one("%0 = exp %x : f32[" + "9" * 5000 + "]"), "expected at most 64 dimensions of at most 18 digits"),
        (one("%0 = exp %x : f32[" + "1," * 99 + "1]"), "expected at most 64 dimensions of at most 18 digits"),
        (one("%0 = const " + "9" * 5000 + " : f32[2]"), "expected an integer of 64 bits, got 999"),
        (one("%0 = const 18446744073709551616 : f32[2]"), "expected an integer of 64 bits"),
        (one("%0 = const 300 : u8[2]"), "const: expected a number of u8, got 300"),
        (one("%0 = const 1.5 : i32[2]"), "const: expected a number of i32, got 1.5"),
        (one('%0 = const "1" : f32[2]'), "const: expected a number of f32, got '1'"),
        (one("%0 = const : f32[2]"), "3:14: expected a number, string, true, false, list, type or constant, got :"),
        (one("%0 = const 1 : f23[2]"), "expected a data type of f64, f32, bf16, f16, i64, "),
        (one("%0 = const @c0123456789abcdef : f32[2]"),
         "3:14: expected an array for constant @c0123456789abcdef in the side file, got none"),
        (one("%0 = exp %x {a=1, a=2} : f32[2]"), "expected each attribute once, got a a second time"),
        (one("%0 = exp %x {a=maybe} : f32[2]"), "expected a number, string, true, false, list, type or constant, got maybe"),
        (one("%0 = exp %x {a=1,} : f32[2]"), "expected another element after ',', got }"),
        (one("%0 = cast %x {type=f64[2]} : f32[2]"), "cast: expected the type after the colon only"),
        (one('%0 = exp %x {a="\\q"} : f32[2]'), r"""expected one of the escapes \\ \" \n \r \t, got \q"""),
        (one('%0 = exp %x {a="open} : f32[2]'), "expected a closing quote on this line, got '\"'"),
        (one('%0 = exp %x : f32[2] loc("f.py")'), 'expected a location such as loc("file.py":14'),
        (one("%0 = exp %x : f32[2] region() { return }"), "exp: expected an op that takes a region, such as fused"),
        (one('%0 = fused %x {kind="map"} : f32[2]'), "fused: expected one region, got 0"),
        (one('%0 = fused %x {kind="map"} : f32[2] region(%a: f32[2]) { %b = exp %x : f32[2] return %b }'),
         "expected a value defined above, got %x"),
        (one('%0 = fused %x {kind="map"} : f32[2] region(%a: f32[3]) { return %a }'),
         "fused: expected operands [f32[3]], got [f32[2]]"),
        ("graphc 1\ngraph @f() -> () stage fusd {\n return\n}", "got fusd (did you mean fused?)"),
        ("graphc 1\ngraph @f() -> () {\n return\n} }", "4:3: expected the end of the text after one graph, got }"),
        ("graphc 1\ngraph f() -> () {\n return\n}", "2:7: expected a graph's name such as @mlp, got f"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_clear_error(text: str, message: str) -> None:
    assert message in error_of(text)


def test_damaged_constant_is_refused() -> None:
    build = Builder()
    graph = build.graph("f", [build.constant(np.float32([1, 2]), f32[2])])
    (name,) = graph.constants
    assert "a damaged side file?" in error_of(str(graph), constants={name: np.float32([1, 3])})
    assert "expected a constant of f32[2], got float64[2]" in error_of(
        one("%0 = const @w : f32[2]", inputs=""), constants={"w": np.zeros(2)}
    )


@pytest.mark.parametrize("opening", ["[", "{a=[", "(", "{", '"', "%", "f32[", "graph", "\\"])
def test_deep_or_endless_text_is_an_error_and_quick(opening: str) -> None:
    error_of("graphc 1\n" + opening * 20_000)
    error_of(one(f"%0 = exp %x {{a={opening * 20_000}"))


def test_nesting_is_bounded() -> None:
    assert "at most 16 nested lists" in error_of(one(f"%0 = exp %x {{a={'[' * 17}{']' * 17}}} : f32[2]"))
    nested = '%0 = fused %x {kind="map"} : f32[2] region(%x: f32[2]) { ' * 17
    assert "at most 16 nested regions" in error_of(one(nested))


def test_every_truncation_is_a_parse_error() -> None:
    for length in range(len(FUSED) - 1):
        error_of(FUSED[:length])


@quick
@given(st.data())
def test_mutated_text_parses_or_is_a_parse_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([MLP, FUSED]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        dropped = data.draw(st.integers(0, 5))
        pieces = st.sampled_from(['"', *"[]{}(,=é\0", "%0", "-1", "f32[2]", "region", "return", "const"])
        text = text[:at] + data.draw(pieces) + text[at + dropped :]
    try:
        parse(text)
    except ParseError as error:
        assert str(error).startswith("<text>:")


@quick
@given(st.text(max_size=60))
@example("graphc 1" * 5)
def test_arbitrary_text_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError, match=r"^<text>:\d+:\d+: expected"):
        parse(text)


def test_a_deep_graph_of_twenty_thousand_nodes_parses() -> None:
    build = Builder()
    value = x = build.input(f32[8, 8], "x")
    build.loc = Loc("deep.py", 1, "layers.0")
    for _ in range(10_000):
        value = build.add(build.tanh(value), x)
    graph = build.graph("deep", [value])
    again = parse(str(graph))
    assert len(again.nodes) == 20_000
    assert again == graph


# ------------------------------------------------------------------------------------------- files and networkx view


def with_constant() -> Graph:
    build = Builder()
    x = build.input(f32[3], "x")
    return build.graph("f", [build.add(x, build.constant(np.float32([1, 2, 3]), f32[3]))])


def test_saved_graph_is_loaded_again_and_its_bytes_are_reproducible(tmp_path: Path) -> None:
    graph, path = with_constant(), tmp_path / "f.gir"
    save_graph(graph, path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(first) == ["f.gir", "f.gir.npz"]
    assert first["f.gir"].startswith(b"graphc 1\n")
    assert load_graph(path) == graph
    save_graph(load_graph(path), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_side_file_exists_only_where_there_are_dense_constants(tmp_path: Path) -> None:
    path = tmp_path / "f.gir"
    weights = tmp_path / "f.npz"
    weights.write_bytes(b"the user's own")
    save_graph(with_constant(), path)
    save_graph(parse(MLP), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.gir", "f.npz"]
    assert weights.read_bytes() == b"the user's own"
    assert str(load_graph(path)) == MLP


def test_bad_files_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "f.gir"
    with pytest.raises(ArtifactError, match="expected a readable file, got No such file"):
        load_graph(path)
    path.write_bytes(b"graphc 1\ngraph \xff\xfe")
    with pytest.raises(ParseError, match=r"f.gir:2:7: expected UTF-8 text of a graph, got byte 0xff"):
        load_graph(path)
    save_graph(with_constant(), path)
    side = tmp_path / "f.gir.npz"
    good = side.read_bytes()
    side.write_bytes(good[: len(good) // 2])
    with pytest.raises(ArtifactError, match=r"f.gir.npz: expected an .npz file of constants"):
        load_graph(path)
    side.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"f.gir.npz: expected an .npz file of constants"):
        load_graph(path)
    side.unlink()
    with pytest.raises(
        ParseError, match=r"f.gir:3:\d+: expected an array for constant @c[0-9a-f]{16} in the side file"
    ):
        load_graph(path)
    path.write_text(FUSED.replace("stage fused", "stage traced"), encoding="utf-8")
    with pytest.raises(VerifyError, match="expected fused nodes in stage fused only"):
        load_graph(path)


def test_a_file_that_can_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected a writable file"):
        save_graph(parse(MLP), tmp_path / "nowhere" / "f.gir")
    target = tmp_path / "taken.gir"
    target.mkdir()
    with pytest.raises(ArtifactError, match="expected a writable file"):
        save_graph(parse(MLP), target)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.gir"]


def test_networkx_view_has_every_node_with_its_facts() -> None:
    graph = parse(MLP)
    view = graph.networkx()
    assert networkx.is_directed_acyclic_graph(view)
    assert list(view.nodes) == [*(v.node for v in graph.inputs), *graph.nodes]
    contract, broadcast, add, sigmoid = graph.nodes
    assert view.nodes[contract] == {
        "op": "contract", "label": "contract: f32[32,128]", "type": f32[32, 128], "loc": Loc("digits.py", 14, "layers.0"),
        "kind": "op", "output": False,
    }  # fmt: skip
    assert view.nodes[sigmoid]["label"] == "sigmoid %h: f32[32,128]" and view.nodes[sigmoid]["output"]
    assert view.nodes[graph.inputs[0].node]["kind"] == "input"
    assert view.edges[broadcast, add]["bytes"] == 32 * 128 * 4
    assert networkx.immediate_dominators(view.reverse(), sigmoid)[contract] is add


def test_networkx_view_counts_a_value_that_is_read_twice_once() -> None:
    graph = parse(one("%0 = mul %x, %x : f32[2]", "%1 = const 7 : u8[4]"))
    assert [d["bytes"] for _, _, d in graph.networkx().edges(data=True)] == [8]
    assert u8[4].bytes == 4
