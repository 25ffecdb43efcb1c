"""What commands share about the terminal: colours where they are wanted, and errors in how a command was called.

In: a text and where it goes. Out: the same text, with colours on a terminal and without them in a pipe.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TextIO

from graphc.ir.highlight import Language, to_ansi


class UsageError(Exception):
    """Arguments that argparse accepts and that don't go together."""


def add_colour(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--color``."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="syntax colours: on a terminal unless NO_COLOR is set (the default), always, or never",
    )


def show(text: str, language: Language, colour: str = "auto", end: str = "\n") -> None:
    """Prints a text to standard output, in colours where they are wanted.

    >>> show("return %x", "ir", "never")
    return %x
    """
    print(to_ansi(text, language) if wants_colour(colour, sys.stdout) else text, end=end)


def wants_colour(choice: str, stream: TextIO) -> bool:
    """True where colours are asked for, or a terminal can show them and nothing in the environment speaks against it.

    NO_COLOR is https://no-color.org's: set and not empty.
    """
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def accept_any_text(stream: TextIO) -> None:
    """From now on what the stream's encoding lacks is written as an escape, as in a log of a machine without Unicode."""
    if hasattr(stream, "reconfigure") and getattr(stream, "errors", "") == "strict":
        stream.reconfigure(errors="backslashreplace")
