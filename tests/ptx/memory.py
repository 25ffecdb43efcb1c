"""Memory that knows which of its bytes exist and which were ever written.

`Memory` is a device's global memory, the host's side included. `Storage` is what all state spaces share: bytes, a state
for each of them, and accesses of many threads at once. What a thread does wrong is a `Fault`, which names the lanes.
"""

from __future__ import annotations

import numpy as np

from ptx.errors import PtxError
from ptx.numbers import UNSIGNED

ABSENT, UNDEFINED, DEFINED, PENDING = (
    0,
    1,
    2,
    3,
)  # the states of a byte; PENDING: an asynchronous copy is on its way
GLOBAL_BASE = 1 << 36  # beyond 32 bits, so that a truncated address is seen
SHARED_WINDOW, LOCAL_WINDOW, WINDOW_END = 1 << 44, 1 << 45, 1 << 46  # of generic addresses
ALIGNMENT = 256


class Fault(Exception):
    """What some of the active lanes did wrong: a mask over them (or one element: all), and the message."""

    def __init__(self, message: str, lanes: np.ndarray) -> None:
        super().__init__(message)
        self.message, self.lanes = message, lanes


def _pattern(state: int, size: int) -> np.unsignedinteger:
    """The state of `size` bytes as one number."""
    return UNSIGNED[size].type(int.from_bytes(bytes([state] * size), "little"))


_DEFINED = {size: _pattern(DEFINED, size) for size in UNSIGNED}
_ONES = {size: _pattern(1, size) for size in UNSIGNED}


class Storage:
    """Bytes and their states. Positions are u64 numbers that were checked against the space's size, or are checked here."""

    def __init__(self, size: int, state: int) -> None:
        size = -(-size // 16) * 16
        self.data = np.full(size, 0xCB, np.uint8)
        self.state = np.full(size, state, np.uint8)
        self.pending = False  # an asynchronous copy was ever begun
        self._make_views()

    def _make_views(self) -> None:
        self._data = {n: self.data.view(UNSIGNED[n]) for n in UNSIGNED}
        self._state = {n: self.state.view(UNSIGNED[n]) for n in UNSIGNED}

    def _units(self, positions: np.ndarray, width: int) -> np.ndarray:
        """Which group of `width` bytes each position names."""
        if int(np.bitwise_or.reduce(positions)) & (width - 1):
            raise Fault(f"misaligned access of {width} bytes", positions % np.uint64(width) != 0)
        return (positions >> np.uint64(width.bit_length() - 1)).view(np.int64)

    def _states(self, units: np.ndarray, width: int) -> tuple[np.ndarray, int]:
        """The states of each access, as numbers of `size` bytes."""
        size = min(width, 8)
        states = self._state[size] if width == size else self._state[8].reshape(-1, 2)
        inside = units < len(states)
        if units.size and not (inside.all() and (width > 1 or (units >= 0).all())):
            raise Fault("out of bounds", ~inside | (units < 0))
        return states[units], size

    def load(self, positions: np.ndarray, size: int, count: int) -> list[np.ndarray]:
        """`count` neighbouring elements of `size` bytes from each position."""
        width = size * count
        units = self._units(positions, width)
        states, part = self._states(units, width)
        if not (states == _DEFINED[part]).all():
            self._explain(positions, width)
        if count == 1:
            return [self._data[size][units]]
        rows = self._data[size].reshape(-1, count)[units]
        return [rows[:, n] for n in range(count)]

    def _explain(self, positions: np.ndarray, width: int) -> None:
        each = self.state[positions.view(np.int64)[:, None] + np.arange(width)]
        for state, message in (
            (ABSENT, "out of bounds"),
            (PENDING, "read of what cp.async has not brought yet"),
            (UNDEFINED, "read of uninitialised memory"),
        ):
            lanes = (each == state).any(axis=1)
            if lanes.any():
                raise Fault(message, lanes)

    def check_writable(self, positions: np.ndarray, width: int) -> np.ndarray:
        """Raises unless all bytes exist and no copy is on its way to them. Gives the units."""
        units = self._units(positions, width)
        states, size = self._states(units, width)
        one, ones = UNSIGNED[size].type(1), _ONES[size]
        if not ((states | states >> one) & ones == ones).all():
            self._explain_absent(positions, width)
        if self.pending and (states & states >> one & ones).any():
            each = self.state[positions.view(np.int64)[:, None] + np.arange(width)]
            raise Fault("write where cp.async has not arrived yet", (each == PENDING).any(axis=1))
        return units

    def _explain_absent(self, positions: np.ndarray, width: int) -> None:
        each = self.state[positions.view(np.int64)[:, None] + np.arange(width)]
        raise Fault("out of bounds", (each == ABSENT).any(axis=1))

    def store(self, positions: np.ndarray, size: int, values: list[np.ndarray]) -> None:
        """The opposite of `load`; the last lane wins where several name one place."""
        width = size * len(values)
        units = self.check_writable(positions, width)
        if len(values) == 1:
            self._data[size][units] = values[0]
        else:
            rows = self._data[size].reshape(-1, len(values))
            for n, value in enumerate(values):
                rows[units, n] = value
        self.mark(units, width, DEFINED)

    def mark(self, units: np.ndarray, width: int, state: int) -> None:
        if width <= 8:
            self._state[width][units] = _pattern(state, width)
        else:
            self._state[8].reshape(-1, 2)[units] = _pattern(state, 8)

    def view(self, dtype: np.dtype) -> np.ndarray:
        return self.data.view(dtype)


class Memory(Storage):
    """One device's global memory.

    >>> memory = Memory()
    >>> address = memory.allocate(8)
    >>> memory.write(address, np.arange(2, dtype=np.int32))
    >>> np.frombuffer(memory.read(address, 8), np.int32)
    array([0, 1], dtype=int32)
    """

    def __init__(self) -> None:
        super().__init__(1 << 16, ABSENT)
        self._top = ALIGNMENT
        self._sizes: dict[int, int] = {}  # of living allocations, by address
        self._spare: dict[int, list[int]] = {}  # freed places, by the room that they have

    def allocate(self, bytes: int) -> int:
        """The address of new memory, 256-byte aligned; its contents are undefined, and what follows it does not exist."""
        if bytes < 1:
            raise ValueError(f"expected at least one byte to allocate, got {bytes}")
        room = (-(-bytes // ALIGNMENT) + 1) * ALIGNMENT
        spare = self._spare.get(room)
        if spare:
            start = spare.pop(0)
        else:
            start = self._top
            self._top += room
            if self._top > len(self.data):
                self._grow()
        self.state[start : start + bytes] = UNDEFINED
        self._sizes[GLOBAL_BASE + start] = bytes
        return GLOBAL_BASE + start

    def _grow(self) -> None:
        more = max(self._top, 2 * len(self.data)) - len(self.data)
        self.data = np.concatenate([self.data, np.full(more, 0xCB, np.uint8)])
        self.state = np.concatenate([self.state, np.zeros(more, np.uint8)])
        self._make_views()

    def free(self, address: int) -> None:
        """Gives back an allocation, named by its first address."""
        if address not in self._sizes:
            raise PtxError(f"free: expected the address of an allocation, got {address:#x}")
        bytes, start = self._sizes.pop(address), address - GLOBAL_BASE
        self.state[start : start + bytes] = ABSENT
        self.data[start : start + bytes] = 0xCB
        room = (-(-bytes // ALIGNMENT) + 1) * ALIGNMENT
        self._spare.setdefault(room, []).append(start)

    def _range(self, what: str, address: int, bytes: int) -> slice:
        start = address - GLOBAL_BASE
        if start < 0 or start + bytes > len(self.data) or (self.state[start : start + bytes] == ABSENT).any():
            raise PtxError(f"{what}: expected {bytes} bytes of one allocation, got address {address:#x}")
        return slice(start, start + bytes)

    def write(self, address: int, data: bytes | np.ndarray) -> None:
        """Copies from the host."""
        raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
        raw = raw.reshape(-1).view(np.uint8)
        place = self._range("write", address, raw.size)
        self.data[place] = raw
        self.state[place] = DEFINED

    def read(self, address: int, bytes: int) -> bytes:
        """Copies to the host, undefined bytes too."""
        return self.data[self._range("read", address, bytes)].tobytes()

    def fill(self, address: int, value: int, bytes: int) -> None:
        """Sets each byte."""
        place = self._range("fill", address, bytes)
        self.data[place] = value
        self.state[place] = DEFINED
