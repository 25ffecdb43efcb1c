"""What is trained: a model with its loss, optimiser and metrics, as functions to be traced and compiled.

In: a model and what `fit` or an exported training is asked for. Out: a step, an evaluation, a prediction; checks of data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from graphc.compiler import is_cuda
from graphc.data import Dataset, Nest, leaves_of, mapped
from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.loss_scaling import LossScaling
from graphc.frontend.losses import check_labels, noted_labels
from graphc.frontend.modules import Module
from graphc.frontend.optim import Optimizer, advance
from graphc.frontend.random import split as split_key
from graphc.frontend.tracer import trace_function
from graphc.frontend.tree import flatten
from graphc.ir.types import TensorType, dtype_of, u32
from graphc.metrics import Metric
from graphc.mixed import mixed_precision
from graphc.training_metrics import Scalar
from graphc.transforms import value_and_grad

if TYPE_CHECKING:
    from graphc.codegen.target import Precision

Arrays = dict[str, Array]
Differentiated = Callable[[Arrays], tuple[tuple[Array, tuple[Arrays, Arrays]], Arrays]]
NumPy = dict[str, np.ndarray]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained, and the traced functions that are compiled for it."""

    model: Module
    loss: Scalar
    optimizer: Optimizer
    metrics: Mapping[str, Scalar]
    target: str = "cpu"
    threads: int | None = None
    whole: Mapping[str, Metric] = field(default_factory=dict)  # metrics over a whole data set
    precision: str = "f32"
    memory_budget: int | str | None = None

    @property
    def scaling(self) -> LossScaling | None:
        """How the loss is scaled; bf16 has f32's exponents and needs none."""
        return LossScaling() if self.precision == "f16" else None

    @property
    def tensor_cores(self) -> Precision:
        """How a GPU multiplies in a step: its tensor cores round what they read, so that the graph stays as it is."""
        return cast("Precision", self.precision) if is_cuda(self.target) else "f32"

    def init(self, params: Mapping[str, np.ndarray]) -> NumPy:
        """The state of the optimiser, and of the scaling of the loss, before the first step."""
        own = self.scaling.init() if self.scaling else {}
        return {**self.optimizer.init(self.chosen(params)), **own}

    @cached_property
    def trained(self) -> list[str]:
        """The names of the parameters that change: all but frozen ones."""
        return [name for name, entry in self.model.entries.items() if entry.trained and not entry.frozen]

    def chosen(self, params: Mapping[str, T]) -> dict[str, T]:
        """Those of the parameters that change."""
        return {name: params[name] for name in self.trained}

    def predict(self, params: Arrays, buffers: Arrays, x: Array) -> Array:
        return self.model.apply(params, buffers, *_inputs(x))[0]

    def step(
        self,
        params: Arrays,
        buffers: Arrays,
        state: Arrays,
        random: Arrays,
        learning_rate: Array,
        x: Array,
        y: Array,
    ) -> tuple[Arrays, Arrays, Arrays, Arrays, Arrays]:
        """One step: new weights, new buffers, new optimiser state, a new key, and the numbers of this batch.

        `random` holds the key of a model that draws random numbers, else nothing.
        """
        scaling = self.scaling
        own: Mapping[str, Array] | None = None
        if scaling is not None:
            own, state = scaling.split(state)
        grads, new_buffers, new_random, numbers = self.gradients(params, buffers, random, x, y, own)
        if scaling is not None and own is not None:
            grads, finite = scaling.unscaled(grads, own)
        moving = self.chosen(params)
        moved, new_state = advance(self.optimizer, moving, grads, state, learning_rate, numbers["loss"])
        if scaling is not None and own is not None:
            moved, new_buffers, new_state = (
                scaling.kept(finite, new, old)
                for new, old in ((moved, moving), (new_buffers, buffers), (new_state, state))
            )
            new_state = {**new_state, **scaling.adapted(own, finite)}
        return {**params, **moved}, new_buffers, new_state, new_random, numbers

    def gradients(
        self,
        params: Arrays,
        buffers: Arrays,
        random: Arrays,
        x: Array,
        y: Array,
        scale: Mapping[str, Array] | None = None,
    ) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        """The gradient of the loss by each trained parameter, new buffers, a new key, and the numbers of this batch.

        With the state of the scaling it is the gradient of the scaled loss.
        """
        key: Array | None = None
        if random:
            keys = split_key(random["key"])
            random, key = {"key": keys[0]}, keys[1]

        def objective(moving: Arrays) -> tuple[Array, tuple[Arrays, Arrays]]:
            given = {**params, **moving}
            prediction, new_buffers = self.model.apply(given, buffers, *_inputs(x), key=key, train=True)
            loss = self.loss(prediction, y)
            scaled = self.scaling.scaled(loss, scale) if self.scaling and scale is not None else loss
            return scaled, (new_buffers, {"loss": loss, **self._scores(prediction, y)})

        derived = value_and_grad(objective, has_aux=True)
        if self.precision != "f32" and not is_cuda(self.target):
            derived = mixed_precision(derived, self.precision)
        (_, (new_buffers, numbers)), grads = cast("Differentiated", derived)(self.chosen(params))
        return grads, new_buffers, random, numbers

    def evaluate(self, params: Arrays, buffers: Arrays, x: Array, y: Array) -> Arrays:
        """The numbers of a batch, without a step."""
        return self.judge(params, buffers, x, y)[0]

    def judge(self, params: Arrays, buffers: Arrays, x: Array, y: Array) -> tuple[Arrays, Array]:
        """The numbers of a batch and the model's predictions, without a step."""
        prediction = self.predict(params, buffers, x)
        return {"loss": self.loss(prediction, y), **self._scores(prediction, y)}, prediction

    def _scores(self, prediction: Array, y: Array) -> Arrays:
        return {name: metric(prediction, y) for name, metric in self.metrics.items()}

    def draws(self, x: object) -> bool:
        """Whether the model draws random numbers in training on batches of these types."""
        params, buffers = self.model.parameters, self.model.buffers

        def forward(params: Arrays, buffers: Arrays, x: Array, key: Array) -> Array:
            return self.model.apply(params, buffers, *_inputs(x), key=key, train=True)[0]

        graph = trace_function(forward, (params, buffers, x, u32[2])).graph
        key = next(v for v, name in zip(graph.inputs, graph.input_names) if name == "key")
        return any(v == key for node in graph.nodes for v in node.operands)

    def check(self, data: Dataset, rows: int, what: str) -> None:
        """Checks labels as the loss and the metrics state them, and that these are scalars."""
        params, buffers = self.model.parameters, self.model.buffers
        x, y = rows_of(data.x, rows), rows_of(data.y, rows)
        seen: list[Array] = []

        def evaluate(params: Arrays, buffers: Arrays, x: Array, y: Array) -> Arrays:
            seen.extend(cast("list[Array]", flatten(y)[0]))
            return self.evaluate(params, buffers, x, y)

        with noted_labels() as noted:
            graph = trace_function(evaluate, (params, buffers, x, y)).graph
        targets = dict(zip((a.value for a in seen), leaves_of(data.y, "targets"), strict=True))
        for note in noted:
            if note.labels.value in targets:
                path, labels = targets[note.labels.value]
                try:
                    check_labels(labels, note.classes, note.ignored)
                except ArgumentError as error:
                    head = what if path == "targets" else f"{what}: {path}"
                    raise ArgumentError(f"{head}: {error}") from None
        for name, type in zip(("loss", *self.metrics), graph.output_types, strict=True):
            if type.shape != ():
                raise ShapeError(f"fit: {name}: expected a scalar, got {type!r}")


def _inputs(x: Array) -> tuple[Array, ...]:
    """The arguments of a model: a tuple of inputs is several, all else one."""
    given: object = x
    return given if isinstance(given, tuple) else (x,)


def rows_of(nest: Nest, rows: int) -> object:
    """The types of so many rows of arrays."""
    return mapped(lambda a: TensorType(dtype_of(a.dtype), (rows, *a.shape[1:])), nest)
