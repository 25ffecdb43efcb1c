"""The schedule of scatter regions: the operand is copied (unless it is updated in place), then updates are added.

In: a region with one scatter_add. Out: a kernel. Updates are added in the order of their indices: deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.loops import lanes_of, nest, parameters, vector_loop
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Apply, Cast, Expr, If, Kernel, Load, Stmt, index, store
from graphc.ir.types import i64


def schedule_scatter(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """Copy, then add; an index out of range adds nothing."""
    node = next(n for n in region.nodes if "scatter" in n.op.traits)
    x, indices, updates = node.operands
    axis = node.int("axis")
    names = Names()
    inputs, (result,), params = parameters(region, in_place)
    evaluator = Evaluator(region, inputs, names)

    def copy(where: tuple[Expr, ...]) -> list[Stmt]:
        with evaluator.scope() as block:
            block.append(store(result, where, evaluator.at(x, where)))
        return block

    statements: list[Stmt] = []
    if not in_place:
        lanes = lanes_of(target, region, x.shape[-1])
        statements += nest(
            names,
            x.shape[:-1],
            lambda outer: vector_loop(names, x.shape[-1], lanes, lambda inner: copy((*outer, inner))),
        )

    def add(outer: tuple[Expr, ...], before: tuple[Expr, ...]) -> list[Stmt]:
        with evaluator.scope() as block:
            picked = evaluator.at(indices, outer)
            spot = picked if picked.dtype is i64 else Cast(i64, picked)
            inside = Apply("and", (Apply("ge", (spot, index(0))), Apply("lt", (spot, index(x.shape[axis])))))
            after = x.shape[axis + 1 :]

            def element(rest: tuple[Expr, ...]) -> list[Stmt]:
                with evaluator.scope() as inner:
                    value = evaluator.at(updates, (*before, *outer, *rest))
                    where = (*before, spot, *rest)
                    inner.append(store(result, where, Apply("add", (Load(result, where), value))))
                return inner

            if after:
                lanes = lanes_of(target, region, after[-1])
                body = nest(
                    names,
                    after[:-1],
                    lambda rest: vector_loop(names, after[-1], lanes, lambda last: element((*rest, last))),
                )
            else:
                body = element(())
            block.append(If(inside, tuple(body)))
        return block

    statements += nest(
        names,
        x.shape[:axis],
        lambda before: nest(names, indices.shape, lambda outer: add(outer, before)),
    )
    return Kernel("scatter", tuple(params), tuple(statements))
