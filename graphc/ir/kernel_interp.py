"""What a kernel means: an interpreter in numpy, plain rather than fast, that every emitter is tested against.

In: a verified kernel, arrays for its buffers, numbers for its scalars. Out: the arrays, changed in place. Accesses out
of range and reads of cells that were never stored are errors here, whatever they happen to do in machine code.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError, VerifyError
from graphc.ir.intrinsics import EXCHANGES, INTRINSICS
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Atomic,
    Barrier,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    If,
    Intrinsic,
    Kernel,
    Let,
    Load,
    Prefetch,
    Reduce,
    Shuffle,
    Stmt,
    Store,
    Var,
    Wait,
)
from graphc.ir.kernel_print import operands, postorder
from graphc.ir.kernel_verify import storage_size
from graphc.ir.scalar import PRIMITIVES, cast_numpy


@dataclass(frozen=True)
class _Meeting:
    """Where threads wait for each other: a barrier or an exchange, with the arguments of each thread that came there."""

    stmt: Barrier | Let | Exchange
    arguments: list[tuple[np.ndarray, ...]]


# What runs until its threads meet; it is sent what the exchange gives each of them.
Threads = Generator[_Meeting, "list[np.ndarray]", None]


def run_kernel(kernel: Kernel, arrays: Sequence[np.ndarray], scalars: Sequence[int | float] = ()) -> None:
    """Runs a kernel on arrays, in place.

    The elements of an array in row-major order are its parameter's storage. So without strides the array has the
    parameter's shape, or another one of as many elements, as where a schedule merged dimensions; with strides it must
    be contiguous and may be larger than what the strides reach.
    Loops of all bindings run one iteration after the other, those over threads from barrier to barrier. Cells of an
    ``out`` array that the kernel doesn't store keep their values; when it raises, arrays are as they were.

    Raises `ArgumentError`, `ShapeError` or `DTypeError` for unfitting arguments, and `VerifyError`, with kernel, buffer
    and index, for an access out of range, a read of what was never stored, a barrier that not all threads reach,
    overlapping windows, or an unknown intrinsic.

    >>> from graphc.ir.kernel_text import parse_kernel
    >>> x = np.arange(3, dtype=np.float32)
    >>> run_kernel(parse_kernel("kernel @k(%x: f32[3] inout) { store %x[0] = load %x[2] * 2.0 }"), [x])
    >>> x
    array([4., 1., 2.], dtype=float32)
    """
    if len(arrays) != len(kernel.params):
        raise ArgumentError(f"kernel @{kernel.name}: expected {len(kernel.params)} arrays, got {len(arrays)}")
    if len(scalars) != len(kernel.scalars):
        raise ArgumentError(
            f"kernel @{kernel.name}: expected {len(kernel.scalars)} scalars, got {len(scalars)}"
        )
    views = {}
    for buffer, array in zip(kernel.params, arrays, strict=True):
        _check_argument(kernel, buffer, array)
        known = buffer.access in ("in", "inout")
        views[buffer.name] = _View(buffer, array.flatten(), np.full(array.size, known))
    numbers = {v.name: _number(kernel, v, n) for v, n in zip(kernel.scalars, scalars, strict=True)}
    _Interpreter(kernel).run(_State(numbers, views))
    for buffer, array in zip(kernel.params, arrays, strict=True):
        if buffer.access != "in":
            view = views[buffer.name]
            np.copyto(array, view.storage.reshape(array.shape), where=view.marks.reshape(array.shape))


def _number(kernel: Kernel, var: Var, number: int | float) -> np.ndarray:
    """A scalar argument in its type."""
    held = True
    if var.dtype.is_integer:
        info = np.iinfo(var.dtype.numpy)
        held = isinstance(number, (int, np.integer)) and info.min <= int(number) <= info.max
    if not held:
        raise ArgumentError(
            f"kernel @{kernel.name}: %{var.name}: expected a value of {var.dtype.name}, got {number!r}"
        )
    return np.array(number, var.dtype.numpy)


def _check_argument(kernel: Kernel, buffer: Buffer, array: np.ndarray) -> None:
    where = f"kernel @{kernel.name}: %{buffer.name}: expected"
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"{where} an array, got {type(array).__name__}")
    size = storage_size(buffer)
    if array.size < size or (buffer.strides is None and array.size > size):
        raise ShapeError(f"{where} shape {buffer.shape} or {size} elements, got shape {array.shape}")
    if buffer.strides is not None and not array.flags.c_contiguous:
        raise ArgumentError(f"{where} a contiguous array, which its strides refer to, got another one")
    if array.dtype != buffer.dtype.numpy:
        raise DTypeError(f"{where} {buffer.dtype.name}, got {array.dtype.name}")
    if buffer.access != "in" and not array.flags.writeable:
        raise ArgumentError(f"{where} an array that may be written, got a read-only one")


@dataclass(frozen=True)
class _View:
    """A buffer's elements: a part of a flat storage, with marks at the cells that were ever stored."""

    buffer: Buffer
    storage: np.ndarray
    marks: np.ndarray
    offset: int = 0

    def addresses(self) -> np.ndarray:
        """Of all elements, in the storage."""
        total = np.array(self.offset, dtype=np.int64)
        for extent, stride in zip(self.buffer.shape, self.buffer.element_strides, strict=True):
            total = np.add.outer(total, np.arange(extent, dtype=np.int64) * stride)
        return total.ravel()


def _allocate(buffer: Buffer) -> _View:
    size = storage_size(buffer)
    return _View(buffer, np.zeros(size, buffer.dtype.numpy), np.zeros(size, bool))


_Copied = tuple[_View, np.ndarray, np.ndarray]  # where a copy goes, and its elements


@dataclass(frozen=True)
class _State:
    """What a statement sees. A thread has its own variables and buffers, made by copying the dictionaries."""

    values: dict[str, np.ndarray]
    views: dict[str, _View]
    lanes: int = 0  # of the vector loop around; 0 outside
    mask: np.ndarray | None = None  # the active lanes; None: all of them
    threads: bool = False  # one of several threads, which wait for each other
    copies: list[list[_Copied]] = field(
        default_factory=lambda: [[]]
    )  # groups that are not done; the last is open

    def own(self) -> _State:
        return replace(self, values=dict(self.values), views=dict(self.views), copies=[[]])


class _Interpreter:
    """Runs the statements of one kernel. A coroutine runs a block: it stops at each barrier."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._orders: dict[int, list[Expr]] = {}

    def fail(self, op: str, expected: str, got: str) -> NoReturn:
        raise VerifyError(f"kernel @{self.kernel.name}: {op}: expected {expected}, got {got}")

    def run(self, state: _State) -> None:
        running = self.block(self.kernel.body, state)
        meeting = next(running, None)
        while meeting is not None:  # a barrier outside of thread loops: what comes before it is done
            meeting = _resumed(running, self.exchange(meeting))

    # Statements

    def block(self, body: Sequence[Stmt], state: _State) -> Threads:
        for stmt in body:
            if isinstance(stmt, For):
                yield from self.loop(stmt, state)
            elif isinstance(stmt, If):
                yield from self.branch(stmt, state)
            elif isinstance(stmt, Barrier):
                yield _Meeting(stmt, [()])
            elif isinstance(stmt, Let) and _is_exchange(stmt.value):
                assert isinstance(stmt.value, Intrinsic)
                arguments = tuple(self.value(a, state) for a in stmt.value.args)
                (given,) = yield _Meeting(stmt, [arguments])
                state.values[stmt.var.name] = given.astype(stmt.var.dtype.numpy, copy=False)
            elif isinstance(stmt, Exchange):
                arguments = tuple(self.value(a, state) for a in stmt.args)
                (given,) = yield _Meeting(stmt, [arguments])
                for (buffer, indices), element in zip(stmt.results, given, strict=True):
                    self.store(buffer, [self.value(i, state) for i in indices], element, state)
            else:
                self.simple(stmt, state)

    def simple(self, stmt: Stmt, state: _State) -> None:
        if isinstance(stmt, Let):
            state.values[stmt.var.name] = self.value(stmt.value, state)
        elif isinstance(stmt, Store):
            indices = [self.value(i, state) for i in stmt.indices]
            self.store(stmt.buffer, indices, self.value(stmt.value, state), state)
        elif isinstance(stmt, Alloc):
            state.views[stmt.buffer.name] = _allocate(stmt.buffer)
        elif isinstance(stmt, Call):
            self.call(stmt, state)
        elif isinstance(stmt, Copy):
            self.copy(stmt, state)
        elif isinstance(stmt, Commit):
            state.copies.append([])
        elif isinstance(stmt, Wait):
            while len(state.copies) - 1 > stmt.pending:
                for view, at, elements in state.copies.pop(0):
                    view.storage[at] = elements
                    view.marks[at] = True
        elif isinstance(stmt, Prefetch):
            self.addresses("prefetch", stmt.buffer, [self.value(i, state) for i in stmt.indices], state)
        else:
            assert isinstance(stmt, Atomic)
            self.atomic(stmt, state)

    def loop(self, stmt: For, state: _State) -> Threads:
        start, stop = self.uniform(stmt.start, state), self.uniform(stmt.stop, state)
        if stmt.binding == "vector":
            lanes = np.arange(start, stop, dtype=np.int64)
            state.values[stmt.var.name] = lanes
            yield from self.block(stmt.body, replace(state, lanes=len(lanes)))
        elif stmt.binding == "thread":
            yield from self.threads(stmt, range(start, stop, stmt.step), state)
        else:
            for i in range(start, stop, stmt.step):
                state.values[stmt.var.name] = np.array(i, np.int64)
                yield from self.block(stmt.body, state)

    def threads(self, stmt: For, numbers: range, state: _State) -> Threads:
        """All threads up to their next barrier, in turn, until they end; a barrier waits for the outer threads too."""
        running: list[Threads] = []
        for number in numbers:
            thread = replace(state.own(), threads=True)
            thread.values[stmt.var.name] = np.array(number, np.int64)
            running.append(self.block(stmt.body, thread))
        reached = [next(thread, None) for thread in running]
        while any(meeting is not None for meeting in reached):
            here = [meeting for meeting in reached if meeting is not None]
            if len(here) < len(reached) or any(meeting.stmt is not here[0].stmt for meeting in here):
                op = "barrier" if isinstance(here[0].stmt, Barrier) else "exchange"
                self.fail(op, f"all threads of %{stmt.var.name} at the same {op}", "some elsewhere")
            together = _Meeting(here[0].stmt, [a for meeting in here for a in meeting.arguments])
            given = iter((yield together) if state.threads else self.exchange(together))
            reached = [
                _resumed(thread, [next(given) for _ in meeting.arguments])
                for thread, meeting in zip(running, here, strict=True)
            ]

    def exchange(self, meeting: _Meeting) -> list[np.ndarray]:
        """What each thread of a block gets where all have met."""
        stmt = meeting.stmt
        if isinstance(stmt, Barrier):
            return [np.asarray(0)] * len(meeting.arguments)
        name = stmt.name if isinstance(stmt, Exchange) else ""
        if isinstance(stmt, Let):
            assert isinstance(stmt.value, Intrinsic)
            name = stmt.value.name
        try:
            result = EXCHANGES[name](*map(np.array, zip(*meeting.arguments, strict=True)))
        except ValueError as error:
            self.fail("exchange", *str(error).split(", got ", 1))
        return list(result)

    def branch(self, stmt: If, state: _State) -> Threads:
        condition = self.value(stmt.condition, state)
        if np.ndim(condition) == 0:
            yield from self.block(stmt.body if condition else stmt.orelse, state)
            return
        for body, chosen in ((stmt.body, condition), (stmt.orelse, ~condition)):
            mask = chosen if state.mask is None else state.mask & chosen
            if mask.any():
                yield from self.block(body, replace(state, mask=mask))

    def call(self, stmt: Call, state: _State) -> None:
        callee = stmt.kernel
        views: dict[str, _View] = {}
        for (buffer, indices), param in zip(stmt.windows, callee.params, strict=True):
            outer = state.views[buffer.name]
            where = [self.uniform(i, state) for i in indices]
            offset = sum(i * s for i, s in zip(where, buffer.element_strides, strict=True))
            room = storage_size(buffer) - storage_size(param)
            if not 0 <= offset <= room:
                expected = f"0 <= offset <= {room} of the window of %{buffer.name} for %{param.name}"
                self.fail("call", f"{expected} of @{callee.name}", f"{offset} from %{buffer.name}{where}")
            # What an `out` parameter held before is not there to be read, whoever stored it.
            marks = np.zeros_like(outer.marks) if param.access == "out" else outer.marks
            views[param.name] = _View(param, outer.storage, marks, outer.offset + offset)
        self.apart(callee, list(views.values()))
        numbers = {v.name: self.scalar(x, state) for v, x in zip(callee.scalars, stmt.scalars, strict=True)}
        _Interpreter(callee).run(_State(numbers, views))
        for (buffer, _), param in zip(stmt.windows, callee.params, strict=True):
            if param.access == "out":
                np.logical_or(
                    state.views[buffer.name].marks,
                    views[param.name].marks,
                    out=state.views[buffer.name].marks,
                )

    def apart(self, callee: Kernel, views: Sequence[_View]) -> None:
        """Windows on one storage share no element, unless all that share it only read it."""
        for n, x in enumerate(views):
            for y in views[:n]:
                if x.storage is y.storage and (x.buffer.access, y.buffer.access) != ("in", "in"):
                    shared = np.intersect1d(x.addresses(), y.addresses())
                    if shared.size:
                        names = f"%{y.buffer.name} and %{x.buffer.name} of @{callee.name}"
                        self.fail(
                            "call",
                            f"windows for {names} that do not overlap",
                            f"{shared.size} shared elements",
                        )

    def copy(self, stmt: Copy, state: _State) -> None:
        """The elements are undefined from now on, and get their values when the copy is waited for."""
        view, steps = state.views[stmt.buffer.name], np.arange(stmt.count)

        def spots(buffer: Buffer, indices: Sequence[Expr]) -> np.ndarray:
            where = [self.value(i, state) for i in indices]
            ends = (
                [self.addresses("copy", buffer, [*where[:-1], where[-1] + n], state) for n in (0, steps[-1])]
                if where
                else [self.addresses("copy", buffer, where, state)]
            )
            return np.asarray(ends[0] + steps)

        elements = np.zeros(stmt.count, stmt.buffer.dtype.numpy)
        if stmt.condition is None or self.scalar(stmt.condition, state):
            source = state.views[stmt.source.name]
            places = spots(stmt.source, stmt.source_indices)
            self.check_stored("copy", source, places)
            elements = source.storage[places]
        at = spots(stmt.buffer, stmt.indices)
        view.marks[at] = False
        state.copies[-1].append((view, at, elements))

    def atomic(self, stmt: Atomic, state: _State) -> None:
        """Each active lane in turn, also where all lanes say the same."""
        addresses = self.addresses("atomic", stmt.buffer, [self.value(i, state) for i in stmt.indices], state)
        view = state.views[stmt.buffer.name]
        values = self.active(self.value(stmt.value, state), state)
        for address, value in np.broadcast(np.broadcast_to(addresses, np.shape(values)), values):
            self.check_stored("atomic", view, np.asarray(address))
            view.storage[address] = PRIMITIVES[stmt.fn].numpy(view.storage[address], value)

    # Accesses

    def addresses(self, op: str, buffer: Buffer, indices: Sequence[np.ndarray], state: _State) -> np.ndarray:
        """Where an element lies in its storage: one number, or one for each active lane."""
        view = state.views[buffer.name]
        lanes = state.mask is not None or any(np.ndim(i) for i in indices)
        total = np.full(
            np.count_nonzero(state.mask) if state.mask is not None else state.lanes if lanes else (),
            view.offset,
        )
        spots = [np.asarray(self.active(i, state) if lanes else i) for i in indices]
        for dimension, (spot, extent) in enumerate(zip(spots, buffer.shape, strict=True)):
            wrong = (spot < 0) | (spot >= extent)
            if wrong.any():
                first = int(np.argmax(wrong))
                where = ", ".join(str(int(np.ravel(s)[first])) for s in spots)
                expected = f"0 <= index < {extent} in dimension {dimension} of %{buffer.name}"
                self.fail(op, expected, f"%{buffer.name}[{where}]")
            total = total + spot * buffer.element_strides[dimension]
        return np.asarray(total)

    def active(self, value: np.ndarray, state: _State) -> np.ndarray:
        """The value of each active lane."""
        if not state.lanes:
            return np.asarray(value)
        every = np.broadcast_to(value, (state.lanes,))
        return every if state.mask is None else every[state.mask]

    def check_stored(self, op: str, view: _View, addresses: np.ndarray) -> None:
        missing = ~view.marks[addresses]
        if missing.any():
            address = int(np.ravel(addresses)[int(np.argmax(missing))])
            places = np.argwhere(view.addresses().reshape(view.buffer.shape) == address)
            where = ", ".join(map(str, places[0]))
            name = view.buffer.name
            self.fail(op, f"a store to %{name}[{where}] before it is read", "none")

    def load(self, buffer: Buffer, indices: Sequence[np.ndarray], state: _State) -> np.ndarray:
        """Under a mask one value a lane: 0 where the lane is inactive, but a register's lanes are read as they are."""
        view = state.views[buffer.name]
        addresses = self.addresses("load", buffer, indices, state)
        self.check_stored("load", view, addresses)
        if state.mask is None:
            return np.asarray(view.storage[addresses])
        if buffer.space == "reg":
            return np.asarray(
                view.storage[self.addresses("load", buffer, indices, replace(state, mask=None))]
            )
        result = np.zeros(state.lanes, buffer.dtype.numpy)
        result[state.mask] = view.storage[addresses]
        return result

    def store(self, buffer: Buffer, indices: Sequence[np.ndarray], value: np.ndarray, state: _State) -> None:
        """Of several lanes that name one element, the last active one wins."""
        view = state.views[buffer.name]
        addresses = self.addresses("store", buffer, indices, state)
        if state.lanes and (np.ndim(value) or np.ndim(addresses)):
            values = self.active(value, state)
            addresses = np.broadcast_to(addresses, values.shape)
            last = len(addresses) - 1 - np.unique(addresses[::-1], return_index=True)[1]
            addresses, value = addresses[last], values[last]
        view.storage[addresses] = value
        view.marks[addresses] = True

    # Expressions

    def uniform(self, expr: Expr, state: _State) -> int:
        """A number that all active lanes agree on."""
        return int(self.scalar(expr, state))

    def scalar(self, expr: Expr, state: _State) -> np.ndarray:
        values = np.ravel(self.active(self.value(expr, state), state))
        if (values != values[0]).any():
            self.fail("kernel", "one value for all lanes", f"{len(values)} that differ")
        return np.asarray(values[0])

    def value(self, root: Expr, state: _State) -> np.ndarray:
        """The value of an expression; each shared part is computed once."""
        if id(root) not in self._orders:
            self._orders[id(root)] = postorder(root)
        values: dict[int, np.ndarray] = {}
        for node in self._orders[id(root)]:
            values[id(node)] = self.node(node, [values[id(child)] for child in operands(node)], state)
        return values[id(root)]

    def node(self, node: Expr, args: Sequence[np.ndarray], state: _State) -> np.ndarray:
        if isinstance(node, Const):
            return np.array(node.value, node.dtype.numpy)
        if isinstance(node, Var):
            return state.values[node.name]
        if isinstance(node, Load):
            return self.load(node.buffer, args, state)
        if isinstance(node, Apply):
            return np.asarray(PRIMITIVES[node.fn].numpy(*args))
        if isinstance(node, Cast):
            return cast_numpy(args[0], node.dtype.numpy)
        if isinstance(node, Bitcast):
            return np.array(args[0]).view(node.dtype.numpy)
        if isinstance(node, Shuffle):
            x, y = (np.broadcast_to(a, (state.lanes,)) for a in args)
            return np.asarray(np.concatenate([x, y])[list(node.lanes)])
        if isinstance(node, Reduce):
            return _reduced(node.fn, np.broadcast_to(args[0], (state.lanes,)))
        assert isinstance(node, Intrinsic)
        if node.name not in INTRINSICS:
            self.fail(
                "intrinsic",
                f"a name with a numpy meaning ({', '.join(INTRINSICS) or 'none'})",
                repr(node.name),
            )
        return np.asarray(INTRINSICS[node.name](*args)).astype(node.dtype.numpy, copy=False)


def _is_exchange(expr: Expr) -> bool:
    return isinstance(expr, Intrinsic) and expr.name in EXCHANGES


def _resumed(running: Threads, given: list[np.ndarray]) -> _Meeting | None:
    """Goes on to the next meeting; `None` at the end."""
    try:
        return running.send(given)
    except StopIteration:
        return None


def _reduced(fn: str, x: np.ndarray) -> np.ndarray:
    """All lanes combined by halves: the first lane with the first of the upper half; an odd last lane goes on."""
    while len(x) > 1:
        half = len(x) // 2
        x = np.concatenate([PRIMITIVES[fn].numpy(x[:half], x[half : 2 * half]), x[2 * half :]])
    return np.asarray(x[0])
