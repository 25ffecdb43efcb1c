"""A graph as the rows that a page draws: every node with its place in modules and kernels, its side, its source line.

In: a graph of any stage. Out: a `StageView`: rows in order, operands before users, with the regions of fused nodes opened
(their nodes read the outer values directly), and the groups that they are in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphc.ir.cost import summary
from graphc.ir.graph import Dense, Graph, Node, Value
from graphc.ir.loc import Loc
from graphc.ir.printer import print_attr, value_names

FORWARD, BACKWARD, UPDATE = 0, 1, 2
SIDES = ("forward", "backward", "update")
LARGE = 3000  # rows, from which on long runs of rows are made groups of their own
_RUN = 100  # rows of such a group
_SPLIT_LIMIT = 5000  # rows up to which groups are cut so that no path leaves one and comes back

Key = tuple[int, int]  # a value: row and result


@dataclass(eq=False)
class Row:
    """One node. `region` is the group of its kernel in a fused graph, -1 elsewhere."""

    node: Node
    name: str
    operands: tuple[Key, ...]
    side: int
    region: int = -1
    group: int = -1
    outputs: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Literal["input", "const", "op"]:
        name = self.node.op.name
        return "input" if name == "input" else "const" if name == "const" else "op"

    @property
    def label(self) -> str:
        """The op; of a constant its value."""
        return print_attr(self.node.attrs["value"]) if self.kind == "const" else self.node.op.name

    @property
    def attributes(self) -> str:
        skipped = ("type", "value") if self.kind == "const" else ("type", "diagonal")
        return ", ".join(f"{k}={print_attr(v)}" for k, v in self.node.attrs.items() if k not in skipped)

    @property
    def diagonal(self) -> bool:
        return bool(self.node.attrs.get("diagonal"))

    @property
    def dense(self) -> bool:
        return isinstance(self.node.attrs.get("value"), Dense)


@dataclass(eq=False)
class Group:
    """Rows that are drawn as one box: of a module, of a kernel, or a run of rows in a graph too large to draw."""

    label: str
    kind: Literal["module", "kernel", "run"]
    parent: int
    side: int
    detail: str = ""
    region: Graph | None = None


@dataclass(eq=False)
class StageView:
    """The rows and groups of one stage; `where` finds a node's row by its region's group (-1: the outer graph)."""

    name: str
    graph: Graph
    rows: list[Row]
    groups: list[Group]
    where: dict[tuple[int, Node], int]


def stage_view(name: str, graph: Graph) -> StageView:
    """The rows of a graph.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> view = stage_view("traced", build.graph("f", [build.mul(x, build.exp(x))]))
    >>> [(row.name, row.label, row.operands) for row in view.rows]
    [('x', 'input', ()), ('0', 'exp', ((0, 0),)), ('1', 'mul', ((0, 0), (1, 0)))]
    """
    view = StageView(name, graph, [], [], {})
    names = value_names(graph)
    values: dict[Value, Key] = {}
    for value in graph.inputs:
        values[value] = (_add(view, value.node, names[value], ()), 0)
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.operands)
        if (
            node.regions and "control" not in node.op.traits
        ):  # a loop is one row; the text shows what it repeats
            (region,) = node.regions
            kind = print_attr(node.attrs["kind"]).strip('"') if "kind" in node.attrs else node.op.name
            view.groups.append(
                Group(kind, "kernel", -1, _noted(node.loc) or FORWARD, summary(region), region)
            )
            results = _open(view, region, operands, len(view.groups) - 1)
            values.update(zip(node.results, results, strict=True))
        else:
            row = _add(view, node, names[node.results[0]], operands)
            values.update((v, (row, v.index)) for v in node.results)
    output_names = graph.output_names or tuple(f"output {i}" for i in range(len(graph.outputs)))
    for value, output in zip(graph.outputs, output_names, strict=True):
        view.rows[values[value][0]].outputs.append(output)
    _set_sides(view)
    _set_groups(view)
    return view


def _add(view: StageView, node: Node, name: str, operands: tuple[Key, ...], region: int = -1) -> int:
    view.rows.append(Row(node, name, operands, _noted(node.loc) or FORWARD, region))
    view.where[region, node] = len(view.rows) - 1
    return len(view.rows) - 1


def _open(view: StageView, region: Graph, operands: Sequence[Key], group: int) -> list[Key]:
    names = value_names(region)
    values = dict(zip(region.inputs, operands, strict=True))
    for node in region.nodes:
        row = _add(view, node, names[node.results[0]], tuple(values[v] for v in node.operands), group)
        values.update((v, (row, v.index)) for v in node.results)
    return [values[v] for v in region.outputs]


def _noted(loc: Loc) -> int:
    return BACKWARD if loc.note.startswith("d ") else FORWARD


def _set_sides(view: StageView) -> None:
    """What is no derivative and depends on one is an update; an input is on the side that first reads it."""
    rows = view.rows
    first: dict[int, int] = {}
    for row in rows:
        if row.side == FORWARD and any(rows[r].side != FORWARD for r, _ in row.operands):
            row.side = UPDATE
    for i in reversed(range(len(rows))):
        row = rows[i]
        # what only updates (or only derivatives) read belongs to them: a rate that is broadcast, a constant, an input
        least = FORWARD if row.outputs or i not in first else first[i]
        if row.kind != "op" or (row.side == FORWARD and least == UPDATE):
            row.side = least
        for r, _ in row.operands:
            first[r] = min(first.get(r, UPDATE), row.side)
    for number, group in enumerate(view.groups):
        sides = Counter(r.side for r in rows if r.region == number and r.kind == "op")
        if group.side == FORWARD and sides and FORWARD not in sides:
            group.side = sides.most_common(1)[0][0]


# ------------------------------------------------------------------------------------------------------- groups


def _set_groups(view: StageView) -> None:
    """The box of every row: its module's (which may be in another's), in it the kernel's, in it a run's."""
    paths = module_paths({r.node.loc.scope for r in view.rows if r.kind != "input"})
    regions = view.groups[:]
    scope_of = [
        Counter(r.node.loc.scope for r in view.rows if r.region == number).most_common(1)
        for number in range(len(regions))
    ]
    made: dict[tuple[int, str, int, int], int] = {}
    reached: list[dict[tuple[int, str, int], int]] = []
    split = len(view.rows) <= _SPLIT_LIMIT
    for row in view.rows:
        inside = row.region >= 0
        scope = (scope_of[row.region][0][0] if scope_of[row.region] else "") if inside else row.node.loc.scope
        side = regions[row.region].side if inside else row.side
        seen: dict[tuple[int, str, int], int] = {}
        if split:
            for r in dict.fromkeys(r for r, _ in row.operands):
                for key, instance in reached[r].items():
                    seen[key] = max(seen.get(key, 0), instance)
        parent = -1
        for label in paths.get(scope, ()) if row.kind != "input" else ():
            key = parent, label, side
            instance = 0
            for r, _ in row.operands if split else ():
                if key in reached[r]:
                    # a path that was in the group and has left it may not come back: a new group begins
                    instance = max(instance, reached[r][key] + (not _within(view, r, made, key, reached)))
            found = made.get(_slot(key, instance))
            if found is None:
                view.groups.append(Group(label, "module", parent, side))
                found = made[_slot(key, instance)] = len(view.groups) - 1
            seen[key] = max(seen.get(key, 0), instance)
            parent = found
        reached.append(seen)
        if inside:
            regions[row.region].parent = parent
            row.group = row.region
        else:
            row.group = parent
    if len(view.rows) > LARGE:
        _make_runs(view)


def _slot(key: tuple[int, str, int], instance: int) -> tuple[int, str, int, int]:
    return (*key, instance)


def _within(
    view: StageView,
    row: int,
    made: dict[tuple[int, str, int, int], int],
    key: tuple[int, str, int],
    reached: list[dict[tuple[int, str, int], int]],
) -> bool:
    group = view.rows[row].group
    target = made[_slot(key, reached[row][key])]
    while group >= 0 and group != target:
        group = view.groups[group].parent
    return group == target


def module_paths(scopes: set[str]) -> dict[str, tuple[str, ...]]:
    """The boxes of each scope, from the outermost: scopes that have rows, and those that join several others.

    A list of modules is no box of its own: its members are told by their numbers.

    >>> module_paths({"layers.0", "layers.1", "head.a", "head.b"})["head.a"]
    ('head', 'head.a')
    >>> module_paths({"layers.0", "layers.1"})["layers.0"]
    ('layers.0',)
    """
    children: defaultdict[str, set[str]] = defaultdict(set)
    for scope in scopes:
        parts = scope.split(".")
        for i in range(1, len(parts)):
            children[".".join(parts[:i])].add(parts[i])
    boxes = {s for s in scopes if s} | {
        prefix for prefix, below in children.items() if len(below) > 1 and not all(map(str.isdigit, below))
    }
    return {
        scope: tuple(
            p for p in (".".join(scope.split(".")[:i]) for i in range(1, scope.count(".") + 2)) if p in boxes
        )
        for scope in scopes
    }


def _make_runs(view: StageView) -> None:
    """Rows that follow each other in order can always be one box: no path leaves and comes back."""
    members: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, row in enumerate(view.rows):
        if row.kind == "op" or row.dense:
            members[row.group, row.side].append(i)
    for (parent, side), rows in members.items():
        if len(rows) <= 3 * _RUN:
            continue
        for start in range(0, len(rows), _RUN):
            run = rows[start : start + _RUN]
            label = f"%{view.rows[run[0]].name} to %{view.rows[run[-1]].name}"
            view.groups.append(Group(label, "run", parent, side, f"{len(run)} operations"))
            for i in run:
                view.rows[i].group = len(view.groups) - 1
    _nest_groups(view)


def _nest_groups(view: StageView) -> None:
    """The same for groups: where hundreds of kernels or modules are side by side, runs of them are one box."""
    children: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, group in enumerate(view.groups):
        children[group.parent, group.side].append(number)
    for (parent, side), groups in children.items():
        if len(groups) <= 3 * _RUN:
            continue
        for start in range(0, len(groups), _RUN):
            run = groups[start : start + _RUN]
            label = f"{view.groups[run[0]].label} to {view.groups[run[-1]].label}"
            view.groups.append(Group(label, "run", parent, side, f"{len(run)} groups"))
            for number in run:
                view.groups[number].parent = len(view.groups) - 1
