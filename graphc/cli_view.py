"""The command `graphc view`: a compiled program as one HTML page.

In: a `.gir` file, or ``FILE.py:NAME``. Out: a page that needs no network: graph, passes, kernels, memory, and times.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.errors import ArgumentError, ArtifactError, GraphcError

if TYPE_CHECKING:
    import numpy as np

    from graphc.compiler import CompiledFunction

_EXAMPLES = """\
NAME is a function whose arguments have types as annotations (x: graphc.f32[32, 64]) or are told by --specs, a compiled
function, a graph, or a model.

examples:
  graphc view mlp.gir -o report.html
  graphc view model.py:step --donate params --profile
  graphc view mlp.gir --inputs inputs.npz --profile
"""
_DRAWN = "Times are of drawn arguments: floats between -1 and 1, integers 0."


def add_view(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    view = commands.add_parser(
        "view",
        help="write a page that shows a compiled program",
        description="Compiles a graph or a function and writes one HTML page that shows it: the graph by modules and kernels, "
        "what each pass changed, each kernel down to its assembly, memory over time, and times.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    view.add_argument("source", metavar="SOURCE", help="a .gir file, or FILE.py:NAME")
    view.add_argument("-o", "--output", metavar="OUT", help="the page (SOURCE's name with .html, here)")
    view.add_argument("--profile", action="store_true", help="run it, and show where the time goes")
    view.add_argument(
        "--inputs", metavar="NPZ", help="arrays by the names of the graph's inputs: shows values' ranges"
    )
    view.add_argument(
        "--specs", nargs="+", default=(), metavar="TYPE", help="the types of a function's arguments: f32[32,64] i32[32]"
    )  # fmt: skip
    view.add_argument(
        "--donate", default="", metavar="NAMES", help="arguments that are updated in place, split by commas"
    )
    view.add_argument("--target", default="cpu", metavar="T", help="as of compile (this machine)")
    view.set_defaults(command=_view)


def _view(arguments: argparse.Namespace) -> int:
    from graphc.view.data import drawn_arrays
    from graphc.view.report import write_report

    compiled = _compiled(arguments)
    stem = arguments.source.rpartition(":")[2] if ".py:" in arguments.source else Path(arguments.source).stem
    output = Path(arguments.output or f"{stem}.html")
    arrays: list[np.ndarray] | None = None
    args: Sequence[object] | None = None
    if arguments.inputs or arguments.profile:
        drawn = drawn_arrays(compiled)
        if arguments.inputs:
            # the command that runs graphs reads the same files
            from graphc.cli import matching_arrays, read_npz

            drawn = arrays = matching_arrays(compiled.graph, read_npz(arguments.inputs), float64=False)
        args = compiled.nested(drawn)
    note = "" if arguments.inputs or not arguments.profile else _DRAWN
    write_report(compiled, output, args, arguments.profile, arrays, note)
    print(f"{output}: {output.stat().st_size:,} bytes")
    return 0


def _compiled(arguments: argparse.Namespace) -> CompiledFunction:
    from graphc.compiler import CompiledFunction, compile
    from graphc.entries import Entry, annotated_specs
    from graphc.exporter import spec_of
    from graphc.frontend.modules import Module
    from graphc.ir.files import load_graph
    from graphc.ir.graph import Graph

    donate = [name.strip() for name in arguments.donate.split(",") if name.strip()]
    specs = [spec_of(text) for text in arguments.specs]
    if arguments.source.endswith(".py"):
        raise ArgumentError(
            f"view: expected a .gir file or FILE.py:NAME, got {arguments.source!r} without a name"
        )
    if not _names_python(arguments.source):
        return compile(load_graph(arguments.source), *specs, donate=donate, target=arguments.target)
    from graphc.cli_source import named_in_file

    try:
        what = named_in_file(arguments.source, "view")
    except ArtifactError as error:
        if error.__cause__ is not None:
            _print_own_traceback(error.__cause__)
        raise
    given: list[object] = [*specs]
    names: list[str | int] = [*donate]
    if isinstance(what, Entry):
        given, names, what = given or [*what.specs], names or [*what.donate], what.function
    if isinstance(what, CompiledFunction):
        if given or names:
            raise ArgumentError("view: a compiled function has its types: expected no --specs or --donate")
        return what
    if not (isinstance(what, (Graph, Module)) or callable(what)):
        raise ArgumentError(f"view: expected a function, a graph or a model, got {type(what).__name__}")
    if not isinstance(what, Graph):
        given = given or annotated_specs(what)
    return compile(what, *given, donate=names, target=arguments.target)


def _names_python(source: str) -> bool:
    """``model.py:step`` and ``package.module:step``, but not a .gir file in a folder with a colon in its name."""
    place, colon, name = source.rpartition(":")
    return bool(colon) and not Path(source).exists() and (place.endswith(".py") or name.isidentifier())


def _print_own_traceback(error: BaseException) -> None:
    """The traceback of a user's file without the frames that ran it: ours, and the import system's."""
    if isinstance(error, GraphcError):
        return
    frame = error.__traceback__
    ours = str(Path(__file__).resolve().parent)
    while frame is not None and frame.tb_next is not None:
        file = frame.tb_frame.f_code.co_filename
        if not (file.startswith(ours) or "importlib" in file):
            break
        frame = frame.tb_next
    traceback.print_exception(type(error), error, frame, file=sys.stderr)
