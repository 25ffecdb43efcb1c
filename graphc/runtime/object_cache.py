"""The object cache: compiled programs on disk, found by a digest of everything that determines their bytes.

In: a key and bytes. Out: the same bytes in a later process, or nothing. An entry is one file that carries a checksum; it
appears by an atomic rename, so that a reader sees all of it or none, whoever else writes and whatever is killed. What is
damaged is treated as absent and replaced. No failure of the disk reaches the caller: a cache may only save time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"graphc object 1\n"
_SUFFIX = ".gco"
_HOST_SUFFIX = ".gch"  # what is known of a machine, which is no program
_TEMPORARY = ".part"
_ABANDONED = 3600.0  # seconds after which a file that a writer left half done is swept
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    key: str
    path: Path
    bytes: int
    used: float  # when it was last read or written, in seconds since the epoch


def default_folder() -> Path | None:
    """Where a user's caches belong on this platform; `None` where there is no home.

    XDG Base Directory Specification 0.8 on Linux and other systems; ~/Library/Caches on macOS; %LOCALAPPDATA% on Windows.

    >>> folder = default_folder()
    >>> folder is None or folder.name
    'graphc'
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "graphc" if base else None
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Caches" / "graphc" if home != "~" else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "graphc"
    return Path(home) / ".cache" / "graphc" if home != "~" else None


class ObjectCache:
    """Entries in one folder, at most `limit` bytes of them: the least recently used go first. No folder: no cache.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = ObjectCache(Path(folder), 1 << 20)
    ...     cache.put("abc", b"code")
    ...     cache.get("abc"), cache.get("def")
    (b'code', None)
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._suffix = _SUFFIX

    def of_hosts(self) -> ObjectCache:
        """The entries of the same folder that are no programs but say what a machine is."""
        other = ObjectCache(self.folder, self.limit)
        other._suffix = _HOST_SUFFIX
        return other

    def get(self, key: str) -> bytes | None:
        """The entry's bytes; `None` where there is none, or a damaged one."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        body = data[start:]
        if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != _digest(key, body):
            return None
        with contextlib.suppress(OSError):  # a read-only folder keeps its order
            os.utime(path)
        return body

    def put(self, key: str, body: bytes) -> None:
        """Stores an entry, if the disk lets it, and evicts others where they are too many bytes."""
        if self.folder is None or len(body) > self.limit:
            return
        import tempfile  # only what is stored needs it: it loads a dozen modules

        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(_TEMPORARY, f"{key[:16]}.", self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + _digest(key, body) + body)
            os.replace(temporary, self._path(key))
            temporary = None
            self._evict()
        except OSError:
            pass
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def entries(self) -> list[Entry]:
        """All entries, the most recently used first."""
        return sorted(
            (e for e in self._files() if e.path.suffix == self._suffix), key=lambda e: (-e.used, e.key)
        )

    def clear(self) -> tuple[int, int]:
        """Removes all entries and what writers left behind; says how many, and their bytes."""
        removed = [e for e in self._files() if _unlink(e.path)]
        return len(removed), sum(e.bytes for e in removed)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{self._suffix}"

    def _files(self) -> Iterator[Entry]:
        if self.folder is None:
            return
        try:
            files = list(os.scandir(self.folder))
        except OSError:
            return
        for file in files:
            if file.name.endswith((_SUFFIX, _HOST_SUFFIX, _TEMPORARY)):
                try:
                    status = file.stat(follow_symlinks=False)
                except OSError:  # another process was faster
                    continue
                path = Path(file.path)
                yield Entry(path.stem, path, status.st_size, status.st_mtime)

    def _evict(self) -> None:
        entries = self.entries()
        total = sum(e.bytes for e in entries)
        while total > self.limit and entries:
            oldest = entries.pop()
            _unlink(oldest.path)
            total -= oldest.bytes
        old = time.time() - _ABANDONED
        for file in self._files():
            if file.path.suffix == _TEMPORARY and file.used < old:
                _unlink(file.path)


def _digest(key: str, body: bytes) -> bytes:
    # the key is part of it: an entry under another name is no entry
    return hashlib.sha256(key.encode() + b"\0" + body).digest()


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
