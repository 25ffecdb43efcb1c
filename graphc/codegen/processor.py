"""`NAME_cpu`: the function of an exported library that finds out which level of its family a processor has.

In: a target. Out: LLVM text. An x86-64 processor is asked by CPUID which instructions it has, and by XGETBV which
registers the system keeps for a program; other families have one level.

Which instructions a level has: System V ABI, AMD64 supplement, table 3.1; where CPUID tells of them: Intel, Software
Developer's Manual, volume 2A.
"""

from __future__ import annotations

from graphc.codegen.emit_writer import quoted
from graphc.codegen.program import escaped
from graphc.codegen.target import Target

# CPUID as machine code, since LLVM's assembler is there for the machine alone that it runs on. It is a function of the
# System V convention on every system: edi leaf, esi subleaf, rdx where eax, ebx, ecx, edx go.
_CPUID = bytes.fromhex(
    "53"  # push rbx, which belongs to the caller
    "89f8"  # mov eax, edi
    "89f1"  # mov ecx, esi
    "4989d0"  # mov r8, rdx
    "0fa2"  # cpuid
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8 + 4], ebx
    "41894808"  # mov [r8 + 8], ecx
    "4189500c"  # mov [r8 + 12], edx
    "5bc3"  # pop rbx; ret
)


def _mask(*bits: int) -> int:
    return sum(1 << bit for bit in bits)


_EAX, _EBX, _ECX = 0, 1, 2
_XSAVE = _mask(27)  # the system lets programs ask for its registers
# x86-64-v3 and all before it: SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C
_V3_1 = _mask(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29)
_V3_7 = _mask(3, 5, 8)  # BMI1, AVX2, BMI2
_V3_EXTENDED = _mask(0, 5)  # LAHF and SAHF, LZCNT
_V4_7 = _mask(16, 17, 28, 30, 31)  # AVX512F, DQ, CD, BW, VL
_YMM, _ZMM = (
    _mask(1, 2),
    _mask(1, 2, 5, 6, 7),
)  # of XCR0: SSE and AVX state; opmasks and both halves of AVX-512's
_EXTENDED = 0x80000000


def processor_function(symbol: str, target: Target) -> str:
    """The text of the function of that name: ``int32_t NAME_cpu(void)``.

    >>> from graphc.codegen.target import target_from_name
    >>> "ret i32 1" in processor_function("m_cpu", target_from_name("aarch64-linux-gnu"))
    True
    """
    head = f'define i32 {quoted(symbol)}() nounwind "no-builtins"'
    if not target.triple.startswith("x86_64"):
        return f"{head} {{\nentry:\n  ret i32 1\n}}\n"
    lines: list[str] = []

    def ask(name: str, leaf: int, register: int) -> None:
        """`%name`: what CPUID leaves in a register."""
        lines.append(f"  call x86_64_sysvcc void @graphc.cpuid(i32 {_signed(leaf)}, i32 0, ptr %answer)")
        lines.append(f"  %{name}.at = getelementptr i8, ptr %answer, i64 {4 * register}")
        lines.append(f"  %{name} = load i32, ptr %{name}.at, align 4")

    def has(name: str, value: str, wanted: int) -> None:
        """`%name`: all wanted bits are set."""
        lines.append(f"  %{name}.bits = and i32 {value}, {_signed(wanted)}")
        lines.append(f"  %{name} = icmp eq i32 %{name}.bits, {_signed(wanted)}")

    def branch(condition: str, then: str) -> None:
        lines.append(f"  br i1 {condition}, label %{then}, label %oldest")
        lines.append(f"{then}:")

    lines.append("  %answer = alloca [4 x i32], align 16")
    ask("leaves", 0, _EAX)
    lines.append("  %enough = icmp uge i32 %leaves, 7")
    branch("%enough", "plain")
    ask("extended", _EXTENDED, _EAX)
    lines.append(f"  %known = icmp uge i32 %extended, {_signed(_EXTENDED + 1)}")
    branch("%known", "features")
    ask("first", 1, _ECX)
    has("saves", "%first", _XSAVE)
    branch("%saves", "state")  # XGETBV is an illegal instruction without it
    lines.append("  %xcr0 = call i64 @llvm.x86.xgetbv(i32 0)")
    lines.append("  %kept = trunc i64 %xcr0 to i32")
    ask("seventh", 7, _EBX)
    ask("more", _EXTENDED + 1, _ECX)
    parts = (("v3.1", "%first", _V3_1), ("v3.7", "%seventh", _V3_7), ("v3.more", "%more", _V3_EXTENDED),
             ("v3.state", "%kept", _YMM), ("v4.7", "%seventh", _V4_7), ("v4.state", "%kept", _ZMM))  # fmt: skip
    for name, value, wanted in parts:
        has(name, value, wanted)
    lines += [
        "  %v3.a = and i1 %v3.1, %v3.7",
        "  %v3.b = and i1 %v3.more, %v3.state",
        "  %v3 = and i1 %v3.a, %v3.b",
        "  %v4.a = and i1 %v4.7, %v4.state",
        "  %v4 = and i1 %v3, %v4.a",
        "  %wide = select i1 %v4, i32 4, i32 3",
        "  %level = select i1 %v3, i32 %wide, i32 1",
        "  ret i32 %level",
        "oldest:",
        "  ret i32 1",
    ]
    cpuid = (
        "define internal x86_64_sysvcc void @graphc.cpuid(i32 %leaf, i32 %subleaf, ptr %answer) noinline nounwind "
        f'prologue [{len(_CPUID)} x i8] c"{escaped(_CPUID)}" {{\n  ret void\n}}\n'
    )
    return "\n".join([cpuid, f'{head} "target-features"="+xsave" {{', "entry:", *lines, "}", ""])


def _signed(bits: int) -> int:
    """As LLVM prints an i32."""
    return bits - (1 << 32) if bits >> 31 else bits
