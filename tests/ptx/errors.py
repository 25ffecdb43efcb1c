"""The one error of the interpreter."""

from __future__ import annotations


class PtxError(Exception):
    """PTX that can't be read, an instruction that the interpreter doesn't know, or a bug that it saw a thread make."""
