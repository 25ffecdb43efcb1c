"""The page in a browser: what a reader clicks, types and sees. Without Chromium these tests are skipped.

With GRAPHC_REQUIRE_TOOLS=1 they fail instead.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_view import NASTY, chain, nasty_graph
from viewed_model import training_step

import graphc
from graphc import f32

REQUIRED = os.environ.get("GRAPHC_REQUIRE_TOOLS", "0") not in ("", "0")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "window-size=1400,900",
)  # fmt: skip


def missing() -> str:
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "the package selenium"
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)):
        if not any(map(shutil.which, names)):
            return names[0]
    return ""


@pytest.fixture(scope="module")
def driver() -> Iterator[object]:
    lacking = missing()
    if lacking and REQUIRED:
        pytest.fail(f"{lacking} is needed and not there (GRAPHC_REQUIRE_TOOLS=1)")
    if lacking:
        pytest.skip(f"{lacking} is not installed: the page is not looked at in a browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    options.binary_location = next(filter(None, found))
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield browser
    browser.quit()


class Page:
    """A page that is open: the few things that tests do with it."""

    def __init__(self, driver, path: Path) -> None:
        self.driver = driver
        driver.get(path.as_uri())
        assert self.js("return document.documentElement.dataset.ready") == "yes"

    def js(self, code: str, *args: object):
        return self.driver.execute_script(code, *args)

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).innerText", selector)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click_at(self, x: float, y: float) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.driver)
        actions.pointer_action.move_to_location(round(x), round(y)).click()
        actions.perform()
        ActionChains(self.driver).pause(0.05).perform()

    def node(self, stage: int, op: str, number: int = 0) -> int:
        found = self.js(
            "return graphcView.stages[arguments[0]].nodes.filter(n => n.op === arguments[1]).map(n => n.id)",
            stage,
            op,
        )
        return found[number]

    def chosen(self):
        return self.js("return graphcView.state.choice")

    def tab(self) -> str:
        return self.js("return graphcView.state.tab")

    def errors(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def page(driver: object, files: Path) -> Iterator[Page]:
    path = files / "step.html"
    if not path.exists():
        rng = np.random.default_rng(0)
        compiled = training_step()
        arrays = [rng.normal(size=t.shape).astype(t.dtype.numpy) for t in compiled.graph.input_types]
        for position, name in enumerate(compiled.graph.input_names):
            if name == "y":
                arrays[position] = rng.integers(0, 10, 8).astype(np.int32)
        compiled.view(path, *compiled.nested(arrays))
    found = Page(driver, path)
    yield found
    assert found.errors() == []


def test_a_clicked_node_shows_line_type_values_and_its_kernel_down_to_assembly(page: Page) -> None:
    node = page.node(0, "erf")
    page.js("graphcView.go(graphcView.stages[0].nodes[arguments[0]]); graphcView.choose(null)", node)
    page.click_at(*page.js("return graphcView.screen(arguments[0])", node))
    assert page.chosen() == {"stage": 0, "node": node}
    said = page.text("#inspector")
    assert said.startswith("erf\nforward") and "f32[8,24]" in said and "viewed_model.py:15" in said
    assert page.text("#inspector .source .on").endswith("logits, _ = model.apply(params, {}, x)")
    assert "min .. max" in said and "kernel @" in said
    for name, part in (("LLVM IR", "define internal void @contract0("), ("assembly", "contract0:")):
        page.js(
            "[...document.querySelectorAll('#inspector details')].find(d => d.innerText.startsWith(arguments[0])).open = true",
            name,
        )
        time.sleep(0.1)
        assert part in page.text("#inspector")


def test_a_derivative_says_what_it_is_and_is_drawn_on_the_right(page: Page) -> None:
    boxes = {b["node"]: b for b in page.js("return graphcView.boxes()") if b.get("node") is not None}
    nodes = page.js("return graphcView.stages[0].nodes.map(n => [n.s, n.kind, n.loc[3], Boolean(n.d)])")
    forward = [boxes[i]["x"] + boxes[i]["w"] for i in boxes if nodes[i][0] == 0]
    backward = [boxes[i]["x"] for i in boxes if nodes[i][0] == 1]
    assert max(forward) < min(backward)
    marked = next(i for i in boxes if nodes[i][3])
    page.js("graphcView.go(graphcView.stages[0].nodes[arguments[0]])", marked)
    said = page.text("#inspector")
    assert nodes[marked][2] in said and "diagonal Jacobian" in said


def test_no_two_boxes_overlap_and_every_box_lies_in_its_group(page: Page) -> None:
    for stage in range(3):
        page.js("graphcView.setStage(arguments[0])", stage)
        boxes = page.js("return graphcView.boxes()")
        by_key = {b["key"]: b for b in boxes}
        for i, a in enumerate(boxes):
            outer = by_key.get(a["parent"])
            if outer:
                assert outer["x"] <= a["x"] and a["x"] + a["w"] <= outer["x"] + outer["w"]
                assert outer["y"] <= a["y"] and a["y"] + a["h"] <= outer["y"] + outer["h"]
            for b in boxes[i + 1 :]:
                if a["parent"] == b["parent"]:
                    apart = (
                        a["x"] + a["w"] <= b["x"] + 0.5 or b["x"] + b["w"] <= a["x"] + 0.5
                        or a["y"] + a["h"] <= b["y"] + 0.5 or b["y"] + b["h"] <= a["y"] + 0.5
                    )  # fmt: skip
                    assert apart, (stage, a, b)


def test_modules_and_kernels_close_and_open(page: Page) -> None:
    group = page.js(
        "return graphcView.stages[0].groups.find(g => g.label === '1' && g.s === 0 && g.kind === 'module').id"
    )
    before = len(page.js("return graphcView.boxes()"))
    x, y = page.js(
        "const b = graphcView.boxes().find(b => b.key === 'g' + arguments[0]), c = graphcView.camera;"
        "const r = document.getElementById('canvas').getBoundingClientRect(); c.x = b.x - 200; c.y = b.y - 200;"
        "return [(b.x + 12 - c.x) * c.zoom + r.left, (b.y + 12 - c.y) * c.zoom + r.top]",
        group,
    )
    page.click_at(x, y)
    boxes = page.js("return graphcView.boxes()")
    assert len(boxes) < before
    assert [b["closed"] for b in boxes if b["key"] == f"g{group}"] == [True]
    page.keys("o")
    assert len(page.js("return graphcView.boxes()")) == before
    page.keys("c")
    groups = [b for b in page.js("return graphcView.boxes()") if b["key"].startswith("g")]
    assert len(groups) == 6 and all(b["closed"] for b in groups)


def test_arrows_go_along_edges(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    node = page.node(0, "erf")
    page.js("graphcView.go(graphcView.stages[0].nodes[arguments[0]])", node)
    users, operands = page.js(
        "const n = graphcView.stages[0].nodes[arguments[0]]; return [n.users, n.o.map(o => o[0])]", node
    )
    page.keys(Keys.ARROW_DOWN)
    assert page.chosen()["node"] in users
    page.keys(Keys.ARROW_UP)
    assert page.chosen()["node"] == node
    page.keys(Keys.ARROW_UP)
    assert page.chosen()["node"] in operands
    page.keys(Keys.ESCAPE)
    assert page.chosen() is None


def test_search_by_op_name_line_and_module(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.keys("/")
    page.keys("op:contract in:2")
    hits = page.driver.find_elements("css selector", "#results .hit")
    assert hits and all("contract" in hit.text for hit in hits)
    page.keys(Keys.ENTER)
    chosen = page.chosen()
    assert page.js("return graphcView.stages[0].nodes[arguments[0]].op", chosen["node"]) == "contract"
    for query, number in (("viewed_model.py:15", 1), ("params.2.weight", 1), ("no such thing", 0)):
        page.keys("/")
        page.js("document.getElementById('search').select()")
        page.keys(query)
        assert bool(page.driver.find_elements("css selector", "#results .hit")) == bool(number), query
    page.keys(Keys.ESCAPE)


def test_keys_of_tabs_zoom_theme_and_help(page: Page) -> None:
    for key, tab in (("2", "passes"), ("3", "kernels"), ("4", "memory"), ("5", "profile"), ("1", "graph")):
        page.keys(key)
        assert page.tab() == tab and page.find(f"#{tab}").is_displayed()
    zoom = page.js("return graphcView.camera.zoom")
    page.keys("+")
    assert page.js("return graphcView.camera.zoom") > zoom
    page.keys("-", "-")
    assert page.js("return graphcView.camera.zoom") < zoom
    theme = page.js("return document.documentElement.dataset.theme")
    page.keys("t")
    assert page.js("return document.documentElement.dataset.theme") != theme
    page.keys("?")
    assert page.find("#help").is_displayed() and "along the edges" in page.text("#help")
    page.keys("?")
    assert not page.find("#help").is_displayed()


def test_the_system_s_dark_mode_is_followed(page: Page) -> None:
    for value in ("dark", "light"):
        page.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": value}]}
        )
        time.sleep(0.1)
        assert page.js("return document.documentElement.dataset.theme") == value


def test_passes_side_by_side(page: Page) -> None:
    page.keys("2")
    said = page.text("#passes")
    assert "traced" in said and "simplified" in said and "removed" in said
    removed = page.driver.find_elements("css selector", ".diff .row > div.removed")
    assert removed and removed[0].text.startswith("− %0 = transpose %params.0.weight")
    removed[0].click()
    assert page.chosen() == {"stage": 0, "node": page.node(0, "transpose")}
    said = page.text("#inspector")
    assert "gone in rewritten" in said and "KERNEL OF WHAT TOOK IT IN\ncontract0" in said
    page.js("[...document.querySelectorAll('.timeline button.step')].at(-1).click()")
    assert page.js("return document.querySelectorAll('.diff .kern').length") > 0


def test_kernels_memory_and_profile(page: Page) -> None:
    page.keys("3")
    page.js(
        "[...document.querySelectorAll('#kernels .pills button')].find(b => b.innerText.startsWith('assembly')).click()"
    )
    assert "contract0:" in page.text("#kernels pre")
    page.keys("4")
    said = page.text("#memory")
    memory = training_step().memory
    step, _ = memory.peak
    assert f"Alive at the peak (step {step})" in said
    for tensor in memory.alive(step):
        assert f"%{tensor.name}" in said and f"{tensor.bytes:,}" in said
    assert len(page.driver.find_elements("css selector", "#memory svg rect.go")) == sum(
        t.offset is not None and t.bytes > 0 for t in memory.tensors
    )
    page.keys("5")
    assert "GFLOP/s" in page.text("#profile")
    assert page.driver.find_elements("css selector", "#profile svg circle.go")
    page.js("document.querySelector('#profile tbody tr').click()")
    assert page.text("#inspector .badge") == "kernel"


def test_the_choice_follows_to_another_stage(page: Page) -> None:
    page.js("graphcView.go(graphcView.stages[0].nodes[arguments[0]])", page.node(0, "erf"))
    page.keys("]", "]")
    assert page.chosen() == {"stage": 2, "node": page.node(2, "erf")}


def test_names_are_text(driver: object, files: Path) -> None:
    path = files / "nasty.html"
    graphc.compile(nasty_graph()).view(path)
    page = Page(driver, path)
    for key in "23451":
        page.keys(key)
    page.keys("/")
    page.keys("img")
    assert (
        page.js("return document.querySelectorAll('img, i[onerror], b b, script').length") == 2
    )  # our scripts
    assert page.driver.title == "</title><script>alert(3)</script> - graphc"
    assert page.js("return graphcView.stages[0].nodes.slice(0, 5).map(n => n.n)") == NASTY
    node = page.node(0, "tanh")
    page.js("graphcView.go(graphcView.stages[0].nodes[arguments[0]])", node)
    assert "d <b> / d </script>" in page.text("#inspector")
    assert page.errors() == []


@pytest.fixture
def timed() -> Callable[[Page, str], float]:
    def run(page: Page, code: str) -> float:
        return page.js(f"const t = performance.now(); {code}; return performance.now() - t")

    return run


def test_a_graph_of_20000_nodes_opens_closed_and_says_so(
    driver: object, files: Path, timed: Callable[[Page, str], float]
) -> None:
    path = files / "large.html"
    graphc.compile(chain(20_000), target="interpreter").view(path)
    page = Page(driver, path)
    assert "traced has 20,001 nodes" in page.text("#notice")
    assert page.js("return graphcView.boxes().length") < 500
    page.js("graphcView.go(graphcView.stages[0].nodes[12345])")
    assert page.chosen()["node"] == 12345 and "tanh" in page.text("#inspector")
    page.keys("2")
    assert page.errors() == []


def test_2000_nodes_are_laid_out_and_painted_in_time(
    driver: object, files: Path, timed: Callable[[Page, str], float]
) -> None:
    def network(x):
        for _ in range(250):
            x = graphc.tanh(x * 2 + 1) - x / 3 + graphc.exp(-x) * x
        return x

    path = files / "many.html"
    graphc.compile(graphc.trace(network, f32[4]), target="interpreter").view(path)
    page = Page(driver, path)
    assert page.js("return graphcView.stages[0].nodes.length") > 2000
    assert page.js("return performance.timing.domComplete - performance.timing.navigationStart") < 4000
    page.js("graphcView.setStage(0); graphcView.fit()")
    assert min(timed(page, "graphcView.paint()") for _ in range(3)) < 150
    assert page.errors() == []
