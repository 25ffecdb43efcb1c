"""Connectionist temporal classification: the probability of a sequence of labels under all its alignments.

In: logarithms of probabilities for each time step. Out: a traced loss; its gradient is that of the forward algorithm.
"""

from __future__ import annotations

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.losses import _reduced, note_labels
from graphc.ir.loc import here
from graphc.ir.types import i32

_NEVER = -1e30  # the logarithm of a probability of 0: finite, so that differences of two of them are numbers


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
    the first `input_lengths` [N] steps do. An alignment may repeat a label and put `blank` anywhere; between two equal
    labels it must. The mean divides each loss by its target's length (at least 1) first, as PyTorch does. Targets that no
    alignment spells have an infinite loss without a gradient, or with `zero_infinity` a loss of 0. Labels must lie in
    [0, C); a label outside has a probability of 0.

    Computed by the forward algorithm in logarithms. Graves, Fernández, Gomez & Schmidhuber, Connectionist Temporal
    Classification, ICML 2006, section 4.1. Raises `ShapeError`, `DTypeError` or `ArgumentError` for arguments that
    don't fit together.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(lambda p, t: ctc(p, t, [2], [1]), graphc.f32[2, 1, 2], graphc.i32[1, 1])
    >>> half = np.full((2, 1, 2), np.log(0.5), np.float32)  # "a", "-a" and "a-" out of four
    >>> interpret(graph, [half, np.int32([[1]])])[0].round(4)
    np.float32(0.2877)
    """
    what = f"{here().prefix}ctc"
    targets = F.asarray(targets)
    _check(what, log_probabilities, targets, blank)
    steps, rows, classes = log_probabilities.shape
    note_labels(targets, classes)
    dtype = log_probabilities.dtype
    input_lengths, target_lengths = (
        _lengths(what, name, given, rows)
        for name, given in (("input_lengths", input_lengths), ("target_lengths", target_lengths))
    )
    labels = F.astype(targets, i32)
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
    alpha = F.where(place < 2, emitted[0], _NEVER)
    for step in range(1, steps):
        after_one = _shifted(alpha, 1)
        after_two = F.where(may_skip, _shifted(alpha, 2), _NEVER)
        following = _log_sum(alpha, after_one, after_two) + emitted[step]
        following = F.maximum(following, _NEVER)
        alpha = F.where(F.expand_dims(input_lengths > step, axis=1), following, alpha)
    last = F.expand_dims(2 * target_lengths, axis=1)
    ends = (place == last) | (place == last - 1)
    total = F.where(ends, alpha, _NEVER)
    top = F.stop_gradient(F.max(total, axis=1))
    losses = -(top + F.log(F.sum(F.exp(total - F.expand_dims(top, axis=1)), axis=1)))
    possible = losses < -0.5 * _NEVER
    losses = F.where(possible, losses, 0.0 if zero_infinity else np.inf)
    if reduction == "mean":
        return F.mean(losses / F.astype(F.maximum(target_lengths, 1), dtype))
    return _reduced("ctc", losses, reduction)


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


def _lengths(what: str, name: str, given: ArrayLike, rows: int) -> Array:
    lengths = F.asarray(np.asarray(given) if isinstance(given, (list, tuple)) else given)
    if not lengths.dtype.is_integer:
        raise DTypeError(f"{what}: {name}: expected integers, got {lengths.dtype.name}")
    if tuple(lengths.shape) != (rows,):
        raise ShapeError(f"{what}: {name}: expected [{rows}], got {list(lengths.shape)}")
    return F.astype(lengths, i32)


def _check(what: str, log_probabilities: Array, targets: Array, blank: int) -> None:
    if log_probabilities.ndim != 3 or not log_probabilities.dtype.is_float:
        raise ShapeError(
            f"{what}: expected log-probabilities [T, N, C], got {log_probabilities.dtype.name}{list(log_probabilities.shape)}"
        )
    if not targets.dtype.is_integer:
        raise DTypeError(f"{what}: expected integer labels, got {targets.dtype.name}")
    if targets.ndim != 2 or targets.shape[0] != log_probabilities.shape[1]:
        raise ShapeError(
            f"{what}: expected labels [{log_probabilities.shape[1]}, S], got {list(targets.shape)}"
        )
    if not 0 <= blank < log_probabilities.shape[2]:
        raise ArgumentError(
            f"{what}: blank: expected a class from 0 to {log_probabilities.shape[2] - 1}, got {blank!r}"
        )
