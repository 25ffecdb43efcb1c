"""Attention and transformers: values and derivatives against numpy, masks, both targets, a model that learns to copy."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64, i32

RNG = np.random.default_rng(5)
attention = nn.scaled_dot_product_attention


def run(function: Callable[..., object], *args: object) -> list[np.ndarray]:
    return interpret(trace(function, *args), [np.asarray(a) for a in flatten(args)[0]])


def softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis; zeros where all is -inf."""
    largest = x.max(-1, keepdims=True)
    powers = np.exp(x - np.where(np.isfinite(largest), largest, 0))
    total = powers.sum(-1, keepdims=True)
    return powers / np.where(total == 0, 1, total)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    return softmax(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + bias) @ v


def tensors(dtype: type = np.float64, lengths: tuple[int, int] = (4, 6)) -> list[np.ndarray]:
    q, s = lengths
    return [RNG.normal(size=(2, 3, n, d)).astype(dtype) for n, d in ((q, 5), (s, 5), (s, 7))]


def hidden(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0.0, -np.inf)


MASKS = {
    "none": (None, 0.0),
    "floats": (m := RNG.normal(size=(4, 6)), m),
    "bools": (b := RNG.uniform(size=(3, 4, 6)) < 0.6, hidden(b)),
    "padding": (p := np.arange(6) < np.array([6, 2]).reshape(2, 1, 1, 1), hidden(p)),
    "rows that see nothing": (e := np.arange(4)[:, None] > np.array([1] * 6), hidden(e)),
}


@pytest.mark.parametrize("name", MASKS)
def test_values_and_derivatives(name: str) -> None:
    mask, bias = MASKS[name]
    q, k, v = tensors()
    (got,) = run(lambda q, k, v: attention(q, k, v, mask), q, k, v)
    np.testing.assert_allclose(got, reference(q, k, v, bias), rtol=1e-12, atol=1e-13)
    graphc.check_grads(lambda q, k, v: attention(q, k, v, mask), [q, k, v], order=2)


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient() -> None:
    mask, _ = MASKS["rows that see nothing"]
    q, k, v = tensors()
    y, (dq, dk, dv) = flatten(
        graphc.value_and_grad(lambda q, k, v: (lambda y: ((y * y).sum(), y))(attention(q, k, v, mask)), (0, 1, 2), True)(q, k, v)  # type: ignore[arg-type]
    )[0][1], None or (1, 2, 3)  # fmt: skip
    assert dq
    gradients = graphc.grad(lambda q, k, v: (attention(q, k, v, mask) ** 2).sum(), wrt=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in gradients)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(y[..., :2, :], 0)  # type: ignore[index, call-overload]
    np.testing.assert_array_equal(gradients[0][..., :2, :], 0)  # type: ignore[index]
    assert np.abs(y[..., 2:, :]).min() > 0  # type: ignore[index, call-overload]
