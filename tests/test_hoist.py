"""What leaves a loop: products before and after it, sums over its steps; and what `tidy` takes out of it."""

from __future__ import annotations

from collections.abc import Callable

import graphc
from graphc import f32
from graphc.ir import ops
from graphc.ir.graph import Graph
from graphc.ir.parser import parse
from graphc.passes.simplify import simplify


def cell(w: object) -> Callable[[object, object], tuple[object, object]]:
    def step(h: object, x: object) -> tuple[object, object]:
        h = graphc.tanh(h @ w + x)
        return h, h

    return step


def hoisted(fn: Callable[..., object], *args: object) -> Graph:
    return graphc.compile(fn, *args).stages["hoisted"]


def body_of(graph: Graph) -> list[str]:
    (scan,) = (n for n in graph.nodes if n.op is ops.scan)
    return [n.op.name for n in scan.regions[0].nodes]


def test_what_depends_on_slices_alone_is_one_product_before_the_loop() -> None:
    graph = hoisted(
        lambda h, w, u, x: graphc.scan(lambda h, x: (graphc.tanh(h @ u + x @ w), None), h, x)[0],
        f32[2, 4], f32[3, 4], f32[4, 4], f32[5, 2, 3],
    )  # fmt: skip
    assert body_of(graph) == ["contract", "add", "tanh"]
    product = next(n for n in graph.nodes if n.op is ops.contract)
    assert product.type == f32[5, 2, 4] and product.operands == (graph.inputs[3], graph.inputs[1])


def test_what_no_carry_needs_is_one_product_after_the_loop() -> None:
    graph = hoisted(
        lambda h, v, x: graphc.scan(lambda h, x: ((h := graphc.tanh(h + x)), graphc.exp(h @ v)), h, x)[1],
        f32[2, 4], f32[4, 7], f32[5, 2, 4],
    )  # fmt: skip
    assert body_of(graph) == ["add", "tanh"]
    assert [n.op.name for n in graph.nodes] == ["scan", "contract", "exp"]


def test_a_weights_gradient_is_one_product_over_time_and_batch() -> None:
    def loss(w: object, b: object, x: object) -> object:
        return graphc.scan(
            lambda h, x: (graphc.tanh(h @ w + b + x), None),
            graphc.zeros((2, 4)),
            x,
        )[0].sum()

    graph = hoisted(graphc.grad(loss, wrt=(0, 1)), f32[4, 4], f32[4], f32[5, 2, 4])
    _, backward = (n for n in graph.nodes if n.op is ops.scan)
    assert backward.int("carries") == 1  # no sums
    weight, bias = (v.node for v in graph.outputs)
    assert (weight.op.name, weight.attrs["axes"]) == ("contract", ((0, 1), (0, 1)))
    assert (bias.op.name, bias.attrs["axes"]) == ("reduce_sum", (0, 1))


def test_a_loop_over_blocks_stays_one() -> None:
    """Attention with a carry over blocks of keys, and over blocks of queries: no score matrix, forward or backward."""

    def over_keys(q: object, ks: object, vs: object) -> object:
        def step(carry: tuple[object, object], block: tuple[object, object]) -> tuple[object, None]:
            total, sums = carry
            k, v = block
            weights = graphc.exp(q @ k.T)
            return (total + weights @ v, sums + weights.sum(axis=1)), None

        total, sums = graphc.scan(
            step, (graphc.zeros((512, 32)), graphc.zeros(512)), (ks, vs), checkpoint=True
        )[0]
        return total / sums[:, None]

    def over_queries(q: object, ks: object, vs: object) -> object:
        k, v = graphc.reshape(ks, (512, 32)), graphc.reshape(vs, (512, 32))

        def step(_: object, q: object) -> tuple[object, object]:
            weights = graphc.exp(q @ k.T)
            return None, weights @ v / weights.sum(axis=1)[:, None]

        return graphc.scan(step, None, graphc.reshape(q, (8, 64, 32)))[1]

    types = (f32[512, 32], f32[8, 64, 32], f32[8, 64, 32])
    scores = 512 * 512 * 4
    for fn in (
        over_keys,
        over_queries,
        lambda *a: graphc.grad(lambda *a: over_keys(*a).sum(), wrt=(0, 1, 2))(*a),
    ):
        assert graphc.compile(fn, *types).memory.peak[1] < scores


def test_what_is_much_larger_than_what_is_read_is_not_made_for_all_steps() -> None:
    """The logits of many words, of which each step keeps one number."""
    compiled = graphc.compile(
        lambda h, v, x: graphc.scan(lambda h, x: ((h := graphc.tanh(h + x)), graphc.exp(h @ v).sum()), h, x)[1],
        f32[2, 4], f32[4, 5000], f32[50, 2, 4],
    )  # fmt: skip
    assert "contract" in body_of(compiled.stages["hoisted"])


def test_a_sum_of_what_is_much_larger_stays_in_the_loop() -> None:
    def loss(w: object, x: object) -> object:
        return graphc.scan(lambda h, x: (graphc.sin(h * w + x), None), graphc.zeros((512, 16)), x)[0].sum()

    graph = hoisted(graphc.grad(loss), f32[()], f32[1000, 512, 16])
    assert [n for n in graph.nodes if n.op is ops.scan][1].int("carries") == 2


def test_a_checkpointed_loop_is_left_alone() -> None:
    graph = hoisted(
        lambda h, w, x: graphc.scan(lambda h, x: (graphc.tanh(h + x @ w), None), h, x, checkpoint=True)[0],
        f32[2, 4], f32[3, 4], f32[5, 2, 3],
    )  # fmt: skip
    assert body_of(graph) == ["contract", "add", "tanh"]


def simplified(text: str) -> str:
    return str(simplify(parse(text)))


def test_a_carry_that_stays_is_a_capture_and_what_nobody_reads_goes() -> None:
    text = """graphc 1
    graph @f(%x: f32[4], %c: f32[]) -> (f32[]) {
      %a, %b, %d, %y = scan %c, %c, %c, %x {captures=0, carries=3, length=4, reverse=false} : (f32[], f32[], f32[], f32[4])
          region(%a: f32[], %b: f32[], %d: f32[], %x: f32[]) {
        %0 = mul %a, %b : f32[]
        %1 = add %0, %x : f32[]
        %2 = exp %d : f32[]
        return %1, %b, %2, %2
      }
      return %a
    }"""
    expected = """graphc 1
    graph @f(%x: f32[4], %c: f32[]) -> (f32[]) {
      %0 = scan %c, %c, %x {captures=1, carries=1, length=4, reverse=false} : f32[] region(%a: f32[], %b: f32[], %x: f32[]) {
        %0 = mul %a, %b : f32[]
        %1 = add %0, %x : f32[]
        return %1
      }
      return %0
    }"""
    assert parse(simplified(text)) == parse(expected)


def test_the_loss_and_its_gradient_share_one_loop() -> None:
    compiled = graphc.compile(
        graphc.value_and_grad(lambda w, x: graphc.scan(cell(w), graphc.zeros((2, 3)), x)[1].sum()),
        f32[3, 3], f32[4, 2, 3],
    )  # fmt: skip
    assert sum(n.op is ops.scan for n in compiled.stages["rewritten"].nodes) == 2
