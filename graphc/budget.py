"""A memory budget for a program: values are computed again until its plan fits.

In: a traced graph, a target, what is donated, a budget in bytes. Out: an equal graph whose arena fits, by the pass
`remat`, which is asked how much memory a graph takes: here its plan for the target says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.errors import ArgumentError, CompileError
from graphc.ir.graph import Graph
from graphc.ir.inline import inline
from graphc.ir.loc import here
from graphc.passes.remat import Rematerialised, parse_bytes, remat
from graphc.program import Donated, lower_to_plan

if TYPE_CHECKING:
    from graphc.codegen.target import Target

_FOUND: dict[tuple[str, str, Donated, int], Rematerialised] = {}


def within_budget(graph: Graph, target: Target, donated: Donated, budget: int | str) -> Graph:
    """The graph, or one that computes some of its values again, with an arena of at most `budget` bytes.

    Raises `CompileError`, with the least that can be done, where there is none.
    """
    try:
        limit = parse_bytes(budget)
    except ArgumentError as error:
        raise ArgumentError(f"{here().prefix}compile: {error}") from None
    found = rematerialised(graph, target, donated, limit)
    if found.bytes > limit:
        raise CompileError(
            f"{here().prefix}@{graph.name}: memory_budget: expected an arena of at most {limit:,} bytes, got {found.bytes:,}, "
            f"the least that computing values again gives"
        )
    return found.graph


def rematerialised(graph: Graph, target: Target, donated: Donated, limit: int) -> Rematerialised:
    """What comes nearest to the limit; found once for each graph, target and limit."""
    key = (graph.canonical, target.identity, donated, limit)
    if key not in _FOUND:

        def measure(graph: Graph) -> int:
            return lower_to_plan(graph, target, donated, {})[1].workspace_bytes

        _FOUND[key] = remat(inline(graph), limit, measure)
    return _FOUND[key]
