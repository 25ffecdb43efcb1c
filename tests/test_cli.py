"""The command line: what it prints, what it writes, what it says when something is wrong, and its exit status."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphc.cli_run
import graphc.cli_source
from graphc.cli import main
from graphc.codegen.target import host_target
from graphc.config import config
from graphc.ir.files import load_graph
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse, parse_all
from graphc.program import object_cache

MLP = """graphc 1
graph @mlp(%x: f32[2,3], %w: f32[4,3], %k: i32[2]) -> (%h: f32[2,4], %twice: i32[2]) {
  %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[2,4]
  %1 = const 1.0 : f32[2,4]
  %2 = mul %0, %1 : f32[2,4]
  %h = tanh %2 : f32[2,4]
  %3 = add %k, %k : i32[2]
  return %h, %3
}
"""
SIMPLE = """graphc 1
graph @mlp(%x: f32[2,3], %w: f32[4,3], %k: i32[2]) -> (%h: f32[2,4], %twice: i32[2]) {
  %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : f32[2,4]
  %h = tanh %0 : f32[2,4]
  %1 = add %k, %k : i32[2]
  return %h, %1
}
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def gir(tmp_path: Path) -> str:
    path = tmp_path / "mlp.gir"
    path.write_text(MLP)
    return str(path)


@pytest.fixture
def arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "x": rng.uniform(-1, 1, (2, 3)).astype(np.float32),
        "w": rng.uniform(-1, 1, (4, 3)).astype(np.float32),
        "k": np.array([3, -4], np.int32),
    }


@pytest.fixture
def npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> str:
    path = tmp_path / "inputs.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


# ------------------------------------------------------------------------------------------------------- opt


def test_opt_prints_the_graph_after_the_passes(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir, "-p", "simplify", "--verify"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (SIMPLE, "")


def test_opt_without_passes_prints_the_graph_as_it_is(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir]) == 0
    assert capsys.readouterr().out == MLP


def test_opt_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(MLP))
    assert main(["opt", "-", "-p", "simplify"]) == 0
    assert capsys.readouterr().out == SIMPLE


def test_opt_writes_a_file_that_reads_back(gir: str, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.gir"
    assert main(["opt", gir, "-p", "simplify", "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert load_graph(out) == parse(SIMPLE)


def test_print_after_each_prints_every_stage_and_all_of_it_parses(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir, "-p", "vjp{wrt=w},simplify", "--print-after-each"]) == 0
    out = capsys.readouterr().out
    assert "# 01 after vjp{wrt=[w]}" in out and "# 02 after simplify" in out
    first, second = parse_all(out)
    assert first.stage == second.stage == "differentiated" and len(second.nodes) < len(first.nodes)


def test_diff_prints_what_a_pass_changed(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir, "-p", "simplify,simplify", "--diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "-  %2 = mul %0, %1 : f32[2,4]" in lines
    assert lines[-2:] == ["# 02 after simplify", "(no change)"]


def test_differences_and_whole_graphs_may_both_be_asked_for(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir, "-p", "vjp{wrt=w},simplify", "--print-after-each", "--diff"]) == 0
    out = capsys.readouterr().out
    assert out.count("\ngraphc 1\n") == 2 and out.count("\n+++ after\n") == 2


def test_time_goes_to_standard_error_with_node_counts(gir: str, capsys: Captured) -> None:
    assert main(["opt", gir, "-p", "simplify", "--time"]) == 0
    out, err = capsys.readouterr()
    assert out == SIMPLE
    assert err.startswith("01 simplify") and "5 ->      3 nodes" in err and "total" in err


# ------------------------------------------------------------------------------------------------------- run


def test_interpreted_outputs_are_written_under_their_names(
    gir: str, npz: str, arrays: dict[str, np.ndarray], tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out.npz"
    assert main(["run", gir, npz, "--interpret", "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    with np.load(out) as file:
        assert sorted(file.files) == ["h", "twice"]
        np.testing.assert_allclose(file["h"], np.tanh(arrays["x"] @ arrays["w"].T), rtol=1e-6)
        np.testing.assert_array_equal(file["twice"], [6, -8])
        assert file["h"].dtype == np.float32 and file["twice"].dtype == np.int32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inputs.npz", "mlp.gir", "out.npz"]


def test_float64_computes_in_double_precision_and_takes_it(
    gir: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    np.savez(tmp_path / "wide.npz", **wide)  # type: ignore[arg-type]
    out = tmp_path / "out.npz"
    assert main(["run", gir, str(tmp_path / "wide.npz"), "--interpret", "--float64", "-o", str(out)]) == 0
    with np.load(out) as file:
        assert file["h"].dtype == np.float64
        np.testing.assert_allclose(file["h"], np.tanh(wide["x"] @ wide["w"].T), rtol=1e-14)


def test_outputs_are_printed_with_their_types(gir: str, npz: str, capsys: Captured) -> None:
    assert main(["run", gir, npz, "--interpret"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("%h: f32[2,4]\n[[") and out.endswith("%twice: i32[2]\n[ 6 -8]\n")


def test_a_graph_without_inputs_needs_no_file(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "iota.gir"
    path.write_text("graphc 1 graph @f() -> (i32[4]) { %0 = iota {dim=0} : i32[4] return %0 }")
    assert main(["run", str(path), "--interpret"]) == 0
    assert capsys.readouterr().out == "%0: i32[4]\n[0 1 2 3]\n"


def test_an_output_named_file_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "f.gir"
    path.write_text("graphc 1 graph @f() -> (%file: i32[2]) { %0 = iota {dim=0} : i32[2] return %0 }")
    assert main(["run", str(path), "--interpret", "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as file:
        assert file["file"].tolist() == [0, 1]


def test_machine_code_and_interpreter_agree(
    gir: str, npz: str, arrays: dict[str, np.ndarray], tmp_path: Path, capsys: Captured
) -> None:
    assert main(["run", gir, npz, "--check"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("ok   %h: f32[2,4] largest difference ")
    assert second == "ok   %twice: i32[2] largest difference 0"
    assert main(["run", gir, npz, "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_allclose(file["h"], np.tanh(arrays["x"] @ arrays["w"].T), rtol=1e-5)


def test_check_fails_where_the_two_differ(
    gir: str, npz: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(
        graphc.cli_run,
        "_compiled",
        lambda graph, given: [np.full((2, 4), np.nan, np.float32), np.array([6, 7], np.int32)],
    )
    assert main(["run", gir, npz, "--check"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("DIFF %h") and second == "DIFF %twice: i32[2] largest difference 1"


# ---------------------------------------------------------------------------------------------- ops and info


def test_ops_lists_every_op(capsys: Captured) -> None:
    assert main(["ops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["op", *REGISTRY]
    assert all(len(re.split("  +", line)) == 5 for line in lines)  # none without a meaning


def test_ops_explains_one(capsys: Captured) -> None:
    assert main(["ops", "tanh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("### tanh\n") and "derivative" in out and "f64, f32, bf16, f16" in out


def test_info_names_versions_machine_and_variables(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("GRAPHC_DUMP", "/somewhere")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"numpy          {np.__version__}" in out and "LLVM" in out and "target" in out
    assert "GRAPHC_DUMP          /somewhere" in out and "GRAPHC_DEBUG         (not set)" in out


def test_info_shows_targets_caches_and_the_object_cache(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    monkeypatch.setenv("GRAPHC_CACHE_SIZES", "48K,2M")
    config.cache_clear()
    host_target.cache_clear()
    assert main(["info"]) == 0
    host_target.cache_clear()
    text = capsys.readouterr().out
    assert "caches         L1 48 KiB, L2 2 MiB\n" in text
    assert f"object cache   {tmp_path}: 0 entries, 0 bytes of at most 256 MiB\n" in text
    assert "x86-64-v3            x86_64-unknown-linux-gnu               8        16\n" in text


def test_cache_is_shown_listed_and_cleared(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == "off\n"
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    config.cache_clear()
    object_cache().put("mlp-0123456789ab" + 52 * "c", b"x" * 2000)
    assert main(["cache", "--list"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path}: 1 entry, 2 KiB of at most 256 MiB"
    assert line.startswith("mlp-0123456789ab  20") and line.endswith("  2 KiB")
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "removed 1 file, 2 KiB\n"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ what is wrong

Break = Callable[[Path], list[str]]


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _savez(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def _inputs(folder: Path, **arrays: np.ndarray) -> list[str]:
    return ["run", _write(folder / "f.gir", MLP), _savez(folder / "in.npz", **arrays), "--interpret"]


GOOD: dict[str, np.ndarray] = {
    "x": np.zeros((2, 3), np.float32),
    "w": np.zeros((4, 3), np.float32),
    "k": np.zeros(2, np.int32),
}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            lambda d: ["opt", str(d / "no.gir")],
            "{d}/no.gir: expected a readable file, got No such file or directory",
        ),
        (
            lambda d: ["opt", _write(d / "f.gir", MLP), "-p", "simplif"],
            "pipeline: expected a pass of simplify, vjp, jvp, mixed, inline, remat, fuse, unfuse, verify, "
            "got 'simplif' (did you mean 'simplify'?)",
        ),
        (
            lambda d: ["opt", _write(d / "f.gir", MLP), "-p", "vjp{wrt=b}"],
            "vjp: wrt: expected one of x, w, k, got 'b'",
        ),
        (lambda d: ["opt", _write(d / "f.gir", MLP), "-o", str(d / "no" / "o.gir")], "{d}/no/o.gir: "),
        (lambda d: ["opt", _write(d / "f.gir", MLP.replace("tanh", "tahn"))], "{d}/f.gir:6:8: "),
        (
            lambda d: ["opt", _write(d / "f.gir", b"\xff\xfe\x00binary")],
            "{d}/f.gir:1:1: expected UTF-8 text of a graph, got byte 0xff",
        ),
        (
            lambda d: ["run", _write(d / "f.gir", MLP), "--interpret"],
            "@mlp: %x: expected f32[2,3], got nothing; %w: expected f32[4,3], got nothing; %k: expected i32[2], got nothing",
        ),
        (
            lambda d: ["run", _write(d / "f.gir", MLP), str(d / "no.npz")],
            "{d}/no.npz: No such file or directory",
        ),
        (
            lambda d: ["run", _write(d / "f.gir", MLP), _write(d / "in.npz", "text")],
            "{d}/in.npz: expected an .npz archive of plain arrays, got ",
        ),
        (
            lambda d: ["run", _write(d / "f.gir", MLP), _write(d / "in.npz", b"PK\x03\x04 broken")],
            "{d}/in.npz: expected an .npz archive of plain arrays, got ",
        ),
        (
            lambda d: ["run", _write(d / "f.gir", MLP), _write(d / "in.npz", b"")],
            "{d}/in.npz: expected an .npz archive of plain arrays, got ",
        ),
        (
            lambda d: _inputs(d, **{**GOOD, "x": np.array([{}])}),
            "{d}/in.npz: expected an .npz archive of plain arrays, got ",
        ),
        (
            lambda d: _inputs(d, **{**GOOD, "x": np.zeros((3, 2), np.float32)}),
            "@mlp: %x: expected f32[2,3], got f32[3,2]\n",
        ),
        (
            lambda d: _inputs(d, **{**GOOD, "x": np.zeros((2, 3))}),
            "@mlp: %x: expected f32[2,3], got f64[2,3]\n",
        ),
        (
            lambda d: _inputs(d, **{k: v for k, v in GOOD.items() if k != "w"}, W=GOOD["w"]),
            "@mlp: %w: expected f32[4,3], got nothing; %W: expected no such input, got f32[4,3]\n",
        ),
        (
            lambda d: _inputs(d, **{k: v for k, v in GOOD.items() if k != "k"}, kk=GOOD["k"]),
            "@mlp: %k: expected i32[2], got nothing (is it 'kk'?); %kk: expected no such input, got i32[2]\n",
        ),
        (lambda d: ["ops", "tanhx"], "ops: expected the name of an op, got 'tanhx' (did you mean 'tanh'?)\n"),
    ],
)
def test_an_error_is_one_line_and_status_1(
    arguments: Break, error: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(arguments(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("graphc: error: " + error.format(d=tmp_path)), err
    assert "Traceback" not in err


def test_undecodable_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"graphc \xff"), encoding="utf-8"))
    assert main(["opt", "-"]) == 1
    assert (
        capsys.readouterr().err == "graphc: error: <stdin>: expected UTF-8 text of a graph, got byte 0xff\n"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["optimise"], "invalid choice: 'optimise'"),
        (["opt"], "the following arguments are required: FILE"),
        (["run", "f.gir", "--check", "--interpret"], "not allowed with argument"),
        (["run", "f.gir", "--float64"], "--float64: expected with --interpret or --check"),
        (["run", "f.gir", "--rtol", "0.1"], "--rtol and --atol: expected with --check"),
        (["run", "f.gir", "--check", "-o", "o.npz"], "--output: expected without --check"),
    ],
)
def test_a_wrong_command_line_shows_the_usage_and_is_status_2(
    arguments: list[str], error: str, capsys: Captured
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: graphc") and error in err and "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("GRAPHC_DEBUG", "1")
    assert main(["opt", "nowhere.gir"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.rstrip().endswith("got No such file or directory")


def test_a_bug_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch, gir: str, capsys: Captured) -> None:
    monkeypatch.setattr(graphc.cli_source, "load_graph", lambda name: [][0])
    assert main(["opt", gir]) == 1
    err = capsys.readouterr().err
    assert (
        err == "graphc: error: internal: IndexError: list index out of range (GRAPHC_DEBUG=1 shows where)\n"
    )


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, gir: str, capsys: Captured) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graphc.cli_source, "load_graph", interrupted)
    assert main(["opt", gir]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", [[], ["opt"], ["lower"], ["run"], ["ops"], ["info"], ["cache"]])
def test_help_is_there_for_every_command(command: list[str], capsys: Captured) -> None:
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: graphc")
    assert command not in (["opt"], ["lower"], ["run"], ["info"]) or "examples:" in out


def _module(*arguments: str, **options: int | str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "graphc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_the_module_runs_as_a_command(gir: str) -> None:
    out, err = _module("opt", gir, "-p", "simplify").communicate(timeout=60)
    assert (out, err) == (SIMPLE, "")


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    lines = "\n".join(f"  %{i} = neg %{i - 1 if i else 'x'} : f32[2]" for i in range(5000))
    path = _write(
        tmp_path / "long.gir", f"graphc 1 graph @f(%x: f32[2]) -> (f32[2]) {{\n{lines}\n  return %4999\n}}"
    )
    process = _module("opt", path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
