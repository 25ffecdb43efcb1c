"""Layers of products: gated units, the bilinear form.

In: traced arrays. Out: traced arrays. A gated unit halves a dimension: one half is multiplied with a function of the
other, and the gate is the second half, as PyTorch's GLU has it.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.init import fan_in_uniform
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, f32


def _gated(what: str, x: Array, dim: int, gate: Callable[[Array], Array]) -> Array:
    if not -x.ndim <= dim < x.ndim or x.shape[dim] % 2:
        raise ShapeError(
            f"{here().prefix}{what}: expected an even size along dimension {dim}, got {list(x.shape)}"
        )
    values, gates = F.split(x, 2, axis=dim)
    return values * gate(gates)


@guarded
def glu(x: Array, dim: int = -1) -> Array:
    """a σ(b) of the halves a, b of x along a dimension. Dauphin, Fan, Auli & Grangier, arXiv:1612.08083.

    Raises `ShapeError` where the size is odd.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(glu, f32[3, 8]).output_types
    (f32[3,4],)
    """
    return _gated("glu", x, dim, F.sigmoid)


@guarded
def geglu(x: Array, dim: int = -1) -> Array:
    """a GELU(b) of the halves a, b of x along a dimension. Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(geglu, f32[3, 8]).output_types
    (f32[3,4],)
    """
    return _gated("geglu", x, dim, activations.gelu)


@guarded
def swiglu(x: Array, dim: int = -1) -> Array:
    """a SiLU(b) of the halves a, b of x along a dimension; of the same paper as `geglu`.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(swiglu, f32[3, 8]).output_types
    (f32[3,4],)
    """
    return _gated("swiglu", x, dim, activations.silu)


class _Gated(Module):
    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class GLU(_Gated):
    """`glu` along `dim`.

    >>> GLU()
    GLU(dim=-1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return glu(x, self.dim)


class GEGLU(_Gated):
    """`geglu` along `dim`.

    >>> GEGLU()
    GEGLU(dim=-1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return geglu(x, self.dim)


class SwiGLU(_Gated):
    """`swiglu` along `dim`.

    >>> SwiGLU()
    SwiGLU(dim=-1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return swiglu(x, self.dim)


class Bilinear(Module):
    """y_o = x1ᵀ W_o x2 + b_o over the last dimensions, with `weight` [out, in1, in2] and `bias` [out].

    Both start uniform within ±√(1/in1_features). Raises `ArgumentError` for sizes below 1 and, when called,
    `ShapeError` where the inputs have other features or other leading dimensions.

    >>> Bilinear(2, 3, 4)
    Bilinear(in1_features=2, in2_features=3, out_features=4, bias=True)
    """

    weight: Array
    bias: Array | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        sizes = {"in1_features": in1_features, "in2_features": in2_features, "out_features": out_features}
        for name, size in sizes.items():
            if not is_integer(size, least=1):
                raise ArgumentError(f"{here().prefix}Bilinear: expected {name} of at least 1, got {size!r}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        start = fan_in_uniform(in1_features)
        shape = (out_features, in1_features, in2_features)
        self.register_parameter("weight", Parameter(shape=shape, initializer=start, dtype=dtype))
        if bias:
            self.register_parameter("bias", Parameter(shape=(out_features,), initializer=start, dtype=dtype))
        else:
            self.bias = None

    def forward(self, *inputs: Array) -> Array:
        first, second = inputs
        wanted = ((*first.shape[:-1], self.in1_features), (*first.shape[:-1], self.in2_features))
        if first.ndim == 0 or (first.shape, second.shape) != wanted:
            raise ShapeError(
                f"{here().prefix}Bilinear: expected [..., {self.in1_features}] and [..., {self.in2_features}], "
                f"got {list(first.shape)} and {list(second.shape)}"
            )
        y = F.einsum("...i,oij,...j->...o", first, self.weight, second)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={'bias' in self._entries}"
        )
