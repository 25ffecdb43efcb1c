"""Nested dicts, lists and tuples of arrays, as flat lists of leaves and back.

In: what a traced function takes and gives. Out: leaves, and a `Structure` that rebuilds the nest, names its leaves by
their paths (``layers.0.weight``) and picks the leaves of an equal nest whose dicts are in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np

from graphc.errors import ArgumentError

Kind = Literal["leaf", "none", "dict", "list", "tuple", "namedtuple"]

_PLAIN = frozenset(
    {np.ndarray, np.float32, np.float64, np.int32, float, int, bool}
)  # known to be leaves at a glance


@dataclass(frozen=True)
class Structure:
    """The shape of a nest: `keys` are the dict's keys in insertion order, the fields of a namedtuple, or positions."""

    kind: Kind
    keys: tuple[object, ...] = ()
    children: tuple[Structure, ...] = ()
    type: type | None = None  # of a namedtuple

    @cached_property
    def size(self) -> int:
        """The number of leaves."""
        return 1 if self.kind == "leaf" else sum(c.size for c in self.children)

    @cached_property
    def _flat(self) -> bool:
        """True for a nest of leaves alone: most are, and calls of tiny programs feel how they are taken apart."""
        return self.kind not in ("leaf", "none") and all(c.kind == "leaf" for c in self.children)

    @property
    def named(self) -> bool:
        """True if some leaf lies in a dict or a namedtuple, so that its path says more than its position."""
        return self.kind in ("dict", "namedtuple") or any(c.named for c in self.children)

    def paths(self, prefix: str = "") -> list[str]:
        """The names of the leaves, in order.

        >>> flatten({"w": 1, "layers": [2, 3]})[1].paths("params")
        ['params.w', 'params.layers.0', 'params.layers.1']
        """
        if self.kind == "leaf":
            return [prefix]
        names: list[str] = []
        for key, child in zip(self.keys, self.children, strict=True):
            names.extend(child.paths(f"{prefix}.{key}" if prefix else str(key)))
        return names

    def unflatten(self, leaves: Sequence[object]) -> object:
        """The nest with these leaves; raises `ArgumentError` where their number is not `size`.

        >>> flatten({"a": (1, None)})[1].unflatten([7])
        {'a': (7, None)}
        """
        if len(leaves) != self.size:
            raise ArgumentError(f"expected {self.size} leaves, got {len(leaves)}")
        if self._flat:
            return self._nest(leaves)
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[object]) -> object:
        if self.kind == "leaf":
            return next(leaves)
        if self.kind == "none":
            return None
        if self._flat:
            return self._nest([*islice(leaves, len(self.children))])
        return self._nest([c._build(leaves) for c in self.children])

    def _nest(self, parts: Sequence[object]) -> object:
        if self.kind == "dict":
            return dict(zip(self.keys, parts, strict=True))
        if self.kind == "list":
            return list(parts)
        return tuple(parts) if self.type is None else self.type(*parts)

    def match(self, tree: object, what: str = "argument") -> list[object]:
        """The leaves of an equal nest, in this structure's order; dicts match by their keys.

        Raises `ArgumentError`, naming the path, where the nest differs.

        >>> flatten({"a": 1, "b": 2})[1].match({"b": 20, "a": 10})
        [10, 20]
        """
        if self.kind == "leaf":
            if _kind(tree) != "leaf":
                raise ArgumentError(f"{what}: expected an array, got {_describe(tree)}")
            return [tree]
        if self._flat and (plain := self._plain_leaves(tree)) is not None:
            return plain
        if _kind(tree) != self.kind:
            raise ArgumentError(f"{what}: expected {self.describe()}, got {_describe(tree)}")
        keys, parts = _parts(tree)
        if len(keys) != len(self.keys) or set(keys) != set(self.keys):
            raise ArgumentError(f"{what}: expected {self.describe()}, got {_describe(tree)}")
        by_key = dict(zip(keys, parts, strict=True))
        leaves: list[object] = []
        for key, child in zip(self.keys, self.children, strict=True):
            leaves.extend(child.match(by_key[key], f"{what}.{key}"))
        return leaves

    def _plain_leaves(self, tree: object) -> list[object] | None:
        """The leaves of a flat nest of the very same form; `None` where a closer look decides."""
        if type(tree) is dict:
            same, leaves = self.kind == "dict" and tuple(tree) == self.keys, list(tree.values())
        elif type(tree) is tuple or type(tree) is list:
            same, leaves = self.kind == type(tree).__name__ and len(tree) == len(self.keys), list(tree)
        else:
            return None
        return leaves if same and _PLAIN.issuperset(map(type, leaves)) else None

    def describe(self) -> str:
        """What a nest of this structure is called in errors."""
        if self.kind == "leaf":
            return "an array"
        if self.kind == "none":
            return "None"
        if self.kind in ("dict", "namedtuple"):
            return f"a {self.kind} with {', '.join(map(str, self.keys)) or 'nothing'}"
        return f"a {self.kind} of {len(self.children)}"


LEAF = Structure("leaf")


def flatten(tree: object) -> tuple[list[object], Structure]:
    """The leaves of a nest of dicts, lists, tuples, namedtuples and None, and its structure.

    Everything else is a leaf; None has none.

    >>> leaves, structure = flatten({"b": [1, 2], "a": None})
    >>> leaves, structure.unflatten([3, 4])
    ([1, 2], {'b': [3, 4], 'a': None})
    """
    kind = _kind(tree)
    if kind == "leaf":
        return [tree], LEAF
    keys, parts = _parts(tree)
    leaves: list[object] = []
    children = []
    for part in parts:
        more, child = flatten(part)
        leaves.extend(more)
        children.append(child)
    return leaves, Structure(kind, keys, tuple(children), type(tree) if kind == "namedtuple" else None)


def _kind(tree: object) -> Kind:
    if type(tree) in _PLAIN:
        return "leaf"
    if tree is None:
        return "none"
    if isinstance(tree, Mapping):
        return "dict"
    if isinstance(tree, list):
        return "list"
    if isinstance(tree, tuple):
        return "namedtuple" if hasattr(tree, "_fields") else "tuple"
    return "leaf"


def _parts(tree: object) -> tuple[tuple[object, ...], list[object]]:
    if isinstance(tree, Mapping):
        return tuple(tree), list(tree.values())
    if isinstance(tree, (list, tuple)):
        fields = getattr(tree, "_fields", None)
        return tuple(fields) if fields is not None else tuple(range(len(tree))), list(tree)
    return (), []


def _describe(tree: object) -> str:
    kind = _kind(tree)
    if kind == "leaf":
        return type(tree).__name__
    keys, _ = _parts(tree)
    return Structure(kind, keys, (LEAF,) * len(keys)).describe()
