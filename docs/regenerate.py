"""Pages whose output is real: runs the blocks of code of a page, and puts what they print where the page shows it.

In: pages in Markdown. Out: the same pages with today's output, and their pictures. ``python docs/regenerate.py`` rewrites
``tutorial.md``, ``debugging.md`` and ``transforms.md``; a test regenerates them and compares.

- A block ``python`` is run. All of a page's are one program, called after the page, so that locations in dumps are right.
- A block ``python`` whose first line is ``# NAME.py`` is written to that file, and not run.
- The block ``text`` after a block of Python is what that printed.
- In a block ``console``, lines that begin with ``$`` are commands; what follows them is what they print.
- A block after the line ``<!-- varies -->`` holds times, or names of machines: when pages are compared, its words count,
  its numbers don't. One after ``<!-- depends on LLVM -->`` is not compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGES = ("tutorial.md", "debugging.md", "training.md", "transforms.md")
VARIES, LLVM = "<!-- varies -->\n", "<!-- depends on LLVM -->\n"
_BLOCK = re.compile(
    rf"(?P<mark>{VARIES}|{LLVM})?^```(?P<kind>python|text|console)\n(?P<body>.*?)^```\n",
    re.DOTALL | re.MULTILINE,
)


def regenerated(page: Path, pictures: Path) -> str:
    """The page with the output of its code; its pictures are written to `pictures`."""
    source = page.read_text(encoding="utf-8")
    with _folder() as folder:
        program = _Program(f"{page.stem}.py", folder)
        made = _BLOCK.sub(program.replaced, source)
        pictures.mkdir(exist_ok=True)
        for picture in sorted((folder / "images").iterdir()):
            shutil.copy(picture, pictures / picture.name)
    return made


def comparable(text: str) -> str:
    """The page without what differs from run to run."""

    def plain(match: re.Match[str]) -> str:
        if match["mark"] == LLVM:
            return match["mark"]
        if match["mark"] == VARIES:
            words = re.findall(r"[A-Za-z_]{3,}", match["body"])
            return " ".join(
                w for w in words if w not in ("compute", "memory")
            )  # which roof is nearer varies too
        return match.group()

    return _BLOCK.sub(plain, text)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of our own as the current one, with the environment that the pages assume."""
    before, path, environment = Path.cwd(), sys.path.copy(), os.environ.copy()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        (folder / "images").mkdir()
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": os.pathsep.join([str(HERE.parent), environment.get("PYTHONPATH", "")]),
                       "GRAPHC_CACHE": "off", "NO_COLOR": "1", "MPLBACKEND": "Agg"}  # fmt: skip
        sys.path.insert(0, str(folder))
        try:
            yield folder
        finally:
            os.chdir(before)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environment)
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
                    del sys.modules[name]


class _Program:
    """A page's code while it runs."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._lines = 0
        self._globals: dict[str, object] = {"__name__": "__main__"}
        self._printed = ""

    def replaced(self, match: re.Match[str]) -> str:
        kind, body = match["kind"], match["body"]
        if kind == "text":
            body = self._printed
        elif kind == "console":
            body = self._console(body)
        elif file := re.match(r"# (\w+\.py)\n", body):
            (self._folder / file[1]).write_text(body, encoding="utf-8")
        else:
            self._printed = self._run(body)
        return f"{match['mark'] or ''}```{kind}\n{body}```\n"

    def _run(self, code: str) -> str:
        out = io.StringIO()
        compiled = compile("\n" * self._lines + code, self._name, "exec")
        self._lines += code.count("\n") + 1
        with contextlib.redirect_stdout(out):
            exec(compiled, self._globals)
        return self._cleaned(out.getvalue())

    def _console(self, body: str) -> str:
        shown = []
        for command in re.findall(r"^\$ (.*)$", body, re.MULTILINE):
            line = re.sub(r"\bgraphc (?=[a-z])", f"{sys.executable} -m graphc ", command)
            line = re.sub(r"(?<![\w/.])python (?=-|\w+\.py)", f"{sys.executable} ", line)
            done = subprocess.run(
                ["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
            )
            shown.append(f"$ {command}\n{self._cleaned(done.stdout)}")
        return "".join(shown)

    def _cleaned(self, text: str) -> str:
        """Without the folder, and blanks at the ends of lines."""
        text = re.sub(r"[ \t]+$", "", text.replace(f"{self._folder}/", ""), flags=re.MULTILINE).rstrip()
        return text + "\n" if text else ""


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        text = regenerated(HERE / name, HERE / "images")
        (HERE / name).write_text(text, encoding="utf-8")
        print(name)
