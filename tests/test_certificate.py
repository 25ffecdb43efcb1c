"""Certificates: what is promised of an object is read from its bytes, and a broken promise is an error that names it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import f32, i32, nn, optim
from graphc.certificate import certify
from graphc.cli import main
from graphc.codegen.library import emit_library
from graphc.codegen.link import has_shared
from graphc.codegen.object import compile_object
from graphc.codegen.target import EXPORT_TARGETS, TARGETS, export_targets, target_from_name
from graphc.entries import training_entries
from graphc.errors import ArtifactError, CompileError
from graphc.ir.cost import iterations, plan_bytes_moved, plan_iterations, plan_operations
from graphc.ir.kernel import Const, For, Kernel, Load, Var
from graphc.ir.kernel_interp import run_kernel
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.types import i64
from graphc.program import lower
from graphc.runtime.abi import EntryCost, LibraryInfo, find_info

C_TARGETS = [name for name in EXPORT_TARGETS if name not in TARGETS or not TARGETS[name].entry_convention]
EVERY_PROMISE = {
    "self_contained", "no_calls_out", "no_state", "own_names", "no_executable_stack", "bounded_stack", "terminates",
}  # fmt: skip


def layer(x: f32[4, 6], w: f32[6, 5]) -> graphc.Array:
    return nn.softmax(graphc.tanh(x @ w))


def library(text: str, name: str = "x86-64-any", levels: tuple[int, ...] = (1, 3, 4)) -> bytes:
    """An object with an info and functions that are written by hand."""
    targets = export_targets(name)
    info = LibraryInfo("lib", "graphc test", name, targets[0].triple, "", levels, {}, {})
    return compile_object(emit_library(info, [], targets) + text, targets[0])


def broken(data: bytes) -> dict[str, str]:
    return {p.name: p.detail for p in certify(data).broken}


@pytest.mark.parametrize("target", C_TARGETS)
def test_what_is_exported_keeps_every_promise(target: str, tmp_path: Path) -> None:
    result = graphc.export(layer, name="layer", to=tmp_path, target=target, emit=["object", "certificate"])
    data = result.files["object"].read_bytes()
    certificate = certify(data)
    x86 = {"instruction_sets"} if target.startswith("x86") else set()
    assert {p.name for p in certificate.promises if p.kept} == EVERY_PROMISE | x86
    assert certificate.name == "layer" and certificate.bytes == len(data)
    assert set(certificate.shows) == {f"layer{s}" for s in ("", "_run", "_info", "_cpu", "_strerror")}
    assert result.files["certificate"].read_text() == certificate.to_json()
    stored = json.loads(certificate.to_json())
    entry = stored["entries"]["layer"]
    assert entry["arguments"] == {"x": 96, "w": 120}
    assert sum(entry["outputs"].values()) == 80
    assert entry["workspace_bytes"] == result.info.entries["layer"].workspace_bytes
    assert entry["counted"]["operations"] >= 2 * 4 * 6 * 5


def test_numbers_of_a_training_step_are_exact(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    entries = training_entries(model, nn.cross_entropy, optim.SGD(0.1, momentum=0.9), (f32[5, 6], i32[5]))
    result = graphc.export(entries, name="net", to=tmp_path, target="x86-64-v3", emit=["object"])
    facts = certify(result.files["object"].read_bytes()).entries
    weights = 4 * (6 * 8 + 8 + 8 * 3 + 3)
    assert facts["predict"].arguments == {"params": weights, "x": 120}
    step = facts["train_step"]
    assert step.arguments == {"params": weights, "state": weights, "learning_rate": 4, "x": 120, "y": 20}
    assert step.updated_in_place_bytes == 2 * weights
    products = 2 * 5 * (6 * 8 + 8 * 3)
    assert step.counted is not None and facts["predict"].counted is not None
    assert products < facts["predict"].counted.operations < 2 * products
    # both products again for the weights' gradients, and the second one for the cotangent of the hidden layer
    assert step.counted.operations > 2 * products + 2 * 5 * 8 * 3


def test_embedded_weights_are_constants_of_the_object(tmp_path: Path) -> None:
    model = nn.Linear(30, 20)
    result = graphc.export(
        model, f32[2, 30], name="net", to=tmp_path, target="aarch64-linux-gnu", weights="embedded", emit=["object"]
    )  # fmt: skip
    certificate = certify(result.files["object"].read_bytes())
    counted = certificate.entries["net"].counted
    assert counted is not None and counted.constant_bytes == 4 * (30 * 20 + 20)
    assert certificate.constant_bytes >= counted.constant_bytes


# ----------------------------------------------------------------------------------------------- broken promises


def test_a_call_to_the_outside_is_named() -> None:
    found = broken(library("declare void @malloc() define void @lib_f() { call void @malloc() ret void }"))
    assert found["self_contained"] == "needs malloc"
    assert found["no_calls_out"] == "lib_f calls malloc"


def test_state_is_named_by_its_section() -> None:
    assert broken(library("@lib_state = global i32 1")) == {"no_state": "has .data"}
    assert broken(library("@lib_state = internal global [9 x i32] zeroinitializer\n"
                          "define ptr @lib_f() { ret ptr @lib_state }")) == {"no_state": "has .bss"}  # fmt: skip


def test_foreign_names_are_named() -> None:
    assert broken(library("@other = constant i32 1")) == {"own_names": "shows other"}


def test_an_unbounded_stack_is_named() -> None:
    text = """
    define internal void @use(ptr %p) noinline { store volatile i8 1, ptr %p ret void }
    define void @lib_f(i64 %n) { %a = alloca i8, i64 %n call void @use(ptr %a) ret void }"""
    assert "lib_f" in broken(library(text))["bounded_stack"]


def test_an_executable_stack_is_told() -> None:
    data = bytearray(library(""))
    at = data.find(b".note.GNU-stack\0")
    assert at > 0
    table = int.from_bytes(data[40:48], "little")
    count = int.from_bytes(data[60:62], "little")
    strings = table + 64 * int.from_bytes(data[62:64], "little")
    start = int.from_bytes(data[strings + 24 : strings + 32], "little")
    for header in range(table, table + 64 * count, 64):
        if start + int.from_bytes(data[header : header + 4], "little") == at:
            data[header + 8] |= 4
    assert broken(bytes(data)) == {"no_executable_stack": "the file is marked so"}


def test_instructions_beyond_a_bodys_level_are_named() -> None:
    text = """
    define <8 x float> @v1.f(<8 x float> %x) "target-cpu"="x86-64-v3" { %y = fadd <8 x float> %x, %x ret <8 x float> %y }
    define <8 x float> @v3.g(<8 x float> %x) "target-cpu"="x86-64-v3" { %y = fadd <8 x float> %x, %x ret <8 x float> %y }
    """
    found = broken(library(text))
    assert found["instruction_sets"] == "v1.f uses AVX at level 1"
    assert found["own_names"] == "shows v1.f, v3.g"


def test_calls_through_pointers_are_named() -> None:
    found = broken(library("define void @lib_f(ptr %g) { call void %g() call void %g() ret void }"))
    assert found["no_calls_out"] == "lib_f calls what is known at run time only"


def test_an_export_that_breaks_a_promise_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_state(*arguments: object) -> str:
        return emit_library(*arguments) + "\n@counter = global i32 0\n"  # type: ignore[arg-type]

    monkeypatch.setattr("graphc.codegen.library.emit_library", with_state)
    with pytest.raises(CompileError, match=r"has no data that it writes: has \.bss; shows .*: shows counter"):
        graphc.export(layer, name="layer", to=tmp_path / "out", target="x86-64", emit=["object"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_disassembler_the_rest_is_still_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphc.artifact import disassembler

    imported = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "capstone":
            raise ImportError(name)
        return imported(name, *rest, **more)  # type: ignore[arg-type]

    data = library("")
    disassembler._decoder.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    certificate = certify(data)
    disassembler._decoder.cache_clear()
    certificate.check()
    unknown = {p.name: p.detail for p in certificate.promises if p.kept is None}
    assert set(unknown) == {"no_calls_out", "bounded_stack", "instruction_sets"}
    assert "pip install 'graphc[inspect]'" in unknown["bounded_stack"]
    assert set(certificate.stack_bytes.values()) == {None}


@pytest.mark.parametrize("target", C_TARGETS)
def test_rows_that_are_kept_between_passes_fit_the_stack_of_the_target(target: str, tmp_path: Path) -> None:
    """A frame of a page would call __chkstk on Windows; a microcontroller's whole stack has a few kilobytes."""

    def wide(x: f32[2, 900]) -> graphc.Array:
        return nn.softmax(x)

    result = graphc.export(wide, name="wide", to=tmp_path, target=target, emit=["object"])
    depth = certify(result.files["object"].read_bytes()).entries["wide"].stack_bytes
    assert depth is not None
    if "windows" in target or target.startswith("cortex"):
        assert depth < 1024
    else:
        assert 3600 <= depth < 4400


# --------------------------------------------------------------------------------------------------------- counts


def test_iterations_are_those_that_the_loops_of_a_kernel_make() -> None:
    kernel = parse_kernel("""kernel @k(%x: f32[40] inout) {
      for %i = 0 to 5 step 1 serial {
        for %j = 0 to 8 step 3 serial { store %x[%i * 8 + %j] = load %x[%j] }
        for %l = 0 to 8 step 1 vector { store %x[%i * 8 + %l] = 1.0 }
      }
    }""")
    assert iterations(kernel) == 5 + 5 * 3
    run_kernel(kernel, [np.zeros(40, np.float32)])


def test_iterations_that_data_decides_have_no_bound() -> None:
    kernel = parse_kernel(
        "kernel @k(%x: i64[4] in, %y: i64[4] out) { for %i = 0 to 4 step 1 serial { store %y[%i] = 0 } }"
    )
    loop = kernel.body[0]
    assert isinstance(loop, For)
    data = For(Var("j"), Const(i64, 0), Load(kernel.params[0], (Const(i64, 0),)), loop.body)
    assert iterations(Kernel("k", kernel.params, (data,))) is None


@pytest.mark.parametrize("target", ["x86-64-v3", "aarch64-linux-gnu", "cortex-m7"])
def test_plans_have_bounds(target: str) -> None:
    graph = graphc.trace(
        graphc.value_and_grad(lambda w, x: graphc.sum(nn.softmax(x @ w) ** 2)), f32[6, 5], f32[4, 6]
    )
    plan = lower(graph, target_from_name(target), (), {}).plan
    turns = plan_iterations(plan)
    assert turns is not None and 0 < turns < 4 * 6 * 5 * 20
    assert plan_bytes_moved(plan) >= 4 * (6 * 5 + 4 * 6 + 6 * 5)
    assert plan_operations(plan) >= 3 * 2 * 4 * 6 * 5 - 2 * 4 * 6 * 5


def test_costs_survive_the_info_of_the_object(tmp_path: Path) -> None:
    result = graphc.export(layer, name="layer", to=tmp_path, target="wasm32", emit=["object"])
    found = find_info(result.files["object"].read_bytes())
    assert found.costs == result.info.costs and isinstance(found.costs["layer"], EntryCost)
    older = json.loads(result.info.to_json())
    del older["costs"]
    assert LibraryInfo.from_json(json.dumps(older)).costs == {}


# ------------------------------------------------------------------------------------------------------- the command


def test_inspect_shows_the_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = graphc.export(
        layer, name="layer", to=tmp_path, target="cortex-m4f", emit=["object", "static"]
    ).files
    assert main(["inspect", str(files["object"])]) == 0
    text = capsys.readouterr().out
    assert "layer, made by graphc" in text and "for cortex-m4f" in text
    assert "kept    needs no symbol from elsewhere" in text and "BROKEN" not in text
    assert main(["inspect", str(files["static"]), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["file"] == "layer.o" and shown["graphc_certificate"] == 1 and shown["machine"] == "arm"


def test_inspect_tells_what_a_foreign_object_would_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "@state = global i32 1 declare void @puts() define void @f() nounwind { call void @puts() ret void }"
    )
    path = tmp_path / "foreign.o"
    path.write_bytes(compile_object(text, target_from_name("aarch64-linux-gnu")))
    assert main(["inspect", str(path)]) == 1
    out = capsys.readouterr().out
    assert "not graphc's" in out
    assert "BROKEN  needs no symbol from elsewhere (needs puts)" in out
    assert "BROKEN  has no data that it writes (has .data)" in out
    assert "unknown shows no names but those that begin with its own" in out


@pytest.mark.parametrize("target", [name for name in C_TARGETS if has_shared(export_targets(name)[0])])
def test_linked_libraries_keep_what_their_objects_keep(target: str, tmp_path: Path) -> None:
    files = graphc.export(layer, name="layer", to=tmp_path, target=target, emit=None).files
    if "shared" not in files:
        pytest.skip(f"no linker for {target} (extra link)")
    inside, linked = (certify(files[kind].read_bytes()) for kind in ("object", "shared"))
    assert linked.linked and linked.broken == []
    assert linked.entries == inside.entries and linked.stack_bytes == inside.stack_bytes
    assert linked.shows == inside.shows
    # the names of functions, which say a body's level, and those of segments are gone
    lost = ["no_state"] if target.startswith("wasm") else []
    lost += ["instruction_sets"] if len(export_targets(target)) > 1 else []
    assert [p.name for p in linked.promises if p.kept is None] == lost


def test_inspect_refuses_what_is_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.o"
    path.write_text("not an object")
    assert main(["inspect", str(path)]) == 1
    assert f"graphc: error: {path}: object: expected an ELF, COFF" in capsys.readouterr().err
    with pytest.raises(ArtifactError):
        certify(b"")
