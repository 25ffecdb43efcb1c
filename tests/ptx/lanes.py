"""The threads of a batch of blocks: their registers, their place in the launch, and what they see of memory.

A lane is a thread of the batch. A register is one numpy array over all lanes, or an array of one element where all of
them hold the same. While a basic block runs, the active lanes are all of them, or those that an index array names.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ptx.errors import PtxError
from ptx.memory import ABSENT, LOCAL_WINDOW, SHARED_WINDOW, UNDEFINED, WINDOW_END, Fault, Memory, Storage
from ptx.parser import Instruction
from ptx.races import EPOCH_SHIFT, MOST_EPOCHS, Races, tags_of

WARP = 32
Three = tuple[int, int, int]


class Launch:
    """What all blocks of a launch share."""

    def __init__(
        self, memory: Memory, grid: Three, block: Three, parameters: bytes, shared: int, local: int, unit: int
    ) -> None:
        self.memory, self.grid, self.block = memory, grid, block
        self.parameters = Storage(max(1, len(parameters)), ABSENT)
        self.parameters.data[: len(parameters)] = np.frombuffer(parameters, np.uint8)
        self.parameters.state[: len(parameters)] = 2
        self.shared_bytes, self.local_bytes = shared, local
        self.threads = block[0] * block[1] * block[2]
        self.races = Races(len(memory.data), unit, several_blocks=True)


class Lanes:
    """The lanes of some blocks, and the accesses of the active ones. Faults become errors in `Executor`."""

    def __init__(self, launch: Launch, blocks: np.ndarray, registers: int, unit: int) -> None:
        self.launch = launch
        threads = launch.threads
        self.blocks = blocks
        self.total = len(blocks) * threads
        self.thread = np.tile(np.arange(threads, dtype=np.int64), len(blocks))
        self.slot = np.repeat(np.arange(len(blocks), dtype=np.int64), threads)  # the block, within this batch
        self.warps_of_block = -(-threads // WARP)
        self.warp = self.slot * self.warps_of_block + self.thread // WARP
        self.tags = tags_of(np.repeat(blocks, threads), self.thread)
        self.epochs = 0
        self.values: list[np.ndarray | None] = [None] * registers
        self.defined: list[np.ndarray | bool] = [False] * registers
        self._own = [False] * registers  # the array is this register's alone and may be changed in place
        self.shared_stride = -(-max(1, launch.shared_bytes) // 16) * 16
        self.shared = Storage(self.shared_stride * len(blocks), UNDEFINED)
        self.local_stride = -(-launch.local_bytes // 16) * 16
        self.local = Storage(max(16, self.local_stride * self.total), UNDEFINED)
        self.shared_races = Races(len(self.shared.data), unit, several_blocks=False)
        self.copies: list[Copy] = []
        self.committed = np.zeros(self.total, np.int64)  # groups of asynchronous copies, by lane
        self._specials = self._positions()
        self.active: slice | np.ndarray = slice(None)
        self.count = self.total
        self.exited = np.zeros(self.total, bool)
        self.at: Instruction  # what is running, for errors

    def _positions(self) -> Mapping[str, np.ndarray]:
        bx, by, _ = self.launch.block
        gx, gy, _ = self.launch.grid
        cta = self.blocks[self.slot]
        found = {
            "%tid.x": self.thread % bx, "%tid.y": self.thread // bx % by, "%tid.z": self.thread // (bx * by),
            "%ctaid.x": cta % gx, "%ctaid.y": cta // gx % gy, "%ctaid.z": cta // (gx * gy),
            "%laneid": self.thread % WARP,
        }  # fmt: skip
        for axis, threads, blocks in zip("xyz", self.launch.block, self.launch.grid, strict=True):
            found[f"%ntid.{axis}"], found[f"%nctaid.{axis}"] = np.array([threads]), np.array([blocks])
        return {name: value.astype(np.uint32) for name, value in found.items()}

    # Which lanes

    def activate(self, lanes: np.ndarray | None) -> None:
        """Makes these lanes the active ones; `None`: all."""
        self.active = slice(None) if lanes is None else lanes
        self.count = self.total if lanes is None else len(lanes)

    @property
    def everyone(self) -> bool:
        return isinstance(self.active, slice)

    def numbers(self) -> np.ndarray:
        """The active lanes' numbers."""
        return np.arange(self.total) if isinstance(self.active, slice) else self.active

    def spread(self, value: np.ndarray) -> np.ndarray:
        """One element for each active lane."""
        return value if value.size == self.count else np.broadcast_to(value, self.count)

    # Registers

    def special(self, name: str) -> np.ndarray:
        value = self._specials[name]
        return value if value.size == 1 and self.total > 1 else value[self.active]

    def fetch(self, number: int) -> np.ndarray:
        """A register of the active lanes."""
        value, known = self.values[number], self.defined[number]
        if value is None or known is False:
            raise Fault("read of an uninitialised register", np.ones(1, bool))
        if known is not True:
            mine = known[self.active]  # type: ignore[index]
            if not mine.all():
                raise Fault("read of an uninitialised register", ~mine)
        if self.everyone:
            self._own[number] = False  # the caller may keep it as another register
            return value
        return value if value.size == 1 and self.total > 1 else value[self.active]

    def put(self, number: int, new: np.ndarray) -> None:
        """Sets a register of the active lanes."""
        if self.everyone:
            self.values[number], self.defined[number], self._own[number] = new, True, False
            return
        old = self.values[number]
        if old is None:
            old, self._own[number] = np.zeros(self.total, new.dtype), True
        elif not self._own[number]:
            old, self._own[number] = np.broadcast_to(old, self.total).copy(), True
        old[self.active] = new
        self.values[number] = old
        known = self.defined[number]
        if known is not True:
            mask = np.zeros(self.total, bool) if known is False else known
            mask[self.active] = True  # type: ignore[index]
            self.defined[number] = mask

    def undefine(self, number: int) -> None:
        """The active lanes' register is as if never written: a function begins."""
        known = self.defined[number]
        if known is False or self.everyone:
            self.defined[number] = False
            return
        mask = np.ones(self.total, bool) if known is True else known
        mask[self.active] = False  # type: ignore[index]
        self.defined[number] = mask

    # Barriers

    def pass_barrier(self, lanes: np.ndarray | None) -> None:
        """Orders what these lanes' blocks did before the barrier and what they will do after it."""
        self.epochs += 1
        if self.epochs >= MOST_EPOCHS:
            raise PtxError(f"expected fewer than {MOST_EPOCHS} barriers in a launch, got more")
        step = np.int64(1 << EPOCH_SHIFT)
        if lanes is None:
            self.tags = self.tags + step
        else:
            self.tags[lanes] += step

    # Memory

    def place(self, space: str, address: np.ndarray, width: int) -> tuple[str, Storage, np.ndarray]:
        """The space, its bytes, and where in them the addresses are; generic addresses are resolved."""
        if space == "generic":
            space, address = self._resolve(address)
        if space == "global":
            return space, self.launch.memory, address - np.uint64(1 << 36)
        if space in ("param", "const"):
            return space, self.launch.parameters, address
        size = self.launch.shared_bytes if space == "shared" else self.launch.local_bytes
        outside = address > np.uint64(max(0, size - width)) if size >= width else np.ones(address.shape, bool)
        if outside.any():
            worst = int(np.broadcast_to(address, outside.shape)[int(np.argmax(outside))])
            raise Fault(f"out of bounds: byte {worst} of {size} bytes of {space} memory", outside)
        if space == "shared":
            base = (self.slot * self.shared_stride)[self.active]
            return space, self.shared, address + base.view(np.uint64)
        return space, self.local, address + (self.numbers() * self.local_stride).view(np.uint64)

    def _resolve(self, address: np.ndarray) -> tuple[str, np.ndarray]:
        windows = {"shared": (SHARED_WINDOW, LOCAL_WINDOW), "local": (LOCAL_WINDOW, WINDOW_END)}
        for space, (start, stop) in windows.items():
            inside = (address >= np.uint64(start)) & (address < np.uint64(stop))
            if inside.all():
                return space, address - np.uint64(start)
            if inside.any():
                raise Fault(
                    "generic addresses of several state spaces at once, which is not modelled", inside
                )
        return "global", address

    def races(self, space: str) -> Races | None:
        return {"global": self.launch.races, "shared": self.shared_races}.get(space)

    def load(
        self, space: str, address: np.ndarray, size: int, count: int, atomic: bool = False
    ) -> list[np.ndarray]:
        """`count` elements of `size` bytes at each active lane's address."""
        space, storage, positions = self.place(space, address, size * count)
        values = storage.load(positions, size, count)
        races = self.races(space)
        if races is not None:
            (races.atomic if atomic else races.read)(positions, size * count, self.tags[self.active])
        return values

    def store(
        self, space: str, address: np.ndarray, size: int, values: list[np.ndarray], atomic: bool = False
    ) -> None:
        space, storage, positions = self.place(space, address, size * len(values))
        storage.check_writable(positions, size * len(values))
        races = self.races(space)
        if races is not None:
            (races.atomic if atomic else races.write)(positions, size * len(values), self.tags[self.active])
        storage.store(positions, size, [self.spread(v) if positions.size > 1 else v for v in values])


class Copy:
    """An asynchronous copy that was begun: which lanes, to where in shared memory, the bytes, in which of its groups."""

    def __init__(
        self, lanes: np.ndarray, positions: np.ndarray, data: np.ndarray, groups: np.ndarray
    ) -> None:
        self.lanes, self.positions, self.data, self.groups = lanes, positions, data, groups

    def split(self, done: np.ndarray) -> tuple[Copy, Copy]:
        """The lanes for which it is done, and the others."""
        parts = [Copy(self.lanes[m], self.positions[m], self.data[m], self.groups[m]) for m in (done, ~done)]
        return parts[0], parts[1]


def place_text(lanes: Lanes, lane: int) -> str:
    """block (x, y, z), thread (x, y, z)"""
    names = (f"%{what}.{axis}" for what in ("ctaid", "tid") for axis in "xyz")
    x, y, z, a, b, c = (int(lanes._specials[name][lane]) for name in names)
    return f"block ({x}, {y}, {z}), thread ({a}, {b}, {c})"


def error_of(fault: Fault, lanes: Lanes, kernel: str, instruction: Instruction) -> PtxError:
    """The error that names the kernel, the line, and the first thread."""
    numbers = lanes.numbers()
    mask = np.broadcast_to(fault.lanes, len(numbers)) if fault.lanes.size == 1 else fault.lanes
    first = int(numbers[int(np.argmax(mask))]) if mask.size == len(numbers) else int(numbers[0])
    where = f"kernel {kernel}, PTX line {instruction.line}, {place_text(lanes, first)}"
    return PtxError(f"{where}: {fault.message}\n  {instruction.text}")
