"""Parameters: the named arrays that modules own, drawn when they are first needed.

In: values, or a shape and an initialiser. Out: one array each, always in the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.init import Initializer, draw
from graphc.ir.types import DType, TensorType, dtype_of, f32

if TYPE_CHECKING:
    from graphc.frontend.modules import Module

DEFAULT_SEED = 0  # of parameters that are read before any seed was given

# Attributes of modules give arrays, so `decoder.weight = encoder.weight` is seen by the array's identity.
_BY_ARRAY: WeakValueDictionary[int, Parameter] = WeakValueDictionary()


class Parameter:
    """A trained array of a module, given as values or drawn by an initialiser when first needed.

    In a traced function a module's attribute gives the parameter as an input of the graph, elsewhere as its array.

    >>> Parameter(np.float32([1, 2])).type
    f32[2]
    """

    trained = True

    def __init__(
        self,
        values: np.ndarray | None = None,
        *,
        shape: Sequence[int] = (),
        initializer: Initializer | None = None,
        dtype: DType = f32,
    ) -> None:
        if (values is None) == (initializer is None):
            raise ArgumentError("Parameter: expected either values or an initializer with a shape")
        self._values: np.ndarray | None = None
        if values is not None:
            given = np.asarray(values)
            dtype, shape = dtype_of(given.dtype), given.shape
            self._values = np.array(given, dtype=dtype.numpy, order="C", copy=True)
        self.type = TensorType(dtype, tuple(shape))
        self.initializer = initializer
        self.owner: Module | None = None
        self.frozen = False  # set by `Module.freeze`: kept as it is in training

    @classmethod
    def of(cls, array: object) -> Parameter | None:
        """The parameter whose own memory an array is, if any: what a module's attribute gave."""
        found = _BY_ARRAY.get(id(array))
        return found if found is not None and found._values is array else None

    @property
    def drawn(self) -> bool:
        """True where there are values already."""
        return self._values is not None

    @property
    def array(self) -> np.ndarray:
        """The values: always the same memory. A first read draws those of the whole model, from `DEFAULT_SEED`."""
        if self._values is None:
            if self.owner is None:
                self.initialize(DEFAULT_SEED, 0)
            else:
                self.owner.root.fill(DEFAULT_SEED)
        assert self._values is not None
        _BY_ARRAY[id(self._values)] = self
        return self._values

    def initialize(self, seed: int, stream: int) -> None:
        """Draws the values anew; a parameter that was made of values keeps them."""
        if self.initializer is not None:
            values = draw(self.initializer, seed, self.type.shape, self.type.dtype, stream)
            if self._values is None:
                self._values = values
            else:
                np.copyto(self._values, values)

    def traced(self, key: Array, stream: int) -> Array:
        """The first values inside a graph, drawn from a traced key; a parameter that was made of values has those."""
        if self.initializer is not None:
            return draw(self.initializer, key, self.type.shape, self.type.dtype, stream)
        return F.asarray(self.array)

    def assign(self, values: np.ndarray) -> None:
        """Copies values of the same type in; raises `ArgumentError` where the type is another."""
        problem = self.mismatch(values)
        if problem:
            raise ArgumentError(f"{type(self).__name__}: {problem}")
        if self._values is None:
            self._values = np.array(values, dtype=self.type.dtype.numpy, order="C", copy=True)
        else:
            np.copyto(self._values, values)

    def mismatch(self, values: np.ndarray) -> str:
        """What is wrong with these values, empty where they fit."""
        array = np.asarray(values)
        if array.shape == self.type.shape and array.dtype.newbyteorder("=") == self.type.dtype.numpy:
            return ""
        return f"expected {self.type!r}, got {array.dtype.name}[{','.join(map(str, array.shape))}]"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type!r})"


class Buffer(Parameter):
    """An array that a module keeps and changes but that is not trained: running statistics, counters.

    >>> Buffer(np.float32([0])).trained
    False
    """

    trained = False
