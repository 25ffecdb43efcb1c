"""The programs around exported libraries are built and run, and do what their pages say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMBED = ROOT / "examples" / "embed"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    "PYTHON": sys.executable,
}
SECONDS = 300


def run(*command: str | Path, folder: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**ENVIRONMENT, **variables},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(*tools: str) -> None:
    """Skips where a tool is missing, unless all are required."""
    missing = [t for t in tools if not (find_spec(t[7:]) if t.startswith("python ") else shutil.which(t))]
    if missing:
        text = f"needs {', '.join(missing)}"
        if os.environ.get("GRAPHC_REQUIRE_TOOLS", "0") not in ("", "0"):
            pytest.fail(text)
        pytest.skip(text)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("cc", "ar")
    folder = tmp_path_factory.mktemp("digits")
    run(sys.executable, EMBED / "digits_library.py", "--to", folder, "--epochs", "6")
    return folder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The examples in a folder of their own, for what is built beside the sources."""
    shutil.copytree(EMBED, tmp_path / "embed")
    return tmp_path / "embed"


def losses(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"loss ([\d.e-]+)", text)]


def accuracy(text: str) -> float:
    found = re.search(r"test accuracy:? ([\d.]+)", text)
    assert found is not None
    return float(found[1])


def test_c_trains_with_the_losses_of_python_to_the_last_digit(library: Path, copied: Path) -> None:
    needs("make")
    run("make", f"FOLDER={library}", folder=copied / "c")
    assert (copied / "c" / "losses.txt").read_text() == (library / "losses.txt").read_text()
    assert accuracy((library / "losses.txt").read_text()) > 0.95


def test_cpp_trains_two_models_at_once(library: Path, copied: Path) -> None:
    needs("make", "c++")
    text = run("make", "-s", f"FOLDER={library}", folder=copied / "cpp")
    first, second = re.findall(r"rate ([\d.]+): last loss ([\d.]+), test accuracy ([\d.]+)", text)
    want = (library / "losses.txt").read_text()
    assert float(first[1]) == pytest.approx(losses(want)[-1], rel=1e-5)
    assert float(first[2]) == pytest.approx(accuracy(want), abs=1e-4)
    assert float(second[2]) > 0.9


def test_rust_trains_without_a_standard_library_in_its_crate(library: Path, copied: Path) -> None:
    needs("cargo")
    text = run(
        "cargo",
        "run",
        "--quiet",
        "--release",
        "--offline",
        "--",
        library,
        folder=copied / "rust",
        FOLDER=str(library),
    )
    want = (library / "losses.txt").read_text()
    assert losses(text) == pytest.approx(losses(want), abs=1e-6)
    assert accuracy(text) == accuracy(want)


def test_node_trains_in_webassembly(tmp_path: Path) -> None:
    needs("node", "python ziglang")
    run(sys.executable, EMBED / "digits_library.py", "--to", tmp_path, "--epochs", "4", "--target", "wasm32")
    text = run("node", EMBED / "node" / "train.mjs", tmp_path)
    want = (tmp_path / "losses.txt").read_text()
    assert losses(text) == pytest.approx(losses(want), rel=1e-4)  # no fused multiply-add
    assert accuracy(text) == pytest.approx(accuracy(want), abs=0.01)


def test_the_audio_effect_keeps_up_and_sounds_like_the_amplifier(tmp_path: Path, copied: Path) -> None:
    needs("make", "cc")
    run(sys.executable, EMBED / "audio" / "effect.py", "--to", tmp_path, "--epochs", "1500")
    text = run("make", "-s", f"FOLDER={tmp_path}", "SECONDS=1", folder=copied / "audio")
    found = re.search(r"a block takes ([\d.]+) us \(median\).*it has ([\d.]+) us", text)
    assert found is not None and float(found[1]) < float(found[2])
    error = re.search(r"error to signal: (-?[\d.]+) dB", text)
    assert error is not None and float(error[1]) < -20


def test_a_microcontroller_trains(tmp_path: Path) -> None:
    needs("qemu-system-arm", "python ziglang")
    text = run(sys.executable, EMBED / "microcontroller" / "build.py", "--to", tmp_path)
    sizes = [int(n.replace(",", "")) for n in re.findall(r"(?:flash|memory) +([\d,]+) of", text)]
    assert sizes[0] < 64 << 10 and sizes[1] < 32 << 10
    board = [
        "qemu-system-arm",
        "-M",
        "mps2-an386",
        "-nographic",
        "-semihosting-config",
        "enable=on,target=native",
        "-kernel",
    ]
    done = subprocess.run(
        [*board, str(tmp_path / "firmware.elf")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    printed = done.stdout + done.stderr
    assert losses(printed)[-1] < 0.1 < losses(printed)[0]
    found = re.search(r"right: (\d+) of 128", printed)
    assert found is not None and int(found[1]) > 105


# ----------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    needs("chromium", "chromedriver", "python selenium", "python ziglang")
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("web")
    said = run(sys.executable, EMBED / "web" / "build.py", "--to", folder)
    page, compressed = (
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes, ([\d,]+) compressed", said)[0]
    )
    assert page < 100_000 and compressed < 45_000
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    quiet = "disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for flag in f"headless=new no-sandbox disable-gpu {quiet} window-size=1120,960".split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get((folder / "index.html").as_uri())
    yield driver
    driver.quit()


def wait(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def test_the_page_trains_and_recognises_what_is_drawn(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    def text(name: str) -> str:
        return str(browser.find_element("id", name).text)

    def draw(*points: tuple[int, int]) -> None:
        pad = browser.find_element("id", "pad")
        actions = (
            ActionChains(browser, duration=10).move_to_element_with_offset(pad, *points[0]).click_and_hold()
        )
        for point in points[1:]:
            actions = actions.move_to_element_with_offset(pad, *point)
        actions.release().perform()

    assert text("loss") == "–"
    browser.find_element("id", "train").click()
    wait(lambda: int(text("steps").replace(",", "")) > 600)
    browser.find_element("id", "train").click()
    assert text("train") == "Go on"
    assert float(text("loss")) < 0.2 and int(text("accuracy")) >= 88

    draw((-60, -90), (60, -90), (0, 0), (-20, 100))
    wait(lambda: text("share7") != "" and int(text("share7").split()[0]) > 50)
    before = int(text("steps").replace(",", ""))
    browser.find_elements("css selector", "#labels button")[7].click()
    assert "added as 7" in text("said")
    assert len(browser.find_elements("css selector", "#album figure")) == 1
    browser.find_element("id", "train").click()
    wait(lambda: int(text("steps").replace(",", "")) > before + 20)
    browser.find_element("id", "reset").click()
    assert text("steps") == "0" and text("loss") == "–"
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
