"""docs/gpu.md: its code runs, over the fake driver."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ptx.fake_driver import FakeCuda

from graphc.runtime.cuda import DeviceArray

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"


def test_the_pages_code_runs(gpu: FakeCuda) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    y, z = names["y"], names["z"]
    assert isinstance(y, np.ndarray) and isinstance(z, DeviceArray)
    np.testing.assert_allclose(y, np.ones((32, 10)), rtol=1e-6)
    assert len(blocks) == 5 and gpu.launches


def test_files_that_the_page_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+)`", text):
        assert (PAGE.parent.parent / name).exists(), name
    for name in re.findall(r"\]\(([\w./]+\.md)\)", text):
        assert (PAGE.parent / name).exists(), name
