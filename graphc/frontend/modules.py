"""Modules: named parameters and a `forward` that builds a graph; pure functions of their parameters when traced.

In: layers, as attributes, lists or dicts of a `Module`. Out: flat dicts ``layers.0.weight -> array``, and traced calls.
Names and layouts are PyTorch's, so that its weight files fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from graphc.errors import ArgumentError, ArtifactError, TraceError
from graphc.frontend import module_state
from graphc.frontend.array import Array
from graphc.frontend.module_inputs import Input, Tensor, nest_of_arrays, traced, traced_nest
from graphc.frontend.parameters import DEFAULT_SEED, Parameter
from graphc.frontend.random import fold_in
from graphc.frontend.tracer import current_trace, scope
from graphc.frontend.tree import flatten
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, TensorType, dtype_of, f32

if TYPE_CHECKING:
    from typing_extensions import Self

    from graphc.compiler import CompiledFunction
    from graphc.weights import Loaded

Flat = Mapping[str, Tensor]


@dataclass(eq=False)
class _Call:
    """A call of a model in a trace: the names of its parameters and, under `apply`, their values."""

    names: dict[Parameter, str]
    values: dict[Parameter, Array] = field(default_factory=dict)
    changed: dict[Parameter, Array] = field(default_factory=dict)  # buffers that forward assigned
    key: Array | None = None
    draws: int = 0  # keys taken from it
    train: bool = False
    explicit: bool = False  # under `apply`: buffers may be assigned, since the new ones are returned


@dataclass(frozen=True, eq=False)
class _Compiled:
    """A model's own compiled functions, for the modules as they are and each type of the inputs."""

    structure: tuple[tuple[str, Module, int], ...]
    dtype: DType
    functions: dict[object, CompiledFunction]  # by the arguments' structure, types and settings


_CALL: ContextVar[_Call | None] = ContextVar("graphc_module_call", default=None)


@contextmanager
def _calling(call: _Call) -> Iterator[None]:
    token = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(token)


class Module:
    """The base of all layers and models: assign parameters and modules as attributes, define `forward`.

    Submodules are found in attributes, and in lists, tuples and dicts that are attributes. Called in a traced
    function, ``model(x)`` makes the parameters named inputs of the graph; called on numpy arrays, it compiles itself
    once per input type and runs. Parameters are drawn from numpy's PCG64 when `init`, `fit(seed=)` or the first read
    (seed 0) asks for them; each draws from a stream of its own, by its position in the model.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter(np.float32([2, 3]))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale().parameters
    {'factor': array([2., 3.], dtype=float32)}
    """

    _entries: dict[str, Parameter]
    _owner: Module | None
    _name: str
    _version: int
    _compiled: _Compiled | None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("graphc.") and "__init__" in vars(cls):
            cls.__init__ = guarded(cls.__init__)  # type: ignore[method-assign]

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        module = super().__new__(cls)
        for name, value in (
            ("_entries", {}),
            ("_owner", None),
            ("_name", ""),
            ("_version", 0),
            ("_compiled", None),
        ):
            object.__setattr__(module, name, value)
        return module

    def forward(self, *inputs: Array) -> Array:
        """The outputs as traced arrays; each module defines its own."""
        raise TraceError(
            f"{here().prefix}{type(self).__name__}: expected a module that defines forward, got none"
        )

    # -- attributes -------------------------------------------------------------------------------------------

    def register_parameter(self, name: str, parameter: Parameter) -> None:
        """Adds a parameter or buffer under a name; assigning it to an attribute does the same."""
        if "." in name or not name:
            raise ArgumentError(
                f"{type(self).__name__}: expected a parameter's name without dots, got {name!r}"
            )
        self.__dict__.pop(name, None)
        self._entries[name] = parameter
        if parameter.owner is None:
            parameter.owner = self
        self._changed()

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif name in self._entries and value is not None:
            entry, other = self._entries[name], Parameter.of(value)
            if other is not None and other.trained and entry.trained and other.type == entry.type:
                self.register_parameter(name, other)  # as in PyTorch, both are one parameter from now on
            else:
                self._assign(name, entry, value)
        else:
            self._entries.pop(name, None)
            object.__setattr__(self, name, value)
            self._changed()
            self._adopt()

    def __getattr__(self, name: str) -> Tensor:
        entry = self.__dict__.get("_entries", {}).get(name)
        computed = self.__dict__.get("parametrizations", {})
        if entry is None and name in computed:
            return computed[name]()  # type: ignore[no-any-return]
        if entry is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._value(name, entry)

    def __delattr__(self, name: str) -> None:
        if self._entries.pop(name, None) is None:
            object.__delattr__(self, name)
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "_version", self._version + 1)

    def _value(self, name: str, entry: Parameter) -> Tensor:
        trace, call = current_trace(), _CALL.get()
        if trace is None:
            return entry.array
        if call is not None and entry in call.changed:
            return call.changed[entry]
        if call is not None and entry in call.values:
            return call.values[entry]
        known = call.names.get(entry) if call is not None else None
        return trace.parameter(known or ".".join(filter(None, (self.path, name))), entry.array, entry)

    def _assign(self, name: str, entry: Parameter, value: object) -> None:
        if not isinstance(value, Array):
            entry.assign(np.asarray(value))
            return
        call = _CALL.get()
        what = f"{here().prefix}{type(self).__name__}.{name}"
        if entry.trained or call is None or not call.explicit:
            raise TraceError(
                f"{what}: expected an assignment to a Buffer under model.apply, got a traced value"
            )
        if TensorType(value.dtype, value.shape) != entry.type:
            raise TraceError(f"{what}: expected {entry.type!r}, got {value.dtype!r}{list(value.shape)}")
        call.changed[entry] = value

    # -- the tree ---------------------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules and their names."""
        for name, value in vars(self).items():
            if name not in ("_owner", "_entries", "_compiled"):
                yield from _modules_in(name, value)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module (named ``""``) and all below it, parents first; a shared one once, under its first name."""
        seen: set[Module] = set()
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            path, module = stack.pop()
            if module not in seen:
                seen.add(module)
                module._adopt()
                yield path, module
                below = [(f"{path}.{name}" if path else name, child) for name, child in module.children()]
                stack.extend(reversed(below))

    def _adopt(self) -> None:
        for name, child in self.children():
            if child._owner is None and child is not self:
                object.__setattr__(child, "_owner", self)
                object.__setattr__(child, "_name", name)

    @property
    def root(self) -> Module:
        """The model that this module is a part of."""
        module, seen = self, {self}
        while module._owner is not None and module._owner not in seen:
            module = module._owner
            seen.add(module)
        return module

    @property
    def path(self) -> str:
        """This module's name within its root: ``layers.0``."""
        parts: list[str] = []
        module = self
        while module is not self.root and module._owner is not None:
            parts.append(module._name)
            module = module._owner
        return ".".join(reversed(parts))

    @property
    def entries(self) -> dict[str, Parameter]:
        """The `Parameter` and `Buffer` objects by name, own ones before submodules'; a shared one once."""
        found: dict[str, Parameter] = {}
        seen: set[Parameter] = set()
        for path, module in self.named_modules():
            for name, entry in module._entries.items():
                if entry not in seen:
                    seen.add(entry)
                    found[f"{path}.{name}" if path else name] = entry
        return found

    @property
    def aliases(self) -> dict[str, str]:
        """Further names of shared parameters, and the names under which `entries` lists them."""
        return module_state.aliases(self)

    def freeze(self, *patterns: str) -> Self:
        """Keeps parameters as they are in training, by patterns of their names (``"trunk.*"``); all without a pattern.

        PyTorch's ``requires_grad_(False)``: no code is made for their gradients, and the optimiser has no state for
        them. Nothing else changes. Raises `ArgumentError` for a pattern that fits no parameter.

        >>> from graphc import nn
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1)).freeze("0.*")
        >>> [name for name, entry in model.entries.items() if entry.frozen]
        ['0.weight', '0.bias']
        """
        module_state.set_frozen(self, "freeze", patterns, True)
        return self

    def unfreeze(self, *patterns: str) -> Self:
        """Trains parameters again that `freeze` keeps; all without a pattern."""
        module_state.set_frozen(self, "unfreeze", patterns, False)
        return self

    # -- values -----------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The trained arrays by name; they are the model's own memory, not copies."""
        return {name: entry.array for name, entry in self.entries.items() if entry.trained}

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """The arrays by name that the model keeps but that are not trained."""
        return {name: entry.array for name, entry in self.entries.items() if not entry.trained}

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Pairs of name and trained array, as PyTorch's method of this name."""
        return iter(self.parameters.items())

    @overload
    def init(self, seed: int = DEFAULT_SEED) -> Self: ...

    @overload
    def init(self, seed: Array) -> tuple[dict[str, Array], dict[str, Array]]: ...

    def init(self, seed: int | Array = DEFAULT_SEED) -> Self | tuple[dict[str, Array], dict[str, Array]]:
        """Draws every parameter anew from a seed and gives the model back.

        In traced code `seed` may be a key (`graphc.random.key`): then nothing changes, and the drawn parameters and
        the buffers are given as two dicts of traced arrays, as `apply` takes them. Keys draw from the same
        distributions as seeds, not the same numbers. Raises `ArgumentError` where the seed is not an integer of at
        least 0.
        """
        if isinstance(seed, Array):
            drawn = {n: (e, e.traced(seed, stream)) for stream, (n, e) in enumerate(self.entries.items())}
            return (
                {n: values for n, (e, values) in drawn.items() if e.trained},
                {n: values for n, (e, values) in drawn.items() if not e.trained},
            )
        for stream, entry in enumerate(self.entries.values()):
            entry.initialize(seed, stream)
        return self

    def fill(self, seed: int) -> None:
        """Draws the parameters that have no values yet."""
        for stream, entry in enumerate(self.entries.values()):
            if not entry.drawn:
                entry.initialize(seed, stream)

    def load_state(self, state: Mapping[str, np.ndarray]) -> Self:
        """Copies arrays by name into the parameters and buffers, all or none of them, and gives the model back.

        Every name of a shared parameter will do. Raises `ArgumentError` that lists every missing or unknown name and
        every wrong type.
        """
        state = module_state.by_owner(self, state)
        problems = module_state.problems(self, state)
        if problems:
            raise ArgumentError(f"{here().prefix}load_state: {'; '.join(problems)}")
        for name, entry in self.entries.items():
            entry.assign(np.asarray(state[name]))
        return self

    def load_some(self, state: Mapping[str, np.ndarray], what: str, strict: bool = False) -> Loaded:
        """As `load_state`, but only what is there, unless `strict`; see `graphc.load_weights`."""
        return module_state.load_some(self, state, what, strict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes parameters and buffers to a safetensors file; see `graphc.save_weights`."""
        from graphc.weights import save_weights

        save_weights(self, path)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Reads parameters and buffers from a safetensors file, PyTorch's included, and gives the model back.

        Raises `ArtifactError` where the file can't be read or its names and types are not this model's.
        """
        from graphc.weights import load_weights

        state = module_state.by_owner(self, load_weights(path))
        problems = module_state.problems(self, state)
        if problems:
            raise ArtifactError(f"{path}: {'; '.join(problems)}")
        return self.load_state(state)

    # -- calls ------------------------------------------------------------------------------------------------

    def apply(
        self,
        params: Flat,
        state: Flat,
        *inputs: Input,
        key: Tensor | None = None,
        train: bool = False,
        **options: Input,
    ) -> tuple[Array, dict[str, Array]]:
        """The model as a pure function: its output, and its buffers after the call.

        `params` and `state` are flat dicts as `parameters` and `buffers`; `key` feeds random layers, `train` tells
        layers that differ in training; other keywords go to `forward`. In traced code only: ``model(x)`` is the way
        on numpy arrays. Raises `ArgumentError` where names or types are not the model's.
        """
        where = f"{here().prefix}{type(self).__name__}.apply"
        if current_trace() is None:
            raise TraceError(
                f"{where}: expected a call in a traced function, got one outside: model(x) runs on arrays"
            )
        entries = self.entries
        given = {**params, **state}
        missing = [name for name in entries if name not in given]
        unknown = [name for name in given if name not in entries]
        if missing or unknown:
            names = [f"missing {', '.join(missing)}"] * bool(missing) + [
                f"unknown {', '.join(unknown)}"
            ] * bool(unknown)
            raise ArgumentError(f"{where}: {'; '.join(names)}")
        values = {}
        for name, entry in entries.items():
            value = values[entry] = traced(given[name])
            if value.shape != entry.type.shape:
                raise ArgumentError(
                    f"{where}: {name}: expected shape {list(entry.type.shape)}, got {list(value.shape)}"
                )
        call = _Call(
            {entry: name for name, entry in entries.items()},
            values,
            key=None if key is None else traced(key),
            train=train,
            explicit=True,
        )
        with _calling(call):
            output = self(*map(traced_nest, inputs), **{n: traced_nest(x) for n, x in options.items()})
        kept = {n: call.changed.get(e, values[e]) for n, e in entries.items() if not e.trained}
        return output, kept

    @property
    def training(self) -> bool:
        """True in a call for training, for layers that differ in it."""
        call = _CALL.get()
        return call is not None and call.train

    def next_key(self) -> Array:
        """A key of its own for each use, made of the one that `apply` was given: for layers that draw random numbers.

        Raises `ArgumentError` where there is none.
        """
        call = _CALL.get()
        if call is None or call.key is None:
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected a call by model.apply(..., key=key), got none: "
                "it draws random numbers"
            )
        call.draws += 1
        return fold_in(call.key, call.draws)

    @guarded
    def __call__(self, *inputs: Input, **options: Input) -> Array:
        """The output of `forward`: traced in traced code, else numpy arrays, computed by the compiled model.

        Arguments are arrays, tuples of arrays, None, or settings (bools and strings) that are compiled in. On numpy
        arrays, floats of any width are converted to the model's own data type first.
        """
        if current_trace() is None:
            return self._run(inputs, options)
        call = _CALL.get()
        with scope(self._name if call is not None else ""):
            if call is not None and all(e in call.names for e in self._entries.values()):
                return self.forward(*inputs, **options)  # type: ignore[arg-type]
            with _calling(_Call({entry: name for name, entry in self.entries.items()})):
                named = {name: traced_nest(x) for name, x in options.items()}
                return self.forward(*map(traced_nest, inputs), **named)  # type: ignore[arg-type]

    @property
    def dtype(self) -> DType:
        """The data type of the parameters, of the first float one; f32 where there is none."""
        return next((e.type.dtype for e in self.entries.values() if e.type.dtype.is_float), f32)

    def _run(self, inputs: Sequence[Input], options: Mapping[str, Input]) -> Array:
        from graphc.compiler import (
            compile,  # the driver above this room: a model that runs by itself needs it
        )

        structure = tuple((path, module, module._version) for path, module in self.named_modules())
        if self._compiled is None or self._compiled.structure != structure:
            # a layer was changed, added or taken away: what was compiled before is of no use
            object.__setattr__(self, "_compiled", _Compiled(structure, self.dtype, {}))
        assert self._compiled is not None
        dtype = self._compiled.dtype
        leaves, nest = flatten(
            (
                tuple(nest_of_arrays(x, dtype) for x in inputs),
                {name: nest_of_arrays(x, dtype) for name, x in options.items()},
            )
        )
        arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
        key = (
            nest,
            *(TensorType(dtype_of(x.dtype), x.shape) if isinstance(x, np.ndarray) else x for x in leaves),
        )
        function = self._compiled.functions.get(key)
        if function is None:

            def model(*inputs: Array) -> Array:
                given = iter(inputs)
                full = nest.unflatten([next(given) if isinstance(x, np.ndarray) else x for x in leaves])
                positional, named = cast("tuple[tuple[Input, ...], dict[str, Input]]", full)
                return self(*positional, **named)

            function = self._compiled.functions[key] = compile(model, *arrays)
        return cast("Array", function(*arrays))

    def __getstate__(self) -> dict[str, object]:
        """What copies and pickles hold: all but compiled code."""
        return {**self.__dict__, "_compiled": None}

    # -- text -------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The settings that stand between the brackets in the module's text."""
        return ""

    def __repr__(self) -> str:
        head, below = self.extra_repr(), [f"({name}): {child!r}" for name, child in self.children()]
        if not below:
            return f"{type(self).__name__}({head})"
        lines = [*([head] if head else []), *below]
        return f"{type(self).__name__}(\n  " + "\n".join(lines).replace("\n", "\n  ") + "\n)"


def _modules_in(name: str, value: object) -> Iterator[tuple[str, Module]]:
    if isinstance(value, Module):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _modules_in(f"{name}.{position}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _modules_in(f"{name}.{key}", item)
