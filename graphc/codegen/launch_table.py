"""From a PLAN to the launch table that a host reads, its C header, and the files of a program for CUDA.

In: a plan, whose kernels say their geometry by their loops. Out: a `LaunchTable`; C text; file names and bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from graphc.codegen.launch import launch_of
from graphc.codegen.launch_header import launch_header
from graphc.codegen.program import program_info
from graphc.ir.plan import CallStep, CopyStep, LoopStep, Plan, PlanBuffer
from graphc.runtime.launches import (
    ALIGNMENT,
    ARGUMENT_ALIGNMENT,
    Branch,
    Carry,
    Copy,
    Launch,
    LaunchTable,
    Loop,
    Place,
    Slice,
    Step,
)


def launch_table(plan: Plan) -> LaunchTable:
    """The table of a plan whose kernels run on a device; raises `CompileError` for a kernel without a geometry.

    >>> launch_table(Plan("nothing", (), (), 0)).steps
    ()
    """
    writer = _Writer(plan)
    steps = writer.steps(plan, {}, 0)
    info = replace(program_info(plan), workspace_bytes=writer.arena_bytes)
    table = LaunchTable(info, steps, writer.constants)
    table.check()
    return table


class _Writer:
    """Writes the steps of a plan and of those inside it, whose arenas are places in the one arena."""

    def __init__(self, plan: Plan) -> None:
        self._offsets, self.constants = _constants(plan)
        self.arena_bytes = plan.workspace_bytes
        self._ports = itertools.count()

    def steps(self, plan: Plan, ports: Mapping[tuple[str, int], Place], arena: int) -> tuple[Step, ...]:
        """`ports` says where the inputs and outputs of a plan inside another one are, `arena` where its memory begins."""

        def place(buffer: PlanBuffer) -> Place:
            if buffer.kind == "input" or buffer.kind == "output":
                return ports.get((buffer.kind, buffer.position)) or Place(buffer.kind, buffer.position)
            if buffer.kind == "constant":
                return Place("constant", self._offsets[buffer])
            return Place("arena", arena + buffer.root.offset)

        steps: list[Step] = []
        for step in plan.steps:
            if isinstance(step, CallStep):
                geometry = launch_of(step.kernel)
                loc = step.loc.prefix.removesuffix(": ")
                arguments = tuple(map(place, step.arguments))
                steps.append(Launch(step.kernel.name, geometry.grid, geometry.block, 0, arguments, loc))
            elif isinstance(step, CopyStep):
                if step.source.type.bytes:
                    steps.append(Copy(place(step.source), place(step.target), step.source.type.bytes))
            elif isinstance(step, LoopStep):
                steps += self._loop(step, place)
            else:
                bound = {("input", i): place(b) for i, b in enumerate(step.operands)}
                bound |= {("output", j): place(b) for j, b in enumerate(step.results)}
                inner = place(step.scratch).at
                yes, no = (self.steps(p, bound, inner) for p in step.branches)
                steps.append(Branch(place(step.flag), yes, no))
        return tuple(steps)

    def _loop(self, step: LoopStep, place: Callable[[PlanBuffer], Place]) -> list[Step]:
        """The loop, and before it the copies of first carries that are updated in place."""
        before: list[Step] = []
        bound: dict[tuple[str, int], Place] = {}
        into: list[Step] = []  # copies of slices that do not begin where a kernel may read or write them
        out: list[Step] = []
        slices: list[Slice] = []
        carries: list[Carry] = []

        def staged(port: int, size: int, kind: str, position: int) -> None:
            """The port as an input or output of the body; by way of memory of its own where slices are not aligned."""
            here = Place("port", port)
            bound[kind, position] = here
            if size % ARGUMENT_ALIGNMENT:
                own = Place("arena", self.arena_bytes)
                self.arena_bytes += -(-size // ALIGNMENT) * ALIGNMENT
                bound[kind, position] = own
                if kind == "input":
                    into.append(Copy(here, own, size))
                else:
                    out.append(Copy(own, here, size))

        def sliced(buffer: PlanBuffer, kind: str, position: int) -> int:
            size = buffer.type.bytes // (step.count or 1)
            slices.append(Slice(next(self._ports), place(buffer), size))
            staged(slices[-1].port, size, kind, position)
            return slices[-1].port

        n = len(step.carries)
        written = {j: sliced(b, "output", j) for b, j in step.ys}
        for position, b in enumerate(step.captures, n):
            bound["input", position] = place(b)
        for position, b in enumerate(step.xs, n + len(step.captures)):
            sliced(b, "input", position)
        for i, c in enumerate(step.carries):
            first, last, size = place(c.first), place(c.last), c.last.type.bytes
            if c.kind == "in place":
                bound["input", i] = bound["output", c.output] = last
                if c.moves and size:
                    before.append(Copy(first, last, size))
                continue
            reads = next(self._ports)
            if c.spare is None:
                staged(reads, size, "input", i)
                carries.append(Carry(reads, written[c.output], first, last, (), size))
                continue
            writes = next(self._ports)
            bound["input", i], bound["output", c.output] = Place("port", reads), Place("port", writes)
            targets = [last, place(c.spare)]
            if c.begins_in_spare(step.count or 0):
                targets.reverse()
            carries.append(Carry(reads, writes, first, last, tuple(targets), size))
        inner = place(step.scratch).at
        condition: tuple[Step, ...] = ()
        if step.condition is not None and step.flag is not None:
            condition = self.steps(step.condition, {**bound, ("output", 0): place(step.flag)}, inner)
        steps = (*into, *self.steps(step.body, bound, inner), *out)
        flag = None if step.flag is None else place(step.flag)
        loop = Loop(step.count, step.reverse, tuple(slices), tuple(carries), steps, condition, flag)
        return [*before, loop]


def _constants(plan: Plan) -> tuple[dict[PlanBuffer, int], bytes]:
    """One blob of all constants, those of loops and branches included, and where each of them begins."""
    offsets: dict[PlanBuffer, int] = {}
    blob = bytearray()
    for inner in plan.plans:
        for buffer in inner.of_kind("constant"):
            offsets[buffer] = len(blob)
            data = np.ascontiguousarray(inner.constants[buffer.name]).tobytes()
            blob += data + bytes(-len(data) % ALIGNMENT)
    return offsets, bytes(blob)


def ptx_files(name: str, ptx: str, table: LaunchTable) -> dict[str, bytes]:
    """What a program for CUDA is on disk: ``NAME.ptx``, ``NAME.launches.json``, ``NAME.h``, ``NAME.constants.bin``.

    The last one is left out where there are no constants.

    >>> sorted(ptx_files("f", "", launch_table(Plan("f", (), (), 0))))
    ['f.h', 'f.launches.json', 'f.ptx']
    """
    files = {
        f"{name}.ptx": ptx.encode(),
        f"{name}.launches.json": f"{table.to_json()}\n".encode(),
        f"{name}.h": launch_header(table, name).encode(),
    }
    if table.constants:
        files[f"{name}.constants.bin"] = table.constants
    return files
