"""Files that appear together: written into a folder beside their places, then moved there.

In: a folder, and a function that writes files. Out: the files in the folder, or what was there before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from graphc.errors import ArtifactError


def place_files(folder: Path, name: str, write: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    """Calls `write` with a temporary folder; the files that it gives (kind to name) are then moved into `folder`.

    Raises `ArtifactError` where the folder can't be made or written; then nothing has changed.

    >>> place = Path(tempfile.mkdtemp())
    >>> place_files(place / "new", "example", lambda f: {"text": f.joinpath("a.txt").write_text("a") and "a.txt"})
    {'text': 'a.txt'}
    >>> (place / "new" / "a.txt").read_text()
    'a'
    """
    made = _made_folders(folder)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=folder))
    except OSError as error:
        _remove(made)
        raise ArtifactError(f"{folder}: expected a writable folder, got {error.strerror or error}") from None
    try:
        paths = write(temporary)
        for path in paths.values():
            os.replace(temporary / path, folder / path)
        made = []
    except OSError as error:
        raise ArtifactError(f"{folder}: expected a writable folder, got {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove(made)
    return paths


def write_file(path: Path, content: bytes) -> None:
    """Writes a file through to the disk."""
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _made_folders(folder: Path) -> list[Path]:
    """Makes the folder; gives those that were not there, the innermost first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove(missing)
        raise ArtifactError(f"{folder}: expected a writable folder, got {error.strerror or error}") from None
    return missing


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
