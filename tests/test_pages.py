"""The tutorial and the page on debugging show what their code prints today, and the pictures that it draws."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("tutorial.md", "debugging.md", "training.md", "transforms.md")


@pytest.fixture(scope="module")
def regenerate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regenerate", DOCS / "regenerate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_its_code_prints(name: str, regenerate: ModuleType, tmp_path: Path) -> None:
    page = DOCS / name
    made = regenerate.regenerated(page, tmp_path / "images")
    assert regenerate.comparable(made) == regenerate.comparable(page.read_text(encoding="utf-8"))
    drawn = {p.name for p in (tmp_path / "images").iterdir()}
    shown = set(re.findall(r"\]\(images/([^)]+)\)", page.read_text(encoding="utf-8")))
    assert drawn == shown
    for picture in shown:
        assert 1000 < (DOCS / "images" / picture).stat().st_size < 100_000


def test_every_block_of_output_is_compared_or_says_why_not(regenerate: ModuleType) -> None:
    assert set(regenerate.PAGES) == set(PAGES)
    for name in PAGES:
        text = (DOCS / name).read_text(encoding="utf-8")
        assert not re.search(r"```text\n```", text), f"{name}: a block of output is empty"
        assert text.count(regenerate.LLVM) <= 1 and text.count(regenerate.VARIES) <= 6
