"""The data of the page: nodes and groups of every stage, what changed, kernels' texts, and a file that nothing can break."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from viewed_model import training_step

import graphc
from graphc import f32, f64
from graphc.cli import main
from graphc.errors import ArtifactError, ShapeError
from graphc.ir.files import save_graph
from graphc.ir.graph import Builder, Graph
from graphc.ir.loc import Loc
from graphc.view.code import asm_functions, kernel_codes
from graphc.view.compare import compare
from graphc.view.data import page_data
from graphc.view.report import page_text
from graphc.view.stages import BACKWARD, FORWARD, LARGE, UPDATE, stage_view


def data_of(page: str) -> dict:  # type: ignore[type-arg]
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)  # type: ignore[no-any-return]


def chain(count: int, scope: str = "") -> Graph:
    build = Builder()
    x = build.input(f32[4], "x")
    for _ in range(count):
        x = build.tanh(x, loc=Loc("model.py", 3, scope))
    return build.graph("chain", [x])


# ------------------------------------------------------------------------------------------------------- stages


def test_sides_of_a_training_step() -> None:
    view = stage_view("traced", training_step().graph)
    for row in view.rows:
        if row.kind == "op" and row.node.loc.note.startswith("d "):
            assert row.side == BACKWARD
    sides = {row.outputs[0]: row.side for row in view.rows if row.outputs}
    assert sides["output0"] == FORWARD and set(sides.values()) == {FORWARD, UPDATE}
    # the rate is read by updates alone, so it and its broadcasts are among them
    (rate,) = [i for i, row in enumerate(view.rows) if row.name == "rate"]
    readers = [row for row in view.rows if any(r == rate for r, _ in row.operands)]
    assert view.rows[rate].side == UPDATE and {row.side for row in readers} == {UPDATE}


def test_groups_are_the_modules_and_differ_by_side() -> None:
    view = stage_view("traced", training_step().graph)
    found = {(g.label, g.side) for g in view.groups if g.kind == "module"}
    assert found == {(name, side) for name in "012" for side in (FORWARD, BACKWARD)}


def test_fused_regions_are_groups_whose_rows_read_the_outer_values() -> None:
    fused = training_step().fused
    view = stage_view("fused", fused)
    regions = [n.regions[0] for n in fused.nodes]
    assert [g.region for g in view.groups if g.kind == "kernel"] == regions
    assert sum(row.region >= 0 for row in view.rows) == sum(len(r.nodes) for r in regions)
    assert all(r < i for i, row in enumerate(view.rows) for r, _ in row.operands)


def test_a_module_that_is_left_and_entered_again_is_two_groups() -> None:
    build = Builder()
    x = build.input(f32[4], "x")
    for scope in ("block", "block", "other", "block"):
        x = build.tanh(x, loc=Loc("model.py", 1, scope))
    view = stage_view("traced", build.graph("f", [x]))
    assert [g.label for g in view.groups] == ["block", "other", "block"]
    assert [row.group for row in view.rows] == [-1, 0, 0, 1, 2]


def test_large_graphs_are_cut_into_runs_that_no_path_leaves_and_enters_again() -> None:
    view = stage_view("traced", chain(LARGE + 500))
    runs = [row.group for row in view.rows if row.kind == "op"]
    assert {g.kind for g in view.groups} == {"run"} and runs == sorted(runs)
    assert max(runs.count(g) for g in set(runs)) <= 100


# ------------------------------------------------------------------------------------------------------- changes


def test_what_simplify_changed() -> None:
    before = graphc.parse(
        """graphc 1
graph @f(%x: f32[2,3], %w: f32[4,3]) -> (f32[2,4]) {
  %0 = transpose %w {perm=[1,0]} : f32[3,4]
  %1 = contract %x, %0 {axes=[[1],[0]], batch=[[],[]]} : f32[2,4]
  %2 = tanh %1 : f32[2,4]
  return %2
}"""
    )
    compiled = graphc.compile(before)
    old, new = (stage_view(s, compiled.stages[s]) for s in ("traced", "simplified"))
    found = compare(old, new)
    labels = [row.label for row in new.rows]
    assert labels == ["input", "input", "contract", "tanh"]
    assert [old.rows[i].label for i in found.removed] == ["transpose"]
    assert found.added == () and [labels[i] for i in found.changed] == ["contract"]
    assert (2, -1) in found.lines and (3, 2) in found.lines and (4, 3) in found.lines


def test_fusing_adds_and_removes_nothing() -> None:
    stages = training_step().stages
    before, after = (stage_view(name, stages[name]) for name in ("simplified", "grouped"))
    found = compare(before, after)
    assert found.removed == () and not found.changed
    assert sorted({b for b, _ in found.lines if b >= 0}) == list(range(len(before.rows)))
    assert sorted({a for _, a in found.lines if a >= 0}) == list(range(len(after.rows)))


def test_a_graph_compared_with_itself_has_no_change() -> None:
    view = stage_view("traced", training_step().graph)
    found = compare(view, view)
    assert found.pairs == tuple(range(len(view.rows))) and not found.changed and not found.removed


# ------------------------------------------------------------------------------------------------------- kernels


def test_every_kernel_has_its_three_texts_with_the_functions_that_it_calls() -> None:
    compiled = training_step()
    codes = kernel_codes(compiled.kernels, compiled.llvm, compiled.asm)
    for kernel, code in zip(compiled.kernels, codes, strict=True):
        assert f"kernel @{kernel.name}(" in code.kernel
        assert f"@{kernel.name}(" in code.llvm.splitlines()[0] and code.llvm.count("define") >= 1
        assert f"\n{kernel.name}:" in f"\n{code.asm}" and "ret" in code.asm
        for callee in re.findall(r"call void @(tile\w*)\(", code.llvm):
            assert f"\n{callee}:" in code.asm and f"@{callee}(" in code.llvm


def test_functions_of_mach_o_have_an_underscore_that_is_no_part_of_their_name() -> None:
    text = "_map0:\n\t.cfi_startproc\n\tret\nLfunc_end0:\n\n_f_run:\n\tret\n"
    assert asm_functions(text, {"map0", "f_run"}) == {"map0": "_map0:\n\tret", "f_run": "_f_run:\n\tret"}


def test_each_kernel_knows_its_group_and_its_steps() -> None:
    data = page_data(training_step())
    fused = data["stages"][-1]["groups"]  # type: ignore[index]
    for number, kernel in enumerate(data["kernels"]):  # type: ignore[arg-type, var-annotated]
        assert kernel["steps"] and [fused[g]["k"] for g in kernel["groups"]] == [number] * len(
            kernel["groups"]
        )


# ------------------------------------------------------------------------------------------------------- values


def test_ranges_are_those_of_the_interpreter_in_every_stage(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: graphc.exp(x).sum(), f32[3])
    x = np.float32([0, 1, np.log(4)])
    compiled.view(tmp_path / "f.html", x)
    data = data_of((tmp_path / "f.html").read_text())
    for stage in data["stages"]:
        ranges = {n["op"]: n["r"] for n in stage["nodes"]}
        assert ranges["input"][:2] == [0, pytest.approx(np.log(4))]
        assert ranges["exp"][:2] == [1, 4] and ranges["exp"][2] == pytest.approx((5 + np.e) / 3)
    assert data["profile"]["steps"] and data["profile"]["peaks"]["operations"] > 0


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: graphc.log(x), f32[3])
    compiled.view(tmp_path / "f.html", np.float32([0, -1, 1]))
    nodes = data_of((tmp_path / "f.html").read_text())["stages"][0]["nodes"]
    assert [n["r"] for n in nodes if n["op"] == "log"] == [[0, 0, 0, 2]]


def test_huge_and_logical_values_have_ranges(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: x > 0, f64[2])
    compiled.view(tmp_path / "f.html", np.array([1.7e308, 1.7e308]))
    nodes = data_of((tmp_path / "f.html").read_text())["stages"][0]["nodes"]
    assert [n["r"] for n in nodes if n["op"] in ("input", "gt")] == [
        [1.7e308, 1.7e308, None, 0],
        [True, True, 1, 0],
    ]


def test_a_function_that_checks_its_calls_has_a_page(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: graphc.log(x), f32[2], check="nan")
    compiled.view(tmp_path / "f.html")
    assert data_of((tmp_path / "f.html").read_text())["kernels"]


def test_source_lines_are_in_the_page(tmp_path: Path) -> None:
    training_step().view(tmp_path / "f.html")
    data = data_of((tmp_path / "f.html").read_text())
    (file,) = (f for f in data["files"] if f.endswith("viewed_model.py"))
    assert any("nn.cross_entropy" in line for line in data["files"][file].values())


# ------------------------------------------------------------------------------------------------------- the file


NASTY = [
    "</script><script>alert(1)</script>",
    "a \"b\" 'c' <i>&amp;</i>",
    "Ω 漢字 \u2028 😀",
    "@@data@@",
    "\\u003c",
]


def nasty_graph() -> Graph:
    build = Builder()
    loc = Loc('<img src=x onerror="alert(2)">.py', 3, "</script>.0", "d <b> / d </script>")
    values = [build.tanh(build.input(f32[2], name), loc=loc) for name in NASTY]
    return build.graph("</title><script>alert(3)</script>", values, output_names=NASTY)


def test_no_name_is_markup(tmp_path: Path) -> None:
    path = tmp_path / "n.html"
    graphc.compile(nasty_graph()).view(path)
    page = path.read_text()
    assert page.count("</script>") == 2 and page.count("<script") == 2 and page.count("</title>") == 1
    assert 'onerror="' not in page and "alert(3)</script>" not in page
    assert [n["n"] for n in data_of(page)["stages"][0]["nodes"] if n["op"] == "input"] == NASTY


def test_the_page_loads_nothing() -> None:
    page = page_text(page_data(training_step()))
    without_data = re.sub(r'id="data">.*?</script>', "", page, flags=re.DOTALL)
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[\w./]+", without_data)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@@\w+@@", without_data)
    assert not re.search(
        r"<link|src=|@import|url\(|fetch\(|XMLHttp|innerHTML|insertAdjacent|eval\(", without_data
    )


def test_an_interpreted_function_has_a_page_without_kernels(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: x + 1, f32[2], target="interpreter")
    compiled.view(tmp_path / "f.html", np.zeros(2, np.float32))
    data = data_of((tmp_path / "f.html").read_text())
    assert data["kernels"] == [] and data["memory"] is None and data["profile"] is None and data["measured"]


def test_graphs_without_nodes_and_empty_arrays_have_pages(tmp_path: Path) -> None:
    build = Builder()
    x = build.input(f32[0, 3], "x")
    for graph in (build.graph("same", [x]), build.graph("nothing", [])):
        graphc.compile(graph).view(tmp_path / "f.html", np.zeros((0, 3), np.float32))


def test_wrong_arguments_and_places_leave_no_file(tmp_path: Path) -> None:
    compiled = graphc.compile(lambda x: x + 1, f32[2])
    with pytest.raises(ShapeError, match=r"test_view.py:\d+: "):
        compiled.view(tmp_path / "f.html", np.zeros(3, np.float32))
    with pytest.raises(ArtifactError, match="expected a writable file"):
        compiled.view(tmp_path / "none" / "f.html")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_graph(chain(3), "chain.gir")
    (tmp_path / "viewed.py").write_text(
        "import graphc\nfrom graphc import f32, nn\n"
        "def scale(x: f32[4], rate: f32[()]):\n    return x * rate\n"
        "def free(x):\n    return x + 1\n"
        "model = nn.Linear(3, 2)\ncompiled = graphc.compile(free, f32[2])\nnumber = 3\n"
    )
    (tmp_path / "raises.py").write_text("def inner():\n    return {}['no key']\n\ninner()\n")
    return tmp_path


def test_view_of_a_graph_with_profile_and_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "chain.gir", "-o", "report.html", "--profile"]) == 0
    assert capsys.readouterr().out.startswith("report.html: ")
    data = data_of((here / "report.html").read_text())
    assert data["profile"]["steps"] and not data["measured"] and "drawn arguments" in data["note"]
    np.savez("in.npz", x=np.ones(4, np.float32))
    assert main(["view", "chain.gir", "--inputs", "in.npz"]) == 0
    data = data_of((here / "chain.html").read_text())
    assert data["measured"] and data["profile"] is None and data["note"] == ""


@pytest.mark.parametrize(
    "arguments",
    [["viewed.py:scale"], ["viewed.py:scale", "--donate", "x"], ["viewed.py:free", "--specs", "f32[5]"],
     ["viewed.py:model", "--specs", "f32[7,3]", "--profile"], ["viewed.py:compiled"]],
)  # fmt: skip
def test_view_of_a_python_file(arguments: list[str], here: Path) -> None:
    assert main(["view", *arguments]) == 0
    (page,) = here.glob("*.html")
    assert data_of(page.read_text())["kernels"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.gir"], "nowhere.gir: expected a readable file"),
        (["viewed.py"], "expected a .gir file or FILE.py:NAME, got 'viewed.py' without a name"),
        (["viewed.py:nope"], "expected something of this name"),
        (["viewed.py:free"], "free: x: expected specs, or a type as annotation"),
        (["viewed.py:number"], "viewed.py:number: expected a function, a graph or a model, got int"),
        (["viewed.py:compiled", "--specs", "f32[2]"], "a compiled function has its types"),
        (["chain.gir", "-o", "none/report.html"], "none/report.html: expected a writable file"),
        (["chain.gir", "--inputs", "nowhere.npz"], "nowhere.npz"),
        (["chain.gir", "--target", "pdp11"], "target: expected one of"),
    ],
)
def test_view_tells_what_is_wrong_in_one_line(
    arguments: list[str], text: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("graphc: error: ") and text in said.err
    assert not list(here.glob("*.html"))


def test_a_file_that_raises_shows_its_own_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "raises.py:f"]) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'no key'" in said and 'raises.py", line 4' in said and 'raises.py", line 2' in said
    assert "cli_source.py" not in said and "importlib" not in said
    assert said.splitlines()[-1].startswith("graphc: error: raises.py:2: expected a file that runs")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently there")
def test_a_closed_pipe_is_no_error_of_ours(here: Path) -> None:
    command = f'"{sys.executable}" -m graphc view chain.gir -o r.html | true'
    root = str(Path(graphc.__file__).parent.parent)
    environment = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "GRAPHC_CACHE": "off"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == "" and (here / "r.html").exists()


def test_dot_has_the_modules_and_escapes_names() -> None:
    text = nasty_graph().dot()
    assert text.startswith('digraph "</title><script>alert(3)</script>" {')
    assert 'label="a \\"b\\" \'c\' <i>&amp;</i>\\nf32[2]"' in text
    assert text.count("{") == text.count("}") and text.count(" -> ") == len(NASTY)
    fused = training_step().fused.dot()
    assert fused.count("subgraph cluster_") >= len(training_step().fused.nodes)


def test_products_of_one_line_are_not_taken_for_each_other() -> None:
    compiled = training_step()
    old, new = (stage_view(s, compiled.stages[s]) for s in ("traced", "simplified"))
    for after, before in enumerate(compare(old, new).pairs):
        if before >= 0:
            a, b = old.rows[before], new.rows[after]
            assert (a.label, a.diagonal, a.node.types) == (b.label, b.diagonal, b.node.types)
