"""GRAPH as text: what dumps, tests, errors and bug reports show, and what `ir.parser` reads back.

In: a graph. Out: its text. Results are named ``%0 ...`` in creation order, or by the user's name where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from graphc.ir.graph import Attr, Graph, Node, Value
from graphc.ir.types import DType, TensorType

VERSION = 1
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z|[0-9]+\Z")
_LOC_COLUMN = 72


def quote(text: str) -> str:
    escaped = (
        text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )
    return f'"{escaped}"'


def sigil(prefix: str, name: str) -> str:
    """``%x`` or ``@f``; a name with other characters is quoted."""
    return prefix + (name if _PLAIN.match(name) else quote(name))


def print_attr(value: Attr) -> str:
    """An attribute's value: numbers by repr, lists in brackets, strings quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{','.join(map(print_attr, value))}]"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (DType, TensorType)):
        return repr(value)
    return repr(value)


class _Names:
    """Names of the values of one graph: unique, the user's where given."""

    def __init__(self, graph: Graph, keep: bool) -> None:
        self.plain: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._next = 0
        for position, value in enumerate(graph.inputs):
            self._assign(value, value.node.name if keep else f"arg{position}")
        for node in graph.nodes:
            for value in node.results:
                self._assign(
                    value, node.name if keep and value.index == 0 and not node.name.isdigit() else ""
                )

    def _assign(self, value: Value, wanted: str) -> None:
        name = wanted
        suffix = 1
        while wanted and name in self._taken:
            suffix += 1
            name = f"{wanted}.{suffix}"
        while not name or name in self._taken:  # an input may be named by a number
            name = str(self._next)
            self._next += 1
        self._taken.add(name)
        self.plain[value] = name

    def __getitem__(self, value: Value) -> str:
        return sigil("%", self.plain[value])


def value_names(graph: Graph) -> dict[Value, str]:
    """The names that the text gives to a graph's values, without ``%`` and quotes.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x y")
    >>> list(value_names(build.graph("f", [build.exp(x)])).values())
    ['x y', '0']
    """
    return _Names(graph, True).plain


def print_graph(graph: Graph, locations: bool = True, names: bool = True) -> str:
    """The graph's text; without locations and names equal graphs have equal texts.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> print(print_graph(build.graph("twice", [build.add(x, x)])))
    graphc 1
    graph @twice(%x: f32[2]) -> (f32[2]) {
      %0 = add %x, %x : f32[2]
      return %0
    }
    """
    return "\n".join([f"graphc {VERSION}", *graph_lines(graph, locations, names)])


def graph_lines(graph: Graph, locations: bool = True, names: bool = True) -> list[str]:
    """The lines after the version, one operation a line (regions add theirs)."""
    values = _Names(graph, names)
    title = sigil("@", graph.name if names else "graph")
    head = f"graph {title}({_arguments(graph, values)}) -> {_results(graph, names)}"
    stage = "" if graph.stage == "traced" else f" stage {graph.stage}"
    lines = [head + stage + " {"]
    for node in graph.nodes:
        lines += _indent(node_lines(node, values, locations, names))
    lines += ["  return " + ", ".join(values[v] for v in graph.outputs) if graph.outputs else "  return", "}"]
    return lines


def _arguments(graph: Graph, values: _Names) -> str:
    return ", ".join(f"{values[v]}: {v.type!r}" for v in graph.inputs)


def _results(graph: Graph, names: bool) -> str:
    shown = graph.output_names if names and graph.output_names else ("",) * len(graph.outputs)
    parts = [
        f"{sigil('%', n)}: {v.type!r}" if n else repr(v.type)
        for n, v in zip(shown, graph.outputs, strict=True)
    ]
    return f"({', '.join(parts)})"


def node_lines(node: Node, values: _Names, locations: bool, names: bool) -> list[str]:
    results = ", ".join(values[v] for v in node.results)
    operands = ", ".join(values[v] for v in node.operands)
    text = f"{results} = {node.op.name}"
    if node.op.name == "const":
        text += f" {print_attr(node.attrs['value'])}"
    elif operands:
        text += f" {operands}"
    text += _attributes(node.attrs, skip={"type", "value"} if node.op.name == "const" else {"type"})
    types = ", ".join(map(repr, node.types))
    text += f" : {types}" if len(node.types) == 1 else f" : ({types})"
    known = node.loc.file or node.loc.scope or node.loc.note
    note = f"{node.loc!r}" if locations and known else ""
    if not node.regions:
        return [f"{text:<{_LOC_COLUMN}}  {note}" if note else text]
    lines = []
    for region in node.regions:
        inner = _Names(region, names)
        lines.append(f"{text} region({_arguments(region, inner)}) {{")
        for child in region.nodes:
            lines += _indent(node_lines(child, inner, locations, names))
        lines.append(("  return " + ", ".join(inner[v] for v in region.outputs)).rstrip())
        text = "}"
    return [*lines, "}" + (f"  {note}" if note else "")]


def _attributes(attrs: Mapping[str, Attr], skip: Iterable[str]) -> str:
    shown = [k if v is True else f"{k}={print_attr(v)}" for k, v in attrs.items() if k not in skip]
    return f" {{{', '.join(sorted(shown))}}}" if shown else ""


def _indent(lines: list[str]) -> list[str]:
    return ["  " + line for line in lines]
