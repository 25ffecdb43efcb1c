"""The examples run as scripts and print what a reader is to see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> str:
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("[!_]*.py")))
def test_every_example_explains_its_options(script: str, tmp_path: Path) -> None:
    text = run_example(script, "--help", folder=tmp_path)
    assert text.startswith(f"usage: {script}")
    assert "--out" in text and "--seed" in text


def test_logistic_regression_shows_every_stage_and_separates_the_points(tmp_path: Path) -> None:
    text = run_example("logistic_regression.py", "--out", "stages", folder=tmp_path)
    traced, derived, fused, kernels, training = (text.split(f"{n}. ", 1)[1] for n in range(1, 6))
    assert "sigmoid" in traced.split("2. ")[0] and "diagonal" not in traced.split("2. ")[0]
    products = [
        line for line in derived.split("3. ")[0].splitlines() if "= mul" in line and "{diagonal}" in line
    ]
    assert any("d loss / d sigmoid" in line for line in products), (
        "σ' multiplies the cotangent, as a diagonal"
    )
    assert 'fused %a, %x, %target {kind="contract"}' in fused
    assert kernels.lstrip().count("kernel @") >= 2
    losses = [float(value) for value in re.findall(r"step +\d+ +loss ([\d.]+)", training)]
    assert losses[0] == 0.25, "σ(0) = 1/2 is 1/2 from every target"
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.01
    assert "accuracy: 1.000" in training
    rows = (tmp_path / "stages/loss.csv").read_text().splitlines()
    assert rows[0] == "step,loss" and len(rows) == 202
    assert "@one_point_run" in (tmp_path / "stages/stages.txt").read_text()


def test_logistic_regression_prints_the_training_alone_where_asked(tmp_path: Path) -> None:
    text = run_example("logistic_regression.py", "--quiet", "--steps", "20", folder=tmp_path)
    assert text.startswith("step    0  loss 0.25000") and "graph @" not in text
    assert list(tmp_path.iterdir()) == []


def test_approximation_improves_with_hidden_units_and_draws_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = run_example(
        "approximation.py", "--hidden", "4", "16", "--epochs", "600", "--out", "plots", folder=tmp_path
    )
    errors = {int(n): float(error) for n, error in re.findall(r"hidden +(\d+) .*max error ([\d.]+)", text)}
    assert set(errors) == {4, 16}
    assert errors[16] < 0.2 < errors[4]
    assert (tmp_path / "plots/approximation.png").read_bytes().startswith(b"\x89PNG")


def test_approximation_gives_the_same_numbers_again(tmp_path: Path) -> None:
    runs = [
        run_example("approximation.py", "--hidden", "8", "--epochs", "50", "--out", ".", folder=tmp_path)
        for _ in range(2)
    ]
    first, second = (re.findall(r"loss (\S+) +max error (\S+)", text) for text in runs)
    assert first == second and len(first) == 1
