"""Tiles of a product on a device with threads: which there are, what each costs by a stated model, the cheapest one.

In: a `Product`, a `Device`. Out: a `Tiling`. No measurement: every number is one of the device's table or a named
constant, so a choice is the same on every machine. Results depend on the tile only through the order of a sum over
chunks of the summed dimension, never on the device's load.

The model. Blocks are dealt out to multiprocessors in rounds of as many as are resident together (the scarcest of
registers, shared memory, threads and blocks decides: CUDA Occupancy Calculator). A round goes through the summed
dimension in steps of a tile's depth. What a step of r resident blocks takes, in cycles:

- its multiply-adds over the multiprocessor's rate, of which each resident warp has an eighth at most (two for each of
  the four schedulers: one waits for shared memory while the other one multiplies),
- the wavefronts of its loads from shared memory (128 bytes a cycle),
- the bytes that it fetches over the multiprocessor's share of the second cache's bandwidth,
- the instructions that copy them.

The largest counts, and `_EXPOSED` of the others, which it doesn't quite hide. No step is shorter than memory's latency
over the tiles that are under way (one less than the stages); each ends with a barrier. The last round holds what is
left: its blocks have the multiprocessors to themselves, but are fewer. No product takes less than its operands and
results need to come from memory once (the roofline: Williams, Waterman and Patterson, Communications of the ACM 52(4),
2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from graphc.codegen.schedules.gpu.model import resident_blocks
from graphc.codegen.schedules.operands import Product, Side
from graphc.codegen.target import Device, Precision

VECTOR = 4  # f32 elements of a 16-byte access
WORD_ELEMENTS: dict[Precision, int] = {"f32": 1, "tf32": 1, "f16": 2, "bf16": 2}  # of the summed dimension
FRAGMENT = (
    8  # rows, columns and words of the smallest parts of a tensor-core product: it is 16 x 8 over 8 words
)

_BARRIER = 40.0  # cycles of a barrier, a wait and the first loads from shared memory after it
LATENCY = 600.0  # cycles until memory answers
_START = 1500.0  # cycles of a block before its first step and after its last one
LAUNCH = 3000.0  # cycles of a launch
_WAVEFRONTS = 2  # of a warp's 16-byte load: many of its lanes read the same address
_COPY = 4.0  # cycles of a warp's copy to shared memory, with its addresses
_EXPOSED = 0.25
_WARPS = 8  # that keep a multiprocessor's arithmetic busy
_OTHER_REGISTERS = 48  # of a thread: addresses, counters, what the compiler keeps
_LARGEST_ACCUMULATORS = 64


@dataclass(frozen=True)
class Work:
    """A product's sizes as the model sees them."""

    rows: int
    columns: int
    depth: int  # of the sum
    batches: int
    row_width: int  # elements that one access brings to shared memory
    column_width: int
    moved: int  # bytes of operands and results
    precision: Precision = "f32"
    swapped: bool = False  # the right operand's free dimension is the rows
    row_along: int = 0  # elements of one access along the sum; 0 where they aren't neighbours in memory
    column_along: int = 0


@dataclass(frozen=True)
class Tiling:
    """A block's tile of the result and of the summed dimension, and a thread's part of it.

    With tensor cores a warp has a tile of its own, of 8 times a thread's rows by 4 times a thread's columns.

    >>> Tiling(64, 64, 16, 4, 4).threads
    256
    """

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    stages: int = 2
    precision: Precision = "f32"
    swapped: bool = False

    @property
    def threads(self) -> int:
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)

    @property
    def words(self) -> int:
        """Of the summed dimension in shared memory."""
        return self.depth // WORD_ELEMENTS[self.precision]

    @property
    def pad(self) -> int:
        """Words behind each row of a tile: what is stored along a column is spread over banks (of 16 words, two to a
        bank), what is read as a fragment is in different ones."""
        return VECTOR if self.precision == "f32" else FRAGMENT

    @property
    def shared_bytes(self) -> int:
        return 4 * self.stages * self.words * (self.rows + self.columns + 2 * self.pad)

    @property
    def registers(self) -> int:
        """An estimate, of one thread."""
        cells = self.thread_rows * self.thread_columns + self.thread_rows + self.thread_columns
        fetched = 0
        if self.precision != "f32":  # elements are in registers on their way to shared memory
            fetched = -(-self.depth * (self.rows + self.columns) // self.threads)
        return cells + fetched + _OTHER_REGISTERS

    def blocks(self, work: Work) -> int:
        return work.batches * -(-work.rows // self.rows) * -(-work.columns // self.columns)


def work_of(product: Product, precision: Precision = "f32", swapped: bool | None = None) -> Work:
    """A product's sizes. Of a matrix times a vector the long dimension is the columns, which threads share out."""
    left, right = product.left, product.right
    swapped = _extent(right) == 1 if swapped is None else swapped
    rows, columns = (right, left) if swapped else (left, right)
    operands = left.value.type.size + right.value.type.size
    moved = 4 * (operands + product.accesses * product.result.type.size)
    return Work(
        _extent(rows), _extent(columns), product.depth, math.prod(product.batches), _width(rows), _width(columns),
        moved, precision, swapped, _along(rows), _along(columns),
    )  # fmt: skip


def _extent(side: Side) -> int:
    return math.prod(side.value.shape[d] for d in side.free)


def _width(side: Side) -> int:
    """Elements of one access, roughly: `staging.Staging.width` knows."""
    return VECTOR if side.free_stride == 1 and side.extent % VECTOR == 0 else 1


def _along(side: Side) -> int:
    """Elements of one access along the sum, where neighbours there are neighbours in memory."""
    if side.summed_stride != 1:
        return 0
    others = (s for d, s in enumerate(side.strides) if d != side.summed[-1])
    whole = side.value.shape[side.summed[-1]] % VECTOR == 0 and all(
        s is not None and s % VECTOR == 0 for s in others
    )
    return VECTOR if whole else 1


def tilings(device: Device, precision: Precision) -> Iterator[Tiling]:
    """All tiles that a device holds: powers of two, whole warps, at most a quarter of a thousand threads."""
    tensor = precision != "f32"
    words = WORD_ELEMENTS[precision]
    for thread_rows in (2, 4, 8) if tensor else (1, 2, 4, 8):
        for thread_columns in (2, 4, 8, 16) if tensor else (4, 8):
            # what a warp has at least
            least = (FRAGMENT * thread_rows, thread_columns * 4) if tensor else (thread_rows, thread_columns)
            if thread_rows * thread_columns > _LARGEST_ACCUMULATORS:
                continue
            for rows in (1, 2, 4, 8, 16, 32, 64, 128):
                for columns in (16, 32, 64, 128, 256):
                    if rows % least[0] or columns % least[1]:
                        continue
                    for depth in (8, 16, 32):
                        for stages in (2, 3, 4):
                            tiling = Tiling(
                                rows, columns, depth * words, thread_rows, thread_columns, stages, precision
                            )
                            if (
                                tiling.threads % device.warp == 0
                                and tiling.threads <= 256
                                and tiling.shared_bytes <= device.shared_bytes_per_block
                            ):
                                yield tiling


def cost(tiling: Tiling, work: Work, device: Device) -> float:
    """Cycles that the product takes by the model."""
    steps = -(-work.depth // tiling.depth)
    resident = resident_blocks(device, tiling.threads, tiling.registers, tiling.shared_bytes)
    rounds, left_over = divmod(tiling.blocks(work), device.multiprocessors * resident)
    cycles = rounds * (_START + steps * _step(tiling, work, device, resident))
    if left_over:
        cycles += _START + steps * _step(tiling, work, device, -(-left_over // device.multiprocessors))
    return LAUNCH + max(cycles, work.moved / device.memory_bytes)


def _step(tiling: Tiling, work: Work, device: Device, resident: int) -> float:
    """Cycles of a step of the summed dimension, of all resident blocks together."""
    warps = tiling.threads / device.warp
    busy = min(1.0, resident * warps / _WARPS)
    rate = device.multiply_adds_of(work.precision)
    multiply_adds = tiling.rows * tiling.columns * tiling.depth / (busy * rate)
    vectors = tiling.thread_rows / min(tiling.thread_rows, VECTOR) + tiling.thread_columns / VECTOR
    if work.precision == "f32":
        wavefronts = warps * tiling.depth * vectors * _WAVEFRONTS
    else:  # a fragment of 8 x 8 words is two loads of 32 words
        wavefronts = warps * tiling.words / 4 * (tiling.thread_rows + tiling.thread_columns / 2)
    fetched = 4 * tiling.depth * (tiling.rows + tiling.columns) / device.cache_bytes
    pieces = tiling.depth * (tiling.rows / work.row_width + tiling.columns / work.column_width)
    parts = (multiply_adds, wavefronts, fetched, pieces / device.warp * _COPY)
    cycles = resident * (max(parts) + _EXPOSED * (sum(parts) - max(parts)))
    return max(cycles, LATENCY / (tiling.stages - 1)) + _BARRIER


@lru_cache(maxsize=1024)
def choose_tiling(work: Work, device: Device) -> Tiling:
    """The cheapest tiling; of equal ones the one that does least for nothing."""
    return replace(
        min(
            _tilings(device, work.precision),
            key=lambda t: (cost(t, work, device), _volume(t, work), t.shared_bytes),
        ),
        swapped=work.swapped,
    )


def _volume(tiling: Tiling, work: Work) -> int:
    """Multiply-adds, of what is beyond the edges too."""
    steps = -(-work.depth // tiling.depth)
    return tiling.blocks(work) * steps * tiling.rows * tiling.columns * tiling.depth


@lru_cache(maxsize=16)
def _tilings(device: Device, precision: Precision) -> tuple[Tiling, ...]:
    return tuple(tilings(device, precision))
