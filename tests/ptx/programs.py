"""Whole graphs through the compiler for threads, run in two ways: kernels interpreted, and PTX in the machine.

In: a graph, arrays. Out: the outputs of each way, with what was compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.codegen.launch_table import launch_table
from graphc.codegen.target import Target
from graphc.ir.graph import Graph
from graphc.ir.plan import Plan, run_plan
from graphc.program import Donated, compile_ptx
from graphc.runtime.launches import Launch, LaunchTable, Place, array_bytes, perform
from ptx.assembler import assembled
from ptx.build import NVPTX, parameters
from ptx.machine import Memory, Module, launch


@dataclass(frozen=True)
class BuiltProgram:
    """A program for a GPU."""

    graph: Graph
    plan: Plan
    ptx: str
    table: LaunchTable

    def interpreted(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, every kernel interpreted."""
        return run_plan(self.plan, arrays)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of the PTX; memory that nothing wrote begins as garbage, or undefined."""
        module, memory, info = Module(self.ptx), Memory(), self.table.info
        donors = {j: i for i, j in info.donated}
        inputs = [memory.allocate(max(1, array_bytes(a))) for a in info.inputs]
        for address, array, kind in zip(inputs, arrays, info.inputs, strict=True):
            if array_bytes(kind):
                memory.write(address, np.ascontiguousarray(array, kind.dtype))
        outputs = [
            inputs[donors[j]] if j in donors else memory.allocate(max(1, array_bytes(a)))
            for j, a in enumerate(info.outputs)
        ]
        arena = memory.allocate(max(1, self.table.arena_bytes))
        constants = memory.allocate(max(1, len(self.table.constants)))
        if self.table.constants:
            memory.write(constants, np.frombuffer(self.table.constants, np.uint8))

        def address_of(place: Place) -> int:
            if place.memory in ("input", "output"):
                return (inputs if place.memory == "input" else outputs)[place.at]
            return (arena if place.memory == "arena" else constants) + place.at

        def run(step: Launch, addresses: list[int]) -> None:
            values = [np.uint64(address).tobytes() for address in addresses]
            launch(
                module, step.kernel, memory, step.grid, step.block,
                parameters(module, step.kernel, values), step.shared_bytes,
            )  # fmt: skip

        def copy(source: int, target: int, size: int) -> None:
            memory.write(target, np.frombuffer(memory.read(source, size), np.uint8))

        perform(self.table.steps, address_of, run, copy, lambda flag: memory.read(flag, 1) != b"\0")
        return [
            np.frombuffer(memory.read(address, array_bytes(a)), a.dtype).reshape(a.shape)
            for address, a in zip(outputs, info.outputs, strict=True)
        ]


def build_program(graph: Graph, donated: Donated = (), target: Target = NVPTX) -> BuiltProgram:
    """The graph, through every pass to PTX, which NVIDIA's assembler takes, and a launch table."""
    lowered, ptx = compile_ptx(graph, target, donated, {})
    return BuiltProgram(graph, lowered.plan, assembled(ptx), launch_table(lowered.plan))
