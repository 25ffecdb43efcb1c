"""The steps of a plan as one function that reads the clock between them: the second specialisation, for profiles.

In: a plan and a target. Out: LLVM text with ``void timed(ptr *memory, i64 *stamps)``: `memory` has the address of every
buffer of the plan in its order, `stamps` gets two readings, which tell what a reading costs, and one after each step.
"""

from __future__ import annotations

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.program import emit_copy
from graphc.codegen.target import Target
from graphc.errors import TargetError
from graphc.ir.plan import CopyStep, Plan, PlanBuffer


def emit_timed(plan: Plan, target: Target) -> str:
    """The text of the timed program. Raises `TargetError` where the target has no clock that a program may read.

    >>> import graphc
    >>> from graphc.codegen.target import target_from_name
    >>> plan = graphc.compile(lambda x: x + 1, graphc.f32[2]).plan
    >>> emit_timed(plan, target_from_name("x86-64")).count("call i64 @llvm.readcyclecounter")
    3
    """
    if not target.clock:
        raise TargetError(
            f"profile: expected a target with a clock that programs may read, got {target.name}"
        )
    lines = ["define void @timed(ptr %memory, ptr %stamps) nounwind {", "entry:"]
    pointers: dict[PlanBuffer, str] = {}
    for number, b in enumerate(plan.buffers):
        pointers[b] = f"%b{number}"
        lines.append(f"  %a{number} = getelementptr ptr, ptr %memory, i64 {number}")
        lines.append(f"  %b{number} = load ptr, ptr %a{number}, align 8")

    def read_clock(number: int) -> list[str]:
        return [
            f"  %t{number} = call i64 @{target.clock}()",
            f"  %s{number} = getelementptr i64, ptr %stamps, i64 {number}",
            f"  store i64 %t{number}, ptr %s{number}, align 8",
        ]

    lines += [*read_clock(0), *read_clock(1)]
    for number, step in enumerate(plan.steps):
        if isinstance(step, CopyStep):
            lines += emit_copy(number, pointers[step.source], pointers[step.target], step.source.type.bytes)
        else:
            arguments = ", ".join(f"ptr {pointers[b]}" for b in step.arguments)
            lines.append(f"  call void @{step.kernel.name}({arguments})")
        lines += read_clock(number + 2)
    lines += ["  ret void", "}", f"declare i64 @{target.clock}()"]
    return "\n".join([emit_kernels(plan.kernels, target, linkage="internal"), *lines]) + "\n"
