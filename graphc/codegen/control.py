"""Steps of a PLAN for ops with regions: a loop or branch is a step whose regions are plans of their own.

In: a scan, cond or while of a fused graph, and the buffers of its operands and results. Out: a `LoopStep` or `BranchStep`.
A carry stays in its memory where the body may overwrite it. Else it has two buffers that change places with each step, or,
where it is among the ys too, it is read from there. So no step copies a carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from graphc.errors import CompileError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.ops.scan_parts import ScanParts
from graphc.ir.plan import BranchStep, Carry, LoopStep, Plan, PlanBuffer
from graphc.ir.types import TensorType, bool_, u8

Own = Callable[[Sequence[TensorType]], list[PlanBuffer]]


class PlanOf(Protocol):
    def __call__(self, region: Graph, carried: Sequence[tuple[int, int]] = ()) -> Plan: ...


def carries_in_place(node: Node) -> dict[int, tuple[int, ...]]:
    """For each result the operands whose memory it may take: of a loop's last carry the first one.

    >>> from graphc.ir import ops
    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> inner = Builder()
    >>> body = inner.graph("body", [inner.exp(inner.input(f32[2], "carry"))])
    >>> build = Builder()
    >>> attrs = {"carries": 1, "captures": 0, "length": 3, "reverse": False}
    >>> carries_in_place(build.emit(ops.scan, [build.input(f32[2], "x")], attrs, [body]))
    {0: (0,)}
    """
    carries = node.int("carries") if node.op.name in ("scan", "while") else 0
    return {i: (i,) if i < carries else () for i in range(len(node.types))}


def control_step(
    node: Node,
    reads: Sequence[PlanBuffer],
    writes: Sequence[PlanBuffer],
    own: Own,
    plan_of: PlanOf,
) -> LoopStep | BranchStep:
    """The step of a node whose operands and results are these buffers."""
    if node.op.name == "cond":
        plans = [plan_of(region) for region in node.regions]
        (scratch,) = own([_arena(*plans)])
        return BranchStep(reads[0], (plans[0], plans[1]), tuple(reads[1:]), tuple(writes), scratch, node.loc)
    if node.op.name == "while":
        condition, body = node.regions
        return _loop(node, body, node.int("carries"), len(reads), reads, writes, own, plan_of, condition)
    if node.op.name == "scan":
        parts = ScanParts(node)
        if not parts.length:
            raise CompileError(
                f"{node.loc.prefix}scan: expected at least one step; simplify takes out empty loops"
            )
        captures = parts.carries + parts.captures
        return _loop(node, parts.body, parts.carries, captures, reads, writes, own, plan_of)
    raise CompileError(f"{node.loc.prefix}{node.op.name}: expected an op with a plan for its regions")


def _loop(
    node: Node,
    region: Graph,
    n: int,
    captures: int,
    reads: Sequence[PlanBuffer],
    writes: Sequence[PlanBuffer],
    own: Own,
    plan_of: PlanOf,
    condition: Graph | None = None,
) -> LoopStep:
    # each value once: a carry that is among the ys too is written there
    outputs: list[Value] = list(region.outputs[n:])
    positions: list[int] = []
    stacked: list[bool] = []
    for value in region.outputs[:n]:
        known = value in outputs[: len(region.outputs) - n] and value not in region.inputs
        stacked.append(known)
        positions.append(outputs.index(value) if known else len(outputs))
        outputs += [] if known else [value]
    carried = [(i, positions[i]) for i in range(n) if not stacked[i]]
    body = plan_of(region.with_outputs(outputs), carried)
    inputs = {b.position: b for b in body.of_kind("input")}
    made = {b.position: b for b in body.of_kind("output")}
    carries: list[Carry] = []
    for i in range(n):
        kind: Literal["in place", "with", "stacked"] = "stacked" if stacked[i] else "with"
        if made[positions[i]].in_place_of is inputs[i]:
            kind = "in place"
        spare = own([reads[i].type])[0] if kind == "with" else None
        carries.append(Carry(reads[i], writes[i], positions[i], kind, spare))
    tested = None if condition is None else plan_of(condition)
    (scratch,) = own([_arena(body, *([tested] if tested is not None else []))])
    scan = node.op.name == "scan"
    return LoopStep(
        body,
        node.int("length") if scan else None,
        scan and node.attrs["reverse"] is True,
        tuple(carries),
        tuple(reads[n:captures]),
        tuple(reads[captures:]),
        tuple((b, j) for j, b in enumerate(writes[n:])),
        scratch,
        tested,
        None if tested is None else own([TensorType(bool_, ())])[0],
        node.loc,
    )


def _arena(*plans: Plan) -> TensorType:
    return TensorType(u8, (max(p.workspace_bytes for p in plans),))
