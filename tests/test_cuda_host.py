"""The C host of examples/cuda_host, compiled against NVIDIA's header and run over the fake driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import cuda_header
from ptx.run_host import libcuda_source

import graphc
from graphc import Array
from graphc.frontend.tree import flatten

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


def scanned(h: Array, w: Array, x: Array) -> object:
    def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = graphc.tanh(h @ w + x)
        return h, h[0, 0]

    return graphc.scan(step, h, x, reverse=True)


def stopped(h: Array, w: Array, x: Array) -> object:
    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return graphc.tanh(carry[0] @ w), carry[1] + 1

    return graphc.while_loop(lambda carry: carry[1] < 3, body, (h, 0))


def never(h: Array, w: Array, x: Array) -> object:
    return graphc.while_loop(lambda carry: carry.sum() > 1e9, lambda carry: carry * 2, h)


def branched(h: Array, w: Array, x: Array) -> object:
    return graphc.cond(h.sum() > 0, lambda: graphc.scan(lambda c, x: (c + x, x), h, x), lambda: (h @ w, x))


def nested(h: Array, w: Array, x: Array) -> object:
    """Slices of 12 bytes, which are copied to where kernels may read them, and a branch inside of a loop in a loop."""

    def inner(c: Array, row: Array) -> tuple[Array, Array]:
        c = graphc.cond(c.sum() > 0, lambda: c - row, lambda: c + row)
        return c, c

    def outer(c: Array, rows: Array) -> tuple[Array, object]:
        return graphc.scan(inner, c, rows)

    return graphc.scan(outer, h[0, :3], x[:, :, :3])


def trained(h: Array, w: Array, x: Array) -> object:
    return graphc.grad(lambda w: (scanned(h, w, x)[1] ** 2).sum())(w)  # type: ignore[index]


@needs_compiler
@pytest.mark.parametrize(
    ("function", "sign", "flags"),
    [(scanned, 1, 0), (stopped, 1, 4), (never, 1, 1), (branched, 1, 1), (branched, -1, 1), (nested, 1, 10), (trained, 1, 0)],
)  # fmt: skip
def test_a_c_host_goes_through_loops_and_branches(
    tmp_path: Path, function: Callable[..., object], sign: int, flags: int
) -> None:
    rng = np.random.default_rng(0)
    given = [sign * np.abs(rng.normal(size=(2, 4))).astype(np.float32)]
    given += [rng.normal(size=shape).astype(np.float32) for shape in ((4, 4), (5, 2, 4))]
    want, _ = flatten(graphc.compile(function, *given, target="interpreter")(*given))
    exported = graphc.export(function, *given, name="program", to=tmp_path, target="nvptx64")
    assert exported.files["h"].name == "program.h"
    (tmp_path / "program.inputs.bin").write_bytes(b"".join(a.tobytes() for a in given))
    (tmp_path / "libcuda.c").write_text(libcuda_source())
    shared = ["-shared", "-fPIC"]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-isystem", str(cuda_header()), "-I."]
    own = str(ROOT / "tests" / "cuda_loop_host.c")
    for command in (
        ["gcc", *shared, "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "libcuda.c"],
        ["gcc", *shared, *strict, "-Dmain=host_main", "-o", "host.so", own, "./libcuda.so.1"],
        ["g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", "c++", "program.h"],
        [sys.executable, "-m", "ptx.run_host", str(tmp_path / "host.so"), str(tmp_path / "libcuda.so.1")],
    ):  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[2]) == 2 * flags
    made = (tmp_path / "program.outputs.bin").read_bytes()
    for array in map(np.asarray, want):
        got = np.frombuffer(made[: array.nbytes], array.dtype).reshape(array.shape)
        np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)
        made = made[array.nbytes :]
    assert not made
