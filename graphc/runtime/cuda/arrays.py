"""Arrays that live on a device: made from numpy's or shared with other libraries, without a copy.

In: numpy arrays, objects with ``__dlpack__`` or ``__cuda_array_interface__``. Out: `DeviceArray`, which has both.

Order between streams is as the two protocols say. DLPack (Python array API standard, ``__dlpack__``): the consumer names
its stream, and the producer makes that wait for the data. CUDA Array Interface, version 3 (Numba's documentation): the
producer names its stream, and the consumer waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol, cast, runtime_checkable

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.runtime.cuda import dlpack
from graphc.runtime.cuda.devices import Device, Event, device
from graphc.runtime.cuda.driver import CudaError
from graphc.runtime.dtypes import ITEM_BYTES, is_known, numpy_dtype
from graphc.runtime.launches import ARGUMENT_ALIGNMENT

_LEGACY_STREAM, _PER_THREAD_STREAM = (
    1,
    2,
)  # what both protocols call CUDA's default streams; cuda.h has the same numbers


@runtime_checkable
class _Exports(Protocol):
    def __dlpack__(self, *, stream: int | None = ..., max_version: tuple[int, int] = ...) -> object: ...


@runtime_checkable
class _Interface(Protocol):
    @property
    def __cuda_array_interface__(self) -> dict[str, object]: ...


class DeviceArray:
    """A C-contiguous array in a device's memory, which stays there until it is fetched by `numpy`.

    `empty` and `asarray` make one. Work that uses it is queued in the device's stream: what is fetched is what all work
    before has made of it.
    """

    def __init__(
        self,
        device: Device,
        shape: Sequence[int],
        dtype: np.dtype,
        address: int,
        owner: object,
        read_only: bool,
    ) -> None:
        self.device = device
        self.shape = tuple(shape)
        self.dtype = dtype
        self.address = address
        self.read_only = read_only
        self._owner = owner  # keeps the memory

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}[{','.join(map(str, self.shape))}] on cuda:{self.device.ordinal})"

    def numpy(self, out: np.ndarray | None = None) -> np.ndarray:
        """Its elements as a numpy array, a new one or `out`, once all work queued before is done.

        Raises `ShapeError` or `DTypeError` for an `out` of another type, and `CudaError` where that work failed.
        """
        array = np.empty(self.shape, self.dtype) if out is None else out
        self._check_like(array.shape, array.dtype, "numpy: out")
        target = array if array.flags.c_contiguous else np.empty(self.shape, self.dtype)
        with self.device.active():
            self.device.download(target, self.address)
            self.device.stream.synchronize()
        if target is not array:
            array[...] = target
        return array

    def item(self) -> bool | int | float:
        """The element of an array that has one, as a Python number."""
        if self.size != 1:
            raise ShapeError(f"item: expected an array of one element, got {self!r}")
        return cast("bool | int | float", self.numpy().item())

    def copy_from(self, source: object) -> None:
        """Overwrites its elements with those of another array of the same type, on the host or on this device.

        When it returns, a host array has been read and may change. Raises `ShapeError`, `DTypeError` or `ArgumentError`.
        """
        if self.read_only:
            raise ArgumentError(f"copy_from: expected an array that may be written, got a read-only {self!r}")
        if isinstance(source, np.ndarray) or np.isscalar(source):
            host = np.asarray(source)
            self._check_like(host.shape, host.dtype, "copy_from")
            with self.device.active():
                self.device.upload(self.address, np.ascontiguousarray(host, self.dtype))
                self.device.stream.synchronize()
            return
        other = asarray(source, self.device)
        self._check_like(other.shape, other.dtype, "copy_from")
        if self.nbytes:
            with self.device.active():
                self.device.driver(
                    "cuMemcpyDtoDAsync_v2",
                    self.address,
                    other.address,
                    self.nbytes,
                    self.device.stream.handle,
                )

    def _check_like(self, shape: tuple[int, ...], dtype: np.dtype, what: str) -> None:
        got = f"{dtype}[{','.join(map(str, shape))}]"
        if shape != self.shape:
            raise ShapeError(f"{what}: expected an array like {self!r}, got {got}")
        if dtype != self.dtype:
            raise DTypeError(f"{what}: expected an array like {self!r}, got {got}")

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.nbytes else 0, self.read_only),
            "strides": None,
            "version": 3,
            "stream": self.device.stream.handle,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule of its memory, ready in the consumer's `stream` (None: the legacy default one; -1: it waits itself)."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(
                f"__dlpack__: expected device {self.__dlpack_device__()}, got {tuple(dl_device)}"
            )
        if stream == 0 or (stream is not None and stream < -1):
            raise ArgumentError(f"__dlpack__: stream: expected a stream of CUDA, 1, 2 or -1, got {stream}")
        versioned = max_version is not None and max_version[0] >= 1
        if self.read_only and not versioned:
            raise BufferError("__dlpack__: a read-only array needs DLPack 1: pass max_version=(1, 0)")
        shared = self
        if copy:
            shared = empty(self.shape, self.dtype, self.device)
            shared.copy_from(self)
        if stream != -1:
            self.ready_for(_LEGACY_STREAM if stream is None else stream)
        return dlpack.lend(
            shared, shared.address, self.shape, self.dtype, self.device.ordinal, shared.read_only, versioned
        )

    def ready_for(self, stream: int) -> None:
        """Work that is queued in this stream (a handle) from here on comes after what was queued for the array."""
        own = self.device.stream.handle
        if stream != own:
            with self.device.active():
                event = Event(self.device)
                event.record(own)
                self.device.driver("cuStreamWaitEvent", stream, event.handle, 0)


def _on(where: Device | int) -> Device:
    return where if isinstance(where, Device) else device(where)


def empty(shape: Sequence[int], dtype: np.dtype | str, device: Device | int = 0) -> DeviceArray:
    """An uninitialised array on the device; raises `DTypeError` for a data type that graphc hasn't.

    `device` is a `Device` or its number.
    """
    kind = numpy_dtype(dtype)
    if not is_known(kind):
        raise DTypeError(f"cuda: expected one of {', '.join(ITEM_BYTES)}, got {kind}")
    where = _on(device)
    block = where.allocate(prod(shape) * kind.itemsize)
    return DeviceArray(where, shape, kind, block.address, block, False)


def asarray(x: object, device: Device | int = 0) -> DeviceArray:
    """The array on the device: numpy's elements are copied there; what is there already is shared.

    Takes `DeviceArray`s, objects with ``__dlpack__`` or ``__cuda_array_interface__``, and what numpy takes. Raises
    `ArgumentError` for an array of another device and for one that is not C-contiguous or not aligned to its elements.
    """
    where = _on(device)
    if is_on_device(x):
        return shared(x, where, "cuda")
    host = np.asarray(x)
    array = empty(host.shape, host.dtype.newbyteorder("="), where)
    array.copy_from(host.astype(array.dtype, copy=False))
    return array


def is_on_device(x: object) -> bool:
    """True of a `DeviceArray` and of what says by one of the two protocols that it is in a GPU's memory."""
    if isinstance(x, (DeviceArray, np.ndarray, np.generic, bool, int, float)):
        return isinstance(x, DeviceArray)
    device_of = getattr(x, "__dlpack_device__", None)
    if device_of is not None:
        return int(device_of()[0]) == dlpack.CUDA
    return isinstance(x, _Interface)


def shared(x: object, where: Device, what: str) -> DeviceArray:
    """What is on the device already, without a copy; raises like `asarray`, with `what` in front."""
    if isinstance(x, DeviceArray):
        if x.device is not where:
            raise ArgumentError(
                f"{what}: expected an array on {where!r}, got {x!r}: fetch it by numpy() first"
            )
        return x
    if isinstance(x, _Exports):
        return _from_dlpack(x, where, f"{what}: DLPack")
    assert isinstance(x, _Interface)
    return _from_interface(x, x.__cuda_array_interface__, where, f"{what}: __cuda_array_interface__")


def _from_dlpack(x: _Exports, where: Device, what: str) -> DeviceArray:
    handle = where.stream.handle
    try:
        capsule = x.__dlpack__(stream=handle, max_version=(1, 0))
    except TypeError:  # before DLPack 1 there was no such argument
        capsule = x.__dlpack__(stream=handle)
    taken = dlpack.take(capsule, what)
    if taken.device != where.ordinal:
        raise ArgumentError(f"{what}: expected an array on {where!r}, got one on cuda:{taken.device}")
    _check_aligned(taken.address, taken.dtype, what)
    return DeviceArray(where, taken.shape, taken.dtype, taken.address, taken.owner, taken.read_only)


def _from_interface(x: object, facts: dict[str, object], where: Device, what: str) -> DeviceArray:
    try:
        shape = tuple(map(int, cast("Sequence[int]", facts["shape"])))
        kind = np.dtype(cast(str, facts["typestr"]))
        address, read_only = cast("tuple[int, bool]", facts["data"])
        strides = cast("Sequence[int] | None", facts.get("strides"))
        stream = cast("int | None", facts.get("stream"))
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"{what}: expected shape, typestr and data, got {facts!r}") from error
    if facts.get("mask") is not None:
        raise ArgumentError(f"{what}: expected an array without a mask")
    if not is_known(kind):
        raise DTypeError(f"{what}: expected {', '.join(ITEM_BYTES)}, got {facts['typestr']!r}")
    if strides is not None:
        dlpack.check_contiguous(shape, [s / kind.itemsize for s in strides], what)
    if stream == 0:
        raise ArgumentError(f"{what}: stream: expected a stream of CUDA, 1, 2 or None, got 0")
    _check_aligned(address, kind, what)
    if prod(shape):
        try:
            ordinal = where.of_pointer(address)
        except CudaError as error:
            raise ArgumentError(
                f"{what}: expected memory of a device, got address {address:#x} ({error})"
            ) from None
        if ordinal != where.ordinal:
            raise ArgumentError(f"{what}: expected an array on {where!r}, got one on cuda:{ordinal}")
    if stream is not None:
        with where.active():
            event = Event(where)
            event.record(stream)
            where.stream.wait(event)
    return DeviceArray(where, shape, kind, address, x, bool(read_only))


def _check_aligned(address: int, kind: np.dtype, what: str) -> None:
    if address % kind.itemsize:
        raise ArgumentError(
            f"{what}: expected {kind} elements at a multiple of {kind.itemsize} bytes, got {address:#x}"
        )


def check_argument(x: DeviceArray, where: str) -> None:
    """Raises `ArgumentError` unless kernels may take the array: the widest access of a thread must be aligned."""
    if x.address % ARGUMENT_ALIGNMENT:
        raise ArgumentError(
            f"{where}: expected memory aligned to {ARGUMENT_ALIGNMENT} bytes, got address {x.address:#x}: copy it to an "
            f"array of its own (graphc.runtime.cuda.empty, copy_from)"
        )
