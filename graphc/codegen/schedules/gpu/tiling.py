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

from graphc.codegen.schedules.gpu.model import resident_blocks
from graphc.codegen.schedules.operands import Product, Side
from graphc.codegen.target import Device

VECTOR = 4  # f32 elements of a 16-byte access
_BARRIER = 40.0  # cycles of a barrier, a wait and the first loads from shared memory after it
_LATENCY = 600.0  # cycles until memory answers
_START = 1500.0  # cycles of a block before its first step and after its last one
_LAUNCH = 3000.0  # cycles of a launch
_WAVEFRONTS = 2  # of a warp's 16-byte load: many of its lanes read the same address
_COPY = 4.0  # cycles of a warp's copy to shared memory, with its addresses
_EXPOSED = 0.25
_WARPS = 8  # that keep a multiprocessor's arithmetic busy
_OTHER_REGISTERS = 40  # of a thread: addresses, counters, what the compiler keeps
_LARGEST_ACCUMULATORS = 64


@dataclass(frozen=True)
class Tiling:
    """A block's tile of the result and of the summed dimension, and a thread's part of it.

    >>> Tiling(64, 64, 16, 4, 4).threads
    256
    """

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    stages: int = 2
    swapped: bool = False  # the right operand's free dimension is the rows

    @property
    def threads(self) -> int:
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)

    @property
    def shared_bytes(self) -> int:
        return 4 * self.stages * self.depth * (self.rows + self.columns + 2 * PAD)

    @property
    def registers(self) -> int:
        """An estimate, of one thread."""
        cells = self.thread_rows * self.thread_columns + self.thread_rows + self.thread_columns
        fetched = -(-self.depth * (self.rows + self.columns) // self.threads)
        return cells + fetched + _OTHER_REGISTERS

    def blocks(self, rows: int, columns: int, batches: int) -> int:
        return batches * -(-rows // self.rows) * -(-columns // self.columns)


PAD = 4  # words behind each row of a tile, so that what is stored along a column falls into different banks


def sizes(product: Product, swapped: bool) -> tuple[int, int, int, int]:
    """Rows, columns, summed elements and batches of a product."""
    left, right = (
        math.prod(side.value.shape[d] for d in side.free) for side in (product.left, product.right)
    )
    rows, columns = (right, left) if swapped else (left, right)
    return rows, columns, product.depth, math.prod(product.batches)


def tilings(device: Device) -> Iterator[Tiling]:
    """All tiles that a device holds: powers of two, whole warps, at most a quarter of a thousand threads."""
    for thread_rows in (1, 2, 4, 8):
        for thread_columns in (4, 8):
            if thread_rows * thread_columns > _LARGEST_ACCUMULATORS:
                continue
            for rows in (1, 2, 4, 8, 16, 32, 64, 128):
                for columns in (16, 32, 64, 128, 256):
                    if rows % thread_rows or columns % thread_columns:
                        continue
                    for depth in (8, 16, 32):
                        for stages in (2, 3, 4):
                            tiling = Tiling(rows, columns, depth, thread_rows, thread_columns, stages)
                            if (
                                tiling.threads % device.warp == 0
                                and tiling.threads <= 256
                                and tiling.shared_bytes <= device.shared_bytes_per_block
                            ):
                                yield tiling


def cost(tiling: Tiling, product: Product, device: Device) -> float:
    """Cycles that the product takes by the model."""
    rows, columns, depth, batches = sizes(product, tiling.swapped)
    blocks = tiling.blocks(rows, columns, batches)
    steps = -(-depth // tiling.depth)
    resident = resident_blocks(device, tiling.threads, tiling.registers, tiling.shared_bytes)
    rounds, left_over = divmod(blocks, device.multiprocessors * resident)
    cycles = rounds * (_START + steps * _step(tiling, product, device, resident))
    if left_over:
        cycles += _START + steps * _step(tiling, product, device, -(-left_over // device.multiprocessors))
    elements = sum(side.value.type.size for side in (product.left, product.right))
    moved = 4 * (elements + product.accesses * product.result.type.size)
    return _LAUNCH + max(cycles, moved / device.memory_bytes)


def _step(tiling: Tiling, product: Product, device: Device, resident: int) -> float:
    """Cycles of a step of the summed dimension, of all resident blocks together."""
    busy = min(1.0, resident * tiling.threads / device.warp / _WARPS)
    multiply_adds = tiling.rows * tiling.columns * tiling.depth / (busy * device.multiply_adds)
    vectors = tiling.thread_rows / min(tiling.thread_rows, VECTOR) + tiling.thread_columns / VECTOR
    wavefronts = tiling.threads / device.warp * tiling.depth * vectors * _WAVEFRONTS
    fetched = 4 * tiling.depth * (tiling.rows + tiling.columns) / device.cache_bytes
    left, right = (product.right, product.left) if tiling.swapped else (product.left, product.right)
    pieces = sum(tiling.depth * n / _width(side) for n, side in ((tiling.rows, left), (tiling.columns, right)))
    parts = (multiply_adds, wavefronts, fetched, pieces / device.warp * _COPY)
    work = resident * (max(parts) + _EXPOSED * (sum(parts) - max(parts)))
    return max(work, _LATENCY / (tiling.stages - 1)) + _BARRIER


def _width(side: Side) -> int:
    """Elements that one access brings to shared memory, roughly: `staging.Staging.width` knows."""
    return VECTOR if side.free_stride == 1 and side.extent % VECTOR == 0 else 1


def choose_tiling(product: Product, device: Device) -> Tiling:
    """The cheapest tiling; of equal ones the one that does least for nothing."""
    right = math.prod(product.right.value.shape[d] for d in product.right.free)
    # a matrix times a vector: the long dimension is the one that threads share out
    found = (replace(t, swapped=right == 1) for t in tilings(device))
    return min(found, key=lambda t: (cost(t, product, device), t.rows * t.columns * t.depth, t.shared_bytes))
