"""Compiled functions and training on a GPU, through the real runtime over the fake driver, beside the processor."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cuda_programs import f32
from ptx import fake_driver
from ptx.fake_driver import FakeCuda

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, ShapeError
from graphc.runtime.cuda import (
    CudaError,
    DeviceArray,
    asarray,
)


def test_compiled_functions_take_nests_of_device_arrays(gpu: FakeCuda) -> None:
    params = {"w": asarray(f32(8, 3)), "b": asarray(f32(3, seed=1))}
    f = graphc.compile(lambda p, x: {"y": x @ p["w"] + p["b"]}, params, graphc.f32[4, 8], target="cuda")
    x = f32(4, 8, seed=2)
    y = f(params, x)["y"]
    assert isinstance(y, DeviceArray)
    np.testing.assert_allclose(y.numpy(), x @ f32(8, 3) + f32(3, seed=1), rtol=1e-4, atol=1e-5)
    assert isinstance(f({"b": f32(3), "w": f32(8, 3)}, x)["y"], np.ndarray)
    with pytest.raises(
        ShapeError, match=r"test_cuda_training.py:\d+: .*x: expected float32\[4,8\], got float32\[5,8\]"
    ):
        f(params, asarray(f32(5, 8)))
    assert f.ptx.startswith("//") and ".target sm_80" in f.ptx
    assert gpu.launches


def test_an_error_of_the_device_names_the_line_of_python(gpu: FakeCuda) -> None:
    f = graphc.compile(lambda x: graphc.exp(x), graphc.f32[8], target="cuda")
    line = sys._getframe().f_lineno - 1
    gpu.fail["cuLaunchKernel"] = fake_driver.INVALID_VALUE
    with pytest.raises(CudaError, match=rf"test_cuda_training.py:{line}: kernel @map0: cuLaunchKernel"):
        f(f32(8))


def digits_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def digits_data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, rows).astype(np.int32)
    x = rng.standard_normal((rows, 64)) * 0.3 + np.eye(10, 64)[y]
    return x.astype(np.float32), y


def test_the_digits_training_step_gives_the_processors_losses(gpu: FakeCuda) -> None:
    model, optimizer = digits_model(), optim.SGD(0.05, momentum=0.9, weight_decay=1e-3)
    model.fill(0)

    def train(params, state, rate, x, y):  # type: ignore[no-untyped-def]
        loss, grads = graphc.value_and_grad(lambda p: nn.cross_entropy(model.apply(p, {}, x)[0], y))(params)
        return *optimizer.update(params, grads, state, rate), loss

    params = {name: array.copy() for name, array in model.parameters.items()}
    state = optimizer.init(params)
    x, y = digits_data(32 * 6, 1)
    batch, labels, rate = x[:32].copy(), y[:32].copy(), np.array(0.05, np.float32)
    specs = params, state, rate, batch, labels
    on_device = [{name: asarray(a) for name, a in arrays.items()} for arrays in (params, state)]
    bound = graphc.compile(train, *specs, target="cuda", donate=("params", "state")).bind(
        *on_device, rate, batch, labels
    )
    cpu = graphc.compile(train, *specs, donate=("params", "state"))
    for first in range(0, len(x), 32):
        batch[:], labels[:] = x[first : first + 32], y[first : first + 32]
        bound()
        expected = cpu(params, state, rate, batch, labels)[2]
        assert abs(bound.outputs[2].item() - float(expected)) < 1e-5
    for name, array in on_device[0].items():
        np.testing.assert_allclose(array.numpy(), params[name], atol=1e-5)


def test_fit_keeps_weights_on_the_device_and_learns_what_the_processor_learns(gpu: FakeCuda) -> None:
    train, held = digits_data(112, 2), digits_data(32, 3)
    seen: list[np.ndarray] = []

    def run(target: str) -> tuple[graphc.training.History, dict[str, np.ndarray]]:
        model = digits_model()
        history = graphc.fit(
            model, train, loss=nn.cross_entropy, optimizer=optim.Adam(0.003), epochs=2, batch_size=32, validation=held,
            metrics="accuracy", progress=False, target=target,
            callbacks=[lambda run: seen.append(run.params["4.bias"].copy())],
        )  # fmt: skip
        return history, model.parameters

    expected, weights = run("cpu")
    history, on_gpu = run("cuda")
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(history[name], expected[name], atol=1e-4)
    for name, array in on_gpu.items():
        np.testing.assert_allclose(array, weights[name], atol=1e-4)
    np.testing.assert_allclose(seen[2:], seen[:2], atol=1e-4)
    # 2 epochs of 3 batches and a smaller one, and one of validation: each batch goes up by one graph and its numbers down
    assert gpu.calls.count("cuGraphLaunch") == 2 * (3 + 1 + 1)
    assert gpu.calls.count("cuMemcpyDtoHAsync_v2") == 2 * 5 * 2 + 2 * len(weights)


def test_what_a_callback_writes_is_trained_on(gpu: FakeCuda) -> None:
    def stop_all(run) -> None:  # type: ignore[no-untyped-def]
        for array in run.params.values():
            array[...] = 0
        run.learning_rate = 0.0

    model = digits_model()
    graphc.fit(model, digits_data(32, 2), loss=nn.cross_entropy, optimizer=optim.SGD(0.1), epochs=2, progress=False,
               target="cuda", callbacks=[stop_all])  # fmt: skip
    assert not any(array.any() for array in model.parameters.values())


def test_fit_restores_the_last_good_weights_after_divergence(gpu: FakeCuda) -> None:
    model = digits_model()
    with pytest.raises(graphc.training.DivergedError):
        graphc.fit(model, digits_data(64, 2), loss=nn.cross_entropy, optimizer=optim.SGD(1e38), epochs=3, progress=False,
                   target="cuda")  # fmt: skip
    assert all(np.isfinite(array).all() for array in model.parameters.values())


def test_fit_checks_labels_before_anything_runs(gpu: FakeCuda) -> None:
    x, y = digits_data(64, 2)
    y[5] = 10
    with pytest.raises(ArgumentError, match=r"labels|row 5"):
        graphc.fit(
            digits_model(),
            (x, y),
            loss=nn.cross_entropy,
            optimizer=optim.SGD(0.1),
            target="cuda",
            progress=False,
        )
    assert not gpu.launches


def test_dropout_draws_the_same_numbers_on_the_device(gpu: FakeCuda) -> None:
    def run(target: str) -> list[float]:
        model = nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))
        history = graphc.fit(
            model, digits_data(48, 2), loss=nn.cross_entropy, optimizer=optim.SGD(0.1), epochs=2, batch_size=16,
            progress=False, target=target,
        )  # fmt: skip
        return history["loss"]

    np.testing.assert_allclose(run("cuda"), run("cpu"), rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_fit_in_mixed_precision_learns_by_tensor_cores_what_the_processor_learns(
    gpu: FakeCuda, precision: str
) -> None:
    def run(target: str) -> graphc.training.History:
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        return graphc.fit(
            model, digits_data(64, 2), loss=nn.cross_entropy, optimizer=optim.SGD(0.05, momentum=0.9), epochs=2,
            target=target, precision=precision, progress=False,
        )  # fmt: skip

    here, there = run("cpu"), run("cuda")
    assert "mma.sync" in there.step.ptx
    np.testing.assert_allclose(there["loss"], here["loss"], rtol=5e-3)
