"""Initial values of parameters: reproducible draws from numpy's PCG64, by seed and position.

In: a seed, a shape and a data type. Out: numpy arrays, and the initialisers that layers name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend.checks import is_integer
from graphc.ir.types import DType, f32


class Initializer(Protocol):
    """Gives the first value of a parameter of this shape; every draw comes from the generator."""

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...


def generator(seed: int, stream: int = 0) -> np.random.Generator:
    """The PCG64 generator of a seed; each stream (a parameter's position in its model) is independent of the others.

    PCG64: O'Neill, PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
    Generation, HMC-CS-2014-0905. Raises `ArgumentError` where the seed is not an integer of at least 0.

    >>> bool(generator(3).random() == generator(3).random()), bool(generator(3).random() == generator(3, 1).random())
    (True, False)
    """
    if not is_integer(seed, least=0):
        raise ArgumentError(f"seed: expected an integer of at least 0, got {seed!r}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed), spawn_key=(stream,))))


@dataclass(frozen=True)
class uniform:
    """Uniform draws from [low, high).

    >>> x = draw(uniform(-1, 1), 0, (3, 4)); x.dtype, x.shape, bool(abs(x).max() <= 1)
    (dtype('float32'), (3, 4), True)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ArgumentError(f"uniform: expected finite low <= high, got {self.low!r} and {self.high!r}")

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class normal:
    """Normal draws.

    >>> draw(normal(5, 0), 0, 2)
    array([5., 5.], dtype=float32)
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std >= 0):
            raise ArgumentError(
                f"normal: expected a finite mean and std >= 0, got {self.mean!r} and {self.std!r}"
            )

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.normal(self.mean, self.std, shape)


@dataclass(frozen=True)
class constant:
    """The same number everywhere.

    >>> draw(constant(0.5), 0, 2)
    array([0.5, 0.5], dtype=float32)
    """

    value: float

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float64)


def zeros() -> constant:
    """All zeros.

    >>> draw(zeros(), 0, 2)
    array([0., 0.], dtype=float32)
    """
    return constant(0.0)


def ones() -> constant:
    """All ones.

    >>> draw(ones(), 0, 2)
    array([1., 1.], dtype=float32)
    """
    return constant(1.0)


def fan_in_uniform(fan_in: int) -> uniform:
    """Uniform within ±√(1/N) for a unit that sums N inputs: the default of `nn.Linear`, as PyTorch's.

    LeCun, Bottou, Orr & Müller, Efficient BackProp, 1998, section 4.6: the scale that keeps sums of N terms of
    order one.

    >>> fan_in_uniform(4)
    uniform(low=-0.5, high=0.5)
    """
    bound = math.sqrt(1 / fan_in) if fan_in else 0.0
    return uniform(-bound, bound)


def draw(
    initializer: Initializer, seed: int, shape: int | tuple[int, ...], dtype: DType = f32, stream: int = 0
) -> np.ndarray:
    """An array from an initialiser: drawn in double precision, then rounded to `dtype`.

    Raises `ArgumentError` where the seed is no integer or the initialiser gives another shape.

    >>> bool((draw(normal(), 7, (2, 2)) == draw(normal(), 7, (2, 2))).all())
    True
    """
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    values = np.asarray(initializer(generator(seed, stream), wanted))
    if values.shape != wanted:
        raise ArgumentError(
            f"initializer {initializer!r}: expected shape {list(wanted)}, got {list(values.shape)}"
        )
    return np.array(values, dtype=dtype.numpy, order="C")
