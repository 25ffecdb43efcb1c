"""The instructions that see memory: loads, stores, atomic operations, asynchronous copies (PTX ISA 9.7.9 and 9.7.13).

Each is registered as in `instructions`; its function gets the active `Lanes` first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx import arithmetic
from ptx.instructions import Meaning, rule
from ptx.lanes import Copy, Lanes
from ptx.memory import DEFINED, LOCAL_WINDOW, PENDING, SHARED_WINDOW, Fault
from ptx.numbers import NUMPY, UNSIGNED
from ptx.parser import Instruction

_KIND = r"([bsu](?:8|16|32|64)|f32|f64)"
_SPACE = r"(?:\.(global|shared|local|const))?"
_RELAXED = r"(\.relaxed\.(?:cta|gpu|sys))?"


def _vector(kind: str, count: int) -> tuple[str | tuple[str, ...], ...]:
    return (kind,) if count == 1 else ((kind,) * count,)


@rule(rf"ld{_RELAXED}{_SPACE}(\.nc)?(?:\.L1::(?:no_allocate|evict_last|evict_first))?(?:\.v(2|4))?\.{_KIND}")
def _load(
    relaxed: str | None, space: str | None, cached: str | None, vector: str | None, kind: str
) -> Meaning:
    dtype, count = NUMPY[kind], int(vector or 1)
    if cached and space != "global":
        return _refused()

    def compute(lanes: Lanes, _: Instruction, address: np.ndarray) -> object:
        values = lanes.load(space or "generic", address, dtype.itemsize, count, atomic=bool(relaxed))
        typed = tuple(np.ascontiguousarray(v).view(dtype) for v in values)
        return typed if count > 1 else typed[0]

    return Meaning(_vector(kind, count), ("address",), compute, effect=True)


def _refused() -> Meaning:
    from ptx.errors import PtxError

    raise PtxError("expected .nc with .global, got another state space")


@rule(rf"ld\.param\.{_KIND}")
def _load_parameter(kind: str) -> Meaning:
    """Of a kernel; those of functions are registers here."""
    dtype = NUMPY[kind]

    def compute(lanes: Lanes, _: Instruction, address: np.ndarray) -> np.ndarray:
        return lanes.load("param", address, dtype.itemsize, 1)[0].view(dtype)

    return Meaning((kind,), ("address",), compute, effect=True)


@rule(rf"st{_RELAXED}{_SPACE}(?:\.v(2|4))?\.{_KIND}")
def _store(relaxed: str | None, space: str | None, vector: str | None, kind: str) -> Meaning:
    size, count = NUMPY[kind].itemsize, int(vector or 1)
    bits = f"b{8 * size}"

    def compute(lanes: Lanes, _: Instruction, address: np.ndarray, *values: np.ndarray) -> None:
        lanes.store(space or "generic", lanes.spread(address), size, list(values), atomic=bool(relaxed))

    return Meaning((), ("address", *_vector(bits, count)), compute, effect=True)


@rule(r"prefetch(?:\.global)?\.L[12]")
def _prefetch() -> Meaning:
    return Meaning((), ("address",), lambda lanes, _, address: None, effect=True)


@rule(r"(?:membar|fence\.(?:sc|acq_rel))\.(?:cta|gl|gpu|sys)")
def _fence() -> Meaning:
    """Nothing: memory is sequentially consistent here, and fences order nothing for the detector of races."""
    return Meaning((), (), lambda lanes, _: None, effect=True)


@rule(r"cvta(\.to)?\.(global|shared|local)\.u64")
def _convert_address(to: str | None, space: str) -> Meaning:
    window = np.uint64({"global": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}[space])
    return Meaning(("u64",), ("u64",), (lambda a: a - window) if to else (lambda a: a + window))


@rule(r"(div|rem)\.([su](?:16|32|64))")
def _divide(name: str, kind: str) -> Meaning:
    """9.7.1.8: what dividing by zero gives is the machine's own, so it is an error here."""
    function = arithmetic.quotient if name == "div" else arithmetic.remainder

    def compute(lanes: Lanes, _: Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if (b == 0).any():
            raise Fault("division by zero, whose result is not specified", b == 0)
        return function(a, b)

    return Meaning((kind,), (kind, kind), compute, effect=True)


# Atomic operations

_COMBINE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "exch": lambda old, new: new,
}  # fmt: skip
_ATOMIC_KINDS = "|".join(
    (
        r"add\.(?:u32|s32|u64|f32|f64)",
        r"(?:min|max)\.(?:u32|s32|u64|s64)",
        r"(?:and|or|xor)\.(?:b32|b64)",
        r"(?:exch|cas)\.(?:b32|b64)",
    )
)
_ORDER = r"(?:\.relaxed)?(?:\.(?:gpu|sys))?"


@rule(
    rf"atom{_ORDER}(?:\.(global|shared))?\.({_ATOMIC_KINDS})|red{_ORDER}(?:\.(global|shared))?\.((?!exch|cas){_ATOMIC_KINDS})"
)
def _atomic(space: str | None, what: str | None, red_space: str | None, red_what: str | None) -> Meaning:
    name, kind = (what or red_what or "").split(".")
    dtype = NUMPY[kind]
    where = (space if what else red_space) or "generic"

    def compute(lanes: Lanes, _: Instruction, address: np.ndarray, *operands: np.ndarray) -> np.ndarray:
        return _update(lanes, where, name, lanes.spread(address), dtype, [lanes.spread(x) for x in operands])

    operands = ("address", kind, *((kind,) if name == "cas" else ()))
    return Meaning((kind,) if what else (), operands, compute, effect=True)


def _update(
    lanes: Lanes, space: str, name: str, address: np.ndarray, dtype: np.dtype, operands: list[np.ndarray]
) -> np.ndarray:
    """The lanes' operations one after the other at each place, in the order of the lanes; gives what was there before."""
    size = dtype.itemsize
    space, storage, positions = lanes.place(space, address, size)
    storage.load(positions, size, 1)
    races = lanes.races(space)
    if races is not None:
        races.atomic(positions, size, lanes.tags[lanes.active])
    cells = (positions >> np.uint64(size.bit_length() - 1)).view(np.int64)
    memory = storage.view(dtype)
    old = np.empty(lanes.count, dtype)
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    turn = np.empty(lanes.count, np.int64)  # of a lane among those at its place
    turn[order] = np.arange(lanes.count) - np.repeat(starts, np.diff(np.r_[starts, lanes.count]))
    by_turn = np.argsort(turn, kind="stable")
    for now in np.split(by_turn, np.flatnonzero(np.diff(turn[by_turn])) + 1):
        before = memory[cells[now]]
        old[now] = before
        if name == "cas":
            memory[cells[now]] = np.where(before == operands[0][now], operands[1][now], before)
        else:
            memory[cells[now]] = _COMBINE[name](before, operands[0][now])
    return old


# Asynchronous copies: 9.7.9.25


@rule(r"cp\.async\.(ca|cg)\.shared(?:::cta)?\.global(?:\.L2::(?:64|128|256)B)?")
def _begin_copy(level: str) -> Meaning:
    def compute(
        lanes: Lanes, _: Instruction, to: np.ndarray, source: np.ndarray, size: np.ndarray, *used: np.ndarray
    ) -> None:
        width = int(size[0])
        if width not in ((4, 8, 16) if level == "ca" else (16,)):
            raise Fault(f"cp.async.{level} of {width} bytes", np.ones(1, bool))
        begin_copy(
            lanes, lanes.spread(to), lanes.spread(source), width, lanes.spread(used[0]) if used else None
        )

    return Meaning((), ("address", "address", "u32", "u32?"), compute, effect=True)


def begin_copy(lanes: Lanes, to: np.ndarray, source: np.ndarray, width: int, used: np.ndarray | None) -> None:
    """Reads the source; the destination can't be read or written until the copy is waited for.

    `used` bytes are copied, zeros take the place of the others (an ignored source address may point nowhere).
    """
    data = np.zeros((lanes.count, width), np.uint8)
    amounts = np.full(lanes.count, width) if used is None else used
    if (amounts > width).any():
        raise Fault(f"cp.async of more than {width} bytes", amounts > width)
    if int(np.bitwise_or.reduce(source)) & (width - 1):
        raise Fault(f"misaligned access of {width} bytes", source % np.uint64(width) != 0)
    numbers, active = lanes.numbers(), lanes.active
    for amount in np.unique(amounts):
        if amount:
            mine = amounts == amount
            lanes.activate(numbers[mine])
            part = max(n for n in (1, 2, 4, 8) if int(amount) % n == 0)
            for at in range(0, int(amount), part):
                (value,) = lanes.load("global", source[mine] + np.uint64(at), part, 1)
                data[mine, at : at + part] = value.view(np.uint8).reshape(-1, part)
    lanes.activate(None if isinstance(active, slice) else active)
    _, storage, positions = lanes.place("shared", to, width)
    units = storage.check_writable(positions, width)
    lanes.shared_races.write(positions, width, lanes.tags[lanes.active])
    storage.mark(units, width, PENDING)
    storage.pending = True
    lanes.copies.append(Copy(numbers, positions, data, lanes.committed[lanes.active].copy()))


@rule(r"cp\.async\.commit_group")
def _commit() -> Meaning:
    def compute(lanes: Lanes, _: Instruction) -> None:
        lanes.committed[lanes.active] += 1

    return Meaning((), (), compute, effect=True)


@rule(r"cp\.async\.(wait_group|wait_all)")
def _wait(which: str) -> Meaning:
    def compute(lanes: Lanes, _: Instruction, *most: np.ndarray) -> None:
        finish_copies(lanes, int(most[0][0]) if most else -1)

    return Meaning((), ("u32",) if which == "wait_group" else (), compute, effect=True)


def finish_copies(lanes: Lanes, most: int) -> None:
    """The active lanes' copies arrive, but for their `most` youngest groups; -1: all, also those of no group yet."""
    waiting = np.zeros(lanes.total, bool)
    waiting[lanes.active] = True
    left = []
    for copy in lanes.copies:
        done, rest = copy.split(waiting[copy.lanes] & (copy.groups < lanes.committed[copy.lanes] - most))
        if len(rest.lanes):
            left.append(rest)
        if len(done.lanes):
            width = done.data.shape[1]
            units = (done.positions >> np.uint64(width.bit_length() - 1)).view(np.int64)
            size = min(width, 8)
            values = np.ascontiguousarray(done.data).view(UNSIGNED[size])
            if width == 16:
                lanes.shared.view(UNSIGNED[8]).reshape(-1, 2)[units] = values
            else:
                lanes.shared.view(UNSIGNED[size])[units] = values[:, 0]
            lanes.shared.mark(units, width, DEFINED)
            lanes.shared_races.write(done.positions, width, lanes.tags[done.lanes])
    lanes.copies = left
