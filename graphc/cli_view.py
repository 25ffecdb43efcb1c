"""The command `graphc view`: a compiled program as one HTML page.

In: a `.gir` file, or ``FILE.py:NAME``. Out: a page that needs no network: graph, passes, kernels, memory, and times.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.cli_run import matching_arrays, read_npz
from graphc.cli_source import add_donate, add_source, is_python, read_source

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
    add_source(view)
    view.add_argument("-o", "--output", metavar="OUT", help="the page (FILE's name with .html, here)")
    view.add_argument("--profile", action="store_true", help="run it, and show where the time goes")
    view.add_argument(
        "--inputs", metavar="NPZ", help="arrays by the names of the graph's inputs: shows values' ranges"
    )
    add_donate(view)
    view.add_argument("--target", default="cpu", metavar="T", help="as of compile (this machine)")
    view.set_defaults(command=_view)


def _view(arguments: argparse.Namespace) -> int:
    from graphc.view.data import drawn_arrays
    from graphc.view.report import write_report

    compiled = _compiled(arguments)
    name = arguments.file
    stem = name.rpartition(":")[2] if is_python(name) else "graph" if name == "-" else Path(name).stem
    output = Path(arguments.output or f"{stem}.html")
    arrays: list[np.ndarray] | None = None
    args: Sequence[object] | None = None
    if arguments.inputs or arguments.profile:
        drawn = drawn_arrays(compiled)
        if arguments.inputs:
            drawn = arrays = matching_arrays(compiled.graph, read_npz(arguments.inputs), float64=False)
        args = compiled.nested(drawn)
    note = "" if arguments.inputs or not arguments.profile else _DRAWN
    write_report(compiled, output, args, arguments.profile, arrays, note)
    print(f"{output}: {output.stat().st_size:,} bytes")
    return 0


def _compiled(arguments: argparse.Namespace) -> CompiledFunction:
    from graphc.compiler import CompiledFunction, compile_traced

    source = read_source(arguments.file, arguments.specs, arguments.donate)
    if isinstance(source.function, CompiledFunction):
        return source.function
    return compile_traced(source.traced, source.donated, arguments.target)
