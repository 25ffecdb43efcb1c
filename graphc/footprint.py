"""What a compiled program needs of memory, known before it runs: every buffer's bytes, its kind, and when it is alive.

In: a plan and the graph that it computes. Out: a `Footprint`: exact bytes by kind, the arena over time, a chart.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from graphc.errors import ArtifactError, GraphcError
from graphc.ir.graph import Graph, Value
from graphc.ir.highlight import STYLE, table
from graphc.ir.plan import BranchStep, CallStep, CopyStep, LoopStep, Plan, PlanBuffer, Step

# each kind with what belongs to it, in the order of tables
KINDS = {
    "weights": "inputs that are differentiated, or updated by derivatives, and parameters of modules",
    "state": "other inputs that are updated in place: the optimiser's, running statistics",
    "inputs": "other inputs",
    "outputs": "outputs with memory of their own",
    "constants": "arrays in the program itself",
    "activations": "in the arena: values of the forward pass",
    "derivatives": "in the arena: cotangents, diagonal Jacobians, gradients that no update has taken in",
    "scratch": "in the arena: packed operands, while their kernel runs",
}
_COLOURS = {"activations": "#88aadd", "derivatives": "#ee9999", "scratch": "#cccccc"}
_WIDTH = 40  # characters of the longest bar


@dataclass(frozen=True)
class Tensor:
    """One buffer: where it lies and from which to which step it is alive. An argument has no offset."""

    name: str
    kind: str
    type: str
    bytes: int
    offset: int | None
    first: int
    last: int
    kept: bool = False  # an activation that the backward pass reads


@dataclass(frozen=True)
class Footprint:
    """The memory of a program. `str` gives a table with a bar for each kind and for the arena at each step."""

    name: str
    tensors: tuple[Tensor, ...]
    steps: tuple[str, ...]
    arena_bytes: int

    @property
    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind. Those of the arena are sums over all of its tensors, which are not alive at once."""
        return {kind: sum(t.bytes for t in self.tensors if t.kind == kind) for kind in KINDS}

    @property
    def argument_bytes(self) -> int:
        """What a caller holds besides the arena: inputs, and outputs with memory of their own."""
        return sum(t.bytes for t in self.tensors if t.kind in ("weights", "state", "inputs", "outputs"))

    @property
    def total_bytes(self) -> int:
        """Arguments, constants and the arena: all that a call touches."""
        return self.argument_bytes + self.by_kind["constants"] + self.arena_bytes

    def alive(self, step: int) -> list[Tensor]:
        """The tensors in the arena at a step, the largest first."""
        found = [t for t in self.tensors if t.offset is not None and t.first <= step <= t.last]
        return sorted(found, key=lambda t: (-t.bytes, t.first))

    @cached_property
    def used(self) -> tuple[int, ...]:
        """The bytes of the arena that are in use at each step."""
        changes = [0] * (len(self.steps) + 1)
        for t in self.tensors:
            if t.offset is not None:
                changes[t.first] += t.bytes
                changes[t.last + 1] -= t.bytes
        return tuple(accumulate(changes[:-1]))

    @property
    def peak(self) -> tuple[int, int]:
        """The step at which most bytes of the arena are in use, and how many; (0, 0) without steps."""
        return max(enumerate(self.used), key=lambda p: p[1], default=(0, 0))

    @property
    def kept_bytes(self) -> int:
        """Activations that the forward pass leaves in the arena for the backward pass: the most that storing less of them
        could save."""
        return sum(t.bytes for t in self.tensors if t.kept)

    @property
    def _summary(self) -> str:
        parts = f"{self.argument_bytes:,} of arguments, arena {self.arena_bytes:,}"
        return f"@{self.name}: {self.total_bytes:,} bytes: {parts}"

    def _repr_html_(self) -> str:
        sizes = {k: n for k, n in self.by_kind.items() if n}
        rows = [(kind, f"{count:,}", KINDS[kind]) for kind, count in sizes.items()]
        content = table(("kind", "bytes", "what"), rows, (0, 2))
        return f'{STYLE}<div class="graphc"><p>{html.escape(self._summary)}</p>{content}{self._svg()}</div>'

    def _svg(self) -> str:
        """The arena as a picture in a page: steps to the right, offsets upwards; a tensor's name is its tooltip."""
        width, height = 720, 200
        if not self.arena_bytes or not self.steps:
            return ""
        wide, high = width / len(self.steps), height / self.arena_bytes
        boxes = [
            f'<rect x="{t.first * wide:.1f}" y="{height - (t.offset + t.bytes) * high:.1f}" '
            f'width="{(t.last - t.first + 1) * wide:.1f}" height="{t.bytes * high:.1f}" fill="{_COLOURS[t.kind]}" '
            f'stroke="white"><title>{html.escape(f"%{t.name}: {t.type}, {t.kind}, {t.bytes:,} bytes")}</title></rect>'
            for t in self.tensors
            if t.offset is not None
        ]
        step, most = self.peak
        shade = f'<rect x="{step * wide:.1f}" width="{wide:.1f}" height="{height}" opacity="0.12"/>'
        at = html.escape(f"peak {most:,} bytes at step {step}: {self.steps[step]}")
        legend = ", ".join(f'<span style="color:{c}">■</span> {kind}' for kind, c in _COLOURS.items())
        return (
            f"<p>arena, steps to the right, offsets upwards; {at}; {legend}</p>"
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="background:#8882;'
            f'margin:0 .6em">{"".join(boxes)}{shade}</svg>'
        )

    def __str__(self) -> str:
        step, most = self.peak
        lines = [self._summary]
        sizes = {k: n for k, n in self.by_kind.items() if n}
        largest = max(sizes.values(), default=1)
        lines += [f"  {k:<12} {n:>14,}  {_bar(n, largest)}" for k, n in sizes.items()]
        if self.steps:
            lines.append(f"arena, alive at each step (peak {most:,} at {step}: {self.steps[step]}):")
            for i, kernel in enumerate(self.steps):
                used = self.used[i]
                lines.append(
                    f"  {i:>4} {kernel:<12} {used:>14,}  {_bar(used, most)}{'  < peak' if i == step else ''}"
                )
            lines.append("alive at the peak:")
            lines += [
                f"  {t.bytes:>14,}  %{t.name}: {t.type}, {t.kind}, steps {t.first}..{t.last}"
                for t in self.alive(step)
            ]
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Draws the arena to a file, as PNG, SVG or PDF by its ending: steps to the right, offsets upwards.

        Needs matplotlib (the extra `plot`). Raises `ArtifactError` where the file can't be written.
        """
        try:
            from matplotlib import pyplot
            from matplotlib.patches import Patch, Rectangle
        except ImportError as error:
            raise GraphcError(
                "Footprint.plot: expected matplotlib, got none: pip install graphc[plot]"
            ) from error
        figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
        for t in self.tensors:
            if t.offset is None or not t.bytes:
                continue
            steps = t.last - t.first + 1
            axes.add_patch(
                Rectangle(
                    (t.first, t.offset), steps, t.bytes, facecolor=_COLOURS[t.kind], edgecolor="white", lw=0.8
                )
            )
            if t.bytes > self.arena_bytes / 25 and steps > len(self.steps) / 20:
                label = f"{t.name} {t.type}" if steps > len(self.steps) / 8 else t.name
                middle = t.first + steps / 2, t.offset + t.bytes / 2
                axes.text(*middle, label, ha="center", va="center", fontsize=7, clip_on=True)
        step, most = self.peak
        axes.axvspan(step, step + 1, color="black", alpha=0.08, lw=0)
        axes.set_xlim(0, max(len(self.steps), 1))
        axes.set_ylim(0, max(self.arena_bytes, 1))
        axes.set_xlabel("step")
        axes.set_ylabel("offset in the arena, bytes")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(
            f"@{self.name}: arena of {self.arena_bytes:,} bytes, at most {most:,} alive (step {step})",
            fontsize=10,
        )
        shown = [Patch(color=c, label=kind) for kind, c in _COLOURS.items() if self.by_kind[kind]]
        if shown:
            figure.legend(handles=shown, loc="outside right upper", fontsize=8)
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: expected a writable picture file, got {error}") from None
        finally:
            pyplot.close(figure)


def footprint(plan: Plan, graph: Graph, parameters: Iterable[str] = ()) -> Footprint:
    """The memory of a plan that computes `graph`; `parameters` names inputs that are known to be weights.

    >>> import graphc
    >>> compiled = graphc.compile(lambda x: graphc.exp(x @ x).sum(), graphc.f32[8, 8])
    >>> footprint(compiled.plan, compiled.graph).by_kind["inputs"]
    256
    """
    notes = {node.loc.note.rpartition("/ d ")[2] for node in graph.nodes if "/ d " in node.loc.note}
    donated = {i for i, _ in plan.donated}
    learnt = _read_by_derivatives(graph)
    # the optimiser's state is updated too, but no derivative depends on it
    updated = {graph.inputs[i] for i in donated} & learnt
    weights = notes | set(parameters) | {v.node.name for v in updated if v.dtype.is_float}
    kinds: dict[PlanBuffer, str] = {}
    for b in plan.buffers:
        if b.kind == "input":
            kinds[b] = "weights" if b.name in weights else "state" if b.position in donated else "inputs"
        elif b.kind in ("output", "constant"):
            kinds[b] = f"{b.kind}s"
        else:
            kinds[b] = "scratch"  # unless a step says that it is a result
    read: set[PlanBuffer] = set()  # by the backward pass
    for step in plan.steps:
        if isinstance(step, CallStep):
            derived = [n for n in step.region.nodes if n.loc.note.startswith("d ")]
            operands = {v for n in derived for v in n.operands}
            read |= {b for b, v in zip(step.reads, step.region.inputs, strict=True) if v in operands}
            for b, value in zip(step.writes, step.region.outputs, strict=True):
                if b.kind == "arena":
                    is_derived = step.loc.note.startswith("d ") or value.node.loc.note.startswith("d ")
                    kinds[b] = "derivatives" if is_derived else "activations"
        elif isinstance(step, (LoopStep, BranchStep)):
            results = step.results if isinstance(step, BranchStep) else [b for b, _ in step.ys]
            carries = () if isinstance(step, BranchStep) else (c.last for c in step.carries)
            kind = "derivatives" if step.loc.note.startswith("d ") else "activations"
            kinds.update((b, kind) for b in (*results, *carries) if b.kind == "arena")
            if kind == "derivatives":
                read |= set(step.reads)
    # what is overwritten in place ends where the new value begins
    ends = {b.in_place_of: b.first - 1 for b in plan.buffers if b.in_place_of is not None}
    tensors = tuple(
        Tensor(
            b.name, kinds[b], repr(b.type), b.type.bytes, b.root.offset if b.kind == "arena" else None,
            max(b.first, 0), max(ends.get(b, b.last), b.first, 0),
            kinds[b] == "activations" and b in read,
        )
        for b in plan.buffers
        if b.kind == "arena" or b.in_place_of is None  # an updated argument is counted once
    )  # fmt: skip
    names = tuple(map(_step_name, plan.steps))
    return Footprint(plan.name, tensors, names, plan.workspace_bytes)


def _step_name(step: Step) -> str:
    if isinstance(step, CallStep):
        return step.kernel.name
    return "copy" if isinstance(step, CopyStep) else "loop" if isinstance(step, LoopStep) else "branch"


def _read_by_derivatives(graph: Graph) -> set[Value]:
    """The inputs that some derivative depends on."""
    stack = [n for n in graph.nodes if n.loc.note.startswith("d ")]
    seen = set(stack)
    while stack:
        for operand in stack.pop().operands:
            if operand.node not in seen:
                seen.add(operand.node)
                stack.append(operand.node)
    return {v for v in graph.inputs if v.node in seen}


def _bar(count: int, largest: int) -> str:
    return "#" * round(_WIDTH * count / max(largest, 1))
