"""The CUDA runtime over a fake driver: geometry, parameters, order of work, memory, graphs; DLPack and its like; errors.

The driver's functions are C callbacks through the prototypes that serve the real library. Work runs as late as it may, so
a missing wait gives stale data here every time.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import build, cuda_header, executable, f32, fake_device, fake_of, sevens
from ptx import fake_driver
from ptx.fake_driver import FakeCuda

import graphc
from graphc import nn, optim
from graphc.config import config
from graphc.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from graphc.runtime.cuda import (
    CudaError,
    CudaExecutable,
    DeviceArray,
    Driver,
    asarray,
    dlpack,
    empty,
    pinned_empty,
)
from graphc.runtime.cuda import driver as driver_module
from graphc.runtime.cuda.driver import GRAPHS, PROTOTYPES
from graphc.runtime.executable import aligned_empty

TYPES = graphc.f32[4, 8], graphc.f32[8]


def scaled(x, w):  # type: ignore[no-untyped-def]
    return x * w, graphc.sum(x * w, axis=1)


def step(w, x):  # type: ignore[no-untyped-def]
    return w - 0.5 * x, graphc.sum(w * x)


# ------------------------------------------------------------------------------------------------ the driver's table


needs_header = pytest.mark.skipif(
    cuda_header() is None or not shutil.which("g++"), reason="needs cuda.h (nvidia-cuda-runtime) and g++"
)


@needs_header
def test_prototypes_are_those_of_nvidias_header(tmp_path: Path) -> None:
    sizes = {name: [(k.__name__ in ("c_void_p", "c_char_p"), np.dtype(k).itemsize if k.__name__ not in
             ("c_void_p", "c_char_p") else 8) for k in types] for name, types in PROTOTYPES.items()}  # fmt: skip
    checks = []
    for name, kinds in sizes.items():
        checks.append(f'static_assert(count(&{name}) == {len(kinds)}, "{name}");')
        for i, (pointer, size) in enumerate(kinds):
            kind = f"decltype(argument<{i}>(&{name}))"
            checks.append(f'static_assert(sizeof({kind}) == {size}, "{name} {i}");')
            checks.append(
                f'static_assert(std::is_pointer<{kind}>::value == {str(pointer).lower()}, "{name} {i}");'
            )
    source = """
        #include <cuda.h>
        #include <tuple>
        #include <type_traits>
        template <class... A> constexpr int count(CUresult (*)(A...)) { return sizeof...(A); }
        template <int I, class... A> typename std::tuple_element<I, std::tuple<A...>>::type argument(CUresult (*)(A...));
    """
    (tmp_path / "check.cc").write_text(source + "\n".join(checks))
    # the old names of functions are macros for the present versions, which are declared all the same
    command = ["g++", "-std=c++14", "-fsyntax-only", f"-I{cuda_header()}", str(tmp_path / "check.cc")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_a_driver_gets_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(driver_module.ctypes, "CDLL", nothing)
    with pytest.raises(DeviceError) as error:
        driver_module.load_library()
    assert str(error.value).startswith(
        "cuda: expected NVIDIA's driver (libcuda.so.1), found none: install it"
    )


def test_a_machine_without_a_device_says_what_to_look_at() -> None:
    with pytest.raises(DeviceError) as error:
        Driver(FakeCuda(devices=0))
    assert str(error.value) == (
        "cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected; "
        "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    )


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError) as error:
        fake_device(FakeCuda(devices=2), 2)
    assert str(error.value) == "cuda: expected one of 2 devices, got number 2 of 2"


def test_an_old_driver_names_the_function_that_it_lacks() -> None:
    fake = FakeCuda()
    del fake.cuStreamWaitEvent
    with pytest.raises(DeviceError) as error:
        Driver(fake)
    assert (
        str(error.value) == "cuda: expected a driver of CUDA 11 or later, got one without cuStreamWaitEvent"
    )


def test_a_status_that_the_driver_does_not_know_keeps_its_number() -> None:
    with pytest.raises(CudaError) as error:
        Driver(FakeCuda(fail={"cuInit": 12345}))
    assert str(error.value) == "cuInit: error 12345: unknown to this driver"


def test_facts_of_a_device() -> None:
    device = fake_device()
    assert repr(device) == "cuda:0 (Interpreted GPU, compute capability 8.0)"
    assert (device.multiprocessors, device.clock_hz) == (108, 1.41e9)
    assert device.bytes_per_second == 2 * 1.215e9 * 640
    assert device.driver.version == (12, 4)


def test_nothing_is_asked_of_the_driver_before_the_first_call() -> None:
    exe = CudaExecutable(*build(scaled, *TYPES), device=99)
    assert exe.info.inputs[0].text == "float32[4,8]"


# ------------------------------------------------------------------------------------- launches, parameters, results


def test_numpy_arrays_in_numpy_arrays_out() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    y, total = exe(x, w)
    assert isinstance(y, np.ndarray) and isinstance(total, np.ndarray)
    np.testing.assert_array_equal(y, x * w)
    np.testing.assert_allclose(total, (x * w).sum(1), rtol=1e-5)


def test_arrays_on_the_device_stay_there() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    outputs = exe(asarray(x, exe.device), asarray(w, exe.device))
    assert all(isinstance(y, DeviceArray) for y in outputs)
    copies = fake_of(exe).calls.count("cuMemcpyDtoHAsync_v2")
    again = exe(outputs[0], asarray(w, exe.device))
    assert fake_of(exe).calls.count("cuMemcpyDtoHAsync_v2") == copies
    np.testing.assert_array_equal(again[0].numpy(), x * w * w)


def test_a_host_array_among_device_arrays_goes_up_and_outputs_stay() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    y, _ = exe(asarray(x, exe.device), w)
    assert isinstance(y, DeviceArray)
    np.testing.assert_array_equal(y.numpy(), x * w)


def test_launches_are_those_of_the_table() -> None:
    exe = executable(lambda a, b: (a @ b) * 2, graphc.f32[40, 30], graphc.f32[30, 50])
    exe(f32(40, 30), f32(30, 50))
    expected = [(s.kernel, s.grid, s.block, s.shared_bytes) for s in exe.table.launches]
    assert fake_of(exe).launches == expected and expected


def test_every_argument_reaches_its_parameter() -> None:
    """Six of one type, so that any two that are swapped change the result."""
    exe = executable(lambda a, b, c, d, e, f: (a - 2 * b, c * d - e, f / (a + 3)), *[graphc.f32[5]] * 6)
    arrays = [np.abs(f32(5, seed=n)) for n in range(6)]
    a, b, c, d, e, f = arrays
    for got, expected in zip(exe(*arrays), (a - 2 * b, c * d - e, f / (a + 3))):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_constants_and_the_arena_are_on_the_device() -> None:
    table, shift = f32(16, 8), f32(8, seed=1)
    exe = executable(lambda x: graphc.tanh(x @ graphc.asarray(table).T) @ graphc.asarray(table) + graphc.asarray(shift),
                     graphc.f32[4, 8])  # fmt: skip
    assert len(exe.table.constants) >= table.nbytes + shift.nbytes and exe.table.arena_bytes > 0
    x = f32(4, 8, seed=2)
    np.testing.assert_allclose(exe(x)[0], np.tanh(x @ table.T) @ table + shift, rtol=1e-4, atol=1e-5)


def test_outputs_that_no_kernel_writes_are_copied() -> None:
    exe = executable(lambda x: (x, x + 1, x), graphc.f32[6])
    x = f32(6)
    first, second, third = exe(x)
    np.testing.assert_array_equal(np.stack([first, second, third]), np.stack([x, x + 1, x]))


def test_arrays_without_elements_and_scalars() -> None:
    exe = executable(lambda x, s: (x * s, s + 1), graphc.f32[0, 3], graphc.f32[()])
    y, s = exe(np.zeros((0, 3), np.float32), 2.0)
    assert y.shape == (0, 3) and s == 3.0


def test_labels_out_of_range_touch_no_memory() -> None:
    exe = executable(lambda x, i: graphc.take(x, i, axis=0), graphc.f32[4, 2], graphc.i32[3])
    x = f32(4, 2)
    (rows,) = exe(x, np.int32([1, 400_000_000, -9]))
    np.testing.assert_array_equal(rows, [x[1], [0, 0], [0, 0]])


def test_a_donated_numpy_array_is_updated_in_place() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    expected = w - 0.5 * x
    new, _ = exe(w, x)
    assert new is w
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_a_donated_device_array_is_updated_in_place() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    on_device = asarray(w, exe.device)
    address = on_device.address
    for _ in range(3):
        new, _ = exe(on_device, x)
        assert new is on_device and new.address == address
    np.testing.assert_allclose(on_device.numpy(), w - 1.5 * x, rtol=1e-5)


def test_calls_from_several_threads_each_get_their_own_outputs() -> None:
    exe = executable(scaled, *TYPES)
    arrays = [f32(4, 8, seed=n) for n in range(4)]
    w = f32(8)
    results: dict[int, np.ndarray] = {}

    def work(n: int) -> None:
        for _ in range(3):
            results[n] = exe(arrays[n], w)[0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        np.testing.assert_array_equal(results[n], arrays[n] * w)


# ------------------------------------------------------------------------------------------------------ bound steps


@pytest.mark.parametrize("graphs", [True, False])
def test_a_bound_step_reads_its_host_arrays_again(graphs: bool) -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(graphs=graphs))
    x, w = f32(4, 8), f32(8, seed=1)
    bound = exe.bind(x, w)
    assert bound.run() == 0
    np.testing.assert_array_equal(bound.outputs[0], x * w)
    x[:] = 3
    bound()
    np.testing.assert_array_equal(bound.outputs[0], 3 * w[None] * np.ones((4, 1), np.float32))


def test_a_bound_step_is_one_graph_launch_and_allocates_nothing() -> None:
    exe = executable(lambda w, x: (w - graphc.tanh(x @ w), graphc.sum(x)), graphc.f32[8, 8], graphc.f32[8, 8],
                     donated=((0, 0),))  # fmt: skip
    w, x = asarray(f32(8, 8), exe.device), asarray(f32(8, 8, seed=1), exe.device)
    bound = exe.bind(w, x)
    fake = fake_of(exe)
    fake.calls.clear()
    bound()
    assert fake.calls == ["cuCtxPushCurrent_v2", "cuGraphLaunch", "cuCtxPopCurrent_v2"]


def test_without_graphs_a_bound_step_launches_each_kernel() -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(graphs=False))
    bound = exe.bind(asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device))
    fake = fake_of(exe)
    fake.calls.clear()
    bound()
    assert fake.calls.count("cuLaunchKernel") == len(exe.table.launches)
    assert not set(GRAPHS) & set(fake.calls)


def test_bound_steps_follow_one_another_without_a_wait() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    on_device = asarray(w, exe.device)
    bound = exe.bind(on_device, asarray(x, exe.device))
    waits = fake_of(exe).calls.count("cuStreamSynchronize")
    for _ in range(4):
        bound()
    assert fake_of(exe).calls.count("cuStreamSynchronize") == waits
    np.testing.assert_allclose(on_device.numpy(), w - 2 * x, rtol=1e-5)


def test_host_arrays_may_change_as_soon_as_a_bound_step_returns() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), np.ones(8, np.float32)
    on_device = asarray(w, exe.device)
    bound = exe.bind(on_device, x)
    bound()
    x[:] = 10
    bound()
    x[:] = -1e6
    np.testing.assert_allclose(on_device.numpy(), w - 0.5 - 5, rtol=1e-5)


def test_bound_outputs_may_be_given() -> None:
    exe = executable(scaled, *TYPES)
    x, w = asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device)
    outputs = [empty((4, 8), "float32", exe.device), empty((4,), "float32", exe.device)]
    bound = exe.bind(x, w, outputs=outputs)
    bound()
    np.testing.assert_array_equal(outputs[0].numpy(), f32(4, 8) * f32(8))
    with pytest.raises(
        ArgumentError, match=r"output output0: expected memory of its own, got one that overlaps with x"
    ):
        exe.bind(x, w, outputs=[x, outputs[1]])


# --------------------------------------------------------------------------------------------------- device arrays


def test_device_arrays_hold_what_they_are_given() -> None:
    device = fake_device()
    for dtype in ("float32", "float64", "int32", "int64", "uint8", "bool"):
        host = np.arange(6).reshape(2, 3).astype(dtype)
        array = asarray(host, device)
        assert (array.shape, array.dtype, array.nbytes, array.ndim, array.size) == (
            host.shape,
            host.dtype,
            host.nbytes,
            2,
            6,
        )
        assert array.numpy().tobytes() == host.tobytes()
    assert repr(array) == "DeviceArray(bool[2,3] on cuda:0)"
    assert asarray(np.float32(7), device).item() == 7.0
    assert asarray(array, device) is array


def test_copies_between_arrays() -> None:
    device = fake_device()
    source, target = asarray(f32(3, 4), device), empty((3, 4), "float32", device)
    target.copy_from(source)
    np.testing.assert_array_equal(target.numpy(), f32(3, 4))
    target.copy_from(f32(4, 3, seed=1).T)
    out = np.empty((4, 3), np.float32).T
    assert target.numpy(out) is out
    np.testing.assert_array_equal(out, f32(4, 3, seed=1).T)
    with pytest.raises(
        ShapeError, match=r"expected an array like DeviceArray\(float32\[3,4\] on cuda:0\), got float32\[4\]"
    ):
        target.copy_from(f32(4))
    with pytest.raises(DTypeError, match=r"got int32"):
        target.numpy(np.empty((3, 4), np.int32))
    with pytest.raises(ShapeError, match=r"one element"):
        target.item()
    with pytest.raises(DTypeError, match=r"cuda: expected one of .*float32.*, got float16"):
        empty((2,), "float16", device)


def test_a_host_array_may_change_as_soon_as_it_was_copied() -> None:
    device = fake_device()
    host = pinned_empty(device, (4,), "float32")
    host[:] = 1
    array = asarray(host, device)
    host[:] = 2
    np.testing.assert_array_equal(array.numpy(), np.ones(4))


def test_memory_is_given_back() -> None:
    exe = executable(scaled, *TYPES)
    fake = fake_of(exe)
    x = asarray(f32(4, 8), exe.device)
    bound = exe.bind(x, f32(8))
    bound()
    assert fake.used_bytes and fake.pinned
    del exe, x, bound
    gc.collect()
    assert fake.used_bytes == 0 and not fake.pinned
    left = {type(o).__name__ for o in fake.objects.values()}
    assert left <= {"Stream", "Function"}, "modules, events and graphs are gone"


def test_memory_of_queued_work_is_not_freed_under_it() -> None:
    exe = executable(scaled, *TYPES)
    y = exe(asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device))[0]  # the inputs are dropped here
    gc.collect()
    np.testing.assert_array_equal(y.numpy(), f32(4, 8) * f32(8))


def test_equal_ptx_is_loaded_once() -> None:
    ptx, table = build(scaled, *TYPES)
    device = fake_device()
    first, second = CudaExecutable(ptx, table, device), CudaExecutable(ptx, table, device)
    first(f32(4, 8), f32(8))
    second(f32(4, 8), f32(8))
    fake = fake_of(first)
    assert fake.calls.count("cuModuleLoadDataEx") == 1
    del first, second
    gc.collect()
    assert fake.calls.count("cuModuleUnload") == 1


# ------------------------------------------------------------------------------------- DLPack and CUDA Array Interface


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
        ({"typestr": "<f2"}, DTypeError, "got '<f2'"),
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


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (
            np.zeros((4, 9), np.float32),
            ShapeError,
            r"scaled: x: expected float32\[4,8\], got float32\[4,\s?9\]",
        ),
        (
            np.zeros((4, 8), np.float64),
            DTypeError,
            r"scaled: x: expected float32\[4,8\], got float64\[4,\s?8\]",
        ),
    ],
)
def test_wrong_shapes_and_types(x: np.ndarray, error: type[Exception], text: str, where: str) -> None:
    exe = executable(scaled, *TYPES)
    with pytest.raises(error, match=text):
        exe(x if where == "host" else asarray(x, exe.device), f32(8))
    with pytest.raises(
        ArgumentError, match=r"scaled: expected 2 arguments \(x: float32\[4,8\], w: float32\[8\]\), got 1"
    ):
        exe(x)


def test_a_donated_array_that_overlaps_is_refused() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w = asarray(f32(8), exe.device)
    with pytest.raises(
        ArgumentError,
        match=r"step: w: expected a donated array of its own memory, got one that overlaps with x",
    ):
        exe(w, w)


def test_a_device_that_is_too_old() -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(capability=(7, 5)))
    with pytest.raises(DeviceError) as error:
        exe(f32(4, 8), f32(8))
    assert str(error.value) == (
        "scaled: expected a device of compute capability at least 8.0 (the code is for sm_80), "
        "got cuda:0 (Interpreted GPU, compute capability 7.5)"
    )
    sevens(FakeCuda(capability=(12, 0)))()
    with pytest.raises(
        DeviceError, match=r"capability exactly 9.0 \(the code is for sm_90a\), got .* capability 12.0"
    ):
        sevens(FakeCuda(capability=(12, 0)), target="sm_90a")()


def test_not_enough_memory_names_the_plans_bytes_before_anything_is_launched() -> None:
    fake = FakeCuda(memory_bytes=4096)
    exe = executable(lambda x, w: graphc.tanh(x @ w) @ w, graphc.f32[16, 32], graphc.f32[32, 32], fake=fake)
    with pytest.raises(CudaError) as error:
        exe(f32(16, 32), f32(32, 32))
    assert exe.table.arena_bytes == 2048
    assert str(error.value).startswith(
        "lambda: expected 10,240 bytes of memory on cuda:0 (Interpreted GPU, compute capability 8.0) (arena 2,048, "
        "constants 0, inputs 6,144, outputs 2,048, of which donated 0), got "
    )
    assert "free of 4,096: free device arrays, or use a smaller batch" in str(error.value)
    assert not fake.launches


def test_an_arena_that_does_not_fit_is_seen_at_once() -> None:
    fake = FakeCuda(memory_bytes=1024)
    exe = executable(lambda x, w: graphc.tanh(x @ w) @ w, graphc.f32[16, 32], graphc.f32[32, 32], fake=fake)
    with pytest.raises(CudaError, match=r"expected 10,240 bytes .*, got 1,024 free of 1,024"):
        exe(f32(16, 32), f32(32, 32))
    assert "cuMemAlloc_v2" not in fake.calls


BROKEN = """
.visible .entry broken()
{
	.reg .b32 	%r<3>;
	frobnicate.b32 	%r1, %r2;
	ret;
}
"""


def test_rejected_ptx_names_the_kernel_and_the_line_of_python() -> None:
    exe = sevens(kernel="broken", extra=BROKEN)
    with pytest.raises(CudaError) as error:
        exe()
    head, log = str(error.value).split("\n", 1)
    assert head.startswith(
        "model.py:7: kernel @broken: cuda:0 (Interpreted GPU, compute capability 8.0) refuses the PTX: "
        "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed"
    )
    assert "frobnicate" in log


def test_a_driver_that_is_older_than_the_ptx() -> None:
    exe = sevens(FakeCuda(fail={"cuModuleLoadDataEx": fake_driver.UNSUPPORTED_PTX}))
    with pytest.raises(
        CudaError,
        match=r"CUDA_ERROR_UNSUPPORTED_PTX_VERSION: .*; the driver is older than the PTX: update it",
    ):
        exe()


def test_a_table_whose_kernel_is_not_in_the_ptx() -> None:
    with pytest.raises(CudaError) as error:
        sevens(kernel="eights")()
    assert str(error.value) == (
        "model.py:7: kernel @eights: cuModuleGetFunction: CUDA_ERROR_NOT_FOUND: named symbol not found"
    )


def test_a_kernel_that_leaves_its_memory_is_reported_with_the_program() -> None:
    exe = sevens(shift=1 << 20)
    with pytest.raises(CudaError) as error:
        exe()
    assert str(error.value).startswith(
        "sevens: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered; "
        "a kernel left its memory; this process can't use the device any more"
    )
    with pytest.raises(CudaError, match=r"ILLEGAL_ADDRESS"):
        asarray(f32(4), exe.device)  # as on a GPU, nothing works from then on


def test_with_debugging_the_kernel_that_left_its_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DEBUG", "3")
    config.cache_clear()
    exe = sevens(shift=1 << 20)
    with pytest.raises(
        CudaError, match=r"^model.py:7: kernel @sevens: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
    ):
        exe()
    exe = sevens(shift=2)
    with pytest.raises(
        CudaError, match=r"^model.py:7: kernel @sevens: cuStreamSynchronize: CUDA_ERROR_MISALIGNED_ADDRESS"
    ):
        exe.bind()()


def test_dynamic_shared_memory_is_asked_for() -> None:
    exe = sevens(shared_bytes=100 << 10)
    np.testing.assert_array_equal(exe()[0], [7] * 32)
    assert fake_of(exe).launches == [("sevens", (1, 1, 1), (32, 1, 1), 100 << 10)]
    with pytest.raises(
        CudaError, match=r"model.py:7: kernel @sevens: cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"
    ):
        sevens(shared_bytes=200 << 10)()


def test_a_failed_launch_leaves_the_program_usable() -> None:
    exe = sevens()
    fake = fake_of(exe)
    fake.fail["cuLaunchKernel"] = fake_driver.INVALID_VALUE
    with pytest.raises(
        CudaError, match=r"model.py:7: kernel @sevens: cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"
    ):
        exe()
    with pytest.raises(CudaError, match=r"kernel @sevens"):
        exe.bind()
    del fake.fail["cuLaunchKernel"]
    np.testing.assert_array_equal(exe()[0], [7] * 32)
    bound = exe.bind()
    bound()
    np.testing.assert_array_equal(bound.outputs[0], [7] * 32)


def test_the_context_of_the_caller_is_current_again_after_an_error() -> None:
    exe = sevens(FakeCuda(fail={"cuLaunchKernel": fake_driver.INVALID_VALUE}))
    with pytest.raises(CudaError):
        exe()
    fake = fake_of(exe)
    assert fake.calls.count("cuCtxPushCurrent_v2") == fake.calls.count("cuCtxPopCurrent_v2")


def test_the_runtime_for_gpus_loads_without_the_compiler() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = sys.modules['networkx'] = None\n"
        "import graphc.runtime.cuda\n"
        "print([m for m in sys.modules if m.startswith(('graphc.codegen', 'graphc.passes', 'graphc.frontend', 'graphc.ir'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_aligned_host_memory_is_what_bound_steps_take() -> None:
    exe = executable(scaled, *TYPES)
    x = aligned_empty((4, 8), "float32")
    with pytest.raises(ArgumentError, match=r"bind: expected a contiguous"):
        exe.bind(x.T.copy().T, f32(8))


# ------------------------------------------------------------------------------------- compiled functions and training


def test_compiled_functions_take_nests_of_device_arrays(gpu: FakeCuda) -> None:
    params = {"w": asarray(f32(8, 3)), "b": asarray(f32(3, seed=1))}
    f = graphc.compile(lambda p, x: {"y": x @ p["w"] + p["b"]}, params, graphc.f32[4, 8], target="cuda")
    x = f32(4, 8, seed=2)
    y = f(params, x)["y"]
    assert isinstance(y, DeviceArray)
    np.testing.assert_allclose(y.numpy(), x @ f32(8, 3) + f32(3, seed=1), rtol=1e-4, atol=1e-5)
    assert isinstance(f({"b": f32(3), "w": f32(8, 3)}, x)["y"], np.ndarray)
    with pytest.raises(
        ShapeError, match=r"test_cuda_runtime.py:\d+: .*x: expected float32\[4,8\], got float32\[5,8\]"
    ):
        f(params, asarray(f32(5, 8)))
    assert f.ptx.startswith("//") and ".target sm_80" in f.ptx
    assert gpu.launches


def test_an_error_of_the_device_names_the_line_of_python(gpu: FakeCuda) -> None:
    f = graphc.compile(lambda x: graphc.exp(x), graphc.f32[8], target="cuda")
    line = sys._getframe().f_lineno - 1
    gpu.fail["cuLaunchKernel"] = fake_driver.INVALID_VALUE
    with pytest.raises(CudaError, match=rf"test_cuda_runtime.py:{line}: kernel @map0: cuLaunchKernel"):
        f(f32(8))


def digits_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def digits_data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, rows).astype(np.int32)
    x = rng.standard_normal((rows, 64)) * 0.3 + np.eye(10, 64)[y]
    return x.astype(np.float32), y


def test_the_digits_training_step_gives_the_processors_losses(gpu: FakeCuda) -> None:
    model, optimizer = digits_model(), optim.SGD(0.05, momentum=0.9, weight_decay=1e-3)
    model.fill(0)

    def train(params, state, rate, x, y):  # type: ignore[no-untyped-def]
        loss, grads = graphc.value_and_grad(lambda p: nn.cross_entropy(model.apply(p, {}, x)[0], y))(params)
        return *optimizer.update(params, grads, state, rate), loss

    params = {name: array.copy() for name, array in model.parameters.items()}
    state = optimizer.init(params)
    x, y = digits_data(32 * 6, 1)
    batch, labels, rate = x[:32].copy(), y[:32].copy(), np.array(0.05, np.float32)
    specs = params, state, rate, batch, labels
    on_device = [{name: asarray(a) for name, a in arrays.items()} for arrays in (params, state)]
    bound = graphc.compile(train, *specs, target="cuda", donate=("params", "state")).bind(
        *on_device, rate, batch, labels
    )
    cpu = graphc.compile(train, *specs, donate=("params", "state"))
    for first in range(0, len(x), 32):
        batch[:], labels[:] = x[first : first + 32], y[first : first + 32]
        bound()
        expected = cpu(params, state, rate, batch, labels)[2]
        assert abs(bound.outputs[2].item() - float(expected)) < 1e-5
    for name, array in on_device[0].items():
        np.testing.assert_allclose(array.numpy(), params[name], atol=1e-5)


def test_fit_keeps_weights_on_the_device_and_learns_what_the_processor_learns(gpu: FakeCuda) -> None:
    train, held = digits_data(112, 2), digits_data(32, 3)
    seen: list[np.ndarray] = []

    def run(target: str) -> tuple[graphc.training.History, dict[str, np.ndarray]]:
        model = digits_model()
        history = graphc.fit(
            model, train, loss=nn.cross_entropy, optimizer=optim.Adam(0.003), epochs=2, batch_size=32, validation=held,
            metrics="accuracy", progress=False, target=target,
            callbacks=[lambda run: seen.append(run.params["4.bias"].copy())],
        )  # fmt: skip
        return history, model.parameters

    expected, weights = run("cpu")
    history, on_gpu = run("cuda")
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(history[name], expected[name], atol=1e-4)
    for name, array in on_gpu.items():
        np.testing.assert_allclose(array, weights[name], atol=1e-4)
    np.testing.assert_allclose(seen[2:], seen[:2], atol=1e-4)
    # 2 epochs of 3 batches and a smaller one, and one of validation: each batch goes up by one graph and its numbers down
    assert gpu.calls.count("cuGraphLaunch") == 2 * (3 + 1 + 1)
    assert gpu.calls.count("cuMemcpyDtoHAsync_v2") == 2 * 5 * 2 + 2 * len(weights)


def test_what_a_callback_writes_is_trained_on(gpu: FakeCuda) -> None:
    def stop_all(run) -> None:  # type: ignore[no-untyped-def]
        for array in run.params.values():
            array[...] = 0
        run.learning_rate = 0.0

    model = digits_model()
    graphc.fit(model, digits_data(32, 2), loss=nn.cross_entropy, optimizer=optim.SGD(0.1), epochs=2, progress=False,
               target="cuda", callbacks=[stop_all])  # fmt: skip
    assert not any(array.any() for array in model.parameters.values())


def test_fit_restores_the_last_good_weights_after_divergence(gpu: FakeCuda) -> None:
    model = digits_model()
    with pytest.raises(graphc.training.DivergedError):
        graphc.fit(model, digits_data(64, 2), loss=nn.cross_entropy, optimizer=optim.SGD(1e38), epochs=3, progress=False,
                   target="cuda")  # fmt: skip
    assert all(np.isfinite(array).all() for array in model.parameters.values())


def test_fit_checks_labels_before_anything_runs(gpu: FakeCuda) -> None:
    x, y = digits_data(64, 2)
    y[5] = 10
    with pytest.raises(ArgumentError, match=r"labels|row 5"):
        graphc.fit(
            digits_model(),
            (x, y),
            loss=nn.cross_entropy,
            optimizer=optim.SGD(0.1),
            target="cuda",
            progress=False,
        )
    assert not gpu.launches


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
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
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
        DTypeError, match=r"x: expected floats or integers as graphc has them, got DLPack type 2 of 16 bits"
    ):
        dlpack.take(np.zeros(2, np.float16).__dlpack__(), "x")
    capsule = host.__dlpack__()
    dlpack.take(capsule, "x")
    with pytest.raises(ArgumentError, match=r"x: expected an unused DLPack capsule, got <capsule"):
        dlpack.take(capsule, "x")
