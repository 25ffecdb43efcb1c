"""The command line on functions of Python files, every level, colours, the memory before running, and bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.cli import main
from graphc.codegen.target import TARGETS
from graphc.ir.files import load_graph, save_graph
from graphc.ir.graph import Builder
from graphc.ir.kernel_text import parse_kernels
from graphc.ir.parser import parse
from graphc.ir.types import f32
from graphc.terminal import wants_colour

ROOT = Path(__file__).resolve().parent.parent
MODEL = """import graphc
from graphc import f32, i32, losses, nn

SHAPE = {"w1": f32[16, 8], "w2": f32[3, 16], "speed": f32[16, 8]}
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def loss(w1: f32[16, 8], w2: f32[3, 16], x: f32[32, 8], y: i32[32]):
    return losses.cross_entropy(graphc.tanh(x @ w1.T) @ w2.T, y)


def step(params: SHAPE, x: f32[32, 8], y: i32[32], rate: f32[()]):
    error, g = graphc.value_and_grad(lambda p: loss(p["w1"], p["w2"], x, y))(params)
    speed = 0.9 * params["speed"] + g["w1"]
    return error, {"w1": params["w1"] - rate * speed, "w2": params["w2"] - rate * g["w2"], "speed": speed}


def predict(x: f32[32, 8]):
    return model(x)


def fixed(x: f32[32, 8]):
    return graphc.reshape(x, (16, 16)).sum()


def untyped(x):
    return x + 1


def wrong(x: f32[2]):
    return inner(x)


def inner(x):
    return {}["missing"]


def mismatched(x: f32[2], y: f32[3]):
    return x + y


entries = {"half": graphc.Entry(untyped, [f32[4]])}
compiled = graphc.compile(untyped, f32[5])
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "mymodel.py").write_text(MODEL)
    yield tmp_path / "mymodel.py"
    for name in [n for n in sys.modules if n.startswith("mymodel")]:
        del sys.modules[name]


# ------------------------------------------------------------------------------------------- functions of Python files


@pytest.mark.parametrize("name", ["loss", "step", "predict", "compiled", "entries.half"])
def test_a_function_of_a_file_is_a_graph_like_that_of_a_gir_file(
    model: Path, name: str, capsys: Captured
) -> None:
    assert main(["opt", f"mymodel.py:{name}", "-p", "simplify", "-o", "out.gir"]) == 0
    assert main(["opt", "out.gir"]) == 0
    assert parse(capsys.readouterr().out) == load_graph("out.gir")


def test_specs_give_a_function_without_annotations_its_types(model: Path, capsys: Captured) -> None:
    assert main(["opt", "mymodel.py:untyped", "--specs", "i32[7]"]) == 0
    assert "(%x: i32[7]) -> (i32[7])" in capsys.readouterr().out
    assert main(["opt", "mymodel.py:untyped"]) == 1
    assert "untyped: x: expected specs, or a type as annotation" in capsys.readouterr().err
    save_graph(graphc.trace(lambda x: x, f32[2]), "f.gir")
    assert main(["opt", "f.gir", "--specs", "f32[2]"]) == 1
    assert "a graph has its types: expected no specs, got 1" in capsys.readouterr().err


def test_what_a_file_prints_is_not_in_the_commands_output(model: Path, capsys: Captured) -> None:
    model.write_text("print('loading')\n" + MODEL)
    assert main(["opt", "mymodel.py:loss"]) == 0
    out, err = capsys.readouterr()
    assert parse(out).name == "loss" and err == "loading\n"


def test_the_chain_rule_of_a_function_of_a_file(model: Path, capsys: Captured) -> None:
    assert main(["latex", "mymodel.py:loss", "--wrt", "w1"]) == 0
    assert r"\frac{\partial e}{\partial w_{1}}" in capsys.readouterr().out


def test_what_a_function_raises_is_shown_with_the_users_frames_alone(model: Path, capsys: Captured) -> None:
    assert main(["info", "mymodel.py:wrong"]) == 1
    first, *frames, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):" and "graphc/" not in "".join(frames)
    assert [line.rpartition(", ")[2] for line in frames if "File" in line] == ["in wrong", "in inner"]
    line = MODEL.splitlines().index('    return {}["missing"]') + 1
    assert last == (
        f"graphc: error: mymodel.py:wrong: line {line}: expected a function that can be traced, got KeyError: 'missing'"
    )
    assert main(["info", "mymodel.py:mismatched"]) == 1
    (said,) = capsys.readouterr().err.splitlines()  # graphc's own errors have the line and need no frames
    assert f"mymodel.py:{MODEL.splitlines().index('    return x + y') + 1}: add: " in said


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("def f(:\n", "bad.py:1: expected a file that runs, got SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)\n", "bad.py:2: expected a file that runs, got SystemExit: 3"),
        ("def f():\n  f()\nf()\n", "bad.py:2: expected a file that runs, got RecursionError: "),
        ("import nowhere_to_be_found\n", "bad.py:1: expected a file that runs, got ModuleNotFoundError"),
    ],
)
def test_a_file_that_raises_is_told_by_its_own_traceback(
    text: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("bad.py").write_text(text)
    assert main(["info", "bad.py:f"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"graphc: error: {last}")
    assert any('bad.py", line' in line for line in lines) and not any("cli_source" in line for line in lines)


def test_a_file_called_like_a_module_that_is_loaded_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("json.py").write_text("import graphc\ndef f(x: graphc.f32[2]):\n    return -x\n")
    assert main(["opt", "json.py:f"]) == 0
    assert "neg" in capsys.readouterr().out and sys.modules["json"] is json


# ---------------------------------------------------------------------------------------------------------- lower


def test_every_level_of_a_function_is_printed(model: Path, capsys: Captured) -> None:
    begins = {
        "fused": "graphc 1",
        "kernels": "kernel @",
        "plan": "plan @step",
        "llvm": "source_filename",
        "asm": "\t.file",
    }
    for level, begin in begins.items():
        assert main(["lower", "mymodel.py:step", "--to", level, "--donate", "params"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(begin), level
        if level == "kernels":
            assert "contract0" in parse_kernels(out)
        if level == "plan":
            assert "in place of %params.w1" in out


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "nvptx64"])
def test_assembly_for_every_target_of_the_table(target: str, model: Path, capsys: Captured) -> None:
    assert main(["lower", "mymodel.py:predict", "--to", "asm", "--target", target, "-o", "out.s"]) == 0
    assert capsys.readouterr().out == "" and "contract0" in Path("out.s").read_text()


def test_ptx_is_for_targets_with_threads(model: Path, capsys: Captured) -> None:
    assert main(["lower", "mymodel.py:predict", "--to", "ptx"]) == 0
    plain = capsys.readouterr().out
    assert ".target sm_80" in plain and ".entry contract0" in plain
    assert (
        main(["lower", "mymodel.py:predict", "--to", "ptx", "--target", "cuda:sm_90", "--color", "always"])
        == 0
    )
    assert "sm_90" in re.sub(r"\x1b\[[0-9]+m", "", capsys.readouterr().out)
    assert main(["lower", "mymodel.py:predict", "--to", "kernels", "--target", "nvptx64"]) == 0
    assert " block {" in capsys.readouterr().out
    assert main(["lower", "mymodel.py:predict", "--to", "ptx", "--target", "wasm32"]) == 1
    assert "lower: ptx: expected nvptx64 or cuda as target, got wasm32" in capsys.readouterr().err


def test_times_of_the_parts_go_to_standard_error(model: Path, capsys: Captured) -> None:
    assert main(["lower", "mymodel.py:predict", "--to", "asm", "--time"]) == 0
    parts = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert parts[-1] == "total" and {"passes", "schedule", "emit", "llvm"} <= set(parts)


# ----------------------------------------------------------------------------------------------------------- info


def test_memory_before_running_tells_weights_state_and_smaller_batches(model: Path, capsys: Captured) -> None:
    assert main(["info", "mymodel.py:step", "--donate", "params"]) == 0
    out = capsys.readouterr().out
    weights, state = 4 * (16 * 8 + 3 * 16), 4 * 16 * 8
    assert re.search(rf"^  weights +{weights} ", out, re.M) and re.search(rf"^  state +{state} ", out, re.M)
    kept = 4 * 32 * 16  # the hidden layer
    assert f"activations kept for the backward pass: {kept:,} bytes\n" in out
    rows = [line.split() for line in out.partition("rows of x, y")[2].splitlines()[1:]]
    assert [row[0] for row in rows] == ["32", "16", "8"]
    assert [row[4] for row in rows] == [f"{kept // n:,}" for n in (1, 2, 4)]
    arguments = [int(row[2].replace(",", "")) for row in rows]
    assert [a - arguments[2] for a in arguments] == [24 * 4 * 9, 8 * 4 * 9, 0]  # 8 floats and a label a row


def test_memory_is_planned_without_llvm(model: Path) -> None:
    model.write_text(MODEL.partition("compiled =")[0])
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from graphc.cli import main; s = main(['info', 'mymodel.py:step', "
         "'--target', 'cortex-m7']); print(s, 'llvmlite' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_memory_of_what_has_no_smaller_batch_says_so(model: Path, capsys: Captured) -> None:
    assert main(["info", "mymodel.py:fixed"]) == 0
    assert re.search(r"^16 +can't be traced: .*reshape", capsys.readouterr().out, re.M)
    assert main(["info", "mymodel.py:loss"]) == 0
    out = capsys.readouterr().out
    assert "the data arguments share no first axis" in out and "backward pass: none" in out
    assert main(["info", "mymodel.py:compiled"]) == 0
    assert "not known of a graph" in capsys.readouterr().out
    assert main(["info", "--target", "wasm32"]) == 2
    assert "--target: expected with FILE, got it without" in capsys.readouterr().err


def test_memory_is_drawn(model: Path, capsys: Captured) -> None:
    assert main(["info", "mymodel.py:step", "-o", "memory.png"]) == 0
    assert Path("memory.png").read_bytes().startswith(b"\x89PNG")


# --------------------------------------------------------------------------------------------------------- colours


class _Terminal:
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_unless_asked_for_or_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    assert wants_colour("auto", terminal) and not wants_colour("never", terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour("auto", terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour("auto", terminal) and wants_colour("always", terminal)  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "")  # empty is as if it were not set
    assert wants_colour("auto", terminal)  # type: ignore[arg-type]


def test_colours_change_nothing_of_the_text(model: Path, capsys: Captured) -> None:
    for command in (
        ["opt", "mymodel.py:step", "-p", "simplify", "--diff"],
        ["opt", "mymodel.py:step", "-p", "simplify,fuse", "--print-after-each"],
        ["lower", "mymodel.py:step", "--to", "asm"],
    ):
        assert main(command) == 0
        plain = capsys.readouterr().out
        assert "\x1b" not in plain
        assert main([*command, "--color", "always"]) == 0
        coloured = capsys.readouterr().out
        assert "\x1b[" in coloured and re.sub(r"\x1b\[[0-9]+m", "", coloured) == plain


# ------------------------------------------------------------------------------------------------------- bad input


def _run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "graphc", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, cwd=folder, capture_output=True, timeout=120,
    )  # fmt: skip


def test_a_terminal_without_unicode_gets_escapes(tmp_path: Path) -> None:
    build = Builder()
    x = build.input(f32[2], "σ")
    save_graph(build.graph("f", [build.neg(x)]), tmp_path / "σ.gir")
    for command in (
        ["opt", "σ.gir"],
        ["lower", "σ.gir", "--to", "plan"],
        ["info", "σ.gir"],
        ["opt", "ж.gir"],
    ):
        done = _run(*command, folder=tmp_path, PYTHONIOENCODING="ascii")
        assert b"Unicode" not in done.stderr and b"Traceback" not in done.stderr, done.stderr
        assert (done.returncode == 0) == (command[1] == "σ.gir")
    assert b'%"\\u03c3": f32[2]' in _run("opt", "σ.gir", folder=tmp_path, PYTHONIOENCODING="ascii").stdout


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF\x02\x01", b"%PDF-1.7 \xff", b"{}", b"graphc 1", b"graphc 99 graph"]
)
@pytest.mark.parametrize("command", [["opt"], ["info"], ["latex"], ["lower", "--to", "asm"]])
def test_a_file_that_is_no_graph_is_one_line(
    command: list[str], content: bytes, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "no.gir"
    path.write_bytes(content)
    assert main([*command[:1], str(path), *command[1:]]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"graphc: error: {path}:") and "Traceback" not in err


def test_names_with_anything_in_them_pass_through_every_level(tmp_path: Path, capsys: Captured) -> None:
    build = Builder()
    names = ['a"b', "<b>", "σ", "new\nline", "100%"]
    inputs = [build.input(f32[4, 4], name) for name in names]
    total = inputs[0]
    for value in inputs[1:]:
        total = build.contract(total, value, axes=((1,), (0,)), batch=((), ()))
    save_graph(build.graph('f<"σ">', [total]), tmp_path / "odd.gir")
    for level in ("fused", "kernels", "plan", "llvm", "asm"):
        assert main(["lower", str(tmp_path / "odd.gir"), "--to", level, "--color", "always"]) == 0
        assert capsys.readouterr().out
    np.savez(tmp_path / "in.npz", **{name: np.eye(4, dtype=np.float32) for name in names})
    assert main(["run", str(tmp_path / "odd.gir"), str(tmp_path / "in.npz"), "--check"]) == 0


def _long(count: int, path: Path) -> str:
    lines = "\n".join(
        f"  %{i} = {'sin' if i % 2 else 'neg'} %{i - 1 if i else 'x'} : f32[2]" for i in range(count)
    )
    path.write_text(f"graphc 1 graph @f(%x: f32[2]) -> (f32[2]) {{\n{lines}\n  return %{count - 1}\n}}")
    return str(path)


@pytest.mark.parametrize("count", [4000, pytest.param(20000, marks=pytest.mark.slow)])
def test_a_long_graph_takes_bounded_time_and_no_recursion(
    count: int, tmp_path: Path, capsys: Captured
) -> None:
    path = _long(count, tmp_path / "long.gir")
    limit = sys.getrecursionlimit()
    begin = time.perf_counter()
    sys.setrecursionlimit(400)
    try:
        assert main(["opt", path, "-p", "simplify,fuse", "--verify", "-o", str(tmp_path / "o.gir")]) == 0
        assert main(["lower", path, "--to", "asm", "-o", str(tmp_path / "o.s")]) == 0
        assert main(["info", path]) == 0
        assert main(["opt", path, "--color", "always"]) == 0
    finally:
        sys.setrecursionlimit(limit)
    assert time.perf_counter() - begin < 120 * count / 20000 + 20
    assert capsys.readouterr().out.count("\n") > count


def test_a_reader_that_leaves_is_no_error_in_the_middle_of_colours(tmp_path: Path) -> None:
    path = _long(5000, tmp_path / "long.gir")
    command = f"{sys.executable} -m graphc opt {path} --color always | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.stdout.splitlines()[1] == "141" and done.stderr == ""
