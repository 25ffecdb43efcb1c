"""Random numbers and unsigned words on blocks of threads: the same bits as on the processor, by both interpreters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx.assembler import assemble, find_assembler
from ptx.programs import build_program
from test_compiled_ops import Case, cases

import graphc
from graphc.codegen.target import target_from_name
from graphc.frontend import random
from graphc.ir.graph import Builder
from graphc.ir.interp import interpret
from graphc.ir.types import f32, u32

MANY = [
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "atan2",
    "cbrt",
    "log10",
    "log2",
    "exp2",
    "expm1",
    "log1p",
    "erfinv",
    "shl",
    "shr",
    "threefry0",
    "threefry1",
]
needs_ptxas = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc)")


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: random.bits(key, (3, 33)),
        lambda key: random.uniform(key, (3, 33)),
        lambda key: random.split(key, 5),
    ],
    ids=["bits", "uniform", "split"],
)
def test_draws_are_bit_for_bit_those_of_the_processor(draw: Callable) -> None:
    key = random.key(3)
    built = build_program(graphc.trace(draw, key))
    (want,) = interpret(built.graph, [key])
    np.testing.assert_array_equal(built.run([key])[0], want)
    np.testing.assert_array_equal(built.interpreted([key])[0], want)
    np.testing.assert_array_equal(graphc.compile(draw, key)(key), want)


def test_normal_numbers_are_near_those_of_the_processor() -> None:
    key = random.key(4)
    built = build_program(graphc.trace(lambda k: random.normal(k, (5, 40)), key))
    (want,) = interpret(built.graph, [key])
    np.testing.assert_allclose(built.run([key])[0], want, rtol=1e-5, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 1100), st.sampled_from(["reduce_sum", "reduce_max", "argmin"]))
def test_lanes_exchange_unsigned_words(rows: int, columns: int, op: str) -> None:
    """Numbers above 2**31 included, which are negative to a signed shuffle."""
    build = Builder()
    x = build.input(u32[rows, columns], "x")
    graph = build.graph("f", [getattr(build, op)(x, axes=(1,))])
    array = np.random.default_rng(columns).integers(0, 2**32, (rows, columns), dtype=np.uint32)
    np.testing.assert_array_equal(build_program(graph).run([array])[0], interpret(graph, [array])[0])


@needs_ptxas
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_functions_assemble_without_spills(arch: str) -> None:
    target, seen = target_from_name(f"nvptx64:{arch}"), set()
    for case in (c for p in cases([f32, u32]) for c in (p.values if hasattr(p, "values") else [p])):
        assert isinstance(case, Case)
        graph = case.graph()
        names = {n.op.name for n in graph.nodes} & set(MANY)
        if names <= seen:
            continue
        seen |= names
        for usage in assemble(build_program(graph, target=target).ptx, arch).values():
            assert usage.spill_stores == usage.spill_loads == usage.stack_bytes == 0
    assert seen == set(MANY)
