"""The fused op: a group of nodes that becomes one kernel. It only groups: un-fusing gives the graph back.

In: operands, a region over them, and `kind` (map, reduce, contract or scatter). Out: the registered op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError, VerifyError
from graphc.ir.opdef import ANY, OpDef, Run, register
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Graph

KINDS = ("map", "reduce", "contract", "scatter", "cumulative")


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    if len(regions) != 1:
        raise VerifyError(f"expected one region, got {len(regions)}")
    if attrs["kind"] not in KINDS:
        raise VerifyError(f"kind: expected one of {', '.join(KINDS)}, got {attrs['kind']!r}")
    if tuple(types) != regions[0].input_types:
        raise ShapeError(f"expected operands {list(regions[0].input_types)}, got {list(types)}")
    return regions[0].output_types


def _ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    raise VerifyError("a region is interpreted by ir.interp")


def _control(
    arrays: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph], run: Run
) -> Sequence[np.ndarray]:
    return run(regions[0], arrays)


fused = register(
    OpDef(
        "fused",
        _infer,
        _ref,
        control=_control,
        no_derivative="fusion comes after differentiation; un-fuse first",
        doc="Nodes that become one kernel; the region is a graph of ordinary ops.",
        traits=frozenset({"region"}),
        dtypes=ANY,
    )
)
