"""Reductions over axes: each joins the elements by one scalar primitive.

In: operands and the attribute `axes` (or `axis` of argmax and argmin). Out: registered ops; reduced axes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.batching import along
from graphc.ir.opdef import NUMBERS, Adjoint, OpDef, Sample, check_dtype, int_list, register
from graphc.ir.types import DType, TensorType, bool_, i32

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value


def _axes(attrs: Attrs) -> tuple[int, ...]:
    return int_list(attrs, "axes")


def _kept(rank: int, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in range(rank) if d not in axes)


def _infer(allowed: Sequence[DType], empty_is_error: bool, result: DType | None = None):  # type: ignore[no-untyped-def]
    def infer(
        types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
    ) -> tuple[TensorType, ...]:
        (x,) = types
        axes = _axes(attrs)
        check_dtype(x.dtype, allowed)
        if list(axes) != sorted(set(axes)) or not all(0 <= a < x.rank for a in axes):
            raise ShapeError(f"expected increasing axes within rank {x.rank}, got {list(axes)}")
        if empty_is_error and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"expected at least one element along axes {list(axes)}, got {x!r}")
        return (TensorType(result or x.dtype, tuple(x.shape[d] for d in _kept(x.rank, axes))),)

    return infer


def _samples(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
    def array(*shape: int) -> np.ndarray:
        if dtype is bool_:
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.is_integer:
            return rng.integers(0, 9, shape).astype(dtype.numpy)
        return rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape).astype(dtype.numpy)

    return [
        Sample((array(4, 7),), {"axes": (1,)}),
        Sample((array(4, 7),), {"axes": (0,)}),
        Sample((array(3, 4, 5),), {"axes": (0, 2)}),
        Sample((array(6, 37),), {"axes": (0, 1)}),
        Sample((array(3, 2),), {"axes": ()}),
    ]


def _adjoint_sum(build: Builder, node: Node, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The cotangent repeated along the summed axes."""
    (g,) = cotangents
    x = node.operands[0]
    return [
        None if g is None else build.broadcast(g, dims=_kept(x.type.rank, node.ints("axes")), shape=x.shape)
    ]


def _adjoint_extremum(
    build: Builder, node: Node, cotangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    """The elements that attain the extremum share its cotangent equally."""
    (g,) = cotangents
    if g is None:
        return [None]
    (x,), (y,) = node.operands, node.results
    axes = node.ints("axes")
    spread = {"dims": _kept(x.type.rank, axes), "shape": x.shape}
    attains = build.eq(x, build.broadcast(y, **spread))
    count = build.reduce_sum(build.cast(attains, type=x.type), axes=axes)
    share = build.broadcast(build.div(g, count), **spread)
    return [build.select(attains, share, build.zeros(x.type), diagonal=True)]


def _reduction(
    name: str,
    combine: str,
    numpy: Callable[..., np.ndarray],
    allowed: Sequence[DType],
    adjoint: Adjoint | None = None,
    latex: str = "",
    doc: str = "",
    kink: str = "",
    no_derivative: str = "",
) -> OpDef:
    def ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
        (x,) = arrays
        return [np.asarray(numpy(x, axis=_axes(attrs))).astype(x.dtype)]

    traits = {"reduction"} | ({"linear"} if combine == "add" else set())
    return register(
        OpDef(
            name,
            _infer(allowed, empty_is_error=combine in ("min", "max")),
            ref,
            arity=1,
            adjoint=adjoint,
            traits=frozenset(traits),
            combine=combine,
            batch=along("axes"),
            dtypes=tuple(allowed),
            samples=_samples,
            latex=latex,
            doc=doc,
            kink=kink,
            no_derivative=no_derivative,
        )
    )


reduce_sum = _reduction(
    "reduce_sum", "add", np.sum, NUMBERS, _adjoint_sum, latex=r"\sum {0}", doc="The sum over axes."
)
reduce_max = _reduction(
    "reduce_max", "max", np.max, NUMBERS, _adjoint_extremum,
    latex=r"\max {0}", doc="The largest element over axes; NaN if any is.", kink="a tie is shared equally",
)  # fmt: skip
reduce_min = _reduction(
    "reduce_min", "min", np.min, NUMBERS, _adjoint_extremum,
    latex=r"\min {0}", doc="The smallest element over axes; NaN if any is.", kink="a tie is shared equally",
)  # fmt: skip
_BOOL = "it takes and gives bools"
reduce_any = _reduction(
    "reduce_any",
    "or",
    np.any,
    (bool_,),
    latex=r"\bigvee {0}",
    doc="True if any element is.",
    no_derivative=_BOOL,
)
reduce_all = _reduction(
    "reduce_all", "and", np.all, (bool_,), latex=r"\bigwedge {0}", doc="True if all are.", no_derivative=_BOOL
)


def _infer_arg(
    types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
) -> tuple[TensorType, ...]:
    if len(_axes(attrs)) != 1:
        raise ShapeError(f"expected one axis, got {list(_axes(attrs))}")
    return _infer(NUMBERS, empty_is_error=True, result=i32)(types, attrs, regions)  # type: ignore[no-any-return]


def _arg(name: str, numpy: Callable[..., np.ndarray], combine: str, latex: str) -> OpDef:
    def ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
        return [np.asarray(numpy(arrays[0], axis=_axes(attrs)[0])).astype(np.int32)]

    return register(
        OpDef(
            name,
            _infer_arg,
            ref,
            arity=1,
            no_derivative="an index is piecewise constant and an integer",
            traits=frozenset({"reduction", "index"}),
            batch=along("axes"),
            combine=combine,
            latex=latex,
            doc=f"The i32 index of the first {combine}imal element along one axis; the first NaN counts as such.",
            dtypes=NUMBERS,
            samples=lambda rng, dtype: [s for s in _samples(rng, dtype) if len(s.attrs["axes"]) == 1],  # type: ignore[arg-type]
        )
    )


argmax = _arg("argmax", np.argmax, "max", r"\operatorname{{argmax}} {0}")
argmin = _arg("argmin", np.argmin, "min", r"\operatorname{{argmin}} {0}")


def identity(combine: str, dtype: DType) -> float | int | bool:
    """The neutral element of a combining primitive."""
    if combine in ("or", "and"):
        return combine == "and"
    if combine == "add":
        return 0
    if combine == "mul":
        return 1
    if dtype.is_float:
        return -float("inf") if combine == "max" else float("inf")
    lowest, highest = dtype.limits
    return lowest if combine == "max" else highest
