"""NumPy's own functions on traced values: ``np.exp(x)``, ``np.add(array, x)``, ``np.concatenate([x, y])``.

In: the calls that NumPy hands over by `__array_ufunc__` (NEP 13) and `__array_function__` (NEP 18). Out: the array
function of the same meaning. One that has none raises `TraceError` with its name and the user's line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NoReturn

import numpy as np

from graphc.errors import TraceError
from graphc.frontend import creation, elementwise, floats, linalg, manipulation, reductions, sorting
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.einsum import Optimize
from graphc.frontend.einsum import einsum as our_einsum
from graphc.frontend.matrix import numpy_linalg
from graphc.frontend.promotion import DTypeLike
from graphc.ir.loc import here

Function = Callable[..., object]

_UFUNC_NAMES: dict[str, str] = {  # NumPy's name where it is not ours
    "true_divide": "divide",
    "power": "pow",
    "absolute": "abs",
    "fabs": "abs",
    "float_power": "pow",
    "mod": "remainder",
    "rint": "round",
    "invert": "bitwise_invert",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "bitwise_not": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "conjugate": "positive",
}
_UFUNCS = (
    "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "negative", "positive", "sign",
    "minimum", "maximum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and",
    "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "isnan", "isinf",
    "isfinite", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "sqrt", "cbrt", "square",
    "reciprocal", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "clip",
)  # fmt: skip


def _sum(a: ArrayLike, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False) -> Array:
    return reductions.sum(a, axis, dtype=dtype, keepdims=keepdims)


def _prod(
    a: ArrayLike, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False
) -> Array:
    return reductions.prod(a, axis, dtype=dtype, keepdims=keepdims)


def _mean(a: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    return reductions.mean(a, axis, keepdims=keepdims)


def _var(a: ArrayLike, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Array:
    return reductions.var(a, axis, correction=ddof, keepdims=keepdims)


def _std(a: ArrayLike, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Array:
    return reductions.std(a, axis, correction=ddof, keepdims=keepdims)


def _cumsum(a: ArrayLike, axis: int | None = None, dtype: DTypeLike | None = None) -> Array:
    flat = a if axis is not None else manipulation.reshape(a, (-1,))
    return reductions.cumulative_sum(flat, axis or 0, dtype=dtype)


def _cumprod(a: ArrayLike, axis: int | None = None, dtype: DTypeLike | None = None) -> Array:
    flat = a if axis is not None else manipulation.reshape(a, (-1,))
    return reductions.cumulative_prod(flat, axis or 0, dtype=dtype)


def _clip(
    a: ArrayLike,
    a_min: ArrayLike | None = None,
    a_max: ArrayLike | None = None,
    *,
    min: ArrayLike | None = None,
    max: ArrayLike | None = None,
) -> Array:
    return elementwise.clip(a, a_min if a_min is not None else min, a_max if a_max is not None else max)


def _trace(a: ArrayLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    return reductions.sum(manipulation.diagonal(a, offset, axis1, axis2), axis=-1)


def _round(a: ArrayLike, decimals: int = 0) -> Array:
    return elementwise.round(a, decimals)


def _ravel(a: ArrayLike) -> Array:
    return manipulation.reshape(a, (-1,))


def _sort(
    a: ArrayLike, axis: int | None = -1, kind: str | None = None, *, stable: bool | None = None
) -> Array:
    return sorting.sort(_ravel(a), axis=0) if axis is None else sorting.sort(a, axis=axis)


def _argsort(
    a: ArrayLike, axis: int | None = -1, kind: str | None = None, *, stable: bool | None = None
) -> Array:
    return sorting.argsort(_ravel(a), axis=0) if axis is None else sorting.argsort(a, axis=axis)


def _searchsorted(a: ArrayLike, v: ArrayLike, side: str = "left", sorter: ArrayLike | None = None) -> Array:
    return sorting.searchsorted(a, v, side=side, sorter=sorter)


def _median(a: ArrayLike, axis: Axis = None, *, keepdims: bool = False) -> Array:
    return sorting.median(a, axis, keepdims=keepdims)


def _quantile(
    a: ArrayLike,
    q: float | Sequence[float],
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    return sorting.quantile(a, q, axis, method=method, keepdims=keepdims)


def _percentile(
    a: ArrayLike,
    q: float | Sequence[float],
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
) -> Array:
    return sorting.percentile(a, q, axis, method=method, keepdims=keepdims)


def _diff(
    a: ArrayLike,
    n: int = 1,
    axis: int = -1,
    prepend: ArrayLike | None = None,
    append: ArrayLike | None = None,
) -> Array:
    return sorting.diff(a, axis, n, prepend=prepend, append=append)


def _meshgrid(*xi: ArrayLike, indexing: str = "xy") -> tuple[Array, ...]:
    return tuple(creation.meshgrid(*xi, indexing=indexing))


def _einsum(subscripts: object, *operands: ArrayLike, optimize: Optimize = False) -> Array:
    return our_einsum(subscripts, *operands, optimize=optimize)


def _unique(ar: ArrayLike) -> NoReturn:
    sorting.unique_values(ar)


def _broadcast_arrays(*args: ArrayLike) -> tuple[Array, ...]:
    return tuple(manipulation.broadcast_arrays(*args))


@cache
def _ufuncs() -> Mapping[np.ufunc, Function]:
    table: dict[np.ufunc, Function] = {}
    for name in _UFUNCS:
        numpy = getattr(np, name, None)
        if isinstance(numpy, np.ufunc):
            table[numpy] = getattr(elementwise, name)
    for name, ours in _UFUNC_NAMES.items():
        numpy = getattr(np, name, None)
        if isinstance(numpy, np.ufunc):
            table[numpy] = getattr(elementwise, ours)
    for name in ("copysign", "hypot", "nextafter", "signbit"):
        table[getattr(np, name)] = getattr(floats, name)
    table[np.matmul] = linalg.matmul
    vecdot = getattr(np, "vecdot", None)  # a ufunc since NumPy 2.0
    if isinstance(vecdot, np.ufunc):
        table[vecdot] = linalg.vecdot
    return table


@cache
def _functions() -> Mapping[Function, Function]:
    own: dict[str, Function] = {
        "sum": _sum, "prod": _prod, "mean": _mean, "var": _var, "std": _std, "cumsum": _cumsum, "cumprod": _cumprod,
        "clip": _clip,
        "trace": _trace, "round": _round, "around": _round, "ravel": _ravel, "broadcast_arrays": _broadcast_arrays,
        "amax": reductions.max, "amin": reductions.min, "shape": lambda a: a.shape, "ndim": lambda a: a.ndim,
        "size": lambda a: a.size, "astype": elementwise.astype, "where": elementwise.where, "copy": elementwise.positive,
        "sort": _sort, "argsort": _argsort, "searchsorted": _searchsorted, "median": _median, "quantile": _quantile,
        "percentile": _percentile, "diff": _diff, "meshgrid": _meshgrid, "einsum": _einsum, "unique": _unique,
    }  # fmt: skip
    for module, names in (
        (reductions, "max min any all argmax argmin count_nonzero cumulative_sum cumulative_prod"),
        (manipulation, "broadcast_to reshape permute_dims transpose matrix_transpose swapaxes moveaxis expand_dims "
         "squeeze flip roll concat concatenate stack unstack split tile repeat pad tril triu diagonal take "
         "take_along_axis"),
        (linalg, "dot tensordot outer"),
        (creation, "zeros_like ones_like full_like empty_like"),
        (floats, "real imag"),
        (sorting, "nonzero unique_all unique_counts unique_inverse unique_values"),
    ):  # fmt: skip
        own.update({name: getattr(module, name) for name in names.split()})
    table = {getattr(np, name): function for name, function in own.items() if hasattr(np, name)}
    return {**numpy_linalg.functions(), **table}


def call_ufunc(
    ufunc: np.ufunc, method: str, inputs: Sequence[object], options: Mapping[str, object]
) -> object:
    """The ufunc on traced values; only plain calls have a meaning here. Raises `TraceError`."""
    where = here().prefix
    if method != "__call__":
        raise TraceError(
            f"{where}numpy.{ufunc.__name__}.{method}: expected a plain call on traced values, got {method}"
        )
    if options.get("out") is not None:
        raise TraceError(
            f"{where}numpy.{ufunc.__name__}: expected no out= on traced values, got one (perhaps by array += x); "
            "use array = array + x"
        )
    function = _ufuncs().get(ufunc)
    if function is None:
        raise TraceError(
            f"{where}numpy.{ufunc.__name__}: expected a function that can be traced, got {ufunc.__name__}"
        )
    dtype = options.get("dtype")
    rest = {k: v for k, v in options.items() if k not in ("dtype", "out") and v is not None}
    result = _called(f"numpy.{ufunc.__name__}", function, inputs, rest)
    return result if dtype is None else elementwise.astype(result, dtype)  # type: ignore[arg-type]


def call_function(function: Function, args: Sequence[object], options: Mapping[str, object]) -> object:
    """The NumPy function on traced values. Raises `TraceError`."""
    name = f"numpy.{getattr(function, '__name__', repr(function))}"
    ours = _functions().get(function)
    if ours is None:
        raise TraceError(f"{here().prefix}{name}: expected a function that can be traced, got {name}")
    return _called(name, ours, args, options)


def _called(name: str, function: Function, args: Sequence[object], options: Mapping[str, object]) -> object:
    signature = inspect.signature(function)
    kept = dict(options)
    if (
        kept and args == () and next(iter(signature.parameters)) not in kept
    ):  # NumPy calls the first operand a
        first = next((k for k in ("a", "x", "arr", "ary") if k in kept), None)
        args = () if first is None else (kept.pop(first),)
    try:
        signature.bind(*args, **kept)
    except TypeError as error:
        raise TraceError(
            f"{here().prefix}{name}: expected arguments that can be traced, got: {error}"
        ) from None
    return function(*args, **kept)
