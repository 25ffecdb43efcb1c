"""The object cache: compiled programs on disk, found by a digest of everything that determines their bytes.

In: a key and bytes. Out: the same bytes in a later process, or nothing. An entry is one file that carries a checksum; it
appears by an atomic rename, so that a reader sees all of it or none, whoever else writes and whatever is killed. What is
damaged is treated as absent and replaced. No failure of the disk reaches the caller: a cache may only save time.

What is loaded from here runs, so a folder that others can write is not used. And `written` keeps a tally, a byte for each
4 KiB that any process was about to write: only where it says that the folder may be full, all entries are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"graphc object 1\n"
_SUFFIX = ".gco"
_HOST_SUFFIX = ".gch"  # what is known of a machine, which is no program
_TEMPORARY = ".part"
_TALLY = "written"
_TALLY_UNIT = 4096  # bytes written for each byte of the tally
_SHARE = 16  # the folder is looked through each time a sixteenth of its limit was written
_ABANDONED = 600.0  # seconds after which a file that a writer left half done is swept
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
    # a home that is not there, as of a service's user, is not made
    return Path(home) / ".cache" / "graphc" if os.path.isdir(home) and home != "~" else None


class ObjectCache:
    """Entries in one folder, at most `limit` bytes of them: the least recently used go first. No folder: no cache.

    Writers may exceed the limit by the entry that each of them has just written, until they have looked.

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

    def why_unused(self) -> str | None:
        """Why nothing is read from the folder or written to it, though it is there; `None` where it is fit for use."""
        if self.folder is None or not hasattr(
            os, "geteuid"
        ):  # on Windows a user's folder is the user's alone
            return None
        try:
            status = os.stat(self.folder)
        except OSError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            return "it is no folder"
        if status.st_uid not in (0, os.geteuid()):
            return "it belongs to another user"
        return "anyone may write there" if status.st_mode & stat.S_IWOTH else None

    def get(self, key: str) -> bytes | None:
        """The entry's bytes; `None` where there is none, or a damaged one."""
        if self.folder is None or self.why_unused() is not None:
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
        data = _MAGIC + _digest(key, body) + body
        if self.folder is None or len(data) > self.limit:
            return
        import tempfile  # only what is stored needs it: it loads a dozen modules

        temporary = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.why_unused() is not None:
                return
            full = self._tally(len(data))
            handle, temporary = tempfile.mkstemp(_TEMPORARY, f"{key[:16]}.", self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, self._path(key))
            temporary = None
            if full:
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
        """Removes all files of the cache, what writers left behind too; says how many, and their bytes.

        Raises the first `OSError` once all that can be removed is.
        """
        removed: list[Entry] = []
        failed: OSError | None = None
        for entry in self._files():
            try:
                entry.path.unlink(missing_ok=True)
                removed.append(entry)
            except OSError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        if self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / _TALLY).unlink()
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

    def _tally(self, size: int) -> bool:
        """Adds bytes to the tally before they are written (so a writer that is killed counts); True where it is full.

        A tally that is new is full: nobody has looked yet. Appending is atomic, so no process's bytes are lost.
        """
        assert self.folder is not None
        units = -(-size // _TALLY_UNIT)
        handle = os.open(self.folder / _TALLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, b"." * units)
            written = os.fstat(handle).st_size
        finally:
            os.close(handle)
        return written == units or written * _TALLY_UNIT >= self.limit // _SHARE

    def _evict(self) -> None:
        """Makes room for what is written until the tally is full again, and sweeps what killed writers left."""
        assert self.folder is not None
        with contextlib.suppress(OSError):
            os.truncate(self.folder / _TALLY, 1)
        now = time.time()
        entries = []
        total = 0
        for file in self._files():
            abandoned = file.path.suffix == _TEMPORARY and abs(now - file.used) > _ABANDONED
            if abandoned and _unlink(file.path):
                continue
            total += file.bytes
            if file.path.suffix == _SUFFIX:
                entries.append(file)
        # Times to come are those of a clock that was wrong: such entries would outlive all others, so they go first.
        entries.sort(key=lambda e: (e.used if e.used <= now + 1 else 0.0, e.key), reverse=True)
        room = self.limit - self.limit // _SHARE
        while total > room and entries:
            oldest = entries.pop()
            if _unlink(oldest.path):
                total -= oldest.bytes


def _digest(key: str, body: bytes) -> bytes:
    # the key is part of it: an entry under another name is no entry
    return hashlib.sha256(key.encode() + b"\0" + body).digest()


def _unlink(path: Path) -> bool:
    """True if the file is gone, whoever removed it."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
