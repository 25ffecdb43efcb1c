"""Where a node comes from: the user's file and line, the module scope, and what a pass says that it is.

In: a Python frame. Out: `Loc`, carried by every node and printed as ``loc("digits.py":14 in layers.0)``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

_PLAIN_SCOPE = re.compile(r"[A-Za-z0-9_.]+\Z")
_PACKAGE = str(Path(__file__).resolve().parent.parent)


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


def here(scope: str = "") -> Loc:
    """The innermost line of the caller's stack that is not graphc's own."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_back is None:
            return Loc(scope=scope)
        frame = frame.f_back
    return Loc(frame.f_code.co_filename, frame.f_lineno, scope)
