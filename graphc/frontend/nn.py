"""`graphc.nn`: modules, layers, activation functions, losses and initialisers under one name.

In: the modules of the frontend that define them. Out: their public names; nothing is defined here.
"""

from __future__ import annotations

from graphc.frontend import init
from graphc.frontend.activations import gelu, leaky_relu, log_softmax, relu, sigmoid, softmax, softplus, tanh
from graphc.frontend.layers import (
    GELU,
    Flatten,
    LeakyReLU,
    Linear,
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)
from graphc.frontend.losses import accuracy, binary_cross_entropy_with_logits, cross_entropy, mse
from graphc.frontend.modules import Module, Sequential
from graphc.frontend.parameters import Buffer, Parameter

__all__ = [
    "GELU",
    "Buffer",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "accuracy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gelu",
    "init",
    "leaky_relu",
    "log_softmax",
    "mse",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
]
