"""The schedule of contract regions: register tiles in explicit vectors, with a hole in the store and in both operands.

In: a region with contractions, the nodes that make its operands and those that read it. Out: a kernel.

A contraction is a product of a left operand (batch, rows, sum) and a right one (batch, columns, sum). Two forms:

- outer (`outer.py`): vectors along the free dimension of one operand, splats of the other; the accumulators of a tile
  stay in registers over a block of the sum (a rank-1 update a step); `sweep.py` has that of a single row.
- dot (`dot.py`): vectors along the summed dimension of both, for products whose operands are contiguous there (x Wᵀ).

`blocking.py` chooses form, tile, blocks and packing by what they cost. Several contractions of one region share an
operand: `joined.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.codegen.schedules.byproduct import begin
from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.dot import DotProducts
from graphc.codegen.schedules.joined import JoinedDotProducts, JoinedOuterProducts, join
from graphc.codegen.schedules.loops import nest
from graphc.codegen.schedules.operands import contractions
from graphc.codegen.schedules.outer import OuterProducts
from graphc.codegen.schedules.sweep import SweptProducts
from graphc.codegen.schedules.tiles import Contraction, Place
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel


def schedule_contract(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """A kernel of the form that costs least."""
    form: OuterProducts | DotProducts
    if len(contractions(region)) > 1:
        joined = join(region, target)
        if joined is None:
            raise CompileError(f"contract: expected contractions that fit one tile, got {region}")
        c = Contraction(region, target, in_place, joined.product, joined.blocking)
        joined_form = JoinedOuterProducts if c.blocking.form == "outer" else JoinedDotProducts
        form = joined_form(c, joined.products)
    else:
        c = Contraction(collapse_contraction(region), target, in_place)
        outer = SweptProducts if c.blocking.order == "sweeps" else OuterProducts
        form = outer(c) if c.blocking.form == "outer" else DotProducts(c)
    nb, nl = len(c.product.batches), len(c.product.left.outer_extents)
    extents = (*c.product.batches, *c.product.left.outer_extents, *c.product.right.outer_extents)
    statements = nest(
        c.names,
        extents,
        lambda at: form.statements(Place(at[:nb], at[nb : nb + nl], at[nb + nl :])),
    )
    first = [
        statement
        for node, result in zip(c.byproducts, c.byproduct_results, strict=True)
        for statement in begin(c.names, node, result, c.lanes)
    ]
    return Kernel("contract", (*c.params, *c.scratch), (*first, *statements))
