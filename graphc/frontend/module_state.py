"""What modules do with their parameters by name: shared ones, frozen ones, some of a file.

In: a `Module`. Out: names, and arrays copied in. The methods of `Module` are the way here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import ArgumentError, ArtifactError
from graphc.ir.loc import here
from graphc.ir.scalar import cast_numpy
from graphc.ir.types import DType

if TYPE_CHECKING:
    from graphc.frontend.modules import Module
    from graphc.weights import Loaded


def aliases(root: Module) -> dict[str, str]:
    """Further names of shared parameters, and the names under which `entries` lists them."""
    owners = {entry: name for name, entry in root.entries.items()}
    found: dict[str, str] = {}
    stack: list[tuple[str, Module, tuple[Module, ...]]] = [("", root, ())]
    while stack:
        path, module, above = stack.pop()
        for name, entry in module._entries.items():
            full = f"{path}.{name}" if path else name
            if owners[entry] != full:
                found[full] = owners[entry]
        stack.extend(
            (f"{path}.{name}" if path else name, child, (*above, module))
            for name, child in module.children()
            if child not in above and child is not module
        )
    return found


def set_frozen(root: Module, what: str, patterns: Sequence[str], frozen: bool) -> None:
    """Freezes or unfreezes the parameters that patterns fit, all or none of them."""
    named = {name: entry for name, entry in root.entries.items() if entry.trained}
    chosen = []
    for pattern in patterns or ("*",):
        fits = [entry for name, entry in named.items() if fnmatchcase(name, pattern)]
        if not fits:
            raise ArgumentError(
                f"{here().prefix}{what}: expected a pattern of a parameter's name, got {pattern!r} for "
                f"{', '.join(named) or 'none'}"
            )
        chosen += fits
    for entry in chosen:
        entry.frozen = frozen


def load_some(root: Module, state: Mapping[str, np.ndarray], what: str, strict: bool) -> Loaded:
    """Copies what fits into the parameters and buffers, all of it or nothing; see `graphc.load_weights`."""
    from graphc.weights import Loaded

    state = by_owner(root, state)
    entries = root.entries
    known = {name: array for name, array in state.items() if name in entries}
    wrong = [f"{n}: {entries[n].mismatch(array)}" for n, array in known.items() if entries[n].mismatch(array)]
    found = problems(root, state) if strict else wrong
    if not known and not found:
        found = [f"no name of the model's: {', '.join(entries)}"]
    if found:
        raise ArtifactError(f"{what}: {'; '.join(found)}")
    for name, array in known.items():
        entries[name].assign(np.asarray(array))
    missing = [name for name in entries if name not in known]
    return Loaded(tuple(known), tuple(missing), tuple(name for name in state if name not in entries))


def by_owner(root: Module, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state with shared parameters under the names that `entries` has; equal copies are one.

    Weights of 16 bits, which files give as f32, are in their own type again.
    """
    found = dict(state)
    for alias, owner in root.aliases.items():
        if alias in found and (owner not in found or np.array_equal(found[alias], found[owner])):
            found[owner] = found.pop(alias)
    entries = root.entries
    return {n: _narrowed(a, entries[n].type.dtype) if n in entries else a for n, a in found.items()}


def _narrowed(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Weights of 16 bits, which are read as f32, in their own type again, where that loses nothing."""
    if not dtype.is_half or array.dtype != np.float32:
        return array
    half = cast_numpy(array, dtype.numpy)
    return half if np.array_equal(half.astype(np.float32), array, equal_nan=True) else array


def problems(root: Module, state: Mapping[str, np.ndarray]) -> list[str]:
    """What is missing, unknown and of another type in a state."""
    entries = root.entries
    missing = [name for name in entries if name not in state]
    unknown = [str(name) for name in state if name not in entries]
    wrong = [
        f"{n}: {e.mismatch(state[n])}" for n, e in entries.items() if n in state and e.mismatch(state[n])
    ]
    parts = [f"missing {', '.join(missing)}"] if missing else []
    if unknown:
        parts.append(f"unknown {', '.join(unknown)}")
    return parts + wrong
