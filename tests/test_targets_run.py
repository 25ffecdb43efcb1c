"""Exported code of every target runs, under emulators where this machine is another one, and computes what it computes here.

Each library is exported once, linked with a program of ours that needs no C library (tests/targets), and run once: all
entries on painted stacks. What is missing (an emulator, the linker) skips a test, or fails it with GRAPHC_REQUIRE_TOOLS=1.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import f32, i32, i64, nn, optim, u8
from graphc.certificate import Certificate, certify
from graphc.codegen.target import TARGETS, host_target, target_from_name
from graphc.entries import Entry, training_entries
from graphc.runtime.abi import LibraryInfo, ProgramInfo

HERE = Path(__file__).parent / "targets"
REQUIRED = os.environ.get("GRAPHC_REQUIRE_TOOLS", "0") not in ("", "0")
SECONDS = 120
# What the processors may differ by: the order of sums and whether products are rounded before they are added
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


# ------------------------------------------------------------------------------------------------------- what is run


def normalised(x: f32[5, 12], y: i32[5]) -> tuple:
    """Softmax, its logarithm at the labels, norms and extrema of rows."""
    rows = x - graphc.max(x, axis=1, keepdims=True)
    return nn.softmax(x), nn.cross_entropy(rows, y), graphc.argmax(x, axis=1), graphc.min(x, axis=0)


def functions(x: f32[37]) -> tuple:
    """The transcendental functions and roundings that targets have to expand each in their own way."""
    positive = x * x + 0.25
    return (
        graphc.exp(x), graphc.log(positive), graphc.tanh(x), graphc.sin(3 * x), graphc.sqrt(positive), graphc.floor(x),
        graphc.round(x), graphc.trunc(x), graphc.minimum(x, 0.5), graphc.maximum(x, positive), positive**1.5,
    )  # fmt: skip


def rows_of_table(table: f32[10, 6], rows: i32[7]) -> tuple:
    """A gather and, as its derivative, a scatter with repeated rows."""

    def loss(t: graphc.Array) -> graphc.Array:
        return graphc.sum(graphc.take(t, rows, axis=0) ** 2)

    return graphc.take(table, rows, axis=0), graphc.grad(loss)(table)


def integers(a: i32[19], b: i32[19], c: i64[11], d: u8[13]) -> tuple:
    """Division by zero and towards minus infinity, wrapping, 64 bits, conversions."""
    return a // b, a % b, a * b + 7, c // 3, c % 7, c * c, graphc.astype(a, f32), graphc.astype(c, f32), d + d


MODEL = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 5))


def entries() -> dict[str, Entry]:
    training = training_entries(MODEL, nn.cross_entropy, optim.SGD(0.1, momentum=0.9), (f32[9, 12], i32[9]))
    chosen = {name: training[name] for name in ("predict", "train_step")}
    own = (normalised, functions, rows_of_table, integers)
    return chosen | {fn.__name__: Entry(fn) for fn in own}


def arguments(info: ProgramInfo) -> list[np.ndarray]:
    """The same arrays for the same entry on every target: small floats, labels and rows that are in range, any integers."""
    rng = np.random.default_rng(7)
    found = []
    for a in info.inputs:
        kind = np.dtype(a.dtype)
        if kind.kind == "f":
            values = rng.normal(0, 1 if a.size > 1 else 0.1, a.shape)
        elif a.name in ("y", "rows"):
            values = rng.integers(0, 5, a.shape)
        else:
            values = rng.integers(0, 256, a.shape) if kind == np.uint8 else rng.integers(-50, 50, a.shape)
        found.append(np.array(values, kind, order="C"))
    return found


@functools.cache
def here(name: str, target: str) -> tuple[np.ndarray, ...]:
    """What an entry gives in this process, compiled for a target that this machine can run."""
    entry = entries()[name]
    specs = entry.specs or graphc.entries.annotated_specs(entry.function)
    compiled = graphc.compile(entry.function, *specs, donate=entry.donate, target=target)
    return tuple(np.array(a) for a in compiled.flat(*arguments(compiled.info)))


# -------------------------------------------------------------------------------------------------------- tools


def missing(what: str) -> None:
    """Skips the test, or fails it where everything must be there."""
    if REQUIRED:
        pytest.fail(f"{what} is needed and not there (GRAPHC_REQUIRE_TOOLS=1)")
    pytest.skip(f"{what} is not there")


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} (Debian's {package})")
    return found or ""


@pytest.fixture(scope="session")
def zig(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], None]:
    """Runs the linker of the package `ziglang`, its cache in a temporary folder."""
    if importlib.util.find_spec("ziglang") is None:
        missing("the package ziglang (extra link)")
    cache = tmp_path_factory.mktemp("zig")

    def run(command: Sequence[str]) -> None:
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-m", "ziglang", *command], env=environment, capture_output=True, text=True, timeout=SECONDS
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return run


# ------------------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class Result:
    """What an entry of a library gave under the emulator."""

    status: int
    stack_bytes: int
    outputs: list[bytes]


@dataclass(frozen=True)
class Ran:
    """A library that ran: its info, its certificate, and the results by case."""

    info: LibraryInfo
    certificate: Certificate
    results: dict[str, Result]

    def arrays(self, case: str) -> list[np.ndarray]:
        entry = self.info.entries[case.partition("@")[0]]
        return [
            np.frombuffer(raw, o.dtype).reshape(o.shape)
            for raw, o in zip(self.results[case].outputs, entry.outputs, strict=True)
        ]


def parsed(text: str, info: LibraryInfo) -> dict[str, Result]:
    lines = iter(text.split("\n"))
    found = {}
    for line in lines:
        if line:
            case, status, deepest = line.split(" ")
            count = len(info.entries[case.partition("@")[0]].outputs)
            found[case] = Result(
                int(status), int(deepest), [bytes.fromhex(next(lines)) for _ in range(count)]
            )
    return found


def cases_header(info: LibraryInfo, levels: Sequence[int]) -> str:
    """The arrays and the table of cases that harness.c reads: each entry without a context, then for each level."""
    lines = [f"static _Alignas(64) unsigned char workspace[{max(info.workspace_bytes, 64)}];"]
    rows = []
    contexts = [("", "0"), *((f"@{level}", f"&context{level}") for level in levels)]
    for level in levels:
        lines.append(
            "static const struct { int32_t version, isa; uint64_t workspace_bytes; const void *more[4]; } "
            f"context{level} = {{ 1, {level}, sizeof workspace, {{0}} }};"
        )
    for name, entry in info.entries.items():
        lines.append(f"entry {entry.name}_run;")
        donated = {j: i for i, j in entry.donated}
        for suffix, context in contexts:
            case = f"{name}{suffix.replace('@', '_at_')}"
            for i, array in enumerate(arguments(entry)):
                content = ",".join(map(str, array.tobytes())) or "0"
                lines.append(f"static _Alignas(64) unsigned char {case}_in{i}[] = {{{content}}};")
            places = []
            for j, output in enumerate(entry.outputs):
                if j not in donated:
                    lines.append(f"static _Alignas(64) unsigned char {case}_out{j}[{max(output.bytes, 1)}];")
                places.append(f"{case}_in{donated[j]}" if j in donated else f"{case}_out{j}")
            ins = ", ".join(f"{case}_in{i}" for i in range(len(entry.inputs)))
            sizes = ", ".join(f"{{{p}, {o.bytes}}}" for p, o in zip(places, entry.outputs, strict=True))
            lines.append(f"static const void *const {case}_inputs[] = {{{ins}}};")
            lines.append(f"static void *const {case}_outputs[] = {{{', '.join(places)}}};")
            lines.append(f"static const struct output {case}_shown[] = {{{sizes}}};")
            rows.append(
                f'{{"{name}{suffix}", {entry.name}_run, {case}_inputs, {case}_outputs, {case}_shown, '
                f"{len(places)}, {context}}},"
            )
    return "\n".join([*lines, "static const struct one CASES[] = {", *rows, "};", ""])


def exported(target: str, folder: Path) -> tuple[LibraryInfo, Path, Certificate]:
    result = graphc.export(entries(), name="net", to=folder, target=target, emit=["object"])
    path = result.files["object"]
    return result.info, path, certify(path.read_bytes())


@dataclass(frozen=True)
class Machine:
    """How a target's program is linked and run."""

    zig_target: str
    runner: tuple[str, ...] = ()
    package: str = ""
    options: tuple[str, ...] = ()
    script: str = ""


SEMIHOSTING = ("-nographic", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=out", "-semihosting-config",
               "enable=on,target=native,chardev=out")  # fmt: skip
MACHINES = {
    "aarch64-linux-gnu": Machine("aarch64-linux-none", ("qemu-aarch64",), "qemu-user"),
    "riscv64-linux-gnu": Machine("riscv64-linux-none", ("qemu-riscv64",), "qemu-user"),
    "cortex-m4f": Machine("thumb-freestanding-eabihf", ("qemu-system-arm", "-M", "mps2-an386", *SEMIHOSTING, "-kernel"),
                          "qemu-system-arm", ("-mcpu=cortex_m4",), "cortex_m.ld"),
    "cortex-m7": Machine("thumb-freestanding-eabihf", ("qemu-system-arm", "-M", "mps2-an500", *SEMIHOSTING, "-kernel"),
                         "qemu-system-arm", ("-mcpu=cortex_m7",), "cortex_m.ld"),
    "x86-64-any": Machine("x86_64-linux-none"),
}  # fmt: skip


def levels_here() -> list[int]:
    """The bodies of an x86-64 library that this machine can run."""
    level = next((t.level for t in TARGETS.values() if t.vector_bits == host_target().vector_bits), 1)
    return [n for n in (1, 3, 4) if n <= level]


@pytest.fixture(scope="session")
def run_of(
    tmp_path_factory: pytest.TempPathFactory, zig: Callable[[Sequence[str]], None]
) -> Callable[[str], Ran]:
    """The results of a target's library, which is built and run once."""

    @functools.cache
    def run(target: str) -> Ran:
        machine = MACHINES[target]
        folder = tmp_path_factory.mktemp(target)
        runner = [tool(machine.runner[0], machine.package), *machine.runner[1:]] if machine.runner else []
        info, object_file, certificate = exported(target, folder)
        levels = levels_here() if target == "x86-64-any" else []
        (folder / "cases.h").write_text(cases_header(info, levels), encoding="utf-8")
        program = folder / "program"
        script = [f"-Wl,-T,{HERE / machine.script}"] if machine.script else []
        zig([
            "cc", "-target", machine.zig_target, *machine.options, "-O1", "-std=c11", "-Wall", "-Werror", "-nostdlib",
            "-static", "-ffreestanding", "-fno-stack-protector", "-fno-sanitize=all", *script, f"-I{folder}",
            *(["-mno-red-zone"] if target.startswith("x86") else []),
            str(HERE / "harness.c"), str(object_file), "-o", str(program),
        ])  # fmt: skip
        done = subprocess.run([*runner, str(program)], capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr)
        return Ran(info, certificate, parsed(done.stdout, info))

    return run


@pytest.fixture(scope="session")
def run_in_node(
    tmp_path_factory: pytest.TempPathFactory, zig: Callable[[Sequence[str]], None]
) -> Callable[[str], Ran]:
    """`run_of` for WebAssembly, whose modules run under Node.js."""

    @functools.cache
    def run(target: str) -> Ran:
        node = tool("node", "nodejs")
        folder = tmp_path_factory.mktemp(target)
        info, object_file, certificate = exported(target, folder)
        names = [f"{entry.name}_run" for entry in info.entries.values()]
        module = folder / "net.wasm"
        zig(["wasm-ld", "--no-entry", *(f"--export={n}" for n in (*names, "__stack_pointer")), str(object_file),
             "-o", str(module)])  # fmt: skip
        cases = []
        for name, entry in info.entries.items():
            donated = {j: i for i, j in entry.donated}
            outputs = [
                {"bytes": o.bytes, **({"input": donated[j]} if j in donated else {})}
                for j, o in enumerate(entry.outputs)
            ]
            cases.append({"name": name, "run": f"{entry.name}_run", "inputs": [a.tobytes().hex() for a in arguments(entry)],
                          "outputs": outputs, "workspace": entry.workspace_bytes})  # fmt: skip
        (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
        done = subprocess.run(
            [node, str(HERE / "run.mjs"), str(module), str(folder / "cases.json")],
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Ran(info, certificate, parsed(done.stdout, info))

    return run


def check_values(ran: Ran) -> None:
    for name in ran.info.entries:
        assert ran.results[name].status == 0, name
        for position, (got, want) in enumerate(zip(ran.arrays(name), here(name, "cpu"), strict=True)):
            if got.dtype.kind == "f":
                np.testing.assert_allclose(got, want, **TOLERANCE, err_msg=f"{name} {position}")
            else:
                np.testing.assert_array_equal(got, want, err_msg=f"{name} {position}")


def check_stack(ran: Ran) -> None:
    """Measured at most what is certified; and certified little more than the deepest body measured, as a depth that is
    rounded down, or that a function has for registers that it did not need to save, is not touched to its end.
    """
    for name, facts in ran.certificate.entries.items():
        measured = [r.stack_bytes for case, r in ran.results.items() if case.partition("@")[0] == name]
        assert facts.stack_bytes_run is not None
        assert facts.stack_bytes_run - 128 <= max(measured) <= facts.stack_bytes_run, name


@pytest.mark.parametrize("target", [t for t in MACHINES if not t.startswith("x86")])
def test_other_processors_compute_what_this_one_computes(target: str, run_of: Callable[[str], Ran]) -> None:
    ran = run_of(target)
    check_values(ran)
    check_stack(ran)


@pytest.mark.parametrize("target", ["wasm32", "wasm32-nosimd"])
def test_webassembly_computes_what_this_processor_computes(
    target: str, run_in_node: Callable[[str], Ran]
) -> None:
    ran = run_in_node(target)
    check_values(ran)
    check_stack(ran)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64", reason="code for x86-64 Linux"
)
def test_each_body_of_an_x86_library_gives_the_bits_of_its_target_in_this_process(
    run_of: Callable[[str], Ran],
) -> None:
    ran = run_of("x86-64-any")
    check_values(ran)
    check_stack(ran)
    names = {1: "x86-64", 3: "x86-64-v3", 4: "x86-64-v4"}
    for level in levels_here():
        for name in ran.info.entries:
            case = f"{name}@{level}"
            assert ran.results[case].status == 0
            for got, want in zip(ran.results[case].outputs, here(name, names[level]), strict=True):
                assert got == want.tobytes(), case
    assert ran.results["predict"].outputs == ran.results["predict@1"].outputs


@pytest.mark.parametrize("target", ["x86_64-pc-windows-msvc", "x86_64-apple-macosx", "arm64-apple-macosx"])
def test_objects_of_systems_that_do_not_run_here_keep_their_promises(target: str, tmp_path: Path) -> None:
    info, path, certificate = exported(target, tmp_path)
    assert (
        certificate.format
        == target_from_name(target).object_format
        == ("coff" if "windows" in target else "macho")
    )
    assert [p.name for p in certificate.promises if p.kept is not True] == []
    assert set(certificate.entries) == set(info.entries)
    assert all(e.stack_bytes_run for e in certificate.entries.values())
    assert path.suffix == (".obj" if "windows" in target else ".o")
