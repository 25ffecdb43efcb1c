"""Loops and branches, in traced code and on numpy arrays.

In: functions of the user's, nests of arrays. Out: in traced code nodes with regions (`frontend.control`); outside of it
the loop is compiled once for each type of its arguments, and run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

from graphc.frontend import control
from graphc.frontend.array import Array
from graphc.frontend.tracer import current_trace
from graphc.frontend.tree import flatten
from graphc.transforms import on_arrays

Body = Callable[..., object]
_KEPT = 256  # compiled loops, as the functions that they were made of


@functools.wraps(control.scan)
def scan(
    f: Body,
    init: object,
    xs: object = None,
    length: int | None = None,
    reverse: bool = False,
    checkpoint: bool = False,
) -> tuple[object, object]:
    if _is_traced((init, xs)):
        return control.scan(f, init, xs, length, reverse, checkpoint)
    call = _prepared(_scanned, (f,), (length, bool(reverse), bool(checkpoint)))
    return cast("tuple[object, object]", call(init, xs))


def _scanned(f: Body, length: int | None, reverse: bool, checkpoint: bool) -> Body:
    def scan(init: object, xs: object) -> object:
        return control.scan(f, init, xs, length, reverse, checkpoint)

    return scan


@functools.wraps(control.cond)
def cond(pred: object, true_fn: Body, false_fn: Body, *operands: object) -> object:
    if _is_traced((pred, operands)):
        return control.cond(pred, true_fn, false_fn, *operands)
    return _prepared(_branched, (true_fn, false_fn), ())(pred, *operands)


def _branched(true_fn: Body, false_fn: Body) -> Body:
    def cond(pred: object, *operands: object) -> object:
        return control.cond(pred, true_fn, false_fn, *operands)

    return cond


@functools.wraps(control.while_loop)
def while_loop(cond_fn: Body, body_fn: Body, init: object) -> object:
    if _is_traced(init):
        return control.while_loop(cond_fn, body_fn, init)
    return _prepared(_repeated, (cond_fn, body_fn), ())(init)


def _repeated(cond_fn: Body, body_fn: Body) -> Body:
    def while_loop(init: object) -> object:
        return control.while_loop(cond_fn, body_fn, init)

    return while_loop


def _is_traced(tree: object) -> bool:
    return current_trace() is not None or any(isinstance(leaf, Array) for leaf in flatten(tree)[0])


def _prepared(make: Body, functions: tuple[Body, ...], options: tuple[object, ...]) -> Body:
    """The call on arrays of these functions, the same one for the same functions: it keeps what it compiled."""
    try:
        return _kept(make, functions, options)
    except TypeError:  # a function that is no key is compiled anew
        return on_arrays(cast("Body", make(*functions, *options)))


@functools.lru_cache(_KEPT)
def _kept(make: Body, functions: tuple[Body, ...], options: tuple[object, ...]) -> Body:
    return on_arrays(cast("Body", make(*functions, *options)))
