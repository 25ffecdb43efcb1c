"""Training data: checked once, cut into minibatches without work between the steps.

In: arrays of inputs and targets, a row an example. Out: contiguous arrays of the types that models take, and batches
that are gathered into fixed buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from graphc.errors import ArgumentError, DTypeError
from graphc.frontend.tree import flatten
from graphc.ir.types import DType
from graphc.runtime.executable import aligned_empty

Nest = np.ndarray | Mapping[str, "Nest"] | tuple["Nest", ...]  # of arrays


def leaves_of(nest: Nest, what: str = "") -> list[tuple[str, np.ndarray]]:
    """The arrays of a nest and their paths.

    >>> [(path, a.shape) for path, a in leaves_of({"a": np.zeros(2), "b": np.zeros(3)}, "targets")]
    [('targets.a', (2,)), ('targets.b', (3,))]
    """
    leaves, structure = flatten(nest)
    return list(zip(structure.paths(what), cast("list[np.ndarray]", leaves), strict=True))


def mapped(function: Callable[[np.ndarray], object], nest: Nest) -> object:
    """The nest with each array replaced by what a function makes of it."""
    leaves, structure = flatten(nest)
    return structure.unflatten([function(leaf) for leaf in cast("list[np.ndarray]", leaves)])


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets, row by row; both are arrays, or nests of them."""

    x: Nest
    y: Nest

    @cached_property
    def arrays(self) -> list[tuple[str, np.ndarray]]:
        """All arrays and their paths."""
        return [*leaves_of(self.x, "inputs"), *leaves_of(self.y, "targets")]

    def __len__(self) -> int:
        return int(self.arrays[0][1].shape[0])

    def rows(self, chosen: np.ndarray) -> Dataset:
        """The chosen rows, as a data set of its own."""
        x, y = (cast("Nest", mapped(lambda a: a[chosen], part)) for part in (self.x, self.y))
        return Dataset(x, y)


def dataset(data: object, dtype: DType, allow_nan: bool = False, what: str = "data") -> Dataset:
    """A pair (inputs, targets) as checked arrays.

    Both may be dicts or tuples of arrays, too. Floats of any width become `dtype`, the model's own (so f64 inputs are
    rounded to f32 for an f32 model); u8 and bool stay; other integers become i32. Raises `ArgumentError` for anything but
    a pair of equally long, non-empty arrays, for integers beyond i32, and, unless `allow_nan`, for NaN, naming its first
    row; `DTypeError` for arrays that aren't numbers.

    >>> from graphc.ir.types import f32
    >>> dataset((np.ones((3, 2)), np.arange(3)), f32).y.dtype
    dtype('int32')
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ArgumentError(f"{what}: expected a pair (inputs, targets), got {type(data).__name__}")
    x, y = (_checked(part, dtype, allow_nan, f"{what}: {n}") for part, n in zip(data, ("inputs", "targets")))
    found = Dataset(x, y)
    if len(x_leaves := leaves_of(x)) == 0 or not leaves_of(y):
        raise ArgumentError(
            f"{what}: expected arrays, got none among the {'targets' if x_leaves else 'inputs'}"
        )
    for path, array in found.arrays:
        if len(array) != len(found):
            name = (
                "as many targets as inputs"
                if path == "targets"
                else f"as many rows in {path} as in the first"
            )
            raise ArgumentError(f"{what}: expected {name}, got {len(array)} and {len(found)}")
    return found


def _checked(values: object, dtype: DType, allow_nan: bool, what: str) -> Nest:
    if isinstance(values, Mapping):
        return {str(n): _checked(part, dtype, allow_nan, f"{what}.{n}") for n, part in values.items()}
    if isinstance(values, tuple) and any(
        hasattr(part, "shape") or isinstance(part, Mapping) for part in values
    ):
        return tuple(_checked(part, dtype, allow_nan, f"{what}.{i}") for i, part in enumerate(values))
    return _array(values, dtype, allow_nan, what)


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
    """Buffers of a fixed number of rows, filled anew for each step.

    >>> batch = Batch(Dataset(np.arange(4), np.arange(4) * 10), 2); batch.gather(np.array([3, 1])); batch.y
    array([30, 10])
    """

    def __init__(self, data: Dataset, rows: int) -> None:
        def memory(array: np.ndarray) -> np.ndarray:
            return aligned_empty((rows, *array.shape[1:]), array.dtype)

        self.rows = rows
        self.x, self.y = (cast("Nest", mapped(memory, part)) for part in (data.x, data.y))
        # The method, because the function `np.take` takes longer to find it than the method to copy a small batch.
        buffers = Dataset(self.x, self.y).arrays
        self._takes = [(a.take, out) for (_, a), (_, out) in zip(data.arrays, buffers, strict=True)]

    def gather(self, chosen: np.ndarray) -> None:
        """Fills the buffers with these rows."""
        # mode="clip" because the default checks by writing to a copy of `out` first; the indices are permutations.
        for take, out in self._takes:
            take(chosen, 0, out, "clip")


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
