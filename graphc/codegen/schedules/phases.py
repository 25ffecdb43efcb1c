"""How often a row is read: the passes that its reductions need, and what each of them does.

In: a reduce region. Out: a phase for each value, and a `Pass` for each phase.

An input has phase 0, a reduction one more than its operand, any other node the largest of its operands'. Pass p runs
over the reduced dimensions of a row and accumulates the reductions whose operands have phase p.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import Apply, Buffer, Cast, Expr, Load, Stmt, store
from graphc.ir.scalar import COSTLY, PRIMITIVES


@dataclass(eq=False)
class Pass:
    """What one pass over a row does."""

    reductions: list[Node] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # positions of results that it stores
    buffered: list[Value] = field(default_factory=list)  # values that it leaves for later passes
    byproducts: list[Node] = field(default_factory=list)

    def roots(self, region: Graph) -> list[Value]:
        """What it needs of each element."""
        summed = [n.operands[0] for n in (*self.reductions, *self.byproducts)]
        return summed + [region.outputs[i] for i in self.outputs]


def phases(region: Graph) -> dict[Value, int]:
    """The phase of each value of a reduce region."""
    phase: dict[Value, int] = dict.fromkeys(region.inputs, 0)
    for node in region.nodes:
        own = max((phase[v] for v in node.operands), default=0)
        if "reduction" in node.op.traits:
            own += 1
        phase.update((v, own) for v in node.results)
    return phase


def plan_passes(
    region: Graph,
    byproducts: Collection[Node],
    is_domain: Callable[[Value], bool],
    keep: Callable[[Value], bool],
) -> list[Pass]:
    """The passes over a row; `is_domain` tells values that have an element for each of the row's.

    `keep` is asked about each of them that a later pass needs again, and says whether there is room for it until then.
    """
    phase = phases(region)
    outputs = {i: v for i, v in enumerate(region.outputs) if is_domain(v)}
    reductions = [n for n in region.nodes if "reduction" in n.op.traits and n not in byproducts]
    count = 1 + max(
        [phase[n.operands[0]] for n in (*reductions, *byproducts)] + [phase[v] for v in outputs.values()]
    )
    passes = [Pass() for _ in range(count)]
    for node in reductions:
        passes[phase[node.operands[0]]].reductions.append(node)
    for node in byproducts:
        passes[phase[node.operands[0]]].byproducts.append(node)
    for position, value in outputs.items():
        passes[phase[value]].outputs.append(position)
    first_pass: dict[Value, int] = {}
    kept: dict[Value, bool] = dict.fromkeys(_moved(region), False)
    for number, step in enumerate(passes):
        seen: set[Value] = set()
        stack = step.roots(region)
        while stack:
            value = stack.pop()
            if value in seen or not is_domain(value):
                continue
            seen.add(value)
            if first_pass.setdefault(value, number) < number:
                if value not in kept:
                    kept[value] = keep(value)
                    if kept[value]:
                        passes[first_pass[value]].buffered.append(value)
                if kept[value]:
                    continue
            stack.extend(value.node.operands)
    return passes


def _moved(region: Graph) -> set[Value]:
    """What a view reads: elsewhere than where the row's element is, though its shape may be the domain's (a square's)."""
    stack = [v for n in region.nodes if not n.op.traits & {"pointwise", "reduction"} for v in n.operands]
    moved: set[Value] = set()
    while stack:
        value = stack.pop()
        if value not in moved:
            moved.add(value)
            if "reduction" not in value.node.op.traits:
                stack.extend(value.node.operands)
    return moved


def accumulate(
    node: Node, cells: tuple[Buffer, ...], value: Expr, position: Expr, where: tuple[Expr, ...]
) -> list[Stmt]:
    """A reduction's accumulators (an index reduction has a second one, for the index) with one more element."""
    best = Load(cells[0], where)
    if len(cells) == 1:
        return [store(cells[0], where, Apply(node.op.combine, (best, value)))]
    better: Expr = Apply("gt" if node.op.combine == "max" else "lt", (value, best))
    if value.dtype.is_float:  # the first NaN wins
        fresh_nan = Apply("and", (Apply("ne", (value, value)), Apply("eq", (best, best))))
        better = Apply("or", (better, fresh_nan))
    here = Cast(cells[1].dtype, position)
    return [
        # the index first: it asks for the old best
        store(cells[1], where, Apply("select", (better, here, Load(cells[1], where)))),
        store(cells[0], where, Apply("select", (better, value, best))),
    ]


def is_expensive(node: Node) -> bool:
    """True of what costs more than a store and a load: transcendentals, divisions, roots, gathers."""
    name = node.op.name
    if name in COSTLY or name == "gather":
        return True
    primitive = PRIMITIVES.get(name)
    return "pointwise" in node.op.traits and (primitive is None or primitive.transcendental)
