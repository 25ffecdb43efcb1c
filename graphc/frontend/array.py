"""`Array`: what stands for an array while a function is traced. Operators and methods are NumPy's.

In: operations of the user's function. Out: nodes in the current trace; and, where Python asks for numbers that do
not exist yet, a `TraceError` that names the user's line and what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, Union

import numpy as np

from graphc.errors import TraceError
from graphc.ir.loc import here
from graphc.ir.types import DType

if TYPE_CHECKING:
    from graphc.frontend import array_api, indexing, numpy_bridge
    from graphc.frontend import functions as F
    from graphc.frontend.promotion import DTypeLike
    from graphc.frontend.tracer import Trace
    from graphc.ir.graph import Value
else:
    from importlib import import_module

    class _Late:
        """A module that is imported at its first use: the array functions are made of `Array`, and it of them."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> object:
            return getattr(import_module(self._name), attribute)

    F = _Late("graphc.frontend.functions")
    array_api = _Late("graphc.frontend.array_api")
    indexing = _Late("graphc.frontend.indexing")
    numpy_bridge = _Late("graphc.frontend.numpy_bridge")

ArrayLike = Union["Array", np.ndarray, np.generic, bool, int, float, "Sequence[ArrayLike]"]
Axis = Union[int, "Sequence[int]", None]
Index = object  # ints, slices, None, Ellipsis, integer arrays, constant masks, or a tuple of them


class Array:
    """A value of the graph that is being traced, with NumPy's operators, methods and indexing.

    It has a data type and a shape, no numbers: they exist when the compiled code runs. Operations outside NumPy's
    reach raise `TraceError`. ``x += y`` binds a new value to `x`; nothing is changed in place.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import f32
    >>> trace(lambda x: (x[0] + 1) @ x.T, f32[2, 3]).output_types
    (f32[2],)
    """

    __slots__ = ("trace", "value")
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __init__(self, trace: Trace, value: Value) -> None:
        self.trace = trace
        self.value = value

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    @property
    def size(self) -> int:
        return math.prod(self.value.shape)

    @property
    def T(self) -> Array:
        """All axes in reverse order."""
        return F.permute_dims(self)

    @property
    def mT(self) -> Array:
        """The last two axes exchanged."""
        return F.matrix_transpose(self)

    @property
    def at(self) -> indexing.At:
        """``x.at[index].add(values)``: the array with values added at an index, duplicates adding up."""
        return indexing.At(self)

    def __repr__(self) -> str:
        return f"Array({self.value.type!r})"

    # -- operators --------------------------------------------------------------------------------------------

    def __add__(self, other: ArrayLike) -> Array:
        return F.add(self, other)

    def __radd__(self, other: ArrayLike) -> Array:
        return F.add(other, self)

    def __sub__(self, other: ArrayLike) -> Array:
        return F.subtract(self, other)

    def __rsub__(self, other: ArrayLike) -> Array:
        return F.subtract(other, self)

    def __mul__(self, other: ArrayLike) -> Array:
        return F.multiply(self, other)

    def __rmul__(self, other: ArrayLike) -> Array:
        return F.multiply(other, self)

    def __truediv__(self, other: ArrayLike) -> Array:
        return F.divide(self, other)

    def __rtruediv__(self, other: ArrayLike) -> Array:
        return F.divide(other, self)

    def __floordiv__(self, other: ArrayLike) -> Array:
        return F.floor_divide(self, other)

    def __rfloordiv__(self, other: ArrayLike) -> Array:
        return F.floor_divide(other, self)

    def __mod__(self, other: ArrayLike) -> Array:
        return F.remainder(self, other)

    def __rmod__(self, other: ArrayLike) -> Array:
        return F.remainder(other, self)

    def __divmod__(self, other: ArrayLike) -> tuple[Array, Array]:
        return F.floor_divide(self, other), F.remainder(self, other)

    def __rdivmod__(self, other: ArrayLike) -> tuple[Array, Array]:
        return F.floor_divide(other, self), F.remainder(other, self)

    def __pow__(self, other: ArrayLike) -> Array:
        return F.pow(self, other)

    def __rpow__(self, other: ArrayLike) -> Array:
        return F.pow(other, self)

    def __matmul__(self, other: ArrayLike) -> Array:
        return F.matmul(self, other)

    def __rmatmul__(self, other: ArrayLike) -> Array:
        return F.matmul(other, self)

    def __and__(self, other: ArrayLike) -> Array:
        return F.bitwise_and(self, other)

    def __rand__(self, other: ArrayLike) -> Array:
        return F.bitwise_and(other, self)

    def __or__(self, other: ArrayLike) -> Array:
        return F.bitwise_or(self, other)

    def __ror__(self, other: ArrayLike) -> Array:
        return F.bitwise_or(other, self)

    def __xor__(self, other: ArrayLike) -> Array:
        return F.bitwise_xor(self, other)

    def __rxor__(self, other: ArrayLike) -> Array:
        return F.bitwise_xor(other, self)

    def __lshift__(self, other: ArrayLike) -> Array:
        return F.bitwise_left_shift(self, other)

    def __rlshift__(self, other: ArrayLike) -> Array:
        return F.bitwise_left_shift(other, self)

    def __rshift__(self, other: ArrayLike) -> Array:
        return F.bitwise_right_shift(self, other)

    def __rrshift__(self, other: ArrayLike) -> Array:
        return F.bitwise_right_shift(other, self)

    def __neg__(self) -> Array:
        return F.negative(self)

    def __pos__(self) -> Array:
        return F.positive(self)

    def __abs__(self) -> Array:
        return F.abs(self)

    def __invert__(self) -> Array:
        return F.bitwise_invert(self)

    def __round__(self, digits: int = 0) -> Array:
        return F.round(self, digits)

    def __eq__(self, other: ArrayLike) -> Array:  # type: ignore[override]
        return F.equal(self, other)

    def __ne__(self, other: ArrayLike) -> Array:  # type: ignore[override]
        return F.not_equal(self, other)

    def __lt__(self, other: ArrayLike) -> Array:
        return F.less(self, other)

    def __le__(self, other: ArrayLike) -> Array:
        return F.less_equal(self, other)

    def __gt__(self, other: ArrayLike) -> Array:
        return F.greater(self, other)

    def __ge__(self, other: ArrayLike) -> Array:
        return F.greater_equal(self, other)

    # -- indexing and iteration -------------------------------------------------------------------------------

    def __getitem__(self, index: Index) -> Array:
        return indexing.getitem(self, index)

    def __setitem__(self, index: Index, values: ArrayLike) -> NoReturn:
        raise self._refusal(
            "assignment",
            "traced values don't change in place",
            "x = x.at[index].add(values), or graphc.where",
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{here().prefix}len: expected an array of at least one axis, got {self!r}")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if not self.shape:
            raise TypeError(f"{here().prefix}iter: expected an array of at least one axis, got {self!r}")
        return iter([self[i] for i in range(self.shape[0])])

    # -- what needs numbers -----------------------------------------------------------------------------------

    def _refusal(self, what: str, why: str, instead: str) -> TraceError:
        return TraceError(
            f"{here().prefix}{what}: expected a Python value, got the traced {self!r}: {why}; use {instead}"
        )

    _LATER = "its numbers exist only when the compiled code runs"

    def __bool__(self) -> bool:
        raise self._refusal(
            "bool", self._LATER, "graphc.where(condition, a, b) instead of if, while, and, or, not"
        )

    def __int__(self) -> int:
        raise self._refusal("int", self._LATER, "x.astype(graphc.i32)")

    def __float__(self) -> float:
        raise self._refusal("float", self._LATER, "x.astype(graphc.f32)")

    def __complex__(self) -> complex:
        raise self._refusal("complex", self._LATER, "x itself: graphs have no complex numbers")

    def __index__(self) -> int:
        raise self._refusal(
            "index", self._LATER, "graphc.take(x, i + graphc.arange(n)) for a slice that begins at i"
        )

    def item(self) -> NoReturn:
        """Raises `TraceError`: there is no number yet."""
        raise self._refusal("item", self._LATER, "the array itself, and return it from the traced function")

    def tolist(self) -> NoReturn:
        """Raises `TraceError`: there are no numbers yet."""
        raise self._refusal("tolist", self._LATER, "the array itself, and return it from the traced function")

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise self._refusal(
            "numpy", self._LATER, "graphc's or NumPy's array functions on x, such as graphc.where"
        )

    def __array_namespace__(self, *, api_version: str | None = None) -> object:
        """`graphc.array_api`, the names of the array API standard. Raises `ArgumentError` for another version."""
        return array_api.namespace(api_version)

    def to_device(self, device: object) -> NoReturn:
        """Raises `TraceError`: where an array lies is decided when the function is compiled."""
        raise self._refusal(
            "to_device", self._LATER, "the target of graphc.compile, which decides where arrays lie"
        )

    def __dlpack__(self, **options: object) -> NoReturn:
        raise self._refusal("dlpack", self._LATER, "the array itself, and return it from the traced function")

    def __dlpack_device__(self) -> NoReturn:
        raise self._refusal("dlpack", self._LATER, "the array itself, and return it from the traced function")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        return numpy_bridge.call_ufunc(ufunc, method, inputs, options)

    def __array_function__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object],
        options: dict[str, object],
    ) -> object:
        return numpy_bridge.call_function(function, args, options)

    # -- methods ----------------------------------------------------------------------------------------------

    def astype(self, dtype: DTypeLike) -> Array:
        return F.astype(self, dtype)

    def reshape(self, *shape: int | Sequence[int]) -> Array:
        return F.reshape(self, _unpacked(shape))

    def transpose(self, *axes: int | Sequence[int]) -> Array:
        return F.permute_dims(self, _unpacked(axes) if axes else None)

    def swapaxes(self, axis1: int, axis2: int) -> Array:
        return F.swapaxes(self, axis1, axis2)

    def flatten(self) -> Array:
        return F.reshape(self, (-1,))

    def ravel(self) -> Array:
        return F.reshape(self, (-1,))

    def squeeze(self, axis: Axis = None) -> Array:
        return F.squeeze(self, axis)

    def repeat(self, repeats: int | Sequence[int], axis: int | None = None) -> Array:
        return F.repeat(self, repeats, axis=axis)

    def take(self, indices: ArrayLike, axis: int | None = None) -> Array:
        return F.take(self, indices, axis=axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
        return F.diagonal(self, offset, axis1, axis2)

    def copy(self) -> Array:
        """The array itself: a traced value never changes."""
        return self

    def clip(self, min: ArrayLike | None = None, max: ArrayLike | None = None) -> Array:
        return F.clip(self, min, max)

    def round(self, decimals: int = 0) -> Array:
        return F.round(self, decimals)

    def dot(self, other: ArrayLike) -> Array:
        return F.dot(self, other)

    def argsort(self, axis: int = -1, *, descending: bool = False) -> Array:
        return F.argsort(self, axis, descending=descending)

    def sort(self, axis: int = -1) -> NoReturn:
        """Raises `TraceError`: NumPy's method sorts in place."""
        raise self._refusal("sort", "traced values don't change in place", "graphc.sort(x)")

    def nonzero(self) -> NoReturn:
        """Raises `TraceError`: how many elements are not 0 is not known yet."""
        F.nonzero(self)

    def sum(self, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False) -> Array:
        return F.sum(self, axis, dtype=dtype, keepdims=keepdims)

    def prod(self, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False) -> Array:
        return F.prod(self, axis, dtype=dtype, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Array:
        return F.cumulative_sum(self if axis is not None else self.ravel(), axis=0 if axis is None else axis)

    def mean(self, axis: Axis = None, *, keepdims: bool = False) -> Array:
        return F.mean(self, axis, keepdims=keepdims)

    def var(self, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Array:
        return F.var(self, axis, correction=ddof, keepdims=keepdims)

    def std(self, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Array:
        return F.std(self, axis, correction=ddof, keepdims=keepdims)

    def max(self, axis: Axis = None, *, keepdims: bool = False) -> Array:
        return F.max(self, axis, keepdims=keepdims)

    def min(self, axis: Axis = None, *, keepdims: bool = False) -> Array:
        return F.min(self, axis, keepdims=keepdims)

    def any(self, axis: Axis = None, *, keepdims: bool = False) -> Array:
        return F.any(self, axis, keepdims=keepdims)

    def all(self, axis: Axis = None, *, keepdims: bool = False) -> Array:
        return F.all(self, axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, *, keepdims: bool = False) -> Array:
        return F.argmax(self, axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, *, keepdims: bool = False) -> Array:
        return F.argmin(self, axis, keepdims=keepdims)


def _unpacked(given: Sequence[int | Sequence[int]]) -> tuple[int, ...]:
    """``reshape(2, 3)`` and ``reshape((2, 3))`` mean the same."""
    if len(given) == 1 and not isinstance(given[0], (int, np.integer)):
        if not isinstance(given[0], (Sequence, np.ndarray)):
            raise TraceError(f"{here().prefix}reshape: expected a shape, got {type(given[0]).__name__}")
        return tuple(given[0])
    return tuple(int(n) for n in given)  # type: ignore[arg-type]
