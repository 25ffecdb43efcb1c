"""Schedules for targets with threads: how a fused region becomes loops over blocks and threads.

In: a region, a target, which results overwrite which operands. Out: a `Kernel`. Each schedule's threads own what they
store, so that results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.codegen.schedules.factor import schedule_factor
from graphc.codegen.schedules.gpu.contract import schedule_contract
from graphc.codegen.schedules.gpu.cumulative import schedule_cumulative
from graphc.codegen.schedules.gpu.map_ import schedule_map
from graphc.codegen.schedules.gpu.reduce import schedule_reduce
from graphc.codegen.schedules.gpu.scatter import schedule_scatter
from graphc.codegen.schedules.gpu.sort import schedule_sort
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel

THREAD_SCHEDULES: dict[str, Callable[[Graph, Target, Mapping[int, int]], Kernel]] = {
    "map": schedule_map,
    "reduce": schedule_reduce,
    "contract": schedule_contract,
    "scatter": schedule_scatter,
    "cumulative": schedule_cumulative,
    "sort": schedule_sort,
    "factor": schedule_factor,
}
