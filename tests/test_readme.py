"""The README's examples do what it says: each block of Python is run, and prints the block of text that follows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAIRS = re.findall(
    r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=[f"example{i}" for i in range(len(PAIRS))])
def test_the_readme_shows_what_its_code_prints(code: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == output


def test_the_readme_has_both_examples() -> None:
    assert len(PAIRS) == 2


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, _anchor = link.partition("#")
            if not link.startswith(("http:", "https:")) and path:
                assert (document.parent / path).exists(), f"{document.name}: {link}"
