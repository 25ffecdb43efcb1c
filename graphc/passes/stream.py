"""From a graph over a whole signal to one over a block of it: the same results, block after block, nothing computed twice.

In: a graph some of whose inputs have a time axis. Out: a graph over blocks, which reads and gives the state that lies
between two blocks: the last samples that delays still need, the last results of running ops, the carries of loops, a clock.

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
from graphc.ir.graph import Attr, Graph, Node, Value
from graphc.ir.inline import plain
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.scan_parts import ScanParts
from graphc.ir.ops.window import geometry
from graphc.ir.types import TensorType
from graphc.passes.stream_signals import Signal, Signals, resized, typed


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


class _Streaming(Signals):
    def __init__(self, graph: Graph, axes: Mapping[str, int], block: int) -> None:
        super().__init__(block)
        self.graph = graph
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
            type = resized(v.type, found.axis, self.block) if found is not None else v.type
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
            return self.fixed(value)
        found, loc = self.signal(value), value.node.loc
        if found.lag > 0:
            ahead = found.lag * found.rate
            raise TraceError(
                f"{loc.prefix}streaming: expected output {position} to need the past alone, got one that looks {ahead} "
                f"{'sample' if ahead == 1 else 'samples'} ahead; pad it in front to delay it"
            )
        return found.value

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
        if node.op.name == "scan":
            self._scan(node)
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

    def _refusal(self, node: Node, expected: str, got: str = "") -> TraceError:
        return TraceError(
            f"{node.loc.prefix}{node.op.name}: streaming: expected {expected}, got "
            f"{got or f'{node.op.name} along time'}"
        )

    def _emit(
        self, node: Node, operands: Sequence[Value], like: Signal, axis: int | None = None, **attrs: Attr
    ) -> Signal:
        made = self.build.emit(node.op, operands, {**node.attrs, **attrs}, node.regions, node.loc, node.name)
        return replace(like, value=Value(made), axis=like.axis if axis is None else axis)

    def _together(self, node: Node, values: Sequence[Value]) -> tuple[list[Value], Signal]:
        """The operands at one time: those that are known earlier wait for the others."""
        found = [self.signal(v) for v in values if v in self.signals]
        if len({(s.axis, s.rate) for s in found}) > 1:
            raise self._refusal(node, "operands of one rate along one axis")
        last = max(found, key=lambda s: s.lag)
        operands = [
            self.delayed(self.signal(v), last.lag - self.signal(v).lag, None).value
            if v in self.signals
            else self.beside(v, last)
            for v in values
        ]
        return operands, last

    def _pointwise(self, node: Node) -> Signal:
        operands, like = self._together(node, node.operands)
        made = self.build.emit(node.op, operands, typed(node, operands[0].type), (), node.loc, node.name)
        return replace(like, value=Value(made))

    def _factor(self, node: Node) -> None:
        """Matrices of one time each."""
        operands, like = self._together(node, node.operands)
        if like.axis >= node.operands[-1].type.rank - 2:
            raise self._refusal(node, "time as a dimension before those of the matrices")
        made = self.build.emit(node.op, operands, node.attrs, (), node.loc, node.name)
        for result, value in zip(node.results, made.results, strict=True):
            self.signals[result] = replace(like, value=value)

    def _running(self, node: Node) -> Signal:
        """A running op goes on from the last result of the block before."""
        operands, like = self._together(node, node.operands)
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
        one = resized(operands[-1].type, like.axis, 1)
        before, finish = self.kept("running", one, first)
        joined = [self.build.concat(before, operands[-1], axis=like.axis)]
        if node.op.name == "recurrence":  # the factor of the first element is not used
            joined.insert(0, self.build.concat(self.build.splat(1, one), operands[0], axis=like.axis))
        whole = Value(self.build.emit(node.op, joined, node.attrs, (), node.loc))
        count = operands[0].shape[like.axis]
        finish(self.window(whole, like.axis, count, 1))
        return replace(like, value=self.window(whole, like.axis, 1, count))

    def _scan(self, node: Node) -> None:
        """A loop over time goes on from the carries of the block before: an element is a step."""
        parts = ScanParts(node)
        varying = [v for v in node.operands if v in self.signals]
        if any(v not in parts.xs or self.signal(v).axis for v in varying):
            raise self._refusal(
                node, "a loop over time itself, whose first carries and captures do not vary with it"
            )
        if parts.reverse:
            raise self._refusal(node, "a loop from the beginning to the end", "a reversed one along time")
        xs, like = self._together(node, parts.xs)
        if like.lag:
            raise self._refusal(node, "a loop over signals that do not look ahead")
        begun = [self.carried(v) for v in parts.init]
        captured = [self.fixed(v) for v in parts.captured]
        attrs = {**node.attrs, "length": like.value.shape[0]}
        carries = [value for value, _ in begun]
        made = self.build.emit(node.op, [*carries, *captured, *xs], attrs, node.regions, node.loc, node.name)
        for (_, finish), value in zip(begun, made.results[: parts.carries], strict=True):
            finish(value)
        for result in node.results[: parts.carries]:
            self.endless[result] = self._refusal(
                node, "a result of each step", "the last carry of a loop along time"
            )
        for result, value in zip(parts.ys, made.results[parts.carries :], strict=True):
            self.signals[result] = replace(like, value=value)

    def _sort(self, node: Node) -> Signal:
        like = self.signal(node.operands[0])
        if node.int("axis") == like.axis:
            raise self._refusal(node, "a sort along another axis than time")
        return self._emit(node, [like.value], like)

    def _broadcast(self, node: Node) -> Signal:
        (operand,) = node.operands
        like, dims = self.signals[operand], node.ints("dims")  # a delay that is not made yet stays so
        axis = dims[like.axis]
        shape = resized(node.type, axis, like.value.shape[like.axis]).shape
        return self._emit(node, [like.value], like, axis, shape=shape)

    def _transpose(self, node: Node) -> Signal:
        like = self.signals[node.operands[0]]
        return self._emit(node, [like.value], like, node.ints("perm").index(like.axis))

    def _reduce(self, node: Node) -> Signal:
        like = self.signal(node.operands[0])
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
            like = self.signal(indices)
            return self._emit(node, [self.fixed(x), like.value], like, at + like.axis)
        like = self.signal(x)
        if like.axis == at:
            raise self._refusal(node, "indices into another axis than time")
        axis = like.axis + (indices.type.rank - 1 if like.axis > at else 0)
        return self._emit(node, [like.value, self.fixed(indices)], like, axis)

    def _contract(self, node: Node) -> Signal:
        left, right = node.operands
        d = dimensions(node.attrs, left.type.rank, right.type.rank)
        order = [("left", a) for a in (*d.lhs_batch, *d.lhs_free)] + [("right", a) for a in d.rhs_free]
        batches = dict(zip(d.rhs_batch, d.lhs_batch, strict=True))
        for v, side, summed in ((left, "left", d.lhs_summed), (right, "right", d.rhs_summed)):
            if v in self.signals and self.signal(v).axis in summed:
                raise self._refusal(
                    node, f"a product that sums over other axes than time (of its {side} operand)"
                )
        if left in self.signals and right in self.signals:
            a, b = self.signal(left), self.signal(right)
            if batches.get(b.axis) != a.axis or a.rate != b.rate:
                raise self._refusal(node, "two signals that share their time axis as a batch axis")
            later = max(a.lag, b.lag)
            a, b = self.delayed(a, later - a.lag, None), self.delayed(b, later - b.lag, None)
            return self._emit(node, [a.value, b.value], a, order.index(("left", a.axis)))
        if left in self.signals:
            like = self.signal(left)
            if like.axis in d.lhs_batch:
                raise self._refusal(node, "the other operand to vary with time too")
            return self._emit(node, [like.value, self.fixed(right)], like, order.index(("left", like.axis)))
        like = self.signal(right)
        if like.axis in d.rhs_batch:
            raise self._refusal(node, "the other operand to vary with time too")
        return self._emit(node, [self.fixed(left), like.value], like, order.index(("right", like.axis)))

    def _reshape(self, node: Node) -> Signal:
        (operand,) = node.operands
        like, old, new = self.signals[operand], operand.shape, node.ints("shape")
        before, length = prod(old[: like.axis]), old[like.axis]
        begins = [axis for axis in range(len(new)) if prod(new[:axis]) == before]
        for axis in begins:
            if new[axis] == length:
                shape = resized(TensorType(node.type.dtype, new), axis, like.value.shape[like.axis]).shape
                return self._emit(node, [like.value], like, axis, shape=shape)
        like = self.signal(operand)
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
            like = self.signal(operand)
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
            like = self.signal(operand)
            return self._emit(node, [like.value], like)
        if like.before and like.fill:
            like = self.signal(operand)
        # the zeros before the signal are those that windows find outside
        reach, offset = (taps - 1) * g.dilation, g.offset - like.before
        like = replace(like, before=0, fill=0)
        if like.lag > 0 and offset + min(reach, 0) < 0:
            like = self.masked(like, 0, 0)
        # window o is known once its last element is: the block's windows end `ahead` elements before it does
        ahead = max(like.lag + offset + max(reach, 0), 0)
        past = max(ahead - like.lag - offset - min(reach, 0), 0)
        rate = like.rate * g.stride
        value = like.value
        if past:
            type = resized(value.type, like.axis, past)
            before, finish = self.kept("past", type, 0.0 if type.dtype.is_float else 0)
            value = self.build.concat(before, value, axis=like.axis)
            finish(self.window(value, like.axis, like.value.shape[like.axis], past))
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
            like = self.signal(operand)
            like = self._emit(
                node, [like.value], like, low=tuple(low), high=tuple(high), interior=tuple(interior)
            )
        return self.later(like, count, fill)

    def _concat(self, node: Node) -> Signal:
        """Equal numbers in front of the signal. What comes after its end, a stream never reaches."""
        along = node.int("axis")
        varying = [v for v in node.operands if v in self.signals]
        like = self.signals[varying[0]]
        if along != like.axis:
            operands, like = self._together(node, node.operands)
            return self._emit(node, operands, like)
        if len(varying) > 1:
            raise self._refusal(node, "one signal after the other along another axis than time")
        before = node.operands[: node.operands.index(varying[0])]
        numbers = {_scalar(v) for v in before}
        if None in numbers or len(numbers) > 1:
            raise self._refusal(node, "equal constants in front of the signal")
        return self.later(like, sum(v.shape[along] for v in before), numbers.pop() if numbers else 0)


def _scalar(value: Value) -> float | int | bool | None:
    """The number that all elements are, where that is known."""
    while value.node.op.name in ("broadcast", "slice", "reshape"):
        value = value.node.operands[0]
    found = value.node.attrs.get("value") if value.node.op.name == "const" else None
    return found if isinstance(found, (bool, int, float)) else None
