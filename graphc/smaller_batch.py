"""What a program would need of memory with fewer rows in a batch: traced again for smaller types, planned, never compiled.

In: a function, the types of its arguments, its footprint. Out: a footprint for each smaller batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.codegen.target import Target
from graphc.compiler import as_traced
from graphc.errors import GraphcError
from graphc.footprint import Footprint, footprint
from graphc.frontend.tracer import Traced, type_of
from graphc.frontend.tree import flatten
from graphc.ir.types import TensorType, u32
from graphc.program import Donated, lower_to_plan

_PARTS = (2, 4)


@dataclass(frozen=True)
class Batch:
    """A number of rows, and the footprint of a call on them, or why there is none."""

    rows: int
    footprint: Footprint | None
    reason: str = ""


def memory_of(traced: Traced, target: Target, donated: Donated) -> Footprint:
    """The footprint of a traced function on a target; nothing is compiled.

    >>> from graphc.codegen.target import target_from_name
    >>> from graphc.ir.types import f32
    >>> memory_of(as_traced(lambda x: x + 1, [f32[4]]), target_from_name("x86-64"), ()).argument_bytes
    32
    """
    plan = lower_to_plan(traced.graph, target, donated, {})[1]
    return footprint(plan, traced.graph, [p.name for p in traced.parameters])


def batch_axis(traced: Traced, whole: Footprint) -> tuple[int, list[int]]:
    """How many rows the data arguments share as their first axis, and which graph inputs those are; (0, []) where none.

    Data are the inputs that are neither weights nor state; scalars and random keys have no rows.
    """
    data = {t.name for t in whole.tensors if t.kind == "inputs"}
    count = len(traced.graph.inputs) - len(traced.parameters)
    with_rows = [
        i
        for i, v in enumerate(traced.graph.inputs[:count])
        if v.node.name in data and v.shape and v.type != TensorType(u32, (2,))
    ]
    sizes = {traced.graph.inputs[i].shape[0] for i in with_rows}
    return (sizes.pop(), with_rows) if len(sizes) == 1 else (0, [])


def smaller_batches(
    function: Callable[..., object], specs: Sequence[object], traced: Traced, whole: Footprint,
    target: Target, donated: Donated,
) -> list[Batch]:  # fmt: skip
    """Half and a quarter of the rows, where the number of rows can be divided so."""
    rows, inputs = batch_axis(traced, whole)
    leaves, structure = flatten(tuple(specs))
    found = []
    for part in _PARTS:
        if rows < part or rows % part:
            continue
        smaller = list(leaves)
        for i in inputs:
            kind = type_of(leaves[i])
            assert kind is not None  # it has been traced
            smaller[i] = TensorType(kind.dtype, (rows // part, *kind.shape[1:]))
        nested = structure.unflatten(smaller)
        assert isinstance(nested, tuple)
        try:
            again = as_traced(function, nested)
            found.append(Batch(rows // part, memory_of(again, target, donated)))
        except (GraphcError, ValueError, TypeError) as error:
            found.append(Batch(rows // part, None, str(error).partition("\n")[0]))
    return found
