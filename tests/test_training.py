"""`fit` against training loops written out in numpy, and what it does with bad data, bad losses and Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphc.callbacks import History
from graphc.data import Batch, Dataset, batch_starts, dataset, split
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError
from graphc.frontend import init, nn, optim
from graphc.frontend.array import Array
from graphc.ir.types import f32, f64
from graphc.training import Callback, DivergedError, EarlyStopping, Run, fit

RNG = np.random.default_rng(11)
X = RNG.normal(size=(22, 3))
Y = X @ RNG.normal(size=(3, 2)) + 0.5


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2, dtype=f64)).init(4)


def train(model: nn.Module, data: object = (X, Y), **settings: object) -> History:
    given: dict[str, object] = {
        "loss": nn.mse, "optimizer": optim.SGD(0.1), "epochs": 3, "batch_size": 8, "progress": False,
        "target": "interpreter",
    }  # fmt: skip
    return fit(model, data, **{**given, **settings})  # type: ignore[arg-type]


def sgd_by_hand(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, orders: list[np.ndarray],
    rows: int = 8, rate: float = 0.1, momentum: float = 0.9,
) -> tuple[np.ndarray, np.ndarray, list[float]]:  # fmt: skip
    """Linear regression by minibatch gradient descent with momentum: weights, bias, mean loss of each epoch."""
    weight, bias = weight.copy(), bias.copy()
    v, u = np.zeros_like(weight), np.zeros_like(bias)
    losses = []
    for order in orders:
        total = 0.0
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            error = x[chosen] @ weight.T + bias - y[chosen]
            total += (error**2).mean() * len(chosen)
            slope = 2 * error / error.size
            v = momentum * v + slope.T @ x[chosen]
            u = momentum * u + slope.sum(0)
            weight, bias = weight - rate * v, bias - rate * u
        losses.append(total / len(order))
    return weight, bias, losses


def orders(seed: int, epochs: int, rows: int) -> list[np.ndarray]:
    generator = init.generator(seed)
    return [generator.permutation(rows) for _ in range(epochs)]


# -- what it computes ---------------------------------------------------------------------------------------------------


def test_fit_takes_the_steps_of_a_loop_written_in_numpy_partial_batch_included() -> None:
    model = linear()
    weight, bias, losses = sgd_by_hand(*model.parameters.values(), X, Y, orders(6, 3, 22))
    history = train(model, optimizer=optim.SGD(0.1, momentum=0.9), seed=6)
    np.testing.assert_allclose(model.parameters["0.weight"], weight, rtol=1e-12)
    np.testing.assert_allclose(model.parameters["0.bias"], bias, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)
    assert history.stopped == "finished" and history.epochs == 3
    assert set(history) == {"loss", "seconds", "us_per_step"} and min(history["us_per_step"]) > 0


def test_the_compiled_target_takes_the_same_steps() -> None:
    model, oracle = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).init(0),
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).init(0),
    )
    for optimizer in (optim.SGD(0.1, momentum=0.9), optim.Adam(0.01, weight_decay=0.01)):
        compiled = train(model, optimizer=optimizer, target="cpu")
        interpreted = train(oracle, optimizer=optimizer)
        np.testing.assert_allclose(compiled["loss"], interpreted["loss"], rtol=1e-5)
        for name, array in oracle.parameters.items():
            np.testing.assert_allclose(model.parameters[name], array, rtol=1e-4, atol=1e-5)


def test_a_model_with_dropout_is_trained_by_its_seed_alone() -> None:
    def trained(seed: int, target: str = "cpu", p: float = 0.3) -> tuple[nn.Sequential, History]:
        model = nn.Sequential(
            nn.Linear(3, 16), nn.Dropout(p), nn.Tanh(), nn.Dropout(p), nn.Linear(16, 2)
        ).init(0)
        return model, train(model, epochs=4, seed=seed, target=target)

    model, history = trained(1)
    again, oracle = trained(1)[0], trained(1, "interpreter")[0]
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)
        np.testing.assert_allclose(oracle.parameters[name], array, rtol=1e-4, atol=1e-5)
        assert (trained(2)[0].parameters[name] != array).any()
    assert history["loss"][0] != trained(1, p=0.0)[1]["loss"][0]
    keys = [n for n in history.step.graph.input_names if "key" in n]  # type: ignore[union-attr]
    assert keys == ["random.key"]
    assert not any("key" in n for n in trained(1, p=0.0)[1].step.graph.input_names)  # type: ignore[union-attr]


def test_every_step_draws_new_masks() -> None:
    """With a rate of 0 the weights stay, so that only the masks can change the loss from epoch to epoch."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).init(0)
    history = train(model, optimizer=optim.SGD(0.0), epochs=5, batch_size=22, target="cpu")
    assert len(set(history["loss"])) == 5


def test_drop_last_leaves_the_partial_batch_out() -> None:
    model = linear()
    weight, _, losses = sgd_by_hand(
        *model.parameters.values(), X, Y, [o[:16] for o in orders(0, 3, 22)], momentum=0.0
    )
    history = train(model, drop_last=True)
    np.testing.assert_allclose(model.parameters["0.weight"], weight, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    def weights(seed: int) -> np.ndarray:
        model = nn.Sequential(nn.Linear(3, 2))
        train(model, seed=seed)
        return model.parameters["0.weight"].copy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()


def test_fit_keeps_weights_that_are_there_and_draws_the_others_from_its_seed() -> None:
    drawn, fresh = nn.Sequential(nn.Linear(3, 2)).init(5), nn.Sequential(nn.Linear(3, 2))
    start = drawn.parameters["0.weight"].copy()
    train(drawn, optimizer=optim.SGD(0.0), seed=9)
    train(fresh, optimizer=optim.SGD(0.0), seed=5)
    np.testing.assert_array_equal(drawn.parameters["0.weight"], start)
    np.testing.assert_array_equal(fresh.parameters["0.weight"], start)


def test_validation_is_the_mean_over_all_rows_after_the_epoch() -> None:
    model = linear()
    held = (X[:5] + 1, Y[:5])
    history = train(model, validation=held, epochs=2)
    w, b = model.parameters.values()
    np.testing.assert_allclose(
        history["val_loss"][-1], ((held[0] @ w.T + b - held[1]) ** 2).mean(), rtol=1e-12
    )
    assert len(history["val_loss"]) == 2


def test_a_fraction_holds_back_rows_that_are_not_trained_on() -> None:
    whole = Dataset(np.arange(20), np.arange(20))
    first, held = split(whole, 0.25, init.generator(3))
    assert sorted([*first.x, *held.x]) == list(range(20)) and len(held) == 5
    np.testing.assert_array_equal(held.x, held.y)
    history = train(linear(), validation=0.25)
    assert len(history["val_loss"]) == 3
    with pytest.raises(ArgumentError, match=r"validation: expected a fraction .*, got 0.01 of 22 rows"):
        train(linear(), validation=0.01)


def test_classification_reports_accuracy() -> None:
    labels = (X[:, 0] > 0).astype(np.int64)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).init(0)
    history = train(
        model, (X, labels), loss=nn.cross_entropy, optimizer=optim.Adam(0.05), epochs=30,
        metrics="accuracy", validation=(X, labels),
    )  # fmt: skip
    assert history["accuracy"][-1] > 0.9 and history["loss"][-1] < 0.5 * history["loss"][0]
    hidden = np.maximum(X @ model.parameters["0.weight"].T + model.parameters["0.bias"], 0)
    logits = hidden @ model.parameters["2.weight"].T + model.parameters["2.bias"]
    np.testing.assert_allclose(history["val_accuracy"][-1], (logits.argmax(1) == labels).mean(), rtol=1e-6)


def test_metrics_of_ones_own_are_recorded() -> None:
    def worst(prediction: Array, target: Array) -> Array:
        return abs(prediction - target).max()

    model = linear()
    history = train(model, metrics={"worst": worst}, optimizer=optim.SGD(0.0), batch_size=22, epochs=1)
    w, b = model.parameters.values()
    np.testing.assert_allclose(history["worst"], [abs(X @ w.T + b - Y).max()], rtol=1e-12)
    with pytest.raises(ArgumentError, match="metrics: expected accuracy or a dict, got 'precision'"):
        train(linear(), metrics="precision")
    with pytest.raises(
        ArgumentError, match="metrics: expected a name that fit does not use itself, got 'loss'"
    ):
        train(linear(), metrics={"loss": worst})
    with pytest.raises(ShapeError, match=r"fit: rows: expected a scalar, got f64\[8,2\]"):
        train(linear(), metrics={"rows": lambda prediction, target: prediction - target})


def test_buffers_are_trained_along() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            self.mean = nn.Buffer(np.zeros(3))
            self.linear = nn.Linear(3, 2, dtype=f64, seed=0)

        def forward(self, *inputs: Array) -> Array:
            (x,) = inputs
            if self.training:
                self.mean = 0.5 * self.mean + 0.5 * x.mean(axis=0)
            return self.linear(x)

    model, expected = Centred(), np.zeros(3)
    train(model, epochs=2, seed=1)
    for order in orders(1, 2, 22):
        for start in range(0, 22, 8):
            expected = 0.5 * expected + 0.5 * X[order[start : start + 8]].mean(0)
    np.testing.assert_allclose(model.buffers["mean"], expected, rtol=1e-12)


# -- callbacks ----------------------------------------------------------------------------------------------------------


class Script(Callback):
    """Replaces the monitored number, to play a given course of a training."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name = name
        self.values = values
        self.weights: list[np.ndarray] = []

    def epoch(self, run: Run) -> None:
        run.history[self.name][-1] = self.values[run.epoch - 1]
        self.weights.append(run.model.parameters["0.weight"].copy())


@pytest.mark.parametrize(
    ("stopping", "name", "values", "epochs", "best"),
    [
        (EarlyStopping(2, monitor="loss"), "loss", [3, 2, 2.5, 2, 9], 4, 2),
        (EarlyStopping(2, monitor="loss", min_delta=0.5), "loss", [3, 2.6, 2.4, 2.4, 2.4], 5, 3),
        (EarlyStopping(1, monitor="accuracy"), "accuracy", [0.1, 0.5, 0.4, 1, 1], 3, 2),
        (EarlyStopping(1, monitor="loss", mode="max"), "loss", [1, 2, 3, 3, 4], 4, 3),
        (EarlyStopping(3, monitor="loss"), "loss", [5, float("nan"), 4, 5, 6], 5, 3),
    ],
)
def test_early_stopping_stops_in_time_and_brings_the_best_weights_back(
    stopping: EarlyStopping, name: str, values: list[float], epochs: int, best: int
) -> None:
    model, script = linear(), Script(name, values)
    history = train(
        model, epochs=5, callbacks=[script, stopping], metrics={"accuracy": lambda p, t: (p - t).mean()}
    )
    assert history.epochs == epochs and stopping.best_epoch == best
    assert history.stopped == ("callback" if epochs - best >= stopping.patience else "finished")
    np.testing.assert_array_equal(model.parameters["0.weight"], script.weights[best - 1])


def test_early_stopping_can_keep_the_last_weights() -> None:
    model, script = linear(), Script("loss", [1, 2, 3, 4, 5])
    train(model, epochs=5, callbacks=[script, EarlyStopping(2, monitor="loss", restore_best=False)])
    np.testing.assert_array_equal(model.parameters["0.weight"], script.weights[2])


def test_early_stopping_says_what_it_can_watch() -> None:
    with pytest.raises(
        ArgumentError, match="monitor: expected one of loss, seconds, us_per_step, got 'val_loss': pass"
    ):
        train(linear(), callbacks=[EarlyStopping(1)])
    with pytest.raises(ArgumentError, match="patience: expected an integer of at least 0, got -1"):
        EarlyStopping(-1)
    with pytest.raises(ArgumentError, match="mode: expected 'min' or 'max', got 'up'"):
        EarlyStopping(1, mode="up")


def test_a_function_is_a_callback_and_may_set_the_learning_rate() -> None:
    model = linear()
    w, b, _ = sgd_by_hand(*model.parameters.values(), X, Y, orders(0, 1, 22), momentum=0.0)
    w, b, _ = sgd_by_hand(w, b, X, Y, orders(0, 2, 22)[1:], momentum=0.0, rate=0.05)

    def halve(run: Run) -> bool:
        run.learning_rate /= 2
        return run.epoch == 2

    history = train(model, callbacks=[halve], epochs=9)
    np.testing.assert_allclose(model.parameters["0.weight"], w, rtol=1e-12)
    assert history.epochs == 2 and history.stopped == "callback"


def test_training_works_on_aligned_copies_and_shows_them_in_the_model_after_each_epoch() -> None:
    model = linear()
    own = dict(model.parameters)
    seen: list[bool] = []

    def watch(run: Run) -> None:
        assert all(array.ctypes.data % 64 == 0 for array in run.params.values())
        assert all(array is own[name] for name, array in model.parameters.items())
        seen.append(all(np.array_equal(own[name], run.params[name]) for name in own))

    train(model, callbacks=[watch], target="cpu")
    assert seen == [True] * 3


def test_ctrl_c_keeps_history_and_the_best_weights() -> None:
    class Interrupt(Callback):
        def epoch(self, run: Run) -> None:
            if run.epoch == 3:
                raise KeyboardInterrupt

    model, script = linear(), Script("loss", [2, 1, 3])
    history = train(model, epochs=9, callbacks=[script, EarlyStopping(9, monitor="loss"), Interrupt()])
    assert history.stopped == "interrupted" and history.epochs == 3
    np.testing.assert_array_equal(model.parameters["0.weight"], script.weights[1])


def test_ctrl_c_within_an_epoch_keeps_the_completed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    gather, calls = Batch.gather, []

    def interrupted(batch: Batch, rows: np.ndarray) -> None:
        calls.append(rows)
        if len(calls) == 5:
            raise KeyboardInterrupt
        gather(batch, rows)

    monkeypatch.setattr(Batch, "gather", interrupted)
    model = linear()
    history = train(model)
    assert history.stopped == "interrupted" and history.epochs == 1 and len(history["loss"]) == 1
    weight, _, _ = sgd_by_hand(
        *linear().parameters.values(),
        X,
        Y,
        [orders(0, 1, 22)[0], orders(0, 2, 22)[1][:8]],
        momentum=0.0,
    )
    np.testing.assert_allclose(model.parameters["0.weight"], weight, rtol=1e-12)


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_loss_that_diverges_stops_at_its_step_with_the_last_good_weights() -> None:
    model = linear()
    with pytest.raises(
        DivergedError, match=r"loss: expected a finite number, got a loss of (inf|nan) in epoch \d+, step"
    ):
        train(model, optimizer=optim.SGD(1e60), epochs=9)
    assert np.isfinite(model.parameters["0.weight"]).all()


def test_weights_of_the_last_good_epoch_come_back() -> None:
    model, seen = linear(), []

    def explode(run: Run) -> None:
        seen.append(run.model.parameters["0.weight"].copy())
        run.learning_rate = 0.1 if run.epoch < 2 else 1e200

    with pytest.raises(DivergedError, match="in epoch 3, step 2"):
        train(model, callbacks=[explode], epochs=5)
    np.testing.assert_array_equal(model.parameters["0.weight"], seen[1])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ((X, Y[:5]), ArgumentError, "data: expected as many targets as inputs, got 5 and 22"),
        ((X[:0], Y[:0]), ArgumentError, r"data: inputs: expected at least one row, got shape \[0, 3\]"),
        (X, ArgumentError, r"data: expected a pair \(inputs, targets\), got ndarray"),
        (
            (np.where(np.arange(22)[:, None] == 7, np.nan, X), Y),
            ArgumentError,
            "data: inputs: .* NaN at row 7",
        ),
        (
            (X, np.where(np.arange(22)[:, None] == 9, np.nan, Y)),
            ArgumentError,
            "data: targets: .* NaN at row 9",
        ),
        ((X.astype(str), Y), DTypeError, "data: inputs: expected an array of numbers, got <U"),
        (
            (X, np.arange(22) * 2**40),
            ArgumentError,
            "data: targets: expected integers that fit i32, got 0 to",
        ),
        (
            (X, np.arange(22) // 8),
            ArgumentError,
            "data: labels: expected integers from 0 to 1, got 2 at row 16",
        ),
        (
            (X, -np.ones(22, int)),
            ArgumentError,
            "data: labels: expected integers from 0 to 1, got -1 at row 0",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_named(data: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        train(linear(), data, loss=nn.cross_entropy)


def test_validation_data_is_checked_too() -> None:
    with pytest.raises(
        ArgumentError, match="validation: labels: expected integers from 0 to 1, got 5 at row 1"
    ):
        train(linear(), (X, np.zeros(22, int)), loss=nn.cross_entropy, validation=(X[:2], np.array([0, 5])))
    with pytest.raises(
        ShapeError, match=r"validation: inputs: expected rows of float64\[3\], got float64\[2\]"
    ):
        train(linear(), validation=(X[:, :2], Y))


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ArgumentError, match="fit: epochs: expected an integer of at least 1, got 0"):
        train(linear(), epochs=0)
    with pytest.raises(ArgumentError, match=r"fit: batch_size: expected an integer of at least 1, got 2.5"):
        train(linear(), batch_size=2.5)
    with pytest.raises(ArgumentError, match=r"fit: expected a model with parameters to train, got ReLU\(\)"):
        train(nn.ReLU())
    with pytest.raises(ArgumentError, match="expected at least one batch of 64 rows, got 22 and drop_last"):
        train(linear(), batch_size=64, drop_last=True)
    with pytest.raises(ShapeError, match=r"fit: loss: expected a scalar, got f64\[8,2\]"):
        train(linear(), loss=lambda p, t: nn.mse(p, t, reduction="none"))


# -- data ---------------------------------------------------------------------------------------------------------------


def test_arrays_are_converted_to_what_models_take() -> None:
    for given, taken in (
        (np.float64, np.float32), (np.float16, np.float32), (np.int64, np.int32), (np.uint16, np.int32),
        (np.uint8, np.uint8), (np.bool_, np.bool_), (">f4", np.float32),
    ):  # fmt: skip
        assert dataset((np.ones((4, 2), given)[::2], np.ones(2)), f32).x.dtype == taken
    x = np.asfortranarray(X)
    assert dataset((x, Y), f64).x.flags.c_contiguous


def test_nan_may_be_allowed() -> None:
    assert np.isnan(dataset((np.array([[np.nan]]), np.ones(1)), f32, allow_nan=True).x).all()


def test_batches_cover_all_rows_once() -> None:
    assert list(batch_starts(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(batch_starts(6, 3)) == [(0, 3), (3, 6)] == list(batch_starts(7, 3, drop_last=True))


# -- what is shown --------------------------------------------------------------------------------------------------------


def test_progress_prints_a_line_an_epoch_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(linear(), epochs=2, progress=True, validation=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("epoch 1/2  loss ") and "val_loss" in lines[1]
    train(linear(), epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(linear(), epochs=2, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_history_plots_to_a_file_or_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(loss=[2.0, 1.0], val_loss=[2.5, 1.5], accuracy=[0.1, 0.9], seconds=[1.0, 1.0])
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    history.plot(tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GraphcError, match=r"pip install graphc\[plot\]"):
        history.plot(tmp_path / "i.png")


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_network_trains_as_pytorchs_does(kind: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).double()
    ours = nn.Sequential(nn.Linear(3, 8, dtype=f64), nn.GELU(), nn.Linear(8, 2, dtype=f64))
    ours.load_state({name: value.numpy() for name, value in theirs.state_dict().items()})
    labels = (X[:, 0] > 0).astype(np.int64)
    peers: dict[str, Callable[[], object]] = {
        "SGD": lambda: torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9),
        "Adam": lambda: torch.optim.Adam(theirs.parameters(), 0.01),
    }
    mine = {"SGD": optim.SGD(0.1, momentum=0.9), "Adam": optim.Adam(0.01)}[kind]
    peer = peers[kind]()
    train(ours, (X, labels), loss=nn.cross_entropy, optimizer=mine, epochs=2, seed=3)
    for order in orders(3, 2, 22):
        for start in range(0, 22, 8):
            chosen = order[start : start + 8]
            peer.zero_grad()  # type: ignore[attr-defined]
            torch.nn.functional.cross_entropy(
                theirs(torch.tensor(X[chosen])), torch.tensor(labels[chosen])
            ).backward()
            peer.step()  # type: ignore[attr-defined]
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.parameters[name], value.numpy(), rtol=1e-10)
