"""What streaming keeps between two blocks: signals with their delays, the state that these need, the clock.

In: values of a graph over a block. Out: the same values later or earlier, and parts of the state. The rules of `stream`
say what an op makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphc.errors import TraceError
from graphc.ir.graph import Attr, Builder, Graph, Node, Value
from graphc.ir.interp import interpret
from graphc.ir.opdef import INPUT
from graphc.ir.types import TensorType, i64


@dataclass(frozen=True)
class Signal:
    """A block of a value that varies with time: along which axis, how many ticks apart, how many elements behind."""

    value: Value
    axis: int
    rate: int = 1
    lag: int = 0  # in elements: element i is known after tick rate * (i + lag)
    before: int = (
        0  # so many elements like `fill` come first: a delay that is not yet made, a later slice may end it
    )
    fill: float | int | bool = 0


class Signals:
    """The values of a graph over blocks of so many ticks: those that vary with time, those that don't, the state."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.build = Builder()
        self.state: dict[str, np.ndarray] = {}
        self.state_inputs: list[Value] = []
        self.state_outputs: list[Value] = []
        self.signals: dict[Value, Signal] = {}
        self.settled: dict[Value, Signal] = {}
        self.steady: dict[Value, Value] = {}  # what does not vary with time, in the new graph
        self.endless: dict[Value, TraceError] = {}  # what is known at the end of time: why it can't be had
        self.clock: Value | None = None

    def signal(self, value: Value) -> Signal:
        """A signal whose delays are made."""
        if value not in self.settled:
            self.settled[value] = self.settle(self.signals[value])
        return self.settled[value]

    # ------------------------------------------------------------------------------------------------------- steady

    def fixed(self, value: Value) -> Value:
        """A value that does not vary with time, in the new graph."""
        if value in self.endless:
            raise self.endless[value]
        if value not in self.steady:
            node = value.node
            operands = [self.fixed(v) for v in node.operands]
            copy = self.build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
            self.steady.update(zip(node.results, copy.results, strict=True))
        return self.steady[value]

    def beside(self, value: Value, like: Signal) -> Value:
        """What meets a signal and was given for all times: the part that belongs to the signal's block."""
        node, axis = value.node, like.axis
        type = resized(value.type, axis, like.value.shape[axis])
        if node.op.name == "const" and isinstance(node.attrs["value"], (bool, int, float)):
            return Value(self.build.emit(node.op, (), {**node.attrs, "type": type}, loc=node.loc))
        if node.op.name == "broadcast" and axis not in node.ints("dims"):
            return self.build.broadcast(
                self.fixed(node.operands[0]), dims=node.attrs["dims"], shape=type.shape
            )
        if node.op.name == "iota":
            if node.int("dim") != axis:
                return Value(self.build.emit(node.op, (), {**node.attrs, "type": type}, loc=node.loc))
            return self.build.cast(self.numbers(like, type.shape), type=type)
        if "pointwise" in node.op.traits:
            operands = [self.beside(v, like) for v in node.operands]
            return Value(self.build.emit(node.op, operands, typed(node, type), loc=node.loc))
        return self.build.gather(
            self.fixed(value), self.numbers(like, type.shape[axis : axis + 1], 0), axis=axis
        )

    def _now(self) -> Value:
        """The ticks since the beginning, i64."""
        if self.clock is None:
            self.clock, finish = self.kept("clock", TensorType(i64, ()), 0)
            finish(self.build.add(self.clock, self.build.splat(self.block, self.clock.type)))
        return self.clock

    def numbers(self, like: Signal, shape: tuple[int, ...], axis: int | None = None) -> Value:
        """Of the elements of a signal's block, their numbers since the beginning, i64."""
        index = TensorType(i64, shape)
        clock = self._now()
        now = self.build.floordiv(clock, self.build.splat(like.rate, clock.type))
        first = self.build.sub(
            now, self.build.splat(max(like.lag, 0), now.type)
        )  # behind by what it looks ahead
        along = self.build.iota(dim=like.axis if axis is None else axis, type=index)
        return self.build.add(self.build.broadcast(first, dims=(), shape=shape), along)

    # -------------------------------------------------------------------------------------------------------- delays

    def later(self, signal: Signal, count: int, fill: float | int | bool | None) -> Signal:
        """The signal after `count` elements like `fill`."""
        if count and signal.before and signal.fill != fill:
            signal = self.settle(signal)
        return replace(
            signal, before=signal.before + count, fill=signal.fill if fill is None or not count else fill
        )

    def settle(self, signal: Signal) -> Signal:
        """The signal with its delay made: what it looks ahead makes up for some of it."""
        count = signal.before
        made = replace(signal, before=0, lag=signal.lag - count)
        if made.lag < 0:
            made = self.delayed(replace(made, lag=0), -made.lag, signal.fill)
            made = replace(made, lag=0)
        if signal.lag > 0 and count:  # before the signal begins there is what it was looking ahead from
            made = self.masked(made, count, signal.fill)
        return made

    def masked(self, signal: Signal, count: int, fill: float | int | bool) -> Signal:
        """`fill` for the elements whose number is below `count`."""
        numbers = self.numbers(signal, signal.value.shape)
        early = self.build.lt(numbers, self.build.splat(count, numbers.type))
        filled = self.build.splat(fill, signal.value.type)
        return replace(signal, value=self.build.select(early, filled, signal.value))

    def delayed(self, signal: Signal, count: int, fill: float | int | bool | None) -> Signal:
        """The signal `count` elements later; the state keeps its last elements. Before it begins there is `fill`."""
        if count == 0:
            return signal
        type = resized(signal.value.type, signal.axis, count)
        zero: float | int | bool = 0.0 if type.dtype.is_float else False if type.dtype.kind == "bool" else 0
        before, finish = self.kept("past", type, zero if fill is None else fill)
        whole = self.build.concat(before, signal.value, axis=signal.axis)
        length = signal.value.shape[signal.axis]
        finish(self.window(whole, signal.axis, length, count))
        return replace(signal, value=self.window(whole, signal.axis, 0, length), lag=signal.lag + count)

    def carried(self, first: Value) -> tuple[Value, Callable[[Value], None]]:
        """A part of the state that begins as a value, which does not vary with time: where it is not known before, it
        is taken while the clock is at 0."""
        value = self.fixed(first)
        alone = Graph("first", (), (value,))
        if not any(node.op is INPUT for node in alone.nodes):
            return self.kept("carry", first.type, interpret(alone, [])[0])
        zero = False if first.dtype.kind == "bool" else 0.0 if first.dtype.is_float else 0
        before, finish = self.kept("carry", first.type, zero)
        clock = self._now()
        begins = self.build.broadcast(
            self.build.eq(clock, self.build.splat(0, clock.type)), dims=(), shape=first.shape
        )
        return self.build.select(begins, value, before), finish

    def kept(
        self, what: str, type: TensorType, first: float | int | bool | np.ndarray
    ) -> tuple[Value, Callable[[Value], None]]:
        """A new part of the state, and a function that is told what it becomes."""
        name = what if what == "clock" else f"{what}{sum(n.startswith(what) for n in self.state)}"
        self.state[name] = np.full(type.shape, first, type.dtype.numpy)
        value = self.build.input(type, name)
        self.state_inputs.append(value)
        position = len(self.state_outputs)
        self.state_outputs.append(value)

        def finish(new: Value) -> None:
            self.state_outputs[position] = new

        return value, finish

    def window(self, value: Value, axis: int, start: int, size: int) -> Value:
        rank = value.type.rank
        return self.build.slice(
            value,
            start=tuple(start if d == axis else 0 for d in range(rank)),
            size=resized(value.type, axis, size).shape,
            step=(1,) * rank,
        )


def resized(type: TensorType, axis: int, length: int) -> TensorType:
    return TensorType(type.dtype, (*type.shape[:axis], length, *type.shape[axis + 1 :]))


def typed(node: Node, like: TensorType) -> dict[str, Attr]:
    """The node's attributes, its type (of ops that state it) with the shape of a block."""
    attrs = dict(node.attrs)
    stated = attrs.get("type")
    if isinstance(stated, TensorType):
        attrs["type"] = TensorType(stated.dtype, like.shape)
    return attrs
