"""The grammar for editors finds the same tokens as the tokenizer of terminals and notebooks, on real dumps."""

from __future__ import annotations

import json
import plistlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.ir.highlight import tokens

EDITORS = Path(__file__).resolve().parent.parent / "editors"
GRAMMAR = json.loads((EDITORS / "vscode/syntaxes/graphc.tmLanguage.json").read_text())
# the beginning of a scope's name, and the tokenizer's kind
KINDS = {
    "comment.line": "comment", "comment.block.location": "loc", "variable.other": "value", "entity.name.function": "symbol",
    "string.quoted": "string", "storage.type": "type", "constant": "number", "entity.other.attribute-name": "key",
    "keyword.control": "keyword", "support.function": "op",
}  # fmt: skip


def scoped(line: str) -> Iterator[tuple[str, str]]:
    """The line as an editor reads it: at each place the pattern that matches first, the earlier one of two."""
    patterns = [(p["name"], re.compile(p["match"], re.ASCII)) for p in GRAMMAR["patterns"]]
    at = 0
    while at < len(line):
        found = [
            (m.start(), rank, m)
            for rank, (_, p) in enumerate(patterns)
            if (m := p.search(line, at)) and m.group()
        ]
        if not found:
            return
        _, rank, match = min(found, key=lambda f: f[:2])
        name = patterns[rank][0]
        yield next(kind for scope, kind in KINDS.items() if name.startswith(scope)), match.group()
        at = match.end()


@pytest.fixture(scope="module")
def dumps() -> list[str]:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((32, 12)).astype(np.float32), rng.integers(0, 3, 32).astype(np.int32)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    history = graphc.fit(
        model, data, loss=nn.cross_entropy, optimizer=optim.Adam(), epochs=1, batch_size=16, progress=False
    )
    assert history.step is not None
    return [str(history.step.stages), str(history.step.kernels), str(history.step.plan)]


def test_the_grammar_has_the_tokens_of_real_dumps(dumps: list[str]) -> None:
    for text in dumps:
        for line in sorted(set(text.splitlines())):
            assert list(scoped(line)) == [(t.kind, t.text) for t in tokens(line) if t.kind], line


def test_odd_names_are_one_token() -> None:
    line = r'  %"a \"b<" = add %x.y, %"σ" {axis=-1, flag} : f32[2, 3]  loc("a(b).py":3 in l.0 as "d e / d \"w\"")'
    assert list(scoped(line)) == [(t.kind, t.text) for t in tokens(line) if t.kind]
    assert [kind for kind, _ in scoped(line)] == [
        "value",
        "op",
        "value",
        "value",
        "key",
        "number",
        "op",
        "type",
        "loc",
    ]


def test_patterns_are_those_that_editors_understand() -> None:
    for pattern in GRAMMAR["patterns"]:
        assert set(pattern) == {"name", "match"} and pattern["name"].endswith(".graphc")
        assert re.compile(pattern["match"]).groups == 0 and "(?x" not in pattern["match"]
    assert plistlib.loads(plistlib.dumps(GRAMMAR)) == GRAMMAR  # as the page on editors says for Sublime Text


def test_the_extension_points_to_files_that_are_there() -> None:
    package = json.loads((EDITORS / "vscode/package.json").read_text())
    (language,), (grammar,) = package["contributes"]["languages"], package["contributes"]["grammars"]
    assert grammar["scopeName"] == GRAMMAR["scopeName"] and grammar["language"] == language["id"]
    for path in (language["configuration"], grammar["path"]):
        assert json.loads((EDITORS / "vscode" / path).read_text())
