"""The command `graphc latex`: the chain rule of a loss as mathematics, with the kernels that compute it.

In: a loss, as a `.gir` file or a function of a Python file. Out: LaTeX, or a picture of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from graphc.cli_source import add_source, read_graph, split
from graphc.errors import ArgumentError
from graphc.ir.files import write_atomically

_EXAMPLES = """\
examples:
  graphc latex model.py:loss
  graphc latex loss.gir --wrt w1,w2
  graphc latex loss.gir --wrt w1,w2 -o rule.png
"""
_PICTURES = (".png", ".svg", ".pdf")


def add_latex(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    latex = commands.add_parser(
        "latex",
        help="the chain rule of a loss as mathematics",
        description="Prints the forward pipeline of the graph in FILE, whose first output is a float scalar, the derivative "
        "with respect to each parameter as a product of partial derivatives, and which kernel computes which of them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(latex)
    latex.add_argument(
        "--wrt", metavar="NAMES", help="the parameters, split by commas (default: every float input)"
    )
    latex.add_argument(
        "-o", "--output", metavar="OUT", help="write there: a picture (.png, .svg, .pdf), else LaTeX"
    )
    latex.set_defaults(command=_latex)


def _latex(arguments: argparse.Namespace) -> int:
    from graphc.derivation import derive
    from graphc.program import host_from_cache

    graph = read_graph(arguments.file, arguments.specs)
    wrt = split(arguments.wrt) if arguments.wrt else None
    for name in wrt or ():
        if name not in graph.input_names:
            raise ArgumentError(
                f"latex: --wrt: expected some of {', '.join(graph.input_names)}, got {name!r}"
            )
    derivation = derive(graph, wrt, host_from_cache())
    if arguments.output is None:
        print(derivation.latex(), end="")
    elif Path(arguments.output).suffix in _PICTURES:
        derivation.draw(arguments.output)
    else:
        write_atomically(arguments.output, derivation.latex().encode())
    return 0
