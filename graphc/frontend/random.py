"""Random arrays in the graph, `graphc.random`: counter-based numbers from a key that is an input like any other.

In: a key (u32[2]), shapes and data types. Out: traced arrays. The same key gives the same numbers, always: `split` it,
or `fold_in` a number, for each use. Bits and integers are the same in the interpreter, in compiled and in exported
code; floats that go through log and cos agree within the bounds of these.

Element i of a draw is word 0 of the block Threefry-2x32-20 (`ir.ops.random`) of counter (i, stream), so a draw is made
of pointwise ops that fuse with whatever reads them. Uniform and normal f64 take word 1, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.frontend.promotion import DTypeLike
from graphc.ir.graph import Value
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, TensorType, f32, f64, i32, i64, u32

Shape = int | Sequence[int]

# The second word of the counter: what the numbers of one key are for. Draws of one key never overlap with its splits.
_FIRST, _SECOND, _FOLD, _SPLIT = 0, 1, 2**32 - 2, 2**32 - 1


@overload
def key(seed: int) -> np.ndarray: ...


@overload
def key(seed: Array) -> Array: ...


def key(seed: int | Array) -> np.ndarray | Array:
    """The key of a seed: its low and its high 32 bits. A traced integer gives a traced key, a Python int an array.

    Raises `ArgumentError` where the seed is no integer from 0 to 2**64 - 1.

    >>> key(7), key(2**32 + 1)
    (array([7, 0], dtype=uint32), array([1, 1], dtype=uint32))
    """
    if not isinstance(seed, Array):
        if not is_integer(seed, least=0) or seed >= 2**64:
            raise ArgumentError(
                f"{here().prefix}key: seed: expected an integer from 0 to 2**64 - 1, got {seed!r}"
            )
        return np.array([int(seed) & 0xFFFFFFFF, int(seed) >> 32], np.uint32)
    call = Call("key")
    value = call.value(seed)
    if not value.dtype.is_integer or value.shape != ():
        raise call.error(DTypeError, f"seed: expected an integer scalar, got {value.type!r}")
    high = call.splat(0, u32[()])
    if value.dtype is i64:
        high = call.cast(call.build.shr(value, call.splat(32, value.type)), u32)
    return _joined(call, call.cast(value, u32), high)


@guarded
def split(key: ArrayLike, n: int = 2) -> Array:
    """`n` keys from one, as u32[n, 2], whose numbers are independent of each other and of the key's own.

    >>> from graphc.frontend.tracer import trace
    >>> trace(split, u32[2]).output_types
    (u32[2,2],)
    """
    call = Call("split")
    (count,) = call.shape(n)
    counter = call.build.iota(dim=0, type=u32[count])
    return _joined(call, *_block(call, key, counter, _SPLIT))


@guarded
def fold_in(key: ArrayLike, number: ArrayLike) -> Array:
    """The key for the `number`-th use of a key: of a layer, of a step. Raises `DTypeError` for anything but an integer.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: fold_in(key, 3), u32[2]).output_types
    (u32[2],)
    """
    call = Call("fold_in")
    value = call.value(number)
    if not value.dtype.is_integer or value.shape != ():
        raise call.error(DTypeError, f"number: expected an integer scalar, got {value.type!r}")
    return _joined(call, *_block(call, key, call.cast(value, u32), _FOLD))


@guarded
def bits(key: ArrayLike, shape: Shape = ()) -> Array:
    """32 random bits an element, as u32.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: bits(key, (3, 5)), u32[2]).output_types
    (u32[3,5],)
    """
    call = Call("bits")
    return call.wrap(_words(call, key, shape, _FIRST)[0])


@guarded
def uniform(
    key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32, low: float = 0.0, high: float = 1.0
) -> Array:
    """Uniform numbers in [low, high): multiples of 2**-24 (f32), 2**-53 (f64), 2**-11 (f16) or 2**-8 (bf16), scaled.

    Raises `ArgumentError` for bounds that are not finite or in the wrong order, `DTypeError` for other data types.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: uniform(key, (3, 5)), u32[2]).output_types
    (f32[3,5],)
    """
    call = Call("uniform")
    target = _float(call, dtype)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise call.error(ArgumentError, f"expected finite low <= high, got {low!r} and {high!r}")
    unit = call.wrap(_unit(call, _words(call, key, shape, _FIRST), target))
    if (low, high) == (0, 1):
        return unit
    scaled = unit * (high - low) + low
    # the sum may round up to `high`, which is not part of the interval
    last = np.nextafter(target.numpy.type(high), target.numpy.type(low))
    return F.minimum(scaled, float(last)) if low != 0 or target.is_half else scaled


@guarded
def normal(
    key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32, mean: float = 0.0, std: float = 1.0
) -> Array:
    """Normal numbers by Box and Muller's transformation, sqrt(-2 ln u) cos(2 pi v), as far out as 6.7 (f32) or 8.6 (f64) std.

    An element takes both words of its block (f64: of two blocks). This way needs log and cos only, which are accurate
    to about an ulp, where the inverse error function would be one more expansion; and the radius is made of 32 bits
    whose small values, the tails, are exact. G. E. P. Box and M. E. Muller, A Note on the Generation of Random Normal
    Deviates, Ann. Math. Statist. 29, 1958. Raises as `uniform`.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: normal(key, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("normal")
    target = _float(call, dtype)
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        raise call.error(ArgumentError, f"expected a finite mean and std >= 0, got {mean!r} and {std!r}")
    first = _words(call, key, shape, _FIRST)
    if target is f64:
        u = call.wrap(_unit(call, first, f64)) + 2.0**-54
        turn = call.wrap(_unit(call, _words(call, key, shape, _SECOND), f64)) * 2.0
    else:
        u = (call.wrap(call.cast(first[0], f32)) + 0.5) * 2.0**-32
        turn = call.wrap(call.cast(call.cast(first[1], i32), f32)) * 2.0**-31
    draws = F.sqrt(-2.0 * F.log(u)) * F.cos(turn * math.pi)
    draws = draws if std == 1 else draws * std
    draws = draws if mean == 0 else draws + mean
    return call.wrap(call.value(draws, target))  # 16-bit floats are rounded from f32


@guarded
def bernoulli(key: ArrayLike, p: ArrayLike = 0.5, shape: Shape | None = None) -> Array:
    """True with probability `p`, rounded to 2**-24; without `shape` of the shape of `p`, which broadcasts.

    Raises `ArgumentError` for a Python number outside [0, 1].

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: bernoulli(key, 0.2, 4), u32[2]).output_types
    (bool[4],)
    """
    call = Call("bernoulli")
    if isinstance(p, (bool, int, float)) and not 0 <= p <= 1:
        raise call.error(ArgumentError, f"p: expected a probability from 0 to 1, got {p!r}")
    given = call.float_value(p)
    sizes = given.shape if shape is None else call.shape(shape)
    unit = call.wrap(_unit(call, _words(call, key, sizes, _FIRST), f32))
    return F.less(unit, F.broadcast_to(call.wrap(given), sizes))


@guarded
def randint(key: ArrayLike, shape: Shape, low: int, high: int | None = None, dtype: DTypeLike = i32) -> Array:
    """Integers from `low` up to `high` - 1, or from 0 up to `low` - 1 where `high` is None.

    The high half of the product of 32 bits and the count n = high - low: some integers are more probable than others
    by at most n / 2**32 (D. Lemire, Fast Random Integer Generation in an Interval, ACM TOMACS 29, 2019, without the
    repetition that removes it). Raises `ArgumentError` for an empty range and for more than 2**32 integers.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: randint(key, 4, 10), u32[2]).output_types
    (i32[4],)
    """
    call = Call("randint")
    first, last = (0, low) if high is None else (low, high)
    first, last = call.integer(first, "low"), call.integer(last, "high")
    target = call.dtype(dtype)
    if not target.is_integer:
        raise call.error(DTypeError, f"expected an integer type, got {target.name}")
    info = np.iinfo(target.numpy)
    if not (info.min <= first < last <= int(info.max) + 1 and last - first <= 2**32):
        raise call.error(
            ArgumentError, f"expected 1 to 2**32 integers within {target.name}, got [{first}, {last})"
        )
    word = call.cast(_words(call, key, shape, _FIRST)[0], i64)
    if last - first < 2**32:
        word = call.build.mul(word, call.splat(last - first, word.type))
        # the product is below 2**64 and read as signed: the shift brings copies of the sign, which the cast drops
        word = call.build.shr(word, call.splat(32, word.type))
        word = call.build.and_(word, call.splat(2**32 - 1, word.type))
    return call.wrap(call.cast(call.build.add(word, call.splat(first, word.type)), target))


class Draws:
    """A key as a source of several draws, with the methods of `numpy.random.Generator` that initialisers call.

    >>> from graphc.frontend.tracer import trace
    >>> trace(lambda key: Draws(key).normal(0, 1, (2, 3)), u32[2]).output_types
    (f32[2,3],)
    """

    def __init__(self, key: Array, dtype: DTypeLike = f32) -> None:
        self._key = key
        self._dtype = dtype
        self._count = 0

    def _next(self) -> Array:
        self._count += 1
        return fold_in(self._key, self._count)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Array:
        return uniform(self._next(), size, self._dtype, low, high)

    def normal(self, loc: float, scale: float, size: tuple[int, ...]) -> Array:
        return normal(self._next(), size, self._dtype, loc, scale)


# ------------------------------------------------------------------------------------------------------------ blocks


def _float(call: Call, dtype: DTypeLike) -> DType:
    target = call.dtype(dtype)
    if not target.is_float:
        raise call.error(DTypeError, f"expected a float type, got {target.name}")
    return target


def _block(call: Call, key: ArrayLike, counter: Value, stream: int) -> tuple[Value, Value]:
    """Both words of the blocks of (counter, stream)."""
    value = call.value(key)
    if value.type != u32[2]:
        raise call.error(
            DTypeError, f"key: expected u32[2], as graphc.random.key makes it, got {value.type!r}"
        )
    words = [
        call.broadcast(call.reshape(call.slice(value, (i,), (1,), (1,)), ()), counter.shape) for i in (0, 1)
    ]
    operands = (*words, counter, call.splat(stream, counter.type))
    return call.build.threefry0(*operands), call.build.threefry1(*operands)


def _words(call: Call, key: ArrayLike, shape: Shape, stream: int) -> tuple[Value, Value]:
    """Both words of one block an element, counted in row-major order. A word that nobody reads is no node."""
    sizes = call.shape(shape)
    if math.prod(sizes) > 2**32:
        raise call.error(ShapeError, f"expected at most 2**32 elements, got {list(sizes)}")
    type = TensorType(u32, sizes)
    counter = call.splat(0, type)
    stride = 1
    for dim in reversed(range(len(sizes))):
        position = call.build.iota(dim=dim, type=type)
        if stride > 1:
            position = call.build.mul(position, call.splat(stride, type))
        counter = position if stride == 1 else call.build.add(position, counter)
        stride *= max(sizes[dim], 1)
    return _block(call, key, counter, stream)


def _unit(call: Call, words: tuple[Value, Value], dtype: DType) -> Value:
    """Multiples of 2**-24 or 2**-53 in [0, 1). The bits go through i32, whose conversion every machine has.

    A float of 16 bits takes as many as its significand has.
    """

    def top(word: Value, count: int) -> Array:
        shifted = call.build.shr(word, call.splat(32 - count, word.type))
        return call.wrap(call.cast(call.cast(shifted, i32), dtype))

    if dtype is f64:
        return (top(words[0], 27) * 2.0**-27 + top(words[1], 26) * 2.0**-53).value
    count = dtype.mantissa + 1
    return (top(words[0], count) * 2.0**-count).value


def _joined(call: Call, first: Value, second: Value) -> Array:
    """Two words as the last axis."""
    parts = [call.reshape(word, (*word.shape, 1)) for word in (first, second)]
    return call.wrap(call.build.concat(*parts, axis=len(first.shape)))
