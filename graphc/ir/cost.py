"""What a computation costs, counted from its graph: floating-point operations, and bytes that must be moved.

In: a graph, or the region of a fused node. Out: numbers that no schedule changes, the numerators of a roofline
(Williams, Waterman & Patterson, Roofline, Communications of the ACM 52(4), 2009).
"""

from __future__ import annotations

from math import prod

from graphc.ir.graph import Graph, Node
from graphc.ir.ops.contract import dimensions


def operations(graph: Graph) -> int:
    """Two for each product that a contraction sums, one for an element of any other arithmetic; regions count as theirs.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, y = build.input(f32[2, 3], "x"), build.input(f32[3, 4], "y")
    >>> operations(build.graph("f", [build.tanh(build.contract(x, y, axes=((1,), (0,))))]))
    56
    """
    count = 0
    for node in graph.nodes:
        if node.regions:
            count += sum(operations(region) for region in node.regions)
        elif "contraction" in node.op.traits:
            count += 2 * prod(contraction_sizes(node))
        elif "pointwise" in node.op.traits:
            count += node.type.size
        elif "reduction" in node.op.traits:
            count += node.operands[0].type.size
    return count


def bytes_moved(graph: Graph) -> int:
    """The bytes of what a graph reads and writes, each array once: of its inputs and outputs."""
    return sum(v.type.bytes for v in (*graph.inputs, *graph.outputs))


def contraction_sizes(node: Node) -> tuple[int, int, int, int]:
    """(batches, rows, columns, summed products of an element) of a contraction."""
    left, right = (v.type for v in node.operands)
    d = dimensions(node.attrs, left.rank, right.rank)
    return (
        prod(left.shape[i] for i in d.lhs_batch),
        prod(left.shape[i] for i in d.lhs_free),
        prod(right.shape[i] for i in d.rhs_free),
        prod(left.shape[i] for i in d.lhs_summed),
    )


def summary(region: Graph) -> str:
    """What a region does, in few words: a product is rows x columns x summed.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> summary(build.graph("map", [build.exp(build.input(f32[2, 3], "x"))]))
    'map 2x3, 1 pointwise'
    """
    products = [contraction_sizes(n) for n in region.nodes if "contraction" in n.op.traits]
    counts = {trait: sum(trait in n.op.traits for n in region.nodes) for trait in ("pointwise", "reduction")}
    names = [f"{b} products" if b > 1 else "product" for b, *_ in products]
    parts = [f"{name} {m}x{n}x{k}" for name, (_, m, n, k) in zip(names, products, strict=True)]
    if not parts:
        types = [v.type for n in region.nodes for v in n.results] + list(region.input_types)
        largest = max(types, key=lambda t: t.size)
        parts = [f"{region.name} {'x'.join(map(str, largest.shape)) or 'scalars'}"]
    return ", ".join([*parts, *(f"{n} {trait}" for trait, n in counts.items() if n)])
