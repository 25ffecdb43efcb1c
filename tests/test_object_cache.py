"""The object cache: what is found again, what is not, and that nothing on a disk can make a compilation fail."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import compiler, program
from graphc.codegen.target import ask_host, host_fingerprint, host_target
from graphc.config import config
from graphc.errors import GraphcError
from graphc.ir.graph import Graph
from graphc.program import Program, cache_key, host_from_cache
from graphc.runtime.object_cache import ObjectCache, default_folder

X = np.arange(6, dtype=np.float32).reshape(2, 3)
KEY = "k" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no programs left in the process by earlier tests."""
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "cache"))
    config.cache_clear()
    monkeypatch.setattr(compiler, "_PROGRAMS", {})
    program._host_from.cache_clear()
    return tmp_path / "cache"


def fresh(fn: Callable[..., object], *specs: object) -> compiler.CompiledFunction:
    """Compiled as in a new process."""
    compiler._PROGRAMS.clear()
    return graphc.compile(fn, *specs)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.gco"))


def test_a_later_process_finds_the_same_bytes_and_skips_the_work(folder: Path) -> None:
    first = fresh(lambda x: graphc.exp(x) @ x.T, X)
    second = fresh(lambda x: graphc.exp(x) @ x.T, X)
    assert (first.cached, second.cached) == (False, True)
    assert set(second.compile_seconds) == {"trace", "import", "cache", "load"}
    assert second.object_code == first.object_code and second.info == first.info
    np.testing.assert_array_equal(first(X), second(X))
    assert len(entries(folder)) == 1


def test_what_llvm_says_of_the_machine_is_kept_and_rebuilt_when_damaged(folder: Path) -> None:
    asked = ask_host()
    program._host_from.cache_clear()
    assert host_from_cache() == host_target()
    if host_fingerprint():
        (path,) = folder.glob("*.gch")
        assert json.loads(ObjectCache(folder, 1 << 20).of_hosts().get(path.stem) or b"") == list(asked)
        path.write_bytes(path.read_bytes()[:-1])
        program._host_from.cache_clear()
        assert host_from_cache() == host_target()
        assert ObjectCache(folder, 1 << 20).of_hosts().get(path.stem) is not None
    assert ObjectCache(folder, 1 << 20).entries() == []


def test_a_program_from_the_cache_needs_neither_llvm_nor_the_code_generator(folder: Path) -> None:
    code = (
        "import sys, numpy as np, graphc\n"
        "f = graphc.compile(graphc.value_and_grad(lambda x: graphc.tanh(x @ x.T).sum()), np.ones((3, 4), np.float32))\n"
        "print(f.cached, f(np.ones((3, 4), np.float32))[0])\n"
        "print([m for m in sys.modules if m == 'networkx' or m.startswith(('llvmlite.binding', 'numpy.ma.',\n"
        "    'graphc.codegen.schedules', 'graphc.codegen.emit', 'graphc.ir.kernel'))])"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], env=dict(os.environ), check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for _ in range(2)
    )
    assert first[0].replace("False", "True") == second[0] and second[0].startswith("True")
    if host_fingerprint():
        assert second[1] == "[]"


def test_the_same_source_gives_the_same_object_in_every_process() -> None:
    code = (
        "import hashlib, graphc\n"
        "from graphc import f32\n"
        "step = graphc.value_and_grad(lambda w, x: graphc.exp(graphc.tanh(x @ w)).sum())\n"
        "f = graphc.compile(step, f32[70, 50], f32[33, 70], donate=[0])\n"
        "print(hashlib.sha256(f.object_code).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "GRAPHC_CACHE": "off"},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_program_from_the_cache_still_shows_every_stage(folder: Path) -> None:
    first, second = (fresh(lambda x: graphc.tanh(x).sum(), X) for _ in range(2))
    assert second.cached and list(second.stages) == list(first.stages)
    assert (str(second.plan), second.llvm, second.asm) == (str(first.plan), first.llvm, first.asm)


def test_locations_do_not_count_and_everything_else_does() -> None:
    def graph(fn: Callable[..., object] = lambda x: graphc.exp(x), name: str = "f") -> Graph:
        return graphc.trace(fn, X, name=name)

    target = host_target()
    base = cache_key(graph(), target, ())
    assert base == cache_key(graph(lambda x: graphc.exp(x)), target, ())
    others = [
        cache_key(graph(lambda x: graphc.exp(x) + 1), target, ()),
        cache_key(graph(name="g"), target, ()),
        cache_key(graph(), replace(target, vector_bits=128), ()),
        cache_key(graph(), replace(target, cache_bytes=(1 << 10,)), ()),
        cache_key(graph(), target, ((0, 0),)),
        cache_key(graphc.trace(lambda x: graphc.exp(x), X[:1], name="f"), target, ()),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "import graphc; from graphc.program import cache_key; from graphc.codegen.target import host_target;"
        "print(cache_key(graphc.trace(lambda x: graphc.exp(x), graphc.f32[4], name='f'), host_target(), ()))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "damage", ["empty", "half", "one byte short", "flipped bit", "other header", "longer", "zeros", "folder"]
)
def test_a_damaged_entry_is_rebuilt(folder: Path, damage: str) -> None:
    code = fresh(lambda x: x * 3, X).object_code
    (path,) = entries(folder)
    data = bytearray(path.read_bytes())
    if damage == "flipped bit":
        data[len(data) // 2] ^= 4
    elif damage == "other header":
        data[0] ^= 1
    elif damage == "longer":
        data += b"\0"
    elif damage == "zeros":  # what some file systems leave after a loss of power
        data = bytearray(len(data))
    elif damage != "folder":
        del data[{"empty": 0, "half": len(data) // 2, "one byte short": len(data) - 1}[damage] :]
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data)
    again = fresh(lambda x: x * 3, X)
    assert not again.cached and again.object_code == code
    assert fresh(lambda x: x * 3, X).cached == (damage != "folder")


@pytest.mark.parametrize("body", [b"", b"no object", b"\x7fELF" + b"\0" * 500])
def test_an_entry_that_is_whole_but_does_not_load_is_rebuilt(folder: Path, body: bytes) -> None:
    code = fresh(lambda x: x * 19, X).object_code
    (entry,) = program.object_cache().entries()
    program.object_cache().put(entry.key, body)
    again = fresh(lambda x: x * 19, X)
    assert not again.cached and again.object_code == code
    assert fresh(lambda x: x * 19, X).cached


def test_entries_that_changed_places_are_rebuilt(folder: Path) -> None:
    fresh(lambda x: x * 2, X)
    fresh(lambda x: x * 4, X)
    one, other = entries(folder)
    one.rename(folder / "between")
    other.rename(one)
    (folder / "between").rename(other)
    for factor in (2, 4):
        exe = fresh(lambda x, factor=factor: x * factor, X)
        assert not exe.cached
        np.testing.assert_array_equal(exe(X), X * factor)


def test_an_entry_under_another_key_is_none(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 1 << 20)
    cache.put("a", b"code")
    (tmp_path / "a.gco").rename(tmp_path / "b.gco")
    assert cache.get("b") is None


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 3100)
    for age, key in enumerate("abc"):
        cache.put(key, b"." * 900)
        os.utime(tmp_path / f"{key}.gco", (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # used now
    cache.put("d", b"." * 900)
    assert {e.key for e in cache.entries()} == {"a", "c", "d"}
    cache.put("e", b"." * 4000)  # larger than the cache
    assert {e.key for e in cache.entries()} == {"a", "c", "d"}
    assert cache.clear()[0] == 3 and cache.entries() == []


def test_a_folder_of_many_entries_is_not_looked_through_by_every_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or scandir(path))
    limit = 16 * 16 * 4096
    for number in range(64):  # caches of their own, as of other processes
        ObjectCache(tmp_path, limit).put(str(number), b"." * 4000)
    assert len(looks) == 5  # the first writer does, then one in sixteen


def test_the_limit_holds_however_many_write(tmp_path: Path) -> None:
    limit = 200_000
    caches = [ObjectCache(tmp_path, limit) for _ in range(7)]
    for number in range(400):
        caches[number % 7].put(str(number), b"." * (500 + 37 * number % 9000))
        assert sum(f.stat().st_size for f in tmp_path.iterdir() if f.name != "written") <= limit
    assert len(caches[0].entries()) > 10
    assert caches[0].get("399") is not None


def test_what_killed_writers_leave_counts(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 10_000)
    cache.put("old", b"." * 3000)
    (tmp_path / "x.part").write_bytes(b"." * 5000)
    cache.put("new", b"." * 3000)
    assert [e.key for e in cache.entries()] == ["new"]


def test_times_to_come_do_not_keep_entries_for_ever(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 3100)
    for key in "abc":
        cache.put(key, b"." * 900)
        os.utime(tmp_path / f"{key}.gco", (time.time() + 1e7,) * 2)  # written by a clock that was ahead
    left = tmp_path / "x.part"
    left.touch()
    os.utime(left, (time.time() + 1e7,) * 2)
    for key in "def":
        cache.put(key, b"." * 900)
        assert cache.get(key) is not None
    assert {e.key for e in cache.entries()} == {"d", "e", "f"}
    assert not left.exists()


def test_a_file_that_another_process_removed_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ObjectCache(tmp_path, 3100)
    for key in "abc":
        cache.put(key, b"." * 900)
    listed = list(cache._files())
    cache.clear()
    cache.put("d", b"." * 900)
    monkeypatch.setattr(ObjectCache, "_files", lambda self: iter(listed))
    cache.put("e", b"." * 900)  # looks at a list that is out of date
    monkeypatch.undo()
    assert {e.key for e in cache.entries()} == {"d", "e"}


posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owners here")


@posix
def test_a_folder_that_others_can_write_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(lambda x: x * 23, X)
    assert folder.stat().st_mode & 0o777 == 0o700
    cache = program.object_cache()
    folder.chmod(0o777)
    assert cache.why_unused() == "anyone may write there"
    assert not fresh(lambda x: x * 23, X).cached
    fresh(lambda x: x * 29, X)
    assert len(entries(folder)) == 1
    folder.chmod(0o750)
    assert cache.why_unused() is None and fresh(lambda x: x * 23, X).cached
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    else:  # the same seen from the other side
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    assert cache.why_unused() == "it belongs to another user"
    assert not fresh(lambda x: x * 23, X).cached


@posix
def test_a_link_to_a_folder_and_a_name_in_any_script_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "größe ☃"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    for number, path in enumerate((real, tmp_path / "link")):
        monkeypatch.setenv("GRAPHC_CACHE", str(path))
        config.cache_clear()
        assert fresh(lambda x: x * 31, X).cached == (number == 1)


def test_the_home_is_found_and_a_missing_one_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "graphc"
    monkeypatch.setenv("GRAPHC_CACHE", "~/mine")
    config.cache_clear()
    assert program.object_cache().folder == Path("~/mine").expanduser()
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert default_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches" / "graphc"


def test_sources_that_vanish_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program._sources.cache_clear()
    before = program._sources()
    program._sources.cache_clear()
    stat = Path.stat

    def gone(self: Path, **options: bool) -> os.stat_result:
        if self.name == "emitter.py":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", gone)
    during = program._sources()
    program._sources.cache_clear()
    monkeypatch.undo()
    assert during != before == program._sources()


def test_entries_are_named_after_their_programs(folder: Path) -> None:
    def mean_of_squares(x: object) -> object:
        return (x * x).mean()  # type: ignore[operator]

    fresh(mean_of_squares, X)
    (entry,) = program.object_cache().entries()
    assert entry.key.startswith("mean_of_squares-") and len(entry.key) == len("mean_of_squares-") + 64
    graph = graphc.trace(mean_of_squares, X, name="x" * 300)  # longer than a file's name may be
    assert not Program(graph, host_target(), ()).cached and Program(graph, host_target(), ()).cached


def test_what_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ObjectCache(tmp_path, 1 << 20)
    for key in "ab":
        cache.put(key, b"code")
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.name == "a.gco":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError, match=r"a\.gco"):
        cache.clear()
    assert [e.key for e in cache.entries()] == ["a"]


def test_no_folder_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config().cache == ""
    assert not Program(graphc.trace(lambda x: x + 5, X), host_target(), ()).cached
    cache = ObjectCache(None, 100)
    cache.put("a", b"code")
    assert cache.get("a") is None and cache.entries() == [] and cache.clear() == (0, 0)
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert default_folder() is None


def test_a_folder_that_is_a_file_is_harmless(folder: Path) -> None:
    folder.write_text("not a folder")
    exe = fresh(lambda x: x - 7, X)
    assert not exe.cached
    np.testing.assert_array_equal(exe(X), X - 7)
    assert folder.read_text() == "not a folder"


@pytest.mark.parametrize("call", ["mkstemp", "replace", "mkdir", "utime"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_harmless(
    folder: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(lambda x: x * 11, X)

    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    place = {
        "mkstemp": "tempfile.mkstemp",
        "replace": "os.replace",
        "utime": "os.utime",
        "mkdir": "pathlib.Path.mkdir",
    }
    monkeypatch.setattr(place[call], refuse)
    np.testing.assert_array_equal(fresh(lambda x: x * 11, X)(X), X * 11)
    np.testing.assert_array_equal(fresh(lambda x: x * 13, X)(X), X * 13)
    assert {p.name for p in folder.iterdir() if p.suffix not in (".gco", ".gch")} <= {"written"}


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, mode: str) -> object:
        os.close(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("graphc.runtime.object_cache.os.fdopen", full)
    np.testing.assert_array_equal(fresh(lambda x: x * 17, X)(X), X * 17)
    assert [p.name for p in folder.iterdir()] == ["written"]


def test_what_a_killed_writer_left_is_never_read_and_swept_later(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from graphc.runtime import object_cache as o\n"
        "o.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"o.ObjectCache(Path({str(tmp_path)!r}), 1 << 20).put({KEY!r}, b'x' * 100)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    cache = ObjectCache(tmp_path, 4000)  # so small that every writer looks through the folder
    (left,) = tmp_path.glob("*.part")
    assert cache.get(KEY) is None and cache.entries() == []
    cache.put(KEY, b"code")
    assert left.exists()  # it may be another writer's
    old = time.time() - 7200
    os.utime(left, (old, old))
    cache.put(KEY, b"code")
    assert not left.exists() and cache.get(KEY) == b"code"


def test_processes_may_write_the_same_entry_at_once(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from graphc.runtime.object_cache import ObjectCache\n"
        f"cache = ObjectCache(Path({str(tmp_path)!r}), 1 << 20)\n"
        "body = bytes(range(256)) * 64\n"
        "for turn in range(200):\n"
        f"    cache.put({KEY!r}, body)\n"
        f"    assert cache.get({KEY!r}) in (None, body) and cache.get({KEY!r}) is not None\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{KEY}.gco", "written"]


@pytest.mark.parametrize(("text", "bytes_"), [("100", 100), ("2k", 2048), ("3M", 3 << 20), ("1G", 1 << 30)])
def test_the_limit_is_read_with_its_unit(text: str, bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_BYTES", text)
    config.cache_clear()
    assert program.object_cache().limit == bytes_


@pytest.mark.parametrize("name", ["GRAPHC_CACHE_BYTES", "GRAPHC_CACHE_SIZES"])
def test_nonsense_sizes_are_one_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "lots")
    config.cache_clear()
    with pytest.raises(GraphcError, match=f"{name}: expected bytes, as in 32K or 1M .*, got 'lots'"):
        config()
