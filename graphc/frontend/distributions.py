"""Random arrays of many distributions: `graphc.random`, with the bits, uniform and normal numbers of `frontend.random`.

In: a key (u32[2]), parameters that broadcast, a shape. Out: traced arrays. Most draws invert a distribution function
whose argument has 32 bits (f64: 53) and is exact where it is small, so that tails reach far. Rejection has a fixed number
of proposals for each element, since a graph's shapes are static: what the chance is that none is accepted stands with
the function. Location, scale, bounds and Cholesky factors have derivatives along the draws; shape parameters have none.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.calls import Call
from graphc.frontend.promotion import DTypeLike
from graphc.frontend.random import _FIRST, _SECOND, Shape, _float, _unit, _words
from graphc.frontend.random import Draws as Draws
from graphc.frontend.random import bernoulli as bernoulli
from graphc.frontend.random import bits as bits
from graphc.frontend.random import fold_in as fold_in
from graphc.frontend.random import key as key
from graphc.frontend.random import normal as normal
from graphc.frontend.random import randint as randint
from graphc.frontend.random import split as split
from graphc.frontend.random import uniform as uniform
from graphc.ir.guard import guarded
from graphc.ir.types import DType, f32, f64, i32, i64

# Of Marsaglia and Tsang's proposals at most 4.9 % are refused, the most at a shape of 1: 0.049**10 < 1e-13.
_GAMMA_TRIES = 10
_POISSON_ARRIVALS = 48  # P(X > 48) < 1e-16 of a mean of 10
# At most a quarter of Hörmann's proposals are refused, the most at a mean of 10: 4**-21 < 1e-12.
_POISSON_TRIES = 21


def _open(call: Call, key: ArrayLike, shape: Shape, dtype: DType) -> tuple[Array, Array]:
    """Uniform numbers in (0, 1] whose small values are exact, and signs, 1 or -1."""
    first = _words(call, key, shape, _FIRST)
    if dtype is f64:
        u = call.wrap(_unit(call, first, f64)) + 2.0**-54
        sign = _words(call, key, shape, _SECOND)[0]
    else:
        u = (call.wrap(call.cast(first[0], dtype)) + 0.5) * 2.0**-32
        sign = first[1]
    negative = call.build.ge(sign, call.splat(1 << 31, sign.type))
    ones = call.splat(1, u.value.type)
    return u, call.wrap(call.build.select(negative, call.build.neg(ones), ones))


def _sizes(call: Call, shape: Shape | None, *parameters: Array) -> tuple[int, ...]:
    """The shape of the draws: the given one, to which parameters broadcast, or theirs."""
    shapes = [p.shape for p in parameters]
    if shape is None:
        return call.common_shape(shapes) if shapes else ()
    sizes = call.shape(shape)
    if shapes and call.common_shape([sizes, *shapes]) != sizes:
        raise call.error(
            ShapeError,
            f"expected parameters that broadcast to {list(sizes)}, got {' and '.join(str(list(s)) for s in shapes)}",
        )
    return sizes


def _positive(call: Call, what: str, x: ArrayLike, dtype: DType) -> Array:
    """A parameter that is greater than 0; only Python numbers can be checked."""
    if isinstance(x, (bool, int, float)) and not 0 < x < math.inf:
        raise call.error(ArgumentError, f"{what}: expected a finite number greater than 0, got {x!r}")
    return call.wrap(call.value(x, dtype))


# ------------------------------------------------------------------------------------- inverse distribution functions


@guarded
def exponential(key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Exponential numbers with mean 1, -ln u: up to 22.9 (f32) or 37.4 (f64); 0 with probability 2**-25 (2**-53).

    Raises `DTypeError` for other types than floats.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: exponential(key, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("exponential")
    return -F.log(_open(call, key, shape, _float(call, dtype))[0])


@guarded
def laplace(key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Laplace numbers with density exp(-|x|) / 2: exponential ones with a random sign.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: laplace(key, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("laplace")
    u, sign = _open(call, key, shape, _float(call, dtype))
    return sign * -F.log(u)


@guarded
def logistic(key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Logistic numbers, whose distribution function is the sigmoid: ±ln((1 - t) / t) with t uniform up to 1/2.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: logistic(key, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("logistic")
    u, sign = _open(call, key, shape, _float(call, dtype))
    return sign * (F.log1p(-0.5 * u) - F.log(0.5 * u))


@guarded
def cauchy(key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Cauchy numbers with density 1 / (pi (1 + x**2)): ±cot(pi t) with t uniform up to 1/2.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: cauchy(key, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("cauchy")
    u, sign = _open(call, key, shape, _float(call, dtype))
    return sign / F.tan((0.5 * math.pi) * u)


@guarded
def gumbel(key: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Gumbel numbers, whose distribution function is exp(-exp(-x)): -ln(-ln(1 - u)).

    The upper tail, which decides where the largest of many is taken, reaches 22.9 (f32) or 37.4 (f64), the lower one
    -2.8 or -3.6, beyond which lie 2**-24 or 2**-53 of the numbers.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: gumbel(key, 4), u32[2]).output_types
    (f32[4],)
    """
    return _gumbel(Call("gumbel"), key, shape, dtype)


def _gumbel(call: Call, key: ArrayLike, shape: Shape, dtype: DTypeLike) -> Array:
    target = _float(call, dtype)
    u, _ = _open(call, key, shape, target)
    most = 1 - float(np.finfo(target.numpy).epsneg)
    return -F.log(-F.log1p(-F.minimum(u, most)))


@guarded
def truncated_normal(
    key: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    shape: Shape | None = None,
    dtype: DTypeLike = f32,
) -> Array:
    """Standard normal numbers within [low, high]: sqrt(2) erfinv of uniform numbers between erf(low / sqrt(2)) and the other.

    Bounds may be arrays, whose shapes broadcast. Where both lie in one tail, beyond about 4 (f32) or 7 (f64), erf can't
    tell numbers apart and draws become coarse. Raises `ArgumentError` where Python numbers are in the wrong order.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: truncated_normal(key, -2, 2, (3, 5)), u32[2]).output_types
    (f32[3,5],)
    """
    call = Call("truncated_normal")
    target = _float(call, dtype)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not low < high:
        raise call.error(ArgumentError, f"expected low < high, got {low!r} and {high!r}")
    a, b = (call.wrap(call.value(x, target)) for x in (low, high))
    sizes = _sizes(call, shape, a, b)
    first, last = (
        math.erf(x * math.sqrt(0.5)) if isinstance(x, (int, float)) else F.erf(y * math.sqrt(0.5))
        for x, y in ((low, a), (high, b))
    )
    u = call.wrap(_unit(call, _words(call, key, sizes, _FIRST), target))
    # u is a multiple of 2**-24: half of it more, so that neither bound is drawn too often
    u = u + (2.0**-54 if target is f64 else 2.0**-25)
    return F.clip(math.sqrt(2) * F.erfinv(first + (last - first) * u), a, b)


# ----------------------------------------------------------------------------------------------------- gamma and kin


def _log_gamma(call: Call, key: ArrayLike, a: Array, sizes: tuple[int, ...]) -> Array:
    """The logarithms of gamma numbers of shape `a`, without derivatives.

    G. Marsaglia and W. W. Tsang, A Simple Method for Generating Gamma Variables, ACM TOMS 26, 2000: d v with
    v = (1 + x / sqrt(9 d))**3, x normal, d = a - 1/3, accepted where ln u < x**2 / 2 + d (1 - v + ln v). A shape below 1
    is that of a + 1 times u**(1 / a).
    """
    dtype = a.dtype
    shape = F.broadcast_to(F.stop_gradient(a), sizes)
    small = shape < 1
    d = F.where(small, shape + 1, shape) - 1 / 3
    tries = (_GAMMA_TRIES, *sizes)
    x = normal(fold_in(key, 0), tries, dtype)
    u, _ = _open(call, fold_in(key, 1), tries, dtype)
    root = 1 + x / F.sqrt(9 * d)
    v = root * root * root
    log_v = F.log(F.where(root > 0, v, 1.0))
    accepted = F.logical_and(root > 0, F.log(u) < 0.5 * x * x + d * (1 - v + log_v))
    first = F.argmax(accepted, axis=0, keepdims=True)
    drawn = F.squeeze(F.take_along_axis(F.where(root > 0, log_v, 0.0), first, axis=0), 0)
    boost, _ = _open(call, fold_in(key, 2), sizes, dtype)
    return F.stop_gradient(F.log(d) + drawn + F.where(small, F.log(boost) / shape, 0.0))


@guarded
def gamma(key: ArrayLike, a: ArrayLike, shape: Shape | None = None, dtype: DTypeLike = f32) -> Array:
    """Gamma numbers of shape `a` and scale 1, by Marsaglia and Tsang's method.

    Each element has 10 proposals; the chance that none is accepted, and the first is taken all the same, is below
    1e-12. Of very small shapes most numbers are 0: they are below what the type can hold. No derivative by `a`. Raises
    `ArgumentError` for a Python number that isn't greater than 0.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: gamma(key, 2.5, (3, 5)), u32[2]).output_types
    (f32[3,5],)
    """
    call = Call("gamma")
    given = _positive(call, "a", a, _float(call, dtype))
    return F.exp(_log_gamma(call, key, given, _sizes(call, shape, given)))


@guarded
def beta(
    key: ArrayLike, a: ArrayLike, b: ArrayLike, shape: Shape | None = None, dtype: DTypeLike = f32
) -> Array:
    """Beta numbers: x / (x + y) of gamma numbers x and y, by their logarithms, so that small shapes are right, too.

    Proposals and errors are those of `gamma`; no derivative by `a` and `b`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: beta(key, 2.0, 3.0, 4), u32[2]).output_types
    (f32[4],)
    """
    call = Call("beta")
    target = _float(call, dtype)
    first, second = _positive(call, "a", a, target), _positive(call, "b", b, target)
    sizes = _sizes(call, shape, first, second)
    x = _log_gamma(call, fold_in(key, 0), first, sizes)
    y = _log_gamma(call, fold_in(key, 1), second, sizes)
    return F.sigmoid(x - y)


@guarded
def dirichlet(key: ArrayLike, concentration: ArrayLike, shape: Shape = (), dtype: DTypeLike = f32) -> Array:
    """Dirichlet vectors, along a last axis that is the concentration's; `shape` is that of the others.

    Gamma numbers over their sum, by logarithms; else as `gamma`. Raises `ShapeError` for a scalar concentration.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: dirichlet(key, [1.0, 2.0, 3.0], 4), u32[2]).output_types
    (f32[4,3],)
    """
    call = Call("dirichlet")
    given = call.wrap(call.value(concentration, _float(call, dtype)))
    if given.ndim == 0:
        raise call.error(ShapeError, f"expected a concentration of rank 1 or more, got {given.value.type!r}")
    sizes = (*call.common_shape([call.shape(shape), given.shape[:-1]]), given.shape[-1])
    return activations.softmax(_log_gamma(call, key, given, sizes), -1)


@guarded
def student_t(key: ArrayLike, df: ArrayLike, shape: Shape | None = None, dtype: DTypeLike = f32) -> Array:
    """Student's t with `df` degrees of freedom: a normal number over the root of the mean of a chi-squared one.

    Else as `gamma`.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: student_t(key, 4.0, 3), u32[2]).output_types
    (f32[3],)
    """
    call = Call("student_t")
    target = _float(call, dtype)
    half = 0.5 * _positive(call, "df", df, target)
    sizes = _sizes(call, shape, half)
    spread = F.log(half) - _log_gamma(call, fold_in(key, 1), half, sizes)
    return normal(fold_in(key, 0), sizes, target) * F.stop_gradient(F.exp(0.5 * spread))


# -------------------------------------------------------------------------------------------------------------- counts


@guarded
def poisson(key: ArrayLike, lam: ArrayLike, shape: Shape | None = None, dtype: DTypeLike = i32) -> Array:
    """Poisson numbers of mean `lam`, from 0 to about 1e8.

    Below a mean of 10 arrivals are counted whose distances are exponential, 48 at most; from 10 on by transformed
    rejection in f64 with 21 proposals (W. Hörmann, The Transformed Rejection Method for Generating Poisson Random
    Variables, Insurance: Mathematics and Economics 12, 1993, algorithm PTRS). The chance that this is not enough is
    below 1e-12 each. A mean in an array that is below 0 counts as 0. Raises `ArgumentError` for a negative Python
    number, `DTypeError` for a type that isn't an integer's.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key: poisson(key, 2.5, (3, 5)), u32[2]).output_types
    (i32[3,5],)
    """
    call = Call("poisson")
    target = call.dtype(dtype)
    if not target.is_integer:
        raise call.error(DTypeError, f"expected an integer type, got {target.name}")
    if isinstance(lam, (int, float)) and not 0 <= lam < math.inf:
        raise call.error(ArgumentError, f"lam: expected a finite number of at least 0, got {lam!r}")
    mean = call.wrap(call.value(lam, f64))
    sizes = _sizes(call, shape, mean)
    mean = F.broadcast_to(F.stop_gradient(mean), sizes)
    counted = _counted(call, fold_in(key, 0), F.minimum(mean, 10.0), sizes)
    if isinstance(lam, (int, float)) and lam < 10:
        return F.astype(counted, target)
    rejected = _transformed(call, fold_in(key, 1), F.maximum(mean, 10.0), sizes)
    found = rejected if isinstance(lam, (int, float)) else F.where(mean < 10, counted, rejected)
    return F.astype(found, target)


def _counted(call: Call, key: ArrayLike, mean: Array, sizes: tuple[int, ...]) -> Array:
    """How many sums of exponential numbers stay within the mean."""
    steps = -F.log(_open(call, key, (_POISSON_ARRIVALS, *sizes), f64)[0])
    within = F.cumulative_sum(steps, axis=0) <= mean
    return F.sum(F.astype(within, f64), axis=0)


def _transformed(call: Call, key: ArrayLike, mean: Array, sizes: tuple[int, ...]) -> Array:
    tries = (_POISSON_TRIES, *sizes)
    u = uniform(fold_in(key, 0), tries, f64) - 0.5
    v, _ = _open(call, fold_in(key, 1), tries, f64)
    log_mean = F.log(mean)
    b = 0.931 + 2.53 * F.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    quick = 0.9277 - 3.6224 / (b - 2)
    us = 0.5 - F.abs(u)
    k = F.floor((2 * a / us + b) * u + mean + 0.43)
    possible = F.logical_and(k >= 0, F.logical_or(us >= 0.013, v <= us))
    safe = F.where(possible, k, 0.0)
    weight = F.log(v * inverse_alpha / (a / (us * us) + b))
    exact = F.logical_and(possible, weight <= safe * log_mean - mean - _log_factorial(safe))
    accepted = F.logical_or(F.logical_and(us >= 0.07, v <= quick), exact)
    first = F.argmax(accepted, axis=0, keepdims=True)
    return F.squeeze(F.take_along_axis(safe, first, axis=0), 0)


def _log_factorial(k: Array) -> Array:
    """ln k! by Stirling's series of k + 8 (NIST DLMF 5.11.1), whose last factors are taken away again."""
    z = k + 8
    square = 1 / (z * z)
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / z
    factors = (k + 1) * (k + 2) * (k + 3) * (k + 4) * (k + 5) * (k + 6) * (k + 7) * z
    return (z + 0.5) * F.log(z) - z + 0.5 * math.log(2 * math.pi) + series - F.log(factors)


@guarded
def categorical(key: ArrayLike, logits: ArrayLike, axis: int = -1, shape: Shape | None = None) -> Array:
    """i32 positions along an axis, each with the probability softmax(logits): the largest of logits plus Gumbel numbers.

    E. J. Gumbel, Statistical Theory of Extreme Values, 1954. `shape` is that of the draws, to which the logits' other
    axes broadcast; by default it is theirs. Raises `ShapeError` where it doesn't fit.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key, x: categorical(key, x), u32[2], f32[3, 5]).output_types
    (i32[3],)
    """
    call = Call("categorical")
    given = call.wrap(call.float_value(logits))
    along = call.axis(axis, given.ndim)
    lines = F.moveaxis(given, along, -1)
    sizes = lines.shape[:-1] if shape is None else call.shape(shape)
    if call.common_shape([sizes, lines.shape[:-1]]) != sizes:
        raise call.error(
            ShapeError, f"expected logits that broadcast to {list(sizes)}, got {list(lines.shape[:-1])}"
        )
    noise = _gumbel(call, key, (*sizes, lines.shape[-1]), given.dtype)
    return F.argmax(F.stop_gradient(lines) + noise, axis=-1)


# ---------------------------------------------------------------------------------------------------- orders and parts


@guarded
def permutation(key: ArrayLike, x: int | ArrayLike, axis: int = 0) -> Array:
    """The numbers below `x` in random order, as i32; or the slices of an array along an axis.

    The order of 64 random bits each: of n slices two have the same with a probability below n**2 / 2**65, and then stay in
    their order. Raises `ArgumentError` for a negative number, `ShapeError` for a scalar.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key, x: (permutation(key, 5), permutation(key, x, axis=1)), u32[2], f32[2, 3]).output_types
    (i32[5], f32[2,3])
    """
    call = Call("permutation")
    if isinstance(x, int):
        if x < 0:
            raise call.error(ArgumentError, f"x: expected a number of at least 0, got {x}")
        return _shuffled(call, key, x)
    value = call.value(x)
    if not value.shape:
        raise call.error(ShapeError, f"x: expected an int or an array of rank 1 or more, got {value.type!r}")
    along = call.axis(axis, len(value.shape))
    order = _shuffled(call, key, value.shape[along])
    return call.wrap(call.build.gather(value, order.value, axis=along))


def _shuffled(call: Call, key: ArrayLike, n: int) -> Array:
    low, high = (call.cast(word, i64) for word in _words(call, key, (n,), _FIRST))
    high = call.build.shl(high, call.splat(32, high.type))
    return call.wrap(call.build.argsort(call.build.or_(high, low), axis=0, descending=False))


@guarded
def choice(
    key: ArrayLike,
    a: int | ArrayLike,
    shape: Shape = (),
    *,
    replace: bool = True,
    p: ArrayLike | None = None,
    axis: int = 0,
) -> Array:
    """Numbers below `a`, or slices of an array along an axis, chosen with the probabilities `p` (by default equal ones).

    `p` need not sum to 1. Without replacement the slices are different: the first of a random order, or with `p` those with
    the largest sums of ln p and Gumbel numbers (W. Kool, H. van Hoof and M. Welling, Stochastic Beams and Where to Find
    Them, ICML 2019). Raises `ArgumentError` where there are too few, `ShapeError` unless `p` has one number for each.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key, x: choice(key, x, 3, replace=False), u32[2], f32[5, 2]).output_types
    (f32[3,2],)
    """
    call = Call("choice")
    given = None if isinstance(a, int) else call.value(a)
    along = 0 if given is None else call.axis(axis, len(given.shape))
    n = a if isinstance(a, int) else call.wrap(given).shape[along] if given is not None else 0
    sizes = call.shape(shape)
    count = math.prod(sizes)
    if n < 1 or (not replace and count > n):
        least = 1 if replace else max(count, 1)
        raise call.error(ArgumentError, f"a: expected at least {least} to choose from, got {n}")
    weights = None if p is None else call.wrap(call.float_value(p))
    if weights is not None and weights.shape != (n,):
        raise call.error(ShapeError, f"p: expected shape [{n}], got {list(weights.shape)}")
    if weights is None and replace:
        picks = randint(key, sizes, n)
    elif weights is None:
        picks = F.reshape(_shuffled(call, key, n)[:count], sizes)
    elif replace:
        below = F.cumulative_sum(F.stop_gradient(weights))
        spot = uniform(key, sizes, weights.dtype) * below[-1]
        # rounding may lead past the last number, or past the last one whose probability isn't 0
        last = F.max(F.where(weights > 0, F.arange(n), 0))
        picks = F.minimum(F.searchsorted(below, spot, side="right"), last)
    else:
        rank = F.log(F.stop_gradient(weights)) + _gumbel(call, key, (n,), weights.dtype)
        picks = F.reshape(F.argsort(rank, descending=True)[:count], sizes)
    if given is None:
        return picks
    return call.wrap(call.build.gather(given, picks.value, axis=along))


@guarded
def multivariate_normal(
    key: ArrayLike,
    mean: ArrayLike,
    cholesky: ArrayLike,
    shape: Shape | None = None,
    dtype: DTypeLike = f32,
) -> Array:
    """Normal vectors mean + L z along the last axis, of covariance L Lᵀ; `cholesky` is L, `shape` that of the axes before.

    Axes before the last (of L: the last two) broadcast. Raises `ShapeError` where sizes don't fit.

    >>> from graphc.frontend.tracer import trace
    >>> from graphc.ir.types import u32
    >>> trace(lambda key, m, c: multivariate_normal(key, m, c, 4), u32[2], f32[3], f32[3, 3]).output_types
    (f32[4,3],)
    """
    call = Call("multivariate_normal")
    target = _float(call, dtype)
    centre, factor = (call.wrap(call.value(x, target)) for x in (mean, cholesky))
    n = centre.shape[-1] if centre.ndim else 0
    if centre.ndim < 1 or factor.shape[-2:] != (n, n):
        raise call.error(
            ShapeError,
            f"expected a mean [..., n] and a factor [..., n, n], got {list(centre.shape)} and {list(factor.shape)}",
        )
    outer = [centre.shape[:-1], factor.shape[:-2]]
    sizes = call.common_shape(outer if shape is None else [call.shape(shape), *outer])
    z = normal(key, (*sizes, n), target)
    return centre + F.einsum("...ij,...j->...i", factor, z)
