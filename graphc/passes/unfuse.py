"""Un-fusing: every fused region is put back in its place, so that the graph is as it was before fusion.

In: a graph of any stage. Out: the same computation without `fused` nodes, "differentiated" or "traced".
"""

from __future__ import annotations

from graphc.ir.graph import Builder, Graph
from graphc.passes.regions import inside


def unfuse(graph: Graph) -> Graph:
    """The graph with all `fused` regions inlined; marked diagonal factors tell that it was differentiated.

    >>> from graphc.ir import ops
    >>> from graphc.ir.types import f32
    >>> inner = Builder()
    >>> a = inner.input(f32[2], "a")
    >>> region = inner.graph("region", [inner.exp(a)])
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> node = build.emit(ops.fused, [x], {"kind": "map"}, [region])
    >>> print(unfuse(build.graph("f", node.results, "fused")))
    graphc 1
    graph @f(%x: f32[2]) -> (f32[2]) {
      %0 = exp %x : f32[2]
      return %0
    }
    """
    graph = inside(graph, unfuse)
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        if node.op.name == "fused":
            operands = [new[v] for v in node.operands]
            # regions of a valid graph hold no fused nodes; should one do, this takes it out as well
            new.update(zip(node.results, build.inline(unfuse(node.regions[0]), operands), strict=True))
            continue
        build.copy(node, new)
    plain = build.graph(graph.name, [new[v] for v in graph.outputs], "traced", graph.output_names)
    stage = "differentiated" if _has_diagonals(plain) else "traced"
    return plain.with_outputs(plain.outputs, plain.output_names, stage)


def _has_diagonals(graph: Graph) -> bool:
    return any("diagonal" in n.attrs or any(map(_has_diagonals, n.regions)) for n in graph.nodes)
