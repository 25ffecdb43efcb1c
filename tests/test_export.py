"""Exported objects and headers: what C and C++ compilers, linkers and callers see of them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc
from graphc import nn, optim
from graphc.codegen.header import symbols
from graphc.codegen.object import undefined_symbols, writable_sections
from graphc.codegen.target import EXPORT_TARGETS, TARGETS, export_targets, host_target
from graphc.errors import ArgumentError, ArtifactError, CompileError, TargetError, TraceError
from graphc.exporter import EMITS, Exported, export
from graphc.ir.types import bool_, f32, f64, i32, i64, u8, u32
from graphc.runtime.abi import MAGIC, STATUS, VERSION, LibraryInfo, find_info
from graphc.runtime.c_names import c_names, is_c_name
from graphc.runtime.library import Context, load

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
COMPILERS = (
    ("gcc", "c", "c99"), ("gcc", "c", "c11"), ("g++", "c++", "c++11"), ("g++", "c++", "c++17"),
)  # fmt: skip
HERE = sys.platform == "linux" and bool(shutil.which("gcc") and shutil.which("g++") and shutil.which("nm"))
with_compilers = pytest.mark.skipif(not HERE, reason="needs Linux with gcc, g++ and nm")
EVERYTHING = [kind for kind in EMITS if kind != "ptx"]  # which is all that there is for a GPU
CPU_TARGETS = [name for name in EXPORT_TARGETS if name != "nvptx64"]
ON_X86 = host_target().triple.startswith("x86_64") and sys.platform == "linux"


def entries() -> dict[str, graphc.Entry]:
    """A small model, of sizes that fill no vector."""
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    return graphc.training_entries(
        model, nn.cross_entropy, optim.SGD(0.1, momentum=0.9), (f32[6, 7], i32[6]), metrics="accuracy"
    )


@dataclass(frozen=True)
class Made:
    folder: Path
    result: Exported


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("mlp")
    return Made(folder, export(entries(), name="mlp", to=folder, emit=EVERYTHING))


def compile_c(folder: Path, source: str, *more: str, compiler: str = "gcc", standard: str = "c99") -> Path:
    """Compiles a program with all warnings as errors and links it with what is named."""
    kind = "c++" if compiler == "g++" else "c"
    file, program = folder / f"main.{kind}", folder / "main"
    file.write_text(source)
    command = [
        compiler,
        f"-std={standard}",
        *STRICT,
        "-x",
        kind,
        str(file),
        "-x",
        "none",
        *more,
        "-o",
        str(program),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run_program(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def arguments_of(entry: graphc.runtime.abi.ProgramInfo, rng: np.random.Generator) -> list[np.ndarray]:
    """Small numbers for each input."""
    return [np.asarray(rng.normal(size=a.shape) / 2, a.dtype) for a in entry.inputs]


# ------------------------------------------------------------------------------------------------------------- headers


@with_compilers
@pytest.mark.parametrize(("compiler", "kind", "standard"), COMPILERS)
def test_headers_are_clean_under_strict_flags(mlp: Made, compiler: str, kind: str, standard: str) -> None:
    command = [compiler, f"-std={standard}", *STRICT, "-fsyntax-only", "-x", kind, "mlp.h"]
    done = subprocess.run(command, cwd=mlp.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@with_compilers
def test_the_readme_has_a_program_that_compiles_and_runs(mlp: Made) -> None:
    text = (mlp.folder / "README.md").read_text()
    (program,) = re.findall(r"```c\n(.*?)```", text, flags=re.S)
    said = run_program(compile_c(mlp.folder, program, "mlp.o")).splitlines()
    assert [line.partition(":")[0] for line in said] == [f"mlp_{e}" for e in mlp.result.info.entries]
    assert (
        float(said[0].rpartition(" ")[2]) != 0
    )  # the weights that init drew, with which the others were called
    assert (
        said[2] == said[3].replace("grads", "loss")
        and "/* to be filled in: seed, x, y, learning_rate */" in program
    )
    assert "cc main.c mlp.o -o main" in text


@with_compilers
def test_two_libraries_are_used_in_one_program(tmp_path: Path) -> None:
    for name, factor in (("twice", 2.0), ("thrice", 3.0)):
        export(lambda x, f=factor: x * f, f32[2], to=tmp_path, name=name, emit=["object", "header"])
    source = """
    #include "twice.h"
    #include "thrice.h"
    #include <stdio.h>
    int main(void) {
        float x[2] = {1, 2}, y[2], z[2];
        return twice(x, y, NULL, NULL) || thrice(y, z, NULL, NULL) || printf("%g %g\\n", z[0], z[1]) < 0;
    }
    """
    assert run_program(compile_c(tmp_path, source, "twice.o", "thrice.o")) == "6 12\n"


@with_compilers
def test_every_data_type_and_awkward_names_compile(tmp_path: Path) -> None:
    arguments = {
        "new": f64[2], "u": u32[2], "gamma": f32[3], "workspace": i64[()], "X": i32[2], "x": u8[2], "y1": bool_[2],
        "0.weight": f32[2],
        "λ": f32[2], "a-b": f32[2], "a_b": f32[2], "empty": f32[0], "status": f32[1], "_": f32[1], "__x": f32[1],
        "comment */ /* \\": f32[1],
    }  # fmt: skip

    def odd(values: dict[str, graphc.Array]) -> dict[str, graphc.Array]:
        return {f"{name} result": v if v.dtype == bool_ else v + v for name, v in values.items()}

    export(odd, arguments, to=tmp_path, name="odd", emit=["object", "header", "readme"])
    (program,) = re.findall(r"```c\n(.*?)```", (tmp_path / "README.md").read_text(), flags=re.S)
    for compiler, _, standard in COMPILERS:
        run_program(compile_c(tmp_path, program, "odd.o", compiler=compiler, standard=standard))


# ----------------------------------------------------------------------------------------------- objects and libraries


def seen(file: Path, *options: str) -> list[str]:
    """The names that a file shows to a linker."""
    text = subprocess.run(["nm", *options, str(file)], capture_output=True, text=True, check=True).stdout
    return sorted(line.split()[2] for line in text.splitlines() if len(line.split()) == 3)


@with_compilers
def test_nothing_but_the_prefix_is_seen(mlp: Made) -> None:
    wanted = symbols(mlp.result.info)
    assert wanted == sorted(
        [f"mlp_{e}{r}" for e in ("init", "predict", "loss", "grads", "train_step") for r in ("", "_run")]
        + ["mlp_cpu", "mlp_info", "mlp_strerror"]
    )
    assert seen(mlp.folder / "mlp.o", "-g", "--defined-only") == wanted
    assert seen(mlp.folder / "mlp.so", "-D", "--defined-only") == wanted


def test_objects_need_nothing_and_keep_no_state(mlp: Made) -> None:
    data = (mlp.folder / mlp.result.files["object"].name).read_bytes()
    assert undefined_symbols(data) == []
    if ON_X86:
        assert writable_sections(data) == []
        # what the system's loader itself writes into every library
        assert writable_sections((mlp.folder / "mlp.so").read_bytes()) == [".dynamic"]


def test_the_same_source_gives_the_same_bytes(mlp: Made, tmp_path: Path) -> None:
    again = export(entries(), name="mlp", to=tmp_path / "elsewhere", emit=EVERYTHING)
    for kind, path in mlp.result.files.items():
        assert path.read_bytes() == again.files[kind].read_bytes(), kind


def test_nothing_of_the_machine_is_in_the_files(mlp: Made) -> None:
    here = str(Path(__file__).parent).encode()
    for path in mlp.result.files.values():
        data = path.read_bytes()
        assert here not in data and str(mlp.folder).encode() not in data, path.name


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_every_target_gives_an_object_that_needs_nothing(target: str, tmp_path: Path) -> None:
    result = export(entries(), name="mlp", to=tmp_path, target=target, emit=["object", "header", "asm"])
    data = result.files["object"].read_bytes()
    first = export_targets(target)[0]
    assert set(undefined_symbols(data)) <= first.allowed_undefined
    assert find_info(data) == result.info
    assert result.info.triple == first.triple and result.info.target == target
    starts = {"elf": b"\x7fELF", "coff": b"\x64\x86", "macho": b"\xcf\xfa\xed\xfe", "wasm": b"\0asm"}
    assert data.startswith(starts[first.object_format])
    assert first.triple in result.files["header"].read_text()


@pytest.mark.parametrize(
    ("target", "start"),
    [
        ("aarch64-linux-gnu", b"\x7fELF"),
        ("riscv64-linux-gnu", b"\x7fELF"),
        ("wasm32", b"\0asm"),
        ("x86_64-pc-windows-msvc", b"MZ"),
        ("x86_64-apple-macosx", b"\xcf\xfa\xed\xfe"),
        ("arm64-apple-macosx", b"\xcf\xfa\xed\xfe"),
    ],
)
def test_libraries_for_other_systems_are_linked(target: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="needs graphc[link]")
    made = [
        export(
            lambda x: graphc.exp(x),
            f32[64],
            name="f",
            to=tmp_path / n,
            target=target,
            emit=["static", "shared"],
        )
        for n in "ab"
    ]
    shared, static = (made[0].files[kind].read_bytes() for kind in ("shared", "static"))
    assert shared.startswith(start) and find_info(shared) == made[0].info and static.startswith(b"!<arch>\n")
    assert (shared, static) == tuple(made[1].files[kind].read_bytes() for kind in ("shared", "static"))


def test_equal_kernels_and_constants_are_there_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU())

    def bodies(names: list[str]) -> tuple[int, int, int]:
        made = {name: graphc.Entry(lambda x: model(x), [f32[4, 64]]) for name in names}
        folder = tmp_path / "_".join(names)
        files = export(
            made, name="m", to=folder, target="x86-64", weights="embedded", emit=["llvm", "object"]
        ).files
        text = files["llvm"].read_text()
        return text.count("define internal void"), text.count('c"'), files["object"].stat().st_size

    one, two = bodies(["a"]), bodies(["a", "b"])
    assert two[0] - one[0] == 1  # the body of b, which calls the kernels of a
    assert two[1] == one[1]
    assert two[2] - one[2] < 1500


def test_embedded_weights_are_constants(tmp_path: Path) -> None:
    model = nn.Linear(6, 2)
    result = export(model, f32[3, 6], to=tmp_path, name="net", weights="embedded")
    (entry,) = result.info.entries.values()
    assert [a.shape for a in entry.inputs] == [(3, 6)]
    assert model.parameters["weight"].tobytes() in result.files["object"].read_bytes()
    x = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6)
    np.testing.assert_array_equal(load(result.files["shared"])(x), model(x))


def test_arrays_among_the_specs_are_embedded_too_unless_donated(tmp_path: Path) -> None:
    w, b = np.float32([1, 2, 3]), np.float32([4, 5, 6])

    def f(w: graphc.Array, b: graphc.Array, x: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
        return b + x, w * x

    result = export(f, w, b, f32[3], to=tmp_path, donate=["b"], weights="embedded")
    assert [a.name for a in result.info.entries["f"].inputs] == ["b", "x"]
    total, product = load(result.files["shared"])(b, np.float32([1, 1, 2])).values()
    assert total is b and b.tolist() == [5, 6, 8] and product.tolist() == [1, 2, 6]


def test_a_library_says_what_it_is(mlp: Made) -> None:
    info = mlp.result.info
    assert info == find_info(mlp.result.files["object"].read_bytes())
    assert info.made_by == f"graphc {graphc.__version__}"
    assert list(info.entries) == ["init", "predict", "loss", "grads", "train_step"]
    step = info.entries["train_step"]
    assert [a.name for a in step.outputs] == [*(a.name for a in step.inputs[:8]), "loss", "accuracy"]
    assert step.donated == tuple((i, i) for i in range(8)) and step.own_outputs == (8, 9)
    assert info.workspace_bytes == max(e.workspace_bytes for e in info.entries.values())


# --------------------------------------------------------------------------------------------------------------- calls

CALLER = """
#include "mlp.h"
#include <stdio.h>
#include <stdlib.h>
#define COUNT(name) (sizeof name / sizeof *name)
static float w0[MLP_PREDICT_PARAMS_0_WEIGHT_SIZE], b0[MLP_PREDICT_PARAMS_0_BIAS_SIZE];
static float w2[MLP_PREDICT_PARAMS_2_WEIGHT_SIZE], b2[MLP_PREDICT_PARAMS_2_BIAS_SIZE];
static float mw0[COUNT(w0)], mb0[COUNT(b0)], mw2[COUNT(w2)], mb2[COUNT(b2)];
static float x[MLP_PREDICT_X_SIZE], prediction[MLP_PREDICT_PREDICTION_SIZE], rate[1], loss[1], accuracy[1];
static int32_t y[MLP_TRAIN_STEP_Y_SIZE];
static char memory[MLP_WORKSPACE_BYTES + MLP_WORKSPACE_ALIGNMENT];
#define READ(name) (fread(name, sizeof *name, COUNT(name), in) == COUNT(name))
#define WRITE(name) (fwrite(name, sizeof *name, COUNT(name), out) == COUNT(name))

int main(int argc, char **argv) {
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    size_t beyond = (uintptr_t)memory % MLP_WORKSPACE_ALIGNMENT;
    void *workspace = memory + (beyond ? MLP_WORKSPACE_ALIGNMENT - beyond : 0);
    graphc_context context = {GRAPHC_ABI_VERSION, 0, MLP_WORKSPACE_BYTES, NULL, NULL};
    int step;
    if (argc != 4 || !in || !out) return 2;
    context.isa = (uint32_t)atoi(argv[3]);
    if (!(READ(w0) && READ(b0) && READ(w2) && READ(b2) && READ(mw0) && READ(mb0) && READ(mw2) && READ(mb2) &&
          READ(rate) && READ(x) && READ(y)))
        return 3;
    for (step = 0; step < 5; step++)
        if (mlp_train_step(w0, b0, w2, b2, mw0, mb0, mw2, mb2, rate, x, y, loss, accuracy, workspace, &context))
            return 4;
    if (mlp_predict(w0, b0, w2, b2, x, prediction, workspace, context.isa == 1 ? NULL : &context)) return 5;
    if (!(WRITE(w0) && WRITE(b0) && WRITE(w2) && WRITE(b2) && WRITE(mw0) && WRITE(mb0) && WRITE(mw2) && WRITE(mb2) &&
          WRITE(loss) && WRITE(prediction)))
        return 6;
    return fclose(in) || fclose(out);
}
"""


@with_compilers
@pytest.mark.skipif(not ON_X86, reason="needs Linux on x86-64")
@pytest.mark.parametrize(
    ("level", "how"), [(1, "mlp.o"), (3, "mlp.o"), (4, "mlp.o"), (3, "libmlp.a"), (3, "mlp.so")]
)
def test_c_programs_compute_what_python_does_to_the_last_bit(
    mlp: Made, level: int, how: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    name = {1: "x86-64", 3: "x86-64-v3", 4: "x86-64-v4"}[level]
    if TARGETS[name].vector_bits > host_target().vector_bits:
        pytest.skip(f"this processor is no {name}")
    made = entries()
    step, predict = (
        graphc.compile(made[e].function, *made[e].specs, donate=made[e].donate, target=name)
        for e in ("train_step", "predict")
    )
    arrays = arguments_of(mlp.result.info.entries["train_step"], rng)
    arrays[8] = np.float32([0.1]).reshape(())
    arrays[10] = rng.integers(0, 3, 6).astype(np.int32)
    (tmp_path / "in").write_bytes(b"".join(a.tobytes() for a in arrays))
    program = compile_c(mlp.folder, CALLER, how, f"-Wl,-rpath,{mlp.folder}")
    run_program(program, str(tmp_path / "in"), str(tmp_path / "out"), str(level))
    for _ in range(5):
        loss = step.flat(*arrays)[8]
    expected = [*arrays[:8], loss, *predict.flat(*arrays[:4], arrays[9])]
    assert (tmp_path / "out").read_bytes() == b"".join(a.tobytes() for a in expected)


def test_the_processor_has_a_level_that_this_machine_has(mlp: Made) -> None:
    code = ctypes.CDLL(str(mlp.result.files["shared"]))
    bits = {1: 128, 3: 256, 4: 512}
    if ON_X86:
        assert bits[code.mlp_cpu()] == host_target().vector_bits
    else:
        assert code.mlp_cpu() == 1


Change = Callable[[list[int], list[int], Context], object]


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (1, lambda inputs, outputs, context: inputs.__setitem__(2, 0)),
        (1, lambda inputs, outputs, context: (inputs.__setitem__(0, 0), outputs.__setitem__(0, 0))),
        (1, lambda inputs, outputs, context: outputs.__setitem__(8, 0)),
        (2, "no workspace"),
        (2, "misaligned"),
        (3, lambda inputs, outputs, context: outputs.__setitem__(1, outputs[1] + 64)),
        (
            4,
            lambda inputs, outputs, context: setattr(context, "workspace_bytes", context.workspace_bytes - 1),
        ),
        (4, lambda inputs, outputs, context: setattr(context, "workspace_bytes", 0)),
        (5, lambda inputs, outputs, context: setattr(context, "version", VERSION + 1)),
        (0, lambda inputs, outputs, context: None),
    ],
)
def test_bad_calls_are_refused_and_write_nothing(
    mlp: Made, status: int, change: Change | str, rng: np.random.Generator
) -> None:
    code, entry = ctypes.CDLL(str(mlp.result.files["shared"])), mlp.result.info.entries["train_step"]
    arrays = arguments_of(entry, rng)
    outputs = [arrays[i] for i, _ in entry.donated] + [np.zeros((), np.float32) for _ in entry.own_outputs]
    before = [a.copy() for a in (*arrays, *outputs)]
    room = np.full(entry.workspace_bytes + 128, 0x5A, np.uint8)
    workspace = room.ctypes.data + -room.ctypes.data % 64
    context = Context(VERSION, 1, entry.workspace_bytes, None, None)
    ins, outs = [a.ctypes.data for a in arrays], [a.ctypes.data for a in outputs]
    if change == "no workspace":
        workspace = 0
    elif change == "misaligned":
        workspace += 32
    else:
        assert callable(change)
        change(ins, outs, context)
    blocks = [(ctypes.c_void_p * len(block))(*block) for block in (ins, outs)]
    found = code.mlp_train_step_run(*blocks, ctypes.c_void_p(workspace), ctypes.byref(context))
    assert found == status
    written = any((a != b).any() for a, b in zip((*arrays, *outputs), before, strict=True))
    assert written == (status == 0) and (room != 0x5A).any() == (status == 0)
    code.mlp_strerror.restype = ctypes.c_char_p
    assert code.mlp_strerror(status).decode() == STATUS[status]


def test_missing_blocks_and_unknown_statuses(mlp: Made) -> None:
    code = ctypes.CDLL(str(mlp.result.files["shared"]))
    assert code.mlp_predict_run(None, None, None, None) == 1
    code.mlp_strerror.restype = ctypes.c_char_p
    texts = {code.mlp_strerror(status) for status in (-1, len(STATUS), 1 << 30)}
    assert texts == {b"no status of this library"}


@pytest.mark.skipif(not ON_X86, reason="needs Linux on x86-64")
def test_a_pinned_level_is_refused_below_it_before_anything_else(tmp_path: Path) -> None:
    result = export(lambda x: x + 1, f32[64], to=tmp_path, name="inc", target="x86-64-v3")
    assert result.info.levels == (3,)
    code = ctypes.CDLL(str(result.files["shared"]))
    x, y = np.zeros(64, np.float32), np.zeros(64, np.float32)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)]
    for level, status in ((1, 6), (3, 0), (4, 0)):
        if level <= code.inc_cpu() or status:
            assert code.inc(*pointers, None, ctypes.byref(Context(VERSION, level, 0, None, None))) == status
    assert code.inc(*pointers, None, None) == 6  # without a context: the oldest processor


# ------------------------------------------------------------------------------------------------------ what is exported


def test_functions_graphs_and_compiled_functions(tmp_path: Path) -> None:
    def double(x: f32[3]) -> graphc.Array:  # type: ignore[valid-type]
        """Twice x.

        More.
        """
        return 2 * x

    graph = graphc.trace(lambda x: x + 1, f32[3], name="inc")
    compiled = graphc.compile(lambda w, g: w - g, f32[3], f32[3], donate=["w"], name="update")
    result = export([double, graph, compiled], name="several", to=tmp_path)
    library = load(result.files["shared"])
    x = np.float32([1, 2, 3])
    assert [library.double(x).tolist(), library.inc(x).tolist()] == [[2, 4, 6], [2, 3, 4]]
    assert library.update(x, np.float32([1, 1, 1])) is x and x.tolist() == [0, 1, 2]
    assert "/* Twice x.\n" in result.files["header"].read_text()
    for one in (graph, compiled):
        alone = export(one, to=tmp_path / "alone", emit="header")
        assert alone.files["header"].name == f"{alone.name}.h" and alone.name in ("inc", "update")


def test_training_entries_agree_with_each_other(mlp: Made, rng: np.random.Generator) -> None:
    library = load(mlp.result.files["shared"])
    arrays = arguments_of(library.train_step.info, rng)
    arrays[8] = np.float32(0.5).reshape(())
    arrays[10] = rng.integers(0, 3, 6).astype(np.int32)
    params, batch = [a.copy() for a in arrays[:4]], arrays[9:]
    momentum = [a.copy() for a in arrays[4:8]]
    grads = library.grads(*params, *batch)
    step = library.train_step(*arrays)
    assert library.loss(*params, *batch)["loss"] == step["loss"] == grads["loss"]
    assert library.loss(*params, *batch)["accuracy"] == step["accuracy"]
    for i, name in enumerate(("0.weight", "0.bias", "2.weight", "2.bias")):
        expected = params[i] - 0.5 * (0.9 * momentum[i] + grads[f"grads.{name}"])
        np.testing.assert_allclose(step[f"params.{name}"], expected, rtol=1e-5, atol=1e-6)


def test_a_donated_argument_takes_the_output_of_its_name(tmp_path: Path) -> None:
    def swap(a: graphc.Array, b: graphc.Array) -> dict[str, graphc.Array]:
        return {"b": b + 1, "a": a + 2}

    result = export(swap, f32[2], f32[2], to=tmp_path, donate=["a", "b"])
    a, b = np.zeros(2, np.float32), np.zeros(2, np.float32)
    load(result.files["shared"])(a, b)
    assert (a.tolist(), b.tolist()) == ([2, 2], [1, 1])


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name", ["2d", "", "a b", "größe", "int", "class", "restrict", "main", "tanhf", "a__b", "_x", "a-b"]
)
def test_names_that_c_can_not_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"export: name: expected a name for C and C\+\+ .* got "):
        export(lambda x: x, f32[2], to=tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: {"2d x": graphc.Entry(abs, [f32[2]])}, ArgumentError, r"export: entry: expected a name for C .* got '2d x'"),
        (lambda: [abs, abs], ArgumentError, "export: abs: expected one entry of this name, got two"),
        (lambda: {"info": abs}, ArgumentError, "export: info: .*C function m_info is not graphc's own too"),
        (lambda: {"a": abs, "a_run": abs}, ArgumentError, "C function m_a_run is not that of a too"),
        (dict, ArgumentError, "export: expected at least one entry, got none"),
        (lambda: [3], ArgumentError, "export: expected functions, graphs or entries, got int 3"),
        (lambda: [lambda x: x], ArgumentError, "x: expected specs, or a type as annotation .* got none"),
        (lambda: [graphc.Entry(abs, [f32[2]], donate=["y"])], ArgumentError, "donate: expected some of"),
        (lambda: [graphc.Entry(lambda x: x if x.sum() > 0 else -x, [f32[2]])], TraceError, "bool"),
    ],
)  # fmt: skip
def test_bad_entries_are_refused(
    make: Callable[[], object], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        export(make(), name="m", to=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"target": "z80"}, TargetError, "target: expected one of cpu, x86-64-any, .*wasm32-nosimd, .*got 'z80'"),
        (
            {"target": "nvptx64", "emit": ["object", "ptx"]},
            TargetError,
            "emit: expected ptx alone for nvptx64, whose kernels a driver launches, got object",
        ),
        ({"emit": "ptx"}, TargetError, "emit: expected target nvptx64 for ptx, got x86-64"),
        ({"target": "nvptx64", "arch": "sm_1"}, TargetError, "expected one of sm_80, "),
        ({"target": "wasm32", "arch": "sm_80"}, TargetError, "expected no architecture, got 'sm_80'"),
        ({"emit": ["object", "exe"]}, ArgumentError, "emit: expected some of object, .*ptx, got 'exe'"),
        ({"emit": []}, ArgumentError, "emit: expected some of object, .* got none"),
        ({"weights": "inside"}, ArgumentError, 'expected "arguments" or "embedded", got \'inside\''),
        ({"weights": "embedded"}, ArgumentError, "expected functions that call a model, or specs that are arrays"),
        ({"target": "cortex-m7", "emit": ["shared"]}, ArtifactError, "cortex-m7 has no system that loads shared"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(
    options: dict[str, object], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        export(lambda x: x, f32[2], name="m", to=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["wasm32", "cortex-m7"])
def test_arrays_beyond_32_bits_are_refused_where_addresses_have_32(target: str, tmp_path: Path) -> None:
    with pytest.raises(
        TargetError, match=rf"f: x: expected less than 2 GiB on {target}, .* got 4294967296 bytes"
    ):
        export(lambda x: x, f32[1 << 15, 1 << 15], name="f", to=tmp_path, target=target)
    with pytest.raises(TargetError, match="got 4294967296 bytes"):  # a value between input and output
        export(lambda x: (x[:, None] * x).sum(), f32[1 << 15], name="f", to=tmp_path, target=target)


def test_a_data_type_that_the_target_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises((TargetError, CompileError), match="cortex-m4f, got f64"):
        export(lambda x: x + 1, f64[2], name="f", to=tmp_path / "out", target="cortex-m4f")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="file/out: expected a writable folder, got Not a directory"):
        export(lambda x: x, f32[2], name="f", to=tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's end: it needs no rights."""
    (tmp_path / "f.h").write_text("an older header")
    code = (
        "import resource, graphc\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "for folder in ('.', 'new/folder'):\n"
        "    try: graphc.export(lambda x: graphc.tanh(x), graphc.f32[64], name='f', to=folder)\n"
        "    except graphc.errors.ArtifactError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(graphc.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        ".: expected a writable folder, got File too large", "new/folder: expected a writable folder, got File too large",
    ], done.stderr  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["f.h"]
    assert (tmp_path / "f.h").read_text() == "an older header"


def test_without_a_linker_object_and_header_are_there_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphc.codegen.link._zig", list)
    monkeypatch.setattr("graphc.codegen.link.shutil.which", lambda name: None)
    result = export(lambda x: x, f32[2], name="f", to=tmp_path)
    assert sorted(result.files) == ["certificate", "header", "object", "readme"]
    assert len(result.notes) == 2 and all("pip install graphc[link]" in note for note in result.notes)
    assert "Not made: f.so: no linker" in (tmp_path / "README.md").read_text() or not ON_X86
    with pytest.raises(ArtifactError, match=r"no linker for .* pip install"):
        export(lambda x: x, f32[2], name="f", to=tmp_path, emit=["shared"])


def test_a_linker_that_fails_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "import sys; sys.exit('no space for the library')"
    monkeypatch.setattr("graphc.codegen.link.linker", lambda *a: [sys.executable, "-c", said])
    with pytest.raises(ArtifactError, match="expected success, got status 1: no space for the library"):
        export(lambda x: x, f32[2], name="f", to=tmp_path / "out", emit=["shared", "object"])
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------------- names


@given(st.lists(st.text(max_size=12), max_size=8))
def test_names_become_different_names_that_c_can_have(names: list[str]) -> None:
    found = c_names(names)
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and "__" not in name
    assert c_names(names) == found
    assert not {name.lower() for name in c_names(names, taken=found)} & {name.lower() for name in found}


def test_plain_names_stay() -> None:
    assert c_names(["x", "labels", "w1"]) == ["x", "labels", "w1"]
    assert is_c_name("mlp") and is_c_name("train_step2") and not is_c_name("double")


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damaged_info_is_refused_and_never_anything_else(noise: bytes, cut: int) -> None:
    whole = MAGIC + VERSION.to_bytes(4, "little") + len(noise).to_bytes(4, "little") + noise
    for data in (noise, whole, whole[:cut]):
        with pytest.raises(ArtifactError):
            find_info(data)


def test_info_survives_json() -> None:
    info = LibraryInfo("m", "graphc 0", "t", "x86_64", "", (1, 3, 4), {})
    assert LibraryInfo.from_json(info.to_json()) == info
