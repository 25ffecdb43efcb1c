"""The schedules of factor regions: one factorization, or solution with a triangular matrix, for each matrix of a stack.

In: a region with one such op. Out: a kernel. Each algorithm is written once, in the steps of `Worker`: on a processor
these are vectors of lanes, and matrices come one after the other; for threads they are the threads of a block, and each
matrix has a block. Sums have one order on each kind of target: results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.codegen.schedules.factor.direct import cholesky, lu, qr, triangular_solve
from graphc.codegen.schedules.factor.jacobi import eigh, svd
from graphc.codegen.schedules.factor.worker import Worker
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel

ALGORITHMS: dict[str, Callable[[Worker], None]] = {
    "cholesky": cholesky,
    "triangular_solve": triangular_solve,
    "lu": lu,
    "qr": qr,
    "eigh": eigh,
    "svd": svd,
}


def schedule_factor(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    """The kernel of one factorization, on a processor or for threads."""
    worker = Worker(region, target, in_place)
    return worker.kernel(ALGORITHMS[worker.node.op.name])
