"""Modules and layers: values against numpy, names, initial values, calls inside and outside of traces."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import ArgumentError, ShapeError, TraceError
from graphc.frontend import init, nn, random
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f32, f64, i32
from graphc.transforms import grad

RNG = np.random.default_rng(7)


def run(function: Callable[..., object], *args: object) -> list[np.ndarray]:
    return interpret(trace(function, *args), [np.asarray(a) for a in flatten(args)[0]])


def forward(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """The model's output by the interpreter."""
    return run(lambda params, state, x: model.apply(params, state, x)[0], model.parameters, model.buffers, x)[
        0
    ]


class Residual(nn.Module):
    """Parameters of its own, and modules in a list and in a dict."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.float32([2.0]))
        self.layers = [nn.Linear(3, 3), nn.Tanh()]
        self.heads = {"out": nn.Linear(3, 2)}

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        for layer in self.layers:
            x = x + layer(x) * self.scale
        return self.heads["out"](x)


class Mean(nn.Module):
    """Keeps a running mean of its inputs when it trains."""

    def __init__(self) -> None:
        self.mean = nn.Buffer(np.float64([0.0, 0.0]))

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(axis=0)
        return x - self.mean


# -- values -------------------------------------------------------------------------------------------------------


def test_linear_is_x_times_weight_transposed_plus_bias() -> None:
    layer = nn.Linear(5, 3, dtype=f64, seed=1)
    x = RNG.normal(size=(4, 5))
    expected = x @ layer.parameters["weight"].T + layer.parameters["bias"]
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-14)
    np.testing.assert_allclose(forward(layer, x[0]), expected[0], rtol=1e-14)
    np.testing.assert_allclose(forward(layer, x.reshape(2, 2, 5)), expected.reshape(2, 2, 3), rtol=1e-14)
    plain = nn.Linear(5, 3, bias=False, dtype=f64, seed=1)
    np.testing.assert_allclose(forward(plain, x), x @ plain.parameters["weight"].T, rtol=1e-14)


def test_linear_takes_integer_inputs_in_its_own_type() -> None:
    layer = nn.Linear(2, 2, seed=0)
    y = forward(layer, np.array([[1, 255]], np.uint8))
    assert y.dtype == np.float32
    np.testing.assert_allclose(
        y, [[1, 255]] @ layer.parameters["weight"].T + layer.parameters["bias"], rtol=1e-6
    )


def test_flatten_joins_dimensions() -> None:
    x = RNG.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(forward(nn.Flatten(), x), x.reshape(2, 60))
    np.testing.assert_array_equal(forward(nn.Flatten(1, 2), x), x.reshape(2, 12, 5))
    np.testing.assert_array_equal(forward(nn.Flatten(0), x), x.reshape(-1))


ERF = np.vectorize(math.erf)
ACTIVATIONS: list[tuple[nn.Module, Callable[[np.ndarray], np.ndarray]]] = [
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.LeakyReLU(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    (nn.Tanh(), np.tanh),
    (nn.Softplus(), lambda x: np.logaddexp(x, 0)),
    (nn.GELU(), lambda x: x * 0.5 * (1 + ERF(x / np.sqrt(2)))),
    (nn.GELU("tanh"), lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    (nn.ELU(), lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)),
    (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * (np.exp(np.minimum(x, 0)) - 1))),
    (
        nn.SELU(),
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    ),
    (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    (nn.Mish(), lambda x: x * np.tanh(np.log(1 + np.exp(x)))),
    (nn.Hardtanh(), lambda x: np.clip(x, -1, 1)),
    (nn.Hardtanh(-2, 0.5), lambda x: np.clip(x, -2, 0.5)),
    (nn.Hardsigmoid(), lambda x: np.clip((x + 3) / 6, 0, 1)),
    (nn.Hardswish(), lambda x: x * np.clip((x + 3) / 6, 0, 1)),
    (nn.PReLU(init=0.2), lambda x: np.where(x > 0, x, np.float32(0.2) * x)),
    (nn.Softmax(-1), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    (nn.LogSoftmax(1), lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))),
]


@pytest.mark.parametrize(
    ("layer", "expected"), ACTIVATIONS, ids=lambda v: repr(v) if isinstance(v, nn.Module) else ""
)
def test_activations_and_their_derivatives(
    layer: nn.Module, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = RNG.normal(0, 2, (4, 5))
    np.testing.assert_allclose(forward(layer, x), expected(x), rtol=1e-13, atol=1e-15)
    weights, direction = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
    (gradient,) = run(grad(lambda x: (layer.apply(dict(layer.parameters), {}, x)[0] * weights).sum()), x)
    h = 1e-6
    slope = ((expected(x + h * direction) - expected(x - h * direction)) * weights).sum() / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


def test_activations_at_zero_infinity_and_nan() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 0.0])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(forward(nn.ReLU(), x), np.float32([np.nan, np.inf, 0, 0]))
        np.testing.assert_array_equal(forward(nn.LeakyReLU(0.5), x), np.float32([np.nan, np.inf, -np.inf, 0]))
        np.testing.assert_allclose(forward(nn.Softplus(), x), [np.nan, np.inf, 0, math.log(2)], rtol=1e-6)
        np.testing.assert_array_equal(forward(nn.Sigmoid(), x), np.float32([np.nan, 1, 0, 0.5]))
    big = np.float32([[1e4, -1e4, 1e4]])
    np.testing.assert_allclose(forward(nn.Softmax(), big), [[0.5, 0, 0.5]])
    np.testing.assert_allclose(
        forward(nn.LogSoftmax(), big), [[-np.log(2), -2e4 - np.log(2), -np.log(2)]], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("function", "at_zero"),
    [
        (nn.relu, 0.0),
        (nn.leaky_relu, 0.01),
        (nn.softplus, 0.5),
        (nn.gelu, 0.5),
        (nn.elu, 1.0),
        (nn.silu, 0.5),
        (lambda x: nn.hardtanh(x, 0, 6), 0.0),
        (nn.hardsigmoid, 1 / 6),
        (nn.hardswish, 0.5),
        (lambda x: nn.hardtanh(x - 1), 0.0),
        (lambda x: nn.hardswish(x + 3), 1.0),
        (lambda x: nn.hardswish(x - 3), 0.0),
    ],
)
def test_derivatives_at_zero_are_the_documented_ones(
    function: Callable[[Array], Array], at_zero: float
) -> None:
    assert run(grad(function), np.float64(0).reshape(()))[0] == at_zero


def test_activations_far_out_neither_overflow_nor_lose_their_derivative() -> None:
    x = np.float32([-1000, 1000, np.inf, np.nan])
    for function, at, slope in (
        (nn.elu, [-1, 1000, np.inf, np.nan], [0, 1, 1, np.nan]),
        (nn.selu, [-1.7580993, 1050.701, np.inf, np.nan], [0, 1.050701, 1.050701, np.nan]),
        (nn.mish, [0, 1000, np.inf, np.nan], None),
        (nn.hardswish, [0, 1000, np.inf, np.nan], [0, 1, 1, np.nan]),
        (nn.hardsigmoid, [0, 1, 1, np.nan], None),
        (nn.hardtanh, [-1, 1, 1, np.nan], None),
    ):
        np.testing.assert_allclose(run(function, x)[0], np.float32(at), rtol=1e-6)
        if slope is not None:
            (got,) = run(grad(lambda x, f=function: f(x).sum()), x[:2])  # type: ignore[misc]
            np.testing.assert_allclose(got, np.float32(slope[:2]), rtol=1e-6)


def test_prelu_has_a_slope_for_each_channel_that_is_trained() -> None:
    layer = nn.PReLU(3)
    layer.load_state({"weight": np.float32([0.1, 0.2, 0.3])})
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    slope = np.float32([0.1, 0.2, 0.3]).reshape(3, 1)
    np.testing.assert_allclose(forward(layer, x), np.where(x > 0, x, slope * x), rtol=1e-6)
    (got,) = run(grad(lambda p: layer.apply(p, {}, x)[0].sum()), layer.parameters)
    np.testing.assert_allclose(got, np.minimum(x, 0).sum(axis=(0, 2)), rtol=1e-5)
    with pytest.raises(
        ShapeError, match=r"test_nn\.py:\d+: prelu: expected 3 channels in dimension 1, got \[2, 4\]"
    ):
        trace(lambda x: layer(x), f32[2, 4])


def test_dropout_keeps_the_mean_in_training_and_does_nothing_else() -> None:
    model = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0.0))
    x = RNG.uniform(1, 2, (200, 300)).astype(np.float32)

    def call(x: np.ndarray, train: bool, seed: int = 1) -> np.ndarray:
        key = random.key(seed)
        return run(lambda x, key: model.apply({}, {}, x, key=key, train=train)[0], x, key)[0]

    np.testing.assert_array_equal(call(x, train=False), x)
    y = call(x, train=True)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.75, abs=0.006)
    np.testing.assert_array_equal(call(x, train=True), y)
    assert ((call(x, train=True, seed=2) != 0) != kept).mean() == pytest.approx(2 * 0.75 * 0.25, abs=0.01)
    np.testing.assert_array_equal(model(x), x)  # a plain call is no training
    (slope,) = run(
        grad(lambda x, key: model.apply({}, {}, x, key=key, train=True)[0].sum()), x, random.key(1)
    )
    np.testing.assert_array_equal(slope, np.where(kept, np.float32(1 / 0.75), 0))
    np.testing.assert_array_equal(
        run(lambda x, key: nn.dropout(x, key, 1.0), x[:2], random.key(1))[0], np.zeros((2, 300))
    )


def test_two_dropouts_of_one_model_draw_different_masks() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    (y,) = run(
        lambda x, key: model.apply({}, {}, x, key=key, train=True)[0],
        np.ones(20_000, np.float32),
        random.key(0),
    )
    assert set(np.unique(y)) == {0, 4} and (y != 0).mean() == pytest.approx(0.25, abs=0.015)


def test_dropout_says_what_it_needs() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(
        ArgumentError, match=r"test_nn\.py:\d+: Dropout: expected a call by model.apply\(..., key=key\)"
    ):
        trace(lambda x: model.apply({}, {}, x, train=True)[0], f32[3])
    for p in (-0.1, 1.5, math.nan, "half"):
        with pytest.raises(
            ArgumentError, match=r"test_nn\.py:\d+: Dropout: p: expected a probability from 0 to 1"
        ):
            nn.Dropout(p)  # type: ignore[arg-type]


@pytest.mark.peers
@pytest.mark.parametrize("layer", [case[0] for case in ACTIVATIONS], ids=repr)
def test_activations_and_their_derivatives_are_pytorchs(layer: nn.Module) -> None:
    torch = pytest.importorskip("torch")
    peer = eval(repr(layer), vars(torch.nn)).double()
    if isinstance(layer, nn.PReLU):
        layer.load_state({"weight": np.float32([0.25])})
    kinks = (
        [-1.0, 1.0, 0.0] if isinstance(layer, (nn.Hardtanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU)) else []
    )
    x = np.concatenate([RNG.normal(0, 3, 60 - len(kinks)), kinks]).reshape(4, 15)
    theirs = torch.tensor(x, requires_grad=True)
    out = peer(theirs)
    weights = RNG.normal(size=x.shape)
    (out * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(forward(layer, x), out.detach().numpy(), rtol=1e-12, atol=1e-14)
    (got,) = run(grad(lambda x: (layer.apply(dict(layer.parameters), {}, x)[0] * weights).sum()), x)
    # its slope of the hard sigmoid is 1/6 in f32
    tolerance = 1e-7 if isinstance(layer, nn.Hardsigmoid) else 1e-11
    np.testing.assert_allclose(got, theirs.grad.numpy(), rtol=tolerance, atol=1e-13)


def test_softplus_has_the_right_second_derivative_at_zero_and_far_out() -> None:
    second = grad(grad(nn.softplus))
    assert run(second, np.float64(0).reshape(()))[0] == 0.25
    for x in (1.5, -1.5, 40.0, -40.0):
        s = 1 / (1 + np.exp(-np.longdouble(x)))
        np.testing.assert_allclose(run(grad(nn.softplus), np.float64(x).reshape(()))[0], float(s), rtol=1e-14)
        np.testing.assert_allclose(
            run(second, np.float64(x).reshape(()))[0], float(s * (1 - s)), rtol=1e-8, atol=1e-18
        )


# -- the tree of modules --------------------------------------------------------------------------------------------


def test_names_follow_attributes_lists_and_dicts() -> None:
    shapes = {name: array.shape for name, array in Residual().named_parameters()}
    assert shapes == {
        "scale": (1,), "layers.0.weight": (3, 3), "layers.0.bias": (3,),
        "heads.out.weight": (2, 3), "heads.out.bias": (2,),
    }  # fmt: skip
    assert [name for name, _ in Residual().named_modules()] == ["", "layers.0", "layers.1", "heads.out"]


def test_a_layer_appended_to_a_list_later_is_found() -> None:
    model = Residual()
    model.layers.append(nn.Linear(3, 3))
    assert "layers.2.weight" in model.parameters and model.layers[2].path == "layers.2"


def test_a_shared_layer_is_one_parameter() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(model.parameters) == ["0.weight", "0.bias"]
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    once = np.maximum(x @ model.parameters["0.weight"].T + model.parameters["0.bias"], 0)
    expected = once @ model.parameters["0.weight"].T + model.parameters["0.bias"]
    np.testing.assert_allclose(forward(model, x), expected, rtol=1e-5)


def test_the_text_is_pytorchs() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(3, 2, bias=False), nn.GELU()), nn.Softmax(dim=1)
    )
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Flatten(start_dim=1, end_dim=-1)\n"
        "  (1): Sequential(\n"
        "    (0): Linear(in_features=3, out_features=2, bias=False)\n"
        "    (1): GELU(approximate='none')\n"
        "  )\n"
        "  (2): Softmax(dim=1)\n"
        ")"
    )
    assert repr(nn.LeakyReLU()) == "LeakyReLU(negative_slope=0.01)" and repr(nn.ReLU()) == "ReLU()"


def test_sequential_is_a_sequence() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert len(model) == 2 and isinstance(model[0], nn.Linear) and list(model)[1] is model[1]
    with pytest.raises(ArgumentError, match=r"test_nn\.py:\d+: Sequential: expected modules, got function"):
        nn.Sequential(nn.relu)  # type: ignore[arg-type]


# -- initial values ---------------------------------------------------------------------------------------------------


def test_linear_starts_uniform_within_the_root_of_one_over_n() -> None:
    layer = nn.Linear(100, 200, seed=0)
    for values in layer.parameters.values():
        assert abs(values).max() <= 0.1 and abs(values).max() > 0.095 and abs(values.mean()) < 0.01
    np.testing.assert_allclose(layer.parameters["weight"].std(), 0.1 / math.sqrt(3), rtol=0.02)


def test_initial_values_are_those_of_the_seed_whoever_asks_first() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    first, second, third = model(), model(), model().init(1)
    inner = np.array(second[1].weight)  # a read of a layer draws the whole model
    np.testing.assert_array_equal(first.parameters["1.weight"], inner)
    assert (first.parameters["0.weight"] != first.parameters["1.weight"]).all()
    assert (first.parameters["0.weight"] != third.parameters["0.weight"]).all()
    np.testing.assert_array_equal(third.init(0).parameters["0.weight"], first.parameters["0.weight"])


def test_initial_values_stay_the_same_from_release_to_release() -> None:
    expected = [0.8858751057657588, -0.3673256952290038, 0.44468517729965074]
    np.testing.assert_array_equal(init.draw(init.uniform(-1, 1), 0, 3, f64), expected)


def test_initialisers_draw_what_they_say() -> None:
    layer = nn.Linear(3, 2, weight_init=init.constant(0.5), bias_init=init.zeros(), seed=0)
    np.testing.assert_array_equal(layer.parameters["weight"], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(layer.parameters["bias"], [0, 0])
    draws = init.draw(init.normal(1, 2), 3, (100, 100), f64)
    assert abs(draws.mean() - 1) < 0.1 and abs(draws.std() - 2) < 0.1
    with pytest.raises(ArgumentError, match="seed: expected an integer of at least 0, got -1"):
        nn.Linear(2, 2, seed=-1)
    with pytest.raises(ArgumentError, match="uniform: expected finite low <= high, got 1 and 0"):
        init.uniform(1, 0)


# -- values in and out --------------------------------------------------------------------------------------------------


def test_parameters_are_the_models_own_memory() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    array = model.parameters["0.weight"]
    model.load_state({"0.weight": np.eye(2, dtype=np.float32), "0.bias": np.float32([1, 2])})
    np.testing.assert_array_equal(array, np.eye(2))
    model[0].weight = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(array, np.zeros((2, 2)))


def test_load_state_lists_all_that_is_wrong_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).init(0)
    before = model.parameters["0.weight"].copy()
    state = {
        "0.weight": np.zeros((2, 2), np.float32),
        "1.weight": np.zeros((2, 1), np.float32),
        "x": np.zeros(1),
    }
    with pytest.raises(ArgumentError) as caught:
        model.load_state(state)
    assert str(caught.value).endswith(
        "load_state: missing 0.bias, 1.bias; unknown x; 1.weight: expected f32[1,2], got float32[2,1]"
    )
    np.testing.assert_array_equal(model.parameters["0.weight"], before)
    with pytest.raises(ArgumentError, match=re.escape("Parameter: expected f32[2,2], got float32[3]")):
        model[0].weight = np.zeros(3, np.float32)


def test_copies_and_pickles_have_weights_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).init(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.parameters["0.weight"], model.parameters["0.weight"])
        twin.parameters["0.weight"][:] = 0
        assert model.parameters["0.weight"].any() and repr(twin) == repr(model)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_in_a_trace_makes_parameters_named_inputs() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    graph = trace(lambda x: model(x), f32[4, 3])
    assert graph.input_names == ("x", "0.weight", "0.bias")
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    (y,) = interpret(graph, [x, *model.parameters.values()])
    np.testing.assert_array_equal(y, forward(model, x))
    scopes = {node.op.name: node.loc.scope for node in graph.nodes}
    assert scopes["contract"] == "0" and scopes["select"] == "1"


def test_a_parameter_read_in_a_trace_is_the_same_input() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    graph = trace(lambda x: model(x).sum() + (model[0].weight * 0.5).sum(), f32[4, 3])
    assert graph.input_names == ("x", "0.weight", "0.bias")


def test_two_models_in_one_trace_keep_their_parameters_apart() -> None:
    first, second = nn.Linear(2, 2, seed=1), nn.Linear(2, 2, seed=2)
    graph = trace(lambda x: second(first(x)), f32[1, 2])
    assert len(graph.inputs) == 5 and len(set(graph.input_names)) == 5


def test_apply_is_pure_and_checks_names_and_shapes() -> None:
    model = nn.Linear(2, 2, seed=0)
    zeros = {name: np.zeros_like(p) for name, p in model.parameters.items()}
    (y,) = run(lambda params, x: model.apply(params, {}, x)[0], zeros, np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(y, [[0, 0]])
    with pytest.raises(ArgumentError, match=r"Linear.apply: missing bias; unknown extra"):
        trace(lambda w, x: model.apply({"weight": w, "extra": w}, {}, x)[0], f32[2, 2], f32[1, 2])
    with pytest.raises(ArgumentError, match=re.escape("weight: expected shape [2, 2], got [3]")):
        trace(lambda w, x: model.apply({"weight": w, "bias": w}, {}, x)[0], f32[3], f32[1, 2])
    with pytest.raises(TraceError, match=r"Linear.apply: expected a call in a traced function"):
        model.apply(model.parameters, {}, np.ones((1, 2), np.float32))


def test_buffers_come_back_changed_in_training_and_unchanged_otherwise() -> None:
    model = Mean()
    x = np.array([[1.0, 2.0], [3.0, 6.0]])

    def call(train: bool) -> list[np.ndarray]:
        return run(lambda state, x: model.apply({}, state, x, train=train), {"mean": np.array([2.0, 2.0])}, x)

    y, mean = call(train=True)
    np.testing.assert_array_equal(mean, [2.0, 3.0])
    np.testing.assert_array_equal(y, x - mean)
    y, mean = call(train=False)
    np.testing.assert_array_equal(mean, [2.0, 2.0])
    np.testing.assert_array_equal(y, x - mean)
    assert list(model.parameters) == [] and list(model.buffers) == ["mean"]


def test_the_key_reaches_the_layers() -> None:
    class Noise(nn.Module):
        def forward(self, *inputs: Array) -> Array:
            return inputs[0] + random.bits(self.next_key(), 2) + random.bits(self.next_key(), 2)

    key = random.key(5)
    (got,) = run(lambda x, key: Noise().apply({}, {}, x, key=key)[0], np.uint32([1, 2]), key)
    first, second = (
        run(lambda k, n=n: random.bits(random.fold_in(k, n), 2), key)[0]  # type: ignore[misc]
        for n in (1, 2)
    )
    np.testing.assert_array_equal(got, np.uint32([1, 2]) + first + second)
    with pytest.raises(ArgumentError, match=r"test_nn\.py:\d+: Noise: expected a call by model.apply"):
        trace(lambda x: Noise().apply({}, {}, x)[0], np.uint32([1, 2]))


def test_wrong_inputs_name_the_layer_and_the_callers_line() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ShapeError, match=r"test_nn\.py:\d+: Linear: expected \[\.\.\., 3\], got \[4, 5\]"):
        trace(lambda x: model(x), f32[4, 5])
    with pytest.raises(ArgumentError, match="Linear: expected in_features of at least 1, got 0"):
        nn.Linear(0, 2)
    with pytest.raises(ArgumentError, match="gelu: expected approximate='none' or 'tanh', got 'erf'"):
        trace(lambda x: nn.gelu(x, "erf"), f32[2])
    with pytest.raises(TraceError, match="Module: expected a module that defines forward"):
        trace(lambda x: nn.Module()(x), f32[2])


def compiled(model: nn.Module) -> int:
    """How many functions the model has compiled for itself."""
    return 0 if model._compiled is None else len(model._compiled.functions)


def test_a_model_runs_on_numpy_arrays() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).init(0)
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(model(x), forward(model, x), rtol=1e-5, atol=1e-6)
    assert model(x.astype(np.float64)).dtype == np.float32 and compiled(model) == 1
    assert model(x[:2]).shape == (2, 2) and compiled(model) == 2
    model.parameters["2.bias"][:] += 1
    np.testing.assert_allclose(model(x), forward(model, x), rtol=1e-5, atol=1e-6)


def test_a_changed_layer_is_compiled_anew() -> None:
    model = nn.Sequential(nn.LeakyReLU(0.5))
    x = np.float32([-2, 2])
    np.testing.assert_array_equal(model(x), [-1, 2])
    model[0].negative_slope = 0.25
    np.testing.assert_array_equal(model(x), [-0.5, 2])


@pytest.mark.peers
def test_layers_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    pairs = [
        (nn.Linear(5, 3, dtype=f64), torch.nn.Linear(5, 3).double()),
        (nn.Flatten(), torch.nn.Flatten()),
        (nn.ReLU(), torch.nn.ReLU()),
        (nn.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
        (nn.Sigmoid(), torch.nn.Sigmoid()),
        (nn.Tanh(), torch.nn.Tanh()),
        (nn.GELU(), torch.nn.GELU()),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.Softmax(dim=1), torch.nn.Softmax(dim=1)),
        (nn.LogSoftmax(dim=1), torch.nn.LogSoftmax(dim=1)),
    ]
    x = RNG.normal(size=(4, 5))
    for ours, theirs in pairs:
        assert repr(ours) == repr(theirs)
        ours.load_state({name: value.numpy() for name, value in theirs.state_dict().items()})
        np.testing.assert_allclose(forward(ours, x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-12)
    softplus = torch.nn.Softplus()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(nn.Softplus(), x), softplus, rtol=1e-12)


def test_integer_inputs_stay_integers_on_the_way_to_the_model() -> None:
    class Pick(nn.Module):
        def forward(self, *inputs: Array) -> Array:
            return inputs[0] + 1

    assert trace(lambda x: Pick()(x), i32[2]).output_types == (i32[2],)
    assert Pick()(np.int32([1, 2])).dtype == np.int32
