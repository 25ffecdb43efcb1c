"""Loops, branches and convolutions in ONNX: Scan, If, Loop and Conv give the interpreter's numbers in another runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import Array, f32, nn
from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.onnx_export import onnx_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(5)
H = np.abs(RNG.normal(size=(2, 4))).astype(np.float32)
W = RNG.normal(size=(4, 4)).astype(np.float32)
X = RNG.normal(size=(5, 2, 4)).astype(np.float32)
Function = Callable[..., object]


def same(graph: Graph, *arrays: np.ndarray) -> set[str]:
    """Asserts equal results; gives the operators of the outermost graph."""
    model = onnx_model(graph)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    got = session.run(None, dict(zip(names, arrays, strict=True)))
    for g, want in zip(got, interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(g, want, rtol=2e-5, atol=2e-6)
    return {node.op_type for node in model.graph.node}


def forward(h: Array, w: Array, x: Array) -> object:
    def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = graphc.tanh(h @ w + x)
        return h, h[0]

    return graphc.scan(step, h, x)


def backward(h: Array, w: Array, x: Array) -> object:
    return graphc.scan(lambda c, x: (c * 0.5 + x, (c, x.sum())), h, x, reverse=True)


def without_xs(h: Array, w: Array, x: Array) -> object:
    return graphc.scan(
        lambda c, _: ((graphc.tanh(c[0] @ w), c[1] + 1), None), (h, 0), length=3, reverse=True
    )[0]


def counted(h: Array, w: Array, x: Array) -> object:
    return graphc.scan(lambda c, _: (c + 1, c * c), np.int32(2), length=4, reverse=True)


def no_steps(h: Array, w: Array, x: Array) -> object:
    return graphc.scan(lambda c, x: (c + x, x), h, x[:0])


def gradient(h: Array, w: Array, x: Array) -> object:
    return graphc.grad(lambda w: (graphc.scan(lambda h, x: (graphc.tanh(h @ w + x), h), h, x)[1] ** 2).sum())(
        w
    )


def remade(h: Array, w: Array, x: Array) -> object:
    return graphc.scan(graphc.checkpoint(lambda h, x: (graphc.sin(h @ w) + x, h)), h, x)


def branch(h: Array, w: Array, x: Array) -> object:
    return graphc.cond(h.sum() > 0, lambda: (h @ w, x[0]), lambda: (h, h + 1))


def stopped(h: Array, w: Array, x: Array) -> object:
    return graphc.while_loop(lambda c: c[1] < 3, lambda c: (graphc.tanh(c[0] @ w), c[1] + 1), (h, 0))


def never(h: Array, w: Array, x: Array) -> object:
    return graphc.while_loop(lambda c: c.sum() > 1e9, lambda c: c * 2, h)


def nested(h: Array, w: Array, x: Array) -> object:
    def inner(c: Array, row: Array) -> tuple[Array, Array]:
        c = graphc.cond(c.sum() > 0, lambda: c - row * w[0], lambda: c + row)  # type: ignore[assignment]
        return c, c

    return graphc.scan(lambda c, rows: graphc.scan(inner, c, rows), h[0], x)


@pytest.mark.parametrize(
    ("function", "operator"),
    [(forward, "Scan"), (backward, "Scan"), (without_xs, "Scan"), (counted, "Scan"), (gradient, "Scan"), (remade, "Scan"),
     (nested, "Scan"), (branch, "If"), (stopped, "Loop"), (never, "Loop"), (no_steps, "Identity")],
)  # fmt: skip
def test_loops_and_branches_mean_the_same(function: Function, operator: str) -> None:
    graph = graphc.trace(function, H, W, X)
    for sign in (1, -1):
        assert operator in same(graph, sign * H, W, X)


def test_a_fused_loop_is_opened() -> None:
    compiled = graphc.compile(forward, H, W, X)
    assert "Scan" in same(compiled.fused, H, W, X)


def test_a_recurrent_layer_is_a_scan() -> None:
    model = nn.LSTM(3, 4, bidirectional=True)
    graph = graphc.trace(model, f32[5, 2, 3])
    weights = [np.asarray(model.parameters[name]) for name in graph.input_names[1:]]
    assert "Scan" in same(graph, RNG.normal(size=(5, 2, 3)).astype(np.float32), *weights)


def test_ops_in_loops_without_a_counterpart_are_told_and_may_be_custom() -> None:
    graph = graphc.trace(lambda x: graphc.scan(lambda c, x: (c + graphc.log1p(x), c), 0.0, x), f32[4])
    with pytest.raises(CompileError, match=r"got log1p \(1, first at .*\); custom_ops=True"):
        onnx_model(graph)
    model = onnx_model(graph, custom_ops=True)
    (loop,) = (node for node in model.graph.node if node.op_type == "Scan")
    assert ("log1p", "graphc") in {(n.op_type, n.domain) for n in loop.attribute[0].g.node}


def layer(model: nn.Module, *shape: int) -> tuple[Graph, list[np.ndarray]]:
    graph = graphc.trace(model, f32[shape])
    weights = [np.asarray(model.parameters[name]) for name in graph.input_names[1:]]
    return graph, [RNG.normal(size=shape).astype(np.float32), *weights]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(3, 4, 3), (2, 3, 9)),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), (2, 3, 8, 8)),
        (nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(2, 1), padding=(2, 0)), (2, 4, 9, 7)),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), (1, 4, 8, 8)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 4)),
    ],
)
def test_convolutions_are_conv(model: nn.Module, shape: tuple[int, ...]) -> None:
    graph, arrays = layer(model, *shape)
    found = same(graph, *arrays)
    assert "Conv" in found and not found & {"GatherElements", "Einsum", "MatMul"}
    compiled = graphc.compile(graph)
    assert "Conv" in same(compiled.fused, *arrays)


def test_the_gradient_of_a_convolution_is_convolutions() -> None:
    model = nn.Conv2d(2, 3, 3, padding=1)
    _, arrays = layer(model, 2, 2, 6, 6)

    def loss(x: Array, w: Array, b: Array) -> Array:
        return (model.apply({"weight": w, "bias": b}, {}, x)[0] ** 2).sum()

    assert "Conv" in same(graphc.trace(graphc.grad(loss, wrt=(0, 1)), *arrays), *arrays)


@pytest.mark.parametrize(
    ("model", "shape", "operator"),
    [
        (nn.AvgPool2d(2, padding=1), (2, 3, 8, 8), "AveragePool"),
        (nn.AvgPool1d(3, stride=1), (2, 3, 8), "AveragePool"),
        (nn.MaxPool2d(3, stride=2, padding=1), (1, 3, 8, 8), "GatherElements"),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 5, 5), "GatherElements"),
    ],
)
def test_pooling_and_transposed_convolutions_mean_the_same(
    model: nn.Module, shape: tuple[int, ...], operator: str
) -> None:
    graph, arrays = layer(model, *shape)
    assert operator in same(graph, *arrays)


def test_windows_of_channels_last_and_of_each_row_its_weights_are_conv() -> None:
    def channels_last(x: Array, w: Array) -> Array:
        rows = graphc.stack([x[:, k : k + 6] for k in range(3)], axis=2)
        return graphc.tensordot(rows, w, axes=((2, 3), (0, 1)))

    x, w = RNG.normal(size=(2, 8, 3)).astype(np.float32), RNG.normal(size=(3, 3, 4)).astype(np.float32)
    same(graphc.trace(channels_last, x, w), x, w)
