"""ONNX files: accepted by the checker, the same numbers in another runtime, and a clear list of what can't be said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import bool_, f32, i32, nn
from graphc.errors import ArtifactError, CompileError, GraphcError
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.loc import Loc
from graphc.ir.opdef import REGISTRY, OpDef
from graphc.ir.types import DType, TensorType, dtype_of
from graphc.onnx_export import _RULES, _SAME, onnx_model, to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_model(graph).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def mlp_loss() -> tuple[Graph, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5))
    graph = graphc.trace(lambda x, y: nn.cross_entropy(model(x), y), f32[4, 8], i32[4])
    x, y = rng.normal(size=(4, 8)).astype(np.float32), np.array([0, 4, 2, 1], np.int32)
    parameters = [np.asarray(p) for p in model.parameters.values()]
    by_name = dict(zip(model.parameters, parameters, strict=True))
    return graph, [x, y, *(by_name[n] for n in graph.input_names[2:])]


def test_mlp_with_cross_entropy_gives_the_same_loss_in_another_runtime(tmp_path: Path) -> None:
    graph, arrays = mlp_loss()
    to_onnx(graph, tmp_path / "mlp.onnx")
    onnx.checker.check_model(str(tmp_path / "mlp.onnx"), full_check=True)
    np.testing.assert_allclose(run(graph, arrays)[0], interpret(graph, arrays)[0], rtol=1e-5)


def test_a_fused_training_step_is_opened_and_gives_the_same_numbers() -> None:
    def step(w, x, y):  # type: ignore[no-untyped-def]
        loss, g = graphc.value_and_grad(lambda w: nn.cross_entropy(graphc.tanh(x @ w), y))(w)
        return loss, w - 0.1 * g

    compiled = graphc.compile(step, f32[6, 3], f32[4, 6], i32[4])
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    arrays = [w, x, np.array([0, 1, 2, 0], np.int32)]
    for got, want in zip(run(compiled.fused, arrays), compiled.flat(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def samples(op: OpDef, dtype: DType) -> list[tuple[Graph, list[np.ndarray]]]:
    found = []
    for sample in op.samples(np.random.default_rng(3), dtype):
        build = Builder()
        inputs = [
            build.input(TensorType(dtype_of(a.dtype), a.shape), f"x{i}") for i, a in enumerate(sample.arrays)
        ]
        node = build.emit(op, inputs, sample.attrs)  # type: ignore[arg-type]
        found.append((build.graph(op.name, node.results), list(sample.arrays)))
    return found


@pytest.mark.parametrize("name", sorted({*_SAME, *_RULES}))
def test_every_op_that_is_written_means_the_same(name: str) -> None:
    op = REGISTRY[name]
    tried = 0
    for dtype in (f32, i32, bool_):
        if dtype not in (op.dtypes or (f32,)):
            continue
        for graph, arrays in samples(op, dtype):
            if name in ("gather", "scatter_add"):  # ONNX leaves an index out of range undefined
                arrays[1] = np.asarray(arrays[1] % arrays[0].shape[graph.nodes[0].int("axis")])
            if name == "argsort":  # and so the place of NaN
                arrays[0] = np.nan_to_num(arrays[0], nan=0.5) if dtype.is_float else arrays[0]
            try:
                got = run(graph, arrays)
            except CompileError:
                assert name == "pad"  # between the elements: refused
                continue
            except Exception as error:  # the runtime lacks the op for this type: the file itself was checked
                if "NOT_IMPLEMENTED" in str(error) or "Could not find an implementation" in str(error):
                    continue
                raise
            tried += 1
            for g, want in zip(got, interpret(graph, arrays), strict=True):
                np.testing.assert_allclose(g, want, rtol=2e-5, atol=2e-6, err_msg=str(graph))
    assert tried, f"no sample of {name} was run"


def unsayable() -> Graph:
    build = Builder()
    x = build.input(f32[2], "x")
    y = build.log1p(x, loc=Loc("model.py", 7))
    return build.graph("f", [build.mod(y, build.log1p(build.exp(x)))])


def test_ops_without_a_counterpart_are_listed_with_number_and_line() -> None:
    with pytest.raises(
        CompileError, match=r"got log1p \(2, first at model.py:7\), mod \(1\); custom_ops=True"
    ):
        onnx_model(unsayable())


def test_custom_ops_are_nodes_of_our_domain() -> None:
    model = onnx_model(unsayable(), custom_ops=True)
    assert [(n.op_type, n.domain) for n in model.graph.node] == [
        ("log1p", "graphc"), ("Exp", ""), ("log1p", "graphc"), ("mod", "graphc"), ("Identity", ""),
    ]  # fmt: skip
    assert model.graph.node[0].doc_string == 'loc("model.py":7)'


def test_names_of_inputs_and_outputs_are_kept(tmp_path: Path) -> None:
    build = Builder()
    x = build.input(f32[2], 'a "b" <c>')
    model = onnx_model(build.graph("f", [build.neg(x), x], output_names=["y", 'a "b" <c>']))
    assert [i.name for i in model.graph.input] == ['a "b" <c>']
    assert [o.name for o in model.graph.output] == ["y", 'a "b" <c>.2']


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = mlp_loss()
    with pytest.raises(ArtifactError, match="expected a writable file"):
        to_onnx(graph, tmp_path / "nowhere" / "f.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GraphcError, match=r"pip install graphc\[onnx\]"):
        to_onnx(graph, tmp_path / "f.onnx")
    assert list(tmp_path.iterdir()) == []
