"""Wrong calls of the public API: each ends in one of graphc's own errors, which begins with this file and the line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError, TraceError
from graphc.frontend.tracer import trace
from graphc.ir.guard import guarded
from graphc.ir.types import f32

X, Y = np.ones((8, 3), np.float32), np.zeros(8, np.int32)
LINEAR = nn.Linear(3, 2)


class OneInput(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(3, 2)

    def forward(self, *inputs: graphc.Array) -> graphc.Array:
        (x,) = inputs
        return self.layer(x)


def fitted(**changed: object) -> object:
    given: dict[str, object] = {
        "model": nn.Linear(3, 2), "data": (X, Y), "loss": nn.cross_entropy, "optimizer": optim.SGD(0.1), "epochs": 1,
        "progress": False,
    }  # fmt: skip
    return graphc.fit(**{**given, **changed})  # type: ignore[arg-type]


def traced(fn: Callable[..., object]) -> Callable[[], object]:
    return lambda: trace(fn, f32[3, 3], f32[3, 3])


def square(x: graphc.Array) -> graphc.Array:
    return (x * x).sum()


WRONG: dict[str, tuple[Callable[[], object], type[GraphcError], str]] = {
    "layer of a tuple": (lambda: LINEAR((X, X)), ArgumentError,
                         r"Linear: expected arrays, got a tuple \(f32\[8,3\], f32\[8,3\]\)"),
    "layer of a dict": (lambda: LINEAR({"a": X}), ArgumentError, "Linear: expected arrays, got a dict of 1"),
    "layer of None": (lambda: LINEAR(None), ArgumentError, "Linear: expected arrays, got None"),
    "layer of two": (lambda: LINEAR(X, X), ArgumentError, r"Linear: expected arrays, got f32\[8,3\] and f32\[8,3\]"),
    "layer of none": (lambda: LINEAR(), ArgumentError, "Linear: expected arrays, got none"),
    "layer of objects": (lambda: LINEAR(np.array([None])), DTypeError, "dtype: expected one of .* got object"),
    "compile a layer for a tuple": (lambda: graphc.compile(LINEAR, (X, X)), ArgumentError,
                                    r"Linear: expected arrays, got a tuple \("),
    "Sequential of a dict": (lambda: nn.Sequential(LINEAR)({"a": X}), ArgumentError, "Linear: expected arrays, got a dict"),
    "fit a tuple": (lambda: fitted(data=((X, X), Y)), ArgumentError, r"Linear: expected arrays, got f32\[8,3\] and f32"),
    "fit a dict": (lambda: fitted(data=({"a": X}, Y)), ArgumentError, "Linear: expected arrays, got a dict of 1"),
    "fit targets": (lambda: fitted(data=(X, (Y, X))), ArgumentError,
                    r"cross_entropy: expected logits: Array, target: Array, got logits = f32\[8,2\], target = a tuple"),
    "fit data": (lambda: fitted(data=X), ArgumentError, r"data: expected a pair \(inputs, targets\), got ndarray"),
    "fit a function": (lambda: fitted(model=len), ArgumentError, "fit: model: expected a graphc.nn.Module, got builtin"),
    "fit a loss's name": (lambda: fitted(loss="mse"), ArgumentError, "fit: loss: expected a function of"),
    "fit no optimizer": (lambda: fitted(optimizer={}), ArgumentError, "fit: optimizer: expected an object of graphc.optim"),
    "fit callbacks": (lambda: fitted(callbacks=3), ArgumentError, "fit: callbacks: expected a list of callbacks"),
    "fit a target": (lambda: fitted(target=None), ArgumentError, "fit: target: expected a text, got NoneType"),
    "fit epochs": (lambda: fitted(epochs="2"), ArgumentError, "fit: epochs: expected an integer of at least 1, got '2'"),
    "compile no function": (lambda: graphc.compile(3, X), ArgumentError, "trace: expected a function, got int"),  # type: ignore[arg-type]
    "compile too few": (lambda: graphc.compile(lambda x, y: x, X), ArgumentError,
                        r"lambda: expected arguments \(x, y\), got 1"),
    "compile a target": (lambda: graphc.compile(square, X, target=3), ArgumentError,  # type: ignore[arg-type]
                         "compile: target: expected a name or a Target, got int"),
    "compile donate": (lambda: graphc.compile(square, X, donate=1), ArgumentError, "compile: donate: expected a text"),  # type: ignore[arg-type]
    "compile check": (lambda: graphc.compile(square, X, check=7), ArgumentError, "compile: check: expected a text"),  # type: ignore[arg-type]
    "grad of no function": (lambda: graphc.grad(3)(X), ArgumentError, "expected a function, got int 3"),  # type: ignore[arg-type]
    "grad by None": (lambda: graphc.grad(square, None)(X), ArgumentError, "grad: wrt: expected a position or name"),  # type: ignore[arg-type]
    "grad of texts": (lambda: graphc.grad(square)(np.array(["a"])), DTypeError, "dtype: expected one of .* got str32"),
    "hvp of no function": (lambda: graphc.hvp(3, X, X), ArgumentError, "expected a function, got int 3"),  # type: ignore[arg-type]
    "vmap axes": (lambda: graphc.vmap(lambda a: a, in_axes="x")(X), GraphcError, "vmap: "),  # type: ignore[arg-type]
    "scan of no function": (traced(lambda x, y: graphc.scan(x, y, y)), ArgumentError, "scan: expected a function, got Array"),  # type: ignore[arg-type]
    "scan's body": (traced(lambda x, y: graphc.scan(lambda c, v: c, 0.0, x)), TraceError, "scan: expected a body that gives"),
    "scan's xs": (traced(lambda x, y: graphc.scan(lambda c, v: (c, v), 0.0, "xs")), TraceError, "scan: xs: expected an array"),
    "einsum's text": (traced(lambda x, y: graphc.einsum(3, x)), GraphcError, "einsum: "),  # type: ignore[arg-type]
    "einsum's operands": (traced(lambda x, y: graphc.einsum("ij,jk", x)), GraphcError, "einsum: "),
    "einsum of None": (traced(lambda x, y: graphc.einsum("ij,jk", x, None)), GraphcError, "einsum: "),  # type: ignore[arg-type]
    "qr's mode": (traced(lambda x, y: graphc.linalg.qr(x, mode=X)), ArgumentError, "qr: expected x: ArrayLike, mode: .*, got"),  # type: ignore[arg-type]
    "solve of None": (traced(lambda x, y: graphc.linalg.solve(x, None)), TraceError, "solve: expected an array or a number"),  # type: ignore[arg-type]
    "tensordot's axes": (traced(lambda x, y: graphc.tensordot(x, y, [])), GraphcError, "tensordot: expected "),  # type: ignore[arg-type]
    "normal's mean": (traced(lambda x, y: graphc.random.normal(np.uint32([0, 1]), (2,), mean=None)), ArgumentError,  # type: ignore[arg-type]
                      "normal: expected key: .*, mean: float, got .*mean = None"),
    "cauchy's dtype": (traced(lambda x, y: graphc.random.normal(np.uint32([0, 1]), (2,), dtype=x)), DTypeError,
                       "normal: expected a data type"),
    "a loss of None": (traced(lambda x, y: nn.mse(x, None)), ArgumentError, "mse: expected prediction: Array, target: Array,"),  # type: ignore[arg-type]
    "glu's dimension": (traced(lambda x, y: nn.glu(x, None)), ArgumentError, "glu: expected x: Array, dim: int, got"),  # type: ignore[arg-type]
    "relu of a text": (traced(lambda x, y: nn.relu("x")), ArgumentError, "relu: expected x: Array, got x = 'x'"),  # type: ignore[arg-type]
    "reshape of None": (traced(lambda x, y: x.reshape(None)), TraceError, "reshape: expected a shape, got NoneType"),
    "Adam's betas": (lambda: optim.Adam(0.1, None), ArgumentError,  # type: ignore[arg-type]
                     "Adam: expected learning_rate: float, betas: .*, got learning_rate = 0.1, betas = None"),
    "Adam's rate": (lambda: optim.Adam("fast"), ArgumentError, "Adam: learning_rate: expected a finite number"),  # type: ignore[arg-type]
    "groups of None": (lambda: optim.groups(None), ArgumentError, "groups: expected members: "),  # type: ignore[arg-type]
    "Hardtanh's bound": (lambda: nn.Hardtanh(None), ArgumentError, "Hardtanh: expected min_val: float, got min_val = None"),  # type: ignore[arg-type]
    "ModuleList of None": (lambda: nn.ModuleList(None), ArgumentError, "ModuleList: expected modules: "),  # type: ignore[arg-type]
    "Linear's seed": (lambda: nn.Linear(3, 3, seed="x"), ArgumentError, "seed: expected an integer"),  # type: ignore[arg-type]
    "to_onnx of an array": (lambda: graphc.to_onnx(X, "f.onnx"), ArgumentError, "to_onnx: expected "),  # type: ignore[arg-type]
    "verify None": (lambda: graphc.verify(None), ArgumentError, "verify: expected graph: Graph, got graph = None"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_error_with_the_users_line(name: str) -> None:
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=rf"^{re.escape(__file__)}:\d+: .*{text}"):
        call()


def _attempts() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every layer, and every function of `nn`, with what is no array or number in each place."""
    for name in nn.__all__:
        thing = getattr(nn, name)
        is_layer = inspect.isclass(thing) and issubclass(thing, nn.Module)
        if not is_layer and not inspect.isfunction(thing):
            continue
        good: object = 3 if is_layer else X
        for bad in (None, "text", (X, X), {"a": X}, object()):
            yield f"{name}({bad!r})", lambda t=thing, b=bad: t(b)  # type: ignore[misc]
            yield f"{name}(x, {bad!r})", lambda t=thing, g=good, b=bad: t(g, b)  # type: ignore[misc]
            yield f"{name}(x, x, {bad!r})", lambda t=thing, g=good, b=bad: t(g, g, b)  # type: ignore[misc]


def test_no_layer_or_function_of_nn_ends_in_a_bare_error() -> None:
    def all_of(x: graphc.Array) -> graphc.Array:
        for name, attempt in _attempts():
            try:
                attempt()
            except GraphcError as error:
                assert __file__ in str(error), (name, str(error))
            except TypeError as error:  # Python's own, of a call that the signature does not take
                assert error.__traceback__ is not None, name
                frames = inspect.getinnerframes(error.__traceback__)
                assert all(frame.filename == __file__ for frame in frames), (name, error)
        return x

    trace(all_of, f32[3, 3])


def test_an_error_of_the_users_own_code_passes_unchanged() -> None:
    class Broken(nn.Module):
        def forward(self, *inputs: graphc.Array) -> graphc.Array:
            return inputs[0].nothing  # type: ignore[attr-defined,no-any-return]

    with pytest.raises(AttributeError, match="nothing") as raised:
        nn.Sequential(Broken())(X)
    assert not isinstance(raised.value, GraphcError)

    @guarded
    def called(f: Callable[[], object]) -> object:
        return f()

    with pytest.raises(ZeroDivisionError):
        called(lambda: 1 / 0)
    with pytest.raises(KeyError) as missing:
        called(lambda: {}["a"])
    assert not isinstance(missing.value, GraphcError)


def test_a_model_of_one_input_names_the_line_that_gave_it_two() -> None:
    with pytest.raises(ShapeError, match=rf"^{re.escape(__file__)}:\d+: Linear: expected"):
        OneInput()(np.ones((2, 5), np.float32))
    with pytest.raises(
        ArgumentError, match=rf"^{re.escape(__file__)}:\d+: Linear: expected arrays, got a dict"
    ):
        fitted(model=OneInput(), data=({"a": X}, Y))
