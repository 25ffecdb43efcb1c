"""What training changes, and copies of it: weights, buffers, the optimiser's state, on the host and on a device.

In: the arrays of a `Run`. Out: memory for the compiled step, and ways back to weights that were good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from graphc.callbacks import Run
from graphc.compiler import is_cuda
from graphc.frontend.parameters import Parameter
from graphc.runtime.executable import aligned_empty

if TYPE_CHECKING:
    from graphc.runtime.cuda import DeviceArray

NumPy = dict[str, np.ndarray]


class Memory:
    """What training changes, where its steps run: weights, buffers, the optimiser's state.

    On a device they stay between steps. The arrays of `run` are what the host sees of them: `fetch` brings weights and
    buffers up to date, `fetch_all` the rest too, `send` what a callback wrote there. On the processor both are the same
    arrays. `judged` are the weights with which the model is evaluated.
    """

    def __init__(self, run: Run, target: str) -> None:
        self.params: Mapping[str, object] = run.params
        self.buffers: Mapping[str, object] = run.buffers
        self.state: Mapping[str, object] = run.state
        self.random: Mapping[str, object] = run.random  # the key of a model that draws random numbers
        self._near: list[tuple[DeviceArray, np.ndarray]] = []
        self._rest: list[tuple[DeviceArray, np.ndarray]] = []
        if is_cuda(target):
            from graphc.runtime.cuda import asarray

            hosts = (run.params, run.buffers, run.state, run.random)
            on_device = [{name: asarray(a) for name, a in arrays.items()} for arrays in hosts]
            self.params, self.buffers, self.state, self.random = on_device
            seen = set(run.judged.values())
            for position, (arrays, names) in enumerate(zip(on_device, hosts)):
                for name, host in names.items():
                    near = position < 2 or (position == 2 and name in seen)
                    (self._near if near else self._rest).append((arrays[name], host))
        self.judged = {
            name: self.state[run.judged[name]] if name in run.judged else array
            for name, array in self.params.items()
        }

    def fetch(self) -> None:
        for array, host in self._near:
            array.numpy(out=host)

    def fetch_all(self) -> None:
        for array, host in [*self._near, *self._rest]:
            array.numpy(out=host)

    def send(self) -> None:
        for array, host in self._near:
            array.copy_from(host)


class LastGood:
    """Copies of the weights from which training can be taken up again after it diverged.

    Weights count as good once a step from them gave a finite loss; until then the ones before them are kept too.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._good = run.keep()
        self._proposed: NumPy | None = None

    def propose(self) -> None:
        """The weights now, at the end of an epoch, may be good."""
        self._proposed = self._run.keep()

    def confirm(self) -> None:
        """A step from the proposed weights gave a finite loss."""
        if self._proposed is not None:
            self._good, self._proposed = self._proposed, None

    def restore(self) -> None:
        self._run.restore(self._good)


def aligned(arrays: Mapping[str, np.ndarray]) -> NumPy:
    """Copies whose vectors lie within cache lines, which NumPy's own memory does not promise."""
    copies = {name: aligned_empty(array.shape, array.dtype) for name, array in arrays.items()}
    for name, copy in copies.items():
        copy[...] = arrays[name]
    return copies


def publish(entries: Mapping[str, Parameter], run: Run) -> None:
    """Copies weights and buffers into the model's own arrays: those with which it is evaluated."""
    weights = run.weights
    for name, entry in entries.items():
        np.copyto(entry.array, weights[name] if entry.trained else run.buffers[name])
