"""A training step that the tests of the viewer share: two linear layers, with a GELU between them."""

from __future__ import annotations

from functools import cache

import graphc
from graphc import f32, i32, nn
from graphc.compiler import CompiledFunction

model = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 10))


def loss(params, x, y):
    logits, _ = model.apply(params, {}, x)
    return nn.cross_entropy(logits, y)


def step(params, x, y, rate):
    value, gradients = graphc.value_and_grad(loss)(params, x, y)
    return value, {name: params[name] - rate * gradients[name] for name in params}


@cache
def training_step() -> CompiledFunction:
    """The compiled step; its parameters are donated."""
    return graphc.compile(step, model.parameters, f32[8, 16], i32[8], f32[()], donate=["params"])
