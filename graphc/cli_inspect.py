"""``graphc inspect``: what an object, library, archive or module is and keeps, read from the file.

In: a file. Out: a table, or JSON; status 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

_DESCRIPTION = """\
Reads an object file, shared library, archive or WebAssembly module, of graphc's or anyone's, and says what it needs,
holds and shows, how many bytes of the stack each function takes at most, and which promises it keeps. Nothing of the
file is run. The status is 1 where a promise is broken.
"""
_EXAMPLES = """\
examples:
  graphc inspect out/mlp.o
  graphc inspect out/libmlp.a --json
"""


def add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    inspect = commands.add_parser(
        "inspect", help="say what an object file keeps: its certificate", description=_DESCRIPTION,
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    inspect.add_argument(
        "file", metavar="FILE", help="a file such as .o, .obj, .a, .lib, .so, .dll, .dylib or .wasm"
    )
    inspect.add_argument(
        "--json", action="store_true", help="print JSON, a list with an item for each object"
    )
    inspect.set_defaults(command=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from graphc.artifact.reading import members
    from graphc.certificate import VERSION, certify
    from graphc.errors import ArtifactError

    data = Path(arguments.file).read_bytes()
    found = []
    for name, content in members(data):
        try:
            found.append((name, certify(content)))
        except ArtifactError as error:
            where = f"{arguments.file}({name})" if name else arguments.file
            raise ArtifactError(f"{where}: {error}") from None
    if arguments.json:
        shown = [
            {"graphc_certificate": VERSION, "file": name or arguments.file, **asdict(c)} for name, c in found
        ]
        print(json.dumps(shown, indent=2))
    else:
        texts = [f"{name}\n{c}" if name else str(c) for name, c in found]
        print("\n\n".join(texts))
    return 1 if any(c.broken for _, c in found) else 0
