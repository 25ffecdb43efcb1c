"""The chain rule as a pass: one reverse sweep gives the cotangent of every value, shared prefixes computed once.

In: a graph with float outputs. Out: a graph of stage "differentiated" that computes the outputs and the gradients.
A pointwise op contributes the diagonal of its Jacobian (marked, never built as a matrix), any other op its adjoint.

Reverse accumulation: Griewank & Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir import scalar
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.inline import inline
from graphc.ir.opdef import Pullback, to_graph
from graphc.ir.scalar import Scalar


def vjp(graph: Graph, wrt: Sequence[str | int] | None = None, seeds: bool = True) -> Graph:
    """The graph's outputs, then the gradient with respect to each input in `wrt` (default: every float input).

    With `seeds` the cotangents of the float outputs are further inputs ``d_<output>``; without, the first output, a
    float scalar, is seeded with 1 and the others only ride along. Raises `ArgumentError` for an unknown input,
    `DTypeError` for one that is not a float, `ShapeError` where a scalar output is needed and not there.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[()], "x")
    >>> from graphc.ir.printer import print_graph
    >>> print(print_graph(vjp(build.graph("square", [build.mul(x, x)]), seeds=False), locations=False))
    graphc 1
    graph @square_vjp(%x: f32[]) -> (f32[], %d_x: f32[]) stage differentiated {
      %0 = mul %x, %x : f32[]
      %1 = const 1.0 : f32[]
      %2 = mul %1, %x {diagonal} : f32[]
      %3 = add %2, %2 : f32[]
      return %0, %3
    }
    """
    targets = float_inputs(graph, wrt, "vjp")
    if not seeds:
        check_scalar_output(graph)
    floats = [position for position, v in enumerate(graph.outputs) if v.dtype.is_float]
    return _derived(graph, targets, floats if seeds else None)


def derive(graph: Graph, wrt: Sequence[int], seeded: Sequence[int]) -> Graph:
    """The outputs and the cotangents of the inputs `wrt`, where the float outputs `seeded` have cotangents: inputs
    after the graph's own. What the rules of ops with regions are given for these.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, y = build.input(f32[2], "x"), build.input(f32[2], "y")
    >>> derive(build.graph("f", [build.sin(x), build.mul(x, y)]), [0], [1]).input_names
    ('x', 'y', 'd_1')
    """
    return _derived(graph, [graph.inputs[i] for i in wrt], seeded)


@dataclass(frozen=True)
class _Step:
    """A node of the forward pass: its copy's operands, what stands for its results, and its adjoint if it has one of
    its own here."""

    node: Node
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    pullback: Pullback | None = None


def _derived(graph: Graph, targets: Sequence[Value], seeded: Sequence[int] | None) -> Graph:
    """`seeded` are the outputs with cotangents; None seeds the first one with 1."""
    build = Builder()
    inputs = [build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs]
    new = dict(zip(graph.inputs, inputs, strict=True))
    needed = _reached(graph, targets)
    active = _leading(graph, [graph.outputs[i] for i in (seeded if seeded is not None else (0,))])
    forward: list[_Step] = []
    for node in graph.nodes:
        regions = node.op.differentiated(node) if node.op.differentiated is not None else None
        copy = build.copy(node, new, regions)
        step = _Step(copy, copy.operands, copy.results)
        if node.op.augment is not None:
            kept = node.op.augment(
                build, copy, [v in needed for v in node.operands], [v in active for v in node.results], derive
            )
            if kept is not None:
                new.update(zip(node.results, kept.results, strict=True))
                step = _Step(copy, copy.operands, kept.results, kept.pullback)
        forward.append(step)
    outputs = [new[v] for v in graph.outputs]
    cotangents = _Cotangents(build)
    if seeded is None:
        cotangents.add(outputs[0], build.splat(1, outputs[0].type))
    for position in seeded or ():
        name = (graph.output_names[position] if graph.output_names else "") or str(position)
        taken = [v.node.name for v in build.inputs]
        cotangents.add(outputs[position], build.input(outputs[position].type, fresh_name(f"d_{name}", taken)))
    wanted = [new[v] for v in targets]
    own = _sweep(
        build, forward, wanted, cotangents, graph.output_names[0] if graph.output_names else graph.name
    )
    gradients = [cotangents.total(v) or build.zeros(v.type) for v in wanted]
    names = list(graph.output_names or ("",) * len(outputs))
    for value in wanted:
        names.append(fresh_name(f"d_{value.node.name}", names))
    derived = build.graph(f"{graph.name}_vjp", [*outputs, *gradients], "differentiated", names)
    return inline(derived, own) if own else derived


def _reached(graph: Graph, targets: Sequence[Value]) -> set[Value]:
    """The values that derivatives lead to from one of `targets`."""
    reached = set(targets)
    for node in graph.nodes:
        if any(v in reached and node.op.passes(i) for i, v in enumerate(node.operands)):
            reached.update(v for v in node.results if v.dtype.is_float)
    return reached


def _leading(graph: Graph, goals: Sequence[Value]) -> set[Value]:
    """The values from which derivatives lead to one of `goals`."""
    leading = set(goals)
    for node in reversed(graph.nodes):
        if any(v in leading for v in node.results):
            leading.update(v for i, v in enumerate(node.operands) if v.dtype.is_float and node.op.passes(i))
    return leading


def fresh_name(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken: a second derivative has two gradients with respect to one input."""
    number = 1
    fresh = name
    while fresh in taken:
        number += 1
        fresh = f"{name}.{number}"
    return fresh


def float_inputs(graph: Graph, wrt: Sequence[str | int] | None, what: str) -> list[Value]:
    """The inputs `wrt`, by name or position; every float input where it is None. `what` asks, for errors."""
    if wrt is None:
        return [v for v in graph.inputs if v.dtype.is_float]
    by_name = {v.node.name: v for v in graph.inputs}
    targets = []
    for key in wrt:
        if isinstance(key, str) and key not in by_name:
            raise ArgumentError(f"{what}: wrt: expected one of {', '.join(by_name)}, got {key!r}")
        if isinstance(key, int) and not 0 <= key < len(graph.inputs):
            raise ArgumentError(f"{what}: wrt: expected an input below {len(graph.inputs)}, got {key}")
        value = by_name[key] if isinstance(key, str) else graph.inputs[key]
        if not value.dtype.is_float:
            raise DTypeError(f"{what}: wrt: %{value.node.name}: expected a float input, got {value.type!r}")
        targets.append(value)
    return targets


def check_scalar_output(graph: Graph) -> None:
    """Raises unless the first output is a float scalar, the only kind of loss that needs no seed."""
    loss = graph.outputs[0].type if graph.outputs else None
    if loss is None or loss.shape != () or not loss.dtype.is_float:
        raise ShapeError(f"@{graph.name}: expected a float scalar to differentiate, got {loss!r}")


class _Cotangents:
    """The cotangent contributions of each value; they are summed when the value's own turn comes."""

    def __init__(self, build: Builder) -> None:
        self._build = build
        self._parts: dict[Value, list[Value]] = {}

    def add(self, value: Value, part: Value | None) -> None:
        if part is not None:
            self._parts.setdefault(value, []).append(part)

    def total(self, value: Value) -> Value | None:
        parts = self._parts.get(value)
        if not parts:
            return None
        while len(parts) > 1:
            parts[:] = [self._build.add(parts[0], parts[1]), *parts[2:]]
        return parts[0]


def _sweep(
    build: Builder, forward: list[_Step], wanted: list[Value], cotangents: _Cotangents, loss: str
) -> set[Node]:
    """The reverse sweep. Gives the nodes whose own rule it used up: to the next derivative they are what they compute."""
    needed: set[Value] = set(wanted)  # values through which a wanted input is reached
    own: set[Node] = set()
    for step in forward:
        if any(v in needed for v in step.operands):
            needed.update(v for v in step.results if v.dtype.is_float)
    for step in reversed(forward):
        node = step.node
        if not any(v in needed for v in step.results):
            continue
        source = next((v.node.name for v in node.operands if v in needed and v.node.name), node.name)
        build.loc = node.loc.with_note(f"d {loss} / d {source or node.op.name}")
        totals = [cotangents.total(v) for v in step.results]
        if all(t is None for t in totals):
            continue
        if step.pullback is not None:
            parts: Sequence[Value | None] = step.pullback(totals)
        elif node.op.diagonal:
            (g,) = totals
            assert g is not None
            parts = [
                times_diagonal(build, g, diagonal, node)
                if diagonal is not None and operand in needed
                else None
                for diagonal, operand in zip(node.op.diagonal, node.operands, strict=True)
            ]
        elif node.op.adjoint is not None:
            parts = node.op.adjoint(build, node, totals)
            if node.op.differentiated is not None:
                own.add(node)
        elif "recomputed" in node.op.traits:
            parts = _recomputed(build, node, totals, loss)
        else:
            continue  # the op has no derivative: nothing flows through it (its reason is in the registry)
        for operand, part in zip(node.operands, parts, strict=True):
            if operand in needed:
                cotangents.add(operand, part)
    for value in wanted:
        build.loc = value.node.loc.with_note(f"d {loss} / d {value.node.name}")
        cotangents.total(value)
    return own


def _recomputed(
    build: Builder, node: Node, cotangents: Sequence[Value | None], loss: str
) -> Sequence[Value | None]:
    """The pullback of a region whose values were not kept: it is computed again, from operands `after` a cotangent."""
    region = node.regions[0]
    floats = [i for i, v in enumerate(region.outputs) if v.dtype.is_float]
    seeds = [cotangents[i] or build.zeros(region.outputs[i].type) for i in floats]
    token = next(g for g in cotangents if g is not None)
    outputs = [region.outputs[i] for i in floats]
    derived = vjp(region.with_outputs(outputs, [loss, *[""] * (len(outputs) - 1)]))
    late = [build.after(v, token) for v in node.operands]
    gradients = iter(build.inline(derived, [*late, *seeds])[len(floats) :])
    return [next(gradients) if v.dtype.is_float else None for v in node.operands]


def times_diagonal(build: Builder, g: Value, diagonal: Scalar, node: Node) -> Value | None:
    """g ⊙ diagonal. A factor of 0, 1 or -1 needs no product; a choice between factors stays a choice, so that a
    derivative that is 0 stops an infinite or NaN cotangent."""
    args = (*node.operands, *node.results)
    if diagonal.fn == "const":
        if diagonal.value == 0:
            return None
        if diagonal.value in (1, -1):
            return g if diagonal.value == 1 else build.neg(g)
    if diagonal.fn == "select":
        condition, yes, no = diagonal.args
        if condition.fn == "arg" or _is_condition(condition):
            chosen = times_diagonal(build, g, yes, node)
            other = times_diagonal(build, g, no, node)
            if chosen is None and other is None:
                return None
            zero = build.zeros(g.type)
            where = to_graph(condition, build, args, g.type)
            return build.select(where, chosen or zero, other or zero, diagonal=True)
    return build.mul(g, to_graph(diagonal, build, args, g.type), diagonal=True)


def _is_condition(tree: Scalar) -> bool:
    return tree.fn in scalar.PRIMITIVES and scalar.PRIMITIVES[tree.fn].result == "bool"
