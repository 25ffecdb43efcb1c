"""Loops and branches in ONNX: `scan` is Scan, `cond` is If, `while` is Loop.

In: a node with regions. Out: a node with graphs, which read captures from around them.
(onnx.ai/onnx/operators: Scan, If, Loop.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir.graph import Node
from graphc.ir.ops.scan_parts import ScanParts
from graphc.ir.types import TensorType, bool_, i64
from graphc.onnx_writer import Writer

_Rule = Callable[[Writer, Node, list[str], list[str]], None]


def _scan(w: Writer, node: Node, operands: list[str], results: list[str]) -> None:
    parts = ScanParts(node)
    first, captured = operands[: parts.carries], operands[parts.carries : parts.carries + parts.captures]
    xs = operands[parts.carries + parts.captures :]
    if not parts.length:
        for name, made in zip(results, first):
            w.emit("Identity", [made], name)
        for name, value in zip(results[parts.carries :], parts.ys, strict=True):
            w.constant(np.zeros(value.shape, value.dtype.numpy), name)
        return
    if not (results and (first or parts.ys)):
        return
    types = [v.type for v in parts.init]
    slices = [TensorType(v.dtype, v.shape[1:]) for v in parts.xs]
    if not xs:  # ONNX counts the steps by what it scans
        xs, slices = [w.constant(np.zeros(parts.length, bool))], [TensorType(bool_, ())]
    inside = [w.fresh(f"{w.result}/carry") for _ in first]
    sliced = [w.fresh(f"{w.result}/slice") for _ in xs]
    body = w.region(
        f"{w.result}/body",
        dict(zip([*inside, *sliced], [*types, *slices], strict=True)),
        parts.body.output_types,
        lambda: w.inline(parts.body, [*inside, *captured, *sliced[: len(parts.xs)]]),
    )
    ways: dict[str, list[int]] = {}
    if parts.reverse:
        ways["scan_input_directions"] = [1] * len(xs)
        if parts.ys:  # an empty list has no type
            ways["scan_output_directions"] = [1] * len(parts.ys)
    w.emit_all("Scan", [*first, *xs], results, body=body, num_scan_inputs=len(xs), **ways)


def _cond(w: Writer, node: Node, operands: list[str], results: list[str]) -> None:
    condition, *given = operands
    types = node.regions[0].output_types
    yes, no = (
        w.region(f"{w.result}/{what}", {}, types, lambda region=region: w.inline(region, given))  # type: ignore[misc]
        for what, region in zip(("true", "false"), node.regions, strict=True)
    )
    w.emit_all("If", [condition], results, then_branch=yes, else_branch=no)


def _while(w: Writer, node: Node, operands: list[str], results: list[str]) -> None:
    count = node.int("carries")
    condition, body = node.regions
    captured = operands[count:]
    types = [v.type for v in node.results]
    (begins,) = w.inline(condition, operands)
    inside = [w.fresh(f"{w.result}/carry") for _ in results]

    def turn() -> Sequence[str]:
        after = w.inline(body, [*inside, *captured])
        return [*w.inline(condition, [*after, *captured]), *after]

    turns, goes_on = w.fresh(f"{w.result}/turn"), w.fresh(f"{w.result}/goes_on")
    flag = TensorType(bool_, ())
    inputs = {turns: TensorType(i64, ()), goes_on: flag, **dict(zip(inside, types, strict=True))}
    made = w.region(f"{w.result}/body", inputs, [flag, *types], turn)
    w.emit_all("Loop", ["", begins, *operands[:count]], results, body=made)


CONTROL: dict[str, _Rule] = {"scan": _scan, "cond": _cond, "while": _while}
