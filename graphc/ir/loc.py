"""Where a node comes from: the user's file and line, the module scope, and what a pass says that it is.

In: a Python frame. Out: `Loc`, carried by every node and printed as ``loc("digits.py":14 in layers.0)``.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType

import numpy as np

_PLAIN_SCOPE = re.compile(r"[A-Za-z0-9_.]+\Z")
_PACKAGE = str(Path(__file__).resolve().parent.parent)
_STANDARD = str(Path(re.__file__).resolve().parent.parent) + os.sep
_NUMPY = str(Path(np.__file__).resolve().parent) + os.sep


@dataclass(frozen=True)
class Loc:
    """A source position; `scope` names the module (``layers.0``), `note` what a derived node is (``d loss / d w1``).

    >>> Loc("digits.py", 14, "layers.0")
    loc("digits.py":14 in layers.0)
    """

    file: str = ""
    line: int = 0
    scope: str = ""
    note: str = ""

    def with_note(self, note: str) -> Loc:
        return replace(self, note=note)

    @property
    def prefix(self) -> str:
        """``file:line: `` for the head of an error, empty where nothing is known."""
        return f"{self.file}:{self.line}: " if self.file else ""

    def __repr__(self) -> str:
        def quoted(text: str) -> str:
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

        parts = [f"{quoted(self.file)}:{self.line}"] if self.file else []
        if self.scope:
            parts.append(f"in {self.scope if _PLAIN_SCOPE.match(self.scope) else quoted(self.scope)}")
        if self.note:
            parts.append(f"as {quoted(self.note)}")
        return f"loc({' '.join(parts)})"


UNKNOWN = Loc()


def is_users(code: CodeType) -> bool:
    """Whether a function is neither graphc's, nor NumPy's or the standard library's, nor made by `dataclasses`."""
    file = code.co_filename
    if file.startswith(_PACKAGE):
        return False
    if file.startswith((_NUMPY, "<frozen ")) or (file == "<string>" and code.co_name == "__init__"):
        return False
    return not file.startswith(_STANDARD) or "site-packages" in file


def here(scope: str = "") -> Loc:
    """The innermost line of the caller's stack that is the user's."""
    frame = sys._getframe(1)
    while not is_users(frame.f_code):
        if frame.f_back is None:
            return Loc(scope=scope)
        frame = frame.f_back
    return Loc(frame.f_code.co_filename, frame.f_lineno, scope)
