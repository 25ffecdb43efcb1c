"""Sums of losses for models with several outputs.

In: a loss for each output. Out: a loss of all outputs and all targets together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphc.errors import ArgumentError
from graphc.frontend.array import Array
from graphc.ir.guard import guarded
from graphc.ir.loc import here

Loss = Callable[..., Array]


@dataclass(frozen=True, eq=False)
class Weighted:
    """See `weighted`."""

    parts: Mapping[str | int, tuple[Loss, float]]

    def __call__(self, prediction: object, target: object) -> Array:
        total: Array | None = None
        for key, (loss, weight) in self.parts.items():
            part = loss(_part("prediction", prediction, key), _part("target", target, key))
            part = part if weight == 1 else weight * part
            total = part if total is None else total + part
        assert total is not None
        return total


@guarded
def weighted(parts: Mapping[str | int, Loss | tuple[Loss, float]]) -> Weighted:
    """The sum of a loss for each output, each times its weight (1 where there is none).

    Keys are those of the dicts that the model gives and the targets come in, or positions in tuples. Raises `ArgumentError`
    for no loss, and in a call where an output or target is missing.

    >>> from graphc import f32, i32, nn, trace
    >>> loss = weighted({"digit": nn.cross_entropy, "size": (nn.mse, 0.5)})
    >>> trace(loss, {"digit": f32[4, 10], "size": f32[4]}, {"digit": i32[4], "size": f32[4]}).output_types
    (f32[],)
    """
    if not parts:
        raise ArgumentError(f"{here().prefix}weighted: expected at least one loss, got none")
    return Weighted({k: part if isinstance(part, tuple) else (part, 1.0) for k, part in parts.items()})


def _part(what: str, nest: object, key: str | int) -> object:
    if isinstance(nest, Mapping) and key in nest:
        return nest[key]
    if isinstance(nest, (tuple, list)) and isinstance(key, int) and -len(nest) <= key < len(nest):
        return nest[key]
    got = ", ".join(map(str, nest)) if isinstance(nest, Mapping) else type(nest).__name__
    raise ArgumentError(f"{here().prefix}weighted: expected a {what} with {key!r}, got {got}")
