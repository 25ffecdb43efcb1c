"""Tracing: a Python function is run once on stand-ins for its arguments, and what it does to them is the graph.

In: a function and the types of its arguments. Out: a `Graph`, and how its inputs and outputs lie in the function's
own nested arguments and result. `current_trace` is what array functions and modules write into.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError, TraceError
from graphc.frontend.array import Array
from graphc.frontend.promotion import as_weak, result_type
from graphc.frontend.tree import Structure, flatten
from graphc.ir.graph import Builder, Graph, Value
from graphc.ir.loc import UNKNOWN, Loc, here
from graphc.ir.types import TensorType, dtype_of

_ACTIVE: ContextVar[Trace | None] = ContextVar("graphc_trace", default=None)
_SCOPE: ContextVar[str] = ContextVar("graphc_scope", default="")


@dataclass(frozen=True, eq=False)
class Parameter:
    """A module's array that a trace has lifted to a named input; `source` is the object that owns the array."""

    name: str
    array: np.ndarray
    source: object


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced function.

    The graph's inputs are the leaves of the arguments (`inputs` is the structure of the tuple of arguments), then
    `captures` (values of enclosing traces that the function used), then `parameters`.
    """

    graph: Graph
    inputs: Structure
    outputs: Structure
    captures: tuple[Array, ...]
    parameters: tuple[Parameter, ...]


class Trace:
    """A function being traced. Traces nest: a value of an enclosing one becomes a capture when it is used."""

    def __init__(self, parent: Trace | None = None) -> None:
        self.builder = Builder()
        self.parent = parent
        self.differentiated = False  # a derivative was inlined
        self._names: set[str] = set()
        self._arguments: list[Value] = []
        self._captures: dict[Value, tuple[Array, Value]] = {}
        self._parameters: dict[tuple[int, str], tuple[Parameter, Array]] = {}

    @property
    def root(self) -> Trace:
        """The outermost trace."""
        return self if self.parent is None else self.parent.root

    def argument(self, type: TensorType, name: str, loc: Loc = UNKNOWN) -> Array:
        """A new explicit input."""
        value = self.builder.input(type, self._unique(name), loc)
        self._arguments.append(value)
        return Array(self, value)

    def parameter(self, name: str, array: np.ndarray, source: object) -> Array:
        """The input that stands for a module's array: one for each name and source, however often it is asked for.

        It is an input of the outermost trace, so that differentiation within the function sees an outer value.
        """
        root = self.root
        found = root._parameters.get((id(source), name))
        if found is None:
            unique = root._unique(name)
            type = TensorType(dtype_of(array.dtype), array.shape)
            value = root.builder.input(type, unique, here(_SCOPE.get()))
            found = (Parameter(unique, array, source), Array(root, value))
            root._parameters[id(source), name] = found
        return found[1]

    def lift(self, array: Array) -> Value:
        """The array's value in this trace: its own, or a capture from an enclosing trace.

        Raises `TraceError` for a value of a trace that has ended.
        """
        if array.trace is self:
            return array.value
        found = self._captures.get(array.value)
        if found is None:
            outer = self.parent
            while outer is not None and outer is not array.trace:
                outer = outer.parent
            if outer is None:
                raise TraceError(
                    f"{here().prefix}trace: expected a value of this trace, got {array!r} of one that has ended; "
                    "return it from the traced function instead of storing it"
                )
            name = self._unique(array.value.node.name or f"capture{len(self._captures)}")
            found = (array, self.builder.input(array.value.type, name, array.value.node.loc))
            self._captures[array.value] = found
        return found[1]

    def value_of(self, x: object, what: str) -> Value:
        """A traced value, array or number as a value of this trace; arrays and numbers become constants.

        Raises `TraceError` for anything else and `DTypeError` for arrays of a data type that graphs don't have.
        """
        if isinstance(x, Array):
            return self.lift(x)
        loc = here(_SCOPE.get())
        type = type_of(x)
        if type is None or isinstance(x, TensorType):
            raise TraceError(f"{loc.prefix}{what}: expected an array or a number, got {_name_of(x)}")
        return self.builder.constant(np.asarray(x), type, loc)

    def finish(self, name: str, outputs: Sequence[Value], output_names: Sequence[str]) -> Graph:
        """The graph: inputs are arguments, captures, parameters."""
        inputs = [*self._arguments, *(v for _, v in self._captures.values())]
        inputs += [self.lift(array) for _, array in self._parameters.values()]
        graph = Graph(name, tuple(inputs), tuple(outputs), "traced", tuple(output_names))
        if self.differentiated or any(node.attrs.get("diagonal") for node in graph.nodes):
            return graph.with_outputs(outputs, output_names, "differentiated")
        return graph

    @property
    def captures(self) -> tuple[Array, ...]:
        """The values of enclosing traces that were used, in order of first use."""
        return tuple(array for array, _ in self._captures.values())

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter, _ in self._parameters.values())

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}_{count}", count + 1
        self._names.add(candidate)
        return candidate


def current_trace() -> Trace | None:
    """The innermost trace that is being made, None outside of traced functions.

    >>> current_trace() is None
    True
    """
    return _ACTIVE.get()


def current_scope() -> str:
    """The name of the module whose forward is being traced: ``layers.0``."""
    return _SCOPE.get()


@contextmanager
def active(trace: Trace) -> Iterator[Trace]:
    """Array functions in this context write into `trace`."""
    token = _ACTIVE.set(trace)
    try:
        yield trace
    finally:
        _ACTIVE.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Nodes made in this context say that they come from the module `name`; scopes nest, an empty name adds nothing.

    >>> with scope("layers"), scope("0"):
    ...     current_scope()
    'layers.0'
    """
    token = _SCOPE.set(".".join(filter(None, (_SCOPE.get(), name))))
    try:
        yield
    finally:
        _SCOPE.reset(token)


def type_of(x: object) -> TensorType | None:
    """The type with which an argument is traced; None where it is no array.

    A `TensorType` is its own; an array has that of its elements; a Python bool, int or float is a bool, i32 or f32
    scalar (an int that needs it is i64). Raises `DTypeError` for arrays whose data type graphs don't have.

    >>> type_of(np.zeros((2, 3))), type_of(1.5), type_of(2), type_of("text")
    (f64[2,3], f32[], i32[], None)
    """
    if isinstance(x, TensorType):
        return x
    if isinstance(x, Array):
        return x.value.type
    if isinstance(x, (np.ndarray, np.generic)):
        return TensorType(dtype_of(x.dtype), x.shape)
    weak = as_weak(x)
    if weak is not None:
        return TensorType(result_type([], [weak]), ())
    device = getattr(x, "__cuda_array_interface__", None)
    if device is not None:  # an array on a GPU, ours or another library's
        return TensorType(dtype_of(np.dtype(device["typestr"])), tuple(device["shape"]))
    if hasattr(x, "__array__") and hasattr(x, "shape"):  # another library's array
        array = np.asarray(x)
        return TensorType(dtype_of(array.dtype), array.shape)
    return None


def trace_function(
    fn: Callable[..., object],
    args: Sequence[object],
    name: str | None = None,
    arguments: Sequence[str] | None = None,
) -> Traced:
    """Traces ``fn(*args)``, where the leaves of the arguments are types, arrays or numbers.

    `name` is the graph's (by default the function's), `arguments` are the names of the arguments (by default those of
    its parameters). Raises `TraceError` where the function does what a static graph can't express, `ArgumentError`
    where it is no function or an argument is no array, and what the array functions raise.

    >>> from graphc.ir.types import f32
    >>> traced = trace_function(lambda params, x: {"y": x * params["w"]}, [{"w": f32[3]}, f32[2, 3]])
    >>> traced.graph.input_names, traced.graph.output_names, traced.graph.output_types
    (('params.w', 'x'), ('y',), (f32[2,3],))
    """
    if not callable(fn):
        raise ArgumentError(f"{here().prefix}trace: expected a function, got {_name_of(fn)}")
    given, structure = flatten(tuple(args))
    prefixes = argument_names(fn, len(args)) if arguments is None else arguments
    names = [n for p, child in zip(prefixes, structure.children, strict=True) for n in child.paths(p)]
    _check_count(fn, len(args))
    loc = _definition(fn)
    trace = Trace(_ACTIVE.get())
    inputs = [trace.argument(_input_type(leaf, n, loc), n, loc) for leaf, n in zip(given, names, strict=True)]
    nested = structure.unflatten(inputs)
    assert isinstance(nested, tuple)
    with active(trace):
        result, outputs = flatten(fn(*nested))
        trace.builder.loc = loc
        values = [trace.value_of(leaf, f"{function_name(fn)}: output") for leaf in result]
    output_names = _output_names(outputs) if outputs.named else ()
    graph = trace.finish(name or function_name(fn), values, output_names)
    return Traced(graph, structure, outputs, trace.captures, trace.parameters)


def _check_count(fn: Callable[..., object], count: int) -> None:
    """Raises `ArgumentError` where a function wants more positional arguments, or a keyword."""
    try:
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    try:
        signature.bind(*[None] * count)
    except TypeError:
        raise ArgumentError(
            f"{here().prefix}{function_name(fn)}: expected arguments {signature}, got {count}"
        ) from None


def trace(fn: Callable[..., object], *specs: object, name: str | None = None) -> Graph:
    """The graph of ``fn(*specs)``.

    `specs` are types (``f32[32, 64]``), arrays or Python numbers (traced with their data type: float f32, int i32,
    bool bool), or dicts, lists and tuples of them. Python code runs once: a loop is unrolled, arrays from outside
    become constants. Outputs are named where the function gives a dict. Raises `TraceError`, `ShapeError` or
    `DTypeError` with the line of `fn` at fault.

    >>> from graphc.ir.types import f32
    >>> print(trace(lambda x, y: x * y + 1, f32[2], f32[2], name="f").output_types)
    (f32[2],)
    """
    return trace_function(fn, specs, name).graph


def function_name(fn: Callable[..., object]) -> str:
    """What a graph of this function is called: an identifier, made of the function's or its class's name.

    >>> function_name(lambda x: x), function_name(np.tanh)
    ('lambda', 'tanh')
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    text = getattr(fn, "__name__", type(fn).__name__)
    return re.sub(r"\W", "_", text).strip("_") or "graph"


def argument_names(fn: Callable[..., object], count: int) -> list[str]:
    """The names of the first positional parameters; those of ``*args`` are numbered.

    >>> argument_names(lambda x, *rest: x, 3)
    ['x', 'rest.0', 'rest.1']
    """
    if not callable(fn):
        raise ArgumentError(f"{here().prefix}expected a function, got {type(fn).__name__} {fn!r:.60}")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return [f"arg{i}" for i in range(count)]
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if len(names) < count:
        raise ArgumentError(
            f"{_definition(fn).prefix}{function_name(fn)}: expected {len(names)} arguments, got {count}"
        )
    return names[:count]


def _output_names(outputs: Structure) -> list[str]:
    """Paths of the outputs; positions at the top are ``output0``, since a name does not begin with a digit."""
    if outputs.kind in ("list", "tuple"):
        return [n for i, child in enumerate(outputs.children) for n in child.paths(f"output{i}")]
    return outputs.paths()


def _input_type(leaf: object, name: str, loc: Loc) -> TensorType:
    try:
        type = type_of(leaf)
    except (DTypeError, TypeError) as error:
        raise DTypeError(f"{here().prefix}trace: {name}: {error}") from None
    if type is None:
        raise ArgumentError(
            f"{here().prefix}trace: {name}: expected a type, an array or a number, or a dict, list or tuple of them, "
            f"got {_name_of(leaf)}"
        )
    return type


def _definition(fn: Callable[..., object]) -> Loc:
    inner = inspect.unwrap(fn)
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None)
    if code is None:  # an object with __call__
        code = getattr(getattr(type(inner), "__call__", None), "__code__", None)  # noqa: B004
    return Loc(code.co_filename, code.co_firstlineno) if code is not None else UNKNOWN


def _name_of(x: object) -> str:
    return "None" if x is None else f"{type(x).__name__} {x!r}"[:80]
