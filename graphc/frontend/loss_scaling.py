"""Dynamic loss scaling: gradients in f16 are kept away from 0 by a factor that follows them.

In: a loss, gradients, updates. Out: the same with the factor put on, taken off, and adapted. All of it is array functions:
a step with scaling is still one compiled function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.types import f32, i32

Arrays = Mapping[str, Array]
_SCALE, _GOOD = "loss_scale", "good_steps"


@dataclass(frozen=True)
class LossScaling:
    """The factor s on the loss, so that its gradients, s times as large, are not rounded to 0 in f16.

    It begins at `initial`. A step whose gradients are all finite is done with the gradients over s; after `interval` such
    steps in a row s doubles. A step with an infinity or a NaN in a gradient changes no weight, no buffer and no state of
    the optimiser, and halves s. s stays within 1 and 2^24. Its state is kept beside the optimiser's, as the f32 scalar
    ``loss_scale`` and the i32 scalar ``good_steps``. Micikevicius et al., Mixed Precision Training, ICLR 2018, 3.2; the
    numbers are those of PyTorch's GradScaler.

    >>> LossScaling().init()
    {'loss_scale': array(65536., dtype=float32), 'good_steps': array(0, dtype=int32)}
    """

    initial: float = 2.0**16
    interval: int = 2000
    largest: float = 2.0**24

    def init(self) -> dict[str, np.ndarray]:
        """The state before the first step."""
        return {_SCALE: np.array(self.initial, f32.numpy), _GOOD: np.zeros((), i32.numpy)}

    @staticmethod
    def split(state: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
        """The scaling's own state, and the optimiser's."""
        own = {name: state[name] for name in (_SCALE, _GOOD)}
        return own, {name: array for name, array in state.items() if name not in own}

    def scaled(self, loss: Array, own: Arrays) -> Array:
        """The loss that is differentiated."""
        return loss * F.astype(own[_SCALE], loss.dtype)

    def unscaled(self, grads: Arrays, own: Arrays) -> tuple[dict[str, Array], Array]:
        """The gradients of the loss itself, and whether all of them are finite."""
        finite = F.all(F.stack([F.all(F.isfinite(grad)) for grad in grads.values()]))
        inverse = 1 / own[_SCALE]  # a power of two, as the scale is
        return {name: grad * F.astype(inverse, grad.dtype) for name, grad in grads.items()}, finite

    @staticmethod
    def kept(finite: Array, new: Arrays, old: Arrays) -> dict[str, Array]:
        """What a step makes of these arrays: the new ones if it counts, else the old ones."""
        return {name: F.where(finite, array, old[name]) for name, array in new.items()}

    def adapted(self, own: Arrays, finite: Array) -> dict[str, Array]:
        """The state after a step."""
        scale, good = own[_SCALE], own[_GOOD] + 1
        grown = good >= self.interval
        more = F.where(grown, F.minimum(scale * 2, self.largest), scale)
        less = F.maximum(scale * 0.5, 1.0)
        return {
            _SCALE: F.where(finite, more, less),
            _GOOD: F.where(finite & ~grown, good, F.zeros_like(good)),
        }
