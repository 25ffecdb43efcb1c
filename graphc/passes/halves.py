"""Floats of 16 bits in memory, f32 in registers: what `bf16` and `f16` mean, written out as casts.

In: a graph of any stage before fusion. Out: the same computation in which bf16 and f16 are only moved and converted; all
arithmetic is on f32. Fusion then puts each conversion beside the load or the store that it belongs to.
"""

from __future__ import annotations

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.types import TensorType, f32

# besides views and leaves: ops that choose or convert elements and compute nothing with them
_MOVES = frozenset(("cast", "select", "gather", "stop_gradient", "input"))


def widen_halves(graph: Graph) -> Graph:
    """Each op on 16-bit floats as one on f32 whose operands are converted before and whose results are rounded after it.

    >>> from graphc.ir.types import bf16
    >>> build = Builder()
    >>> x = build.input(bf16[2], "x")
    >>> print(widen_halves(build.graph("f", [build.exp(x)])))
    graphc 1
    graph @f(%x: bf16[2]) -> (bf16[2]) {
      %0 = cast %x : f32[2]
      %1 = exp %0 : f32[2]
      %2 = cast %1 : bf16[2]
      return %2
    }
    """
    if not _has_halves(graph):
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        made = _node(build, node, [new[v] for v in node.operands])
        new.update(zip(node.results, made, strict=True))
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def _has_halves(graph: Graph) -> bool:
    return any(
        v.dtype.is_half for v in graph.inputs + tuple(v for n in graph.nodes for v in n.results)
    ) or any(_has_halves(region) for node in graph.nodes for region in node.regions)


def _node(build: Builder, node: Node, operands: list[Value]) -> list[Value]:
    """The results of one op, of the types that they had."""
    if node.regions:
        regions = [widen_halves(region) for region in node.regions]
        made = build.emit(node.op, operands, node.attrs, regions, node.loc, node.name)
        return list(made.results)
    moves = node.op.name in _MOVES or node.op.traits & {"view", "leaf"}
    if moves or not any(v.dtype.is_half for v in operands):
        return list(build.emit(node.op, operands, node.attrs, (), node.loc, node.name).results)
    wide = [_cast(build, v, TensorType(f32, v.shape), node) if v.dtype.is_half else v for v in operands]
    made = build.emit(node.op, wide, node.attrs, (), node.loc)
    return [
        have if have.type == want.type else _cast(build, have, want.type, node, node.name)
        for have, want in zip(made.results, node.results, strict=True)
    ]


def _cast(build: Builder, value: Value, type: TensorType, node: Node, name: str = "") -> Value:
    from graphc.ir import ops

    return Value(build.emit(ops.cast, [value], {"type": type}, (), node.loc, name))
