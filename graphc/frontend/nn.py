"""`graphc.nn`: modules, layers, activation functions, losses and initialisers under one name.

In: the modules of the frontend that define them. Out: their public names; nothing is defined here.
"""

from __future__ import annotations

from graphc.frontend import init as init
from graphc.frontend.activations import (
    gelu as gelu,
    leaky_relu as leaky_relu,
    log_softmax as log_softmax,
    relu as relu,
    sigmoid as sigmoid,
    softmax as softmax,
    softplus as softplus,
    tanh as tanh,
)
from graphc.frontend.layers import (
    GELU as GELU,
    Flatten as Flatten,
    LeakyReLU as LeakyReLU,
    Linear as Linear,
    LogSoftmax as LogSoftmax,
    ReLU as ReLU,
    Sigmoid as Sigmoid,
    Softmax as Softmax,
    Softplus as Softplus,
    Tanh as Tanh,
)
from graphc.frontend.losses import (
    accuracy as accuracy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    cross_entropy as cross_entropy,
    mse as mse,
)
from graphc.frontend.modules import (
    Buffer as Buffer,
    Module as Module,
    Parameter as Parameter,
    Sequential as Sequential,
)
