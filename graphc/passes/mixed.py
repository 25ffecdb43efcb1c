"""Mixed precision: contractions read 16-bit floats and sum in f32; everything else stays f32.

In: a graph of any stage before fusion, best one with its gradients in it. Out: the same computation in which every value
that a contraction multiplies is rounded to bf16 or f16. Micikevicius et al., Mixed Precision Training, ICLR 2018.

- What a contraction reads, if it is computed, is rounded once, and all its readers have the rounded value, so that it lies
  in memory as 16 bits: activations, and in a graph with gradients their cotangents.
- Inputs (weights, data, the optimiser's state) stay what they are: only contractions have a rounded copy. Weights are
  therefore their own f32 master copies.
- Sums of contractions, reductions, softmax, norms, losses and all pointwise ops stay f32, as do the graph's outputs.

It is done after differentiation, not before it: the casts would have cotangents, which were rounded to 16 bits wherever one
passes, the gradients of weights included.
"""

from __future__ import annotations

from graphc.errors import ArgumentError
from graphc.ir import ops
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.loc import Loc
from graphc.ir.types import DTYPES, DType, TensorType, f32

HALVES = tuple(name for name, t in DTYPES.items() if t.is_half)


def mixed(graph: Graph, dtype: str = "bf16") -> Graph:
    """The graph with its f32 contractions on operands that were rounded to `dtype`, "bf16" or "f16".

    Contractions of other types stay as they are. Raises `ArgumentError` for another `dtype`.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, w = build.input(f32[2,3], "x"), build.input(f32[3,4], "w")
    >>> print(mixed(build.graph("f", [build.contract(x, w, axes=((1,), (0,)), batch=((), ()))])))
    graphc 1
    graph @f(%x: f32[2,3], %w: f32[3,4]) -> (f32[2,4]) {
      %0 = cast %x : bf16[2,3]
      %1 = cast %0 : f32[2,3]
      %2 = cast %w : bf16[3,4]
      %3 = cast %2 : f32[3,4]
      %4 = contract %1, %3 {axes=[[1],[0]], batch=[[],[]]} : f32[2,4]
      return %4
    }
    """
    if dtype not in HALVES:
        raise ArgumentError(f"mixed: dtype: expected {' or '.join(HALVES)}, got {dtype!r}")
    return _Mixer(graph, DTYPES[dtype]).graph


class _Mixer:
    """Rebuilds a graph node by node."""

    def __init__(self, graph: Graph, dtype: DType) -> None:
        self.dtype = dtype
        self.build = Builder()
        self.rounded: dict[
            Value, Value
        ] = {}  # values of the new graph, by the given graph's, as contractions see them
        self.exact: dict[Value, Value] = {}  # the same as the outputs see them
        sources = {
            source for node in graph.nodes if _is_mixed(node) for v in node.operands for source in _sources(v)
        }
        self.stored = {v for v in sources if v.node.op.name != "input" and "leaf" not in v.node.op.traits}
        for value in graph.inputs:
            self.exact[value] = self.build.input(value.type, value.node.name, value.node.loc)
        for node in graph.nodes:
            self._node(node)
        outputs = [self.exact[v] for v in graph.outputs]
        self.graph = self.build.graph(graph.name, outputs, graph.stage, graph.output_names)

    def _node(self, node: Node) -> None:
        see = self._as_contraction if _is_mixed(node) else self._seen
        regions = [_Mixer(region, self.dtype).graph for region in node.regions]
        made = self.build.emit(
            node.op, [see(v) for v in node.operands], node.attrs, regions, node.loc, node.name
        )
        self.exact.update(zip(node.results, made.results, strict=True))

    def _seen(self, value: Value) -> Value:
        """What other ops read: what is stored in 16 bits is so for all."""
        return self._round(value) if value in self.stored else self.exact[value]

    def _as_contraction(self, value: Value) -> Value:
        """The value of a contraction's operand: rounded where it was made, and viewed as before."""
        if value in self.rounded:
            return self.rounded[value]
        if not _is_view(value):
            return self._round(value)
        node = value.node
        made = self.build.emit(
            node.op, [self._as_contraction(v) for v in node.operands], node.attrs, (), node.loc, node.name
        )
        self.rounded[value] = Value(made, value.index)
        return self.rounded[value]

    def _round(self, value: Value) -> Value:
        if value not in self.rounded:
            exact, loc = self.exact[value], value.node.loc
            half = self._cast(exact, self.dtype, loc)
            self.rounded[value] = self._cast(half, f32, loc)
        return self.rounded[value]

    def _cast(self, value: Value, dtype: DType, loc: Loc) -> Value:
        return Value(self.build.emit(ops.cast, [value], {"type": TensorType(dtype, value.shape)}, (), loc))


def _is_mixed(node: Node) -> bool:
    return "contraction" in node.op.traits and all(v.dtype is f32 for v in node.operands)


def _is_view(value: Value) -> bool:
    """Whether the value has the elements of another one, and zeros: rounding may come before or after."""
    node = value.node
    return "view" in node.op.traits and bool(node.operands) and node.attrs.get("value", 0) == 0


def _sources(value: Value) -> list[Value]:
    """Where the elements of an operand come from, through views."""
    found, stack, seen = [], [value], {value}
    while stack:
        at = stack.pop()
        if not _is_view(at):
            found.append(at)
            continue
        new = [v for v in at.node.operands if v not in seen]
        seen.update(new)
        stack.extend(new)
    return found
