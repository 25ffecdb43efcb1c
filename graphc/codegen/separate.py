"""Fused regions taken apart where the target's kernels for the parts cost less: joined contractions, and by-products.

In: a fused graph, a target. Out: a fused graph in which contractions that share an operand stand in one region only
where that pays. Whether it does is known here, not in the fusion pass: it depends on registers and caches.
Blocks of threads can't add to one sum in a fixed order: there a contraction's by-products get regions of their own.
"""

from __future__ import annotations

from graphc.codegen.schedules.byproduct import byproducts
from graphc.codegen.schedules.joined import pays
from graphc.codegen.schedules.operands import contractions
from graphc.codegen.stages import by_stages
from graphc.codegen.target import Target
from graphc.ir.graph import Builder, Graph, Node, Value


def separate(graph: Graph, target: Target) -> Graph:
    """The graph with a region for each contraction of the regions whose joined contractions don't pay.

    For threads also one for each by-product, and two for a long sum (`stages.py`).

    >>> from graphc.codegen.target import host_target
    >>> separate(Builder().graph("empty", [], "fused"), host_target()).nodes
    ()
    """
    apart = {
        node
        for node in graph.nodes
        if node.attrs.get("kind") == "contract"
        and len(_roots(node.regions[0], target)) > 1
        and (target.has_threads or not pays(node.regions[0], target))
    }
    if not apart:
        return by_stages(graph) if target.has_threads else graph
    build = Builder()
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        if node in apart:
            _take_apart(build, node, new, _roots(node.regions[0], target))
            continue
        build.copy(node, new)
    separated = build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)
    return by_stages(separated) if target.has_threads else separated


def _roots(region: Graph, target: Target) -> list[Node]:
    """The nodes that could each have a region of its own: contractions, and by-products of threads."""
    return contractions(region) + (byproducts(region) if target.has_threads else [])


def _take_apart(build: Builder, node: Node, new: dict[Value, Value], roots: list[Node]) -> None:
    """Emits a fused node for each of `roots`; `new` gets the results of `node`."""
    region = node.regions[0]
    part_of = _parts(region, roots)
    outer = {v: new[o] for v, o in zip(region.inputs, node.operands, strict=True)}
    names = {v: o.node.name for v, o in zip(region.outputs, node.results, strict=True)}
    for part, root in enumerate(roots):
        own = [n for n in region.nodes if part_of.get(n) == part]
        needed = _needed(own, part_of, part)
        members = [n for n in region.nodes if n in needed]
        inside = set(members)
        later = {
            v
            for n in region.nodes
            if part_of.get(n, part) > part
            for v in n.operands
            if part_of.get(v.node) == part
        }
        results = [v for n in own for v in n.results if v in later or v in region.outputs]
        inner = Builder()
        operands = list(dict.fromkeys(v for n in members for v in n.operands if v.node not in inside))
        copies = inner.inputs_for(operands)
        for member in members:
            inner.copy(member, copies)
        body = inner.graph(region.name, [copies[v] for v in results])
        made = build.emit(
            node.op,
            [outer[v] for v in operands],
            node.attrs if "contraction" in root.op.traits else {**node.attrs, "kind": "reduce"},
            (body,),
            root.loc,
            next((names[v] for v in results if names.get(v)), ""),
        )
        outer.update(zip(results, made.results, strict=True))
    new.update((o, outer[v]) for v, o in zip(region.outputs, node.results, strict=True))


def _parts(region: Graph, roots: list[Node]) -> dict[Node, int]:
    """For each root its number, for what depends on contractions the last one's; no part for all else.

    A result that depends on none belongs to the first contraction of its shape: its readers come with that one or later.
    """
    shapes = [n.type.shape for n in contractions(region)]
    part_of: dict[Node, int] = {n: i for i, n in enumerate(roots)}
    for node in region.nodes:
        if node not in part_of:
            parts = [part_of[v.node] for v in node.operands if v.node in part_of]
            if not parts and any(v in region.outputs for v in node.results):
                parts.append(shapes.index(node.type.shape))
            if parts:
                part_of[node] = max(parts)
    return part_of


def _needed(own: list[Node], part_of: dict[Node, int], part: int) -> set[Node]:
    """These nodes, and what they need that belongs to no part: views, splats, what an operand computes."""
    needed: set[Node] = set()
    stack = list(own)
    while stack:
        node = stack.pop()
        if node in needed or node.op.name == "input" or part_of.get(node, part) != part:
            continue
        needed.add(node)
        stack.extend(v.node for v in node.operands)
    return needed
