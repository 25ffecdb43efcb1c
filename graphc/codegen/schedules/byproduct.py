"""By-products: reductions over all rows of a region, accumulated in memory as the rows go by.

In: a contract or row-reduce region. Out: which of its nodes are by-products, and statements that begin and update them.
The sums are made in the order of the rows: deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.schedules.evaluate import Names
from graphc.codegen.schedules.loops import nest, vector_loop
from graphc.ir.graph import Graph, Node
from graphc.ir.kernel import Apply, Buffer, Expr, Load, Stmt, constant, store
from graphc.ir.ops.reduce import identity


def byproducts(region: Graph) -> list[Node]:
    """The reductions of a region that are not what it is scheduled for."""
    if any("contraction" in n.op.traits for n in region.nodes):
        return [n for n in region.nodes if "reduction" in n.op.traits]
    reductions = [n for n in region.nodes if "reduction" in n.op.traits]
    return [n for n in reductions if n.ints("axes") != reductions[0].ints("axes")]


def begin(names: Names, node: Node, result: Buffer, lanes: int) -> list[Stmt]:
    """The result before the first row."""
    start = constant(result.dtype, identity(node.op.combine, result.dtype))
    return nest(
        names,
        result.shape[:-1],
        lambda outer: vector_loop(
            names, result.shape[-1], lanes, lambda inner: [store(result, (*outer, inner), start)]
        ),
    )


def update(node: Node, result: Buffer, where: Sequence[Expr], value: Expr) -> Stmt:
    """The result with one more element."""
    return store(result, where, Apply(node.op.combine, (Load(result, tuple(where)), value)))
