"""Losses of pairs and triples of examples: how near vectors are to each other.

In: traced vectors in the last dimension. Out: a traced scalar, or one value a row with ``reduction="none"``. Definitions
and argument names are PyTorch's.
"""

from __future__ import annotations

import math

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.activations import relu
from graphc.frontend.array import Array
from graphc.frontend.losses import _as_float, _reduced, _same_shape
from graphc.ir.guard import guarded
from graphc.ir.loc import here


@guarded
def cosine_similarity(x1: Array, x2: Array, axis: int = -1, eps: float = 1e-8) -> Array:
    """x₁ · x₂ / (max(|x₁|, eps) max(|x₂|, eps)) along a dimension: the cosine of the angle between them.

    >>> import graphc, numpy as np; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(cosine_similarity, graphc.f32[2], graphc.f32[2])
    >>> interpret(graph, [np.float32([3, 4]), np.float32([3, 0])])[0].round(4)
    np.float32(0.6)
    """
    lengths = _length(x1, axis, eps) * _length(x2, axis, eps)
    return F.sum(x1 * x2, axis=axis) / lengths


def _length(x: Array, axis: int, eps: float) -> Array:
    """max(|x|, eps), whose derivative is 0 at 0."""
    return F.sqrt(F.maximum(F.sum(x * x, axis=axis), eps * eps))


@guarded
def cosine_embedding(
    x1: Array, x2: Array, target: Array, reduction: str = "mean", *, margin: float = 0.0
) -> Array:
    """1 - cos for pairs of target 1, max(0, cos - margin) for those of target -1; `target` has the rows' shape.

    The squared lengths are increased by 1e-12, as PyTorch does.
    """
    _same_shape("cosine_embedding", x1, x2)
    if tuple(target.shape) != tuple(x1.shape[:-1]):
        raise ArgumentError(
            f"{here().prefix}cosine_embedding: expected targets {list(x1.shape[:-1])}, got {list(target.shape)}"
        )
    squares = (F.sum(x1 * x1, axis=-1) + 1e-12) * (F.sum(x2 * x2, axis=-1) + 1e-12)
    cosine = F.sum(x1 * x2, axis=-1) / F.sqrt(squares)
    alike = _as_float(target, x1) == 1
    return _reduced("cosine_embedding", F.where(alike, 1.0 - cosine, relu(cosine - margin)), reduction)


@guarded
def margin_ranking(
    x1: Array, x2: Array, target: Array, reduction: str = "mean", *, margin: float = 0.0
) -> Array:
    """max(0, -t (x₁ - x₂) + margin): t = 1 where x₁ is to rank higher, -1 where x₂ is."""
    _same_shape("margin_ranking", x1, x2)
    _same_shape("margin_ranking", x1, target)
    return _reduced("margin_ranking", relu(margin - _as_float(target, x1) * (x1 - x2)), reduction)


@guarded
def triplet_margin(
    anchor: Array,
    positive: Array,
    negative: Array,
    reduction: str = "mean",
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Array:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), with d(a, b) the p-norm of a - b + eps.

    With `swap` the nearer of d(anchor, negative) and d(positive, negative) counts. Balntas et al., Learning Shallow
    Convolutional Feature Descriptors with Triplet Losses, BMVC 2016. Raises `ShapeError` where the shapes differ.
    """
    _same_shape("triplet_margin", anchor, positive)
    _same_shape("triplet_margin", anchor, negative)
    near, far = _distance(anchor, positive, p, eps), _distance(anchor, negative, p, eps)
    if swap:
        far = F.minimum(far, _distance(positive, negative, p, eps))
    return _reduced("triplet_margin", relu(near - far + margin), reduction)


def _distance(a: Array, b: Array, p: float, eps: float) -> Array:
    gap = a - b + eps
    if p == 2:
        return F.sqrt(F.sum(gap * gap, axis=-1))
    if math.isinf(p):
        return F.max(F.abs(gap), axis=-1)
    return F.pow(F.sum(F.pow(F.abs(gap), p), axis=-1), 1 / p)
