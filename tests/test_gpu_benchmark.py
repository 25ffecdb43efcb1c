"""benchmarks/gpu.py: what it does without a GPU, and its whole path at tiny sizes over the fake driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ptx.fake_driver import FakeCuda

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_2() -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("no GPU to measure: cu") and done.stderr.count("\n") == 1


def test_every_case_runs_and_is_checked(
    benchmark: ModuleType,
    gpu: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # other frameworks would look for a real device, and take longer to import than all of this
    monkeypatch.setattr("_harness.installed", lambda *names: [])
    monkeypatch.setattr(benchmark, "_STEPS_CHECKED", 2)
    import _workloads

    tiny = [
        _workloads.Workload("tiny", (8, 16, 4), 8),
        _workloads.Workload("tiny Adam", (8, 4), 8, "gelu", "adam", False),
    ]
    file = tmp_path / "gpu.json"
    options = ["--json", str(file), "--seconds", "0"]
    kernels = benchmark.cases(256, 8, 40, 32)
    assert benchmark.main(options, kernels, tiny, calls=1) == 0
    found = json.loads(file.read_text())
    assert [row.get("kernel") for row in found["rows"][: len(kernels)]] == [case.name for case in kernels]
    assert [row["step"] for row in found["rows"][len(kernels) :]] == ["tiny", "tiny Adam"]
    for row in found["rows"]:
        assert row["graphc_us"] > 0 and row["ratio"] is None
        assert row.get("percent_of_roofline", 1) > 0
    assert found["notes"] == [
        "cuda:0 (Interpreted GPU, compute capability 8.0), CUDA 12.4; as stated: 1555 GB/s, 19492 GFLOP/s of f32"
    ]
    assert "percent_of_roofline" in capsys.readouterr().out


def test_a_wrong_answer_is_not_timed(benchmark: ModuleType) -> None:
    import numpy as np

    with pytest.raises(
        ValueError, match=r"softmax: expected an error of at most 0.002 of the largest element, got 0.5"
    ):
        benchmark._check("softmax", np.float32([1, 0.5]), np.float32([1, 1]))
