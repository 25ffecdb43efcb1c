"""The verifier of GRAPH: everything that a graph claims is derived again.

In: a graph from the tracer, a pass or a file. Out: nothing, or a `VerifyError` that shows the culprit in its place:
the lines of IR around it, marked, and the user's own line.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Sequence
from functools import cache, cached_property
from typing import NoReturn

import numpy as np

from graphc.errors import GraphcError, VerifyError
from graphc.ir.graph import Attr, Dense, Graph, Node, attr_key
from graphc.ir.guard import guarded
from graphc.ir.opdef import INPUT, OpDef
from graphc.ir.ops import REGISTRY
from graphc.ir.ops.view import canonical_number
from graphc.ir.types import DType, TensorType

_AROUND = 5  # lines of IR shown before and after the culprit
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z", re.ASCII)
_DIAGONAL_OPS = ("mul", "select")
_HEADER, _RETURN = -1, -2  # culprits that are not nodes


@guarded
def verify(graph: Graph) -> None:
    """Checks every rule of GRAPH; returns nothing where all hold.

    Operands are defined before their use and inside the graph; types and attributes are those that the op allows and
    infers; `diagonal` marks only mul and select, and only after differentiation; `fused` stands only in the fused
    stage, not within itself, and its region reads nothing but its own inputs; names are unique.

    Raises `VerifyError` whose text starts with the user's line and shows the IR around the culprit.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> verify(build.graph("f", [build.tanh(build.input(f32[2], "x"))]))
    """
    _Verifier(graph, graph.stage, frozenset(), "").run()


class _Verifier:
    """The rules on one graph or region; `outer` are the nodes around a region, `where` names it in errors, `fused` says
    that it is a kernel's."""

    def __init__(
        self, graph: Graph, stage: str, outer: frozenset[Node], where: str, fused: bool = False
    ) -> None:
        self.graph = graph
        self.fused = fused
        self.stage = stage
        self.outer = outer
        self.where = where

    def run(self) -> None:
        self._inputs()
        defined = {v.node for v in self.graph.inputs}
        serials = {v.node.serial for v in self.graph.inputs}
        for position, node in enumerate(self.graph.nodes):
            if node in self.outer:
                self._fail(position, "expected a region's own values, got one of the graph around it")
            if node.op is INPUT:
                self._fail(position, f"expected inputs of this graph, got %{node.name} from elsewhere")
            if node.serial in serials:
                self._fail(position, f"expected nodes of one builder, got serial {node.serial} a second time")
            self._operands(position, node, defined)
            self._op(position, node)
            self._attributes(position, node)
            self._stage_rules(position, node)
            self._types(position, node)
            self._regions(position, node)
            defined.add(node)
            serials.add(node.serial)
        self._outputs()

    # ---------------------------------------------------------------------------------------------- inputs, outputs

    def _inputs(self) -> None:
        names: set[str] = set()
        for value in self.graph.inputs:
            node = value.node
            if node.op is not INPUT or value.index != 0 or len(node.types) != 1 or node.operands:
                self._fail(_HEADER, f"expected inputs only in the header, got a result of {node.op.name}")
            if node in self.outer:
                self._fail(
                    _HEADER, f"expected a region's own inputs, got %{node.name} of the graph around it"
                )
            if node.name in names:
                self._fail(_HEADER, f"expected input names once each, got %{node.name} a second time")
            if node.name:
                names.add(node.name)
        if len(set(self.graph.inputs)) != len(self.graph.inputs):
            self._fail(_HEADER, "expected each input once, got one a second time")

    def _outputs(self) -> None:
        for position, value in enumerate(self.graph.outputs):
            if value.node.op is INPUT and value not in self.graph.inputs:
                self._fail(_RETURN, f"output {position}: expected a value of this graph, got a foreign input")
            if not 0 <= value.index < len(value.node.types):
                count = len(value.node.types)
                self._fail(
                    _RETURN, f"output {position}: expected one of {count} results, got result {value.index}"
                )
        named = [n for n in self.graph.output_names if n]
        for name in named:
            if named.count(name) > 1:
                self._fail(_RETURN, f"expected output names once each, got %{name} a second time")

    # -------------------------------------------------------------------------------------------------------- nodes

    def _operands(self, position: int, node: Node, defined: set[Node]) -> None:
        for number, value in enumerate(node.operands):
            if value.node.op is INPUT and value.node not in defined:
                self._fail(
                    position,
                    f"operand {number}: expected a value of this graph, got foreign input %{value.node.name}",
                )
            if value.node not in defined:
                self._fail(
                    position,
                    f"operand {number}: expected a value defined above, got a later {value.node.op.name}",
                )
            if not 0 <= value.index < len(value.node.types):
                count = len(value.node.types)
                self._fail(
                    position, f"operand {number}: expected one of {count} results, got result {value.index}"
                )

    def _op(self, position: int, node: Node) -> None:
        if REGISTRY.get(node.op.name) is not node.op:
            self._fail(position, f"expected a registered op, got {node.op.name}")
        if node.op.arity is not None and len(node.operands) != node.op.arity:
            self._fail(position, f"expected {node.op.arity} operands, got {len(node.operands)}")

    def _attributes(self, position: int, node: Node) -> None:
        known = known_attributes(node.op)
        for name, value in node.attrs.items():
            if not _ATTRIBUTE_NAME.match(name):
                self._fail(position, f"expected an attribute's name, got {name!r}")
            if not _is_attr(value):
                self._fail(
                    position, f"{name}: expected a plain bool, int, float, str, type or tuple, got {value!r}"
                )
            if known and name not in known and name != "diagonal":
                self._fail(position, f"expected attributes of {', '.join(sorted(known))}, got {name}")
        if not node.op.typed:
            if "type" in node.attrs:
                self._fail(position, "expected no type attribute, which is not printed, got one")
            return
        type = node.attrs.get("type")
        if type != node.types[0]:
            self._fail(position, f"expected the type attribute {node.types[0]!r}, got {type!r}")
        number = node.attrs.get("value")
        if node.op.name == "const" and isinstance(number, (bool, int, float)):
            rounded = canonical_number(number, node.type.dtype)
            if rounded is None or attr_key(rounded) != attr_key(number):
                self._fail(position, f"expected a number of {node.type.dtype.name}, got {number!r}")

    def _types(self, position: int, node: Node) -> None:
        try:
            inferred = tuple(node.op.infer([v.type for v in node.operands], node.attrs, node.regions))
        except GraphcError as error:
            self._fail(position, str(error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            self._fail(position, f"expected other attributes, got {dict(node.attrs)!r}: {error!r}")
        if inferred != node.types:
            self._fail(position, f"expected type {_shown(inferred)}, got {_shown(node.types)}")

    def _stage_rules(self, position: int, node: Node) -> None:
        if "diagonal" in node.attrs:
            if node.op.name not in _DIAGONAL_OPS:
                self._fail(
                    position,
                    f"expected diagonal on {' or '.join(_DIAGONAL_OPS)} only, got it on {node.op.name}",
                )
            if node.attrs["diagonal"] is not True:
                self._fail(position, f"diagonal: expected a flag, got {node.attrs['diagonal']!r}")
            if self.stage == "traced":
                self._fail(
                    position, "expected no diagonal marker before differentiation, got one in stage traced"
                )
        if node.op.name == "fused":
            if self.fused:
                self._fail(position, "expected a region without fused nodes, got one")
            if self.stage != "fused":
                self._fail(position, f"expected fused nodes in stage fused only, got stage {self.stage}")

    def _regions(self, position: int, node: Node) -> None:
        if node.regions and "region" not in node.op.traits:
            self._fail(position, f"expected no region, got {len(node.regions)}")
        for region in node.regions:
            where = f"in the region of {self.where}{node.op.name} #{position}: "
            _Verifier(region, self.stage, self._around, where, node.op.name == "fused").run()

    @cached_property
    def _around(self) -> frozenset[Node]:
        """What a region here must not touch."""
        return self.outer | set(self.graph.nodes) | {v.node for v in self.graph.inputs}

    # ------------------------------------------------------------------------------------------------------- errors

    def _fail(self, position: int, message: str) -> NoReturn:
        """Raises; `position` is that of the culprit among the nodes, `_HEADER` or `_RETURN`."""
        node = self.graph.nodes[position] if position >= 0 else None
        head = f"{node.loc.prefix}{node.op.name}: " if node is not None else f"graph @{self.graph.name}: "
        parts = [f"{head}{self.where}{message}"]
        if node is not None and node.loc.file:
            source = linecache.getline(node.loc.file, node.loc.line).strip()
            if source:
                parts.append(f"  {node.loc.file}:{node.loc.line}:  {source}")
        parts += excerpt(self.graph, position)
        raise VerifyError("\n".join(parts))


def excerpt(graph: Graph, position: int) -> list[str]:
    """The lines of IR around the node at this position among the graph's nodes, which is marked with ``>``."""
    from graphc.ir.printer import graph_lines

    try:
        lines = graph_lines(graph)
    except (LookupError, TypeError, ValueError, AttributeError):  # too broken to be printed: one line a node
        lines = [f"graph @{graph.name}", *(f"  {n!r}" for n in graph.nodes), "  return", "}"]
        heights = [1] * len(graph.nodes)
    else:
        heights = [_height(n) for n in graph.nodes]
    culprit = 1 + sum(heights[:position]) if position >= 0 else 0 if position == _HEADER else len(lines) - 2
    first = max(0, min(culprit - _AROUND, len(lines) - 2 * _AROUND))
    shown = range(first, min(len(lines), first + 2 * _AROUND))
    return [f"  {'>' if i == culprit else ' '} {lines[i]}" for i in shown]


def _height(node: Node) -> int:
    """How many lines a node takes in print: one, and for each region its nodes, its return and its brace."""
    return 1 + sum(sum(map(_height, region.nodes)) + 2 for region in node.regions)


@cache
def known_attributes(op: OpDef) -> frozenset[str]:
    """The attributes that the op's samples show; empty where it has no samples, and so nothing is known.

    >>> from graphc.ir.ops import REGISTRY
    >>> sorted(known_attributes(REGISTRY["contract"]))
    ['axes', 'batch']
    """
    return frozenset(name for s in op.samples(np.random.default_rng(0), op.dtypes[0]) for name in s.attrs)


def _is_attr(value: Attr) -> bool:
    """Exact types: a numpy number would print as text that doesn't parse."""
    if type(value) is tuple:
        return all(map(_is_attr, value))
    return type(value) in (bool, int, float, str, DType, TensorType, Dense)


def _shown(types: Sequence[TensorType]) -> str:
    return repr(types[0]) if len(types) == 1 else f"({', '.join(map(repr, types))})"
