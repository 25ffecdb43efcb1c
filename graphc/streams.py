"""`streaming`: a function of a whole signal becomes one of a block of it, with the state between blocks in its arguments.

In: a function, the types of whole signals, which axis is time. Out: a `Stream`, which runs block after block in Python, or
is an entry of an exported library, where the state lives in the caller's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from graphc.compiler import CompiledFunction, compile
from graphc.entries import Entry
from graphc.errors import ArgumentError
from graphc.frontend.tracer import trace_function
from graphc.ir.graph import Graph
from graphc.ir.loc import here
from graphc.passes.stream import Streamed, stream


class Stream:
    """A function that is called with one block after the other. `graph` reads and gives the state first.

    >>> import graphc
    >>> mean = streaming(lambda x: graphc.cumulative_sum(x, axis=0), graphc.f32[100], block=4)
    >>> mean(np.ones(4, np.float32)), mean(np.ones(4, np.float32))
    (array([1., 2., 3., 4.], dtype=float32), array([5., 6., 7., 8.], dtype=float32))
    """

    def __init__(self, streamed: Streamed, captured: Sequence[np.ndarray]) -> None:
        self.graph: Graph = streamed.graph
        self._first = streamed.state
        self._captured = list(captured)
        self.reset()

    def reset(self) -> None:
        """Back to the beginning of the signal."""
        self.state = {name: array.copy() for name, array in self._first.items()}

    @cached_property
    def compiled(self) -> CompiledFunction:
        """The compiled function: state, then arguments, to new state, then outputs; the state is updated in place."""
        return compile(self.graph, donate=list(self.state))

    @property
    def entry(self) -> Entry:
        """The function for `graphc.export`: the state is among its arguments and is updated in place."""
        return Entry(
            self.graph,
            donate=list(self.state),
            doc="One block; the state begins as the stream's first state.",
            weights=self._captured,
        )

    def __call__(self, *blocks: object) -> object:
        """The outputs of the next block; arguments that do not vary with time are given each time."""
        results = self.compiled.flat(*self.state.values(), *blocks, *self._captured)[len(self.state) :]
        return results[0] if len(results) == 1 else tuple(results)


def streaming(
    fn: Callable[..., object] | Graph,
    *specs: object,
    axis: int | str = "time",
    block: int = 64,
    static: Sequence[str] = (),
) -> Stream:
    """A causal function of whole signals as a function of blocks: the same results, with nothing computed twice.

    `specs` are the types of whole signals; all of one length along `axis`, which is a number or "time", the last axis of
    each argument. Arguments named in `static` (weights, say) do not vary with time. `block` is how many samples a call
    takes, a multiple of all strides. What is needed of earlier blocks is the state: the last samples that delays,
    windows and causal convolutions reach back to, the last results of running ops (`cumsum`, a recurrence), the carries of
    loops over time (`scan`, `nn.GRU`). Each output is defined for all times that the whole signal has.

    Raises `TraceError`, with the line, where an op needs the future or all of the past (a reduction over time, a reversed
    signal or loop, a loop's last carry); `ArgumentError` for an axis that an argument hasn't; `ShapeError` for lengths or
    blocks that don't fit.

    >>> import graphc
    >>> def moving_average(x):
    ...     earlier = graphc.concat([graphc.zeros(2), x])
    ...     return (earlier[:-2] + earlier[1:-1] + x) / 3
    >>> stream = streaming(moving_average, graphc.f32[12], block=3)
    >>> np.concatenate([stream(np.float32([3, 6, 9])), stream(np.float32([0, 0, 0]))])
    array([1., 3., 6., 5., 3., 0.], dtype=float32)
    """
    if isinstance(fn, Graph):
        graph, arrays = fn, []
    else:
        traced = trace_function(fn, specs)
        if traced.captures:
            raise ArgumentError(
                f"{traced.graph.name}: streaming inside a traced function: call the function itself there"
            )
        graph, arrays = traced.graph, [p.array for p in traced.parameters]
    own = len(graph.inputs) - len(arrays)
    where = f"{here().prefix}streaming: @{graph.name}"
    unknown = [name for name in static if not any(_is(name, n) for n in graph.input_names)]
    if unknown:
        raise ArgumentError(
            f"{where}: static: expected some of {', '.join(graph.input_names)}, got {unknown[0]!r}"
        )
    if block < 1:
        raise ArgumentError(f"{where}: expected a block of at least one sample, got {block}")
    axes: dict[str, int] = {}
    for v in graph.inputs[:own]:
        name = v.node.name
        if any(_is(s, name) for s in static):
            continue
        found = v.type.rank - 1 if axis == "time" else axis
        if not isinstance(found, int) or not -v.type.rank <= found < v.type.rank:
            raise ArgumentError(
                f'{where}: axis: expected "time" or an axis of {name}: {v.type!r}, got {axis!r}'
            )
        axes[name] = found % v.type.rank
    if not axes:
        raise ArgumentError(f"{where}: expected an argument that varies with time, got none")
    return Stream(stream(graph, axes, block), arrays)


def _is(name: str, leaf: str) -> bool:
    """Whether a leaf is the argument of that name, or in it."""
    return leaf == name or leaf.startswith(f"{name}.")
