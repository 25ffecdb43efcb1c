"""Parameters that are functions of other parameters: weight and spectral normalisation.

In: a layer and the name of its parameter. Out: the same layer, whose attribute is computed when it is read. Names in state
dicts are those of PyTorch's `torch.nn.utils.parametrizations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.containers import ModuleDict
from graphc.frontend.init import draw, normal
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Buffer, Parameter
from graphc.ir.guard import guarded
from graphc.ir.loc import here

Layer = TypeVar("Layer", bound=Module)


def _taken(what: str, layer: Module, name: str) -> Parameter:
    """The parameter, which from now on is computed."""
    entry = layer._entries.get(name)
    if entry is None or not entry.trained:
        raise ArgumentError(
            f"{here().prefix}{what}: expected a parameter of {type(layer).__name__} "
            f"({', '.join(layer._entries) or 'none'}), got {name!r}"
        )
    return entry


def _replace(layer: Layer, name: str, made: Module) -> Layer:
    delattr(layer, name)
    holder = layer.__dict__.setdefault("parametrizations", ModuleDict())
    holder[name] = made
    layer.parametrizations = holder
    return layer


def _axis(what: str, dim: int, rank: int) -> int:
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise ArgumentError(f"{here().prefix}{what}: expected a dim within rank {rank}, got {dim!r}")
    return dim % rank


class _Norms(Parameter):
    """The norms of another parameter's slices, which is drawn right after it, from the next stream."""

    def __init__(self, of: Parameter, axis: int) -> None:
        shape = tuple(n if d == axis else 1 for d, n in enumerate(of.type.shape))
        super().__init__(shape=shape, initializer=normal(), dtype=of.type.dtype)
        self.measured = of
        self.axes = tuple(d for d in range(of.type.rank) if d != axis)

    def initialize(self, seed: int, stream: int) -> None:
        self.measured.initialize(seed, stream + 1)
        self.measure()

    def measure(self) -> None:
        """Takes the norms of the other parameter's values."""
        values = np.sqrt((self.measured.array.astype(np.float64) ** 2).sum(self.axes, keepdims=True))
        self.assign(values.astype(self.type.dtype.numpy))

    def traced(self, key: Array, stream: int) -> Array:
        values = self.measured.traced(key, stream + 1)
        return F.sqrt(F.sum(values * values, self.axes, keepdims=True))


class _WeightNorm(Module):
    original0: Array
    original1: Array

    def __init__(self, entry: Parameter, axis: int) -> None:
        self.axes = tuple(d for d in range(entry.type.rank) if d != axis)
        norms = _Norms(entry, axis)
        if entry.drawn:
            norms.measure()
        entry.owner = None
        self.register_parameter("original0", norms)
        self.register_parameter("original1", entry)

    def forward(self, *inputs: Array) -> Array:
        v = self.original1
        return v * (self.original0 / F.sqrt(F.sum(v * v, self.axes, keepdims=True)))


@guarded
def weight_norm(layer: Layer, name: str = "weight", dim: int = 0) -> Layer:
    """The layer with ``weight = g v / |v|``: norms g along `dim` and directions v are trained instead of the weight.

    They are ``parametrizations.weight.original0`` and ``….original1``; the weight is the same at first. Salimans & Kingma,
    Weight Normalization, arXiv:1602.07868. Raises `ArgumentError` where the layer has no such parameter or dimension.

    >>> from graphc import nn
    >>> {n: p.shape for n, p in weight_norm(nn.Linear(3, 2)).parameters.items()}
    {'bias': (2,), 'parametrizations.weight.original0': (2, 1), 'parametrizations.weight.original1': (2, 3)}
    """
    entry = _taken("weight_norm", layer, name)
    return _replace(layer, name, _WeightNorm(entry, _axis("weight_norm", dim, entry.type.rank)))


class _Vector(Buffer):
    """A vector of length 1."""

    def initialize(self, seed: int, stream: int) -> None:
        assert self.initializer is not None
        values = draw(self.initializer, seed, self.type.shape, self.type.dtype, stream)
        self.assign(values / np.linalg.norm(values))

    def traced(self, key: Array, stream: int) -> Array:
        return _unit(super().traced(key, stream), 1e-12)


def _unit(x: Array, eps: float) -> Array:
    return x / F.maximum(F.sqrt(F.sum(x * x)), eps)


class _PowerIteration(Module):
    _u: Array
    _v: Array

    def __init__(self, entry: Parameter, axis: int, iterations: int, eps: float) -> None:
        self.axis = axis
        self.iterations = iterations
        self.eps = eps
        rows, dtype = entry.type.shape[axis], entry.type.dtype
        columns = math.prod(entry.type.shape) // rows
        for name, size in (("_u", rows), ("_v", columns)):
            self.register_parameter(name, _Vector(shape=(size,), initializer=normal(), dtype=dtype))

    def forward(self, *inputs: Array) -> Array:
        (weight,) = inputs
        matrix = F.reshape(F.moveaxis(weight, self.axis, 0), (weight.shape[self.axis], -1))
        u, v = self._u, self._v
        if self.training:
            fixed = F.stop_gradient(matrix)
            for _ in range(self.iterations):
                u = _unit(fixed @ v, self.eps)
                v = _unit(fixed.T @ u, self.eps)
            u, v = F.stop_gradient(u), F.stop_gradient(v)
            self._u, self._v = u, v
        return weight / F.sum(u * (matrix @ v))


class _SpectralNorm(Module):
    original: Array

    def __init__(self, entry: Parameter, iteration: _PowerIteration) -> None:
        entry.owner = None
        self.register_parameter("original", entry)
        self.iteration = iteration

    def children(self) -> Iterator[tuple[str, Module]]:
        yield "0", self.iteration

    def forward(self, *inputs: Array) -> Array:
        return self.iteration(self.original)


@guarded
def spectral_norm(
    layer: Layer, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int = 0
) -> Layer:
    """The layer with ``weight / σ``, σ the largest singular value of the weight as a matrix of rows along `dim`.

    σ = uᵀ W v by power iteration: each training step makes `n_power_iterations` of them, from the vectors u and v that the
    last one left in buffers. Parameter and buffers are ``parametrizations.weight.original``, ``….0._u`` and ``….0._v``.
    Vectors are random at first, where PyTorch makes 15 iterations. Miyato, Kataoka, Koyama & Yoshida, Spectral
    Normalization, arXiv:1802.05957. Raises `ArgumentError` as `weight_norm`, or for fewer than one iteration.

    >>> from graphc import nn
    >>> list(spectral_norm(nn.Linear(3, 2)).buffers)
    ['parametrizations.weight.0._u', 'parametrizations.weight.0._v']
    """
    entry = _taken("spectral_norm", layer, name)
    if not is_integer(n_power_iterations, least=1):
        raise ArgumentError(
            f"{here().prefix}spectral_norm: expected n_power_iterations of at least 1, got {n_power_iterations!r}"
        )
    axis = _axis("spectral_norm", dim, entry.type.rank)
    return _replace(layer, name, _SpectralNorm(entry, _PowerIteration(entry, axis, n_power_iterations, eps)))
