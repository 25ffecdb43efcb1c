"""`fit`: trains a model on arrays with one compiled function per step.

In: a model, data, a loss, an optimiser. Out: the model with trained weights, and the history of the training.
Between two steps Python gathers the next rows into fixed buffers and reads one number; all else is compiled.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from graphc import checkpoints
from graphc.callbacks import AnyCallback, Callback, EarlyStopping, History, Progress, Run
from graphc.compiler import CompiledFunction, compile
from graphc.data import Batch, Dataset, Nest, batch_starts, dataset, mapped, split
from graphc.errors import ArgumentError, GraphcError, ShapeError
from graphc.frontend.checks import is_integer
from graphc.frontend.init import generator
from graphc.frontend.modules import Module
from graphc.frontend.optim import Optimizer, accumulate, evaluated, needs_full_batch
from graphc.frontend.optim.schedules import Pace, Schedule
from graphc.frontend.random import key as random_key
from graphc.ir.guard import located
from graphc.ir.types import f32
from graphc.training_memory import LastGood, Memory, aligned, publish
from graphc.training_metrics import Metrics as Metrics
from graphc.training_metrics import Scalar as Scalar
from graphc.training_metrics import chosen_metrics as chosen_metrics
from graphc.training_metrics import whole_metrics
from graphc.training_task import NumPy, Task, rows_of

__all__ = ["Callback", "DivergedError", "EarlyStopping", "History", "Run", "fit"]

PRECISIONS = ("f32", "bf16", "f16")


class DivergedError(GraphcError, ArithmeticError):
    """The loss or a weight became infinite or NaN; the model has the last weights that were good."""


@located
def fit(
    model: Module,
    data: tuple[Nest, Nest],
    *,
    loss: Scalar,
    optimizer: Optimizer,
    epochs: int = 1,
    batch_size: int = 32,
    validation: float | tuple[Nest, Nest] | None = None,
    metrics: Metrics = None,
    callbacks: Sequence[AnyCallback] = (),
    schedule: Schedule | None = None,
    accumulate: int = 1,
    resume: str | os.PathLike[str] | None = None,
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
    target) that give scalars; those of `graphc.metrics`, over whole data sets, are computed for the validation only.

    Inputs and targets may be dicts or tuples of arrays. A tuple of inputs is as many arguments of the model's `forward`,
    a dict is one; predictions may be nests, too, and `loss` takes them as they are (`graphc.nn.weighted` sums losses of
    several outputs). In a dict of metrics a named one under an output's name, ``{"digit": "accuracy"}``, is that output's.

    The learning rate is the optimiser's; callbacks may set ``run.learning_rate``. `schedule` makes of it, and of the
    number of epochs done, the rate of an epoch (of `graphc.optim.schedules`; `by_step` counts steps). With `accumulate` k
    the optimiser takes a step after k batches, with their mean gradient; what an epoch leaves over goes into the next.
    Parameters that `Module.freeze` keeps are not trained. `resume` is a file of `graphc.Checkpoint`: the training goes on
    after its last epoch, up to `epochs` in all.

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
    for name, given in (("optimizer", optimizer), ("schedule", schedule)):
        if isinstance(given, type) or (name == "schedule" and not (given is None or callable(given))):
            raise ArgumentError(f"fit: {name}: expected an object of graphc.optim, got {given!r}")
    kinds: list[tuple[str, object, str, bool]] = [
        ("model", model, "a graphc.nn.Module", isinstance(model, Module)),
        ("loss", loss, "a function of (prediction, target)", callable(loss)),
        (
            "optimizer",
            optimizer,
            "an object of graphc.optim",
            hasattr(optimizer, "init") and hasattr(optimizer, "update"),
        ),
        (
            "metrics",
            metrics,
            "a name, several, or a dict",
            metrics is None or isinstance(metrics, (str, Sequence, Mapping)),
        ),
        ("target", target, "a text", isinstance(target, str)),
        ("precision", precision, "a text", isinstance(precision, str)),
    ]
    for name, found, wanted, right in kinds:
        if not right:
            raise ArgumentError(f"fit: {name}: expected {wanted}, got {type(found).__name__}")
    if not isinstance(callbacks, Sequence) or not all(
        isinstance(c, Callback) or callable(c) for c in callbacks
    ):
        raise ArgumentError(
            f"fit: callbacks: expected a list of callbacks or functions, got {callbacks!r:.60}"
        )
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
    if not is_integer(accumulate, least=1):
        raise ArgumentError(f"fit: accumulate: expected an integer of at least 1, got {accumulate!r}")
    task = Task(
        model, loss, accumulated(optimizer, accumulate), chosen_metrics(metrics), target, threads,
        whole=whole_metrics(metrics), precision=precision, memory_budget=memory_budget,
    )  # fmt: skip
    if not task.trained:
        raise ArgumentError("fit: expected a model with parameters to train, got one with all of them frozen")
    if needs_full_batch(optimizer) and (rows < len(train) or accumulate > 1):
        raise ArgumentError(
            f"fit: batch_size: expected all {len(train)} rows in one batch for an optimiser with a line search, got {rows}"
        )
    if task.whole and held is None:
        raise ArgumentError(f"fit: metrics: expected validation data for {', '.join(task.whole)}, got none")
    task.check(train, rows, "data")
    if held is not None:
        task.check(held, min(batch_size, len(held)), "validation")
    pace = Pace(schedule, accumulate)
    return _train(task, train, held, rows, epochs, order, seed, callbacks, drop_last, progress, pace, resume)


accumulated = accumulate  # `fit` has an argument of this name


class _Stepper:
    """A compiled function, bound to the memory of the weights and of one batch."""

    def __init__(self, task: Task, batch: Batch, memory: Memory, rate: np.ndarray | None) -> None:
        params, buffers = memory.params, memory.buffers
        self.batch = batch
        if rate is None:
            function = compile(
                task.judge if task.whole else task.evaluate, memory.judged, buffers, batch.x, batch.y,
                target=task.target, threads=task.threads,
            )  # fmt: skip
            self._call = function.bind(memory.judged, buffers, batch.x, batch.y)
            outputs = self._call.outputs
            numbers = cast(NumPy, cast("tuple[NumPy, object]", outputs)[0] if task.whole else outputs)
            self.prediction = cast("tuple[NumPy, Nest]", outputs)[1] if task.whole else ()
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


def _hosted(nest: Nest) -> np.ndarray:
    """Arrays for a metric, brought from a device where they are on one; a nest stays a nest."""
    return cast(
        "np.ndarray", mapped(lambda a: a if isinstance(a, np.ndarray) else cast(_OnDevice, a).numpy(), nest)
    )


class _OnDevice(Protocol):
    def numpy(self) -> np.ndarray: ...


class _Pass:
    """Goes over a data set in batches and sums the numbers of each, weighted by rows."""

    def __init__(
        self,
        task: Task,
        data: Dataset,
        rows: int,
        memory: Memory,
        rate: np.ndarray | None,
        drop_last: bool = False,
    ) -> None:
        self._metrics = list(task.whole.values()) if rate is None else []
        self.batches = list(batch_starts(len(data), rows, drop_last))
        self.count = self.batches[-1][1]
        self._full = _Stepper(task, Batch(data, rows), memory, rate)
        tail = self.count % rows
        self._tail = _Stepper(task, Batch(data, tail), memory, rate) if tail else self._full
        self._rows = rows

    def __call__(self, order: np.ndarray) -> Iterator[float]:
        """Runs the batches; after each, its loss."""
        self.totals = [0.0] * (1 + len(self._full.scores))
        for metric in self._metrics:
            metric.start()
        totals, full, metrics = self.totals, self._rows, self._metrics
        for start, end in self.batches:
            rows = end - start
            stepper = self._full if rows == full else self._tail
            loss = stepper(order[start:end])
            yield loss
            totals[0] += loss * rows
            if stepper.scores:
                for position, score in enumerate(stepper.scores, 1):
                    totals[position] += score.item() * rows
            if metrics:
                for metric in metrics:
                    metric.accumulate(_hosted(stepper.prediction), _hosted(stepper.batch.y))

    def whole(self) -> list[float]:
        """The metrics over all rows of the last run."""
        return [float(metric.finish()) for metric in self._metrics]

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
    pace: Pace,
    resume: str | os.PathLike[str] | None,
) -> History:
    history = History()
    numbers = ("loss", *task.metrics)
    held_numbers = tuple(f"val_{n}" for n in (*numbers, *task.whole)) if held is not None else ()
    rates = () if pace.schedule is None else ("learning_rate",)
    names = (*numbers, *held_numbers, *rates, "seconds", "us_per_step")
    # training works on copies: the model's own arrays change once an epoch, so that they are never half a step
    entries = (
        task.model.entries
    )  # found once: a walk through the modules takes as long as a small model's step
    params = aligned(task.model.parameters)
    state = aligned(task.init(params))
    rate = np.zeros((), task.model.dtype.numpy)
    run = Run(
        task.model, params, aligned(task.model.buffers), history, names, epochs,
        float(task.optimizer.learning_rate), state=state, order=order,
        random=aligned({"key": random_key(seed)} if task.draws(rows_of(train.x, rows)) else {}),
        judged=evaluated(task.optimizer, task.trained),
    )  # fmt: skip
    if resume is not None:
        checkpoints.restore(run, resume)
    watchers = [c if isinstance(c, Callback) else _Function(c) for c in callbacks]
    for watcher in watchers:
        watcher.begin(run)
    memory = Memory(run, task.target)
    run.fetch_all = memory.fetch_all
    training = _Pass(task, train, rows, memory, rate, drop_last)
    validating = _Pass(task, held, min(rows, len(held)), memory, None) if held is not None else None
    history.step = training.compiled
    searches = bool(
        getattr(task.optimizer, "full_batch", False)
    )  # a line search may try points without a loss
    bar = Progress(progress, epochs, len(training.batches))
    weights = LastGood(run)
    by_step, finite = pace.by_step, math.isfinite  # looked up once: what a small model's step feels
    try:
        for epoch in range(run.epoch + 1, epochs + 1):
            started = time.perf_counter()
            before = (epoch - 1) * len(training.batches)
            rate[()] = run.rate = pace.rate(run.learning_rate, epoch - 1, before)
            step = 0
            for loss in training(order.permutation(len(train))):
                step += 1
                if by_step and step < len(training.batches):
                    rate[()] = run.rate = pace.rate(run.learning_rate, epoch - 1, before + step)
                if not finite(loss) and not searches:
                    raise DivergedError(_diverged("loss", f"a loss of {loss}", epoch, step))
                if step == 1:
                    weights.confirm()
                if progress:
                    bar.steps(1)
            memory.fetch()
            trained = time.perf_counter() - started
            bad = next((name for name, array in run.weights.items() if not np.isfinite(array).all()), None)
            if bad is not None:
                raise DivergedError(_diverged(bad, "a weight that is not finite", epoch, step))
            record = dict(zip(numbers, training.means(), strict=True))
            if validating is not None and held is not None:
                for _ in validating(np.arange(len(held))):
                    pass
                record.update(zip(held_numbers, (*validating.means(), *validating.whole()), strict=True))
            if rates:
                record["learning_rate"] = run.rate
            bar.epoch(epoch, record)
            record.update(seconds=time.perf_counter() - started, us_per_step=1e6 * trained / step)
            history.record(record)
            run.epoch = epoch
            weights.propose()
            publish(entries, run)
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
        publish(entries, run)
    return history


@dataclass(frozen=True, eq=False)
class _Function(Callback):
    """A plain function as a callback: called after each epoch."""

    function: Callable[[Run], bool | None]

    def epoch(self, run: Run) -> bool | None:
        return self.function(run)


def _check_alike(train: Dataset, held: Dataset) -> None:
    mine, other = dict(train.arrays), dict(held.arrays)
    if set(mine) != set(other):
        raise ShapeError(f"validation: expected {', '.join(mine)}, got {', '.join(other)}")
    for what, array in mine.items():
        if array.shape[1:] != other[what].shape[1:] or array.dtype != other[what].dtype:
            raise ShapeError(
                f"validation: {what}: expected rows of {array.dtype}{list(array.shape[1:])}, "
                f"got {other[what].dtype}{list(other[what].shape[1:])}"
            )


def _diverged(what: str, found: str, epoch: int, step: int) -> str:
    return (
        f"fit: {what}: expected a finite number, got {found} in epoch {epoch}, step {step}; "
        "the model has the last good weights: try a smaller learning rate"
    )
