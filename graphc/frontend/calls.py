"""What all array functions share: the trace they write into, the user's line, promotion, broadcasting, axes, errors.

In: the name of an array function and its arguments. Out: values of the current trace with equal types.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from graphc.errors import DTypeError, GraphcError, ShapeError, TraceError
from graphc.frontend.array import Array, ArrayLike, Axis
from graphc.frontend.promotion import (
    DEFAULT_FLOAT,
    DEFAULT_INT,
    DTypeLike,
    Scalar,
    as_dtype,
    as_weak,
    check_range,
    result_type,
    to_float,
)
from graphc.frontend.tracer import current_scope, current_trace, type_of
from graphc.ir.graph import Dense, Value
from graphc.ir.loc import here
from graphc.ir.scalar import cast_numpy
from graphc.ir.types import DType, TensorType, dtype_of

E = TypeVar("E", bound=GraphcError)


class Call:
    """One call of an array function: where the user wrote it and the trace that it adds nodes to.

    Raises `TraceError` outside of traced functions.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.loc = here(current_scope())
        trace = current_trace()
        if trace is None:
            raise TraceError(
                f"{self.loc.prefix}{name}: expected a call in a traced function, got one outside; "
                f"trace or compile the function, or use NumPy here"
            )
        self.trace = trace
        self.build = trace.builder
        self.build.loc = self.loc

    def error(self, kind: type[E], text: str) -> E:
        """An error with the user's line and the function's name."""
        return kind(f"{self.loc.prefix}{self.name}: {text}")

    def wrap(self, value: Value) -> Array:
        return Array(self.trace, value)

    # -- operands ---------------------------------------------------------------------------------------------

    def prepare(self, x: ArrayLike) -> Array | np.ndarray | Scalar:
        """The operand as a traced value, an array, or a weak Python scalar.

        A list of Python numbers is an array of the default type; a list with traced values is stacked.
        """
        if isinstance(x, Array):
            return x
        weak = as_weak(x)
        if weak is not None:
            return weak
        if isinstance(x, (np.ndarray, np.generic)):
            self._dtype(x.dtype)
            return np.asarray(x)
        if isinstance(x, (list, tuple)):
            return self._of_list(x)
        if type_of(x) is not None and not isinstance(x, TensorType):
            return np.asarray(x)
        raise self.error(TraceError, f"expected an array or a number, got {type(x).__name__}")

    def _of_list(self, items: Sequence[ArrayLike]) -> Array | np.ndarray:
        if _has_traced(items):
            from graphc.frontend.functions import stack

            return stack(items)
        try:
            array = np.asarray(items)
        except ValueError:
            raise self.error(ShapeError, "expected a list of equal shapes, got a ragged one") from None
        if _only_python(items):
            if array.dtype == np.float64:
                return array.astype(DEFAULT_FLOAT.numpy)
            if array.dtype == np.int64:
                dtype = (
                    result_type([], [int(v) for v in (array.min(), array.max())])
                    if array.size
                    else DEFAULT_INT
                )
                return array.astype(dtype.numpy)
        self._dtype(array.dtype)
        return array

    def _dtype(self, dtype: np.dtype) -> DType:
        try:
            return dtype_of(dtype)
        except DTypeError as error:
            raise self.error(DTypeError, str(error)) from None

    def dtype(self, given: DTypeLike) -> DType:
        """A data type that the user named."""
        try:
            return as_dtype(given)
        except DTypeError as error:
            raise self.error(DTypeError, str(error)) from None

    def value(self, x: ArrayLike, dtype: DType | None = None) -> Value:
        """The operand as a value, of its own type or converted to another."""
        given = self.prepare(x)
        if isinstance(given, Array):
            return self.cast(self.trace.lift(given), dtype or given.dtype)
        if isinstance(given, np.ndarray):
            target = dtype or self._dtype(given.dtype)
            return self.build.constant(cast_numpy(given, target.numpy), TensorType(target, given.shape))
        return self.splat(given, TensorType(dtype or result_type([], [given]), ()))

    def float_value(self, x: ArrayLike) -> Value:
        """The operand as floats: integers and bools become the default float."""
        value = self.value(x)
        return self.cast(value, to_float(value.dtype))

    def splat(self, number: Scalar, type: TensorType) -> Value:
        """A constant; raises `DTypeError` where a Python int is out of range."""
        try:
            check_range(number, type.dtype)
        except DTypeError as error:
            raise self.error(DTypeError, str(error)) from None
        with np.errstate(all="ignore"):
            return self.build.splat(number, type)

    def promote(
        self, *operands: ArrayLike, floats: bool = False
    ) -> tuple[list[Array | np.ndarray | Scalar], DType]:
        """The prepared operands and their common type; with `floats` at least the default float."""
        given = [self.prepare(x) for x in operands]
        strong = [self._dtype(g.dtype) if isinstance(g, np.ndarray) else g.dtype
                  for g in given if isinstance(g, (Array, np.ndarray))]  # fmt: skip
        weak = [g for g in given if not isinstance(g, (Array, np.ndarray))]
        try:
            dtype = result_type(strong, weak)
        except DTypeError as error:
            raise self.error(DTypeError, str(error)) from None
        return given, to_float(dtype) if floats else dtype

    def operands(self, *operands: ArrayLike, floats: bool = False) -> list[Value]:
        """The operands with one data type and one shape, by NumPy's promotion and broadcasting."""
        given, dtype = self.promote(*operands, floats=floats)
        shape = self.common_shape([g.shape for g in given if isinstance(g, (Array, np.ndarray))])
        return [self.fitted(g, TensorType(dtype, shape)) for g in given]

    def fitted(self, x: Array | np.ndarray | Scalar, type: TensorType) -> Value:
        """A prepared operand converted and broadcast to a type."""
        if isinstance(x, (Array, np.ndarray)):
            return self.broadcast(self.value(x, type.dtype), type.shape)
        return self.splat(x, type)

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype is dtype:
            return value
        if value.node.op.name == "const":  # the constant's conversion is done here, not in every run
            kept = value.node.attrs["value"]
            array = kept.array if isinstance(kept, Dense) else np.full(value.shape, kept, value.dtype.numpy)
            return self.build.constant(cast_numpy(array, dtype.numpy), TensorType(dtype, value.shape))
        return self.build.cast(value, type=TensorType(dtype, value.shape))

    # -- shapes -----------------------------------------------------------------------------------------------

    def common_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape to which all broadcast; raises `ShapeError`."""
        if len(set(shapes)) == 1:
            return shapes[0]
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            text = " and ".join(str(list(s)) for s in shapes)
            raise self.error(ShapeError, f"expected shapes that broadcast together, got {text}") from None

    def broadcast(self, value: Value, shape: Sequence[int]) -> Value:
        """NumPy's broadcasting of one value; raises `ShapeError`."""
        target = tuple(shape)
        if value.shape == target:
            return value
        rank, offset = len(value.shape), len(target) - len(value.shape)
        kept = [d for d in range(rank) if offset >= 0 and value.shape[d] == target[offset + d]]
        if offset < 0 or any(value.shape[d] != 1 for d in range(rank) if d not in kept):
            raise self.error(
                ShapeError, f"expected a shape that broadcasts to {list(target)}, got {list(value.shape)}"
            )
        if value.node.op.name == "const" and not isinstance(value.node.attrs["value"], Dense):
            return self.build.const(value=value.node.attrs["value"], type=TensorType(value.dtype, target))
        if len(kept) < rank:
            value = self.build.reshape(value, shape=tuple(value.shape[d] for d in kept))
        return self.build.broadcast(value, dims=tuple(offset + d for d in kept), shape=target)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        return value if value.shape == tuple(shape) else self.build.reshape(value, shape=tuple(shape))

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        if tuple(perm) == tuple(range(len(perm))):
            return value
        return self.build.transpose(value, perm=tuple(perm))

    def slice(self, value: Value, start: Sequence[int], size: Sequence[int], step: Sequence[int]) -> Value:
        if tuple(size) == value.shape and all(s == 1 for s in step):
            return value
        return self.build.slice(value, start=tuple(start), size=tuple(size), step=tuple(step))

    # -- arguments --------------------------------------------------------------------------------------------

    def integer(self, x: object, what: str) -> int:
        """A Python integer; raises `TraceError` for a traced one and anything else."""
        try:
            return operator.index(x)  # type: ignore[arg-type]
        except TypeError:
            raise self.error(TraceError, f"{what}: expected a Python int, got {type(x).__name__}") from None

    def axis(self, axis: object, rank: int) -> int:
        """An axis counted from 0; raises `ShapeError` where there is none of this number."""
        number = self.integer(axis, "axis")
        if not -rank <= number < rank:
            raise self.error(ShapeError, f"expected an axis within rank {rank}, got {number}")
        return number % rank

    def axes(self, axis: Axis, rank: int) -> tuple[int, ...]:
        """Increasing axes; None is all of them. Raises `ShapeError` for a wrong or repeated one."""
        if axis is None:
            return tuple(range(rank))
        given = axis if isinstance(axis, (tuple, list)) else [axis]
        found = [self.axis(a, rank) for a in given]
        if len(set(found)) != len(found):
            raise self.error(ShapeError, f"expected different axes, got {list(given)}")
        return tuple(sorted(found))

    def shape(self, shape: int | Sequence[int]) -> tuple[int, ...]:
        """A shape of non-negative Python ints; raises `ShapeError`."""
        given = list(shape) if isinstance(shape, (Sequence, np.ndarray)) else [shape]
        found = tuple(self.integer(n, "shape") for n in given)
        if any(n < 0 for n in found):
            raise self.error(ShapeError, f"expected a shape of non-negative integers, got {list(found)}")
        return found


def _has_traced(items: Sequence[ArrayLike]) -> bool:
    return any(_has_traced(i) if isinstance(i, (list, tuple)) else isinstance(i, Array) for i in items)


def _only_python(items: Sequence[ArrayLike]) -> bool:
    return all(_only_python(i) if isinstance(i, (list, tuple)) else as_weak(i) is not None for i in items)
