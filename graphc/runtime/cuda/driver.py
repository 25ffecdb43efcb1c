"""The CUDA driver API by ctypes: one table of prototypes, every call checked.

In: a loaded ``libcuda.so.1``, or any object that has the same functions. Out: a `Driver` whose calls raise `CudaError`.

NVIDIA's own bindings (the package cuda-bindings) would do the same, and take 146 MB; a program needs the forty functions
below, which every driver since CUDA 11 exports under these names with these types. They are those of cuda.h, which names
the versions (``_v2``) by macros; a test compares the table with the header. Nothing here is imported before it is used.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any, Protocol

from graphc.errors import DeviceError

_OUT = c_void_p  # a pointer to what the function fills in

PROTOTYPES: dict[str, tuple[type, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_OUT,),
    "cuGetErrorName": (c_int, _OUT),
    "cuGetErrorString": (c_int, _OUT),
    "cuDeviceGetCount": (_OUT,),
    "cuDeviceGet": (_OUT, c_int),
    "cuDeviceGetName": (_OUT, c_int, c_int),
    "cuDeviceGetAttribute": (_OUT, c_int, c_int),
    "cuDeviceTotalMem_v2": (_OUT, c_int),
    "cuDevicePrimaryCtxRetain": (_OUT, c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_OUT,),
    "cuMemGetInfo_v2": (_OUT, _OUT),
    "cuMemAlloc_v2": (_OUT, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (_OUT, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuPointerGetAttribute": (_OUT, c_int, c_uint64),
    "cuModuleLoadDataEx": (_OUT, c_void_p, c_uint, c_void_p, c_void_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_OUT, c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p),
    "cuStreamCreate": (_OUT, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuEventCreate": (_OUT, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (_OUT, c_void_p, c_void_p),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _OUT),
    "cuGraphInstantiateWithFlags": (_OUT, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}

# Instantiation by this name came with CUDA 11.4; without it, or the rest, steps are launched one by one.
GRAPHS = (
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
)

_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_OUT_OF_MEMORY": "free device arrays, or use a smaller batch",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and its kernel module differ: restart the machine",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the PTX: update it",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel left its memory; this process can't use the device any more: "
    "run again with GRAPHC_DEBUG=3, which names the kernel",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "a kernel met an array that is not aligned: run again with GRAPHC_DEBUG=3, "
    "which names the kernel",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel failed; this process can't use the device any more: "
    "run again with GRAPHC_DEBUG=3, which names the kernel",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "a block of the kernel needs more registers or shared memory than there are",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the device's memory is faulty",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "the driver is too old for this CUDA compatibility package",
}


class CudaError(DeviceError):
    """A call of the CUDA driver failed; `name` is CUDA's name of the error, as in CUDA_ERROR_OUT_OF_MEMORY."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name

    def within(self, where: str) -> CudaError:
        """The same error, with what was being done in front.

        >>> print(CudaError("cuInit: no", "CUDA_ERROR_NO_DEVICE").within("train"))
        train: cuInit: no
        """
        return CudaError(f"{where}: {self}", self.name)

    def followed_by(self, log: str) -> CudaError:
        """The same error, with what the driver's compiler said below."""
        return CudaError(f"{self}\n{log}" if log else str(self), self.name)


class Library(Protocol):
    """What has the driver's functions as attributes: a `ctypes.CDLL`, or a stand-in of ctypes callbacks."""

    def __getattr__(self, name: str, /) -> Any: ...


class Driver:
    """The driver's functions, checked: ``driver("cuMemFree_v2", address)`` raises `CudaError` unless it succeeds.

    Raises `DeviceError` for a library that lacks a function, and where no device can be used.
    """

    def __init__(self, library: Library) -> None:
        self._functions = {}
        for name, types in PROTOTYPES.items():
            function = getattr(library, name, None)
            if function is None:
                if name in GRAPHS:
                    continue
                raise DeviceError(f"cuda: expected a driver of CUDA 11 or later, got one without {name}")
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        self._library = library  # keeps the functions
        self.has_graphs = all(name in self._functions for name in GRAPHS)
        self("cuInit", 0)

    def __call__(self, name: str, *arguments: object) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise self.error(name, status)

    def get(self, kind: type[Any], name: str, *arguments: object) -> Any:
        """The value, of a ctypes type, that a function stores where its first argument points."""
        value = kind()
        self(name, ctypes.byref(value), *arguments)
        return value.value

    def error(self, function: str, status: int) -> CudaError:
        """The error for a status that is not 0."""
        name = self._text("cuGetErrorName", status) or f"error {status}"
        text = self._text("cuGetErrorString", status) or "unknown to this driver"
        advice = f"; {_ADVICE[name]}" if name in _ADVICE else ""
        return CudaError(f"{function}: {name}: {text}{advice}", name)

    def _text(self, function: str, status: int) -> str:
        found = c_char_p()
        if self._functions[function](status, ctypes.byref(found)) or found.value is None:
            return ""
        return found.value.decode(errors="replace")

    @property
    def version(self) -> tuple[int, int]:
        """The version of CUDA that the driver is of, as in (13, 0)."""
        number = int(self.get(c_int, "cuDriverGetVersion"))
        return number // 1000, number % 1000 // 10


def load_library() -> Library:
    """NVIDIA's driver; raises `DeviceError` where there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise DeviceError(
            f"cuda: expected NVIDIA's driver ({name}), found none: install it to run here; "
            f'target="cpu" runs without, and the PTX of a compiled function can be taken to another machine'
        ) from None


@cache
def driver() -> Driver:
    """The driver of this process, loaded when first asked for."""
    return Driver(load_library())
