"""The launch geometry of a kernel: how many blocks and threads its loops ask for.

In: a kernel. Out: a `Launch`, which the emitter states in the function's attributes and a runtime passes to the driver.
The innermost of nested loops of one kind is x, so that neighbouring threads touch neighbouring elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.errors import CompileError
from graphc.ir.kernel import Atomic, Const, For, If, Kernel, Stmt, Store

HELD = ("block", "thread")  # the bindings that a launch gives to hardware, where the target has it


@dataclass(frozen=True)
class Launch:
    """How many blocks and threads a kernel's loops ask for, in x, y and z."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]


def launch_of(kernel: Kernel) -> Launch:
    """The launch that a kernel's ``block`` and ``thread`` loops ask for; the innermost loop of a kind is x.

    Raises `CompileError` where a bound isn't constant, loops nest deeper than three, or nests of one kind are not all of
    one depth (the threads along a missing axis would all do the same work).

    >>> launch_of(Kernel("nothing", (), ())).block
    (1, 1, 1)
    """
    sizes = {"block": [1, 1, 1], "thread": [1, 1, 1]}
    depths: dict[str, int] = {}

    def visit(body: Sequence[Stmt], inside: frozenset[str]) -> None:
        for stmt in body:
            if isinstance(stmt, For):
                inner = inside
                if stmt.binding in HELD:
                    inner = inside | {stmt.binding}
                    axis = nest_height(stmt.body, stmt.binding)
                    count = static_trips(stmt)
                    if axis > 2 or count is None:
                        got = "a fourth" if axis > 2 else "a computed bound"
                        raise CompileError(
                            f"kernel @{kernel.name}: expected at most three constant {stmt.binding} loops, got {got}"
                        )
                    sizes[stmt.binding][axis] = max(sizes[stmt.binding][axis], count)
                    if stmt.binding not in inside and depths.setdefault(stmt.binding, axis) != axis:
                        expected = f"{stmt.binding} loops that all nest {depths[stmt.binding] + 1} deep"
                        raise CompileError(f"kernel @{kernel.name}: expected {expected}, got {axis + 1}")
                visit(stmt.body, inner)
            elif isinstance(stmt, If):
                visit((*stmt.body, *stmt.orelse), inside)

    visit(kernel.body, frozenset())
    (gx, gy, gz), (bx, by, bz) = sizes["block"], sizes["thread"]
    return Launch((gx, gy, gz), (bx, by, bz))


def nest_height(body: Sequence[Stmt], binding: str) -> int:
    """How many loops of that binding nest inside."""
    best = 0
    for stmt in body:
        if isinstance(stmt, For):
            best = max(best, nest_height(stmt.body, binding) + (stmt.binding == binding))
        elif isinstance(stmt, If):
            best = max(best, nest_height((*stmt.body, *stmt.orelse), binding))
    return best


def static_trips(stmt: For) -> int | None:
    """How often a loop runs, where its bounds are constants."""
    if not (isinstance(stmt.start, Const) and isinstance(stmt.stop, Const)):
        return None
    return len(range(int(stmt.start.value), int(stmt.stop.value), stmt.step))


def check_stores(kernel: Kernel) -> None:
    """Raises `CompileError` for a store outside of a kernel's loops over threads: hardware would do it in every thread.

    >>> from graphc.ir.kernel_text import parse_kernel
    >>> loop = "for %t = 0 to 2 step 1 thread { store %x[%t] = 1.0 }"
    >>> check_stores(parse_kernel(f"kernel @k(%x: f32[2] out) {{ {loop} }}"))
    """
    if nest_height(kernel.body, "thread"):
        _check_stores(kernel, kernel.body)


def _check_stores(kernel: Kernel, body: Sequence[Stmt]) -> None:
    for stmt in body:
        if isinstance(stmt, (Store, Atomic)) and stmt.buffer.space != "reg":
            raise CompileError(
                f"kernel @{kernel.name}: expected stores inside of the loops over threads, got one to "
                f"%{stmt.buffer.name} outside: every thread would do it"
            )
        if isinstance(stmt, If):
            _check_stores(kernel, (*stmt.body, *stmt.orelse))
        elif isinstance(stmt, For) and stmt.binding != "thread":
            _check_stores(kernel, stmt.body)
