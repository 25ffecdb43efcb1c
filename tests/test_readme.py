"""The README's examples do what it says: each block of Python is run, and prints the block of text that follows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphc import errors
from graphc.config import VARIABLES
from graphc.ir import kernel as kernel_grammar
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.parser import parse
from graphc.ir.verify import verify

ROOT = Path(__file__).resolve().parent.parent
PAIRS = re.findall(
    r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```",
    (ROOT / "README.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=[f"example{i}" for i in range(len(PAIRS))])
def test_the_readme_shows_what_its_code_prints(code: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
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


def test_the_architecture_page_shows_every_stage_of_its_program_as_it_is(tmp_path: Path) -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    program, *shown = re.findall(
        r"^```(?:python|text|)\n(.*?)^```", text[text.index("```python") :], re.DOTALL | re.MULTILINE
    )
    (tmp_path / "sigma.py").write_text(program)
    code = """if True:
        from sigma import compiled, graphc, loss, specs
        stages = [graphc.trace(loss, *specs[:3]), *compiled.stages.values(), compiled.kernels[-1], compiled.plan]
        print(*stages, sep="\\0\\n")
    """
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    page = [_columns(block) for block in shown]
    stages = run.stdout.replace(f"{tmp_path}/", "").split("\0\n")
    assert len(stages) == 9
    for stage in stages:
        assert _columns(stage) in page, stage


def test_the_texts_page_shows_a_graph_and_a_kernel_that_can_be_read() -> None:
    text = (ROOT / "docs/ir.md").read_text()
    graph = re.search(r"^```text\n(graphc 1\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    kernel = re.search(r"^```\n(kernel @saxpy.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert graph and kernel
    parsed = parse(graph[1])
    verify(parsed)
    assert str(parsed) + "\n" == graph[1]
    verify_kernel(parse_kernel(kernel[1]))


def test_the_texts_page_has_the_grammar_of_kernels() -> None:
    assert kernel_grammar.__doc__ is not None
    lines = [
        line.strip() for line in kernel_grammar.__doc__.split("::\n", 1)[1].split("Meaning:")[0].splitlines()
    ]
    page = (ROOT / "docs/ir.md").read_text()
    for line in filter(None, lines):
        assert line in page, line


def test_the_errors_page_explains_every_error_and_variable() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    names = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value is not errors.GraphcError
    ]
    assert len(names) >= 10
    for name in names:
        assert f"| `{name}` |" in text
    for name, meaning in VARIABLES.items():
        assert f"| `{name}` | {meaning} |" in text


def _columns(text: str) -> list[list[str]]:
    """Lines of words: where the column of locations begins depends on nothing but taste."""
    return [line.split() for line in text.splitlines()]
