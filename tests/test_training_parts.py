"""`fit` with schedules, accumulation, averages, checkpoints, frozen and shared weights, several inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import metrics, nn, optim
from graphc.callbacks import Callback, EarlyStopping, History, ReduceOnPlateau, Run
from graphc.errors import ArgumentError, ArtifactError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.optim import schedules
from graphc.ir.types import f32, f64, i32

RNG = np.random.default_rng(11)
X = RNG.normal(size=(24, 3))
Y = X @ RNG.normal(size=(3, 2)) + 0.5
LABELS = (X[:, 0] > 0).astype(np.int64)


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2, dtype=f64)).init(4)


def train(model: nn.Module, data: object = (X, Y), **settings: object) -> History:
    given: dict[str, object] = {
        "loss": nn.mse, "optimizer": optim.SGD(0.1), "epochs": 3, "batch_size": 8, "progress": False,
        "target": "interpreter",
    }  # fmt: skip
    return graphc.fit(model, data, **{**given, **settings})  # type: ignore[arg-type]


class Watch(Callback):
    """Keeps the weights of each epoch."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []

    def epoch(self, run: Run) -> None:
        self.weights.append(run.model.parameters["0.weight"].copy())


# -- rates --------------------------------------------------------------------------------------------------------------


def test_a_schedule_sets_the_rate_of_each_epoch_and_nothing_is_compiled_anew() -> None:
    scheduled, by_hand = linear(), linear()
    history = train(scheduled, schedule=schedules.Exponential(0.5))

    def halve(run: Run) -> None:
        run.learning_rate /= 2

    train(by_hand, callbacks=[halve])
    np.testing.assert_array_equal(scheduled.parameters["0.weight"], by_hand.parameters["0.weight"])
    assert history["learning_rate"] == [0.1, 0.05, 0.025]


def test_by_step_counts_the_optimisers_steps() -> None:
    seen: list[int] = []

    def course(base: float, count: int) -> float:
        seen.append(count)
        return base

    train(linear(), schedule=schedules.by_step(course), epochs=2)
    assert seen == [0, 1, 2, 3, 4, 5]
    seen.clear()
    train(linear(), schedule=schedules.by_step(course), epochs=2, batch_size=4, accumulate=3)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_plateau_reduces_the_base_of_a_schedule() -> None:
    history = train(
        linear(), epochs=6, optimizer=optim.SGD(0.1), schedule=schedules.Constant(0.5, 100),
        callbacks=[ReduceOnPlateau(0.5, 0, monitor="loss", threshold=10.0)],
    )  # fmt: skip
    assert history["learning_rate"] == [0.05, 0.05, 0.025, 0.0125, 0.00625, 0.003125]
    with pytest.raises(
        ArgumentError, match=r"ReduceOnPlateau: monitor: expected one of loss, .*got 'val_loss': pass"
    ):
        train(linear(), callbacks=[ReduceOnPlateau()])


# -- steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_accumulating_micro_batches_is_training_on_large_ones(target: str) -> None:
    small, large = linear(), linear()
    optimizer = optim.Adam(0.01)
    train(small, batch_size=4, accumulate=3, optimizer=optimizer, seed=5, target=target)
    train(large, batch_size=12, optimizer=optimizer, seed=5)
    np.testing.assert_allclose(small.parameters["0.weight"], large.parameters["0.weight"], rtol=1e-10)
    with pytest.raises(ArgumentError, match=r"fit: accumulate: expected an integer of at least 1, got 0"):
        train(linear(), accumulate=0)


def test_averaged_weights_are_evaluated_and_end_in_the_model() -> None:
    model, plain, watch = linear(), linear(), Watch()
    history = train(model, optimizer=optim.ema(optim.SGD(0.1), 0.5), batch_size=24, validation=(X, Y))
    train(plain, batch_size=24, callbacks=[watch])
    average = linear().parameters["0.weight"].copy()
    for weight in watch.weights:
        average = 0.5 * average + 0.5 * weight
    np.testing.assert_allclose(model.parameters["0.weight"], average, rtol=1e-12)
    w, b = model.parameters.values()
    np.testing.assert_allclose(history["val_loss"][-1], ((X @ w.T + b - Y) ** 2).mean(), rtol=1e-12)


def test_early_stopping_brings_back_the_best_averages() -> None:
    class Script(Callback):
        def epoch(self, run: Run) -> None:
            run.history["loss"][-1] = [3, 1, 2, 2][run.epoch - 1]

    watch = Watch()
    model = linear()
    train(
        model, epochs=4, optimizer=optim.ema(optim.SGD(0.1), 0.9),
        callbacks=[Script(), watch, EarlyStopping(9, monitor="loss")],
    )  # fmt: skip
    np.testing.assert_array_equal(model.parameters["0.weight"], watch.weights[1])


# -- checkpoints --------------------------------------------------------------------------------------------------------


def dropping() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2)).init(1)


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, target: str) -> None:
    pytest.importorskip("safetensors")
    file = tmp_path / "run.safetensors"
    given = {
        "optimizer": optim.ema(optim.clip_by_norm(optim.Adam(0.01), 1.0)), "seed": 3, "target": target, "batch_size": 5,
        "schedule": schedules.by_step(schedules.Cosine(40)), "validation": 0.25, "accumulate": 2,
    }  # fmt: skip
    whole, first, second = dropping(), dropping(), nn.Sequential(*dropping())
    history = train(whole, epochs=6, **given)
    train(first, epochs=4, callbacks=[graphc.Checkpoint(file, every=2)], **given)
    later = train(second, epochs=6, resume=file, **given)
    assert (
        later.epochs == 2
        and later["loss"] == history["loss"][4:]
        and later["val_loss"] == history["val_loss"][4:]
    )
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(second.parameters[name], value)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    file = tmp_path / "run.safetensors"
    train(linear(), callbacks=[graphc.Checkpoint(file)], optimizer=optim.SGD(0.1, momentum=0.9))
    model = linear()
    before = model.parameters["0.weight"].copy()
    with pytest.raises(
        ArtifactError, match=r"resume: .*missing state.step, state.exp_avg.0.weight.*unknown state.mom"
    ):
        train(model, optimizer=optim.Adam(), resume=file)
    with pytest.raises(ArtifactError, match=r"params.0.weight: expected f64\[2,4\], got f64\[2,3\]"):
        wide = nn.Sequential(nn.Linear(4, 2, dtype=f64))
        train(wide, (RNG.normal(size=(8, 4)), Y[:8]), optimizer=optim.SGD(0.1, momentum=0.9), resume=file)
    np.testing.assert_array_equal(model.parameters["0.weight"], before)
    with pytest.raises(ArgumentError, match=r"Checkpoint: every: expected an integer of at least 1, got 0"):
        graphc.Checkpoint(file, every=0)


# -- frozen weights -----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 2)

    def forward(self, *inputs: Array) -> Array:
        return self.head(self.trunk(*inputs))


def test_frozen_parts_have_no_backward_code_and_no_state() -> None:
    free, frozen = Net().init(0), Net().init(0).freeze("trunk.*")
    given = {"loss": nn.cross_entropy, "optimizer": optim.Adam(0.01), "target": "cpu"}
    start = {name: value.copy() for name, value in frozen.parameters.items()}
    step = train(frozen, (X, LABELS), **given).step
    whole = train(free, (X, LABELS), **given).step
    assert step is not None and whole is not None
    contractions = [sum(n.op.name == "contract" for n in s.graph.nodes) for s in (step, whole)]
    assert contractions == [4, 8]  # three forwards and one weight gradient, against 3 + 3 + 2 cotangents
    assert len(step.plan.steps) < len(whole.plan.steps) - 4 and len(step.kernels) < len(whole.kernels)
    assert not [n for n in step.graph.input_names if n.startswith("state") and "trunk" in n]
    assert not any(
        type(s).__name__ == "CopyStep" for s in step.plan.steps
    )  # frozen weights are not even copied
    for name, value in frozen.parameters.items():
        assert (value == start[name]).all() == name.startswith("trunk")


def test_freezing_changes_no_call_and_can_be_undone() -> None:
    model = Net().init(0)
    before, graph = model(X.astype(np.float32)), graphc.trace(model, f32[4, 3])
    model.freeze()
    np.testing.assert_array_equal(model(X.astype(np.float32)), before)
    assert graphc.trace(model, f32[4, 3]) == graph
    assert graphc.trace(model, f32[4, 3]).input_names == graph.input_names
    with pytest.raises(
        ArgumentError, match=r"fit: expected a model with parameters to train, got one with all of them fr"
    ):
        train(model, (X, LABELS), loss=nn.cross_entropy)
    model.unfreeze("head.*")
    start = model.parameters["head.weight"].copy()
    train(model, (X, LABELS), loss=nn.cross_entropy)
    assert (model.parameters["head.weight"] != start).any()
    with pytest.raises(
        ArgumentError,
        match=r"test_training_parts.py:\d+: freeze: expected a pattern of a parameter's name, got 'body.\*' for trunk.0.w",
    ):
        model.freeze("body.*")


def test_exported_steps_of_frozen_models_keep_the_arguments_of_predict() -> None:
    given = (nn.cross_entropy, optim.SGD(0.1, momentum=0.9), (f32[8, 3], i32[8]))
    free, frozen = (graphc.training_entries(m, *given) for m in (Net(), Net().freeze("trunk.*")))
    types = [list(entries["predict"].specs[0]) for entries in (free, frozen)]  # type: ignore[call-overload]
    assert types[0] == types[1]
    assert list(frozen["train_step"].specs[2]) == ["momentum.head.weight", "momentum.head.bias"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "optimizer", [optim.ema(optim.SGD(0.1)), optim.LBFGS(), optim.groups({"0.*": optim.ema(optim.SGD(0.1))})]
)
def test_exported_first_states_hold_the_drawn_weights_where_they_are_copies(
    optimizer: optim.Optimizer,
) -> None:
    entries = graphc.training_entries(linear(), nn.mse, optimizer, (graphc.f64[8, 3], graphc.f64[8, 2]))
    first = graphc.compile(entries["init"].function, np.int64(3))(np.int64(3))
    weight = first["params"]["0.weight"]  # type: ignore[call-overload,index]
    copies = [a for n, a in first["state"].items() if n.endswith(("ema.0.weight", "accepted.0.weight"))]  # type: ignore[call-overload,index]
    assert len(copies) == 1 and weight.any()
    np.testing.assert_array_equal(copies[0], weight)
    step = entries["train_step"]
    given = [first["params"], first["buffers"], first["state"], {}, np.float64(0.1), X[:8], Y[:8]]  # type: ignore[call-overload,index]
    new = graphc.compile(step.function, *step.specs)(*given)
    assert (new["params"]["0.weight"] != weight).any()  # type: ignore[call-overload,index]


def test_some_weights_are_loaded_and_the_rest_reported(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    source, model = Net().init(1), Net().init(2)
    stored = {n.replace("trunk", "backbone"): a for n, a in source.parameters.items() if "head" not in n}
    graphc.save_weights({**stored, "classifier.weight": np.zeros(3)}, tmp_path / "w")
    head = model.parameters["head.weight"].copy()
    found = graphc.load_weights(model, tmp_path / "w", strict=False, rename={"backbone.": "trunk."})
    assert found.missing == ("head.weight", "head.bias") and found.unexpected == ("classifier.weight",)
    assert found.loaded == ("trunk.0.bias", "trunk.0.weight", "trunk.2.bias", "trunk.2.weight")
    np.testing.assert_array_equal(model.parameters["trunk.2.weight"], source.parameters["trunk.2.weight"])
    np.testing.assert_array_equal(model.parameters["head.weight"], head)
    with pytest.raises(ArtifactError, match=r"w: missing head.weight, head.bias; unknown classifier.weight"):
        graphc.load_weights(model, tmp_path / "w", rename={"backbone.": "trunk."})
    with pytest.raises(ArtifactError, match=r"w: no name of the model's: trunk.0.weight"):
        graphc.load_weights(model, tmp_path / "w", strict=False)
    graphc.save_weights({"head.weight": np.zeros(3, np.float32)}, tmp_path / "v")
    with pytest.raises(ArtifactError, match=r"v: head.weight: expected f32\[2,8\], got float32\[3\]"):
        graphc.load_weights(model, tmp_path / "v", strict=False)


# -- shared weights -----------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        self.encoder = nn.Linear(3, 2, bias=False, dtype=f64)
        self.decoder = nn.Linear(3, 2, bias=False, dtype=f64)
        self.decoder.weight = self.encoder.weight

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return self.decoder(graphc.tanh(self.encoder(x)) @ self.encoder.weight)


def test_a_weight_used_twice_is_one_whose_gradient_is_summed_in_one_place() -> None:
    model = Tied().init(0)
    assert list(model.parameters) == ["encoder.weight"] and model.aliases == {
        "decoder.weight": "encoder.weight"
    }
    assert model.decoder.weight is model.encoder.weight
    w = model.parameters["encoder.weight"].copy()
    graph = train(model, batch_size=24, epochs=1, optimizer=optim.SGD(0.1)).step.graph  # type: ignore[union-attr]
    assert [n for n in graph.input_names if n.startswith("params")] == ["params.encoder.weight"]

    def loss(w: np.ndarray) -> float:
        return float(((np.tanh(X @ w.T) @ w @ w.T - Y) ** 2).mean())

    slope = np.zeros_like(w)
    for place in np.ndindex(w.shape):
        shift = np.zeros_like(w)
        shift[place] = 1e-5
        slope[place] = (loss(w + shift) - loss(w - shift)) / 2e-5
    np.testing.assert_allclose(model.parameters["encoder.weight"], w - 0.1 * slope, rtol=1e-8)


def test_a_state_with_both_names_of_a_shared_weight_loads() -> None:
    model, w = Tied(), RNG.normal(size=(2, 3))
    for state in ({"encoder.weight": w, "decoder.weight": w}, {"decoder.weight": w}, {"encoder.weight": w}):
        np.testing.assert_array_equal(model.init(0).load_state(state).parameters["encoder.weight"], w)
    with pytest.raises(ArgumentError, match=r"load_state: unknown decoder.weight"):
        model.load_state({"encoder.weight": w, "decoder.weight": w + 1})


def test_values_that_are_no_parameters_own_are_copied_on_assignment() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    second.weight = first.weight.copy()
    assert second.weight is not first.weight
    np.testing.assert_array_equal(second.weight, first.weight)


# -- several inputs and outputs -----------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        self.body = nn.Linear(3, 8)
        self.digit = nn.Linear(8, 3)
        self.parity = nn.Linear(8, 1)

    def forward(self, *inputs: Array) -> Array:
        hidden = graphc.tanh(self.body(*inputs))
        return {"digit": self.digit(hidden), "parity": self.parity(hidden)[:, 0]}  # type: ignore[return-value]


DIGITS, PARITY = RNG.integers(0, 3, 24), RNG.integers(0, 2, 24)
TARGETS = {"digit": DIGITS, "parity": PARITY}
BOTH = nn.weighted({"digit": nn.cross_entropy, "parity": (nn.binary_cross_entropy_with_logits, 0.5)})


def test_a_model_with_two_outputs_learns_both() -> None:
    model = TwoHeads().init(0)
    history = train(
        model, (X, TARGETS), loss=BOTH, optimizer=optim.Adam(0.05), epochs=60, validation=(X, TARGETS),
        metrics={"digit": "accuracy", "parity": "accuracy", "f1": metrics.Of("digit", metrics.F1())},
    )  # fmt: skip
    assert {"digit_accuracy", "parity_accuracy", "val_digit_accuracy"} <= set(history)
    assert history["digit_accuracy"][-1] > 0.7 and history["loss"][-1] < 0.7 * history["loss"][0]
    out = model(X)
    assert history["val_f1"][-1] == metrics.f1(out["digit"], DIGITS)  # type: ignore[index]
    assert {n: a.shape for n, a in out.items()} == {"digit": (24, 3), "parity": (24,)}  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        history["val_digit_accuracy"][-1],
        (out["digit"].argmax(1) == DIGITS).mean(),
        rtol=1e-6,  # type: ignore[index]
    )


def test_an_exported_step_takes_nests_of_targets_as_fit_does() -> None:
    x, y = X.astype(np.float32), {"digit": DIGITS.astype(np.int32), "parity": PARITY.astype(np.float32)}
    model = TwoHeads().init(0)
    entries = graphc.training_entries(model, BOTH, optim.SGD(0.1), (x, y))
    step = entries["train_step"]
    assert graphc.trace(step.function, *step.specs).input_names[-3:] == ("x", "y.digit", "y.parity")
    new = graphc.compile(step.function, *step.specs)(model.parameters, {}, {}, {}, np.float32(0.1), x, y)
    history = train(model, (x, y), loss=BOTH, optimizer=optim.SGD(0.1), epochs=1, batch_size=len(x))
    np.testing.assert_allclose(new["loss"], history["loss"][0], rtol=1e-6)  # type: ignore[call-overload]
    for name, value in model.parameters.items():
        np.testing.assert_allclose(new["params"][name], value, rtol=1e-5, atol=1e-7)  # type: ignore[index,call-overload]
    for wrong in ({}, {"digit": "int"}):
        with pytest.raises(
            ArgumentError, match=r"training_entries: batch: expected the types of inputs and targets"
        ):
            graphc.training_entries(model, BOTH, optim.SGD(0.1), (x, wrong))


def test_labels_are_checked_output_by_output() -> None:
    bad = {**TARGETS, "digit": np.where(np.arange(24) == 5, 3, DIGITS)}
    with pytest.raises(
        ArgumentError, match=r"data: targets.digit: labels: expected integers from 0 to 2, got 3 at row 5"
    ):
        train(TwoHeads(), (X, bad), loss=BOTH)
    with pytest.raises(
        ArgumentError, match=r"data: expected as many rows in targets.parity as in the first, got 5 and 24"
    ):
        train(TwoHeads(), (X, {**TARGETS, "parity": PARITY[:5]}), loss=BOTH)
    with pytest.raises(ArgumentError, match=r"weighted: expected a target with 'parity', got digit"):
        train(TwoHeads(), (X, {"digit": DIGITS}), loss=BOTH)
    with pytest.raises(
        ShapeError, match=r"validation: expected inputs, targets.digit, targets.parity, got inputs, targets$"
    ):
        train(TwoHeads(), (X, TARGETS), loss=BOTH, validation=(X, DIGITS))
    with pytest.raises(
        ArgumentError, match=r"fit: metrics: size: expected an output and targets of this name, got digit"
    ):
        train(TwoHeads(), (X, TARGETS), loss=BOTH, metrics={"size": "accuracy"})


def test_labels_of_sequences_are_checked_with_their_place_and_what_is_ignored_passes() -> None:
    x, labels = RNG.normal(size=(6, 4, 3)), RNG.integers(0, 2, (6, 4))
    labels[2, 1] = -100
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(
        ArgumentError, match=r"labels: expected integers from 0 to 1, got -100 at row 2, place \[1\]"
    ):
        train(model, (x, labels), loss=nn.cross_entropy)
    history = train(model, (x, labels), loss=lambda p, t: nn.cross_entropy(p, t, ignore_index=-100))
    assert np.isfinite(history["loss"]).all()


class Siamese(nn.Module):
    def __init__(self) -> None:
        self.embed = nn.Linear(3, 4)

    def forward(self, *inputs: Array) -> Array:
        left, right = inputs
        return ((self.embed(left) - self.embed(right)) ** 2).sum(axis=-1)


class Named(Siamese):
    def forward(self, *inputs: Array) -> Array:
        (pair,) = inputs
        return super().forward(pair["left"], pair["right"])  # type: ignore[call-overload]


def test_tuples_of_inputs_are_arguments_and_dicts_are_one() -> None:
    left, right, target = X, X[::-1], RNG.uniform(size=24)
    first, second = Siamese().init(0), Named().init(0)
    train(first, ((left, right), target), epochs=2, optimizer=optim.SGD(0.01))
    train(second, ({"left": left, "right": right}, target), epochs=2, target="cpu", optimizer=optim.SGD(0.01))
    for name, value in first.parameters.items():
        np.testing.assert_allclose(second.parameters[name], value, rtol=1e-4, atol=1e-6)
    distances = first(left, right)
    np.testing.assert_allclose(second({"left": left, "right": right}), distances, rtol=1e-3)  # type: ignore[arg-type]
    w = first.parameters["embed.weight"]
    np.testing.assert_allclose(distances, (((left - right) @ w.T) ** 2).sum(1), rtol=1e-4)


# -- metrics ------------------------------------------------------------------------------------------------------------


def test_metrics_over_the_whole_validation_set_are_not_means_over_batches() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).init(0)
    held = (RNG.normal(size=(22, 3)), RNG.integers(0, 2, 22))
    chosen = {"f1": metrics.F1(), "auc": metrics.ROCAUC(), "accuracy": "accuracy"}
    history = train(model, (X, LABELS), loss=nn.cross_entropy, validation=held, metrics=chosen, target="cpu")
    logits = model(held[0])
    assert set(history) == {
        "loss", "accuracy", "val_loss", "val_accuracy", "val_f1", "val_auc", "seconds", "us_per_step",
    }  # fmt: skip
    assert history["val_f1"][-1] == metrics.f1(logits, held[1])
    np.testing.assert_allclose(history["val_auc"][-1], metrics.roc_auc(logits, held[1]), rtol=1e-12)
    stopping = EarlyStopping(2, monitor="val_auc", mode="max")
    train(model, (X, LABELS), loss=nn.cross_entropy, validation=held, metrics=chosen, callbacks=[stopping])
    with pytest.raises(ArgumentError, match=r"fit: metrics: expected validation data for f1, got none"):
        train(model, (X, LABELS), loss=nn.cross_entropy, metrics={"f1": metrics.F1()})


def test_classes_in_the_place_of_objects_are_named() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"optimizer": optim.Adam}, "fit: optimizer: expected an object of graphc.optim, got <class"),
        ({"schedule": schedules.Cosine}, "fit: schedule: expected an object of graphc.optim, got <class"),
        ({"schedule": 0.1}, "fit: schedule: expected an object of graphc.optim, got 0.1"),
        (
            {"metrics": {"f1": metrics.F1}, "validation": 0.5},
            r"fit: metrics: f1: expected a metric, as F1\(\), got the class",
        ),
        (
            {"optimizer": optim.clip_by_norm(optim.LBFGS(), 1.0)},
            "batch_size: expected all 24 rows in one batch",
        ),
        (
            {"optimizer": optim.groups({"0.*": optim.LBFGS()})},
            "batch_size: expected all 24 rows in one batch",
        ),
    ]
    for settings, text in cases:
        with pytest.raises(ArgumentError, match=text):
            train(linear(), **settings)
    with pytest.raises(ArgumentError, match="load_weights: expected a path besides the model, got none"):
        graphc.load_weights(linear())  # type: ignore[call-overload]
