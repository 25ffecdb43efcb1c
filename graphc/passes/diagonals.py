"""Diagonals gathered: along a chain of activations the cotangent is multiplied once, by the whole diagonal.

In: a simplified graph. Out: an equal one in which backward kernels read fewer arrays of the forward pass.
The diagonal Jacobians of a chain multiply and those of parallel paths add, and products and sums of diagonals are
diagonals. So where the chain rule asks for ((d ⊙ a) ⊙ b) + (d ⊙ c), the forward kernel, which has a, b and c in
registers, can store the one array a ⊙ b + c.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import ops
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.ops import pointwise
from graphc.ir.types import DType
from graphc.passes.regions import inside
from graphc.passes.rewrite import Rewrite, Rewriter, splat_of

Range = tuple[float, float]
_LOOKED_AT = 64  # nodes in a row, for the range of the last one
_MOST = (
    32  # values in one diagonal; a longer chain gets several, so that its length costs no more than itself
)


@dataclass(frozen=True)
class _Diagonal:
    """A diagonal that a cotangent is to be multiplied with: a value, or the product or sum of two of them."""

    cotangent: Value
    value: Value | None = None
    parts: tuple[_Diagonal, ...] = ()
    sums: bool = False
    range: Range = (-math.inf, math.inf)  # of a product or sum
    size: int = 1  # how many values

    def values(self) -> Iterator[Value]:
        if self.value is not None:
            yield self.value
        for part in self.parts:
            yield from part.values()


def gather_diagonals(graph: Graph, rules: Sequence[Rewrite] = ()) -> Graph:
    """(d ⊙ a) ⊙ b = d ⊙ (a ⊙ b) and d ⊙ a + d ⊙ b = d ⊙ (a + b), for marked products with a cotangent d.

    Only where that leaves fewer arrays to store for d's sake, and where the gathered diagonal can't overflow while a and b
    are finite: 0 · inf would turn a zero into NaN. Products are rounded in another order, so the last bits can change.
    What is built is offered to `rules`.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, w = build.input(f32[2, 2], "x"), build.input(f32[2, 2], "w")
    >>> d = build.contract(x, w, axes=((1,), (0,)), batch=((), ()))
    >>> once = build.mul(d, build.sin(x), diagonal=True)
    >>> print(gather_diagonals(build.graph("f", [build.mul(once, build.cos(x), diagonal=True)], "differentiated")))
    graphc 1
    graph @f(%x: f32[2,2], %w: f32[2,2]) -> (f32[2,2]) stage differentiated {
      %0 = contract %x, %w {axes=[[1],[0]], batch=[[],[]]} : f32[2,2]
      %1 = sin %x : f32[2,2]
      %2 = cos %x : f32[2,2]
      %3 = mul %1, %2 : f32[2,2]
      %4 = mul %0, %3 {diagonal} : f32[2,2]
      return %4
    }
    """
    graph = inside(graph, lambda region: gather_diagonals(region, rules))
    gathered = _Search(graph).found
    if not gathered:
        return graph
    build = Rewriter(rules)
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}

    def built(diagonal: _Diagonal) -> Value:
        if diagonal.value is not None:
            return new[diagonal.value]
        first, second = map(built, diagonal.parts)
        return build.add(first, second) if diagonal.sums else build.mul(first, second)

    for node in graph.nodes:
        diagonal = gathered.get(node)
        if diagonal is not None:
            build.loc = node.loc
            new[node.results[0]] = build.mul(new[diagonal.cotangent], built(diagonal), diagonal=True)
            continue
        copy = build.copy(node, new)
        copy.other_locs.extend(loc for loc in node.other_locs if loc not in copy.other_locs)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def _is_marked(node: Node) -> bool:
    return node.op is pointwise.mul and "diagonal" in node.attrs


def _may_join(node: Node) -> bool:
    """A marked product of a marked product, or a sum of two: most graphs have none, which is seen at once."""
    marked = [_is_marked(v.node) for v in node.operands]
    return (_is_marked(node) and marked[0]) or (node.op is pointwise.add and all(marked))


class _Search:
    """Finds the products and sums to replace: `found` maps the last node of each to its diagonal."""

    def __init__(self, graph: Graph) -> None:
        self.found: dict[Node, _Diagonal] = {}
        if not any(map(_may_join, graph.nodes)):
            return
        self._outputs = set(graph.outputs)
        self._ranges: dict[Value, Range] = {}
        self._readers: dict[Value, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for operand in node.operands:
                self._readers[operand].append(node)
        # what is computed from marked products is no value of the forward pass, which alone stores early
        self._behind: set[Node] = set()
        diagonals: dict[Value, _Diagonal] = {}
        for node in graph.nodes:
            if _is_marked(node) or any(v.node in self._behind for v in node.operands):
                self._behind.add(node)
            diagonal = self._diagonal(node, diagonals)
            if diagonal is not None:
                diagonals[node.results[0]] = diagonal
                if diagonal.parts and self._saves(diagonal):
                    for operand in node.operands:
                        self.found.pop(operand.node, None)  # it is part of this one
                    self.found[node] = diagonal

    def _diagonal(self, node: Node, known: dict[Value, _Diagonal]) -> _Diagonal | None:
        """The node as a cotangent times a diagonal."""
        if _is_marked(node):
            cotangent, value = node.operands
            factor = _Diagonal(cotangent, value)
            inner = known.get(cotangent) if self._only_reader(cotangent) else None
            return (inner and self._joined(inner, factor, sums=False)) or factor
        if node.op is pointwise.add:
            first, second = map(known.get, node.operands)
            if first and second and all(map(self._only_reader, node.operands)):
                return self._joined(first, second, sums=True)
        return None

    def _joined(self, first: _Diagonal, second: _Diagonal, sums: bool) -> _Diagonal | None:
        size = first.size + second.size
        if (sums and first.cotangent != second.cotangent) or size > _MOST:
            return None
        ranges = (d.range if d.value is None else self._range(d.value) for d in (first, second))
        joined = (_added if sums else _multiplied)(*ranges)
        # half a unit in the last place above the largest number still rounds to it
        limit = _largest(first.cotangent.dtype) * (1 + 2.0**-25)
        if not -limit <= joined[0] <= joined[1] <= limit:
            return None
        return _Diagonal(first.cotangent, None, (first, second), sums, joined, size)

    def _only_reader(self, value: Value) -> bool:
        return len(self._readers[value]) == 1 and value not in self._outputs

    def _saves(self, diagonal: _Diagonal) -> bool:
        """True where two arrays or more would be kept for the factors alone: one is kept for all of them."""
        if splat_of(diagonal.cotangent) is not None:
            return False
        values = dict.fromkeys(v for v in diagonal.values() if splat_of(v) is None)
        if any(v.node in self._behind for v in values):
            return False
        return sum(map(self._kept_for_this, values)) > 1

    def _kept_for_this(self, value: Value) -> bool:
        """False for what lies in memory anyway, because of other readers, and for what is never stored."""
        traits = value.node.op.traits
        return (
            "pointwise" in traits
            and value not in self._outputs
            and all("pointwise" in reader.op.traits for reader in self._readers[value])
        )

    # ------------------------------------------------------------------------------------------------------ ranges

    def _range(self, value: Value, depth: int = 0) -> Range:
        """Bounds of a value where it is finite, and its operands are."""
        if value not in self._ranges:
            largest = _largest(value.dtype)
            self._ranges[value] = (-largest, largest)
            if depth < _LOOKED_AT and value.dtype.is_float:
                low, high = self._unrounded_range(value.node, -largest, largest, depth + 1)
                self._ranges[value] = max(low, -largest), min(high, largest)
        return self._ranges[value]

    def _unrounded_range(self, node: Node, low: float, high: float, depth: int) -> Range:
        if not node.op.traits & {"pointwise", "view", "leaf"}:
            return low, high
        operands = [self._range(v, depth) for v in node.operands]
        match node.op, operands:
            case ops.const, []:
                number = splat_of(node.results[0])
                return (low, high) if number is None else (float(number), float(number))
            case pointwise.add, [x, y]:
                return _added(x, y)
            case pointwise.sub, [x, y]:
                return _added(x, (-y[1], -y[0]))
            case pointwise.mul, [x, y]:
                least, most = _multiplied(x, y)
                if node.operands[0] == node.operands[1]:
                    return max(least, 0.0), most
                # the logistic function's own diagonal: x (1 - x) is at most 1/4, whatever x
                return least, min(most, 0.25) if _is_rest(*node.operands) else most
            case pointwise.neg, [x]:
                return -x[1], -x[0]
            case pointwise.exp, [x]:
                return 0.0, math.exp(min(x[1], 709.0)) * _NEARLY
            case ((pointwise.tanh | pointwise.erf | pointwise.sin | pointwise.cos), _):
                return -_NEARLY, _NEARLY
            case pointwise.sigmoid, _:
                return 0.0, _NEARLY
            case ops.select, [_, x, y]:
                return min(x[0], y[0]), max(x[1], y[1])
            case ((ops.broadcast | ops.reshape | ops.transpose), [x]):
                return x
        return low, high


_NEARLY = 1 + 1e-5  # times a bound: what functions are computed with may be off in the last bits


def _is_rest(value: Value, other: Value) -> bool:
    """Whether the other one is 1 minus the value."""
    match other.node:
        case Node(op=pointwise.sub, operands=[one, x]):
            return x == value and splat_of(one) == 1
    return False


def _largest(dtype: DType) -> float:
    return float(np.finfo(dtype.numpy).max) if dtype.is_float else math.inf


def _added(x: Range, y: Range) -> Range:
    return x[0] + y[0], x[1] + y[1]


def _multiplied(x: Range, y: Range) -> Range:
    products = [a * b for a in x for b in y]
    return min(products), max(products)
