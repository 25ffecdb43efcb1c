"""What kernels mean that a GPU can't do is refused when they are compiled for one."""

from __future__ import annotations

import pytest

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.target import target_from_name
from graphc.errors import CompileError
from graphc.ir.kernel_text import parse_kernel

NVPTX, HOST = target_from_name("nvptx64"), target_from_name("x86-64")


def test_a_store_outside_of_the_threads_would_be_done_by_all() -> None:
    kernel = parse_kernel(
        "kernel @k(%x: f32[4] inout, %y: f32[4,32] out) { for %b = 0 to 4 step 1 block { store %x[%b] = load %x[%b] * 2.0 "
        "for %t = 0 to 32 step 1 thread { store %y[%b, %t] = 1.0 } } }"
    )
    with pytest.raises(
        CompileError, match=r"kernel @k: expected stores inside of the loops over threads, got one to %x"
    ):
        emit_kernels([kernel], NVPTX)
    assert "@k" in emit_kernels([kernel], HOST)


def test_atomic_steps_on_bytes_would_reach_beyond_the_buffer() -> None:
    kernel = parse_kernel(
        "kernel @k(%x: u8[33] in, %y: u8[3] inout) { for %t = 0 to 33 step 1 thread { atomic add %y[%t % 3] = load %x[%t] } }"
    )
    with pytest.raises(CompileError, match="expected an atomic operation on 32 or 64 bits on a GPU, got u8"):
        emit_kernels([kernel], NVPTX)
    assert "atomicrmw" in emit_kernels([kernel], HOST)
