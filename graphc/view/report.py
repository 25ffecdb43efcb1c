"""The report: one HTML file that holds the program, the style and the scripts, and loads nothing.

In: a `CompiledFunction`. Out: the file, written whole or not at all. No text of the program is ever markup: it goes
in as JSON in which ``<`` can't occur, and the scripts make text of it.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from graphc.ir.files import write_atomically
from graphc.view.data import Json, measured_profile, page_data

if TYPE_CHECKING:
    from graphc.compiler import CompiledFunction

SCRIPTS = (
    "1_program.js",
    "2_layout.js",
    "3_canvas.js",
    "4_inspector.js",
    "5_passes.js",
    "6_charts.js",
    "7_app.js",
)


def write_report(
    compiled: CompiledFunction,
    path: str | os.PathLike[str],
    args: Sequence[object] | None = None,
    profile: bool = True,
    arrays: Sequence[object] | None = None,
    note: str = "",
) -> None:
    """Writes the page of a compiled function.

    `args` are run through the interpreter for the ranges of all values (`arrays` are the same, flat), and profiled. A
    `note` is shown on top. Raises `ArtifactError` where the file can't be written, `ArgumentError` or `ShapeError`
    where the arguments are not the function's.
    """
    times = measured_profile(compiled, args) if args is not None and profile and compiled.native else None
    page = page_text(page_data(compiled, arrays, times, note))
    write_atomically(path, page.encode("utf-8", "replace"))


def page_text(data: Json) -> str:
    """The page with this data.

    >>> text = page_text({"name": "</script><b>"})
    >>> "</script><b>" in text, "\\\\u003c/script>" in text
    (False, True)
    """
    page = _static("page.html")
    script = '(() => {\n"use strict";\n' + "\n".join(_static(name) for name in SCRIPTS) + "\n})();"
    # ASCII alone, so that any name is read back as it was; "<" could end the element that holds the data
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(f"{data['name']} - graphc"),
        "style": _static("style.css"),
        "data": text,
        "script": script,
    }
    pieces = page.split("@@")  # text, name, text, name, ...: what is put in is never looked through again
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


@cache
def _static(name: str) -> str:
    return (resources.files("graphc.view") / "static" / name).read_text(encoding="utf-8")
