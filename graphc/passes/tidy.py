"""Loops and branches without what nothing needs: results that nobody reads, carries that never change, empty loops.

In: a graph. Out: an equal one. These are rules as those of `simplify`, but they look at who reads a result.

- A carry or y that no result needs is dropped, a carry that stays what it is becomes a capture.
- Captures and xs of the same value are one. Splats, and xs that are the same in all steps, are made inside; large constants
  are captured, so that there is one of each.
- A y that is a slice of xs, or the same in all steps, needs no loop.
- A loop of no steps is its first carry, a loop of one step its body, a branch whose condition is known is that branch.
- Two loops whose carries go through the same values are one: a derivative's forward loop and the loop that it derives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence

from graphc.ir import ops
from graphc.ir.graph import Attr, Builder, Dense, Graph, Node, Value
from graphc.ir.loc import Loc
from graphc.ir.ops.scan_parts import ScanParts
from graphc.ir.types import TensorType
from graphc.passes.regions import has_control, inside
from graphc.passes.rewrite import splat_of

_ROUNDS = 8  # a dropped result may leave others unread: deeper chains than this stay, and cost time only


def tidy(graph: Graph) -> Graph:
    """The graph with every rule applied to its loops and branches, those inside of others first.

    >>> graph = Builder().graph("empty", [])
    >>> tidy(graph) is graph
    True
    """
    if not has_control(graph):
        return graph
    graph = inside(graph, tidy)
    for _ in range(_ROUNDS):
        after = _once(_merged(graph))
        if after == graph:
            break
        graph = after
    return graph


def _once(graph: Graph) -> Graph:
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    read = {*graph.outputs, *(v for n in graph.nodes for v in n.operands)}
    for node in graph.nodes:
        build.loc = node.loc
        if node.op is ops.scan:
            _scan(build, node, new, read)
        elif node.op is ops.cond:
            _cond(build, node, new, read)
        elif node.op is ops.while_:
            _while(build, node, new, read)
        else:
            copy = build.copy(node, new)
            copy.other_locs.extend(loc for loc in node.other_locs if loc not in copy.other_locs)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def read_inputs(region: Graph, outputs: Iterable[Value]) -> set[Value]:
    """The inputs that these values of a region are made of."""
    seen: set[Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            stack.extend(value.node.operands)
    return seen & set(region.inputs)


class Body:
    """A region that is built anew: inputs are made when they are first read, equal ones once.

    `outer` is the builder of the graph around it, whose values are captured or sliced.
    """

    def __init__(self, outer: Builder, name: str) -> None:
        self.outer = outer
        self.build = Builder()
        self.carries: list[Value] = []
        self.captures: dict[Value, Value] = {}  # values of `outer`, and the inputs that they are here
        self.xs: dict[Value, Value] = {}
        self._name = name
        self._names: set[str] = set()

    def _input(self, type: TensorType, name: str) -> Value:
        fresh = name = name or "value"
        number = 1
        while fresh in self._names:
            number += 1
            fresh = f"{name}.{number}"
        self._names.add(fresh)
        return self.build.input(type, fresh)

    def carry(self, port: Value) -> Value:
        self.carries.append(self._input(port.type, port.node.name))
        return self.carries[-1]

    def capture(self, value: Value, name: str = "") -> Value:
        """A value from around it; a splat is made here."""
        number = splat_of(value)
        if number is not None:
            return self.build.splat(number, value.type)
        if value not in self.captures:
            self.captures[value] = self._input(value.type, name or value.node.name)
        return self.captures[value]

    def slice(self, value: Value, name: str = "") -> Value:
        """The step's slice of a value from around it; one that is the same in all steps is captured."""
        type = TensorType(value.dtype, value.shape[1:])
        number = splat_of(value)
        if number is not None:
            return self.build.splat(number, type)
        node = value.node
        if node.op is ops.broadcast and 0 not in node.ints("dims"):
            inner = self.capture(node.operands[0], name)
            if inner.type == type:
                return inner
            return self.build.broadcast(inner, dims=tuple(d - 1 for d in node.ints("dims")), shape=type.shape)
        if value not in self.xs:
            self.xs[value] = self._input(type, name or node.name)
        return self.xs[value]

    def copy(self, outputs: Sequence[Value], new: MutableMapping[Value, Value]) -> list[Value]:
        """Values of another region here, where `new` has the inputs that they are made of. Constants are captured."""
        for node in members(outputs, new):
            if node.op is ops.const and isinstance(node.attrs["value"], Dense):
                made = self.outer.emit(node.op, (), node.attrs, (), node.loc, node.name)
                new[node.results[0]] = self.capture(made.results[0])
            else:
                self.build.copy(node, new)
        return [new[v] for v in outputs]

    def graph(self, outputs: Sequence[Value]) -> Graph:
        inputs = (*self.carries, *self.captures.values(), *self.xs.values())
        return Graph(self._name, inputs, tuple(outputs))


def members(outputs: Iterable[Value], known: Collection[Value]) -> list[Node]:
    """The nodes that make these values of what is known, in order."""
    found: set[Node] = set()
    stack = [v for v in outputs if v not in known]
    while stack:
        node = stack.pop().node
        if node not in found:
            found.add(node)
            stack.extend(v for v in node.operands if v not in known)
    return sorted(found, key=lambda n: n.serial)


def emit_scan(
    outer: Builder,
    body: Body,
    init: Sequence[Value],
    outputs: Sequence[Value],
    length: int,
    attrs: Mapping[str, Attr],
    loc: Loc,
    name: str = "",
) -> Node:
    """A scan with this body; `attrs` are those of another scan."""
    own = {**attrs, "carries": len(init), "captures": len(body.captures), "length": length}
    return outer.emit(ops.scan, [*init, *body.captures, *body.xs], own, [body.graph(outputs)], loc, name)


def _scan(build: Builder, node: Node, new: dict[Value, Value], read: Collection[Value]) -> None:
    parts = ScanParts(node)
    region, n, length = parts.body, parts.carries, parts.length
    if length < 2:
        _unrolled(build, parts, new)
        return
    following = dict(zip(region.inputs[:n], region.outputs[:n], strict=True))
    results = dict(zip(region.inputs[:n], node.results[:n], strict=True))
    wanted = [v for v, r in zip(region.outputs[n:], parts.ys, strict=True) if r in read]
    live = {c for c, r in results.items() if r in read}
    while True:
        reached = read_inputs(region, [*wanted, *(following[c] for c in live)]) & set(following)
        if reached <= live:
            break
        live |= reached
    body = Body(build, region.name)
    inner: dict[Value, Value] = {}
    init = {c: new[v] for c, v in zip(region.inputs, parts.init, strict=False)}
    kept = [c for c in region.inputs[:n] if c in live and following[c] != c]
    inner.update((c, body.carry(c)) for c in kept)
    inner.update((c, body.capture(init[c], c.node.name)) for c in live if following[c] == c)
    needed = read_inputs(region, [*wanted, *(following[c] for c in kept)])
    outside: dict[Value, Value] = {}  # what is the same in each step, or a slice of something outside
    for port, operand in zip(region.inputs[n:], node.operands[n:], strict=True):
        value = new[operand]
        sliced = port not in region.inputs[n : n + parts.captures]
        outside[port] = value if sliced else stacked_same(build, value, length)
        if port in needed:
            inner[port] = body.slice(value, port.node.name) if sliced else body.capture(value, port.node.name)
    for c in region.inputs[:n]:
        if following[c] == c:
            outside[c] = stacked_same(build, init[c], length)
            new[results[c]] = init[c]
    ys: dict[Value, list[Value]] = {}
    for value, result in zip(region.outputs[n:], parts.ys, strict=True):
        if result not in read:
            continue
        number = splat_of(value)
        if value in outside:
            new[result] = outside[value]
        elif number is not None:
            new[result] = build.splat(number, result.type)
        else:
            ys.setdefault(value, []).append(result)
    if not kept and not ys:
        return
    outputs = body.copy([*(following[c] for c in kept), *ys], inner)
    made = emit_scan(build, body, [init[c] for c in kept], outputs, length, node.attrs, node.loc, node.name)
    new.update((results[c], made.results[i]) for i, c in enumerate(kept))
    for old, result in zip(ys.values(), made.results[len(kept) :], strict=True):
        new.update((r, result) for r in old)


def stacked_same(build: Builder, value: Value, length: int) -> Value:
    """A stack of one value."""
    number = splat_of(value)
    type = TensorType(value.dtype, (length, *value.shape))
    if number is not None:
        return build.splat(number, type)
    return build.broadcast(value, dims=tuple(range(1, type.rank)), shape=type.shape)


def _unrolled(build: Builder, parts: ScanParts, new: dict[Value, Value]) -> None:
    """A loop of no or one step."""
    node, n = parts.node, parts.carries
    if not parts.length:
        new.update(zip(node.results, (new[v] for v in parts.init), strict=False))
        new.update((y, build.splat(0, y.type)) for y in parts.ys)
        return
    whole = [new[v] for v in node.operands[: n + parts.captures]]
    slices = [build.reshape(new[v], shape=v.shape[1:]) for v in parts.xs]
    outputs = build.inline(parts.body, [*whole, *slices])
    new.update(zip(node.results, outputs[:n], strict=False))
    for y, value in zip(parts.ys, outputs[n:], strict=True):
        new[y] = build.reshape(value, shape=y.shape)


def _cond(build: Builder, node: Node, new: dict[Value, Value], read: Collection[Value]) -> None:
    condition = splat_of(new[node.operands[0]])
    values = [new[v] for v in node.operands[1:]]
    if condition is not None:
        chosen = node.regions[0 if condition else 1]
        new.update(zip(node.results, build.inline(chosen, values), strict=True))
        return
    wanted = [i for i, r in enumerate(node.results) if r in read]
    bodies = [Body(build, region.name) for region in node.regions]
    outputs = []
    for body, region in zip(bodies, node.regions, strict=True):
        needed = read_inputs(region, [region.outputs[i] for i in wanted])
        ports = zip(region.inputs, values, strict=True)
        inner = {p: body.capture(v, p.node.name) for p, v in ports if p in needed}
        outputs.append(body.copy([region.outputs[i] for i in wanted], inner))
    captures = _shared(bodies)
    regions = [body.graph(o) for body, o in zip(bodies, outputs, strict=True)]
    made = build.emit(ops.cond, [new[node.operands[0]], *captures], {}, regions, node.loc, node.name)
    new.update((node.results[i], made.results[k]) for k, i in enumerate(wanted))


def _shared(bodies: Sequence[Body]) -> list[Value]:
    """Gives all of a node's regions the same captures, in the same order."""
    values = list(dict.fromkeys(v for body in bodies for v in body.captures))
    for body in bodies:
        held = {v: body.captures.get(v) or body.capture(v) for v in values}
        body.captures = held
    return values


def _while(build: Builder, node: Node, new: dict[Value, Value], read: Collection[Value]) -> None:
    condition, region = node.regions
    n = node.int("carries")
    following = dict(enumerate(region.outputs))
    place = {v: i for r in node.regions for i, v in enumerate(r.inputs)}
    live = {i for i in range(n) if node.results[i] in read}
    while True:
        reached = read_inputs(condition, condition.outputs)
        reached |= read_inputs(region, [following[i] for i in live])
        more = {place[v] for v in reached if place[v] < n}
        if more <= live:
            break
        live |= more
    values = [new[v] for v in node.operands]
    kept = [i for i in sorted(live) if following[i] != region.inputs[i]]
    bodies = [Body(build, r.name) for r in node.regions]
    made_of = []
    for body, own, wanted in zip(
        bodies, node.regions, (condition.outputs, [following[i] for i in kept]), strict=True
    ):
        inner = {own.inputs[i]: body.carry(own.inputs[i]) for i in kept}
        needed = read_inputs(own, wanted)
        for port, value in zip(own.inputs, values, strict=True):
            if port in needed and port not in inner:
                inner[port] = body.capture(value, port.node.name)
        made_of.append(body.copy(list(wanted), inner))
    captures = _shared(bodies)
    regions = [body.graph(o) for body, o in zip(bodies, made_of, strict=True)]
    operands = [*(values[i] for i in kept), *captures]
    for i in range(n):
        if following[i] == region.inputs[i]:
            new[node.results[i]] = values[i]
    if kept:
        made = build.emit(ops.while_, operands, {"carries": len(kept)}, regions, node.loc, node.name)
        new.update((node.results[i], made.results[k]) for k, i in enumerate(kept))


# ----------------------------------------------------------------------------------------------------- equal loops


def _merged(graph: Graph) -> Graph:
    """Two scans from the same first carries, whose bodies give the same next ones, are one with the ys of both."""
    scans = [n for n in graph.nodes if n.op is ops.scan and n.int("carries")]
    groups: dict[object, list[Node]] = {}
    for node in scans:
        parts = ScanParts(node)
        key = (parts.init, parts.length, parts.reverse, node.attrs.get("remat", False))
        groups.setdefault(key, []).append(node)
    first: dict[Node, tuple[Node, list[Node]]] = {}
    for found in groups.values():
        while len(found) > 1:
            one, *others = found
            same = [o for o in others if _joins(one, o)]
            if same:
                first.update((n, (one, [one, *same])) for n in (one, *same))
            found = [o for o in others if o not in same]
    if not first:
        return graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        if node not in first:
            build.copy(node, new)
        elif node is first[node][0]:
            _join(build, first[node][1], new)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def _joins(one: Node, other: Node) -> bool:
    """True if the other's operands are there where the first one stands, and the carries go through the same values."""
    if any(v.node.serial > one.serial for v in other.operands):
        return False
    together = Body(Builder(), "both")
    nexts = [_copied_into(together, node, {})[: node.int("carries")] for node in (one, other)]
    return nexts[0] == nexts[1]


def _copied_into(body: Body, node: Node, new: Mapping[Value, Value]) -> list[Value]:
    """The outputs of a scan's body in another one, whose carries are the first scan's; `new` has the operands."""
    parts = ScanParts(node)
    region, n = parts.body, parts.carries
    inner: dict[Value, Value] = {}
    for position, port in enumerate(region.inputs[:n]):
        inner[port] = body.carries[position] if position < len(body.carries) else body.carry(port)
    for position, (port, operand) in enumerate(zip(region.inputs[n:], node.operands[n:], strict=True)):
        value = new.get(operand, operand)
        name = port.node.name
        inner[port] = body.capture(value, name) if position < parts.captures else body.slice(value, name)
    return body.copy(region.outputs, inner)


def _join(build: Builder, nodes: Sequence[Node], new: dict[Value, Value]) -> None:
    parts = ScanParts(nodes[0])
    body = Body(build, parts.body.name)
    n = parts.carries
    outputs = [_copied_into(body, node, new) for node in nodes]
    ys = [v for own in outputs for v in own[n:]]
    init = [new[v] for v in parts.init]
    node = nodes[0]
    made = emit_scan(build, body, init, [*outputs[0][:n], *ys], parts.length, node.attrs, node.loc, node.name)
    at = n
    for own in nodes:
        new.update(zip(own.results[:n], made.results[:n], strict=True))
        count = len(own.results) - n
        new.update(zip(own.results[n:], made.results[at : at + count], strict=True))
        at += count
