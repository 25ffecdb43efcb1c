"""Weights in safetensors files: the format that PyTorch's hub speaks, data only, no code in it.

In: a model, or a flat dict of arrays by name. Out: one file, written whole or not at all, and dicts read from files.
Needs the `safetensors` package (``pip install graphc[safetensors]``); format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np

from graphc.errors import ArgumentError, ArtifactError
from graphc.ir.files import write_atomically

if TYPE_CHECKING:
    from graphc.frontend.modules import Module

METADATA = {"format": "graphc"}

# safetensors' names of the data types that numpy has
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NUMPY = {np.dtype(text).newbyteorder("=") for text in _DTYPES.values()}


class HasWeights(Protocol):
    """A model: its parameters and buffers as flat dicts."""

    @property
    def parameters(self) -> dict[str, np.ndarray]: ...

    @property
    def buffers(self) -> dict[str, np.ndarray]: ...


def save_weights(weights: HasWeights | Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Writes a model's parameters and buffers, or a flat dict of arrays, to a safetensors file.

    The file appears whole or not at all: it is written beside its place, flushed, then renamed over it. Arrays of any
    byte order and stride are written as little-endian rows. Raises `ArtifactError` where the file can't be written or
    a data type has no place in the format.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/w.safetensors"
    >>> save_weights({"b": np.float32([1, 2])}, file); load_weights(file)
    {'b': array([1., 2.], dtype=float32)}
    """
    arrays = weights if isinstance(weights, Mapping) else {**weights.parameters, **weights.buffers}
    entries = {}
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ArtifactError(f"{path}: save_weights: expected names that are strings, got {name!r}")
        given = np.asarray(array)
        kind = given.dtype.newbyteorder("=")
        if kind not in _NUMPY and kind.name != "bfloat16":
            raise ArtifactError(
                f"{path}: save_weights: {name}: expected an array of numbers, got {given.dtype}"
            )
        entries[name] = np.array(
            given, dtype=kind, order="C"
        )  # the package writes raw bytes: rows, native order
    _package()
    from safetensors.numpy import save

    write_atomically(path, save(entries, METADATA))


Rename = Mapping[str, str | None] | Callable[[str], str | None]


@dataclass(frozen=True)
class Loaded:
    """What a model took from a file: names that were loaded, the model's that it lacks, the file's that fit nowhere."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@overload
def load_weights(model: str | os.PathLike[str]) -> dict[str, np.ndarray]: ...


@overload
def load_weights(
    model: Module, path: str | os.PathLike[str], *, strict: bool = True, rename: Rename | None = None
) -> Loaded: ...


def load_weights(
    model: Module | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    strict: bool = True,
    rename: Rename | None = None,
) -> dict[str, np.ndarray] | Loaded:
    """The arrays of a safetensors file by name; with a model, its weights are loaded from the file.

    Files that PyTorch wrote load too. 16-bit floats (f16, bf16) come back as f32, which holds them exactly; every other
    type comes back as it is. Into a model, all is loaded or nothing; with ``strict=False`` names may be missing on both
    sides, and the result tells which. `rename` maps the file's names to the model's: a dict of beginnings
    (``{"backbone.": "trunk."}``, to None to leave them out), or a function of the name.

    Raises `ArtifactError` where the file is missing, truncated or not such a file, or does not fit the model.

    >>> load_weights("no/such/file")
    Traceback (most recent call last):
    graphc.errors.ArtifactError: no/such/file: expected a safetensors file, got No such file or directory
    """
    if isinstance(model, (str, os.PathLike)):
        return _arrays_of(model)
    if path is None:
        raise ArgumentError("load_weights: expected a path besides the model, got none")
    arrays = {}
    for name, array in _arrays_of(path).items():
        new = _renamed(name, rename)
        if new in arrays:
            raise ArtifactError(f"{path}: rename: expected different names, got {new} twice")
        if new is not None:
            arrays[new] = array
    return model.load_some(arrays, str(path), strict)


def _renamed(name: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if not isinstance(rename, Mapping):
        return rename(name)
    for old, new in rename.items():
        if name.startswith(old):
            return None if new is None else new + name[len(old) :]
    return name


def _arrays_of(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file by name."""
    package = _package()
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: expected a safetensors file, got {error.strerror or error}") from error
    try:
        entries = package.deserialize(content)
    except (package.SafetensorError, ValueError, OverflowError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(
            f"{path}: expected a safetensors file, got {len(content)} bytes ({text})"
        ) from error
    return {name: _array(f"{path}: {name}", entry) for name, entry in sorted(entries)}


def _array(what: str, entry: Mapping[str, object]) -> np.ndarray:
    kind, shape, data = entry["dtype"], entry["shape"], entry["data"]
    assert isinstance(data, (bytes, bytearray)) and isinstance(shape, list)
    if kind == "BF16":  # the upper half of an f32's bits
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if kind not in _DTYPES:
        raise ArtifactError(f"{what}: expected a data type of {', '.join(_DTYPES)}, BF16, got {kind}")
    stored = np.frombuffer(data, _DTYPES[str(kind)]).reshape(shape)
    native = np.float32 if kind == "F16" else stored.dtype.newbyteorder("=")
    return stored.astype(native, order="C", copy=True)


def _package() -> ModuleType:
    try:
        import safetensors
    except ImportError as error:
        raise ArtifactError(
            "weights: expected the safetensors package, got none: pip install graphc[safetensors]"
        ) from error
    return safetensors
