"""Random kernels give the same bits in the interpreter of PTX and in machine code of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ptx.build import build, run
from ptx.host_engine import HostEngine, available
from ptx.random_kernels import RandomKernel, random_kernels

pytestmark = pytest.mark.skipif(not available(), reason="needs a C library with swapcontext")


def agree(random: RandomKernel) -> None:
    """Equal to the bit, but for what kind of NaN."""
    built = build(random.text)
    arguments = random.arguments()
    device = run(built, arguments)
    HostEngine(built.llvm, built.kernel).run(arguments)
    for buffer, one, two in zip(built.kernel.params, device, arguments, strict=True):
        bits = np.dtype(f"u{one.itemsize}")
        different = one.view(bits) != two.view(bits)
        if one.dtype.kind == "f":
            different &= ~(np.isnan(one) & np.isnan(two))
        assert not different.any(), (
            buffer.name,
            np.flatnonzero(different)[:5],
            one[different][:5],
            two[different][:5],
        )


@settings(max_examples=60)
@given(random_kernels())
def test_random_kernels_run_alike(random: RandomKernel) -> None:
    agree(random)


@pytest.mark.slow
@settings(max_examples=3000)
@given(random_kernels())
def test_many_random_kernels_run_alike(random: RandomKernel) -> None:
    agree(random)
