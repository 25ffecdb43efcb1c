"""The schedule of map regions for threads: a grid-stride loop over vectors of neighbouring elements.

In: a region whose results all have one shape. Out: a kernel. A thread loads and stores 16 bytes at a time where the
last dimension is a whole number of them; the threads of a warp then touch 512 neighbouring bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphc.codegen.schedules.collapse import collapse
from graphc.codegen.schedules.evaluate import Evaluator, Names
from graphc.codegen.schedules.gpu.model import device_of
from graphc.codegen.schedules.gpu.threads import each, unravel
from graphc.codegen.schedules.loops import lane_block, parameters
from graphc.codegen.target import Device, Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Expr, Kernel, Stmt, store

_LARGEST_VECTOR_REGION = 60  # nodes: each takes a register a lane, and more of them don't fit


def schedule_map(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """Every result is stored in the same pass; each thread has its own elements."""
    device = device_of(target)
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

    lanes = vector_lanes(device, region, domain)

    def work(number: Expr) -> Sequence[Stmt]:
        block: list[Stmt] = []
        if not domain:
            return element(())
        *outer, last = unravel(names, block, number, (*domain[:-1], domain[-1] // lanes))
        return [*block, *lane_block(names, lanes, lambda lane: element((*outer, last * lanes + lane)))]

    return Kernel("map", tuple(params), tuple(each(names, device, math.prod(domain) // lanes, work)))


def vector_lanes(device: Device, region: Graph, domain: Sequence[int]) -> int:
    """How many neighbouring elements of the last dimension one thread works on at a time."""
    if not domain or len(region.nodes) > _LARGEST_VECTOR_REGION:
        return 1
    widest = max(v.dtype.bytes for v in (*region.inputs, *region.outputs))
    lanes = device.access_bytes // widest
    while lanes > 1 and domain[-1] % lanes:
        lanes //= 2
    return min(lanes, 4)
