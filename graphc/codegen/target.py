"""The table of targets: what each can do inline, and what the emitter has to expand itself.

In: a name, or this machine. Out: a `Target`, read by schedules (lanes, registers), by the emitter (which constructs
stay inline, address spaces, loop bindings) and by `object` (triple, features, relocation).
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

from graphc.config import config
from graphc.errors import TargetError
from graphc.ir.types import DTYPES, DType, f16, f32, f64, i64, u64

Native = frozenset[tuple[str, DType]]
# How exactly f32 operands are multiplied (sums are f32 always); all but the first one are for tensor cores.
Precision = Literal["f32", "tf32", "f16", "bf16"]

_SERIAL: Mapping[str, tuple[str, ...]] = MappingProxyType({"parallel": (), "block": (), "thread": ()})
_FLAT: Mapping[str, int] = MappingProxyType({"global": 0, "stack": 0, "shared": 0})
_EVERY_DTYPE = frozenset(DTYPES.values())
_PORTABLE_INTRINSICS = frozenset(
    ("llvm.fabs", "llvm.copysign", "llvm.ctpop", "llvm.bswap", "llvm.bitreverse", "llvm.fshl", "llvm.fshr")
)

# of x86-64 and aarch64 alone; the fence is no instruction
_MEASURED_INTRINSICS = _PORTABLE_INTRINSICS | {"llvm.prefetch", "llvm.arithmetic.fence"}


@dataclass(frozen=True)
class Device:
    """What a processor with many threads offers, for launch shapes: numbers of one multiprocessor, and how many there are.

    The numbers are those of compute capability 8.0 (CUDA C++ Programming Guide, "Technical Specifications per Compute
    Capability") and of an A100's 108 multiprocessors. A result depends on them only as the order of a long sum does
    (`codegen.split`).
    """

    multiprocessors: int = 108
    threads: int = 2048  # that are resident in one multiprocessor
    blocks: int = 32
    registers: int = 65536
    shared_bytes: int = 164 << 10
    shared_bytes_per_block: int = 48 << 10  # that a kernel may declare
    warp: int = 32
    threads_per_block: int = 1024
    access_bytes: int = 16  # of the widest load or store of one thread
    # Rates of a multiprocessor in a cycle (NVIDIA A100 Tensor Core GPU Architecture, 2020, tables 1 and 4): f32 and
    # tensor-core multiply-adds, bytes of the second cache (half of its 5120 for all); and bytes of memory for the whole
    # device (1555 GB/s at 1.41 GHz).
    multiply_adds: int = 64
    tensor_multiply_adds: int = 512  # of tf32; of halves twice as many
    cache_bytes: float = 24.0
    memory_bytes: float = 1100.0

    def multiply_adds_of(self, precision: Precision) -> int:
        """Of a multiprocessor in a cycle."""
        if precision == "f32":
            return self.multiply_adds
        return self.tensor_multiply_adds * (1 if precision == "tf32" else 2)


# An H100's numbers, for `replace(target, cpu="sm_90", device=H100)` (NVIDIA H100 Tensor Core GPU Architecture, 2022:
# 132 multiprocessors at 1.83 GHz, 3352 GB/s); its tensor cores reach about half of their rate by the instructions of
# compute capability 8.0.
H100 = Device(multiprocessors=132, shared_bytes=228 << 10, multiply_adds=128, memory_bytes=1830.0)


@dataclass(frozen=True)
class Target:
    """A machine that graphc generates code for, as data: nothing else in codegen asks for a target's name.

    >>> target_from_name("x86-64-v3").lanes(f32)
    8
    """

    name: str
    triple: str
    cpu: str = ""
    features: str = ""
    abi: str = ""
    vector_bits: int = 0  # of one vector register; 0 where there are only scalars
    vector_registers: int = 16
    # Bytes of the data caches that one core uses, the nearest first; what a schedule's blocks are sized by.
    cache_bytes: tuple[int, ...] = (32 << 10, 256 << 10)
    index_bits: int = 64  # of a pointer and of address arithmetic
    # What a processor has to have, in steps of its family, as `NAME_cpu` of an exported library reports it: 1 is what all
    # of the family have, 3 and 4 are x86-64-v3 and x86-64-v4.
    level: int = 1
    relocation: str = "pic"
    code_model: str = "small"
    stack_alignment: int = 16  # the most that a local buffer asks for
    row_buffer_bytes: int = 32 << 10  # on the stack, of all rows that a kernel keeps between its passes
    # Which types have arithmetic without helper functions. A kernel with another type is refused.
    dtypes: frozenset[DType] = _EVERY_DTYPE
    # Which (primitive, dtype) have an LLVM construct that is sure to stay inline; the rest is expanded.
    native: Native = frozenset()
    # Which (construct, dtype) would become a call to a helper although LLVM has an instruction for it.
    outlined: frozenset[tuple[str, DType]] = frozenset()
    # Which LLVM intrinsics an `Intrinsic` node may name: an unknown one can abort the process or become a call.
    intrinsics: frozenset[str] = _PORTABLE_INTRINSICS
    address_spaces: Mapping[str, int] = field(default_factory=lambda: _FLAT, hash=False)
    # The intrinsics that say where in the launch a thread is (x, y, z); none: the loop is an ordinary one.
    positions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _SERIAL, hash=False)
    device: Device | None = None  # where the loops over blocks and threads are given to hardware
    # Bytes that every buffer of a launched kernel is aligned to; 0: its elements' alignment is all that is promised.
    buffer_alignment: int = 0
    precision: Precision = "f32"  # of contractions of f32 operands
    # The instructions on words of two halves, which are i32 to us, with LLVM's type of such a word.
    words: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    barrier: str = ""  # the instruction, empty where a kernel runs on one thread
    shared_storage: Literal["stack", "module"] = "stack"
    clock: str = ""  # the intrinsic that reads a counter of constant rate; empty where a program may not
    entry_convention: str = ""  # calling convention of kernels that the host launches
    function_attributes: str = ""
    allowed_undefined: frozenset[str] = frozenset()  # symbols that an object may leave to its linker

    @property
    def object_format(self) -> Literal["elf", "coff", "macho", "wasm"]:
        """Which kind of object file its linker reads."""
        parts = self.triple.split("-")
        if parts[0] == "wasm32":
            return "wasm"
        return "coff" if "windows" in parts else "macho" if "apple" in parts else "elf"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise TargetError(
                f"precision: expected one of {', '.join(get_args(Precision))}, got {self.precision!r}"
            )
        if self.precision != "f32" and self.device is None:
            raise TargetError(
                f"precision: expected f32 on {self.name or 'this target'}, got {self.precision}; "
                "graphc.mixed_precision rounds what products read on every target"
            )

    def lanes(self, dtype: DType) -> int:
        """How many elements of `dtype` one vector register holds; 1 where there are no vectors."""
        return max(1, self.vector_bits // (8 * dtype.bytes))

    @property
    def has_threads(self) -> bool:
        """True where the host launches kernels on blocks of threads."""
        return self.device is not None

    @property
    def identity(self) -> str:
        """All that is in the table, as text that is the same in every process."""
        fields = vars(self).items()
        return repr(
            [
                (name, sorted(map(repr, value)) if isinstance(value, (frozenset, Mapping)) else value)
                for name, value in fields
            ]
        ) + repr([sorted(m.items()) for m in (self.address_spaces, self.positions, self.words)])

    def is_native(self, fn: str, dtype: DType) -> bool:
        """True if the primitive has an LLVM construct that stays inline here."""
        return (fn, dtype) in self.native


def _native(names: str, *dtypes: DType) -> Native:
    return frozenset((name, dtype) for name in names.split() for dtype in dtypes)


_ROUNDING = "floor ceil trunc round"
# To f32 and back: F16C of x86-64-v3, the base set of aarch64, VFPv4 of Cortex-M.
_CASTS_F16 = _native("cast", f16)
_NVVM = "llvm.nvvm."
_NVPTX_INTRINSICS = frozenset(
    _NVVM + name
    for name in (
        "shfl.sync.bfly.f32", "shfl.sync.bfly.i32", "shfl.sync.down.f32", "shfl.sync.down.i32", "shfl.sync.up.f32",
        "shfl.sync.up.i32", "shfl.sync.idx.f32", "shfl.sync.idx.i32", "redux.sync.add", "redux.sync.min",
        "redux.sync.max", "f2tf32.rna", "ex2.approx.f", "lg2.approx.f", "rsqrt.approx.f", "tanh.approx.f32",
        *(f"read.ptx.sreg.{what}.{axis}" for what in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz"),
        "read.ptx.sreg.laneid", "cp.async.commit.group", "cp.async.wait.group",
        "cp.async.ca.shared.global.4", "cp.async.ca.shared.global.8", "cp.async.cg.shared.global.16",
        "ff2f16x2.rn", "ff2bf16x2.rn", "mma.m16n8k8.row.col.tf32", "mma.m16n8k16.row.col.f32.f32",
        "mma.m16n8k16.row.col.bf16",
    )
)  # fmt: skip

_X86 = Target("x86-64", "x86_64-unknown-linux-gnu", "x86-64", vector_bits=128, stack_alignment=64,
              clock="llvm.readcyclecounter",
              native=_native("sqrt", f32, f64), intrinsics=_MEASURED_INTRINSICS)  # fmt: skip
_ARM = Target("aarch64-linux-gnu", "aarch64-unknown-linux-gnu", "generic", "+neon", vector_bits=128,
              vector_registers=32, native=_native(f"{_ROUNDING} sqrt fma min max", f32, f64) | _CASTS_F16,
              intrinsics=_MEASURED_INTRINSICS, clock="llvm.readcyclecounter")  # fmt: skip
_WASM = Target("wasm32", "wasm32-unknown-unknown", "generic", "+simd128", vector_bits=128, index_bits=32,
               relocation="static", native=_native(f"{_ROUNDING} sqrt min max", f32, f64),
               allowed_undefined=frozenset(("__stack_pointer", "__linear_memory")))  # fmt: skip
_ARM_OUTLINED = frozenset(
    (construct, dtype)
    for construct in ("division", "from f32", "from f64", "to f32", "to f64")
    for dtype in (i64, u64)
)
_CORTEX = Target("cortex-m7", "thumbv7em-none-eabihf", "cortex-m7", vector_registers=32, index_bits=32,
                 relocation="static", stack_alignment=8, outlined=_ARM_OUTLINED,
                 row_buffer_bytes=2 << 10,  # whole stacks of 4 to 8 KB are usual
                 native=_native(f"{_ROUNDING} sqrt fma", f32, f64) | _CASTS_F16)  # fmt: skip

# Each row follows what was measured by emitting the construct alone and listing the object's undefined symbols.
TARGETS: Mapping[str, Target] = MappingProxyType({
    target.name: target
    for target in (
        _X86,
        replace(_X86, name="x86-64-v3", cpu="x86-64-v3", vector_bits=256, level=3,
                native=_native(f"{_ROUNDING} sqrt fma", f32, f64) | _CASTS_F16),
        replace(_X86, name="x86-64-v4", cpu="x86-64-v4", vector_bits=512, vector_registers=32, level=4,
                native=_native(f"{_ROUNDING} sqrt fma", f32, f64) | _CASTS_F16,
                # Some tunings prefer 256 bits and would split every 512-bit vector of ours.
                function_attributes='"prefer-vector-width"="512"'),
        # _fltused is a marker that there are floats, which Microsoft's C library has. A frame of a page or more would
        # call the C library's __chkstk, which touches each page of it.
        replace(_X86, name="x86_64-pc-windows-msvc", triple="x86_64-pc-windows-msvc", row_buffer_bytes=2 << 10,
                allowed_undefined=frozenset(("_fltused",))),
        replace(_X86, name="x86_64-apple-macosx", triple="x86_64-apple-macosx11.0.0"),
        _ARM,
        replace(_ARM, name="arm64-apple-macosx", triple="arm64-apple-macosx11.0.0", cpu="apple-m1", features=""),
        # By the triple alone riscv64 has neither a multiplier nor a float unit.
        Target("riscv64-linux-gnu", "riscv64-unknown-linux-gnu", "generic-rv64", "+m,+a,+f,+d,+c", "lp64d",
               vector_registers=32, native=_native(f"{_ROUNDING} sqrt fma", f32, f64),
               clock="llvm.readsteadycounter"),
        _CORTEX,
        replace(_CORTEX, name="cortex-m4f", cpu="cortex-m4", dtypes=_EVERY_DTYPE - {f64},
                native=_native("sqrt fma", f32) | _CASTS_F16),
        # Position-independent wasm needs __memory_base from its loader.
        _WASM,
        replace(_WASM, name="wasm32-nosimd", features="", vector_bits=0),
        Target("nvptx64", "nvptx64-nvidia-cuda", "sm_80", vector_registers=255,
               native=_native(f"{_ROUNDING} sqrt fma", f32, f64) | _native("min max", f32) | _CASTS_F16,
               intrinsics=_PORTABLE_INTRINSICS | _NVPTX_INTRINSICS,
               address_spaces=MappingProxyType({"global": 1, "stack": 0, "shared": 3}),
               positions=MappingProxyType({
                   "parallel": (),
                   "block": tuple(f"llvm.nvvm.read.ptx.sreg.ctaid.{axis}" for axis in "xyz"),
                   "thread": tuple(f"llvm.nvvm.read.ptx.sreg.tid.{axis}" for axis in "xyz"),
               }),
               device=Device(), buffer_alignment=16,
               words=MappingProxyType({
                   "llvm.nvvm.ff2f16x2.rn": "<2 x half>",
                   "llvm.nvvm.ff2bf16x2.rn": "<2 x bfloat>",
                   "llvm.nvvm.mma.m16n8k16.row.col.f32.f32": "<2 x half>",
               }),
               barrier="call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)",
               shared_storage="module", entry_convention="ptx_kernel "),
    )
})  # fmt: skip


# Targets of exported libraries that hold a body for each level of their family, and choose by the caller's context
EVERY_LEVEL = {
    "x86-64-any": "x86-64",
    "x86_64-pc-windows-msvc": "x86_64-pc-windows-msvc",
    "x86_64-apple-macosx": "x86_64-apple-macosx",
}
EXPORT_TARGETS = (*EVERY_LEVEL, *(name for name in TARGETS if name not in EVERY_LEVEL))
# What differs from an A100 (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"): the numbers
# of one multiprocessor are the architecture's, their count is that of its largest product.
_DEVICES: Mapping[str, Device] = MappingProxyType({
    "sm_80": Device(),
    "sm_86": Device(multiprocessors=84, threads=1536, blocks=16, shared_bytes=100 << 10),
    "sm_87": Device(multiprocessors=16, threads=1536, blocks=16),
    "sm_89": Device(multiprocessors=142, threads=1536, blocks=24, shared_bytes=100 << 10),
    "sm_90": Device(multiprocessors=132, shared_bytes=228 << 10),
    "sm_100": Device(multiprocessors=148, shared_bytes=228 << 10),
    "sm_120": Device(multiprocessors=170, threads=1536, blocks=24, shared_bytes=100 << 10),
})  # fmt: skip


class Host(NamedTuple):
    """What LLVM says of this machine."""

    triple: str
    cpu: str
    features: str  # as LLVM takes them: +avx2,-avx512f,...


def ask_host() -> Host:
    """This machine, as LLVM sees it."""
    import llvmlite.binding as llvm

    return Host(llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


def host_fingerprint() -> str:
    """A text that is the same where LLVM says the same of a machine; empty where that can't be known without asking it."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first, found, _ = file.read(1 << 14).partition("\n\n")
    except OSError:
        return ""
    fields = dict(line.partition("\t")[::2] for line in first.splitlines())
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags")
    return repr([fields[name] for name in wanted]) if found and all(n in fields for n in wanted) else ""


@cache
def host_target() -> Target:
    """This machine, with 512-bit vectors where it has them.

    Raises `TargetError` on a machine of a family that graphc has no table for.

    >>> host_target().name
    'cpu'
    """
    return target_of_host(ask_host())


def target_of_host(host: Host) -> Target:
    """The target that a host is; raises like `host_target`."""
    triple, cpu, listed = host
    features = {name for name in listed.split(",") if name.startswith("+")}
    family = triple.split("-")[0]
    if family in ("x86_64", "amd64"):
        wide = features >= {"+avx512f", "+avx512vl", "+avx512dq", "+avx512bw"}
        level = "x86-64-v4" if wide else "x86-64-v3" if features >= {"+avx2", "+fma", "+f16c"} else "x86-64"
        base = TARGETS[level]
    elif family in ("aarch64", "arm64"):
        base = TARGETS["aarch64-linux-gnu"]
    elif family == "riscv64":
        return replace(TARGETS["riscv64-linux-gnu"], name="cpu", triple=triple, cache_bytes=_host_caches())
    else:
        raise TargetError(f"target 'cpu': expected an x86-64, aarch64 or riscv64 machine, got {triple}")
    return replace(
        base, name="cpu", triple=triple, cpu=cpu, features=listed,
        cache_bytes=_host_caches(),
    )  # fmt: skip


def _host_caches() -> tuple[int, ...]:
    """The data caches of the first core, nearest first: as configured, as the system says, or modest ones."""
    if config().cache_sizes:
        return config().cache_sizes
    found: list[tuple[int, int]] = []
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):  # Linux
        with contextlib.suppress(OSError, ValueError):
            if (place / "type").read_text().strip() != "Instruction":
                level, size = (place / "level").read_text(), (place / "size").read_text().strip()
                found.append((int(level), int(size.removesuffix("K")) << 10))
    if not found and sys.platform == "darwin":
        import subprocess

        for level, name in enumerate(("hw.l1dcachesize", "hw.l2cachesize", "hw.l3cachesize"), 1):
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                text = subprocess.run(
                    ["sysctl", "-n", name], capture_output=True, text=True, timeout=5
                ).stdout
                found.append((level, int(text)))
    return tuple(size for _, size in sorted(found) if size) or Target("", "").cache_bytes


def with_arch(target: Target, arch: str) -> Target:
    """The target for another architecture of its family; its code runs on that one and on later ones.

    Raises `TargetError` where the target has no architectures or none of that name.

    >>> with_arch(target_from_name("nvptx64"), "sm_90").cpu
    'sm_90'
    """
    if not target.has_threads:
        raise TargetError(
            f"target {target.name}: expected no architecture, got {arch!r}: only nvptx64 has several"
        )
    if arch not in _DEVICES:
        raise TargetError(f"target {target.name}: expected one of {', '.join(_DEVICES)}, got {arch!r}")
    name = target.name.partition(":")[0]
    return replace(target, name=f"{name}:{arch}", cpu=arch, device=_DEVICES[arch])


def target_from_name(name: str) -> Target:
    """The target of that name; ``cpu`` is this machine, ``nvptx64:sm_90`` another architecture than sm_80.

    Raises `TargetError` for a name that is not in the table.

    >>> target_from_name("wasm32").index_bits
    32
    """
    if name == "cpu":
        return host_target()
    family, colon, arch = name.partition(":")
    if colon and family in TARGETS:
        return with_arch(TARGETS[family], arch)
    if name not in TARGETS:
        raise TargetError(f"target: expected one of cpu, {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]


def export_targets(name: str) -> tuple[Target, ...]:
    """The targets whose code a library exported for `name` holds: one, or one for each level of a family, the least first.

    A family's functions say themselves which processor they are for, since one object has them all.
    Raises `TargetError` for a name that is not in `EXPORT_TARGETS`.

    >>> [t.level for t in export_targets("x86-64-any")], [t.name for t in export_targets("wasm32")]
    ([1, 3, 4], ['wasm32'])
    """
    if name not in EXPORT_TARGETS:
        raise TargetError(f"target: expected one of cpu, {', '.join(EXPORT_TARGETS)}, got {name!r}")
    if name not in EVERY_LEVEL:
        return (TARGETS[name],)
    base = TARGETS[EVERY_LEVEL[name]]
    levels = [base]
    for wide in (TARGETS["x86-64-v3"], TARGETS["x86-64-v4"]):
        attributes = f'"target-cpu"="{wide.cpu}" {wide.function_attributes}'.rstrip()
        levels.append(
            replace(
                wide, triple=base.triple, allowed_undefined=base.allowed_undefined, function_attributes=attributes,
                row_buffer_bytes=base.row_buffer_bytes,
            )
        )  # fmt: skip
    return tuple(levels)


def host_family() -> str:
    """The export target for the system and processor family of this machine, not for its very processor: libraries travel.

    Raises `TargetError` on a machine for which there is none.

    >>> host_family() in EXPORT_TARGETS
    True
    """
    family = {"AMD64": "x86_64", "amd64": "x86_64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    names = {
        ("linux", "x86_64"): "x86-64-any",
        ("linux", "arm64"): "aarch64-linux-gnu",
        ("linux", "riscv64"): "riscv64-linux-gnu",
        ("darwin", "x86_64"): "x86_64-apple-macosx",
        ("darwin", "arm64"): "arm64-apple-macosx",
        ("win32", "x86_64"): "x86_64-pc-windows-msvc",
    }
    found = names.get((sys.platform, family))
    if found is None:
        raise TargetError(
            f"target 'cpu': expected a machine of {', '.join(names.values())}, got {sys.platform} on "
            f"{platform.machine()}; name a target"
        )
    return found
