"""The command `graphc build`: functions of a Python file to an object, a C header and libraries.

In: ``FILE.py:NAME`` (or ``package.module:NAME``), which names a function with annotated arguments or `--specs`, a
compiled function, a graph, a model, or a mapping of entries. Out: the files of `graphc.export`, and a table of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from graphc.cli_source import named_in_file
from graphc.runtime.abi import identifier

_DESCRIPTION = """\
Compiles functions of a Python file for a target and writes an object file that needs nothing, its C header, a certificate
of what it keeps, a README with a program that calls it, and libraries where a linker for the target is found."""
_EXAMPLES = """\
NAME is a function whose arguments have types as annotations (x: graphc.f32[32, 64]) or are told by --specs, a compiled
function, a graph, a model (nn.Module), or a dict of graphc.Entry objects, as graphc.training_entries makes it.

examples:
  graphc build model.py:step -o out
  graphc build model.py:predict --specs f32[1,64] --weights embedded --target cortex-m7 -o firmware
  graphc build model.py:entries --name mlp --target wasm32 --emit object,header,shared -o web
"""


def add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    build = commands.add_parser(
        "build",
        help="compile functions of a Python file to an object, a C header and libraries",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument(
        "source", metavar="FILE.py:NAME", help="a Python file, or a module, and what to compile"
    )
    build.add_argument("-o", "--output", default=".", metavar="DIR", help="the folder to write to (this one)")
    build.add_argument(
        "--target", default="cpu", metavar="T", help="a target that graphc info lists (this machine's family)"
    )
    build.add_argument(
        "--emit",
        metavar="KINDS",
        help="what to write, of object,static,shared,header,certificate,readme,llvm,asm (all but the last two)",
    )
    build.add_argument(
        "--name", metavar="N", help="the library's name in C (the function's, else the file's)"
    )
    build.add_argument(
        "--weights", choices=("arguments", "embedded"), default="arguments",
        help="embedded: arrays that functions take from models become constants",
    )  # fmt: skip
    build.add_argument(
        "--specs",
        nargs="+",
        default=(),
        metavar="TYPE",
        help="the types of the arguments: f32[32,64] i32[32]",
    )
    build.add_argument(
        "--donate", default="", metavar="NAMES", help="arguments that are updated in place, split by commas"
    )
    build.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    build.set_defaults(command=_build)


def _build(arguments: argparse.Namespace) -> int:
    # the compiler is loaded by this command alone, not by the help of all of them
    from graphc.exporter import Exportable, Weights, export, spec_of

    what = named_in_file(arguments.source, "build")
    specs = [spec_of(text) for text in arguments.specs]
    several = isinstance(what, (Mapping, list, tuple))
    library = arguments.name or (
        identifier(Path(arguments.source.rpartition(":")[0]).stem) if several else None
    )

    def say(text: str) -> None:
        if not arguments.quiet:
            print(f"graphc: {text}", file=sys.stderr)

    result = export(
        cast("Exportable", what),
        *specs,
        to=arguments.output,
        name=library,
        target=arguments.target,
        emit=_split(arguments.emit) if arguments.emit else None,
        weights=cast("Weights", arguments.weights),
        donate=_split(arguments.donate),
        progress=say,
    )
    if not arguments.quiet:
        print(result)
    return 0


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
