"""A CUDA driver without a GPU: the functions that the runtime calls, as C callbacks, over the PTX interpreter.

In: what the machine is to be (how many devices, their memory, which functions fail). Out: an object that stands in for
``libcuda.so.1``: `graphc.runtime.cuda.Driver` calls it through the same ctypes prototypes.

Work is *late* here: what is queued in a stream runs when somebody waits for it, by a synchronisation or an event, and not
before. So a missing wait shows as stale data, always; on a GPU it would only sometimes. A copy from pinned memory reads it
when it runs; one from other host memory reads that when it is queued, as the driver's staging does.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from ctypes import c_char, c_float, c_int, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass, field

from graphc.runtime.cuda.driver import GRAPHS, PROTOTYPES
from ptx.machine import Kernel, Memory, Module, PtxError, launch

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_DEVICE = 0, 1, 2, 100, 101
INVALID_CONTEXT, NO_BINARY, INVALID_PTX, UNSUPPORTED_PTX, INVALID_HANDLE = 201, 209, 218, 222, 400
NOT_FOUND, NOT_READY, ILLEGAL_ADDRESS, MISALIGNED, LAUNCH_FAILED = 500, 600, 700, 716, 719
CAPTURE_UNSUPPORTED, UNKNOWN = 900, 999
_ERRORS = {
    INVALID_VALUE: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    OUT_OF_MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    NO_DEVICE: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    INVALID_DEVICE: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    INVALID_CONTEXT: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    NO_BINARY: ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"),
    INVALID_PTX: ("CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"),
    UNSUPPORTED_PTX: ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain"),
    INVALID_HANDLE: ("CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"),
    NOT_FOUND: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
    NOT_READY: ("CUDA_ERROR_NOT_READY", "device not ready"),
    ILLEGAL_ADDRESS: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    MISALIGNED: ("CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"),
    LAUNCH_FAILED: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    CAPTURE_UNSUPPORTED: ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"),
    UNKNOWN: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}  # fmt: skip
_TEXTS = {
    status: tuple(ctypes.create_string_buffer(t.encode()) for t in texts) for status, texts in _ERRORS.items()
}
LEGACY, PER_THREAD = 1, 2  # the default streams' handles
_NO_CONTEXT_NEEDED = (
    "cuInit",
    "cuDriver",
    "cuGetError",
    "cuDevice",
    "cuCtxPushCurrent",
    "cuPointerGetAttribute",
)
Work = Callable[[], None]


class Refusal(Exception):
    """Ends a call of the driver with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(eq=False)
class Stream:
    """Queued work, how much of it was ever queued and done; what is captured instead, while it captures."""

    queue: list[Work] = field(default_factory=list)
    queued: int = 0
    done: int = 0
    captured: list[Work] | None = None

    def add(self, work: Work) -> None:
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.queue.append(work)
            self.queued += 1

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.queue.pop(0)()


@dataclass(eq=False)
class Event:
    stream: Stream | None = None
    position: int = 0
    time: float = 0.0
    done: bool = False


@dataclass(eq=False)
class Function:
    module: Module
    kernel: Kernel
    dynamic_shared: int = 48 << 10  # what a launch may ask for


class FakeCuda:
    """The driver's functions as attributes, each a ctypes callback.

    `capability` and `memory_bytes` are those of each of the `devices`. ``fail[name] = status`` makes a function fail.
    `calls` are the names of those that were called; `launches` kernels with grid, block and shared bytes; `fault` what the
    interpreter said of a failed kernel.
    """

    def __init__(
        self,
        devices: int = 1,
        capability: tuple[int, int] = (8, 0),
        memory_bytes: int = 1 << 30,
        graphs: bool = True,
        fail: dict[str, int] | None = None,
    ) -> None:
        self.devices, self.capability, self.memory_bytes = devices, capability, memory_bytes
        self.fail = dict(fail or {})
        self.memory = Memory()
        self.allocated: dict[int, tuple[int, int]] = {}  # address: bytes, device
        self.pinned: dict[int, ctypes.Array[c_char]] = {}
        self.objects: dict[int, object] = {LEGACY: Stream(), PER_THREAD: Stream()}
        self.calls: list[str] = []
        self.launches: list[tuple[str, tuple[int, int, int], tuple[int, int, int], int]] = []
        self.sticky = SUCCESS
        self.fault: Exception | None = None
        self._contexts = threading.local()
        self._next = 0x1000
        for name, types in PROTOTYPES.items():
            if graphs or name not in GRAPHS:
                setattr(self, name, ctypes.CFUNCTYPE(c_int, *types)(self._callback(name)))

    def _callback(self, name: str) -> Callable[..., int]:
        handler = getattr(self, f"_{name}")

        def call(*arguments: object) -> int:
            if name.startswith("cuGetError"):
                return int(handler(*arguments) or SUCCESS)
            self.calls.append(name)
            if self.sticky or name in self.fail:
                return self.sticky or self.fail[name]
            try:
                if not name.startswith(_NO_CONTEXT_NEEDED):
                    self._device()
                handler(*arguments)
            except Refusal as refusal:
                return refusal.status
            except PtxError as error:
                self.fault = error
                misaligned = "misaligned" in str(error)
                outside = "out of bounds" in str(error) or "address" in str(error)
                self.sticky = MISALIGNED if misaligned else ILLEGAL_ADDRESS if outside else LAUNCH_FAILED
                return self.sticky
            except Exception as error:  # a bug of this file: nothing may leave a C callback
                self.fault = error
                return UNKNOWN
            return SUCCESS

        return call

    def handle(self, thing: object) -> int:
        self._next += 16
        self.objects[self._next] = thing
        return self._next

    def _object(self, handle: int | None, kind: type) -> object:
        found = self.objects.get(LEGACY if handle is None and kind is Stream else handle or 0)
        if not isinstance(found, kind):
            raise Refusal(INVALID_HANDLE)
        return found

    def stream(self, handle: int | None) -> Stream:
        found = self._object(handle, Stream)
        assert isinstance(found, Stream)
        return found

    def new_stream(self) -> int:
        """The handle of a stream of another library."""
        return self.handle(Stream())

    @property
    def used_bytes(self) -> int:
        return sum(size for size, _ in self.allocated.values())

    def _device(self) -> int:
        """The device of the thread's current context."""
        stack = getattr(self._contexts, "stack", [])
        if not stack:
            raise Refusal(INVALID_CONTEXT)
        return int(stack[-1])

    # -------------------------------------------------------------------------------------------- driver and devices

    def _cuInit(self, flags: int) -> None:
        if not self.devices:
            raise Refusal(NO_DEVICE)

    def _cuDriverGetVersion(self, out: int) -> None:
        c_int.from_address(out).value = 12040

    def _cuGetErrorName(self, status: int, out: int) -> int:
        return self._text(status, out, 0)

    def _cuGetErrorString(self, status: int, out: int) -> int:
        return self._text(status, out, 1)

    def _text(self, status: int, out: int, which: int) -> int:
        if status not in _TEXTS:
            return INVALID_VALUE
        c_void_p.from_address(out).value = ctypes.addressof(_TEXTS[status][which])
        return SUCCESS

    def _cuDeviceGetCount(self, out: int) -> None:
        c_int.from_address(out).value = self.devices

    def _cuDeviceGet(self, out: int, ordinal: int) -> None:
        if not 0 <= ordinal < self.devices:
            raise Refusal(INVALID_DEVICE)
        c_int.from_address(out).value = ordinal

    def _cuDeviceGetName(self, out: int, size: int, device: int) -> None:
        ctypes.memmove(out, b"Interpreted GPU\0", min(size, 16))

    def _cuDeviceGetAttribute(self, out: int, attribute: int, device: int) -> None:
        facts = {
            75: self.capability[0], 76: self.capability[1],
            16: 108, 13: 1_410_000, 36: 1_215_000, 37: 5120, 39: 2048,
        }  # fmt: skip
        if attribute not in facts:
            raise Refusal(INVALID_VALUE)
        c_int.from_address(out).value = facts[attribute]

    def _cuDeviceTotalMem_v2(self, out: int, device: int) -> None:
        c_size_t.from_address(out).value = self.memory_bytes

    def _cuDevicePrimaryCtxRetain(self, out: int, device: int) -> None:
        c_void_p.from_address(out).value = 0x100 + device

    def _cuCtxPushCurrent_v2(self, context: int) -> None:
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        self._contexts.stack.append(context - 0x100)

    def _cuCtxPopCurrent_v2(self, out: int) -> None:
        c_void_p.from_address(out).value = 0x100 + self._contexts.stack.pop()

    # ------------------------------------------------------------------------------------------------------- memory

    def _cuMemGetInfo_v2(self, free: int, total: int) -> None:
        c_size_t.from_address(free).value = self.memory_bytes - self.used_bytes
        c_size_t.from_address(total).value = self.memory_bytes

    def _cuMemAlloc_v2(self, out: int, size: int) -> None:
        if not size:
            raise Refusal(INVALID_VALUE)
        if self.used_bytes + size > self.memory_bytes:
            raise Refusal(OUT_OF_MEMORY)
        address = self.memory.allocate(size)
        self.allocated[address] = size, self._device()
        c_uint64.from_address(out).value = address

    def _cuMemFree_v2(self, address: int) -> None:
        if address not in self.allocated:
            raise Refusal(INVALID_VALUE)
        del self.allocated[address]
        self.memory.free(address)

    def _cuMemHostAlloc(self, out: int, size: int, flags: int) -> None:
        memory = ctypes.create_string_buffer(b"\xcb" * size, size)
        self.pinned[ctypes.addressof(memory)] = memory
        c_void_p.from_address(out).value = ctypes.addressof(memory)

    def _cuMemFreeHost(self, address: int) -> None:
        if address not in self.pinned:
            raise Refusal(INVALID_VALUE)
        del self.pinned[address]

    def _is_pinned(self, address: int, size: int) -> bool:
        return any(a <= address and address + size <= a + len(m) for a, m in self.pinned.items())

    def _inside(self, address: int, size: int) -> None:
        if not any(a <= address and address + size <= a + n for a, (n, _) in self.allocated.items()):
            raise Refusal(INVALID_VALUE)

    def _cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int | None) -> None:
        self._inside(target, size)
        if self._is_pinned(source, size):
            self.stream(stream).add(lambda: self.memory.write(target, ctypes.string_at(source, size)))
        else:
            data = ctypes.string_at(source, size)
            self.stream(stream).add(lambda: self.memory.write(target, data))

    def _cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int | None) -> None:
        self._inside(source, size)
        self.stream(stream).add(lambda: ctypes.memmove(target, self.memory.read(source, size), size) and None)

    def _cuMemcpyDtoDAsync_v2(self, target: int, source: int, size: int, stream: int | None) -> None:
        self._inside(target, size)
        self._inside(source, size)
        self.stream(stream).add(lambda: self.memory.write(target, self.memory.read(source, size)))

    def _cuPointerGetAttribute(self, out: int, attribute: int, address: int) -> None:
        for start, (size, device) in self.allocated.items():
            if attribute == 9 and start <= address < start + size:
                c_int.from_address(out).value = device
                return
        raise Refusal(INVALID_VALUE)

    # ------------------------------------------------------------------------------------------------------ modules

    def _cuModuleLoadDataEx(
        self, out: int, image: int, count: int, options: int | None, values: int | None
    ) -> None:
        chosen: dict[int, int | None] = {}
        if count:
            chosen = dict(zip((c_int * count).from_address(options), (c_void_p * count).from_address(values)))
        try:
            module = Module(ctypes.string_at(image).decode())
        except PtxError as error:
            if 5 in chosen:
                text = f"ptxas fatal: {error}".encode()[: (chosen[6] or 1) - 1] + b"\0"
                ctypes.memmove(chosen[5], text, len(text))
            raise Refusal(INVALID_PTX) from None
        c_void_p.from_address(out).value = self.handle(module)

    def _cuModuleUnload(self, module: int) -> None:
        self._object(module, Module)
        del self.objects[module]

    def _cuModuleGetFunction(self, out: int, module: int, name: bytes) -> None:
        found = self._object(module, Module)
        assert isinstance(found, Module)
        if name.decode() not in found.kernels:
            raise Refusal(NOT_FOUND)
        c_void_p.from_address(out).value = self.handle(Function(found, found.kernels[name.decode()]))

    def _cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> None:
        found = self._object(function, Function)
        assert isinstance(found, Function)
        if attribute != 8 or found.kernel.shared_bytes + value > 163 << 10:
            raise Refusal(INVALID_VALUE)
        found.dynamic_shared = value

    def _cuLaunchKernel(
        self, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int,
        stream: int | None, parameters: int, extra: int | None,
    ) -> None:  # fmt: skip
        found = self._object(function, Function)
        assert isinstance(found, Function)
        kernel, grid, block = found.kernel, (gx, gy, gz), (bx, by, bz)
        limits = zip((*grid, *block), ((1 << 31) - 1, 65535, 65535, 1024, 1024, 64))
        threads = bx * by * bz
        if any(not 1 <= n <= most for n, most in limits) or threads > kernel.max_threads or extra:
            raise Refusal(INVALID_VALUE)
        if kernel.block is not None and block != kernel.block:
            raise Refusal(INVALID_VALUE)
        if shared > found.dynamic_shared:
            raise Refusal(INVALID_VALUE)
        pointers = (c_void_p * max(len(kernel.params), 1)).from_address(parameters)
        packed = b""  # the parameters' values are taken now, whatever their cells hold later
        for (_, size, alignment), pointer in zip(kernel.params, pointers):
            packed += bytes(-len(packed) % alignment) + ctypes.string_at(pointer, size)
        self.launches.append((kernel.name, grid, block, shared))
        self.stream(stream).add(
            lambda: launch(found.module, kernel.name, self.memory, grid, block, packed, shared)
        )

    # --------------------------------------------------------------------------------------------- streams and events

    def _cuStreamCreate(self, out: int, flags: int) -> None:
        c_void_p.from_address(out).value = self.handle(Stream())

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        found = self.stream(stream)
        found.run(found.queued)
        del self.objects[stream]

    def _cuStreamSynchronize(self, stream: int | None) -> None:
        found = self.stream(stream)
        if found.captured is not None:
            raise Refusal(CAPTURE_UNSUPPORTED)
        found.run(found.queued)

    def _cuStreamWaitEvent(self, stream: int | None, event: int, flags: int) -> None:
        found = self._event(event)
        source, position = found.stream, found.position
        if source is not None:
            self.stream(stream).add(lambda: source.run(position))

    def _event(self, handle: int) -> Event:
        found = self._object(handle, Event)
        assert isinstance(found, Event)
        return found

    def _cuEventCreate(self, out: int, flags: int) -> None:
        c_void_p.from_address(out).value = self.handle(Event())

    def _cuEventDestroy_v2(self, event: int) -> None:
        self._event(event)
        del self.objects[event]

    def _cuEventRecord(self, event: int, stream: int | None) -> None:
        found, where = self._event(event), self.stream(stream)
        if where.captured is not None:
            raise Refusal(CAPTURE_UNSUPPORTED)

        def pass_by() -> None:
            found.time, found.done = time.perf_counter(), True

        where.add(pass_by)
        found.stream, found.position, found.done = where, where.queued, False

    def _cuEventSynchronize(self, event: int) -> None:
        found = self._event(event)
        if found.stream is not None:
            found.stream.run(found.position)

    def _cuEventElapsedTime(self, out: int, start: int, end: int) -> None:
        first, last = self._event(start), self._event(end)
        if not (first.done and last.done):
            raise Refusal(NOT_READY)
        c_float.from_address(out).value = 1e3 * (last.time - first.time)

    # ------------------------------------------------------------------------------------------------------- graphs

    def _cuStreamBeginCapture_v2(self, stream: int | None, mode: int) -> None:
        found = self.stream(stream)
        if found is self.objects[LEGACY] or found.captured is not None:
            raise Refusal(CAPTURE_UNSUPPORTED)
        found.captured = []

    def _cuStreamEndCapture(self, stream: int | None, out: int) -> None:
        found = self.stream(stream)
        if found.captured is None:
            raise Refusal(INVALID_VALUE)
        c_void_p.from_address(out).value = self.handle(list(found.captured))
        found.captured = None

    def _cuGraphInstantiateWithFlags(self, out: int, graph: int, flags: int) -> None:
        found = self._object(graph, list)
        assert isinstance(found, list)
        c_void_p.from_address(out).value = self.handle(list(found))

    def _cuGraphLaunch(self, graph: int, stream: int | None) -> None:
        found = self._object(graph, list)
        assert isinstance(found, list)
        for work in found:
            self.stream(stream).add(work)

    def _cuGraphDestroy(self, graph: int) -> None:
        self._object(graph, list)
        del self.objects[graph]

    def _cuGraphExecDestroy(self, graph: int) -> None:
        self._object(graph, list)
        del self.objects[graph]
