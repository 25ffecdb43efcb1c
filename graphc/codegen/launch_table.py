"""From a PLAN to the launch table that a host reads, its C header, and the files of a program for CUDA.

In: a plan, whose kernels say their geometry by their loops. Out: a `LaunchTable`; C text; file names and bytes.
"""

from __future__ import annotations

import numpy as np

from graphc.codegen.launch import launch_of
from graphc.codegen.launch_header import launch_header
from graphc.codegen.program import program_info
from graphc.errors import CompileError
from graphc.ir.plan import CallStep, CopyStep, LoopStep, Plan, PlanBuffer
from graphc.runtime.launches import ALIGNMENT, Copy, Launch, LaunchTable, Place, Step


def launch_table(plan: Plan) -> LaunchTable:
    """The table of a plan whose kernels run on a device; raises `CompileError` for a kernel without a geometry.

    >>> launch_table(Plan("nothing", (), (), 0)).steps
    ()
    """
    offsets, constants = _constants(plan)

    def place(buffer: PlanBuffer) -> Place:
        if buffer.kind == "input" or buffer.kind == "output":
            return Place(buffer.kind, buffer.position)
        if buffer.kind == "constant":
            return Place("constant", offsets[buffer.name])
        return Place("arena", buffer.root.offset)

    steps: list[Step] = []
    for step in plan.steps:
        if isinstance(step, CallStep):
            geometry = launch_of(step.kernel)
            loc = step.loc.prefix.removesuffix(": ")
            arguments = tuple(map(place, step.arguments))
            steps.append(Launch(step.kernel.name, geometry.grid, geometry.block, 0, arguments, loc))
        elif not isinstance(step, CopyStep):
            raise CompileError(
                f"{step.loc.prefix}{'loop' if isinstance(step, LoopStep) else 'branch'}: expected a program without loops "
                "and branches for a GPU, got one; compile it for the processor"
            )
        elif step.source.type.bytes:
            steps.append(Copy(place(step.source), place(step.target), step.source.type.bytes))
    table = LaunchTable(program_info(plan), tuple(steps), constants)
    table.check()
    return table


def _constants(plan: Plan) -> tuple[dict[str, int], bytes]:
    """One blob of all constants, and where each of them begins."""
    offsets: dict[str, int] = {}
    blob = bytearray()
    for buffer in plan.of_kind("constant"):
        offsets[buffer.name] = len(blob)
        data = np.ascontiguousarray(plan.constants[buffer.name]).tobytes()
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
