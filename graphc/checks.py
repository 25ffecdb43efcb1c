"""Compiling with checks: code that says which line made the first NaN, read out of range, or was compiled wrongly.

In: what `graphc.compile` was given, and the checks. Out: a `CheckedProgram`, called like any other. A call that fails a
check raises before any donated memory has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isinf, isnan

import numpy as np

from graphc.codegen.target import Target
from graphc.errors import ArgumentError, GraphcError, IndexRangeError, MiscompiledError, NonFiniteError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.interp import interpret
from graphc.ir.loc import UNKNOWN
from graphc.ir.ops import const
from graphc.ir.plan import CallStep, CopyStep, PlanBuffer, perform, plan_memory, plan_outputs
from graphc.ir.types import dtype_of, f64
from graphc.passes.watch import Fault, Watch, watch, watched
from graphc.program import Donated, Program
from graphc.runtime.abi import ProgramInfo
from graphc.runtime.executable import aligned_empty
from graphc.stepwise import Stepwise

CHECKS = ("nan", "bounds", "stages")

_ROUNDED = 64 * 2.0**-24  # relative: what a few operations in single precision make of another order
_STRAY = 32  # times the rounding errors of the interpreter, which adds in another order


def parse_checks(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of checks, from one text (split by commas) or several; raises `ArgumentError` for an unknown one.

    >>> parse_checks("nan,bounds")
    ('nan', 'bounds')
    """
    names = [n.strip() for n in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if name not in CHECKS:
            raise ArgumentError(f"compile: check: expected some of {', '.join(CHECKS)}, got {name!r}")
    return tuple(dict.fromkeys(names))


class CheckedProgram:
    """A program that checks each call. It works on copies of donated memory, which changes when all checks have passed."""

    def __init__(self, graph: Graph, target: Target, donated: Donated, checks: Sequence[str]) -> None:
        self.graph = graph
        self._donors = {j: i for i, j in donated}
        faults: list[Fault] = [f for f in ("nan", "bounds") if f in checks]
        self._watches = watched(graph, faults)
        # not donated: what a failed call was given must still be there
        self.native = Program(watch(graph, self._watches), target, ())
        self.seconds = self.native.seconds
        self._stages = _Stages(graph, self.native, target) if "stages" in checks else None
        info = self.native.executable.info
        own = len(graph.outputs)
        self.info = ProgramInfo(info.name, info.inputs, info.outputs[:own], info.workspace_bytes, donated)
        if "bounds" in checks:
            _prove_ranges(self.native)

    def __call__(self, *arrays: object) -> list[np.ndarray]:
        given = list(arrays)
        results = self._checked(given)
        outputs = self.outputs_for([np.asarray(a) for a in given])
        for output, result in zip(outputs, results, strict=True):
            np.copyto(output, result)
        return outputs

    def outputs_for(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Memory for the outputs: fresh, or that of the donated inputs."""
        return [
            inputs[self._donors[j]] if j in self._donors else aligned_empty(a.shape, a.dtype)
            for j, a in enumerate(self.info.outputs)
        ]

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """One checked call on this memory."""
        for output, result in zip(outputs, self._checked(list(inputs)), strict=True):
            np.copyto(output, result)

    def _checked(self, arrays: list[object]) -> list[np.ndarray]:
        results = self.native.executable(*arrays)
        if self._watches:
            *results, flags = results
            if flags.any():
                given = [np.asarray(a) for a in arrays]
                raise _fault(self.graph, [w for w, on in zip(self._watches, flags, strict=True) if on], given)
        if self._stages is not None:
            self._stages.compare([np.asarray(a) for a in arrays])
        return results


# ------------------------------------------------------------------------------------------------- nan and bounds


def _fault(graph: Graph, found: Sequence[Watch], arrays: Sequence[np.ndarray]) -> GraphcError:
    """The error for the first fault: an index out of range, or the first op that made a NaN or infinity of finite numbers."""
    out_of_range = [w for w in found if w.fault == "bounds"]
    if out_of_range:
        return _range_error(graph, out_of_range[0], arrays)
    broken = {w.value for w in found}
    # In the order of the graph operands come before users: the first one has no broken operand, unless a constant is one.
    first = next((w for w in found if not broken.intersection(w.node.operands)), found[0])
    return _nan_error(graph, first, arrays)


def _values(graph: Graph, values: Sequence[Value], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the interpreter computes for these values of the graph."""
    with np.errstate(all="ignore"):
        return interpret(graph.with_outputs(values), _own(graph, arrays))


def _own(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arguments in the types of the graph's inputs."""
    return [
        np.asarray(a).astype(v.dtype.numpy).reshape(v.shape)
        for a, v in zip(arrays, graph.inputs, strict=True)
    ]


def _nan_error(graph: Graph, found: Watch, arrays: Sequence[np.ndarray]) -> NonFiniteError:
    node = found.node
    if node in {v.node for v in graph.inputs}:
        (array,) = _values(graph, [found.value], arrays)
        return NonFiniteError(
            f"@{graph.name}: input %{node.name}: expected finite numbers, got {_count(array)}"
        )
    *operands, result = _values(graph, [*node.operands, found.value], arrays)
    lines = [f"{node.loc.prefix}{node.op.name}: expected finite numbers, got {_count(result)}"]
    spot = _first(~np.isfinite(result))
    if spot is not None and "pointwise" in node.op.traits:
        read = ", ".join(f"{o[spot].item():.6g}" for o in operands)
        lines.append(f"  at {list(spot)}: {node.op.name}({read}) = {result[spot].item()}")
    else:
        lines += [
            f"  operand {_name(v)}: {v.type!r} {_span(o)}"
            for v, o in zip(node.operands, operands, strict=True)
        ]
    return NonFiniteError("\n".join([*lines, *_origin(node)]))


def _range_error(graph: Graph, found: Watch, arrays: Sequence[np.ndarray]) -> IndexRangeError:
    node = found.node
    size = node.operands[0].shape[node.int("axis")]
    (indices,) = _values(graph, [found.value], arrays)
    wrong = (indices < 0) | (indices >= size)
    spot = _first(wrong)
    got = f"{indices[spot].item()} at {list(spot)}" if spot is not None else "another one"
    more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
    text = f"{node.loc.prefix}{node.op.name}: expected indices from 0 to {size - 1}, got {got}{more}"
    return IndexRangeError("\n".join([text, *_origin(node)]))


def _origin(node: Node) -> list[str]:
    """Which part of the program the node is: what was derived says from which line of the forward pass."""
    lines = [f"  in {node.loc.scope}"] if node.loc.scope else []
    if node.loc.note:
        where = (
            f", derived from {node.loc.file}:{node.loc.line}" if node.loc != UNKNOWN and node.loc.file else ""
        )
        lines.append(f"  it is {node.loc.note}{where}")
    return [*lines, f"  {node.op.name} {', '.join(map(_name, node.operands))} : {node.results[0].type!r}"]


def _name(value: Value) -> str:
    return f"%{value.node.name}" if value.node.name else f"%{value.node.op.name}.{value.node.serial}"


def _first(wrong: np.ndarray) -> tuple[int, ...] | None:
    found = np.argwhere(wrong)
    return tuple(int(i) for i in found[0]) if len(found) else None


def _count(array: np.ndarray) -> str:
    """How many of which kind, as in ``3 NaN of 128``."""
    kinds = {"NaN": np.isnan(array), "inf": np.isposinf(array), "-inf": np.isneginf(array)}
    parts = [f"{int(found.sum())} {kind}" for kind, found in kinds.items() if found.any()]
    return f"{' and '.join(parts) or 'some that are not'} of {array.size}"


def _span(array: np.ndarray) -> str:
    if not array.size:
        return "empty"
    low, high = np.min(array).item(), np.max(array).item()
    return f"from {low:.6g} to {high:.6g}"


def _prove_ranges(program: Program) -> None:
    """Every access of every kernel whose index does not depend on data; the rest is guarded, or is watched."""
    from graphc.ir.kernel_verify import verify_kernel

    for kernel in program.lowered.plan.kernels:
        verify_kernel(kernel)


# --------------------------------------------------------------------------------------------------------- stages


class _Stages:
    """Runs every level on the same arrays, and names the first pass or kernel whose results differ."""

    def __init__(self, graph: Graph, program: Program, target: Target) -> None:
        self._graph = graph
        self._program = program
        self._stepwise = Stepwise(program.lowered.plan, target)

    def compare(self, arrays: Sequence[np.ndarray]) -> None:
        """Raises `MiscompiledError` at the first level that gives other numbers than the one before it."""
        graph, stages = self._graph, self._program.lowered.stages
        wide = [_widest(np.asarray(a), v) for a, v in zip(arrays, graph.inputs, strict=True)]
        own = _own(graph, arrays)
        with np.errstate(all="ignore"):
            # in double precision, so that another order of rounding is no difference
            before_name, before = "", interpret(stages["traced"], wide, float64=True)
            previous = stages["traced"]
            for name, stage in stages.items():
                now = interpret(stage, wide, float64=True)
                gaps = [_gap(a, b, 1e-9) for a, b in zip(before, now, strict=True)]
                if any(gaps) and (_folds(previous) or _numbers(stage) - _numbers(previous)):
                    # a number that a pass computed is rounded to its type: in their own types both must agree
                    gaps = _rounded_gaps(before, interpret(previous, own), interpret(stage, own))
                for j, gap in enumerate(gaps):
                    if gap is not None:
                        raise MiscompiledError(
                            f"@{graph.name}: the pass that makes stage {name!r} changed output {j}: expected what "
                            f"{before_name!r} gives, got {gap}"
                        )
                before_name, before, previous = name, now, stage
            self._kernels(arrays)

    def _kernels(self, arrays: Sequence[np.ndarray]) -> None:
        from graphc.ir.kernel_interp import run_kernel

        plan = self._program.lowered.plan
        places = plan_memory(plan, arrays)

        def check(step: CallStep | CopyStep, places: Mapping[PlanBuffer, np.ndarray]) -> None:
            if isinstance(step, CopyStep):
                self._stepwise.run(step, places)
                return
            operands = self._operands(step, places)
            want = interpret(step.region, [_widest(o, v) for o, v in operands], float64=True)
            # how far single precision strays here tells what a kernel may
            narrow = interpret(step.region, [o for o, _ in operands])
            before = [places[b].copy() for b in step.arguments]
            self._stepwise.run(step, places)
            if (gap := _region_gap(step, want, narrow, [places[b] for b in step.writes])) is None:
                return
            # only now, for it takes a thousand times as long: is it the loops, or what became of them?
            run_kernel(step.kernel, before)
            by_buffer = dict(zip(step.arguments, before, strict=True))
            at_fault = _region_gap(step, want, narrow, [by_buffer[b] for b in step.writes])
            level = "its machine code gives" if at_fault is None else "its loops give"
            raise MiscompiledError(
                f"{step.loc.prefix}kernel @{step.kernel.name}: expected what its region gives, {level} {gap}"
            )

        perform(plan, places, check)
        expected = plan_outputs(plan, places)
        for j, (a, b) in enumerate(zip(expected, self._program.executable(*arrays), strict=True)):
            if (gap := _gap(a.astype(np.float64), b, 1e-6)) is not None:
                raise MiscompiledError(
                    f"@{self._graph.name}: the program changed output {j}: expected what its kernels give, got {gap}"
                )

    @staticmethod
    def _operands(step: CallStep, places: Mapping[PlanBuffer, np.ndarray]) -> list[tuple[np.ndarray, Value]]:
        """Copies of what the step's region reads, for it may be overwritten."""
        return [
            (places[b].reshape(v.shape).copy(), v)
            for b, v in zip(step.reads, step.region.inputs, strict=True)
        ]


def _numbers(graph: Graph) -> set[float]:
    """The floats that are constant everywhere in a tensor, those of regions included."""
    found = {n.attrs["value"] for n in graph.nodes if n.op is const}
    inner = [_numbers(region) for node in graph.nodes for region in node.regions]
    return {n for n in found if isinstance(n, float)}.union(*inner)


def _folds(graph: Graph) -> bool:
    """Whether the graph, or a region, has an operation of constants alone."""
    return any(
        ("pointwise" in node.op.traits and all(v.node.op is const for v in node.operands))
        or any(map(_folds, node.regions))
        for node in graph.nodes
    )


def _rounded_gaps(
    wide: Sequence[np.ndarray], before: Sequence[np.ndarray], now: Sequence[np.ndarray]
) -> list[str | None]:
    """How two stages differ in their own types by more than rounding."""
    return [
        _gap(a.astype(w.dtype), b, _ROUNDED, _stray(w, a)) for w, a, b in zip(wide, before, now, strict=True)
    ]


def _widest(array: np.ndarray, value: Value) -> np.ndarray:
    return array.reshape(value.shape).astype(np.float64 if value.dtype.is_float else value.dtype.numpy)


def _stray(wide: np.ndarray, narrow: np.ndarray) -> float:
    """A bound for rounding errors, from those that the same graph makes in its own types."""
    if wide.dtype.kind != "f":
        return 0.0
    both = np.isfinite(wide) & np.isfinite(narrow)
    return _STRAY * float(np.abs(wide[both] - narrow[both]).max()) if both.any() else 0.0


def _region_gap(
    step: CallStep, want: Sequence[np.ndarray], narrow: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> str | None:
    """Which result of a step differs from its region's, and how."""
    for j, (a, n, b) in enumerate(zip(want, narrow, got, strict=True)):
        if (gap := _gap(a, b.reshape(a.shape), _tolerance(step), _stray(a, n))) is not None:
            return f"{gap} of result {j}, {step.region.outputs[j].type!r}"
    return None


def _tolerance(step: CallStep) -> float:
    """Relative to the largest number: the bound of a sum in any order grows with its length (Higham 2002, section 4.2)."""
    narrow = any(v.dtype.is_float and v.dtype.bits <= 32 for n in step.region.nodes for v in n.results)
    length = max((v.type.size for n in step.region.nodes for v in n.operands), default=1)
    unit = 2.0**-24 if narrow else 2.0**-53
    return 64 * unit * max(1.0, float(np.sqrt(length)))


def _gap(want: np.ndarray, got: np.ndarray, relative: float, absolute: float = 0.0) -> str | None:
    """How they differ, or None: relative to the largest finite magnitude; NaN and infinities must be at the same places."""
    if want.dtype.kind != "f":
        wrong = want != got
        count = int(np.count_nonzero(wrong))
        return f"{count} other elements of {wrong.size}" if count else None
    given = got.astype(np.float64)
    finite = np.isfinite(want) & np.isfinite(given)
    alike = finite | (want == given) | (np.isnan(want) & np.isnan(given))
    if not alike.all():
        spot = _first(~alike)
        assert spot is not None
        a, b = want[spot].item(), given[spot].item()
        # an overflow of the narrower type is no mistake
        kind = dtype_of(got.dtype)
        if isinf(b) and not isnan(a) and kind is not f64 and abs(a) > kind.largest / 2:
            return None
        return f"{b!r} in place of {a!r} at {list(spot)}"
    if not finite.any():
        return None
    difference = np.abs(np.where(finite, given, 0) - np.where(finite, want, 0))
    if difference.max() <= relative * float(np.abs(want[finite]).max()) + absolute:
        return None
    spot = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), want.shape))
    return f"{given[spot].item():.9g} in place of {want[spot].item():.9g} at {list(spot)}"
