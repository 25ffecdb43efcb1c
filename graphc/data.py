"""Training data: checked once, cut into minibatches without work between the steps.

In: arrays of inputs and targets, a row an example. Out: contiguous arrays of the types that models take, and batches
that are gathered into fixed buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError
from graphc.ir.types import DType
from graphc.runtime.executable import aligned_empty


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets, row by row."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def rows(self, chosen: np.ndarray) -> Dataset:
        """The chosen rows, as a data set of its own."""
        return Dataset(self.x[chosen], self.y[chosen])


def dataset(data: object, dtype: DType, allow_nan: bool = False, what: str = "data") -> Dataset:
    """A pair (inputs, targets) as checked arrays.

    Floats of any width become `dtype`, the model's own (so f64 inputs are rounded to f32 for an f32 model); u8 and
    bool stay; other integers become i32. Raises `ArgumentError` for anything but a pair of equally long, non-empty
    arrays, for integers beyond i32, and, unless `allow_nan`, for NaN, naming its first row; `DTypeError` for arrays
    that aren't numbers.

    >>> from graphc.ir.types import f32
    >>> dataset((np.ones((3, 2)), np.arange(3)), f32).y.dtype
    dtype('int32')
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ArgumentError(f"{what}: expected a pair (inputs, targets), got {type(data).__name__}")
    x, y = (
        _array(a, dtype, allow_nan, f"{what}: {name}")
        for a, name in zip(data, ("inputs", "targets"), strict=True)
    )
    if len(x) != len(y):
        raise ArgumentError(f"{what}: expected as many targets as inputs, got {len(y)} and {len(x)}")
    return Dataset(x, y)


def split(data: Dataset, fraction: float, generator: np.random.Generator) -> tuple[Dataset, Dataset]:
    """Training and validation rows: the latter are drawn at random, so sorted data does no harm.

    Raises `ArgumentError` where the fraction is not between 0 and 1 or leaves one of the two empty.

    >>> from graphc.frontend.init import generator
    >>> train, held = split(Dataset(np.arange(8), np.arange(8)), 0.25, generator(0)); len(train), len(held)
    (6, 2)
    """
    held = round(len(data) * fraction) if 0 < fraction < 1 else 0
    if not 0 < held < len(data):
        raise ArgumentError(
            f"validation: expected a fraction that leaves rows on both sides, got {fraction!r} of {len(data)} rows"
        )
    order = generator.permutation(len(data))
    return data.rows(order[held:]), data.rows(np.sort(order[:held]))


class Batch:
    """Two buffers of a fixed number of rows, filled anew for each step.

    >>> batch = Batch(Dataset(np.arange(4), np.arange(4) * 10), 2); batch.gather(np.array([3, 1])); batch.y
    array([30, 10])
    """

    def __init__(self, data: Dataset, rows: int) -> None:
        self._data = data
        self.rows = rows
        self.x = aligned_empty((rows, *data.x.shape[1:]), data.x.dtype)
        self.y = aligned_empty((rows, *data.y.shape[1:]), data.y.dtype)

    def gather(self, chosen: np.ndarray) -> None:
        """Fills the buffers with these rows."""
        # mode="clip" because the default checks by writing to a copy of `out` first; the indices are permutations.
        # The method, because the function `np.take` takes longer to find it than the method to copy a small batch.
        self._data.x.take(chosen, 0, self.x, "clip")
        self._data.y.take(chosen, 0, self.y, "clip")


def batch_starts(count: int, rows: int, drop_last: bool = False) -> Iterator[tuple[int, int]]:
    """Where each batch begins and ends; the last may be shorter.

    >>> list(batch_starts(5, 2)), list(batch_starts(5, 2, drop_last=True))
    ([(0, 2), (2, 4), (4, 5)], [(0, 2), (2, 4)])
    """
    for start in range(0, count, rows):
        if start + rows <= count:
            yield start, start + rows
        elif not drop_last:
            yield start, count


def _array(values: object, dtype: DType, allow_nan: bool, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ArgumentError(f"{what}: expected at least one row, got shape {list(array.shape)}")
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        if not allow_nan and np.isnan(array).any():
            row = int(np.argmax(np.isnan(array).reshape(len(array), -1).any(axis=1)))
            raise ArgumentError(f"{what}: expected numbers, got NaN at row {row} (allow_nan=True takes them)")
        return np.ascontiguousarray(array, dtype.numpy)
    if array.dtype == np.uint8 or array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    if array.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise ArgumentError(f"{what}: expected integers that fit i32, got {array.min()} to {array.max()}")
        return np.ascontiguousarray(array, np.int32)
    raise DTypeError(f"{what}: expected an array of numbers, got {array.dtype}")
