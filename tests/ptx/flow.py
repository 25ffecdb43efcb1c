"""The order in which a function's basic blocks run when threads are at different places.

In: a function's instructions. Out: its blocks, numbered so that the lowest number first brings threads together again:
every block of a loop comes before what follows the loop, and both sides of a branch before the point where they meet.
This is a weak topological order: F. Bourdoncle, Efficient chaotic iteration strategies with widenings, 1993.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from ptx.errors import PtxError
from ptx.parser import Function, Instruction, Symbol

BARRIERS = (
    "bar.sync",
    "barrier.sync",
    "barrier.sync.aligned",
    "barrier.cta.sync",
    "barrier.cta.sync.aligned",
)
ENDS = ("bra", "bra.uni", "ret", "ret.uni", "exit", "call", "call.uni", *BARRIERS)


@dataclass(frozen=True)
class Block:
    """Instructions that run together, and the instruction that decides what comes next (`None`: the next block)."""

    start: int
    body: tuple[Instruction, ...]
    end: Instruction | None
    target: int | None  # the block that a branch goes to, by position
    follows: int | None  # the block after this one, by position


def target_of(instruction: Instruction, function: Function) -> int:
    """The position in the code that a branch goes to."""
    (label,) = instruction.operands
    if not isinstance(label, Symbol) or label.name not in function.labels:
        raise PtxError(f"PTX line {instruction.line}: expected a label, got {instruction.text!r}")
    return function.labels[label.name]


def blocks_of(function: Function) -> list[Block]:
    """The basic blocks of a function in the order of the text; a guarded instruction is a block of its own."""
    code = function.code
    leaders = {0, *function.labels.values()}
    for at, instruction in enumerate(code):
        if instruction.opcode in ENDS:
            leaders.add(at + 1)
        elif instruction.guard is not None:
            leaders |= {at, at + 1}
    starts = sorted(at for at in leaders if at < len(code))
    number = {at: n for n, at in enumerate(starts)}
    blocks = []
    for n, (start, stop) in enumerate(zip(starts, [*starts[1:], len(code)], strict=True)):
        last = code[stop - 1]
        end = last if last.opcode in ENDS else None
        target = None
        if end is not None and end.opcode.startswith("bra"):
            place = target_of(end, function)
            if place == len(code):
                raise PtxError(f"PTX line {last.line}: expected an instruction after the label, got none")
            target = number[place]
        follows = n + 1 if stop < len(code) else None
        blocks.append(Block(start, tuple(code[start : stop - (end is not None)]), end, target, follows))
    return blocks


def order_of(blocks: list[Block]) -> list[int]:
    """The positions of the blocks in the order in which they should run."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(blocks)))
    for n, block in enumerate(blocks):
        leaves = block.end is not None and block.end.opcode in ("bra.uni", "ret", "ret.uni", "exit", "bra")
        goes_on = not leaves or (block.end is not None and block.end.guard is not None)
        graph.add_edges_from(
            (n, t) for t in (block.target, block.follows if goes_on else None) if t is not None
        )
    return _ordered(graph, 0)


def _ordered(graph: nx.DiGraph, first: int) -> list[int]:
    result: list[int] = []
    components = nx.condensation(graph)
    for component in nx.lexicographical_topological_sort(
        components, lambda c: min(components.nodes[c]["members"])
    ):
        members = components.nodes[component]["members"]
        if len(members) == 1:
            result += members
            continue
        entered = [m for m in members if m == first or any(p not in members for p in graph.predecessors(m))]
        header = min(entered) if entered else min(members)
        inner = graph.subgraph(members - {header})
        result.append(header)
        result += _ordered(inner, -1)
    return result
