"""Rows that are read where they lie and, through a view, elsewhere: what is kept of a row is of its own place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_random_graphs import assert_close

import graphc
from graphc.frontend.array import Array
from graphc.ir.interp import interpret
from ptx.programs import build_program


def softmax_of_a_transposed(x: Array) -> Array:
    e = graphc.swapaxes(graphc.exp(x), 1, 2)
    return e / e.sum(axis=2, keepdims=True)


def both_ways(x: Array) -> Array:
    e = graphc.exp(x)
    both = e + graphc.swapaxes(e, 1, 2)
    return both / both.sum(axis=2, keepdims=True)


def flipped(x: Array) -> Array:
    e = graphc.flip(graphc.exp(x), axis=2)
    return e / e.sum(axis=2, keepdims=True)


def largest_of_a_transposed(x: Array) -> Array:
    t = graphc.swapaxes(x, 1, 2)
    return t - graphc.max(t, axis=2, keepdims=True)


@pytest.mark.parametrize("size", [4, 33])
@pytest.mark.parametrize("function", [softmax_of_a_transposed, both_ways, flipped, largest_of_a_transposed])
def test_a_square_that_a_later_pass_reads_through_a_view(function: Callable[..., Array], size: int) -> None:
    x = np.random.default_rng(size).normal(size=(2, size, size)).astype(np.float32)
    graph = graphc.trace(function, x)
    want = interpret(graph, [x], float64=True)
    built = build_program(graph)
    assert_close(built.run([x]), want, 1e-5)
    assert_close(built.interpreted([x]), want, 1e-5)
    assert_close([graphc.compile(graph)(x)], want, 1e-5)  # type: ignore[list-item]
