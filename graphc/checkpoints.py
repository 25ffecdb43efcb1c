"""Checkpoints: all that a training needs to go on as if it had never stopped.

In: a `Run`. Out: one safetensors file with weights, buffers, the optimiser's state, the random key, the order of the rows
to come, and how far the training got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphc.callbacks import Callback, Run
from graphc.errors import ArgumentError, ArtifactError
from graphc.frontend.checks import is_integer
from graphc.ir.types import TensorType, dtype_of
from graphc.weights import load_weights, save_weights


@dataclass(eq=False)
class Checkpoint(Callback):
    """Writes a file after every `every`-th epoch, from which ``fit(resume=path)`` goes on, to the bit.

    The file appears whole or not at all. Callbacks that come later in the list may change weights after it was written.
    Raises `ArgumentError` where `every` is no integer of at least 1, `ArtifactError` where the file can't be written.

    >>> Checkpoint("digits.safetensors", every=5).every
    5
    """

    path: str | os.PathLike[str]
    every: int = 1

    def __post_init__(self) -> None:
        if not is_integer(self.every, least=1):
            raise ArgumentError(f"Checkpoint: every: expected an integer of at least 1, got {self.every!r}")

    def epoch(self, run: Run) -> None:
        if run.epoch % self.every == 0:
            run.fetch_all()
            save_weights(_contents(run), self.path)


def _parts(run: Run) -> dict[str, Mapping[str, np.ndarray]]:
    return {"params": run.params, "buffers": run.buffers, "state": run.state, "random": run.random}


def _contents(run: Run) -> dict[str, np.ndarray]:
    arrays = {f"{part}.{n}": a for part, named in _parts(run).items() for n, a in named.items()}
    order = json.dumps(run.order.bit_generator.state).encode()
    return {
        **arrays,
        "run.epoch": np.array(run.epoch, np.int64),
        "run.learning_rate": np.array(run.learning_rate, np.float64),
        "run.order": np.frombuffer(order, np.uint8),
    }


def restore(run: Run, path: str | os.PathLike[str]) -> None:
    """Puts a checkpoint's contents into a run.

    Raises `ArtifactError` that lists every name, shape and data type that is not the run's, and changes nothing then.
    """
    found = load_weights(path)
    wanted = {f"{part}.{name}": a for part, named in _parts(run).items() for name, a in named.items()}
    extra = {"run.epoch", "run.learning_rate", "run.order"}
    missing = [name for name in (*wanted, *sorted(extra)) if name not in found]
    unknown = [name for name in found if name not in wanted and name not in extra]
    problems = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(
        unknown
    )
    for name, array in wanted.items():
        if name in found and (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            types = [TensorType(dtype_of(a.dtype), a.shape) for a in (array, found[name])]
            problems.append(f"{name}: expected {types[0]!r}, got {types[1]!r}")
    if problems:
        raise ArtifactError(
            f"{path}: resume: expected a checkpoint of this model and optimiser: {'; '.join(problems)}"
        )
    try:
        run.order.bit_generator.state = json.loads(found["run.order"].tobytes())
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{path}: resume: expected the state of a random generator, got {error}"
        ) from None
    for name, array in wanted.items():
        np.copyto(array, found[name])
    run.epoch, run.learning_rate = int(found["run.epoch"]), float(found["run.learning_rate"])
