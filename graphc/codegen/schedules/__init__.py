"""Schedules: how a fused region becomes loops, one schedule for each kind of region.

In: a `fused` node, a target, which results overwrite which operands. Out: a `Kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.codegen.schedules.byproduct import byproducts
from graphc.codegen.schedules.contract import schedule_contract
from graphc.codegen.schedules.cumulative import schedule_cumulative
from graphc.codegen.schedules.gpu import THREAD_SCHEDULES
from graphc.codegen.schedules.map_ import schedule_map
from graphc.codegen.schedules.reduce import schedule_reduce
from graphc.codegen.schedules.scatter import schedule_scatter
from graphc.codegen.schedules.sort import schedule_sort
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import Kernel
from graphc.ir.types import TensorType

Schedule = Callable[[Graph, Target, Mapping[int, int]], Kernel]

SCHEDULES: dict[str, Schedule] = {
    "map": schedule_map,
    "reduce": schedule_reduce,
    "contract": schedule_contract,
    "scatter": schedule_scatter,
    "cumulative": schedule_cumulative,
    "sort": schedule_sort,
    "factor": THREAD_SCHEDULES["factor"],  # written once for both
}


def schedule(node: Node, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """The kernel of a fused node: a parameter for each operand, then one for each result that is not in place.

    `in_place` gives, for a result's position, that of the operand whose memory it overwrites (one of
    `in_place_candidates`); the two are a single `inout` parameter.
    """
    if node.op.name != "fused":
        raise CompileError(
            f"{node.loc.prefix}{node.op.name}: expected a fused graph; run the fuse pass first"
        )
    schedules = THREAD_SCHEDULES if target.has_threads else SCHEDULES
    return schedules[str(node.attrs["kind"])](node.regions[0], target, in_place)


def in_place_candidates(node: Node) -> dict[int, tuple[int, ...]]:
    """For each result of a fused node, the operands that it may overwrite.

    An operand qualifies if it has the result's type and is only read at the index that is being written, before it is
    written: by pointwise nodes of the result's shape, or as what a scatter adds to.
    """
    region = node.regions[0]
    reduction = next((n for n in region.nodes if "reduction" in n.op.traits), None)
    elsewhere = _read_elsewhere(region, node.attrs["kind"] == "scatter")
    begun = {v for n in byproducts(region) for v in n.results}  # sums that are stored before anything is read
    of_type: dict[TensorType, list[int]] = {}
    for i, operand in enumerate(region.inputs):
        if operand not in elsewhere:
            of_type.setdefault(operand.type, []).append(i)
    return {
        position: tuple(of_type.get(result.type, ()))
        # passes over a row read its elements again after some were stored
        if (reduction is None or result.shape != reduction.operands[0].shape) and result not in begun
        else ()
        for position, result in enumerate(region.outputs)
    }


def _read_elsewhere(region: Graph, scatter: bool) -> set[Value]:
    """What is read at other indices than the one that is being written, or is itself a result."""
    found = set(region.outputs)
    feeds_contraction = _feeding_contractions(region)
    for node in region.nodes:
        if scatter:
            found.update(node.operands if "scatter" not in node.op.traits else node.operands[1:])
        elif "pointwise" not in node.op.traits or node in feeds_contraction:
            found.update(node.operands)
    return found


def _feeding_contractions(region: Graph) -> set[Node]:
    """The nodes that are computed inside a contraction's operands, at other indices than the result's."""
    stack = [v.node for n in region.nodes if "contraction" in n.op.traits for v in n.operands]
    found: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(v.node for v in node.operands)
    return found
