"""The models of the examples with their losses, optimisers and a batch's types, for tests and benchmarks.

In: nothing. Out: `MODELS`, by the example's name; each is made when it is asked for. Models come without dropout and noise, so
that other libraries can follow their training step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import autoencoder
import cnn_mnist
import multi_task
import residual_cnn
import transfer
import two_moons

import graphc
from graphc import f32, i32, nn, optim
from graphc.ir.types import TensorType


@dataclass(frozen=True)
class Example:
    """What a training step is made of: `inputs` and `targets` are the types of a batch; `classes` of integer targets."""

    model: nn.Module
    loss: Callable[..., graphc.Array]
    optimizer: optim.Optimizer
    inputs: TensorType
    targets: TensorType | dict[str, TensorType]
    classes: int | dict[str, int] = 0


def _images(count: int) -> TensorType:
    return f32[count, 1, 28, 28]


MODELS: dict[str, Callable[[], Example]] = {
    "autoencoder": lambda: Example(
        autoencoder.make_model(2), autoencoder.loss, autoencoder.make_optimizer(),
        f32[autoencoder.BATCH, 784], f32[autoencoder.BATCH, 784],
    ),
    "cnn_mnist": lambda: Example(
        cnn_mnist.make_model(dropout=0.0), cnn_mnist.loss, cnn_mnist.make_optimizer(),
        _images(cnn_mnist.BATCH), i32[cnn_mnist.BATCH], 10,
    ),
    "multi_task": lambda: Example(
        multi_task.make_model(), multi_task.make_loss(), multi_task.make_optimizer(), _images(multi_task.BATCH),
        dict.fromkeys(multi_task.CLASSES, i32[multi_task.BATCH]), multi_task.CLASSES,
    ),
    "residual_cnn": lambda: Example(
        residual_cnn.make_model(), residual_cnn.loss, residual_cnn.make_optimizer(),
        _images(residual_cnn.BATCH), i32[residual_cnn.BATCH], 10,
    ),
    "transfer": lambda: Example(
        transfer.make_model(), transfer.loss, transfer.make_optimizer(),
        _images(transfer.BATCH), i32[transfer.BATCH], 5,
    ),
    "two_moons": lambda: Example(
        two_moons.make_model(), two_moons.loss, two_moons.make_optimizer(), f32[50, 2], f32[50],
    ),
}  # fmt: skip
