"""Twenty training steps of the examples' models in PyTorch, from the same weights on the same batches.

The twin of a model is made of its layers, one by one; names and layouts are the same, so that the weights are, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import pytest
from example_models import drawn, example

import graphc
from graphc import nn, optim

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
tnn, functional = torch.nn, torch.nn.functional

STEPS = 20
# At the example's own rate rounding alone drives PyTorch's losses in f32 and f64 apart by a fifth after 20 steps.
RATES = {"residual_cnn": 0.01}
Arrays = Mapping[str, np.ndarray]


class TwinResidual(tnn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, module: object) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: object) -> object:
        return x + self.module(x)


class TwinAutoencoder(tnn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, encoder: object, decoder: object) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: object) -> object:
        return self.decoder(self.encoder(x))


class TwinNetwork(tnn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, trunk: object, head: object) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: object) -> object:
        return self.head(self.trunk(x))


class TwinHeads(tnn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, trunk: object, heads: Mapping[str, object]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, tnn.ModuleDict(heads)

    def forward(self, x: object) -> object:
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}


def twin(module: nn.Module) -> object:
    """The PyTorch module of the same layers."""
    match module:
        case nn.Sequential():
            return tnn.Sequential(*(twin(child) for _, child in module.children()))
        case nn.Residual():
            return TwinResidual(twin(module.module))
        case nn.Linear():
            outputs, inputs = module.weight.shape
            return tnn.Linear(inputs, outputs)
        case nn.Conv2d():
            outputs, inputs, *kernel = module.weight.shape
            bias = module.bias is not None
            return tnn.Conv2d(inputs, outputs, kernel, module.stride, module.padding, bias=bias)
        case nn.BatchNorm2d():
            return tnn.BatchNorm2d(len(module.weight))
        case nn.ModuleDict():
            return {name: twin(child) for name, child in module.children()}
    parts = {name: twin(child) for name, child in module.children()}
    if parts:
        kinds = {"Autoencoder": TwinAutoencoder, "Network": TwinNetwork, "Heads": TwinHeads}
        return kinds[type(module).__name__](**parts)
    leaves = {
        "Tanh": tnn.Tanh(), "ReLU": tnn.ReLU(), "Sigmoid": tnn.Sigmoid(), "Flatten": tnn.Flatten(),
        "Dropout": tnn.Dropout(0.0),
        "MaxPool2d": tnn.MaxPool2d(2), "AdaptiveAvgPool2d": tnn.AdaptiveAvgPool2d(1),
    }  # fmt: skip
    return leaves[type(module).__name__]


def twin_optimizer(ours: optim.Optimizer, parameters: object, rate: float) -> object:
    if isinstance(ours, optim.SGD):
        settings = {"momentum": ours.momentum, "weight_decay": ours.weight_decay}
        return torch.optim.SGD(parameters, rate, **settings)
    assert isinstance(ours, optim.Adam)
    return torch.optim.Adam(parameters, rate)


def both_heads(prediction: Mapping[str, object], y: Mapping[str, object]) -> object:
    weights = example("multi_task").WEIGHTS
    return sum(weights[task] * functional.cross_entropy(prediction[task], y[task]) for task in y)


LOSSES: dict[str, Callable[..., object]] = {
    "autoencoder": functional.mse_loss,
    "cnn_mnist": functional.cross_entropy,
    "multi_task": both_heads,
    "residual_cnn": functional.cross_entropy,
    "transfer": functional.cross_entropy,
    "two_moons": lambda logits, y: functional.binary_cross_entropy_with_logits(logits[:, 0], y),
}


def tensors(nest: object) -> object:
    if isinstance(nest, dict):
        return {name: tensors(part) for name, part in nest.items()}
    found = torch.tensor(nest)
    return found.long() if found.dtype == torch.int32 else found


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_twenty_steps_follow_pytorch(name: str) -> None:
    found = example("_models").MODELS[name]()
    rng = np.random.default_rng(3)
    x, y = drawn(found.inputs, 0, rng), drawn(found.targets, found.classes, rng)
    model = found.model.init(1)

    theirs = twin(model)
    state = {n: torch.tensor(np.array(a)) for n, a in {**model.parameters, **model.buffers}.items()}
    absent, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown and all(n.endswith("num_batches_tracked") for n in absent)
    rate = RATES.get(name, found.optimizer.learning_rate)
    optimizer = twin_optimizer(found.optimizer, theirs.parameters(), rate)
    batch, answers = tensors(x), tensors(y)
    expected = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = LOSSES[name](theirs(batch), answers)
        value.backward()
        optimizer.step()
        expected.append(float(value.detach()))

    step = graphc.training_entries(model, found.loss, found.optimizer, (x, y))["train_step"]
    compiled = graphc.compile(step.function, *step.specs)
    params, buffers = dict(model.parameters), dict(model.buffers)
    first = found.optimizer.init(params)
    values = []
    for _ in range(STEPS):
        new = cast(
            "dict[str, dict[str, np.ndarray]]", compiled(params, buffers, first, {}, np.float32(rate), x, y)
        )
        params, buffers, first = new["params"], new["buffers"], new["state"]
        values.append(float(cast(np.ndarray, new["loss"])))
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(values, expected, rtol=1e-3)


@pytest.mark.parametrize("landscape", ["quartic", "linear_network"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_twenty_steps_at_a_saddle_follow_pytorch(landscape: str, momentum: float) -> None:
    saddles = example("saddle_points")
    loss = getattr(saddles, landscape)
    start, key = np.float32([1.3, 0.4]), graphc.random.key(0)
    walk = saddles.make_walk(loss, saddles.make_optimizer(momentum), 0.0, STEPS)
    _, values = graphc.compile(walk, {"at": start}, key)({"at": start}, key)

    at = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.SGD([at], saddles.RATE, momentum=momentum)
    expected = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss({"at": at})  # arithmetic alone: it runs on PyTorch's tensors as it is
        value.backward()
        optimizer.step()
        expected.append(float(value.detach()))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)
