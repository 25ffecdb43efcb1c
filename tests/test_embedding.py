"""`graphc build`, and the page on embedding: its commands and programs do what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.cli import main
from graphc.codegen.target import EXPORT_TARGETS
from graphc.exporter import EMITS
from graphc.runtime.abi import STATUS, STATUS_NAMES, find_info
from graphc.runtime.library import load

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/embedding.md").read_text()

MODEL = '''
from __future__ import annotations
import graphc
from graphc import f32, i32, nn, optim

model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
entries = graphc.training_entries(model, nn.cross_entropy, optim.SGD(0.1), (f32[5, 4], i32[5]))


def scale(x: f32[3, 4], w: f32[4]):
    """x w, elementwise."""
    return x * w


def predict(x):
    return model(x)


def update(w, g):
    return {"w": w - g}


compiled = graphc.compile(update, f32[5], f32[5], donate=["w"], name="update")
several = {"one": graphc.Entry(scale), "two": graphc.Entry(predict, [f32[1, 4]], doc="The second.")}
'''


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mymodel", raising=False)
    file = tmp_path / "mymodel.py"
    file.write_text(MODEL)
    return file


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_build_says_what_it_does_and_lists_files_and_bytes(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["build", "mymodel.py:scale", "-o", "out", "--target", "wasm32", "--emit", "object,header"]) == 0
    )
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "graphc: scale: tracing",
        "graphc: scale: compiling for wasm32",
        "graphc: writing",
    ]
    size = Path("out/scale.o").stat().st_size
    assert said.out.splitlines()[0].split() == ["object", "out/scale.o", str(size), "bytes"]
    assert "/* x w, elementwise.\n" in Path("out/scale.h").read_text()


@pytest.mark.parametrize(
    ("source", "more", "name", "entries"),
    [
        ("mymodel.py:entries", [], "mymodel", ["init", "predict", "loss", "grads", "train_step"]),
        ("mymodel.py:entries", ["--name", "net"], "net", ["init", "predict", "loss", "grads", "train_step"]),
        ("mymodel.py:several", [], "mymodel", ["one", "two"]),
        ("mymodel.py:compiled", [], "update", ["update"]),
        ("mymodel.py:scale", ["--name", "times"], "times", ["times"]),
        ("mymodel.py:predict", ["--specs", "f32[2,4]", "--weights", "embedded"], "predict", ["predict"]),
        ("mymodel.py:model", ["--specs", "f32[2,4]"], "Sequential", ["Sequential"]),
        ("mymodel.py:update", ["--specs", "f32[3]", "f32[3]", "--donate", "w"], "update", ["update"]),
        ("mymodel:scale", [], "scale", ["scale"]),
    ],
)
def test_build_takes_functions_models_compiled_functions_and_entries(
    source: str, more: list[str], name: str, entries: list[str], model: Path
) -> None:
    assert main(["build", source, "-o", "out", "-q", "--emit", "object", *more]) == 0
    (file,) = Path("out").iterdir()
    info = find_info(file.read_bytes())
    assert (info.name, list(info.entries)) == (name, entries)
    if "--donate" in more:
        assert info.entries["update"].donated == ((0, 0),)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.py:f"], "nowhere.py: expected a Python file, got no such file"),
        (["no.such.module:f"], "no.such.module: expected a module or a .py file, got No module named 'no'"),
        (["mymodel.py"], "build: expected FILE.py:NAME, got 'mymodel.py'"),
        (["mymodel.py:"], "build: expected FILE.py:NAME, got 'mymodel.py:'"),
        (
            ["mymodel.py:nope"],
            "got none; the file has model, entries, scale, predict, update, compiled, several",
        ),
        (["mymodel.py:predict"], "predict: x: expected specs, or a type as annotation"),
        (["mymodel.py:predict", "--specs", "f32[2"], "expected a type such as f32[32,64], got 'f32[2'"),
        (["mymodel.py:predict", "--specs", "c64[2]"], "expected a type such as f32[32,64], got 'c64[2]'"),
        (["mymodel.py:scale", "--target", "pdp11"], "target: expected one of cpu, x86-64-any, "),
        (["mymodel.py:scale", "--emit", "exe"], "export: emit: expected some of object, "),
        (["mymodel.py:scale", "--name", "new"], "export: name: expected a name for C and C++"),
        (["mymodel.py:graphc"], "export: expected functions, graphs or entries, got module"),
    ],
)
def test_build_tells_what_is_wrong_in_one_line(
    arguments: list[str], text: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *arguments, "-o", "out", "-q"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("graphc: error: ") and text in said.err
    assert len(said.err.splitlines()) == 1 and not Path("out").exists()


def test_a_file_that_fails_shows_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    assert main(["build", "broken.py:f", "-o", "out", "-q"]) == 1
    first, *frames, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert [line.rpartition(", ")[2] for line in frames if "File" in line] == ["in <module>", "in f"]
    assert last == (
        "graphc: error: broken.py:2: expected a file that runs, got ZeroDivisionError: division by zero"
    )
    assert not Path("out").exists()


def test_help_lists_what_can_be_emitted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--help"]) == 0
    assert ",".join(kind for kind in EMITS if kind != "ptx") in re.sub(r"\s+", "", capsys.readouterr().out)
    assert all(f"`{kind}`" in PAGE for kind in EMITS)


def test_info_lists_the_targets_of_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in EXPORT_TARGETS)


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"),
    reason="the page's commands are for Linux with a C compiler",
)
def test_the_page_shows_what_its_programs_print(tmp_path: Path) -> None:
    python = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    program = re.findall(r"^```c\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"prints `{done.stdout.strip()}`" in PAGE
    (tmp_path / "out" / "main.c").write_text(program)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["gcc", *strict, "main.c", "iris.o"], cwd=tmp_path / "out", check=True)
    said = subprocess.run(
        ["./a.out"], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    ).stdout
    assert f"prints `{said.strip()}`" in PAGE
    for file in re.findall(r"^\| `(\S+)`(?:, `(\S+)`)? \| ", PAGE.partition("## What can")[0], re.MULTILINE):
        assert all((tmp_path / "out" / name).is_file() for name in file if name)
    assert load(tmp_path / "out" / "classify.so").info.name == "classify"


POOL_MAIN = """
static int64_t counts[100];
static void body(void *state, int64_t chunk) { __atomic_fetch_add((int64_t *)state + chunk, 1, __ATOMIC_RELAXED); }
int main(void) {
    pool p = {3};
    int64_t i;
    parallel_for(&p, body, counts, 100);
    for (i = 0; i < 100; i++)
        if (counts[i] != 1) return 1;
    return 0;
}
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("gcc"), reason="needs threads of POSIX and a C compiler"
)
def test_the_pages_pool_runs_every_chunk_once(tmp_path: Path) -> None:
    (pool,) = [p for p in re.findall(r"^```c\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "pthread" in p]
    (tmp_path / "pool.c").write_text(pool + POOL_MAIN)
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
    subprocess.run(["gcc", *strict, "pool.c", "-o", "pool"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "pool"], check=True, timeout=30)


def test_the_page_has_every_status_and_target() -> None:
    for status, name in enumerate(STATUS_NAMES):
        assert f"| {status} | `{name}` | " in PAGE and status in STATUS
    table = PAGE.partition("## Targets")[2].partition("`target=")[0]
    assert set(re.findall(r"`([a-z][\w-]+)`", table)) == {*EXPORT_TARGETS} - {"nvptx64"}
