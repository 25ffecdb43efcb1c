"""A graph in Graphviz's DOT language: boxes in the modules that they come from, backward nodes in another colour.

In: a graph. Out: text for ``dot -Tsvg``. (Graphviz, The DOT Language, graphviz.org/doc/info/lang.html.)
"""

from __future__ import annotations

from collections import defaultdict

from graphc.ir.graph import Graph, Value
from graphc.ir.printer import print_attr, value_names

_FORWARD, _BACKWARD, _INPUT = "#2160c4", "#cf5516", "#717886"


def to_dot(graph: Graph) -> str:
    """The graph as DOT: a cluster for each module and each fused region, an edge for each operand.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> print(to_dot(build.graph("f", [build.exp(x)])))
    digraph "f" {
      node [shape=box, style=rounded, fontname="Helvetica", fontsize=11, color="#2160c4"];
      n0 [label="x\\nf32[2]", shape=ellipse, color="#717886"];
      n1 [label="exp\\nf32[2]", peripheries=2];
      n0 -> n1;
    }
    """
    writer = _Writer()
    lines = [f"digraph {_quoted(graph.name)} {{"]
    lines.append(f'  node [shape=box, style=rounded, fontname="Helvetica", fontsize=11, color="{_FORWARD}"];')
    writer.graph(graph, {}, "  ")
    return "\n".join([*lines, *writer.lines, *writer.edges, "}"])


class _Writer:
    """Numbers of nodes and clusters, which are unique over all regions."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges: list[str] = []
        self._nodes = 0
        self._clusters = 0

    def graph(self, graph: Graph, outer: dict[Value, str], indent: str) -> dict[Value, str]:
        """Writes the nodes; `outer` has the names of a region's inputs already. Gives the names of all values."""
        names = dict(outer)
        labels = value_names(graph)
        for value in graph.inputs:
            if value not in names:
                label = f"{labels[value]}\n{value.type!r}"
                names[value] = self._node(label, f'shape=ellipse, color="{_INPUT}"', indent)
        returned = {v.node for v in graph.outputs} if not outer else set()
        modules: defaultdict[str, list[str]] = defaultdict(list)
        for node in graph.nodes:
            if node.regions and "control" not in node.op.traits:
                (region,) = node.regions
                given = dict(zip(region.inputs, (names[v] for v in node.operands), strict=True))
                self._open(str(node.attrs.get("kind", node.op.name)), "solid", indent)
                inner = self.graph(region, given, indent + "  ")
                self.lines.append(f"{indent}}}")
                names.update((v, inner[o]) for v, o in zip(node.results, region.outputs, strict=True))
                continue
            name = f"n{self._nodes}"
            self._nodes += 1
            names.update((v, name) for v in node.results)
            what = f"const {print_attr(node.attrs['value'])}" if node.op.name == "const" else node.op.name
            style = f", color={_quoted(_BACKWARD)}" if node.loc.note.startswith("d ") else ""
            style += ", peripheries=2" if node in returned else ""
            style += ', style="rounded,bold"' if node.attrs.get("diagonal") else ""
            label = "\n".join([what, ", ".join(map(repr, node.types)), *filter(None, [node.loc.note])])
            for region in node.regions:  # of a loop or branch: beside its node, with inputs of its own
                self._open(f"{node.op.name}: {region.name}", "solid", indent)
                self.graph(region, {}, indent + "  ")
                self.lines.append(f"{indent}}}")
            modules[node.loc.scope].append(f"{name} [label={_quoted(label)}{style}];")
            self.edges += [f"  {names[v]} -> {name};" for v in node.operands]
        for scope, lines in modules.items():
            inside = indent + ("  " if scope else "")
            if scope:
                self._open(scope, "dashed", indent)
            self.lines += [inside + line for line in lines]
            if scope:
                self.lines.append(f"{indent}}}")
        return names

    def _node(self, label: str, style: str, indent: str) -> str:
        name = f"n{self._nodes}"
        self._nodes += 1
        self.lines.append(f"{indent}{name} [label={_quoted(label)}, {style}];")
        return name

    def _open(self, label: str, style: str, indent: str) -> None:
        self.lines.append(f"{indent}subgraph cluster_{self._clusters} {{")
        self.lines.append(f'{indent}  label={_quoted(label)}; style="rounded,{style}"; color="{_INPUT}";')
        self._clusters += 1


def _quoted(text: str) -> str:
    """A DOT string: quotes and backslashes escaped, so that no name is read as markup or as an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
