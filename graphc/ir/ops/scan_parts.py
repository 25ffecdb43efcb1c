"""The roles of a scan's operands, results and region: what its rules and passes speak of.

In: a scan node. Out: its carries, captures, xs and ys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class ScanParts:
    """A scan's operands, results and region by their roles: region inputs are carries, captures, slices of xs; its
    outputs are the next carries and slices of ys."""

    node: Node

    @property
    def carries(self) -> int:
        return self.node.int("carries")

    @property
    def captures(self) -> int:
        return self.node.int("captures")

    @property
    def length(self) -> int:
        return self.node.int("length")

    @property
    def reverse(self) -> bool:
        return self.node.attrs["reverse"] is True

    @property
    def body(self) -> Graph:
        return self.node.regions[0]

    @property
    def init(self) -> tuple[Value, ...]:
        return self.node.operands[: self.carries]

    @property
    def captured(self) -> tuple[Value, ...]:
        return self.node.operands[self.carries : self.carries + self.captures]

    @property
    def xs(self) -> tuple[Value, ...]:
        return self.node.operands[self.carries + self.captures :]

    @property
    def ys(self) -> tuple[Value, ...]:
        return self.node.results[self.carries :]
