"""Connectionist temporal classification: the probability of a sequence of labels under all its alignments.

In: logarithms of probabilities for each time step. Out: a traced loss; its gradient is that of the forward algorithm.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.control import scan
from graphc.frontend.halves import in_f32
from graphc.frontend.losses import _reduced, note_labels
from graphc.ir.loc import here
from graphc.ir.types import i32

_NEVER = -1e30  # the logarithm of a probability of 0: finite, so that differences of two of them are numbers


@in_f32
def ctc(
    log_probabilities: Array,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Array:
    """-log of the probability that a sequence of distributions spells the targets, over all alignments.

    `log_probabilities` is [T, N, C], `targets` are labels [N, S], of which the first `target_lengths` [N] count, as
    the first `input_lengths` [N] steps do. Targets of one dimension lie one behind the other, as many of each as its
    length says. Without N everywhere it is one sequence: [T, C], [S] and two numbers. An alignment may repeat a label
    and put `blank` anywhere; between two equal labels it must. The mean divides each loss by its target's length (at
    least 1) first, as PyTorch does. Targets that no alignment spells have an infinite loss, or with `zero_infinity` a
    loss of 0; either has a gradient of 0, where PyTorch's is NaN for the infinite one. Labels must lie in [0, C); a
    label outside has a probability of 0.

    Computed by the forward algorithm in logarithms, as a loop: compile time does not depend on T. Graves, Fernández,
    Gomez & Schmidhuber, Connectionist Temporal Classification, ICML 2006, section 4.1. Raises `ShapeError`,
    `DTypeError` or `ArgumentError` for arguments that don't fit together.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(lambda p, t: ctc(p, t, [2], [1]), graphc.f32[2, 1, 2], graphc.i32[1, 1])
    >>> half = np.full((2, 1, 2), np.log(0.5), np.float32)  # "a", "-a" and "a-" out of four
    >>> interpret(graph, [half, np.int32([[1]])])[0].round(4)
    np.float32(0.2877)
    """
    what = f"{here().prefix}ctc"
    targets = F.asarray(targets)
    _check(what, log_probabilities, targets, blank)
    one = log_probabilities.ndim == 2
    if one:
        log_probabilities = F.expand_dims(log_probabilities, axis=1)
    steps, rows, classes = log_probabilities.shape
    note_labels(targets, classes)
    shape = () if one else (rows,)
    input_lengths = _lengths(what, "input_lengths", input_lengths, shape, steps)
    known = _known(target_lengths)
    longest = targets.shape[-1]
    target_lengths = _lengths(what, "target_lengths", target_lengths, shape, longest)
    labels = F.astype(targets, i32)
    if one:
        labels = F.expand_dims(labels, axis=0)
    elif labels.ndim == 1:
        labels = _unpacked(what, labels, target_lengths, known)
    losses = _alignments(log_probabilities, labels, input_lengths, target_lengths, blank)
    losses = F.where(losses < -0.5 * _NEVER, losses, 0.0 if zero_infinity else np.inf)
    if reduction == "mean":
        return F.mean(losses / F.astype(F.maximum(target_lengths, 1), losses.dtype))
    return _reduced("ctc", losses[0] if one else losses, reduction)


def _alignments(
    log_probabilities: Array, labels: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> Array:
    """-log Σ of the probabilities of all alignments, [N]; about -`_NEVER` where there is none."""
    steps, rows, classes = log_probabilities.shape
    dtype = log_probabilities.dtype
    width = labels.shape[1]
    # the targets with blanks around each label: blank, l0, blank, l1, ..., blank
    blanks = F.full((rows, width), blank, dtype=i32)
    pairs = F.reshape(F.stack([blanks, labels], axis=2), (rows, 2 * width))
    states = F.concat([pairs, F.full((rows, 1), blank, dtype=i32)], axis=1)
    count = 2 * width + 1
    emitted = F.take_along_axis(
        log_probabilities, F.broadcast_to(F.expand_dims(states, axis=0), (steps, rows, count)), axis=2
    )
    known = (states >= 0) & (states < classes)
    emitted = F.where(known & (emitted > _NEVER), emitted, _NEVER)
    place = F.arange(count, dtype=i32)
    # a label may follow the one before it without a blank where they differ
    two_back = F.concat([F.full((rows, 2), blank, dtype=i32), states[:, :-2]], axis=1) if width else states
    may_skip = (states != blank) & (states != two_back)

    def advance(alpha: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        step, log_probability = now
        after_one = _shifted(alpha, 1)
        after_two = F.where(may_skip, _shifted(alpha, 2), _NEVER)
        following = F.maximum(_log_sum(alpha, after_one, after_two) + log_probability, _NEVER)
        return F.where(F.expand_dims(input_lengths > step, axis=1), following, alpha), None

    # before the first step all is at the first blank, from which both first states can be reached
    start = F.broadcast_to(F.where(place == 0, F.zeros((), dtype=dtype), _NEVER), (rows, count))
    alpha, _ = cast("tuple[Array, None]", scan(advance, start, (F.arange(steps, dtype=i32), emitted)))
    last = F.expand_dims(2 * target_lengths, axis=1)
    ends = (place == last) | (place == last - 1)
    total = F.where(ends, alpha, _NEVER)
    top = F.stop_gradient(F.max(total, axis=1))
    return -(top + F.log(F.sum(F.exp(total - F.expand_dims(top, axis=1)), axis=1)))


def _unpacked(what: str, labels: Array, lengths: Array, known: np.ndarray | None) -> Array:
    """[N, S] of labels that lie one behind the other; what is beyond a target's length is whatever lies there."""
    (count,) = labels.shape
    if known is not None and int(known.sum()) != count:
        raise ShapeError(
            f"{what}: expected as many labels as target_lengths sum to, {known.sum()}, got {count}"
        )
    width = count if known is None else int(known.max(initial=0))
    begin = F.cumulative_sum(lengths) - lengths
    places = F.expand_dims(begin, axis=1) + F.arange(width, dtype=i32)
    return F.take(F.concat([labels, F.zeros((1,), dtype=i32)]), F.minimum(places, count))


def _shifted(alpha: Array, by: int) -> Array:
    """The states `by` places before; nothing is before the first."""
    rows, count = alpha.shape
    by = min(by, count)
    return F.concat([F.full((rows, by), _NEVER, dtype=alpha.dtype), alpha[:, : count - by]], axis=1)


def _log_sum(*logarithms: Array) -> Array:
    """log Σ exp, which does not overflow."""
    top = logarithms[0]
    for more in logarithms[1:]:
        top = F.maximum(top, more)
    top = F.stop_gradient(top)
    total = F.exp(logarithms[0] - top)
    for more in logarithms[1:]:
        total = total + F.exp(more - top)
    return top + F.log(total)


def _known(given: ArrayLike) -> np.ndarray | None:
    """The numbers, where they are not traced."""
    return None if isinstance(given, Array) else np.asarray(given)


def _lengths(what: str, name: str, given: ArrayLike, shape: tuple[int, ...], longest: int) -> Array:
    """[N] numbers from 0 to `longest`, as far as they are known already."""
    known = _known(given)
    lengths = F.asarray(given if known is None else known)
    if not lengths.dtype.is_integer:
        raise DTypeError(f"{what}: {name}: expected integers, got {lengths.dtype.name}")
    if tuple(lengths.shape) != shape:
        raise ShapeError(f"{what}: {name}: expected {list(shape)}, got {list(lengths.shape)}")
    if known is not None and known.size and not 0 <= known.min() <= known.max() <= longest:
        raise ArgumentError(f"{what}: {name}: expected numbers from 0 to {longest}, got {known.tolist()}")
    return F.reshape(F.astype(lengths, i32), (math.prod(shape),))


def _check(what: str, log_probabilities: Array, targets: Array, blank: int) -> None:
    if log_probabilities.ndim not in (2, 3) or not log_probabilities.dtype.is_float:
        raise ShapeError(
            f"{what}: expected log-probabilities [T, N, C] or [T, C], got "
            f"{log_probabilities.dtype.name}{list(log_probabilities.shape)}"
        )
    if not targets.dtype.is_integer:
        raise DTypeError(f"{what}: expected integer labels, got {targets.dtype.name}")
    rows, classes = (
        log_probabilities.shape[1:] if log_probabilities.ndim == 3 else (None, log_probabilities.shape[1])
    )
    if targets.ndim != 1 and (rows is None or targets.ndim != 2 or targets.shape[0] != rows):
        wanted = "[S]" if rows is None else f"[{rows}, S] or [sum of target_lengths]"
        raise ShapeError(f"{what}: expected labels {wanted}, got {list(targets.shape)}")
    if type(blank) is not int or not 0 <= blank < classes:
        raise ArgumentError(f"{what}: blank: expected a class from 0 to {classes - 1}, got {blank!r}")
