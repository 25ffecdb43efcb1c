"""Initial values of parameters, reproducible by seed and position, as arrays or inside a graph.

In: a seed or a traced key, a shape and a data type. Out: numpy arrays or traced ones, and the initialisers that layers
name. An initialiser is stated once, over a source of draws: numpy's PCG64 for a seed, `random.Draws` for a key. Both
draw from the same distributions, not the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.random import Draws, fold_in
from graphc.ir.scalar import erfinv_numpy
from graphc.ir.types import DType, f32

Values = np.ndarray | Array


class Source(Protocol):
    """Where draws come from: a `numpy.random.Generator`, or a `random.Draws` in a trace."""

    def uniform(self, low: float, high: float, size: tuple[int, ...], /) -> Values: ...

    def normal(self, loc: float, scale: float, size: tuple[int, ...], /) -> Values: ...


class Initializer(Protocol):
    """Gives the first value of a parameter of this shape; every draw comes from the source."""

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values: ...


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

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        return source.uniform(self.low, self.high, shape)


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

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        return source.normal(self.mean, self.std, shape)


@dataclass(frozen=True)
class trunc_normal:
    """Normal draws of this mean and deviation within [low, high], as PyTorch's `trunc_normal_`.

    By the inverse of the distribution function: C. P. Robert, Simulation of Truncated Normal Variables, Statistics and
    Computing 5, 1995, section 1. Raises `ArgumentError` for bounds in the wrong order, and for those that lie more than 6
    deviations off on one side, where nothing is left to draw from.

    >>> x = draw(trunc_normal(0, 1, -0.5, 0.5), 0, (3, 4)); bool(abs(x).max() <= 0.5)
    True
    """

    mean: float = 0.0
    std: float = 1.0
    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ArgumentError(
                f"trunc_normal: expected a finite mean and std > 0, got {self.mean!r} and {self.std!r}"
            )
        first, last = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        if not (first < last and first < 6 and last > -6):
            raise ArgumentError(
                f"trunc_normal: expected low < high within 6 std of the mean, got {self.low!r} and {self.high!r}"
            )

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        first, last = (math.erf((b - self.mean) / self.std * math.sqrt(0.5)) for b in (self.low, self.high))
        u = source.uniform(first, last, shape)
        scale = self.std * math.sqrt(2)
        if isinstance(u, Array):
            return F.clip(F.erfinv(u) * scale + self.mean, self.low, self.high)
        return np.clip(erfinv_numpy(u) * scale + self.mean, self.low, self.high)


@dataclass(frozen=True)
class constant:
    """The same number everywhere.

    >>> draw(constant(0.5), 0, 2)
    array([0.5, 0.5], dtype=float32)
    """

    value: float

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
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


def _fans(initializer: object, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs a unit sums and how many outputs an input has part in, of a weight [out, in, *kernel]."""
    if len(shape) < 2:
        raise ArgumentError(f"{initializer!r}: expected a weight of at least 2 dimensions, got {list(shape)}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that makes up for what an activation takes from the variance; PyTorch's `calculate_gain`.

    `param` is the negative slope of leaky_relu. Raises `ArgumentError` for an activation without one.

    >>> gain("tanh"), gain("leaky_relu", 0.0) == 2**0.5
    (1.6666666666666667, True)
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    known = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in known:
        raise ArgumentError(f"gain: expected one of leaky_relu, {', '.join(known)}, got {nonlinearity!r}")
    return known[nonlinearity]


@dataclass(frozen=True)
class xavier_uniform:
    """Uniform within ±gain √(6 / (fan_in + fan_out)), also called Glorot's.

    Glorot & Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks, AISTATS 2010.

    >>> bool(abs(draw(xavier_uniform(), 0, (2, 4))).max() <= 1)
    True
    """

    gain: float = 1.0

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        bound = self.gain * math.sqrt(6 / sum(_fans(self, shape)))
        return source.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class xavier_normal:
    """Normal with the standard deviation gain √(2 / (fan_in + fan_out)), of the same paper.

    >>> draw(xavier_normal(), 0, (2, 4)).shape
    (2, 4)
    """

    gain: float = 1.0

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        return source.normal(0.0, self.gain * math.sqrt(2 / sum(_fans(self, shape))), shape)


@dataclass(frozen=True)
class _Kaiming:
    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        if self.mode not in ("fan_in", "fan_out"):
            raise ArgumentError(f"kaiming: mode: expected 'fan_in' or 'fan_out', got {self.mode!r}")
        gain(self.nonlinearity, self.a)

    def std(self, shape: tuple[int, ...]) -> float:
        fan = _fans(self, shape)[0 if self.mode == "fan_in" else 1]
        return gain(self.nonlinearity, self.a) / math.sqrt(fan)


class kaiming_uniform(_Kaiming):
    """Uniform within ±gain √(3 / fan), also called He's; `mode` chooses the fan, `a` is leaky_relu's slope.

    He, Zhang, Ren & Sun, Delving Deep into Rectifiers, ICCV 2015.

    >>> bool(abs(draw(kaiming_uniform(nonlinearity="relu"), 0, (2, 6))).max() <= 1)
    True
    """

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        bound = math.sqrt(3) * self.std(shape)
        return source.uniform(-bound, bound, shape)


class kaiming_normal(_Kaiming):
    """Normal with the standard deviation gain / √fan, of the same paper.

    >>> draw(kaiming_normal(mode="fan_out"), 0, (2, 6)).shape
    (2, 6)
    """

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        return source.normal(0.0, self.std(shape), shape)


@dataclass(frozen=True)
class orthogonal:
    """A matrix [out, in · kernel] whose rows, or columns where they are fewer, are orthonormal, times gain.

    The Q of a normal matrix's QR decomposition, with the signs of R's diagonal so that it is uniform: F. Mezzadri, How
    to Generate Random Matrices from the Classical Compact Groups, Notices of the AMS 54, 2007; Saxe, McClelland &
    Ganguli, arXiv:1312.6120. By a seed only: the decomposition is numpy's and can't be traced.

    >>> w = draw(orthogonal(), 0, (2, 3)); bool(abs(w @ w.T - np.eye(2)).max() < 1e-6)
    True
    """

    gain: float = 1.0

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        _fans(self, shape)
        rows, columns = shape[0], math.prod(shape[1:])
        flat = source.normal(0.0, 1.0, (max(rows, columns), min(rows, columns)))
        if isinstance(flat, Array):
            raise ArgumentError(
                f"{self!r}: expected a seed, got a traced key: a QR decomposition can't be traced"
            )
        q, r = np.linalg.qr(flat)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        orthogonal: np.ndarray = self.gain * (q.T if rows < columns else q).reshape(shape)
        return orthogonal


@overload
def draw(
    initializer: Initializer, seed: int, shape: int | tuple[int, ...], dtype: DType = f32, stream: int = 0
) -> np.ndarray: ...


@overload
def draw(
    initializer: Initializer, seed: Array, shape: int | tuple[int, ...], dtype: DType = f32, stream: int = 0
) -> Array: ...


def draw(
    initializer: Initializer,
    seed: int | Array,
    shape: int | tuple[int, ...],
    dtype: DType = f32,
    stream: int = 0,
) -> Values:
    """An array from an initialiser: by a seed drawn in double precision and rounded to `dtype`; by a traced key
    (`graphc.random`) a traced array, computed in `dtype`.

    Raises `ArgumentError` where the seed is no integer or the initialiser gives another shape.

    >>> bool((draw(normal(), 7, (2, 2)) == draw(normal(), 7, (2, 2))).all())
    True
    """
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    if isinstance(seed, Array):
        values: Values = F.asarray(initializer(Draws(fold_in(seed, stream), dtype), wanted), dtype)
    else:
        values = np.asarray(initializer(generator(seed, stream), wanted))
    if values.shape != wanted:
        raise ArgumentError(
            f"initializer {initializer!r}: expected shape {list(wanted)}, got {list(values.shape)}"
        )
    return values if isinstance(values, Array) else np.array(values, dtype=dtype.numpy, order="C")
