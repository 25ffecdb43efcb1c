"""ptxas takes what graphc emits, and nothing spills."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.assembler import AssemblyError, Usage, assemble, find_assembler, usage_from
from ptx.build import build
from ptx.samples import SAMPLES

pytestmark = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc-cu12)")
ONE_OF_EACH = {name.split()[0]: name for name in SAMPLES}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_samples_assemble_without_spills(name: str, arch: str) -> None:
    built = build(SAMPLES[name].text)
    (usage,) = (u for kernel, u in assemble(built.ptx, arch).items() if kernel == built.kernel.name)
    assert usage.spill_stores == usage.spill_loads == usage.stack_bytes == 0
    assert 1 <= usage.registers <= 64
    shared = sum(int(np.prod(shape)) * 4 for shape in _shared_shapes(name))
    assert usage.shared_bytes in (shared, shared + 1024)  # sm_90 may count what the system keeps


def _shared_shapes(name: str) -> list[tuple[int, ...]]:
    return {"block_sum": [(64,)], "tiled_product": [(8, 8), (8, 8)]}.get(name.split()[0], [])


def test_invalid_text_is_refused_in_the_assembler_s_words() -> None:
    ptx = build(SAMPLES["saxpy 33"].text).ptx.replace("fma.rn.f32", "fma.rn.f33")
    with pytest.raises(AssemblyError, match=r"module.ptx, line \d+; error\s+: Unknown modifier '.f33'"):
        assemble(ptx)


def test_figures_are_read_from_the_assembler_s_report() -> None:
    text = """ptxas info    : Function properties for big
    256 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 49152 bytes smem, 360 bytes cmem[0]"""
    assert usage_from(text) == {"big": Usage(255, 49152, 256, 12, 16)}
