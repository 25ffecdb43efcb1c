"""Normalisation: values and derivatives against numpy, running statistics, training, one kernel a norm."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64

RNG = np.random.default_rng(11)
EPS = 1e-5


def run(function: Callable[..., object], *args: object) -> list[np.ndarray]:
    return interpret(trace(function, *args), [np.asarray(a) for a in flatten(args)[0]])


def standardized(x: np.ndarray, axes: tuple[int, ...], eps: float = EPS) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def along(v: np.ndarray, rank: int) -> np.ndarray:
    return v.reshape(-1, *[1] * (rank - 2))


def grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return standardized(x.reshape(len(x), groups, -1), (2,)).reshape(x.shape)


def randomized(layer: nn.Module) -> nn.Module:
    for array in layer.parameters.values():
        array[...] = RNG.normal(1, 0.5, array.shape)
    return layer


LAYERS: list[tuple[nn.Module, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = [
    (nn.LayerNorm(5, dtype=f64), (3, 5), lambda x: standardized(x, (1,))),
    (nn.LayerNorm((4, 5), dtype=f64), (3, 4, 5), lambda x: standardized(x, (1, 2))),
    (nn.RMSNorm(5, dtype=f64), (3, 5), lambda x: x / np.sqrt((x * x).mean(1, keepdims=True) + 2.0**-52)),
    (
        nn.RMSNorm(5, eps=0.1, dtype=f64),
        (2, 3, 5),
        lambda x: x / np.sqrt((x * x).mean(2, keepdims=True) + 0.1),
    ),
    (nn.GroupNorm(2, 6, dtype=f64), (3, 6, 4), lambda x: grouped(x, 2)),
    (nn.GroupNorm(3, 6, dtype=f64), (2, 6), lambda x: grouped(x, 3)),
    (nn.GroupNorm(1, 4, dtype=f64), (2, 4, 3, 2), lambda x: grouped(x, 1)),
    (nn.InstanceNorm1d(3, affine=True, dtype=f64), (2, 3, 7), lambda x: standardized(x, (2,))),
    (nn.InstanceNorm2d(3, affine=True, dtype=f64), (2, 3, 4, 5), lambda x: standardized(x, (2, 3))),
    (nn.InstanceNorm3d(2, affine=True, dtype=f64), (2, 2, 2, 3, 2), lambda x: standardized(x, (2, 3, 4))),
    (nn.BatchNorm1d(4, dtype=f64), (6, 4), lambda x: standardized(x, (0,))),
    (nn.BatchNorm1d(4, dtype=f64), (3, 4, 5), lambda x: standardized(x, (0, 2))),
    (nn.BatchNorm2d(3, dtype=f64), (2, 3, 4, 5), lambda x: standardized(x, (0, 2, 3))),
    (nn.BatchNorm3d(2, dtype=f64), (2, 2, 2, 3, 2), lambda x: standardized(x, (0, 2, 3, 4))),
]
IDS = [repr(layer) + str(len(shape)) for layer, shape, _ in LAYERS]


def trained(layer: nn.Module, params: object, x: object) -> Array:
    return layer.apply(params, layer.buffers, x, train=True)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("layer", "shape", "norm"), LAYERS, ids=IDS)
def test_values_and_derivatives(
    layer: nn.Module, shape: tuple[int, ...], norm: Callable[[np.ndarray], np.ndarray]
) -> None:
    randomized(layer)
    x = RNG.normal(3, 2, shape)
    weight, bias = (layer.parameters.get(name) for name in ("weight", "bias"))
    trailing = isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
    expected = norm(x) * (weight if trailing else along(weight, x.ndim))
    if bias is not None:
        expected = expected + (bias if trailing else along(bias, x.ndim))
    np.testing.assert_allclose(
        run(lambda p, x: trained(layer, p, x), layer.parameters, x)[0], expected, rtol=1e-12, atol=1e-12
    )
    graphc.check_grads(lambda p, x: trained(layer, p, x), [layer.parameters, x], order=2)


def test_a_large_mean_does_not_cancel() -> None:
    x = (1e4 + RNG.normal(size=(4, 256))).astype(np.float32)
    layer = nn.LayerNorm(256)
    np.testing.assert_allclose(layer(x), standardized(x.astype(np.float64), (1,)), atol=2e-3)
    # the other formula, E[x²] - E[x]², is off by the variance itself here
    assert abs((x * x).mean(1, dtype=np.float32) - x.mean(1, dtype=np.float32) ** 2 - 1).max() > 1


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_follow_the_batches(momentum: float | None) -> None:
    layer = nn.BatchNorm2d(3, momentum=momentum, dtype=f64)
    mean, variance = np.zeros(3), np.ones(3)
    state = {name: array.copy() for name, array in layer.buffers.items()}
    for step in range(1, 4):
        x = RNG.normal(step, step, (4, 3, 2, 5))
        names = trace(lambda s, x: layer.apply(layer.parameters, s, x, train=True)[1], state, x).output_names
        values = run(lambda s, x: layer.apply(layer.parameters, s, x, train=True)[1], state, x)
        state = dict(zip(names, values, strict=True))
        share = 1 / step if momentum is None else momentum
        mean = (1 - share) * mean + share * x.mean((0, 2, 3))
        variance = (1 - share) * variance + share * x.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(state["running_mean"], mean, rtol=1e-13)
    np.testing.assert_allclose(state["running_var"], variance, rtol=1e-13)
    assert state["num_batches_tracked"] == 3 and state["num_batches_tracked"].dtype == np.int64
    x = RNG.normal(size=(2, 3, 2, 2))
    got, after = run(
        lambda s, x: [*layer.apply(layer.parameters, s, x)[:1], layer.apply(layer.parameters, s, x)[1]], state, x
    )[:2]  # fmt: skip
    np.testing.assert_allclose(
        got, (x - along(mean, 4)) / np.sqrt(along(variance, 4) + EPS), rtol=1e-12
    )  # prediction uses them
    np.testing.assert_array_equal(after, state["running_mean"])  # and leaves them


def test_without_tracking_prediction_uses_the_batch() -> None:
    layer = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    assert not layer.parameters and not layer.buffers
    x = RNG.normal(2, 3, (8, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x), standardized(x.astype(np.float64), (0,)), rtol=1e-4, atol=1e-5)


def test_instance_norm_tracks_means_over_the_examples() -> None:
    layer = nn.InstanceNorm1d(2, track_running_stats=True, dtype=f64)
    x = RNG.normal(1, 2, (5, 2, 6))
    mean, variance, count = run(lambda x: layer.apply({}, layer.buffers, x, train=True)[1], x)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var(2, ddof=1).mean(0), rtol=1e-13)
    assert count == 0  # as PyTorch's
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + EPS), rtol=1e-12)
    one = nn.InstanceNorm1d(2)(x[0].astype(np.float32))
    np.testing.assert_allclose(one, standardized(x[0], (1,)), rtol=1e-4, atol=1e-5)


def test_fit_trains_through_a_batch_norm() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(4, 3, (256, 4)).astype(np.float32)
    y = (x @ np.float32([0.3, -0.4, 0.1, 0]))[:, None]
    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)
    )
    history = graphc.fit(
        model, (x, y), loss=nn.mse, optimizer=optim.Adam(0.02), epochs=20, batch_size=32, progress=False
    )
    assert history["loss"][-1] < 0.15 * history["loss"][0]
    np.testing.assert_allclose(model.buffers["0.running_mean"], x.mean(0), atol=0.6)
    np.testing.assert_allclose(model.buffers["0.running_var"], x.var(0), rtol=0.2)
    assert model.buffers["0.num_batches_tracked"] == 20 * 8
    assert np.mean((model(x) - y) ** 2) < 0.1 * y.var()  # by the running statistics
    entries = graphc.trace(
        lambda p, s, x: model.apply(p, s, x)[0], model.parameters, model.buffers, f32[1, 4]
    )
    assert "0.running_var" in " ".join(entries.input_names)


def kinds(function: Callable[..., object], *specs: object) -> list[object]:
    return [n.attrs.get("kind") for n in graphc.compile(function, *specs).fused.nodes if n.op.name == "fused"]


@pytest.mark.parametrize(
    ("layer", "spec", "forward", "both"),
    [
        (nn.LayerNorm(64), f32[32, 64], 1, 2),
        (nn.LayerNorm(64), f32[4, 8, 64], 1, 2),
        (nn.RMSNorm(64), f32[32, 64], 1, 1),
        (nn.InstanceNorm2d(16), f32[8, 16, 6, 6], 1, 1),
        (nn.BatchNorm2d(16), f32[8, 16, 6, 6], 1, 3),
        (nn.Sequential(nn.GroupNorm(4, 16), nn.Flatten(), nn.ReLU()), f32[8, 16, 10], 2, 8),
    ],
    ids=["LayerNorm", "LayerNorm of 3", "RMSNorm", "InstanceNorm2d", "BatchNorm2d", "GroupNorm and ReLU"],
)
def test_a_norm_is_one_kernel_and_few_with_its_derivatives(
    layer: nn.Module, spec: object, forward: int, both: int
) -> None:
    def output(params: object, x: Array) -> Array:
        return trained(layer, params, x)

    def gradients(params: object, x: Array, w: Array) -> object:
        return graphc.grad(lambda p, x: (output(p, x).reshape(w.shape) * w).sum(), wrt=(0, 1))(params, x)

    assert kinds(output, layer.parameters, spec) == ["reduce", "map"][:forward]
    assert len(kinds(gradients, layer.parameters, spec, spec)) <= both


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.LayerNorm((3, 4)), nn.GroupNorm(3, 3)], ids=repr)
def test_on_both_targets(layer: nn.Module) -> None:
    x = RNG.normal(1, 2, (5, 3, 4)).astype(np.float32)

    def step(params: object, x: Array) -> object:
        def loss(p: object, x: Array) -> tuple[Array, object]:
            y, buffers = layer.apply(p, layer.buffers, x, train=True)  # type: ignore[arg-type]
            return (y * y * y).sum(), buffers

        return graphc.value_and_grad(loss, wrt=(0, 1), has_aux=True)(params, x)

    graph = trace(step, layer.parameters, x)
    arrays = [*layer.parameters.values(), x]
    expected = interpret(graph, arrays, float64=True)
    for got in (
        flatten(graphc.compile(step, layer.parameters, x)(layer.parameters, x))[0],
        build_program(graph).run(arrays),
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_local_response_norm() -> None:
    x = RNG.normal(0, 2, (2, 6, 3))
    for size in (1, 2, 3, 5):
        padded = np.pad(x * x, ((0, 0), (size // 2, (size - 1) // 2), (0, 0)))
        mean = sum(padded[:, s : s + 6] for s in range(size)) / size
        expected = x / (2 + 0.5 * mean) ** 0.75
        (got,) = run(lambda x, n=size: nn.LocalResponseNorm(n, 0.5, k=2)(x), x)  # type: ignore[misc]
        np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.BatchNorm1d(0), "BatchNorm1d: expected num_features of at least 1, got 0"),
        (
            lambda: nn.BatchNorm1d(3, momentum=2),
            "BatchNorm1d: expected a momentum from 0 to 1 or None, got 2",
        ),
        (lambda: nn.BatchNorm1d(3, eps=-1), "BatchNorm1d: expected eps of at least 0, got -1"),
        (lambda: nn.GroupNorm(4, 6), "GroupNorm: expected num_channels a multiple of 4, got 6"),
        (lambda: nn.LayerNorm(()), "LayerNorm: expected normalized_shape of sizes of at least 1, got ()"),
    ],
)
def test_wrong_settings_name_the_line(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ArgumentError, match=r"test_normalization\.py:\d+: " + re.escape(text)):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (nn.BatchNorm1d(3), (4, 5), "BatchNorm1d: expected [N, 3] or [N, 3, L], got [4, 5]"),
        (nn.BatchNorm2d(3), (4, 3), "BatchNorm2d: expected [N, 3, H, W], got [4, 3]"),
        (nn.LayerNorm(3), (3, 4), "layer_norm: expected [..., 3], got [3, 4]"),
        (nn.GroupNorm(2, 4), (3, 5), "GroupNorm: expected [N, 4, ...], got [3, 5]"),
        (
            nn.InstanceNorm1d(3),
            (2, 3, 1),
            "instance_norm: expected [N, C, ...] with more than one value for each channel, got [2, 3, 1]",
        ),
    ],
)
def test_wrong_shapes_name_the_line(layer: nn.Module, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ShapeError, match=r"test_normalization\.py:\d+: " + re.escape(text)):
        trace(lambda x: layer(x), f32[shape])


def test_a_channel_of_one_value_cannot_be_trained() -> None:
    layer = nn.BatchNorm1d(3)
    text = r"expected more than one value for each channel in training, got \[1, 3\]"
    with pytest.raises(ShapeError, match=text):
        trace(lambda x: layer.apply(layer.parameters, layer.buffers, x, train=True)[0], f32[1, 3])


def test_a_norm_written_with_kept_axes_is_one_kernel_too() -> None:
    def norm(x: Array) -> Array:
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        return (x - mean) / graphc.sqrt(variance + 1e-5)

    assert kinds(norm, f32[32, 64]) == ["reduce"]
    gradient = graphc.grad(lambda x, w: (norm(x) * w).sum())
    assert kinds(gradient, f32[32, 64], f32[32, 64]) == ["reduce"]
