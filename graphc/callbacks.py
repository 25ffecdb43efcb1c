"""What `graphc.fit` tells and asks between epochs: its history, callbacks, early stopping, progress lines.

In: a record of numbers per epoch. Out: a `History` of lists, and the decision to go on or to stop.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from graphc.errors import ArgumentError, GraphcError
from graphc.frontend.checks import is_integer
from graphc.frontend.modules import Module

if TYPE_CHECKING:
    from graphc.compiler import CompiledFunction


class History(dict[str, list[float]]):
    """One list per number and one entry per epoch: ``history["val_loss"][-1]``.

    Keys: loss, the metrics, the same with ``val_`` in front, seconds and us_per_step. `stopped` says why training
    ended: "finished", "callback", "interrupted" or "diverged"; `step` is the compiled training step of a full batch.

    >>> h = History(); h.record({"loss": 2.0}); h.record({"loss": 1.0}); h, h.epochs
    ({'loss': [2.0, 1.0]}, 2)
    """

    stopped: str = "finished"
    step: CompiledFunction | None = None

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return max((len(values) for values in self.values()), default=0)

    def record(self, numbers: Mapping[str, float]) -> None:
        """Appends the numbers of an epoch."""
        for name, value in numbers.items():
            self.setdefault(name, []).append(float(value))

    def plot(self, path: str | os.PathLike[str] | None = None) -> None:
        """Draws losses and metrics over the epochs, to a file or, without a path, on the screen.

        Raises `GraphcError` where matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise GraphcError(
                "History.plot: expected matplotlib, got none: pip install graphc[plot]"
            ) from error
        names = [n for n in self if not n.startswith("val_") and n not in ("seconds", "us_per_step")]
        figure, axes = pyplot.subplots(
            1, max(1, len(names)), figsize=(5 * max(1, len(names)), 3.5), squeeze=False
        )
        for axis, name in zip(axes[0], names, strict=False):
            for key in (name, f"val_{name}"):
                if key in self:
                    axis.plot(range(1, len(self[key]) + 1), self[key], label=key)
            axis.set_xlabel("epoch")
            axis.legend()
        figure.tight_layout()
        if path is None:
            pyplot.show()
        else:
            figure.savefig(path)
        pyplot.close(figure)


@dataclass(eq=False)
class Run:
    """A training that is under way, as callbacks see it. `learning_rate` may be set between epochs.

    `params` are the weights now, by name, `buffers` what the model keeps besides: `keep` copies both, `restore`
    puts a copy back. `weights` are those with which the model is evaluated: averages, where the optimiser keeps some.
    With a schedule `learning_rate` is the base that it gets, `rate` what it made of it for the last step. `state` is
    the optimiser's; on a GPU `fetch_all` brings it up to date.
    """

    model: Module
    params: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    history: History
    names: tuple[str, ...]  # of the numbers that each epoch records
    epochs: int
    learning_rate: float
    epoch: int = 0  # epochs completed
    rate: float = math.nan
    state: dict[str, np.ndarray] = field(default_factory=dict)
    random: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # the key of a model that draws random numbers
    order: np.random.Generator = field(default_factory=np.random.default_rng)  # draws the order of the rows
    judged: dict[str, str] = field(
        default_factory=dict
    )  # weights that are evaluated as an array of the state
    fetch_all: Callable[[], None] = field(default=lambda: None)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights with which the model is evaluated."""
        return {n: self.state[self.judged[n]] if n in self.judged else a for n, a in self.params.items()}

    def _changing(self) -> dict[str, np.ndarray]:
        return {**self.params, **self.buffers, **{name: self.state[name] for name in self.judged.values()}}

    def keep(self) -> dict[str, np.ndarray]:
        """A copy of the weights and buffers."""
        return {name: array.copy() for name, array in self._changing().items()}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Puts a copy of the weights and buffers back."""
        for name, array in self._changing().items():
            np.copyto(array, kept[name])


class Callback:
    """The base of objects that watch a training; each method may be left out.

    >>> class Halve(Callback):
    ...     def epoch(self, run: Run) -> bool:
    ...         run.learning_rate /= 2
    ...         return False
    """

    def begin(self, run: Run) -> None:
        """Called before the first epoch."""

    def epoch(self, run: Run) -> bool | None:
        """Called after each epoch, with its numbers in the history; True stops the training."""

    def end(self, run: Run) -> None:
        """Called when the training ends, for whatever reason."""


AnyCallback = Callback | Callable[[Run], bool | None]


@dataclass(eq=False)
class EarlyStopping(Callback):
    """Stops when `monitor` was no better than its best by more than `min_delta` for `patience` epochs.

    `mode` is "min" or "max"; by default what is named an accuracy, precision, recall, f1, auc or r2 is to grow, all else to
    fall. With `restore_best` the weights of the best epoch are put back when the training ends, stopped early or not.
    Prechelt, Early Stopping - But When?, Neural Networks: Tricks of the Trade, 1998.
    Raises `ArgumentError` for settings that make no sense and, at the start, for a monitor that is not recorded.

    >>> EarlyStopping(5, monitor="val_accuracy").grows
    True
    """

    patience: int
    monitor: str = "val_loss"
    mode: str | None = None
    min_delta: float = 0.0
    restore_best: bool = True
    best: float = field(default=math.nan, init=False)
    best_epoch: int = field(default=0, init=False)
    _kept: dict[str, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not is_integer(self.patience, least=0):
            raise ArgumentError(
                f"EarlyStopping: patience: expected an integer of at least 0, got {self.patience!r}"
            )
        if self.mode not in (None, "min", "max"):
            raise ArgumentError(f"EarlyStopping: mode: expected 'min' or 'max', got {self.mode!r}")
        if not self.min_delta >= 0:
            raise ArgumentError(
                f"EarlyStopping: min_delta: expected a number of at least 0, got {self.min_delta!r}"
            )

    @property
    def grows(self) -> bool:
        """True where larger is better."""
        return _grows(self.mode, self.monitor)

    def begin(self, run: Run) -> None:
        _check_monitor("EarlyStopping", self.monitor, run)
        self.best, self.best_epoch, self._kept = math.nan, 0, None

    def epoch(self, run: Run) -> bool:
        value = run.history[self.monitor][-1]
        gain = value - self.best if self.grows else self.best - value
        if not math.isnan(value) and (math.isnan(self.best) or gain > self.min_delta):
            self.best, self.best_epoch = value, run.epoch
            self._kept = run.keep() if self.restore_best else None
        return run.epoch - self.best_epoch >= max(1, self.patience)

    def end(self, run: Run) -> None:
        if self._kept is not None:
            run.restore(self._kept)
            self._kept = None


@dataclass(eq=False)
class ReduceOnPlateau(Callback):
    """Multiplies the learning rate by `factor` when `monitor` got no better for more than `patience` epochs.

    Better is by more than `threshold`, of the best value ("rel") or as it is ("abs", `threshold_mode`). After a reduction
    `cooldown` epochs don't count. The rate stays at `min_rate` or above. As torch.optim.lr_scheduler.ReduceLROnPlateau;
    with a schedule it reduces the base of that. Raises `ArgumentError` for settings that make no sense and, at the start,
    for a monitor that is not recorded.

    >>> ReduceOnPlateau(patience=3).monitor
    'val_loss'
    """

    factor: float = 0.1
    patience: int = 10
    monitor: str = "val_loss"
    mode: str | None = None
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_rate: float = 0.0
    eps: float = 1e-8
    best: float = field(default=math.nan, init=False)
    _bad: int = field(default=0, init=False, repr=False)
    _resting: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.factor < 1:
            raise ArgumentError(
                f"ReduceOnPlateau: factor: expected a number from 0 to below 1, got {self.factor!r}"
            )
        for name in ("patience", "cooldown"):
            if not is_integer(getattr(self, name), least=0):
                raise ArgumentError(
                    f"ReduceOnPlateau: {name}: expected an integer of at least 0, got {getattr(self, name)!r}"
                )
        if self.mode not in (None, "min", "max"):
            raise ArgumentError(f"ReduceOnPlateau: mode: expected 'min' or 'max', got {self.mode!r}")
        if self.threshold_mode not in ("rel", "abs"):
            raise ArgumentError(
                f"ReduceOnPlateau: threshold_mode: expected 'rel' or 'abs', got {self.threshold_mode!r}"
            )

    def begin(self, run: Run) -> None:
        _check_monitor("ReduceOnPlateau", self.monitor, run)
        self.best, self._bad, self._resting = math.nan, 0, 0

    def epoch(self, run: Run) -> None:
        value = run.history[self.monitor][-1]
        grows = _grows(self.mode, self.monitor)
        margin = self.threshold * self.best if self.threshold_mode == "rel" else self.threshold
        better = value > self.best + margin if grows else value < self.best - margin
        if (math.isnan(self.best) and not math.isnan(value)) or better:
            self.best, self._bad = value, 0
        else:
            self._bad += 1
        if self._resting:
            self._resting -= 1
            self._bad = 0
        if self._bad > self.patience:
            reduced = max(run.learning_rate * self.factor, self.min_rate)
            if run.learning_rate - reduced > self.eps:
                run.learning_rate = reduced
            self._resting, self._bad = self.cooldown, 0


def _grows(mode: str | None, monitor: str) -> bool:
    """True where larger is better: as the mode says, else as the number is named."""
    return mode == "max" if mode else monitor.endswith(("accuracy", "precision", "recall", "f1", "auc", "r2"))


def _check_monitor(what: str, monitor: str, run: Run) -> None:
    if monitor not in run.names:
        hint = ": pass validation=" if monitor.startswith("val_") else ""
        raise ArgumentError(f"{what}: monitor: expected one of {', '.join(run.names)}, got {monitor!r}{hint}")


class _Bar(Protocol):
    def update(self, n: int) -> object: ...
    def set_postfix_str(self, s: str) -> None: ...
    def close(self) -> None: ...


class Progress:
    """A tqdm bar on a terminal where tqdm is installed, else a plain line an epoch, on standard error.

    >>> Progress(False, epochs=1, steps=1).close()
    """

    def __init__(self, shown: bool, epochs: int, steps: int) -> None:
        self._shown = shown
        self._epochs = epochs
        self._pending = 0
        self.chunk = max(1, steps // 20)  # a bar's update costs as much as a small model's step
        self._bar: _Bar | None = _terminal_bar(epochs * steps) if shown else None

    def steps(self, count: int) -> None:
        """Tells of steps that were done."""
        if self._bar is not None:
            self._pending += count
            if self._pending >= self.chunk:
                self._bar.update(self._pending)
                self._pending = 0

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        """Tells of a completed epoch."""
        if not self._shown:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            print(f"epoch {number}/{self._epochs}  {text}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.update(self._pending)
            self._bar.close()
            self._bar = None


def _terminal_bar(total: int) -> _Bar | None:
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="step")
