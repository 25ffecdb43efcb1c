"""Modules that hold modules: `Sequential`, `ModuleList`, `ModuleDict`, `Residual`, `Identity`.

In: modules. Out: a module whose parameters are named by position or key, as PyTorch names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import overload

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.array import Array
from graphc.frontend.modules import Module
from graphc.ir.loc import here


class _Container(Module):
    """Modules by name, in order."""

    _modules: dict[str, Module]

    def _hold(self, modules: Mapping[str, object]) -> None:
        for name, module in modules.items():
            if not isinstance(module, Module):
                raise ArgumentError(
                    f"{here().prefix}{type(self).__name__}: expected modules, got {type(module).__name__}"
                )
            if not isinstance(name, str) or not name or "." in name:
                raise ArgumentError(
                    f"{here().prefix}{type(self).__name__}: expected names without dots, got {name!r}"
                )
        self._modules = {**self.__dict__.get("_modules", {}), **modules}  # type: ignore[dict-item]

    def _position(self, position: int) -> str:
        count = len(self._modules)
        if not -count <= position < count:
            raise IndexError(f"{type(self).__name__}: expected a position below {count}, got {position}")
        return list(self._modules)[position]

    def children(self) -> Iterator[tuple[str, Module]]:
        yield from self.__dict__.get("_modules", {}).items()

    def __len__(self) -> int:
        return len(self._modules)


class Sequential(_Container):
    """Modules one after another; layers are named by their positions, or by the keys of a dict.

    Raises `ArgumentError` for anything but modules.

    >>> from graphc import nn
    >>> nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *layers: Module | Mapping[str, Module]) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            self._hold(layers[0])
        else:
            self._hold({str(position): layer for position, layer in enumerate(layers)})

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        for layer in self:
            x = layer(x)
        return x

    def append(self, layer: Module) -> Sequential:
        """Adds a layer at the end and gives the model back."""
        self._hold({str(len(self)): layer})
        return self

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, position: int) -> Module: ...

    @overload
    def __getitem__(self, position: slice) -> Sequential: ...

    def __getitem__(self, position: int | slice) -> Module:
        """The layer at a position; a slice gives a `Sequential` of the same layers."""
        if isinstance(position, slice):
            return Sequential(*list(self)[position])
        return self._modules[self._position(position)]


class ModuleList(_Container):
    """A list of modules, named by their positions; a plain list as an attribute does the same.

    >>> from graphc import nn
    >>> len(nn.ModuleList([nn.Linear(2, 2) for _ in range(3)]).append(nn.ReLU()))
    4
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._hold({})
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Adds a module at the end and gives the list back."""
        return self.extend([module])

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Adds modules at the end and gives the list back."""
        start = len(self)
        self._hold({str(start + position): module for position, module in enumerate(modules)})
        return self

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    @overload
    def __getitem__(self, position: int) -> Module: ...

    @overload
    def __getitem__(self, position: slice) -> ModuleList: ...

    def __getitem__(self, position: int | slice) -> Module:
        """The module at a position; a slice gives a `ModuleList` of the same modules."""
        if isinstance(position, slice):
            return ModuleList(list(self)[position])
        return self._modules[self._position(position)]


class ModuleDict(_Container):
    """Modules by name; a plain dict as an attribute does the same.

    >>> from graphc import nn
    >>> heads = nn.ModuleDict({"mean": nn.Linear(3, 1)})
    >>> heads["deviation"] = nn.Linear(3, 1)
    >>> list(heads.keys()), list(heads.parameters)
    (['mean', 'deviation'], ['mean.weight', 'mean.bias', 'deviation.weight', 'deviation.bias'])
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self._hold(modules or {})

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self._hold({name: module})

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def keys(self) -> Iterable[str]:
        """The names, in order."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """The modules, in order."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Pairs of name and module, in order."""
        return self._modules.items()


class Identity(Module):
    """Its input; arguments are taken and ignored, so that it can stand in any layer's place.

    >>> from graphc import nn
    >>> nn.Identity(54, unused=True)
    Identity()
    """

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return x


class Residual(Module):
    """x + module(x). He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, arXiv:1512.03385.

    The parameters are those of `module`, named ``module.…``. Raises `ShapeError` where the module changes the shape.

    >>> from graphc import nn
    >>> list(nn.Residual(nn.Linear(2, 2)).parameters)
    ['module.weight', 'module.bias']
    """

    module: Module

    def __init__(self, module: Module) -> None:
        if not isinstance(module, Module):
            raise ArgumentError(f"{here().prefix}Residual: expected a module, got {type(module).__name__}")
        self.module = module

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        change = self.module(x)
        if change.shape != x.shape:
            raise ShapeError(
                f"{here().prefix}Residual: expected a module that keeps {list(x.shape)}, got {list(change.shape)}"
            )
        return x + change
