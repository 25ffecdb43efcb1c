"""Merging dimensions: a region whose nodes treat neighbouring dimensions alike iterates over their product.

In: a region. Out: the same region with fewer, longer dimensions (row-major buffers don't care), so that vectors are full
and a contraction has one long dimension of rows instead of a loop over short ones.

Every dimension of every value gets a label: the dimension of the iteration that it is. Two labels become one where no
value has one of them without the other right behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.ops.contract import dimensions
from graphc.ir.types import TensorType

Labels = tuple[int, ...]


def collapse(region: Graph, domain: Sequence[int], axes: Sequence[int] = ()) -> Graph:
    """A map or reduce region over merged dimensions of `domain`; the region itself where something in it forbids that.

    `axes` are the reduced dimensions of a reduce region.
    """
    every = tuple(range(len(domain)))
    kept = tuple(d for d in every if d not in axes)
    labelled = _Labelled(region)
    for node in region.nodes:
        shape = node.type.shape
        if "reduction" in node.op.traits:
            labels, fits = kept, node.ints("axes") == tuple(axes) and labelled.give(node.operands[0], every)
        elif shape == tuple(domain):
            labels, fits = every, True
        else:
            labels, fits = kept, bool(axes) and shape == tuple(domain[d] for d in kept)
        is_scalar = node.op.name == "const" and shape == ()
        if not is_scalar and not (fits and labelled.give(node.results[0], labels)):
            return region
    return labelled.merged()


def collapse_contraction(region: Graph) -> Graph:
    """A contract region over merged dimensions; the region itself where something in it forbids that."""
    contractions = [n for n in region.nodes if "contraction" in n.op.traits]
    if len(contractions) != 1:
        return region
    node = contractions[0]
    lhs, rhs = node.operands
    d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
    # labels: the result's dimensions in order, then what is summed
    rows, rank = len(d.lhs_batch) + len(d.lhs_free), node.type.rank
    left = {dim: i for i, dim in enumerate((*d.lhs_batch, *d.lhs_free))}
    left.update((dim, rank + i) for i, dim in enumerate(d.lhs_summed))
    right = {dim: i for i, dim in enumerate(d.rhs_batch)}
    right.update((dim, rows + i) for i, dim in enumerate(d.rhs_free))
    right.update((dim, rank + i) for i, dim in enumerate(d.rhs_summed))
    every = tuple(range(rank))
    labelled = _Labelled(region)
    fits = labelled.give(lhs, tuple(left[i] for i in range(lhs.type.rank)))
    fits = fits and labelled.give(rhs, tuple(right[i] for i in range(rhs.type.rank)))
    fits = fits and labelled.give(node.results[0], every)
    for other in region.nodes:
        if "reduction" in other.op.traits:
            kept = tuple(i for i in every if i not in other.ints("axes"))
            fits = fits and labelled.give(other.operands[0], every) and labelled.give(other.results[0], kept)
        elif "pointwise" in other.op.traits and other.results[0] not in labelled.of:
            fits = fits and other.type.shape == node.type.shape and labelled.give(other.results[0], every)
    return labelled.merged() if fits else region


def absorb_reshapes(region: Graph) -> Graph:
    """The region whose inputs have the shapes that they are read in, where that is one other shape for all readers."""
    shapes: dict[Value, set[tuple[int, ...]]] = {}
    for node in region.nodes:
        for value in node.operands:
            shape = node.type.shape if node.op.name == "reshape" else value.shape
            shapes.setdefault(value, set()).add(shape)
    absorbed = {
        v: shape
        for v in region.inputs
        if v not in region.outputs and len(shapes.get(v, ())) == 1
        for shape in shapes[v]
        if shape != v.shape
    }
    if not absorbed:
        return region
    build = Builder()
    new = {v: build.input(TensorType(v.dtype, absorbed.get(v, v.shape)), v.node.name) for v in region.inputs}
    for node in region.nodes:
        if node.op.name == "reshape" and node.operands[0] in absorbed:
            new[node.results[0]] = new[node.operands[0]]
            continue
        build.copy(node, new)
    return Graph(region.name, build.inputs, tuple(new[v] for v in region.outputs), region.stage)


class _Labelled:
    """A region whose values get labels."""

    def __init__(self, region: Graph) -> None:
        self.region = region
        self.inputs = set(region.inputs)
        self.of: dict[Value, Labels] = {}
        self._apart: set[int] = set()  # labels of dimensions whose index is a value

    def give(self, value: Value, labels: Labels) -> bool:
        """Labels a value and what it is made of; False where these labels can't be, or a node is of another kind."""
        stack = [(value, labels)]
        while stack:
            value, labels = stack.pop()
            if value in self.of:
                if self.of[value] != labels:
                    return False
                continue
            if len(labels) != value.type.rank:
                return False
            self.of[value] = labels
            node = value.node
            if (
                value in self.inputs
                or node.op.name == "const"
                or node.op.traits & {"reduction", "contraction"}
            ):
                continue
            if "pointwise" in node.op.traits:
                stack += [(operand, labels) for operand in node.operands]
            elif node.op.name == "broadcast":
                stack.append((node.operands[0], tuple(labels[d] for d in node.ints("dims"))))
            elif node.op.name == "iota":
                self._apart.add(labels[node.int("dim")])
            else:
                return False
        return True

    def merged(self) -> Graph:
        """The region with each run of labels that may be one as one dimension."""
        region = self.region
        scalars = {v for n in region.nodes if n.op.name == "const" and n.type.shape == () for v in n.results}
        values = [*region.inputs, *(v for n in region.nodes for v in n.results)]
        if any(v not in self.of for v in values if v not in scalars) or self.inputs & set(region.outputs):
            return region
        follows = self._follows()
        if not follows:
            return region
        extents = {
            label: n for v, labels in self.of.items() for label, n in zip(labels, v.shape, strict=True)
        }

        def runs(labels: Labels) -> list[list[int]]:
            found: list[list[int]] = []
            for label in labels:
                if found and follows.get(found[-1][-1]) == label:
                    found[-1].append(label)
                else:
                    found.append([label])
            return found

        def shape(labels: Labels) -> tuple[int, ...]:
            return tuple(math.prod(extents[label] for label in run) for run in runs(labels))

        def positions(value: Value, dims: Sequence[int]) -> list[int]:
            """What dimensions of a value are after merging; those that are one stand once."""
            labels = self.of[value]
            run_of = {label: i for i, run in enumerate(runs(labels)) for label in run}
            return [run_of[labels[d]] for d in dims]

        build = Builder()
        new: dict[Value, Value] = {}
        for value in region.inputs:
            new[value] = build.input(TensorType(value.dtype, shape(self.of[value])), value.node.name)
        for node in region.nodes:
            result = node.results[0]
            attrs = dict(node.attrs)
            if result in self.of:
                if "type" in attrs:
                    attrs["type"] = TensorType(node.type.dtype, shape(self.of[result]))
                if node.op.name == "iota":
                    attrs["dim"] = positions(result, [node.int("dim")])[0]
                elif node.op.name == "broadcast":
                    attrs["dims"] = tuple(dict.fromkeys(positions(result, node.ints("dims"))))
                    attrs["shape"] = shape(self.of[result])
                elif "reduction" in node.op.traits:
                    attrs["axes"] = tuple(dict.fromkeys(positions(node.operands[0], node.ints("axes"))))
                elif "contraction" in node.op.traits:
                    attrs.update(self._paired(node, positions))
            copy = build.emit(node.op, [new[v] for v in node.operands], attrs, (), node.loc, node.name)
            new.update(zip(node.results, copy.results, strict=True))
        return Graph(region.name, build.inputs, tuple(new[v] for v in region.outputs), region.stage)

    def _follows(self) -> dict[int, int]:
        """For each label that is one with the label behind it, that one."""
        pairs = {pair for labels in self.of.values() for pair in pairwise(labels)}

        def always(a: int, b: int) -> bool:
            return all(
                (a, b) in pairwise(labels) if a in labels or b in labels else True
                for labels in self.of.values()
            )

        return {a: b for a, b in pairs if not {a, b} & self._apart and always(a, b)}

    def _paired(
        self, node: Node, positions: Callable[[Value, Sequence[int]], list[int]]
    ) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The attributes of a contraction after merging."""
        lhs, rhs = node.operands
        d = dimensions(node.attrs, lhs.type.rank, rhs.type.rank)
        found: dict[str, tuple[tuple[int, ...], ...]] = {}
        for name, left, right in (("axes", d.lhs_summed, d.rhs_summed), ("batch", d.lhs_batch, d.rhs_batch)):
            pairs = dict.fromkeys(zip(positions(lhs, left), positions(rhs, right), strict=True))
            found[name] = (tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
        return found
