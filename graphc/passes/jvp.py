"""Forward mode as a pass: one sweep from the inputs on gives the tangent of every value.

In: a graph. Out: a graph of stage "differentiated" that computes the outputs and the tangents of its float outputs. All
follows from what the ops state for the reverse sweep: a pointwise op multiplies the tangent with the diagonal of its
Jacobian, a linear op is its own tangent, an op that states only its adjoint has the adjoint of that as its tangent.

Forward accumulation: Griewank & Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.opdef import Tangents
from graphc.passes.vjp import float_inputs, fresh_name, times_diagonal, vjp


def jvp(graph: Graph, wrt: Sequence[str | int] | None = None) -> Graph:
    """The graph's outputs, then the tangents of its float outputs.

    The tangents of the inputs `wrt` (default: every float input) are further inputs ``t_<input>``; all others are
    constant. Raises `ArgumentError` for an unknown input, `DTypeError` for one that is not a float.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[()], "x")
    >>> from graphc.ir.printer import print_graph
    >>> print(print_graph(jvp(build.graph("sine", [build.sin(x)])), locations=False))
    graphc 1
    graph @sine_jvp(%x: f32[], %t_x: f32[]) -> (f32[], %t_0: f32[]) stage differentiated {
      %0 = sin %x : f32[]
      %1 = cos %x : f32[]
      %2 = mul %t_x, %1 {diagonal} : f32[]
      return %0, %2
    }
    """
    wanted = float_inputs(graph, wrt, "jvp")
    build = Builder()
    inputs = [build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs]
    new = dict(zip(graph.inputs, inputs, strict=True))
    tangents: dict[Value, Value] = {}
    for value in wanted:
        taken = [v.node.name for v in build.inputs]
        tangents[new[value]] = build.input(value.type, fresh_name(f"t_{value.node.name}", taken))
    for node in graph.nodes:
        regions = node.op.differentiated(node) if node.op.differentiated is not None else node.regions
        copy = build.emit(node.op, [new[v] for v in node.operands], node.attrs, regions, node.loc, node.name)
        new.update(zip(node.results, copy.results, strict=True))
        own = [tangents.get(v) for v in copy.operands]
        if any(t is not None for t in own):
            build.loc = node.loc.with_note(f"tangent of {node.name or node.op.name}")
            results, pushed = push(build, copy, own)
            new.update(zip(node.results, results, strict=True))
            for value, tangent in zip(results, pushed, strict=True):
                if tangent is not None and value.dtype.is_float and value not in tangents:
                    tangents[value] = tangent
    outputs = [new[v] for v in graph.outputs]
    names = list(graph.output_names or ("",) * len(outputs))
    found: list[Value] = []
    for position, value in enumerate(outputs):
        if value.dtype.is_float:
            found.append(tangents.get(value) or build.zeros(value.type))
            own_name = (graph.output_names[position] if graph.output_names else "") or str(position)
            names.append(fresh_name(f"t_{own_name}", names))
    return build.graph(f"{graph.name}_jvp", [*outputs, *found], "differentiated", names)


def derive(graph: Graph, wrt: Sequence[int], wanted: Sequence[int]) -> Graph:
    """The outputs and the tangents of the float outputs `wanted`, where the inputs `wrt` have tangents: inputs after
    the graph's own. What the rules of ops with regions are given for these.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, y = build.input(f32[2], "x"), build.input(f32[2], "y")
    >>> derive(build.graph("f", [build.sin(x), build.mul(x, y)]), [0], [1]).output_names
    ('', '', 't_1')
    """
    derived = jvp(graph, list(wrt))
    count = len(graph.outputs)
    floats = [i for i, v in enumerate(graph.outputs) if v.dtype.is_float]
    kept = [*range(count), *(count + floats.index(i) for i in wanted)]
    names = [derived.output_names[i] for i in kept]
    return Graph(
        derived.name, derived.inputs, tuple(derived.outputs[i] for i in kept), derived.stage, tuple(names)
    )


def push(build: Builder, node: Node, tangents: Sequence[Value | None]) -> Tangents:
    """What stands for a node's results, and their tangents, None where there is none, from those of its operands."""
    if node.op.tangent is not None:
        return node.op.tangent(build, node, tangents, derive)
    return node.results, _tangents(build, node, tangents)


def _tangents(build: Builder, node: Node, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    op = node.op
    if op.diagonal:
        parts = [
            times_diagonal(build, tangent, diagonal, node)
            for diagonal, tangent in zip(op.diagonal, tangents, strict=True)
            if diagonal is not None and tangent is not None
        ]
        found = [p for p in parts if p is not None]
        return [_sum(build, found)]
    if "linear" in op.traits:
        operands = [
            v if not v.dtype.is_float else build.zeros(v.type) if t is None else t
            for v, t in zip(node.operands, tangents, strict=True)
        ]
        if not all(type.dtype.is_float for type in node.types):
            return [None] * len(node.types)
        return build.emit(op, operands, node.attrs).results
    if "recomputed" in op.traits:
        return _pushed_region(build, node, tangents)
    if op.adjoint is not None:
        return _transposed(build, node, tangents)
    return [None] * len(node.types)


def _sum(build: Builder, parts: list[Value]) -> Value | None:
    total = parts[0] if parts else None
    for part in parts[1:]:
        assert total is not None
        total = build.add(total, part)
    return total


def _pushed_region(build: Builder, node: Node, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The same op on the region's own forward sweep: what computes it again later computes its tangents again too."""
    region = node.regions[0]
    known = [i for i, t in enumerate(tangents) if t is not None]
    derived = jvp(region, known)
    body = Graph("region", derived.inputs, derived.outputs[len(region.outputs) :])
    pushed = iter(
        build.emit(node.op, [*node.operands, *(t for t in tangents if t is not None)], {}, [body]).results
    )
    return [next(pushed) if type.dtype.is_float else None for type in node.types]


def _transposed(build: Builder, node: Node, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """J t as the adjoint of g ↦ Jᵀ g, which is linear in g: the op states its adjoint alone."""
    assert node.op.adjoint is not None
    inner = Builder()
    operands = [inner.input(v.type, f"x{i}") for i, v in enumerate(node.operands)]
    copy = inner.emit(node.op, operands, node.attrs, node.regions, node.loc)
    floats = [i for i, type in enumerate(node.types) if type.dtype.is_float]
    if not floats:
        return [None] * len(node.types)
    seeds = {i: inner.input(node.types[i], f"g{i}") for i in floats}
    cotangents = node.op.adjoint(inner, copy, [seeds.get(i) for i in range(len(node.types))])
    pairs = [(c, t) for c, t in zip(cotangents, tangents, strict=True) if c is not None and t is not None]
    if not pairs:
        return [None] * len(node.types)
    adjoint = inner.graph("adjoint", [c for c, _ in pairs])
    count = len(operands)
    derived = vjp(adjoint, range(count, count + len(floats)))
    zeros = [build.zeros(node.types[i]) for i in floats]
    found = iter(build.inline(derived, [*node.operands, *zeros, *(t for _, t in pairs)])[len(pairs) :])
    return [next(found) if i in seeds else None for i in range(len(node.types))]
