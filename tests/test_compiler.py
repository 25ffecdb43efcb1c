"""The driver: structures in and out, donation, stages, dumps, errors with the caller's line."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.compiler import CompiledFunction
from graphc.config import config
from graphc.errors import ArgumentError, DTypeError, ShapeError, TargetError
from graphc.ir.files import load_graph
from graphc.ir.interp import interpret
from graphc.ir.kernel_text import parse_kernels
from graphc.ir.plan import run_plan

X = np.float32([[1, 2, 3], [4, 5, 6]])
Pair = dict[str, graphc.Array]


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def descend(params: Pair, state: Pair, rate: graphc.Array) -> tuple[Pair, Pair, graphc.Array]:
    new_state = {k: 0.5 * state[k] + params[k] for k in params}
    new_params = {k: params[k] - rate * new_state[k] for k in params}
    return new_params, new_state, sum(graphc.sum(v) for v in params.values())


def arguments() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.float32]:
    params = {"w": X.copy(), "b": np.float32([7, 8])}
    return params, {k: np.ones_like(v) for k, v in params.items()}, np.float32(0.1)


def test_nested_arguments_and_results_keep_their_structure() -> None:
    f = graphc.compile(lambda d, pair: {"sum": d["x"] + pair[0], "rest": [pair[1]]}, {"x": X}, (X, X))
    result = f({"x": X}, (X, 2 * X))
    np.testing.assert_array_equal(result["sum"], 2 * X)
    np.testing.assert_array_equal(result["rest"][0], 2 * X)


@pytest.mark.parametrize("target", ["cpu", "interpreter"])
def test_donated_leaves_are_paired_by_path_and_updated_in_place(target: str) -> None:
    params, state, rate = arguments()
    step = graphc.compile(descend, params, state, rate, donate=("params", "state"), target=target)
    new_params, new_state, total = step(params, state, rate)
    assert new_params["w"] is params["w"] and new_state["b"] is state["b"]
    assert total == X.sum() + 15
    np.testing.assert_allclose(state["b"], [7.5, 8.5])
    np.testing.assert_allclose(params["b"], [6.25, 7.15], rtol=1e-6)
    np.testing.assert_allclose(params["w"], X - 0.1 * (0.5 + X), rtol=1e-6)


def test_donating_by_position_is_donating_by_name() -> None:
    params, state, rate = arguments()
    named = graphc.compile(descend, params, state, rate, donate=("params",))
    assert named.info.donated == graphc.compile(descend, params, state, rate, donate=(0,)).info.donated != ()


@pytest.mark.parametrize("target", ["cpu", "interpreter"])
def test_bind_runs_nothing_until_it_is_called(target: str) -> None:
    params, state, rate = arguments()
    step = graphc.compile(descend, params, state, rate, donate=("params", "state"), target=target)
    bound = step.bind(params, state, np.asarray(rate))
    np.testing.assert_array_equal(params["w"], X)
    bound()
    first = params["w"].copy()
    bound()
    assert not np.array_equal(first, X) and not np.array_equal(first, params["w"])
    assert bound.outputs[0]["w"] is params["w"]


def test_equal_graphs_share_one_program_and_others_do_not() -> None:
    f = graphc.compile(lambda x: x + 1, X)
    assert graphc.compile(lambda x: x + 1, X)._program is f._program
    assert graphc.compile(lambda x: x + 2, X)._program is not f._program
    assert graphc.compile(lambda x: x + 1, X, target="x86-64")._program is not f._program


def test_every_stage_computes_the_same_and_is_there_to_read() -> None:
    f = graphc.compile(lambda x: graphc.tanh(x @ x.T).sum(axis=0), X)
    want = np.tanh(X @ X.T).sum(0)
    assert list(f.stages) == ["traced", "rewritten", "simplified", "grouped", "recomputed", "fused"]
    for graph in f.stages.values():
        np.testing.assert_allclose(interpret(graph, [X])[0], want, rtol=1e-6)
    np.testing.assert_allclose(f(X), want, rtol=1e-6)
    assert [k.name for k in f.kernels] == ["contract0"]
    assert "call @contract0" in str(f.plan) and "define i32 @" in f.llvm and ".text" in f.asm
    assert set(f.compile_seconds) == {
        "trace",
        "import",
        "cache",
        "passes",
        "verify",
        "schedule",
        "emit",
        "llvm",
        "load",
    }


def test_the_search_for_garbage_is_as_it_was_after_compiling() -> None:
    def fails(x: graphc.Array) -> graphc.Array:
        return x + 1

    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            graphc.compile(lambda x: x + 17, X)
            with pytest.raises(TargetError):
                graphc.compile(fails, X, target="wasm32")
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def test_interpreted_functions_have_no_code_to_show() -> None:
    f = graphc.compile(lambda x: x + 1, X, target="interpreter")
    np.testing.assert_array_equal(f(X), X + 1)
    with pytest.raises(ArgumentError, match="interpreted; compile for a target"):
        _ = f.llvm


def test_a_graph_compiles_as_it_is() -> None:
    f = graphc.compile(graphc.trace(lambda x, y: x * y, X, X))
    assert isinstance(f, CompiledFunction)
    np.testing.assert_array_equal(f(X, X), X * X)
    with pytest.raises(ArgumentError, match="expected no specs, got 1"):
        graphc.compile(graphc.trace(lambda x: x, X), X)


def test_dumps_are_numbered_and_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    config.cache_clear()
    try:
        f = graphc.compile(lambda x: graphc.exp(x) * np.float32([1, 2, 3]), X, name="dumped")
    finally:
        monkeypatch.undo()
        config.cache_clear()
    (folder,) = tmp_path.iterdir()
    assert [p.name for p in sorted(folder.iterdir()) if p.suffix != ".npz"] == [
        "00-traced.gir",
        "01-rewritten.gir",
        "02-simplified.gir",
        "03-grouped.gir",
        "04-recomputed.gir",
        "05-fused.gir",
        "06-kernels.txt",
        "07-plan.txt",
        "08-program.ll",
        "09-program.s",
    ]
    assert load_graph(folder / "05-fused.gir") == f.fused
    assert list(parse_kernels((folder / "06-kernels.txt").read_text())) == ["map0"]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f: f(), ArgumentError, "f: expected 1 arguments, got 0"),
        (lambda f: f(X[:1]), ShapeError, "f: x: expected float32[2,3], got float32[1, 3]"),
        (lambda f: f(X.astype(np.float64)), DTypeError, "f: x: expected float32[2,3], got float64[2, 3]"),
        (lambda f: f([X]), ArgumentError, "f.0: expected an array, got a list of 1"),
    ],
)
def test_wrong_arguments_name_the_callers_line(call, error, text: str) -> None:  # type: ignore[no-untyped-def]
    f = graphc.compile(lambda x: x + 1, X, name="f")
    with pytest.raises(error) as caught:
        call(f)
    assert str(caught.value) == f"{__file__}:{call.__code__.co_firstlineno}: {text}"


def test_donation_that_no_output_can_take_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"donate: x: expected an output of f32\[2,3\]"):
        graphc.compile(lambda x: x.sum(), X, donate=("x",))
    with pytest.raises(ArgumentError, match="donate: expected some of x, got 'y'"):
        graphc.compile(lambda x: x + 1, X, donate=("y",))


@pytest.mark.parametrize("target", ["wasm32", "nvptx64", "cortex-m7"])
def test_a_target_that_can_not_run_here_is_refused(target: str) -> None:
    with pytest.raises(
        TargetError, match=rf"expected a target that runs on this machine \(.*got {target}"
    ) as caught:
        graphc.compile(lambda x: x + 1, X, target=target)
    assert f"{__file__}:{line() - 1}:" in str(caught.value)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
def test_narrower_vectors_give_the_same_numbers(target: str) -> None:
    def f(x: graphc.Array) -> graphc.Array:
        return graphc.tanh(x @ x.T) + graphc.exp(-x).sum(axis=1)

    x = np.random.default_rng(0).normal(size=(37, 37)).astype(np.float32)
    np.testing.assert_allclose(
        graphc.compile(f, x, target=target)(x), graphc.compile(f, x)(x), rtol=2e-5, atol=1e-5
    )


def test_a_donated_input_may_pass_through_unchanged() -> None:
    f = graphc.compile(lambda x, y: (x, x + y), X, X, donate=("x",))
    x = X.copy()
    same, total = f(x, X)
    assert same is x
    np.testing.assert_array_equal(same, X)
    np.testing.assert_array_equal(total, 2 * X)
    np.testing.assert_array_equal(run_plan(f.plan, [X, X])[0], X)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.reshape(0, 2), (0,)),
        (lambda x: graphc.exp(x), (0, 3)),
        (lambda x: x.sum(axis=0), (0, 5)),
        (lambda x: x.mean(axis=1), (5, 0)),
        (lambda x: x @ x.T, (0, 4)),
        (lambda x: x @ x.T, (4, 0)),
        (lambda x: graphc.concat([x, graphc.ones((2, 3))]), (0, 3)),
        (lambda x: graphc.take(x, np.zeros(0, np.int32), axis=0), (3,)),
        (lambda x: x.argmax(axis=1), (0, 3)),
        (lambda x: graphc.pad(x, ((1, 1),)), (0,)),
        (lambda x: graphc.grad(lambda y: (y @ y.T).sum())(x), (4, 0)),
        (lambda x: x + 1, ()),
    ],
)
def test_arrays_without_elements_or_dimensions_compile(function: Callable, shape: tuple[int, ...]) -> None:
    graph = graphc.trace(function, graphc.f32[shape])
    x = np.ones(shape, np.float32)
    (got,), (want,) = graphc.compile(graph).flat(x), interpret(graph, [x])
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
