"""`fit`: trains a model on arrays with one compiled function per step.

In: a model, data, a loss, an optimiser. Out: the model with trained weights, and the history of the training.
Between two steps Python gathers the next rows into fixed buffers and reads one number; all else is compiled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from graphc.callbacks import AnyCallback, Callback, EarlyStopping, History, Progress, Run
from graphc.compiler import CompiledFunction, compile, is_cuda
from graphc.data import Batch, Dataset, batch_starts, dataset, split
from graphc.errors import ArgumentError, GraphcError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.init import generator
from graphc.frontend.loss_scaling import LossScaling
from graphc.frontend.losses import accuracy, check_labels
from graphc.frontend.modules import Module
from graphc.frontend.optim import Optimizer
from graphc.frontend.parameters import Parameter
from graphc.frontend.random import key as random_key
from graphc.frontend.random import split as split_key
from graphc.frontend.tracer import trace
from graphc.ir.types import TensorType, dtype_of, f32, u32
from graphc.mixed import mixed_precision
from graphc.runtime.executable import aligned_empty
from graphc.transforms import value_and_grad

if TYPE_CHECKING:
    from graphc.codegen.target import Precision
    from graphc.runtime.cuda import DeviceArray

__all__ = ["Callback", "DivergedError", "EarlyStopping", "History", "Run", "fit"]

Scalar = Callable[[Array, Array], Array]  # a loss or a metric of (prediction, target)
Arrays = dict[str, Array]
Differentiated = Callable[[Arrays], tuple[tuple[Array, tuple[Arrays, Arrays]], Arrays]]
NumPy = dict[str, np.ndarray]
Metrics = str | Sequence[str] | Mapping[str, Scalar] | None
PRECISIONS = ("f32", "bf16", "f16")
NAMED_METRICS: dict[str, Scalar] = {"accuracy": accuracy}


class DivergedError(GraphcError, ArithmeticError):
    """The loss or a weight became infinite or NaN; the model has the last weights that were good."""


def fit(
    model: Module,
    data: tuple[np.ndarray, np.ndarray],
    *,
    loss: Scalar,
    optimizer: Optimizer,
    epochs: int = 1,
    batch_size: int = 32,
    validation: float | tuple[np.ndarray, np.ndarray] | None = None,
    metrics: Metrics = None,
    callbacks: Sequence[AnyCallback] = (),
    seed: int = 0,
    drop_last: bool = False,
    allow_nan: bool = False,
    progress: bool = True,
    target: str = "cpu",
    threads: int | None = None,
    precision: str = "f32",
    memory_budget: int | str | None = None,
) -> History:
    """Trains a model in place and gives the history of its losses.

    `data` is (inputs, targets), a row an example: floats are converted to the model's data type (f64 inputs are
    rounded to f32 for an f32 model), integers other than u8 to i32. Each epoch visits the rows in a new order drawn
    from `seed`, which also draws the weights that have no values yet. The last batch may be smaller (a second
    function is compiled for it) unless `drop_last`. `validation` is data of its own, or the fraction of rows to draw
    and hold back; it is evaluated after each epoch. `metrics` is "accuracy", or a dict of functions of (prediction,
    target) that give scalars. The learning rate is the optimiser's; callbacks may set ``run.learning_rate``.
    `memory_budget` is that of `compile`, for a step: at most so many bytes for what lies between weights and losses.

    With `precision` "bf16" or "f16" the products of a step read numbers of 16 bits and are summed in f32, forwards and
    backwards; weights, losses and the optimiser stay f32 (`graphc.passes.mixed`), and so does validation. On a GPU tensor
    cores do that. With "f16" the loss is scaled, and a step whose gradients are not finite is left out (`LossScaling`).

    Numbers of an epoch are means over its batches, weighted by rows; those of training are taken during the epoch,
    so the weights change under them. Ctrl-C ends the training as a callback would: the weights, the best ones with
    `EarlyStopping`, and the history are kept.

    Raises `ArgumentError`, `ShapeError` or `DTypeError` for data that can't be trained on (labels out of range are
    named with their row), and `DivergedError`, naming epoch and step, where the loss is no longer finite.

    >>> from graphc import nn, optim
    >>> model, x = nn.Sequential(nn.Linear(1, 1)), np.linspace(-1, 1, 64)[:, None]
    >>> history = fit(model, (x, 3 * x + 1), loss=nn.mse, optimizer=optim.SGD(0.2), epochs=40, progress=False)
    >>> model.parameters["0.weight"].round(2), history["loss"][-1] < 1e-4
    (array([[3.]], dtype=float32), True)
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not is_integer(value, least=1):
            raise ArgumentError(f"fit: {name}: expected an integer of at least 1, got {value!r}")
    order = generator(seed)
    train = dataset(data, model.dtype, allow_nan)
    held: Dataset | None = None
    if isinstance(validation, (int, float)):
        train, held = split(train, validation, order)
    elif validation is not None:
        held = dataset(validation, model.dtype, allow_nan, "validation")
        _check_alike(train, held)
    rows = min(batch_size, len(train))
    if drop_last and len(train) < batch_size:
        raise ArgumentError(
            f"fit: expected at least one batch of {batch_size} rows, got {len(train)} and drop_last"
        )
    model.fill(seed)
    if not model.parameters:
        raise ArgumentError(f"fit: expected a model with parameters to train, got {model!r}")
    if precision not in PRECISIONS:
        raise ArgumentError(f"fit: precision: expected {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "f32" and model.dtype is not f32:
        raise ArgumentError(
            f"fit: precision: expected a model of f32 for {precision}, got one of {model.dtype.name}"
        )
    task = Task(model, loss, optimizer, chosen_metrics(metrics), target, threads, precision, memory_budget)
    task.check(train, rows, "data")
    if held is not None:
        task.check(held, min(batch_size, len(held)), "validation")
    return _train(task, train, held, rows, epochs, order, seed, callbacks, drop_last, progress)


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained, and the traced functions that are compiled for it."""

    model: Module
    loss: Scalar
    optimizer: Optimizer
    metrics: Mapping[str, Scalar]
    target: str = "cpu"
    threads: int | None = None
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
        return {**self.optimizer.init(params), **(self.scaling.init() if self.scaling else {})}

    def predict(self, params: Arrays, buffers: Arrays, x: Array) -> Array:
        return self.model.apply(params, buffers, x)[0]

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
        if scaling is None:
            grads, new_buffers, new_random, numbers = self.gradients(params, buffers, random, x, y)
            new_params, new_state = self.optimizer.update(params, grads, state, learning_rate)
            return new_params, new_buffers, new_state, new_random, numbers
        own, state = scaling.split(state)
        grads, new_buffers, new_random, numbers = self.gradients(params, buffers, random, x, y, own)
        grads, finite = scaling.unscaled(grads, own)
        new_params, new_state = self.optimizer.update(params, grads, state, learning_rate)
        new_params, new_buffers, new_state = (
            scaling.kept(finite, new, old)
            for new, old in ((new_params, params), (new_buffers, buffers), (new_state, state))
        )
        return new_params, new_buffers, {**new_state, **scaling.adapted(own, finite)}, new_random, numbers

    def gradients(
        self,
        params: Arrays,
        buffers: Arrays,
        random: Arrays,
        x: Array,
        y: Array,
        scale: Mapping[str, Array] | None = None,
    ) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        """The gradient of the loss by each parameter, new buffers, a new key, and the numbers of this batch.

        With the state of the scaling it is the gradient of the scaled loss.
        """
        key: Array | None = None
        if random:
            keys = split_key(random["key"])
            random, key = {"key": keys[0]}, keys[1]

        def objective(params: Arrays) -> tuple[Array, tuple[Arrays, Arrays]]:
            prediction, new_buffers = self.model.apply(params, buffers, x, key=key, train=True)
            loss = self.loss(prediction, y)
            scaled = self.scaling.scaled(loss, scale) if self.scaling and scale is not None else loss
            return scaled, (new_buffers, {"loss": loss, **self._scores(prediction, y)})

        derived = value_and_grad(objective, has_aux=True)
        if self.precision != "f32" and not is_cuda(self.target):
            derived = mixed_precision(derived, self.precision)
        (_, (new_buffers, numbers)), grads = cast("Differentiated", derived)(params)
        return grads, new_buffers, random, numbers

    def evaluate(self, params: Arrays, buffers: Arrays, x: Array, y: Array) -> Arrays:
        """The numbers of a batch, without a step."""
        prediction = self.predict(params, buffers, x)
        return {"loss": self.loss(prediction, y), **self._scores(prediction, y)}

    def _scores(self, prediction: Array, y: Array) -> Arrays:
        return {name: metric(prediction, y) for name, metric in self.metrics.items()}

    def draws(self, x: TensorType) -> bool:
        """Whether the model draws random numbers in training on batches of this type."""
        params, buffers = self.model.parameters, self.model.buffers

        def forward(params: Arrays, buffers: Arrays, x: Array, key: Array) -> Array:
            return self.model.apply(params, buffers, x, key=key, train=True)[0]

        graph = trace(forward, params, buffers, x, u32[2])
        return any(v == graph.inputs[-1] for node in graph.nodes for v in node.operands)

    def check(self, data: Dataset, rows: int, what: str) -> None:
        """Checks labels against the width of the model's output, and that the loss is a scalar."""
        params, buffers = self.model.parameters, self.model.buffers
        x, y = _rows_of(data.x, rows), _rows_of(data.y, rows)
        (prediction,) = trace(self.predict, params, buffers, x).output_types
        if dtype_of(data.y.dtype).is_integer and data.y.ndim == 1 and prediction.rank == 2:
            try:
                check_labels(data.y, prediction.shape[1])
            except ArgumentError as error:
                raise ArgumentError(f"{what}: {error}") from None
        graph = trace(self.evaluate, params, buffers, x, y)
        for name, type in zip(("loss", *self.metrics), graph.output_types, strict=True):
            if type.shape != ():
                raise ShapeError(f"fit: {name}: expected a scalar, got {type!r}")


def _rows_of(array: np.ndarray, rows: int) -> TensorType:
    """The type of so many rows of an array."""
    return TensorType(dtype_of(array.dtype), (rows, *array.shape[1:]))


class _Stepper:
    """A compiled function, bound to the memory of the weights and of one batch."""

    def __init__(self, task: Task, batch: Batch, memory: _Memory, rate: np.ndarray | None) -> None:
        params, buffers = memory.params, memory.buffers
        if rate is None:
            function = compile(
                task.evaluate, params, buffers, batch.x, batch.y,
                target=task.target, threads=task.threads,
            )  # fmt: skip
            self._call = function.bind(params, buffers, batch.x, batch.y)
            numbers = cast(NumPy, self._call.outputs)
        else:
            function = compile(
                task.step, params, buffers, memory.state, memory.random, rate, batch.x, batch.y,
                target=task.target, donate=("params", "buffers", "state", "random"), threads=task.threads,
                precision=task.tensor_cores, memory_budget=task.memory_budget,
            )  # fmt: skip
            self._call = function.bind(params, buffers, memory.state, memory.random, rate, batch.x, batch.y)
            numbers = cast(tuple[NumPy, ...], self._call.outputs)[-1]
        self.function = function
        self._gather = batch.gather
        self._loss, *self.scores = numbers.values()

    def __call__(self, rows: np.ndarray) -> float:
        """Runs on these rows of the data; gives the loss."""
        self._gather(rows)
        self._call()
        return cast(float, self._loss.item())


class _Pass:
    """Goes over a data set in batches and sums the numbers of each, weighted by rows."""

    def __init__(
        self,
        task: Task,
        data: Dataset,
        rows: int,
        memory: _Memory,
        rate: np.ndarray | None,
        drop_last: bool = False,
    ) -> None:
        self.batches = list(batch_starts(len(data), rows, drop_last))
        self.count = self.batches[-1][1]
        self._full = _Stepper(task, Batch(data, rows), memory, rate)
        tail = self.count % rows
        self._tail = _Stepper(task, Batch(data, tail), memory, rate) if tail else self._full
        self._rows = rows

    def __call__(self, order: np.ndarray) -> Iterator[float]:
        """Runs the batches; after each, its loss."""
        self.totals = [0.0] * (1 + len(self._full.scores))
        for start, end in self.batches:
            rows = end - start
            stepper = self._full if rows == self._rows else self._tail
            loss = stepper(order[start:end])
            yield loss
            self.totals[0] += loss * rows
            for position, score in enumerate(stepper.scores, 1):
                self.totals[position] += score.item() * rows

    @property
    def compiled(self) -> CompiledFunction:
        """The function of a full batch."""
        return self._full.function

    def means(self) -> list[float]:
        """The means over the rows of the last run."""
        return [total / self.count for total in self.totals]


def _train(
    task: Task,
    train: Dataset,
    held: Dataset | None,
    rows: int,
    epochs: int,
    order: np.random.Generator,
    seed: int,
    callbacks: Sequence[AnyCallback],
    drop_last: bool,
    progress: bool,
) -> History:
    history = History()
    numbers = ("loss", *task.metrics)
    names = (*numbers, *(f"val_{n}" for n in numbers if held is not None), "seconds", "us_per_step")
    # training works on copies: the model's own arrays change once an epoch, so that they are never half a step
    entries = (
        task.model.entries
    )  # found once: a walk through the modules takes as long as a small model's step
    params = _aligned(task.model.parameters)
    buffers = _aligned(task.model.buffers)
    state = _aligned(task.init(params))
    rate = np.zeros((), task.model.dtype.numpy)
    run = Run(task.model, params, buffers, history, names, epochs, float(task.optimizer.learning_rate))
    watchers = [c if isinstance(c, Callback) else _Function(c) for c in callbacks]
    for watcher in watchers:
        watcher.begin(run)
    random = _aligned({"key": random_key(seed)} if task.draws(_rows_of(train.x, rows)) else {})
    memory = _Memory(run, state, random, task.target)
    training = _Pass(task, train, rows, memory, rate, drop_last)
    validating = _Pass(task, held, min(rows, len(held)), memory, None) if held is not None else None
    history.step = training.compiled
    bar = Progress(progress, epochs, len(training.batches))
    weights = _LastGood(run)
    try:
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            rate[()] = run.learning_rate
            step = 0
            for loss in training(order.permutation(len(train))):
                step += 1
                if not math.isfinite(loss):
                    raise DivergedError(_diverged("loss", f"a loss of {loss}", epoch, step))
                if step == 1:
                    weights.confirm()
                bar.steps(1)
            memory.fetch()
            trained = time.perf_counter() - started
            bad = next((name for name, array in params.items() if not np.isfinite(array).all()), None)
            if bad is not None:
                raise DivergedError(_diverged(bad, "a weight that is not finite", epoch, step))
            record = dict(zip(numbers, training.means(), strict=True))
            if validating is not None and held is not None:
                for _ in validating(np.arange(len(held))):
                    pass
                record.update(zip((f"val_{n}" for n in numbers), validating.means(), strict=True))
            bar.epoch(epoch, record)
            record.update(seconds=time.perf_counter() - started, us_per_step=1e6 * trained / step)
            history.record(record)
            run.epoch = epoch
            weights.propose()
            _publish(entries, run)
            stops = [watcher.epoch(run) for watcher in watchers]  # every one is asked
            memory.send()
            if any(stops):
                history.stopped = "callback"
                break
    except KeyboardInterrupt:
        history.stopped = "interrupted"
        memory.fetch()
    except DivergedError:
        history.stopped = "diverged"
        weights.restore()
        raise
    finally:
        bar.close()
        for watcher in watchers:
            watcher.end(run)
        _publish(entries, run)
    return history


class _Memory:
    """What training changes, where its steps run: weights, buffers, the optimiser's state.

    On a device they stay between steps. The arrays of `run` are what the host sees of them: `fetch` brings those up to
    date, `send` what a callback wrote there. On the processor both are the same arrays.
    """

    def __init__(self, run: Run, state: NumPy, random: NumPy, target: str) -> None:
        self.params: Mapping[str, object] = run.params
        self.buffers: Mapping[str, object] = run.buffers
        self.state: Mapping[str, object] = state
        self.random: Mapping[str, object] = random  # the key of a model that draws random numbers
        self._pairs: list[tuple[DeviceArray, np.ndarray]] = []
        if is_cuda(target):
            from graphc.runtime.cuda import asarray

            on_device = [
                {name: asarray(a) for name, a in arrays.items()}
                for arrays in (run.params, run.buffers, state, random)
            ]
            self.params, self.buffers, self.state, self.random = on_device
            self._pairs = [
                (arrays[name], host)
                for arrays, hosts in zip(on_device, (run.params, run.buffers))
                for name, host in hosts.items()
            ]

    def fetch(self) -> None:
        for array, host in self._pairs:
            array.numpy(out=host)

    def send(self) -> None:
        for array, host in self._pairs:
            array.copy_from(host)


class _LastGood:
    """Copies of the weights from which training can be taken up again after it diverged.

    Weights count as good once a step from them gave a finite loss; until then the ones before them are kept too.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._good = run.keep()
        self._proposed: NumPy | None = None

    def propose(self) -> None:
        """The weights now, at the end of an epoch, may be good."""
        self._proposed = self._run.keep()

    def confirm(self) -> None:
        """A step from the proposed weights gave a finite loss."""
        if self._proposed is not None:
            self._good, self._proposed = self._proposed, None

    def restore(self) -> None:
        self._run.restore(self._good)


@dataclass(frozen=True, eq=False)
class _Function(Callback):
    """A plain function as a callback: called after each epoch."""

    function: Callable[[Run], bool | None]

    def epoch(self, run: Run) -> bool | None:
        return self.function(run)


def _aligned(arrays: Mapping[str, np.ndarray]) -> NumPy:
    """Copies whose vectors lie within cache lines, which NumPy's own memory does not promise."""
    copies = {name: aligned_empty(array.shape, array.dtype) for name, array in arrays.items()}
    for name, copy in copies.items():
        copy[...] = arrays[name]
    return copies


def _publish(entries: Mapping[str, Parameter], run: Run) -> None:
    """Copies weights and buffers into the model's own arrays."""
    for name, entry in entries.items():
        np.copyto(entry.array, run.params[name] if entry.trained else run.buffers[name])


def chosen_metrics(metrics: Metrics) -> dict[str, Scalar]:
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        chosen = dict(metrics)
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        unknown = [name for name in names if name not in NAMED_METRICS]
        if unknown:
            raise ArgumentError(
                f"fit: metrics: expected {', '.join(NAMED_METRICS)} or a dict, got {unknown[0]!r}"
            )
        chosen = {name: NAMED_METRICS[name] for name in names}
    taken = [name for name in chosen if name in ("loss", "seconds", "us_per_step") or name.startswith("val_")]
    if taken:
        raise ArgumentError(f"fit: metrics: expected a name that fit does not use itself, got {taken[0]!r}")
    return chosen


def _check_alike(train: Dataset, held: Dataset) -> None:
    for what, mine, other in (("inputs", train.x, held.x), ("targets", train.y, held.y)):
        if mine.shape[1:] != other.shape[1:] or mine.dtype != other.dtype:
            raise ShapeError(
                f"validation: {what}: expected rows of {mine.dtype}{list(mine.shape[1:])}, "
                f"got {other.dtype}{list(other.shape[1:])}"
            )


def _diverged(what: str, found: str, epoch: int, step: int) -> str:
    return (
        f"fit: {what}: expected a finite number, got {found} in epoch {epoch}, step {step}; "
        "the model has the last good weights: try a smaller learning rate"
    )
