"""Entries of an exported library: which functions it has, for which types.

In: functions, or a model with its loss and optimiser. Out: `Entry` objects by name, for `graphc.export` and
`graphc build`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args, get_origin

import numpy as np

from graphc.compiler import CompiledFunction
from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend import random
from graphc.frontend.array import Array
from graphc.frontend.modules import Module
from graphc.frontend.optim import Optimizer
from graphc.frontend.tracer import function_name, type_of
from graphc.frontend.tree import flatten
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType, dtype_of, i64, u32
from graphc.training_metrics import Metrics, Scalar, chosen_metrics
from graphc.training_task import Task

Arrays = dict[str, Array]
Function = Callable[..., object] | Graph | CompiledFunction


@dataclass(frozen=True, eq=False)
class Entry:
    """One function of a library: what is compiled, the types of its arguments, and which of them it updates in place.

    Without `specs`, they are what the function's annotations say. `doc` is what the header says of it; by default the
    first line of the function's docstring. `weights` are the arrays that a graph's last inputs are by default: what
    ``export(weights="embedded")`` makes constants, as it does with the parameters of a model that a function calls.

    >>> from graphc.ir.types import f32
    >>> Entry(lambda w, g: {"w": w - g}, [f32[3], f32[3]], donate=["w"]).donate
    ['w']
    """

    function: Function
    specs: Sequence[object] = ()
    donate: Sequence[str | int] = ()
    doc: str = ""
    weights: Sequence[np.ndarray] = ()

    @property
    def name(self) -> str:
        """What the entry is called where no name is given."""
        if isinstance(self.function, CompiledFunction):
            return self.function.graph.name
        return self.function.name if isinstance(self.function, Graph) else function_name(self.function)

    @property
    def description(self) -> str:
        """A sentence on what it computes, or nothing."""
        if self.doc or isinstance(self.function, (Graph, CompiledFunction, Module)):
            return self.doc
        return (inspect.getdoc(self.function) or "").strip().partition("\n")[0]


def annotated_specs(fn: Callable[..., object]) -> list[object]:
    """The types that a function's annotations give its arguments: ``x: f32[32, 64]`` or ``Annotated[Array, f32[32, 64]]``.

    Dicts, lists and tuples of types are good too. Raises `ArgumentError` for an argument without one.

    >>> from graphc.ir.types import f32
    >>> def double(x: f32[3]): return 2 * x
    >>> annotated_specs(double)
    [f32[3]]
    """
    call = fn.forward if isinstance(fn, Module) else fn
    name = function_name(fn)
    try:
        parameters = inspect.signature(call, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise ArgumentError(f"{name}: expected annotations that can be read, got {error}") from None
    specs: list[object] = []
    for parameter in parameters:
        found = parameter.annotation
        if get_origin(found) is Annotated:
            found = next((a for a in get_args(found)[1:] if _is_spec(a)), found)
        if not _is_spec(found):
            shown = "none" if found is parameter.empty else repr(found)
            raise ArgumentError(
                f"{name}: {parameter.name}: expected specs, or a type as annotation (as in x: graphc.f32[32, 64]), "
                f"got {shown}"
            )
        specs.append(found)
    return specs


def _is_spec(found: object) -> bool:
    if isinstance(found, dict):
        return all(_is_spec(v) for v in found.values())
    if isinstance(found, (list, tuple)):
        return all(_is_spec(v) for v in found)
    return isinstance(found, (TensorType, np.ndarray))


def training_entries(
    model: Module,
    loss: Scalar,
    optimizer: Optimizer,
    batch: tuple[object, object],
    *,
    metrics: Metrics = None,
) -> dict[str, Entry]:
    """The usual entries of a model: `init`, `predict`, `loss`, `grads` and `train_step`.

    `init` draws weights from a seed and gives the optimiser's first state. `batch` is the types (or examples) of one
    batch of inputs and targets, or nests of them as `fit` takes them. Weights, buffers and the optimiser's state are
    arguments, each by its name (``params.0.weight``, ``state.momentum.0.weight``); `train_step` updates them in place.
    `metrics` are as those of `fit`, computed beside the loss. Raises `ArgumentError` where the batch is no pair.

    >>> from graphc import f32, i32, nn, optim
    >>> list(training_entries(nn.Linear(4, 2), nn.cross_entropy, optim.SGD(0.1), (f32[8, 4], i32[8])))
    ['init', 'predict', 'loss', 'grads', 'train_step']
    """
    if not isinstance(batch, tuple) or len(batch) != 2 or any(_types(part) is None for part in batch):
        raise ArgumentError(
            f"training_entries: batch: expected the types of inputs and targets, as in (f32[32, 64], i32[32]), got {batch!r}"
        )
    x, y = (_types(part) for part in batch)
    entries = model.entries
    params = {name: entry.type for name, entry in entries.items() if entry.trained}
    buffers = {name: entry.type for name, entry in entries.items() if not entry.trained}
    task = Task(model, loss, optimizer, chosen_metrics(metrics))
    zeros = {n: np.zeros(t.shape, t.dtype.numpy) for n, t in task.chosen(params).items()}
    first_state = optimizer.init(zeros)
    state = {name: TensorType(dtype_of(array.dtype), array.shape) for name, array in first_state.items()}
    rate = TensorType(model.dtype, ())

    # the key of a model that draws random numbers in training, as of dropout
    keys = {"key": u32[2]} if task.draws(x) else {}

    copies = _copies_of_parameters(optimizer, zeros)

    def init(seed: Array) -> dict[str, object]:
        new_params, new_buffers = model.init(random.key(seed))
        copied = {slot: new_params[name] for slot, name in copies.items()}
        return {
            "params": new_params,
            "buffers": new_buffers,
            "state": {n: copied[n] if n in copied else F.asarray(a) for n, a in first_state.items()},
            "random": {name: random.fold_in(random.key(seed), 1) for name in keys},
        }

    def predict(params: Arrays, buffers: Arrays, x: Array) -> Arrays:
        return {"prediction": task.predict(params, buffers, x)}

    def grads(params: Arrays, buffers: Arrays, random: Arrays, x: Array, y: Array) -> dict[str, object]:
        gradients, _, new_random, numbers = task.gradients(params, buffers, random, x, y)
        return {**numbers, "random": new_random, "grads": gradients}

    def train_step(
        params: Arrays,
        buffers: Arrays,
        state: Arrays,
        random: Arrays,
        learning_rate: Array,
        x: Array,
        y: Array,
    ) -> dict[str, object]:
        *new, numbers = task.step(params, buffers, state, random, learning_rate, x, y)
        return {**dict(zip(("params", "buffers", "state", "random"), new, strict=True)), **numbers}

    numbers = " and ".join(("loss", *task.metrics))
    return {
        "init": Entry(init, (i64[()],), doc="First weights, drawn from a seed, and the first state of the optimiser."),
        "predict": Entry(predict, (params, buffers, x), doc="What the model predicts for a batch."),
        "loss": Entry(task.evaluate, (params, buffers, x, y), doc=f"The {numbers} of a batch, without a step."),
        "grads": Entry(grads, (params, buffers, keys, x, y), ("random",) if keys else (),
                       doc=f"The {numbers} of a batch, and the gradient of the loss by each parameter."),
        "train_step": Entry(train_step, (params, buffers, state, keys, rate, x, y),
                            ("params", "buffers", "state", "random"),
                            doc=f"One step of training: updates weights and state in place, gives the {numbers}."),
    }  # fmt: skip


def _types(nest: object) -> object:
    """A nest of types or examples as one of types; None where there is none, or something else is in it."""
    leaves, structure = flatten(nest)
    types = [type_of(leaf) for leaf in leaves]
    return None if not types or None in types else structure.unflatten(types)


def _copies_of_parameters(optimizer: Optimizer, zeros: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The arrays of an optimiser's first state that are copies of parameters, and of which: averages begin so."""
    first = optimizer.init(zeros)
    other = optimizer.init({name: np.ones_like(array) for name, array in zeros.items()})
    changed = [slot for slot, array in first.items() if not np.array_equal(array, other[slot])]
    return {slot: max((n for n in zeros if slot.endswith(f".{n}")), key=len) for slot in changed}
