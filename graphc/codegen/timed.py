"""The steps of a plan as one function that reads the clock between them: the second specialisation, for profiles.

In: a plan and a target. Out: LLVM text with ``void timed(ptr *memory, i64 *stamps)``: `memory` has the address of every
buffer of the plan in its order, `stamps` gets two readings, which tell what a reading costs, and one after each step.
"""

from __future__ import annotations

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.program import StepWriter, constant_lines, constant_symbols
from graphc.codegen.target import Target
from graphc.errors import TargetError
from graphc.ir.plan import Plan, PlanBuffer


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
    symbols = constant_symbols(plan)
    writer = StepWriter({k: f"@{k.name}" for k in plan.kernels}, symbols)
    for number, step in enumerate(plan.steps):
        lines += [*writer.step(step, pointers), *read_clock(number + 2)]
    lines += ["  ret void", "}", f"declare i64 @{target.clock}()"]
    kernels = emit_kernels(plan.kernels, target, linkage="internal")
    return "\n".join([kernels, *constant_lines(plan, symbols), *lines]) + "\n"
