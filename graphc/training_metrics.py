"""Which numbers `graphc.fit` records: traced ones, as means over batches, and those over a whole data set.

In: what a user passed as `metrics`. Out: functions and `graphc.metrics.Metric` objects by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from graphc.errors import ArgumentError
from graphc.frontend.array import Array
from graphc.frontend.losses import accuracy
from graphc.metrics import Metric

Scalar = Callable[..., Array]  # a loss or a metric of (prediction, target)
Metrics = str | Sequence[str] | Mapping[str, str | Scalar | Metric] | None
NAMED_METRICS: dict[str, Scalar] = {"accuracy": accuracy}


def chosen_metrics(metrics: Metrics) -> dict[str, Scalar]:
    """The metrics that are traced, by name: means over batches are right for them."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        for name, metric in metrics.items():
            if isinstance(metric, type):
                raise ArgumentError(
                    f"fit: metrics: {name}: expected a metric, as {metric.__name__}(), got the class"
                )
        # a named metric under another name is one of the output of that name
        chosen = {
            name if callable(metric) or name == metric else f"{name}_{metric}": metric
            if callable(metric)
            else _named(metric)
            if name == metric
            else _of_output(name, _named(metric))
            for name, metric in metrics.items()
            if not isinstance(metric, Metric)
        }
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        chosen = {name: _named(name) for name in names}
    taken = [name for name in chosen if name in _TAKEN or name.startswith("val_")]
    if taken:
        raise ArgumentError(f"fit: metrics: expected a name that fit does not use itself, got {taken[0]!r}")
    return chosen


_TAKEN = ("loss", "learning_rate", "seconds", "us_per_step")


def whole_metrics(metrics: Metrics) -> dict[str, Metric]:
    """The metrics that are computed over a whole data set, by name."""
    if not isinstance(metrics, Mapping):
        return {}
    found = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
    taken = [name for name in found if name in _TAKEN or name.startswith("val_")]
    if taken:
        raise ArgumentError(f"fit: metrics: expected a name that fit does not use itself, got {taken[0]!r}")
    return found


def _named(name: object) -> Scalar:
    if name not in NAMED_METRICS:
        raise ArgumentError(f"fit: metrics: expected {', '.join(NAMED_METRICS)} or a dict, got {name!r}")
    return NAMED_METRICS[str(name)]


def _of_output(output: str, metric: Scalar) -> Scalar:
    def of_output(prediction: object, target: object) -> Array:
        for nest in (prediction, target):
            if not isinstance(nest, Mapping) or output not in nest:
                got = ", ".join(map(str, nest)) if isinstance(nest, Mapping) else "one array"
                raise ArgumentError(
                    f"fit: metrics: {output}: expected an output and targets of this name, got {got}"
                )
        return metric(cast("dict[str, Array]", prediction)[output], cast("dict[str, Array]", target)[output])

    return of_output
