"""The second engine: the samples, and that both engines agree bit for bit on them."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.build import build, run
from ptx.host_engine import HostEngine, available, host_text
from ptx.samples import SAMPLES, block_sum

pytestmark = pytest.mark.skipif(not available(), reason="needs a C library with swapcontext")


@pytest.mark.parametrize("name", [n for n in SAMPLES if not n.startswith("saxpy 10")])
def test_both_engines_agree_bit_for_bit(name: str, rng: np.random.Generator) -> None:
    sample = SAMPLES[name]
    built = build(sample.text)
    arguments = sample.arguments(rng)
    device = run(built, arguments)[-1]
    HostEngine(built.llvm, built.kernel).run(arguments)
    assert device.tobytes() == arguments[-1].tobytes()


def test_a_barrier_that_some_threads_skip_is_reported(rng: np.random.Generator) -> None:
    sample = block_sum(3, 31)
    built = build(sample.text.replace("      barrier\n", "      if %t < 63 { barrier }\n", 1))
    with pytest.raises(RuntimeError, match="kernel @block_sum: some threads never reach"):
        HostEngine(built.llvm, built.kernel).run(sample.arguments(rng))


def test_operations_without_a_replacement_are_refused() -> None:
    kernel = build(block_sum(1, 1).text).kernel
    with pytest.raises(ValueError, match=r"got llvm\.nvvm\.redux\.sync\.add"):
        host_text("call i32 @llvm.nvvm.redux.sync.add(i32 %a, i32 -1)", kernel)
