"""Ops with regions that run more than once, or not at all: scan, cond and while.

In: operands, and a region for each part that is run. Out: the registered ops. A region reads nothing but its inputs:
what it needs from around it is an operand, a *capture*. What they mean is stated by `control`, which the interpreter
calls; derivatives are in `loop_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError, VerifyError
from graphc.ir.opdef import ANY, OpDef, Run, integer, register
from graphc.ir.ops.loop_rules import augment_cond, augment_scan, refuse_while
from graphc.ir.ops.loop_tangents import tangent_cond, tangent_scan, tangent_while
from graphc.ir.types import TensorType, bool_

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Graph


def _no_ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    raise VerifyError("regions are interpreted by ir.interp")


def _known(attrs: Attrs, *names: str) -> None:
    unknown = sorted(set(attrs) - set(names))
    if unknown:
        raise VerifyError(f"expected attributes of {', '.join(names)}, got {', '.join(unknown)}")


def _flag(attrs: Attrs, name: str) -> bool:
    value = attrs.get(name, False)
    if type(value) is not bool:
        raise VerifyError(f"{name}: expected true or false, got {value!r}")
    return value


def _regions(regions: Sequence[Graph], count: int) -> None:
    if len(regions) != count:
        raise VerifyError(f"expected {count} region{'s' if count > 1 else ''}, got {len(regions)}")


def _inputs(what: str, region: Graph, types: Sequence[TensorType]) -> None:
    if tuple(types) != region.input_types:
        raise ShapeError(f"{what}: expected inputs {list(types)}, got {list(region.input_types)}")


def _kept(what: str, given: Sequence[TensorType], made: Sequence[TensorType]) -> None:
    for position, (before, after) in enumerate(zip(given, made, strict=True)):
        if before != after:
            kind = DTypeError if before.shape == after.shape else ShapeError
            raise kind(f"carry {position}: expected {what} that keeps its type {before!r}, got {after!r}")


# ------------------------------------------------------------------------------------------------------------- scan


def _infer_scan(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    _known(attrs, "carries", "captures", "length", "reverse", "remat")
    _regions(regions, 1)
    _flag(attrs, "reverse"), _flag(attrs, "remat")
    carries, captures, length = (integer(attrs, name) for name in ("carries", "captures", "length"))
    if min(carries, captures, length) < 0 or carries + captures > len(types):
        raise ShapeError(
            f"expected operands for {carries} carries and {captures} captures, got {len(types)} operands"
        )
    body = regions[0]
    xs = types[carries + captures :]
    for position, x in enumerate(xs):
        if x.rank == 0 or x.shape[0] != length:
            raise ShapeError(f"xs {position}: expected {length} slices along axis 0, got {x!r}")
    _inputs("body", body, [*types[: carries + captures], *(TensorType(x.dtype, x.shape[1:]) for x in xs)])
    if len(body.outputs) < carries:
        raise ShapeError(f"expected a body that gives {carries} carries, got {len(body.outputs)} outputs")
    _kept("a body", types[:carries], body.output_types[:carries])
    stacked = (TensorType(y.dtype, (length, *y.shape)) for y in body.output_types[carries:])
    return (*types[:carries], *stacked)


def _run_scan(
    arrays: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph], run: Run
) -> Sequence[np.ndarray]:
    carries, captures, length = (integer(attrs, name) for name in ("carries", "captures", "length"))
    (body,) = regions
    carry = list(arrays[:carries])
    captured = arrays[carries : carries + captures]
    xs = arrays[carries + captures :]
    steps: list[Sequence[np.ndarray]] = [()] * length
    for t in reversed(range(length)) if attrs["reverse"] else range(length):
        results = run(body, [*carry, *captured, *(x[t, ...] for x in xs)])
        carry, steps[t] = list(results[:carries]), results[carries:]
    if not length:
        types = body.output_types[carries:]
        return [*carry, *(np.zeros((0, *y.shape), y.dtype.numpy) for y in types)]
    return [*carry, *(np.stack(ys) for ys in zip(*steps, strict=True))]


scan = register(
    OpDef(
        "scan",
        _infer_scan,
        _no_ref,
        control=_run_scan,
        augment=augment_scan,
        tangent=tangent_scan,
        doc="A loop of a fixed number of steps: the region goes from the carries, the captures and the slices of xs "
        "at one step to the next carries and slices of ys. Operands are the first carries, captures, xs; results the "
        "last carries, ys stacked along axis 0.",
        traits=frozenset({"region", "control"}),
        dtypes=ANY,
    )
)

# ------------------------------------------------------------------------------------------------------ cond, while


def _infer_cond(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    _known(attrs)
    _regions(regions, 2)
    if not types or types[0] != TensorType(bool_, ()):
        raise DTypeError(f"expected a condition of bool[], got {types[0] if types else 'no operand'!r}")
    for what, region in zip(("true", "false"), regions, strict=True):
        _inputs(f"{what} branch", region, types[1:])
    if regions[0].output_types != regions[1].output_types:
        raise ShapeError(
            f"expected branches that give equal types, got {list(regions[0].output_types)} where true "
            f"and {list(regions[1].output_types)} where false"
        )
    return regions[0].output_types


def _run_cond(
    arrays: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph], run: Run
) -> Sequence[np.ndarray]:
    return run(regions[0] if arrays[0] else regions[1], arrays[1:])


cond = register(
    OpDef(
        "cond",
        _infer_cond,
        _no_ref,
        control=_run_cond,
        augment=augment_cond,
        tangent=tangent_cond,
        doc="The first region's results where the condition holds, else the second's; only one of them runs. Both take "
        "the operands after the condition.",
        traits=frozenset({"region", "control"}),
        dtypes=ANY,
    )
)


def _infer_while(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    _known(attrs, "carries")
    _regions(regions, 2)
    carries = integer(attrs, "carries")
    if not 0 <= carries <= len(types):
        raise ShapeError(f"expected operands for {carries} carries, got {len(types)} operands")
    _inputs("condition", regions[0], types)
    _inputs("body", regions[1], types)
    if regions[0].output_types != (TensorType(bool_, ()),):
        raise DTypeError(f"expected a condition that gives bool[], got {list(regions[0].output_types)}")
    if len(regions[1].outputs) != carries:
        raise ShapeError(f"expected a body that gives {carries} carries, got {len(regions[1].outputs)}")
    _kept("a body", types[:carries], regions[1].output_types)
    return tuple(types[:carries])


def _run_while(
    arrays: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph], run: Run
) -> Sequence[np.ndarray]:
    carries = integer(attrs, "carries")
    carry, captured = list(arrays[:carries]), arrays[carries:]
    condition, body = regions
    while run(condition, [*carry, *captured])[0]:
        carry = list(run(body, [*carry, *captured]))
    return carry


while_ = register(
    OpDef(
        "while",
        _infer_while,
        _no_ref,
        control=_run_while,
        augment=refuse_while,
        no_derivative="the number of steps is not known before, so there is no room for what they need",
        tangent=tangent_while,
        doc="The second region, from carries and captures to the next carries, as long as the first one's condition "
        "on them holds. Results are the last carries.",
        traits=frozenset({"region", "control"}),
        dtypes=ANY,
    )
)
