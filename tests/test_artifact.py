"""Readers of object files: what they find in each format, and that no damaged file gets past them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.artifact.archive import read_archive
from graphc.artifact.model import ObjectFile
from graphc.artifact.reading import members, read_object
from graphc.artifact.stack import CodeReport, read_code
from graphc.codegen.object import compile_object
from graphc.codegen.target import TARGETS, Target, target_from_name
from graphc.errors import ArtifactError, GraphcError

FORMATS = {
    "x86-64": ("elf", "x86_64", 64), "aarch64-linux-gnu": ("elf", "aarch64", 64),
    "riscv64-linux-gnu": ("elf", "riscv", 64), "cortex-m7": ("elf", "arm", 32),
    "x86_64-pc-windows-msvc": ("coff", "x86_64", 64), "x86_64-apple-macosx": ("macho", "x86_64", 64),
    "arm64-apple-macosx": ("macho", "aarch64", 64), "wasm32": ("wasm", "wasm32", 32),
}  # fmt: skip

PROGRAM = """
@shown = constant [3 x i32] [i32 1, i32 2, i32 3]
@hidden = internal constant [5 x i8] c"abcde"
@state = global i32 7
declare void @outside(ptr)
define internal void @inner(ptr %p) noinline nounwind "no-builtins" {
  %a = alloca [200 x i8], align 16
  call void @outside(ptr %a)
  %x = load i8, ptr @hidden
  store i8 %x, ptr %p
  ret void
}
define i32 @entry(ptr %p) nounwind "no-builtins" {
  call void @inner(ptr %p)
  %x = load i32, ptr @state
  ret i32 %x
}
"""


def read(text: str, target: str | Target) -> tuple[bytes, ObjectFile]:
    data = compile_object(text, target_from_name(target) if isinstance(target, str) else target)
    return data, read_object(data)


def code(text: str, target: str | Target) -> CodeReport:
    return read_code(*read(text, target))


@pytest.mark.parametrize("target", FORMATS)
def test_symbols_sections_and_machine_of_each_format(target: str) -> None:
    _, file = read(PROGRAM, target)
    assert (file.format, file.machine, file.bits) == FORMATS[target]
    assert not file.linked
    assert file.visible == ["entry", "shown", "state"]
    assert set(file.undefined) - target_from_name(target).allowed_undefined == {"outside"}
    assert (
        file.content(
            "shown",
        )[:12]
        == np.int32([1, 2, 3]).tobytes()
    )  # type: ignore[index]
    assert len(file.writable) == 1 and "data" in file.writable[0]
    assert any(s.name == "inner" and s.kind == "function" and not s.visible for s in file.symbols)
    assert {s.name for s in file.symbols if s.kind == "function" and s.section is not None} == {
        "inner",
        "entry",
    }


@pytest.mark.parametrize("target", FORMATS)
def test_calls_are_followed_through_relocations(target: str) -> None:
    report = code(PROGRAM, target)
    assert report.problems == {} and report.unread == "" and report.indirect == []
    assert report.calls_out == {"outside": ["inner"]}
    assert 200 <= report.depths["entry"] <= 200 + 112
    assert [f.calls[0].target for f in report.frames.values() if f.name == "inner"] == ["outside"]


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize(
    ("size", "alignment"), [(40, 8), (120, 8), (128, 8), (4000, 16), (9000, 64), (70_000, 64), (300_000, 4)]
)
def test_frames_of_all_sizes_and_alignments_are_read(target: str, size: int, alignment: int) -> None:
    text = f"""
    declare void @outside(ptr)
    define void @f(ptr %p, i1 %c) nounwind "no-builtins" {{
      %a = alloca [{size} x i8], align {alignment}
      br i1 %c, label %then, label %end
    then:
      call void @outside(ptr %a)
      call void @outside(ptr %p)
      br label %end
    end:
      ret void
    }}"""
    report = code(text, target)
    assert report.problems == {}
    assert (
        size <= report.depths["f"] <= size + 2 * alignment + 700
    )  # registers that are saved, Windows' room for calls


@pytest.mark.parametrize("target", [t for t in FORMATS if t != "wasm32"])
def test_a_stack_of_dynamic_size_is_refused(target: str) -> None:
    text = """
    declare void @outside(ptr)
    define void @f(i32 %n) nounwind "no-builtins" {
      %a = alloca i8, i32 %n
      call void @outside(ptr %a)
      ret void
    }"""
    report = code(text, target)
    assert "f" not in report.depths
    assert "expected the stack pointer to change by constants" in report.problems["f"]


def test_a_stack_of_dynamic_size_is_refused_in_webassembly() -> None:
    text = "define void @f(i32 %n) nounwind { %a = alloca i8, i32 %n  store volatile i8 1, ptr %a  ret void }"
    assert "expected the stack pointer to change by constants" in code(text, "wasm32").unread


@pytest.mark.parametrize("target", FORMATS)
def test_recursion_has_no_depth(target: str) -> None:
    text = """
    define i32 @f(i32 %n) nounwind "no-builtins" {
      %stop = icmp eq i32 %n, 0
      br i1 %stop, label %end, label %more
    more:
      %m = sub i32 %n, 1
      %r = call i32 @f(i32 %m)
      %s = mul i32 %r, %n
      ret i32 %s
    end:
      ret i32 1
    }"""
    report = code(text, target)
    assert "expected no recursion" in report.problems["f"] and "f" not in report.depths


@pytest.mark.parametrize("target", FORMATS)
def test_calls_through_pointers_are_told(target: str) -> None:
    text = 'define void @f(ptr %g) nounwind "no-builtins" { call void %g() call void %g() ret void }'
    assert set(code(text, target).indirect) == {"f"}


def test_arm_code_that_is_not_thumb_is_not_followed() -> None:
    arm = replace(target_from_name("cortex-m7"), triple="armv7a-none-eabihf", cpu="cortex-a9")
    report = code(PROGRAM, arm)
    assert report.unread == "code of arm (A32) is not read" and report.depths == {}


def test_frame_pointers_and_prefixes_of_other_compilers_are_known() -> None:
    from graphc.artifact.machine import Instruction, State
    from graphc.artifact.x86 import X86

    x86 = X86()
    state = State()
    for mnemonic, text in (("push", "rbp"), ("mov", "rbp, rsp"), ("sub", "rsp, 0x50")):
        state = x86.step(Instruction(0, 1, mnemonic, text, b"\x90"), state).state
    assert state.depth == 0x58
    for text, depth in (("rsp, -0x80", 0xD8), ("rsp, 0xffffffffffffff80", 0xD8), ("rsp, 0x20", 0x38)):
        assert x86.step(Instruction(0, 4, "add", text, b"\x48"), state).state.depth == depth
    state = x86.step(Instruction(0, 1, "leave", "", b"\xc9"), state).state
    assert state.depth == 0
    assert not x86.step(Instruction(0, 2, "repz ret", "", b"\xf3\xc3"), state).falls_through
    assert x86.step(Instruction(0, 3, "notrack jmp", "rax", b"\x3e\xff\xe0"), state).jumps


def test_the_red_zone_counts() -> None:
    text = """
    define void @f() nounwind {
      %a = alloca [96 x i8], align 8
      store volatile i8 1, ptr %a
      ret void
    }"""
    assert code(text, "x86-64").depths == {
        "f": 96 + 8
    }  # nothing is subtracted: the leaf writes below the pointer


@pytest.mark.parametrize(
    ("level", "text", "expected"),
    [
        ("x86-64", "%r = fadd <4 x float> %x, %x", {"sse1"}),
        ("x86-64-v3", "%r = call <4 x float> @llvm.fma.v4f32(<4 x float> %x, <4 x float> %x, <4 x float> %x)", {"fma"}),
        ("x86-64-v4", "%r = fadd <4 x float> %x, %x", {"avx"}),
    ],
)  # fmt: skip
def test_instruction_sets_are_those_of_the_code(level: str, text: str, expected: set[str]) -> None:
    program = f"""
    declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)
    define <4 x float> @f(<4 x float> %x) nounwind {{
      {text}
      ret <4 x float> %r
    }}"""
    assert set(code(program, level).extensions["f"]) == expected


def test_wide_vectors_are_avx_512() -> None:
    wide = replace(target_from_name("x86-64-v4"), function_attributes="")
    text = """define <16 x float> @f(<16 x float> %x) nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512" {
      %r = fmul <16 x float> %x, %x
      ret <16 x float> %r
    }"""
    assert "avx512" in code(text, wide).extensions["f"]


def test_members_of_archives_of_each_form() -> None:
    newline = b"\n"

    def header(name: bytes, size: int) -> bytes:
        return name.ljust(48) + str(size).encode().ljust(10) + b"`" + newline

    gnu = (
        b"!<arch>\n" + header(b"/", 4) + b"\0\0\0\0" + header(b"//", 24) + b"a_long_name_of_a.object/\n"[:24]
    )
    gnu += header(b"/0", 3) + b"abc\n" + header(b"b.o/", 2) + b"xy"
    assert read_archive(gnu.replace(b"object/\n"[:7], b"objec/\n")) == [
        ("a_long_name_of_a.objec", b"abc"),
        ("b.o", b"xy"),
    ]
    bsd = b"!<arch>\n" + header(b"#1/8", 11) + b"name.o\0\0abc"
    assert members(bsd) == [("name.o", b"abc")]
    with pytest.raises(ArtifactError, match="archive: expected"):
        read_archive(gnu[:-1])


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return {target: compile_object(PROGRAM, target_from_name(target)) for target in FORMATS}


def survives(data: bytes) -> None:
    """Reading ends, and what goes wrong is said in our own words."""
    try:
        read_code(data, read_object(data))
    except GraphcError as error:
        assert isinstance(error, ArtifactError)


@pytest.mark.parametrize("target", FORMATS)
def test_truncated_objects_are_refused(target: str, objects: dict[str, bytes]) -> None:
    data = objects[target]
    for size in range(0, len(data), max(1, len(data) // 150)):
        survives(data[:size])


@pytest.mark.parametrize("target", FORMATS)
@settings(max_examples=60)
@given(choices=st.data())
def test_objects_with_flipped_bytes_never_break_the_readers(
    target: str, objects: dict[str, bytes], choices: st.DataObject
) -> None:
    damaged = bytearray(objects[target])
    for _ in range(choices.draw(st.integers(1, 6))):
        at = choices.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = choices.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    survives(bytes(damaged))


@settings(max_examples=150)
@given(
    magic=st.sampled_from([b"\x7fELF\2\1\1", b"\x7fELF\1\1\1", b"\0asm\1\0\0\0", b"\xcf\xfa\xed\xfe", b"\x64\x86", b"MZ"]),
    rest=st.binary(max_size=400),
)  # fmt: skip
def test_bytes_behind_a_magic_number_never_break_the_readers(magic: bytes, rest: bytes) -> None:
    survives(magic + rest)


def test_small_files_cannot_ask_for_much_memory() -> None:
    """Every section of the file is the whole file."""
    data = bytearray(compile_object(PROGRAM, target_from_name("x86-64")))
    table, count = int.from_bytes(data[40:48], "little"), int.from_bytes(data[60:62], "little")
    for i in range(1, count):
        at = table + 64 * i
        data[at + 24 : at + 40] = (0).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    with pytest.raises(ArtifactError, match="parts that do not overlap"):
        read_object(bytes(data))


def test_every_target_with_c_functions_is_one_that_is_read() -> None:
    for name, target in TARGETS.items():
        if not target.entry_convention:
            assert code(PROGRAM.replace("@state", "@other"), name).unread == ""
