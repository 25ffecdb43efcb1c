"""Transforms of functions: gradients and vector-Jacobian products, in traced code and on numpy arrays.

In: a Python function of arrays. Out: a function of the same arguments. It is traced on its own, the vjp pass derives
its graph, and the result is inlined where it was called, so that transforms compose; outside of traced code the
derivative is compiled (or interpreted, where there is no compiler) and run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError, TraceError
from graphc.frontend.array import Array
from graphc.frontend.elementwise import stop_gradient as stop_gradient
from graphc.frontend.tracer import (
    Trace,
    Traced,
    argument_names,
    current_scope,
    current_trace,
    function_name,
    trace_function,
    type_of,
)
from graphc.frontend.tree import Structure, flatten
from graphc.ir.graph import Graph, Value
from graphc.ir.interp import interpret
from graphc.ir.loc import here
from graphc.ir.types import TensorType
from graphc.passes.vjp import vjp as derive

Function = Callable[..., object]
Wrt = int | str | Sequence[int | str]


def grad(fn: Function, wrt: Wrt = 0, has_aux: bool = False) -> Function:
    """A function of the same arguments that gives the gradient of the scalar that `fn` gives.

    `wrt` says with respect to which arguments: a position or name, or several, which give a tuple. A gradient has its
    argument's nested structure. With `has_aux`, `fn` gives ``(loss, aux)`` and the result is ``(gradient, aux)``.
    On numpy arrays it is compiled once for each type of its arguments; what `fn` reads from outside is then constant,
    and so are keyword arguments. Raises `TraceError` where the loss is not a float scalar, `DTypeError` where an
    argument of `wrt` is not a float, `ArgumentError` where there is none.

    >>> grad(lambda x: x * x)(3.0)
    array(6., dtype=float32)
    """

    def gradient(value: object, gradients: object, aux: object) -> object:
        return (gradients, aux) if has_aux else gradients

    return _differentiated("grad", fn, wrt, has_aux, gradient)


def value_and_grad(fn: Function, wrt: Wrt = 0, has_aux: bool = False) -> Function:
    """As `grad`, but the function gives the pair of loss and gradient; with `has_aux`, ``((loss, aux), gradient)``.

    >>> value_and_grad(lambda x: (x * x).sum())(np.float32([1, 2]))
    (array(5., dtype=float32), array([2., 4.], dtype=float32))
    """

    def both(value: object, gradients: object, aux: object) -> object:
        return ((value, aux) if has_aux else value), gradients

    return _differentiated("value_and_grad", fn, wrt, has_aux, both)


def vjp(fn: Function, *args: object) -> tuple[object, Callable[[object], tuple[object, ...]]]:
    """``fn(*args)`` and the pullback: from cotangents of the outputs to those of all arguments.

    The pullback takes the outputs' nested structure and gives a tuple with one nest for each argument; integers and
    bools have None in it, and the cotangent of an output that is no float is ignored. Raises `ArgumentError` where
    the cotangents' structure differs.

    >>> y, pullback = vjp(lambda x, w: x * w, np.float32([1, 2]), np.float32([3, 4]))
    >>> pullback(np.float32([1, 10]))
    (array([ 3., 40.], dtype=float32), array([ 1., 20.], dtype=float32))
    """
    if current_trace() is None and not traced_leaves(args):
        outputs = Direct(fn)(*args)
        results, shape = flatten(outputs)
        pull = Direct(_pulled_back(fn))

        def run(cotangents: object) -> tuple[object, ...]:
            leaves = zip(matched(shape, cotangents), results, strict=True)
            given = shape.unflatten(
                [np.full_like(y, g) if isinstance(g, (int, float)) else g for g, y in leaves]
            )
            return as_tuple(pull(args, given))

        return outputs, run
    return _Pullback.of(fn, args)


def _pulled_back(fn: Function) -> Function:
    def pull(args: Sequence[object], cotangents: object) -> tuple[object, ...]:
        return vjp(fn, *args)[1](cotangents)

    pull.__name__ = f"{function_name(fn)}_vjp"
    return pull


# ---------------------------------------------------------------------------------------------------------- gradients


def _differentiated(
    what: str, fn: Function, wrt: Wrt, has_aux: bool, form: Callable[[object, object, object], object]
) -> Function:
    def traced(*args: object, **options: object) -> object:
        positions = positions_of(what, fn, wrt, len(args))

        @functools.wraps(fn, updated=())
        def inner(*chosen: object) -> object:
            """`fn` as a function of the arguments of `wrt`; the others are what they are."""
            full = list(args)
            for position, argument in zip(positions, chosen, strict=True):
                full[position] = argument
            result = fn(*full, **options)
            if has_aux and not (isinstance(result, tuple) and len(result) == 2):
                raise TraceError(
                    f"{here().prefix}{what}: expected (loss, aux) with has_aux, got {shown(result)}"
                )
            return result if has_aux else (result, None)

        chosen = tuple(args[p] for p in positions)
        names = argument_names(fn, len(args))
        part = inner_trace(what, inner, chosen, [names[p] for p in positions], function_name(fn))
        check_floats(what, part.graph, part.inputs.size)
        _check_loss(what, part)
        graph = part.graph
        loss_graph = graph.with_outputs(graph.outputs[:1], ())
        derived = derive(loss_graph, list(range(part.inputs.size)), seeds=False)
        results = inlined(part, chosen, graph, len(graph.outputs))  # the losses of both graphs are one node
        gradients = inlined(part, chosen, derived, part.inputs.size)
        tree, whole = as_tuple(part.inputs.unflatten(gradients)), as_tuple(part.outputs.unflatten(results))
        single = isinstance(wrt, (int, str))
        return form(whole[0], tree[0] if single else tree, whole[1])

    functools.update_wrapper(traced, fn)
    traced.__name__ = f"{what}_{function_name(fn)}"
    traced.__doc__ = f"{what} of {function_name(fn)} with respect to {wrt!r}."
    direct = Direct(traced)

    @functools.wraps(traced)
    def call(*args: object, **options: object) -> object:
        if current_trace() is None and not traced_leaves((args, options)):
            return direct(*args, **options)
        return traced(*args, **options)

    return call


def positions_of(what: str, fn: Function, wrt: Wrt, count: int) -> list[int]:
    names = argument_names(fn, count)
    if not isinstance(wrt, (int, str, tuple, list)):
        raise ArgumentError(
            f"{here().prefix}{what}: wrt: expected a position or name, or several, got {shown(wrt)}"
        )
    keys = [wrt] if isinstance(wrt, (int, str)) else list(wrt)
    found = []
    for key in keys:
        if isinstance(key, str) and key in names:
            found.append(names.index(key))
        elif isinstance(key, int) and -count <= key < count:
            found.append(key % count)
        else:
            raise ArgumentError(
                f"{here().prefix}{what}: wrt: expected positional arguments of {function_name(fn)} "
                f"({', '.join(names) or 'none'}), got {key!r}"
            )
    if not found or len(set(found)) != len(found):
        raise ArgumentError(f"{here().prefix}{what}: wrt: expected different arguments, got {wrt!r}")
    return found


def check_function(what: str, fn: object) -> None:
    """Raises `ArgumentError` for what can't be called."""
    if not callable(fn):
        raise ArgumentError(f"{here().prefix}{what}: expected a function, got {shown(fn)}")


def inner_trace(what: str, fn: Function, args: Sequence[object], names: Sequence[str], name: str) -> Traced:
    """Traces `fn` in a builder of its own, within the current trace; inputs have the user's argument names."""
    for argument, argument_name in zip(args, names, strict=True):
        leaves, structure = flatten(argument)
        for leaf, path in zip(leaves, structure.paths(argument_name), strict=True):
            _type_of_argument(leaf, f"{what}: {path}")
    return trace_function(fn, args, name, names)


def _type_of_argument(leaf: object, what: str) -> TensorType:
    """The type of an array or number; raises for anything else, with the user's line."""
    try:
        type = type_of(leaf)
    except DTypeError as error:
        raise DTypeError(f"{here().prefix}{what}: {error}") from None
    if type is None or isinstance(leaf, TensorType):
        raise ArgumentError(f"{here().prefix}{what}: expected an array or a number, got {shown(leaf)}")
    return type


def check_floats(what: str, graph: Graph, count: int) -> None:
    for value in graph.inputs[:count]:
        if not value.dtype.is_float:
            raise DTypeError(
                f"{here().prefix}{what}: %{value.node.name}: expected a float argument, got {value.type!r}; "
                "convert it by astype, or leave it out of wrt"
            )


def _check_loss(what: str, part: Traced) -> None:
    loss = part.outputs.children[0]
    type = part.graph.outputs[0].type if loss.kind == "leaf" else None
    where = here().prefix
    if type is None:
        raise TraceError(
            f"{where}{what}: expected a function that gives one float scalar, got {loss.describe()}; "
            "return the loss alone, or (loss, aux) with has_aux=True"
        )
    if type.shape != ():
        raise TraceError(
            f"{where}{what}: expected a function that gives a float scalar, got {type!r}; "
            "reduce it by sum or mean, or use graphc.vjp"
        )
    if not type.dtype.is_float:
        raise TraceError(
            f"{where}{what}: expected a function that gives a float scalar, got {type!r}; "
            "an integer or bool has no derivative: compute the loss in floats"
        )


def inlined(
    part: Traced, args: Sequence[object], graph: Graph, last: int, extra: Sequence[Value] = ()
) -> list[Array]:
    """The last outputs of a graph over the traced function's inputs, in the current trace."""
    trace = current()
    trace.differentiated = True
    leaves, _ = flatten(tuple(args))
    values = [trace.value_of(leaf, "argument") for leaf in leaves]
    values += [trace.lift(capture) for capture in part.captures]
    outputs = trace.builder.inline(graph, [*values, *extra])
    return [Array(trace, v) for v in outputs[len(outputs) - last :]]


def current() -> Trace:
    trace = current_trace()
    if trace is None:
        raise TraceError(
            f"{here().prefix}grad: expected traced values in their traced function, got some outside of it"
        )
    return trace


# ---------------------------------------------------------------------------------------------------------- pullbacks


@dataclass(frozen=True, eq=False)
class _Pullback:
    """The pullback of a function that was called in traced code."""

    part: Traced
    args: tuple[object, ...]
    derived: Graph
    floats: tuple[int, ...]  # positions of the outputs that have cotangents
    wanted: tuple[int, ...]  # positions of the inputs that have cotangents

    @staticmethod
    def of(fn: Function, args: tuple[object, ...]) -> tuple[object, _Pullback]:
        part = inner_trace("vjp", fn, args, argument_names(fn, len(args)), function_name(fn))
        graph = part.graph
        floats = tuple(i for i, v in enumerate(graph.outputs) if v.dtype.is_float)
        wanted = tuple(i for i, v in enumerate(graph.inputs[: part.inputs.size]) if v.dtype.is_float)
        derived = derive(graph.with_outputs([graph.outputs[i] for i in floats]), list(wanted), seeds=True)
        outputs = part.outputs.unflatten(inlined(part, args, graph, len(graph.outputs)))
        return outputs, _Pullback(part, args, derived, floats, wanted)

    def __call__(self, cotangents: object) -> tuple[object, ...]:
        trace = current_trace()
        if trace is None:
            raise TraceError(
                f"{here().prefix}vjp: expected the pullback in the traced function, got a call outside"
            )
        leaves = matched(self.part.outputs, cotangents)
        trace.builder.loc = here(current_scope())
        seeds = []
        for position in self.floats:
            want = self.part.graph.outputs[position].type
            seeds.append(_seed(trace, leaves[position], want))
        found = iter(inlined(self.part, self.args, self.derived, len(self.wanted), seeds))
        gradients = [next(found) if i in self.wanted else None for i in range(self.part.inputs.size)]
        return as_tuple(self.part.inputs.unflatten(gradients))


def _seed(trace: Trace, leaf: object, want: TensorType) -> Value:
    """A cotangent of the output's type; a Python number fills it."""
    value = trace.value_of(leaf, "vjp: cotangent")
    if isinstance(leaf, (int, float)) and not isinstance(leaf, np.generic):
        return trace.builder.splat(leaf, want)
    if value.type != want:
        raise ArgumentError(f"{here().prefix}vjp: expected a cotangent of {want!r}, got {value.type!r}")
    return value


def matched(structure: Structure, cotangents: object) -> list[object]:
    try:
        return structure.match(cotangents, "cotangents")
    except ArgumentError as error:
        raise ArgumentError(f"{here().prefix}vjp: {error}") from None


# ---------------------------------------------------------------------------------------------------- on numpy arrays


def traced_leaves(tree: object) -> bool:
    return any(isinstance(leaf, Array) for leaf in flatten(tree)[0])


class Direct:
    """A traced function called on arrays: compiled once for each type of its arguments."""

    def __init__(self, fn: Function) -> None:
        self._fn = fn
        self._compiled: dict[object, Function] = {}

    def __call__(self, *args: object, **options: object) -> object:
        leaves, structure = flatten(args)
        types, arrays = [], []
        for leaf, path in zip(leaves, structure.paths("argument"), strict=True):
            type = _type_of_argument(leaf, path)
            types.append(type)
            arrays.append(np.asarray(leaf, type.dtype.numpy))
        args = as_tuple(structure.unflatten(arrays))
        try:
            # repr and class tell 1, 1.0 and True apart
            constants = tuple((k, v.__class__, repr(v), v) for k, v in sorted(options.items()))
            key = (structure, tuple(types), constants)
            found = self._compiled.get(key)
        except TypeError:
            raise ArgumentError(
                f"{here().prefix}{function_name(self._fn)}: expected keyword arguments that are plain constants, "
                f"got {', '.join(options)}; pass arrays by position"
            ) from None
        if found is None:
            found = self._compiled[key] = self._prepared(args, options)
        return found(*args)

    def _prepared(self, args: tuple[object, ...], options: dict[str, object]) -> Function:
        fn = functools.partial(self._fn, **options) if options else self._fn
        try:
            from graphc.compiler import compile

            return compile(fn, *args)
        except ImportError:  # no code generator is installed: the interpreter gives the same numbers
            return _interpreted(fn)


def on_arrays(fn: Function) -> Function:
    """A function of numpy arrays from one that is to be traced: compiled once for each type of its arguments."""
    return Direct(fn)


def _interpreted(fn: Function) -> Function:
    def run(*args: object) -> object:
        part = trace_function(fn, args)  # anew for each call: parameters may have other arrays by now
        leaves, _ = flatten(args)
        arrays = [np.asarray(leaf) for leaf in leaves]
        return part.outputs.unflatten(interpret(part.graph, [*arrays, *(p.array for p in part.parameters)]))

    return run


def as_tuple(tree: object) -> tuple[object, ...]:
    assert isinstance(tree, tuple)
    return tree


def shown(x: object) -> str:
    return f"{type(x).__name__} {x!r}"[:80]
