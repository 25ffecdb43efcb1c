"""The rewrite rules: each one on texts before and after, and on numbers, to the bit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import VerifyError
from graphc.ir import ops
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.interp import interpret
from graphc.ir.loc import Loc
from graphc.ir.parser import parse
from graphc.ir.types import DType, TensorType, bool_, f32, f64, i32, i64, u8, u32
from graphc.ir.verify import verify
from graphc.passes.rewrite import Outcome, Rewriter, apply, rewrite
from graphc.passes.simplify import RULES, holds_all, simplify
from graphc.passes.unfuse import unfuse
from graphc.passes.vjp import vjp


@dataclass(frozen=True)
class Case:
    """One graph before and after a single rule."""

    rule: str
    before: Graph
    after: Graph
    about: bool  # the rule's docstring allows the last bit to change


def read_cases(text: str) -> tuple[list[Case], list[Graph]]:
    """The cases of the rules, and the graphs that no rule may change."""
    cases, kept = [], []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in plain.strip().split("\n\n"):
        head, *body = block.splitlines()
        words, inputs, result = re.fullmatch(r"(.*?) \((.*)\) -> (.*)", head).groups()  # type: ignore[union-attr]

        def graph(lines: list[str], inputs: str = inputs, result: str = result) -> Graph:
            return parse(
                "\n".join([f"graphc 1 graph @f({inputs}) -> ({result}) stage differentiated {{", *lines, "}"])
            )

        if words == "keep":
            kept.append(graph(body))
            continue
        _, rule, *about = words.split()
        middle = body.index("gives")
        cases.append(Case(rule, graph(body[:middle]), graph(body[middle + 1 :]), about == ["about"]))
    return cases, kept


CASES, KEPT = read_cases((Path(__file__).parent / "rewrites.txt").read_text())

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]


def random_array(type: TensorType, rng: np.random.Generator, special: bool = True) -> np.ndarray:
    """Elements of any kind; of floats, signed zeros, infinities and NaN among them."""
    if type.dtype is bool_:
        return rng.integers(0, 2, type.shape).astype(bool)
    if type.dtype.is_integer:
        info = np.iinfo(type.dtype.numpy)
        return rng.integers(info.min, info.max, type.shape, type.dtype.numpy, endpoint=True)
    numbers = rng.uniform(-3, 3, type.shape)
    if special:
        numbers = np.where(rng.integers(0, 3, type.shape) == 0, rng.choice(SPECIAL, type.shape), numbers)
    return numbers.astype(type.dtype.numpy)


def same(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal to the bit, but for the sign and payload of NaN."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.kind == "f":
        return bool(
            np.array_equal(x, y, equal_nan=True) and (np.signbit(x) == np.signbit(y))[~np.isnan(x)].all()
        )
    return bool(np.array_equal(x, y))


def is_contraction(case: Case) -> bool:
    """Whether the case's numbers are numpy's matrix products, which round by layout."""
    return "contract" in case.rule


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.rule)
def test_rule_gives_the_text_that_it_states_and_nothing_else_does(case: Case) -> None:
    (rule,) = (r for r in RULES if r.name == case.rule)
    fired: Counter[str] = Counter()
    after = apply(case.before, [rule], fired)
    verify(after)
    assert after == case.after, str(after)
    assert fired[case.rule] >= 1
    assert apply(after, [rule]) == after


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.rule)
def test_rule_keeps_every_number_to_the_bit(case: Case, rng: np.random.Generator) -> None:
    (rule,) = (r for r in RULES if r.name == case.rule)
    before = case.before
    after = apply(before, [rule])
    for _ in range(10):
        special = not is_contraction(case)  # sums of NaN and infinities depend on numpy's blocking
        arrays = [random_array(t, rng, special) for t in before.input_types]
        for got, want in zip(interpret(after, arrays), interpret(before, arrays), strict=True):
            if case.about or is_contraction(case):
                np.testing.assert_allclose(got, want, rtol=3e-7, atol=1e-6 if is_contraction(case) else 0)
            else:
                assert same(got, want), (got, want)


def test_every_rule_has_a_case_and_a_statement() -> None:
    assert {case.rule for case in CASES} == {rule.name for rule in RULES}
    assert all(rule.doc for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("graph", KEPT)
def test_what_would_change_a_number_or_a_layout_is_left_alone(graph: Graph) -> None:
    assert simplify(graph) == graph


@pytest.mark.parametrize("narrow", [bool_, u8, u32, i32, i64, f32, f64], ids=repr)
@pytest.mark.parametrize("wide", [bool_, u8, u32, i32, i64, f32, f64], ids=repr)
def test_holds_all_is_what_the_extreme_values_say(wide: DType, narrow: DType) -> None:
    """A type holds another's values if those with the most bits come back unchanged."""
    if narrow is bool_:
        extremes = np.array([False, True])
    elif narrow.is_float:
        extremes = np.array([np.finfo(narrow.numpy).max, np.finfo(narrow.numpy).tiny, -1.5], narrow.numpy)
    else:
        info = np.iinfo(narrow.numpy)
        extremes = np.array([info.min, info.max, info.max // 2 + (info.bits > 8)], narrow.numpy)
    with np.errstate(all="ignore"):
        there = (
            [int(x) for x in extremes.astype(wide.numpy)]
            if not wide.is_float
            else extremes.astype(wide.numpy)
        )
        kept = all(a == b for a, b in zip(extremes.tolist(), np.asarray(there).tolist(), strict=True))
    assert holds_all(wide, narrow) == kept


def test_a_product_read_twice_is_not_computed_twice() -> None:
    graph = parse(
        """graphc 1
        graph @f(%x: f32[2,3], %y: f32[3,4]) -> (f32[4,2], f32[2,4]) {
          %0 = contract %x, %y {axes=[[1],[0]], batch=[[],[]]} : f32[2,4]
          %1 = transpose %0 {perm=[1,0]} : f32[4,2]
          return %1, %0
        }"""
    )
    assert simplify(graph) == graph


def test_rules_set_off_each_other_in_one_pass() -> None:
    graph = parse(
        """graphc 1
        graph @f(%x: f32[3], %y: f32[3]) -> (f32[2,3]) {
          %0 = const -1.0 : f32[2,3]
          %1 = broadcast %x {dims=[1], shape=[2,3]} : f32[2,3]
          %2 = broadcast %y {dims=[1], shape=[2,3]} : f32[2,3]
          %3 = mul %2, %0 : f32[2,3]
          %4 = add %1, %3 : f32[2,3]
          %5 = transpose %4 {perm=[1,0]} : f32[3,2]
          %6 = reshape %5 {shape=[3,1,2]} : f32[3,1,2]
          %7 = reshape %6 {shape=[3,2]} : f32[3,2]
          %8 = transpose %7 {perm=[1,0]} : f32[2,3]
          return %8
        }"""
    )
    want = parse(
        """graphc 1
        graph @f(%x: f32[3], %y: f32[3]) -> (f32[2,3]) {
          %0 = sub %x, %y : f32[3]
          %1 = broadcast %0 {dims=[1], shape=[2,3]} : f32[2,3]
          return %1
        }"""
    )
    assert simplify(graph) == want


def test_names_stage_and_the_location_with_its_note_are_kept() -> None:
    build = Builder()
    x = build.input(f32[3], "x", Loc("model.py", 2))
    where = Loc("model.py", 7, "layers.0", "d loss / d x")
    y = build.mul(x, build.splat(-1, x.type), loc=where)
    build.emit(ops.mul, y.node.operands, loc=Loc("model.py", 9))
    after = simplify(build.graph("f", [y], "differentiated", ["gradient"]))
    assert (after.name, after.stage, after.output_names) == ("f", "differentiated", ("gradient",))
    assert after.inputs[0].node.name == "x" and after.inputs[0].node.loc == Loc("model.py", 2)
    (negation,) = after.nodes
    assert negation.op.name == "neg" and negation.loc == where


def test_other_locations_of_an_interned_node_survive() -> None:
    build = Builder()
    x = build.input(f32[3], "x")
    y = build.exp(x, loc=Loc("model.py", 1))
    build.exp(x, loc=Loc("model.py", 2))
    (node,) = simplify(build.graph("f", [y])).nodes
    assert node.loc == Loc("model.py", 1) and node.other_locs == [Loc("model.py", 2)]


def test_a_rule_that_changes_a_type_is_an_error_with_its_name_and_the_users_line() -> None:
    @rewrite
    def wrong(build: Rewriter, node: Node) -> Outcome:
        """exp(x) = x[0], which is wrong"""
        return build.splat(0, f32[()]) if node.op.name == "exp" else None

    build = Builder()
    y = build.exp(build.input(f32[3], "x"), loc=Loc("model.py", 3))
    with pytest.raises(VerifyError) as caught:
        apply(build.graph("f", [y]), [wrong])
    assert str(caught.value) == "model.py:3: exp: rewrite wrong: expected f32[3], got f32[]"


def test_rules_that_undo_each_other_and_rules_that_grow_come_to_an_end() -> None:
    @rewrite
    def to_sub(build: Rewriter, node: Node) -> Outcome:
        """x + y = x - (-y)"""
        if node.op.name == "add":
            return build.sub(node.operands[0], build.neg(node.operands[1]))
        return None

    @rewrite
    def to_add(build: Rewriter, node: Node) -> Outcome:
        """x - y = x + (-y), for ever"""
        if node.op.name == "sub":
            return build.add(node.operands[0], build.neg(node.operands[1]))
        return None

    build = Builder()
    x, y = build.input(f32[3], "x"), build.input(f32[3], "y")
    graph = build.graph("f", [build.add(x, y)])
    arrays = [np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)]
    np.testing.assert_array_equal(interpret(apply(graph, [to_sub, to_add]), arrays)[0], [5, 7, 9])


def test_fused_regions_are_left_alone() -> None:
    text = """graphc 1
    graph @f(%x: f32[3]) -> (f32[3]) stage fused {
      %0 = fused %x {kind="map"} : f32[3] region(%a: f32[3]) {
        %0 = neg %a : f32[3]
        %1 = neg %0 : f32[3]
        return %1
      }
      return %0
    }"""
    graph = parse(text)
    assert simplify(graph) == graph
    assert simplify(unfuse(graph)).outputs[0].node.op.name == "input"


@pytest.mark.parametrize(("factor", "stage"), [("{diagonal}", "differentiated"), ("", "traced")])
def test_unfuse_puts_nodes_back_and_tells_the_stage_by_the_marker(factor: str, stage: str) -> None:
    graph = parse(
        f"""graphc 1
        graph @f(%x: f32[3], %y: f32[3]) -> (%out: f32[3], f32[3]) stage fused {{
          %0, %1 = fused %y, %x {{kind="map"}} : (f32[3], f32[3]) region(%a: f32[3], %b: f32[3]) {{
            %0 = exp %a : f32[3]
            %1 = mul %0, %b {factor} : f32[3]
            return %1, %0
          }}
          %2 = fused %0, %y {{kind="map"}} : f32[3] region(%a: f32[3], %b: f32[3]) {{
            %0 = add %a, %b : f32[3]
            return %0
          }}
          return %2, %1
        }}"""
    )
    want = parse(
        f"""graphc 1
        graph @f(%x: f32[3], %y: f32[3]) -> (f32[3], f32[3]) stage {stage} {{
          %0 = exp %y : f32[3]
          %1 = mul %0, %x {factor} : f32[3]
          %2 = add %1, %y : f32[3]
          return %2, %0
        }}"""
    )
    plain = unfuse(graph)
    assert plain == want
    assert plain.output_names == graph.output_names or plain.output_names == ("out", "")
    verify(plain)


def mlp(build: Builder) -> Value:
    """The squared error of two layers with tanh, written as a frontend would, with needless views."""
    x, w1, b1 = build.input(f32[5, 4], "x"), build.input(f32[6, 4], "w1"), build.input(f32[6], "b1")
    w2, target = build.input(f32[3, 6], "w2"), build.input(f32[5, 3], "target")
    h = build.contract(x, build.transpose(w1, perm=(1, 0)), axes=((1,), (0,)), batch=((), ()))
    h = build.tanh(build.add(h, build.broadcast(build.reshape(b1, shape=(6,)), dims=(1,), shape=(5, 6))))
    out = build.contract(h, build.transpose(w2, perm=(1, 0)), axes=((1,), (0,)), batch=((), ()))
    error = build.pow(build.sub(out, target), build.splat(2, out.type))
    return build.div(build.reduce_sum(error, axes=(0, 1)), build.splat(16, f32[()]))


def test_a_differentiated_network_loses_its_views_and_keeps_its_numbers(rng: np.random.Generator) -> None:
    build = Builder()
    graph = vjp(build.graph("mlp", [mlp(build)]), ["w1", "b1", "w2"], seeds=False)
    after = simplify(graph)
    verify(after)
    assert not [n for n in after.nodes if n.op.name in ("transpose", "reshape", "pow", "div")]
    assert len(after.nodes) < len(graph.nodes)
    assert simplify(after) == after
    arrays = [random_array(t, rng, special=False) for t in graph.input_types]
    for got, want in zip(interpret(after, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_a_deep_graph_of_ten_thousand_nodes_simplifies() -> None:
    build = Builder()
    x = build.input(f32[8, 8], "x")
    value, one = x, build.splat(1, x.type)
    for step in range(2500):
        value = build.transpose(build.mul(build.transpose(value, perm=(1, 0)), one), perm=(1, 0))
        value = build.tanh(build.add(value, x)) if step % 2 else build.neg(value)
    graph = build.graph("deep", [value])
    assert len(graph.nodes) > 10_000
    after = simplify(graph)
    assert not any(n.op.name in ("transpose", "mul") for n in after.nodes)


_UNARY = ("neg", "abs", "exp", "tanh", "floor")
_BINARY = ("add", "sub", "mul", "div", "max", "pow")


@given(st.data())
def test_random_graphs_keep_their_numbers(data: st.DataObject) -> None:
    """Chains of views, arithmetic, constants and reductions over one another, before and after."""
    build = Builder()
    pool = [build.input(f64[2, 3], "x"), build.input(f64[3], "y"), build.input(f64[()], "z")]
    for _ in range(data.draw(st.integers(1, 12))):
        x = data.draw(st.sampled_from(pool))
        kind = data.draw(
            st.sampled_from(
                ["unary", "binary", "constant", "broadcast", "reshape", "transpose", "max", "slice"]
            )
        )
        if kind == "unary":
            x = getattr(build, data.draw(st.sampled_from(_UNARY)))(x)
        elif kind == "binary":
            other = data.draw(st.sampled_from([v for v in pool if v.type == x.type]))
            x = getattr(build, data.draw(st.sampled_from(_BINARY)))(x, other)
        elif kind == "constant":
            number = build.splat(data.draw(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5])), x.type)
            operands = data.draw(st.permutations([x, number]))
            x = getattr(build, data.draw(st.sampled_from(_BINARY)))(*operands)
        elif kind == "broadcast" and x.type.rank < 3:
            at = data.draw(st.integers(0, x.type.rank))
            shape = (*x.shape[:at], data.draw(st.integers(1, 2)), *x.shape[at:])
            x = build.broadcast(x, dims=tuple(d for d in range(len(shape)) if d != at), shape=shape)
        elif kind == "reshape":
            shape = data.draw(st.sampled_from([(x.type.size,), (1, x.type.size), (*x.shape, 1), x.shape]))
            x = build.reshape(x, shape=shape)
        elif kind == "transpose":
            x = build.transpose(x, perm=tuple(data.draw(st.permutations(range(x.type.rank)))))
        elif kind == "max":
            axes = data.draw(st.sets(st.sampled_from(range(x.type.rank)))) if x.type.rank else set()
            x = build.reduce_max(x, axes=tuple(sorted(axes)))
        elif kind == "slice":
            size = tuple(data.draw(st.integers(1, n)) for n in x.shape)
            turned = [data.draw(st.booleans()) for _ in x.shape]
            start = tuple(n - 1 if t else 0 for n, t in zip(x.shape, turned, strict=True))
            x = build.slice(x, start=start, size=size, step=tuple(-1 if t else 1 for t in turned))
        pool.append(x)
    graph = build.graph("random", pool[3:])
    after = simplify(graph)
    verify(after)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    arrays = [random_array(t, rng) for t in graph.input_types]
    for got, want in zip(interpret(after, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, equal_nan=True)
