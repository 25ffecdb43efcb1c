"""Profiles: where the time of a compiled function goes, kernel by kernel, against what the machine can do.

In: a plan, arrays, a target of this machine. Out: a `Profile`: a table, JSON, or a trace for Chrome and Perfetto.
The plan is compiled a second time, with a reading of the clock between the kernels; the ordinary program has none of it.
"""

from __future__ import annotations

import ctypes
import html
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.peaks import Peaks, measured_peaks
from graphc.codegen.target import Target
from graphc.codegen.timed import emit_timed
from graphc.ir.cost import step_bytes_moved, step_operations, summary
from graphc.ir.highlight import STYLE, table
from graphc.ir.loc import Loc
from graphc.ir.plan import BranchStep, CallStep, CopyStep, Plan, Step, plan_memory

_LEFT = (0, 9, 10)  # columns of the table that are text
_WARM_UP = 3
_FRESH = 64  # runs on the same memory: a training step drifts, and numbers that overflow or vanish take other times


@dataclass(frozen=True)
class KernelTime:
    """One step of the plan: seconds, the mean of the middle half of all runs, with their 10th and 90th percentile.

    The mean of the middle half is nearly the median, and finer than the clock's ticks. A time of less than a tick says
    only that: rates are then 0.
    """

    kernel: str
    what: str
    loc: Loc
    seconds: float
    low: float
    high: float
    operations: int
    bytes: int
    percent: float  # of the whole
    percent_of_peak: float
    percent_of_bandwidth: float

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which roof is nearer. A kernel whose arrays are in a cache may pass 100 % of the bandwidth of memory."""
        return "compute" if self.percent_of_peak >= self.percent_of_bandwidth else "memory"


@dataclass(frozen=True)
class Profile:
    """The steps of a program in order; `str` shows them as a table, the costliest marked."""

    name: str
    steps: tuple[KernelTime, ...]
    seconds: float  # of the whole, the median
    tick: float  # of the clock, in seconds
    runs: int
    peaks: Peaks

    def _table(self) -> list[tuple[str, ...]]:
        """The head, then a row for each step."""
        head = (
            "kernel",
            "time",
            "10..90 %",
            "share",
            "GFLOP/s",
            "peak",
            "GB/s",
            "memory",
            "bound",
            "what",
            "line",
        )
        rows: list[tuple[str, ...]] = [head]
        for s in self.steps:
            rows.append(
                (
                    s.kernel, _time(s.seconds), f"{_time(s.low)}..{_time(s.high)}", f"{s.percent:.1f} %",
                    f"{s.operations / s.seconds / 1e9:.1f}", f"{s.percent_of_peak:.0f} %",
                    f"{s.bytes / s.seconds / 1e9:.1f}", f"{s.percent_of_bandwidth:.0f} %", s.bound, s.what, _line(s.loc),
                )
                if s.seconds >= self.tick
                else (s.kernel, f"< {_time(self.tick)}", "", "", "", "", "", "", "", s.what, _line(s.loc))
            )  # fmt: skip
        return rows

    @property
    def _summary(self) -> str:
        roof = f"{self.peaks.operations / 1e9:.0f} GFLOP/s in registers, {self.peaks.bytes / 1e9:.1f} GB/s through memory"
        calls = f"{len(self.steps)} kernels, {_time(self.seconds)} a call, median of {self.runs}"
        return f"@{self.name}: {calls}; measured roofs: {roof}"

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        content = f"<p>{html.escape(self._summary)}</p>{table(head, rows, _LEFT)}"
        return f'{STYLE}<div class="graphc">{content}</div>'

    def __str__(self) -> str:
        rows = self._table()
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                c.ljust(w) if i in _LEFT else c.rjust(w)
                for i, (c, w) in enumerate(zip(r, widths, strict=True))
            ).rstrip()
            for r in rows
        ]
        return "\n".join([self._summary, *lines])

    def to_json(self) -> str:
        """An object with the name, the roofs, the total, and a row for each step."""
        rows = [{**asdict(s), "loc": {"file": s.loc.file, "line": s.loc.line, "scope": s.loc.scope, "note": s.loc.note},
                 "bound": s.bound} for s in self.steps]  # fmt: skip
        whole = {
            "name": self.name,
            "seconds": self.seconds,
            "runs": self.runs,
            "peaks": asdict(self.peaks),
            "steps": rows,
        }
        return json.dumps(whole, indent=2)

    def to_trace(self) -> str:
        """One call of the medians in Chrome's Trace Event Format, which chrome://tracing and ui.perfetto.dev open."""
        starts = accumulate((s.seconds for s in self.steps), initial=0.0)
        events: list[dict[str, object]] = [
            {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"graphc @{self.name}"}}
        ]
        for s, start in zip(self.steps, starts, strict=False):
            detail = {"what": s.what, "line": _line(s.loc), "flop": s.operations, "bytes": s.bytes,
                      "percent of peak": s.percent_of_peak, "percent of bandwidth": s.percent_of_bandwidth}  # fmt: skip
            events.append(
                {"name": s.kernel, "cat": s.bound, "ph": "X", "pid": 1, "tid": 1, "ts": start * 1e6,
                 "dur": s.seconds * 1e6, "args": detail}
            )  # fmt: skip
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})


def profile_plan(plan: Plan, target: Target, arrays: Sequence[np.ndarray], seconds: float = 0.5) -> Profile:
    """Runs the plan's kernels on copies of the arrays for so many seconds, and says where the time went.

    Each kernel is timed within the whole, so caches are as they are in a call. What reading the clock costs is measured
    and taken off. Raises `TargetError` where the target has no clock.

    >>> import graphc
    >>> from graphc.codegen.target import host_target
    >>> plan = graphc.compile(lambda x: graphc.exp(x), graphc.f32[64]).plan
    >>> [s.kernel for s in profile_plan(plan, host_target(), [np.zeros(64, np.float32)], 0.01).steps]
    ['map0']
    """
    code = load_object(compile_object(emit_timed(plan, target), target))
    run = ctypes.CFUNCTYPE(None)(code.address("timed"))
    stamps: list[np.ndarray] = []
    ticks, elapsed = 0, 0.0
    end = time.perf_counter() + seconds
    while not stamps or time.perf_counter() < end:
        places = plan_memory(plan, arrays)
        memory = (ctypes.c_void_p * len(plan.buffers))(*(places[b].ctypes.data for b in plan.buffers))
        read = np.zeros((_WARM_UP + _FRESH, len(plan.steps) + 2), np.int64)
        pointers = [ctypes.c_void_p(row.ctypes.data) for row in read]
        for pointer in pointers[:_WARM_UP]:
            run(memory, pointer)
        start = time.perf_counter()
        for pointer in pointers[_WARM_UP:]:
            run(memory, pointer)
            if time.perf_counter() > end:
                break
        elapsed += time.perf_counter() - start
        used = read[_WARM_UP:][read[_WARM_UP:, -1] != 0]
        ticks += int(used[-1, -1] - used[0, 0])
        stamps.append(used)
    tick = elapsed / max(ticks, 1)
    differences = np.diff(np.concatenate(stamps), axis=1)
    reading = float(np.median(differences[:, 0]))
    times = np.maximum(differences[:, 1:] - reading, 0) * tick
    # two readings in a row differ by what the counter moves at once, in a virtual machine by many ticks, or not at all
    apart = differences[:, 0][differences[:, 0] > 0]
    return _profile(plan, target, times, float(np.median(apart) if apart.size else 1) * tick)


def _profile(plan: Plan, target: Target, times: np.ndarray, tick: float) -> Profile:
    peaks = measured_peaks(target)
    low, high = np.percentile(times, [10, 90], axis=0)
    ordered = np.sort(times, axis=0)
    middle = ordered[len(times) // 4 : -(-3 * len(times) // 4)].mean(axis=0)
    total = max(float(middle.sum()), tick)
    steps = []
    for step, a, b, c in zip(plan.steps, low.tolist(), middle.tolist(), high.tolist(), strict=True):
        count, moved = step_operations(step), _moved(step)
        steps.append(
            KernelTime(
                *_description(step), b, a, c, count, moved, 100 * b / total,
                100 * count / b / peaks.operations if b >= tick else 0.0,
                100 * moved / b / peaks.bytes if b >= tick else 0.0,
            )
        )  # fmt: skip
    whole = float(np.median(times.sum(axis=1)))
    return Profile(plan.name, tuple(steps), whole, tick, len(times), peaks)


def _description(step: Step) -> tuple[str, str, Loc]:
    if isinstance(step, CopyStep):
        return "copy", f"%{step.source.name} to %{step.target.name}", Loc()
    if isinstance(step, CallStep):
        return step.kernel.name, summary(step.region), step.loc
    names = ", ".join(dict.fromkeys(k.name for p in step.plans for k in p.kernels)) or "copies"
    if isinstance(step, BranchStep):
        return "branch", f"either of {names}", step.loc
    turns = "while" if step.count is None else f"{step.count} times"
    return "loop", f"{turns} {names}", step.loc


def _moved(step: Step) -> int:
    """The bytes of the arrays that a step reads and writes, each once."""
    if not isinstance(step, CallStep):
        return step_bytes_moved(step)
    return sum(b.type.bytes for b in (*dict.fromkeys(step.reads), *step.writes))


def _line(loc: Loc) -> str:
    name = loc.file.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}:{loc.line}" + (f" ({loc.note})" if loc.note else "") if name else ""


def _time(seconds: float) -> str:
    """As in ``1.25 us``: three digits.

    >>> _time(1.25e-6), _time(0.0321), _time(4.2e-8)
    ('1.25 us', '32.1 ms', '42.0 ns')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.1f} ns"
