"""Mixed precision of a function: `mixed_precision` traces it, rewrites its graph, and puts that where the call was.

In: a Python function of arrays. Out: a function of the same arguments and results whose contractions read 16-bit floats.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from graphc.errors import ArgumentError
from graphc.frontend.tracer import argument_names, current_trace, function_name
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.passes.mixed import HALVES, mixed
from graphc.transforms import Direct, Function, inlined, inner_trace, traced_leaves


@guarded
def mixed_precision(fn: Function, dtype: str = "bf16") -> Function:
    """`fn` with its f32 contractions on operands rounded to `dtype` ("bf16" or "f16"), summed in f32.

    Take the gradient inside, ``mixed_precision(value_and_grad(loss))``: the contractions of the backward pass are then
    mixed as well, and gradients stay f32. What is rounded and what is not: `graphc.passes.mixed`. It works on arrays and
    in traced code. Raises `ArgumentError` for another `dtype`.

    >>> import numpy as np
    >>> mixed_precision(lambda x, y: x @ y)(np.float32([1, 257]), np.float32([1, 1]))  # bf16 has 8 bits
    array(257., dtype=float32)
    """
    if dtype not in HALVES:
        raise ArgumentError(
            f"{here().prefix}mixed_precision: dtype: expected {' or '.join(HALVES)}, got {dtype!r}"
        )

    def traced(*args: object, **options: object) -> object:
        bound = functools.wraps(fn, updated=())(functools.partial(fn, **options)) if options else fn
        part = inner_trace("mixed_precision", bound, args, argument_names(fn, len(args)), function_name(fn))
        graph = mixed(part.graph, dtype)
        return part.outputs.unflatten(inlined(part, args, graph, len(graph.outputs)))

    functools.update_wrapper(traced, fn)
    traced.__doc__ = f"{function_name(fn)} with contractions of {dtype}."
    direct = Direct(traced)

    @functools.wraps(traced)
    def call(*args: object, **options: object) -> object:
        run: Callable[..., object] = traced
        if current_trace() is None and not traced_leaves((args, options)):
            run = direct
        return run(*args, **options)

    return call
