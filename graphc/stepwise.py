"""A program run step by step: each kernel of the plan is a native function of its own that is called from Python.

In: a lowered graph, a target of this machine. Out: a `Stepwise`, for whoever wants to look between two kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import Target
from graphc.ir.plan import CallStep, CopyStep, Plan, PlanBuffer


class Stepwise:
    """The plan's kernels as native functions.

    >>> import graphc
    >>> from graphc.codegen.target import host_target
    >>> from graphc.ir.plan import perform, plan_memory, plan_outputs
    >>> plan = graphc.compile(lambda x: x + 1, graphc.f32[2]).plan
    >>> places = plan_memory(plan, [np.float32([1, 2])])
    >>> perform(plan, places, Stepwise(plan, host_target()).run)
    >>> plan_outputs(plan, places)
    [array([2., 3.], dtype=float32)]
    """

    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan = plan
        self._code = load_object(compile_object(emit_kernels(plan.kernels, target), target))
        self._functions = {
            kernel.name: ctypes.CFUNCTYPE(None)(self._code.address(kernel.name)) for kernel in plan.kernels
        }

    def run(self, step: CallStep | CopyStep, places: Mapping[PlanBuffer, np.ndarray]) -> None:
        """Runs one step on the memory of the plan's buffers (`ir.plan.plan_memory`)."""
        if isinstance(step, CopyStep):
            np.copyto(places[step.target], places[step.source])
        else:
            self.call(step, [places[b] for b in step.arguments])

    def call(self, step: CallStep, arrays: list[np.ndarray]) -> None:
        """Runs a step's kernel on contiguous arrays for its parameters, in place."""
        self._functions[step.kernel.name](*(ctypes.c_void_p(a.ctypes.data) for a in arrays))
