"""The command `graphc ops`: the table of ops, or all about one.

In: nothing, or a name. Out: text from the registry.
"""

from __future__ import annotations

import argparse
import difflib

from graphc.errors import ArgumentError
from graphc.ir.opdef import OpDef
from graphc.ir.opdocs import entry, formula, kind_of
from graphc.ir.ops import REGISTRY


def add_ops(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    ops = commands.add_parser(
        "ops",
        help="list the ops, or explain one",
        description="The table of ops: what graphs are made of. With a name, all about that op: its value, derivative, "
        "attributes and data types.",
    )
    ops.add_argument("name", nargs="?", metavar="NAME", help="the op to explain")
    ops.set_defaults(command=_ops)


def _ops(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if name is None:
        rows = [("op", "kind", "data types", "derivative", "meaning"), *map(_row, REGISTRY.values())]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            print(*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4], sep="  ")
        return 0
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else "; graphc ops lists them"
        raise ArgumentError(f"ops: expected the name of an op, got {name!r}{hint}")
    print(*entry(REGISTRY[name])[1:], sep="\n")
    return 0


def _row(op: OpDef) -> tuple[str, str, str, str, str]:
    derivative = "diagonal" if op.diagonal else "adjoint" if op.differentiable else "none"
    meaning = op.doc.splitlines()[0] if op.doc else formula(op)
    return op.name, kind_of(op).lower(), " ".join(t.name for t in op.dtypes), derivative, meaning
