"""Programs for CUDA in tests: a traced function's PTX and launch table, an executable over a fake driver, odd kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ptx.fake_driver import FakeCuda

import graphc
from graphc.codegen.launch_table import launch_table
from graphc.codegen.target import target_from_name
from graphc.program import compile_ptx
from graphc.runtime.abi import ArrayInfo, ProgramInfo
from graphc.runtime.cuda import CudaExecutable, Device, Driver
from graphc.runtime.launches import Launch, LaunchTable, Place

TARGET = target_from_name("nvptx64")


def build(
    function: Callable[..., object], *specs: object, donated: tuple[tuple[int, int], ...] = ()
) -> tuple[str, LaunchTable]:
    """The PTX and the launch table of a function."""
    lowered, ptx = compile_ptx(graphc.trace(function, *specs), TARGET, donated, {})
    return ptx, launch_table(lowered.plan)


def cuda_header() -> Path | None:
    """The folder of NVIDIA's cuda.h: of the package nvidia-cuda-runtime, or of an installed toolkit."""
    places = [Path(os.environ.get("CUDA_PATH", "/usr/local/cuda"), "include")]
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        places += sorted(Path(root).glob("*/include"))
    return next((p for p in places if (p / "cuda.h").exists()), None)


def fake_device(fake: FakeCuda | None = None, ordinal: int = 0) -> Device:
    return Device(Driver(fake or FakeCuda()), ordinal)


def executable(function: Callable[..., object], *specs: object, fake: FakeCuda | None = None,
               donated: tuple[tuple[int, int], ...] = ()) -> CudaExecutable:  # fmt: skip
    return CudaExecutable(*build(function, *specs, donated=donated), fake_device(fake))


def fake_of(exe: CudaExecutable) -> FakeCuda:
    found = exe.device.driver._library
    assert isinstance(found, FakeCuda)
    return found


_HEAD = ".version 7.0\n.target {target}\n.address_size 64\n"

# y[i] = 7 for 32 threads, `shift` bytes beyond where y begins
_SEVENS = """
.visible .entry sevens(.param .u64 .ptr .global .align 4 sevens_param_0)
{{
	.reg .b32 	%r<3>;
	.reg .b64 	%rd<5>;
	ld.param.u64 	%rd1, [sevens_param_0];
	cvta.to.global.u64 	%rd2, %rd1;
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd2, %rd3;
	mov.b32 	%r2, 7;
	st.global.b32 	[%rd4+{shift}], %r2;
	ret;
}}
"""


def sevens(
    fake: FakeCuda | None = None, shift: int = 0, target: str = "sm_80", kernel: str = "sevens", extra: str = "",
    shared_bytes: int = 0, ordinal: int = 0,
) -> CudaExecutable:  # fmt: skip
    """A program of one hand-written kernel, with the mistakes that are asked for."""
    info = ProgramInfo("sevens", (), (ArrayInfo("y", "int32", (32,)),), 0)
    launch = Launch(kernel, (1, 1, 1), (32, 1, 1), shared_bytes, (Place("output", 0),), "model.py:7")
    ptx = _HEAD.format(target=target) + _SEVENS.format(shift=shift) + extra
    return CudaExecutable(ptx, LaunchTable(info, (launch,)), fake_device(fake, ordinal))


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
