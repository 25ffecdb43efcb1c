"""Convolutions and pooling in ONNX: products with windows, and sums of them, are Conv and AveragePool.

In: a contraction or sum whose operand is a view `window(broadcast(...(x)))`. Out: the node of ONNX, between a transpose and
reshape of each operand and of the result where they are needed. (onnx.ai/onnx/operators: Conv, AveragePool.)
What has another form, as windows that begin behind the signal's start, is written window by window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from graphc.ir.graph import Node, Value
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import Geometry, geometry
from graphc.onnx_writer import Writer

if TYPE_CHECKING:
    from typing import Any

_MOST_SPATIAL = 3  # dimensions that runtimes have convolutions of


@dataclass(frozen=True)
class Windows:
    """A view of windows: what it is of, and what each of its dimensions is."""

    source: Value
    dims: dict[int, int]  # of the view → of the source; the others count a window's elements
    along: dict[int, Geometry]  # of the dimensions that windows slide along
    taps: dict[int, int]  # such a dimension → the one of its windows' elements
    sizes: tuple[int, ...]  # of the view


def windows(value: Value) -> Windows | None:
    """The windows that a value is a view of; None where it is none, or one that ONNX has no word for."""
    top = value
    dims = {d: d for d in range(value.type.rank)}
    along: dict[int, Geometry] = {}
    taps: dict[int, int] = {}
    while value.node.op.name in ("window", "broadcast"):
        node, (x,) = value.node, value.node.operands
        if node.op.name == "window":
            g = geometry(node.attrs)
            here = {now: d for d, now in dims.items()}
            axis, tap = here.get(g.axis), here.get(g.taps)
            if axis is None or tap is None or axis in along or tap in taps.values() or axis in taps.values():
                return None
            if _pads(g, x.shape[g.axis], x.shape[g.taps]) is None:
                return None
            along[axis], taps[axis] = g, tap
        else:
            kept = {now: d for d, now in enumerate(node.ints("dims"))}
            if any(now not in kept and d not in taps.values() for d, now in dims.items()):
                return None
            if any(x.shape[kept[now]] != node.type.shape[now] for now in dims.values() if now in kept):
                return None
            dims = {d: kept[now] for d, now in dims.items() if now in kept}
        value = x
    thick = set(taps.values()) & set(dims)
    if not along or len(along) > _MOST_SPATIAL or thick or len(dims) != value.type.rank or not top.type.size:
        return None
    return Windows(value, dims, along, taps, top.shape)


def _pads(g: Geometry, length: int, taps: int) -> tuple[int, int] | None:
    """Zeros before and behind the signal that give as many windows; None where there is no such number."""
    if g.base != 1 or g.dilation < 1 or g.offset > 0:
        return None
    low, reach = -g.offset, (taps - 1) * g.dilation + 1
    high = max((g.size - 1) * g.stride + reach - length - low, 0)
    return (low, high) if (length + low + high - reach) // g.stride + 1 == g.size else None


@dataclass(frozen=True)
class Convolution:
    """A contraction as Conv: which dimensions of both operands are rows, groups, channels and windows."""

    node: Node
    view: Windows
    weights: Value
    rows: list[int]  # of the view
    groups: list[tuple[int, int]]  # of view and weights
    channels: list[tuple[int, int]]
    taps: dict[int, int]  # dimension of a window's elements, of view → of weights
    outs: list[int]  # free dimensions of the weights
    flipped: bool  # the view is the left operand

    @property
    def reads(self) -> tuple[Value, ...]:
        return self.view.source, self.weights


@dataclass(frozen=True)
class Pooling:
    """A sum over the elements of windows as AveragePool."""

    node: Node
    view: Windows

    @property
    def reads(self) -> tuple[Value, ...]:
        return (self.view.source,)


def as_windowed(node: Node) -> Convolution | Pooling | None:
    """What a node is of these two, if it is one."""
    if not node.results or node.type.dtype.name not in ("f32", "f16"):  # runtimes lack them for f64
        return None
    if node.op.name == "contract":
        left, right = node.operands
        return _convolution(node, right, left, False) or _convolution(node, left, right, True)
    if node.op.name == "reduce_sum":
        view = windows(node.operands[0])
        if (
            view is not None
            and set(node.ints("axes")) == set(view.taps.values())
            and all(g.dilation == 1 for g in view.along.values())
        ):
            return Pooling(node, view)
    return None


def _convolution(node: Node, windowed: Value, weights: Value, flipped: bool) -> Convolution | None:
    view = windows(windowed)
    if view is None:
        return None
    d = dimensions(node.attrs, *(v.type.rank for v in node.operands))
    own, other = ((d.lhs_batch, d.lhs_summed), (d.rhs_batch, d.rhs_summed))[:: -1 if not flipped else 1]
    summed, batch = dict(zip(own[1], other[1], strict=True)), dict(zip(own[0], other[0], strict=True))
    taps = set(view.taps.values())
    if not taps <= set(summed) or any(a in summed or a in batch for a in view.along):
        return None
    same: set[int] = set()  # dimensions along which the weights are the same
    if weights.node.op.name == "broadcast":
        dims, (x,) = weights.node.ints("dims"), weights.node.operands
        same = {w for w in batch.values() if w not in dims}
        if same and all(n == weights.shape[dim] for n, dim in zip(x.shape, dims)) and len(dims) + len(same) == (
            weights.type.rank
        ):  # fmt: skip
            kept = {w: i for i, w in enumerate(dims)}
            weights = x
        else:
            same, kept = set(), {w: w for w in range(weights.type.rank)}
    else:
        kept = {w: w for w in range(weights.type.rank)}
    groups = [(v, kept[w]) for v, w in batch.items() if w not in same]
    used = {*batch.values(), *summed.values()}
    return Convolution(
        node, view, weights,
        rows=[v for v in range(windowed.type.rank) if v not in summed and v not in view.along
              and not (v in batch and batch[v] not in same)],
        groups=groups,
        channels=[(v, kept[w]) for v, w in summed.items() if v not in taps],
        taps={v: kept[w] for v, w in summed.items() if v in taps},
        outs=[i for w, i in sorted(kept.items()) if w not in used],
        flipped=flipped,
    )  # fmt: skip


def write_windowed(w: Writer, found: Convolution | Pooling, operands: Sequence[str]) -> None:
    """The node of ONNX and what lies around it; `operands` are the names of what it reads."""
    if isinstance(found, Convolution):
        _write_convolution(w, found, *operands)
    else:
        _write_pooling(w, found, *operands)


def _arranged(w: Writer, name: str, shape: Sequence[int], dims: Sequence[int], wanted: Sequence[int]) -> str:
    """The value with these dimensions in this order, in this shape."""
    if list(dims) != list(range(len(shape))):
        name = w.emit("Transpose", [name], perm=list(dims))
    return _reshaped(w, name, [shape[d] for d in dims], wanted)


def _reshaped(w: Writer, name: str, shape: Sequence[int], wanted: Sequence[int], result: str = "") -> str:
    if list(shape) != list(wanted):
        return w.emit("Reshape", [name, w.ints(wanted)], result, allowzero=1)
    return w.emit("Identity", [name], result) if result else name


def _window_attributes(view: Windows, along: Sequence[int]) -> dict[str, Any]:
    pads = []
    for d in along:
        g, source = view.along[d], view.source.shape
        found = _pads(g, source[view.dims[d]], _count(view, d))
        assert found is not None
        pads.append(found)
    return {
        "kernel_shape": [_count(view, d) for d in along],
        "strides": [view.along[d].stride for d in along],
        "pads": [low for low, _ in pads] + [high for _, high in pads],
    }


def _count(view: Windows, along: int) -> int:
    """How many elements a window has along that dimension."""
    return view.sizes[view.taps[along]]


def _write_convolution(w: Writer, found: Convolution, x: str, weights: str) -> None:
    view, along = found.view, sorted(found.view.along)
    xs, ws = view.source.shape, found.weights.shape

    def size(dims: Iterable[int]) -> list[int]:
        return [xs[view.dims[d]] for d in dims]

    rows, groups, channels = (
        size(found.rows),
        size(v for v, _ in found.groups),
        size(v for v, _ in found.channels),
    )
    outs = [ws[d] for d in found.outs]
    order = [*found.rows, *(v for v, _ in found.groups), *(v for v, _ in found.channels), *along]
    x = _arranged(
        w, x, xs, [view.dims[d] for d in order], [prod(rows), prod(groups) * prod(channels), *size(along)]
    )
    taps = [found.taps[view.taps[d]] for d in along]
    order = [*(i for _, i in found.groups), *found.outs, *(i for _, i in found.channels), *taps]
    kernel = [prod(groups) * prod(outs), prod(channels), *(ws[i] for i in taps)]
    weights = _arranged(w, weights, ws, order, kernel)
    dilations = [view.along[d].dilation for d in along]
    made = w.emit(
        "Conv", [x, weights], group=prod(groups), dilations=dilations, **_window_attributes(view, along)
    )
    # [rows, groups, outs, windows], and where the contraction has each of them
    windows = [view.along[d].size for d in along]
    d = dimensions(found.node.attrs, *(v.type.rank for v in found.node.operands))
    batch, free = (d.lhs_batch, d.lhs_free) if found.flipped else (d.rhs_batch, d.rhs_free)
    places = [*found.rows, *(v for v, _ in found.groups), *([-1] * len(outs)), *along]
    ours = [places.index(v) for v in free]
    theirs = [places.index(-1) + k for k in range(len(outs))] if outs else []
    perm = [places.index(v) for v in batch] + (ours + theirs if found.flipped else theirs + ours)
    shape = [*rows, *groups, *outs, *windows]
    moved = perm != list(range(len(perm)))
    made = _reshaped(
        w, made, [prod(rows), prod(groups) * prod(outs), *windows], shape, "" if moved else w.result
    )
    if moved:
        w.emit("Transpose", [made], w.result, perm=perm)


def _write_pooling(w: Writer, found: Pooling, x: str) -> None:
    view, along = found.view, sorted(found.view.along)
    xs = view.source.shape
    order = [*(d for d in sorted(view.dims) if d not in along), *along]
    rest = prod(xs[view.dims[d]] for d in order if d not in along)
    spatial = [xs[view.dims[d]] for d in along]
    x = _arranged(w, x, xs, [view.dims[d] for d in order], [1, rest, *spatial])
    made = w.emit("AveragePool", [x], count_include_pad=1, **_window_attributes(view, along))
    count = prod(_count(view, d) for d in along)
    made = w.emit("Mul", [made, w.scalar(float(count), found.node.type)])
    kept = [d for d in range(len(view.sizes)) if d in view.dims]
    perm = [order.index(d) for d in kept]
    shape = [*(xs[view.dims[d]] for d in order if d not in along), *(view.along[d].size for d in along)]
    moved = perm != list(range(len(perm)))
    made = _reshaped(w, made, [1, rest, *shape[len(shape) - len(along) :]], shape, "" if moved else w.result)
    if moved:
        w.emit("Transpose", [made], w.result, perm=perm)
