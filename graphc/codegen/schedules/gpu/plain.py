"""The general schedule of contract regions for threads: one thread computes one element of the results.

In: a region with one contraction. Out: a kernel. Any data type, any dimensions; nothing is shared between threads but
what caches hold, so this is for small products and for types that a tiled kernel doesn't take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphc.codegen.schedules.collapse import collapse_contraction
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.threads import each, unravel
from graphc.codegen.schedules.loops import nest, parameters
from graphc.codegen.schedules.operands import contractions, product_of
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.kernel import Alloc, Apply, Buffer, Expr, Kernel, Load, Stmt, constant, store


def schedule_contract(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """The sum in the order of the summed dimensions, then the epilogue and the stores."""
    device = device_of(target)
    if len(contractions(region)) != 1 or any("reduction" in n.op.traits for n in region.nodes):
        raise CompileError(f"contract: expected one contraction and no by-products, got {region}")
    region = collapse_contraction(region)
    product = product_of(region)
    names = Names()
    inputs, results, params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)
    left, right = product.left, product.right
    shape = product.result.shape
    batches, rows = len(left.batch), len(left.free)

    def work(number: Expr) -> Sequence[Stmt]:
        total = Buffer(names.fresh("acc"), product.dtype, (), space="reg", access="local")
        with evaluator.scope() as block:
            where = unravel(names, block, number, shape)
            batch, row, column = where[:batches], where[batches : batches + rows], where[batches + rows :]
            block += [Alloc(total), store(total, (), constant(product.dtype, 0))]

            def step(along: tuple[Expr, ...]) -> list[Stmt]:
                with evaluator.scope() as inner:
                    x = evaluator.at(left.value, left.at(batch, row, along))
                    y = evaluator.at(right.value, right.at(batch, column, along))
                    inner.append(store(total, (), Apply("fma", (x, y, Load(total, ())))))
                return inner

            block += nest(names, product.sums, step)
            evaluator.bound[product.result] = lambda _: Load(total, ())
            values = [evaluator.at(v, where) for v in region.outputs]
            block += [store(b, where, v) for b, v in zip(results, values, strict=True)]
            del evaluator.bound[product.result]
        return block

    return Kernel("contract", tuple(params), tuple(each(names, device, math.prod(shape), work)))
