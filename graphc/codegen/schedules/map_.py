"""The schedule of map regions: one pass over the domain in explicit vectors, the last one masked.

In: a region whose results all have one shape. Out: a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.codegen.schedules.collapse import collapse
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lanes_of, nest, parameters, vector_loop
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Expr, Kernel, Stmt, store


def schedule_map(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """Loops over all dimensions, the last one in vectors; every result is stored in the same pass."""
    region = collapse(region, region.outputs[0].shape)
    names = Names()
    inputs, results, params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    domain = region.outputs[0].shape

    def element(where: tuple[Expr, ...]) -> Sequence[Stmt]:
        with evaluator.scope() as block:
            # All values before the first store: a result may overwrite what another one reads.
            values = [evaluator.at(v, where) for v in region.outputs]
        return [*block, *(store(b, where, v) for b, v in zip(results, values, strict=True))]

    if not domain:
        return Kernel("map", tuple(params), tuple(element(())))
    lanes = lanes_of(target, region, domain[-1])
    body = nest(
        names,
        domain[:-1],
        lambda outer: vector_loop(names, domain[-1], lanes, lambda inner: element((*outer, inner))),
    )
    return Kernel("map", tuple(params), tuple(body))
