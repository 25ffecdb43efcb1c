"""What a loop keeps of its forward steps for the backward ones: the fewest bytes from which the rest is cheap to compute.

In: the values that the backward steps read, which values they have anyway, which nodes they may compute again. Out: the
values to store. It is a minimum cut of the graph that makes the values, where cutting a value costs its bytes; the
largest flow finds it (Ford & Fulkerson, Maximal flow through a network, Canadian Journal of Mathematics 8, 1956).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from graphc.ir.scalar import COSTLY, PRIMITIVES

if TYPE_CHECKING:
    from graphc.ir.graph import Node, Value

_Vertex = object


def is_cheap(node: Node) -> bool:
    """True of pointwise nodes without transcendentals, divisions and the like: computing them again costs less than a load."""
    if "pointwise" not in node.op.traits:
        return False
    name = node.op.name
    return name in PRIMITIVES and not PRIMITIVES[name].transcendental and name not in COSTLY


def is_recomputed(node: Node) -> bool:
    """True of nodes that a backward step computes again rather than reads: arithmetic, and what only moves elements.

    A division or root counts as arithmetic: it takes less time than the bytes that each step would write and read.
    """
    if "pointwise" in node.op.traits:
        return is_cheap(node) or node.op.name in ("div", "sqrt")
    return bool(node.op.traits & {"view", "leaf"})


def residuals(
    wanted: Iterable[Value],
    free: Collection[Value],
    stored: Collection[Value],
    again: Callable[[Node], bool],
) -> list[Value]:
    """The values to store so that `wanted` can be computed by nodes of which `again` is true.

    `free` are there in each step without being stored; those in `stored` are stored already, for another reason.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> y = build.tanh(build.input(f32[8], "x"))
    >>> residuals([build.sub(y, build.mul(y, y))], (), (), is_recomputed) == [y]
    True
    """
    wanted = list(dict.fromkeys(wanted))
    flow = _Flow()
    seen: set[Value] = set()
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value in seen or value in free:
            continue
        seen.add(value)
        flow.edge(("in", value), ("out", value), 0 if value in stored else max(value.type.bytes, 1))
        if value.node.operands and again(value.node):
            for operand in value.node.operands:
                if operand not in free:
                    flow.edge(("out", operand), ("in", value), None)
            stack.extend(value.node.operands)
        elif value.node.op.name == "input" or not again(value.node):
            flow.edge("source", ("in", value), None)
    for value in wanted:
        if value in seen:
            flow.edge(("out", value), "sink", None)
    reached = flow.saturate()
    cut = [v for v in seen if ("in", v) in reached and ("out", v) not in reached]
    return sorted(cut, key=lambda v: (v.node.serial, v.index))


class _Flow:
    """A network with capacities (None: no limit), and its largest flow by shortest augmenting paths."""

    def __init__(self) -> None:
        self._room: dict[_Vertex, dict[_Vertex, int | None]] = {"source": {}, "sink": {}}

    def edge(self, start: _Vertex, end: _Vertex, capacity: int | None) -> None:
        self._room.setdefault(start, {})[end] = capacity
        self._room.setdefault(end, {}).setdefault(start, 0)

    def saturate(self) -> set[_Vertex]:
        """Fills the network; what can still be reached from the source is the source's side of the least cut."""
        while True:
            came: dict[_Vertex, _Vertex] = {"source": "source"}
            queue: list[_Vertex] = ["source"]
            for here in queue:
                for there, room in self._room[here].items():
                    if there not in came and room != 0:
                        came[there] = here
                        queue.append(there)
            if "sink" not in came:
                return set(came)
            path = ["sink"]
            while path[-1] != "source":
                path.append(came[path[-1]])  # type: ignore[arg-type]
            edges = list(zip(path[1:], path[:-1], strict=True))
            amounts = [room for a, b in edges if (room := self._room[a][b]) is not None]
            amount = min(amounts)
            for a, b in edges:
                forward, backward = self._room[a][b], self._room[b][a]
                self._room[a][b] = None if forward is None else forward - amount
                self._room[b][a] = None if backward is None else backward + amount
