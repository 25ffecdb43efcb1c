"""Mixed precision: which values are rounded, that everything else is f32, and that training goes on where f16 overflows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ptx.build import NVPTX
from ptx.programs import build_program

import graphc
from graphc import bf16, f16, f32, i32, nn, optim
from graphc.compiler import compile as compile_graph
from graphc.errors import ArgumentError
from graphc.frontend.loss_scaling import LossScaling
from graphc.frontend.tracer import trace_function
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.parser import parse
from graphc.ir.verify import verify
from graphc.passes.manager import PassRun, format_pipeline, parse_pipeline, run_pipeline
from graphc.passes.mixed import mixed
from graphc.training_task import Task

pytest.importorskip("ml_dtypes")


def test_what_contractions_read_is_rounded_and_all_else_is_not() -> None:
    """%h is stored in 16 bits for all its readers, the input %w for the contraction alone, views stay where they are."""
    before = parse("""graphc 1
graph @mlp(%x: f32[2,3], %w: f32[3,4], %v: f32[5,4]) -> (f32[2,5], f32[], f32[3,4]) {
  %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[2,4]
  %h = tanh %0 : f32[2,4]
  %1 = transpose %v {perm=[1,0]} : f32[4,5]
  %2 = contract %h, %1 {axes=[[1],[0]], batch=[[],[]]} : f32[2,5]
  %3 = reduce_sum %h {axes=[0,1]} : f32[]
  %4 = add %w, %w : f32[3,4]
  return %2, %3, %4
}""")
    after = parse("""graphc 1
graph @mlp(%x: f32[2,3], %w: f32[3,4], %v: f32[5,4]) -> (f32[2,5], f32[], f32[3,4]) {
  %0 = cast %x : f16[2,3]
  %1 = cast %0 : f32[2,3]
  %2 = cast %w : f16[3,4]
  %3 = cast %2 : f32[3,4]
  %4 = contract %1, %3 {axes=[[1],[0]], batch=[[],[]]} : f32[2,4]
  %h = tanh %4 : f32[2,4]
  %5 = cast %h : f16[2,4]
  %6 = cast %5 : f32[2,4]
  %7 = cast %v : f16[5,4]
  %8 = cast %7 : f32[5,4]
  %9 = transpose %8 {perm=[1,0]} : f32[4,5]
  %10 = contract %6, %9 {axes=[[1],[0]], batch=[[],[]]} : f32[2,5]
  %11 = reduce_sum %6 {axes=[0,1]} : f32[]
  %12 = add %w, %w : f32[3,4]
  return %10, %11, %12
}""")
    assert mixed(before, "f16") == after
    (only,) = parse_pipeline("mixed{dtype=f16}")
    assert format_pipeline([only]) == "mixed{dtype=f16}" and only(before) == after
    verify(after)


def test_an_output_is_not_rounded_where_a_contraction_reads_it_too() -> None:
    build = Builder()
    x = build.exp(build.input(f32[4, 4], "x"))
    product = build.contract(x, x, axes=((1,), (0,)), batch=((), ()))
    graph = mixed(build.graph("f", [x, product]))
    array = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    got = compile_graph(graph).flat(array)
    np.testing.assert_allclose(got[0], np.exp(array), rtol=1e-6)
    rounded = np.exp(array).astype(bf16.numpy).astype(np.float64)
    np.testing.assert_allclose(got[1], rounded @ rounded, rtol=2.0**-7)  # an exp may round to the other side


def test_other_types_and_graphs_without_contractions_stay_as_they_are() -> None:
    for dtype in (graphc.f64, i32, bf16):
        build = Builder()
        x = build.input(dtype[4, 4], "x")
        graph = build.graph("f", [build.contract(x, x, axes=((1,), (0,)), batch=((), ()))])
        assert mixed(graph) == graph
    with pytest.raises(ArgumentError, match="mixed: dtype: expected bf16 or f16, got 'f32'"):
        mixed(graph, "f32")
    with pytest.raises(
        ArgumentError, match=r"test_mixed.*mixed_precision: dtype: expected bf16 or f16, got 'i8'"
    ):
        graphc.mixed_precision(np.exp, "i8")


# ------------------------------------------------------------------------------------------------- of a whole step


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 10))
    model.fill(0)
    return model


def step_graph(model: nn.Sequential, dtype: str, mix: bool = True) -> Graph:
    def loss(params: dict[str, graphc.Array], x: graphc.Array, y: graphc.Array) -> graphc.Array:
        return nn.cross_entropy(model.apply(params, {}, x)[0], y)

    def step(params: dict[str, graphc.Array], x: graphc.Array, y: graphc.Array) -> object:
        derived = graphc.value_and_grad(loss)
        value, grads = (graphc.mixed_precision(derived, dtype) if mix else derived)(params, x, y)  # type: ignore[misc]
        return value, {name: params[name] - 0.1 * grads[name] for name in params}

    return trace_function(step, (model.parameters, f32[17, 20], i32[17]), "step").graph


def step_arrays(model: nn.Sequential) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((17, 20)).astype(np.float32), rng.integers(0, 10, 17).astype(np.int32)
    return [*model.parameters.values(), x, y]


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_step_s_products_are_mixed_and_its_weights_losses_and_gradients_are_f32(dtype: str) -> None:
    model = network()
    graph = step_graph(model, dtype)
    products = [n for n in graph.nodes if n.op.name == "contract"]
    assert len(products) == 5
    for node in graph.nodes:
        if node.op.name == "contract":
            for operand in node.operands:
                source = (
                    operand.node if operand.node.op.name == "cast" else operand.node.operands[0].node
                )  # a transpose
                assert source.op.name == "cast" and source.operands[0].dtype.name == dtype
        elif node.op.name != "cast":
            assert not any(v.dtype.is_half for v in (*node.operands, *node.results))
    assert {t.dtype for t in graph.output_types} == {f32}
    arrays = step_arrays(model)
    compiled = compile_graph(graph)
    exact = interpret(graph, arrays, float64=True)
    for got, want, wide in zip(compiled.flat(*arrays), interpret(graph, arrays), exact, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got, wide, rtol=2.0**-7, atol=2e-3)


def test_what_contractions_read_lies_in_memory_as_16_bits() -> None:
    compiled = compile_graph(step_graph(network(), "bf16"))
    for node in compiled.fused.nodes:
        if node.attrs.get("kind") == "contract":
            region = node.regions[0]
            (product,) = [n for n in region.nodes if n.op.name == "contract"]
            for operand in product.operands:
                assert operand.node.op.name == "cast"
                half = operand.node.operands[0]
                assert half.dtype is bf16
                if half.node.op.name == "cast":  # a weight, or the data: rounded where it is read
                    stored = node.operands[region.inputs.index(half.node.operands[0])]
                    assert stored in compiled.fused.inputs
    made = {v.type for n in compiled.fused.nodes for v in n.results}
    assert bf16[17, 40] in made and f32[17, 40] not in made  # the hidden layer and its cotangent


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_mixed_step_on_a_gpu_is_the_same_with_and_without_tensor_cores(dtype: str) -> None:
    model = network()
    graph, arrays = step_graph(model, dtype), step_arrays(model)
    want = interpret(graph, arrays)
    for precision in ("f32", dtype) if dtype == "bf16" else (dtype,):
        built = build_program(graph, (), replace(NVPTX, precision=precision))
        assert ("mma.sync" in built.ptx) == (precision != "f32")
        for a, b in zip(built.run(arrays), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- loss scaling


def scaling_after(scaling: LossScaling, finite: list[bool]) -> list[tuple[float, int]]:
    """The scale and the count of good steps after each step."""
    state, found = scaling.init(), []
    adapted = compile_graph(scaling.adapted, state, graphc.bool_[()])
    for good in finite:
        state = adapted(state, np.array(good))  # type: ignore[assignment]
        found.append((float(state["loss_scale"]), int(state["good_steps"])))
    return found


def test_the_scale_doubles_after_good_steps_and_halves_after_a_bad_one() -> None:
    scaling = LossScaling(initial=8.0, interval=3)
    assert scaling_after(scaling, [True, True, True, True, False, False, True]) == [
        (8, 1), (8, 2), (16, 0), (16, 1), (8, 0), (4, 0), (4, 1),
    ]  # fmt: skip
    assert scaling_after(LossScaling(initial=2.0), [False] * 3)[-1] == (1, 0)
    assert scaling_after(LossScaling(initial=2.0**24, interval=1), [True])[-1] == (2.0**24, 0)


def test_a_step_that_overflows_changes_nothing_but_the_scale() -> None:
    """A sum of squares makes cotangents of about 100: times 2^16 they are beyond f16, times 2^8 they are not."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    model.fill(0)
    task = Task(model, lambda p, y: nn.mse(p, y, "sum"), optim.SGD(1e-4, momentum=0.9), {}, precision="f16")
    params, state = model.parameters, task.init(model.parameters)
    assert set(state) == {*optim.SGD(1e-4, momentum=0.9).init(params), "loss_scale", "good_steps"}
    x, y, rate = np.ones((8, 4), np.float32), np.full((8, 1), 50, np.float32), np.float32(1e-4)
    step = compile_graph(task.step, params, {}, state, {}, rate, x, y)
    scales = []
    for _ in range(12):
        new, _, after, _, numbers = step(params, {}, state, {}, rate, x, y)  # type: ignore[misc]
        scales.append(float(after["loss_scale"]))
        skipped = after["loss_scale"] < state["loss_scale"]
        for name in params:
            assert np.array_equal(new[name], params[name]) == skipped
            assert np.array_equal(after[f"momentum.{name}"], state[f"momentum.{name}"]) == skipped
            assert np.isfinite(new[name]).all()
        assert np.isfinite(numbers["loss"])
        params, state = new, after
    assert scales[0] == 2.0**15 and 2.0**5 <= scales[-1] == scales[-2] <= 2.0**10


def test_tiny_gradients_survive_in_f16_because_the_loss_is_scaled() -> None:
    def gradient(precision: str) -> float:
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        model.load_state({name: np.ones((1, 1), np.float32) for name in model.parameters})
        task = Task(model, lambda p, y: 1e-8 * (p * y).sum(), optim.SGD(1.0), {}, precision=precision)
        x = y = np.ones((1, 1), np.float32)
        state = task.init(model.parameters)
        step = compile_graph(task.step, model.parameters, {}, state, {}, np.float32(1e6), x, y)
        new = step(model.parameters, {}, state, {}, np.float32(1e6), x, y)[0]  # type: ignore[index]
        return float(1 - new["0.weight"].item())

    assert gradient("f16") == pytest.approx(gradient("f32"), rel=1e-3)
    # without the factor the cotangent 1e-8 is below f16's smallest number
    assert mixed_gradient_without_scaling() == 0


def mixed_gradient_without_scaling() -> float:
    def loss(w: graphc.Array, v: graphc.Array, x: graphc.Array) -> graphc.Array:
        return 1e-8 * (x @ w @ v).sum()

    one = np.ones((1, 1), np.float32)
    return float(np.asarray(graphc.mixed_precision(graphc.grad(loss), "f16")(one, one, one)).item())


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_fit_learns_the_digits_as_well_as_in_f32(precision: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    data = ((digits.data / 16).astype(np.float32), digits.target)

    def trained(precision: str) -> graphc.History:
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        return graphc.fit(
            model, data, loss=nn.cross_entropy, optimizer=optim.SGD(0.1, momentum=0.9), epochs=6,
            validation=0.2, metrics="accuracy", progress=False, precision=precision,
        )  # fmt: skip

    exact, got = trained("f32"), trained(precision)
    assert got["val_accuracy"][-1] > 0.95
    assert got["val_accuracy"][-1] == pytest.approx(exact["val_accuracy"][-1], abs=0.02)
    assert got["loss"][-1] == pytest.approx(exact["loss"][-1], rel=0.1)
    assert any(n.type.dtype.name == precision for n in got.step.graph.nodes)


def test_wrong_precisions_are_refused() -> None:
    data = (np.ones((4, 2)), np.ones((4, 1)))
    for dtype, precision, text in (
        (f32, "fp16", "fit: precision: expected f32, bf16, f16, got 'fp16'"),
        (graphc.f64, "bf16", "fit: precision: expected a model of f32 for bf16, got one of f64"),
        (f16, "f16", "fit: precision: expected a model of f32 for f16, got one of f16"),
    ):
        with pytest.raises(ArgumentError, match=text):
            graphc.fit(
                nn.Sequential(nn.Linear(2, 1, dtype=dtype)), data, loss=nn.mse, optimizer=optim.SGD(0.1),
                precision=precision, progress=False,
            )  # fmt: skip


@pytest.mark.parametrize("dtype", [bf16, f16], ids=repr)
def test_a_model_of_16_bits_trains_is_saved_and_is_read_again(dtype: graphc.DType, tmp_path: object) -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 16, dtype=dtype), nn.ReLU(), nn.Linear(16, 2, dtype=dtype))

    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8))
    trained = model()
    history = graphc.fit(
        trained, (x, (x[:, 0] > 0).astype(int)), loss=nn.cross_entropy, optimizer=optim.SGD(0.3), epochs=30,
        progress=False,
    )  # fmt: skip
    assert trained.dtype is dtype and history["loss"][-1] < 0.3 < history["loss"][0]
    pytest.importorskip("safetensors")
    file = f"{tmp_path}/half.safetensors"
    trained.save(file)
    again = model().load(file)
    np.testing.assert_array_equal(np.asarray(again(x[:5])), np.asarray(trained(x[:5])))
    assert np.asarray(again(x[:5])).dtype == dtype.numpy


def test_a_pipeline_shows_the_pass_and_its_graph() -> None:
    build = Builder()
    x = build.input(f32[2, 2], "x")
    graph = build.graph("f", [build.contract(x, x, axes=((1,), (0,)), batch=((), ()))])
    runs: list[PassRun] = []
    last = run_pipeline(graph, parse_pipeline("simplify,mixed{dtype=f16},fuse"), True, runs.append)
    assert "mixed{dtype=f16}" in str(runs[1]) and "cast %x : f16[2,2]" in str(runs[1].graph)
    assert last.stage == "fused"
