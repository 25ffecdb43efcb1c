"""Jacobians and Hessians of functions, by as few sweeps as their shapes and structure need.

In: a Python function of arrays. Out: a function that gives all its derivatives. The sweeps are one: a batch of cotangents
(or tangents) goes through the graph at once, and what each op makes of a batch is its own rule (`ir.batching`).

Where nothing but pointwise ops lies between an input and an output the Jacobian is diagonal, and one tangent of ones gives
the whole diagonal: the simplest case of Curtis, Powell & Reid, On the Estimation of Sparse Jacobian Matrices, 1974.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

from graphc.errors import ArgumentError, DTypeError
from graphc.frontend.array import Array
from graphc.frontend.tracer import Traced, argument_names, current_scope, current_trace, function_name
from graphc.ir.batching import batch_graph
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.loc import here
from graphc.ir.types import TensorType, i32
from graphc.passes.jvp import jvp
from graphc.passes.vjp import vjp
from graphc.transforms import (
    Direct,
    Function,
    Wrt,
    as_tuple,
    check_floats,
    check_function,
    current,
    grad,
    inlined,
    inner_trace,
    positions_of,
    traced_leaves,
)

Mode = Literal["auto", "forward", "reverse"]


def jacobian(fn: Function, wrt: Wrt = 0, mode: Mode = "auto") -> Function:
    """A function of the same arguments that gives the Jacobian of `fn`: shape of the result, then shape of the argument.

    `wrt` is as in `grad`; where results or arguments are nests, the Jacobian is the result's nest with the argument's
    nest in each leaf. `mode` is "forward" (a tangent for each element of the arguments), "reverse" (a cotangent for each
    element of the results) or "auto": whichever is fewer, and a single sweep where the Jacobian is diagonal.
    All sweeps are one batch. Raises `DTypeError` where an argument of `wrt` or a result is not a float.

    >>> import numpy as np
    >>> jacobian(lambda x: x[:2] * x[2])(np.float32([1, 2, 3]))
    array([[3., 0., 1.],
           [0., 3., 2.]], dtype=float32)
    """
    check_function("jacobian", fn)
    if mode not in ("auto", "forward", "reverse"):
        raise ArgumentError(f"{here().prefix}jacobian: mode: expected auto, forward or reverse, got {mode!r}")

    def traced(*args: object, **options: object) -> object:
        return _jacobian(fn, wrt, mode, args, options)

    functools.update_wrapper(traced, fn)
    traced.__name__ = f"jacobian_{function_name(fn)}"
    direct = Direct(traced)

    @functools.wraps(traced)
    def call(*args: object, **options: object) -> object:
        if current_trace() is None and not traced_leaves((args, options)):
            return direct(*args, **options)
        return traced(*args, **options)

    return call


def hessian(fn: Function, wrt: Wrt = 0) -> Function:
    """A function of the same arguments that gives the second derivatives of the float scalar that `fn` gives.

    The Jacobian of the gradient: forward over reverse. Where `fn` is a sum of functions of single elements, it is found
    in one sweep. For products with it alone see `hvp`. Raises what `grad` and `jacobian` raise.

    >>> hessian(lambda x: x[0] ** 2 * x[1])((3.0, 5.0))[0]
    (array(10., dtype=float32), array(6., dtype=float32))
    """
    return jacobian(grad(fn, wrt), wrt)


def _jacobian(
    fn: Function, wrt: Wrt, mode: Mode, args: tuple[object, ...], options: dict[str, object]
) -> object:
    positions = positions_of("jacobian", fn, wrt, len(args))

    @functools.wraps(fn, updated=())
    def inner(*chosen: object) -> object:
        full = list(args)
        for position, argument in zip(positions, chosen, strict=True):
            full[position] = argument
        return fn(*full, **options)

    chosen = tuple(args[p] for p in positions)
    names = argument_names(fn, len(args))
    part = inner_trace("jacobian", inner, chosen, [names[p] for p in positions], function_name(fn))
    check_floats("jacobian", part.graph, part.inputs.size)
    for position, value in enumerate(part.graph.outputs):
        if not value.dtype.is_float:
            raise DTypeError(
                f"{here().prefix}jacobian: result {position}: expected a float, got {value.type!r}; "
                "return it from another function"
            )
    build = current().builder
    build.loc = here(current_scope())
    single = isinstance(wrt, (int, str))
    rows = []
    for row in _Sweeps(part, chosen, mode).rows():
        nest = as_tuple(part.inputs.unflatten(row))
        rows.append(nest[0] if single else nest)
    return part.outputs.unflatten(rows)


class _Sweeps:
    """The sweeps that give the Jacobians of all results with respect to all chosen inputs."""

    def __init__(self, part: Traced, args: tuple[object, ...], mode: Mode) -> None:
        self.part, self.args = part, args
        self.graph = part.graph
        self.inputs = part.graph.inputs[: part.inputs.size]
        self.build = current().builder
        rows, columns = (sum(v.type.size for v in vs) for vs in (self.graph.outputs, self.inputs))
        self.forward = columns <= rows if mode == "auto" else mode == "forward"
        self.diagonal = {} if mode != "auto" else _diagonals(self.graph, self.inputs)

    def rows(self) -> list[list[Array]]:
        """For each result the Jacobians with respect to each input."""
        found: dict[tuple[int, int], Value] = {}
        pairs = [(j, i) for j in range(len(self.graph.outputs)) for i in range(len(self.inputs))]
        for j, i in pairs:
            kind = self.diagonal.get((j, i))
            if kind == "none":
                type = self.graph.outputs[j].type
                found[j, i] = self.build.zeros(TensorType(type.dtype, (*type.shape, *self.inputs[i].shape)))
            elif kind == "diagonal":
                found[j, i] = self._on_the_diagonal(self._slopes(j, i), i)
        rest = [p for p in pairs if p not in found]
        if self.forward:
            for i in dict.fromkeys(i for _, i in rest):
                found.update(self._columns(i, [j for j, own in rest if own == i]))
        else:
            for j in dict.fromkeys(j for j, _ in rest):
                found.update(self._rows(j, [i for own, i in rest if own == j]))
        trace = current()
        return [
            [Array(trace, found[j, i]) for i in range(len(self.inputs))]
            for j in range(len(self.graph.outputs))
        ]

    def _slopes(self, j: int, i: int) -> Value:
        """The diagonal: the tangent along ones."""
        derived = jvp(self.graph.with_outputs([self.graph.outputs[j]], ()), [i])
        ones = self.build.splat(1, self.inputs[i].type)
        return inlined(self.part, self.args, derived, 1, [ones])[0].value

    def _on_the_diagonal(self, slopes: Value, i: int) -> Value:
        shape = self.inputs[i].shape
        rank, size = len(shape), math.prod(shape)
        spread = self.build.broadcast(slopes, dims=tuple(range(rank)), shape=(*shape, *shape))
        same = self.build.reshape(_same(self.build, size), shape=(*shape, *shape))
        return self.build.select(same, spread, self.build.zeros(spread.type))

    def _columns(self, i: int, wanted: Sequence[int]) -> dict[tuple[int, int], Value]:
        """Forward: a batch of unit tangents of one input."""
        x = self.inputs[i]
        outputs = [self.graph.outputs[j] for j in wanted]
        derived = jvp(self.graph.with_outputs(outputs, ()), [i])
        tangents = derived.with_outputs(derived.outputs[len(outputs) :], ())
        found: dict[tuple[int, int], Value] = {}
        for j, value in zip(wanted, self._batch(tangents, x.type), strict=True):
            rank = value.type.rank
            last = self.build.transpose(value, perm=(*range(1, rank), 0))  # the elements of x come last
            found[j, i] = self.build.reshape(last, shape=(*self.graph.outputs[j].shape, *x.shape))
        return found

    def _rows(self, j: int, wanted: Sequence[int]) -> dict[tuple[int, int], Value]:
        """Reverse: a batch of unit cotangents of one result."""
        y = self.graph.outputs[j]
        derived = vjp(self.graph.with_outputs([y], ()), list(wanted))
        gradients = derived.with_outputs(derived.outputs[1:], ())
        values = self._batch(gradients, y.type)
        return {
            (j, i): self.build.reshape(value, shape=(*y.shape, *self.inputs[i].shape))
            for i, value in zip(wanted, values, strict=True)
        }

    def _batch(self, derived: Graph, type: TensorType) -> list[Value]:
        """The outputs of a derived graph for every unit vector of its last input, of this type."""
        size = type.size
        unit = self.build.cast(_same(self.build, size), type=TensorType(type.dtype, (size, size)))
        seeds = self.build.reshape(unit, shape=(size, *type.shape))
        which = [False] * (len(derived.inputs) - 1) + [True]
        batch = batch_graph(derived, which, size)
        return [a.value for a in inlined(self.part, self.args, batch, len(batch.outputs), [seeds])]


def _same(build: Builder, size: int) -> Value:
    """The identity matrix as truths."""
    index = TensorType(i32, (size, size))
    return build.eq(build.iota(dim=0, type=index), build.iota(dim=1, type=index))


def _diagonals(graph: Graph, inputs: Sequence[Value]) -> dict[tuple[int, int], str]:
    """For pairs of result and input: "none" where it doesn't depend on it, "diagonal" where only pointwise ops lie between."""
    found: dict[tuple[int, int], str] = {}
    for i, x in enumerate(inputs):
        reached = {x: True}  # values that depend on x, and whether by pointwise ops alone
        for node in graph.nodes:
            sources = [reached[v] for v in node.operands if v in reached]
            if sources:
                alone = all(sources) and "pointwise" in node.op.traits
                reached.update((v, alone) for v in node.results if v.dtype.is_float)
        for j, y in enumerate(graph.outputs):
            if y not in reached:
                found[j, i] = "none"
            elif reached[y]:
                found[j, i] = "diagonal"
    return found
