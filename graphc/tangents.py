"""Forward mode for functions: tangents along with the values, and products with the Hessian.

In: a Python function of arrays. Out: its results and their tangents, in traced code and on numpy arrays. What a tangent is
stands in `passes.jvp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend.tracer import (
    Traced,
    argument_names,
    current_scope,
    current_trace,
    function_name,
    type_of,
)
from graphc.frontend.tree import Structure, flatten
from graphc.ir.graph import Value
from graphc.ir.loc import here
from graphc.passes.jvp import jvp as derive
from graphc.transforms import (
    Direct,
    Function,
    check_function,
    current,
    grad,
    inlined,
    inner_trace,
    shown,
    traced_leaves,
)


def jvp(fn: Function, primals: Sequence[object], tangents: Sequence[object]) -> tuple[object, object]:
    """``fn(*primals)`` and its tangent: the Jacobian times `tangents`, which have the structure of `primals`.

    One sweep: about the cost of a second forward pass. None stands for a tangent (or a nest of them) that is zero, a
    Python number fills an array; integers and bools have none, and None in the result's place. Raises `ArgumentError`
    where the structures or types differ.

    >>> jvp(lambda x: x * x, (3.0,), (1.0,))
    (array(9., dtype=float32), array(6., dtype=float32))
    """
    check_function("jvp", fn)
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise ArgumentError(
                f"{here().prefix}jvp: {name}: expected a tuple, one for each argument, got {shown(given)}"
            )
    primals, tangents = tuple(primals), tuple(tangents)
    if len(primals) != len(tangents):
        raise ArgumentError(
            f"{here().prefix}jvp: expected a tangent for each of {len(primals)} primals, got {len(tangents)}"
        )
    if current_trace() is None and not traced_leaves((primals, tangents)):
        _, structure = flatten(primals)
        filled = _filled(primals, structure, tangents)
        direct = Direct(_named(lambda x, t: _pushed(fn, x, t), f"{function_name(fn)}_jvp"))
        value, tangent = _pair(direct(primals, filled))
        return value, tangent
    return _pushed(fn, primals, tangents)


def linearize(fn: Function, *primals: object) -> tuple[object, Callable[..., object]]:
    """``fn(*primals)`` and the function of tangents that is linear: `jvp` at these primals.

    In traced code both share the forward pass, however often the linear function is called.

    >>> y, along = linearize(lambda x: x * x, 3.0)
    >>> along(1.0), along(10.0)
    (array(6., dtype=float32), array(60., dtype=float32))
    """
    if current_trace() is None and not traced_leaves(primals):
        return Direct(fn)(*primals), lambda *tangents: jvp(fn, primals, tangents)[1]
    pushforward = _Pushforward.of(fn, primals)
    return pushforward.value, pushforward


def hvp(fn: Function, x: object, v: object, *args: object) -> object:
    """The Hessian of ``fn(x, *args)``, a float scalar, with respect to x, times `v`, which has the structure of `x`.

    Forward over reverse: a few times the cost of `fn`, and the Hessian is never built (Pearlmutter, Fast Exact
    Multiplication by the Hessian, Neural Computation 6(1), 1994). Raises what `grad` and `jvp` raise.

    >>> hvp(lambda x: (x ** 3).sum(), np.float32([1, 2]), np.float32([1, 10]))
    array([  6., 120.], dtype=float32)
    """
    none = (None,) * len(args)
    return jvp(grad(fn), (x, *args), (v, *none))[1]


# ---------------------------------------------------------------------------------------------------------- traced code


@dataclass(frozen=True, eq=False)
class _Pushforward:
    """The linear function of a function that was called in traced code."""

    part: Traced
    args: tuple[object, ...]
    value: object

    @staticmethod
    def of(fn: Function, args: tuple[object, ...]) -> _Pushforward:
        part = inner_trace("jvp", fn, args, argument_names(fn, len(args)), function_name(fn))
        outputs = inlined(part, args, part.graph, len(part.graph.outputs))
        return _Pushforward(part, args, part.outputs.unflatten(outputs))

    def __call__(self, *tangents: object) -> object:
        trace = current()
        part, graph = self.part, self.part.graph
        if len(tangents) != len(self.args):
            raise ArgumentError(
                f"{here().prefix}jvp: expected {len(self.args)} tangents, got {len(tangents)}"
            )
        trace.builder.loc = here(current_scope())
        leaves = matched_leaves(part.inputs, tangents, "jvp: tangents")
        known = [
            (i, leaf) for i, leaf in enumerate(leaves) if leaf is not None and graph.inputs[i].dtype.is_float
        ]
        seeds = [self._seed(leaf, graph.inputs[i]) for i, leaf in known]
        floats = [v.dtype.is_float for v in graph.outputs]
        derived = derive(graph, [i for i, _ in known])
        found = iter(inlined(part, self.args, derived, sum(floats), seeds))
        return part.outputs.unflatten([next(found) if is_float else None for is_float in floats])

    @staticmethod
    def _seed(leaf: object, primal: Value) -> Value:
        trace = current()
        if isinstance(leaf, (int, float)) and not isinstance(leaf, np.generic):
            return trace.builder.splat(leaf, primal.type)
        value = trace.value_of(leaf, "jvp: tangent")
        if value.type != primal.type:
            raise ArgumentError(
                f"{here().prefix}jvp: %{primal.node.name}: expected a tangent of {primal.type!r}, got {value.type!r}"
            )
        return value


def _pushed(fn: Function, primals: Sequence[object], tangents: Sequence[object]) -> tuple[object, object]:
    pushforward = _Pushforward.of(fn, tuple(primals))
    return pushforward.value, pushforward(*tangents)


def matched_leaves(structure: Structure, tree: object, what: str) -> list[object]:
    """The leaves of a nest like `structure`, in which None stands for any part of it."""
    try:
        return _leaves(structure, tree, what)
    except ArgumentError as error:
        raise ArgumentError(f"{here().prefix}{error}") from None


def _leaves(structure: Structure, tree: object, what: str) -> list[object]:
    if tree is None:
        return [None] * structure.size
    _, given = flatten(tree)
    if structure.kind == "leaf" or given.kind != structure.kind or set(given.keys) != set(structure.keys):
        return structure.match(tree, what)
    parts = tree if isinstance(tree, dict) else dict(zip(structure.keys, tree, strict=True))  # type: ignore[call-overload]
    return [
        leaf
        for key, child in zip(structure.keys, structure.children, strict=True)
        for leaf in _leaves(child, parts[key], f"{what}.{key}")
    ]


# ------------------------------------------------------------------------------------------------------ numpy arrays


def _filled(primals: tuple[object, ...], structure: Structure, tangents: tuple[object, ...]) -> object:
    """Tangents that are numbers as arrays of the primals' types."""
    leaves, _ = flatten(primals)
    filled: list[object] = []
    for leaf, tangent in zip(leaves, matched_leaves(structure, tangents, "jvp: tangents"), strict=True):
        type = type_of(leaf)
        if type is not None and isinstance(tangent, (int, float)) and not isinstance(tangent, np.generic):
            tangent = np.full(type.shape, tangent, type.dtype.numpy)
        filled.append(tangent)
    return structure.unflatten(filled)


def _named(fn: Function, name: str) -> Function:
    fn.__name__ = name
    return fn


def _pair(result: object) -> tuple[object, object]:
    assert isinstance(result, tuple)
    value, tangent = result
    return value, tangent
