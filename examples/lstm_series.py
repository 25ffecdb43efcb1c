"""Forecasts the yearly number of sunspots by an LSTM, one year and up to ten years ahead, against two baselines.

    python examples/lstm_series.py [--members N] [--epochs N] [--seed N] [--out FOLDER]

Model: an LSTM of 16 units reads the years so far and gives the change to the next year; the mean of a few of them,
trained from different weights, is the forecast. Later years are forecast by feeding forecasts back.
Data: the sunspot numbers of 1700 to 2008 (NOAA's National Geophysical Data Center, public domain), which statsmodels
ships: ``pip install graphc[demo]``. All is fitted to the years up to 1920; what comes later is held out, as in
A. Weigend, B. Huberman and D. Rumelhart, Predicting the Future: A Connectionist Approach, Int. J. Neural Systems 1, 1990.
Forecasts are made of square roots, 2 (√(x + 1) - 1), which grow about as their noise does (Ghaddar and Tong, 1981).
Result: root mean square errors in sunspots for each horizon, of the LSTM, of a linear autoregression of nine years by
least squares, and of the naive forecast "as in the last year". 40 epochs were the best for 1881 to 1920 of a training
that ended in 1880; twice as many learn the noise. A hard one for a network: 221 numbers, and the cycle of 1957 is higher
than all of those that it has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc
from graphc import Array, nn, optim

FIRST, LAST_TRAINED = 1700, 1920
WINDOW = 40  # years that a forecast reads, and a row of the training data
WARM_UP = 10  # years of a window that are read before the loss counts
LAGS = 9  # of the autoregression
HORIZON = 10
SCALE = 10.0  # of the square roots: numbers of a size that gates can use


class Forecaster(nn.Module):
    """The change from each year of a window [N, T, 1] to the next one."""

    def __init__(self, hidden: int = 16) -> None:
        self.rnn = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        y, _ = self.rnn(x)
        return x + self.head(y)

    def ahead(self, x: Array, years: int) -> Array:
        """The forecasts [N, years] for the years after a window: each is read as if it had been seen."""
        y, state = self.rnn(x)

        def step(
            carry: tuple[Array, tuple[Array, Array]], _: None
        ) -> tuple[tuple[Array, tuple[Array, Array]], Array]:
            last, state = carry
            y, state = self.rnn(last, state)
            return (last + self.head(y), state), last[:, 0, 0]

        first = x[:, -1:] + self.head(y[:, -1:])
        _, forecasts = graphc.scan(step, (first, state), length=years)
        return forecasts.T


def loss(prediction: Array, target: Array) -> Array:
    """The mean squared error of the years after the warm-up."""
    return nn.mse(prediction[:, WARM_UP:], target[:, WARM_UP:])


def make_optimizer() -> optim.Optimizer:
    return optim.clip_by_norm(optim.AdamW(3e-3, weight_decay=0.1), 1.0)


def load_series() -> np.ndarray:
    """The numbers of all years from 1700 on."""
    from statsmodels.datasets import sunspots  # takes seconds, so --help does without it

    return sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(dtype=np.float64)


def transform(numbers: np.ndarray) -> np.ndarray:
    return 2 * (np.sqrt(numbers + 1) - 1) / SCALE


def restore(values: np.ndarray) -> np.ndarray:
    """The inverse; a forecast below zero is none."""
    return (np.maximum(values, 0) * SCALE / 2 + 1) ** 2 - 1


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """[rows, length, 1]: every stretch of so many years."""
    return np.lib.stride_tricks.sliding_window_view(values, length)[:, :, None].astype(np.float32)


def train(values: np.ndarray, epochs: int, seed: int) -> tuple[Forecaster, graphc.History]:
    """One LSTM, trained on all windows of the years given."""
    rows = windows(values, WINDOW + 1)
    model = Forecaster()
    history = graphc.fit(
        model,
        (rows[:, :-1], rows[:, 1:]),
        loss=loss,
        optimizer=make_optimizer(),
        epochs=epochs,
        batch_size=32,
        schedule=optim.schedules.Cosine(epochs),
        seed=seed,
        progress=False,
    )
    return model, history


def autoregression(values: np.ndarray) -> np.ndarray:
    """The coefficients of the last LAGS years, the latest one first, then a constant."""
    rows = np.lib.stride_tricks.sliding_window_view(values, LAGS + 1)
    matrix = np.column_stack([rows[:, -2::-1], np.ones(len(rows))])
    return np.linalg.lstsq(matrix, rows[:, -1], rcond=None)[0]


def forecast_linear(coefficients: np.ndarray, read: np.ndarray) -> np.ndarray:
    """[N, HORIZON] of windows [N, T]."""
    years = [*read.T]
    for _ in range(HORIZON):
        lags = np.stack(years[: -LAGS - 1 : -1], axis=1)
        years.append(lags @ coefficients[:-1] + coefficients[-1])
    return np.stack(years[-HORIZON:], axis=1)


def forecast_lstm(members: list[Forecaster], read: np.ndarray) -> np.ndarray:
    """[N, HORIZON] of windows [N, T], the mean over the members."""
    x = read[:, :, None].astype(np.float32)
    each = [graphc.compile(lambda x, m=m: m.ahead(x, HORIZON), x)(x) for m in members]
    return np.mean(each, axis=0)


def errors(forecasts: np.ndarray, numbers: np.ndarray) -> list[float]:
    """The root mean square error of each horizon; row 0 forecasts the years from the first of these numbers on."""
    result = []
    for ahead in range(HORIZON):
        seen = numbers[ahead:]
        result.append(float(np.sqrt(np.mean((restore(forecasts[: len(seen), ahead]) - seen) ** 2))))
    return result


def plot(
    numbers: np.ndarray,
    first: int,
    forecasts: dict[str, np.ndarray],
    found: dict[str, list[float]],
    path: Path,
) -> None:
    """Above the years held out and their forecasts; below errors by horizon, and one forecast of ten years."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 10,
             "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8}  # fmt: skip
    colors = {"LSTM": "#c2410c", "autoregression": "#2563eb", "last year": "#8a8a8a"}
    years = FIRST + np.arange(len(numbers))
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplot_mosaic("aa;bc", figsize=(9, 5.6), layout="constrained")
        axis = axes["a"]
        axis.plot(years[first - 40 :], numbers[first - 40 :], color="#b0b0b0", linewidth=3, label="observed")
        for name in ("autoregression", "LSTM"):
            axis.plot(
                years[first:], restore(forecasts[name][:, 0]), color=colors[name], linewidth=1.3, label=name
            )
        axis.axvline(LAST_TRAINED + 0.5, color="#606060", linewidth=0.8, linestyle="--")
        axis.text(LAST_TRAINED + 1.5, 205, "held out", color="#606060", fontsize=8, va="top")
        axis.set(title="One year ahead", ylabel="sunspots", ylim=(-3, 220))
        axis.set_xlim(years[first - 40], years[-1] + 1)
        axis.legend(ncols=3, loc="upper right")
        axis = axes["b"]
        for name, values in found.items():
            axis.plot(range(1, HORIZON + 1), values, "o-", color=colors[name], markersize=3.5, label=name)
        axis.set(title="Errors of the years held out", xlabel="years ahead")
        axis.set(ylabel="root mean square error", ylim=(0, None), xticks=range(1, HORIZON + 1))
        axis.legend()
        axis, origin = axes["c"], 1976 - FIRST  # the year after the minimum before one of the highest cycles
        shown = slice(origin - 15, origin + HORIZON)
        axis.plot(years[shown], numbers[shown], color="#b0b0b0", linewidth=3, label="observed")
        for name in ("last year", "autoregression", "LSTM"):
            values = restore(forecasts[name][origin - first])
            axis.plot(
                years[origin : origin + HORIZON],
                values,
                "o-",
                color=colors[name],
                markersize=3,
                linewidth=1.3,
            )
        axis.axvline(years[origin] - 0.5, color="#606060", linewidth=0.8, linestyle="--")
        axis.set(title=f"Ten years, forecast in {years[origin] - 1}", ylabel="sunspots", ylim=(-3, 170))
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Forecast sunspots by an LSTM.")
    parser.add_argument("--members", type=int, default=10, help="LSTMs whose mean is taken (default: 10)")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the windows (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    numbers = load_series()
    values = transform(numbers)
    first = LAST_TRAINED + 1 - FIRST
    print(f"sunspots of {FIRST} to {FIRST + len(numbers) - 1}, fitted to the years up to {LAST_TRAINED}")
    members = []
    for number in range(options.members):
        model, history = train(values[:first], options.epochs, options.seed + number)
        members.append(model)
        print(
            f"LSTM {number + 1}: loss {history['loss'][0]:.4f} -> {history['loss'][-1]:.4f}, "
            f"{np.median(history['us_per_step']):.0f} us a step"
        )
    read = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[first - WINDOW : -1]
    forecasts = {
        "last year": np.repeat(read[:, -1:], HORIZON, axis=1),
        "autoregression": forecast_linear(autoregression(values[:first]), read),
        "LSTM": forecast_lstm(members, read),
    }
    found: dict[str, list[float]] = {}
    for last in (1955, FIRST + len(numbers) - 1):  # all years last, which the plot shows
        found = {name: errors(f, numbers[first : last + 1 - FIRST]) for name, f in forecasts.items()}
        print(f"root mean square error of {LAST_TRAINED + 1} to {last}, by years ahead")
        print(f"{'':15}" + "".join(f"{ahead:6d}" for ahead in range(1, HORIZON + 1)))
        for name, row in found.items():
            print(f"{name:15}" + "".join(f"{value:6.1f}" for value in row))
    plot(numbers, first, forecasts, found, options.out / "lstm_series.png")


if __name__ == "__main__":
    main()
