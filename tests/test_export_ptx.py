"""Exports for a GPU: PTX that assembles, and the table of what a host launches."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from ptx.assembler import assemble

import graphc
from graphc import f32, i32, nn, optim
from graphc.cli import main
from graphc.runtime.launches import LaunchTable

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]


def test_a_function_becomes_ptx_a_table_and_a_header(tmp_path: Path) -> None:
    exported = graphc.export(
        lambda x, w: graphc.tanh(x @ w),
        f32[33, 31],
        f32[31, 7],
        name="layer",
        to=tmp_path,
        target="nvptx64",
        emit="ptx",
    )
    assert {kind: path.name for kind, path in exported.files.items()} == {
        "ptx": "layer.ptx", "launches.json": "layer.launches.json", "h": "layer.h",
    }  # fmt: skip
    ptx = (tmp_path / "layer.ptx").read_text()
    assert ".target sm_80" in ptx
    table = LaunchTable.from_json((tmp_path / "layer.launches.json").read_text(), b"")
    assert [a.name for a in table.info.inputs] == ["x", "w"]
    assert set(assemble(ptx, "sm_80")) == {step.kernel for step in table.launches}


def test_the_entries_of_a_model_have_files_each_and_architectures_are_asked_for(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    entries = graphc.training_entries(
        model, nn.cross_entropy, optim.SGD(0.1, momentum=0.9), (f32[9, 12], i32[9])
    )
    exported = graphc.export(entries, name="mlp", to=tmp_path, target="cuda", arch="sm_90")
    assert exported.files["ptx of train_step"].name == "mlp_train_step.ptx"
    ptx = exported.files["ptx of train_step"].read_text()
    assert ".target sm_90" in ptx
    assert assemble(ptx, "sm_90")
    for header in tmp_path.glob("*.h"):
        for compiler, standard in (("gcc", "c99"), ("g++", "c++11")):
            language = "c" if compiler == "gcc" else "c++"
            subprocess.run([compiler, f"-std={standard}", *STRICT, "-x", language, header], check=True)


def test_constants_are_a_file_of_their_own(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    exported = graphc.export(
        lambda x: x + graphc.asarray(table), f32[3, 4], name="f", to=tmp_path, target="nvptx64"
    )
    constants = exported.files["constants.bin"].read_bytes()
    assert table.tobytes() in constants
    LaunchTable.from_json(exported.files["launches.json"].read_text(), constants)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        graphc.export(
            lambda x: graphc.exp(x).sum(), f32[1000], name="f", to=tmp_path / folder, target="nvptx64"
        )
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_command_builds_ptx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gpu_model.py").write_text(
        "import graphc\nfrom graphc import f32\n\ndef twice(x: f32[5]):\n    return 2 * x\n"
    )
    command = [
        "build",
        f"{tmp_path / 'gpu_model.py'}:twice",
        "-o",
        str(tmp_path / "out"),
        "--target",
        "nvptx64",
    ]
    assert main([*command, "--emit", "ptx", "--arch", "sm_86"]) == 0
    assert "twice.ptx" in capsys.readouterr().out
    assert ".target sm_86" in (tmp_path / "out" / "twice.ptx").read_text()


def test_precision_is_for_gpus_alone() -> None:
    exact = graphc.compile(lambda a, b: a @ b, f32[64, 64], f32[64, 64], target="cuda")
    rounded = graphc.compile(lambda a, b: a @ b, f32[64, 64], f32[64, 64], target="cuda", precision="tf32")
    assert "mma.sync" not in exact.ptx and "mma.sync" in rounded.ptx
    with pytest.raises(graphc.errors.TargetError, match="precision: expected f32 on cpu, got tf32"):
        graphc.compile(lambda a, b: a @ b, f32[64, 64], f32[64, 64], precision="tf32")
    with pytest.raises(
        graphc.errors.TargetError, match="precision: expected one of f32, tf32, f16, bf16, got 'int4'"
    ):
        graphc.compile(lambda a: a, f32[64], target="cuda", precision="int4")
    with pytest.raises(
        graphc.errors.TargetError, match="check: expected a target of this machine's processor"
    ):
        graphc.compile(lambda a: a, f32[64], target="cuda", check="nan")
