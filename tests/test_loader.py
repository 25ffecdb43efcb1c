"""Objects: what LLVM refuses, what the parsers of object files see, and loading into this process."""

from __future__ import annotations

import ctypes
import gc
import threading

import pytest

from graphc.codegen.loader import LoadedObject, load_object
from graphc.codegen.object import compile_assembly, compile_object, undefined_symbols, writable_sections
from graphc.codegen.target import host_target, target_from_name
from graphc.errors import ArtifactError, CompileError


def answering(number: int) -> bytes:
    return compile_object(f"define i32 @answer() nounwind {{ ret i32 {number} }}", host_target())


def call(loaded: LoadedObject) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(loaded.address("answer"))())


def test_objects_of_the_same_symbol_live_side_by_side() -> None:
    loaded = [load_object(answering(n)) for n in range(50)]
    assert [call(one) for one in loaded] == list(range(50))
    del loaded[::2]
    gc.collect()
    assert [call(one) for one in loaded] == list(range(1, 50, 2))


def test_threads_load_at_the_same_time() -> None:
    results: dict[int, int] = {}

    def work(number: int) -> None:
        for _ in range(10):
            results[number] = call(load_object(answering(number)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 0, 1: 1, 2: 2, 3: 3}


def test_undefined_and_unknown_symbols_are_errors() -> None:
    calls_out = "declare void @nope() define void @f() nounwind { call void @nope() ret void }"
    with pytest.raises(CompileError, match="expected no undefined symbols, got nope"):
        load_object(compile_object(calls_out, host_target()))
    with pytest.raises(CompileError, match="expected a symbol 'question'"):
        load_object(answering(1)).address("question")


def test_bytes_that_are_no_object_are_refused() -> None:
    with pytest.raises(ArtifactError, match="expected an object of this machine"):
        load_object(b"not an object")
    with pytest.raises(ArtifactError, match="expected an ELF, COFF, PE, Mach-O or WebAssembly file"):
        undefined_symbols(b"not an object")
    with pytest.raises(ArtifactError, match=r"expected \d+ bytes at \d+, got a file of 100 bytes"):
        undefined_symbols(answering(1)[:100])


def test_text_that_llvm_cannot_read_is_an_error_with_its_line() -> None:
    with pytest.raises(CompileError) as raised:
        compile_object("define void @f() {\n  %x = add i32 %missing, 1\n  ret void\n}", host_target())
    assert "llvm:2: expected valid LLVM IR, got use of undefined value '%missing'" in str(raised.value)
    assert "%x = add i32 %missing, 1" in str(raised.value)
    with pytest.raises(CompileError, match=r"unknown intrinsic 'llvm\.made\.up'"):
        compile_assembly("define void @f() { call void @llvm.made.up() ret void }", host_target())
    not_dominated = """define i32 @f(i1 %c) {
    entry:
      br i1 %c, label %a, label %b
    a:
      %x = add i32 1, 2
      br label %b
    b:
      ret i32 %x
    }"""
    with pytest.raises(CompileError, match="expected a valid module for cpu"):
        compile_object(not_dominated, host_target())


@pytest.mark.parametrize("name", ["x86-64", "aarch64-linux-gnu", "riscv64-linux-gnu", "cortex-m4f"])
def test_object_files_of_both_widths_are_read(name: str) -> None:
    text = """
    @state = global i32 5
    @zero = global [4 x i32] zeroinitializer
    @table = constant [2 x i32] [i32 1, i32 2]
    declare void @beta()
    declare void @alpha()
    define void @f() nounwind { call void @beta() call void @alpha() ret void }
    """
    data = compile_object(text, target_from_name(name))
    assert undefined_symbols(data) == ["alpha", "beta"]
    assert {s for s in writable_sections(data) if not s.startswith(".s")} <= {".data", ".bss"}
    assert len(writable_sections(data)) == 2


def test_imports_of_a_wasm_object_are_read() -> None:
    text = "declare void @beta(i32) define void @f() nounwind { call void @beta(i32 1) ret void }"
    assert "beta" in undefined_symbols(compile_object(text, target_from_name("wasm32")))


def test_the_same_text_gives_the_same_bytes() -> None:
    assert answering(3) == answering(3)
    assert answering(3) != answering(4)
