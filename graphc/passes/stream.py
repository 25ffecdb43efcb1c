"""From a graph over a whole signal to one over a block of it: the same results, block after block, nothing computed twice.

In: a graph some of whose inputs have a time axis. Out: a graph over blocks, which reads and gives the state that lies
between two blocks: the last samples that delays still need, the last results of running ops, a clock.

Each value that varies with time has a rate (clock ticks between its elements) and a lag: element i is known once tick
rate * i + lag has passed. Padding in front delays, a slice from a later start looks ahead, a step makes the rate slower.
Where values meet, the earlier ones wait: their last elements are kept in the state. An output that still lags needs
samples that are not there yet: then the function is not causal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from graphc.errors import ShapeError, TraceError
from graphc.ir.graph import Attr, Builder, Graph, Node, Value
from graphc.ir.inline import plain
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import geometry
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


@dataclass(frozen=True)
class Streamed:
    """The graph over blocks (its first inputs and outputs are the state), and the state to begin with."""

    graph: Graph
    state: dict[str, np.ndarray]


def stream(graph: Graph, axes: Mapping[str, int], block: int) -> Streamed:
    """The graph over blocks of so many ticks; `axes` says which inputs vary with time, and along which axis.

    Raises `TraceError`, with the user's line, where an op needs more than a bounded past: a sum over all of time, a
    reversed signal, an output that looks ahead; `ShapeError` where lengths or the block don't fit.

    >>> import graphc
    >>> graph = graphc.trace(lambda x: graphc.cumulative_sum(x, axis=0), graphc.f32[8])
    >>> stream(graph, {"x": 0}, 4).state
    {'running0': array([0.], dtype=float32)}
    """
    return _Streaming(plain(graph), axes, block).result()


class _Streaming:
    def __init__(self, graph: Graph, axes: Mapping[str, int], block: int) -> None:
        self.graph = graph
        self.block = block
        self.build = Builder()
        self.state: dict[str, np.ndarray] = {}
        self.state_inputs: list[Value] = []
        self.state_outputs: list[Value] = []
        self.signals: dict[Value, Signal] = {}
        self.settled: dict[Value, Signal] = {}
        self.steady: dict[Value, Value] = {}  # what does not vary with time, in the new graph
        self.clock: Value | None = None
        lengths = {n: v.shape[axes[n]] for v in graph.inputs if (n := v.node.name) in axes}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"%{name} {n}" for name, n in lengths.items())
            raise ShapeError(f"@{graph.name}: streaming: expected signals of one length, got {told}")
        (self.length,) = set(lengths.values())
        for v in graph.inputs:
            if v.node.name in axes:
                self.signals[v] = Signal(v, axes[v.node.name])

    def result(self) -> Streamed:
        """The graph and its first state."""
        graph, build = self.graph, self.build
        inputs: dict[Value, Value] = {}
        for v in graph.inputs:
            found = self.signals.get(v)
            type = _resized(v.type, found.axis, self.block) if found is not None else v.type
            inputs[v] = build.input(type, v.node.name, v.node.loc)
            if found is not None:
                self.signals[v] = replace(found, value=inputs[v])
            else:
                self.steady[v] = inputs[v]
        for node in graph.nodes:
            build.loc = node.loc
            if any(v in self.signals for v in node.operands):
                self._node(node)
        outputs = [self._output(v, i) for i, v in enumerate(graph.outputs)]
        names = graph.output_names or tuple(f"output{i}" for i in range(len(outputs)))
        made = Graph(
            graph.name,
            (*self.state_inputs, *inputs.values()),
            (*self.state_outputs, *outputs),
            "traced",
            (*self.state, *names),
        )
        return Streamed(made, self.state)

    def _output(self, value: Value, position: int) -> Value:
        if value not in self.signals:
            return self._steady(value)
        found, loc = self._signal(value), value.node.loc
        if found.lag > 0:
            ahead = found.lag * found.rate
            raise TraceError(
                f"{loc.prefix}streaming: expected output {position} to need the past alone, got one that looks {ahead} "
                f"{'sample' if ahead == 1 else 'samples'} ahead; pad it in front to delay it"
            )
        return found.value

    def _signal(self, value: Value) -> Signal:
        """A signal whose delays are made."""
        if value not in self.settled:
            self.settled[value] = self._settle(self.signals[value])
        return self.settled[value]

    # ------------------------------------------------------------------------------------------------------- steady

    def _steady(self, value: Value) -> Value:
        """A value that does not vary with time, in the new graph."""
        if value not in self.steady:
            node = value.node
            operands = [self._steady(v) for v in node.operands]
            copy = self.build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
            self.steady.update(zip(node.results, copy.results, strict=True))
        return self.steady[value]

    def _beside(self, value: Value, like: Signal) -> Value:
        """What meets a signal and was given for all times: the part that belongs to the signal's block."""
        node, axis = value.node, like.axis
        type = _resized(value.type, axis, like.value.shape[axis])
        if node.op.name == "const" and isinstance(node.attrs["value"], (bool, int, float)):
            return Value(self.build.emit(node.op, (), {**node.attrs, "type": type}, loc=node.loc))
        if node.op.name == "broadcast" and axis not in node.ints("dims"):
            return self.build.broadcast(
                self._steady(node.operands[0]), dims=node.attrs["dims"], shape=type.shape
            )
        if node.op.name == "iota":
            if node.int("dim") != axis:
                return Value(self.build.emit(node.op, (), {**node.attrs, "type": type}, loc=node.loc))
            return self.build.cast(self._numbers(like, type.shape), type=type)
        if "pointwise" in node.op.traits:
            operands = [self._beside(v, like) for v in node.operands]
            return Value(self.build.emit(node.op, operands, _typed(node, type), loc=node.loc))
        return self.build.gather(
            self._steady(value), self._numbers(like, type.shape[axis : axis + 1], 0), axis=axis
        )

    def _numbers(self, like: Signal, shape: tuple[int, ...], axis: int | None = None) -> Value:
        """Of the elements of a signal's block, their numbers since the beginning, i64."""
        index = TensorType(i64, shape)
        if self.clock is None:
            self.clock, finish = self._kept("clock", TensorType(i64, ()), 0)
            finish(self.build.add(self.clock, self.build.splat(self.block, self.clock.type)))
        now = self.build.floordiv(self.clock, self.build.splat(like.rate, self.clock.type))
        first = self.build.sub(
            now, self.build.splat(max(like.lag, 0), now.type)
        )  # behind by what it looks ahead
        along = self.build.iota(dim=like.axis if axis is None else axis, type=index)
        return self.build.add(self.build.broadcast(first, dims=(), shape=shape), along)

    # -------------------------------------------------------------------------------------------------------- nodes

    def _node(self, node: Node) -> None:
        rules: dict[str, Callable[[Node], Signal]] = {
            "broadcast": self._broadcast, "reshape": self._reshape, "transpose": self._transpose, "slice": self._slice,
            "pad": self._pad, "concat": self._concat, "contract": self._contract, "gather": self._gather,
            "window": self._windows,
        }  # fmt: skip
        if "factor" in node.op.traits:
            self._factor(node)
            return
        if "pointwise" in node.op.traits:
            rule: Callable[[Node], Signal] = self._pointwise
        elif "cumulative" in node.op.traits:
            rule = self._running
        elif "reduction" in node.op.traits:
            rule = self._reduce
        elif "sort" in node.op.traits:
            rule = self._sort
        elif node.op.name in rules:
            rule = rules[node.op.name]
        else:
            raise self._refusal(node, "an op that works sample by sample or block by block")
        self.signals[node.results[0]] = rule(node)

    def _refusal(self, node: Node, expected: str) -> TraceError:
        return TraceError(
            f"{node.loc.prefix}{node.op.name}: streaming: expected {expected}, got {node.op.name} along time"
        )

    def _emit(
        self, node: Node, operands: Sequence[Value], like: Signal, axis: int | None = None, **attrs: Attr
    ) -> Signal:
        made = self.build.emit(node.op, operands, {**node.attrs, **attrs}, node.regions, node.loc, node.name)
        return replace(like, value=Value(made), axis=like.axis if axis is None else axis)

    def _together(self, node: Node) -> tuple[list[Value], Signal]:
        """The operands at one time: those that are known earlier wait for the others."""
        found = [self._signal(v) for v in node.operands if v in self.signals]
        if len({(s.axis, s.rate) for s in found}) > 1:
            raise self._refusal(node, "operands of one rate along one axis")
        last = max(found, key=lambda s: s.lag)
        operands = [
            self._delayed(self._signal(v), last.lag - self._signal(v).lag, None).value
            if v in self.signals
            else self._beside(v, last)
            for v in node.operands
        ]
        return operands, last

    def _pointwise(self, node: Node) -> Signal:
        operands, like = self._together(node)
        made = self.build.emit(node.op, operands, _typed(node, operands[0].type), (), node.loc, node.name)
        return replace(like, value=Value(made))

    def _factor(self, node: Node) -> None:
        """Matrices of one time each."""
        operands, like = self._together(node)
        if like.axis >= node.operands[-1].type.rank - 2:
            raise self._refusal(node, "time as a dimension before those of the matrices")
        made = self.build.emit(node.op, operands, node.attrs, (), node.loc, node.name)
        for result, value in zip(node.results, made.results, strict=True):
            self.signals[result] = replace(like, value=value)

    def _running(self, node: Node) -> Signal:
        """A running op goes on from the last result of the block before."""
        operands, like = self._together(node)
        if node.int("axis") != like.axis:
            return self._emit(node, operands, like)
        if node.attrs["reverse"]:
            raise self._refusal(node, "a running op from the beginning to the end")
        if like.lag:
            raise self._refusal(node, "a running op of a signal that does not look ahead")
        dtype = node.type.dtype
        if node.op.name == "recurrence":
            first: float | int = 0.0 if dtype.is_float else 0
        elif dtype.is_float:
            first = -np.inf if node.op.name == "cumulative_max" else np.inf
        else:
            limits = np.iinfo(dtype.numpy)
            first = int(limits.min if node.op.name == "cumulative_max" else limits.max)
        one = _resized(operands[-1].type, like.axis, 1)
        before, finish = self._kept("running", one, first)
        joined = [self.build.concat(before, operands[-1], axis=like.axis)]
        if node.op.name == "recurrence":  # the factor of the first element is not used
            joined.insert(0, self.build.concat(self.build.splat(1, one), operands[0], axis=like.axis))
        whole = Value(self.build.emit(node.op, joined, node.attrs, (), node.loc))
        count = operands[0].shape[like.axis]
        finish(self._window(whole, like.axis, count, 1))
        return replace(like, value=self._window(whole, like.axis, 1, count))

    def _sort(self, node: Node) -> Signal:
        like = self._signal(node.operands[0])
        if node.int("axis") == like.axis:
            raise self._refusal(node, "a sort along another axis than time")
        return self._emit(node, [like.value], like)

    def _broadcast(self, node: Node) -> Signal:
        (operand,) = node.operands
        like, dims = self.signals[operand], node.ints("dims")  # a delay that is not made yet stays so
        axis = dims[like.axis]
        shape = _resized(node.type, axis, like.value.shape[like.axis]).shape
        return self._emit(node, [like.value], like, axis, shape=shape)

    def _transpose(self, node: Node) -> Signal:
        like = self.signals[node.operands[0]]
        return self._emit(node, [like.value], like, node.ints("perm").index(like.axis))

    def _reduce(self, node: Node) -> Signal:
        like = self._signal(node.operands[0])
        axes = node.ints("axes") if "axes" in node.attrs else (node.int("axis"),)
        if like.axis in axes:
            raise self._refusal(
                node, "a reduction over other axes than time (of a window: reshape, or sum slices)"
            )
        return self._emit(node, [like.value], like, like.axis - sum(a < like.axis for a in axes))

    def _gather(self, node: Node) -> Signal:
        x, indices = node.operands
        at = node.int("axis")
        if x in self.signals and indices in self.signals:
            raise self._refusal(node, "a table or indices that are the same at all times")
        if indices in self.signals:
            like = self._signal(indices)
            return self._emit(node, [self._steady(x), like.value], like, at + like.axis)
        like = self._signal(x)
        if like.axis == at:
            raise self._refusal(node, "indices into another axis than time")
        axis = like.axis + (indices.type.rank - 1 if like.axis > at else 0)
        return self._emit(node, [like.value, self._steady(indices)], like, axis)

    def _contract(self, node: Node) -> Signal:
        left, right = node.operands
        d = dimensions(node.attrs, left.type.rank, right.type.rank)
        order = [("left", a) for a in (*d.lhs_batch, *d.lhs_free)] + [("right", a) for a in d.rhs_free]
        batches = dict(zip(d.rhs_batch, d.lhs_batch, strict=True))
        for v, side, summed in ((left, "left", d.lhs_summed), (right, "right", d.rhs_summed)):
            if v in self.signals and self._signal(v).axis in summed:
                raise self._refusal(
                    node, f"a product that sums over other axes than time (of its {side} operand)"
                )
        if left in self.signals and right in self.signals:
            a, b = self._signal(left), self._signal(right)
            if batches.get(b.axis) != a.axis or a.rate != b.rate:
                raise self._refusal(node, "two signals that share their time axis as a batch axis")
            later = max(a.lag, b.lag)
            a, b = self._delayed(a, later - a.lag, None), self._delayed(b, later - b.lag, None)
            return self._emit(node, [a.value, b.value], a, order.index(("left", a.axis)))
        if left in self.signals:
            like = self._signal(left)
            if like.axis in d.lhs_batch:
                raise self._refusal(node, "the other operand to vary with time too")
            return self._emit(node, [like.value, self._steady(right)], like, order.index(("left", like.axis)))
        like = self._signal(right)
        if like.axis in d.rhs_batch:
            raise self._refusal(node, "the other operand to vary with time too")
        return self._emit(node, [self._steady(left), like.value], like, order.index(("right", like.axis)))

    def _reshape(self, node: Node) -> Signal:
        (operand,) = node.operands
        like, old, new = self.signals[operand], operand.shape, node.ints("shape")
        before, length = prod(old[: like.axis]), old[like.axis]
        begins = [axis for axis in range(len(new)) if prod(new[:axis]) == before]
        for axis in begins:
            if new[axis] == length:
                shape = _resized(TensorType(node.type.dtype, new), axis, like.value.shape[like.axis]).shape
                return self._emit(node, [like.value], like, axis, shape=shape)
        like = self._signal(operand)
        for axis in begins:
            if (
                axis + 1 < len(new) and new[axis] > 1 and new[axis] * new[axis + 1] == length
            ):  # windows side by side
                count = new[axis + 1]
                if like.lag % count:
                    raise self._refusal(node, f"windows of {count} that begin where the signal begins")
                rate = like.rate * count
                shape = (*new[:axis], self._of_block(node, rate), *new[axis + 1 :])
                made = self._emit(node, [like.value], like, axis, shape=shape)
                return replace(made, rate=rate, lag=like.lag // count)
        raise self._refusal(node, "a reshape that keeps the time axis, or takes it apart into windows")

    def _of_block(self, node: Node, rate: int) -> int:
        """How many elements of that rate a block has."""
        if self.block % rate:
            raise ShapeError(
                f"{node.loc.prefix}{node.op.name}: streaming: expected a block of a multiple of {rate} samples, got "
                f"{self.block}"
            )
        return self.block // rate

    def _slice(self, node: Node) -> Signal:
        (operand,) = node.operands
        like = self.signals[operand]
        starts, sizes, steps = (list(node.ints(k)) for k in ("start", "size", "step"))
        start, step = starts[like.axis], steps[like.axis]
        if step < 1:
            raise self._refusal(node, "a slice that goes forward in time")
        if sizes[like.axis] == 1 and self.length > 1:
            raise self._refusal(node, "a slice of all times; a single one has no next")
        if step > 1:
            like = self._signal(operand)
        if step == 1 and start <= like.before:
            like = replace(like, before=like.before - start)
            start = 0
        elif like.before:
            like, start = replace(like, before=0), start - like.before
        # Element j is element start + j * step of the operand. In a block those begin at `first`.
        rate = like.rate * step
        ahead = like.lag + start
        starts[like.axis], sizes[like.axis] = ahead % step, self._of_block(node, rate)
        made = self._emit(node, [like.value], like, start=tuple(starts), size=tuple(sizes), step=tuple(steps))
        return replace(made, rate=rate, lag=ahead // step)

    def _windows(self, node: Node) -> Signal:
        """Windows along time: the state keeps what those of the next block reach back to."""
        (operand,) = node.operands
        like, g, taps = self.signals[operand], geometry(node.attrs), operand.shape[node.int("taps")]
        if like.axis == g.taps or (like.axis == g.axis and g.base > 1):
            raise self._refusal(node, "windows of a signal, whose elements lie in it")
        if like.axis != g.axis:
            like = self._signal(operand)
            return self._emit(node, [like.value], like)
        if like.before and like.fill:
            like = self._signal(operand)
        # the zeros before the signal are those that windows find outside
        reach, offset = (taps - 1) * g.dilation, g.offset - like.before
        like = replace(like, before=0, fill=0)
        if like.lag > 0 and offset + min(reach, 0) < 0:
            like = self._masked(like, 0, 0)
        # window o is known once its last element is: the block's windows end `ahead` elements before it does
        ahead = max(like.lag + offset + max(reach, 0), 0)
        past = max(ahead - like.lag - offset - min(reach, 0), 0)
        rate = like.rate * g.stride
        value = like.value
        if past:
            type = _resized(value.type, like.axis, past)
            before, finish = self._kept("past", type, 0.0 if type.dtype.is_float else 0)
            value = self.build.concat(before, value, axis=like.axis)
            finish(self._window(value, like.axis, like.value.shape[like.axis], past))
        first = past + ahead % g.stride + offset + like.lag - ahead
        made = self._emit(node, [value], like, size=self._of_block(node, rate), offset=first)
        return replace(made, rate=rate, lag=ahead // g.stride)

    def _pad(self, node: Node) -> Signal:
        (operand,) = node.operands
        like = self.signals[operand]
        low, high, interior = (list(node.ints(k)) for k in ("low", "high", "interior"))
        if interior[like.axis]:
            raise self._refusal(node, "padding around the signal, not between its samples")
        fill, count = node.attrs["value"], low[like.axis]
        assert isinstance(fill, (bool, int, float))
        low[like.axis] = high[like.axis] = 0
        if any(low) or any(high) or any(interior):
            like = self._signal(operand)
            like = self._emit(
                node, [like.value], like, low=tuple(low), high=tuple(high), interior=tuple(interior)
            )
        return self._later(like, count, fill)

    def _concat(self, node: Node) -> Signal:
        """Equal numbers in front of the signal. What comes after its end, a stream never reaches."""
        along = node.int("axis")
        varying = [v for v in node.operands if v in self.signals]
        like = self.signals[varying[0]]
        if along != like.axis:
            operands, like = self._together(node)
            return self._emit(node, operands, like)
        if len(varying) > 1:
            raise self._refusal(node, "one signal after the other along another axis than time")
        before = node.operands[: node.operands.index(varying[0])]
        numbers = {_scalar(v) for v in before}
        if None in numbers or len(numbers) > 1:
            raise self._refusal(node, "equal constants in front of the signal")
        return self._later(like, sum(v.shape[along] for v in before), numbers.pop() if numbers else 0)

    # -------------------------------------------------------------------------------------------------------- delays

    def _later(self, signal: Signal, count: int, fill: float | int | bool | None) -> Signal:
        """The signal after `count` elements like `fill`."""
        if count and signal.before and signal.fill != fill:
            signal = self._settle(signal)
        return replace(
            signal, before=signal.before + count, fill=signal.fill if fill is None or not count else fill
        )

    def _settle(self, signal: Signal) -> Signal:
        """The signal with its delay made: what it looks ahead makes up for some of it."""
        count = signal.before
        made = replace(signal, before=0, lag=signal.lag - count)
        if made.lag < 0:
            made = self._delayed(replace(made, lag=0), -made.lag, signal.fill)
            made = replace(made, lag=0)
        if signal.lag > 0 and count:  # before the signal begins there is what it was looking ahead from
            made = self._masked(made, count, signal.fill)
        return made

    def _masked(self, signal: Signal, count: int, fill: float | int | bool) -> Signal:
        """`fill` for the elements whose number is below `count`."""
        numbers = self._numbers(signal, signal.value.shape)
        early = self.build.lt(numbers, self.build.splat(count, numbers.type))
        filled = self.build.splat(fill, signal.value.type)
        return replace(signal, value=self.build.select(early, filled, signal.value))

    def _delayed(self, signal: Signal, count: int, fill: float | int | bool | None) -> Signal:
        """The signal `count` elements later; the state keeps its last elements. Before it begins there is `fill`."""
        if count == 0:
            return signal
        type = _resized(signal.value.type, signal.axis, count)
        zero: float | int | bool = 0.0 if type.dtype.is_float else False if type.dtype.kind == "bool" else 0
        before, finish = self._kept("past", type, zero if fill is None else fill)
        whole = self.build.concat(before, signal.value, axis=signal.axis)
        length = signal.value.shape[signal.axis]
        finish(self._window(whole, signal.axis, length, count))
        return replace(signal, value=self._window(whole, signal.axis, 0, length), lag=signal.lag + count)

    def _kept(
        self, what: str, type: TensorType, first: float | int | bool
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

    def _window(self, value: Value, axis: int, start: int, size: int) -> Value:
        rank = value.type.rank
        return self.build.slice(
            value,
            start=tuple(start if d == axis else 0 for d in range(rank)),
            size=_resized(value.type, axis, size).shape,
            step=(1,) * rank,
        )


def _resized(type: TensorType, axis: int, length: int) -> TensorType:
    return TensorType(type.dtype, (*type.shape[:axis], length, *type.shape[axis + 1 :]))


def _typed(node: Node, like: TensorType) -> dict[str, Attr]:
    """The node's attributes, its type (of ops that state it) with the shape of a block."""
    attrs = dict(node.attrs)
    stated = attrs.get("type")
    if isinstance(stated, TensorType):
        attrs["type"] = TensorType(stated.dtype, like.shape)
    return attrs


def _scalar(value: Value) -> float | int | bool | None:
    """The number that all elements are, where that is known."""
    while value.node.op.name in ("broadcast", "slice", "reshape"):
        value = value.node.operands[0]
    found = value.node.attrs.get("value") if value.node.op.name == "const" else None
    return found if isinstance(found, (bool, int, float)) else None
