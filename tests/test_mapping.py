"""Objects mapped without a linker: the same answers as LLVM's, and nothing believed that a damaged file says."""

from __future__ import annotations

import ctypes
import gc
import random
import struct
import sys
from pathlib import Path

import pytest

from graphc.codegen.loader import LinkedObject, link_object, load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import host_target, target_from_name
from graphc.errors import ArtifactError, CompileError
from graphc.runtime import mapping
from graphc.runtime.mapping import MappedObject, map_object

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or host_target().triple.split("-")[0] != "x86_64",
    reason="objects are mapped on x86-64 Linux; elsewhere LLVM links them",
)

# constants in two sections, an address in a constant, a call of a function of its own
TEXT = """
@table = internal constant [4 x double] [double 1.0, double 2.5, double 4.0, double 8.0], align 64
@shown = constant i32 7
define internal double @at(i64 %i) noinline nounwind {
  %p = getelementptr double, ptr @table, i64 %i
  %v = load double, ptr %p
  ret double %v
}
define double @both(i64 %i, i64 %j) nounwind {
  %x = call double @at(i64 %i)
  %y = call double @at(i64 %j)
  %z = fadd double %x, %y
  %w = fmul double %z, 0x4009000000000000
  ret double %w
}
"""


def made(text: str = TEXT) -> bytes:
    return compile_object(text, host_target())


def mapped(text: str = TEXT) -> MappedObject:
    found = map_object(made(text))
    assert found is not None
    return found


def protections(loaded: MappedObject) -> list[str]:
    """Of the pages of an object, from the system."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        first, last = (int(n, 16) for n in span.split("-"))
        if first < loaded.start + loaded.bytes and loaded.start < last:
            found.append(rights[:3])
    return found


def test_code_constants_and_calls_work_as_llvm_links_them() -> None:
    data = made()
    ours, linked = load_object(data), link_object(data)
    assert isinstance(ours, MappedObject) and isinstance(linked, LinkedObject)
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_int64)
    for i, j in ((0, 1), (2, 3), (3, 3)):
        assert kind(ours.address("both"))(i, j) == kind(linked.address("both"))(i, j)
    assert ctypes.c_int32.from_address(ours.address("shown")).value == 7


def test_only_global_symbols_are_shown() -> None:
    loaded = mapped()
    with pytest.raises(CompileError, match="expected a symbol 'at', got none of that name"):
        loaded.address("at")


def test_code_is_not_writable_constants_are_not_executable_and_all_is_freed() -> None:
    loaded = mapped()
    assert sorted(protections(loaded)) == ["r--", "r-x"]
    mapped_here = [mapped() for _ in range(20)]
    starts = {one.start for one in mapped_here}
    assert len(starts) == 20
    before = len(Path("/proc/self/maps").read_text().splitlines())
    del mapped_here
    gc.collect()
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= before
    assert protections(loaded) == ["r-x", "r--"]


def test_absolute_addresses_are_filled_in() -> None:
    data = bytearray(made())
    struct.pack_into("<I", data, relocations(data) + 8, 1)  # S + A in 64 bits, of a symbol that this file has
    where, _, addend = struct.unpack_from("<QQq", data, relocations(data))
    loaded = map_object(bytes(data))
    assert loaded is not None
    written = int.from_bytes(ctypes.string_at(loaded.start + where, 8), "little")
    assert loaded.start <= written - addend < loaded.start + loaded.bytes


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("@state = global i32 5 define void @f() nounwind { ret void }", id="writable data"),
        pytest.param("@state = global [9 x i32] zeroinitializer", id="zeroed data"),
        pytest.param("@state = thread_local global i32 5", id="thread-local data"),
        pytest.param("define void @f() uwtable { ret void }", id="unwind tables of another type"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_needs_a_linker_is_left_to_one(text: str) -> None:
    found = map_object(made(text))
    assert found is None or "uwtable" in text
    if "define" in text:
        assert load_object(made(text)).address("f") > 0


def test_objects_of_other_machines_and_formats_are_left_to_llvm() -> None:
    for name in ("aarch64-linux-gnu", "cortex-m4f", "wasm32", "riscv64-linux-gnu"):
        assert (
            map_object(compile_object("define void @f() nounwind { ret void }", target_from_name(name)))
            is None
        )


def test_an_undefined_symbol_is_named() -> None:
    text = "declare void @nope() define void @f() nounwind { call void @nope() ret void }"
    assert map_object(made(text)) is None
    with pytest.raises(CompileError, match="expected no undefined symbols, got nope"):
        load_object(made(text))


def relocations(data: bytes) -> int:
    """Where the first table of relocations is."""
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    for i in range(count):
        kind, offset = struct.unpack_from("<4xI16xQ", data, table + 64 * i)
        if kind == 4:
            return int(offset)
    raise AssertionError("expected relocations")


@pytest.mark.parametrize("unknown", [3, 9, 10, 11, 42, 255])
def test_a_relocation_of_another_kind_is_left_to_llvm(unknown: int) -> None:
    data = bytearray(made())
    struct.pack_into("<I", data, relocations(data) + 8, unknown)
    assert map_object(bytes(data)) is None


@pytest.mark.parametrize(
    ("field", "place", "value", "message"),
    [
        pytest.param("<Q", 0, 1 << 40, "a relocation within section", id="offset"),
        pytest.param("<Q", 8, (1 << 60) + 2, "symbol .* of a relocation", id="symbol"),
        pytest.param("<q", 16, 1 << 40, "a distance of 32 bits", id="addend"),
    ],
)
def test_relocations_out_of_range_are_refused(field: str, place: int, value: int, message: str) -> None:
    data = bytearray(made())
    struct.pack_into(field, data, relocations(data) + place, value)
    with pytest.raises(ArtifactError, match=message):
        map_object(bytes(data))


def test_cut_files_are_refused() -> None:
    data = made()
    for length in range(7, len(data), 13):
        with pytest.raises(ArtifactError, match=f"a damaged file of {length} bytes"):
            map_object(data[:length])


def test_damaged_files_are_refused_or_mapped_but_never_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    clean = made()
    outcomes = set()
    for _ in range(3000):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 4)):
            # the header, the tables at the end: what is read as numbers
            at = rng.choice((rng.randrange(64), rng.randrange(relocations(clean) - 64, len(data))))
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            outcomes.add(type(map_object(bytes(data))).__name__)
        except ArtifactError:
            outcomes.add("ArtifactError")
    assert outcomes == {"MappedObject", "NoneType", "ArtifactError"}


def test_where_pages_may_not_become_executable_llvm_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        argtypes: tuple[object, ...] = ()

        def __call__(self, *args: object) -> int:
            return -1

    monkeypatch.setattr(
        mapping.ctypes, "CDLL", lambda *a, **k: type("Library", (), {"mprotect": Refusing()})()
    )
    assert map_object(made()) is None
