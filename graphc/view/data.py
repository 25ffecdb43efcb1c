"""A compiled program as data for a page: stages, what changed between them, kernels with their texts, memory, times.

In: a `CompiledFunction`, and arrays where values and times are wanted. Out: a dictionary that JSON can hold. It keeps
what stands once in one place: locations, types and texts are tables that rows point into.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphc import __version__
from graphc.errors import ArgumentError
from graphc.footprint import KINDS
from graphc.ir.graph import Node
from graphc.ir.interp import interpret
from graphc.ir.plan import CallStep, CopyStep, all_steps, inner_plans
from graphc.view.code import kernel_codes
from graphc.view.compare import Comparison, compare
from graphc.view.stages import SIDES, Row, StageView, stage_view

if TYPE_CHECKING:
    from graphc.compiler import CompiledFunction
    from graphc.profile import Profile

Json = dict[str, object]
_AROUND = 2  # lines of source shown before and after
_TEXT_LIMIT = 120_000  # characters of one text; a page with more would be slow to open
_SECONDS = 0.5  # of a profile


class _Table:
    """Distinct values in the order of their first use, by number."""

    def __init__(self) -> None:
        self.values: dict[object, int] = {}

    def __getitem__(self, value: object) -> int:
        return self.values.setdefault(value, len(self.values))


def page_data(
    compiled: CompiledFunction,
    arrays: Sequence[object] | None = None,
    profile: Profile | None = None,
    note: str = "",
) -> Json:
    """All that the page shows. `arrays`, for the graph's inputs in order, are run through every stage for their ranges.

    >>> import graphc
    >>> data = page_data(graphc.compile(lambda x: x * x + 1, graphc.f32[3], name="f"))
    >>> data["name"], data["stages"][0]["name"], len(data["kernels"])
    ('f', 'traced', 1)
    """
    views = [stage_view(name, graph) for name, graph in compiled.stages.items()]
    changes = [compare(a, b) for a, b in pairwise(views)]
    locs, types = _Table(), _Table()
    stages: list[Json] = []
    for number, view in enumerate(views):
        ranges = _ranges(view, arrays) if arrays is not None else {}
        comparison = changes[number - 1] if number else None
        stages.append(_stage(view, comparison, ranges, locs, types))
    native = compiled.native
    kernels, of_group = _kernels(compiled, views[-1]) if native else ([], {})
    for group, kernel in of_group.items():
        _of(stages[-1], "groups")[group]["k"] = kernel
    return {
        "format": 1,
        "version": __version__,
        "name": compiled.graph.name,
        "note": note,
        "target": compiled.target_name,
        "sides": SIDES,
        "seconds": {k: round(v, 6) for k, v in compiled.compile_seconds.items()},
        "cached": compiled.cached if native else False,
        "stages": stages,
        "locs": [[loc.file, loc.line, loc.scope, loc.note] for loc in locs.values],  # type: ignore[attr-defined]
        "files": _sources({(loc.file, loc.line) for loc in locs.values}),  # type: ignore[attr-defined]
        "types": [str(t) for t in types.values],
        "kernels": kernels,
        "plan": _cut(str(compiled.plan)) if native else "",
        "memory": _memory(compiled) if native else None,
        "profile": json.loads(profile.to_json()) | {"tick": profile.tick} if profile else None,
        "measured": arrays is not None,
    }


def _of(stage: Json, name: str) -> list[Json]:
    rows = stage[name]
    assert isinstance(rows, list)
    return rows


# ------------------------------------------------------------------------------------------------------- stages


def _stage(
    view: StageView,
    comparison: Comparison | None,
    ranges: dict[int, list[object]],
    locs: _Table,
    types: _Table,
) -> Json:
    rows = [_row(row, locs, types, ranges.get(i)) for i, row in enumerate(view.rows)]
    if comparison is not None:
        for i, pair in enumerate(comparison.pairs):
            rows[i]["m"] = pair
        for i in comparison.changed:
            rows[i]["c"] = 1
    return {
        "name": view.name,
        "stage": view.graph.stage,
        "count": len(view.graph.nodes),
        "nodes": rows,
        "groups": [
            {"label": g.label, "kind": g.kind, "p": g.parent, "s": g.side, "detail": g.detail} for g in view.groups
        ],
        "removed": comparison.removed if comparison else (),
        "lines": comparison.lines if comparison else [(-1, i) for i in range(len(rows))],
    }  # fmt: skip


def _row(row: Row, locs: _Table, types: _Table, values: list[object] | None) -> Json:
    """Short keys, and none for what is usual: a page of thousands of rows stays small."""
    found: Json = {
        "op": row.node.op.name,
        "n": row.name,
        "t": [types[repr(t)] for t in row.node.types],
        "o": [list(key) for key in row.operands],
        "l": locs[row.node.loc],
        "s": row.side,
        "g": row.group,
    }
    if row.kind != "op":
        found["kind"] = row.kind
    if row.kind == "const":
        found["v"] = row.label
        if row.dense:
            found["dense"] = 1
    if row.node.name:
        found["named"] = 1
    if row.attributes:
        found["a"] = row.attributes
    if row.diagonal:
        found["d"] = 1
    if row.outputs:
        found["out"] = row.outputs
    others = [locs[loc] for loc in row.node.other_locs]
    if others:
        found["others"] = others
    if values is not None:
        found["r"] = values
    return found


def _sources(places: set[tuple[str, int]]) -> dict[str, dict[int, str]]:
    """The lines of the user's files that nodes come from, with their neighbours, where the files are there."""
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for file, line in places:
        if file and line > 0:
            wanted[file] |= set(range(line - _AROUND, line + _AROUND + 1))
    found: dict[str, dict[int, str]] = {}
    for file, numbers in sorted(wanted.items()):
        try:
            lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
        except (OSError, ValueError):  # "<stdin>", a moved file, a name that no system takes
            continue
        found[file] = {n: lines[n - 1][:400] for n in sorted(numbers) if 0 < n <= len(lines)}
    return found


# ------------------------------------------------------------------------------------------------------- values


def _ranges(view: StageView, arrays: Sequence[object]) -> dict[int, list[object]]:
    """[smallest, largest, mean, NaNs and infinities] of each row's first result, as the interpreter computes it."""
    by_node: dict[Node, list[object]] = {}

    def seen(node: Node, results: Sequence[np.ndarray]) -> None:
        by_node[node] = _range(np.asarray(results[0]))

    typed = [
        np.asarray(a).astype(t.dtype.numpy, copy=False)
        for a, t in zip(arrays, view.graph.input_types, strict=True)
    ]
    with np.errstate(all="ignore"):
        interpret(view.graph, typed, seen=seen)
    return {row: by_node[node] for (_, node), row in view.where.items() if node in by_node}


def _range(array: np.ndarray) -> list[object]:
    if not array.size:
        return [None, None, None, 0]
    odd = 0
    if array.dtype.kind == "f":
        finite = array[np.isfinite(array)]
        odd = int(array.size - finite.size)
        array = finite
        if not array.size:
            return [None, None, None, odd]
    mean = float(array.mean(dtype=np.float64))  # of huge numbers the sum may be none
    return [array.min().item(), array.max().item(), mean if math.isfinite(mean) else None, odd]


# ------------------------------------------------------------------------------------------------------- kernels


def _kernels(compiled: CompiledFunction, fused: StageView) -> tuple[list[Json], dict[int, int]]:
    """Each kernel with its texts and steps, and which group of the fused stage is which kernel."""
    plan = compiled.plan
    codes = kernel_codes(plan.kernels, compiled.llvm, compiled.asm)
    numbers = {kernel: i for i, kernel in enumerate(plan.kernels)}
    group_of = {id(g.region): i for i, g in enumerate(fused.groups) if g.region is not None}
    kernels: list[Json] = [
        {
            "name": kernel.name,
            "kernel": _cut(code.kernel),
            "llvm": _cut(code.llvm),
            "asm": _cut(code.asm),
            "steps": [],
            "groups": [],
        }
        for kernel, code in zip(plan.kernels, codes, strict=True)
    ]
    of_group: dict[int, int] = {}
    for position, step in enumerate(plan.steps):
        for call in (step, *(inner for p in inner_plans(step) for inner in all_steps(p))):
            if not isinstance(call, CallStep):
                continue
            number = numbers[call.kernel]
            kernels[number]["steps"].append(position)  # type: ignore[attr-defined]
            group = group_of.get(id(call.region))
            if group is not None:
                of_group[group] = number
                kernels[number]["groups"].append(group)  # type: ignore[attr-defined]
                kernels[number]["what"] = fused.groups[group].detail
    return kernels, of_group


def _cut(text: str) -> str:
    if len(text) <= _TEXT_LIMIT:
        return text
    return f"{text[:_TEXT_LIMIT]}\n... {len(text) - _TEXT_LIMIT:,} characters more"


def _memory(compiled: CompiledFunction) -> Json:
    memory = compiled.memory
    plan = compiled.plan
    what: dict[str, str] = {}
    for step_ in plan.steps:
        if isinstance(step_, CallStep):
            for buffer, value in zip(step_.writes, step_.region.outputs, strict=True):
                loc = value.node.loc
                parts = (
                    value.node.op.name,
                    loc.note,
                    loc.scope and f"in {loc.scope}",
                    f"{Path(loc.file).name}:{loc.line}" if loc.file else "",
                )
                what[buffer.name] = ", ".join(filter(None, parts))
    used = (
        [sum(t.bytes for t in memory.alive(i)) for i in range(len(memory.steps))]
        if len(memory.steps) <= 2000
        else []
    )
    step, most = memory.peak if used else (0, 0)
    return {
        "arena": memory.arena_bytes,
        "total": memory.total_bytes,
        "arguments": memory.argument_bytes,
        "kinds": [[k, n, KINDS[k]] for k, n in memory.by_kind.items() if n],
        "tensors": [
            [t.name, t.kind, t.type, t.bytes, t.offset, t.first, t.last, what.get(t.name, "")]
            for t in memory.tensors
        ],
        "steps": [
            {
                "kernel": name,
                "line": f"{Path(s.loc.file).name}:{s.loc.line}" if not isinstance(s, CopyStep) and s.loc.file else "",
                "note": s.loc.note if not isinstance(s, CopyStep) else "",
            }
            for name, s in zip(memory.steps, plan.steps, strict=True)
        ],
        "used": used,
        "peak": [step, most],
        "donated": len(plan.donated),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- arguments


def drawn_arrays(compiled: CompiledFunction, seed: int = 0) -> list[np.ndarray]:
    """Arrays for a graph of which only the types are known: floats between -1 and 1, integers 0, bools True.

    >>> import graphc
    >>> [a.dtype.name for a in drawn_arrays(graphc.compile(lambda x, i: x[i], graphc.f32[3], graphc.i32[2]))]
    ['float32', 'int32']
    """
    rng = np.random.default_rng(seed)
    found = []
    for type in compiled.graph.input_types:
        if type.dtype.is_float:
            array = rng.uniform(-1, 1, type.shape)
        else:
            array = np.ones(type.shape) if type.dtype.kind == "bool" else np.zeros(type.shape)
        found.append(np.asarray(array).astype(type.dtype.numpy))
    return found


def measured_profile(
    compiled: CompiledFunction, args: Sequence[object], seconds: float = _SECONDS
) -> Profile:
    """A profile on these arguments. Raises `ArgumentError` where there is no native code to time."""
    if not compiled.native:
        raise ArgumentError(
            f"{compiled.graph.name}: view: expected a compiled function to profile, got the interpreter"
        )
    return compiled.profile(*args, seconds=seconds)
