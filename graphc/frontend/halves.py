"""Compositions that would lose digits between their steps in 16 bits are computed in f32 and rounded once.

In: a function of arrays. Out: the same function, which takes bf16 and f16 through f32. NumPy does so for the mean of f16,
PyTorch for softmax, norms and losses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from graphc.frontend.array import Array
from graphc.frontend.calls import Call
from graphc.ir.guard import guarded
from graphc.ir.types import f32

Arguments = ParamSpec("Arguments")


def in_f32(function: Callable[Arguments, Array]) -> Callable[Arguments, Array]:
    """The function on f32 where an argument is bf16 or f16; its result is rounded to the type of the first such one.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import bf16
    >>> [(n.op.name, n.type) for n in trace(in_f32(lambda x: (x * x).sum()), bf16[2]).nodes]
    [('cast', f32[2]), ('mul', f32[2]), ('reduce_sum', f32[]), ('cast', bf16[])]
    """

    @guarded
    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Array:
        half = next((a.dtype for a in args if isinstance(a, Array) and a.dtype.is_half), None)
        if half is None:
            return function(*args, **kwargs)
        wide = Call(function.__name__)
        args = tuple(  # type: ignore[assignment]
            wide.wrap(wide.value(a, f32)) if isinstance(a, Array) and a.dtype.is_half else a for a in args
        )
        result = function(*args, **kwargs)
        back = Call(function.__name__)
        return back.wrap(back.value(result, half))

    return call
