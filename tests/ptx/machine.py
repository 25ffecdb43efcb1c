"""A machine that runs PTX on arrays and reports what a GPU would let pass: races, bad accesses, missing barriers.

In: the text of a module, a `Memory`, a launch. Out: the memory, changed; or a `PtxError` that names kernel, line, block
and thread. Blocks run in batches, all threads of a batch at once; threads that are at different places take turns,
the lowest basic block first (`flow`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from ptx.builder import Step, parameter_offsets
from ptx.errors import PtxError
from ptx.lanes import Lanes, Launch, Three, error_of, place_text
from ptx.memory import Fault, Memory
from ptx.parser import Function, Program, parse
from ptx.translate import Code, translate

__all__ = ["Kernel", "Memory", "Module", "PtxError", "launch"]

BATCH = 1 << 13  # lanes: their registers fit a core's caches (measured)
MOST_STATIC_SHARED, MOST_SHARED = 48 << 10, 163 << 10  # of sm_80
MOST_STEPS = 5_000_000  # basic blocks that a batch runs: beyond them a loop is taken to have no end
DONE = 1 << 30  # the rank of a lane that has left


@dataclass(frozen=True)
class Kernel:
    """What a launch has to know of a kernel."""

    name: str
    params: tuple[tuple[str, int, int], ...]  # name, bytes, alignment
    param_bytes: int
    max_threads: int
    block: Three | None  # the only block that it may be launched with, if the text says so
    shared_bytes: int


class Module:
    """A parsed module. Every kernel is translated at once, so that unknown instructions are refused here.

    >>> text = ".version 7.0\\n.target sm_80\\n.address_size 64\\n.visible .entry k(.param .u64 p) { ret; }"
    >>> Module(text).kernels["k"].params
    (('p', 8, 8),)
    """

    def __init__(self, text: str) -> None:
        self.program: Program = parse(text)
        kept = [v.name for v in self.program.variables.values() if v.space in ("global", "const")]
        if kept:
            raise PtxError(
                f"module: expected no variables in global or constant memory, got {', '.join(kept)}"
            )
        self._codes = {f.name: translate(self.program, f.name) for f in self._entries()}
        self.kernels = {f.name: self._kernel(f) for f in self._entries()}

    def _entries(self) -> list[Function]:
        return [f for f in self.program.functions.values() if f.entry]

    def _kernel(self, function: Function) -> Kernel:
        params = tuple((v.name, v.bytes, v.alignment) for v in function.parameters)
        required = function.required_threads
        most = function.most_threads or 1024
        if required is not None:
            most = required[0] * required[1] * required[2]
        shared = self._codes[function.name].shared_bytes
        return Kernel(function.name, params, parameter_offsets(function)[1], most, required, shared)

    def code(self, kernel: str) -> Code:
        return self._codes[kernel]


def launch(
    module: Module,
    kernel: str,
    memory: Memory,
    grid: Three,
    block: Three,
    params: bytes,
    dynamic_shared: int = 0,
) -> None:
    """Runs a kernel to its end. `params` are the bytes of its parameters, each at a multiple of its alignment.

    Raises `PtxError` for an unfitting launch and for the first bug that is seen; memory is then as far as it came.
    """
    if kernel not in module.kernels:
        raise PtxError(f"launch: expected one of {', '.join(module.kernels)}, got {kernel!r}")
    facts, code = module.kernels[kernel], module.code(kernel)
    _check_launch(facts, grid, block, params, dynamic_shared)
    state = Launch(
        memory, grid, block, params, facts.shared_bytes + dynamic_shared, code.local_bytes, code.unit
    )
    blocks = grid[0] * grid[1] * grid[2]
    step = max(1, BATCH // state.threads)
    with np.errstate(all="ignore"):
        for first in range(0, blocks, step):
            numbers = np.arange(first, min(blocks, first + step))
            _Executor(kernel, code, Lanes(state, numbers, code.registers, code.unit)).run()


def _check_launch(kernel: Kernel, grid: Three, block: Three, params: bytes, dynamic: int) -> None:
    def fail(expected: str, got: object) -> NoReturn:
        raise PtxError(f"launch of {kernel.name}: expected {expected}, got {got}")

    threads = block[0] * block[1] * block[2]
    if min(grid) < 1 or grid[0] >= 1 << 31 or max(grid[1:]) > 65535:
        fail("a grid of 1 to 2^31 - 1, 65535 and 65535 blocks", grid)
    if min(block) < 1 or threads > 1024 or block[2] > 64:
        fail("a block of 1 to 1024 threads", block)
    if threads > kernel.max_threads or (kernel.block is not None and block != kernel.block):
        fail(f"a block of {kernel.block or kernel.max_threads}", block)
    if len(params) != kernel.param_bytes:
        fail(f"{kernel.param_bytes} bytes of parameters", len(params))
    if kernel.shared_bytes > MOST_STATIC_SHARED or kernel.shared_bytes + dynamic > MOST_SHARED:
        fail(f"at most {MOST_STATIC_SHARED} bytes of static and {MOST_SHARED} of all shared memory",
             f"{kernel.shared_bytes} and {kernel.shared_bytes + dynamic}")  # fmt: skip


class _Executor:
    """One batch of blocks from its start to its end."""

    def __init__(self, kernel: str, code: Code, lanes: Lanes) -> None:
        self.kernel, self.steps, self.lanes = kernel, code.steps, lanes
        self.where = np.full(lanes.total, code.start, np.int64)  # the rank of each lane's next block
        self.waiting = np.zeros(lanes.total, bool)  # at a barrier
        self.returns: dict[int, np.ndarray] = {
            f: np.zeros(lanes.total, np.int64) for f in range(code.functions)
        }  # where each lane goes on when the function returns
        self.arrived = np.full(lanes.total, -1)  # where a waiting lane goes on
        self.together: int | None = code.start  # the rank that all lanes are at, if they are

    def run(self) -> None:
        lanes = self.lanes
        for _ in range(MOST_STEPS):
            if self.together is not None:
                rank, active = self.together, None
            else:
                ready = np.where(self.waiting, DONE, self.where)
                rank = int(ready.min())
                if rank == DONE:
                    if not self.waiting.any():
                        break
                    self.release()
                    continue
                active = np.flatnonzero(ready == rank)
                if len(active) == lanes.total:
                    active = None
            if rank == DONE:
                break
            lanes.activate(active)
            self.perform(self.steps[rank], active)
        else:
            raise PtxError(f"kernel {self.kernel}: expected an end after {MOST_STEPS} basic blocks, got none")
        self.check_copies()

    def perform(self, step: Step, active: np.ndarray | None) -> None:
        lanes = self.lanes
        lanes.at = step.last
        try:
            if step.test is not None:
                chosen = lanes.spread(step.test(lanes))
                if chosen.any():
                    if not chosen.all():
                        lanes.activate(lanes.numbers()[chosen])
                    step.run(lanes)
                self.go(step.follows, active)
                return
            condition = step.run(lanes)
        except Fault as fault:
            raise error_of(fault, lanes, self.kernel, lanes.at) from None
        if step.end == "branch":
            if condition is None or condition.all():
                self.go(step.target, active)
            elif not condition.any():
                self.go(step.follows, active)
            else:
                self.where[lanes.active] = np.where(condition, step.target, step.follows)
                self.together = None
        elif step.end == "barrier":
            self.barrier(step, active)
        elif step.end == "call":
            callee = self.steps[step.target].function
            self.returns[callee][lanes.active] = step.follows
            for number in step.clears:
                lanes.undefine(number)
            self.go(step.target, active)
        elif step.end == "return":
            back = self.returns[step.function][lanes.active]
            self.where[lanes.active] = back
            self.together = int(back[0]) if active is None and (back == back[0]).all() else None
        elif step.end == "exit":
            lanes.exited[lanes.active] = True
            self.go(DONE, active)
        else:
            self.go(step.follows, active)

    def go(self, rank: int, active: np.ndarray | None) -> None:
        """The lanes that were active go on at a rank."""
        if active is None:
            self.together = rank
            self.where[:] = rank
        else:
            self.where[active] = rank
            first = self.where[0]
            same = bool((self.where == first).all()) and not self.waiting.any()
            self.together = int(first) if same else None

    def barrier(self, step: Step, active: np.ndarray | None) -> None:
        if active is None:
            self.lanes.pass_barrier(None)
            self.go(step.follows, None)
        else:
            self.waiting[active] = True
            self.arrived[active] = step.follows
            self.together = None

    def release(self) -> None:
        """No lane can go on: those of a block must all wait at one barrier."""
        lanes = self.lanes
        threads = lanes.launch.threads
        waiting = self.waiting.reshape(-1, threads)
        arrived = self.arrived.reshape(-1, threads)
        some = waiting.any(axis=1)
        partly = some & ~waiting.all(axis=1)
        apart = some & (arrived != arrived[:, :1]).any(axis=1)
        for bad, what in (
            (partly, "other threads have left"),
            (apart, "other threads wait at another barrier"),
        ):
            if bad.any():
                slot = int(np.argmax(bad))
                lane = slot * threads + int(np.argmax(waiting[slot]))
                step = next(s for s in self.steps if s.end == "barrier" and s.follows == self.arrived[lane])
                where = f"kernel {self.kernel}, PTX line {step.last.line}, {place_text(lanes, lane)}"
                raise PtxError(
                    f"{where}: barrier that only a part of the block reaches: {what}\n  {step.last.text}"
                )
        released = np.flatnonzero(self.waiting)
        lanes.pass_barrier(released)
        self.where[released] = self.arrived[released]
        self.waiting[:] = False
        first = self.where[0]
        self.together = int(first) if (self.where == first).all() else None

    def check_copies(self) -> None:
        if self.lanes.copies:
            lane = int(self.lanes.copies[0].lanes[0])
            where = f"kernel {self.kernel}, {place_text(self.lanes, lane)}"
            raise PtxError(f"{where}: the thread leaves while a copy of its cp.async is not waited for")
