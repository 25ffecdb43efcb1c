"""Compiling with checks, and derivatives against finite differences: what is reported, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import checks, nn, optim
from graphc.errors import ArgumentError, GradientError, IndexRangeError, MiscompiledError, NonFiniteError
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel
from graphc.passes.simplify import apply_rules

W, X = np.ones((3, 2), np.float32), np.ones((4, 3), np.float32)


def log_loss(w: graphc.Array, x: graphc.Array) -> graphc.Array:
    return (graphc.log(x @ w) ** 2).sum()


# ------------------------------------------------------------------------------------------------------------- nan


def test_a_checked_function_gives_what_the_unchecked_one_gives() -> None:
    want = graphc.compile(graphc.value_and_grad(log_loss), W, X)(W, X)
    got = graphc.compile(graphc.value_and_grad(log_loss), W, X, check="nan,bounds,stages")(W, X)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


def test_the_first_op_that_makes_an_infinity_is_named_with_its_line_and_element() -> None:
    x = X.copy()
    x[2] = 0
    function = graphc.compile(log_loss, W, X, check="nan")
    with pytest.raises(NonFiniteError) as raised:
        function(W, x)
    text = str(raised.value)
    assert text.startswith(
        f"{__file__}:{log_loss.__code__.co_firstlineno + 1}: log: expected finite numbers, got 2 -inf of 8"
    )
    assert "at [2, 0]: log(0) = -inf" in text


def test_a_backward_op_says_what_it_is_and_from_which_line_it_derives() -> None:
    def root(w: graphc.Array) -> graphc.Array:
        return graphc.sqrt(w * w).sum()

    root_line = root.__code__.co_firstlineno + 1
    function = graphc.compile(graphc.grad(root), np.ones(3, np.float32), check="nan")
    with pytest.raises(NonFiniteError) as raised:
        function(np.float32([1, 0, 2]))
    text = str(raised.value)
    assert text.startswith(f"{__file__}:{root_line}: div: expected finite numbers, got 1 inf of 3")
    assert f"d sqrt, derived from {__file__}:{root_line}" in text


def test_a_nan_that_was_given_is_said_of_the_input() -> None:
    with pytest.raises(NonFiniteError, match=r"input %x: expected finite numbers, got 12 NaN of 12"):
        graphc.compile(log_loss, W, X, check="nan")(W, X * np.nan)


def test_a_nan_that_no_output_shows_is_found() -> None:
    function = graphc.compile(
        lambda x: graphc.where(x > 0, graphc.log(x), 0.0), np.ones(2, np.float32), check="nan"
    )
    with pytest.raises(NonFiniteError, match="log: expected finite numbers, got 1 NaN of 2"):
        function(np.float32([1, -1]))


def test_donated_memory_is_unchanged_where_a_check_fails() -> None:
    step = graphc.compile(lambda w, x: w - graphc.log(x), W, W, donate=["w"], check="nan")
    w = W.copy()
    with pytest.raises(NonFiniteError):
        step(w, W * 0)
    np.testing.assert_array_equal(w, W)
    assert step(w, W * np.e) is w
    np.testing.assert_allclose(w, 0, atol=1e-6)


def test_a_bound_call_checks_each_time() -> None:
    x = W.copy()
    bound = graphc.compile(graphc.log, W, check="nan").bind(x)
    bound()
    np.testing.assert_array_equal(bound.outputs, 0)
    x[0, 0] = -1
    with pytest.raises(NonFiniteError):
        bound()


# ---------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("wrong", [3, -4, 2**31 - 1])
def test_an_index_out_of_range_is_named_with_its_place(wrong: int) -> None:
    def rows(x: graphc.Array, i: graphc.Array) -> graphc.Array:
        return graphc.take(x, i, axis=0)

    take_line = rows.__code__.co_firstlineno + 1
    function = graphc.compile(rows, W, np.zeros(4, np.int32), check="bounds")
    np.testing.assert_array_equal(function(W, np.int32([0, 1, 2, 2])), np.ones((4, 2)))
    with pytest.raises(IndexRangeError) as raised:
        function(W, np.int32([0, 1, wrong, 2]))
    text = str(raised.value)
    assert text.startswith(f"{__file__}:{take_line}: gather: expected indices from 0 to 2, got ")
    assert " at [2]" in text


# ---------------------------------------------------------------------------------------------------------- stages


def test_every_stage_of_a_training_run_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc import training

    plain = training.compile
    monkeypatch.setattr(training, "compile", lambda *a, **k: plain(*a, **k, check="stages"))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 7)).astype(np.float32), rng.integers(0, 3, 24).astype(np.int32)
    model = nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 3))
    history = graphc.fit(
        model,
        (x, y),
        loss=nn.cross_entropy,
        optimizer=optim.Adam(0.01),
        epochs=2,
        batch_size=8,
        progress=False,
    )
    assert history["loss"][1] < history["loss"][0]


V = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.mark.parametrize(
    "f",
    [
        lambda v: v * graphc.erf(graphc.asarray(0.7)),
        lambda v: (v * graphc.exp(graphc.asarray(0.7))) * graphc.sin(graphc.asarray(0.3)) * 3.1,
        lambda v: v * graphc.floor(graphc.exp(graphc.log(graphc.asarray(8.0)))),  # 7 in double precision
        lambda v: v.astype(graphc.bf16) * graphc.exp(graphc.asarray(0.7, dtype=graphc.bf16)),
        lambda v: graphc.scan(lambda c, x: (c * graphc.tanh(graphc.asarray(0.7)) + x, x), 0.0, v)[0],
        lambda v: graphc.random.gamma(np.uint32([1, 2]), 2.5, (8,)) * v,
        lambda v: graphc.random.beta(np.uint32([1, 2]), 2.5, 0.3, (8,)) * v,
    ],
    ids=["erf", "chain", "step", "bf16", "scan", "gamma", "beta"],
)
def test_a_folded_transcendental_of_a_constant_is_no_mistake(
    f: Callable[[graphc.Array], object],
) -> None:
    graphc.compile(f, graphc.f32[8], check="stages")(V)


def test_a_constant_that_is_folded_to_another_number_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc.passes import simplify

    reference = simplify.splat_of
    monkeypatch.setattr(simplify, "splat_of", lambda v: None if (n := reference(v)) is None else n * 1.0001)
    function = graphc.compile(
        lambda v: v * graphc.erf(graphc.asarray(0.7, dtype=graphc.f32)), graphc.f32[8], check="stages"
    )
    with pytest.raises(
        MiscompiledError, match="stage 'rewritten' changed output 0: expected what 'traced' gives"
    ):
        function(V)


def test_a_pass_that_changes_the_meaning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Graph) -> Graph:
        simpler = apply_rules(graph)
        return simpler.with_outputs([v.node.operands[0] for v in simpler.outputs])

    function = graphc.compile(lambda x: -graphc.exp(x), W, check="stages")
    function(W)
    monkeypatch.setattr("graphc.passes.simplify.apply_rules", wrong)
    function = graphc.compile(lambda x: -graphc.exp(x), W, check="stages")
    with pytest.raises(MiscompiledError, match="the pass that makes stage 'rewritten' changed output 0"):
        function(W)


def test_a_schedule_that_skips_elements_is_named_with_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc.codegen import memory

    def short(kernel: Kernel) -> Kernel:
        assert len(kernel.body) == 2  # a full vector, then the rest
        return Kernel(kernel.name, kernel.params, kernel.body[:1])

    whole = memory.schedule
    monkeypatch.setattr(memory, "schedule", lambda *a: short(whole(*a)))
    function = graphc.compile(
        lambda x: graphc.exp(x) + 1, np.ones((3, 1), np.float64), check="stages", target="x86-64"
    )
    with pytest.raises(
        MiscompiledError, match="kernel @map0: expected what its region gives, its loops give"
    ):
        function(np.ones((3, 1)))


def test_machine_code_that_differs_from_its_loops_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc import stepwise

    emit = stepwise.emit_kernels
    monkeypatch.setattr(stepwise, "emit_kernels", lambda *a: emit(*a).replace("fadd", "fsub"))
    function = graphc.compile(lambda x: x + 1, W, check="stages")
    with pytest.raises(
        MiscompiledError, match="kernel @map0: expected what its region gives, its machine code gives"
    ):
        function(W)


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="check: expected some of nan, bounds, stages, got 'nans'"):
        graphc.compile(graphc.log, W, check="nans")
    with pytest.raises(ArgumentError, match="check: expected a target that compiles, got the interpreter"):
        graphc.compile(graphc.log, W, check="nan", target="interpreter")
    assert checks.parse_checks(["nan", "nan"]) == ("nan",)


# ----------------------------------------------------------------------------------------------------- check_grads


def test_derivatives_of_a_network_agree_with_finite_differences_to_third_order() -> None:
    rng = np.random.default_rng(1)
    params = {"w": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}
    graphc.check_grads(
        lambda p, x: graphc.tanh(x @ p["w"] + p["b"]).sum(), [params, np.ones((2, 3))], order=3
    )


def test_a_wrong_derivative_is_named_with_its_order_and_argument() -> None:
    def stopped(x: graphc.Array, y: graphc.Array) -> graphc.Array:
        return x * graphc.stop_gradient(x) + y

    with pytest.raises(
        GradientError, match=r"check_grads: @stopped: derivative along a random direction of %x: expected "
    ):
        graphc.check_grads(stopped, [np.float32([1, 2]), np.float32([3, 4])])

    def second(x: graphc.Array) -> graphc.Array:
        y = graphc.stop_gradient(x)
        return x * 2 * y - y * y  # the right value and first derivative of x², no second one

    graphc.check_grads(lambda x: x * x, [np.float32([1, 2])])
    with pytest.raises(GradientError):
        graphc.check_grads(second, [np.float32([1, 2])])


def test_check_grads_needs_something_to_differentiate() -> None:
    with pytest.raises(ArgumentError, match="expected a float among the arguments"):
        graphc.check_grads(lambda i: i + 1, [np.int32([1])])
    with pytest.raises(ArgumentError, match="expected an order of 1 or more, got 0"):
        graphc.check_grads(lambda x: x, [np.float32([1])], order=0)
