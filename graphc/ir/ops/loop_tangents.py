"""Forward mode of loops and branches: the tangent of a loop is a loop over values and tangents side by side.

In: a node with regions, the tangents of its operands (None where they are zero), and `derive`, which gives a region that
also takes and gives tangents. Out: what stands for the node's results, and their tangents. (Forward accumulation: Griewank &
Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, section 3.1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.opdef import Derive, Tangents
from graphc.ir.ops.loop_rules import reach
from graphc.ir.ops.scan_parts import ScanParts

if TYPE_CHECKING:
    from graphc.ir.graph import Attr


def _varied(body: Graph, carries: int, tangents: Sequence[Value | None]) -> tuple[list[int], list[int]]:
    """The inputs and outputs of a body that have tangents, when all turns are counted."""
    paths = reach(body)
    varied = {i for i, t in enumerate(tangents) if t is not None and body.inputs[i].dtype.is_float}
    grown = -1
    while grown != len(varied):
        grown = len(varied)
        varied |= {i for i in range(carries) if paths[i] & varied}
    return sorted(varied), [
        j for j, path in enumerate(paths) if path & varied or (j < carries and j in varied)
    ]


def tangent_scan(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """One loop of both: carries and their tangents, captures and theirs, xs and theirs."""
    parts = ScanParts(node)
    n, after = parts.carries, parts.carries + parts.captures
    inputs, outputs = _varied(parts.body, n, tangents)
    if not outputs:
        return node.results, [None] * len(node.results)
    both = derive(parts.body, inputs, outputs)
    count, made = len(parts.body.inputs), len(parts.body.outputs)
    moving = dict(zip(inputs, both.inputs[count:], strict=True))
    slopes = dict(zip(outputs, both.outputs[made:], strict=True))

    def tangent(i: int) -> Value:
        return tangents[i] or build.zeros(node.operands[i].type)

    spans = ((0, n), (n, after), (after, count))
    ports: list[Value] = []
    operands: list[Value] = []
    for low, high in spans:
        own = [i for i in inputs if low <= i < high]
        ports += [*both.inputs[low:high], *(moving[i] for i in own)]
        operands += [*node.operands[low:high], *map(tangent, own)]
    results = [
        *both.outputs[:n], *(slopes[j] for j in outputs if j < n),
        *both.outputs[n:made], *(slopes[j] for j in outputs if j >= n),
    ]  # fmt: skip
    moved = sum(j < n for j in outputs)
    attrs: dict[str, Attr] = dict(node.attrs)
    attrs["carries"] = n + moved
    attrs["captures"] = parts.captures + sum(n <= i < after for i in inputs)
    body = Graph(parts.body.name, tuple(ports), tuple(results))
    loop = build.emit(node.op, operands, attrs, (body,), node.loc, node.name)
    plain = [*loop.results[:n], *loop.results[n + moved : made + moved]]
    found = dict(zip(outputs, [*loop.results[n : n + moved], *loop.results[made + moved :]], strict=True))
    return plain, [found.get(j) for j in range(made)]


def tangent_cond(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """The branch that is taken, with its tangents."""
    given = tangents[1:]
    inputs = [i for i, t in enumerate(given) if t is not None and node.operands[i + 1].dtype.is_float]
    paths = [set().union(*both) for both in zip(*map(reach, node.regions), strict=True)]
    outputs = [j for j, path in enumerate(paths) if path & set(inputs)]
    if not outputs:
        return node.results, [None] * len(node.results)
    regions = [derive(region, inputs, outputs) for region in node.regions]
    operands = [*node.operands, *(t for i in inputs if (t := given[i]) is not None)]
    made = build.emit(node.op, operands, {}, regions, node.loc, node.name)
    count = len(node.results)
    found = dict(zip(outputs, made.results[count:], strict=True))
    return made.results[:count], [found.get(j) for j in range(count)]


def tangent_while(build: Builder, node: Node, tangents: Sequence[Value | None], derive: Derive) -> Tangents:
    """The loop over values and tangents; its condition sees the values alone."""
    condition, body = node.regions
    n, count = node.int("carries"), len(node.operands)
    inputs, outputs = _varied(body, n, tangents)
    if not outputs:
        return node.results, [None] * len(node.results)
    both = derive(body, inputs, outputs)
    moving = dict(zip(inputs, both.inputs[count:], strict=True))
    slopes = dict(zip(outputs, both.outputs[n:], strict=True))
    own = [i for i in inputs if i < n]
    held = [i for i in inputs if i >= n]
    ports = (*both.inputs[:n], *(moving[i] for i in own), *both.inputs[n:count], *(moving[i] for i in held))
    operands = [
        *node.operands[:n], *(tangents[i] or build.zeros(node.operands[i].type) for i in own),
        *node.operands[n:], *(t for i in held if (t := tangents[i]) is not None),
    ]  # fmt: skip
    tested = Builder()
    names = list(tested.inputs_for(ports).values())
    values = [*names[:n], *names[n + len(own) : n + len(own) + count - n]]
    test = tested.graph(condition.name, tested.inline(condition, values))
    step = Graph(body.name, ports, (*both.outputs[:n], *(slopes[i] for i in own)))
    made = build.emit(node.op, operands, {"carries": n + len(own)}, (test, step), node.loc, node.name)
    found = dict(zip(own, made.results[n:], strict=True))
    return made.results[:n], [found.get(j) for j in range(n)]
