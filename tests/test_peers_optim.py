"""Training beside PyTorch: optimisers, schedules, clipping, averages and losses give its numbers, in f64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.callbacks import History, ReduceOnPlateau, Run
from graphc.frontend.optim import schedules

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
functional = torch.nn.functional

RNG = np.random.default_rng(7)
PARAMS = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=5), "c": RNG.normal(size=(2, 3, 4))}
GRADS = [
    {name: RNG.normal(size=p.shape) * 10.0 ** RNG.integers(-2, 2) for name, p in PARAMS.items()}
    for _ in range(20)
]
OPTIMIZERS: dict[str, tuple[optim.Optimizer, type, dict[str, object]]] = {
    "sgd": (optim.SGD(0.1, momentum=0.9, maximize=True), torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    "adagrad": (optim.Adagrad(0.1, lr_decay=0.01, weight_decay=0.1, initial_accumulator_value=0.1), torch.optim.Adagrad,
                {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": (optim.RMSprop(0.01), torch.optim.RMSprop, {"lr": 0.01}),
    "rmsprop centered": (optim.RMSprop(0.01, momentum=0.9, centered=True, weight_decay=0.1), torch.optim.RMSprop,
                         {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "adadelta": (optim.Adadelta(weight_decay=0.1), torch.optim.Adadelta, {"weight_decay": 0.1}),
    "adam amsgrad": (optim.Adam(0.01, amsgrad=True, weight_decay=0.1), torch.optim.Adam,
                     {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    "adamw maximize": (optim.AdamW(0.01, maximize=True), torch.optim.AdamW, {"lr": 0.01, "maximize": True}),
    "nadam": (optim.NAdam(0.01, weight_decay=0.1), torch.optim.NAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "radam": (optim.RAdam(0.01, weight_decay=0.1), torch.optim.RAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "radam decoupled": (optim.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True), torch.optim.RAdam,
                        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adafactor": (optim.Adafactor(0.01, weight_decay=0.1), torch.optim.Adafactor, {"lr": 0.01, "weight_decay": 0.1}),
}  # fmt: skip
Arrays = dict[str, np.ndarray]


def follow(optimizer: optim.Optimizer, target: str = "cpu") -> tuple[Arrays, Arrays]:
    params, state = PARAMS, optimizer.init(PARAMS)
    rate = np.float64(optimizer.learning_rate)
    step = graphc.compile(optimizer.update, params, GRADS[0], state, rate, target=target)
    for grads in GRADS:
        params, state = step(params, grads, state, rate)  # type: ignore[misc]
    return params, state


def torch_leaves() -> dict[str, object]:
    return {name: torch.tensor(p, requires_grad=True) for name, p in PARAMS.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_pytorch(name: str) -> None:
    ours, peer, settings = OPTIMIZERS[name]
    leaves = torch_leaves()
    theirs = peer(list(leaves.values()), **settings)
    for grads in GRADS:
        for leaf, grad in grads.items():
            leaves[leaf].grad = torch.tensor(grad)  # type: ignore[attr-defined]
        theirs.step()
    got, _ = follow(ours)
    for leaf, value in leaves.items():
        np.testing.assert_allclose(got[leaf], value.detach().numpy(), rtol=1e-6, atol=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [2.0, 1.0, 3.0, math.inf])
def test_clipping_by_norm_is_that_of_pytorch(kind: float) -> None:
    leaves = torch_leaves()
    theirs = torch.optim.SGD(list(leaves.values()), 0.1, momentum=0.9)
    for grads in GRADS:
        for leaf, grad in grads.items():
            leaves[leaf].grad = torch.tensor(grad)  # type: ignore[attr-defined]
        torch.nn.utils.clip_grad_norm_(list(leaves.values()), 3.0, kind)
        theirs.step()
    got, _ = follow(optim.clip_by_norm(optim.SGD(0.1, momentum=0.9), 3.0, kind))
    for leaf, value in leaves.items():
        np.testing.assert_allclose(got[leaf], value.detach().numpy(), rtol=1e-10, atol=1e-12)  # type: ignore[attr-defined]


def test_averages_are_those_of_pytorch() -> None:
    model = torch.nn.Linear(3, 4).double()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    theirs = torch.optim.SGD(model.parameters(), 0.1)
    params = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    ours = optim.ema(optim.SGD(0.1), 0.9)
    state = ours.init(params)
    averaged.update_parameters(model)  # PyTorch begins with the first call, we with the first weights
    for _ in range(10):
        grads = {n: RNG.normal(size=p.shape) for n, p in params.items()}
        for name, p in model.named_parameters():
            p.grad = torch.tensor(grads[name])
        theirs.step()
        averaged.update_parameters(model)
        step = graphc.compile(ours.update, params, grads, state, np.float64(0.1), target="interpreter")
        params, state = step(params, grads, state, np.float64(0.1))  # type: ignore[misc]
    for name, p in averaged.module.named_parameters():
        np.testing.assert_allclose(state[f"ema.{name}"], p.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("search", ["strong_wolfe", None])
@pytest.mark.parametrize("iterations", [1, 5, 20])
def test_lbfgs_takes_pytorchs_steps_on_rosenbrocks_function(search: str | None, iterations: int) -> None:
    start, rate = np.array([-1.2, 1.0, 0.5, 2.0, -0.3]), 1.0 if search else 0.002

    def loss(p: dict[str, graphc.Array]) -> graphc.Array:
        x = p["x"]
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    ours = optim.LBFGS(rate, history=6, line_search=search)

    def step(p: dict[str, graphc.Array], state: dict[str, graphc.Array], rate: graphc.Array) -> object:
        value, grads = graphc.value_and_grad(loss)(p)  # type: ignore[misc]
        return optim.advance(ours, p, grads, state, rate, value)

    params: Arrays = {"x": start.copy()}
    state = ours.init(params)
    compiled = graphc.compile(step, params, state, np.float64(rate))
    while state["search.iterations"] < iterations:
        params, state = compiled(params, state, np.float64(rate))  # type: ignore[misc]

    x = torch.tensor(start, requires_grad=True)
    theirs = torch.optim.LBFGS(
        [x], lr=rate, max_iter=iterations, max_eval=1000, history_size=6, line_search_fn=search
    )

    def closure() -> object:
        theirs.zero_grad()
        value = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        value.backward()
        return value

    theirs.step(closure)
    np.testing.assert_allclose(state["accepted.x"], x.detach().numpy(), rtol=1e-8, atol=1e-10)
    if search:
        assert state["search.evaluations"] == theirs.state[x]["func_evals"]


SCHEDULES: dict[str, tuple[schedules.Schedule, Callable[[object], object]]] = {
    "step": (schedules.Step(5, 0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.3)),
    "multistep": (schedules.MultiStep((3, 9), 0.3), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 9], 0.3)),
    "exponential": (schedules.Exponential(0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    "constant": (schedules.Constant(0.3, 4), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.3, 4)),
    "linear": (schedules.Linear(0.1, 0.9, 7), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 0.9, 7)),
    "polynomial": (schedules.Polynomial(9, 2.0), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 9, 2.0)),
    "cosine": (schedules.Cosine(10, 0.01), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, 0.01)),
    "restarts": (schedules.CosineRestarts(4, 2, 0.01),
                 lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, 0.01)),
    "restarts of one length": (schedules.CosineRestarts(4),
                               lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4)),
    "one cycle": (schedules.OneCycle(21), lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, 21)),
    "one cycle in three": (
        schedules.OneCycle(21, anneal="linear", three_phase=True),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, 21, anneal_strategy="linear", three_phase=True)),
    "sequence": (
        schedules.sequence([schedules.Linear(0.1, 1.0, 4), schedules.Exponential(0.8)], [4]),
        lambda o: torch.optim.lr_scheduler.SequentialLR(o, [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
                                                            torch.optim.lr_scheduler.ExponentialLR(o, 0.8)], [4])),
    "product": (
        schedules.product(schedules.Constant(0.5, 4), schedules.Exponential(0.8)),
        lambda o: torch.optim.lr_scheduler.ChainedScheduler([torch.optim.lr_scheduler.ConstantLR(o, 0.5, 4),
                                                             torch.optim.lr_scheduler.ExponentialLR(o, 0.8)])),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_pytorch(name: str) -> None:
    ours, make = SCHEDULES[name]
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    scheduler = make(theirs)
    rates = []
    for _ in range(20):
        rates.append(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()  # type: ignore[attr-defined]
    np.testing.assert_allclose([ours(0.5, t) for t in range(20)], rates, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "settings", [{}, {"threshold_mode": "abs", "threshold": 0.05, "cooldown": 2}, {"mode": "max"}]
)
def test_the_plateaus_rates_are_those_of_pytorch(settings: dict[str, object]) -> None:
    values = [1, 0.9, 0.89, 0.88, 0.9, 0.9, 0.91, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.2, 0.3, 0.3, 0.3, 0.3]
    theirs = torch.optim.SGD([torch.zeros(1)], 0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=2, **settings)
    history = History()
    run = Run(nn.Linear(1, 1), {}, {}, history, ("val_loss",), 20, 0.5)
    ours = ReduceOnPlateau(0.5, 2, **settings)  # type: ignore[arg-type]
    ours.begin(run)
    for value in values:
        scheduler.step(value)
        history.record({"val_loss": value})
        ours.epoch(run)
        assert run.learning_rate == theirs.param_groups[0]["lr"]


# -- losses -------------------------------------------------------------------------------------------------------------

X, Y = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
LOG_P = np.log(RNG.dirichlet(np.ones(4), 6))
SHARES = RNG.dirichlet(np.ones(4), 6)
P = RNG.uniform(0.05, 0.95, (6, 4))
LABELS = np.array([0, 3, 2, 2, 1, 0])
SIGNS, ROW_SIGNS = np.sign(RNG.normal(size=(6, 4))), np.sign(RNG.normal(size=6))
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])
DEEP, DEEP_LABELS = RNG.normal(size=(3, 5, 4)), RNG.integers(0, 4, (3, 5))
HOLES = np.where(RNG.uniform(size=(3, 5)) < 0.3, -100, DEEP_LABELS)
Z = RNG.normal(size=(6, 4))
COUNTS = RNG.poisson(2.0, (6, 4)).astype(np.float64)
tensor = torch.tensor
LOSSES: dict[str, tuple[Callable[..., object], Callable[..., object], tuple[np.ndarray, ...]]] = {
    "l1": (nn.l1, functional.l1_loss, (X, Y)),
    "huber": (lambda *a, **k: nn.huber(*a, delta=0.7, **k), lambda *a, **k: functional.huber_loss(*a, delta=0.7, **k), (X, Y)),
    "smooth_l1": (lambda *a, **k: nn.smooth_l1(*a, beta=0.7, **k),
                  lambda *a, **k: functional.smooth_l1_loss(*a, beta=0.7, **k), (X, Y)),
    "poisson": (nn.poisson_nll, functional.poisson_nll_loss, (X, COUNTS)),
    "poisson full": (lambda *a, **k: nn.poisson_nll(*a, log_input=False, full=True, **k),
                     lambda *a, **k: functional.poisson_nll_loss(*a, log_input=False, full=True, **k), (P, COUNTS)),
    "gaussian": (nn.gaussian_nll, functional.gaussian_nll_loss, (X, Y, P)),
    "gaussian full": (lambda *a, **k: nn.gaussian_nll(*a, full=True, **k),
                      lambda *a, **k: functional.gaussian_nll_loss(*a, full=True, **k), (X, Y, P)),
    "nll": (nn.nll, functional.nll_loss, (LOG_P, LABELS)),
    "nll weight": (lambda *a, **k: nn.nll(*a, weight=WEIGHT, ignore_index=2, **k),
                   lambda *a, **k: functional.nll_loss(*a, weight=tensor(WEIGHT), ignore_index=2, **k), (LOG_P, LABELS)),
    "ce weight": (lambda *a, **k: nn.cross_entropy(*a, weight=WEIGHT, **k),
                  lambda *a, **k: functional.cross_entropy(*a, weight=tensor(WEIGHT), **k), (X, LABELS)),
    "ce smooth": (lambda *a, **k: nn.cross_entropy(*a, label_smoothing=0.1, **k),
                  lambda *a, **k: functional.cross_entropy(*a, label_smoothing=0.1, **k), (X, LABELS)),
    "ce all": (lambda *a, **k: nn.cross_entropy(*a, weight=WEIGHT, ignore_index=2, label_smoothing=0.1, **k),
               lambda *a, **k: functional.cross_entropy(*a, weight=tensor(WEIGHT), ignore_index=2, label_smoothing=0.1,
                                                        **k), (X, LABELS)),
    "ce shares": (lambda *a, **k: nn.cross_entropy(*a, weight=WEIGHT, label_smoothing=0.1, **k),
                  lambda *a, **k: functional.cross_entropy(*a, weight=tensor(WEIGHT), label_smoothing=0.1, **k),
                  (X, SHARES)),
    "ce deep": (lambda *a, **k: nn.cross_entropy(*a, ignore_index=-100, **k),
                lambda x, t, **k: functional.cross_entropy(x.movedim(-1, 1), t, **k), (DEEP, HOLES)),
    "ce axis": (lambda *a, **k: nn.cross_entropy(*a, axis=1, **k), functional.cross_entropy,
                (DEEP, RNG.integers(0, 5, (3, 4)))),
    "kl": (nn.kl_div, functional.kl_div, (LOG_P, SHARES)),
    "kl log": (lambda *a, **k: nn.kl_div(*a, log_target=True, **k),
               lambda *a, **k: functional.kl_div(*a, log_target=True, **k), (LOG_P, np.log(SHARES))),
    "bce": (nn.binary_cross_entropy, functional.binary_cross_entropy, (P, SHARES)),
    "bce pos": (lambda *a, **k: nn.binary_cross_entropy_with_logits(*a, pos_weight=WEIGHT, **k),
                lambda *a, **k: functional.binary_cross_entropy_with_logits(*a, pos_weight=tensor(WEIGHT), **k), (X, SHARES)),
    "multi margin": (nn.multi_margin, functional.multi_margin_loss, (X, LABELS)),
    "multi margin 2": (lambda *a, **k: nn.multi_margin(*a, p=2, margin=0.5, weight=WEIGHT, **k),
                       lambda *a, **k: functional.multi_margin_loss(*a, p=2, margin=0.5, weight=tensor(WEIGHT), **k),
                       (X, LABELS)),
    "hinge embedding": (nn.hinge_embedding, functional.hinge_embedding_loss, (P, SIGNS)),
    "cosine": (lambda *a, **k: nn.cosine_embedding(*a, margin=0.1, **k),
               lambda *a, **k: functional.cosine_embedding_loss(*a, margin=0.1, **k), (X, Y, ROW_SIGNS)),
    "ranking": (lambda *a, **k: nn.margin_ranking(*a, margin=0.1, **k),
                lambda *a, **k: functional.margin_ranking_loss(*a, margin=0.1, **k), (X, Y, SIGNS)),
    "triplet": (nn.triplet_margin, functional.triplet_margin_loss, (X, Y, Z)),
    "triplet swap": (lambda *a, **k: nn.triplet_margin(*a, p=3.0, swap=True, margin=2.0, **k),
                     lambda *a, **k: functional.triplet_margin_loss(*a, p=3.0, swap=True, margin=2.0, **k), (X, Y, Z)),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_pytorch(name: str, reduction: str) -> None:
    ours, theirs, arrays = LOSSES[name]
    leaf = torch.tensor(arrays[0], requires_grad=True)
    value = theirs(leaf, *map(tensor, arrays[1:]), reduction=reduction)
    value.sum().backward()  # type: ignore[attr-defined]
    given = [a.astype(np.int32) if a.dtype.kind == "i" else a for a in arrays]

    def loss(x: graphc.Array, *rest: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
        found = ours(x, *rest, reduction=reduction)
        return found.sum(), found  # type: ignore[attr-defined]

    (_, got), gradient = graphc.value_and_grad(loss, has_aux=True)(*given)  # type: ignore[misc]
    np.testing.assert_allclose(got, value.detach().numpy(), rtol=1e-9, atol=1e-12)  # type: ignore[attr-defined]
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-8, atol=1e-12)


def test_cosine_similarity_is_that_of_pytorch() -> None:
    got = graphc.compile(nn.cosine_similarity, X, Y)(X, Y)
    np.testing.assert_allclose(
        got, functional.cosine_similarity(tensor(X), tensor(Y), dim=-1).numpy(), rtol=1e-12
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc_is_that_of_pytorch(reduction: str, zero_infinity: bool) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (9, 5, 4))
    targets = np.array([[1, 2, 2, 3], [3, 3, 3, 1], [1, 2, 0, 0], [2, 1, 1, 0], [1, 1, 1, 1]])
    inputs, lengths = np.array([9, 8, 4, 6, 9 if not zero_infinity else 5]), np.array([4, 4, 2, 3, 4])
    leaf = torch.tensor(logits, requires_grad=True)
    value = functional.ctc_loss(
        leaf.log_softmax(-1), tensor(targets), tensor(inputs), tensor(lengths), reduction=reduction,
        zero_infinity=zero_infinity,
    )  # fmt: skip
    value.sum().backward()

    def loss(x: graphc.Array, t: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
        found = nn.ctc(
            nn.log_softmax(x, -1), t, inputs, lengths, reduction=reduction, zero_infinity=zero_infinity
        )
        return found.sum(), found

    (_, got), gradient = graphc.value_and_grad(loss, has_aux=True)(logits, targets.astype(np.int32))  # type: ignore[misc]
    np.testing.assert_allclose(got, value.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("form", ["padded", "packed", "one"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_ctc_of_every_form_of_targets_is_that_of_pytorch(form: str, reduction: str) -> None:
    rng = np.random.default_rng(2)
    logits, lengths = rng.normal(0, 2, (12, 6, 5)), np.array([4, 0, 7, 1, 5, 7])
    inputs = np.array([12, 12, 9, 0, 12, 5])  # two that nothing spells
    padded = np.where(np.arange(7) < lengths[:, None], rng.integers(1, 5, (6, 7)), 0)
    targets = padded if form == "padded" else np.concatenate([r[:n] for r, n in zip(padded, lengths)])
    given: tuple[np.ndarray, ...] = (logits, targets, inputs, lengths)
    if form == "one":
        given = (logits[:, 2], padded[2], inputs[2], lengths[2])
    leaf = torch.tensor(given[0], requires_grad=True)
    value = functional.ctc_loss(
        leaf.log_softmax(-1), *map(torch.as_tensor, given[1:]), reduction=reduction, zero_infinity=True
    )
    value.sum().backward()

    def loss(x: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
        found = nn.ctc(nn.log_softmax(x, -1), *given[1:], reduction=reduction, zero_infinity=True)
        return found.sum(), found

    (_, got), gradient = graphc.value_and_grad(loss, has_aux=True)(given[0])  # type: ignore[misc]
    assert np.shape(got) == value.shape
    np.testing.assert_allclose(got, value.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-7, atol=1e-10)
    infinite = functional.ctc_loss(
        torch.tensor(given[0]).log_softmax(-1), *map(torch.as_tensor, given[1:]), reduction="none"
    )
    ours = graphc.compile(
        lambda x: nn.ctc(nn.log_softmax(x, -1), *given[1:], reduction="none"), given[0]
    )(given[0])  # fmt: skip
    np.testing.assert_allclose(ours, infinite.numpy(), rtol=1e-9)


def test_tied_weights_train_as_pytorchs() -> None:
    class Theirs(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(6, 4, bias=False)
            self.middle = torch.nn.Linear(6, 4)
            self.middle.weight = self.encoder.weight

        def forward(self, x: object) -> object:
            return self.middle(torch.tanh(self.encoder(x) @ self.encoder.weight))

    class Ours(nn.Module):
        def __init__(self) -> None:
            self.encoder = nn.Linear(6, 4, bias=False, dtype=graphc.f64)
            self.middle = nn.Linear(6, 4, dtype=graphc.f64)
            self.middle.weight = self.encoder.weight

        def forward(self, *inputs: graphc.Array) -> graphc.Array:
            return self.middle(graphc.tanh(self.encoder(*inputs) @ self.encoder.weight))

    theirs, ours = Theirs().double(), Ours()
    state = {name: value.detach().numpy().copy() for name, value in theirs.state_dict().items()}
    assert sorted(state) == ["encoder.weight", "middle.bias", "middle.weight"]
    ours.load_state(state)
    assert list(ours.parameters) == ["encoder.weight", "middle.bias"]
    x, y = RNG.normal(size=(8, 6)), RNG.normal(size=(8, 4))
    peer = torch.optim.Adam(theirs.parameters(), 0.01)
    for _ in range(5):
        peer.zero_grad()
        functional.mse_loss(theirs(tensor(x)), tensor(y)).backward()
        peer.step()
    graphc.fit(ours, (x, y), loss=nn.mse, optimizer=optim.Adam(0.01), epochs=5, batch_size=8, progress=False)
    for name, value in ours.parameters.items():
        np.testing.assert_allclose(value, theirs.state_dict()[name].numpy(), rtol=1e-9, atol=1e-12)
