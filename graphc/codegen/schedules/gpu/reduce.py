"""The schedule of reduce regions for threads: a thread for each row, which it reads in as many passes as it needs."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel


def schedule_reduce(region: Graph, target: Target, in_place: Mapping[int, int]) -> Kernel:
    raise CompileError("reduce: not written yet")
