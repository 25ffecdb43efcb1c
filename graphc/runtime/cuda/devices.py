"""Devices, their memory, and the order of work: primary contexts, streams, events, blocks of memory, pinned host memory.

In: a `Driver` and a device's number. Out: a `Device`. All work of graphc on a device goes through its one stream, so that
it runs in the order in which it was asked for; other libraries' streams are met by events (see `arrays`).
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import c_float, c_int, c_size_t, c_uint64, c_void_p
from functools import cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DeviceError
from graphc.runtime.cuda import dlpack
from graphc.runtime.cuda.driver import Driver, driver
from graphc.runtime.dtypes import numpy_dtype

if TYPE_CHECKING:
    from graphc.runtime.cuda.modules import Module

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit order with the default stream
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute
_MEMORY_CLOCK_KHZ, _MEMORY_BUS_BITS, _CLOCK_KHZ, _MULTIPROCESSORS = 36, 37, 13, 16
_DEVICE_OF_POINTER = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL


class Device:
    """One GPU: its primary context, which other libraries of this process share, and a stream of our own.

    Raises `DeviceError` where there is no device of this number.
    """

    def __init__(self, driver: Driver, ordinal: int) -> None:
        count = driver.get(c_int, "cuDeviceGetCount")
        if not 0 <= ordinal < count:
            there = f"one of {count} devices" if count else "a device"
            raise DeviceError(f"cuda: expected {there}, got number {ordinal} of {count}")
        self.driver = driver
        self.ordinal = ordinal
        self.handle: int = driver.get(c_int, "cuDeviceGet", ordinal)
        text = ctypes.create_string_buffer(256)
        driver("cuDeviceGetName", text, len(text), self.handle)
        self.name = text.value.decode(errors="replace")
        self.capability = (self.attribute(_CAPABILITY_MAJOR), self.attribute(_CAPABILITY_MINOR))
        self.total_bytes: int = driver.get(c_size_t, "cuDeviceTotalMem_v2", self.handle)
        # never released: it goes with the process, and arrays may outlive whoever made the device
        self._context = driver.get(c_void_p, "cuDevicePrimaryCtxRetain", self.handle)
        with self.active():
            self.stream = Stream(self)
        self.modules: weakref.WeakValueDictionary[str, Module] = weakref.WeakValueDictionary()
        self.lock = threading.RLock()

    def __repr__(self) -> str:
        return f"cuda:{self.ordinal} ({self.name}, compute capability {'.'.join(map(str, self.capability))})"

    def attribute(self, number: int) -> int:
        """One of the device's properties, by its number in ``CUdevice_attribute``."""
        return int(self.driver.get(c_int, "cuDeviceGetAttribute", number, self.handle))

    @property
    def bytes_per_second(self) -> float:
        """The memory's peak rate as the driver states it: two transfers a clock; 0 where it states none."""
        return 2e3 * self.attribute(_MEMORY_CLOCK_KHZ) * self.attribute(_MEMORY_BUS_BITS) / 8

    @property
    def multiprocessors(self) -> int:
        return self.attribute(_MULTIPROCESSORS)

    @property
    def clock_hz(self) -> float:
        return 1e3 * self.attribute(_CLOCK_KHZ)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The device's context is current; afterwards the caller's is again."""
        self.driver("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            with suppress(DeviceError):  # of work that failed before: the next call says so too
                self.driver("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def free_bytes(self) -> int:
        """How many bytes of the device's memory nobody uses."""
        free, total = c_size_t(), c_size_t()
        with self.active():
            self.driver("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> Block:
        """So many bytes of the device's memory; raises `CudaError` where there are not enough."""
        dlpack.sweep()
        if not size:
            return Block(self, 0, 0)
        with self.active():
            return Block(self, self.driver.get(c_uint64, "cuMemAlloc_v2", size), size)

    def upload(self, target: int, source: np.ndarray) -> None:
        """Queues a copy of a contiguous host array; it may be read until `synchronize`."""
        if source.nbytes:
            self.driver("cuMemcpyHtoDAsync_v2", target, source.ctypes.data, source.nbytes, self.stream.handle)

    def download(self, target: np.ndarray, source: int) -> None:
        """Queues a copy to a contiguous host array, which has the bytes after `synchronize`."""
        if target.nbytes:
            self.driver("cuMemcpyDtoHAsync_v2", target.ctypes.data, source, target.nbytes, self.stream.handle)

    def synchronize(self) -> None:
        """Waits for all work on the device's stream; raises `CudaError` where some of it failed."""
        with self.active():
            self.stream.synchronize()

    def of_pointer(self, address: int) -> int:
        """The number of the device that has this memory."""
        with self.active():
            return int(self.driver.get(c_int, "cuPointerGetAttribute", _DEVICE_OF_POINTER, address))


@cache
def device(ordinal: int = 0) -> Device:
    """The device of this number; raises `DeviceError` where there is no driver or no such device."""
    return Device(driver(), ordinal)


class Block:
    """Device memory of its own, freed with the object once the work that was queued before is done."""

    def __init__(self, device: Device, address: int, size: int) -> None:
        self.device, self.address, self.bytes = device, address, size
        if address:
            weakref.finalize(self, _free, device, address).atexit = False  # the driver frees it then


def _free(device: Device, address: int) -> None:
    with suppress(DeviceError), device.active():  # after a failed kernel every call fails, and memory is gone
        with suppress(DeviceError):
            device.stream.synchronize()
        device.driver("cuMemFree_v2", address)


class Stream:
    """A queue of work that runs in order; made while its device is active."""

    def __init__(self, device: Device) -> None:
        driver = device.driver
        self._driver = driver
        self.handle: int = driver.get(c_void_p, "cuStreamCreate", _NON_BLOCKING)
        weakref.finalize(self, _destroy, device, "cuStreamDestroy_v2", self.handle).atexit = False

    def synchronize(self) -> None:
        """Waits for all that was queued."""
        self._driver("cuStreamSynchronize", self.handle)

    def wait(self, event: Event) -> None:
        """What is queued from here on runs after the event."""
        self._driver("cuStreamWaitEvent", self.handle, event.handle, 0)


class Event:
    """A point in a stream; made while its device is active, with `timing` where seconds between two are wanted."""

    def __init__(self, device: Device, timing: bool = False) -> None:
        driver = device.driver
        self._driver = driver
        self.handle: int = driver.get(c_void_p, "cuEventCreate", 0 if timing else _NO_TIMING)
        weakref.finalize(self, _destroy, device, "cuEventDestroy_v2", self.handle).atexit = False

    def record(self, stream: int) -> None:
        """The event is the end of all that is in this stream (a handle) now."""
        self._driver("cuEventRecord", self.handle, stream)

    def synchronize(self) -> None:
        """Waits for the event; one that was never recorded is over."""
        self._driver("cuEventSynchronize", self.handle)

    def seconds_since(self, start: Event) -> float:
        """The time between two recorded events that are over."""
        milliseconds = c_float()
        self._driver("cuEventElapsedTime", ctypes.byref(milliseconds), start.handle, self.handle)
        return 1e-3 * milliseconds.value


def _destroy(device: Device, function: str, handle: int) -> None:
    with suppress(DeviceError), device.active():
        device.driver(function, handle)


def pinned_empty(device: Device, shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """An uninitialised numpy array in page-locked memory, which the device copies without the processor's help."""
    kind = numpy_dtype(dtype)
    size = prod(shape) * kind.itemsize
    with device.active():
        address = device.driver.get(c_void_p, "cuMemHostAlloc", max(size, 1), _PORTABLE)
    memory = (ctypes.c_ubyte * max(size, 1)).from_address(address)
    # the array keeps the ctypes object, whose end is the memory's
    weakref.finalize(memory, _free_host, device, address).atexit = False
    array: np.ndarray = np.ndarray(tuple(shape), kind, memoryview(memory))
    return array


def _free_host(device: Device, address: int) -> None:
    with suppress(DeviceError), device.active():
        with suppress(DeviceError):
            device.stream.synchronize()
        device.driver("cuMemFreeHost", address)
