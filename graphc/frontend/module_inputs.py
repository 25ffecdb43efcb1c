"""What a module may be called with: arrays, nests of them, and settings.

In: arguments of a call. Out: the same nest with traced arrays, or with NumPy's. A setting (a bool, a text or None) is no
array: it belongs to the function that is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union, cast

import numpy as np

from graphc.frontend.array import Array
from graphc.frontend.functions import asarray
from graphc.ir.types import DType

Tensor = Array | np.ndarray
Setting = bool | str | None
Input = Union[Tensor, Setting, "tuple[Input, ...]", "Mapping[str, Input]"]


def traced(value: Tensor) -> Array:
    """An array as a traced one."""
    return value if isinstance(value, Array) else asarray(value)


def traced_nest(value: Input) -> Input:
    """An argument with its arrays traced; settings stay, a list of numbers is one array.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: traced_nest({"a": (x, None), "b": x})["a"][0], f32[2]).output_types
    (f32[2],)
    """
    if isinstance(value, Mapping):
        return {key: traced_nest(part) for key, part in value.items()}
    if isinstance(value, tuple) or _holds_arrays(value):
        return tuple(map(traced_nest, cast("tuple[Input, ...]", value)))
    return value if _is_setting(value) else traced(cast("Tensor", value))


def nest_of_arrays(value: Input, dtype: DType) -> Input:
    """An argument with NumPy's arrays, floats of the model's data type; settings stay, a list of numbers is one array.

    >>> from graphc.ir.types import f32
    >>> nest_of_arrays(([1.0, 2.0], None), f32)
    (array([1., 2.], dtype=float32), None)
    """
    if isinstance(value, Mapping):
        return {key: nest_of_arrays(part, dtype) for key, part in value.items()}
    if isinstance(value, tuple) or _holds_arrays(value):
        return tuple(nest_of_arrays(part, dtype) for part in cast("tuple[Input, ...]", value))
    if _is_setting(value):
        return value
    array = np.asarray(value)
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(dtype.numpy, copy=False) if is_float else array


def _is_setting(value: Input) -> bool:
    return value is None or isinstance(value, (bool, str))


def _holds_arrays(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(part, (Array, np.ndarray)) for part in value)
