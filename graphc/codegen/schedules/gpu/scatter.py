"""The schedule of scatter regions for threads: one thread owns one element of the result and walks all indices.

In: a region with one scatter_add. Out: a kernel. The updates of an element are added in the order of their indices, by
one thread, without atomic steps: results are the same in every run, and to the bit those of the processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.threads import each, unravel
from graphc.codegen.schedules.loops import nest, parameters
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Alloc, Apply, Buffer, Cast, Expr, If, Kernel, Load, Stmt, store
from graphc.ir.types import i64


def schedule_scatter(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """Threads that are neighbours own neighbouring elements, so that they read the same indices at the same time.

    An index out of range is no element's: nothing is stored for it.
    """
    device = device_of(target)
    node = next(n for n in region.nodes if "scatter" in n.op.traits)
    x, indices, updates = node.operands
    axis = node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)

    def work(number: Expr) -> Sequence[Stmt]:
        total = Buffer(names.fresh("total"), x.dtype, (), space="reg", access="local")
        with evaluator.scope() as block:
            where = unravel(names, block, number, x.shape)
            block += [Alloc(total), store(total, (), evaluator.at(x, where))]

            def step(at: tuple[Expr, ...]) -> list[Stmt]:
                with evaluator.scope() as outer:
                    picked = evaluator.at(indices, at)
                    spot = picked if picked.dtype is i64 else Cast(i64, picked)
                    with evaluator.scope() as inner:
                        value = evaluator.at(updates, (*where[:axis], *at, *where[axis + 1 :]))
                        inner.append(store(total, (), Apply("add", (Load(total, ()), value))))
                    outer.append(If(Apply("eq", (spot, where[axis])), tuple(inner)))
                return outer

            block += nest(names, indices.shape, step)
            block.append(store(result, where, Load(total, ())))
        return block

    return Kernel("scatter", tuple(params), tuple(each(names, device, math.prod(x.shape), work)))
