"""vmap: a function of one example becomes a function of many.

In: a Python function, and which axis of each argument counts examples. Out: a function of all examples, without a loop:
each op has a rule for a batch (`ir.batching`), and a product with what all examples share is one contraction.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Union

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.tracer import (
    argument_names,
    current_scope,
    current_trace,
    function_name,
    trace_function,
    type_of,
)
from graphc.frontend.tree import Structure, flatten
from graphc.ir.batching import batch_into, to_front, whole
from graphc.ir.graph import Builder, Value
from graphc.ir.loc import here
from graphc.ir.types import TensorType
from graphc.transforms import Direct, Function, as_tuple, check_function, current, shown, traced_leaves

# an axis, None for what all examples share, or a nest of them like the arguments
Axes = Union[int, None, Sequence["Axes"], dict[str, "Axes"]]


def vmap(fn: Function, in_axes: Axes = 0, out_axes: Axes = 0) -> Function:
    """A function of many examples at once that gives what `fn` gives for each of them.

    `in_axes` says which axis of each argument counts the examples, None which argument all share: one for all, or a
    tuple with one for each argument, which may be a nest like that argument. Negative axes count from the end.
    `out_axes` says where the results have that axis; None asks for a result that is the same for all examples.
    It composes with all other transforms and with itself: ``vmap(grad(loss), (None, 0))`` gives a gradient for each
    example. Constants go by keyword. Raises `ArgumentError` where the axes don't fit the arguments or their sizes differ,
    `ShapeError` where a result of `out_axes` None depends on the example.

    >>> import numpy as np
    >>> vmap(lambda x, w: x @ w, (0, None))(np.float32([[1, 2], [3, 4]]), np.float32([1, 10]))
    array([21., 43.], dtype=float32)
    """
    check_function("vmap", fn)

    def traced(*args: object, **options: object) -> object:
        return _batched(fn, in_axes, out_axes, args, options)

    functools.update_wrapper(traced, fn)
    traced.__name__ = f"vmap_{function_name(fn)}"
    direct = Direct(traced)

    @functools.wraps(traced)
    def call(*args: object, **options: object) -> object:
        if current_trace() is None and not traced_leaves((args, options)):
            return direct(*args, **options)
        return traced(*args, **options)

    return call


def _batched(
    fn: Function, in_axes: Axes, out_axes: Axes, args: tuple[object, ...], options: dict[str, object]
) -> object:
    trace = current()
    leaves, structure = flatten(args)
    names = argument_names(fn, len(args))
    paths = [p for n, child in zip(names, structure.children, strict=True) for p in child.paths(n)]
    axes = _spread(structure, in_axes, "in_axes")
    types: list[TensorType] = []
    places: list[int | None] = []
    sizes: dict[str, int] = {}
    for leaf, path, axis in zip(leaves, paths, axes, strict=True):
        type = type_of(leaf)
        if type is None or isinstance(leaf, TensorType):
            raise ArgumentError(
                f"{here().prefix}vmap: {path}: expected an array or a number, got {shown(leaf)}"
            )
        place = None if axis is None else _axis(axis, type.rank, f"in_axes: {path}", type)
        if place is not None:
            sizes[path] = type.shape[place]
            type = TensorType(type.dtype, type.shape[:place] + type.shape[place + 1 :])
        types.append(type)
        places.append(place)
    if not sizes:
        raise ArgumentError(
            f"{here().prefix}vmap: in_axes: expected an axis for some argument, got None for all"
        )
    size = next(iter(sizes.values()))
    if any(n != size for n in sizes.values()):
        got = ", ".join(f"{n} of {path}" for path, n in sizes.items())
        raise ArgumentError(f"{here().prefix}vmap: expected axes of one size, got {got}")
    inner = functools.partial(fn, **options) if options else fn
    part = trace_function(inner, as_tuple(structure.unflatten(types)), function_name(fn), names)
    trace.differentiated |= part.graph.stage == "differentiated"
    build = trace.builder
    build.loc = here(current_scope())
    given = [
        value if place is None else to_front(build, value, place)
        for value, place in zip((trace.value_of(leaf, "argument") for leaf in leaves), places, strict=True)
    ]
    given += [trace.lift(capture) for capture in part.captures]
    which = [place is not None for place in places] + [False] * len(part.captures)
    found = batch_into(build, part.graph, given, which, size)
    wanted = _spread(part.outputs, out_axes, "out_axes")
    results = [
        _placed(build, value, has_batch, axis, size)
        for (value, has_batch), axis in zip(found, wanted, strict=True)
    ]
    return part.outputs.unflatten([Array(trace, v) for v in results])


def _placed(build: Builder, value: Value, has_batch: bool, axis: int | None, size: int) -> Value:
    """A result with the batch where it is wanted."""
    if axis is None:
        if has_batch:
            raise ShapeError(
                f"{here().prefix}vmap: out_axes: expected a result that is the same for all examples, got one of "
                f"each: {value.type!r}"
            )
        return value
    value = value if has_batch else whole(build, value, size)
    rank = value.type.rank
    place = _axis(axis, rank, "out_axes", value.type)
    order = [*range(1, rank)]
    order.insert(place, 0)
    return value if place == 0 else build.transpose(value, perm=tuple(order))


def _axis(axis: int, rank: int, what: str, type: TensorType) -> int:
    if not -rank <= axis < rank:
        raise ArgumentError(f"{here().prefix}vmap: {what}: expected an axis of {type!r}, got {axis}")
    return axis % rank


def _spread(structure: Structure, axes: Axes, what: str) -> list[int | None]:
    """An axis for each leaf: a nest of axes may end before the structure does."""
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        return [axes] * structure.size
    if not isinstance(axes, (list, tuple, dict)):
        raise ArgumentError(
            f"{here().prefix}vmap: {what}: expected integers, None, or nests of them, got {shown(axes)}"
        )
    keys = tuple(axes) if isinstance(axes, dict) else tuple(range(len(axes)))
    named = structure.kind == "dict"
    if (
        structure.kind in ("leaf", "none")
        or len(keys) != len(structure.keys)
        or (isinstance(axes, dict) != named or (named and set(keys) != set(structure.keys)))
    ):
        raise ArgumentError(
            f"{here().prefix}vmap: {what}: expected axes for {structure.describe()}, got {shown(axes)}"
        )
    parts = [axes[k] for k in structure.keys] if isinstance(axes, dict) else list(axes)  # type: ignore[index]
    return [
        axis
        for part, child in zip(parts, structure.children, strict=True)
        for axis in _spread(child, part, what)
    ]
