"""Data races: two threads at one place, one of them writing, and nothing that orders them.

Threads of a block are ordered by barriers, those of different blocks by nothing during a launch; atomic operations do
not race with each other (PTX ISA 8, memory consistency model; fences are not modelled, so a hand-over from block to
block by a flag is reported). For each cell of memory the last writer and the readers are known, as tags:
block + 1, number of barriers passed, thread + 1. Running threads in lock-step hides a missing barrier; tags do not.
"""

from __future__ import annotations

import numpy as np

from ptx.memory import Fault

BLOCK_SHIFT, EPOCH_SHIFT = 32, 12
MOST_EPOCHS = 1 << (BLOCK_SHIFT - EPOCH_SHIFT)
_SEVERAL_THREADS = np.int64((1 << EPOCH_SHIFT) - 1)
_SEVERAL_BLOCKS = np.int64((1 << 63) - 1)


def tags_of(blocks: np.ndarray, threads: np.ndarray) -> np.ndarray:
    """The tags of threads before the first barrier."""
    return (blocks.astype(np.int64) + 1) << BLOCK_SHIFT | (threads.astype(np.int64) + 1)


def _unordered(other: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Where another thread was at the same place, in another block or since the last barrier."""
    difference = other ^ tags
    apart = (difference >> BLOCK_SHIFT != 0) | (difference >> EPOCH_SHIFT == 0)
    return (other != 0) & (difference != 0) & apart


def describe(tag: int) -> str:
    if tag == int(_SEVERAL_BLOCKS):
        return "threads of several blocks"
    thread = tag & int(_SEVERAL_THREADS)
    block = (tag >> BLOCK_SHIFT) - 1
    return (
        f"{'several threads' if thread == int(_SEVERAL_THREADS) else f'thread {thread - 1}'} of block {block}"
    )


class Races:
    """What happened to each cell of `unit` bytes of some memory, during one launch."""

    def __init__(self, bytes: int, unit: int, several_blocks: bool) -> None:
        self.unit, self._several_blocks = unit, several_blocks  # whether blocks share cells
        self._shift = np.uint64(unit.bit_length() - 1)
        cells = -(-bytes // unit) + 16 // unit
        self._writes = np.zeros(cells, np.int64)
        self._reads = np.zeros(cells, np.int64)
        self._atomics = np.zeros(cells, np.int64)
        self._written = self._changed = False  # whether anything was, as a shortcut

    def _cells(self, positions: np.ndarray, width: int) -> list[np.ndarray]:
        first = (positions >> self._shift).view(np.int64)
        return [first + n if n else first for n in range(max(1, width // self.unit))]

    def _refuse(self, table: np.ndarray, cells: np.ndarray, tags: np.ndarray, what: str) -> None:
        others = table[cells]
        if not others.any():
            return
        bad = _unordered(others, tags)
        if bad.any():
            lane = int(np.argmax(bad))
            other = describe(int(np.broadcast_to(others, bad.shape)[lane]))
            raise Fault(f"race: {what} by {other}, and no barrier between", bad)

    def read(self, positions: np.ndarray, width: int, tags: np.ndarray) -> None:
        for cells in self._cells(positions, width):
            if self._written:
                self._refuse(self._writes, cells, tags, "read of what was written")
            if self._changed:
                self._refuse(self._atomics, cells, tags, "read of what was changed by an atomic operation")
            self._note(self._reads, cells, tags)

    def write(self, positions: np.ndarray, width: int, tags: np.ndarray) -> None:
        for cells in self._cells(positions, width):
            if self._written:
                self._refuse(self._writes, cells, tags, "write over what was written")
            self._refuse(self._reads, cells, tags, "write over what was read")
            if self._changed:
                self._refuse(self._atomics, cells, tags, "write over what was changed by an atomic operation")
            if cells.size == 1 and tags.size > 1:
                raise Fault(f"race: {tags.size} threads write one place", np.ones(tags.size, bool))
            self._writes[cells] = tags
            lost = self._writes[cells] != tags
            if lost.any():
                raise Fault("race: several threads write one place", lost)
        self._written = True

    def atomic(self, positions: np.ndarray, width: int, tags: np.ndarray) -> None:
        for cells in self._cells(positions, width):
            if self._written:
                self._refuse(self._writes, cells, tags, "atomic operation on what was written")
            self._refuse(self._reads, cells, tags, "atomic operation on what was read")
            self._note(self._atomics, cells, tags)
        self._changed = True

    def _note(self, table: np.ndarray, cells: np.ndarray, tags: np.ndarray) -> None:
        """Adds accesses that may share cells. A cell's tag becomes the thread's, or one that stands for several."""
        if cells.size == 1 and tags.size > 1:
            apart = (
                tags[0] >> BLOCK_SHIFT != tags[-1] >> BLOCK_SHIFT
            )  # lanes are in the order of their blocks
            tags = np.array([_SEVERAL_BLOCKS if apart else tags[0] | _SEVERAL_THREADS])
        before = table[cells]
        after = tags
        if before.any():
            difference = before ^ tags
            same = difference >> EPOCH_SHIFT == 0
            if same.any():
                after = np.where(same & (difference != 0), tags | _SEVERAL_THREADS, tags)
            if self._several_blocks:
                foreign = (difference >> BLOCK_SHIFT != 0) & (before != 0)
                if foreign.any():
                    after = np.where(foreign, _SEVERAL_BLOCKS, after)
        table[cells] = after
        lost = table[cells] != after
        if not lost.any():
            return
        # Lanes of one instruction that share a cell: they are of one block since one barrier, or of several blocks.
        cells, after = cells[lost], after[lost] | _SEVERAL_THREADS
        table[cells] = after
        if self._several_blocks:
            lost = table[cells] != after
            table[cells[lost]] = _SEVERAL_BLOCKS
