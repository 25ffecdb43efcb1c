"""What a compiled program needs of memory, known before it runs: every buffer's bytes, its kind, and when it is alive.

In: a plan and the graph that it computes. Out: a `Footprint`: exact bytes by kind, the arena over time, a chart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import ArtifactError, GraphcError
from graphc.ir.graph import Graph
from graphc.ir.plan import CallStep, Plan, PlanBuffer

# each kind with what belongs to it, in the order of tables
KINDS = {
    "weights": "inputs that are differentiated, and parameters of modules",
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

    @property
    def peak(self) -> tuple[int, int]:
        """The step at which most bytes of the arena are in use, and how many; (0, 0) without steps."""
        used = [sum(t.bytes for t in self.alive(i)) for i in range(len(self.steps))]
        return max(((i, n) for i, n in enumerate(used)), key=lambda p: p[1], default=(0, 0))

    def __str__(self) -> str:
        step, most = self.peak
        lines = [
            f"@{self.name}: {self.total_bytes:,} bytes: {self.argument_bytes:,} of arguments, arena {self.arena_bytes:,}"
        ]
        sizes = {k: n for k, n in self.by_kind.items() if n}
        largest = max(sizes.values(), default=1)
        lines += [f"  {k:<12} {n:>14,}  {_bar(n, largest)}" for k, n in sizes.items()]
        if self.steps:
            lines.append(f"arena, alive at each step (peak {most:,} at {step}: {self.steps[step]}):")
            for i, kernel in enumerate(self.steps):
                used = sum(t.bytes for t in self.alive(i))
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
    weights = notes | set(parameters)
    donated = {i for i, _ in plan.donated}
    kinds: dict[PlanBuffer, str] = {}
    for b in plan.buffers:
        if b.kind == "input":
            kinds[b] = "weights" if b.name in weights else "state" if b.position in donated else "inputs"
        elif b.kind in ("output", "constant"):
            kinds[b] = f"{b.kind}s"
        else:
            kinds[b] = "scratch"  # unless a step says that it is a result
    for step in plan.steps:
        if isinstance(step, CallStep):
            for b, value in zip(step.writes, step.region.outputs, strict=True):
                if b.kind == "arena":
                    derived = step.loc.note.startswith("d ") or value.node.loc.note.startswith("d ")
                    kinds[b] = "derivatives" if derived else "activations"
    # what is overwritten in place ends where the new value begins
    ends = {b.in_place_of: b.first - 1 for b in plan.buffers if b.in_place_of is not None}
    tensors = tuple(
        Tensor(
            b.name, kinds[b], repr(b.type), b.type.bytes, b.root.offset if b.kind == "arena" else None,
            max(b.first, 0), max(ends.get(b, b.last), b.first, 0),
        )
        for b in plan.buffers
        if b.kind == "arena" or b.in_place_of is None  # an updated argument is counted once
    )  # fmt: skip
    names = tuple(s.kernel.name if isinstance(s, CallStep) else "copy" for s in plan.steps)
    return Footprint(plan.name, tensors, names, plan.workspace_bytes)


def _bar(count: int, largest: int) -> str:
    return "#" * round(_WIDTH * count / max(largest, 1))
