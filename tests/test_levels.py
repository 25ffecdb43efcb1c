"""Every level of a compiled function: prints as text that reads back, shows in a notebook, and has no markup of its own."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc
from graphc.compiler import CompiledFunction
from graphc.ir.graph import Builder, Graph
from graphc.ir.highlight import KEYWORDS, KINDS, Language, to_ansi, to_html, tokens
from graphc.ir.kernel_text import parse_kernels
from graphc.ir.parser import parse, parse_all
from graphc.ir.types import f32

SAMPLE = np.ones((4, 8), np.float32)


def loss(a: graphc.Array, x: graphc.Array) -> graphc.Array:
    return graphc.sum(graphc.tanh(x @ a) ** 2)


@pytest.fixture(scope="module")
def compiled() -> CompiledFunction:
    return graphc.compile(graphc.value_and_grad(loss), graphc.f32[8, 16], SAMPLE)


class _Tags(HTMLParser):
    """The tags and the text of a page; fails where they don't match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)
        if tag != "rect" or "title" in self.open:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag
        else:
            assert tag == "rect"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


HARMLESS = {"style", "div", "pre", "span", "p", "details", "summary", "table", "thead", "tbody", "tr", "th", "td",
            "svg", "rect", "title"}  # fmt: skip


def test_stages_and_kernels_print_as_texts_that_read_back(compiled: CompiledFunction) -> None:
    assert parse_all(str(compiled.stages)) == list(compiled.stages.values())
    assert next(iter(compiled.stages)) == "traced" and compiled.stages["fused"] == compiled.fused
    names = list(parse_kernels(str(compiled.kernels)))
    assert [k.name for k in compiled.kernels] == [n for n in names if not n.startswith("tile")]
    assert len(names) == len(set(names))
    assert len(repr(compiled.kernels)) < 500 and len(repr(compiled.plan)) < 100


def test_every_level_is_its_text_and_shows_in_a_notebook(compiled: CompiledFunction) -> None:
    levels = [compiled.graph, compiled.fused, *compiled.kernels, compiled.plan, compiled.llvm, compiled.asm]
    for level in levels:
        page = level._repr_html_()
        found = _Tags(page)
        assert (found.names <= HARMLESS and 'class="op"' in page) or level is compiled.plan
        shown, _, _ = found.text.partition("more lines: str()")
        lines = str(level).splitlines()
        assert shown.splitlines()[: min(len(lines), 400)] == lines[:400]
    for page in (compiled.stages._repr_html_(), compiled.kernels._repr_html_(), compiled._repr_html_()):
        assert _Tags(page).names <= HARMLESS
    assert isinstance(compiled.llvm, str) and compiled.llvm == str(compiled.llvm)


def test_code_can_be_copied_and_stored(compiled: CompiledFunction) -> None:
    again = pickle.loads(pickle.dumps(compiled.llvm))
    assert (
        again == compiled.llvm
        and again.language == "llvm"
        and again._repr_html_() == compiled.llvm._repr_html_()
    )


def test_memory_and_profile_show_in_a_notebook(compiled: CompiledFunction) -> None:
    page = compiled.memory._repr_html_()
    assert _Tags(page).names <= HARMLESS and f"{compiled.memory.by_kind['weights']:,}" in page
    assert page.count("<title>") == sum(t.offset is not None for t in compiled.memory.tensors)
    profile = compiled.profile(np.ones((8, 16), np.float32), SAMPLE, seconds=0.01)
    found = _Tags(profile._repr_html_())
    assert found.names <= HARMLESS and all(s.kernel in found.text for s in profile.steps)


def test_an_interpreted_function_shows_its_graph() -> None:
    page = graphc.compile(lambda x: x + 1, SAMPLE, target="interpreter")._repr_html_()
    assert "add" in _Tags(page).text and "plan" not in page


HOSTILE = ['a"b', "<script>alert(1)</script>", "σ(Ax)", "</pre><b>", "&amp;", "a b", "%x", "\\", "d\n%e"]


def _hostile() -> Graph:
    build = Builder()
    inputs = [build.input(f32[2, 2], name) for name in HOSTILE]
    total = inputs[0]
    for value in inputs[1:]:
        total = build.add(total, value)
    return build.graph("<img src=x onerror=alert(1)>", [build.contract(total, total, axes=((1,), (0,)), batch=((), ()))],
                       output_names=['"><i>'])  # fmt: skip


def test_names_are_text_never_markup() -> None:
    graph = _hostile()
    assert parse(str(graph)).input_names == tuple(HOSTILE)
    f = graphc.compile(graph)
    value = np.eye(2, dtype=np.float32)
    profile = f.profile(*[value] * len(HOSTILE), seconds=0.01)
    levels = (f, f.graph, f.stages, f.kernels, f.plan, f.llvm, f.asm, f.memory, profile)
    for level in levels:
        assert _Tags(level._repr_html_()).names <= HARMLESS
    for level in (f.graph, f.stages, f.kernels, f.plan):
        text = str(level)
        assert "".join(t.text for t in tokens(text)) == text
    # a name with quotes is one token in the plan too
    assert '%"a\\"b"' in [t.text for t in tokens(str(f.plan)) if t.kind == "value"]


@given(st.text(), st.sampled_from(["ir", "llvm", "asm", "diff"]))
def test_tokens_of_any_text_join_to_it_and_are_escaped(text: str, language: Language) -> None:
    assert "".join(t.text for t in tokens(text, language)) == text
    assert re.sub(r"\x1b\[[0-9]+m", "", to_ansi(text.replace("\x1b", ""), language)) == text.replace(
        "\x1b", ""
    )
    assert _Tags(to_html(text, language)).names <= HARMLESS


def test_kinds_of_tokens_are_those_of_the_grammar(compiled: CompiledFunction) -> None:
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for text in (str(compiled.stages), str(compiled.kernels), str(compiled.plan)):
        for token in tokens(text):
            if token.kind:
                found[token.kind].add(token.text)
            else:
                assert not re.search(r"[A-Za-z]", token.text), token
    assert {"graph", "return", "kernel", "for", "load", "plan", "call"} <= found["keyword"] <= KEYWORDS
    assert {"contract", "tanh", "fma"} <= found["op"]
    assert {"f32[8,16]", "f32"} <= found["type"] and {"axes", "kind"} <= found["key"]
    assert '"contract"' in found["string"] and {"0", "1.0"} <= found["number"]
    assert any(text.startswith("loc(") and text.endswith(")") for text in found["loc"])
    assert {f"@{compiled.graph.name}", "@contract0"} <= found["symbol"]


def test_levels_of_a_program_for_a_gpu_show_too() -> None:
    f = graphc.compile(graphc.value_and_grad(loss), graphc.f32[64, 64], graphc.f32[64, 64], target="cuda")
    assert parse_kernels(str(f.kernels)) and isinstance(f.ptx, str)
    for level in (f.kernels, f.plan, f.ptx, f.asm, f.memory, f.stages, f):
        assert _Tags(level._repr_html_()).names <= HARMLESS
    for token in tokens(str(f.kernels)):
        assert token.kind or not re.search(r"[A-Za-z]", token.text), token


def test_a_long_text_is_cut_in_a_notebook_and_says_so() -> None:
    page = to_html("\n".join(["%0 = neg %x : f32[2]"] * 1000))
    assert "600 more lines" in page and page.count('class="op"') == 400


def test_levels_cost_nothing_unless_asked_for() -> None:
    code = (
        "import sys, graphc, numpy as np\n"
        "f = graphc.compile(lambda x: x + 1, graphc.f32[2])\n"
        "f(np.ones(2, np.float32))\n"
        "print([m for m in ('graphc.ir.highlight', 'graphc.levels', 'graphc.footprint') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
