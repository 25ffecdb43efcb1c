"""Graphs in files: the text as `NAME.gir`, its dense constants as `NAME.gir.npz` beside it.

In: a graph and a path. Out: files that are there whole or not at all, and the same graph again. The side file is named
after the whole text file, so that `model.npz`, a user's own weights perhaps, is never touched.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import zipfile
import zlib
from pathlib import Path

import numpy as np

from graphc.errors import ArtifactError, ParseError
from graphc.ir.graph import Graph
from graphc.ir.parser import parse
from graphc.ir.types import bf16
from graphc.ir.verify import verify


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes the graph's text to `path`, and its dense constants, where it has any, to `path` + ".npz".

    Equal graphs with equal names and locations give equal bytes. Raises `ArtifactError` if a file can't be written.

    >>> from graphc.ir.graph import Builder
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_graph(Builder().graph("empty", []), Path(folder, "empty.gir"))
    ...     load_graph(Path(folder, "empty.gir"))
    <graph @empty: 0 inputs, 0 nodes, traced>
    """
    path = Path(path)
    side = _side_file(path)
    text = f"{graph}\n".encode(errors="surrogatepass")  # a file name in a location may hold any bytes
    constants = graph.constants
    if constants:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: constants[name] for name in sorted(constants)})  # type: ignore[arg-type]
        write_atomically(side, buffer.getvalue())
    write_atomically(path, text)
    if not constants:
        with contextlib.suppress(OSError):  # of an older graph under this name
            side.unlink()


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """The verified graph in this file.

    Raises `ArtifactError` if a file is missing or can't be read, `ParseError` if the text is not one graph or the side
    file lacks a constant or holds other bytes for it, `VerifyError` if the graph breaks a rule.

    >>> load_graph("nowhere.gir")
    Traceback (most recent call last):
    graphc.errors.ArtifactError: nowhere.gir: expected a readable file, got No such file or directory
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: expected a readable file, got {error.strerror}") from None
    try:
        text = data.decode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        found = data[error.start]
        raise ParseError(
            f"{path}:{line}:{column}: expected UTF-8 text of a graph, got byte 0x{found:02x}"
        ) from None
    graph = parse(text, _read_constants(_side_file(path)), str(path))
    verify(graph)
    return graph


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + ".npz")


def _read_constants(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}  # the parser says which constant is missed, where one is
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return {name: named_bfloat16(archive[name]) for name in archive.files}
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
    ) as error:
        raise ArtifactError(
            f"{path}: expected an .npz file of constants, got {type(error).__name__}: {error}"
        ) from None


def named_bfloat16(array: np.ndarray) -> np.ndarray:
    """An array of a NumPy file, in which bf16 has no name: it is there as two bytes an element of no type.

    >>> from graphc.ir.types import bf16
    >>> named_bfloat16(np.ones(2, bf16.numpy).view("V2")).dtype
    dtype(bfloat16)
    """
    return array.view(bf16.numpy) if array.dtype == np.dtype("V2") else array


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """The whole file under its name, or the old one: a reader never sees a half.

    Raises `ArtifactError` where the file can't be written (a full disk, a read-only folder); nothing is left behind.
    """
    place = Path(os.path.realpath(path))  # a link stays a link: the file that it names is replaced
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    try:
        # O_EXCL: never another's file; mode 0o666 less the process's mask, as of any file that a program writes
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the data it names
        os.replace(temporary, place)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a writable file, got {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # gone already where the rename succeeded
