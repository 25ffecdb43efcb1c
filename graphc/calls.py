"""Functions that stay functions in the graph until it is differentiated: recomputed ones, and ones with a derivative of
their own.

In: a Python function of arrays. Out: a function of the same arguments that adds one node, with regions, to the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from graphc.errors import ArgumentError, DTypeError, ShapeError, TraceError
from graphc.frontend.array import Array
from graphc.frontend.tracer import (
    Trace,
    Traced,
    argument_names,
    current_scope,
    current_trace,
    function_name,
    trace_function,
)
from graphc.frontend.tree import Structure, flatten
from graphc.ir import ops
from graphc.ir.graph import Graph, Value
from graphc.ir.loc import here
from graphc.ir.opdef import OpDef
from graphc.transforms import Direct, Function, check_function, inner_trace, traced_leaves


def checkpoint(fn: Function) -> Function:
    """A function that gives what `fn` gives, and of which the backward pass keeps the arguments only.

    Whatever else the derivative needs is computed a second time, once its cotangent has arrived: memory for the values
    of one such function at a time instead of all of them. The numbers are the same. Arguments are nests of arrays;
    constants go by keyword. Raises what `fn` raises, `ArgumentError` for an argument that is no array.
    Griewank & Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, ch. 12; Chen et al., arXiv:1604.06174.

    >>> from graphc import grad
    >>> grad(lambda x: checkpoint(lambda v: v * v * v)(x) * 2)(3.0)
    array(54., dtype=float32)
    """
    check_function("checkpoint", fn)

    def traced(*args: object, **options: object) -> object:
        inner = functools.partial(fn, **options) if options else fn
        part = inner_trace("checkpoint", inner, args, argument_names(fn, len(args)), function_name(fn))
        return _emitted(ops.checkpoint, part, args, [part.graph])

    return _callable(fn, traced, "checkpoint")


class custom_vjp:
    """A function whose vector-Jacobian product is what `defvjp` says, not what the chain rule would make of it.

    ``f.defvjp(forward, backward)``: `forward` takes the arguments of `fn` and gives ``(result, residuals)``, any nest
    that `backward` wants kept; ``backward(residuals, cotangent)`` gives a tuple, the cotangent of each argument (a nest of
    its structure; None for one that has none, such as integers). The second derivative is that of `forward` and
    `backward`, by the ordinary rules.
    Arguments are nests of arrays; constants go by keyword. Forward mode transposes `backward`.
    Raises `TraceError` where the functions read traced values that are no arguments of theirs, `ShapeError` where
    `backward` gives other shapes.

    >>> from graphc import grad
    >>> @custom_vjp
    ... def scaled(x):
    ...     return 3 * x
    >>> scaled.defvjp(lambda x: (scaled.fn(x), None), lambda residuals, g: (g / 2,))
    >>> scaled(2.0), grad(scaled)(2.0)
    (array(6., dtype=float32), array(0.5, dtype=float32))
    """

    def __init__(self, fn: Function) -> None:
        check_function("custom_vjp", fn)
        self.fn = fn
        self._rules: tuple[Function, Function] | None = None
        functools.update_wrapper(self, fn)
        self._call = _callable(fn, self._traced, "custom_vjp")

    def defvjp(self, forward: Function, backward: Function) -> None:
        """Says how `fn` is differentiated: ``forward(*args) -> (result, residuals)``, ``backward(residuals, cotangent)``."""
        self._rules = forward, backward
        self._call = _callable(self.fn, self._traced, "custom_vjp")

    def __call__(self, *args: object, **options: object) -> object:
        return self._call(*args, **options)

    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else functools.partial(self, instance)

    def _traced(self, *args: object, **options: object) -> object:
        name, where = function_name(self.fn), here().prefix
        if self._rules is None:
            raise TraceError(
                f"{where}custom_vjp: {name}: expected rules, got none; call {name}.defvjp(forward, backward) first"
            )
        names = argument_names(self.fn, len(args))
        fixed = (functools.partial(f, **options) if options else f for f in (self.fn, self._rules[0]))
        function, forward = (_closed(name, f, args, names) for f in fixed)
        if forward.outputs.kind != "tuple" or len(forward.outputs.children) != 2:
            raise TraceError(
                f"{where}custom_vjp: {name}: expected forward to give (result, residuals), "
                f"got {forward.outputs.describe()}"
            )
        want, (result, residuals) = function.outputs, forward.outputs.children
        got = forward.graph.output_types[: result.size]
        if result != want or got != function.graph.output_types:
            raise ShapeError(
                f"{where}custom_vjp: {name}: expected forward to give {want.describe()} of "
                f"{list(function.graph.output_types)} first, got {result.describe()} of {list(got)}"
            )
        backward = self._backward(
            name, function, residuals, forward.graph.output_types[result.size :], options
        )
        return _emitted(ops.custom_vjp, function, args, [function.graph, forward.graph, backward])

    def _backward(
        self,
        name: str,
        function: Traced,
        residuals: Structure,
        kept: Sequence[object],
        options: dict[str, object],
    ) -> Graph:
        assert self._rules is not None
        rule = self._rules[1]
        types = function.graph.output_types
        floats = [t.dtype.is_float for t in types]

        def pulled(residual: object, *cotangents: object) -> list[object]:
            given = iter(cotangents)
            nest = function.outputs.unflatten([next(given) if f else None for f in floats])
            found = rule(residual, nest, **options)
            if not isinstance(found, tuple) or len(found) != len(function.inputs.children):
                raise TraceError(
                    f"{here().prefix}custom_vjp: {name}: expected backward to give a tuple of "
                    f"{len(function.inputs.children)} cotangents, one for each argument, got {_described(found)}"
                )
            leaves: list[object] = []
            for position, (child, cotangent) in enumerate(zip(function.inputs.children, found, strict=True)):
                nothing = cotangent is None
                leaves += [None] * child.size if nothing else _leaves(child, cotangent, name, position)
            trace = current_trace()
            assert trace is not None
            wanted = zip(leaves, function.graph.inputs, strict=True)
            return [_of_type(trace, leaf, v, name) for leaf, v in wanted if v.dtype.is_float]

        seeds = [t for t, f in zip(types, floats, strict=True) if f]
        given = (residuals.unflatten(kept), *seeds)
        names = ["residuals", *(f"cotangent{i or ''}" for i in range(len(seeds)))]
        return _closed(name, pulled, given, names).graph


def _leaves(child: Structure, cotangent: object, name: str, position: int) -> list[object]:
    try:
        return _match(child, cotangent, f"cotangent of argument {position}")
    except ArgumentError as error:
        raise ArgumentError(f"{here().prefix}custom_vjp: {name}: {error}") from None


def _match(child: Structure, tree: object, what: str) -> list[object]:
    """The leaves of a nest; None stands for a whole part of it."""
    if tree is None:
        return [None] * child.size
    if child.kind == "leaf" or not isinstance(tree, (dict, list, tuple)) or len(tree) != len(child.keys):
        return child.match(tree, what)
    parts = (
        [tree[k] for k in child.keys]
        if isinstance(tree, dict) and set(tree) == set(child.keys)
        else list(tree)
    )
    return [leaf for c, part in zip(child.children, parts, strict=True) for leaf in _match(c, part, what)]


def _of_type(trace: Trace, leaf: object, argument: Value, name: str) -> Array:
    """A cotangent of the argument's type: zeros for None, a number fills it."""
    type = argument.type
    if leaf is None or (isinstance(leaf, (int, float)) and not hasattr(leaf, "dtype")):
        return Array(trace, trace.builder.splat(leaf or 0, type))
    value = trace.value_of(leaf, "custom_vjp: cotangent")
    if value.type != type:
        error = ShapeError if value.shape != type.shape else DTypeError
        raise error(
            f"{here().prefix}custom_vjp: {name}: expected backward to give {type!r} for %{argument.node.name}, "
            f"got {value.type!r}"
        )
    return Array(trace, value)


def _closed(name: str, fn: Function, args: Sequence[object], names: Sequence[str]) -> Traced:
    """A trace of a function that must not read values of the traces around it."""
    part = trace_function(fn, args, name, names)
    if part.captures or part.parameters:
        captured = [v.node.name or "a value" for v in part.graph.inputs[part.inputs.size :]]
        raise TraceError(
            f"{here().prefix}custom_vjp: {name}: expected functions of their arguments alone, got one that reads "
            f"{', '.join(captured)} of the function around it; make it an argument"
        )
    return part


def _emitted(op: OpDef, part: Traced, args: Sequence[object], regions: Sequence[Graph]) -> object:
    """The node of a call in the current trace; its results in the traced function's structure."""
    trace = current_trace()
    assert trace is not None
    trace.differentiated |= any(g.stage == "differentiated" for g in regions)
    leaves, _ = flatten(tuple(args))
    operands = [trace.value_of(leaf, "argument") for leaf in leaves]
    operands += [trace.lift(capture) for capture in part.captures]
    bodies = [Graph("region", g.inputs, g.outputs) for g in regions]
    node = trace.builder.emit(op, operands, {}, bodies, here(current_scope()))
    return part.outputs.unflatten([Array(trace, v) for v in node.results])


def _callable(fn: Function, traced: Function, what: str) -> Function:
    """`traced` in traced code; on arrays it is compiled once for each type of the arguments."""

    @functools.wraps(fn, updated=())
    def whole(*args: object, **options: object) -> object:
        return traced(*args, **options)

    direct = Direct(whole)

    @functools.wraps(fn, updated=())
    def call(*args: object, **options: object) -> object:
        if current_trace() is None and not traced_leaves((args, options)):
            return direct(*args, **options)
        return traced(*args, **options)

    return call


def _described(x: object) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__
