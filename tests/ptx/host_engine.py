"""The same LLVM text as for a GPU, run on this machine: a second engine that shares nothing with the interpreter of PTX.

In: a kernel and the text that graphc emits for nvptx64. Out: its arrays, changed. Blocks run one after the other. A thread
is a coroutine on a stack of its own (``swapcontext`` of the C library); at a barrier or a shuffle it goes back to the
scheduler below, which resumes it when all threads of its block or warp have come there. The order is always the same.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Sequence

import numpy as np

from graphc.codegen.launch import launch_of
from graphc.ir.kernel import Kernel
from graphc.ir.types import bool_

_CONTEXT_BYTES, _STACK_BYTES = 8192, 1 << 16  # a ucontext_t has 968 bytes on x86-64 and 4560 on aarch64
_DONE, _BARRIER, _WARP = 0, 1, 2

_RUNTIME = """
@position = global [12 x i32] zeroinitializer
@current = global i32 0
@reason = global i32 0
@context = global ptr null
@scheduler = global ptr null
@arguments = global [64 x i64] zeroinitializer
@slots = global [1024 x i32] zeroinitializer
declare i32 @swapcontext(ptr, ptr)

define void @suspend(i32 %why) noinline {
  store i32 %why, ptr @reason
  %mine = load ptr, ptr @context
  %back = load ptr, ptr @scheduler
  %r = call i32 @swapcontext(ptr %mine, ptr %back)
  ret void
}

define i32 @exchange(i32 %value, i32 %lane) noinline {
  %me = load i32, ptr @current
  %slot = getelementptr i32, ptr @slots, i32 %me
  store i32 %value, ptr %slot
  call void @suspend(i32 2)
  %warp = and i32 %me, -32
  %other = or i32 %warp, %lane
  %place = getelementptr i32, ptr @slots, i32 %other
  %result = load i32, ptr %place
  call void @suspend(i32 2)
  ret i32 %result
}
"""

# The source lane of each shuffle and whether it is inside: PTX ISA 9.7.9.6.
_SOURCES = {
    "up": "sub i32 %lane, %distance\n  %inside = icmp sge i32 %j, %last",
    "down": "add i32 %lane, %distance\n  %inside = icmp sle i32 %j, %last",
    "bfly": "xor i32 %lane, %distance\n  %inside = icmp sle i32 %j, %last",
    "idx": "or i32 %first, %free\n  %inside = icmp sle i32 %j, %last",
}


def _shuffle(mode: str, kind: str) -> str:
    bits = "%v" if kind == "i32" else "%bits"
    to = "" if kind == "i32" else "  %bits = bitcast float %v to i32\n"
    back = "  ret i32 %r\n" if kind == "i32" else "  %f = bitcast i32 %r to float\n  ret float %f\n"
    kind = "i32" if kind == "i32" else "float"
    return f"""
define {kind} @shuffle.{mode}.{kind}(i32 %mask, {kind} %v, i32 %b, i32 %c) noinline {{
{to}  %me = load i32, ptr @current
  %lane = and i32 %me, 31
  %distance = and i32 %b, 31
  %clamp = and i32 %c, 31
  %up = lshr i32 %c, 8
  %segment = and i32 %up, 31
  %rest = xor i32 %segment, 31
  %first = and i32 %lane, %segment
  %free = and i32 %distance, %rest
  %edge = and i32 %clamp, %rest
  %last = or i32 %first, %edge
  %j = {_SOURCES[mode]}
  %source = select i1 %inside, i32 %j, i32 %lane
  %r = call i32 @exchange(i32 {bits}, i32 %source)
{back}}}
"""


def host_text(llvm_text: str, kernel: Kernel) -> str:
    """The module for this machine: address spaces dropped, what only a GPU has replaced by the runtime above.

    Raises `ValueError` for an operation of GPUs that has no replacement.
    """
    text = re.sub(r"^target triple.*\n", "", llvm_text, flags=re.MULTILINE)
    text = re.sub(r" ?addrspace\(\d+\)", "", text).replace("ptx_kernel ", "")
    text = re.sub(r"^declare .*llvm\.nvvm\..*\n", "", text, flags=re.MULTILINE)
    for base, (what, axis) in enumerate(itertools.product(("tid", "ctaid", "ntid", "nctaid"), "xyz")):
        text = re.sub(
            rf"call i32 @llvm\.nvvm\.read\.ptx\.sreg\.{what}\.{axis}\(\)",
            f"load i32, ptr getelementptr (i32, ptr @position, i32 {base})",
            text,
        )
    text = text.replace("@llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)", f"@suspend(i32 {_BARRIER})")
    text = re.sub(
        r"@llvm\.nvvm\.shfl\.sync\.(\w+)\.(i32|f32)",
        lambda m: f"@shuffle.{m[1]}.{'i32' if m[2] == 'i32' else 'float'}",
        text,
    )
    left = re.search(r"llvm\.nvvm\.[\w.]+", text)
    if left:
        raise ValueError(f"host engine: expected barriers, shuffles and positions, got {left.group()}")
    used = sorted(set(re.findall(r"@shuffle\.(\w+)\.(i32|float)", text)))
    return text + _RUNTIME + "".join(_shuffle(mode, kind) for mode, kind in used) + _entry(kernel)


def _entry(kernel: Kernel) -> str:
    """The coroutine's function: the kernel with its arguments, then the mark that it is done."""
    lines, arguments = [], []
    kinds = ["ptr"] * len(kernel.params) + [_llvm_type(v.dtype.name) for v in kernel.scalars]
    for n, kind in enumerate(kinds):
        lines.append(f"  %p{n} = getelementptr i64, ptr @arguments, i32 {n}")
        lines.append(f"  %a{n} = load {kind}, ptr %p{n}")
        arguments.append(f"{kind} %a{n}")
    call = f"  call void @{kernel.name}({', '.join(arguments)})"
    done = f"  store i32 {_DONE}, ptr @reason\n  ret void"
    return "\n".join(["", "define void @coroutine() {", *lines, call, done, "}", ""])


def _llvm_type(name: str) -> str:
    return {"f32": "float", "f64": "double", "u8": "i8", "bool": "i1"}.get(name, name)


class HostEngine:
    """A kernel compiled for this machine.

    The C library has to have ``swapcontext`` (glibc has); `available` says so.
    """

    def __init__(self, llvm_text: str, kernel: Kernel) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.kernel = kernel
        module = llvm.parse_assembly(host_text(llvm_text, kernel))
        module.triple = llvm.get_process_triple()
        features = llvm.get_host_cpu_features().flatten()
        machine = llvm.Target.from_triple(module.triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=1, jit=True
        )
        module.verify()
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._c = ctypes.CDLL(None)

    def _global(self, name: str, kind: type, count: int) -> ctypes.Array:
        return (kind * count).from_address(self._engine.get_global_value_address(name))

    def run(self, arrays: Sequence[np.ndarray], scalars: Sequence[int | float] = ()) -> None:
        """Runs a launch of the kernel's own size, in place. Raises `RuntimeError` at a barrier that not all threads reach."""
        arguments = self._global("arguments", ctypes.c_uint64, 64)
        for n, array in enumerate(arrays):
            arguments[n] = array.ctypes.data
        for n, (var, value) in enumerate(zip(self.kernel.scalars, scalars, strict=True), len(arrays)):
            dtype = np.dtype(np.uint8) if var.dtype is bool_ else var.dtype.numpy
            arguments[n] = int.from_bytes(np.array(value, dtype).tobytes(), "little")
        geometry = launch_of(self.kernel)
        position = self._global("position", ctypes.c_int32, 12)
        position[6:9], position[9:12] = geometry.block, geometry.grid
        threads = int(np.prod(geometry.block))
        self._contexts = ctypes.create_string_buffer((threads + 1) * _CONTEXT_BYTES + 64)
        self._stacks = np.empty(threads * _STACK_BYTES + 64, np.uint8)
        gx, gy, gz = geometry.grid
        for z, y, x in itertools.product(range(gz), range(gy), range(gx)):
            position[3:6] = (x, y, z)
            self._run_block(threads, geometry.block, position)

    def _run_block(self, threads: int, block: tuple[int, int, int], position: ctypes.Array) -> None:
        base = -(-ctypes.addressof(self._contexts) // 64) * 64
        stacks = -(-self._stacks.ctypes.data // 64) * 64
        main = base + threads * _CONTEXT_BYTES
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        entry = pointer(self._engine.get_function_address("coroutine"))
        self._global("scheduler", pointer, 1)[0] = main
        context, current = self._global("context", pointer, 1), self._global("current", ctypes.c_int32, 1)
        reason = self._global("reason", ctypes.c_int32, 1)
        for thread in range(threads):
            own = base + thread * _CONTEXT_BYTES
            self._c.getcontext(pointer(own))
            # uc_flags, uc_link, uc_stack {ss_sp, ss_flags, ss_size}: the layout of Linux on 64-bit machines
            pointer.from_address(own + 8).value = main
            pointer.from_address(own + 16).value = stacks + thread * _STACK_BYTES
            size.from_address(own + 32).value = _STACK_BYTES
            self._c.makecontext(pointer(own), entry, 0)
        swap, here = self._c.swapcontext, pointer(main)
        bx, by, _ = block
        state = [-1] * threads  # where each thread stopped; -1: it may run
        while True:
            for thread in range(threads):
                if state[thread] == -1:
                    position[0:3] = (thread % bx, thread // bx % by, thread // (bx * by))
                    own = base + thread * _CONTEXT_BYTES
                    current[0], context[0] = thread, own
                    swap(here, pointer(own))
                    state[thread] = reason[0]
            if all(s == _DONE for s in state):
                return
            if all(s == _BARRIER for s in state):
                state = [-1] * threads
                continue
            moved = False
            for first in range(0, threads, 32):
                warp = range(first, min(first + 32, threads))
                if all(state[t] in (_WARP, _DONE) for t in warp) and any(state[t] == _WARP for t in warp):
                    moved = True
                    for t in warp:
                        state[t] = -1 if state[t] == _WARP else _DONE
            if not moved:
                raise RuntimeError(
                    f"kernel @{self.kernel.name}: some threads never reach a barrier or shuffle of others"
                )


def available() -> bool:
    """True where the C library has contexts."""
    try:
        return bool(ctypes.CDLL(None).swapcontext)
    except (AttributeError, OSError, TypeError):
        return False
