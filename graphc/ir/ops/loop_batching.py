"""What loops and branches make of many examples: their regions, batched.

In: a scan, cond or while node with batched operands. Out: the same op once for all examples. A condition that differs
between examples selects: both branches run, and a loop goes on until the last example is done, whose others stand still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.ir.batching import all_whole, batch_graph, batch_into, to_front, whole
from graphc.ir.ops.scan_parts import ScanParts

if TYPE_CHECKING:
    from graphc.ir.graph import Builder, Node, Value


def batch_scan(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """One loop over the steps of all examples: a slice of xs holds that step of each."""
    parts = ScanParts(node)
    first = parts.carries + parts.captures
    flags = [True] * parts.carries + list(batched[parts.carries :])
    given = [
        *all_whole(build, operands[: parts.carries], batched[: parts.carries], size),
        *operands[parts.carries : first],
        *(_second(build, v) if b else v for v, b in zip(operands[first:], batched[first:], strict=True)),
    ]
    made = build.emit(node.op, given, node.attrs, [batch_graph(parts.body, flags, size)]).results
    return [*made[: parts.carries], *(to_front(build, y, 1) for y in made[parts.carries :])]


def _second(build: Builder, value: Value) -> Value:
    """The value with its first two dimensions exchanged."""
    return build.transpose(value, perm=(1, 0, *range(2, value.type.rank)))


def batch_cond(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """One branch for all where the condition is that of all, else both, and a choice for each example."""
    if not batched[0]:
        regions = [batch_graph(region, batched[1:], size) for region in node.regions]
        return build.emit(node.op, operands, node.attrs, regions).results
    yes, no = (
        [
            v if b else whole(build, v, size)
            for v, b in batch_into(build, region, operands[1:], batched[1:], size)
        ]
        for region in node.regions
    )
    return [_chosen(build, operands[0], a, b) for a, b in zip(yes, no, strict=True)]


def batch_while(
    build: Builder, node: Node, operands: Sequence[Value], batched: Sequence[bool], size: int
) -> Sequence[Value | None]:
    """A loop as long as the condition holds for any example; those for which it doesn't keep their carries."""
    from graphc.ir.graph import Builder

    carries = node.int("carries")
    flags = [True] * carries + list(batched[carries:])
    given = [*all_whole(build, operands[:carries], batched[:carries], size), *operands[carries:]]
    test, step = node.regions
    condition = Builder()
    inputs = [condition.input(v.type, "") for v in given]
    holds = _all(condition, batch_into(condition, test, inputs, flags, size), size)[0]
    wanted = condition.reduce_any(holds, axes=(0,))
    body = Builder()
    inputs = [body.input(v.type, "") for v in given]
    holds = _all(body, batch_into(body, test, inputs, flags, size), size)[0]
    moved = _all(body, batch_into(body, step, inputs, flags, size), size)
    kept = [_chosen(body, holds, new, old) for new, old in zip(moved, inputs[:carries], strict=True)]
    regions = [condition.graph(test.name, [wanted]), body.graph(step.name, kept)]
    return build.emit(node.op, given, node.attrs, regions).results


def _all(build: Builder, values: Sequence[tuple[Value, bool]], size: int) -> list[Value]:
    return [v if has_batch else whole(build, v, size) for v, has_batch in values]


def _chosen(build: Builder, condition: Value, yes: Value, no: Value) -> Value:
    """`yes` for examples whose condition holds, else `no`."""
    return build.select(build.broadcast(condition, dims=(0,), shape=yes.shape), yes, no)
