"""`load`: an exported shared library as Python functions on numpy arrays. Needs numpy and ctypes alone.

In: the path of a library. Out: a `Library`, whose entries are called by name. What the library says of itself is read
from the file, and machine, version and processor are checked, before any of its code runs.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from graphc.errors import ArgumentError, ArtifactError, TargetError
from graphc.runtime.abi import LEVELS, VERSION, LibraryInfo, ProgramInfo, find_info
from graphc.runtime.executable import Executable

_SYSTEMS = {"linux": "linux", "darwin": "apple", "win32": "windows"}


class Context(ctypes.Structure):
    """`graphc_context` of the header."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("isa", ctypes.c_uint32),
        ("workspace_bytes", ctypes.c_uint64),
        ("pool", ctypes.c_void_p),
        ("parallel_for", ctypes.c_void_p),
    )


class Function:
    """An entry of a library. Arrays are given by position or by name; nests of dicts stand for the dotted names in them.

    One output is an array, several are a dict by name. A donated input is updated in place and is its output.
    """

    def __init__(self, name: str, executable: Executable) -> None:
        self.name = name
        self.executable = executable
        self._names = [a.name for a in executable.info.inputs]
        self._of_c = dict(zip(executable.info.c_arguments, self._names, strict=False))

    @property
    def info(self) -> ProgramInfo:
        """Names, data types and shapes of arguments and outputs, and which inputs are donated."""
        return self.executable.info

    def __call__(self, /, *arrays: object, **named: object) -> np.ndarray | dict[str, np.ndarray]:
        """The outputs. Raises `ArgumentError`, `ShapeError` or `DTypeError`, naming the argument."""
        outputs = self.executable(*(self._by_name(arrays, named) if named else arrays))
        if len(outputs) == 1:
            return outputs[0]
        return dict(zip((a.name for a in self.info.outputs), outputs, strict=True))

    def _by_name(self, arrays: tuple[object, ...], named: Mapping[str, object]) -> list[object]:
        names, of_c = self._names, self._of_c
        given: dict[str, object] = dict(zip(names, arrays, strict=False))
        for key, value in _flat(named):
            name = key if key in names else of_c.get(key, key)
            if name not in names:
                raise ArgumentError(f"{self.name}: expected some of {', '.join(names)}, got {key!r}")
            if name in given:
                raise ArgumentError(f"{self.name}: {name}: expected one array, got two")
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing or len(arrays) > len(names):
            raise ArgumentError(
                f"{self.name}: expected {len(names)} arguments ({', '.join(names)}), "
                + (f"got none for {', '.join(missing)}" if missing else f"got {len(arrays)}")
            )
        return [given[name] for name in names]

    def __repr__(self) -> str:
        inputs = ", ".join(f"{a.name}: {a.text}" for a in self.info.inputs)
        outputs = ", ".join(f"{a.name}: {a.text}" for a in self.info.outputs)
        return f"<{self.name}({inputs}) -> ({outputs})>"


def _flat(named: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in named.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Library:
    """A loaded library: ``library.predict(x)``; one with a single entry is called itself.

    `info` says what it is, `level` which of its bodies run on this processor, `entries` holds its functions by name,
    those too that are called as an attribute of this object.
    """

    def __init__(self, path: Path, info: LibraryInfo, code: ctypes.CDLL, level: int) -> None:
        self.path, self.info = path, info
        self.level = max(known for known in info.levels if known <= level)
        self.entries: dict[str, Function] = {}
        for name, entry in info.entries.items():
            context = Context(VERSION, level, entry.workspace_bytes, None, None)
            address = ctypes.cast(getattr(code, f"{entry.name}_run"), ctypes.c_void_p).value
            assert address is not None
            self.entries[name] = Function(name, Executable(address, code, entry, context))

    def __getattr__(self, name: str) -> Function:
        found = self.__dict__.get("entries", {}).get(name)
        if not isinstance(found, Function):
            raise AttributeError(f"{self!r} has no entry {name!r}")
        return found

    def __call__(self, /, *arrays: object, **named: object) -> np.ndarray | dict[str, np.ndarray]:
        """Calls the only entry; raises `ArgumentError` where there are several."""
        if len(self.entries) != 1:
            raise ArgumentError(
                f"{self.info.name}: expected a call of one of its entries {', '.join(self.entries)}, got one of the library"
            )
        return next(iter(self.entries.values()))(*arrays, **named)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.entries})

    def __repr__(self) -> str:
        return f"<library {self.info.name}: {', '.join(self.entries)}>"


def load(path: str | os.PathLike[str]) -> Library:
    """Loads a shared library that `graphc.export` made for this machine.

    Raises `ArtifactError` where the file is missing, cut short, no such library, or of another version of the ABI, and
    `TargetError` where it is for another machine, or for newer processors than this one.

    >>> load("no/such/library.so")
    Traceback (most recent call last):
    graphc.errors.ArtifactError: no/such/library.so: expected a library that graphc exported, got No such file or directory
    """
    place = Path(path)
    try:
        data = place.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: expected a library that graphc exported, got {error.strerror or error}"
        ) from None
    try:
        info = find_info(data)
        _check_whole(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    _check_machine(place, info)
    try:
        code = ctypes.CDLL(str(place.resolve()))
        for name in (f"{info.name}_cpu", *(f"{e.name}_run" for e in info.entries.values())):
            getattr(code, name)
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path}: expected a library that loads, got: {error}") from None
    processor = getattr(code, f"{info.name}_cpu")
    processor.restype, processor.argtypes = ctypes.c_int32, ()
    level = int(processor())
    if level < info.levels[0]:
        raise TargetError(
            f"{path}: expected a processor of level {info.levels[0]}, {LEVELS.get(info.levels[0], '?')}, "
            f"got one of level {level}, {LEVELS.get(level, '?')}"
        )
    return Library(place, info, code, level)


def _check_machine(path: Path, info: LibraryInfo) -> None:
    family, *rest = info.triple.split("-")
    here = {"AMD64": "x86_64", "amd64": "x86_64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    system = _SYSTEMS.get(sys.platform, sys.platform)
    if family.replace("aarch64", "arm64") != here or system not in rest:
        raise TargetError(
            f"{path}: expected a library for {platform.machine()} on {sys.platform}, got one for {info.triple}"
        )


def _check_whole(data: bytes) -> None:
    """Refuses an ELF file that is no library, or cut short: the system would map what is not there, and a read of it
    ends the process. Other formats are checked by their systems. Layout: System V ABI, chapters 4 and 5."""
    if data[:4] != b"\x7fELF":
        return
    try:
        wide = data[4] == 2
        (kind,) = struct.unpack_from("<H", data, 16)
        sections = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)[0]
        size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
        programs = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)[0]
        step, segments = struct.unpack_from("<HH", data, 54 if wide else 42)
        ends = [sections + size * count, programs + step * segments]
        for at in range(programs, programs + step * segments, step or 1):
            if wide:
                offset, held = (
                    struct.unpack_from("<Q", data, at + 8)[0],
                    struct.unpack_from("<Q", data, at + 32)[0],
                )
            else:
                offset, held = (
                    struct.unpack_from("<I", data, at + 4)[0],
                    struct.unpack_from("<I", data, at + 16)[0],
                )
            ends.append(offset + held)
    except (struct.error, IndexError):
        raise ArtifactError(f"expected a whole file, got its first {len(data)} bytes") from None
    if kind != 3:
        raise ArtifactError(
            "expected a shared library, got another kind of ELF file: an object is to be linked"
        )
    if max(ends) > len(data):
        raise ArtifactError(f"expected a file of {max(ends)} bytes, got its first {len(data)}")
