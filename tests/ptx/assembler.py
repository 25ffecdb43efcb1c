"""NVIDIA's assembler as a check of PTX: whether it is valid, and which registers and memory a kernel takes.

ptxas is looked for on PATH and in the PyPI packages that carry it; without one `assemble` raises `FileNotFoundError`.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class AssemblyError(Exception):
    """What ptxas refuses, in its own words."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers a thread, bytes of shared memory a block, bytes of stack and of spills a thread."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int


@cache
def find_assembler() -> Path | None:
    """The path of ptxas, or `None`."""
    found = shutil.which("ptxas")
    if found:
        return Path(found)
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in sorted(
            Path(folder).glob("*/bin/ptxas")
        ):  # nvidia-cuda-nvcc-cu12 and nvidia-cuda-nvcc differ in *
            return path
    return None


_KERNEL = re.compile(
    r"Function properties for (?P<name>\S+)\s+(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\s+ptxas info\s*: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)


def assemble(ptx: str, arch: str = "sm_80") -> dict[str, Usage]:
    """Assembles a module for a GPU; what each of its kernels takes, by name.

    Raises `AssemblyError` with ptxas's messages for invalid PTX.
    """
    program = find_assembler()
    if program is None:
        raise FileNotFoundError(
            "ptxas: expected it on PATH or in the package nvidia-cuda-nvcc-cu12, got neither"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "module.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [str(program), "-v", f"-arch={arch}", "-o", str(Path(folder) / "module.cubin"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    messages = (done.stdout + done.stderr).replace(str(source), "module.ptx")
    if done.returncode:
        raise AssemblyError(messages.strip())
    return usage_from(messages)


@cache
def assembled(ptx: str) -> str:
    """The same PTX, after ptxas has taken it for sm_80 and sm_90 (for sm_90 alone where it asks for that); each text once.

    Nothing is checked where there is no ptxas. Raises `AssemblyError` like `assemble`.
    """
    if find_assembler() is not None:
        for arch in ("sm_80", "sm_90")[".target sm_90" in ptx :]:
            assemble(ptx, arch)
    return ptx


def usage_from(messages: str) -> dict[str, Usage]:
    """The figures in what ``ptxas -v`` prints."""
    found = {}
    for match in _KERNEL.finditer(messages):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["name"]] = Usage(
            int(match["registers"]), int(shared.group(1)) if shared else 0, int(match["stack"]), int(match["stores"]),
            int(match["loads"]),
        )  # fmt: skip
    return found
