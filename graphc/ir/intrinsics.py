"""The targets' own operations: what each means in numpy, by LLVM's name. One table for verifier, interpreter and emitter.

In: a name. Out: a function of arrays. A target's allow-list (`codegen.target`) says which of them it has.

An *exchange* looks at the values of other threads: all threads of a block reach it together, as they do a barrier, and
its meaning gets one value a thread, in the order of the threads (x fastest), of a whole block, and gives one result or
a row of results a thread. It stands alone in a `let` or an `exchange`, so that there is one place where threads meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from graphc.ir.tensor_cores import CONVERSION_MEANINGS, PRODUCT_MEANINGS

WARP = 32  # threads that run in step
Meaning = Callable[..., np.ndarray]

# arguments and result have one value a lane or are uniform
INTRINSICS: dict[str, Meaning] = {
    "llvm.fabs": np.abs,
    "llvm.copysign": np.copysign,
    "llvm.ctpop": lambda x: np.asarray(sum((x >> bit) & 1 for bit in range(8 * x.dtype.itemsize))).astype(
        x.dtype
    ),
    **CONVERSION_MEANINGS,
}


def _shuffled(source: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Meaning:
    """PTX's ``shfl.sync`` (PTX ISA, 9.7.9): a lane whose source is outside of its segment keeps its own value.

    Of the last operand, bits 0 to 4 clamp the source and bits 8 to 12 give the segment's mask.
    """

    def meaning(member: np.ndarray, x: np.ndarray, delta: np.ndarray, clamp: np.ndarray) -> np.ndarray:
        threads = np.arange(len(x))
        lane = threads % WARP
        if (member != -1).any():
            raise ValueError(f"a shuffle of all lanes, got the mask {int(member[0])}")
        segment, bound = (clamp >> 8) & 31, clamp & 31
        low, high = lane & segment, (lane & segment) | (bound & ~segment)
        wanted = source(lane, delta & 31, low)
        inside = np.where(bound == 0, wanted >= high, wanted <= high)  # only `up` has bound 0
        origin = threads - lane + np.where(inside, wanted, lane)
        if (origin >= len(x)).any():
            raise ValueError(f"a block of whole warps, got {len(x)} threads")
        return np.asarray(x[origin])

    return meaning


_SHUFFLES: Mapping[str, Meaning] = {
    "bfly": _shuffled(lambda lane, delta, low: lane ^ delta),
    "down": _shuffled(lambda lane, delta, low: lane + delta),
    "up": _shuffled(lambda lane, delta, low: lane - delta),
    "idx": _shuffled(lambda lane, delta, low: low | delta),
}

EXCHANGES: Mapping[str, Meaning] = MappingProxyType(
    {
        f"llvm.nvvm.shfl.sync.{mode}.{kind}": meaning
        for mode, meaning in _SHUFFLES.items()
        for kind in ("f32", "i32")
    }
    | dict(PRODUCT_MEANINGS)
)
