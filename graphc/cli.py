"""The command `graphc`: its commands are in the modules `cli_*`, each of which adds its parser.

In: arguments, files, standard input. Out: text or files; what is wrong goes to standard error in one line
(``GRAPHC_DEBUG=1`` shows the traceback), with status 1, or 2 where the command line itself is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from graphc import __version__
from graphc.cli_build import add_build
from graphc.cli_cache import add_cache
from graphc.cli_info import add_info
from graphc.cli_inspect import add_inspect
from graphc.cli_latex import add_latex
from graphc.cli_lower import add_lower
from graphc.cli_ops import add_ops
from graphc.cli_opt import add_opt
from graphc.cli_reduce import add_reduce
from graphc.cli_run import add_run
from graphc.cli_source import UserError
from graphc.cli_view import add_view
from graphc.errors import GraphcError
from graphc.terminal import UsageError, accept_any_text

USAGE, FAILED, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141  # the last two as a shell reports the signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (default: the process's) and returns its exit status.

    >>> main(["opt", "nowhere.gir"])
    1
    """
    accept_any_text(sys.stdout)
    accept_any_text(sys.stderr)
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or the error
        return stop.code if isinstance(stop.code, int) else USAGE
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        status = command(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone; without this, Python complains again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except UsageError as error:
        parser.print_usage(sys.stderr)
        return _fail(str(error), USAGE)
    except GraphcError as error:
        if isinstance(error, UserError) and error.frames:
            print(error.frames, end="", file=sys.stderr)
        return _fail(str(error), FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", FAILED)
    except Exception as error:  # a bug of ours: still one line, and where to see more
        return _fail(f"internal: {type(error).__name__}: {error} (GRAPHC_DEBUG=1 shows where)", FAILED)


def _fail(message: str, status: int) -> int:
    if os.environ.get("GRAPHC_DEBUG", "0") not in ("", "0") and status != USAGE:
        traceback.print_exc()
    print(f"graphc: error: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphc",
        description="A compiler for neural networks: look into its graphs, change them, run them, build libraries of them.",
        epilog="graphc COMMAND --help shows the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"graphc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_opt(commands)
    add_lower(commands)
    add_run(commands)
    add_build(commands)
    add_reduce(commands)
    add_inspect(commands)
    add_latex(commands)
    add_view(commands)
    add_ops(commands)
    add_info(commands)
    add_cache(commands)
    return parser
