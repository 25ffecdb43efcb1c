"""Kernels to PTX and through a launch: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.launch import launch_of
from graphc.codegen.object import compile_assembly
from graphc.codegen.target import target_from_name
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_text import parse_kernels
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.types import bool_
from ptx.assembler import assembled
from ptx.machine import Memory, Module, launch

NVPTX = target_from_name("nvptx64")


@dataclass(frozen=True)
class Built:
    """A kernel with the LLVM text and the PTX that graphc's emitter gives for it."""

    kernel: Kernel
    llvm: str
    ptx: str


def build(text: str) -> Built:
    """The last kernel of a text, through verifier, emitter and LLVM."""
    kernel = list(parse_kernels(text).values())[-1]
    verify_kernel(kernel)
    llvm = emit_kernels([kernel], NVPTX)
    return Built(kernel, llvm, assembled(compile_assembly(llvm, NVPTX)))


def scalar_bytes(kernel: Kernel, scalars: Sequence[int | float]) -> list[bytes]:
    """The scalars of a kernel as its parameters hold them."""
    types = [np.dtype(np.uint8) if v.dtype is bool_ else v.dtype.numpy for v in kernel.scalars]
    return [np.array(x, t).tobytes() for x, t in zip(scalars, types, strict=True)]


def parameters(module: Module, name: str, values: Sequence[bytes]) -> bytes:
    """The bytes of a launch's parameters, each at a multiple of its alignment."""
    result = b""
    for value, (_, size, alignment) in zip(values, module.kernels[name].params, strict=True):
        assert len(value) == size
        result += bytes(-len(result) % alignment) + value
    return result


def run(
    built: Built, arrays: Sequence[np.ndarray], scalars: Sequence[int | float] = (), ptx: str | None = None
) -> list[np.ndarray]:
    """What a launch of the kernel makes of the arrays; `ptx` takes the place of its own text. ``out`` begins undefined."""
    kernel = built.kernel
    module, memory = Module(ptx or built.ptx), Memory()
    addresses = [memory.allocate(max(1, a.nbytes)) for a in arrays]
    for address, array, buffer in zip(addresses, arrays, kernel.params, strict=True):
        if buffer.access in ("in", "inout") and array.nbytes:
            memory.write(address, array)
    values = [np.uint64(a).tobytes() for a in addresses] + scalar_bytes(kernel, scalars)
    geometry = launch_of(kernel)
    launch(
        module, kernel.name, memory, geometry.grid, geometry.block, parameters(module, kernel.name, values)
    )
    return [
        np.frombuffer(memory.read(address, a.nbytes), a.dtype).reshape(a.shape)
        for address, a in zip(addresses, arrays, strict=True)
    ]
