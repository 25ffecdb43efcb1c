"""The training steps that benchmarks time, for graphc, JAX, PyTorch, and in numpy's float64 as the judge.

In: a workload's name. Out: on each side a function that makes one step and gives its loss. Parameters start equal on all
sides; each keeps them in its own natural layout (graphc and PyTorch [out, in], JAX [in, out]). Each side imports its own
library alone: that is a part of the time to its first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from graphc.compiler import CompiledFunction
    from graphc.frontend.array import Array

Arrays = dict[str, np.ndarray]
Side = Callable[[], float]
RATE = 0.01


@dataclass(frozen=True)
class Workload:
    """A multilayer perceptron, its batch and its optimiser; classes are trained with cross-entropy, else MSE."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    optimizer: str = "momentum"  # or sgd, adam
    classes: bool = True

    @property
    def operations(self) -> float:
        """Floating-point operations of the products alone; the first layer's input needs no gradient."""
        return float(
            sum(2 * a * b * self.batch * (3 if i else 2) for i, (a, b) in enumerate(pairwise(self.sizes)))
        )


WORKLOADS = (
    Workload("MLP 64-128-128-10, batch 32, momentum", (64, 128, 128, 10), 32),
    Workload("MLP 784-512-512-10, batch 128, momentum", (784, 512, 512, 10), 128),
    Workload("logistic regression 784-10, batch 256, SGD", (784, 10), 256, optimizer="sgd"),
    Workload("MLP 1024-4096-1024, GELU, batch 256, Adam", (1024, 4096, 1024), 256, "gelu", "adam", False),
    # others, so that nothing is tuned to the list above
    Workload("MLP 256-256-256-256-10, tanh, batch 64, Adam", (256, 256, 256, 256, 10), 64, "tanh", "adam"),
    Workload("linear regression 32-1, batch 1024, SGD", (32, 1), 1024, optimizer="sgd", classes=False),
    Workload(
        "autoencoder 784-128-784, sigmoid, batch 64, Adam", (784, 128, 784), 64, "sigmoid", "adam", False
    ),
    Workload("MLP 100-1000-10, batch 100, momentum", (100, 1000, 10), 100),
    Workload("MLP 784-128-10, batch 1, SGD", (784, 128, 10), 1, optimizer="sgd"),
)


def start(w: Workload) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Parameters in PyTorch's layout and initialisation, a batch, its labels or targets."""
    rng = np.random.default_rng(0)
    parameters: Arrays = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(w.sizes)):
        bound = fan_in**-0.5
        parameters[f"weight{i}"] = rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)
        parameters[f"bias{i}"] = rng.uniform(-bound, bound, fan_out).astype(np.float32)
    x = rng.standard_normal((w.batch, w.sizes[0])).astype(np.float32)
    if w.classes:
        return parameters, x, rng.integers(0, w.sizes[-1], w.batch).astype(np.int32)
    return parameters, x, rng.standard_normal((w.batch, w.sizes[-1])).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- graphc


def graphc_step(w: Workload) -> tuple[Callable, tuple]:
    """The step as a Python function, and the arguments that it is compiled for."""
    import graphc
    from graphc.frontend import activations, losses
    from graphc.frontend.optim import SGD, Adam

    parameters, x, y = start(w)
    optimizer = Adam(RATE) if w.optimizer == "adam" else SGD(RATE, momentum=0.9 * (w.optimizer == "momentum"))
    layers = len(w.sizes) - 1

    def loss(p: dict[str, Array], x: Array, y: Array) -> Array:
        h = x
        for i in range(layers):
            h = h @ p[f"weight{i}"].T + p[f"bias{i}"]
            if i + 1 < layers:
                h = getattr(activations, w.activation)(h) if w.activation != "tanh" else graphc.tanh(h)
        return losses.cross_entropy(h, y) if w.classes else losses.mse(h, y)

    def step(p: dict[str, Array], state: dict[str, Array], x: Array, y: Array, rate: Array) -> tuple:
        value, gradients = graphc.value_and_grad(loss)(p, x, y)
        return value, *optimizer.update(p, gradients, state, rate)

    return step, (parameters, optimizer.init(parameters), x, y, np.float32(RATE))


def compiled_step(w: Workload, target: str = "cpu") -> tuple[CompiledFunction, tuple]:
    """The compiled step, and arguments for it."""
    import graphc

    step, arguments = graphc_step(w)
    return graphc.compile(step, *arguments, donate=("p", "state"), target=target), arguments


def graphc_side(w: Workload) -> tuple[Callable[[], None], Side]:
    """A call that makes a step, and one that makes a step and gives its loss."""
    compiled, arguments = compiled_step(w)
    bound = compiled.bind(*arguments)

    def step() -> float:
        bound()
        return float(bound.outputs[0])

    return bound, step


# --------------------------------------------------------------------------------------------------------------- peers


def jax_side(w: Workload, wait: bool = True) -> tuple[Callable[[], object], Side]:
    """The same for JAX: one jitted step whose parameters are donated and stay on the device; `wait` for each step."""
    import jax
    import jax.numpy as jnp

    parameters, x, y = start(w)
    parameters = {k: np.ascontiguousarray(v.T) if v.ndim == 2 else v for k, v in parameters.items()}
    layers = len(w.sizes) - 1
    activation = {
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "gelu": lambda v: jax.nn.gelu(v, approximate=False),
    }[w.activation]
    tree_map = jax.tree_util.tree_map

    def loss(p, x, y):  # type: ignore[no-untyped-def]
        h = x
        for i in range(layers):
            h = h @ p[f"weight{i}"] + p[f"bias{i}"]
            if i + 1 < layers:
                h = activation(h)
        if w.classes:
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], axis=1))
        return jnp.mean((h - y) ** 2)

    def step(p, state, x, y, rate):  # type: ignore[no-untyped-def]
        value, g = jax.value_and_grad(loss)(p, x, y)
        if w.optimizer == "adam":
            t = state["t"] + 1
            m = tree_map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], g)
            v = tree_map(lambda v, g: 0.999 * v + 0.001 * g * g, state["v"], g)
            c1, c2 = 1 - 0.9**t, 1 - 0.999**t
            p = tree_map(lambda p, m, v: p - rate * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), p, m, v)
            return value, p, {"m": m, "v": v, "t": t}
        if w.optimizer == "momentum":
            state = g = tree_map(lambda m, g: 0.9 * m + g, state, g)
        return value, tree_map(lambda p, g: p - rate * g, p, g), state

    zeros = tree_map(np.zeros_like, parameters)
    state = {"m": zeros, "v": zeros, "t": np.float32(0)} if w.optimizer == "adam" else zeros
    jitted = jax.jit(step, donate_argnums=(0, 1))
    held = [jax.device_put(parameters), jax.device_put(tree_map(np.copy, state))]
    fixed = [jax.device_put(v) for v in (x, y, np.float32(RATE))]

    def run() -> object:
        value, held[0], held[1] = jitted(held[0], held[1], *fixed)
        return jax.block_until_ready((value, held))[0] if wait else value

    return run, lambda: float(run())  # type: ignore[arg-type]


def torch_side(
    w: Workload, device: str = "cpu", mode: str | None = None
) -> tuple[Callable[[], object], Side]:
    """The same for PyTorch, forward, backward and update under torch.compile in one of its modes."""
    import torch

    torch.set_num_threads(1)
    arrays, x, y = start(w)
    parameters = {k: torch.tensor(v, requires_grad=True, device=device) for k, v in arrays.items()}
    batch = torch.tensor(x, device=device)
    labels = torch.tensor(y.astype(np.int64) if w.classes else y, device=device)
    layers = len(w.sizes) - 1
    functional = torch.nn.functional
    activation = {
        "relu": functional.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": functional.gelu,
    }[w.activation]  # fmt: skip
    values = list(parameters.values())
    if w.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(values, lr=torch.tensor(RATE, device=device))
    else:
        optimizer = torch.optim.SGD(values, lr=RATE, momentum=0.9 * (w.optimizer == "momentum"))

    @partial(torch.compile, mode=mode)
    def step() -> torch.Tensor:
        h = batch
        for i in range(layers):
            h = functional.linear(h, parameters[f"weight{i}"], parameters[f"bias{i}"])
            if i + 1 < layers:
                h = activation(h)
        value = functional.cross_entropy(h, labels) if w.classes else functional.mse_loss(h, labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step, lambda: float(step().detach())


# --------------------------------------------------------------------------------------------------------------- judge


def exact_losses(w: Workload, steps: int) -> list[float]:
    """The losses of the first steps in float64, by the interpreter: the judge of all sides."""
    import graphc

    step, arguments = graphc_step(w)
    graph = graphc.trace(step, *arguments)
    flat: list[np.ndarray] = [
        np.asarray(v, np.float64) if np.asarray(v).dtype.kind == "f" else np.asarray(v)
        for a in arguments
        for v in (a.values() if isinstance(a, dict) else (a,))
    ]
    found = []
    for _ in range(steps):
        value, *rest = graphc.interpret(graph, flat, float64=True)
        found.append(float(value))
        flat[: len(rest)] = rest
    return found


def check(side: str, w: Workload, found: list[float], exact: list[float]) -> None:
    """Raises where a side's losses are wrong: a fast wrong answer is not timed."""
    if not np.allclose(found, exact, rtol=2e-4, atol=1e-6):
        raise ValueError(f"{side}: {w.name}: expected the losses {exact}, got {found}")
