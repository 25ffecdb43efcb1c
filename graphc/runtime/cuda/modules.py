"""PTX made into machine code by the driver: once for equal text on a device; what it refuses is traced to a Python line.

In: PTX, and where each of its kernels comes from. Out: a `Module`, whose functions can be launched.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import weakref
from collections.abc import Mapping
from contextlib import suppress
from ctypes import c_int, c_void_p

from graphc.errors import DeviceError
from graphc.runtime.cuda.devices import Device
from graphc.runtime.cuda.driver import CudaError

_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER and its size
_LOG_BYTES = 1 << 14
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_PLAIN_SHARED = 48 << 10  # bytes that a launch may ask for without that attribute
_TARGET = re.compile(r"^\s*\.target\s+sm_(\d+)([a-z]?)", re.MULTILINE)
_ENTRY = re.compile(r"\.entry\s+([\w$.]+)")
_LINE = re.compile(r"\bline (\d+)")
_FUNCTION = re.compile(r"[Ff]unction '?([\w$.]+)'?")


class Module:
    """Loaded code; it is unloaded with the object, so whoever launches its functions keeps it."""

    def __init__(self, device: Device, handle: int, locs: Mapping[str, str]) -> None:
        self._device, self.handle, self._locs = device, handle, locs
        self._functions: dict[str, int] = {}
        weakref.finalize(self, _unload, device, handle).atexit = False

    def function(self, kernel: str, shared_bytes: int = 0) -> int:
        """The kernel's handle, which may be launched with so many bytes of dynamic shared memory.

        Raises `CudaError` where the module hasn't the kernel or the device not the memory; called while the device is
        active.
        """
        driver = self._device.driver
        try:
            if kernel not in self._functions:
                self._functions[kernel] = driver.get(
                    c_void_p, "cuModuleGetFunction", self.handle, kernel.encode()
                )
            if shared_bytes > _PLAIN_SHARED:
                driver("cuFuncSetAttribute", self._functions[kernel], _DYNAMIC_SHARED, shared_bytes)
        except CudaError as error:
            raise error.within(kernel_name(kernel, self._locs)) from None
        return self._functions[kernel]


def _unload(device: Device, handle: int) -> None:
    with suppress(DeviceError), device.active():
        device.driver("cuModuleUnload", handle)


def load_module(device: Device, ptx: str, name: str, locs: Mapping[str, str]) -> Module:
    """The program's module, made when its text is new on the device.

    Raises `DeviceError` for a device that is older than the code, and `CudaError`, which names the kernel and its line of
    Python, for text that the driver refuses.
    """
    check_architecture(device, ptx, name)
    key = hashlib.sha256(ptx.encode()).hexdigest()
    with device.lock:
        module = device.modules.get(key)
        if module is None:
            module = device.modules[key] = Module(device, _load(device, ptx, name, locs), locs)
    return module


def check_architecture(device: Device, ptx: str, name: str) -> None:
    """Raises `DeviceError` where the device can't run code of the PTX's architecture.

    A device runs the code of all older ones, but for names like sm_90a, which are code for that one alone (PTX ISA,
    "PTX Module Directives: .target").
    """
    found = _TARGET.search(ptx)
    if found is None:
        raise DeviceError(f"{name}: expected PTX with a .target line, got {ptx[:40]!r}")
    wanted = (int(found[1]) // 10, int(found[1]) % 10)
    fits = device.capability == wanted if found[2] == "a" else device.capability >= wanted
    if not fits:
        only = "exactly" if found[2] == "a" else "at least"
        raise DeviceError(
            f"{name}: expected a device of compute capability {only} {wanted[0]}.{wanted[1]} (the code is for "
            f"sm_{found[1]}{found[2]}), got {device!r}"
        )


def _load(device: Device, ptx: str, name: str, locs: Mapping[str, str]) -> int:
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = (c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
    values = (c_void_p * 2)(
        ctypes.addressof(log), _LOG_BYTES
    )  # the second one is a number in a pointer's place
    image = ctypes.create_string_buffer(ptx.encode())
    with device.active():
        try:
            return int(device.driver.get(c_void_p, "cuModuleLoadDataEx", image, 2, options, values))
        except CudaError as error:
            said = log.value.decode(errors="replace").strip()
            kernel = _culprit(ptx, said)
            where = kernel_name(kernel, locs) if kernel else name
            raise error.within(f"{where}: {device!r} refuses the PTX").followed_by(said) from None


def _culprit(ptx: str, log: str) -> str:
    """The kernel that a log of the driver's compiler is about: the one that it names, or whose line it does.

    >>> _culprit(".entry f(\\n)\\n{\\n}\\n.entry g(\\n)\\n{ bad\\n}", "ptx input, line 6; error: Unknown")
    'g'
    """
    named = _FUNCTION.search(log)
    if named:
        return named[1]
    line = _LINE.search(log)
    if not line:
        return ""
    before = "\n".join(ptx.splitlines()[: int(line[1])])
    entries = _ENTRY.findall(before)
    return str(entries[-1]) if entries else ""


def kernel_name(kernel: str, locs: Mapping[str, str]) -> str:
    """The kernel with the line that it comes from in front, where that is known.

    >>> kernel_name("map0", {"map0": "model.py:7"})
    'model.py:7: kernel @map0'
    """
    loc = locs.get(kernel, "")
    return f"{loc}: kernel @{kernel}" if loc else f"kernel @{kernel}"
