"""The C host of examples/cuda_host, compiled against NVIDIA's header and run over the fake driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_programs import cuda_header
from ptx.run_host import libcuda_source

pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent
HOST = ROOT / "examples" / "cuda_host"
needs_compiler = pytest.mark.skipif(
    cuda_header() is None or not shutil.which("gcc"), reason="needs cuda.h (nvidia-cuda-runtime) and gcc"
)


@needs_compiler
def test_the_c_host_trains_by_the_table(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    steps = 3
    expected = run(sys.executable, HOST / "make_step.py", "--steps", str(steps), "--out", tmp_path)
    (tmp_path / "libcuda.c").write_text(libcuda_source())
    run("gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "libcuda.c")
    strict = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-isystem",
        str(cuda_header()),
        f"-I{tmp_path}",
    ]
    run(
        "gcc",
        "-shared",
        "-fPIC",
        *strict,
        "-Dmain=host_main",
        "-o",
        "host.so",
        HOST / "main.c",
        "./libcuda.so.1",
    )
    libraries = str(tmp_path / "host.so"), str(tmp_path / "libcuda.so.1")
    losses = run(sys.executable, "-m", "ptx.run_host", *libraries, str(tmp_path))
    assert len(losses.split()) == len(expected.split()) == steps
    for ours, processors in zip(losses.split(), expected.split(), strict=True):
        assert abs(float(ours) - float(processors)) < 1e-5


@needs_compiler
def test_the_c_host_says_which_file_is_missing(tmp_path: Path) -> None:
    """Its header comes from a program without steps, so that nothing else is needed to compile it."""
    from graphc.codegen.launch_header import launch_header
    from graphc.runtime.abi import ProgramInfo
    from graphc.runtime.launches import LaunchTable

    table = LaunchTable(ProgramInfo("digits_step", (), (), 0), ())
    (tmp_path / "digits_step.h").write_text(launch_header(table, "digits_step"))
    (tmp_path / "libcuda.c").write_text(libcuda_source())
    for command in (
        ["-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "libcuda.c"],
        [
            "-isystem",
            str(cuda_header()),
            "-I.",
            "-Dmain=host_main",
            "-o",
            "host.so",
            str(HOST / "main.c"),
            "./libcuda.so.1",
        ],
    ):
        subprocess.run(["gcc", "-shared", "-fPIC", *command], check=True, cwd=tmp_path, timeout=120)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [
        sys.executable,
        "-m",
        "ptx.run_host",
        tmp_path / "host.so",
        tmp_path / "libcuda.so.1",
        "nowhere",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "nowhere/digits_step.ptx: can't be read\n")
