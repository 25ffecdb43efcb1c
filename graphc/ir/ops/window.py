"""Windows: the view that convolution and pooling are made of.

In: a tensor with a dimension P that windows slide along and a dimension K that counts the elements of a window. Out: the
registered op. A convolution is a contraction with ``window(broadcast(x))``, a pooling its reduction, and since the
adjoint of `window` is `window`, so are all of their derivatives: Dumoulin & Visin, A guide to convolution arithmetic for
deep learning, arXiv:1603.07285, has the arithmetic of strides, paddings and dilations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import ANY, OpDef, Sample, integer, register
from graphc.ir.types import DType, TensorType, bool_

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


@dataclass(frozen=True)
class Geometry:
    """Where a window's elements lie: element k of window o is at (o · stride + k · dilation + offset) / base."""

    axis: int  # of the positions in the operand, of the windows in the result
    taps: int  # the dimension of the elements of a window
    size: int  # how many windows
    stride: int
    dilation: int
    offset: int
    base: int

    @property
    def turned(self) -> Geometry:
        """That of the adjoint but for its size: from a position and k to the window that has it."""
        return Geometry(self.axis, self.taps, self.size, self.base, -self.dilation, -self.offset, self.stride)

    def span(self, taps: int) -> tuple[int, int]:
        """The least and the greatest of o · stride + k · dilation + offset for so many taps."""
        reach = (taps - 1) * self.dilation
        last = (self.size - 1) * self.stride
        return self.offset + min(reach, 0), self.offset + last + max(reach, 0)

    def stays_inside(self, shape: Sequence[int]) -> bool:
        """True where every element of every window is one of an operand of this shape."""
        if self.size == 0 or shape[self.taps] == 0:
            return True
        low, high = self.span(shape[self.taps])
        return self.base == 1 and low >= 0 and high < shape[self.axis]


def geometry(attrs: Attrs) -> Geometry:
    """The attributes of a window node."""
    return Geometry(
        *(integer(attrs, k) for k in ("axis", "taps", "size", "stride", "dilation", "offset", "base"))
    )


def _infer(types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]) -> tuple[TensorType, ...]:
    (x,), g = types, geometry(attrs)
    if g.axis == g.taps or not (0 <= g.axis < x.rank and 0 <= g.taps < x.rank):
        raise ShapeError(f"expected two dimensions within rank {x.rank}, got {g.axis} and {g.taps}")
    if g.size < 0 or min(g.stride, g.base) != 1:
        raise ShapeError(
            f"expected a size of at least 0, and a stride and a base of at least 1, one of them 1, "
            f"got size {g.size}, stride {g.stride}, base {g.base}"
        )
    return (TensorType(x.dtype, (*x.shape[: g.axis], g.size, *x.shape[g.axis + 1 :])),)


def _ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    (x,), g = arrays, geometry(attrs)
    shape = [n if d in (g.axis, g.taps) else 1 for d, n in enumerate(x.shape)]
    shape[g.axis] = g.size
    windows = np.arange(g.size).reshape([-1 if d == g.axis else 1 for d in range(x.ndim)])
    taps = np.arange(x.shape[g.taps]).reshape([-1 if d == g.taps else 1 for d in range(x.ndim)])
    at = windows * g.stride + taps * g.dilation + g.offset
    inside = (at % g.base == 0) & (at // g.base >= 0) & (at // g.base < x.shape[g.axis])
    inside = np.broadcast_to(inside, shape)
    if x.shape[g.axis] == 0:
        return [np.zeros((*x.shape[: g.axis], g.size, *x.shape[g.axis + 1 :]), x.dtype)]
    # a position for each index of the result but those of dimensions that only pass by
    spots = np.broadcast_to(np.where(inside, at // g.base, 0), shape)
    picked = np.take_along_axis(x, spots, axis=g.axis)
    return [np.where(inside, picked, np.zeros((), x.dtype))]


def _adjoint(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The cotangent seen from a position: element k of it comes from the one window that has it there, if any does."""
    (g,) = cotangents
    turned = geometry(node.attrs).turned
    size = node.operands[0].shape[turned.axis]
    return [None if g is None else emit_window(build, g, turned, size)]


def emit_window(build: Builder, x: Value, g: Geometry, size: int | None = None) -> Value:
    """`window(x)` of this geometry, with another size where one is given."""
    return build.window(
        x, axis=g.axis, taps=g.taps, size=g.size if size is None else size,
        stride=g.stride, dilation=g.dilation, offset=g.offset, base=g.base,
    )  # fmt: skip


def _samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def sample(shape: tuple[int, ...], axis: int, taps: int, size: int, *where: int) -> Sample:
        if dtype is bool_:
            array = rng.integers(0, 2, shape).astype(bool)
        elif dtype.is_integer:
            array = rng.integers(0, 100, shape).astype(dtype.numpy)
        else:
            array = rng.uniform(-2, 2, shape).astype(dtype.numpy)
        names = ("stride", "dilation", "offset", "base")
        attrs: dict[str, object] = dict(zip(names, where, strict=True))
        return Sample((array,), {"axis": axis, "taps": taps, "size": size, **attrs})

    return [
        sample((2, 3, 8), 2, 1, 6, 1, 1, 0, 1),  # within the operand
        sample((3, 7, 2), 1, 0, 4, 2, 1, -1, 1),  # a stride, and padding on both sides
        sample((3, 19), 1, 0, 21, 1, -2, 3, 1),  # as the adjoint of a dilated one
        sample((4, 6), 0, 1, 9, 1, -1, 1, 2),  # as the adjoint of one with a stride
        sample((2, 20), 1, 0, 18, 1, 1, 30, 1),  # wholly outside
    ]


window = register(
    OpDef(
        "window", _infer, _ref, 1, _adjoint, batch=along("axis", "taps"),
        traits=frozenset({"view", "linear"}), dtypes=ANY, latex="{0}",
        doc=(
            "Along `axis`, element k (dimension `taps`) of window o is the operand's at "
            "(o · stride + k · dilation + offset) / base, and 0 where that is no index of it."
        ),
        samples=_samples,
    )
)  # fmt: skip
