"""Arrays on a device shared with other libraries: DLPack and the CUDA Array Interface, in and out, order between streams."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from cuda_programs import build, executable, f32, fake_device, fake_of
from ptx import fake_driver
from ptx.fake_driver import FakeCuda

import graphc
from graphc.errors import ArgumentError, DTypeError
from graphc.runtime.cuda import (
    CudaExecutable,
    DeviceArray,
    Driver,
    asarray,
    dlpack,
    empty,
)

TYPES = graphc.f32[4, 8], graphc.f32[8]


def scaled(x, w):  # type: ignore[no-untyped-def]
    return x * w, graphc.sum(x * w, axis=1)


def step(w, x):  # type: ignore[no-untyped-def]
    return w - 0.5 * x, graphc.sum(w * x)


class Producer:
    """Another library's array: written by work in a stream of its own, exported by one of the protocols."""

    def __init__(self, array: DeviceArray, values: np.ndarray, protocol: str, old: bool = False) -> None:
        self.array, self.protocol, self.old = array, protocol, old
        self.fake = array.device.driver._library
        self.stream = self.fake.new_stream()
        self.fake.stream(self.stream).add(lambda: self.fake.memory.write(array.address, values))
        self.waits = True

    def __getattr__(self, name: str) -> object:
        if name != self.protocol and name.startswith("__"):
            raise AttributeError(name)
        if name == "__cuda_array_interface__":
            facts = dict(self.array.__cuda_array_interface__)
            facts["stream"] = self.stream if self.waits else None
            return facts
        raise AttributeError(name)


class DLPackProducer(Producer):
    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: int | None = None, **more: object) -> object:
        if self.old and more:
            raise TypeError("an older library")
        if self.waits:
            driver = self.array.device.driver
            with self.array.device.active():
                event = fake_driver.Event()
                handle = self.fake.handle(event)
                driver("cuEventRecord", handle, self.stream)
                driver("cuStreamWaitEvent", stream, handle, 0)
        return self.array.__dlpack__(stream=-1, **more)


def producer(protocol: str, array: DeviceArray, values: np.ndarray) -> Producer:
    if protocol == "__cuda_array_interface__":
        return Producer(array, values, protocol)
    return DLPackProducer(array, values, protocol, old=protocol == "old __dlpack__")


PROTOCOLS = ["__dlpack__", "old __dlpack__", "__cuda_array_interface__"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_arrays_are_read_once_their_producer_is_done(protocol: str) -> None:
    device = fake_device()
    memory = empty((4, 8), "float32", device)
    memory.copy_from(np.zeros((4, 8), np.float32))
    other = producer(protocol, memory, f32(4, 8))
    shared = asarray(other, device)
    assert shared.address == memory.address and shared.shape == (4, 8) and shared.dtype == np.float32
    np.testing.assert_array_equal(shared.numpy(), f32(4, 8))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_producer_that_does_not_wait_is_seen_to_be_stale(protocol: str) -> None:
    """Checks the fake: without the protocols' waits the old elements are read."""
    device = fake_device()
    memory = empty((4, 8), "float32", device)
    memory.copy_from(np.zeros((4, 8), np.float32))
    other = producer(protocol, memory, f32(4, 8))
    other.waits = False
    np.testing.assert_array_equal(asarray(other, device).numpy(), np.zeros((4, 8)))


def test_programs_take_arrays_of_other_libraries() -> None:
    exe = executable(scaled, *TYPES)
    x, w = empty((4, 8), "float32", exe.device), empty((8,), "float32", exe.device)
    others = producer("__dlpack__", x, f32(4, 8)), producer("__cuda_array_interface__", w, f32(8))
    y, _ = exe(*others)
    np.testing.assert_array_equal(y.numpy(), f32(4, 8) * f32(8))


@pytest.mark.parametrize("max_version", [None, (1, 0)])
def test_dlpack_out_and_in_again_is_the_same_memory(max_version: tuple[int, int] | None) -> None:
    device = fake_device()
    array = asarray(f32(3, 5), device)

    class Consumer:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, *, stream: int | None = None, **_: object) -> object:
            return lent.pop().__dlpack__(stream=stream, max_version=max_version)

    lent = [array]
    shared = asarray(Consumer(), device)
    assert shared is not array and shared.address == array.address
    address = array.address
    del array
    gc.collect()
    assert address in fake_of_device(device).allocated, "who took it keeps it"
    np.testing.assert_array_equal(shared.numpy(), f32(3, 5))
    del shared
    gc.collect()
    dlpack.sweep()  # as the next allocation does
    assert address not in fake_of_device(device).allocated


def fake_of_device(device) -> FakeCuda:  # type: ignore[no-untyped-def]
    return device.driver._library


def test_a_capsule_that_nobody_takes_gives_its_memory_back() -> None:
    device = fake_device()
    array = asarray(f32(3), device)
    capsule, address = array.__dlpack__(), array.address
    del array
    gc.collect()
    assert address in fake_of_device(device).allocated
    dlpack.sweep()
    assert address in fake_of_device(device).allocated
    del capsule
    dlpack.sweep()
    assert address not in fake_of_device(device).allocated


@pytest.mark.parametrize("stream", [None, 1, 2, "own"])
def test_a_consumers_stream_waits_for_what_was_queued(stream: int | str | None) -> None:
    exe = executable(scaled, *TYPES)
    fake = fake_of(exe)
    inputs = asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device)  # kept: to free them is to wait
    y, _ = exe(*inputs)
    theirs = fake.new_stream() if stream == "own" else stream
    y.__dlpack__(stream=theirs)
    seen = read_in(fake, theirs or fake_driver.LEGACY, y)
    np.testing.assert_array_equal(seen, f32(4, 8) * f32(8))


def read_in(fake: FakeCuda, stream: int, y: DeviceArray) -> np.ndarray:
    """The elements as another library sees them that works in this stream alone."""
    out = np.zeros(y.shape, y.dtype)
    where = fake.stream(stream)
    where.add(
        lambda: np.copyto(out, np.frombuffer(fake.memory.read(y.address, y.nbytes), y.dtype).reshape(y.shape))
    )
    where.run(where.queued)
    return out


def test_a_consumer_that_waits_itself_may() -> None:
    exe = executable(scaled, *TYPES)
    fake = fake_of(exe)
    inputs = asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device)  # kept: to free them is to wait
    y, _ = exe(*inputs)
    y.__dlpack__(stream=-1)
    theirs = fake.new_stream()
    assert not np.array_equal(read_in(fake, theirs, y), f32(4, 8) * f32(8)), "nobody has waited"
    assert y.__cuda_array_interface__["stream"] == exe.device.stream.handle
    y.ready_for(theirs)
    np.testing.assert_array_equal(read_in(fake, theirs, y), f32(4, 8) * f32(8))


def test_the_interface_says_what_version_3_asks_for() -> None:
    array = asarray(f32(3, 5), fake_device())
    assert array.__cuda_array_interface__ == {
        "shape": (3, 5), "typestr": "<f4", "data": (array.address, False), "strides": None, "version": 3,
        "stream": array.device.stream.handle,
    }  # fmt: skip
    assert array.__dlpack_device__() == (2, 0)
    with pytest.raises(BufferError, match=r"expected device \(2, 0\), got \(1, 0\)"):
        array.__dlpack__(dl_device=(1, 0))
    with pytest.raises(ArgumentError, match=r"stream: expected a stream of CUDA, 1, 2 or -1, got 0"):
        array.__dlpack__(stream=0)


class Interface:
    def __init__(self, array: DeviceArray, **changes: object) -> None:
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"strides": (4, 12)}, ArgumentError, r"expected a C-contiguous array, got strides \[1.0, 3.0\] of \[3, 4\]"),
        ({"mask": object()}, ArgumentError, "expected an array without a mask"),
        ({"typestr": "<c8"}, DTypeError, "got '<c8'"),
        ({"stream": 0}, ArgumentError, "stream: expected"),
        ({"shape": None}, ArgumentError, "expected shape, typestr and data"),
        ({"data": (1 << 40, False)}, ArgumentError, "expected memory of a device, got address 0x10000000000"),
        ({"data": ((1 << 36) + 258, False)}, ArgumentError, "expected float32 elements at a multiple of 4 bytes"),
    ],
)  # fmt: skip
def test_interfaces_that_can_not_be_used(
    changes: dict[str, object], error: type[Exception], text: str
) -> None:
    device = fake_device()
    with pytest.raises(error, match=text):
        asarray(Interface(asarray(f32(3, 4), device), **changes), device)


def test_a_read_only_array_is_not_updated() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    array = asarray(f32(8), exe.device)
    locked = asarray(Interface(array, data=(array.address, True)), exe.device)
    with pytest.raises(
        ArgumentError, match=r"step: w: expected an array that may be written, got a read-only DeviceArray"
    ):
        exe(locked, f32(8))
    with pytest.raises(ArgumentError, match=r"may be written"):
        locked.copy_from(f32(8))
    with pytest.raises(BufferError, match=r"read-only"):
        locked.__dlpack__()

    class Consumer:
        __dlpack_device__ = locked.__dlpack_device__
        __dlpack__ = locked.__dlpack__

    assert asarray(Consumer(), exe.device).read_only


def test_an_array_that_is_not_aligned_for_kernels_is_refused() -> None:
    exe = executable(scaled, *TYPES)
    memory = empty((64,), "float32", exe.device)

    class Shifted:
        __dlpack_device__ = memory.__dlpack_device__

        def __dlpack__(self, *, stream: int | None = None, **more: object) -> object:
            shifted = DeviceArray(exe.device, (4, 8), np.dtype("float32"), memory.address + 4, memory, False)
            return shifted.__dlpack__(stream=stream, **more)

    with pytest.raises(ArgumentError) as error:
        exe(Shifted(), f32(8))
    assert str(error.value) == (
        f"scaled: x: expected memory aligned to 16 bytes, got address {memory.address + 4:#x}: "
        f"copy it to an array of its own (graphc.runtime.cuda.empty, copy_from)"
    )
    usable = empty((4, 8), "float32", exe.device)
    usable.copy_from(Shifted())


def test_arrays_of_another_device_are_refused() -> None:
    fake = FakeCuda(devices=2)
    driver = Driver(fake)
    first, second = (fake_driver_device(driver, n) for n in (0, 1))
    exe = CudaExecutable(*build(scaled, *TYPES), first)
    elsewhere = asarray(f32(4, 8), second)

    class Consumer:
        __dlpack_device__ = elsewhere.__dlpack_device__
        __dlpack__ = elsewhere.__dlpack__

    texts = []
    for array in (elsewhere, Consumer(), Interface(elsewhere)):
        with pytest.raises(ArgumentError) as error:
            exe(array, f32(8))
        texts.append(str(error.value))
    here = "cuda:0 (Interpreted GPU, compute capability 8.0)"
    assert texts == [
        f"scaled: x: expected an array on {here}, got DeviceArray(float32[4,8] on cuda:1): fetch it by numpy() first",
        f"scaled: x: DLPack: expected an array on {here}, got one on cuda:1",
        f"scaled: x: __cuda_array_interface__: expected an array on {here}, got one on cuda:1",
    ]


def fake_driver_device(driver: Driver, ordinal: int):  # type: ignore[no-untyped-def]
    from graphc.runtime.cuda import Device

    return Device(driver, ordinal)


def test_a_program_of_the_processor_refuses_arrays_on_a_device() -> None:
    compiled = graphc.compile(scaled, *TYPES)
    with pytest.raises(
        ArgumentError,
        match=r"x: expected an array of this machine's memory, got one on a GPU: fetch it first",
    ):
        compiled(asarray(f32(4, 8), fake_device()), f32(8))


def test_a_capsule_that_ends_while_an_error_is_raised_does_not_hide_it() -> None:
    array = asarray(f32(3), fake_device())

    def capsules() -> Iterator[object]:
        yield array.__dlpack__()
        raise BufferError("no use for it")

    with pytest.raises(BufferError, match=r"no use for it"):
        list(capsules())  # C code drops the capsule while the error is on its way
    with pytest.raises(ZeroDivisionError):
        max([array.__dlpack__()] * 2, key=lambda capsule: 1 / 0)
    dlpack.sweep()
    assert not [loan for loan in dlpack._LENT.values() if loan.keep[0] is array]


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint32", "uint8", "bool"])
def test_capsules_have_numpys_layout(monkeypatch: pytest.MonkeyPatch, dtype: str, versioned: bool) -> None:
    """NumPy reads and writes DLPack of the processor's memory: an independent judge of the structs."""
    monkeypatch.setattr(dlpack, "CUDA", 1)  # kDLCPU
    host = np.arange(6).reshape(2, 3).astype(dtype)

    class Lender:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **_: object) -> object:
            return dlpack.lend(host, host.ctypes.data, host.shape, host.dtype, 0, False, versioned)

    array = np.from_dlpack(Lender())
    assert array.ctypes.data == host.ctypes.data and array.dtype == host.dtype
    np.testing.assert_array_equal(array, host)
    del array
    dlpack.sweep()
    assert not [loan for loan in dlpack._LENT.values() if loan.keep[0] is host], (
        "NumPy has called the deleter"
    )

    references = sys.getrefcount(host)
    taken = dlpack.take(host.__dlpack__(max_version=(1, 0) if versioned else None), "x")
    assert (taken.address, taken.shape, taken.dtype, taken.read_only) == (
        host.ctypes.data,
        (2, 3),
        host.dtype,
        False,
    )
    assert sys.getrefcount(host) == references + 1
    del taken
    assert sys.getrefcount(host) == references


def test_capsules_that_can_not_be_used_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    host = np.zeros((2, 3), np.float32)
    with pytest.raises(
        ArgumentError, match=r"x: expected an array on a CUDA device, got one on DLPack device 1"
    ):
        dlpack.take(host.__dlpack__(), "x")
    monkeypatch.setattr(dlpack, "CUDA", 1)
    with pytest.raises(
        ArgumentError, match=r"x: expected a C-contiguous array, got strides \[1, 3\] of \[3, 2\]"
    ):
        dlpack.take(host.T.__dlpack__(), "x")
    with pytest.raises(
        DTypeError, match=r"x: expected floats or integers as graphc has them, got DLPack type 5 of 64 bits"
    ):
        dlpack.take(np.zeros(2, np.complex64).__dlpack__(), "x")
    capsule = host.__dlpack__()
    dlpack.take(capsule, "x")
    with pytest.raises(ArgumentError, match=r"x: expected an unused DLPack capsule, got <capsule"):
        dlpack.take(capsule, "x")
