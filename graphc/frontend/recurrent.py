"""Recurrent layers: `RNN`, `GRU`, `LSTM` and their cells, with PyTorch's weights, gate order and outputs.

In: a sequence [T, N, features], initial states, lengths. Out: the outputs of all steps and the final states.
The input's part of all steps is one contraction before the loop; the loop multiplies with the hidden state alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.checks import is_integer
from graphc.frontend.control import scan
from graphc.frontend.init import fan_in_uniform
from graphc.frontend.module_inputs import Tensor
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.ir.loc import here
from graphc.ir.types import DType, f32

States = tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class _Weights:
    """The arrays of one layer in one direction; biases and the projection may be missing."""

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    weight_hr: Array | None = None


class _Kind(Module):
    """What a recurrence computes in one step; layers and cells share it."""

    gates: int
    hidden_size: int

    def _constant(self, weights: _Weights) -> Array | None:
        """What every step adds to the input's part: both biases."""
        if weights.bias_ih is None or weights.bias_hh is None:
            return None
        return weights.bias_ih + weights.bias_hh

    def _projected(self, x: Array, weights: _Weights) -> Array:
        """The input's part of the gates, of all steps at once."""
        y, constant = F.matmul(x, weights.weight_ih.T), self._constant(weights)
        return y if constant is None else y + constant

    def _next(self, projected: Array, states: States, weights: _Weights) -> States:
        """The states after a step; the first of them is the output."""
        raise NotImplementedError


class _Rnn(_Kind):
    gates = 1
    nonlinearity: str

    def _next(self, projected: Array, states: States, weights: _Weights) -> States:
        (h,) = states
        y = projected + F.matmul(h, weights.weight_hh.T)
        return (F.tanh(y) if self.nonlinearity == "tanh" else activations.relu(y),)

    def _check_nonlinearity(self) -> None:
        if self.nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected nonlinearity of tanh, relu, "
                f"got {self.nonlinearity!r}"
            )


class _Gru(_Kind):
    gates = 3

    def _constant(self, weights: _Weights) -> Array | None:
        """The hidden bias of the last gate is multiplied by the reset gate, so it stays in the step."""
        if weights.bias_ih is None or weights.bias_hh is None:
            return None
        size = 2 * self.hidden_size
        return weights.bias_ih + F.concat([weights.bias_hh[:size], F.zeros_like(weights.bias_hh[size:])])

    def _next(self, projected: Array, states: States, weights: _Weights) -> States:
        (h,), size = states, self.hidden_size
        hidden = F.matmul(h, weights.weight_hh.T)
        reset, update = (F.sigmoid(_gate(projected, i, size) + _gate(hidden, i, size)) for i in (0, 1))
        candidate = _gate(hidden, 2, size)
        if weights.bias_hh is not None:
            candidate = candidate + weights.bias_hh[2 * size :]
        new = F.tanh(_gate(projected, 2, size) + reset * candidate)
        return (new + update * (h - new),)


class _Lstm(_Kind):
    gates = 4

    def _next(self, projected: Array, states: States, weights: _Weights) -> States:
        (h, c), size = states, self.hidden_size
        y = projected + F.matmul(h, weights.weight_hh.T)
        inner, forget, cell, out = (_gate(y, i, size) for i in range(4))
        c = F.sigmoid(forget) * c + F.sigmoid(inner) * F.tanh(cell)
        h = F.sigmoid(out) * F.tanh(c)
        return (h if weights.weight_hr is None else F.matmul(h, weights.weight_hr.T)), c


def _gate(x: Array, number: int, size: int) -> Array:
    return x[..., number * size : (number + 1) * size]


def _check_sizes(module: Module, **sizes: int) -> None:
    for name, size in sizes.items():
        if not is_integer(size, least=1):
            raise ArgumentError(
                f"{here().prefix}{type(module).__name__}: expected {name} of at least 1, got {size!r}"
            )


# -- layers -------------------------------------------------------------------------------------------------------


class _Layers(_Kind):
    """Layers of a recurrence, one or two directions each."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        dtype: DType,
    ) -> None:
        _check_sizes(self, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        activations.check_probability(type(self).__name__, dropout)
        if not is_integer(proj_size, least=0) or proj_size >= hidden_size:
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected proj_size below hidden_size, got {proj_size!r}"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.output_size = proj_size or hidden_size
        start = fan_in_uniform(hidden_size)
        for layer in range(num_layers):
            features = input_size if layer == 0 else self.output_size * len(self.directions)
            for direction in self.directions:
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (self.gates * hidden_size, features),
                    "weight_hh": (self.gates * hidden_size, self.output_size),
                }
                if bias:
                    shapes |= dict.fromkeys(("bias_ih", "bias_hh"), (self.gates * hidden_size,))
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    self.register_parameter(
                        f"{name}_l{layer}{direction}", Parameter(shape=shape, initializer=start, dtype=dtype)
                    )

    def _state_sizes(self) -> tuple[int, ...]:
        return (self.output_size,)

    def _weights(self, suffix: str) -> _Weights:
        def array(name: str) -> Array | None:
            return cast(Array, getattr(self, name + suffix)) if name + suffix in self._entries else None

        weight_ih, weight_hh = array("weight_ih"), array("weight_hh")
        assert weight_ih is not None and weight_hh is not None
        return _Weights(weight_ih, weight_hh, array("bias_ih"), array("bias_hh"), array("weight_hr"))

    def _run_layers(
        self, x: Array, given: Sequence[Array] | None, lengths: Array | None
    ) -> tuple[Array, States]:
        """The outputs, and each state of all layers and directions, in the layout of the input."""
        what = f"{here().prefix}{type(self).__name__}"
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape:
            order = "N, T" if self.batch_first else "T, N"
            raise ShapeError(
                f"{what}: expected [{order}, {self.input_size}] or [T, {self.input_size}], got {list(x.shape)}"
            )
        single = x.ndim == 2
        if single:
            x = F.expand_dims(x, 1)
        elif self.batch_first:
            x = F.swapaxes(x, 0, 1)
        states = self._initial(what, x, given, single)
        mask = None if lengths is None else _mask(what, lengths, x)
        finals: list[States] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self.directions):
                place = layer * len(self.directions) + direction
                start = tuple(s[place] for s in states)
                weights = self._weights(f"_l{layer}{suffix}")
                last, y = self._run_direction(x, start, weights, mask, reverse=bool(direction))
                outputs.append(y)
                finals.append(last)
            x = outputs[0] if len(outputs) == 1 else F.concat(outputs, -1)
            if self.training and self.dropout and layer + 1 < self.num_layers:
                x = activations.dropout(x, self.next_key(), self.dropout)
        stacked = tuple(F.stack(parts) for parts in zip(*finals))
        if single:
            return F.squeeze(x, 1), tuple(F.squeeze(s, 1) for s in stacked)
        return (F.swapaxes(x, 0, 1) if self.batch_first else x), stacked

    def _run_direction(
        self, x: Array, start: States, weights: _Weights, mask: Array | None, reverse: bool
    ) -> tuple[States, Array]:
        projected = self._projected(x, weights)

        def step(states: States, inputs: tuple[Array, ...]) -> tuple[States, Array]:
            new = self._next(inputs[0], states, weights)
            if mask is None:
                return new, new[0]
            valid = inputs[1]
            kept = tuple(F.where(valid, a, b) for a, b in zip(new, states, strict=True))
            return kept, F.where(valid, new[0], 0.0)

        given = (projected,) if mask is None else (projected, mask)
        return cast("tuple[States, Array]", scan(step, start, given, reverse=reverse))

    def _initial(self, what: str, x: Array, given: Sequence[Array] | None, single: bool) -> States:
        count = self.num_layers * len(self.directions)
        shapes = [(count, x.shape[1], size) for size in self._state_sizes()]
        if given is None:
            return tuple(F.zeros(shape, x.dtype) for shape in shapes)
        expected = [(shape[0], shape[2]) if single else shape for shape in shapes]
        if [s.shape for s in given] != expected:
            raise ShapeError(
                f"{what}: expected a state of {' and '.join(str(list(s)) for s in expected)}, "
                f"got {' and '.join(str(list(s.shape)) for s in given)}"
            )
        return tuple(F.expand_dims(s, 1) if single else s for s in given)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        settings = {
            "proj_size": (self.proj_size, 0),
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
        }
        return ", ".join(parts + [f"{n}={value}" for n, (value, usual) in settings.items() if value != usual])


def _mask(what: str, lengths: Array, x: Array) -> Array:
    """[T, N, 1]: true at steps below the row's length."""
    if not lengths.dtype.is_integer:
        raise DTypeError(f"{what}: expected integer lengths, got {lengths.dtype.name}")
    if lengths.shape != (x.shape[1],):
        raise ShapeError(f"{what}: expected lengths [{x.shape[1]}], got {list(lengths.shape)}")
    steps = F.arange(x.shape[0], dtype=lengths.dtype)
    return F.expand_dims(F.expand_dims(steps, 1) < F.expand_dims(lengths, 0), -1)


class _OneState(_Layers):
    """Layers whose only state is the output."""

    def __call__(  # type: ignore[override]
        self, x: Tensor, state: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Array, Array]:
        return cast("tuple[Array, Array]", super().__call__(x, state, lengths=lengths))

    def forward(  # type: ignore[override]
        self, x: Array, state: Array | None = None, *, lengths: Array | None = None
    ) -> tuple[Array, Array]:
        y, (h,) = self._run_layers(
            x, None if state is None else [F.asarray(state)], None if lengths is None else F.asarray(lengths)
        )
        return y, h


class RNN(_Rnn, _OneState):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh) over a sequence [T, N, input_size]; `nonlinearity` may be relu.

    Gives the outputs [T, N, directions · hidden_size] of the last layer and the final states [num_layers · directions,
    N, hidden_size]. ``batch_first`` exchanges T and N of inputs and outputs; inputs may lack N. A second argument holds
    initial states, else they are zeros. ``lengths=`` [N] ends rows early, as PyTorch's packed sequences: outputs past
    a length are 0, final states are those at it, and the reverse direction begins there; a length is at most T.
    Parameters are `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `…_l0_reverse`, `…_l1`, uniform within
    ±√(1/hidden_size) at first. `dropout` is that of the outputs of each layer but the last, in training.
    Elman, Finding Structure in Time, Cognitive Science 14, 1990. Raises `ArgumentError` for wrong settings and, when
    called, `ShapeError`.

    >>> import numpy as np
    >>> y, h = RNN(3, 4)(np.zeros((5, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DType = f32,
    ) -> None:
        self.nonlinearity = nonlinearity
        self._check_nonlinearity()
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, dtype
        )


class GRU(_Gru, _OneState):
    """A gated recurrent unit: r, z = σ(…), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h.

    Gates are stacked as r, z, n; arguments and results are those of `RNN`. Cho et al., arXiv:1406.1078, with the reset
    gate after the product, as cuDNN and PyTorch have it.

    >>> GRU(3, 4, num_layers=2, bidirectional=True).weight_hh_l1_reverse.shape
    (12, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DType = f32,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, dtype
        )


class LSTM(_Lstm, _Layers):
    """Long short-term memory: i, f, g, o = σ, σ, tanh, σ(…), c' = f c + i g, h' = o tanh(c').

    Gates are stacked as i, f, g, o; arguments are those of `RNN`, but the state is the pair (h, c): a call gives
    outputs and (h, c). With `proj_size` h is W_hr o tanh(c'), of that size. Hochreiter & Schmidhuber, Neural
    Computation 9, 1997, with the forget gate of Gers, Schmidhuber & Cummins, 2000; projections: Sak, Senior & Beaufays,
    arXiv:1402.1128.

    >>> import numpy as np
    >>> y, (h, c) = LSTM(3, 4, batch_first=True)(np.zeros((2, 5, 3), np.float32))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 4), (1, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: DType = f32,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, dtype
        )

    def _state_sizes(self) -> tuple[int, ...]:
        return self.output_size, self.hidden_size

    def __call__(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        return cast("tuple[Array, tuple[Array, Array]]", super().__call__(x, state, lengths=lengths))

    def forward(  # type: ignore[override]
        self, x: Array, state: tuple[Array, Array] | None = None, *, lengths: Array | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        given = _pair(self, state)
        y, (h, c) = self._run_layers(x, given, None if lengths is None else F.asarray(lengths))
        return y, (h, c)


def _pair(module: Module, state: object) -> tuple[Array, Array] | None:
    if state is None:
        return None
    if not isinstance(state, tuple) or len(state) != 2:
        got = f"{len(state)} states" if isinstance(state, tuple) else type(state).__name__
        raise ArgumentError(f"{here().prefix}{type(module).__name__}: expected a state (h, c), got {got}")
    return F.asarray(state[0]), F.asarray(state[1])


# -- cells --------------------------------------------------------------------------------------------------------


class _Cell(_Kind):
    """One step of a recurrence."""

    weight_ih: Array
    weight_hh: Array

    def __init__(self, input_size: int, hidden_size: int, bias: bool, dtype: DType) -> None:
        _check_sizes(self, input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        start, rows = fan_in_uniform(hidden_size), self.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            self.register_parameter(name, Parameter(shape=shape, initializer=start, dtype=dtype))

    def _step(self, x: Array, given: Sequence[Array] | None, count: int) -> States:
        shape = (*x.shape[:-1], self.hidden_size)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{here().prefix}{type(self).__name__}: expected [N, {self.input_size}] or [{self.input_size}], "
                f"got {list(x.shape)}"
            )
        states = [F.zeros(shape, x.dtype)] * count if given is None else [F.asarray(s) for s in given]
        if any(s.shape != shape for s in states):
            raise ShapeError(
                f"{here().prefix}{type(self).__name__}: expected a state of {list(shape)}, "
                f"got {' and '.join(str(list(s.shape)) for s in states)}"
            )
        bias = (cast(Array, self.__getattr__(n)) if self.bias else None for n in ("bias_ih", "bias_hh"))
        weights = _Weights(self.weight_ih, self.weight_hh, *bias)
        return self._next(self._projected(x, weights), tuple(states), weights)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class _OneStateCell(_Cell):
    def forward(self, *inputs: Array | None) -> Array:
        """The new hidden state, of the input and a hidden state, zeros where there is none."""
        x, *rest = inputs
        assert x is not None
        given = None if not rest or rest[0] is None else [rest[0]]
        (h,) = self._step(x, given, 1)
        return h


class RNNCell(_Rnn, _OneStateCell):
    """One step of `RNN`: the new hidden state [N, hidden_size] of an input [N, input_size] and a hidden state.

    >>> import numpy as np
    >>> RNNCell(3, 4)(np.zeros((2, 3), np.float32)).shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DType = f32,
    ) -> None:
        self.nonlinearity = nonlinearity
        self._check_nonlinearity()
        super().__init__(input_size, hidden_size, bias, dtype)


class GRUCell(_Gru, _OneStateCell):
    """One step of `GRU`: the new hidden state [N, hidden_size] of an input [N, input_size] and a hidden state.

    >>> import numpy as np
    >>> GRUCell(3, 4)(np.zeros((2, 3), np.float32)).shape
    (2, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: DType = f32) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)


class LSTMCell(_Lstm, _Cell):
    """One step of `LSTM`: the new (h, c), [N, hidden_size] each, of an input [N, input_size] and (h, c).

    >>> import numpy as np
    >>> h, c = LSTMCell(3, 4)(np.zeros((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: DType = f32) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)

    def __call__(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Array, Array]:
        return cast("tuple[Array, Array]", super().__call__(x, state))

    def forward(  # type: ignore[override]
        self, x: Array, state: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        h, c = self._step(x, _pair(self, state), 2)
        return h, c
