"""Random bits: both words of the block function Threefry-2x32-20 (`ir.threefry`), an op each.

In: `pointwise` of `ir.opdef`. Out: registered ops. A block is a pure function of a key and a counter, so that numbers
are the same in the interpreter, for every vector width and in exported objects, whatever is computed first.
"""

from __future__ import annotations

import numpy as np

from graphc.ir.opdef import pointwise, span
from graphc.ir.threefry import PARITY, ROTATIONS, ROUNDS
from graphc.ir.types import u32


def _reference(position: int, *words: np.ndarray) -> np.ndarray:
    """A word of the block in 64-bit arithmetic, by groups of four rounds: stated again to test the primitive."""
    low = np.uint64(0xFFFFFFFF)
    a, b, x, y = (np.asarray(v).astype(np.uint64) for v in words)
    schedule = [a, b, a ^ b ^ np.uint64(PARITY)]
    x, y = (x + a) & low, (y + b) & low
    for group in range(1, ROUNDS // 4 + 1):
        for rotation in ROTATIONS[:4] if group % 2 else ROTATIONS[4:]:
            turned = (y << np.uint64(rotation)) & low | y >> np.uint64(32 - rotation)
            x = (x + y) & low
            y = turned ^ x
        x = (x + schedule[group % 3]) & low
        y = (y + schedule[(group + 1) % 3] + np.uint64(group)) & low
    result: np.ndarray = (x, y)[position].astype(np.uint32)
    return result


_BITS = "random bits have no slope"
threefry0 = pointwise(
    "threefry0",
    expr=lambda s, key0, key1, count0, count1: s.threefry0(key0, key1, count0, count1),
    ref=lambda *words: _reference(0, *words),
    samples=span(0, 2**32 - 1),
    dtypes=(u32,),
    doc="The first word of the block Threefry-2x32-20 for a key and a counter of two words each.",
    no_derivative=_BITS,
)
threefry1 = pointwise(
    "threefry1",
    expr=lambda s, key0, key1, count0, count1: s.threefry1(key0, key1, count0, count1),
    ref=lambda *words: _reference(1, *words),
    samples=span(0, 2**32 - 1),
    dtypes=(u32,),
    doc="The second word of the block Threefry-2x32-20.",
    no_derivative=_BITS,
)
